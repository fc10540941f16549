//! A connection between two nodes: two sides that see of each other only what arrives.
//!
//! What stands for QUIC is here: streams put together again from datagrams that were lost, came
//! twice or overtook each other. What is the project's own, the queues, the frames and the choice
//! between two links, is the daemon's code.

use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Duration};

use sessionmesh::{
    replica::ids::StartId,
    transport::{
        conflict::{Claim, Contender},
        outbox::Queues,
    },
    wire::{self, CloseCode, Decoded, Frame, Lane, Splitter},
};

use super::fabric::QUEUES;

/// How far a side has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The other side has not said `Open`.
    Opening,
    /// Another link to the same peer runs.
    Aside,
    /// It is the link to its peer.
    Running,
    /// It is no more.
    Over,
}

/// A link as its node weighs it against another.
#[derive(Debug, Clone)]
pub struct Contending(Rc<Card>);

#[derive(Debug)]
struct Card {
    link: u64,
    claim: Claim,
    opened: Duration,
    clock: Rc<Cell<Duration>>,
    down: Cell<bool>,
}

impl Contending {
    pub fn new(link: u64, claim: Claim, clock: &Rc<Cell<Duration>>) -> Self {
        let (opened, clock) = (clock.get(), clock.clone());
        Self(Rc::new(Card { link, claim, opened, clock, down: Cell::new(false) }))
    }

    pub fn link(&self) -> u64 {
        self.0.link
    }

    pub fn is_down_now(&self) {
        self.0.down.set(true);
    }
}

impl PartialEq for Contending {
    fn eq(&self, other: &Self) -> bool {
        self.0.link == other.0.link
    }
}

impl Contender for Contending {
    fn claim(&self) -> Claim {
        self.0.claim
    }

    fn up_for(&self) -> Duration {
        self.0.clock.get() - self.0.opened
    }

    fn is_down(&self) -> bool {
        self.0.down.get()
    }
}

/// A stream as its sender sees it.
#[derive(Debug, Default)]
pub struct Sent {
    /// Counts the streams of a lane.
    pub number: u64,
    pub offset: u64,
    /// Frames and bytes that are being written.
    pub batch: Option<(usize, usize)>,
    pub in_flight: usize,
}

impl Sent {
    pub fn is_idle(&self) -> bool {
        self.batch.is_none()
    }
}

/// A stream as its receiver sees it.
#[derive(Debug)]
struct Received {
    offset: u64,
    held: BTreeMap<u64, Rc<[u8]>>,
    splitter: Splitter,
}

impl Received {
    fn new(lane: Lane) -> Self {
        Self { offset: 0, held: BTreeMap::new(), splitter: Splitter::new(lane) }
    }

    fn is_within_frame(&self) -> bool {
        !self.splitter.is_between_frames() || !self.held.is_empty()
    }

    fn read(&mut self) -> Option<Frame> {
        while let Some(bytes) = self.held.remove(&self.offset) {
            self.offset += bytes.len() as u64;
            self.splitter.push(&bytes);
        }
        match self.splitter.next_frame() {
            Ok(payload) => match wire::decode(payload?) {
                Ok(Decoded::Known(frame)) => Some(frame),
                other => panic!("a frame that can't be read back: {other:?}"),
            },
            Err(error) => panic!("a stream that can't be cut into frames: {error}"),
        }
    }
}

/// One side of a link.
#[derive(Debug)]
pub struct Side {
    pub node: usize,
    /// The start of the node whose link it is.
    pub boot: u64,
    pub state: State,
    pub card: Option<Contending>,
    /// Whether it still has to say `Open`.
    pub owes_open: bool,
    pub queues: Queues,
    /// By lane.
    sent: [Sent; 2],
    received: Received,
    /// By the number of the stream; the one that is to be read is the first that is not.
    snapshots: BTreeMap<u64, Received>,
    next_snapshot: u64,
    pub heard_at: Duration,
    pub ending: Option<(CloseCode, Rc<str>)>,
}

/// A connection; side 0 has dialled.
#[derive(Debug)]
pub struct Link {
    pub sides: [Side; 2],
}

fn index(lane: Lane) -> usize {
    match lane {
        Lane::Link => 0,
        Lane::Snapshot => 1,
    }
}

impl Link {
    pub fn new(dialer: (usize, u64), acceptor: (usize, u64), now: Duration) -> Self {
        Self { sides: [Side::new(dialer, now), Side::new(acceptor, now)] }
    }

    /// Returns the side of a node.
    pub fn side_of(&self, node: usize) -> usize {
        usize::from(self.sides[0].node != node)
    }
}

impl Side {
    fn new((node, boot): (usize, u64), now: Duration) -> Self {
        Self {
            node,
            boot,
            state: State::Opening,
            card: None,
            owes_open: false,
            queues: Queues::new(QUEUES),
            sent: Default::default(),
            received: Received::new(Lane::Link),
            snapshots: BTreeMap::new(),
            next_snapshot: 1,
            heard_at: now,
            ending: None,
        }
    }

    pub fn out(&mut self, lane: Lane) -> &mut Sent {
        &mut self.sent[index(lane)]
    }

    /// Tells whether it takes frames to be sent.
    pub fn is_up(&self) -> bool {
        self.state == State::Running
    }

    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Tells whether all that was queued has arrived.
    pub fn has_arrived(&self) -> bool {
        let queued = [Lane::Link, Lane::Snapshot].map(|lane| self.queues.held(lane).0);
        queued == [0, 0] && self.sent.iter().all(|sent| sent.in_flight == 0)
    }

    /// Tells whether a snapshot is being sent.
    pub fn is_sending_snapshot(&self) -> bool {
        self.sent[1].batch.is_some()
    }

    /// Tells whether part of a frame has arrived.
    pub fn is_within_frame(&self) -> bool {
        self.received.is_within_frame() || self.snapshots.values().any(Received::is_within_frame)
    }

    /// Takes a datagram in; `false` if it came before.
    pub fn arrive(&mut self, lane: Lane, stream: u64, offset: u64, bytes: Rc<[u8]>) -> bool {
        let received = match lane {
            Lane::Link => &mut self.received,
            Lane::Snapshot if stream < self.next_snapshot => return false,
            Lane::Snapshot => self.snapshots.entry(stream).or_insert_with(|| Received::new(lane)),
        };
        offset >= received.offset && received.held.insert(offset, bytes).is_none()
    }

    /// Takes the next frame out of what has arrived in order.
    pub fn read(&mut self, lane: Lane) -> Option<Frame> {
        match lane {
            Lane::Link => self.received.read(),
            Lane::Snapshot => {
                let frame = self.snapshots.get_mut(&self.next_snapshot)?.read()?;
                self.snapshots.remove(&self.next_snapshot);
                self.next_snapshot += 1;
                Some(frame)
            }
        }
    }
}

/// Returns what a dialled or accepted connection begins with.
pub fn open(start: StartId) -> Vec<u8> {
    wire::encode(&Frame::Open { start }).expect("`open` has a fixed, small size")
}
