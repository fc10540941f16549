//! What a host alone carries out: purging, sealing, tearing down; and when it must not.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::time::Duration;

use common::{
    scene::{LEFT, RIGHT, Scene, room},
    world::{Mode, UNDO_WINDOW},
};
use sessionmesh::replica::{
    command::{Command, Target},
    effect::{TeardownDue, TeardownOutcome},
    record::{SessionState, TeardownAction, WorkspaceState},
};

const HALF: Duration = Duration::from_secs(6);

/// A workspace `w`, sealed, whose teardown was asked for.
fn sealed() -> (Scene, TeardownDue) {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["s"]);
    scene.delete("s");
    scene.pass_undo_window();
    scene.world.agree();
    let due = scene.world.nodes[LEFT].teardowns.pop().expect("a teardown");
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 0, "asked for once");
    (scene, due)
}

fn fail(scene: &mut Scene, due: TeardownDue) {
    let outcome = TeardownOutcome::Failed("in use".to_owned());
    scene.world.end_teardown(LEFT, due, outcome);
    scene.world.agree();
}

fn go_on(scene: &mut Scene, at: usize, action: TeardownAction) {
    scene.at = at;
    scene.ask(Command::Teardown(Target::new("w".parse().unwrap()), action));
    scene.world.agree();
}

#[test]
fn a_teardown_that_a_crash_cut_off_runs_again_with_the_same_incarnation() {
    let (mut scene, due) = sealed();
    scene.world.crash(LEFT, 0);
    scene.world.agree();
    let again = scene.world.nodes[LEFT].teardowns.pop().expect("a teardown");
    assert_eq!((again.incarnation, due.incarnation), (1, 1));
    scene.world.end_teardown(LEFT, again, TeardownOutcome::Gone);
    scene.world.agree();
    (0..3).for_each(|node| assert_eq!(scene.world.workspace(node, LEFT, "w"), None));
}

#[test]
fn a_failed_teardown_runs_again_when_someone_anywhere_asks_for_it() {
    let (mut scene, due) = sealed();
    fail(&mut scene, due);
    scene.workspace_is("w", WorkspaceState::Failed, 0);
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 0, "not by itself");
    go_on(&mut scene, RIGHT, TeardownAction::Force);
    scene.workspace_is("w", WorkspaceState::Sealed, 0);
    let due = scene.world.nodes[LEFT].teardowns.pop().expect("a teardown");
    assert_eq!((due.incarnation, due.action), (2, TeardownAction::Force));
    fail(&mut scene, due);
    // What was asked for once is not done twice.
    scene.world.crash(LEFT, 0);
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 0);
    go_on(&mut scene, RIGHT, TeardownAction::Retry);
    let due = scene.world.nodes[LEFT].teardowns.pop().expect("a teardown");
    assert_eq!((due.incarnation, due.action), (3, TeardownAction::Retry));
}

#[test]
fn nothing_is_torn_down_around_a_session_that_the_host_knows_to_be_alive() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["s"]);
    scene.delete("s");
    scene.world.agree();
    scene.world.part();
    scene.at = RIGHT;
    scene.create("s2", "w");
    scene.pass_undo_window();
    let due = scene.world.nodes[LEFT].teardowns.pop().expect("a teardown");
    scene.world.plug_all();
    scene.world.agree();
    scene.session_is("s2", SessionState::Stranded);
    fail(&mut scene, due);
    go_on(&mut scene, LEFT, TeardownAction::Retry);
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 0, "s2 is in it");
    scene.world.crash(LEFT, 0);
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 0, "s2 is in it");
    scene.world.agree();
    scene.at = RIGHT;
    scene.move_out("s2");
    scene.world.agree();
    scene.session_is("s2", SessionState::Live);
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 1, "now it is empty");
}

/// While the seal became durable, a session arrived that another node had put into the workspace: it was
/// torn down around that.
#[test]
fn a_session_that_comes_while_the_seal_becomes_durable_puts_the_teardown_off() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["s"]);
    scene.delete("s");
    scene.world.agree();
    scene.world.part();
    scene.at = RIGHT;
    scene.create("s2", "w");
    scene.world.disks = Mode::Held;
    scene.pass_undo_window();
    assert!(scene.world.unsynced(LEFT) > 0, "the seal is not durable");
    // Only what peers say goes on meanwhile.
    scene.world.plug(LEFT, RIGHT);
    scene.world.deliver();
    assert_eq!(
        scene.world.session(LEFT, LEFT, "s2").map(|s| s.state),
        Some(SessionState::Stranded)
    );
    scene.world.disks = Mode::Prompt;
    scene.world.plug_all();
    scene.world.agree();
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 0, "s2 is in it");
    scene.workspace_is("w", WorkspaceState::Sealed, 1);
    scene.move_out("s2");
    scene.world.agree();
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 1, "now it is empty");
}

/// The session came after the daemon had taken the teardown up, and while that waited for its turn.
#[test]
fn a_teardown_that_was_put_off_is_asked_for_again_once_nobody_is_in_the_workspace() {
    let (mut scene, due) = sealed();
    scene.world.end_teardown(LEFT, due.clone(), TeardownOutcome::PutOff);
    let again = scene.world.nodes[LEFT].teardowns.pop().expect("nobody is in it");
    assert_eq!(again, due);
    // Said of another attempt, it means nothing.
    let stale = TeardownDue { incarnation: 7, ..due };
    scene.world.end_teardown(LEFT, stale, TeardownOutcome::PutOff);
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 0, "it is under way");
}

#[test]
fn an_outcome_that_nobody_waits_for_changes_nothing() {
    let (mut scene, due) = sealed();
    let stale = TeardownDue { incarnation: 7, ..due };
    scene.world.end_teardown(LEFT, stale, TeardownOutcome::Gone);
    scene.world.agree();
    scene.workspace_is("w", WorkspaceState::Sealed, 0);
}

/// The host learned of both deletes and of the restore between them at once: the session had been
/// deleted before and was deleted after, and its window ran on from the first.
#[test]
fn a_delete_after_a_restore_has_an_undo_window_of_its_own() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["s"]);
    scene.delete("s");
    scene.world.agree();
    scene.world.part();
    scene.world.pass(HALF);
    scene.at = RIGHT;
    scene.restore("s");
    scene.delete("s");
    scene.world.plug_all();
    scene.world.agree();
    scene.world.pass(HALF);
    scene.world.agree();
    // Neither is it purged, nor its workspace sealed.
    scene.restore("s");
    scene.world.agree();
    scene.session_is("s", SessionState::Live);
    scene.workspace_is("w", WorkspaceState::Live, 1);
}

#[test]
fn children_go_with_the_parent_that_was_deleted_and_not_before_it() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["p"]);
    scene.create_child("c", "p", "w");
    scene.delete("p");
    scene.world.agree();
    scene.world.part();
    scene.world.pass(HALF);
    scene.at = RIGHT;
    scene.restore("p");
    scene.delete("p");
    scene.world.plug_all();
    scene.world.agree();
    scene.world.pass(HALF);
    scene.restore("p");
    scene.world.agree();
    scene.session_is("c", SessionState::Live);
    scene.delete("p");
    scene.pass_undo_window();
    scene.world.agree();
    for node in 0..3 {
        assert_eq!(scene.world.session(node, LEFT, "p"), None);
        assert_eq!(scene.world.session(node, LEFT, "c"), None);
    }
}

#[test]
fn a_child_that_arrives_after_its_parent_was_purged_is_purged_too() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["p", "other"]);
    scene.delete("p");
    scene.world.agree();
    scene.restore("p");
    scene.world.agree();
    scene.world.part();
    scene.at = RIGHT;
    scene.create_child("c", "p", "w");
    scene.create_child("g", "c", "w");
    scene.at = LEFT;
    scene.delete("p");
    scene.pass_undo_window();
    scene.world.plug_all();
    scene.world.agree();
    scene.session_is("c", SessionState::Deleted);
    scene.session_is("g", SessionState::Deleted);
    scene.pass_undo_window();
    scene.world.agree();
    for node in 0..3 {
        assert_eq!(scene.world.session(node, LEFT, "c"), None);
        assert_eq!(scene.world.session(node, LEFT, "g"), None);
    }
    scene.workspace_is("w", WorkspaceState::Live, 1);
}

#[test]
fn a_restart_gives_what_is_deleted_its_whole_undo_window_again() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["s"]);
    scene.delete("s");
    scene.world.pass(HALF);
    scene.world.crash(LEFT, usize::MAX);
    scene.world.pass(HALF);
    scene.world.agree();
    scene.session_is("s", SessionState::Deleted);
    scene.world.pass(UNDO_WINDOW);
    scene.world.agree();
    assert_eq!(scene.world.session(RIGHT, LEFT, "s"), None);
}
