//! How replicas are brought together: what greeting, catching up, pushing and relaying cost, what
//! loss costs, and that nothing a peer sends does more than close its link.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::{collections::BTreeSet, time::Duration};

use common::world::World;
use sessionmesh::{
    replica::{
        command::{Command, NewSession, Reply},
        effect::{Effects, Input, RequestId, Write},
        ids::{ChangeHash, DocumentId, NodeId},
        sync::GAINED_WITHIN,
    },
    wire::{self, CloseCode, DocumentHeads, Frame},
};

/// How long a repair may take: the idle time before a comparison, the time that what is missing
/// may be on its way, and an answer that is not repeated at once.
const REPAIRED_WITHIN: Duration = Duration::from_secs(5);

fn create(world: &mut World, node: usize, host: usize) {
    let host = Some(world.nodes[host].id.to_string());
    let reply = world.ask(node, Command::CreateSession(NewSession { host, ..Default::default() }));
    assert!(matches!(reply, Ok(Reply::Session(_))), "{reply:?}");
}

/// Makes text that hardly deflates.
fn random_text(length: usize) -> String {
    let mut random = fastrand::Rng::with_seed(1);
    (0..length).map(|_| random.alphanumeric()).collect()
}

fn document(world: &World, host: usize) -> DocumentId {
    DocumentId::Host { host: world.nodes[host].id, epoch: 0 }
}

fn bytes_of(document: &DocumentId, world: &World, node: usize) -> Vec<u8> {
    world.nodes[node].replica.document_copy(document).expect("it is held").save()
}

/// Returns what was said since this was last asked.
fn said(world: &mut World) -> Vec<(usize, usize, Frame)> {
    world.sent.replace(Vec::new()).unwrap_or_default()
}

fn kinds(frames: &[(usize, usize, Frame)]) -> Vec<(usize, usize, &'static str)> {
    frames.iter().map(|(from, to, frame)| (*from, *to, frame.kind())).collect()
}

/// Returns the changes that were carried from one node to another, whatever the frames.
fn carried(frames: &[(usize, usize, Frame)], way: (usize, usize)) -> Vec<Vec<u8>> {
    let frames = frames.iter().filter(|(from, to, _)| (*from, *to) == way);
    let carried = frames.filter_map(|(.., frame)| match frame {
        Frame::Changes { changes, .. } => Some(changes.clone()),
        _ => None,
    });
    carried.flatten().collect()
}

#[test]
fn equal_replicas_greet_in_one_round_trip_of_under_300_bytes() {
    let mut world = World::fleet(2, 1);
    (0..20).for_each(|_| create(&mut world, 0, 1));
    world.agree();
    world.part();
    said(&mut world);
    world.plug(0, 1);
    world.agree();
    let frames = said(&mut world);
    let mut greeting = kinds(&frames);
    greeting.sort_unstable();
    assert_eq!(greeting, [(0, 1, "hello"), (1, 0, "hello")]);
    let bytes: usize = frames.iter().map(|(.., frame)| wire::encode(frame).unwrap().len()).sum();
    assert!(bytes < 300, "{bytes} bytes");
}

#[test]
fn who_only_lacks_changes_is_sent_exactly_those() {
    let mut world = World::fleet(2, 1);
    create(&mut world, 0, 0);
    world.agree();
    world.part();
    (0..5).for_each(|_| create(&mut world, 0, 0));
    said(&mut world);
    world.plug(0, 1);
    world.agree();
    let frames = said(&mut world);
    assert_eq!(carried(&frames, (0, 1)).len(), 5);
    assert_eq!(carried(&frames, (1, 0)), Vec::<Vec<u8>>::new());
    let others =
        kinds(&frames).into_iter().filter(|(.., kind)| matches!(*kind, "sync" | "snapshot"));
    assert_eq!(others.count(), 0, "neither a repair nor a snapshot");
    assert_eq!(world.nodes.iter().map(|n| n.replica.sync_repairs_total()).sum::<u64>(), 0);
}

#[test]
fn what_is_much_is_put_together_beside_the_replica_once_for_each_who_asks() {
    let mut world = World::fleet(3, 1);
    (0..100).for_each(|_| create(&mut world, 0, 0));
    world.agree();
    let id = document(&world, 0);
    let heads = world.nodes[0].replica.document_copy(&id).expect("it is held").heads();
    let [asks, too] = [1, 2].map(|node| world.nodes[node].id);
    let now = world.now_at(0);
    let replica = &mut world.nodes[0].replica;
    let want = |peer, heads: &[ChangeHash]| {
        let heads = heads.to_vec();
        let frame = Frame::Want(DocumentHeads { document: id, heads });
        Input::FrameReceived { peer, frame }
    };
    let answers = |fx: &Effects| -> Vec<(Vec<NodeId>, &'static str)> {
        fx.frames.iter().map(|outgoing| (outgoing.to.clone(), outgoing.frame.kind())).collect()
    };
    // Little is told at once: that nothing is lacking.
    let fx = replica.handle(now, want(asks, &heads));
    assert!(answers(&fx).is_empty() && !fx.work, "{fx:?}");
    let fx = replica.handle(now, want(asks, &[]));
    assert!(answers(&fx).is_empty() && fx.work, "{fx:?}");
    let first = replica.work().expect("it is to be put together");
    for _ in 0..2 {
        // However often it is asked for meanwhile, and by whom: one at a time, and once for each, but
        // for what is being put together already.
        replica.handle(now, want(asks, &heads));
        replica.handle(now, want(asks, &[]));
        replica.handle(now, want(too, &heads));
        replica.handle(now, want(too, &[]));
        assert!(replica.work().is_none());
    }
    let fx = replica.handle_done(now, first.run());
    assert_eq!(answers(&fx), [(vec![asks], "snapshot")]);
    assert!(fx.work);
    let second = replica.work().expect("the next waits");
    let fx = replica.handle_done(now, second.run());
    assert_eq!(answers(&fx), [(vec![too], "snapshot")]);
    assert!(!fx.work && replica.work().is_none());
    // It may be on its way.
    let fx = replica.handle(now, want(too, &[]));
    assert!(!fx.work, "{fx:?}");
    // Whose link is lost is owed nothing any more.
    for peer in [too, asks] {
        replica.handle(now, want(peer, &heads));
        replica.handle(now, want(peer, &[]));
    }
    let third = replica.work().expect("the next waits");
    let lost = Input::PeerLost { peer: too, code: None, reason: "gone".to_owned() };
    replica.handle(now, lost);
    let fx = replica.handle_done(now, third.run());
    assert!(answers(&fx).is_empty(), "{fx:?}");
    let fourth = replica.work().expect("the other one waits");
    let fx = replica.handle_done(now, fourth.run());
    assert_eq!(answers(&fx), [(vec![asks], "snapshot")]);
    assert!(!fx.work && replica.work().is_none());
}

#[test]
fn what_is_asked_for_together_is_told_in_one_frame_under_one_signature() {
    let mut world = World::fleet(2, 1);
    world.agree();
    let (id, now) = (document(&world, 0), world.now_at(0));
    let replica = &mut world.nodes[0].replica;
    let asked = |count: u64, note: &str| -> Vec<Input> {
        let one = |n| {
            let extra = [("note".to_owned(), note.to_owned())].into();
            let command = Command::CreateSession(NewSession { extra, ..Default::default() });
            Input::Requested { request: RequestId(n), command }
        };
        (0..count).map(one).collect()
    };
    let counts = |fx: &Effects| -> Vec<(usize, usize)> {
        let told = fx.frames.iter().map(|outgoing| match &outgoing.frame {
            Frame::Changes { document, changes, vouchers } if *document == id => {
                (changes.len(), vouchers.len())
            }
            other => panic!("{other:?}"),
        });
        told.collect()
    };
    let stored = |fx: &Effects| {
        let of = |wanted: fn(&Write) -> bool| fx.writes.iter().filter(|it| wanted(it)).count();
        (
            of(|write| matches!(write, Write::Change { .. })),
            of(|write| matches!(write, Write::Voucher { .. })),
        )
    };
    let fx = replica.handle_together(now, asked(5, "short"));
    assert_eq!((counts(&fx), stored(&fx)), (vec![(5, 1)], (5, 1)));
    assert_eq!((fx.replies.len(), fx.diffs.len()), (5, 5), "each is answered and told by itself");
    assert!(fx.replies.iter().all(|(_, reply)| reply.is_ok()));
    // No more in one frame than peers take in at once.
    let fx = replica.handle_together(now, asked(5, &random_text(3_000)));
    let told = counts(&fx);
    assert_eq!(told.iter().map(|(changes, _)| changes).sum::<usize>(), 5);
    assert!(told.len() > 1 && told.iter().all(|(_, vouchers)| *vouchers == 1), "{told:?}");
    assert_eq!(stored(&fx), (5, told.len()));
    // And all that comes after stands by itself again.
    let fx = replica.handle(now, asked(1, "alone").remove(0));
    assert_eq!((counts(&fx), stored(&fx)), (vec![(1, 1)], (1, 1)));
}

#[test]
fn who_was_away_for_long_is_sent_what_it_lacks_whatever_is_written_meanwhile() {
    let mut world = World::fleet(2, 1);
    create(&mut world, 0, 0);
    world.agree();
    world.part();
    (0..100).for_each(|_| create(&mut world, 0, 0));
    world.reads_aside = true;
    said(&mut world);
    world.plug(0, 1);
    create(&mut world, 0, 0);
    world.agree();
    let frames = said(&mut world);
    // The last may be in what was put together, beside going by itself.
    let sent: BTreeSet<Vec<u8>> = carried(&frames, (0, 1)).into_iter().collect();
    assert_eq!(sent.len(), 101);
    let others =
        kinds(&frames).into_iter().filter(|(.., kind)| matches!(*kind, "sync" | "snapshot"));
    assert_eq!(others.count(), 0, "neither a repair nor a snapshot");
}

#[test]
fn replicas_that_both_have_news_of_one_document_meet_by_the_sync_protocol() {
    let mut world = World::fleet(2, 1);
    create(&mut world, 0, 0);
    world.agree();
    world.part();
    (0..3).for_each(|_| create(&mut world, 0, 0));
    (0..4).for_each(|_| create(&mut world, 1, 0));
    said(&mut world);
    world.plug(0, 1);
    let before = world.now;
    world.agree();
    assert_eq!(world.now, before, "no time passes");
    assert_eq!(world.nodes[0].replica.view().sessions().count(), 8);
    let frames = said(&mut world);
    let of = |kind: &str| kinds(&frames).iter().filter(|(.., other)| *other == kind).count();
    assert!((2..=6).contains(&of("sync")), "{} messages", of("sync"));
    assert_eq!((of("snapshot"), of("changes")), (0, 0));
    // And it ends: nothing is said any more but the comparison that follows traffic.
    world.pass(Duration::from_secs(8));
    assert!(said(&mut world).iter().all(|(.., frame)| matches!(frame, Frame::Check { .. })));
}

#[test]
fn frames_that_a_full_queue_dropped_are_repaired_within_seconds_and_counted() {
    let mut world = World::fleet(2, 1);
    (0..3).for_each(|_| create(&mut world, 0, 0));
    assert_eq!(world.overflow(0, 1), 3);
    let until = world.now + REPAIRED_WITHIN;
    world.agree();
    assert!(world.now < until, "repaired too late");
    assert_eq!(world.nodes[1].replica.sync_repairs_total(), 1);
}

#[test]
fn what_is_lost_silently_is_found_by_the_comparison_after_traffic() {
    let mut world = World::fleet(2, 1);
    create(&mut world, 0, 0);
    assert_eq!(world.lose_silently(0, 1), 1);
    let until = world.now + REPAIRED_WITHIN;
    world.agree();
    assert!(world.now < until, "repaired too late");
    assert_eq!(world.nodes[1].replica.sync_repairs_total(), 1);
}

/// Each comparison told newer heads, and with each the wait for what was missing began anew: a
/// peer that wrote every 400 ms was never asked for the change that had been lost.
#[test]
fn a_peer_that_writes_on_and_on_does_not_put_a_repair_off() {
    let mut world = World::fleet(2, 1);
    create(&mut world, 0, 0);
    assert_eq!(world.lose_silently(0, 1), 1);
    for _ in 0..12 {
        world.pass(Duration::from_millis(400));
        create(&mut world, 0, 0);
        world.deliver();
    }
    let shown = |node: usize| world.nodes[node].replica.view().sessions().count();
    assert_eq!((shown(0), shown(1)), (13, 13));
}

/// What was written between a node's own greeting and its peer's went to nobody: the peer was not
/// yet greeted, and both had told the same frontier. It took ten seconds to be noticed.
#[test]
fn what_is_written_while_the_greetings_cross_arrives_at_once() {
    let mut world = World::fleet(2, 1);
    world.part();
    world.plug(0, 1);
    create(&mut world, 0, 0);
    create(&mut world, 1, 1);
    world.deliver();
    let shown = |node: usize| world.nodes[node].replica.view().sessions().count();
    assert_eq!((shown(0), shown(1)), (2, 2));
}

#[test]
fn a_change_is_not_relayed_to_a_peer_that_has_a_link_to_its_author() {
    let mut world = World::fleet(3, 1);
    // Until the links are told of, it would be.
    world.pass(GAINED_WITHIN);
    said(&mut world);
    create(&mut world, 0, 0);
    world.deliver();
    let pushes: Vec<_> =
        kinds(&said(&mut world)).into_iter().filter(|(.., kind)| *kind == "changes").collect();
    assert_eq!(pushes, [(0, 1, "changes"), (0, 2, "changes")]);
}

#[test]
fn a_change_is_relayed_at_once_to_a_peer_that_has_no_link_to_its_author() {
    let mut world = World::fleet(3, 1);
    world.pass(GAINED_WITHIN);
    world.cut(0, 2);
    world.deliver();
    said(&mut world);
    create(&mut world, 0, 0);
    world.deliver();
    let pushes: Vec<_> =
        kinds(&said(&mut world)).into_iter().filter(|(.., kind)| *kind == "changes").collect();
    assert_eq!(pushes, [(0, 1, "changes"), (1, 2, "changes")]);
}

#[test]
fn a_relay_that_fails_with_the_link_to_the_author_is_made_up_for_by_another() {
    let mut world = World::fleet(3, 1);
    create(&mut world, 0, 0);
    // Node 2 was to get it from its author, and the cable is pulled before it does.
    world.lose_silently(0, 2);
    world.cut(0, 2);
    let until = world.now + REPAIRED_WITHIN;
    world.agree();
    assert!(world.now < until, "made up for too late");
    assert_eq!(world.nodes[2].replica.view().sessions().count(), 1);
}

#[test]
fn a_new_node_is_given_every_document_whole() {
    let mut world = World::fleet(2, 1);
    (0..10).for_each(|n| create(&mut world, 0, n % 2));
    world.agree();
    world.add(Default::default(), 0);
    said(&mut world);
    world.join(2, 0, sessionmesh::replica::record::Role::Member);
    let frames = said(&mut world);
    let given = |id: DocumentId| {
        let of =
            |frame: &Frame| matches!(frame, Frame::Snapshot { document, .. } if *document == id);
        frames.iter().filter(|(_, to, frame)| *to == 2 && of(frame)).count()
    };
    assert_eq!(given(document(&world, 0)), 1);
    assert_eq!(given(document(&world, 1)), 1);
    let history = carried(&frames, (0, 2)).len();
    assert!(history <= 2, "{history} changes beside the documents");
    assert_eq!(world.nodes[2].replica.view().sessions().count(), 10);
    // Its own document reached node 1, to which it has no link.
    assert!(world.nodes[1].replica.document_copy(&document(&world, 2)).is_some());
}

/// Plays one frame from a member that means harm: only its link is closed, and nothing else
/// happens.
fn harmless(forge: impl Fn(&World) -> Frame, expected: Option<CloseCode>) {
    let mut world = World::fleet(3, 1);
    create(&mut world, 0, 0);
    create(&mut world, 1, 1);
    world.agree();
    world.closes.clear();
    let before = world.nodes[0].replica.frontier();
    let frame = forge(&world);
    world.forge(1, 0, &frame);
    world.deliver();
    let closes: Vec<_> =
        world.closes.iter().map(|(from, to, code, _)| (*from, *to, *code)).collect();
    assert_eq!(closes, expected.map(|code| (0, 1, code)).into_iter().collect::<Vec<_>>());
    assert!(world.is_linked(0, 2), "other links stay");
    assert_eq!(world.nodes[0].replica.frontier(), before, "nothing was taken in");
    world.check();
    // All goes on, with the one that sent it too, once it is back.
    create(&mut world, 2, 0);
    world.agree();
    assert!(world.is_linked(0, 1));
    assert_eq!(world.nodes[0].replica.view().sessions().count(), 3);
}

#[test]
fn bytes_that_are_no_change_close_the_link() {
    let junk = |world: &World| Frame::Changes {
        document: document(world, 0),
        changes: vec![b"not a change".to_vec()],
        vouchers: Vec::new(),
    };
    harmless(junk, Some(CloseCode::Hostile));
}

#[test]
fn a_change_that_was_tampered_with_closes_the_link() {
    let tampered = |world: &World| {
        let copy = automerge::Automerge::load(&bytes_of(&document(world, 1), world, 1)).unwrap();
        let mut bytes = copy.get_changes(&[]).pop().unwrap().raw_bytes().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        Frame::Changes { document: document(world, 1), changes: vec![bytes], vouchers: Vec::new() }
    };
    harmless(tampered, Some(CloseCode::Hostile));
}

#[test]
fn a_batch_with_one_bad_change_is_not_taken_in_by_half() {
    let half = |world: &World| {
        let mut copy =
            automerge::Automerge::load(&bytes_of(&document(world, 1), world, 1)).unwrap();
        copy.set_actor(
            world.nodes[1]
                .replica
                .node()
                .fingerprint()
                .iter()
                .copied()
                .chain([7; 8])
                .collect::<Vec<u8>>()
                .into(),
        );
        let mut tx = copy.transaction();
        automerge::transaction::Transactable::put(&mut tx, automerge::ROOT, "x", 1).unwrap();
        tx.commit();
        let good = copy.get_last_local_change().unwrap().raw_bytes().to_vec();
        let changes = vec![good, b"bad".to_vec()];
        Frame::Changes { document: document(world, 1), changes, vouchers: Vec::new() }
    };
    harmless(half, Some(CloseCode::Hostile));
}

#[test]
fn a_snapshot_that_is_no_document_closes_the_link() {
    let junk = |world: &World| Frame::Snapshot {
        document: document(world, 2),
        bytes: b"not a document".to_vec(),
        vouchers: Vec::new(),
    };
    harmless(junk, Some(CloseCode::Hostile));
}

/// It would have put its own maps beside those that hold the records; which of them counts is
/// decided by chance, and with it whether there are any records.
#[test]
fn a_snapshot_of_another_document_under_this_ones_name_closes_the_link() {
    let misnamed = |world: &World| Frame::Snapshot {
        document: document(world, 2),
        bytes: bytes_of(&document(world, 1), world, 1),
        vouchers: Vec::new(),
    };
    harmless(misnamed, Some(CloseCode::Hostile));
}

#[test]
fn a_sync_message_that_is_none_closes_the_link() {
    let junk = |world: &World| Frame::Sync {
        document: document(world, 0),
        message: vec![0x42, 0xff, 0xff, 0xff],
        vouchers: Vec::new(),
    };
    harmless(junk, Some(CloseCode::Hostile));
}

/// It would be loaded on the loop, which a snapshot is not.
#[test]
fn a_document_in_a_sync_message_closes_the_link() {
    let whole = |world: &World| {
        let bytes = bytes_of(&document(world, 1), world, 1);
        let mut length = Vec::new();
        let mut left = bytes.len();
        while left >= 0x80 {
            length.push(left as u8 | 0x80);
            left >>= 7;
        }
        length.push(left as u8);
        // No heads, no needs, nothing known to be had, and one document.
        let message = [&[0x43, 0, 0, 0, 1][..], &length, &bytes].concat();
        Frame::Sync { document: document(world, 1), message, vouchers: Vec::new() }
    };
    harmless(whole, Some(CloseCode::Hostile));
}

#[test]
fn a_frame_out_of_turn_closes_the_link() {
    let join = |_: &World| Frame::Joined { contacts: Vec::new() };
    harmless(join, Some(CloseCode::Unexpected));
}

#[test]
fn what_is_said_of_documents_that_are_not_of_the_fleet_is_ignored() {
    let foreign = DocumentId::Host { host: NodeId([0xee; 32]), epoch: 0 };
    let other = |_: &World| Frame::Changes {
        document: foreign,
        changes: vec![b"x".to_vec()],
        vouchers: Vec::new(),
    };
    harmless(other, None);
    let heads = DocumentHeads { document: foreign, heads: Vec::new() };
    harmless(|_: &World| Frame::Heads { documents: vec![heads.clone()], answer: false }, None);
    harmless(|_: &World| Frame::Want(heads.clone()), None);
    let snapshot = |world: &World| Frame::Snapshot {
        document: foreign,
        bytes: bytes_of(&document(world, 1), world, 1),
        vouchers: Vec::new(),
    };
    harmless(snapshot, None);
}
