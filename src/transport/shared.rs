//! Owns which link is the link to each peer.
//!
//! Must not know how links come about. Invariant: a peer has at most one link that runs; others
//! wait aside, unread, until it has ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    ops::Deref,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::{
    Notify,
    oneshot::{self, error::TryRecvError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    accept,
    conflict::{self, Adoption, Berths},
    event::{Event, Shown, Teller},
    link::{Ending, Link, Lost, Streams, Surroundings},
    open::Opened,
    places::{Place, Places},
    twins::{Starts, Verdict},
};
use crate::{
    identity::NodeKey,
    replica::ids::{NodeId, StartId},
    wire::CloseCode,
};

/// What a transport is built on.
pub(super) struct Foundation {
    pub key: Arc<NodeKey>,
    pub start: StartId,
    pub endpoint: quinn::Endpoint,
    pub shown: Arc<Shown>,
    pub teller: Teller,
    /// How long a peer may take for its first frame.
    pub open_max: Duration,
    pub transport: Arc<quinn::TransportConfig>,
}

/// What all tasks of a transport have in common.
pub(super) struct Shared {
    foundation: Foundation,
    pub tasks: TaskTracker,
    /// Cancelled when no link is to come about any more.
    pub closing: CancellationToken,
    /// Cancelled when nobody takes events any more.
    pub deaf: CancellationToken,
    /// Handshakes on the way.
    pub handshakes: Arc<Places>,
    /// Connections whose key is no member's.
    pub strangers: Arc<Places>,
    members: Mutex<BTreeSet<NodeId>>,
    /// Of members, which starts their links have told.
    starts: Mutex<BTreeMap<NodeId, Starts>>,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// What went over links that have ended; changed only while `peers` is locked.
    ended: Mutex<Traffic>,
    /// Told whenever a link has come or gone. It wakes in the order in which was waited; a `watch`
    /// would in a random one, and no run of a simulation would be like another.
    changes: Notify,
}

impl Deref for Shared {
    type Target = Foundation;

    fn deref(&self) -> &Foundation {
        &self.foundation
    }
}

/// How much went over links: datagrams' contents, all that QUIC adds included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
}

impl Traffic {
    fn add(&mut self, link: &Link) {
        let stats = link.connection.stats();
        self.sent_bytes += stats.udp_tx.bytes;
        self.received_bytes += stats.udp_rx.bytes;
    }
}

/// The links to one peer.
#[derive(Default)]
struct Peer {
    berths: Berths<Contending, Streams>,
    /// Resolves when the last of the links that ran has told its end.
    tail: Option<oneshot::Receiver<Infallible>>,
}

/// A link among those to the same peer.
#[derive(Clone)]
struct Contending(Arc<Link>);

impl PartialEq for Contending {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl conflict::Contender for Contending {
    fn claim(&self) -> conflict::Claim {
        self.0.claim
    }

    fn up_for(&self) -> Duration {
        self.0.opened.elapsed()
    }

    fn is_down(&self) -> bool {
        self.0.connection.close_reason().is_some()
    }
}

/// What has become of an opened connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Adopted {
    /// It is a link, or will be when the present one has ended.
    Kept,
    /// Another link is kept in its place.
    Duplicate,
}

impl Shared {
    /// Makes one without links.
    pub(super) fn new(foundation: Foundation) -> Self {
        Self {
            foundation,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            deaf: CancellationToken::new(),
            handshakes: Places::new(accept::HANDSHAKES),
            strangers: Places::new(accept::STRANGERS),
            members: Mutex::default(),
            starts: Mutex::default(),
            peers: Mutex::default(),
            ended: Mutex::default(),
            changes: Notify::new(),
        }
    }

    /// Returns this node's name.
    pub(super) fn node(&self) -> NodeId {
        self.key.node()
    }

    /// Tells whether this node decides which link to `peer` is kept.
    pub(super) fn is_arbiter(&self, peer: NodeId) -> bool {
        conflict::is_arbiter(self.node(), peer)
    }

    /// Says whose keys are members'.
    pub(super) fn set_members(&self, members: BTreeSet<NodeId>) {
        self.starts().retain(|peer, _| members.contains(peer));
        *self.members.lock().expect("nothing panics while it holds this lock") = members;
    }

    /// Tells whether a key is a member's.
    pub(super) fn is_member(&self, peer: NodeId) -> bool {
        self.members.lock().expect("nothing panics while it holds this lock").contains(&peer)
    }

    /// Takes an opened connection for a link, or closes it if another is kept; `place` is the one
    /// that it takes until it is accepted.
    pub(super) fn adopt(self: &Arc<Self>, opened: Opened, place: Option<Place>) -> Adopted {
        let (link, streams) = Link::new(opened, place);
        let mut peers = self.peers();
        if self.closing.is_cancelled() {
            link.close(&ending(CloseCode::Shutdown, "the daemon is stopping"));
            return Adopted::Duplicate;
        }
        let peer = peers.entry(link.peer).or_default();
        let has_link = peer
            .berths
            .running()
            .is_some_and(|running| running.0.connection.close_reason().is_none());
        if self.is_others_turn(&link, has_link) {
            let reason = "another daemon with this key has a link; stop one of the two";
            link.close(&ending(CloseCode::Duplicate, reason));
            return Adopted::Duplicate;
        }
        let arbiter = self.is_arbiter(link.peer);
        let adoption = peer.berths.adopt(arbiter, &Contending(link.clone()), streams);
        match adoption {
            Adoption::Run(streams, old) => {
                tracing::debug!(peer = %link.peer.short(), replaces = old.is_some(), "link opened");
                if let Some(Contending(old)) = old {
                    old.end(ending(CloseCode::Duplicate, "a newer link takes its place"));
                }
                self.start_link(peer, link, streams);
                Adopted::Kept
            }
            Adoption::Wait(oldest) => {
                tracing::debug!(peer = %link.peer.short(), "second link opened; it waits");
                if let Some(Contending(oldest)) = oldest {
                    oldest.close(&ending(CloseCode::Duplicate, "too many links"));
                }
                Adopted::Kept
            }
            Adoption::Refuse => {
                tracing::debug!(peer = %link.peer.short(), "second link opened; it is refused");
                link.close(&ending(CloseCode::Duplicate, "another link is kept"));
                Adopted::Duplicate
            }
        }
    }

    /// Tells whether another daemon with the same key has a link that is to stay for now.
    fn is_others_turn(&self, link: &Link, has_link: bool) -> bool {
        if !self.is_member(link.peer) {
            return false;
        }
        let mut all = self.starts();
        let start = link.claim.start;
        let starts = all.entry(link.peer).or_insert_with(|| Starts::new(start));
        let were_two = starts.are_two();
        let verdict = starts.told(start, has_link);
        if starts.are_two() && !were_two {
            tracing::warn!(
                peer = %link.peer.short(),
                address = %link.connection.remote_address(),
                "two daemons run with this key, from a copied data folder or a resumed machine; stop one \
                 of them and give it a data folder of its own"
            );
        }
        verdict == Verdict::NotNow
    }

    /// Tells whether two daemons with a member's key were seen lately.
    pub(super) fn are_two(&self, peer: NodeId) -> bool {
        self.starts().get(&peer).is_some_and(Starts::are_two)
    }

    fn starts(&self) -> MutexGuard<'_, BTreeMap<NodeId, Starts>> {
        self.starts.lock().expect("nothing panics while it holds this lock")
    }

    /// Runs a link as the one to its peer.
    fn start_link(self: &Arc<Self>, peer: &mut Peer, link: Arc<Link>, streams: Streams) {
        let (told, tail) = oneshot::channel::<Infallible>();
        let house = Surroundings {
            teller: self.teller.clone(),
            start: self.start,
            predecessor: peer.tail.replace(tail),
        };
        self.changed();
        let shared = self.clone();
        self.tasks.spawn(async move {
            let lost = tokio::select! {
                biased;
                () = shared.deaf.cancelled() => None,
                lost = link.run(streams, house) => lost,
            };
            shared.stop_link(&link);
            if let Some(Lost { code, reason }) = lost {
                tracing::info!(peer = %link.peer.short(), ?code, reason, "link lost");
                let event = Event::Lost { peer: link.peer, code, reason };
                tokio::select! {
                    biased;
                    () = shared.deaf.cancelled() => {}
                    () = shared.teller.tell(event) => {}
                }
            }
            drop(told);
            shared.forget(link.peer);
        });
    }

    /// Takes a link that has ended out of its place, and lets one that waits have it.
    fn stop_link(self: &Arc<Self>, link: &Arc<Link>) {
        link.leave_place();
        let mut peers = self.peers();
        self.ended().add(link);
        let Some(peer) = peers.get_mut(&link.peer) else { return };
        if peer.berths.running() != Some(&Contending(link.clone())) {
            return;
        }
        if let Some((Contending(next), streams)) = peer.berths.ended(&Contending(link.clone())) {
            self.start_link(peer, next, streams);
        }
        drop(peers);
        self.changed();
    }

    /// Forgets a peer that has no link; strangers come with a new key each time.
    fn forget(&self, peer: NodeId) {
        let mut peers = self.peers();
        let Some(it) = peers.get_mut(&peer) else { return };
        // As long as an end is not told, what comes next has to wait for it.
        let told = it.tail.as_mut().is_none_or(|tail| tail.try_recv() == Err(TryRecvError::Closed));
        if told && it.berths.count() == 0 {
            peers.remove(&peer);
        }
    }

    /// Tells whether a peer has a link.
    pub(super) fn is_up(&self, peer: NodeId) -> bool {
        self.peers().get(&peer).is_some_and(|peer| peer.berths.running().is_some())
    }

    /// Returns how many connections are, or wait to be, links.
    pub(super) fn count(&self) -> usize {
        self.peers().values().map(|peer| peer.berths.count()).sum()
    }

    /// Returns what went over all links since the start.
    pub(super) fn traffic(&self) -> Traffic {
        let peers = self.peers();
        let mut traffic = *self.ended();
        let running = peers.values().filter_map(|peer| peer.berths.running());
        running.for_each(|Contending(link)| traffic.add(link));
        traffic
    }

    /// Resolves when a peer has, or has not, a link.
    pub(super) async fn until(&self, peer: NodeId, up: bool) {
        self.wait_for(|| self.is_up(peer) == up).await;
    }

    /// Resolves when no peer has a link.
    pub(super) async fn until_none(&self) {
        self.wait_for(|| self.count() == 0).await;
    }

    async fn wait_for(&self, holds: impl Fn() -> bool) {
        loop {
            let mut changed = pin!(self.changes.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if holds() {
                return;
            }
            changed.await;
        }
    }

    /// Ends every link.
    pub(super) fn end_all(&self, ending: &Ending) {
        for peer in self.peers().values_mut() {
            for Contending(link) in peer.berths.clear_waiting() {
                link.close(ending);
            }
            if let Some(Contending(link)) = peer.berths.running() {
                link.end(ending.clone());
            }
        }
    }

    fn changed(&self) {
        self.changes.notify_waiters();
    }

    fn ended(&self) -> MutexGuard<'_, Traffic> {
        self.ended.lock().expect("nothing panics while it holds this lock")
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.peers.lock().expect("nothing panics while it holds this lock")
    }
}

/// Returns an ending that waits for nothing.
fn ending(code: CloseCode, reason: &str) -> Ending {
    Ending { code, reason: reason.into(), flush: false }
}
