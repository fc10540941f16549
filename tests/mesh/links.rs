//! Owns what links are: who gets one, what a pause does, what goes on without one.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    create, cut,
    harness::{Daemon, fleet, linked},
    mend, peer, session, until_equal, until_linked, until_peer, until_session,
};

#[tokio::test]
async fn joining_one_node_links_all_and_the_link_stays_when_that_node_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    // Every ticket is of the first, and nobody tells the others' addresses.
    let mut daemons = fleet(folder.path(), &["A", "B", "C"], &[]).await;
    daemons.remove(0).kill();
    let [b, c] = &daemons[..] else { unreachable!("two are left") };
    create(b, session("after")).await;
    until_session(c, "after", "live").await;
    until_linked(c, b).await;
    c.ok("PATCH", "/v1/sessions/after", Some(json!({ "title": "seen" }))).await;
    b.until("/v1/sessions/after", "renamed", |it| it["title"] == "seen").await;
    until_equal(&[b, c]).await;
}

#[tokio::test]
async fn peers_are_told_with_all_that_a_person_needs_to_know() {
    let folder = tempfile::tempdir().unwrap();
    let daemons = fleet(folder.path(), &["A", "B"], &[]).await;
    let [a, b] = &daemons[..] else { unreachable!("there are two") };
    let seen = until_linked(a, b).await;
    let keys: Vec<&str> = seen.as_object().unwrap().keys().map(String::as_str).collect();
    for key in ["node", "name", "role", "connected", "paused", "in_sync", "addresses", "rtt_ms"] {
        assert!(keys.contains(&key), "{key} is missing in {keys:?}");
    }
    assert_eq!((&seen["name"], &seen["role"]), (&json!("B"), &json!("member")));
    assert_eq!(seen["addresses"], json!([b.quic()]));
    assert!(seen["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0), "{seen}");
    let other_way = until_linked(b, a).await;
    assert_eq!((&other_way["name"], &other_way["role"]), (&json!("A"), &json!("admin")));

    // Names and prefixes of keys will do, and a node is not its own peer.
    a.ok("POST", "/v1/peers/B/pause", None).await;
    a.ok("POST", &format!("/v1/peers/{}/resume", &b.node()[..12]), None).await;
    for (name, status, code) in [
        ("A", 409, "oneself"),
        ("nobody", 404, "node_not_found"),
        ("..%2fB", 404, "node_not_found"),
    ] {
        let (found, problem) = a.send("POST", &format!("/v1/peers/{name}/pause"), None).await;
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{name}");
    }
    until_linked(a, b).await;
}

#[tokio::test]
async fn a_pause_by_one_side_lasts_across_restarts_of_both_until_that_side_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemons = fleet(folder.path(), &["A", "B"], &[]).await;
    peer(&daemons[0], &daemons[1], "pause").await;
    create(&daemons[1], session("meanwhile")).await;
    for (index, name) in [(0, "A"), (1, "B")] {
        let (listen, dir) = (daemons[index].quic(), daemons[index].dir().to_owned());
        assert!(daemons.remove(index).stop().success());
        daemons.insert(index, Daemon::start_at(&dir, name, &listen, &[]));
    }
    let [a, b] = &daemons[..] else { unreachable!("there are two") };
    let seen = until_peer(a, b, "still paused", |it| it["paused"] == true).await;
    assert_eq!(seen["connected"], false);
    // The other side knows why, though it has paused nothing itself, and can't end it.
    let refused =
        |it: &serde_json::Value| it["problem"].as_str().is_some_and(|why| why.contains("paused"));
    let seen = until_peer(b, a, "told of the pause", refused).await;
    assert_eq!((&seen["paused"], &seen["connected"]), (&json!(false), &json!(false)));
    peer(b, a, "resume").await;
    until_peer(b, a, "refused again", refused).await;
    assert_eq!(a.send("GET", "/v1/sessions/meanwhile", None).await.0, 404);

    peer(a, b, "resume").await;
    until_session(a, "meanwhile", "live").await;
    linked(&daemons).await;
}

#[tokio::test]
async fn a_change_reaches_who_has_no_link_to_its_author_at_once_through_another() {
    let folder = tempfile::tempdir().unwrap();
    let daemons = fleet(folder.path(), &["A", "B", "C"], &[]).await;
    let [a, b, c] = &daemons[..] else { unreachable!("there are three") };
    cut(a, c).await;
    // Who relays must have learnt of it: a change that comes while links fall may take longer.
    until_linked(a, b).await;
    until_linked(c, b).await;
    for (from, to, id) in [(a, c, "first-there"), (c, a, "first-back")] {
        create(from, session(id)).await;
        until_session(to, id, "live").await;
    }
    let repairs = async || {
        let mut all = 0;
        for daemon in &daemons {
            let status = daemon.get("/v1/status").await;
            all += status["sync_repairs_total"].as_u64().unwrap();
        }
        all
    };
    let before = repairs().await;
    let mut slowest = Duration::ZERO;
    for number in 0..20 {
        let id = format!("relayed-{number}");
        let (from, to) = if number % 2 == 0 { (a, c) } else { (c, a) };
        let began = Instant::now();
        create(from, session(&id)).await;
        until_session(to, &id, "live").await;
        slowest = slowest.max(began.elapsed());
    }
    // The periodic comparison, which would find what no relay brings, is up to ten seconds away.
    assert_eq!(repairs().await, before, "relaying needed a repair; the slowest took {slowest:?}");
    until_equal(&[a, b, c]).await;
    mend(a, c).await;
    linked(&daemons).await;
}

#[tokio::test]
async fn a_daemon_told_to_stop_answers_what_it_took_and_ends_at_once_with_streams_open() {
    let folder = tempfile::tempdir().unwrap();
    let daemons = fleet(folder.path(), &["A", "B"], &[]).await;
    let [a, b] = <[Daemon; 2]>::try_from(daemons).unwrap();
    let mut streams = Vec::new();
    for daemon in [&a, &a, &a, &b] {
        let mut stream = daemon.follow(None).await;
        stream.next().await.expect("a snapshot");
        streams.push(stream);
    }
    let client = a.client();
    let writes: Vec<_> = (0..50)
        .map(|number| {
            let client = client.clone();
            let body = session(&format!("late-{number}"));
            tokio::spawn(async move { client.try_send("POST", "/v1/sessions", body).await })
        })
        .collect();
    until_session(&client, "late-0", "live").await;
    let (dir, listen) = (a.dir().to_owned(), a.quic());
    let began = Instant::now();
    let status = tokio::task::spawn_blocking(move || a.stop()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    // Far above what it takes, far below what waiting for a stream to end by itself would.
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    for stream in &mut streams[..3] {
        while stream.next().await.is_some() {}
    }
    let mut acknowledged = Vec::new();
    for (number, write) in writes.into_iter().enumerate() {
        if let Some((201, _)) = write.await.unwrap() {
            acknowledged.push(format!("late-{number}"));
        }
    }
    assert!(!acknowledged.is_empty());
    let a = Daemon::start_at(&dir, "A", &listen, &[]);
    for id in acknowledged {
        assert_eq!(a.get(&format!("/v1/sessions/{id}")).await["state"], "live");
    }
    until_equal(&[&a, &b]).await;
}
