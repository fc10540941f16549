//! Owns what a cursor is good for: to go on exactly, or to be told to begin again.

use serde_json::json;
use sessionmesh::replica::diff::Event;

use crate::{
    create,
    harness::{Daemon, Message, Subscriber},
    session,
};

#[tokio::test]
async fn a_cursor_leads_on_exactly_across_a_clean_restart() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("A");
    let daemon = Daemon::start(&dir, "A", &[]);
    let mut stream = daemon.follow(None).await;
    let mut subscriber = Subscriber::begin(&mut stream).await;
    create(&daemon, session("seen")).await;
    subscriber.catch_up(&mut stream, &daemon).await;
    create(&daemon, session("missed")).await;
    daemon.ok("DELETE", "/v1/sessions/seen", None).await;
    let before = daemon.view().await;
    assert!(daemon.stop().success());

    let daemon = Daemon::start(&dir, "A", &[]);
    assert_eq!(daemon.view().await, before, "the same view, under the same cursor");
    let mut stream = daemon.follow(Some(&subscriber.cursor())).await;
    subscriber.catch_up(&mut stream, &daemon).await;
    create(&daemon, session("new")).await;
    subscriber.catch_up(&mut stream, &daemon).await;
    assert_eq!(subscriber.snapshots, 1);
    let told: Vec<String> = subscriber.events.iter().map(name).collect();
    assert_eq!(told, ["created seen", "created missed", "deleted seen", "created new"]);
}

fn name(event: &Event) -> String {
    match event {
        Event::SessionCreated { session } => format!("created {}", session.id),
        Event::SessionDeleted { session, .. } => format!("deleted {}", session.id),
        other => panic!("nobody did this: {other:?}"),
    }
}

#[tokio::test]
async fn a_cursor_that_leads_nowhere_begins_with_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&folder.path().join("A"), "A", &[]);
    let other = Daemon::start(&folder.path().join("B"), "B", &[]);
    for id in ["one", "two", "three"] {
        create(&daemon, session(id)).await;
        create(&other, session(id)).await;
    }
    let cursor = daemon.view().await.cursor;
    let (start, sequence) = (cursor.start, cursor.sequence);
    let ahead = format!("{start}-{}", sequence + 1);
    let of_no_start = format!("{}-{sequence}", "00".repeat(8));
    let foreign = other.view().await.cursor.to_string();
    let last = format!("{start}-{}", u64::MAX);
    for text in [&ahead, &of_no_start, &foreign, &last, "garbage", "-", "", "0", "ü-1"] {
        let mut stream = daemon.follow(Some(text)).await;
        let Some(Message::Snapshot(snapshot)) = stream.next().await else {
            panic!("{text:?} was taken for a cursor of this daemon");
        };
        assert_eq!(snapshot.cursor, cursor);
    }
    // One that is known leads on, in the header and in the query, and the header goes first.
    let first = format!("{start}-{}", sequence - 1);
    let query = format!("/v1/events?after={first}");
    let response = daemon.request(reqwest::Method::GET, &query).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut stream = daemon.follow(Some(&first)).await;
    let Some(Message::Diff(diff)) = stream.next().await else { panic!("it is known") };
    assert_eq!(diff.cursor, cursor);
}

#[tokio::test]
async fn a_cursor_from_before_more_than_is_kept_begins_with_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("A");
    let daemon = Daemon::start(&dir, "A", &[]);
    create(&daemon, json!({ "id": "large" })).await;
    let old = daemon.view().await.cursor;
    // Each diff carries the whole record, so a few hundred of a large one are more than is kept.
    let extra: serde_json::Map<_, _> =
        (0..32).map(|key| (format!("key-{key}"), json!("x".repeat(1_000)))).collect();
    daemon.ok("PATCH", "/v1/sessions/large", Some(json!({ "extra": extra }))).await;
    for number in 0..400 {
        let body = json!({ "title": format!("title {number}") });
        daemon.ok("PATCH", "/v1/sessions/large", Some(body)).await;
    }
    let begins_anew = async |daemon: &Daemon| {
        let mut stream = daemon.follow(Some(&old.to_string())).await;
        let Some(message) = stream.next().await else { panic!("the stream ended") };
        assert!(matches!(message, Message::Snapshot(_)), "a diff from so long ago: {message:?}");
    };
    begins_anew(&daemon).await;
    assert!(daemon.stop().success());
    begins_anew(&Daemon::start(&dir, "A", &[])).await;
}
