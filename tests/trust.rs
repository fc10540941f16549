//! Who may write what, and in whose name: what a member gone bad signs, forges, keeps back and
//! relays is refused by every honest node, and only that.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::time::Duration;

use automerge::{
    ActorId, AutoCommit, Change, ExpandedChange, ObjId, ObjType, ROOT, ReadDoc as _,
    transaction::{CommitOptions, Transactable as _},
};
use common::{
    keys::key_of,
    world::{World, name_of},
};
use sessionmesh::{
    replica::{
        command::{Command, NewSession, NewWorkspace, Reply, SessionPatch, Target},
        document::Document,
        ids::{ActorBytes, ChangeHash, DocumentId, NodeId},
        record::{Member, Role},
        trust::Trust,
        voucher::Voucher,
    },
    wire::{CloseCode, Frame},
};

fn host_document(world: &World, host: usize) -> DocumentId {
    DocumentId::Host { host: world.nodes[host].id, epoch: 0 }
}

fn fleet_document(world: &World) -> DocumentId {
    DocumentId::Fleet(world.nodes[0].replica.fleet())
}

fn create(world: &mut World, node: usize, host: usize, id: &str) {
    let host = Some(world.nodes[host].id.to_string());
    let new = NewSession { id: Some(id.parse().unwrap()), host, ..Default::default() };
    let reply = world.ask(node, Command::CreateSession(new));
    assert!(matches!(reply, Ok(Reply::Session(_))), "{reply:?}");
}

fn sessions(world: &World, node: usize) -> usize {
    world.nodes[node].replica.view().sessions().count()
}

/// Returns what the others know of a node.
fn member(world: &World, node: usize) -> Member {
    let other = usize::from(node == 0);
    let peers = world.nodes[other].replica.peers();
    peers.into_iter().find(|peer| peer.member.node == world.nodes[node].id).unwrap().member
}

/// Returns a node's copy of a document.
fn copy(world: &World, node: usize, document: &DocumentId) -> AutoCommit {
    let copy = world.nodes[node].replica.document_copy(document).expect("it is held");
    AutoCommit::load(&copy.save()).expect("what was saved")
}

/// Returns an actor of a node's that its replica does not use.
fn actor_of(node: NodeId, start: u8) -> ActorBytes {
    let mut actor = [start; 20];
    actor[..12].copy_from_slice(&node.fingerprint());
    actor
}

fn map(doc: &AutoCommit, object: &ObjId, key: &str) -> ObjId {
    let (value, id) = doc.get(object, key).unwrap().unwrap_or_else(|| panic!("nothing at {key}"));
    assert!(value.is_object(), "{key} is no map");
    id
}

/// Returns the map at a path.
fn at(doc: &AutoCommit, path: &[&str]) -> ObjId {
    path.iter().fold(ROOT, |object, key| map(doc, &object, key))
}

/// Returns where a session's record is.
fn session_path(id: &str) -> [String; 3] {
    use sha2::{Digest as _, Sha256};
    let bucket = format!("{:02x}", Sha256::digest(id)[0]);
    ["sessions".to_owned(), bucket, id.to_owned()]
}

fn session_at(doc: &AutoCommit, id: &str) -> ObjId {
    at(doc, &session_path(id).each_ref().map(String::as_str))
}

/// What a node gone bad says, that its replica would not.
struct Rogue {
    node: usize,
    id: NodeId,
}

impl Rogue {
    fn new(world: &World, node: usize) -> Self {
        Self { node, id: world.nodes[node].id }
    }

    /// Has it write a change under an actor of its own.
    fn write(
        &self,
        world: &World,
        document: &DocumentId,
        write: impl FnOnce(&mut AutoCommit),
    ) -> Change {
        let mut doc = copy(world, self.node, document);
        doc.set_actor(ActorId::from(actor_of(self.id, 0x77)));
        write(&mut doc);
        doc.commit_with(CommitOptions::default().with_time(0)).expect("something was written");
        doc.get_last_local_change().expect("it was just written")
    }

    /// Signs a change by its own key, whoever's it is.
    fn vouch(&self, document: &DocumentId, change: &Change) -> Voucher {
        voucher_by(self.id, document, change)
    }

    /// Sends changes, each vouched for by its own key.
    fn send(&self, world: &mut World, to: usize, document: DocumentId, changes: &[&Change]) {
        let vouchers = changes.iter().map(|change| self.vouch(&document, change)).collect();
        send(world, self.node, to, document, changes, vouchers);
    }
}

fn voucher_by(signer: NodeId, document: &DocumentId, change: &Change) -> Voucher {
    let actor: ActorBytes = change.actor_id().to_bytes().try_into().unwrap();
    let hash = ChangeHash(change.hash().0);
    Voucher::sign(&*key_of(signer), document, actor, change.seq(), hash)
}

fn send(
    world: &mut World,
    from: usize,
    to: usize,
    document: DocumentId,
    changes: &[&Change],
    vouchers: Vec<Voucher>,
) {
    let changes = changes.iter().map(|change| change.raw_bytes().to_vec()).collect();
    world.forge(from, to, &Frame::Changes { document, changes, vouchers });
    world.deliver();
}

/// Three nodes with a session and a workspace each, that agree; what was closed is forgotten.
fn scene() -> World {
    let mut world = World::fleet(3, 1);
    for node in 0..3 {
        create(&mut world, node, node, &format!("s{node}"));
        let new = NewWorkspace {
            id: Some(format!("w{node}").parse().unwrap()),
            name: "w".to_owned(),
            kind: "directory".to_owned(),
            project_id: None,
            directory: None,
            branch: None,
            keep: true,
            extra: Default::default(),
        };
        world.ask(node, Command::CreateWorkspace(new)).expect("a workspace of its own");
    }
    world.agree();
    world.closes.clear();
    world
}

fn closes(world: &World) -> Vec<(usize, usize, CloseCode)> {
    world.closes.iter().map(|(from, to, code, _)| (*from, *to, *code)).collect()
}

/// Has node 1 send node 0 something that it must not: its link is closed, its name is told with the
/// reason, nothing is taken in, and all goes on.
fn refused(world: &mut World, reason: &str, play: impl FnOnce(&mut World, &Rogue)) {
    let rogue = Rogue::new(world, 1);
    let before = world.nodes[0].replica.frontier();
    play(world, &rogue);
    assert_eq!(closes(world), [(0, 1, CloseCode::Hostile)], "{:?}", world.closes);
    assert_eq!(world.nodes[0].replica.frontier(), before, "nothing was taken in");
    let peers = world.nodes[0].replica.peers();
    let problem = peers.into_iter().find(|peer| peer.member.node == rogue.id).unwrap().problem;
    assert!(problem.as_ref().is_some_and(|problem| problem.contains(reason)), "{problem:?}");
    assert!(world.is_linked(0, 2), "other links stay");
    create(world, 2, 0, "after");
    world.agree();
    assert!(world.is_linked(0, 1), "and it is let in again");
}

fn title(world: &World, rogue: &Rogue, text: &str) -> (DocumentId, Change) {
    let document = host_document(world, 0);
    let change = rogue.write(world, &document, |doc| {
        let record = session_at(doc, "s0");
        doc.put(&record, "title", text).unwrap();
    });
    (document, change)
}

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

/// Makes a change by hand.
fn crafted(change: &Change, alter: impl FnOnce(&mut ExpandedChange)) -> Change {
    let mut expanded = change.decode();
    alter(&mut expanded);
    expanded.hash = None;
    Change::from(expanded)
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
    create(&mut world, 0, 2, "goes on");
    world.deliver();
    assert!(world.session(2, 2, "goes on").is_some(), "other documents are not touched");
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

/// Each is written by node 1, a member, to what node 0 hosts.
#[test]
fn what_only_a_host_may_write_is_refused_from_others() {
    type Write = fn(&mut AutoCommit);
    let writes: [(&str, Write); 14] = [
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
        ("only its host", |doc| {
            let workspace = at(doc, &["workspaces", "w0"]);
            doc.put(&workspace, "used", false).unwrap();
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
        ("what it never holds", |doc| {
            let record = session_at(doc, "s0");
            doc.put(&record, "deleted", true).unwrap();
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
            change.operations[0].pred =
                vec![automerge::legacy::OpId(counter, actor)].into();
        });
        rogue.send(world, 0, document, &[&crafted]);
    });
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

/// A fleet of an admin, a member and another admin.
fn with_member() -> World {
    let mut world = World::strangers(3, 1);
    world.join(1, 0, Role::Member);
    world.join(2, 0, Role::Admin);
    world.plug_all();
    (0..3).for_each(|node| create(&mut world, node, node, &format!("s{node}")));
    world.agree();
    world.closes.clear();
    world
}

/// Each is written by node 1, a member and no admin.
#[test]
fn what_only_an_admin_may_write_is_refused_from_members() {
    type Write = fn(&mut AutoCommit, NodeId);
    let writes: [(&str, Write); 9] = [
        ("a member without being an admin", |doc, _| {
            let members = at(doc, &["members"]);
            let stranger = NodeId([0x55; 32]).to_string();
            let record = doc.put_object(&members, stranger, ObjType::Map).unwrap();
            doc.put(&record, "role", "admin").unwrap();
        }),
        ("a member without being an admin", |doc, own| {
            let members = at(doc, &["members"]);
            doc.delete(&members, own.to_string()).unwrap();
        }),
        ("what it may not", |doc, own| {
            let record = at(doc, &["members", &own.to_string()]);
            doc.put(&record, "role", "admin").unwrap();
        }),
        ("what it may not", |doc, _| {
            let record = at(doc, &["members", &NodeId([1; 32]).to_string()]);
            doc.put_object(&record, "revoked", ObjType::Map).unwrap();
        }),
        ("what it may not", |doc, _| {
            let record = at(doc, &["members", &NodeId([1; 32]).to_string()]);
            doc.put(&record, "name", "renamed").unwrap();
        }),
        ("what it may not", |doc, own| {
            let record = at(doc, &["members", &own.to_string()]);
            doc.put(&record, "attested", "all of it").unwrap();
        }),
        ("where it is", |doc, _| {
            let addresses = at(doc, &["members", &NodeId([1; 32]).to_string(), "addresses"]);
            doc.put(&addresses, "192.0.2.1:1", true).unwrap();
        }),
        ("laid out", |doc, _| {
            let meta = at(doc, &["meta"]);
            doc.put(&meta, "schema", 9).unwrap();
        }),
        ("not known", |doc, own| {
            // A map beside the members that nobody reads, made by whoever may write there.
            let record = at(doc, &["members", &own.to_string()]);
            let deep = doc.put_object(&record, "later", ObjType::Map).unwrap();
            doc.put(&deep, "x", 1).unwrap();
            doc.put_object(ROOT, "elsewhere", ObjType::Map).unwrap();
        }),
    ];
    for (reason, write) in writes {
        let reason = if reason == "not known" { "laid out" } else { reason };
        refused(&mut with_member(), reason, |world, rogue| {
            let document = fleet_document(world);
            let own = rogue.id;
            let change = rogue.write(world, &document, |doc| write(doc, own));
            rogue.send(world, 0, document, &[&change]);
        });
    }
}

#[test]
fn an_admin_can_not_take_a_revocation_or_an_attestation_back() {
    for key in ["revoked", "attested"] {
        let mut world = with_member();
        world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
        world.agree();
        world.closes.clear();
        let rogue = Rogue::new(&world, 2);
        let document = fleet_document(&world);
        let of = if key == "revoked" { world.nodes[1].id } else { world.nodes[0].id };
        let change = rogue.write(&world, &document, |doc| {
            let record = at(doc, &["members", &of.to_string()]);
            doc.delete(&record, key).unwrap();
        });
        rogue.send(&mut world, 0, document, &[&change]);
        assert_eq!(closes(&world), [(0, 2, CloseCode::Hostile)], "{key}");
    }
}

#[test]
fn a_whole_document_with_what_its_author_must_not_write_is_not_adopted() {
    let mut world = scene();
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
    trust.learn(&members, []);
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
    create(&mut world, 3, 0, "goes on");
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
    create(&mut world, 2, 0, "on top");
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
        assert!(world.session(node, 0, "on top").is_some(), "on node {node}");
    }
    assert!(closes(&world).iter().all(|(.., code)| *code != CloseCode::Hostile));
    // The same after restarts.
    world.crash(0, usize::MAX);
    world.crash(3, usize::MAX);
    world.agree();
}

/// Its host stands for what others, of the fleet that it left, wrote to its document.
#[test]
fn a_document_is_brought_into_another_fleet_with_what_former_fellows_wrote() {
    let mut world = World::fleet(2, 1);
    create(&mut world, 1, 0, "by a former fellow");
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
        assert!(world.session(node, 0, "by a former fellow").is_some(), "on node {node}");
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
