//! In whose name a change is taken, and in which order.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use automerge::{ActorId, Change, transaction::Transactable as _};
use sessionmesh::replica::{
    document::{self, BRANCHES_MAX, Document},
    ids::{DocumentId, NodeId, StartId},
    record::{Extra, Member, Role, StoredSession},
    trust::Trust,
    voucher::{Keyring, SIGNATURE_BYTES, Voucher},
};

use crate::{
    Rogue, actor_of, common::world::World, copy, crafted, create, host_document, refused, scene,
    send, session_at, title,
};

#[test]
fn what_a_member_writes_within_its_rights_is_taken() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let (document, change) = title(&world, &rogue, "mine to write");
    rogue.send(&mut world, 0, document, &[&change]);
    world.agree();
    assert_eq!(world.closes, []);
    for node in 0..3 {
        let session = world.session(node, 0, "s0").unwrap();
        assert_eq!(session.title.as_deref(), Some("mine to write"));
    }
}

#[test]
fn a_change_that_nobody_vouches_for_is_refused() {
    refused(&mut scene(), "nobody vouches", |world, rogue| {
        let (document, change) = title(world, rogue, "unsigned");
        send(world, 1, 0, document, &[&change], Vec::new());
    });
}

#[test]
fn a_change_in_anothers_name_is_refused() {
    refused(&mut scene(), "not by the node", |world, rogue| {
        let document = host_document(world, 0);
        let mut doc = copy(world, 1, &document);
        doc.set_actor(ActorId::from(actor_of(world.nodes[2].id, 0x77)));
        let record = session_at(&doc, "s0");
        doc.put(&record, "title", "not from node 2").unwrap();
        doc.commit();
        let change = doc.get_last_local_change().unwrap();
        rogue.send(world, 0, document, &[&change]);
    });
}

#[test]
fn a_change_that_a_relay_signs_for_its_author_is_refused() {
    let mut world = scene();
    world.cut(0, 2);
    world.deliver();
    create(&mut world, 2, 2, "s3");
    // Node 1 has it, and gives its own word for it in place of the author's.
    world.deliver_one();
    let document = host_document(&world, 2);
    let changes = copy(&world, 2, &document).get_changes(&[]);
    let change = changes.last().unwrap().clone();
    let mut other = scene();
    refused(&mut other, "not by the node", |world, rogue| {
        let document = host_document(world, 2);
        rogue.send(world, 0, document, &[&change]);
    });
}

#[test]
fn a_voucher_for_another_document_is_no_voucher() {
    refused(&mut scene(), "not by the node", |world, rogue| {
        let (document, change) = title(world, rogue, "elsewhere");
        let elsewhere = rogue.vouch(&host_document(world, 2), &change);
        send(world, 1, 0, document, &[&change], vec![elsewhere]);
    });
}

/// Two changes of one author, the second on top of the first.
fn two(world: &World, rogue: &Rogue) -> (DocumentId, [Change; 2]) {
    let document = host_document(world, 0);
    let mut doc = copy(world, rogue.node, &document);
    doc.set_actor(ActorId::from(actor_of(rogue.id, 0x77)));
    let record = session_at(&doc, "s0");
    let changes = ["one", "two"].map(|text| {
        doc.put(&record, "title", text).unwrap();
        doc.commit();
        doc.get_last_local_change().unwrap()
    });
    (document, changes)
}

#[test]
fn a_voucher_does_not_reach_beyond_its_change() {
    refused(&mut scene(), "nobody vouches", |world, rogue| {
        let (document, [one, two]) = two(world, rogue);
        let vouchers = vec![rogue.vouch(&document, &one)];
        send(world, 1, 0, document, &[&one, &two], vouchers);
    });
}

#[test]
fn one_voucher_stands_for_all_changes_before_it() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let (document, [one, two]) = two(&world, &rogue);
    let vouchers = vec![rogue.vouch(&document, &two)];
    send(&mut world, 1, 0, document, &[&one, &two], vouchers);
    world.agree();
    assert_eq!(world.closes, []);
    assert_eq!(world.session(2, 0, "s0").unwrap().title.as_deref(), Some("two"));
}

#[test]
fn changes_that_come_in_another_order_wait_and_end_the_same() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let before = world.nodes[0].replica.frontier();
    let (document, [one, two]) = two(&world, &rogue);
    rogue.send(&mut world, 0, document, &[&two]);
    assert_eq!(world.nodes[0].replica.frontier(), before, "what comes too early waits");
    rogue.send(&mut world, 0, document, &[&one]);
    world.agree();
    assert_eq!(world.closes, []);
    assert_eq!(world.session(2, 0, "s0").unwrap().title.as_deref(), Some("two"));
}

#[test]
fn a_change_that_leaves_its_authors_previous_one_out_is_refused() {
    refused(&mut scene(), "does not follow", |world, rogue| {
        let (document, [one, _]) = two(world, rogue);
        let skips = crafted(&one, |change| change.seq = 3);
        rogue.send(world, 0, document, &[&skips]);
    });
    refused(&mut scene(), "does not follow", |world, rogue| {
        let (document, [one, two]) = two(world, rogue);
        let unlinked = crafted(&two, |change| change.deps.clone_from(&one.decode().deps));
        let vouchers = vec![rogue.vouch(&document, &unlinked)];
        send(world, 1, 0, document, &[&one, &unlinked], vouchers);
    });
}

#[test]
fn counters_that_leave_no_room_for_others_are_refused() {
    refused(&mut scene(), "does not count", |world, rogue| {
        let (document, change) = title(world, rogue, "far ahead");
        let far = crafted(&change, |change| change.start_op = (1 << 31).try_into().unwrap());
        rogue.send(world, 0, document, &[&far]);
    });
}

#[test]
fn a_second_change_for_a_place_that_is_taken_is_refused() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let (document, one) = title(&world, &rogue, "one");
    let (_, other) = title(&world, &rogue, "other");
    rogue.send(&mut world, 0, document, &[&one]);
    world.agree();
    refused(&mut world, "two changes for one place", |world, rogue| {
        rogue.send(world, 0, document, &[&other]);
    });
    assert_eq!(world.session(2, 0, "s0").unwrap().title.as_deref(), Some("one"));
}

/// Nobody else is to blame for it: honest nodes that were told different things stay linked.
#[test]
fn a_relay_is_not_cut_off_for_an_author_that_signed_two_changes_for_one_place() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let (document, one) = title(&world, &rogue, "one");
    let (_, other) = title(&world, &rogue, "other");
    world.cut(0, 2);
    world.deliver();
    rogue.send(&mut world, 0, document, &[&one]);
    rogue.send(&mut world, 2, document, &[&other]);
    world.pass(Duration::from_secs(1));
    world.closes.clear();
    world.cut(0, 1);
    world.cut(1, 2);
    world.plug(0, 2);
    world.pass(Duration::from_secs(30));
    assert!(world.is_linked(0, 2), "{:?}", world.closes);
    create(&mut world, 0, 2, "goes_on");
    world.deliver();
    assert!(world.session(2, 2, "goes_on").is_some(), "other documents are not touched");
}

#[test]
fn what_a_reader_writes_is_not_taken_from_anyone() {
    let mut world = scene();
    world.add(Default::default(), 0);
    world.join(3, 0, Role::Reader);
    world.agree();
    world.closes.clear();
    let reader = Rogue::new(&world, 3);
    let before = world.nodes[0].replica.frontier();
    let (document, change) = title(&world, &reader, "by a reader");
    let vouchers = vec![reader.vouch(&document, &change)];
    send(&mut world, 3, 0, document, &[&change], vouchers.clone());
    send(&mut world, 1, 0, document, &[&change], vouchers);
    assert_eq!(world.nodes[0].replica.frontier(), before);
    assert_eq!(world.closes, [], "whoever relays it may know it as something else");
}

/// Changes of a node beside each other, each under an actor of its own, on what it has now.
pub fn beside(
    world: &World,
    rogue: &Rogue,
    document: &DocumentId,
    numbers: Range<u32>,
) -> Vec<Change> {
    let base = copy(world, rogue.node, document);
    let change = |number: u32| {
        let mut doc = base.clone();
        let mut actor = actor_of(rogue.id, 0x77);
        actor[12..16].copy_from_slice(&number.to_be_bytes());
        doc.set_actor(ActorId::from(actor));
        let session = session_at(&doc, "s0");
        doc.put(&session, "title", format!("by start {number}")).unwrap();
        doc.commit();
        doc.get_last_local_change().unwrap()
    };
    numbers.map(change).collect()
}

/// Whoever writes next builds on all of them; a change that names more than may be named would be
/// taken by nobody, and the fleet fall apart.
#[test]
fn a_node_that_writes_side_by_side_with_itself_can_not_split_the_fleet() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let document = host_document(&world, 0);
    let beside = beside(&world, &rogue, &document, 0..600);
    for some in beside.chunks(50) {
        rogue.send(&mut world, 0, document, &some.iter().collect::<Vec<_>>());
    }
    create(&mut world, 2, 0, "on_top");
    world.agree();
    assert_eq!(world.closes, [], "what builds on all of it is taken by all");
    assert!(world.session(0, 0, "on_top").is_some());
    let copied = copy(&world, 0, &document).get_changes(&[]).len();
    assert!(copied > 600, "its host ends branches as they come, so that all are taken: {copied}");
}

/// Neither can hold more, and which of them came first is not the same for both.
#[test]
fn honest_nodes_that_were_given_different_branches_of_too_many_hold_the_same_in_the_end() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let document = host_document(&world, 0);
    let most = u32::try_from(BRANCHES_MAX).unwrap();
    let all = beside(&world, &rogue, &document, 0..2 * most);
    let (first, second) = all.split_at(BRANCHES_MAX);
    world.part();
    world.plug(1, 2);
    world.deliver();
    // More than so many are left out, and nobody is cut off for it.
    rogue.send(&mut world, 2, document, &second.iter().chain(first).collect::<Vec<_>>());
    assert!(world.nodes[2].replica.left_out_total().contains_key("crowded"));
    world.cut(1, 2);
    world.plug(0, 1);
    world.deliver();
    rogue.send(&mut world, 0, document, &first.iter().collect::<Vec<_>>());
    world.cut(0, 1);
    create(&mut world, 2, 0, "by_the_one");
    create(&mut world, 0, 0, "by_the_other");
    world.closes.clear();
    world.plug(0, 2);
    world.agree();
    assert_eq!(world.closes, []);
    let copied = copy(&world, 0, &document).get_changes(&[]).len();
    assert!(copied > 2 * BRANCHES_MAX, "what each has built on is taken by the other");
    let peers = world.nodes[2].replica.peers();
    let named = peers.iter().find(|peer| peer.member.node == rogue.id).unwrap().left_out.clone();
    assert!(named.is_some_and(|named| named.contains("beside itself")), "its author is named");
}

/// SIM_SEED=311: the host of the document was the node gone bad, and away; each of the others held as
/// many of its branches as may be, not the same ones, and they differed for good.
#[test]
fn honest_nodes_that_hold_different_branches_agree_while_the_host_is_away() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let document = host_document(&world, 1);
    let base = copy(&world, 1, &document);
    let change = |number: u32| {
        let mut doc = base.clone();
        let mut actor = actor_of(rogue.id, 0x77);
        actor[12..16].copy_from_slice(&number.to_be_bytes());
        doc.set_actor(ActorId::from(actor));
        let session = session_at(&doc, "s1");
        doc.put(&session, "title", format!("branch {number}")).unwrap();
        doc.commit();
        doc.get_last_local_change().unwrap()
    };
    let most = u32::try_from(BRANCHES_MAX).unwrap();
    let all: Vec<Change> = (0..2 * most + 20).map(change).collect();
    let (first, second) = all.split_at(BRANCHES_MAX + 10);
    world.cut(0, 2);
    rogue.send(&mut world, 0, document, &first.iter().collect::<Vec<_>>());
    rogue.send(&mut world, 2, document, &second.iter().collect::<Vec<_>>());
    world.cut(0, 1);
    world.cut(1, 2);
    world.closes.clear();
    world.plug(0, 2);
    world.agree();
    assert_eq!(world.closes, []);
    assert!(copy(&world, 0, &document).get_changes(&[]).len() > 2 * BRANCHES_MAX);
}

/// Holds every signature to be good, and counts how often it was asked.
#[derive(Debug, Default)]
struct Counting(AtomicUsize);

impl Keyring for Counting {
    fn sign(&self, _: &[u8]) -> [u8; SIGNATURE_BYTES] {
        [7; SIGNATURE_BYTES]
    }

    fn verify(&self, _: &NodeId, _: &[u8], _: &[u8; SIGNATURE_BYTES]) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// However many changes come together, and whoever vouches for each of them as well.
#[test]
fn one_signature_is_checked_for_all_that_an_author_sends_at_once() {
    let keys = Arc::new(Counting::default());
    let host = NodeId([1; 32]);
    let member = Member {
        node: host,
        name: "host".to_owned(),
        role: Role::Member,
        added_by: host,
        added_at: 0,
        revoked: None,
        left: false,
    };
    let mut trust = Trust::new(keys.clone());
    trust.learn(&[member]);
    let actor = |start| document::actor(&host, StartId([start; 8]));
    let (mut author, laid_out) = Document::create_host(host, 0, actor(1), 0);
    let id = author.id();
    let vouch = |change: &document::AppliedChange| {
        Voucher::sign(&*keys, &id, change.actor, change.seq, change.hash)
    };
    let vouchers: Vec<Voucher> = laid_out.changes.iter().map(vouch).collect();
    let reader = Document::load(id, actor(2), Some(&author.save()), &[], &vouchers);
    let mut reader = reader.expect("it was just saved");
    let record = StoredSession {
        workspace_id: None,
        parent_id: None,
        project_id: None,
        directory: None,
        title: None,
        created_at: 0,
        updated_at: 0,
        archived_at: None,
        agent: None,
        agent_server: None,
        extra: Extra::new(),
        deleted: None,
    };
    let mut push = |count: usize, each: bool| {
        let mut changes = Vec::new();
        for number in 0..count {
            let id = format!("ses_{each}_{count}_{number}").parse().expect("it is an id");
            let written = author.write(0, |tx| tx.create_session(&id, &record));
            changes.extend(written.unwrap().expect("it is new").changes);
        }
        let skipped = if each { 0 } else { changes.len() - 1 };
        let vouchers: Vec<Voucher> = changes.iter().skip(skipped).map(vouch).collect();
        let bytes: Vec<Vec<u8>> = changes.into_iter().map(|change| change.bytes).collect();
        let before = keys.0.load(Ordering::Relaxed);
        let taken = reader.apply(&bytes, &vouchers, &trust).expect("it is valid");
        assert_eq!(taken.changes.len(), count);
        keys.0.load(Ordering::Relaxed) - before
    };
    assert_eq!(push(1, false), 1);
    assert_eq!(push(100, false), 1);
    assert_eq!(push(100, true), 1);
}
