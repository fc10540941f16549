//! One whole node: the daemon's engine, its store on a simulated disk, its stream of diffs, its
//! links; and the hands that carry its effects out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, btree_map::Entry},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use sessionmesh::{
    daemon::{
        durable::{Desk, Job, Told},
        engine::{Engine, Hands},
        handle::Answer,
        hub::{Published, View, stream::Stream},
        loading::Loading,
    },
    replica::{
        command::{Command, Reply},
        effect::{DialTarget, Input, Outgoing, Publication, StoredDocument, TeardownDue, Write},
        fold::Snapshot,
        ids::{ChangeHash, DocumentId, NodeId, OperationId, StartId},
        machine::{Bulk, Done, ReadBulk, Work},
    },
    store::{Store, compact::Plan},
    teardown::Occupant,
    transport::{Event as LinkEvent, backoff::Backoff, conflict::Berths},
    wire::{self, CloseCode, Frame},
};

use super::{
    agent::Agent,
    backups::Alive,
    common::watch::{Acknowledged, Watch},
    count::Seen,
    disk::Disk,
    epochs::{self, Epochs},
    fabric::{Event, Fabric, QUEUES},
    follow::Follower,
    link::Contending,
};

/// What is durable once a request is answered.
#[derive(Debug, Default)]
pub struct Pending {
    /// All that is stored beside the answer, also what others have asked for.
    pub changes: Vec<Acknowledged>,
    /// What of it deletes what was asked to be.
    pub deletes: Vec<(DocumentId, ChangeHash)>,
}

/// Tells whether a change writes that it is part of an act.
fn is_of(bytes: &[u8], act: &OperationId) -> bool {
    let change = automerge::Change::try_from(bytes).expect("a change");
    let names = |operation: &automerge::legacy::Op| match &operation.action {
        automerge::legacy::OpType::Put(automerge::ScalarValue::Str(text)) => text == act.as_str(),
        _ => false,
    };
    change.decode().operations.iter().any(names)
}

/// Who waits for an answer: the number of the request, and whether people or the bridge asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker(pub u64);

/// How far dialling a peer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialing {
    /// For its next turn.
    Waits,
    /// For an answer.
    Calls,
    /// For the other side to open.
    Opens(u64),
    /// There is a link since then.
    Linked(Duration),
}

/// What dials one peer.
#[derive(Debug)]
pub struct Dialer {
    pub backoff: Backoff,
    pub state: Dialing,
    /// Counts the turns, so that one that is overtaken is told apart.
    pub turn: u64,
}

/// What a node loses when it is killed.
pub struct Up {
    pub engine: Engine<Asker>,
    pub out: Out,
}

/// All of a running node but its engine.
pub struct Out {
    pub number: usize,
    pub boot: u64,
    pub start: StartId,
    pub store: Rc<Store>,
    pub hub: Stream,
    pub jobs: VecDeque<Job<Asker>>,
    /// What the disk has told.
    pub told: VecDeque<Told>,
    /// What has ended elsewhere: teardowns.
    pub inputs: VecDeque<Input>,
    /// What happened on the links, with the link that is up.
    pub inbox: VecDeque<(LinkEvent, Option<u64>)>,
    /// What is to be read beside the loop.
    pub loading: Loading<Frame>,
    /// How much is being read, or what it shows derived.
    pub reads: usize,
    /// How much of it has been read that the loop does not know of.
    pub reading_ended: usize,
    /// Whether something is being done about its own epochs.
    pub epoch_works: bool,
    /// How much is done that it has asked for.
    pub works: usize,
    /// What came of it.
    pub done: VecDeque<Done>,
    /// What was read.
    pub read: VecDeque<ReadBulk>,
    /// What was asked for and waits for the loop.
    pub asked: Vec<(Command, Asker)>,
    /// The links that the loop has been shown.
    pub shown: BTreeMap<NodeId, u64>,
    pub berths: BTreeMap<NodeId, Berths<Contending, ()>>,
    pub dialers: BTreeMap<NodeId, Dialer>,
    /// The loop is to take what waits.
    pub awake: bool,
    /// The disk is to take its turn.
    pub disk_turns: bool,
    /// Where the documents stood when they were last looked at.
    pub frontier: [u8; 32],
    /// When the replica is next due, as far as the agenda knows.
    pub due: Option<Duration>,
    /// Added to the wall clock, and taken from the monotonic one, which stands still in sleep.
    pub slept: Duration,
    pub born: Duration,
    pub watch: Watch,
    pub epochs: Epochs,
    /// What each request that waits will have made durable.
    pub pending: BTreeMap<Asker, Pending>,
    pub answers: Vec<(Asker, Answer)>,
    pub asked_teardowns: Vec<TeardownDue>,
    published: usize,
    pub saving: bool,
    pub tearing_down: BTreeSet<String>,
    pub alive: Alive,
}

/// One machine.
pub struct Node {
    pub number: usize,
    pub id: NodeId,
    pub disk: Disk,
    pub up: Option<Up>,
    pub boot: u64,
    pub starts: u8,
    pub skew_ms: i64,
    pub asleep: bool,
    pub fell_asleep: Duration,
    /// What is known of it from outside while it is down.
    pub watch: Option<Watch>,
    pub acknowledged: BTreeSet<Acknowledged>,
    pub followers: Vec<Follower>,
    pub agent: Agent,
    pub backup: Option<Rc<Vec<u8>>>,
    /// What it hosts that is alive, while it may not know.
    pub alive: Alive,
    pub revoked: bool,
    pub stalled_until: Duration,
    pub disk_slow: bool,
    pub disk_broken: bool,
    /// What is counted when the disk fails next.
    pub faulted: Option<Seen>,
}

impl Out {
    pub fn new(
        (number, boot, start): (usize, u64, StartId),
        store: Rc<Store>,
        hub: Stream,
        watch: Watch,
        born: Duration,
    ) -> Self {
        Self {
            number,
            boot,
            start,
            store,
            hub,
            jobs: VecDeque::new(),
            told: VecDeque::new(),
            inputs: VecDeque::new(),
            inbox: VecDeque::new(),
            loading: Loading::default(),
            reads: 0,
            reading_ended: 0,
            epoch_works: false,
            works: 0,
            done: VecDeque::new(),
            read: VecDeque::new(),
            asked: Vec::new(),
            shown: BTreeMap::new(),
            berths: BTreeMap::new(),
            dialers: BTreeMap::new(),
            awake: false,
            disk_turns: false,
            frontier: [0; 32],
            due: None,
            slept: Duration::ZERO,
            born,
            watch,
            epochs: Epochs::default(),
            pending: BTreeMap::new(),
            answers: Vec::new(),
            asked_teardowns: Vec::new(),
            published: 0,
            saving: false,
            tearing_down: BTreeSet::new(),
            alive: Alive::default(),
        }
    }

    /// Tells whether nothing waits for it.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
            && self.told.is_empty()
            && self.inputs.is_empty()
            && self.inbox.is_empty()
            && self.asked.is_empty()
            && self.reads == 0
            && self.reading_ended == 0
            && self.works == 0
    }
}

impl Node {
    /// Tells whether it runs and is awake.
    pub fn is_here(&self) -> bool {
        self.up.is_some() && !self.asleep
    }
}

/// The address under which a node is dialled.
pub fn address(number: usize) -> String {
    format!("10.0.0.{}:7177", number + 1)
}

/// What a node is called.
pub fn key(number: usize) -> NodeId {
    NodeId([number as u8 + 1; 32])
}

/// What carries the effects of a node out in this world.
pub struct Ports<'a> {
    pub fabric: &'a mut Fabric,
    pub out: &'a mut Out,
}

impl Ports<'_> {
    /// Has what a peer sent read beside the loop, which goes on meanwhile.
    pub fn read_aside(&mut self, bulk: Bulk) {
        self.out.reads += 1;
        if std::mem::take(&mut self.fabric.crash_in_read) {
            self.fabric.after(Duration::ZERO, Event::Crash { node: self.out.number });
        }
        let most = if self.fabric.aside.u8(..8) == 0 { 400_000 } else { 3_000 };
        let time = Duration::from_micros(self.fabric.aside.u64(100..most));
        let (node, boot, bulk) = (self.out.number, self.out.boot, Box::new(bulk));
        self.fabric.after(time, Event::Read { node, boot, bulk });
    }

    fn send_on(&mut self, outgoing: &Outgoing) {
        let bytes = Bytes::from(wire::encode(&outgoing.frame).expect("a replica keeps the limits"));
        self.fabric.note(&bytes[..]);
        if matches!(outgoing.frame, Frame::Sync { .. }) {
            self.fabric.counts.add(Seen::SyncProtocol);
        }
        for peer in &outgoing.to {
            let Some(link) = self.out.shown.get(peer).copied() else { continue };
            let Some(known) = self.fabric.links.get_mut(&link) else { continue };
            let side = known.side_of(self.out.number);
            let lane = outgoing.frame.lane();
            if !known.sides[side].queues.push(lane, bytes.clone()) {
                self.fabric.counts.add(Seen::Overflowed);
            }
            let held = known.sides[side].queues.held(wire::Lane::Link);
            assert!(
                held.0 <= QUEUES.link_frames && (held.1 <= QUEUES.link_bytes || held.0 == 1),
                "a send queue is bounded: {held:?}"
            );
            self.fabric.pump(link, side);
        }
    }
}

impl Hands for Ports<'_> {
    type Asker = Asker;

    fn send(&mut self, outgoing: &Outgoing) {
        self.send_on(outgoing);
    }

    fn publish(&mut self, publication: Publication) {
        self.fabric.note(publication.body.as_bytes());
        self.out.watch.published(&publication);
        self.out.alive.told(&publication.diff);
        count_events(self.fabric, &publication);
        self.out.published += 1;
        self.out.hub.publish(&publication.diff, publication.body);
    }

    fn reset(&mut self, published: Published) {
        let Published { cursor, digest, sessions, workspaces } = published.clone();
        self.out.watch.reset(Snapshot { cursor, digest, sessions, workspaces });
        self.out.hub.reset(View::new(published));
    }

    fn close(&mut self, peer: NodeId, code: CloseCode, reason: String) {
        let number = self.out.number;
        let is_honest = |number| self.fabric.rogue != Some(number);
        assert!(
            code != CloseCode::Hostile
                || !is_honest(number)
                || !is_honest(usize::from(peer.0[0]) - 1),
            "node {number} refuses what {peer:?} sent, as all that is its own is honest: {reason}"
        );
        self.fabric.log(|| format!("node {number} closes the link to {peer:?}: {code} {reason}"));
        let Some(link) = self.out.shown.get(&peer).copied() else { return };
        if let Some(known) = self.fabric.links.get(&link) {
            let side = known.side_of(number);
            self.fabric.end(link, side, code, &reason, true);
        }
    }

    fn dial(&mut self, targets: Vec<DialTarget>) {
        let wanted: BTreeSet<NodeId> = targets.into_iter().map(|target| target.node).collect();
        self.out.dialers.retain(|peer, _| wanted.contains(peer));
        for peer in wanted {
            if let Entry::Vacant(place) = self.out.dialers.entry(peer) {
                let (backoff, state) = (Backoff::default(), Dialing::Waits);
                place.insert(Dialer { backoff, state, turn: 0 });
                let (node, boot) = (self.out.number, self.out.boot);
                self.fabric.after(Duration::ZERO, Event::Dial { node, boot, peer, turn: 0 });
            }
        }
    }

    fn store(&mut self, job: Job<Asker>) {
        if let Job::Batch(batch) = &job {
            let mut changes = Vec::new();
            let mut journalled = 0;
            for write in &batch.writes {
                match write {
                    Write::Change { document, bytes } => {
                        changes.push(Acknowledged::of(*document, bytes));
                    }
                    Write::Journal { .. } => journalled += 1,
                    _ => {}
                }
            }
            let published = std::mem::take(&mut self.out.published);
            assert_eq!(journalled, published, "every diff is published once and in the journal");
            for (asker, answer) in &batch.replies {
                let Ok(reply) = answer else { continue };
                let deleted = match reply {
                    Reply::SessionDeleted(deleted) => deleted.operation.as_ref(),
                    _ => None,
                };
                let deletes = deleted.into_iter().flat_map(|act| {
                    let of = |write: &Write| match write {
                        Write::Change { document, bytes } if is_of(bytes, act) => {
                            Some((*document, Acknowledged::of(*document, bytes).change))
                        }
                        _ => None,
                    };
                    batch.writes.iter().filter_map(of).collect::<Vec<_>>()
                });
                let pending = Pending { changes: changes.clone(), deletes: deletes.collect() };
                self.out.pending.insert(*asker, pending);
            }
            let own = key(self.out.number);
            let mut crashes = false;
            if epochs::carries_over(batch, own) {
                self.fabric.counts.add(Seen::CarriedOver);
                crashes = std::mem::take(&mut self.fabric.crash_in_carrying);
            } else if epochs::begins_epoch(batch, own) {
                crashes = std::mem::take(&mut self.fabric.crash_in_rewrite);
            }
            if crashes {
                // While it becomes durable, or shortly after.
                let time = self.fabric.between(Duration::ZERO, Duration::from_micros(700));
                self.fabric.after(time, Event::Crash { node: self.out.number });
            }
            self.out.asked_teardowns.extend(batch.teardowns.iter().cloned());
        }
        self.out.jobs.push_back(job);
    }

    fn save(&mut self, plan: Plan, stored: StoredDocument) {
        let (node, boot) = (self.out.number, self.out.boot);
        self.out.saving = true;
        if std::mem::take(&mut self.fabric.crash_in_compaction) {
            self.fabric.after(Duration::ZERO, Event::Crash { node });
        }
        let time = self.fabric.between(Duration::from_millis(1), Duration::from_millis(800));
        let stored = Box::new(stored);
        self.fabric.after(time, Event::Save { node, boot, plan, stored });
    }

    fn work(&mut self, work: Work) {
        let (node, boot) = (self.out.number, self.out.boot);
        self.out.works += 1;
        match work {
            Work::Epoch(_) => {
                self.out.epoch_works = true;
                if self.fabric.crash_in_rewrite && self.fabric.aside.bool() {
                    self.fabric.crash_in_rewrite = false;
                    self.fabric.after(Duration::ZERO, Event::Crash { node });
                }
            }
            Work::Answer(_) => self.fabric.counts.add(Seen::AnsweredAside),
        }
        let time = Duration::from_micros(self.fabric.aside.u64(100..800_000));
        let work = Box::new(work);
        self.fabric.after(time, Event::Work { node, boot, work });
    }

    fn tear_down(&mut self, due: TeardownDue, _occupants: Vec<Occupant>) {
        let stored = self.out.store.load().expect("a store that works can be read");
        self.out.watch.teardown_started(stored, &due);
        let (node, boot) = (self.out.number, self.out.boot);
        self.out.tearing_down.insert(due.workspace.id.to_string());
        // Others are under way, and what it works on may be locked.
        let most = if self.fabric.aside.bool() { 4_000 } else { 1 };
        let time = Duration::from_millis(self.fabric.aside.u64(..most));
        self.fabric.after(time, Event::TeardownBegins { node, boot, due: Box::new(due) });
    }
}

impl Desk for Ports<'_> {
    type Asker = Asker;

    fn answer(&mut self, asker: Asker, answer: Answer) {
        self.out.answers.push((asker, answer));
    }

    fn send(&mut self, outgoing: &Outgoing) {
        self.send_on(outgoing);
    }

    fn tell(&mut self, told: Told) {
        self.out.told.push_back(told);
    }
}

fn count_events(fabric: &mut Fabric, publication: &Publication) {
    use sessionmesh::replica::diff::Event as Changed;
    for event in &publication.diff.events {
        let seen = match event {
            Changed::SessionStranded { .. } => Seen::Stranded,
            Changed::SessionRestored { .. } => Seen::Restored2,
            Changed::SessionPurged { .. } => Seen::Purged,
            Changed::WorkspaceFailed { .. } => Seen::Failed,
            Changed::WorkspaceGone { .. } => Seen::Gone,
            _ => continue,
        };
        fabric.counts.add(seen);
    }
}
