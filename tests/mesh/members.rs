//! Owns who belongs to a fleet: joining with what one has, leaving, being shut out, reading only.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    create,
    harness::{Daemon, Message, Subscriber, fleet, linked},
    session, until_equal, until_linked, until_peer, until_session,
};

async fn refused(daemon: &Daemon, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
    let (status, problem) = daemon.send(method, path, body).await;
    let code = problem["code"].as_str().unwrap_or_else(|| panic!("{path}: {status} {problem}"));
    assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{problem}");
    (status, code.to_owned())
}

fn ids(view: &sessionmesh::replica::fold::Snapshot) -> Vec<&str> {
    let mut ids: Vec<&str> = view.sessions.iter().map(|session| session.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_node_brings_its_sessions_along_and_takes_them_with_it_when_it_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let daemons = fleet(folder.path(), &["A", "B"], &[]).await;
    let [a, b] = &daemons[..] else { unreachable!("there are two") };
    let fleet_id = a.get("/v1/status").await["fleet"].clone();
    create(a, session("of-a")).await;
    let c = Daemon::start(&folder.path().join("C"), "C", &[]);
    create(&c, session("of-c")).await;
    let mut stream = c.follow(None).await;
    let mut subscriber = Subscriber::begin(&mut stream).await;

    let ticket = a.invite().await;
    let answer = c.ok("POST", "/v1/join", Some(json!({ "ticket": ticket }))).await;
    assert_eq!(answer["fleet"], fleet_id);
    for (daemon, id) in [(a, "of-c"), (b, "of-c"), (&c, "of-a")] {
        until_session(daemon, id, "live").await;
    }
    until_linked(&c, b).await;
    // A change to another's record, from there, while it is a member.
    a.ok("PATCH", "/v1/sessions/of-c", Some(json!({ "title": "by A" }))).await;
    c.until("/v1/sessions/of-c", "renamed by A", |it| it["title"] == "by A").await;
    until_equal(&[a, b, &c]).await;
    subscriber.catch_up(&mut stream, &c).await;
    assert_eq!(subscriber.snapshots, 1, "what came with the fleet was told as diffs");
    let (status, code) =
        refused(&c, "POST", "/v1/join", Some(json!({ "ticket": a.invite().await }))).await;
    assert_eq!((status, code.as_str()), (409, "not_alone"));

    let answer = c.ok("POST", "/v1/leave", None).await;
    assert_ne!(answer["fleet"], fleet_id);
    let Some(Message::Snapshot(snapshot)) = stream.next().await else {
        panic!("what is gone without a delete is not told by a diff");
    };
    assert_eq!(ids(&snapshot), ["of-c"]);
    subscriber.take(Message::Snapshot(snapshot));
    subscriber.catch_up(&mut stream, &c).await;
    let status = c.get("/v1/status").await;
    assert_eq!((&status["fleet"], &status["role"]), (&answer["fleet"], &json!("admin")));
    assert_eq!(c.get("/v1/peers").await, json!([]));
    assert_eq!(refused(&c, "POST", "/v1/leave", None).await, (409, "alone".to_owned()));
    // Those who stay learn of it, and keep what they have of it.
    for daemon in [a, b] {
        let gone = |peers: &Value| peers.as_array().is_some_and(|all| all.len() == 1);
        daemon.until("/v1/peers", "C has left", gone).await;
        until_session(daemon, "of-c", "live").await;
    }
    // What either does now is its own affair.
    create(&c, session("apart")).await;
    a.ok("PATCH", "/v1/sessions/of-c", Some(json!({ "title": "by A, apart" }))).await;

    // Also after a restart.
    let (dir, listen) = (c.dir().to_owned(), c.quic());
    let left = c.view().await;
    assert!(c.stop().success());
    let c = Daemon::start_at(&dir, "C", &listen, &[]);
    assert_eq!(c.view().await, left);
    assert_eq!(c.get("/v1/peers").await, json!([]));

    let ticket = a.invite().await;
    c.ok("POST", "/v1/join", Some(json!({ "ticket": ticket }))).await;
    until_session(a, "apart", "live").await;
    until_session(b, "apart", "live").await;
    c.until("/v1/sessions/of-c", "what A did meanwhile", |it| it["title"] == "by A, apart").await;
    until_linked(&c, a).await;
    until_linked(&c, b).await;
    until_equal(&[a, b, &c]).await;
}

#[tokio::test]
async fn a_revoked_node_is_cut_off_by_all_at_once_and_can_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemons = fleet(folder.path(), &["A", "B", "C"], &[]).await;
    let ticket = daemons[0].invite().await;
    let [a, b, c] = &daemons[..] else { unreachable!("there are three") };
    create(c, session("of-c")).await;
    until_session(a, "of-c", "live").await;
    until_session(b, "of-c", "live").await;
    let revoke = format!("/v1/peers/{}", c.node());
    assert_eq!(refused(b, "DELETE", &revoke, None).await, (403, "not_admin".to_owned()));

    let began = Instant::now();
    a.ok("DELETE", &revoke, None).await;
    let cut_off = |it: &Value| it["revoked"] == true && it["connected"] == false;
    for daemon in [a, b] {
        until_peer(daemon, c, "revoked and cut off", cut_off).await;
    }
    // The contract says a second from learning of it; learning of it takes milliseconds here.
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
    a.ok("DELETE", &revoke, None).await;
    assert_eq!(
        refused(a, "POST", &format!("{revoke}/resume"), None).await,
        (409, "revoked".to_owned())
    );
    // It is told why, and nothing of it or to it goes on, not even after a restart.
    let c = daemons.pop().unwrap();
    let [a, b] = &daemons[..] else { unreachable!("two are left") };
    for other in [a, b] {
        let why = |it: &Value| it["connected"] == false && it["problem"].is_string();
        until_peer(&c, other, "cut off, and told why", why).await;
    }
    create(&c, session("unheard")).await;
    create(a, session("untold")).await;
    until_session(b, "untold", "live").await;
    let (dir, listen) = (c.dir().to_owned(), c.quic());
    c.kill();
    let c = Daemon::start_at(&dir, "C", &listen, &[]);
    for other in [a, b] {
        let why = |it: &Value| it["problem"].as_str().is_some_and(|why| why.contains("revoked"));
        until_peer(&c, other, "refused by name", why).await;
        until_peer(other, &c, "still cut off", cut_off).await;
        assert_eq!(other.send("GET", "/v1/sessions/unheard", None).await.0, 404);
        until_session(other, "of-c", "live").await;
    }
    assert_eq!(c.send("GET", "/v1/sessions/untold", None).await.0, 404);
    assert!(c.log().contains("revoked"), "its own log says why");
    // Not by a ticket either: it needs a new key.
    c.ok("POST", "/v1/leave", None).await;
    let (status, problem) = c.send("POST", "/v1/join", Some(json!({ "ticket": ticket }))).await;
    assert_eq!((status, &problem["code"]), (403, &json!("join_refused")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("revoked"), "{problem}");
    let key = c.node();
    let refusal = |line: &&str| line.contains("refused a peer") && line.contains(&key);
    assert!(a.log().lines().any(|line| refusal(&line)), "the log of A says whom and why");
    until_linked(a, b).await;
}

#[tokio::test]
async fn a_retired_machine_vanishes_from_every_list_is_told_so_and_leaves_its_name_free() {
    let folder = tempfile::tempdir().unwrap();
    let daemons = fleet(folder.path(), &["A", "B", "C"], &[]).await;
    let [a, b, c] = &daemons[..] else { unreachable!("there are three") };
    create(c, session("of-c")).await;
    until_session(b, "of-c", "live").await;
    let mut stream = b.follow(None).await;
    let mut subscriber = Subscriber::begin(&mut stream).await;
    a.ok("POST", "/v1/peers/C/retire", None).await;
    let is_gone = |sessions: &Value| sessions["sessions"].as_array().is_some_and(Vec::is_empty);
    for daemon in [a, b] {
        daemon.until("/v1/view", "nothing of C is shown", is_gone).await;
        let peers = daemon.get("/v1/peers").await;
        assert_eq!(peers.as_array().map(Vec::len), Some(1), "{peers}");
    }
    subscriber.until(&mut stream, |it| it.fold.sessions().next().is_none()).await;
    assert_eq!(subscriber.snapshots, 1, "it is told by a diff");
    let by_a = |it: &Value| it["shut_out"]["by"] == "A" && it["shut_out"]["retired"] == true;
    c.until("/v1/status", "it knows by whom it was retired", by_a).await;
    until_session(c, "of-c", "live").await;
    let refusal = refused(c, "POST", "/v1/invites", None).await;
    assert_eq!(refusal, (403, "this_node_revoked".to_owned()));
    // Another machine takes its name.
    let new = Daemon::start(&folder.path().join("new"), "C", &[]);
    new.ok("POST", "/v1/join", Some(json!({ "ticket": a.invite().await }))).await;
    until_peer(b, &new, "admitted under the name", |it| it["admitted_as"] == "C").await;
}

#[tokio::test]
async fn the_last_admin_stays_until_there_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemons = fleet(folder.path(), &["A", "B"], &[]).await;
    let refusal = refused(&daemons[0], "POST", "/v1/leave", None).await;
    assert_eq!(refusal, (409, "last_admin".to_owned()));
    let body = json!({ "role": "admin" });
    let invited = daemons[0].ok("POST", "/v1/invites", Some(body)).await;
    assert_eq!(invited["role"], "admin");
    let ticket = invited["ticket"].as_str().unwrap();
    daemons.push(Daemon::start(&folder.path().join("C"), "C", &["--join", ticket]));
    linked(&daemons).await;
    daemons[0].ok("POST", "/v1/leave", None).await;
    let [a, b, c] = &daemons[..] else { unreachable!("there are three") };
    for daemon in [b, c] {
        let gone = |peers: &Value| peers.as_array().is_some_and(|all| all.len() == 1);
        daemon.until("/v1/peers", "A has left", gone).await;
    }
    assert_eq!(a.get("/v1/peers").await, json!([]));
    let ticket = c.invite().await;
    a.ok("POST", "/v1/join", Some(json!({ "ticket": ticket }))).await;
    linked(&daemons).await;
    assert_eq!(daemons[0].get("/v1/status").await["role"], "member");
}

#[tokio::test]
async fn a_reader_sees_everything_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let a = Daemon::start(&folder.path().join("A"), "A", &[]);
    let invited = a.ok("POST", "/v1/invites", Some(json!({ "role": "reader" }))).await;
    let ticket = invited["ticket"].as_str().unwrap();
    let b = Daemon::start(&folder.path().join("B"), "B", &["--join", ticket]);
    create(&a, session("seen")).await;
    a.ok("POST", "/v1/workspaces", Some(json!({ "id": "w", "name": "w", "kind": "x" }))).await;
    until_session(&b, "seen", "live").await;
    until_equal(&[&a, &b]).await;
    assert_eq!(until_linked(&a, &b).await["role"], "reader");
    let before = b.view().await;
    let read_only = (403, "read_only".to_owned());
    for (method, path, body) in [
        ("POST", "/v1/sessions", Some(json!({}))),
        ("POST", "/v1/sessions", Some(json!({ "host": "B" }))),
        ("PATCH", "/v1/sessions/seen", Some(json!({ "title": "x" }))),
        ("DELETE", "/v1/sessions/seen", None),
        ("POST", "/v1/workspaces", Some(json!({ "name": "x", "kind": "x" }))),
        ("PATCH", "/v1/workspaces/w", Some(json!({ "keep": true }))),
        ("DELETE", "/v1/workspaces/w", None),
        ("POST", "/v1/operations/op_1/restore", None),
        ("POST", "/v1/workspaces/w/teardown", Some(json!({ "action": "force" }))),
        ("POST", "/v1/import", Some(json!({ "sessions": [] }))),
    ] {
        assert_eq!(refused(&b, method, path, body).await, read_only, "{method} {path}");
    }
    for (method, path) in
        [("POST", "/v1/invites".to_owned()), ("DELETE", format!("/v1/peers/{}", a.node()))]
    {
        let refusal = refused(&b, method, &path, None).await;
        assert_eq!(refusal, (403, "not_admin".to_owned()), "{method} {path}");
    }
    // What a delete would do may be asked.
    let dry = b.ok("DELETE", "/v1/sessions/seen?dry_run=true", None).await;
    assert_eq!((&dry["dry_run"], &dry["session"]["state"]), (&json!(true), &json!("live")));
    assert_eq!((b.view().await, a.view().await.digest), (before.clone(), before.digest));
}
