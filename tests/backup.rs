//! A host of which an old copy of the store was put in place does nothing that can't be undone before
//! it has met another machine of the fleet, or waited long enough.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::time::Duration;

use common::{
    disk::Disk,
    scene::{LEFT, RIGHT, Scene, THIRD, room},
    world::{START_GRACE, UNDO_WINDOW, World},
};
use sessionmesh::replica::{
    command::{Command, NewSession, Target},
    effect::TeardownOutcome,
    machine::Holding,
    record::{Role, SessionState, TeardownAction, WorkspaceState},
};

/// Longer than anything waits that nobody holds back.
const LONG: Duration = Duration::from_secs(60);

/// A host on which `s`, the only session of `w`, was deleted, and its disk as it then was.
fn deleted() -> (Scene, Disk) {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["s", "other"]);
    scene.move_out("other");
    scene.delete("s");
    scene.world.agree();
    let backup = scene.world.nodes[LEFT].disk.clone();
    (scene, backup)
}

fn holding(scene: &Scene) -> Option<(u64, u64)> {
    let held = scene.world.nodes[LEFT].replica.holding(scene.world.now_at(LEFT));
    held.map(|Holding { sessions, workspaces, left }| {
        assert!(left <= START_GRACE, "{left:?}");
        (sessions, workspaces)
    })
}

fn state(scene: &Scene, id: &str) -> Option<SessionState> {
    scene.world.session(LEFT, LEFT, id).map(|session| session.state)
}

fn workspace_state(scene: &Scene) -> Option<WorkspaceState> {
    scene.world.workspace(LEFT, LEFT, "w").map(|workspace| workspace.state)
}

/// The backup was taken inside the undo window, the restore acknowledged and live on every machine; the
/// disk was replaced, no peer could be reached for as long as the window, and the host purged the session
/// and removed its worktree: the peers lost both on contact.
#[test]
fn what_was_restored_after_a_backup_is_not_purged_by_the_host_that_was_put_back() {
    let (mut scene, backup) = deleted();
    scene.restore("s");
    scene.world.agree();
    scene.session_is("s", SessionState::Live);
    scene.world.part();
    scene.world.put_back(LEFT, backup);
    scene.world.pass(LONG);
    assert_eq!(state(&scene, "s"), Some(SessionState::Deleted), "it does not know better");
    assert_eq!(workspace_state(&scene), Some(WorkspaceState::Vacated));
    assert_eq!(holding(&scene), Some((1, 1)), "and says that it waits");
    scene.world.plug_all();
    scene.world.agree();
    assert_eq!(holding(&scene), None);
    scene.world.pass(LONG);
    scene.world.agree();
    scene.session_is("s", SessionState::Live);
    scene.workspace_is("w", WorkspaceState::Live, 1);
}

#[test]
fn what_was_pending_is_carried_out_once_a_peer_that_knows_no_better_is_met() {
    let (mut scene, _) = deleted();
    scene.world.part();
    scene.world.crash(LEFT, usize::MAX);
    scene.world.pass(LONG);
    assert_eq!(state(&scene, "s"), Some(SessionState::Deleted));
    scene.world.plug(LEFT, THIRD);
    scene.world.agree();
    scene.world.pass(Duration::from_secs(1));
    assert_eq!(state(&scene, "s"), None, "its window is long over");
    assert_eq!(workspace_state(&scene), Some(WorkspaceState::Sealed));
}

#[test]
fn a_host_that_meets_a_peer_at_once_waits_no_longer_than_before() {
    let (mut scene, _) = deleted();
    scene.world.crash(LEFT, usize::MAX);
    scene.world.pass(UNDO_WINDOW);
    scene.world.agree();
    assert_eq!(state(&scene, "s"), None);
    assert_eq!(workspace_state(&scene), Some(WorkspaceState::Sealed));
}

#[test]
fn a_host_that_meets_nobody_waits_its_time_and_no_longer() {
    let (mut scene, _) = deleted();
    scene.world.part();
    scene.world.crash(LEFT, usize::MAX);
    scene.world.pass(START_GRACE - LONG);
    assert_eq!(holding(&scene), Some((1, 1)));
    assert_eq!(state(&scene, "s"), Some(SessionState::Deleted));
    scene.world.pass(LONG);
    assert_eq!(holding(&scene), None);
    assert_eq!(state(&scene, "s"), None);
    assert_eq!(workspace_state(&scene), Some(WorkspaceState::Sealed));
}

#[test]
fn what_is_deleted_after_the_start_waits_for_nobody() {
    let (mut scene, _) = deleted();
    scene.world.part();
    scene.world.crash(LEFT, usize::MAX);
    scene.delete("other");
    // What was pending is done again by someone here who knows what they do.
    scene.restore("s");
    assert_eq!(holding(&scene), None);
    scene.delete("s");
    scene.world.pass(UNDO_WINDOW);
    assert_eq!((state(&scene, "s"), state(&scene, "other")), (None, None));
    assert_eq!(workspace_state(&scene), Some(WorkspaceState::Sealed));
}

#[test]
fn a_teardown_that_was_under_way_is_not_begun_again_around_what_has_come_since() {
    let (mut scene, _) = deleted();
    scene.pass_undo_window();
    scene.world.agree();
    let due = scene.world.nodes[LEFT].teardowns.pop().expect("a teardown");
    let backup = scene.world.nodes[LEFT].disk.clone();
    scene.world.end_teardown(LEFT, due, TeardownOutcome::Gone);
    scene.world.agree();
    scene.world.part();
    scene.world.put_back(LEFT, backup);
    scene.world.pass(LONG);
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 0, "something else may be there by now");
    assert_eq!(holding(&scene), Some((0, 1)));
    scene.world.plug_all();
    scene.world.agree();
    scene.world.pass(LONG);
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 0, "it is gone");
    assert_eq!(workspace_state(&scene), None);
}

#[test]
fn a_teardown_that_someone_asks_for_after_the_start_waits_for_nobody() {
    let (mut scene, _) = deleted();
    scene.pass_undo_window();
    scene.world.agree();
    let due = scene.world.nodes[LEFT].teardowns.pop().expect("a teardown");
    scene.world.end_teardown(LEFT, due, TeardownOutcome::Failed("in use".to_owned()));
    scene.world.part();
    scene.world.crash(LEFT, usize::MAX);
    assert_eq!(holding(&scene), None, "nothing is to be done about a failed one");
    scene.ask(Command::Teardown(Target::new("w".parse().unwrap()), TeardownAction::Retry));
    let again = scene.world.nodes[LEFT].teardowns.pop().expect("it was asked for");
    // The host was killed over it.
    assert_eq!(again.incarnation, 2);
    scene.world.crash(LEFT, usize::MAX);
    assert_eq!(scene.world.nodes[LEFT].teardowns.len(), 0);
    assert_eq!(holding(&scene), Some((0, 1)));
}

#[test]
fn a_host_that_is_alone_waits_for_nobody() {
    let mut world = World::strangers(1, 1);
    let id = "s".parse().unwrap();
    world
        .ask(LEFT, Command::CreateSession(NewSession { id: Some(id), ..Default::default() }))
        .unwrap();
    let session = Target::new("s".parse().unwrap());
    world.ask(LEFT, Command::DeleteSession { session, dry_run: false }).unwrap();
    world.crash(LEFT, usize::MAX);
    assert_eq!(world.nodes[LEFT].replica.holding(world.now_at(LEFT)), None);
    world.pass(UNDO_WINDOW);
    assert_eq!(world.session(LEFT, LEFT, "s"), None);
}

/// Whatever it holds, nothing is taken from it.
#[test]
fn nobody_waits_for_a_reader_nor_goes_on_by_its_word() {
    for (third, is_enough) in [(Role::Reader, true), (Role::Member, false)] {
        let mut world = World::strangers(3, 1);
        world.join(RIGHT, LEFT, Role::Reader);
        world.join(THIRD, LEFT, third);
        world.plug(LEFT, RIGHT);
        world.agree();
        world.cut(LEFT, THIRD);
        let new = NewSession { id: Some("s".parse().unwrap()), ..Default::default() };
        world.ask(LEFT, Command::CreateSession(new)).unwrap();
        let session = Target::new("s".parse().unwrap());
        world.ask(LEFT, Command::DeleteSession { session, dry_run: false }).unwrap();
        world.crash(LEFT, usize::MAX);
        world.agree();
        world.pass(LONG);
        assert_eq!(world.session(LEFT, LEFT, "s").is_none(), is_enough);
    }
}
