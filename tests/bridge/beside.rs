//! Two servers that stand on one database.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sessionmesh::replica::diff::Event;

use super::{
    fake::{self, Fake},
    harness::{Daemon, PATIENCE, Subscriber},
    ids, until,
};

#[tokio::test]
async fn two_servers_on_one_database_are_one() {
    let fake = Fake::start().await;
    fake.put("ses_1", json!({}));
    fake.put("ses_2", json!({}));
    let beside = fake.beside().await;
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (fake.url(), beside.url());
    let more = ["--undo-window", "0", "--opencode", &one, "--opencode", &other];
    let daemon = Daemon::start(&dir.path().join("d"), "d", &more);
    let connected = |status: &Value| {
        let mut agents = status["agents"].as_array().unwrap().iter();
        agents.len() == 2 && agents.all(|agent| agent["state"] == "connected")
    };
    daemon.until("/v1/status", "both are bridged", connected).await;
    fake.put("ses_3", json!({}));
    let all = "/v1/sessions?state=all&limit=1000";
    daemon.until(all, "taken in", |seen| ids(seen) == ["ses_1", "ses_2", "ses_3"]).await;
    // Both have looked at what the other has written, and nobody writes any more.
    let mut stream = daemon.follow(None).await;
    let mut subscriber = Subscriber::begin(&mut stream).await;
    fake.put("ses_3", json!({ "title": "a mark" }));
    until(&mut stream, &mut subscriber, "a mark").await;
    fake.put("ses_3", json!({ "title": "another mark" }));
    until(&mut stream, &mut subscriber, "another mark").await;
    assert!(subscriber.events.len() <= 4, "{:?}", subscriber.events);
    fake.remove("ses_1");
    daemon.ok("DELETE", "/v1/sessions/ses_2", None).await;
    daemon.until(all, "deleted either way", |seen| ids(seen) == ["ses_3"]).await;
    assert_eq!(fake.sessions(), ["ses_3"]);
}

/// Two servers on one database, the second of which is told nothing of what the first one does.
struct BesideDeaf {
    daemon: Daemon,
    fake: Fake,
    _deaf: Fake,
    _dir: tempfile::TempDir,
}

impl BesideDeaf {
    async fn start() -> Self {
        let fake = Fake::start().await;
        fake.put("ses_1", json!({}));
        let deaf = fake.beside_deaf().await;
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (fake.url(), deaf.url());
        let more = ["--opencode", &one, "--opencode", &other];
        let daemon = Daemon::start(&dir.path().join("d"), "d", &more);
        let connected = |status: &Value| {
            let mut agents = status["agents"].as_array().unwrap().iter();
            agents.len() == 2 && agents.all(|agent| agent["state"] == "connected")
        };
        daemon.until("/v1/status", "both are bridged", connected).await;
        Self { daemon, fake, _deaf: deaf, _dir: dir }
    }

    /// Waits until the second server was asked, as counted, once more.
    async fn asked_again(&self, before: usize, count: impl Fn(&fake::State) -> usize) {
        let deadline = Instant::now() + PATIENCE;
        while count(&self.fake.state()) == before {
            assert!(Instant::now() < deadline, "the other server is asked what is true");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_told_what_another_on_its_database_does_never_undoes_it() {
    let beside = BesideDeaf::start().await;
    let mut stream = beside.daemon.follow(None).await;
    let mut subscriber = Subscriber::begin(&mut stream).await;
    let asked = |state: &fake::State| state.asked_deaf.get("ses_1").copied().unwrap_or(0);
    for title in ["a", "b", "c"] {
        let before = asked(&beside.fake.state());
        beside.fake.put("ses_1", json!({ "title": title }));
        until(&mut stream, &mut subscriber, title).await;
        // The other one's list still has the title before it.
        beside.asked_again(before, asked).await;
    }
    beside.fake.put("ses_1", json!({ "title": "a mark" }));
    until(&mut stream, &mut subscriber, "a mark").await;
    assert_eq!(subscriber.events.len(), 4, "each title was told once: {:?}", subscriber.events);
}

#[tokio::test]
async fn a_workspace_that_one_server_has_just_made_is_not_removed_for_the_older_list_of_another() {
    let beside = BesideDeaf::start().await;
    let mut stream = beside.daemon.follow(None).await;
    let mut subscriber = Subscriber::begin(&mut stream).await;
    let listed = |state: &fake::State| state.workspaces_listed_deaf;
    let before = listed(&beside.fake.state());
    beside.fake.put_workspace("wrk_1");
    // Of a session in a workspace that it does not know, the first one asks for all at once.
    beside.fake.put("ses_2", json!({ "workspaceID": "wrk_2", "directory": "/no/such/folder" }));
    until(&mut stream, &mut subscriber, "ses_2").await;
    assert!(beside.daemon.get("/v1/workspaces").await.to_string().contains("wrk_1"));
    beside.asked_again(before, listed).await;
    beside.fake.put("ses_2", json!({ "workspaceID": "wrk_2", "title": "a mark" }));
    until(&mut stream, &mut subscriber, "a mark").await;
    let is_removed = |event: &Event| matches!(event, Event::WorkspaceRemoved { .. });
    assert!(!subscriber.events.iter().any(is_removed), "{:?}", subscriber.events);
}
