//! Ends the workspaces of a real opencode server, whoever asks and whoever is killed meanwhile.

use std::time::Instant;

use serde_json::json;

use super::world::{ENDED, GONE, Place, UNDO_WINDOW, World, delete};

/// What is told of a workspace whose first attempt fails and whose second one does not.
pub const FAILED_THEN_GONE: [&str; 6] = [
    "workspace.created",
    "workspace.removed",
    "workspace.sealed",
    "workspace.failed",
    "workspace.sealed",
    "workspace.gone",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
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

    let (_, deleted) = delete(&world.a, &place.session).await;
    world.tell(&place.workspace, &FAILED_THEN_GONE[..2], deleted).await;
    world.tell(&place.workspace, &FAILED_THEN_GONE[..4], deleted + UNDO_WINDOW).await;
    world.tell(&place.session, &ENDED, deleted + UNDO_WINDOW).await;
    assert!(place.folder.join("notes.txt").exists());
    let error = place.error(&world.a).await;
    assert!(error.contains("1 untracked file (notes.txt)"), "{error}");

    let forced = place.go_on(&world.a, "force").await;
    world.tell(&place.workspace, &FAILED_THEN_GONE[..5], forced).await;
    let removed = place.until_removed(&world).await;
    world.tell(&place.workspace, &FAILED_THEN_GONE, removed).await;
    assert!(place.is_forgotten_by_git(&world));
    let expected = [(1, "failed".to_owned()), (2, "gone".to_owned())];
    assert_eq!(place.attempts(&world.a).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_two_developers_who_each_delete_one_of_the_last_two_sessions_both_see_it_all_end() {
    let Some(world) = World::start().await else { return };
    let (c, on_c) = world.add("c").await;
    let place = Place::make(&world, &[]).await;
    let second = Place::enter(&world, &place.workspace, "second").await;
    let machines = [&world.on_a, &world.on_b, &on_c];
    let created = Instant::now();
    for machine in machines {
        machine.tells(&second, &["session.created"], created).await;
    }
    let ((_, first_deleted), (_, second_deleted)) =
        tokio::join!(delete(&world.a, &place.session), delete(&c, &second));
    let deleted = first_deleted.max(second_deleted);
    for machine in machines {
        machine.tells(&place.session, &ENDED[..2], first_deleted).await;
        machine.tells(&second, &ENDED[..2], second_deleted).await;
        machine.tells(&place.workspace, &GONE[..2], deleted).await;
        machine.tells(&place.workspace, &GONE[..3], deleted + UNDO_WINDOW).await;
    }
    let removed = place.until_removed(&world).await;
    for machine in machines {
        machine.tells(&place.workspace, &GONE, removed).await;
        machine.tells(&place.session, &ENDED, deleted + UNDO_WINDOW).await;
        machine.tells(&second, &ENDED, deleted + UNDO_WINDOW).await;
    }
    assert!(place.is_forgotten_by_git(&world));
    for id in [&place.session, &second] {
        assert!(!world.is_there(id).await);
    }
    // What opencode does from now on shows on all of them.
    let created = world.create("after").await;
    on_c.has_told(&created, &["session.created"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_host_that_is_killed_between_the_seal_and_its_outcome_ends_the_same_attempt_again() {
    let Some(mut world) = World::start().await else { return };
    let place = Place::make(&world, &[]).await;
    // opencode is asked to remove the worktree, and does not get to it.
    world.real.signal("STOP");
    let (_, deleted) = delete(&world.a, &place.session).await;
    world.tell(&place.workspace, &GONE[..3], deleted + UNDO_WINDOW).await;
    world.is_durable_on_b().await;
    world.kill_b();
    assert!(place.folder.exists());
    world.real.signal("CONT");
    world.start_b();
    place.until_removed(&world).await;
    world.have_told(&place.workspace, &GONE).await;
    world.have_told(&place.session, &ENDED).await;
    assert!(place.is_forgotten_by_git(&world));
    assert_eq!(place.attempts(&world.a).await, [(1, "gone".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_host_and_an_opencode_that_are_both_killed_after_the_seal_end_the_workspace_later() {
    let Some(mut world) = World::start().await else { return };
    let place = Place::make(&world, &[]).await;
    world.real.signal("STOP");
    let (_, deleted) = delete(&world.a, &place.session).await;
    world.tell(&place.workspace, &FAILED_THEN_GONE[..3], deleted + UNDO_WINDOW).await;
    world.is_durable_on_b().await;
    world.kill_b();
    world.real.kill();
    world.start_b();
    // The attempt is made again, and nobody is there to ask.
    world.tell(&place.workspace, &FAILED_THEN_GONE[..4], Instant::now()).await;
    // Its folder lies in the trash before opencode is asked.
    assert!(!place.folder.exists());
    world.real.start_again().await;
    place.go_on(&world.a, "retry").await;
    world.have_told(&place.workspace, &FAILED_THEN_GONE).await;
    world.have_told(&place.session, &ENDED).await;
    assert!(!place.folder.exists() && place.is_forgotten_by_git(&world));
    assert_eq!(Place::listed(&world).await, json!([]));
    let expected = [(1, "failed".to_owned()), (2, "gone".to_owned())];
    assert_eq!(place.attempts(&world.a).await, expected);
}
