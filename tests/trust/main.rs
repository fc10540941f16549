//! Who may write what, and in whose name: what a member gone bad signs, forges, keeps back and
//! relays is refused by every honest node, and only that.

mod aside;
mod authors;
#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;
mod described;
mod own;
mod retired;

mod revoked;
mod rights;
mod seniors;
mod split;
mod statements;

use automerge::{
    ActorId, AutoCommit, Change, ExpandedChange, ObjId, ROOT, ReadDoc as _,
    transaction::{CommitOptions, Transactable as _},
};
use common::{keys::key_of, world::World};
use sessionmesh::{
    replica::{
        command::{Command, NewSession, NewWorkspace, Reply},
        ids::{ActorBytes, ChangeHash, DocumentId, NodeId},
        voucher::Voucher,
    },
    wire::{CloseCode, Frame},
};

fn host_document(world: &World, host: usize) -> DocumentId {
    DocumentId::Host { host: world.nodes[host].id, epoch: 0 }
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

/// Makes a change by hand.
fn crafted(change: &Change, alter: impl FnOnce(&mut ExpandedChange)) -> Change {
    let mut expanded = change.decode();
    alter(&mut expanded);
    expanded.hash = None;
    Change::from(expanded)
}

fn title(world: &World, rogue: &Rogue, text: &str) -> (DocumentId, Change) {
    let document = host_document(world, 0);
    let change = rogue.write(world, &document, |doc| {
        let record = session_at(doc, "s0");
        doc.put(&record, "title", text).unwrap();
    });
    (document, change)
}
