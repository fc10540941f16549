//! Epochs of a life that its host does not know of any more, since an old copy of its store was put in
//! place.

use sessionmesh::replica::{
    command::{Command, Target},
    effect::TeardownOutcome,
    record::{
        SessionState::{Deleted, Live, Stranded},
        TeardownAction,
        WorkspaceState::{Failed, Sealed},
    },
};

use super::{
    all_hold_the_newest,
    common::{
        ends,
        scene::{LEFT, RIGHT, Scene, THIRD, room},
    },
    meet, rewrite, state, title,
};

/// A host was put back to a copy of its store from before it wrote its document anew, wrote on, and
/// met a peer. It went over to the epoch that the peer had of it, showed what it had written as
/// purged, and then as created again when it carried that over.
#[test]
fn a_host_that_was_put_back_to_before_its_epoch_shows_nothing_as_purged() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["a"]);
    scene.world.agree();
    let copy = scene.world.nodes[LEFT].disk.clone();
    rewrite(&mut scene);
    scene.rename("a", "in the lost life");
    scene.world.agree();
    scene.world.part();
    scene.world.nodes[LEFT].disk = copy;
    scene.world.crash(LEFT, 0);
    scene.create("new", "w");
    meet(&mut scene);
    all_hold_the_newest(&scene);
    scene.session_is("new", Live);
    for node in [LEFT, RIGHT, THIRD] {
        assert_eq!(title(&scene, node, "a").as_deref(), Some("in the lost life"));
        let events = &scene.world.nodes[node].watch.events;
        assert!(events.keys().all(|(event, _)| *event != "session.purged"), "{events:?}");
    }
}

/// A host was put back to a copy of its store, and wrote its document anew before it met a peer that
/// held an epoch of its lost life. Both epochs bore one number and neither could be let in; then the
/// one of the lost life was not one that was gone on from, and stayed where it was for good; then
/// what that one had taken over was to be taken over again.
#[test]
fn an_epoch_of_a_life_that_its_host_does_not_know_of_is_carried_over_whole() {
    for (lost, found) in [(1, 1), (2, 1), (1, 3)] {
        let mut scene = Scene::new(LEFT);
        room(&mut scene, &["kept", "deleted", "purged"]);
        scene.world.agree();
        let copy = scene.world.nodes[LEFT].disk.clone();
        scene.at = RIGHT;
        scene.delete("purged");
        scene.pass_undo_window();
        scene.delete("deleted");
        scene.world.agree();
        (0..lost).for_each(|_| rewrite(&mut scene));
        scene.create("new", "w");
        scene.world.agree();
        scene.world.part();
        scene.world.nodes[LEFT].disk = copy;
        scene.world.crash(LEFT, 0);
        (0..found).for_each(|_| rewrite(&mut scene));
        meet(&mut scene);
        all_hold_the_newest(&scene);
        scene.session_is("kept", Live);
        scene.session_is("deleted", Deleted);
        scene.session_is("new", Live);
        for node in [LEFT, RIGHT, THIRD] {
            assert_eq!(state(&scene, node, "purged"), None);
            let acknowledged = &scene.world.nodes[RIGHT].watch.acknowledged;
            ends::nothing_acknowledged_is_lost(&scene.world.nodes[node].replica, acknowledged);
        }
    }
}

/// A host lost by an old copy of its store that it had had a workspace and had sealed it, made it anew and
/// wrote its document anew before it met who knew. Of what was sealed nothing was carried over but its
/// fields, and it was live again.
#[test]
fn what_was_sealed_in_a_lost_life_stays_sealed_though_it_was_made_anew_in_another_epoch() {
    let mut scene = Scene::new(LEFT);
    scene.world.agree();
    let copy = scene.world.nodes[LEFT].disk.clone();
    room(&mut scene, &["old"]);
    scene.delete("old");
    scene.world.agree();
    scene.pass_undo_window();
    scene.world.agree();
    scene.workspace_is("w", Sealed, 0);
    scene.world.part();
    scene.world.nodes[LEFT].disk = copy;
    scene.world.crash(LEFT, 0);
    room(&mut scene, &["new"]);
    rewrite(&mut scene);
    meet(&mut scene);
    all_hold_the_newest(&scene);
    scene.workspace_is("w", Sealed, 1);
    scene.session_is("new", Stranded);
    scene.told("workspace.restored", "w", 0);
}

/// What both lives of a host had begun with comes with the epoch of the lost one as if it were new: what
/// was taken back since stays so.
#[test]
fn what_was_taken_back_is_not_given_again_by_the_epoch_of_a_lost_life() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["a"]);
    scene.set_keep("w", true);
    scene.world.agree();
    let copy = scene.world.nodes[LEFT].disk.clone();
    rewrite(&mut scene);
    scene.world.agree();
    scene.world.part();
    scene.world.nodes[LEFT].disk = copy;
    scene.world.crash(LEFT, 0);
    scene.set_keep("w", false);
    (0..3).for_each(|_| rewrite(&mut scene));
    meet(&mut scene);
    all_hold_the_newest(&scene);
    for node in [LEFT, RIGHT, THIRD] {
        let workspace = scene.world.workspace(node, LEFT, "w").expect("it is there");
        assert!(!workspace.keep, "{workspace:?}");
    }
}

/// That a worktree is to be removed though something would be lost was asked for in a lost life, of a
/// workspace that had failed to end there. It was made anew in another epoch since, and what is in its
/// place now is not what was meant, whether it has failed to end again or not yet.
#[test]
fn what_was_forced_in_a_lost_life_is_not_forced_on_what_was_made_anew() {
    for ends_again in [true, false] {
        let mut scene = Scene::new(LEFT);
        scene.world.agree();
        let copy = scene.world.nodes[LEFT].disk.clone();
        room(&mut scene, &["old"]);
        scene.delete("old");
        scene.pass_undo_window();
        fail(&mut scene);
        scene.world.agree();
        scene.workspace_is("w", Failed, 0);
        scene.world.part();
        scene.at = RIGHT;
        scene.ask(Command::Teardown(Target::new("w".parse().unwrap()), TeardownAction::Force));
        scene.world.nodes[LEFT].disk = copy;
        scene.world.crash(LEFT, 0);
        scene.at = LEFT;
        rewrite(&mut scene);
        room(&mut scene, &["new"]);
        if ends_again {
            scene.delete("new");
            scene.pass_undo_window();
            fail(&mut scene);
        }
        meet(&mut scene);
        all_hold_the_newest(&scene);
        if !ends_again {
            scene.session_is("new", Stranded);
            scene.at = RIGHT;
            scene.move_out("new");
            scene.world.agree();
        }
        scene.workspace_is("w", Failed, 0);
        assert!(scene.world.nodes[LEFT].teardowns.is_empty(), "nobody has asked for this one");
        scene.ask(Command::Teardown(Target::new("w".parse().unwrap()), TeardownAction::Retry));
        scene.world.agree();
        let due = scene.world.nodes[LEFT].teardowns.pop().expect("it was asked for");
        assert_eq!(due.action, TeardownAction::Retry);
    }
}

/// The teardown that the host waits for fails.
fn fail(scene: &mut Scene) {
    let due = scene.world.nodes[LEFT].teardowns.pop().expect("a teardown");
    scene.world.end_teardown(LEFT, due, TeardownOutcome::Failed("in use".to_owned()));
}
