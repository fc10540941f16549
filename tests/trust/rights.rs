//! What a change may do, whoever signed it.

use automerge::{
    ActorId, AutoCommit, ObjId, ObjType, ROOT, ReadDoc as _,
    transaction::{CommitOptions, Transactable as _},
};
use sessionmesh::replica::{
    command::Command, document::Document, ids::NodeId, record::Member, trash::TrashEntry,
    trust::Trust,
};

use crate::{
    Rogue, actor_of, at,
    common::{keys::key_of, world::World},
    copy, crafted, create, host_document, map, refused, scene, send, session_at, session_path,
    title,
};

/// Returns what the others know of a node.
fn member(world: &World, node: usize) -> Member {
    let other = usize::from(node == 0);
    let peers = world.nodes[other].replica.peers();
    peers.into_iter().find(|peer| peer.member.node == world.nodes[node].id).unwrap().member
}

/// Each is written by node 1, a member, to what node 0 hosts.
#[test]
fn what_only_a_host_may_write_is_refused_from_others() {
    type Write = fn(&mut AutoCommit);
    let writes: [(&str, Write); 22] = [
        ("purges", |doc| {
            let path = session_path("s0");
            let bucket = at(doc, &[&path[0], &path[1]]);
            doc.put(&bucket, "s0", "gone").unwrap();
        }),
        ("purges", |doc| {
            let path = session_path("s0");
            let bucket = at(doc, &[&path[0], &path[1]]);
            doc.delete(&bucket, "s0").unwrap();
        }),
        ("over another", |doc| {
            let path = session_path("s0");
            let bucket = at(doc, &[&path[0], &path[1]]);
            doc.put_object(&bucket, "s0", ObjType::Map).unwrap();
        }),
        ("wrong place", |doc| {
            let buckets = at(doc, &["sessions"]);
            let path = session_path("s9");
            let key = if path[1] == "00" { "01" } else { "00" };
            let bucket = map(doc, &buckets, key);
            doc.put_object(&bucket, "s9", ObjType::Map).unwrap();
        }),
        ("a workspace of another host", |doc| {
            let workspaces = at(doc, &["workspaces"]);
            doc.put_object(&workspaces, "w9", ObjType::Map).unwrap();
        }),
        ("a workspace of another host", |doc| {
            let workspaces = at(doc, &["workspaces"]);
            doc.put(&workspaces, "w0", "gone").unwrap();
        }),
        ("only its host", |doc| {
            let workspace = at(doc, &["workspaces", "w0"]);
            doc.put_object(&workspace, "teardown", ObjType::Map).unwrap();
        }),
        ("only its host", |doc| {
            let workspace = at(doc, &["workspaces", "w0"]);
            doc.put(&workspace, "directory", "/home/somebody/else").unwrap();
        }),
        // Who has it decides whether a missing folder is taken for removed.
        ("only its host", |doc| {
            let workspace = at(doc, &["workspaces", "w0"]);
            doc.put(&workspace, "agent_server", "http://elsewhere/").unwrap();
        }),
        ("only its host", |doc| {
            let workspace = at(doc, &["workspaces", "w0"]);
            doc.put(&workspace, "used", ()).unwrap();
        }),
        ("in another's name", |doc| {
            let keepers = at(doc, &["workspaces", "w0", "keepers"]);
            doc.put(&keepers, "op_9", NodeId([1; 32]).to_string()).unwrap();
        }),
        ("laid out", |doc| {
            doc.put_object(ROOT, "sessions", ObjType::Map).unwrap();
        }),
        ("laid out", |doc| {
            let buckets = at(doc, &["sessions"]);
            doc.put_object(&buckets, "zz", ObjType::Map).unwrap();
        }),
        ("laid out", |doc| {
            let meta = at(doc, &["meta"]);
            doc.put(&meta, "epoch", 7).unwrap();
        }),
        // Whoever reads it gives up what was never carried over.
        ("laid out", |doc| {
            let meta = at(doc, &["meta"]);
            let carried = doc.put_object(&meta, "carried", ObjType::Map).unwrap();
            doc.put_object(&carried, "0", ObjType::Map).unwrap();
        }),
        ("what it never holds", |doc| {
            let record = session_at(doc, "s0");
            doc.put(&record, "deleted", true).unwrap();
        }),
        // Who has it decides whether it may be purged.
        ("what it never holds", |doc| {
            let record = session_at(doc, "s0");
            doc.put(&record, "agent_server", "http://elsewhere/").unwrap();
        }),
        ("what it never holds", |doc| {
            let record = session_at(doc, "s0");
            doc.put(&record, "agent", "another").unwrap();
        }),
        ("said of a delete", |doc| {
            let record = session_at(doc, "s0");
            let deleted = doc.put_object(&record, "deleted", ObjType::Map).unwrap();
            doc.put(&deleted, "reason", "agent").unwrap();
        }),
        ("only that says of itself", |doc| {
            let own = at(doc, &["self"]);
            doc.put(&own, "name", "renamed").unwrap();
        }),
        ("only that says of itself", |doc| {
            let addresses = at(doc, &["self", "addresses"]);
            doc.put(&addresses, "192.0.2.1:1", true).unwrap();
        }),
        ("laid out", |doc| {
            doc.put_object(ROOT, "self", ObjType::Map).unwrap();
        }),
    ];
    for (reason, write) in writes {
        refused(&mut scene(), reason, |world, rogue| {
            let document = host_document(world, 0);
            let change = rogue.write(world, &document, write);
            rogue.send(world, 0, document, &[&change]);
        });
    }
}

/// What a host keeps is its own to tell, and to answer; others only ask, each in its own name.
#[test]
fn what_a_host_keeps_others_only_ask_for() {
    type Write = fn(&mut AutoCommit);
    const ENTRY: &[&str] = &["workspaces", ".trash", "kept"];
    const REQUESTS: &[&str] = &["workspaces", ".trash", "kept", "requests"];
    let writes: [(&str, Write); 9] = [
        ("what a host keeps", |doc| {
            let trash = at(doc, &ENTRY[..2]);
            doc.put_object(&trash, "another", ObjType::Map).unwrap();
        }),
        ("what a host keeps", |doc| {
            let trash = at(doc, &ENTRY[..2]);
            doc.delete(&trash, "kept").unwrap();
        }),
        ("what a host keeps", |doc| {
            let entry = at(doc, ENTRY);
            doc.put(&entry, "summary", "{}").unwrap();
        }),
        ("what a host keeps", |doc| {
            let entry = at(doc, ENTRY);
            doc.put_object(&entry, "requests", ObjType::Map).unwrap();
        }),
        ("what a host keeps", |doc| {
            let entry = at(doc, ENTRY);
            doc.put(&entry, "what a newer version may add", 1).unwrap();
        }),
        ("a workspace of another host", |doc| {
            let workspaces = at(doc, &["workspaces"]);
            doc.delete(&workspaces, ".trash").unwrap();
        }),
        ("in another's name", |doc| {
            let requests = at(doc, REQUESTS);
            doc.put(&requests, "op_9", NodeId([3; 32]).to_string()).unwrap();
        }),
        ("in another's name", |doc| {
            let requests = at(doc, REQUESTS);
            doc.put(&requests, "no operation!", NodeId([2; 32]).to_string()).unwrap();
        }),
        ("takes one back", |doc| {
            let requests = at(doc, REQUESTS);
            doc.delete(&requests, "op_asked").unwrap();
        }),
    ];
    for (reason, write) in writes {
        let mut world = scene();
        let host = world.nodes[0].id;
        let summary = serde_json::json!({
            "id": "kept", "kind": "workspace", "name": "w", "host": host, "ended_at": 1,
            "expires_at": 2, "bytes": 3, "state": "kept",
        });
        let entry: TrashEntry = serde_json::from_value(summary).expect("an entry");
        let (entries, answered) = (vec![entry], Default::default());
        world.ask(0, Command::ReportTrash { entries, answered }).expect("it is its own");
        world.agree();
        // A request of its own is taken.
        let (rogue, document) = (Rogue::new(&world, 1), host_document(&world, 0));
        let asked = rogue.write(&world, &document, |doc| {
            let requests = at(doc, REQUESTS);
            doc.put(&requests, "op_asked", NodeId([2; 32]).to_string()).unwrap();
        });
        rogue.send(&mut world, 0, document, &[&asked]);
        world.agree();
        assert_eq!(world.nodes[2].replica.trash()[0].requests.len(), 1);
        refused(&mut world, reason, |world, rogue| {
            let mut doc = copy(world, 1, &document);
            doc.set_actor(ActorId::from(actor_of(rogue.id, 0x78)));
            write(&mut doc);
            doc.commit_with(CommitOptions::default().with_time(0)).expect("something was written");
            let change = doc.get_last_local_change().expect("it was just written");
            rogue.send(world, 0, document, &[&change]);
        });
    }
}

/// Automerge marks as overwritten whatever an operation names, where it comes across it: a purged
/// session would come back, on some replicas.
#[test]
fn a_change_that_overwrites_what_stands_elsewhere_is_refused() {
    refused(&mut scene(), "overwrites what is not there", |world, rogue| {
        let (document, change) = title(world, rogue, "takes another away");
        let doc = copy(world, 1, &document);
        let keepers = at(&doc, &["workspaces", "w0", "keepers"]);
        let ObjId::Id(counter, actor, _) = keepers else { panic!("a map") };
        let crafted = crafted(&change, |change| {
            change.operations[0].pred = vec![automerge::legacy::OpId(counter, actor)].into();
        });
        rogue.send(world, 0, document, &[&crafted]);
    });
}

/// A relay may know less than this node; the signer is named.
#[test]
fn who_wrote_what_it_may_not_is_named_also_when_another_passes_it_on() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let document = host_document(&world, 0);
    let change = rogue.write(&world, &document, |doc| {
        let workspace = at(doc, &["workspaces", "w0"]);
        doc.put_object(&workspace, "teardown", ObjType::Map).unwrap();
    });
    let vouchers = vec![rogue.vouch(&document, &change)];
    send(&mut world, 2, 0, document, &[&change], vouchers);
    assert_eq!(world.closes, [], "nobody is cut off for what another one wrote");
    let peers = world.nodes[0].replica.peers();
    let named = peers.iter().find(|peer| peer.member.node == rogue.id).unwrap().left_out.clone();
    assert!(
        named.as_ref().is_some_and(|it| it.contains(&format!("by {} ", rogue.id))),
        "{named:?}"
    );
    let left_out = world.nodes[0].replica.left_out_total();
    assert_eq!(left_out.get("overreach"), Some(&1), "{left_out:?}");
    // Nothing that builds on it is taken, and whatever else comes is.
    let mut doc = copy(&world, 1, &document);
    doc.apply_changes([change]).unwrap();
    doc.set_actor(ActorId::from(actor_of(rogue.id, 0x78)));
    let record = session_at(&doc, "s0");
    doc.put(&record, "title", "on top of it").unwrap();
    doc.commit();
    let on_top = doc.get_last_local_change().unwrap();
    let vouchers = vec![rogue.vouch(&document, &on_top)];
    send(&mut world, 2, 0, document, &[&on_top], vouchers);
    create(&mut world, 2, 0, "beside_it");
    world.agree();
    assert_eq!(world.closes, []);
    assert_eq!(world.session(0, 0, "s0").unwrap().title, None);
    assert!(world.session(0, 0, "beside_it").is_some());
}

#[test]
fn fields_that_a_newer_version_may_add_are_taken_and_passed_on() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let document = host_document(&world, 0);
    let change = rogue.write(&world, &document, |doc| {
        for record in [session_at(doc, "s0"), at(doc, &["workspaces", "w0"])] {
            doc.put(&record, "mood", "good").unwrap();
            let deep = doc.put_object(&record, "later", ObjType::Map).unwrap();
            doc.put(&deep, "n", 1.5).unwrap();
        }
    });
    rogue.send(&mut world, 0, document, &[&change]);
    world.agree();
    assert_eq!(world.closes, []);
    let doc = copy(&world, 2, &document);
    assert!(doc.get(session_at(&doc, "s0"), "mood").unwrap().is_some());
}

#[test]
fn a_whole_document_with_what_its_author_must_not_write_is_not_adopted() {
    let world = scene();
    let rogue = Rogue::new(&world, 1);
    let document = host_document(&world, 0);
    let mut doc = copy(&world, 1, &document);
    doc.set_actor(ActorId::from(actor_of(rogue.id, 0x77)));
    let workspace = at(&doc, &["workspaces", "w0"]);
    doc.put_object(&workspace, "teardown", ObjType::Map).unwrap();
    doc.commit();
    let last = doc.get_last_local_change().unwrap();
    let bytes = doc.save();
    let mut vouchers = world.nodes[1].replica.document_vouchers(&document);
    vouchers.push(rogue.vouch(&document, &last));
    let members: Vec<_> = (0..3).map(|node| member(&world, node)).collect();
    let mut trust = Trust::new(key_of(rogue.id));
    trust.learn(&members);
    let actor = || ActorId::from(actor_of(rogue.id, 0x78));
    let adopted = Document::adopt(document, actor(), &bytes, &vouchers, &trust);
    let refused = adopted.expect_err("it ends what another hosts").to_string();
    assert!(refused.contains("only its host"), "{refused}");
    // Without the last change it is taken, and not without the word of each author.
    let honest = copy(&world, 1, &document).save();
    let mut vouchers = world.nodes[1].replica.document_vouchers(&document);
    assert!(Document::adopt(document, actor(), &honest, &vouchers, &trust).is_ok());
    vouchers.pop();
    let refused = Document::adopt(document, actor(), &honest, &vouchers, &trust).unwrap_err();
    assert!(refused.to_string().contains("nobody vouches"), "{refused}");
}
