//! What is taken of a node that was revoked, of one that is of no fleet any more, and of much at once.

use std::time::Duration;

use automerge::{
    ActorId,
    transaction::{CommitOptions, Transactable as _},
};
use sessionmesh::{
    replica::{
        command::{Command, SessionPatch, Target},
        ids::ChangeHash,
        record::Role,
        voucher::Voucher,
    },
    wire::{self, CloseCode, Frame},
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
    // It is taken all the same once a member has built on it.
    let member = Rogue::new(&world, 0);
    let mut doc = copy(&world, 0, &document);
    doc.apply_changes([late.clone()]).unwrap();
    doc.set_actor(ActorId::from(actor_of(member.id, 0x78)));
    let record = session_at(&doc, "s0");
    doc.put(&record, "title", "on top").unwrap();
    doc.commit_with(CommitOptions::default().with_time(0)).expect("something was written");
    let on_top = doc.get_last_local_change().expect("it was just written");
    world.closes.clear();
    let vouchers = vec![rogue.vouch(&document, &late), member.vouch(&document, &on_top)];
    send(&mut world, 0, 2, document, &[&late, &on_top], vouchers);
    world.agree();
    for node in [0, 2] {
        let title = world.session(node, 0, "s0").unwrap().title;
        assert_eq!(title.as_deref(), Some("on top"), "on node {node}");
    }
    assert_eq!(world.closes, []);
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

/// Returns how many bytes of frames went to each node since the frames were last taken.
fn received(world: &mut World) -> Vec<usize> {
    let mut bytes = vec![0; world.nodes.len()];
    for (_, to, frame) in world.sent.take().unwrap_or_default() {
        bytes[to] += wire::encode(&frame).expect("it was sent").len();
    }
    bytes
}

/// Returns how many changes a node has of what another hosts.
fn changes(world: &World, node: usize, host: usize) -> usize {
    copy(world, node, &host_document(world, host)).get_changes(&[]).len()
}

/// Each member wrote all of it down for itself, in one change, and none could take the others' any more.
#[test]
fn of_what_a_revoked_node_wrote_under_many_actors_one_member_attests_for_all() {
    // Of one more each host would end the branches, and nothing would be left to attest.
    const ACTORS: u8 = 31;
    let mut world = World::fleet(7, 1);
    (0..6).for_each(|host| create(&mut world, host, host, &format!("s{host}")));
    world.agree();
    let rogue = Rogue::new(&world, 6);
    for host in 0..6 {
        let document = host_document(&world, host);
        let base = copy(&world, 6, &document);
        let session = session_at(&base, &format!("s{host}"));
        let mut written = Vec::new();
        for start in 0..ACTORS {
            let mut doc = base.clone();
            doc.set_actor(ActorId::from(actor_of(rogue.id, 0x80 + start)));
            doc.put(&session, "title", format!("by start {start}")).unwrap();
            doc.commit_with(CommitOptions::default().with_time(0)).expect("something was written");
            written.push(doc.get_last_local_change().expect("it was just written"));
        }
        (0..6).for_each(|to| {
            rogue.send(&mut world, to, document, &written.iter().collect::<Vec<_>>());
        });
    }
    world.cut(6, 0);
    world.pass(Duration::from_secs(30));
    let before: Vec<usize> = (0..6).map(|host| changes(&world, 1, host)).collect();
    assert!(before.iter().all(|changes| *changes > usize::from(ACTORS)), "{before:?}");
    world.closes.clear();
    world.sent = Some(Vec::new());
    world.ask(0, Command::Revoke(name_of(6))).expect("an admin revokes");
    world.pass(Duration::from_secs(60));
    let bytes = received(&mut world);
    for (host, before) in before.into_iter().enumerate() {
        assert_eq!(changes(&world, 1, host), before + 1, "one has attested for all, on {host}");
    }
    // A link to the revoked one is closed, and no other.
    assert!(closes(&world).iter().all(|(_, to, _)| *to == 6), "{:?}", closes(&world));
    assert!(bytes[..6].iter().all(|bytes| *bytes < 40_000), "{bytes:?}");
    let frontier = world.nodes[0].replica.frontier();
    for node in 0..6 {
        assert_eq!(world.nodes[node].replica.frontier(), frontier, "node {node}");
        for other in (0..6).filter(|other| *other != node) {
            assert!(world.is_linked(node, other), "{node} and {other}");
        }
    }
    // Who comes later is given all of it, and all go on.
    world.add(Default::default(), 0);
    world.join(7, 3, Role::Member);
    create(&mut world, 7, 5, "goes_on");
    world.pass(Duration::from_secs(10));
    assert!(world.session(0, 5, "goes_on").is_some());
}

/// Scaled down: a revocation costs each node less than 500 bytes for a document that the revoked one
/// was the last to write to; of 200 that is 100 kB.
#[test]
fn a_revocation_costs_each_node_few_bytes_a_document_that_the_revoked_one_wrote_last() {
    const NODES: usize = 16;
    let mut world = World::fleet(NODES, 1);
    let revoked = NODES - 1;
    (0..NODES).for_each(|host| create(&mut world, host, host, &format!("s{host}")));
    world.agree();
    for host in 0..revoked {
        create(&mut world, revoked, host, &format!("last{host}"));
    }
    world.agree();
    world.pass(Duration::from_secs(30));
    world.sent = Some(Vec::new());
    let begun = world.now;
    world.ask(0, Command::Revoke(name_of(revoked))).expect("an admin revokes");
    world.deliver();
    while (1..revoked)
        .any(|node| world.nodes[node].replica.frontier() != world.nodes[0].replica.frontier())
    {
        world.pass(Duration::from_millis(100));
        assert!(world.now - begun < Duration::from_secs(5), "it takes seconds");
    }
    world.pass(Duration::from_secs(30));
    // Greetings and comparisons go on whatever is revoked.
    let is_due_anyway = |frame: &Frame| matches!(frame.kind(), "hello" | "links" | "check");
    world.sent.as_mut().expect("it is kept").retain(|(.., frame)| !is_due_anyway(frame));
    let bytes = received(&mut world);
    let each = bytes[..revoked].iter().max().expect("there are some") / NODES;
    assert!(each < 500, "{each} bytes for each document: {bytes:?}");
    // Where somebody has built on it, nothing is to be said.
    let own = |world: &World, host| changes(world, 0, host);
    let before: Vec<usize> = (0..revoked).map(|host| own(&world, host)).collect();
    (0..revoked - 1).for_each(|host| create(&mut world, 14, host, &format!("on_top{host}")));
    world.agree();
    world.ask(0, Command::Revoke(name_of(14))).expect("an admin revokes");
    world.deliver();
    for host in 0..14 {
        create(&mut world, 1, host, &format!("again{host}"));
    }
    world.pass(Duration::from_secs(30));
    let after: Vec<usize> = (0..14).map(|host| own(&world, host)).collect();
    let more: Vec<usize> =
        after.iter().zip(&before).map(|(after, before)| after - before).collect();
    assert!(more.iter().all(|more| *more <= 3), "{more:?}");
}

/// The one that attests first may lack what another has.
#[test]
fn what_only_one_node_had_of_a_revoked_one_it_attests_itself_once_others_would_have() {
    let mut world = World::fleet(4, 1);
    (0..4).for_each(|host| create(&mut world, host, host, &format!("s{host}")));
    world.agree();
    // Node 1's last words reach node 3 alone.
    for (a, b) in [(0, 1), (1, 2), (0, 3), (2, 3)] {
        world.cut(a, b);
    }
    world.deliver();
    rename(&mut world, 1, "last words");
    world.deliver();
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    world.cut(1, 3);
    world.deliver();
    world.closes.clear();
    world.plug(0, 3);
    world.plug(2, 3);
    world.pass(Duration::from_secs(1));
    let title = |world: &World, node: usize| world.session(node, 0, "s0").unwrap().title;
    assert_eq!(title(&world, 3).as_deref(), Some("last words"));
    assert_eq!(title(&world, 0), None, "nobody whose word counts has built on it");
    world.pass(Duration::from_secs(10));
    for node in [0, 2, 3] {
        assert_eq!(title(&world, node).as_deref(), Some("last words"), "on node {node}");
    }
    assert!(closes(&world).iter().all(|(.., code)| *code != CloseCode::Hostile));
    // And what one says of one that it takes for a member is no offence, only too early.
    let frontier = world.nodes[0].replica.frontier();
    world.crash(3, usize::MAX);
    world.agree();
    assert_eq!(world.nodes[3].replica.frontier(), frontier);
}

/// A member made up changes in the name of a key that nobody knew yet, and the node that later let that key in was
/// shut out for what it passed on.
#[test]
fn what_was_signed_falsely_for_a_key_that_is_let_in_later_is_nobodys_fault() {
    let mut world = World::fleet(3, 1);
    create(&mut world, 0, 0, "s0");
    world.agree();
    world.add(Default::default(), 0);
    let document = host_document(&world, 0);
    let (member, stranger) = (Rogue::new(&world, 1), world.nodes[3].id);
    let mut doc = copy(&world, 1, &document);
    let record = session_at(&doc, "s0");
    let mut write = |by, start, text: &str| {
        doc.set_actor(ActorId::from(actor_of(by, start)));
        doc.put(&record, "title", text).unwrap();
        doc.commit_with(CommitOptions::default().with_time(0)).expect("something was written");
        doc.get_last_local_change().expect("it was just written")
    };
    let made_up = write(stranger, 0x77, "made up");
    let on_top = write(member.id, 0x78, "on top");
    let vouchers = vec![member.vouch(&document, &made_up), member.vouch(&document, &on_top)];
    send(&mut world, 1, 0, document, &[&made_up, &on_top], vouchers);
    world.agree();
    for node in 0..3 {
        let title = world.session(node, 0, "s0").unwrap().title;
        assert_eq!(title.as_deref(), Some("on top"), "on node {node}");
    }
    world.closes.clear();
    world.join(3, 2, Role::Member);
    world.plug_all();
    world.pass(Duration::from_secs(60));
    world.agree();
    assert!(world.session(3, 0, "s0").is_some(), "its host has begun the document again");
    assert_eq!(world.closes, []);
}

/// It was let in a moment ago, and a member has built on what it wrote before that was known everywhere.
#[test]
fn what_one_wrote_whose_admission_is_not_known_yet_keeps_its_authors_word() {
    let mut world = World::fleet(3, 1);
    create(&mut world, 0, 0, "s0");
    world.agree();
    world.cut(0, 2);
    world.cut(1, 2);
    world.deliver();
    world.add(Default::default(), 0);
    world.join(3, 1, Role::Member);
    rename(&mut world, 3, "by the new one");
    world.deliver();
    rename(&mut world, 1, "on top");
    world.deliver();
    let document = host_document(&world, 0);
    let mut changes = copy(&world, 1, &document).get_changes(&[]);
    let two = changes.split_off(changes.len() - 2);
    let vouchers = world.nodes[1].replica.document_vouchers(&document);
    // Node 2 hears of what was written before it hears of who was let in.
    world.plug(1, 2);
    world.pass(Duration::ZERO);
    world.closes.clear();
    send(&mut world, 1, 2, document, &[&two[0], &two[1]], vouchers);
    world.agree();
    let here = world.nodes[2].replica.document_vouchers(&document);
    assert!(here.iter().all(|voucher| !voucher.is_marker()), "{here:?}");
    assert_eq!(world.closes, []);
}

/// It holds the mark of one that it knows as revoked, and no signature; who does not know that yet
/// can't tell.
#[test]
fn who_does_not_yet_know_of_a_revocation_leaves_out_what_comes_without_a_signature() {
    let mut world = World::fleet(3, 1);
    create(&mut world, 0, 0, "s0");
    world.agree();
    world.cut(1, 2);
    world.deliver();
    world.closes.clear();
    let document = host_document(&world, 0);
    // Node 0 sends it as one that knows of a revocation would.
    let rogue = Rogue::new(&world, 1);
    let mut doc = copy(&world, 0, &document);
    doc.set_actor(ActorId::from(actor_of(rogue.id, 0x77)));
    let record = session_at(&doc, "s0");
    doc.put(&record, "title", "unsigned").unwrap();
    doc.commit_with(CommitOptions::default().with_time(0)).expect("something was written");
    let change = doc.get_last_local_change().unwrap();
    let frontier = world.nodes[2].replica.frontier();
    let actor = change.actor_id().to_bytes().try_into().unwrap();
    let marker = Voucher::marker(actor, change.seq(), ChangeHash(change.hash().0));
    send(&mut world, 0, 2, document, &[&change], vec![marker]);
    assert_eq!(world.nodes[2].replica.frontier(), frontier);
    assert_eq!(world.closes, []);
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
