//! Owns what is known of each peer and each document between the two: greeting, catching up,
//! pushing, and noticing what was lost.
//!
//! Must not know the view, nor what a document says. Invariant: each side is responsible for
//! noticing what *it* lacks and asks for it; nothing stays different silently.

mod catch_up;
mod links;
mod push;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use catch_up::Owed;
pub use catch_up::{Answer, Parcel};
pub use links::{COMING_UP_MAX, GAINED_WITHIN, TOGETHER_WITHIN};
use links::{Telling, ToldLinks};
use sha2::{Digest as _, Sha256};

use super::{
    document::Document,
    effect::Outgoing,
    guard,
    ids::{ChangeHash, DocumentId, NodeId},
};
use crate::wire::{DocumentHeads, Frame};

/// How long a link is idle after traffic before the frontiers are compared: longer than a relay
/// takes, short enough that nobody sees what a lost push would have shown.
pub const CHECK_IDLE: Duration = Duration::from_millis(300);
/// How long frontiers are not compared at most.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How long a change of a peer may be unknown here before it is asked for: it may be on its way
/// from its author.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(800);
/// How long an answer is awaited before the same is asked, or answered, again.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long a document is awaited whole before it is asked for again.
pub const FETCH_WITHIN: Duration = Duration::from_secs(30);
/// How long a peer may be silent on a fresh link before it greets or asks to join: far longer than
/// any network takes, short enough that strangers who say nothing hold no places.
pub const GREET_WITHIN: Duration = Duration::from_secs(10);
/// How long a peer is not asked again for a document that could not be taken as it has it.
pub const REFETCH_AFTER: Duration = Duration::from_secs(300);
/// How many such are remembered.
const UNFETCHABLE_MAX: usize = 4_096;
/// Most documents and heads, together, that are told of in one frame: at some 40 bytes each, a fraction of
/// what a frame holds, and no more documents than one may name.
pub const HEADS_AT_ONCE: usize = 8_192;
/// How many documents are asked for whole at once: enough to keep a link busy, few enough that
/// they fit its send queue.
pub const FETCHES_MAX: usize = 4;

/// All documents that this node holds.
pub type Documents = BTreeMap<DocumentId, Document>;

/// What is known of all peers.
#[derive(Debug, Clone)]
pub struct Exchange {
    node: NodeId,
    links: BTreeMap<NodeId, Link>,
    /// Documents that were asked for whole: of whom and when.
    fetching: BTreeMap<DocumentId, (NodeId, Duration)>,
    /// Documents that could not be taken whole of a peer, and until when it is not asked again.
    unfetchable: BTreeMap<(NodeId, DocumentId), Duration>,
    /// Hosts whose documents stay where they are: what a reader writes nobody takes in, so its
    /// own document is not compared either, or its frontier would differ for ever.
    unshared: BTreeSet<NodeId>,
    /// The digest of the statements about membership.
    statements: [u8; 32],
    owed: Owed,
    telling: Telling,
    repairs_total: u64,
}

/// What is known of one peer while the link to it is up.
#[derive(Debug, Clone, Default)]
struct Link {
    /// When the link came up.
    since: Duration,
    /// The frontier that was told in our own greeting, once it was sent.
    greeted_with: Option<[u8; 32]>,
    /// Whether the peer's greeting was accepted.
    greeted: bool,
    /// Whether the next heads are those of a greeting that found a difference.
    awaits_heads: bool,
    their_frontier: Option<[u8; 32]>,
    told: ToldLinks,
    /// When it last sent changes.
    heard_at: Option<Duration>,
    documents: BTreeMap<DocumentId, Progress>,
    /// What the peer has of a document and we don't, and since when we know. Kept by itself: it is
    /// looked through at every input, and nearly always empty.
    suspects: BTreeMap<DocumentId, (Vec<ChangeHash>, Duration)>,
    /// Documents that the peer has and we don't.
    lacking: BTreeSet<DocumentId>,
    /// Where our own documents stood at the peer when it greeted, as far as we lacked something.
    greeted_ahead: Vec<DocumentHeads>,
    /// When something last went over the link that is not yet followed by a comparison.
    traffic_at: Option<Duration>,
    checked_at: Duration,
}

/// What is under way about one document with one peer.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// The heads for which everything since was sent, and when.
    answered: Option<(Vec<ChangeHash>, Duration)>,
    /// Our heads with which the rest was last asked for, and when.
    wanted: Option<(Vec<ChangeHash>, Duration)>,
    /// Automerge's sync protocol, and when its last message came or went.
    repair: Option<(automerge::sync::State, Duration)>,
    /// Since when the next one is being made.
    answering: Option<Duration>,
    /// How many of its messages in a row have brought nothing.
    idle: u8,
}

/// Frames to be sent at once, in order.
pub type Out = Vec<Outgoing>;

impl Exchange {
    /// Starts with no peers.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            links: BTreeMap::new(),
            fetching: BTreeMap::new(),
            unfetchable: BTreeMap::new(),
            unshared: BTreeSet::new(),
            statements: [0; 32],
            owed: Owed::default(),
            telling: Telling::default(),
            repairs_total: 0,
        }
    }

    /// Says whose documents are not exchanged.
    pub fn unshare(&mut self, hosts: BTreeSet<NodeId>) {
        self.unshared = hosts;
    }

    /// Says which digest the statements about membership have.
    pub fn set_statements(&mut self, digest: [u8; 32]) {
        self.statements = digest;
    }

    /// Tells whether a document is exchanged with peers.
    pub fn is_shared(&self, document: &DocumentId) -> bool {
        document.host().is_none_or(|host| !self.unshared.contains(&host))
    }

    /// Returns SHA-256 over the sorted `(document, heads)` list of what is exchanged.
    pub fn frontier(&self, documents: &Documents) -> [u8; 32] {
        frontier(documents, &self.unshared)
    }

    /// Notes that a link is up, in place of the one before it if there was one.
    pub fn connected(&mut self, now: Duration, peer: NodeId) {
        self.fetching.retain(|_, (of, _)| *of != peer);
        self.owed.lost(&peer);
        let before = self.links.insert(peer, Link { since: now, ..Link::default() });
        if let Some(before) = before.filter(|link| link.greeted) {
            self.link_lost(now, &peer, &before);
        }
    }

    /// Lists the peers that should have greeted by now.
    pub fn silent(&self, now: Duration) -> Vec<NodeId> {
        let silent =
            self.links.iter().filter(|(_, link)| link.greet_due().is_some_and(|at| at <= now));
        silent.map(|(peer, _)| *peer).collect()
    }

    /// Notes that a link is down; tells the others.
    pub fn lost(&mut self, now: Duration, peer: &NodeId, out: &mut Out) {
        let link = self.links.remove(peer);
        self.owed.lost(peer);
        self.fetching.retain(|_, (of, _)| of != peer);
        if let Some(link) = link.filter(|link| link.greeted) {
            self.link_lost(now, peer, &link);
        }
        self.fetch(now, out);
    }

    /// Notes that all links are being closed, before each is told to be down.
    pub fn disconnect_all(&mut self) {
        self.links.keys().for_each(|peer| self.owed.lost(peer));
        self.links.clear();
        self.fetching.clear();
        self.unfetchable.clear();
        self.tell_nothing();
    }

    /// Tells whether a link is up.
    pub fn is_connected(&self, peer: &NodeId) -> bool {
        self.links.contains_key(peer)
    }

    /// Tells whether both sides have greeted.
    pub fn is_greeted(&self, peer: &NodeId) -> bool {
        self.links.get(peer).is_some_and(|link| link.greeted)
    }

    /// Tells whether our greeting was sent.
    pub fn has_greeted(&self, peer: &NodeId) -> bool {
        self.links.get(peer).is_some_and(|link| link.greeted_with.is_some())
    }

    /// Tells whether the next heads of a peer are those of a greeting.
    pub fn is_greeting(&self, peer: &NodeId) -> bool {
        self.links.get(peer).is_some_and(|link| link.awaits_heads)
    }

    /// Notes that something went over a link that a comparison of the frontiers is to follow.
    pub fn note_traffic(&mut self, now: Duration, peer: &NodeId) {
        if let Some(link) = self.links.get_mut(peer) {
            link.traffic_at = Some(now);
        }
    }

    /// Drops what is known of a document that is no longer held.
    pub fn forget(&mut self, document: &DocumentId) {
        self.fetching.remove(document);
        for link in self.links.values_mut() {
            link.documents.remove(document);
            link.suspects.remove(document);
            link.lacking.remove(document);
        }
    }

    /// Lists the peers with a link.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.links.keys().copied()
    }

    /// Lists the peers that have greeted.
    pub fn greeted(&self) -> Vec<NodeId> {
        self.links.iter().filter(|(_, link)| link.greeted).map(|(peer, _)| *peer).collect()
    }

    /// Tells whether the peer last told the frontier that this node has now.
    pub fn is_in_sync(&self, peer: &NodeId, frontier: &[u8; 32]) -> bool {
        self.links
            .get(peer)
            .is_some_and(|link| link.greeted && link.their_frontier.as_ref() == Some(frontier))
    }

    /// Tells whether this node has all that a peer knew of its own documents when it greeted.
    pub fn has_caught_up(&self, peer: &NodeId, documents: &Documents) -> bool {
        let is_here = |told: &DocumentHeads| {
            // What is not held any more was given up once all of it was held elsewhere.
            documents.get(&told.document).is_none_or(|it| it.accounts_for(&told.heads))
        };
        self.links.get(peer).is_some_and(|link| {
            link.greeted
                && !link.awaits_heads
                && link.greeted_ahead.iter().all(is_here)
                && !link.lacking.iter().any(|id| id.host() == Some(self.node))
        })
    }

    /// Returns how often two replicas were found to differ with nothing on the way.
    pub fn repairs_total(&self) -> u64 {
        self.repairs_total
    }

    /// Notes that our greeting goes out now, with this frontier.
    pub fn greet(&mut self, peer: &NodeId, frontier: [u8; 32]) {
        if let Some(link) = self.links.get_mut(peer) {
            link.greeted_with = Some(frontier);
        }
    }

    /// Accepts a peer's greeting; if the frontiers differ, tells where the documents stand.
    ///
    /// What changed here since our own greeting was pushed after it, so the peer's frontier is
    /// compared with the one that we told.
    pub fn accept(
        &mut self,
        now: Duration,
        peer: &NodeId,
        their_frontier: [u8; 32],
        documents: &Documents,
        out: &mut Out,
    ) {
        let Some(link) = self.links.get_mut(peer) else { return };
        link.greeted = true;
        link.their_frontier = Some(their_frontier);
        link.checked_at = now;
        if link.greeted_with != Some(their_frontier) {
            link.awaits_heads = true;
            tell_heads(&[*peer], documents, &self.unshared, false, out);
        }
        self.link_gained(now, peer);
    }

    /// Compares a peer's frontier with ours; if they differ, both tell where the documents stand.
    pub fn checked(
        &mut self,
        peer: &NodeId,
        theirs: [u8; 32],
        documents: &Documents,
        out: &mut Out,
    ) {
        let Some(link) = self.links.get_mut(peer) else { return };
        link.their_frontier = Some(theirs);
        if theirs == frontier(documents, &self.unshared) {
            link.suspects.clear();
        } else {
            tell_heads(&[*peer], documents, &self.unshared, true, out);
        }
    }

    /// Tells the peer where the documents stand, after frames to it were dropped.
    pub fn drained(&mut self, now: Duration, peer: &NodeId, documents: &Documents, out: &mut Out) {
        let Some(link) = self.links.get_mut(peer).filter(|link| link.greeted) else { return };
        for progress in link.documents.values_mut() {
            progress.answered = None;
            progress.wanted = None;
            progress.repair = None;
            progress.answering = None;
        }
        tell_heads(&[*peer], documents, &self.unshared, true, out);
        // What was asked for may be among what was dropped, and so may the last word on our links.
        self.tell_anew(peer);
        self.fetching.retain(|_, (of, _)| of != peer);
        self.fetch(now, out);
    }

    /// Does what has become due: compares frontiers, asks for what is still unknown.
    pub fn time_passed(&mut self, now: Duration, documents: &Documents, out: &mut Out) {
        self.tell_links(now, out);
        let mut ours = None;
        for (peer, link) in self.links.iter_mut().filter(|(_, link)| link.greeted) {
            link.suspects.retain(|id, (heads, since)| {
                if *since + SUSPECT_AFTER > now {
                    return true;
                }
                let lacking = documents.get(id).filter(|document| !document.accounts_for(heads));
                let Some(document) = lacking else { return false };
                *since = now;
                let progress = link.documents.entry(*id).or_default();
                progress.wanted = Some((document.heads(), now));
                self.repairs_total += 1;
                let stand = DocumentHeads { document: *id, heads: document.heads() };
                out.push(to(peer, Frame::Want(stand)));
                true
            });
            if now >= link.check_due() {
                link.traffic_at = None;
                link.checked_at = now;
                let frontier = *ours.get_or_insert_with(|| frontier(documents, &self.unshared));
                let statements = self.statements;
                out.push(to(peer, Frame::Check { frontier, statements }));
            }
        }
        let links = &mut self.links;
        self.fetching.retain(|id, (peer, since)| {
            let awaited = *since + FETCH_WITHIN > now;
            // Another is asked first: this one may never answer. It says again what it has.
            if !awaited && let Some(link) = links.get_mut(peer) {
                link.lacking.remove(id);
            }
            awaited
        });
        self.fetch(now, out);
    }

    /// Returns when [`Exchange::time_passed`] has something to do next.
    pub fn due(&self) -> Option<Duration> {
        let silent = self.links.values().filter_map(Link::greet_due);
        let links = self.links.values().filter(|link| link.greeted);
        let links = links.flat_map(|link| {
            let suspects = link.suspects.values().map(|(_, since)| *since + SUSPECT_AFTER);
            suspects.chain([link.check_due()])
        });
        let fetches = self.fetching.values().map(|(_, since)| *since + FETCH_WITHIN);
        links.chain(fetches).chain(silent).chain(self.telling_due()).min()
    }
}

impl Link {
    /// Returns until when the peer has to greet, unless it has.
    fn greet_due(&self) -> Option<Duration> {
        (!self.greeted).then(|| self.since + GREET_WITHIN)
    }

    fn check_due(&self) -> Duration {
        let regular = self.checked_at + CHECK_INTERVAL;
        self.traffic_at.map_or(regular, |at| regular.min(at + CHECK_IDLE))
    }
}

fn shared<'a>(
    documents: &'a Documents,
    unshared: &'a BTreeSet<NodeId>,
) -> impl Iterator<Item = (&'a DocumentId, &'a Document)> {
    documents.iter().filter(|(id, _)| id.host().is_none_or(|host| !unshared.contains(&host)))
}

fn frontier(documents: &Documents, unshared: &BTreeSet<NodeId>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for (_, document) in shared(documents, unshared) {
        let heads = document.heads();
        hasher.update(document.name());
        hasher.update((heads.len() as u64).to_le_bytes());
        heads.iter().for_each(|head| hasher.update(head.0));
    }
    hasher.finalize().into()
}

/// Tells peers where all documents stand, in as many frames as it takes: one document that has very many
/// heads must not keep the others from being compared.
fn tell_heads(
    to: &[NodeId],
    documents: &Documents,
    unshared: &BTreeSet<NodeId>,
    answer: bool,
    out: &mut Out,
) {
    let (mut parts, mut part, mut heads) = (Vec::new(), Vec::new(), 0);
    for (id, document) in shared(documents, unshared) {
        let stand = DocumentHeads { document: *id, heads: document.heads() };
        if stand.heads.len() as u64 > guard::HEADS_MAX {
            tracing::error!(document = %id, heads = stand.heads.len(), "has too many heads to be compared");
            continue;
        }
        let more = stand.heads.len() + 1;
        if heads + more > HEADS_AT_ONCE && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            heads = 0;
        }
        heads += more;
        part.push(stand);
    }
    parts.push(part);
    let last = parts.len() - 1;
    for (number, documents) in parts.into_iter().enumerate() {
        let frame = Frame::Heads { documents, answer: answer && number == last };
        out.push(Outgoing { to: to.to_vec(), frame });
    }
}

fn to(peer: &NodeId, frame: Frame) -> Outgoing {
    Outgoing { to: vec![*peer], frame }
}
