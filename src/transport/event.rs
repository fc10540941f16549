//! Owns what the transport tells, and what whoever takes it has been shown so far.
//!
//! Must not know connections beyond the link that an event is about. Invariant: the links that
//! frames can be sent on are exactly those whose `Connected` was taken and whose `Lost` was not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::link::Link;
use crate::{
    replica::ids::NodeId,
    wire::{CloseCode, Frame},
};

/// Most events that wait to be taken; beyond, links are not read and their peers have to wait.
const EVENTS_MAX: usize = 1_024;
/// Most bytes of frames that wait to be taken, over all links.
const BYTES_MAX: usize = 64 << 20;

/// What happened on the links.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A link to an authenticated peer is up; nothing was said on it yet.
    Connected {
        /// The peer's key, proven.
        peer: NodeId,
        /// Whether this node dialled.
        dialed: bool,
    },
    /// The link is down.
    Lost {
        /// Whose.
        peer: NodeId,
        /// The code with which the other side closed it, if it did.
        code: Option<CloseCode>,
        /// What the other side, or the network, or this side said; escaped.
        reason: String,
    },
    /// A peer said something.
    Frame {
        /// Who.
        peer: NodeId,
        /// What; never [`Frame::Open`].
        frame: Frame,
    },
    /// The link's send queue had overflowed, frames were dropped, and it has drained.
    Drained {
        /// Whose.
        peer: NodeId,
    },
    /// A round of dials failed at every address.
    DialFailed {
        /// Whom it was to reach.
        peer: NodeId,
        /// Why, address by address.
        reason: String,
    },
}

impl Event {
    /// Returns the peer of whose link it tells.
    pub fn peer(&self) -> NodeId {
        match self {
            Self::Connected { peer, .. }
            | Self::Lost { peer, .. }
            | Self::Frame { peer, .. }
            | Self::Drained { peer }
            | Self::DialFailed { peer, .. } => *peer,
        }
    }
}

/// An event on its way.
pub(super) struct Item {
    event: Event,
    /// The link that is up or down.
    link: Option<Arc<Link>>,
    /// Given back when the event is taken.
    _room: Option<OwnedSemaphorePermit>,
}

/// The links that whoever takes the events knows of.
#[derive(Default)]
pub(super) struct Shown(Mutex<BTreeMap<NodeId, Arc<Link>>>);

impl Shown {
    /// Returns the link to a peer.
    pub(super) fn get(&self, peer: NodeId) -> Option<Arc<Link>> {
        self.links().get(&peer).cloned()
    }

    /// Returns all links, by peer.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.links().values().cloned().collect()
    }

    fn links(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Arc<Link>>> {
        self.0.lock().expect("nothing panics while it holds this lock")
    }
}

/// The end at which events are taken.
///
/// Act upon an event before taking the next: taking `Lost` and `Connected` is what turns
/// [`send`](super::Transport::send) from a peer's old link to its new one.
pub struct Events {
    receiver: mpsc::Receiver<Item>,
    /// One that was looked at and not taken.
    next: Option<Item>,
    shown: Arc<Shown>,
}

impl Events {
    /// Takes the next event; `None` once the transport is gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Event> {
        let item = match self.next.take() {
            Some(item) => item,
            None => self.receiver.recv().await?,
        };
        Some(self.show(item))
    }

    /// Takes the next event if there is one already.
    pub fn try_recv(&mut self) -> Option<Event> {
        self.try_recv_if(|_| true)
    }

    /// Takes the next event if there is one already and it is wanted.
    pub fn try_recv_if(&mut self, is_wanted: impl FnOnce(&Event) -> bool) -> Option<Event> {
        let item = self.next.take().or_else(|| self.receiver.try_recv().ok())?;
        if is_wanted(&item.event) {
            Some(self.show(item))
        } else {
            self.next = Some(item);
            None
        }
    }

    /// Tells whether no event waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.next.is_none() && self.receiver.is_empty()
    }

    fn show(&self, item: Item) -> Event {
        match (&item.event, item.link) {
            (Event::Connected { peer, .. }, Some(link)) => {
                self.shown.links().insert(*peer, link);
            }
            (Event::Lost { peer, .. }, _) => {
                self.shown.links().remove(peer);
            }
            _ => {}
        }
        item.event
    }
}

/// The end at which events are told; cheap to clone.
#[derive(Clone)]
pub(super) struct Teller {
    sender: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
}

/// Makes both ends.
pub(super) fn channel(shown: Arc<Shown>) -> (Teller, Events) {
    let (sender, receiver) = mpsc::channel(EVENTS_MAX);
    let room = Arc::new(Semaphore::new(BYTES_MAX));
    (Teller { sender, room }, Events { receiver, next: None, shown })
}

impl Teller {
    /// Tells an event once there is room. If this is cancelled, the event is not told.
    pub(super) async fn tell(&self, event: Event) {
        self.put(Item { event, link: None, _room: None }).await;
    }

    /// Tells that a link is up.
    pub(super) async fn tell_connected(&self, link: &Arc<Link>) {
        let event = Event::Connected { peer: link.peer, dialed: link.claim.dialed };
        self.put(Item { event, link: Some(link.clone()), _room: None }).await;
    }

    /// Tells a frame that had this many bytes.
    pub(super) async fn tell_frame(&self, peer: NodeId, frame: Frame, bytes: usize) {
        let bytes = u32::try_from(bytes.min(BYTES_MAX)).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(bytes).await.ok();
        self.put(Item { event: Event::Frame { peer, frame }, link: None, _room: room }).await;
    }

    async fn put(&self, item: Item) {
        // An error means that nobody takes events any more; then the transport is being dropped.
        let _ = self.sender.send(item).await;
    }
}

/// Sends events without a link, for tests of the code that receives them.
#[cfg(test)]
pub(crate) struct Telling(Teller);

#[cfg(test)]
impl Telling {
    /// Makes both ends.
    pub(crate) fn new() -> (Self, Events) {
        let (teller, events) = channel(Arc::default());
        (Self(teller), events)
    }

    /// Tells an event.
    pub(crate) async fn tell(&self, event: Event) {
        self.0.tell(event).await;
    }

    /// Returns how many events wait to be taken.
    pub(crate) fn waiting(&self) -> usize {
        EVENTS_MAX - self.0.sender.capacity()
    }
}
