//! What surrounds the nodes: time, what happens when, the network's links and chance.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher as _},
    rc::Rc,
    time::Duration,
};

use sessionmesh::{
    replica::{
        effect::{StoredDocument, TeardownDue},
        ids::NodeId,
        machine::{Bulk, ReadBulk, Work},
    },
    store::compact::Plan,
    transport::outbox,
    wire::{CloseCode, Lane},
};

use super::{
    count::{Counts, Seen},
    link::Link,
};

/// What happens at some moment.
pub enum Event {
    /// The next thing of the scenario.
    Act(usize),
    /// A node's loop takes what waits for it.
    Loop { node: usize, boot: u64 },
    /// A node's disk takes its turn.
    Disk { node: usize, boot: u64 },
    /// A document is to be saved as it was stored, and verified.
    Save { node: usize, boot: u64, plan: Plan, stored: Box<StoredDocument> },
    /// A node's loop takes what it was asked for.
    Requests { node: usize, boot: u64 },
    /// What a peer sent was read beside the loop.
    Read { node: usize, boot: u64, bulk: Box<Bulk> },
    /// What it shows was derived.
    Shown { node: usize, boot: u64, read: Box<ReadBulk> },
    /// Something that a node has asked for was done beside the loop.
    Work { node: usize, boot: u64, work: Box<Work> },
    /// A teardown that has waited for its turn takes its first step.
    TeardownBegins { node: usize, boot: u64, due: Box<TeardownDue> },
    /// A teardown has come to its end.
    TeardownEnds { node: usize, boot: u64, due: Box<TeardownDue> },
    /// The replica has something to do, as far as was known.
    Due { node: usize, boot: u64 },
    /// A node that is down is started.
    Start { node: usize },
    /// A machine wakes up.
    Wake { node: usize },
    /// A node dials.
    Dial { node: usize, boot: u64, peer: NodeId, turn: u64 },
    /// A dial is answered or given up.
    Dialed { node: usize, boot: u64, peer: NodeId, turn: u64, answered: bool },
    /// A datagram arrives.
    Arrive { link: u64, to: usize, lane: Lane, stream: u64, offset: u64, bytes: Rc<[u8]> },
    /// What was taken from a queue is written.
    Written { link: u64, side: usize },
    /// A link's end has had its time.
    EndDue { link: u64, side: usize },
    /// The news that the other side has closed arrives.
    Closed { link: u64, to: usize, code: CloseCode, reason: Rc<str> },
    /// Nobody has opened in time.
    OpenDue { link: u64 },
    /// Both sides of a link show that they are there.
    Beat { link: u64 },
    /// A subscriber reads on.
    Follow { node: usize, follower: usize },
    /// The bridge to the agent beside a node looks.
    Bridge { node: usize, boot: u64 },
    /// A cut is mended.
    Mend { from: usize, to: usize },
    /// A disk has room again, and is fast.
    DiskHeals { node: usize },
    /// A node is killed.
    Crash { node: usize },
    /// A link is cut off.
    Reset { link: u64 },
}

/// How the network is.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub loss: f64,
    pub duplication: f64,
    pub lateness: f64,
    pub latency: (Duration, Duration),
    /// Bytes a second that fit through a link.
    pub bandwidth: u64,
}

/// How long a sender waits before it sends a datagram anew.
const RESEND: Duration = Duration::from_millis(200);
/// The queues of a link in this world: a few frames overflow them.
pub const QUEUES: outbox::Limits = outbox::Limits {
    link_frames: 12,
    link_bytes: 8 << 10,
    snapshots: 4,
    snapshot_bytes: 256 << 10,
};

/// All but the nodes.
pub struct Fabric {
    /// Shared with the links, whose age decides which of two is kept.
    pub clock: Rc<Cell<Duration>>,
    agenda: BTreeMap<(Duration, u64), Event>,
    next_event: u64,
    pub links: BTreeMap<u64, Link>,
    pub next_link: u64,
    /// The ways that are cut: from, to.
    pub cuts: BTreeSet<(usize, usize)>,
    pub weather: Weather,
    /// Slow ways: from, to.
    pub slow: BTreeSet<(usize, usize)>,
    pub random: fastrand::Rng,
    /// The node that has gone bad.
    pub rogue: Option<usize>,
    /// Draws what is read beside a loop, and how long that takes.
    pub aside: fastrand::Rng,
    pub counts: Counts,
    /// One end of the next snapshot that is sent crashes while it is on its way.
    pub crash_in_snapshot: bool,
    /// The next link on which something is sent in parts is cut off once one of them has arrived.
    pub reset_in_frame: bool,
    /// The next host that ends a workspace crashes over it.
    pub crash_in_teardown: bool,
    /// The next node that compacts a log crashes over it.
    pub crash_in_compaction: bool,
    /// The next node that has a frame read beside its loop crashes over it.
    pub crash_in_read: bool,
    /// The next host that begins an epoch crashes over it.
    pub crash_in_rewrite: bool,
    /// The next host that carries something over to its present epoch crashes over it.
    pub crash_in_carrying: bool,
    trace: DefaultHasher,
    /// What happened, while it is `Some`.
    pub log: Option<String>,
}

impl Fabric {
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self {
            clock: Rc::new(Cell::new(Duration::from_secs(10_000))),
            agenda: BTreeMap::new(),
            next_event: 0,
            links: BTreeMap::new(),
            next_link: 0,
            cuts: BTreeSet::new(),
            weather,
            slow: BTreeSet::new(),
            random: fastrand::Rng::with_seed(seed),
            rogue: None,
            aside: fastrand::Rng::with_seed(!seed),
            counts: Counts::default(),
            crash_in_snapshot: false,
            reset_in_frame: false,
            crash_in_teardown: false,
            crash_in_compaction: false,
            crash_in_read: false,
            crash_in_rewrite: false,
            crash_in_carrying: false,
            trace: DefaultHasher::new(),
            log: None,
        }
    }

    pub fn now(&self) -> Duration {
        self.clock.get()
    }

    /// Takes something into the trace: equal for equal runs.
    pub fn note(&mut self, what: impl Hash) {
        what.hash(&mut self.trace);
    }

    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub fn log(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let at = self.clock.get();
            log.push_str(&format!("{:>10.3} {}\n", at.as_secs_f64(), line()));
        }
    }

    /// Has something happen after a time.
    pub fn after(&mut self, time: Duration, event: Event) {
        self.next_event += 1;
        self.agenda.insert((self.now() + time, self.next_event), event);
    }

    /// Moves on to the next thing that happens, if it does before `until`.
    pub fn next(&mut self, until: Duration) -> Option<Event> {
        let entry = self.agenda.first_entry()?;
        let (at, _) = *entry.key();
        if at > until {
            self.clock.set(until.max(self.clock.get()));
            return None;
        }
        self.clock.set(at.max(self.clock.get()));
        Some(entry.remove())
    }

    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let (from, to) = (from.as_micros() as u64, to.as_micros() as u64);
        Duration::from_micros(self.random.u64(from..=to.max(from)))
    }

    pub fn chance(&mut self, share: f64) -> bool {
        self.random.f64() < share
    }

    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains(&(from, to))
    }

    fn latency(&mut self) -> Duration {
        let (from, to) = self.weather.latency;
        self.between(from, to)
    }

    /// Writes what is queued on one side of a link, as far as it is not being written already.
    pub fn pump(&mut self, id: u64, side: usize) {
        for lane in [Lane::Link, Lane::Snapshot] {
            self.pump_lane(id, side, lane);
        }
        self.end_if_flushed(id, side);
    }

    fn pump_lane(&mut self, id: u64, side: usize, lane: Lane) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let here = &mut link.sides[side];
        let stream = here.out(lane);
        if !stream.is_idle() || !here.is_up() {
            return;
        }
        let mut batch = Vec::new();
        here.queues.take(lane, &mut batch);
        if batch.is_empty() {
            return;
        }
        let bytes = batch.concat();
        let stream = here.out(lane);
        stream.batch = Some((batch.len(), bytes.len()));
        if lane == Lane::Snapshot {
            stream.number += 1;
            stream.offset = 0;
            if std::mem::take(&mut self.crash_in_snapshot) {
                let node = link.sides[self.random.usize(..2)].node;
                self.after(Duration::ZERO, Event::Crash { node });
            }
        }
        self.transmit(id, side, lane, &bytes);
    }

    /// Sends bytes on a stream, in a few datagrams that may be lost, late and overtaken.
    pub fn transmit(&mut self, id: u64, side: usize, lane: Lane, bytes: &[u8]) {
        // As many for any length: the same program cuts at the same places whatever a time or an
        // id adds to a frame.
        let pieces = self.random.usize(1..=3);
        let mut cuts = vec![0, bytes.len()];
        (1..pieces).for_each(|_| cuts.push((bytes.len() as f64 * self.random.f64()) as usize));
        cuts.sort_unstable();
        let Some(link) = self.links.get_mut(&id) else { return };
        let (from, to) = (link.sides[side].node, link.sides[1 - side].node);
        let stream = link.sides[side].out(lane);
        let (number, offset) = (stream.number, stream.offset);
        stream.offset += bytes.len() as u64;
        stream.in_flight += cuts.windows(2).filter(|piece| piece[0] < piece[1]).count();
        let slow = self.slow.contains(&(from, to));
        let bandwidth = if slow { 500 } else { self.weather.bandwidth };
        let writing = Duration::from_micros(bytes.len() as u64 * 1_000_000 / bandwidth);
        let (mut first, mut latest) = (Duration::MAX, Duration::ZERO);
        for piece in cuts.windows(2).filter(|piece| piece[0] < piece[1]) {
            let (at, part) = (offset + piece[0] as u64, &bytes[piece[0]..piece[1]]);
            let part: Rc<[u8]> = part.into();
            let mut time = writing + self.latency();
            while self.chance(self.weather.loss) {
                self.counts.add(Seen::Dropped);
                time += RESEND;
            }
            if self.chance(self.weather.lateness) {
                self.counts.add(Seen::Delayed);
                time += self.between(Duration::from_millis(50), Duration::from_secs(2));
            }
            if time < latest {
                self.counts.add(Seen::Reordered);
            }
            (first, latest) = (first.min(time), latest.max(time));
            let copies = 1 + u64::from(self.chance(self.weather.duplication));
            for copy in 0..copies {
                let again = if copy == 0 { Duration::ZERO } else { self.latency() };
                if copy > 0 {
                    self.counts.add(Seen::Duplicated);
                }
                self.after(
                    time + again,
                    Event::Arrive {
                        link: id,
                        to: 1 - side,
                        lane,
                        stream: number,
                        offset: at,
                        bytes: part.clone(),
                    },
                );
            }
        }
        if first < latest && std::mem::take(&mut self.reset_in_frame) {
            self.after(first, Event::Reset { link: id });
        }
        if lane == Lane::Link {
            self.after(writing, Event::Written { link: id, side });
        }
    }

    /// Sends a datagram anew that did not arrive, since nothing does there.
    pub fn resend(&mut self, event: Event) {
        self.after(RESEND, event);
    }

    /// Begins to end a link from one side; what was queued before is sent if it is flushed.
    pub fn end(&mut self, id: u64, side: usize, code: CloseCode, reason: &str, flush: bool) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let here = &mut link.sides[side];
        if here.is_over() || here.ending.is_some() {
            return;
        }
        here.ending = Some((code, reason.into()));
        here.queues.close();
        let patience = if flush { FLUSH_MAX } else { Duration::ZERO };
        self.after(patience, Event::EndDue { link: id, side });
        if flush {
            self.pump(id, side);
        }
    }

    fn end_if_flushed(&mut self, id: u64, side: usize) {
        let Some(link) = self.links.get(&id) else { return };
        let here = &link.sides[side];
        if here.ending.is_some() && !here.is_over() && here.has_arrived() {
            self.after(Duration::ZERO, Event::EndDue { link: id, side });
        }
    }

    /// Tells the other side of a link that this one has closed it.
    pub fn tell_closed(&mut self, id: u64, side: usize, code: CloseCode, reason: &Rc<str>) {
        let Some(link) = self.links.get(&id) else { return };
        let (from, to) = (link.sides[side].node, link.sides[1 - side].node);
        if self.is_cut(from, to) || self.chance(self.weather.loss) {
            // It is sent anew only when the other side speaks; that one notices by its silence.
            self.counts.add(Seen::CloseLost);
            return;
        }
        let time = self.latency();
        self.after(time, Event::Closed { link: id, to: 1 - side, code, reason: reason.clone() });
    }
}

/// How long a link that is closed may go on sending what was queued before, as in the daemon.
const FLUSH_MAX: Duration = Duration::from_secs(1);
