//! The world of one life: the nodes in their fabric, and what happens to them, one thing after the
//! other. After every step the invariants are checked that can be, see also `check`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sessionmesh::{
    daemon::{
        compact::{self, Limits as CompactLimits},
        durable::{self, JOBS_MAX, Job},
        engine::{TURN_MAX, gathered},
        hub,
    },
    replica::{
        command::{Command, Reply},
        digest::Digest,
        document::Copied,
        effect::{Input, Now, StoredDocument},
        ids::{ChangeHash, DocumentId, NodeId, OperationId},
        machine::{Done, bulk_bytes, goes_together},
        membership::evaluate::Belonging,
        record::SessionKey,
    },
    store::{self, compact::Plan},
    transport::Event as LinkEvent,
    wire::Lane,
};

use super::{
    agent::{Agent, servers},
    aside::load,
    backups::Alive,
    count::Seen,
    disk::{Disk, Fault},
    fabric::{Event, Fabric, Weather},
    follow::Read,
    node::{Asker, Node, Pending, Ports, Up, key},
};

/// How long a delete can be undone in this world.
pub const UNDO_WINDOW: Duration = Duration::from_secs(10);
/// How long hosts of this world keep what they remove.
pub const KEEP_REMOVED: Duration = Duration::from_secs(14 * 86_400);
/// How long they wait after a start for a peer that may know better: longer than any life.
pub const START_GRACE: Duration = Duration::from_secs(3_600);
/// Midnight of some day, in milliseconds since the epoch.
const WALL_MS: i64 = 1_795_000_000_000;
/// How many diffs are kept for subscribers here: slow ones fall behind.
pub const HUB: hub::Limits = hub::Limits { diffs_max: 12, bytes_max: 64 << 10 };
/// How long a log gets before it is compacted here.
pub const LOG: CompactLimits = CompactLimits { changes_min: 12 };
/// How often the bridge looks at its agent.
pub const BRIDGE_EVERY: Duration = Duration::from_millis(1_500);

/// Who asked for something, and of whom.
#[derive(Debug, Clone)]
pub enum Asked {
    Person,
    Bridge,
    /// To be let in.
    Ticket {
        joiner: usize,
    },
}

/// Nodes, what lies between them, and what is known of them all.
pub struct World {
    pub fabric: Fabric,
    pub nodes: Vec<Node>,
    pub steps: u64,
    next_request: u64,
    pub asked: BTreeMap<Asker, (usize, Asked)>,
    /// The deletes that can be undone.
    pub operations: Vec<OperationId>,
    /// The sessions that were deleted, and the changes that did it; acknowledged.
    pub deletes: Vec<(SessionKey, (DocumentId, ChangeHash))>,
    /// The views that were seen at each frontier.
    pub seen_at: BTreeMap<[u8; 32], Digest>,
    /// The next turn of a disk is cut off by a loss of power.
    pub cut_in_commit: BTreeSet<usize>,
    /// The next snapshot that any node saves is garbled.
    pub garble: bool,
    /// How many sessions were put where their host was ending the workspace.
    pub entered: usize,
    /// Someone was shut out, or was to be.
    pub shut_out: Option<usize>,
    /// Nothing goes wrong any more.
    pub healed: bool,
}

impl World {
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self {
            fabric: Fabric::new(seed, weather),
            nodes: Vec::new(),
            steps: 0,
            next_request: 0,
            asked: BTreeMap::new(),
            operations: Vec::new(),
            deletes: Vec::new(),
            seen_at: BTreeMap::new(),
            cut_in_commit: BTreeSet::new(),
            garble: false,
            entered: 0,
            shut_out: None,
            healed: false,
        }
    }

    /// Adds a node with what is on its disk, and starts it.
    pub fn add(&mut self, bytes: Vec<u8>, starts: u8) -> usize {
        let number = self.nodes.len();
        let seed = self.fabric.random.u64(..);
        self.nodes.push(Node {
            number,
            id: key(number),
            disk: Disk::new(bytes, Fault::None, seed),
            up: None,
            boot: 0,
            starts,
            skew_ms: 0,
            asleep: false,
            fell_asleep: Duration::ZERO,
            watch: None,
            acknowledged: BTreeSet::new(),
            followers: Vec::new(),
            agent: Agent::default(),
            backup: None,
            alive: Alive::default(),
            revoked: false,
            stalled_until: Duration::ZERO,
            disk_slow: false,
            disk_broken: false,
            faulted: None,
        });
        self.start(number);
        number
    }

    pub fn number(&self, id: NodeId) -> usize {
        usize::from(id.0[0]) - 1
    }

    pub fn now_at(&self, node: usize) -> Now {
        let wall = self.fabric.now().as_millis() as i64;
        let wall_ms = WALL_MS + wall + self.nodes[node].skew_ms;
        let up = self.nodes[node].up.as_ref();
        let stood = up.map_or(Duration::ZERO, |up| up.out.born + up.out.slept);
        Now { monotonic: self.fabric.now().saturating_sub(stood), wall_ms }
    }

    /// Asks a node for something.
    pub fn ask(&mut self, node: usize, command: Command, asked: Asked) -> Option<Asker> {
        let now = self.now_at(node);
        let up = self.nodes[node].up.as_mut()?;
        self.next_request += 1;
        let asker = Asker(self.next_request);
        self.fabric.log(|| format!("node {node} is asked {command:?}"));
        self.asked.insert(asker, (node, asked));
        if goes_together(&command) && self.fabric.aside.bool() {
            // The loop is at something else: what is asked meanwhile waits for it.
            if up.out.asked.is_empty() {
                let time = Duration::from_micros(self.fabric.aside.u64(100..400_000));
                self.fabric.after(time, Event::Requests { node, boot: up.out.boot });
            }
            up.out.asked.push((command, asker));
        } else {
            self.take_asked(node);
            let Up { engine, out } = self.nodes[node].up.as_mut()?;
            engine.ask(now, command, asker, &mut Ports { fabric: &mut self.fabric, out });
            self.settle(node);
        }
        Some(asker)
    }

    /// Gives a node's loop something that happened on its links.
    pub fn tell(&mut self, node: usize, event: LinkEvent, link: Option<u64>) {
        let Some(up) = &mut self.nodes[node].up else { return };
        up.out.inbox.push_back((event, link));
        self.wake_loop(node);
    }

    pub fn wake_loop(&mut self, node: usize) {
        let stalled = self.nodes[node].stalled_until.saturating_sub(self.fabric.now());
        let Some(up) = &mut self.nodes[node].up else { return };
        if !std::mem::replace(&mut up.out.awake, true) {
            let boot = up.out.boot;
            let time = self.fabric.between(Duration::ZERO, Duration::from_micros(300)) + stalled;
            self.fabric.after(time, Event::Loop { node, boot });
        }
    }

    /// Looks after what a step of a node's loop has left: its disk, its timer, its checks.
    pub fn settle(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let slow = node.disk_slow;
        let Some(Up { engine, out }) = &mut node.up else { return };
        out.watch.stands_at(engine.replica());
        for due in std::mem::take(&mut out.asked_teardowns) {
            out.watch.teardown_asked_for(engine.replica(), &due);
        }
        let replica = engine.replica();
        let digest = replica.digest();
        assert_eq!(out.hub.view().digest(), digest, "what is published is what the replica shows");
        if replica.frontier() != out.frontier {
            out.frontier = replica.frontier();
            self.fabric.note(out.frontier);
            out.epochs.look(replica, &mut self.fabric);
            // Who is no member shares no record, but shows its own.
            let own = replica.membership().nodes.get(&replica.node());
            if own.is_some_and(Belonging::is_current) {
                let other = self.seen_at.entry(out.frontier).or_insert(digest);
                assert_eq!(*other, digest, "equal heads give equal views");
            }
            for (index, follower) in node.followers.iter_mut().enumerate() {
                if !std::mem::replace(&mut follower.looks, true) {
                    let event = Event::Follow { node: number, follower: index };
                    self.fabric.after(follower.pace, event);
                }
            }
        }
        if !out.jobs.is_empty() && !std::mem::replace(&mut out.disk_turns, true) {
            let boot = out.boot;
            let most = if slow { Duration::from_secs(3) } else { Duration::from_micros(600) };
            let time = self.fabric.between(Duration::from_micros(100), most);
            self.fabric.after(time, Event::Disk { node: number, boot });
        }
        let due = replica.due().map(|due| due + out.born + out.slept);
        if let Some(due) = due
            && out.due.is_none_or(|known| due < known || known < self.fabric.now())
        {
            out.due = Some(due);
            let boot = out.boot;
            let time = due.saturating_sub(self.fabric.now());
            self.fabric.after(time, Event::Due { node: number, boot });
        }
    }

    /// Lets a node's loop take what waits, as the daemon's does.
    fn turn_loop(&mut self, node: usize) {
        let now = self.now_at(node);
        let Some(Up { engine, out }) = &mut self.nodes[node].up else { return };
        out.awake = false;
        if out.jobs.len() >= JOBS_MAX {
            return self.wake_loop(node);
        }
        if let Some(told) = out.told.pop_front() {
            let told = engine.told(now, told, &mut Ports { fabric: &mut self.fabric, out });
            if let Err(error) = told {
                self.fabric.log(|| format!("node {node} ends: {error}"));
                return self.exit(node);
            }
        } else if let Some(input) = out.inputs.pop_front() {
            engine.take(now, input, &mut Ports { fabric: &mut self.fabric, out });
        } else if let Some(done) = out.done.pop_front() {
            out.works -= 1;
            out.epoch_works &= !matches!(done, Done::Epoch(_));
            engine.take_done(now, done, &mut Ports { fabric: &mut self.fabric, out });
        } else if out.read.is_empty() && out.reading_ended > 0 {
            out.reading_ended -= 1;
            out.loading.ended();
            load(now, engine, &mut Ports { fabric: &mut self.fabric, out });
        } else if let Some(read) = out.read.pop_front() {
            let mut ports = Ports { fabric: &mut self.fabric, out };
            ports.out.reads -= 1;
            if let Some(bulk) = engine.take_read(now, read, &mut ports) {
                ports.fabric.counts.add(Seen::ReadAgain);
                ports.out.loading.again();
                ports.read_aside(bulk);
            }
        } else if !out.inbox.is_empty() {
            let mut taken = 0;
            while taken < TURN_MAX
                && let Some((event, link)) = out.inbox.pop_front()
            {
                match (&event, link) {
                    (LinkEvent::Connected { peer, .. }, Some(link)) => {
                        out.shown.insert(*peer, link);
                    }
                    (LinkEvent::Lost { peer, .. }, _) => {
                        out.shown.remove(peer);
                    }
                    _ => {}
                }
                if let LinkEvent::Lost { peer, .. } = &event {
                    out.loading.forget(peer);
                }
                let waited = out.inbox.len();
                let next = |few: fn(&LinkEvent) -> bool| {
                    let is_wanted = out.inbox.front().is_some_and(|(event, _)| few(event));
                    is_wanted.then(|| out.inbox.pop_front()).flatten().map(|(event, _)| event)
                };
                let gathered = gathered(event, next);
                let together = 1 + waited - out.inbox.len() - gathered.len();
                (0..together).for_each(|_| self.fabric.counts.add(Seen::Gathered));
                taken += gathered.len();
                for event in gathered {
                    match event {
                        LinkEvent::Frame { peer, frame }
                            if bulk_bytes(&frame).is_some() || self.fabric.aside.u8(..4) == 0 =>
                        {
                            out.loading.offer(peer, bulk_bytes(&frame).unwrap_or(0), frame);
                            load(now, engine, &mut Ports { fabric: &mut self.fabric, out });
                        }
                        event => {
                            engine.hear(now, event, &mut Ports { fabric: &mut self.fabric, out });
                        }
                    }
                    out.watch.stands_at(engine.replica());
                }
            }
        }
        let idle = out.told.is_empty() && out.inputs.is_empty() && out.inbox.is_empty();
        let aside = out.read.is_empty() && out.reading_ended == 0 && out.done.is_empty();
        let more = !(idle && aside);
        self.settle(node);
        if more {
            self.wake_loop(node);
        }
    }

    /// Lets a node's disk do what waits for it.
    pub fn turn_disk(&mut self, node: usize) {
        let cut = self.cut_in_commit.remove(&node);
        let disk = self.nodes[node].disk.clone();
        let Some(Up { out, .. }) = &mut self.nodes[node].up else { return };
        out.disk_turns = false;
        let Some(job) = out.jobs.pop_front() else { return };
        if cut && matches!(job, Job::Batch(_) | Job::Replace(_)) {
            let replacing = matches!(job, Job::Replace(_));
            self.fabric.counts.add(Seen::LostInCrash);
            disk.fail(Fault::NextSync);
            self.fabric.counts.add(Seen::TornCommit);
            if replacing {
                self.fabric.counts.add(Seen::CompactionAtCrash);
            }
            // Whatever comes of it: nobody hears of it any more.
            drop(self.commit(node, job));
            self.answers(node);
            return self.crash(node, true);
        }
        let struck = disk.struck();
        match self.commit(node, job) {
            Ok(()) => {}
            Err(error) => {
                assert!(disk.struck() > struck, "the store fails without a fault: {error}");
                if let Some(seen) = self.nodes[node].faulted.take() {
                    self.fabric.counts.add(seen);
                }
                let Some(Up { out, .. }) = &mut self.nodes[node].up else { return };
                out.jobs.clear();
                out.told.push_back(durable::Told::Failed(error));
                out.disk_turns = true;
            }
        }
        self.answers(node);
        self.settle(node);
        self.wake_loop(node);
    }

    fn commit(&mut self, node: usize, job: Job<Asker>) -> Result<(), store::Error> {
        let Some(Up { out, .. }) = &mut self.nodes[node].up else { return Ok(()) };
        // The store is not part of what the desk reaches.
        let mut jobs = std::mem::take(&mut out.jobs);
        let before = jobs.len();
        let mut ports = Ports { fabric: &mut self.fabric, out };
        let store = ports.out.store.clone();
        let left = durable::turn(&store, job, || jobs.pop_front(), &mut ports);
        if before > jobs.len() {
            self.fabric.counts.add(Seen::Grouped);
        }
        let Some(Up { out, .. }) = &mut self.nodes[node].up else { return Ok(()) };
        out.jobs = jobs;
        if let Some(left) = left? {
            out.jobs.push_front(left);
        }
        Ok(())
    }

    /// Hears what was answered; from then on it may not be lost.
    fn answers(&mut self, number: usize) {
        let Some(Up { out, .. }) = &mut self.nodes[number].up else { return };
        for (asker, answer) in std::mem::take(&mut out.answers) {
            let pending =
                self.nodes[number].up.as_mut().and_then(|up| up.out.pending.remove(&asker));
            let Some((_, asked)) = self.asked.remove(&asker) else { continue };
            self.fabric.log(|| format!("node {number} answers {answer:?}"));
            let reply = match answer {
                Ok(reply) => reply,
                Err(refusal) => {
                    self.fabric.note(refusal.code());
                    self.fabric.counts.add(Seen::Refused);
                    continue;
                }
            };
            self.fabric.counts.add(Seen::Acknowledged);
            let Pending { changes, deletes } = pending.unwrap_or_default();
            if let Reply::SessionDeleted(deleted) = &reply {
                assert!(deleted.dry_run || !deletes.is_empty(), "a delete is stored by its answer");
                let key = deleted.session.key();
                self.deletes.extend(deletes.into_iter().map(|it| (key.clone(), it)));
            }
            self.nodes[number].acknowledged.extend(changes);
            match (reply, asked) {
                (Reply::SessionDeleted(deleted), _) => self.operations.extend(deleted.operation),
                (Reply::WorkspaceDeleted(deleted), _) => self.operations.extend(deleted.operation),
                (Reply::Invited(ticket), Asked::Ticket { joiner }) => {
                    self.ask(joiner, Command::Join(ticket), Asked::Ticket { joiner });
                }
                _ => {}
            }
        }
    }

    pub fn look(&mut self, node: usize, follower: usize) {
        let known = &mut self.nodes[node].followers[follower];
        if !std::mem::replace(&mut known.looks, true) {
            self.fabric.after(known.pace, Event::Follow { node, follower });
        }
    }

    fn follow(&mut self, node: usize, follower: usize) {
        let Node { followers, up, .. } = &mut self.nodes[node];
        let Some(follower_now) = followers.get_mut(follower) else { return };
        follower_now.looks = false;
        let Some(up) = up else { return };
        let had = follower_now.cursor();
        match follower_now.read(&up.out.hub) {
            Read::Nothing => return,
            Read::Diff => {
                if had.is_some_and(|cursor| cursor.start != up.out.start) {
                    self.fabric.counts.add(Seen::SubscriberResumed);
                }
            }
            Read::Anew if had.is_some() => self.fabric.counts.add(Seen::SubscriberReset),
            Read::Anew => {}
        }
        self.look(node, follower);
    }

    fn bridge(&mut self, node: usize) {
        let Some(up) = &self.nodes[node].up else { return };
        let boot = up.out.boot;
        self.fabric.after(BRIDGE_EVERY, Event::Bridge { node, boot });
        if self.nodes[node].agent.away {
            return;
        }
        let due = up.engine.replica().agent_due(&servers());
        if !due.is_empty() {
            self.fabric.counts.add(Seen::AgentDeleted);
            self.nodes[node].agent.delete(&due);
            self.ask(node, Command::AgentGone { servers: servers(), sessions: due }, Asked::Bridge);
        }
        let Node { agent, up, id, .. } = &mut self.nodes[node];
        let Some(up) = up else { return };
        for command in agent.compare(*id, up.engine.replica()) {
            self.ask(node, command, Asked::Bridge);
        }
    }

    fn save(&mut self, node: usize, plan: Plan, stored: &StoredDocument) {
        let garbled = std::mem::take(&mut self.garble);
        let random = self.fabric.random.u64(..);
        let Some(Up { engine, out }) = &mut self.nodes[node].up else { return };
        out.saving = false;
        let ended = if garbled {
            self.fabric.counts.add(Seen::Garbled);
            let (snapshot, changes) = (stored.snapshot.as_deref(), &stored.changes);
            let copy = Copied::read(stored.id, snapshot, changes);
            let copy = copy.expect("the store gives back what it took");
            let mut bytes = copy.save();
            let at = random as usize % bytes.len();
            bytes[at] ^= 1 << (random >> 61);
            (plan.document(), store::compact::verify(plan, bytes, &copy.heads()))
        } else {
            compact::saved(plan, stored)
        };
        let seen = if ended.1.is_err() { Seen::Unverified } else { Seen::Compacted };
        self.fabric.counts.add(seen);
        let ports = &mut Ports { fabric: &mut self.fabric, out };
        engine.saved(ended, ports);
        engine.rested(ports);
        self.settle(node);
    }

    /// Lets one thing happen; `None` once nothing does before `until`.
    pub fn step(&mut self, until: Duration) -> Option<Option<usize>> {
        let event = self.fabric.next(until)?;
        self.steps += 1;
        let of = |world: &Self, node: usize, boot: u64| {
            world.nodes[node].boot == boot && world.nodes[node].up.is_some()
        };
        // What a machine would do in its sleep it does when it wakes.
        let sleeper = match &event {
            Event::Loop { node, .. }
            | Event::Disk { node, .. }
            | Event::Save { node, .. }
            | Event::Read { node, .. }
            | Event::Shown { node, .. }
            | Event::Work { node, .. }
            | Event::Requests { node, .. }
            | Event::TeardownBegins { node, .. }
            | Event::TeardownEnds { node, .. }
            | Event::Due { node, .. }
            | Event::Bridge { node, .. }
            | Event::Dial { node, .. }
            | Event::Dialed { node, .. } => Some(*node),
            _ => None,
        };
        if sleeper.is_some_and(|node| self.nodes[node].asleep) {
            self.fabric.after(Duration::from_millis(200), event);
            return Some(None);
        }
        match event {
            Event::Act(act) => return Some(Some(act)),
            Event::Loop { node, boot } if of(self, node, boot) => self.turn_loop(node),
            Event::Disk { node, boot } if of(self, node, boot) => self.turn_disk(node),
            Event::Save { node, boot, plan, stored } if of(self, node, boot) => {
                self.save(node, plan, &stored);
            }
            Event::Requests { node, boot } if of(self, node, boot) => self.take_asked(node),
            Event::Read { node, boot, bulk } if of(self, node, boot) => self.read_bulk(node, *bulk),
            Event::Shown { node, boot, read } if of(self, node, boot) => self.show(node, *read),
            Event::Work { node, boot, work } if of(self, node, boot) => {
                self.work(node, *work);
            }
            Event::TeardownBegins { node, boot, due } if of(self, node, boot) => {
                self.teardown_begins(node, due);
            }
            Event::TeardownEnds { node, boot, due } if of(self, node, boot) => {
                self.teardown_ends(node, &due);
            }
            Event::Due { node, boot } if of(self, node, boot) => self.due(node),
            Event::Dial { node, boot, peer, turn } if of(self, node, boot) => {
                self.dial(node, peer, turn);
            }
            Event::Dialed { node, boot, peer, turn, answered } if of(self, node, boot) => {
                self.dialed(node, peer, turn, answered);
            }
            Event::Bridge { node, boot } if of(self, node, boot) => self.bridge(node),
            Event::Start { node } => self.start(node),
            Event::Wake { node } => {
                let slept = self.fabric.now() - self.nodes[node].fell_asleep;
                self.wake(node, slept);
            }
            Event::Arrive { .. } => self.arrive(event),
            Event::Written { link, side } => self.written(link, side, Lane::Link),
            Event::EndDue { link, side } => self.end_due(link, side),
            Event::Closed { link, to, code, reason } => self.closed(link, to, code, reason),
            Event::OpenDue { link } => self.open_due(link),
            Event::Beat { link } => self.beat(link),
            Event::Follow { node, follower } => self.follow(node, follower),
            Event::Mend { from, to } => {
                self.fabric.cuts.remove(&(from, to));
                self.fabric.slow.remove(&(from, to));
            }
            Event::DiskHeals { node } => self.heal_disk(node),
            Event::Reset { link } => self.reset(link),
            Event::Crash { node } => {
                self.fabric.counts.add(Seen::Killed);
                self.crash(node, false);
            }
            _ => {}
        }
        Some(None)
    }

    fn due(&mut self, node: usize) {
        let now = self.now_at(node);
        let Some(Up { engine, out }) = &mut self.nodes[node].up else { return };
        if out.due.is_none_or(|due| due > self.fabric.now()) {
            return;
        }
        out.due = None;
        if engine.replica().due().is_some_and(|due| due <= now.monotonic) {
            engine.take(now, Input::TimePassed, &mut Ports { fabric: &mut self.fabric, out });
        }
        self.settle(node);
    }

    /// Lets things happen until a time is over.
    pub fn pass(&mut self, time: Duration) {
        let until = self.fabric.now() + time;
        while self.step(until).is_some() {}
    }
}

/// What people call a node.
pub fn name_of(number: usize) -> String {
    format!("node-{number}")
}
