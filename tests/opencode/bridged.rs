//! A real opencode server beside the host B, with a developer's machine A in the same fleet.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use sessionmesh::replica::diff::Event;

use super::{Real, program_or_skip};
use crate::harness::{Daemon, Followed, PATIENCE, Subscriber, linked};

/// How long a delete can be undone here: long enough to do something within it.
pub const UNDO_WINDOW: &str = "4s";

pub struct World {
    pub real: Real,
    pub a: Daemon,
    pub b: Daemon,
    pub dir: tempfile::TempDir,
}

impl World {
    /// Starts everything; `None` where there is no opencode to test with.
    pub async fn start() -> Option<Self> {
        let real = Real::start(&program_or_skip()?).await;
        let dir = tempfile::tempdir().unwrap();
        let a = Daemon::start(&dir.path().join("a"), "a", &["--undo-window", UNDO_WINDOW]);
        let ticket = a.invite().await;
        let more = ["--undo-window", UNDO_WINDOW, "--opencode", &real.base, "--join", &ticket];
        let b = Daemon::start(&dir.path().join("b"), "b", &more);
        let world = Self { real, a, b, dir };
        world.connected().await;
        linked(&[&world.a, &world.b]).await;
        Some(world)
    }

    /// Starts B again where it was, after it was killed.
    pub fn start_b(&self, listen: &str) -> Daemon {
        let more = ["--undo-window", UNDO_WINDOW, "--opencode", &self.real.base];
        Daemon::start_at(&self.dir.path().join("b"), "b", listen, &more)
    }

    async fn connected(&self) {
        let holds = |status: &Value| status["agents"][0]["state"] == "connected";
        self.b.until("/v1/status", "bridged", holds).await;
    }

    pub async fn create(&self, title: &str) -> String {
        self.real.create(&self.real.here(), json!({ "title": title })).await
    }

    async fn delete_there(&self, id: &str) {
        self.real.send(Method::DELETE, &format!("/session/{id}"), Value::Null).await;
    }

    /// Whether opencode has the session.
    pub async fn is_there(&self, id: &str) -> bool {
        let url = format!("{}/session/{id}", self.real.base);
        reqwest::get(url).await.unwrap().status().is_success()
    }

    async fn until_there(&self, id: &str, expected: bool) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_there(id).await != expected {
            assert!(Instant::now() < deadline, "{id} in opencode: not {expected}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits until a daemon shows a session in a state, or not at all.
pub async fn until(daemon: &Daemon, id: &str, state: Option<&str>) {
    daemon
        .until("/v1/sessions?state=all&limit=1000", &format!("{id} is {state:?}"), |seen| {
            let mut sessions = seen["sessions"].as_array().unwrap().iter();
            let found = sessions.find(|session| session["id"] == id);
            found.map(|session| session["state"].as_str().unwrap()) == state
        })
        .await;
}

pub async fn delete(daemon: &Daemon, id: &str) -> Value {
    daemon.ok("DELETE", &format!("/v1/sessions/{id}"), None).await
}

/// Follows until an event holds.
pub async fn told(
    stream: &mut Followed,
    subscriber: &mut Subscriber,
    holds: impl Fn(&Event) -> bool,
) {
    while !subscriber.events.iter().any(&holds) {
        subscriber.take(stream.next().await.expect("the stream goes on"));
    }
}

#[tokio::test]
async fn what_is_created_or_deleted_in_opencode_is_told_on_the_other_machine_as_an_event() {
    let Some(world) = World::start().await else { return };
    let mut stream = world.a.follow(None).await;
    let mut subscriber = Subscriber::begin(&mut stream).await;
    let parent = world.create("parent").await;
    let child = world.create("child").await;
    for id in [&parent, &child] {
        told(&mut stream, &mut subscriber, |event| {
            matches!(event, Event::SessionCreated { session } if session.id.as_str() == *id)
        })
        .await;
    }
    world.delete_there(&parent).await;
    told(&mut stream, &mut subscriber, |event| {
        matches!(event, Event::SessionDeleted { session, .. } if session.id.as_str() == parent)
    })
    .await;
    until(&world.a, &parent, None).await;
    until(&world.a, &child, Some("live")).await;
}

#[tokio::test]
async fn what_is_deleted_on_another_machine_is_gone_from_opencode_unless_it_is_undone() {
    let Some(world) = World::start().await else { return };
    let (doomed, spared) = (world.create("doomed").await, world.create("spared").await);
    until(&world.a, &doomed, Some("live")).await;
    until(&world.a, &spared, Some("live")).await;
    let undo = delete(&world.a, &spared).await["operation"].as_str().unwrap().to_owned();
    delete(&world.a, &doomed).await;
    world.a.ok("POST", &format!("/v1/operations/{undo}/restore"), None).await;
    world.until_there(&doomed, false).await;
    until(&world.a, &doomed, None).await;
    until(&world.b, &doomed, None).await;
    assert!(world.is_there(&spared).await);
    until(&world.a, &spared, Some("live")).await;
}

#[tokio::test]
async fn deletes_on_both_sides_of_a_cut_link_are_carried_out_on_both() {
    let Some(world) = World::start().await else { return };
    let (by_a, by_b, kept) =
        (world.create("a").await, world.create("b").await, world.create("kept").await);
    for id in [&by_a, &by_b, &kept] {
        until(&world.a, id, Some("live")).await;
    }
    let peer = format!("/v1/peers/{}", world.b.node());
    world.a.ok("POST", &format!("{peer}/pause"), None).await;
    delete(&world.a, &by_a).await;
    world.delete_there(&by_b).await;
    until(&world.b, &by_b, None).await;
    assert!(world.is_there(&by_a).await, "B can't know of it yet");
    world.a.ok("POST", &format!("{peer}/resume"), None).await;
    world.until_there(&by_a, false).await;
    for daemon in [&world.a, &world.b] {
        until(daemon, &by_a, None).await;
        until(daemon, &by_b, None).await;
        until(daemon, &kept, Some("live")).await;
    }
}

#[tokio::test]
async fn what_is_deleted_while_opencode_is_down_does_not_come_back_with_it() {
    let Some(mut world) = World::start().await else { return };
    let (doomed, kept) = (world.create("doomed").await, world.create("kept").await);
    until(&world.a, &doomed, Some("live")).await;
    until(&world.a, &kept, Some("live")).await;
    world.real.kill();
    let failed = |status: &Value| status["agents"][0]["state"] == "failed";
    world.b.until("/v1/status", "it is told", failed).await;
    delete(&world.a, &doomed).await;
    until(&world.b, &doomed, Some("deleted")).await;
    world.real.start_again().await;
    world.until_there(&doomed, false).await;
    until(&world.a, &doomed, None).await;
    until(&world.a, &kept, Some("live")).await;
    assert!(world.is_there(&kept).await);
}

#[tokio::test]
async fn a_session_created_within_the_undo_window_brings_its_workspace_back() {
    let Some(world) = World::start().await else { return };
    let body = json!({ "type": "worktree", "branch": null });
    let path = format!("/experimental/workspace?{}", world.real.here());
    let workspace = world.real.send(Method::POST, &path, body).await;
    let workspace = workspace["id"].as_str().unwrap();
    let inside = format!("{}&workspace={workspace}", world.real.here());
    let first = world.real.create(&inside, json!({ "title": "first" })).await;
    until(&world.a, &first, Some("live")).await;
    let path = format!("/v1/workspaces/{workspace}");
    let mut stream = world.a.follow(None).await;
    let mut subscriber = Subscriber::begin(&mut stream).await;
    let deleted = delete(&world.a, &first).await;
    assert_eq!(deleted["workspace_vacated"], true);
    let second = world.real.create(&inside, json!({ "title": "second" })).await;
    told(&mut stream, &mut subscriber, |event| {
        matches!(event, Event::WorkspaceRestored { workspace: w } if w.id.as_str() == workspace)
    })
    .await;
    world.until_there(&first, false).await;
    until(&world.a, &first, None).await;
    until(&world.a, &second, Some("live")).await;
    let seen = world.a.get(&path).await;
    assert_eq!((&seen["state"], &seen["session_count"]), (&json!("live"), &json!(1)));
}

#[tokio::test]
async fn the_delete_of_the_last_session_takes_the_worktree_and_its_row_in_opencode_along() {
    let Some(world) = World::start().await else { return };
    let listed = format!("{}/experimental/workspace?{}", world.real.base, world.real.here());
    let there = async || reqwest::get(&listed).await.unwrap().json::<Value>().await.unwrap();
    let path = format!("/experimental/workspace?{}", world.real.here());
    let body = json!({ "type": "worktree", "branch": null });
    let workspace = world.real.send(Method::POST, &path, body).await;
    let workspace = workspace["id"].as_str().unwrap();
    let inside = format!("{}&workspace={workspace}", world.real.here());
    let id = world.real.create(&inside, json!({ "title": "only" })).await;
    until(&world.a, &id, Some("live")).await;
    assert_eq!(there().await.as_array().unwrap().len(), 1);
    let record = world.a.get(&format!("/v1/workspaces/{workspace}")).await;
    let folder = std::path::PathBuf::from(record["directory"].as_str().unwrap());
    assert!(folder.exists());

    let deleted = delete(&world.a, &id).await;
    assert_eq!(deleted["workspace_vacated"], true);
    for daemon in [&world.a, &world.b] {
        daemon
            .until("/v1/workspaces?state=all", "the workspace is gone", |list| {
                list["workspaces"].as_array().unwrap().is_empty()
            })
            .await;
    }
    assert!(!folder.exists(), "the worktree is still there");
    assert_eq!(there().await, json!([]), "opencode still lists it");
    world.until_there(&id, false).await;
}

#[tokio::test]
async fn a_host_that_is_killed_between_a_delete_and_its_end_goes_on_where_it_was() {
    let Some(mut world) = World::start().await else { return };
    let (doomed, there, kept) =
        (world.create("doomed").await, world.create("there").await, world.create("kept").await);
    for id in [&doomed, &there, &kept] {
        until(&world.a, id, Some("live")).await;
    }
    delete(&world.a, &doomed).await;
    until(&world.b, &doomed, Some("deleted")).await;
    let listen = world.b.quic();
    let (again, more) = (world.dir.path().join("spare"), ["--undo-window", UNDO_WINDOW]);
    std::mem::replace(&mut world.b, Daemon::start(&again, "spare", &more)).kill();
    world.delete_there(&there).await;
    let late = world.create("late").await;
    world.b = world.start_b(&listen);
    world.until_there(&doomed, false).await;
    for id in [&doomed, &there] {
        until(&world.a, id, None).await;
        until(&world.b, id, None).await;
    }
    for id in [&late, &kept] {
        until(&world.a, id, Some("live")).await;
        assert!(world.is_there(id).await);
    }
}
