//! Ends the workspaces of a real opencode server, whoever asks and whatever is killed meanwhile.

use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};
use sessionmesh::replica::diff::Event;

use super::bridged::{UNDO_WINDOW, World, delete, told, until};
use crate::harness::{Daemon, Followed, Subscriber, linked};

/// A worktree workspace that opencode made, with a session in it, as it is known on A.
struct Place {
    workspace: String,
    folder: PathBuf,
    session: String,
}

impl Place {
    /// Has opencode make it; `files` are left in it before anyone looks.
    async fn make(world: &World, files: &[&str]) -> Self {
        let path = format!("/experimental/workspace?{}", world.real.here());
        let body = json!({ "type": "worktree", "branch": null });
        let made = world.real.send(Method::POST, &path, body).await;
        let workspace = made["id"].as_str().unwrap().to_owned();
        let folder = PathBuf::from(made["directory"].as_str().unwrap());
        files.iter().for_each(|file| std::fs::write(folder.join(file), "precious").unwrap());
        let session = Self::enter(world, &workspace, "first").await;
        until(&world.a, &session, Some("live")).await;
        Self { workspace, folder, session }
    }

    async fn enter(world: &World, workspace: &str, title: &str) -> String {
        let inside = format!("{}&workspace={workspace}", world.real.here());
        world.real.create(&inside, json!({ "title": title })).await
    }

    /// Lists what opencode has of workspaces.
    async fn listed(world: &World) -> Value {
        let listed = format!("{}/experimental/workspace?{}", world.real.base, world.real.here());
        reqwest::get(&listed).await.unwrap().json().await.unwrap()
    }

    /// Returns what each attempt to end it came to, as a daemon tells it.
    async fn attempts(&self, daemon: &Daemon) -> Vec<(u64, String)> {
        let told = daemon.get(&format!("/v1/explain/{}", self.workspace)).await;
        let attempts = told["teardowns"].as_array().unwrap().iter();
        attempts
            .map(|one| {
                (one["incarnation"].as_u64().unwrap(), one["state"].as_str().unwrap().to_owned())
            })
            .collect()
    }
}

/// A machine whose event stream is followed.
struct Watched {
    stream: Followed,
    subscriber: Subscriber,
}

impl Watched {
    async fn begin(daemon: &Daemon) -> Self {
        let mut stream = daemon.follow(None).await;
        let subscriber = Subscriber::begin(&mut stream).await;
        Self { stream, subscriber }
    }

    /// Waits until the stream has told it.
    async fn sees(&mut self, holds: impl Fn(&Event) -> bool) {
        told(&mut self.stream, &mut self.subscriber, holds).await;
    }

    async fn sees_sealed(&mut self, place: &Place) {
        self.sees(|event| {
            matches!(event, Event::WorkspaceSealed { workspace }
                if workspace.id.as_str() == place.workspace)
        })
        .await;
    }

    async fn sees_failed(&mut self, place: &Place) {
        self.sees(|event| {
            matches!(event, Event::WorkspaceFailed { workspace }
                if workspace.id.as_str() == place.workspace)
        })
        .await;
    }

    async fn sees_gone(&mut self, place: &Place) {
        self.sees(|event| {
            matches!(event, Event::WorkspaceGone { workspace }
                if workspace.id.as_str() == place.workspace)
        })
        .await;
    }

    async fn sees_purged(&mut self, id: &str) {
        self.sees(
            |event| matches!(event, Event::SessionPurged { session } if session.id.as_str() == id),
        )
        .await;
    }
}

#[tokio::test]
async fn a_dirty_worktree_stays_is_told_as_failed_and_goes_by_force_from_the_other_machine() {
    let Some(world) = World::start().await else { return };
    let place = Place::make(&world, &["notes.txt"]).await;
    let path = format!("/v1/sessions/{}", place.session);
    // What the host has seen in it, the other machine says before it deletes.
    world
        .a
        .until(&format!("/v1/workspaces/{}", place.workspace), "it is reported", |workspace| {
            workspace["extra"]["git_state"] == "uncommitted"
        })
        .await;
    let dry = world.a.ok("DELETE", &format!("{path}?dry_run=true"), None).await;
    assert_eq!(dry["workspace"]["id"], place.workspace);
    assert_eq!((&dry["git_state"], &dry["dry_run"]), (&json!("uncommitted"), &json!(true)));

    let (mut a, mut b) = (Watched::begin(&world.a).await, Watched::begin(&world.b).await);
    delete(&world.a, &place.session).await;
    a.sees_failed(&place).await;
    b.sees_failed(&place).await;
    assert!(place.folder.join("notes.txt").exists());
    let failed = world.a.get(&format!("/v1/workspaces/{}", place.workspace)).await;
    let error = failed["teardown"]["error"].as_str().unwrap();
    assert!(error.contains("1 untracked file (notes.txt)"), "{error}");

    let path = format!("/v1/workspaces/{}/teardown", place.workspace);
    world.a.ok("POST", &path, Some(json!({ "action": "force" }))).await;
    a.sees_gone(&place).await;
    b.sees_gone(&place).await;
    assert!(!place.folder.exists());
    assert_eq!(Place::listed(&world).await, json!([]));
    let expected = [(1, "failed".to_owned()), (2, "gone".to_owned())];
    assert_eq!(place.attempts(&world.a).await, expected);
}

#[tokio::test]
async fn a_host_that_is_killed_between_the_seal_and_its_outcome_ends_the_same_attempt_again() {
    let Some(mut world) = World::start().await else { return };
    let place = Place::make(&world, &[]).await;
    let mut a = Watched::begin(&world.a).await;
    // opencode is asked to remove the worktree, and does not get to it.
    world.real.signal("STOP");
    delete(&world.a, &place.session).await;
    a.sees_sealed(&place).await;
    let listen = world.b.quic();
    let (spare, more) = (world.dir.path().join("spare"), ["--undo-window", UNDO_WINDOW]);
    std::mem::replace(&mut world.b, Daemon::start(&spare, "spare", &more)).kill();
    assert!(place.folder.exists());
    world.real.signal("CONT");
    world.b = world.start_b(&listen);
    a.sees_gone(&place).await;
    a.sees_purged(&place.session).await;
    assert!(!place.folder.exists());
    assert_eq!(Place::listed(&world).await, json!([]));
    assert_eq!(place.attempts(&world.a).await, [(1, "gone".to_owned())]);
}

#[tokio::test]
async fn an_opencode_that_is_killed_while_it_removes_a_workspace_is_told_of_and_asked_again() {
    let Some(mut world) = World::start().await else { return };
    let place = Place::make(&world, &[]).await;
    let mut a = Watched::begin(&world.a).await;
    world.real.signal("STOP");
    delete(&world.a, &place.session).await;
    a.sees_sealed(&place).await;
    world.real.kill();
    a.sees_failed(&place).await;
    let failed = world.a.get(&format!("/v1/workspaces/{}", place.workspace)).await;
    let error = failed["teardown"]["error"].as_str().unwrap();
    assert!(error.contains("opencode did not remove it"), "{error}");
    assert!(place.folder.exists());
    world.real.start_again().await;
    let path = format!("/v1/workspaces/{}/teardown", place.workspace);
    world.a.ok("POST", &path, Some(json!({ "action": "retry" }))).await;
    a.sees_gone(&place).await;
    a.sees_purged(&place.session).await;
    assert!(!place.folder.exists());
    assert_eq!(Place::listed(&world).await, json!([]));
}

#[tokio::test]
async fn an_opencode_that_is_killed_among_deletes_carries_the_rest_out_when_it_is_back() {
    let Some(mut world) = World::start().await else { return };
    let mut doomed = Vec::new();
    for number in 0..8 {
        doomed.push(world.create(&format!("doomed {number}")).await);
    }
    for id in &doomed {
        until(&world.a, id, Some("live")).await;
    }
    let mut a = Watched::begin(&world.a).await;
    let mut receipts = Vec::new();
    for id in &doomed {
        receipts.push(delete(&world.a, id).await["receipt"].as_str().unwrap().to_owned());
    }
    a.sees(|event| matches!(event, Event::SessionPurged { .. })).await;
    world.real.kill();
    world.real.start_again().await;
    // Killed again, before anyone need have heard of what it has just made.
    let late = world.create("late").await;
    world.real.kill();
    world.real.start_again().await;
    for id in &doomed {
        a.sees_purged(id).await;
        assert!(!world.is_there(id).await);
    }
    until(&world.a, &late, Some("live")).await;
    for receipt in receipts {
        let path = format!("/v1/receipts/{receipt}?wait=30s");
        let told = world.a.get(&path).await;
        assert_eq!(told["complete"], true, "{told}");
        assert_eq!(told["sessions"][0]["agent"], "done");
    }
}

#[tokio::test]
async fn of_two_developers_who_each_delete_one_of_the_last_two_sessions_both_see_it_all_end() {
    let Some(world) = World::start().await else { return };
    let place = Place::make(&world, &[]).await;
    let second = Place::enter(&world, &place.workspace, "second").await;
    let ticket = world.a.invite().await;
    let more = ["--undo-window", UNDO_WINDOW, "--join", &ticket];
    let c = Daemon::start(&world.dir.path().join("c"), "c", &more);
    linked(&[&world.a, &world.b, &c]).await;
    for daemon in [&world.a, &c] {
        until(daemon, &second, Some("live")).await;
    }
    let mut machines = Vec::new();
    for daemon in [&world.a, &world.b, &c] {
        machines.push(Watched::begin(daemon).await);
    }
    tokio::join!(delete(&world.a, &place.session), delete(&c, &second));
    for machine in &mut machines {
        for id in [&place.session, &second] {
            machine
                .sees(|event| {
                    matches!(event, Event::SessionDeleted { session, .. }
                        if session.id.as_str() == *id)
                })
                .await;
        }
        machine.sees_gone(&place).await;
        machine.sees_purged(&place.session).await;
        machine.sees_purged(&second).await;
    }
    assert!(!place.folder.exists());
    assert_eq!(Place::listed(&world).await, json!([]));
    for id in [&place.session, &second] {
        assert!(!world.is_there(id).await);
    }
    // What opencode does from now on shows on both.
    let created = world.create("after").await;
    for machine in &mut machines {
        machine
            .sees(|event| {
                matches!(event, Event::SessionCreated { session } if session.id.as_str() == created)
            })
            .await;
    }
}
