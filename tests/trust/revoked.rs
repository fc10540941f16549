//! What is taken of a node that was revoked, of one that is of no fleet any more, and of much at once.

use std::time::Duration;

use automerge::{
    ActorId,
    transaction::{CommitOptions, Transactable as _},
};
use sessionmesh::{
    replica::{
        command::{Command, SessionPatch, Target},
        record::Role,
    },
    wire::CloseCode,
};

use crate::{
    Rogue, actor_of, closes,
    common::world::{World, name_of},
    copy, create, host_document, scene, send, session_at, sessions,
};

/// Renames a session of node 0's.
fn rename(world: &mut World, node: usize, text: &str) {
    let patch = SessionPatch { title: Some(Some(text.to_owned())), ..SessionPatch::default() };
    let target = Target::new("s0".parse().unwrap());
    world.ask(node, Command::UpdateSession(target, patch)).expect("a session that is there");
}

#[test]
fn what_a_revoked_node_wrote_before_stays_and_what_it_writes_later_is_taken_by_nobody() {
    let mut world = scene();
    rename(&mut world, 1, "before");
    world.agree();
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    world.deliver();
    let rogue = Rogue::new(&world, 1);
    rename(&mut world, 1, "after");
    let document = host_document(&world, 0);
    let changes = copy(&world, 1, &document).get_changes(&[]);
    let late = changes.last().unwrap();
    assert_eq!(late.actor_id().to_bytes()[..12], rogue.id.fingerprint());
    // Node 2, which is no better, passes it on, with its author's word for it.
    let vouchers = vec![rogue.vouch(&document, late)];
    world.closes.clear();
    send(&mut world, 2, 0, document, &[late], vouchers);
    world.pass(Duration::from_secs(30));
    for node in [0, 2] {
        let session = world.session(node, 0, "s0").unwrap();
        assert_eq!(session.title.as_deref(), Some("before"), "on node {node}");
    }
    // A node that comes later is given what was before, too.
    world.add(Default::default(), 0);
    world.join(3, 0, Role::Member);
    assert_eq!(world.session(3, 0, "s0").unwrap().title.as_deref(), Some("before"));
    create(&mut world, 3, 0, "goes_on");
    world.agree();
    assert_eq!(sessions(&world, 2), sessions(&world, 3));
}

/// Else those who had got it would differ from the others for ever.
#[test]
fn what_one_node_had_of_a_revoked_one_before_it_knew_is_taken_by_all() {
    let mut world = scene();
    // Node 1's last words reach node 2 alone.
    world.cut(0, 1);
    world.cut(0, 2);
    world.deliver();
    rename(&mut world, 1, "last words");
    world.deliver();
    assert_eq!(world.session(2, 0, "s0").unwrap().title.as_deref(), Some("last words"));
    // And node 2 builds on them.
    create(&mut world, 2, 0, "on_top");
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    world.cut(1, 2);
    world.deliver();
    world.closes.clear();
    world.add(Default::default(), 0);
    world.join(3, 0, Role::Member);
    world.plug(0, 2);
    world.agree();
    for node in [0, 2, 3] {
        let session = world.session(node, 0, "s0").unwrap();
        assert_eq!(session.title.as_deref(), Some("last words"), "on node {node}");
        assert!(world.session(node, 0, "on_top").is_some(), "on node {node}");
    }
    assert!(closes(&world).iter().all(|(.., code)| *code != CloseCode::Hostile));
    // The same after restarts.
    world.crash(0, usize::MAX);
    world.crash(3, usize::MAX);
    world.agree();
}

/// A node that was put back to an old copy had a revoked node's change wait for another, and then
/// learnt of the revocation. It took the change when what was missing came, which no other node did,
/// and never came to hold the same as they (a seed of the simulator).
#[test]
fn what_waits_for_another_change_is_not_taken_once_its_author_is_revoked() {
    let mut world = scene();
    let document = host_document(&world, 0);
    create(&mut world, 0, 0, "missing");
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    world.cut(0, 1);
    world.cut(0, 2);
    let rogue = Rogue::new(&world, 1);
    let mut doc = copy(&world, 0, &document);
    doc.set_actor(ActorId::from(actor_of(rogue.id, 0x77)));
    let record = session_at(&doc, "s0");
    doc.put(&record, "title", "last words").unwrap();
    doc.commit_with(CommitOptions::default().with_time(0)).expect("something was written");
    let late = doc.get_last_local_change().expect("it was just written");
    rogue.send(&mut world, 2, document, &[&late]);
    assert!(world.is_linked(1, 2), "it may be that what is missing is on its way");
    // Now it comes, after the revocation.
    world.plug(0, 2);
    world.agree();
    for node in [0, 2] {
        assert!(world.session(node, 0, "missing").is_some(), "on node {node}");
        assert_eq!(world.session(node, 0, "s0").unwrap().title, None, "on node {node}");
    }
}

/// Its host stands for what others, of the fleet that it left, wrote to its document.
#[test]
fn a_document_is_brought_into_another_fleet_with_what_former_fellows_wrote() {
    let mut world = World::fleet(2, 1);
    create(&mut world, 1, 0, "by_a_former_fellow");
    world.agree();
    world.ask(0, Command::Leave).expect("another admin stays");
    world.deliver();
    world.part();
    (0..2).for_each(|_| world.add(Default::default(), 0));
    world.join(0, 2, Role::Member);
    world.join(3, 2, Role::Member);
    world.plug(0, 3);
    world.agree();
    for node in [2, 3] {
        assert!(world.session(node, 0, "by_a_former_fellow").is_some(), "on node {node}");
    }
    assert!(closes(&world).iter().all(|(.., code)| *code != CloseCode::Hostile));
}

/// The bound is on what one frame carries: it goes whole, and its voucher with it.
#[test]
fn a_catch_up_that_does_not_fit_a_frame_comes_as_a_whole_document() {
    let mut world = World::fleet(2, 1);
    create(&mut world, 0, 0, "s0");
    create(&mut world, 1, 1, "s1");
    world.agree();
    world.part();
    let text = "x".repeat(1_024);
    for n in 0..4_300 {
        rename(&mut world, 1, &format!("{n}{}", &text[..1_000]));
    }
    world.sent = Some(Vec::new());
    world.plug(0, 1);
    world.agree();
    let sent = world.sent.take().unwrap_or_default();
    let kinds: Vec<_> = sent.iter().map(|(from, _, frame)| (*from, frame.kind())).collect();
    assert!(kinds.contains(&(1, "snapshot")), "{kinds:?}");
    assert!(world.session(0, 0, "s0").unwrap().title.unwrap().starts_with("4299"));
}
