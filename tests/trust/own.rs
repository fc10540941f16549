//! What a node would be refused for by others, it refuses itself, whatever others have prepared.

use automerge::{ActorId, AutoCommit, ObjType, ROOT, ReadDoc as _, transaction::Transactable as _};
use sessionmesh::{
    replica::{
        command::{Command, Refusal, SessionPatch, Target, WorkspacePatch},
        document::{self, CLEARED_MAX, Document},
        effect::Write,
        ids::StartId,
        voucher::Voucher,
    },
    wire::Frame,
};

use crate::{
    Rogue, actor_of, at,
    common::{
        keys::key_of,
        world::{UNDO_WINDOW, World},
    },
    copy, crafted, create, host_document, refused, scene, session_at, session_path,
};

type Trap = (&'static str, fn(&mut AutoCommit));

/// What a host may have put where others write into a map.
const TRAPS: [Trap; 6] = [
    ("`dismissals` of workspace w1", |doc| {
        let workspace = at(doc, &["workspaces", "w1"]);
        doc.put(&workspace, "dismissals", "trap").unwrap();
    }),
    ("`keepers` of workspace w1", |doc| {
        let workspace = at(doc, &["workspaces", "w1"]);
        doc.put(&workspace, "keepers", 7).unwrap();
    }),
    ("`extra` of workspace w1", |doc| {
        let workspace = at(doc, &["workspaces", "w1"]);
        doc.put(&workspace, "extra", true).unwrap();
    }),
    ("`requests` of workspace w1", |doc| {
        let workspace = at(doc, &["workspaces", "w1"]);
        let teardown = doc.put_object(&workspace, "teardown", ObjType::Map).unwrap();
        doc.put(&teardown, "state", "failed").unwrap();
        doc.put(&workspace, "requests", "trap").unwrap();
    }),
    ("`extra` of session s1", |doc| {
        let session = session_at(doc, "s1");
        doc.put(&session, "extra", "trap").unwrap();
    }),
    ("`deleted` of session s1", |doc| {
        let session = session_at(doc, "s1");
        doc.put(&session, "deleted", "trap").unwrap();
    }),
];

/// Has node 2 do whatever can be done to what node 1 hosts, and returns why it was refused.
fn touch_all(world: &mut World) -> Vec<Refusal> {
    let (workspace, session) =
        (|| Target::new("w1".parse().unwrap()), || Target::new("s1".parse().unwrap()));
    let extra = || [("key".to_owned(), Some("value".to_owned()))].into();
    let keep = |keep| WorkspacePatch { keep: Some(keep), ..Default::default() };
    let acts = [
        Command::UpdateWorkspace(workspace(), keep(true)),
        Command::UpdateWorkspace(workspace(), WorkspacePatch { extra: extra(), ..keep(false) }),
        Command::UpdateSession(session(), SessionPatch { extra: extra(), ..Default::default() }),
        Command::Teardown(workspace(), sessionmesh::replica::record::TeardownAction::Retry),
        Command::DeleteSession { session: session(), dry_run: false },
        Command::DeleteWorkspace { workspace: workspace(), dry_run: false },
    ];
    let mut refusals = Vec::new();
    for act in acts {
        refusals.extend(world.ask(2, act).err());
        world.deliver();
    }
    refusals
}

fn between_honest(world: &World) -> Vec<&(usize, usize, sessionmesh::wire::CloseCode, String)> {
    world.closes.iter().filter(|(from, to, ..)| *from != 1 && *to != 1).collect()
}

/// Whoever wrote into it would be refused by all others, and be cut off for good.
#[test]
fn a_host_that_puts_something_else_where_maps_belong_traps_nobody() {
    for (place, write) in TRAPS {
        let mut world = scene();
        let (rogue, document) = (Rogue::new(&world, 1), host_document(&world, 1));
        let trap = rogue.write(&world, &document, write);
        rogue.send(&mut world, 0, document, &[&trap]);
        rogue.send(&mut world, 2, document, &[&trap]);
        touch_all(&mut world);
        assert!(between_honest(&world).is_empty(), "{place}: {:?}", world.closes);
        assert!(world.is_linked(0, 2));
    }
}

/// Nodes may hold one from before they knew better; here, what does not show.
#[test]
fn who_is_in_the_way_of_a_write_is_named_and_nothing_is_written() {
    let shows =
        |place: &str| ["keepers", "requests", "deleted"].iter().any(|it| place.contains(it));
    for (place, write) in TRAPS.into_iter().filter(|(place, _)| !shows(place)) {
        let mut world = scene();
        let (rogue, document) = (Rogue::new(&world, 1), host_document(&world, 1));
        let trap = rogue.write(&world, &document, write);
        let voucher = rogue.vouch(&document, &trap);
        let bytes = trap.raw_bytes().to_vec();
        world.cut(0, 1);
        world.cut(1, 2);
        for node in [0, 2] {
            let mut disk = world.nodes[node].disk.clone();
            disk.commit(&[
                Write::Change { document, bytes: bytes.clone() },
                Write::Voucher { document, voucher },
            ]);
            world.put_back(node, disk);
        }
        world.agree();
        world.closes.clear();
        let refusals = touch_all(&mut world);
        let named = format!("{place} on node-1");
        let in_the_way = Refusal::Blocked { place: named, by: Some("node-1".to_owned()) };
        assert!(refusals.contains(&in_the_way), "{place}: {refusals:?}");
        assert_eq!(world.closes, [], "{place}");
        world.agree();
        assert_eq!(world.nodes[0].replica.digest(), world.nodes[2].replica.digest());
    }
}

/// A few bytes would claim any number of them, and the host that purges the session would have to name each.
#[test]
fn a_change_that_leaves_several_values_at_one_key_is_refused() {
    refused(&mut scene(), "one key twice", |world, rogue| {
        let document = host_document(world, 0);
        let change = rogue.write(world, &document, |doc| {
            let path = session_path("copies");
            let bucket = at(doc, &[&path[0], &path[1]]);
            doc.put_object(&bucket, "copies", ObjType::Map).unwrap();
        });
        let twice = crafted(&change, |change| {
            let again = change.operations[0].clone();
            change.operations.push(again);
        });
        rogue.send(world, 0, document, &[&twice]);
    });
}

/// Each of them is legal; the host's own change that ends them all must be, too.
#[test]
fn a_host_purges_a_session_of_which_a_member_has_made_any_number_of_copies() {
    let mut world = scene();
    let (rogue, document) = (Rogue::new(&world, 1), host_document(&world, 0));
    let base = copy(&world, 1, &document);
    let path = session_path("copies");
    for batch in 0..8_u32 {
        let copies = (0..60_u32).map(|number| {
            let mut doc = base.clone();
            let mut actor = actor_of(rogue.id, 0x77);
            actor[12..16].copy_from_slice(&(batch * 60 + number).to_be_bytes());
            doc.set_actor(ActorId::from(actor));
            let bucket = at(&doc, &[&path[0], &path[1]]);
            let record = doc.put_object(&bucket, "copies", ObjType::Map).unwrap();
            doc.put(&record, "created_at", 1).unwrap();
            doc.commit();
            doc.get_last_local_change().unwrap()
        });
        let copies: Vec<_> = copies.collect();
        rogue.send(&mut world, 0, document, &copies.iter().collect::<Vec<_>>());
        create(&mut world, 0, 0, &format!("beside_{batch}"));
    }
    world.agree();
    let session = Target::new("copies".parse().unwrap());
    world.ask(2, Command::DeleteSession { session, dry_run: false }).expect("it is deleted");
    world.pass(UNDO_WINDOW * 2);
    world.agree();
    assert_eq!(world.closes, []);
    assert!(world.session(2, 0, "copies").is_none(), "it is purged");
}

#[test]
fn keeping_again_and_again_leaves_one_keep() {
    let mut world = scene();
    let target = || Target::new("w0".parse().unwrap());
    let keep = |keep| WorkspacePatch { keep: Some(keep), ..Default::default() };
    for _ in 0..5 {
        world.ask(2, Command::UpdateWorkspace(target(), keep(true))).unwrap();
        world.agree();
    }
    let doc = copy(&world, 0, &host_document(&world, 0));
    let keepers = at(&doc, &["workspaces", "w0", "keepers"]);
    assert_eq!(doc.keys(&keepers).count(), 2, "the host's and node 2's");
    assert!(doc.get(ROOT, "meta").unwrap().is_some());
    world.ask(1, Command::UpdateWorkspace(target(), keep(false))).unwrap();
    world.agree();
    assert!(!world.workspace(2, 0, "w0").unwrap().keep);
}

/// One change that takes them all back might be more than anybody takes.
#[test]
fn many_keeps_are_taken_back_in_several_changes() {
    let mut world = scene();
    let (rogue, document) = (Rogue::new(&world, 1), host_document(&world, 0));
    let keeps = rogue.write(&world, &document, |doc| {
        let keepers = at(doc, &["workspaces", "w0", "keepers"]);
        for number in 0..CLEARED_MAX + 100 {
            doc.put(&keepers, format!("op{number}"), rogue.id.to_string()).unwrap();
        }
    });
    rogue.send(&mut world, 0, document, &[&keeps]);
    world.agree();
    let changes = |world: &World| copy(world, 0, &document).get_changes(&[]).len();
    let before = changes(&world);
    let target = Target::new("w0".parse().unwrap());
    let unkeep = WorkspacePatch { keep: Some(false), ..Default::default() };
    world.ask(2, Command::UpdateWorkspace(target, unkeep)).unwrap();
    world.agree();
    assert_eq!(world.closes, []);
    assert_eq!(changes(&world), before + 2);
    assert!(!world.workspace(0, 0, "w0").unwrap().keep);
}

/// Each takes memory, and time at each change of what is shown of the host.
#[test]
fn of_a_host_that_begins_epochs_without_end_sixteen_are_held() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let host = rogue.id;
    world.cut(0, 1);
    world.cut(1, 2);
    for epoch in 1..=24_u32 {
        let actor = document::actor(&host, StartId([epoch as u8; 8]));
        let (own, laid_out) = Document::create_host(host, epoch, actor, 0);
        let last = laid_out.changes.last().unwrap();
        let id = own.id();
        let voucher = Voucher::sign(&*key_of(host), &id, last.actor, last.seq, last.hash);
        let frame = Frame::Snapshot { document: id, bytes: own.save(), vouchers: vec![voucher] };
        world.forge(2, 0, &frame);
        world.deliver();
    }
    let held = world.nodes[0].replica.document_heads();
    assert_eq!(held.iter().filter(|(id, ..)| id.host() == Some(host)).count(), 16);
    let peers = world.nodes[0].replica.peers();
    let named = peers.iter().find(|peer| peer.member.node == host).unwrap().left_out.clone();
    assert!(named.as_ref().is_some_and(|named| named.contains("epochs")), "{named:?}");
    assert!(between_honest(&world).is_empty(), "{:?}", world.closes);
    create(&mut world, 2, 0, "goes_on");
    world.deliver();
    assert!(world.session(0, 0, "goes_on").is_some());
}

/// A peer that holds less may say that it holds the same: it was told what this node does.
#[test]
fn a_node_whose_store_was_damaged_does_not_believe_one_peer_alone() {
    let mut world = scene();
    let mut disk = world.nodes[0].disk.clone();
    disk.commit(&[Write::Recovering(true)]);
    world.part();
    world.put_back(0, disk);
    world.cut(0, 2);
    world.plug(0, 1);
    world.agree();
    assert!(world.nodes[0].replica.is_recovering(), "one of two others has said so");
    world.cut(0, 1);
    world.plug(0, 2);
    world.agree();
    assert!(!world.nodes[0].replica.is_recovering(), "both have");
}
