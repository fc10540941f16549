//! A small world of replicas: virtual time, links in memory, disks that forget what was not synced.
//!
//! Everything is drawn from one seed, so that a world can be played again. After every step the
//! invariants that can be seen from outside are checked (see `watch`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sessionmesh::{
    replica::{
        command::{Command, Refusal, Reply},
        effect::{Effects, Input, Now, Outgoing, RequestId, Startup, TeardownDue, TeardownOutcome},
        ids::{NodeId, StartId},
        machine::{Done, ReadBulk, Replica, TeardownStands, bulk_bytes},
        record::{Role, Session, SessionKey, Workspace, WorkspaceKey},
    },
    wire::{self, CloseCode, Frame},
};
use sha2::{Digest as _, Sha256};

use super::{
    disk::Disk,
    keys::key_of,
    network::{REDIAL, Wire, ends},
    watch::Watch,
};

/// How long the fleet may take to agree once it is quiet.
const AGREE_WITHIN: Duration = Duration::from_secs(60);
/// Midnight of some day, in milliseconds since the epoch.
const WALL_MS: i64 = 1_795_000_000_000;

/// How long a delete can be undone in this world.
pub const UNDO_WINDOW: Duration = Duration::from_secs(10);
/// How long hosts of this world keep what they remove.
pub const KEEP_REMOVED: Duration = Duration::from_secs(14 * 86_400);
/// How long they wait after a start for a peer that may know better.
pub const START_GRACE: Duration = Duration::from_secs(3_600);
/// The agent's server that every node of this world bridges.
pub const SERVER: &str = "http://agent.test/";

/// What waits for the disk, in order.
#[derive(Debug)]
struct Batch {
    writes: Vec<sessionmesh::replica::effect::Write>,
    frames: Vec<Outgoing>,
    reloads: Vec<sessionmesh::replica::ids::DocumentId>,
    replies: Vec<(RequestId, Result<Reply, Refusal>)>,
    teardowns: Vec<TeardownDue>,
}

/// What was done beside a replica, which goes on meanwhile.
#[derive(Debug)]
pub(super) enum Aside {
    /// A frame was read.
    Read(ReadBulk),
    /// Something was done that it had asked for.
    Done(Done),
}

/// One node: its replica, its disk and what is known of it from outside.
pub struct Node {
    pub id: NodeId,
    pub replica: Replica,
    pub watch: Watch,
    pub disk: Disk,
    /// Teardowns that were asked for and not yet answered.
    pub teardowns: Vec<TeardownDue>,
    /// Whether it was told that restores of what it keeps may be asked for, and has not looked.
    pub restores_asked: bool,
    /// Added to the wall clock.
    pub skew_ms: i64,
    waiting: VecDeque<Batch>,
    /// What was read or written beside the replica, and comes back some time.
    pub(super) aside: VecDeque<Aside>,
    pub dials: BTreeMap<NodeId, BTreeSet<String>>,
    born: Duration,
    starts: u8,
}

/// How the world treats disks and teardowns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// At once.
    Prompt,
    /// When the test says so.
    Held,
}

pub struct World {
    pub nodes: Vec<Node>,
    pub now: Duration,
    pub random: fastrand::Rng,
    /// Whether disks sync by themselves.
    pub disks: Mode,
    /// Whether teardowns succeed by themselves.
    pub teardowns: Mode,
    /// Whether all that peers send of documents is read beside the replicas, not only what is much, and
    /// what they ask for themselves is done there.
    pub reads_aside: bool,
    /// Where every effect goes in: equal for equal runs.
    pub trace: Sha256,
    /// Frames as they were sent: from, to, what; kept while it is `Some`.
    pub sent: Option<Vec<(usize, usize, Frame)>>,
    /// Links closed by a replica, and why.
    pub closes: Vec<(usize, usize, CloseCode, String)>,
    pub(super) wires: BTreeMap<(usize, usize), Wire>,
    answers: BTreeMap<RequestId, Result<Reply, Refusal>>,
    requests: u64,
}

impl World {
    /// Makes nodes that are each alone in a fleet of their own, with no cables.
    pub fn strangers(nodes: usize, seed: u64) -> Self {
        let mut world = Self::empty(seed);
        (0..nodes).for_each(|_| world.add(Disk::default(), 0));
        world
    }

    fn empty(seed: u64) -> Self {
        Self {
            nodes: Vec::new(),
            now: Duration::from_secs(1_000),
            random: fastrand::Rng::with_seed(seed),
            disks: Mode::Prompt,
            teardowns: Mode::Prompt,
            reads_aside: false,
            trace: Sha256::new(),
            sent: None,
            closes: Vec::new(),
            wires: BTreeMap::new(),
            answers: BTreeMap::new(),
            requests: 0,
        }
    }

    /// Makes a fleet whose nodes are all linked to each other.
    ///
    /// The tickets and joins are played once for each size, and every fleet starts from there.
    pub fn fleet(nodes: usize, seed: u64) -> Self {
        static FORMED: Mutex<BTreeMap<usize, Vec<Disk>>> = Mutex::new(BTreeMap::new());
        let mut formed = FORMED.lock().unwrap_or_else(PoisonError::into_inner);
        let disks = formed.entry(nodes).or_insert_with(|| {
            let world = Self::formed(nodes);
            world.nodes.into_iter().map(|node| node.disk).collect()
        });
        let mut world = Self::empty(seed);
        disks.clone().into_iter().for_each(|disk| world.add(disk, 1));
        drop(formed);
        world.plug_all();
        world.agree();
        world
    }

    /// Has nodes found a fleet by tickets and joins.
    fn formed(nodes: usize) -> Self {
        let mut world = Self::strangers(nodes, 0);
        for node in 1..nodes {
            world.join(node, 0, Role::Admin);
        }
        world.plug_all();
        world.agree();
        world
    }

    /// Plugs all cables in.
    pub fn plug_all(&mut self) {
        for a in 0..self.nodes.len() {
            (0..a).for_each(|b| self.plug(a, b));
        }
    }

    /// Adds a node that finds this on its disk.
    pub fn add(&mut self, disk: Disk, starts: u8) {
        let number = self.nodes.len();
        let id = NodeId([number as u8 + 1; 32]);
        let born = self.now - Duration::from_secs(self.random.u64(..900));
        let now = Now { monotonic: self.now - born, wall_ms: WALL_MS };
        let startup = startup(number, id, starts);
        let (replica, fx) = Replica::open(startup, disk.stored(), now).expect("it can be read");
        let watch = Watch::new(&replica);
        self.nodes.push(Node {
            id,
            replica,
            watch,
            disk,
            teardowns: Vec::new(),
            restores_asked: false,
            skew_ms: 0,
            waiting: VecDeque::new(),
            aside: VecDeque::new(),
            dials: BTreeMap::new(),
            born,
            starts,
        });
        self.opened(number, fx);
    }

    /// Lets `node` into the fleet of `inviter` by a ticket, over a cable of their own.
    pub fn join(&mut self, node: usize, inviter: usize, role: Role) {
        let secret = [node as u8; 32];
        let expires_in = Duration::from_secs(3_600);
        let invited = self.ask(inviter, Command::Invite { role, expires_in, secret });
        let Reply::Invited(ticket) = invited.expect("an admin invites") else { panic!("a ticket") };
        let request = self.request(node, Command::Join(ticket));
        self.plug(node, inviter);
        self.agree();
        let answer = self.answers.remove(&request);
        let fleet = self.nodes[inviter].replica.fleet();
        assert_eq!(answer, Some(Ok(Reply::Joined(fleet))), "node {node} joins");
    }

    /// Asks a node for something and returns the answer, once it is durable.
    pub fn ask(&mut self, node: usize, command: Command) -> Result<Reply, Refusal> {
        let request = self.request(node, command);
        self.sync(node, usize::MAX);
        self.answers.remove(&request).expect("an answer")
    }

    /// Asks a node for something.
    pub fn request(&mut self, node: usize, command: Command) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.handle(node, Input::Requested { request, command });
        request
    }

    /// Returns what was answered to a request, once.
    pub fn answer(&mut self, request: RequestId) -> Option<Result<Reply, Refusal>> {
        self.answers.remove(&request)
    }

    /// Tells a node how a teardown ended that it asked for.
    pub fn end_teardown(&mut self, node: usize, due: TeardownDue, outcome: TeardownOutcome) {
        let workspace = due.workspace.key();
        let incarnation = due.incarnation;
        self.handle(node, Input::TeardownEnded { workspace, incarnation, outcome });
    }

    pub fn now_at(&self, node: usize) -> Now {
        let node = &self.nodes[node];
        let elapsed_ms = i64::try_from(self.now.as_millis()).unwrap();
        Now { monotonic: self.now - node.born, wall_ms: WALL_MS + elapsed_ms + node.skew_ms }
    }

    /// Gives a node one input and takes its effects where they belong.
    pub fn handle(&mut self, node: usize, input: Input) {
        let now = self.now_at(node);
        let replica = &mut self.nodes[node].replica;
        let fx = match input {
            // As a daemon does it: what brings much is read beside the replica, which goes on.
            Input::FrameReceived { peer, frame }
                if self.reads_aside || bulk_bytes(&frame).is_some() =>
            {
                match replica.to_read(&peer, frame) {
                    Ok(bulk) => {
                        let read = bulk.read();
                        let read = if self.random.bool() { read.show() } else { read };
                        self.nodes[node].aside.push_back(Aside::Read(read));
                        return;
                    }
                    Err(frame) => replica.handle(now, Input::FrameReceived { peer, frame }),
                }
            }
            input => replica.handle(now, input),
        };
        self.take(node, fx);
    }

    /// Gives a node the next of what was done beside its replica.
    pub(super) fn give_aside(&mut self, node: usize) {
        let now = self.now_at(node);
        let read = match self.nodes[node].aside.pop_front() {
            Some(Aside::Read(read)) => read,
            Some(Aside::Done(done)) => return self.give_done(node, done),
            None => return,
        };
        let (fx, again) = self.nodes[node].replica.handle_read(now, read);
        if let Some(bulk) = again {
            self.nodes[node].aside.push_front(Aside::Read(bulk.read()));
        }
        self.take(node, fx);
    }

    fn give_done(&mut self, node: usize, done: Done) {
        let now = self.now_at(node);
        let fx = self.nodes[node].replica.handle_done(now, done);
        self.take(node, fx);
    }

    fn take(&mut self, node: usize, fx: Effects) {
        self.trace.update(format!("{node} {:?} {:?} {:?}", self.now, fx.replies, fx.teardowns));
        for outgoing in fx.frames.iter().chain(&fx.frames_durable) {
            self.trace.update(wire::encode(&outgoing.frame).expect("a replica keeps the limits"));
        }
        for publication in &fx.diffs {
            self.trace.update(publication.body.as_bytes());
        }
        {
            let Node { replica, watch, .. } = &mut self.nodes[node];
            watch.effects(replica, &fx);
        }
        let Effects {
            frames,
            closes,
            dials,
            diffs: _,
            reset: _,
            writes,
            frames_durable,
            reloads,
            unreadable: _,
            replies,
            teardowns,
            receipts: _,
            trash,
            work,
            evidence: _,
            accepted: _,
            members: _,
        } = fx;
        self.nodes[node].restores_asked |= trash;
        if let Some(dials) = dials {
            self.nodes[node].dials =
                dials.into_iter().map(|target| (target.node, target.addresses)).collect();
        }
        frames.into_iter().for_each(|outgoing| self.send(node, outgoing));
        for (peer, code, reason) in closes {
            self.close(node, peer, code, reason);
        }
        let batch = Batch { writes, frames: frames_durable, reloads, replies, teardowns };
        self.nodes[node].waiting.push_back(batch);
        if self.disks == Mode::Prompt {
            self.sync(node, usize::MAX);
        }
        while work && let Some(work) = self.nodes[node].replica.work() {
            let done = work.run();
            if self.reads_aside {
                self.nodes[node].aside.push_back(Aside::Done(done));
            } else {
                self.give_done(node, done);
            }
        }
        self.dial();
    }

    /// Makes the first `batches` that wait durable, and gives out what waited for that.
    pub fn sync(&mut self, node: usize, batches: usize) {
        for _ in 0..batches {
            let Some(batch) = self.nodes[node].waiting.pop_front() else { return };
            let Batch { writes, frames, reloads, replies, teardowns } = batch;
            let state = &mut self.nodes[node];
            state.disk.commit(&writes);
            state.watch.durable(&writes, &replies);
            for due in &teardowns {
                state.watch.teardown_started(state.disk.stored(), due);
            }
            self.answers.extend(replies);
            frames.into_iter().for_each(|outgoing| self.send(node, outgoing));
            for document in reloads {
                let stored = self.nodes[node].disk.document(document);
                self.handle(node, Input::DocumentReloaded(stored));
            }
            teardowns.into_iter().for_each(|due| self.begin_teardown(node, due));
        }
    }

    /// Has a teardown begin whose seal is durable, as the daemon's engine does.
    fn begin_teardown(&mut self, node: usize, due: TeardownDue) {
        let Node { replica, watch, teardowns, .. } = &mut self.nodes[node];
        let outcome = match replica.teardown_stands(&due) {
            TeardownStands::Awaited => {
                watch.teardown_begins(replica, &due);
                if self.teardowns == Mode::Held {
                    return teardowns.push(due);
                }
                TeardownOutcome::Gone
            }
            TeardownStands::Occupied => TeardownOutcome::PutOff,
            TeardownStands::Over => TeardownOutcome::Gone,
        };
        self.end_teardown(node, due, outcome);
    }

    /// Returns how many batches wait for a node's disk.
    pub fn unsynced(&self, node: usize) -> usize {
        self.nodes[node].waiting.len()
    }

    /// Kills a node after its disk has synced some of what waits, and starts it again.
    pub fn crash(&mut self, node: usize, synced: usize) {
        self.sync(node, synced);
        let peers: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != node).collect();
        let plugged: Vec<usize> =
            peers.into_iter().filter(|other| self.is_plugged(node, *other)).collect();
        for other in &plugged {
            let wire = self.wires.get_mut(&ends(node, *other)).expect("it is plugged");
            wire.plugged = false;
            if std::mem::take(&mut wire.up) {
                wire.packets.iter_mut().for_each(VecDeque::clear);
                let peer = self.nodes[node].id;
                let reason = "the node was killed".to_owned();
                self.handle(*other, Input::PeerLost { peer, code: None, reason });
            }
        }
        self.nodes[node].waiting.clear();
        self.nodes[node].aside.clear();
        self.nodes[node].teardowns.clear();
        self.nodes[node].restores_asked = false;
        self.nodes[node].dials.clear();
        self.nodes[node].starts += 1;
        self.nodes[node].born = self.now - Duration::from_secs(self.random.u64(..900));
        let now = self.now_at(node);
        let state = &mut self.nodes[node];
        let startup = startup(node, state.id, state.starts);
        let opened = Replica::open(startup, state.disk.stored(), now);
        let (replica, fx) = opened.expect("what was durable can be read");
        state.replica = replica;
        state.watch.restarted(&state.replica, &state.disk.journal);
        self.opened(node, fx);
        for other in plugged {
            let redial_at = self.now + REDIAL;
            let wire = self.wires.get_mut(&ends(node, other)).expect("it was plugged");
            wire.plugged = true;
            wire.redial_at = redial_at;
        }
    }

    /// Puts an old copy of a node's disk in its place, and starts it again.
    pub fn put_back(&mut self, node: usize, disk: Disk) {
        self.nodes[node].disk = disk;
        self.crash(node, 0);
    }

    fn opened(&mut self, node: usize, fx: Effects) {
        self.take(node, fx);
        // A daemon makes what a start wrote durable before it talks to anyone.
        self.sync(node, usize::MAX);
        let addresses = [format!("10.0.0.{}:7177", node + 1)].into();
        let announced = self.ask(node, Command::Announce { name: name_of(node), addresses });
        assert_eq!(announced, Ok(Reply::Done));
    }

    /// Lets time pass, with all that becomes due in it.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        self.deliver();
        for _ in 0..100_000 {
            let due = self.next_due().filter(|due| *due <= until);
            self.now = due.unwrap_or(until).max(self.now);
            self.tick();
            self.deliver();
            if due.is_none() {
                return;
            }
        }
        panic!("something is always due");
    }

    /// Lets each node do what is due now, and dials.
    pub fn tick(&mut self) {
        for node in 0..self.nodes.len() {
            self.handle(node, Input::TimePassed);
        }
        self.dial();
    }

    fn next_due(&self) -> Option<Duration> {
        let nodes = self.nodes.iter().filter_map(|node| Some(node.replica.due()? + node.born));
        let wires = self.wires.values().filter(|wire| wire.plugged && !wire.up);
        let redials = wires.map(|wire| wire.redial_at).filter(|at| *at > self.now);
        nodes.chain(redials).min()
    }

    /// Lets as much time pass as the linked nodes need to hold the same, usually none.
    pub fn agree(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.sync(node, usize::MAX));
        self.deliver();
        let until = self.now + AGREE_WITHIN;
        while !self.is_agreed() {
            assert!(self.now < until, "linked nodes still differ: {}", self.differences());
            self.pass(Duration::from_millis(50));
            (0..self.nodes.len()).for_each(|node| self.sync(node, usize::MAX));
            self.deliver();
        }
        self.check();
    }

    /// Lets as much time pass as it takes that nothing is left to carry out, and all agree.
    pub fn finish(&mut self) {
        for _ in 0..4 {
            self.pass(UNDO_WINDOW + Duration::from_secs(1));
            self.agree();
        }
    }

    fn is_agreed(&self) -> bool {
        self.wires.iter().filter(|(_, wire)| wire.plugged).all(|((a, b), wire)| {
            let (a, b) = (&self.nodes[*a], &self.nodes[*b]);
            let held_apart = |a: &Node, b: &Node| {
                a.replica.peers().iter().any(|peer| {
                    peer.member.node == b.id && (peer.paused || !peer.member.is_current())
                })
            };
            let apart = held_apart(a, b) || held_apart(b, a);
            apart || (wire.up && a.replica.frontier() == b.replica.frontier())
        })
    }

    fn differences(&self) -> String {
        let heads = |node: &Node| format!("{:?}\n", node.replica.document_heads());
        let links: Vec<_> =
            self.wires.iter().map(|(ends, wire)| (ends, wire.plugged, wire.up)).collect();
        format!("{links:?} {:?}\n{}", self.closes, self.nodes.iter().map(heads).collect::<String>())
    }

    /// Checks what holds at any moment on each node, and between nodes that hold the same.
    pub fn check(&mut self) {
        for node in &mut self.nodes {
            node.watch.check(&node.replica);
        }
        let mut by_frontier = BTreeMap::new();
        for node in &self.nodes {
            let digest = node.replica.digest();
            let other = by_frontier.entry(node.replica.frontier()).or_insert(digest);
            assert_eq!(*other, digest, "equal heads give equal views");
        }
    }

    /// Returns what a node shows of a session.
    pub fn session(&self, node: usize, host: usize, id: &str) -> Option<Session> {
        let key = self.session_key(host, id);
        self.nodes[node].replica.view().session(&key).map(|session| (**session).clone())
    }

    /// Returns what a node shows of a workspace.
    pub fn workspace(&self, node: usize, host: usize, id: &str) -> Option<Workspace> {
        let key = self.workspace_key(host, id);
        self.nodes[node].replica.view().workspace(&key).map(|entry| (*entry.record).clone())
    }

    pub fn session_key(&self, host: usize, id: &str) -> SessionKey {
        SessionKey { host: self.nodes[host].id, id: id.parse().expect("a valid id") }
    }

    pub fn workspace_key(&self, host: usize, id: &str) -> WorkspaceKey {
        WorkspaceKey { host: self.nodes[host].id, id: id.parse().expect("a valid id") }
    }

    /// Returns a hash over all effects so far.
    pub fn trace(&self) -> String {
        let hash: [u8; 32] = self.trace.clone().finalize().into();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What people call a node.
pub fn name_of(node: usize) -> String {
    format!("node-{node}")
}

fn startup(number: usize, node: NodeId, start: u8) -> Startup {
    let mut bytes = [number as u8; 8];
    bytes[0] = start;
    Startup {
        node,
        name: name_of(number),
        start: StartId(bytes),
        seed: u64::from_le_bytes(bytes),
        undo_window: UNDO_WINDOW,
        keep_removed: KEEP_REMOVED,
        start_grace: START_GRACE,
        keyring: key_of(node),
    }
}
