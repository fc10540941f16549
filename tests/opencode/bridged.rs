//! What happens in opencode shows on every machine, and what is deleted on any happens in opencode.

use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use super::world::{ENDED, GONE, Place, UNDO_WINDOW, World, delete, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_made_or_deleted_in_opencode_is_told_on_both_machines() {
    let Some(world) = World::start().await else { return };
    let parent = world.create("parent").await;
    let child = world.create("child").await;
    let path = format!("/session/{child}?{}", world.real.here());
    world.real.send(Method::PATCH, &path, json!({ "title": "renamed" })).await;
    for daemon in [&world.a, world.b()] {
        let path = format!("/v1/sessions/{child}");
        daemon.until(&path, "it is renamed", |session| session["title"] == "renamed").await;
    }
    // No event of opencode's tells of a workspace in which no session was made yet.
    let path = format!("/experimental/workspace?{}", world.real.here());
    let body = json!({ "type": "worktree", "branch": null });
    let made = world.real.send(Method::POST, &path, body).await;
    let workspace = made["id"].as_str().unwrap();
    world.tell(workspace, &GONE[..1], Instant::now()).await;
    let path = format!("/experimental/workspace/{workspace}?{}", world.real.here());
    world.real.send(Method::DELETE, &path, Value::Null).await;
    let removed = Instant::now();
    world.delete_there(&parent).await;
    world.tell(&parent, &ENDED[..2], Instant::now()).await;
    world.tell(workspace, &GONE[..2], removed).await;
    world.tell(&parent, &ENDED, Instant::now() + UNDO_WINDOW).await;
    world.tell(workspace, &GONE, Instant::now() + UNDO_WINDOW).await;
    world.have_told(&child, &["session.created"]).await;
    until(&world.a, &child, Some("live")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_deleted_on_another_machine_is_gone_from_opencode_unless_it_is_undone() {
    let Some(world) = World::start().await else { return };
    let (doomed, spared) = (world.create("doomed").await, world.create("spared").await);
    let (undo, _) = delete(&world.a, &spared).await;
    let (_, deleted) = delete(&world.a, &doomed).await;
    world.tell(&doomed, &ENDED[..2], deleted).await;
    let path = format!("/v1/operations/{}/restore", undo["operation"].as_str().unwrap());
    world.a.ok("POST", &path, None).await;
    let restored = ["session.created", "session.deleted", "session.restored"];
    world.tell(&spared, &restored, Instant::now()).await;
    world.tell(&doomed, &ENDED, deleted + UNDO_WINDOW).await;
    assert!(!world.is_there(&doomed).await);
    assert!(world.is_there(&spared).await);
    until(&world.a, &spared, Some("live")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn deletes_on_both_sides_of_a_cut_link_are_carried_out_on_both() {
    let Some(world) = World::start().await else { return };
    let (by_a, by_b, kept) =
        (world.create("a").await, world.create("b").await, world.create("kept").await);
    let peer = format!("/v1/peers/{}", world.b().node());
    world.a.ok("POST", &format!("{peer}/pause"), None).await;
    let (_, deleted) = delete(&world.a, &by_a).await;
    world.on_a.tells(&by_a, &ENDED[..2], deleted).await;
    world.delete_there(&by_b).await;
    world.on_b.tells(&by_b, &ENDED[..2], Instant::now()).await;
    world.on_b.tells(&by_b, &ENDED, Instant::now() + UNDO_WINDOW).await;
    assert!(world.is_there(&by_a).await, "B can't know of it yet");
    world.a.ok("POST", &format!("{peer}/resume"), None).await;
    let resumed = Instant::now();
    world.on_b.tells(&by_a, &ENDED[..2], resumed).await;
    // By now it is gone for good where it was, and so it goes at once where nobody knew.
    world.on_a.tells(&by_b, &[ENDED[0], ENDED[2]], resumed).await;
    world.tell(&by_a, &ENDED, resumed + UNDO_WINDOW).await;
    assert!(!world.is_there(&by_a).await);
    for daemon in [&world.a, world.b()] {
        until(daemon, &kept, Some("live")).await;
    }
    world.have_told(&kept, &["session.created"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_deleted_while_opencode_is_down_does_not_come_back_with_it() {
    let Some(mut world) = World::start().await else { return };
    let (doomed, kept) = (world.create("doomed").await, world.create("kept").await);
    world.real.kill();
    let failed = |status: &Value| status["agents"][0]["state"] == "failed";
    world.b().until("/v1/status", "it is told", failed).await;
    let (_, deleted) = delete(&world.a, &doomed).await;
    world.tell(&doomed, &ENDED[..2], deleted).await;
    // It comes back only to be killed before it has done much, and comes back.
    world.real.start_again().await;
    world.real.kill();
    world.real.start_again().await;
    world.tell(&doomed, &ENDED, Instant::now().max(deleted + UNDO_WINDOW)).await;
    assert!(!world.is_there(&doomed).await);
    assert!(world.is_there(&kept).await);
    until(&world.a, &kept, Some("live")).await;
    world.have_told(&kept, &["session.created"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_created_within_the_undo_window_brings_its_workspace_back() {
    let Some(world) = World::start().await else { return };
    let place = Place::make(&world, &[]).await;
    let (answer, deleted) = delete(&world.a, &place.session).await;
    assert_eq!(answer["workspace_vacated"], true);
    world.tell(&place.workspace, &GONE[..2], deleted).await;
    let second = Place::enter(&world, &place.workspace, "second").await;
    let created = Instant::now();
    world.tell(&second, &["session.created"], created).await;
    let restored = ["workspace.created", "workspace.removed", "workspace.restored"];
    world.tell(&place.workspace, &restored, created).await;
    world.tell(&place.session, &ENDED, deleted + UNDO_WINDOW).await;
    assert!(!world.is_there(&place.session).await);
    until(&world.a, &second, Some("live")).await;
    let seen = world.a.get(&format!("/v1/workspaces/{}", place.workspace)).await;
    assert_eq!((&seen["state"], &seen["session_count"]), (&json!("live"), &json!(1)));
    world.have_told(&place.workspace, &restored).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_delete_of_the_last_session_takes_the_worktree_and_its_row_in_opencode_along() {
    let Some(world) = World::start().await else { return };
    let place = Place::make(&world, &[]).await;
    assert_eq!(Place::listed(&world).await.as_array().unwrap().len(), 1);
    assert!(place.folder.exists() && !place.is_forgotten_by_git(&world));

    let (answer, deleted) = delete(&world.a, &place.session).await;
    assert_eq!(answer["workspace_vacated"], true);
    world.tell(&place.session, &ENDED[..2], deleted).await;
    world.tell(&place.workspace, &GONE[..2], deleted).await;
    world.tell(&place.workspace, &GONE[..3], deleted + UNDO_WINDOW).await;
    let removed = place.until_removed(&world).await;
    world.tell(&place.workspace, &GONE, removed).await;
    world.tell(&place.session, &ENDED, deleted + UNDO_WINDOW).await;
    assert!(place.is_forgotten_by_git(&world));
    assert!(!world.is_there(&place.session).await);
    for daemon in [&world.a, world.b()] {
        daemon
            .until("/v1/workspaces?state=all", "the workspace is gone", |list| {
                list["workspaces"].as_array().unwrap().is_empty()
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_host_that_is_killed_between_a_delete_and_its_end_goes_on_where_it_was() {
    let Some(mut world) = World::start().await else { return };
    let (doomed, there, kept) =
        (world.create("doomed").await, world.create("there").await, world.create("kept").await);
    let (_, deleted) = delete(&world.a, &doomed).await;
    world.tell(&doomed, &ENDED[..2], deleted).await;
    world.is_durable_on_b().await;
    world.kill_b();
    world.delete_there(&there).await;
    let late = world.create_there("late").await;
    world.start_b();
    let back = Instant::now();
    world.tell(&there, &ENDED[..2], back).await;
    world.tell(&late, &["session.created"], back).await;
    // The undo window begins anew with the start.
    world.tell(&doomed, &ENDED, back + UNDO_WINDOW).await;
    world.tell(&there, &ENDED, back + UNDO_WINDOW).await;
    assert!(!world.is_there(&doomed).await);
    for id in [&late, &kept] {
        until(&world.a, id, Some("live")).await;
        assert!(world.is_there(id).await);
        world.have_told(id, &["session.created"]).await;
    }
}
