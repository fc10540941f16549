//! What a node says of itself: where it says it, who takes it, and who can't say it.

use std::{collections::BTreeSet, time::Duration};

use automerge::{ActorId, ObjType, ROOT, transaction::Transactable as _};
use sessionmesh::replica::{
    command::{Command, NewSession, Refusal, Reply},
    ids::{DocumentId, NodeId},
    machine::PeerView,
    record::Role,
    trust::Trust,
};

use crate::{
    Rogue, actor_of,
    common::{
        keys::key_of,
        world::{World, name_of},
    },
    copy, create, host_document, scene, send, session_path, sessions, title,
};

fn announce(world: &mut World, node: usize, name: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|it| (*it).to_owned()).collect();
    let command = Command::Announce { name: name.to_owned(), addresses };
    assert_eq!(world.ask(node, command), Ok(Reply::Done));
}

/// Returns what a node tells of another.
fn seen(world: &World, node: usize, other: usize) -> PeerView {
    let peers = world.nodes[node].replica.peers();
    peers.into_iter().find(|peer| peer.member.node == world.nodes[other].id).expect("a member")
}

fn heads(world: &World, node: usize, document: &DocumentId) -> Vec<Vec<u8>> {
    let heads = world.nodes[node].replica.document_heads();
    let heads = heads.into_iter().find(|(id, ..)| id == document).expect("it is held").1;
    heads.iter().map(|head| head.0.to_vec()).collect()
}

#[test]
fn a_name_and_addresses_are_told_in_the_own_document_and_verbs_go_by_the_admitted_name() {
    let mut world = scene();
    let before = world.nodes[0].replica.statements_digest();
    announce(&mut world, 1, "renamed", &["10.0.0.9:7177", "10.0.0.8:7177"]);
    world.agree();
    let told = seen(&world, 2, 1);
    assert_eq!((told.name.as_str(), told.member.name.as_str()), ("renamed", "node-1"));
    let addresses = ["10.0.0.8:7177", "10.0.0.9:7177"].map(str::to_owned);
    assert_eq!(told.addresses, BTreeSet::from(addresses.clone()));
    assert_eq!(world.nodes[2].dials[&world.nodes[1].id], BTreeSet::from(addresses));
    assert_eq!(world.nodes[0].replica.statements_digest(), before, "no statement is made of it");
    let named = world.ask(0, Command::Pause("renamed".to_owned()));
    assert_eq!(named, Err(Refusal::NodeNotFound("renamed".to_owned())));
    assert_eq!(world.ask(0, Command::Pause(name_of(1))), Ok(Reply::Peer(world.nodes[1].id)));
}

#[test]
fn what_was_said_is_known_again_after_a_restart_and_said_once() {
    let mut world = scene();
    let own = host_document(&world, 1);
    let before = heads(&world, 1, &own);
    for _ in 0..3 {
        world.crash(1, usize::MAX);
        world.agree();
    }
    assert_eq!(heads(&world, 1, &own), before, "what has not changed is not written again");
    world.part();
    world.crash(0, usize::MAX);
    let node = world.nodes[1].id;
    assert_eq!(world.nodes[0].dials[&node], BTreeSet::from(["10.0.0.2:7177".to_owned()]));
}

#[test]
fn addresses_that_come_and_go_do_not_outlast_an_epoch() {
    let mut world = scene();
    for number in 0..40 {
        announce(&mut world, 1, &name_of(1), &[&format!("10.0.{number}.1:7177")]);
    }
    world.agree();
    let host = world.nodes[1].id;
    let own = |world: &World| {
        let heads = world.nodes[0].replica.document_heads();
        let of = |id: &DocumentId| id.host() == Some(host);
        heads.into_iter().map(|(id, ..)| id).rfind(of).expect("it is held")
    };
    let grown = copy(&world, 0, &own(&world)).save().len();
    assert_eq!(world.ask(1, Command::Rewrite), Ok(Reply::Done));
    // What is said while it is written is said in the next one, too.
    announce(&mut world, 1, "renamed", &["10.0.99.1:7177"]);
    world.agree();
    let told = seen(&world, 2, 1);
    assert_eq!(told.name, "renamed");
    assert_eq!(told.addresses, BTreeSet::from(["10.0.99.1:7177".to_owned()]));
    let document = copy(&world, 0, &own(&world));
    let changes = document.clone().get_changes(&[]).len();
    assert!(changes <= 5, "{changes} changes");
    assert!(document.clone().save().len() < grown, "none of those that went");
    world.crash(1, usize::MAX);
    world.agree();
    assert_eq!(seen(&world, 2, 1).name, name_of(1), "a start says it again");
}

#[test]
fn of_a_document_of_an_earlier_layout_the_host_says_it_all_the_same() {
    let mut world = scene();
    // A host that has lost its description, as one has it that never wrote any.
    let document = host_document(&world, 1);
    let rogue = Rogue::new(&world, 1);
    let change = rogue.write(&world, &document, |doc| doc.delete(ROOT, "self").unwrap());
    let vouchers = vec![rogue.vouch(&document, &change)];
    for to in [0, 2] {
        send(&mut world, 1, to, document, &[&change], vouchers.clone());
    }
    world.agree();
    announce(&mut world, 1, "renamed", &["10.0.0.9:7177"]);
    world.agree();
    assert_eq!(seen(&world, 2, 1).name, "renamed");
    assert_eq!(world.closes, []);
}

/// A joiner of which nothing but the answer has come before it was cut off.
#[test]
fn who_was_let_in_is_found_again_though_none_of_its_documents_has_come() {
    let mut world = World::strangers(2, 1);
    let secret = [7; 32];
    let expires_in = Duration::from_secs(3_600);
    let invited = world.ask(0, Command::Invite { role: Role::Member, expires_in, secret });
    let Ok(Reply::Invited(ticket)) = invited else { panic!("{invited:?}") };
    let fleet = ticket.fleet;
    world.request(1, Command::Join(ticket));
    world.plug(0, 1);
    while world.nodes[1].replica.fleet() != fleet {
        world.tick();
        assert!(world.deliver_one() || world.nodes[1].replica.fleet() == fleet, "it joins");
    }
    world.sync(1, usize::MAX);
    world.part();
    for node in [0, 1] {
        world.crash(node, usize::MAX);
        let other = world.nodes[1 - node].id;
        let address = format!("10.0.0.{}:7177", 2 - node);
        assert_eq!(world.nodes[node].dials.get(&other), Some(&BTreeSet::from([address])));
    }
    world.plug_all();
    world.agree();
    for node in [0, 1] {
        let contacts = &world.nodes[node].disk.stored().contacts;
        assert!(contacts.is_empty(), "each has said so itself by now: {contacts:?}");
    }
}

/// Who let it in is revoked before any document has come: a seed of the simulator.
#[test]
fn who_is_let_in_by_one_that_goes_at_once_still_finds_the_others() {
    let mut world = World::strangers(3, 1);
    world.join(1, 0, Role::Admin);
    let secret = [7; 32];
    let expires_in = Duration::from_secs(3_600);
    let invited = world.ask(1, Command::Invite { role: Role::Member, expires_in, secret });
    let Ok(Reply::Invited(ticket)) = invited else { panic!("{invited:?}") };
    let fleet = ticket.fleet;
    world.request(2, Command::Join(ticket));
    world.plug(1, 2);
    while world.nodes[2].replica.fleet() != fleet {
        world.tick();
        world.deliver_one();
    }
    world.cut(1, 2);
    world.pass(Duration::from_secs(1));
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    world.pass(Duration::from_secs(1));
    let found = world.nodes[0].id;
    assert_eq!(world.nodes[2].dials[&found], BTreeSet::from(["10.0.0.1:7177".to_owned()]));
    world.plug(0, 2);
    world.agree();
    assert!(world.is_linked(0, 2));
}

fn with_reader() -> World {
    let mut world = scene();
    world.add(Default::default(), 0);
    world.join(3, 0, Role::Reader);
    world.plug_all();
    world.agree();
    world.closes.clear();
    world
}

#[test]
fn a_reader_says_where_it_is_and_hosts_nothing() {
    let mut world = with_reader();
    let reader = world.nodes[3].id;
    announce(&mut world, 3, "renamed", &["10.0.0.4:7178"]);
    world.agree();
    for node in 0..3 {
        assert_eq!(seen(&world, node, 3).name, "renamed");
        assert_eq!(world.nodes[node].dials[&reader], BTreeSet::from(["10.0.0.4:7178".to_owned()]));
    }
    let host = Some(reader.to_string());
    let new = NewSession { id: Some("there".parse().unwrap()), host, ..Default::default() };
    let refused = world.ask(0, Command::CreateSession(new));
    assert_eq!(refused, Err(Refusal::ReaderHost(reader)));
    assert_eq!(world.ask(3, Command::Rewrite), Ok(Reply::Done));
    announce(&mut world, 3, "again", &["10.0.0.4:7179"]);
    world.agree();
    assert_eq!(seen(&world, 1, 3).name, "again", "in its next document, too");
    assert_eq!(world.closes, []);
}

/// What it has from before stays with it, and keeps nobody from being in sync.
#[test]
fn what_a_reader_hosted_before_it_was_one_goes_to_nobody() {
    let mut world = scene();
    world.add(Default::default(), 0);
    create(&mut world, 3, 3, "own");
    let (secret, expires_in) = ([7; 32], Duration::from_secs(3_600));
    let invited = world.ask(0, Command::Invite { role: Role::Reader, expires_in, secret });
    let Ok(Reply::Invited(ticket)) = invited else { panic!("{invited:?}") };
    world.request(3, Command::Join(ticket));
    world.plug_all();
    world.pass(Duration::from_secs(30));
    assert_eq!((sessions(&world, 0), sessions(&world, 3)), (3, 4));
    assert!(seen(&world, 0, 3).in_sync && seen(&world, 3, 1).in_sync);
    assert_eq!(world.closes, []);
}

#[test]
fn what_else_is_written_to_a_readers_document_is_left_out_even_if_the_host_wrote_it() {
    let mut world = with_reader();
    let document = host_document(&world, 3);
    let path = session_path("own");
    let before = world.nodes[0].replica.frontier();
    let write = |by: NodeId, world: &World| {
        let rogue = Rogue { node: 3, id: by };
        rogue.write(world, &document, |doc| {
            let bucket = crate::at(doc, &[&path[0], &path[1]]);
            doc.put_object(&bucket, &path[2], ObjType::Map).unwrap();
        })
    };
    for by in [3, 1] {
        let rogue = Rogue::new(&world, by);
        let change = write(rogue.id, &world);
        let vouchers = vec![rogue.vouch(&document, &change)];
        for from in [3, 1] {
            send(&mut world, from, 0, document, &[&change], vouchers.clone());
        }
    }
    assert_eq!(world.nodes[0].replica.frontier(), before);
    assert_eq!(world.closes, [], "a peer may know them as more than that");
    // Nor is it taken as a part of a whole document.
    let mut doc = copy(&world, 3, &document);
    doc.set_actor(ActorId::from(actor_of(world.nodes[3].id, 0x77)));
    let bucket = crate::at(&doc, &[&path[0], &path[1]]);
    doc.put_object(&bucket, &path[2], ObjType::Map).unwrap();
    doc.commit();
    let change = doc.get_last_local_change().unwrap();
    let rogue = Rogue::new(&world, 3);
    let mut vouchers = world.nodes[3].disk.document(document).vouchers;
    vouchers.push(rogue.vouch(&document, &change));
    let mut trust = Trust::new(key_of(rogue.id));
    trust.learn(&[seen(&world, 0, 3).member]);
    let fresh = sessionmesh::replica::document::Document::adopt(
        document,
        ActorId::from(actor_of(world.nodes[0].id, 1)),
        &doc.save(),
        &vouchers,
        &trust,
    );
    assert!(matches!(&fresh, Err(error) if error.code() == "not_yet"), "{fresh:?}");
    // Of others it writes nothing at all.
    let (document, change) = title(&world, &rogue, "by a reader");
    let vouchers = vec![rogue.vouch(&document, &change)];
    send(&mut world, 3, 0, document, &[&change], vouchers);
    assert_eq!(world.nodes[0].replica.frontier(), before);
}
