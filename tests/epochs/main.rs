//! Epochs: a host writes its document anew, the others go over to it, and what was written to the
//! epoch before by whoever did not know is carried over, once.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;
mod lives;

use std::time::Duration;

use common::{
    scene::{LEFT, RIGHT, Scene, THIRD, room},
    world::Mode,
};
use sessionmesh::replica::{
    command::{Command, NewSession, Refusal, SessionPatch, Target},
    ids::{DocumentId, OperationId},
    record::SessionState::{self, Deleted, Live},
};

/// Has the host write its document anew, and see it through.
fn rewrite(scene: &mut Scene) {
    let host = scene.host;
    let before = epochs(scene, host);
    scene.world.ask(host, Command::Rewrite).expect("any node may");
    let after = epochs(scene, host);
    assert!(after.len() == 1 && after > before, "the host goes on in a later one: {after:?}");
}

/// As [`rewrite`], where that is done beside the host.
fn rewrite_aside(scene: &mut Scene) {
    let before = epochs(scene, scene.host);
    scene.world.ask(scene.host, Command::Rewrite).expect("any node may");
    scene.world.agree();
    assert!(epochs(scene, scene.host) > before, "the host goes on in a later one");
}

/// Lists the epochs of the host's document that a node holds.
fn epochs(scene: &Scene, node: usize) -> Vec<u32> {
    let host = scene.world.nodes[scene.host].id;
    let documents = scene.world.nodes[node].replica.document_heads();
    let of_host = documents.into_iter().filter_map(|(id, ..)| match id {
        DocumentId::Host { host: of, epoch } if of == host => Some(epoch),
        _ => None,
    });
    of_host.collect()
}

/// All nodes hold the epoch that the host has gone over to, and no other.
#[track_caller]
fn all_hold_the_newest(scene: &Scene) {
    let newest = epochs(scene, scene.host);
    assert!(newest.len() == 1 && newest[0] > 0, "held by the host: {newest:?}");
    for node in 0..scene.world.nodes.len() {
        assert_eq!(epochs(scene, node), newest, "held by {node}");
    }
}

fn state(scene: &Scene, node: usize, id: &str) -> Option<SessionState> {
    scene.world.session(node, scene.host, id).map(|session| session.state)
}

fn title(scene: &Scene, node: usize, id: &str) -> Option<String> {
    scene.world.session(node, scene.host, id).expect("it is shown").title
}

/// A workspace with sessions, of which all know; then every cable is cut.
fn parted(host: usize, sessions: &[&str]) -> Scene {
    let mut scene = Scene::new(host);
    room(&mut scene, sessions);
    scene.world.agree();
    scene.world.part();
    scene
}

fn meet(scene: &mut Scene) {
    scene.world.plug_all();
    scene.world.agree();
}

#[test]
fn a_document_written_anew_shows_the_same_everywhere_and_nothing_is_told() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["a", "b", "c"]);
    scene.create_child("child", "a", "w");
    scene.rename("a", "its title");
    scene.archive("b");
    scene.set_keep("w", true);
    scene.delete("c");
    scene.world.agree();
    let digest = scene.world.nodes[LEFT].replica.digest();
    scene.world.nodes.iter_mut().for_each(|node| node.watch.events.clear());
    rewrite(&mut scene);
    scene.world.agree();
    all_hold_the_newest(&scene);
    for node in &scene.world.nodes {
        assert_eq!(node.replica.digest(), digest);
        assert!(node.watch.events.is_empty(), "{:?}", node.watch.events);
    }
    // What was deleted can still be restored, and what is written goes everywhere.
    scene.at = RIGHT;
    scene.restore("c");
    scene.rename("a", "another");
    scene.world.agree();
    scene.session_is("c", Live);
    assert_eq!(title(&scene, THIRD, "a").as_deref(), Some("another"));
}

#[test]
fn what_is_written_while_a_document_is_written_anew_goes_along_at_once() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["kept", "renamed", "deleted", "restored"]);
    scene.delete("restored");
    scene.world.agree();
    scene.world.reads_aside = true;
    scene.world.ask(LEFT, Command::Rewrite).expect("any node may");
    let before = epochs(&scene, LEFT);
    scene.rename("renamed", "its title");
    scene.delete("deleted");
    scene.restore("restored");
    scene.create("created", "w");
    assert_eq!(epochs(&scene, LEFT), before, "the new one is still being written");
    let digest = scene.world.nodes[LEFT].replica.digest();
    scene.world.nodes[LEFT].watch.events.clear();
    scene.world.agree();
    all_hold_the_newest(&scene);
    assert!(epochs(&scene, LEFT) > before);
    assert!(scene.world.nodes[LEFT].watch.events.is_empty(), "nobody is told of it");
    for node in [LEFT, RIGHT, THIRD] {
        assert_eq!(scene.world.nodes[node].replica.digest(), digest);
        assert_eq!(title(&scene, node, "renamed").as_deref(), Some("its title"));
    }
    scene.session_is("created", Live);
    scene.session_is("restored", Live);
    scene.session_is("deleted", Deleted);
    // A restart finds what was carried over, and nothing to be carried over once more.
    let after = epochs(&scene, LEFT);
    scene.world.crash(LEFT, usize::MAX);
    scene.world.agree();
    assert_eq!(epochs(&scene, LEFT), after);
    assert_eq!(scene.world.nodes[RIGHT].replica.digest(), digest);
}

#[test]
fn a_rewrite_that_a_crash_cuts_off_leaves_the_epoch_as_it_was() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["a"]);
    scene.world.agree();
    scene.world.reads_aside = true;
    let before = epochs(&scene, LEFT);
    scene.world.ask(LEFT, Command::Rewrite).expect("any node may");
    scene.world.crash(LEFT, usize::MAX);
    scene.world.agree();
    assert_eq!(epochs(&scene, LEFT), before, "what was asked for is not remembered");
    rewrite_aside(&mut scene);
    all_hold_the_newest(&scene);
    scene.session_is("a", Live);
}

#[test]
fn history_does_not_go_along() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["a"]);
    for n in 0..300 {
        scene.rename("a", &format!("title {n}"));
    }
    scene.world.agree();
    rewrite(&mut scene);
    scene.world.agree();
    for node in &scene.world.nodes {
        let documents = node.replica.document_heads();
        let own = scene.world.nodes[LEFT].id;
        let (.., changes) = documents.iter().find(|(id, ..)| id.host() == Some(own)).unwrap();
        assert!(*changes < 10, "{changes} changes");
    }
}

#[test]
fn a_restart_finds_the_epoch_that_was_gone_over_to() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["a"]);
    rewrite(&mut scene);
    scene.world.agree();
    for node in [LEFT, RIGHT, THIRD] {
        scene.world.crash(node, usize::MAX);
        scene.world.agree();
    }
    all_hold_the_newest(&scene);
    scene.session_is("a", Live);
    rewrite(&mut scene);
    scene.world.agree();
    all_hold_the_newest(&scene);
}

#[test]
fn what_was_purged_stays_so_in_every_epoch_to_come() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["a", "b"]);
    scene.delete("a");
    scene.pass_undo_window();
    for _ in 0..3 {
        rewrite(&mut scene);
        scene.world.agree();
    }
    for node in [LEFT, RIGHT] {
        let host = Some(scene.world.nodes[LEFT].id.to_string());
        let new = NewSession { id: "a".parse().ok(), host, ..NewSession::default() };
        let refused = scene.world.ask(node, Command::CreateSession(new));
        assert!(matches!(refused, Err(Refusal::IdSpent { .. })), "{refused:?}");
    }
}

#[test]
fn what_each_had_written_to_the_epoch_before_is_carried_over() {
    for host in [LEFT, RIGHT, THIRD] {
        let away = (host + 1) % 3;
        let mut scene = parted(host, &["kept", "deleted", "renamed", "restored", "moved"]);
        scene.at = host;
        meet(&mut scene);
        scene.delete("restored");
        scene.workspace("w2");
        scene.world.agree();
        scene.world.part();
        rewrite(&mut scene);
        scene.at = away;
        scene.create("created", "w");
        scene.create_child("child", "created", "w");
        scene.delete("deleted");
        scene.rename("renamed", "by who was away");
        scene.restore("restored");
        scene.move_to("moved", "w2");
        scene.set_keep("w2", true);
        meet(&mut scene);
        all_hold_the_newest(&scene);
        for id in ["kept", "created", "child", "renamed", "restored", "moved"] {
            scene.session_is(id, Live);
        }
        scene.session_is("deleted", Deleted);
        for node in [LEFT, RIGHT, THIRD] {
            assert_eq!(title(&scene, node, "renamed").as_deref(), Some("by who was away"));
            assert!(scene.world.workspace(node, host, "w2").expect("it is shown").keep);
        }
        // As much as if it had been written here: it can be undone.
        scene.at = host;
        scene.restore("deleted");
        scene.world.agree();
        scene.session_is("deleted", Live);
    }
}

/// A node gave an epoch up whose host had carried over all that the node knew of, what it had written
/// there itself too. Then it took that epoch in again, of one who had been away and knew nothing of
/// what the node had written; it wrote to it once more, from its first number on, and its host, which
/// still had the first of the two, never took what the one who was away had written
/// (`SIM_SEED=1000593` of the long run).
#[test]
fn who_takes_an_epoch_in_again_writes_nothing_in_the_place_of_what_it_wrote_before() {
    let mut scene = parted(LEFT, &["a"]);
    scene.at = RIGHT;
    scene.create("new", "w");
    scene.world.plug(LEFT, THIRD);
    scene.at = THIRD;
    scene.rename("a", "by the third");
    scene.world.agree();
    rewrite(&mut scene);
    scene.world.agree();
    assert_eq!(epochs(&scene, THIRD).len(), 1, "all of it was carried over");
    scene.world.cut(LEFT, THIRD);
    scene.world.plug(RIGHT, THIRD);
    scene.world.agree();
    assert_eq!(epochs(&scene, THIRD).len(), 2, "it holds what only the one who was away had");
    // It is only there, and so is what is written to it.
    scene.rename("new", "by the third");
    meet(&mut scene);
    all_hold_the_newest(&scene);
    for node in [LEFT, RIGHT, THIRD] {
        assert_eq!(title(&scene, node, "new").as_deref(), Some("by the third"));
        assert_eq!(title(&scene, node, "a").as_deref(), Some("by the third"));
    }
}

#[test]
fn who_was_away_shows_and_keeps_what_it_wrote_until_it_is_carried_over() {
    let mut scene = parted(LEFT, &["a", "b"]);
    rewrite(&mut scene);
    scene.at = LEFT;
    scene.rename("b", "in the new epoch");
    scene.world.plug(LEFT, THIRD);
    scene.world.agree();
    scene.at = RIGHT;
    scene.delete("a");
    scene.create("new", "w");
    // The host is away now, and the two others agree without it.
    scene.world.cut(LEFT, THIRD);
    scene.world.plug(RIGHT, THIRD);
    scene.world.agree();
    for node in [RIGHT, THIRD] {
        assert_eq!(epochs(&scene, node).len(), 2);
        assert_eq!(state(&scene, node, "a"), Some(Deleted));
        assert_eq!(state(&scene, node, "new"), Some(Live));
        assert_eq!(title(&scene, node, "b").as_deref(), Some("in the new epoch"));
    }
    // They go on, also with what the host has not seen yet.
    scene.at = THIRD;
    scene.rename("new", "renamed by another");
    scene.rename("b", "again");
    scene.restore("a");
    scene.world.agree();
    for node in [RIGHT, THIRD] {
        assert_eq!(state(&scene, node, "a"), Some(Live));
        assert_eq!(title(&scene, node, "new").as_deref(), Some("renamed by another"));
        assert_eq!(title(&scene, node, "b").as_deref(), Some("again"));
        scene.world.crash(node, usize::MAX);
    }
    // Who was away never meets the host; the other one passes it on.
    scene.world.cut(RIGHT, THIRD);
    scene.world.plug(LEFT, THIRD);
    scene.world.agree();
    assert_eq!(state(&scene, LEFT, "a"), Some(Live));
    assert_eq!(title(&scene, LEFT, "new").as_deref(), Some("renamed by another"));
    assert_eq!(title(&scene, LEFT, "b").as_deref(), Some("again"));
    meet(&mut scene);
    all_hold_the_newest(&scene);
}

#[test]
fn a_delete_in_the_new_epoch_wins_over_a_restore_that_did_not_know_of_it() {
    let mut scene = parted(LEFT, &["a", "b"]);
    meet(&mut scene);
    scene.at = LEFT;
    scene.delete("a");
    scene.delete("b");
    scene.world.agree();
    scene.world.part();
    rewrite(&mut scene);
    // Deleted again, by someone who has not seen the restore to come.
    scene.delete("a");
    scene.at = RIGHT;
    scene.restore("a");
    scene.restore("b");
    meet(&mut scene);
    scene.session_is("a", Deleted);
    scene.session_is("b", Live);
}

#[test]
fn a_delete_in_the_old_epoch_wins_over_a_restore_that_did_not_know_of_it() {
    let mut scene = parted(LEFT, &["a"]);
    meet(&mut scene);
    scene.delete("a");
    scene.world.agree();
    scene.world.part();
    rewrite(&mut scene);
    scene.at = LEFT;
    scene.restore("a");
    scene.at = RIGHT;
    scene.delete("a");
    meet(&mut scene);
    scene.session_is("a", Deleted);
}

#[test]
fn what_two_had_written_at_once_comes_out_as_it_would_have() {
    let mut scene = parted(LEFT, &["a", "b", "c"]);
    rewrite(&mut scene);
    scene.at = RIGHT;
    scene.rename("a", "right");
    scene.delete("b");
    scene.rename("c", "renamed");
    scene.at = THIRD;
    scene.rename("a", "third");
    scene.delete("b");
    scene.delete("c");
    // One after the other, each alone with the host.
    for node in [RIGHT, THIRD] {
        scene.world.plug(LEFT, node);
        scene.world.agree();
        scene.world.cut(LEFT, node);
    }
    meet(&mut scene);
    all_hold_the_newest(&scene);
    let winner = title(&scene, LEFT, "a").unwrap();
    assert!(["right", "third"].contains(&winner.as_str()));
    scene.session_is("b", Deleted);
    scene.session_is("c", Deleted);
    scene.restore("c");
    scene.world.agree();
    assert_eq!(title(&scene, RIGHT, "c").as_deref(), Some("renamed"));
}

#[test]
fn what_was_purged_meanwhile_is_not_created_or_brought_back_by_who_was_away() {
    let mut scene = parted(LEFT, &["a", "b"]);
    scene.at = LEFT;
    scene.delete("a");
    scene.pass_undo_window();
    rewrite(&mut scene);
    scene.delete("b");
    scene.pass_undo_window();
    scene.at = RIGHT;
    scene.rename("a", "still here");
    scene.rename("b", "and here");
    meet(&mut scene);
    for node in [LEFT, RIGHT, THIRD] {
        assert_eq!(state(&scene, node, "a"), None);
        assert_eq!(state(&scene, node, "b"), None);
    }
}

#[test]
fn who_was_away_across_two_epochs_loses_nothing() {
    let mut scene = parted(LEFT, &["a", "b"]);
    scene.at = RIGHT;
    scene.delete("a");
    rewrite(&mut scene);
    scene.world.plug(LEFT, THIRD);
    scene.world.agree();
    scene.world.part();
    scene.at = THIRD;
    scene.rename("b", "in the second epoch");
    rewrite(&mut scene);
    scene.at = LEFT;
    scene.create("c", "w");
    meet(&mut scene);
    all_hold_the_newest(&scene);
    scene.session_is("a", Deleted);
    scene.session_is("c", Live);
    for node in [LEFT, RIGHT, THIRD] {
        assert_eq!(title(&scene, node, "b").as_deref(), Some("in the second epoch"));
    }
}

#[test]
fn wherever_the_host_is_killed_it_carries_over_once() {
    for synced in 0..6 {
        for writes_before in 0..3 {
            let mut scene = parted(LEFT, &["a"]);
            scene.at = RIGHT;
            scene.rename("a", "renamed by who was away");
            scene.delete("a");
            scene.create("new", "w");
            scene.world.disks = Mode::Held;
            scene.world.request(LEFT, Command::Rewrite);
            scene.world.sync(LEFT, writes_before);
            scene.world.plug(LEFT, RIGHT);
            scene.world.plug(LEFT, THIRD);
            for _ in 0..20 {
                scene.world.pass(Duration::from_millis(200));
                scene.world.sync(RIGHT, usize::MAX);
                scene.world.sync(THIRD, usize::MAX);
                scene.world.sync(LEFT, synced % 3);
            }
            scene.world.crash(LEFT, synced);
            scene.world.disks = Mode::Prompt;
            meet(&mut scene);
            // Undone by someone who knows of it, it stays undone.
            scene.session_is("a", Deleted);
            scene.at = THIRD;
            scene.restore("a");
            scene.rename("a", "later");
            scene.world.agree();
            scene.world.ask(LEFT, Command::Rewrite).unwrap();
            scene.world.agree();
            scene.world.pass(Duration::from_secs(5));
            scene.world.agree();
            for node in [LEFT, RIGHT, THIRD] {
                assert_eq!(epochs(&scene, node).len(), 1);
                assert_eq!(title(&scene, node, "a").as_deref(), Some("later"));
            }
            scene.session_is("a", Live);
            scene.session_is("new", Live);
        }
    }
}

#[test]
fn wherever_who_was_away_is_killed_nothing_that_was_acknowledged_is_lost() {
    for synced in 0..12 {
        let mut scene = parted(LEFT, &["a", "b"]);
        rewrite(&mut scene);
        scene.at = RIGHT;
        scene.delete("a");
        scene.world.disks = Mode::Held;
        scene.world.plug(LEFT, RIGHT);
        for _ in 0..synced {
            scene.world.pass(Duration::from_millis(100));
            scene.world.sync(LEFT, usize::MAX);
            scene.world.sync(RIGHT, 1);
        }
        scene.world.crash(RIGHT, synced % 3);
        scene.world.disks = Mode::Prompt;
        meet(&mut scene);
        all_hold_the_newest(&scene);
        scene.session_is("a", Deleted);
        scene.session_is("b", Live);
    }
}

#[test]
fn what_is_written_while_a_new_epoch_becomes_durable_is_in_it() {
    let mut scene = Scene::new(LEFT);
    room(&mut scene, &["a"]);
    scene.world.disks = Mode::Held;
    scene.world.request(LEFT, Command::Rewrite);
    let patch = SessionPatch { title: Some(Some("meanwhile".to_owned())), ..Default::default() };
    let target = Target::new("a".parse().unwrap());
    scene.world.request(LEFT, Command::UpdateSession(target, patch));
    scene.world.disks = Mode::Prompt;
    scene.world.agree();
    scene.world.pass(Duration::from_secs(3));
    scene.world.agree();
    all_hold_the_newest(&scene);
    assert_eq!(title(&scene, THIRD, "a").as_deref(), Some("meanwhile"));
}

#[test]
fn a_delete_is_undone_whichever_epoch_it_was_written_to() {
    let mut scene = parted(LEFT, &["a", "b"]);
    scene.at = RIGHT;
    scene.delete("a");
    rewrite(&mut scene);
    scene.at = LEFT;
    scene.delete("b");
    meet(&mut scene);
    let operations: Vec<OperationId> = scene.operations.values().cloned().collect();
    assert_eq!(operations.len(), 2);
    scene.at = THIRD;
    scene.restore("a");
    scene.restore("b");
    scene.world.agree();
    scene.session_is("a", Live);
    scene.session_is("b", Live);
}
