//! Bridges a daemon to an opencode server that fails in every way that one can.

mod harness;

#[path = "bridge/fake.rs"]
mod fake;

use std::time::{Duration, Instant};

use fake::{Fake, Mode};
use harness::{Daemon, Message, PATIENCE, Subscriber};
use serde_json::{Value, json};
use sessionmesh::replica::diff::Event;

/// A daemon that is bridged to a fake server.
struct Bridged {
    daemon: Daemon,
    fake: Fake,
    _dir: tempfile::TempDir,
}

impl Bridged {
    /// Starts both, and waits until the sessions are taken in.
    async fn start(sessions: &[&str]) -> Self {
        let fake = Fake::start().await;
        for id in sessions {
            fake.put(id, json!({}));
        }
        let dir = tempfile::tempdir().unwrap();
        let url = fake.url();
        let daemon =
            Daemon::start(&dir.path().join("d"), "d", &["--undo-window", "0", "--opencode", &url]);
        let bridged = Self { daemon, fake, _dir: dir };
        bridged.connected().await;
        assert_eq!(bridged.live().await.len(), sessions.len());
        bridged
    }

    async fn connected(&self) {
        self.daemon
            .until("/v1/status", "connected", |status| status["agents"][0]["state"] == "connected")
            .await;
    }

    /// Waits until the bridge tells of a problem, and returns it.
    async fn problem(&self, state: &str, about: &str) {
        self.daemon
            .until("/v1/status", "the problem is told", |status| {
                let agent = &status["agents"][0];
                let told = agent["problem"].as_str().unwrap_or_default();
                agent["state"] == state && told.contains(about)
            })
            .await;
    }

    async fn live(&self) -> Vec<String> {
        let view = self.daemon.get("/v1/sessions?state=live&limit=1000").await;
        ids(&view)
    }

    async fn until_live(&self, what: &str, expected: &[&str]) {
        self.daemon
            .until("/v1/sessions?state=live&limit=1000", what, |seen| ids(seen) == expected)
            .await;
    }

    async fn until_all(&self, what: &str, expected: &[&str]) {
        self.daemon
            .until("/v1/sessions?state=all&limit=1000", what, |seen| ids(seen) == expected)
            .await;
    }

    async fn delete(&self, id: &str) {
        self.daemon.ok("DELETE", &format!("/v1/sessions/{id}"), None).await;
    }
}

fn ids(list: &Value) -> Vec<String> {
    let list = list["sessions"].as_array().expect("it is a list");
    let mut ids: Vec<_> = list.iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn what_the_server_has_and_does_is_followed() {
    let bridged = Bridged::start(&["ses_1"]).await;
    let fake = &bridged.fake;
    fake.put("ses_2", json!({ "parentID": "ses_1", "title": "child" }));
    bridged.until_live("created there", &["ses_1", "ses_2"]).await;
    fake.put("ses_2", json!({ "parentID": "ses_1", "title": "renamed" }));
    bridged.daemon.until("/v1/sessions/ses_2", "renamed", |s| s["title"] == "renamed").await;
    fake.remove("ses_2");
    bridged.until_all("deleted there", &["ses_1"]).await;
    assert_eq!(fake.deletes(), Vec::<String>::new(), "nothing was asked to be deleted");
}

#[tokio::test]
async fn a_server_that_fails_is_told_of_and_deletes_nothing_here() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    for (mode, about) in [
        (Mode::Status(401), "password"),
        (Mode::Status(500), "500"),
        (Mode::Garbage, "not an opencode server"),
        (Mode::BreaksHalfWay, "500"),
        (Mode::Hangs, "does not answer"),
    ] {
        bridged.fake.set(mode);
        bridged.problem("failed", about).await;
        assert_eq!(bridged.live().await, ["ses_1", "ses_2"], "{mode:?}");
        bridged.fake.set(Mode::Works);
        bridged.connected().await;
        assert_eq!(bridged.live().await, ["ses_1", "ses_2"], "{mode:?}");
    }
}

#[tokio::test]
async fn what_happened_while_the_stream_was_down_is_found_in_the_list() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    let fake = &bridged.fake;
    fake.set(Mode::Status(500));
    bridged.problem("failed", "500").await;
    fake.remove("ses_1");
    fake.put("ses_3", json!({}));
    bridged.delete("ses_2").await;
    fake.set(Mode::Works);
    bridged.until_all("both sides' changes", &["ses_3"]).await;
    assert_eq!(fake.deletes(), ["ses_2"]);
    assert_eq!(fake.sessions(), ["ses_3"]);
}

#[tokio::test]
async fn a_list_that_is_suddenly_empty_is_believed_only_when_it_stays_so() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    bridged.fake.set(Mode::EmptyOnce);
    bridged.problem("connecting", "asking again").await;
    bridged.connected().await;
    assert_eq!(bridged.live().await, ["ses_1", "ses_2"]);

    bridged.fake.set(Mode::Status(500));
    bridged.problem("failed", "500").await;
    bridged.fake.remove("ses_1");
    bridged.fake.remove("ses_2");
    bridged.fake.set(Mode::Works);
    bridged.problem("connecting", "asking again").await;
    assert_eq!(bridged.live().await, ["ses_1", "ses_2"]);
    bridged.until_all("believed", &[]).await;
}

#[tokio::test]
async fn a_session_is_purged_once_the_server_has_deleted_it_children_first() {
    let bridged = Bridged::start(&["ses_9"]).await;
    let fake = &bridged.fake;
    fake.put("ses_1", json!({ "parentID": "ses_9" }));
    fake.put("ses_2", json!({ "parentID": "ses_1" }));
    bridged.until_live("taken in", &["ses_1", "ses_2", "ses_9"]).await;
    fake.fail_deletes(true);
    bridged.delete("ses_9").await;
    bridged.problem("connected", "not deleted there").await;
    bridged.until_all("held back", &["ses_1", "ses_2", "ses_9"]).await;
    assert_eq!(bridged.live().await, Vec::<String>::new());
    fake.fail_deletes(false);
    bridged.until_all("purged", &[]).await;
    assert_eq!(fake.deletes(), ["ses_2", "ses_1", "ses_9"]);
    bridged
        .daemon
        .until("/v1/status", "the problem is over", |s| s["agents"][0]["problem"].is_null())
        .await;
}

#[tokio::test]
async fn a_purged_session_is_not_taken_in_again_whatever_the_server_lists() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    bridged.delete("ses_1").await;
    bridged.until_all("purged", &["ses_2"]).await;
    bridged.fake.put("ses_1", json!({ "title": "back from the dead" }));
    bridged.fake.put("ses_3", json!({}));
    bridged.until_live("others are", &["ses_2", "ses_3"]).await;
    bridged.fake.set(Mode::Status(500));
    bridged.problem("failed", "500").await;
    bridged.fake.set(Mode::Works);
    bridged.connected().await;
    assert_eq!(bridged.live().await, ["ses_2", "ses_3"]);
}

#[tokio::test]
async fn ticks_of_a_busy_session_are_not_written_one_by_one() {
    let bridged = Bridged::start(&["ses_1"]).await;
    let mut stream = bridged.daemon.follow(None).await;
    let mut subscriber = Subscriber::begin(&mut stream).await;
    let begun = Instant::now();
    for tick in 1..50 {
        bridged.fake.put("ses_1", json!({ "time": { "created": 1, "updated": 100 + tick } }));
    }
    bridged.fake.put("ses_2", json!({}));
    until(&mut stream, &mut subscriber, "ses_2").await;
    bridged
        .fake
        .put("ses_1", json!({ "title": "renamed", "time": { "created": 1, "updated": 200 } }));
    until(&mut stream, &mut subscriber, "renamed").await;
    let updates = subscriber.events.iter().filter(|event| {
        matches!(event, Event::SessionUpdated { session, .. } if session.id.as_str() == "ses_1")
    });
    // A rename takes the time along; each full half minute may have written it once.
    let allowed = 1 + begun.elapsed().as_secs() / 30;
    assert!((1..=allowed).contains(&(updates.count() as u64)), "{:?}", subscriber.events);
    let seen = bridged.daemon.get("/v1/sessions/ses_1").await;
    assert_eq!(seen["updated_at"], 200);
}

/// Follows until a session of that id or title is told.
async fn until(stream: &mut harness::Followed, subscriber: &mut Subscriber, name: &str) {
    loop {
        let message: Message = stream.next().await.expect("the stream goes on");
        subscriber.take(message);
        let told = |event: &Event| match event {
            Event::SessionCreated { session } | Event::SessionUpdated { session, .. } => {
                session.id.as_str() == name || session.title.as_deref() == Some(name)
            }
            _ => false,
        };
        if subscriber.events.last().is_some_and(told) {
            return;
        }
    }
}

#[tokio::test]
async fn workspaces_come_and_go_with_the_servers_though_no_event_tells() {
    let bridged = Bridged::start(&["ses_1"]).await;
    let fake = &bridged.fake;
    let workspaces = "/v1/workspaces?state=all";
    let count = |n: usize| move |seen: &Value| seen["workspaces"].as_array().unwrap().len() == n;
    fake.put_workspace("wrk_1");
    bridged.daemon.until(workspaces, "taken in", count(1)).await;
    fake.remove_workspace("wrk_1");
    bridged.daemon.until(workspaces, "removed there, without a session", count(0)).await;
    fake.put_workspace("wrk_2");
    fake.put("ses_2", json!({ "workspaceID": "wrk_2" }));
    bridged.daemon.until(workspaces, "with its session", count(1)).await;
    bridged.until_live("taken in", &["ses_1", "ses_2"]).await;
    fake.remove("ses_2");
    fake.remove_workspace("wrk_2");
    bridged.daemon.until(workspaces, "removed there, with its session", count(0)).await;
    bridged.until_all("its session, too", &["ses_1"]).await;
}

#[tokio::test]
async fn a_daemon_that_dies_before_the_server_has_confirmed_goes_on_when_it_is_back() {
    let fake = Fake::start().await;
    fake.put("ses_1", json!({}));
    fake.put("ses_2", json!({}));
    let dir = tempfile::tempdir().unwrap();
    let (path, url) = (dir.path().join("d"), fake.url());
    let more = ["--undo-window", "0", "--opencode", &url];
    let daemon = Daemon::start(&path, "d", &more);
    let all = "/v1/sessions?state=all&limit=1000";
    daemon.until(all, "taken in", |seen| ids(seen) == ["ses_1", "ses_2"]).await;
    fake.fail_deletes(true);
    daemon.ok("DELETE", "/v1/sessions/ses_1", None).await;
    let deadline = Instant::now() + PATIENCE;
    while fake.refused_deletes() == 0 {
        assert!(Instant::now() < deadline, "it is asked to delete");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    daemon.kill();
    fake.fail_deletes(false);
    let daemon = Daemon::start(&path, "d", &more);
    daemon.until(all, "carried out", |seen| ids(seen) == ["ses_2"]).await;
    assert_eq!(fake.sessions(), ["ses_2"]);
}

#[tokio::test]
async fn an_address_that_is_none_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let output = harness::command(&dir.path().join("d"))
        .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .args(["--opencode", "localhost:4096"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("localhost:4096"), "{told}");
}

#[tokio::test]
async fn another_database_at_the_same_address_deletes_nothing_and_confirms_nothing() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    bridged.fake.fail_deletes(true);
    bridged.delete("ses_2").await;
    bridged
        .daemon
        .until("/v1/status", "asked to delete", |_| bridged.fake.refused_deletes() > 0)
        .await;
    bridged.fake.fail_deletes(false);
    bridged.fake.move_to(8, &["ses_other"]);
    bridged.problem("failed", "another database").await;
    assert_eq!(bridged.live().await, ["ses_1"]);
    // It is still to be deleted where it is: no 404 of another database counts.
    bridged.until_all("not purged", &["ses_1", "ses_2"]).await;
    bridged.fake.move_to(7, &["ses_1", "ses_2"]);
    bridged.connected().await;
    bridged.until_all("deleted there, and purged", &["ses_1"]).await;
    assert_eq!(bridged.fake.deletes(), ["ses_2"]);
}

#[tokio::test]
async fn deletes_of_most_sessions_that_are_told_one_by_one_are_looked_up_before_they_are_believed()
{
    let ids = ["ses_1", "ses_2", "ses_3", "ses_4", "ses_5", "ses_6"];
    let bridged = Bridged::start(&ids).await;
    // Told, and not so.
    ids.iter().for_each(|id| bridged.fake.tell_deleted(id));
    bridged
        .daemon
        .until("/v1/status", "looked up", |status| status["agents"][0]["state"] == "connected")
        .await;
    bridged.fake.put("ses_7", json!({}));
    let all = ["ses_1", "ses_2", "ses_3", "ses_4", "ses_5", "ses_6", "ses_7"];
    bridged.until_live("all are there", &all).await;
    // Told, and so.
    ids.iter().for_each(|id| bridged.fake.remove(id));
    bridged.until_live("they are gone", &["ses_7"]).await;
}
