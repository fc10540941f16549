//! Kills a real opencode server in the middle of everything that is done with it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    ended::FAILED_THEN_GONE,
    world::{ENDED, GONE, Place, UNDO_WINDOW, World, delete, until},
};

/// What is told of a workspace that is ended at the third attempt.
const AT_THE_THIRD: [&str; 8] = [
    "workspace.created",
    "workspace.removed",
    "workspace.sealed",
    "workspace.failed",
    "workspace.sealed",
    "workspace.failed",
    "workspace.sealed",
    "workspace.gone",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_opencode_made_or_deleted_just_before_it_was_killed_is_told_when_it_is_back() {
    let Some(mut world) = World::start().await else { return };
    let (gone, kept) = (world.create("gone").await, world.create("kept").await);
    let late = world.create_there("late").await;
    world.delete_there(&gone).await;
    // Before anyone need have heard of either.
    world.real.kill();
    world.real.start_again().await;
    let back = Instant::now();
    world.tell(&late, &["session.created"], back).await;
    world.tell(&gone, &ENDED[..2], back).await;
    world.tell(&gone, &ENDED, back + UNDO_WINDOW).await;
    for id in [&late, &kept] {
        world.have_told(id, &["session.created"]).await;
        until(&world.a, id, Some("live")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_opencode_that_is_killed_among_deletes_carries_the_rest_out_when_it_is_back() {
    let Some(mut world) = World::start().await else { return };
    let mut doomed = Vec::new();
    for number in 0..8 {
        doomed.push(world.create_there(&format!("doomed {number}")).await);
    }
    for id in &doomed {
        world.tell(id, &["session.created"], Instant::now()).await;
    }
    let mut receipts = Vec::new();
    for id in &doomed {
        let (answer, _) = delete(&world.a, id).await;
        receipts.push(answer["receipt"].as_str().unwrap().to_owned());
    }
    world.on_a.has_told(&doomed[0], &ENDED).await;
    world.real.kill();
    world.real.start_again().await;
    for id in &doomed {
        world.have_told(id, &ENDED).await;
        assert!(!world.is_there(id).await);
    }
    for receipt in receipts {
        let path = format!("/v1/receipts/{receipt}?wait=30s");
        let told = world.a.get(&path).await;
        assert_eq!(told["complete"], true, "{told}");
        assert_eq!(told["sessions"][0]["agent"], "done");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn deletes_on_both_sides_of_a_cut_link_outlive_an_opencode_that_is_killed_before_they_meet() {
    let Some(mut world) = World::start().await else { return };
    let (by_a, by_b, kept) =
        (world.create("a").await, world.create("b").await, world.create("kept").await);
    let peer = format!("/v1/peers/{}", world.b().node());
    world.a.ok("POST", &format!("{peer}/pause"), None).await;
    let (_, deleted) = delete(&world.a, &by_a).await;
    world.on_a.tells(&by_a, &ENDED[..2], deleted).await;
    world.delete_there(&by_b).await;
    world.real.kill();
    world.a.ok("POST", &format!("{peer}/resume"), None).await;
    world.tell(&by_a, &ENDED[..2], Instant::now()).await;
    world.real.start_again().await;
    let back = Instant::now();
    world.tell(&by_b, &ENDED[..2], back).await;
    world.tell(&by_b, &ENDED, back + UNDO_WINDOW).await;
    world.tell(&by_a, &ENDED, back + UNDO_WINDOW).await;
    assert!(!world.is_there(&by_a).await && !world.is_there(&by_b).await);
    assert!(world.is_there(&kept).await);
    world.have_told(&kept, &["session.created"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_created_just_before_opencode_was_killed_brings_its_workspace_back() {
    // Longer than opencode needs to come back.
    let Some(mut world) = World::start_with(Duration::from_secs(60)).await else { return };
    let place = Place::make(&world, &[]).await;
    let (_, deleted) = delete(&world.a, &place.session).await;
    world.tell(&place.workspace, &GONE[..2], deleted).await;
    let second = Place::enter(&world, &place.workspace, "second").await;
    world.real.kill();
    world.real.start_again().await;
    let back = Instant::now();
    world.tell(&second, &["session.created"], back).await;
    let restored = ["workspace.created", "workspace.removed", "workspace.restored"];
    world.tell(&place.workspace, &restored, back).await;
    // Nothing was carried out meanwhile: what was deleted can still be restored.
    assert!(world.is_there(&place.session).await && place.folder.exists());
    world.have_told(&place.session, &ENDED[..2]).await;
    until(&world.a, &second, Some("live")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_that_opencode_kept_to_itself_until_after_the_seal_is_shown_and_its_files_can_be_had_back()
 {
    let Some(mut world) = World::start().await else { return };
    let place = Place::make(&world, &[]).await;
    let (_, deleted) = delete(&world.a, &place.session).await;
    world.tell(&place.workspace, &AT_THE_THIRD[..2], deleted).await;
    let second = Place::enter(&world, &place.workspace, "second").await;
    world.real.kill();
    // The undo window ends while nobody is there to be asked.
    world.have_told(&place.workspace, &AT_THE_THIRD[..4]).await;
    world.real.start_again().await;
    let back = Instant::now();
    world.tell(&second, &["session.created"], back).await;
    world.tell(&place.session, &ENDED, back).await;
    // A sealed workspace takes nobody in; its folder went to the trash before anybody could know of
    // this session, and can be had back from there.
    for daemon in [&world.a, world.b()] {
        until(daemon, &second, Some("live")).await;
    }
    place.go_on(&world.a, "retry").await;
    world.have_told(&place.workspace, &FAILED_THEN_GONE).await;
    let restore = format!("/v1/trash/{}/restore", place.workspace);
    world.b().ok("POST", &restore, Some(json!({}))).await;
    assert!(place.folder.exists());
    until(&world.a, &second, Some("live")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_opencode_that_is_killed_while_it_removes_a_workspace_is_told_of_and_asked_again() {
    let Some(mut world) = World::start().await else { return };
    let (c, on_c) = world.add("c").await;
    let place = Place::make(&world, &[]).await;
    let second = Place::enter(&world, &place.workspace, "second").await;
    on_c.has_told(&second, &["session.created"]).await;
    world.real.signal("STOP");
    let ((_, first_deleted), (_, second_deleted)) =
        tokio::join!(delete(&world.a, &place.session), delete(&c, &second));
    let deleted = first_deleted.max(second_deleted);
    for machine in [&world.on_a, &world.on_b, &on_c] {
        machine.tells(&place.workspace, &AT_THE_THIRD[..3], deleted + UNDO_WINDOW).await;
    }
    world.real.kill();
    let killed = Instant::now();
    for machine in [&world.on_a, &world.on_b, &on_c] {
        machine.tells(&place.workspace, &AT_THE_THIRD[..4], killed).await;
    }
    let error = place.error(&c).await;
    assert!(error.contains("opencode did not remove it"), "{error}");
    assert!(!place.folder.exists(), "it was moved to the trash before opencode was asked");
    world.real.start_again().await;
    place.go_on(&c, "retry").await;
    let chain = [&AT_THE_THIRD[..5], &GONE[3..]].concat();
    for machine in [&world.on_a, &world.on_b, &on_c] {
        machine.has_told(&place.workspace, &chain).await;
        machine.has_told(&place.session, &ENDED).await;
        machine.has_told(&second, &ENDED).await;
    }
    assert!(!place.folder.exists() && place.is_forgotten_by_git(&world));
    assert_eq!(Place::listed(&world).await, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_opencode_that_is_killed_at_the_seal_leaves_nothing_half_done() {
    let Some(mut world) = World::start().await else { return };
    let place = Place::make(&world, &[]).await;
    delete(&world.a, &place.session).await;
    world.on_b.has_told(&place.workspace, &GONE[..3]).await;
    // Wherever it is: it has begun to remove the worktree, or has not, or is done.
    world.real.kill();
    let outcome = ["workspace.failed", "workspace.gone"];
    let outcome = world.on_a.tells_any(&place.workspace, &outcome).await;
    world.real.start_again().await;
    if outcome == "workspace.failed" {
        place.go_on(&world.a, "retry").await;
        world.have_told(&place.workspace, &[&AT_THE_THIRD[..5], &GONE[3..]].concat()).await;
    } else {
        world.have_told(&place.workspace, &GONE).await;
    }
    world.have_told(&place.session, &ENDED).await;
    assert!(!place.folder.exists() && place.is_forgotten_by_git(&world));
    assert_eq!(Place::listed(&world).await, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_dirty_worktree_outlives_an_opencode_that_is_killed_while_it_is_forced() {
    let Some(mut world) = World::start().await else { return };
    let place = Place::make(&world, &["notes.txt"]).await;
    let (_, deleted) = delete(&world.a, &place.session).await;
    world.tell(&place.workspace, &AT_THE_THIRD[..4], deleted + UNDO_WINDOW).await;
    world.tell(&place.session, &ENDED, deleted + UNDO_WINDOW).await;
    world.real.signal("STOP");
    let forced = place.go_on(&world.a, "force").await;
    world.tell(&place.workspace, &AT_THE_THIRD[..5], forced).await;
    world.real.kill();
    world.tell(&place.workspace, &AT_THE_THIRD[..6], Instant::now()).await;
    let error = place.error(&world.a).await;
    assert!(error.contains("opencode did not remove it"), "{error}");
    // It lies in the trash before opencode is asked.
    assert!(!place.folder.exists());
    world.real.start_again().await;
    let forced = place.go_on(&world.a, "force").await;
    world.tell(&place.workspace, &AT_THE_THIRD[..7], forced).await;
    let removed = place.until_removed(&world).await;
    world.tell(&place.workspace, &AT_THE_THIRD, removed).await;
    assert!(place.is_forgotten_by_git(&world));
    let expected = [(1, "failed"), (2, "failed"), (3, "gone")];
    let expected = expected.map(|(incarnation, state)| (incarnation, state.to_owned()));
    assert_eq!(place.attempts(&world.a).await, expected);
}
