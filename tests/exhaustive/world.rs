//! The nodes of one state, and the changes that each of them knows.
//!
//! Nothing travels by itself: a node is handed exactly the changes that the explorer wants it to
//! learn. A state is copied by copying the one node that goes on.

use std::{sync::Arc, time::Duration};

use sessionmesh::{
    replica::{
        command::{Command, NewWorkspace, Refusal, Reply},
        diff::{CauseKind, Event as Told},
        effect::{Effects, Input, Now, RequestId, Startup, TeardownDue, Write},
        ids::{ChangeHash, DocumentId, NodeId, StartId},
        machine::Replica,
        voucher::Voucher,
    },
    wire::{Frame, Hello, PROTOCOL, PROTOCOL_MIN},
};

use crate::{
    common::{
        disk::Disk,
        keys::key_of,
        watch::Watch,
        world::{Mode, START_GRACE, UNDO_WINDOW, World as Linked},
    },
    model::{Change, Event, Model},
};

/// The node whose document all is about.
pub const HOST: usize = 0;
/// The workspaces of every scene.
pub const WORKSPACES: [&str; 2] = ["w1", "w2"];
/// The wall clock stands still: equal steps give equal changes, whenever they are taken.
const WALL_MS: i64 = 1_795_000_000_000;
/// The monotonic clock at the beginning, later than any at which the fleet was formed.
const BEGIN: Duration = Duration::from_secs(1_000_000);

/// One node, its disk, and what it knows.
#[derive(Debug, Clone)]
pub struct Node {
    pub replica: Replica,
    pub watch: Watch,
    /// The changes that are part of its document, as bits.
    pub knows: u64,
    /// The teardowns that it asked for and that have not ended.
    pub teardowns: Vec<TeardownDue>,
    now: Duration,
    starts: u8,
    disk: Arc<Disk>,
    /// What has been written since the disk was last looked at.
    written: Vec<Write>,
}

/// One state.
#[derive(Debug, Clone)]
pub struct World {
    pub nodes: Vec<Arc<Node>>,
    pub changes: Vec<Arc<Change>>,
}

impl World {
    /// Makes a fleet whose first node has two fresh workspaces, of which all know.
    pub fn new(replicas: usize) -> Self {
        let mut linked = Linked::fleet(replicas, 7);
        linked.teardowns = Mode::Held;
        for id in WORKSPACES {
            let new = NewWorkspace {
                id: Some(id.parse().unwrap()),
                name: id.to_owned(),
                kind: "directory".to_owned(),
                project_id: None,
                directory: None,
                branch: None,
                keep: false,
                extra: Default::default(),
            };
            linked.ask(HOST, Command::CreateWorkspace(new)).expect("a workspace");
        }
        linked.agree();
        let founded = WORKSPACES.map(|id| Event::Founded(id.to_owned())).into();
        // All know it from the beginning, so that nobody is ever sent it.
        let voucher =
            Voucher { actor: [0; 20], seq: 1, hash: ChangeHash([0; 32]), signature: [0; 64] };
        let founding =
            Change { bytes: Vec::new(), voucher, author: HOST, knew: 1, events: founded };
        let nodes = linked.nodes.into_iter().map(|node| {
            Arc::new(Node {
                replica: node.replica,
                watch: node.watch,
                knows: 1,
                teardowns: Vec::new(),
                now: BEGIN,
                starts: 2,
                disk: Arc::new(node.disk),
                written: Vec::new(),
            })
        });
        Self { nodes: nodes.collect(), changes: vec![Arc::new(founding)] }
    }

    /// Returns all changes, as bits.
    pub fn all(&self) -> u64 {
        (1 << self.changes.len()) - 1
    }

    /// Returns every set of changes that a node may know before its next step.
    pub fn knowable(&self, node: usize) -> Vec<u64> {
        let mut sets = vec![self.nodes[node].knows];
        for (at, change) in self.changes.iter().enumerate() {
            let (bit, before) = (1 << at, change.knew & !(1 << at));
            if self.nodes[node].knows & bit == 0 {
                let with: Vec<u64> = sets
                    .iter()
                    .filter(|set| *set & before == before)
                    .map(|set| set | bit)
                    .collect();
                sets.extend(with);
            }
        }
        sets
    }

    /// Has a node learn the changes of a set, in batches of so many.
    pub fn learn(&mut self, node: usize, set: u64, batch: usize) {
        let news = set & !self.nodes[node].knows;
        let news: Vec<usize> = (0..self.changes.len()).filter(|at| news >> at & 1 == 1).collect();
        self.learn_in_order(node, &news, batch);
    }

    /// Has a node learn changes in this order, in batches of so many.
    pub fn learn_in_order(&mut self, node: usize, news: &[usize], batch: usize) {
        for batch in news.chunks(batch) {
            let peer = self.nodes[self.changes[batch[0]].author].replica.node();
            let changes = batch.iter().map(|at| self.changes[*at].bytes.clone()).collect();
            let vouchers = batch.iter().map(|at| self.changes[*at].voucher).collect();
            let bits: u64 = batch.iter().map(|at| 1 << at).sum();
            Arc::make_mut(&mut self.nodes[node]).knows |= bits;
            let document = self.document();
            let fx = self.give(
                node,
                Input::FrameReceived {
                    peer,
                    frame: Frame::Changes { document, changes, vouchers },
                },
            );
            let merged =
                fx.writes.iter().filter(|write| matches!(write, Write::Change { .. })).count();
            assert!(merged >= batch.len(), "what a peer sends is taken in");
            self.take(node, fx, None);
        }
    }

    /// Asks a node for something, without yet taking note of what it does.
    pub fn ask(&mut self, node: usize, command: Command) -> (Result<Reply, Refusal>, Effects) {
        let mut fx = self.give(node, Input::Requested { request: RequestId(1), command });
        (fx.replies.pop().expect("an answer").1, fx)
    }

    /// Gives a node an input.
    pub fn give(&mut self, node: usize, input: Input) -> Effects {
        let node = Arc::make_mut(&mut self.nodes[node]);
        node.replica.handle(Now { monotonic: node.now, wall_ms: WALL_MS }, input)
    }

    /// Lets a node's undo windows end.
    pub fn pass(&mut self, node: usize) {
        Arc::make_mut(&mut self.nodes[node]).now += UNDO_WINDOW;
        let fx = self.give(node, Input::TimePassed);
        self.take(node, fx, None);
    }

    /// Takes note of what a node does: of the first change as what was asked, if anything was, of
    /// the others as what a host does by itself.
    pub fn take(&mut self, at: usize, fx: Effects, asked: Option<Vec<Event>>) {
        let document = self.document();
        let node = Arc::make_mut(&mut self.nodes[at]);
        node.watch.effects(&node.replica, &fx);
        assert!(fx.closes.is_empty() && fx.reloads.is_empty() && !fx.reset, "{fx:?}");
        assert!(!fx.work, "{fx:?}");
        let local = fx.diffs.iter().map(|publication| &publication.diff);
        let local = local.filter(|diff| diff.cause.kind == CauseKind::Local);
        let mut told = local.map(|diff| diff.events.iter().filter_map(carried_out).collect()).rev();
        // Each change that a node makes is followed by its word for it.
        let mut new: Vec<(Vec<u8>, Voucher)> = Vec::new();
        let mut written = None;
        for write in &fx.writes {
            match write {
                Write::Change { document: of, bytes } => {
                    assert_eq!(*of, document, "all is about the host's document");
                    let known = self.changes.iter().any(|change| change.bytes == *bytes);
                    written = (!known).then(|| bytes.clone());
                }
                Write::Voucher { voucher, .. } => new.extend(written.take().zip(Some(*voucher))),
                _ => {}
            }
        }
        let first = usize::from(asked.is_some());
        let mut events: Vec<Vec<Event>> = (first..new.len())
            .map(|_| told.next().expect("what a host carries out is told"))
            .collect();
        if !new.is_empty() {
            events.extend(asked);
        }
        events.reverse();
        for ((bytes, voucher), events) in new.into_iter().zip(events) {
            node.knows |= 1 << self.changes.len();
            self.changes.push(Arc::new(Change {
                bytes,
                voucher,
                author: at,
                knew: node.knows,
                events,
            }));
        }
        node.written.extend(fx.writes);
        node.teardowns.extend(fx.teardowns);
    }

    /// Starts a node anew from its disk.
    pub fn restart(&mut self, at: usize) {
        let peers: Vec<NodeId> = self.nodes.iter().map(|node| node.replica.node()).collect();
        let node = Arc::make_mut(&mut self.nodes[at]);
        let mut disk = (*node.disk).clone();
        disk.commit(&std::mem::take(&mut node.written));
        node.starts += 1;
        node.teardowns.clear();
        let start = [node.starts, at as u8, 0, 0, 0, 0, 0, 0];
        let startup = Startup {
            node: peers[at],
            name: format!("node-{at}"),
            start: StartId(start),
            seed: u64::from_le_bytes(start),
            undo_window: UNDO_WINDOW,
            keep_removed: Duration::ZERO,
            start_grace: START_GRACE,
            keyring: key_of(peers[at]),
        };
        let now = Now { monotonic: node.now, wall_ms: WALL_MS };
        let before = node.replica.digest();
        let (replica, fx) =
            Replica::open(startup, disk.stored(), now).expect("what was written can be read");
        assert_eq!(replica.digest(), before, "a restart changes nothing that is shown");
        node.replica = replica;
        node.watch.restarted(&node.replica, &disk.journal);
        node.disk = Arc::new(disk);
        self.take(at, fx, None);
        for peer in peers.iter().filter(|peer| **peer != peers[at]) {
            let replica = &self.nodes[at].replica;
            let hello = Hello {
                protocol_min: PROTOCOL_MIN,
                protocol_max: PROTOCOL,
                fleet: replica.fleet(),
                name: "a peer".to_owned(),
                version: "0".to_owned(),
                features: 0,
                frontier: replica.frontier(),
                statements: replica.statements_digest(),
            };
            let inputs = [
                Input::PeerConnected { peer: *peer },
                Input::FrameReceived { peer: *peer, frame: Frame::Hello(hello) },
            ];
            for input in inputs {
                let fx = self.give(at, input);
                self.take(at, fx, None);
            }
        }
    }

    /// Checks what holds of a node at any moment.
    pub fn check(&mut self, at: usize) {
        let node = Arc::make_mut(&mut self.nodes[at]);
        node.watch.check(&node.replica);
        self.model(at).check();
    }

    /// Returns what must follow from what a node knows.
    pub fn model(&self, node: usize) -> Model<'_> {
        Model::new(&self.changes, self.nodes[node].knows, &self.nodes[node].replica)
    }

    fn document(&self) -> DocumentId {
        DocumentId::Host { host: self.nodes[HOST].replica.node(), epoch: 0 }
    }
}

/// What a host has carried out by itself, from what is told of it.
fn carried_out(told: &Told) -> Option<Event> {
    Some(match told {
        Told::SessionPurged { session } => Event::Purged(session.id.to_string()),
        Told::WorkspaceSealed { workspace } => Event::Sealed(workspace.id.to_string()),
        Told::WorkspaceFailed { workspace } => Event::Failed(workspace.id.to_string()),
        Told::WorkspaceGone { workspace } => Event::Gone(workspace.id.to_string()),
        _ => return None,
    })
}
