//! Owns a host's epochs: writing its document anew once history outweighs state, what becomes of
//! the epoch before, and which epoch of a host is shown.
//!
//! Must not know what a record means. Invariants: nobody is told of a new epoch, nor of what was
//! carried over into it, before that is durable, so that after a crash it is not done twice; a node
//! gives an epoch up only once the newer one holds all that it has of it; of several epochs of one
//! host that a node holds, the newest is shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{
    document::{self, Applied, Document},
    effect::{Effects, Now, StoredDocument, Write},
    ids::{ChangeHash, DocumentId, Fingerprint, NodeId, StartId},
    view,
};
use super::{Origin, Replica, read_all};
use crate::wire::DocumentHeads;

/// How many changes a document has at least before it is written anew: at some 400 bytes of memory
/// and 5 µs of every start each, fewer are not worth that every peer fetches it whole.
const CHANGES_MIN: u64 = 10_000;
/// How many times as many operations it has by then as the new one would have: so all that is ever
/// written anew stays within a fraction of what was written.
const OPS_FACTOR: u64 = 4;
/// About how many operations a record takes when it is written once.
const RECORD_OPS: u64 = 12;
/// About how many the empty document takes.
const EMPTY_OPS: u64 = 300;
/// How many changes lie between two looks.
const LOOK_EVERY: u64 = 256;
/// How long it waits to try again where something was written while the new epoch became durable.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How many copies of epochs are remembered that were of no use, so as not to ask for them again.
const SEEN_MAX: usize = 256;
/// How much may wait to be carried over; more comes again.
const ARRIVED_MAX: usize = 64;

/// What is known of epochs.
#[derive(Debug, Clone)]
pub struct Epochs {
    /// The one that this node's own document is in.
    own: u32,
    stage: Stage,
    /// What peers have of earlier epochs of this host, and has not been looked into.
    arrived: Vec<(NodeId, DocumentId, Arrived)>,
    /// Copies that were fetched and not kept, by their heads.
    seen: BTreeSet<(DocumentId, Vec<ChangeHash>)>,
    /// Whether a rewrite was asked for.
    asked: bool,
    /// How many changes the document had when it was last looked at.
    looked_at: u64,
    retry_at: Option<Duration>,
}

/// What is under way; one thing at a time.
#[derive(Debug, Clone)]
enum Stage {
    Idle,
    /// The next epoch is becoming durable.
    Rewritten {
        document: Box<Document>,
        /// Where the present one stood.
        heads: Vec<ChangeHash>,
    },
    /// An earlier epoch is awaited from the store.
    Loading(DocumentId),
    /// What it has gained is becoming durable, in both epochs.
    CarriedOver {
        of: DocumentId,
        /// The present epoch's, with what was carried over.
        document: Box<Document>,
        authors: BTreeSet<Fingerprint>,
        peer: NodeId,
    },
}

/// What a peer has of an earlier epoch.
#[derive(Debug, Clone)]
pub enum Arrived {
    Whole(Box<Document>),
    Changes(Vec<Vec<u8>>),
}

/// What is done with a copy of a host document that was fetched whole.
enum Verdict {
    /// It is shown from now on.
    Show,
    /// It holds what its host has yet to carry over, and is passed on.
    Hold,
    /// This node, its host, is to carry over what it holds.
    CarryOver,
    /// Everything in it is here already, or something here is not in it yet.
    Pass,
}

impl Epochs {
    /// Starts where a first start does.
    pub fn new() -> Self {
        Self {
            own: 0,
            stage: Stage::Idle,
            arrived: Vec::new(),
            seen: BTreeSet::new(),
            asked: false,
            looked_at: 0,
            retry_at: None,
        }
    }

    /// Returns the epoch that this node's own document is in.
    pub fn own(&self) -> u32 {
        self.own
    }

    /// Forgets what was said in a fleet that was left.
    pub fn forget_peers(&mut self) {
        self.arrived.clear();
        self.seen.clear();
    }

    /// Returns when a rewrite is tried again.
    pub fn due(&self) -> Option<Duration> {
        self.retry_at.filter(|_| matches!(self.stage, Stage::Idle))
    }

    fn remember(&mut self, document: DocumentId, heads: Vec<ChangeHash>) {
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert((document, heads));
    }

    fn has_seen(&self, document: &DocumentId) -> bool {
        self.seen.iter().any(|(seen, _)| seen == document)
    }
}

fn epochs_of(host: NodeId) -> std::ops::RangeInclusive<DocumentId> {
    DocumentId::Host { host, epoch: 0 }..=DocumentId::Host { host, epoch: u32::MAX }
}

impl Replica {
    /// Returns the name of this node's own document.
    pub(super) fn own_document(&self) -> DocumentId {
        DocumentId::Host { host: self.node, epoch: self.epochs.own }
    }

    /// Returns the epoch of a host that is shown, if this node has one.
    fn shown_epoch(&self, host: NodeId) -> Option<u32> {
        if host == self.node {
            return Some(self.epochs.own);
        }
        let held = self.documents.range(epochs_of(host)).next_back().map(|(id, _)| *id);
        let awaited = self.reloading.range(epochs_of(host)).next_back().copied();
        match held.max(awaited)? {
            DocumentId::Host { epoch, .. } => Some(epoch),
            DocumentId::Fleet(_) => None,
        }
    }

    /// Returns the document that is shown of a host, and written to, if it is here.
    pub(super) fn host_document_id(&self, host: NodeId) -> Option<DocumentId> {
        let epoch = self.shown_epoch(host)?;
        Some(DocumentId::Host { host, epoch }).filter(|id| self.documents.contains_key(id))
    }

    /// Tells whether a document is one that is shown.
    pub(super) fn is_shown(&self, document: &DocumentId) -> bool {
        match document {
            DocumentId::Fleet(_) => false,
            DocumentId::Host { host, epoch } => self.shown_epoch(*host) == Some(*epoch),
        }
    }

    /// Tells whether anything is taken in of an epoch of a host: a newer one than is known here, or
    /// one that the host says to have gone on from.
    pub(super) fn is_epoch(&self, host: NodeId, epoch: u32) -> bool {
        let Some(shown) = self.shown_epoch(host) else { return true };
        let id = DocumentId::Host { host, epoch };
        epoch >= shown
            || self.documents.contains_key(&id)
            || self.host_document(host).is_some_and(|document| document.follows(epoch))
    }

    /// Picks from what a peer has the documents that are of use here.
    pub(super) fn useful(&self, peer: &NodeId, theirs: Vec<DocumentHeads>) -> Vec<DocumentHeads> {
        let mut newest: BTreeMap<NodeId, u32> = BTreeMap::new();
        for told in &theirs {
            if let DocumentId::Host { host, epoch } = told.document {
                let known = newest.entry(host).or_default();
                *known = epoch.max(*known);
            }
        }
        let is_useful = |told: &DocumentHeads| {
            let DocumentId::Host { host, epoch } = told.document else { return true };
            if self.documents.contains_key(&told.document) {
                return true;
            }
            if self.epochs.seen.contains(&(told.document, told.heads.clone())) {
                return false;
            }
            match self.shown_epoch(host) {
                Some(shown) if epoch < shown => {
                    // Once it has seen the newer one, the peer itself knows whether it still
                    // needs the older one.
                    let covered = self
                        .host_document(host)
                        .is_none_or(|document| document.covers_heads(epoch, &told.heads));
                    !self.exchange.is_greeting(peer) && !covered && self.is_way_to_host(peer, host)
                }
                _ => newest.get(&host) == Some(&epoch),
            }
        };
        theirs.into_iter().filter(is_useful).collect()
    }

    /// Tells whether what a peer has of an earlier epoch reaches its host only through this node.
    fn is_way_to_host(&self, peer: &NodeId, host: NodeId) -> bool {
        host == self.node || (*peer != host && !self.exchange.is_linked(peer, &host))
    }

    /// Takes changes of a document that is not held; true if that is all there is to do.
    pub(super) fn changes_elsewhere(
        &mut self,
        now: Now,
        peer: NodeId,
        id: DocumentId,
        changes: &[Vec<u8>],
    ) -> bool {
        let DocumentId::Host { host, epoch } = id else { return false };
        if self.documents.contains_key(&id) {
            return false;
        }
        if host == self.node && epoch < self.epochs.own {
            self.arrived(peer, id, Arrived::Changes(changes.to_vec()));
            return true;
        }
        let older = self.shown_epoch(host).is_some_and(|shown| epoch < shown);
        if self.epochs.has_seen(&id) || (older && !self.is_way_to_host(&peer, host)) {
            // Whether it is of use now shows in its heads.
            self.exchange.note_traffic(now.monotonic, &peer);
            return true;
        }
        false
    }

    fn arrived(&mut self, peer: NodeId, id: DocumentId, what: Arrived) {
        if self.epochs.arrived.len() < ARRIVED_MAX {
            self.epochs.arrived.push((peer, id, what));
        }
    }

    fn verdict(&self, copy: &Document) -> Verdict {
        let DocumentId::Host { host, epoch } = copy.id() else { return Verdict::Show };
        let Some(shown) = self.shown_epoch(host) else { return Verdict::Show };
        let Some(document) = self.host_document(host) else { return Verdict::Pass };
        if epoch > shown {
            // This node's own document went back to an older state of its disk.
            let gone_back = host == self.node && matches!(self.epochs.stage, Stage::Idle);
            let goes = gone_back || copy.covers(document);
            return if goes { Verdict::Show } else { Verdict::Pass };
        }
        match document.covers(copy) {
            true => Verdict::Pass,
            false if host == self.node => Verdict::CarryOver,
            false => Verdict::Hold,
        }
    }

    /// Takes a document over that this node had nothing of; false if it is of no use.
    pub(super) fn take_over(
        &mut self,
        now: Now,
        peer: NodeId,
        document: Document,
        bytes: Vec<u8>,
        fx: &mut Effects,
    ) -> bool {
        let (id, heads) = (document.id(), document.heads());
        match self.verdict(&document) {
            Verdict::Show => {
                self.show(now, Origin::Peer(peer), document, Some(bytes), fx);
                true
            }
            Verdict::Hold => {
                tracing::info!(document = %id, "holding what its host has yet to carry over");
                self.documents.insert(id, document);
                fx.writes.push(Write::Snapshot { document: id, bytes });
                true
            }
            Verdict::CarryOver => {
                self.arrived(peer, id, Arrived::Whole(Box::new(document)));
                self.epochs.remember(id, heads);
                false
            }
            Verdict::Pass => {
                tracing::debug!(document = %id, "not going over to that epoch, or not back to it");
                if id.host().is_some_and(|host| self.host_document(host).is_some()) {
                    self.epochs.remember(id, heads);
                }
                false
            }
        }
    }

    /// Shows a document from now on, in place of what was shown of its host; gives up the epochs
    /// that it holds all of.
    fn show(
        &mut self,
        now: Now,
        origin: Origin,
        document: Document,
        bytes: Option<Vec<u8>>,
        fx: &mut Effects,
    ) {
        let id = document.id();
        let mut touched = view::Touched::default();
        if let DocumentId::Host { host, epoch } = id {
            self.clear_shown(host, &mut touched);
            read_all(&document, host, &mut touched);
            if host == self.node {
                self.epochs.own = epoch;
                self.epochs.looked_at = 0;
            }
        }
        if let Some(bytes) = bytes {
            fx.writes.push(Write::Snapshot { document: id, bytes });
        }
        self.documents.insert(id, document);
        if let Some(host) = id.host() {
            self.give_up_epochs(host, fx);
        }
        let authors = id.host().map(|host| host.fingerprint()).into_iter().collect();
        self.publish(now, touched, origin, authors, fx);
    }

    /// Gives up the earlier epochs of a host that the shown one holds all of; a host keeps them in
    /// its store.
    pub(super) fn give_up_epochs(&mut self, host: NodeId, fx: &mut Effects) {
        let Some(shown) = self.host_document_id(host) else { return };
        let held = self.documents.range(epochs_of(host)).map(|(id, _)| *id);
        for id in held.filter(|id| *id != shown).collect::<Vec<_>>() {
            if host == self.node {
                let older = self.documents.remove(&id);
                fx.writes.push(Write::Archive { document: id });
                if let Some(older) = older
                    && !self.documents[&shown].covers(&older)
                {
                    self.arrived(self.node, id, Arrived::Changes(Vec::new()));
                }
            } else if self.documents[&shown].covers(&self.documents[&id]) {
                self.documents.remove(&id);
                fx.writes.push(Write::Forget { document: id });
            } else {
                continue;
            }
            self.exchange.forget(&id);
            tracing::info!(document = %id, %shown, "went over to a newer epoch");
        }
    }

    /// Settles which epoch of this node's own document is the present one, after a start.
    pub(super) fn open_epochs(&mut self, fx: &mut Effects) {
        let held = self.documents.range(epochs_of(self.node)).map(|(id, _)| *id);
        let mut held: Vec<DocumentId> = held.collect();
        while let Some(id) = held.pop() {
            let begun = match held.last() {
                Some(older) => self.documents[&id].covers(&self.documents[older]),
                None => true,
            };
            if begun && let DocumentId::Host { epoch, .. } = id {
                self.epochs.own = epoch;
                self.give_up_epochs(self.node, fx);
                return;
            }
            // It became durable, and nobody was told of it: the older one had gone on.
            self.documents.remove(&id);
            fx.writes.push(Write::Forget { document: id });
        }
    }

    /// Has this node's own document written anew as soon as that can be.
    pub(super) fn ask_for_rewrite(&mut self) {
        self.epochs.asked = true;
        self.epochs.retry_at = None;
    }

    /// Begins with what is due; level-triggered, so calling it again changes nothing.
    pub(super) fn go_on_with_epochs(&mut self, now: Now, fx: &mut Effects) {
        let own = self.own_document();
        if !matches!(self.epochs.stage, Stage::Idle) || !self.documents.contains_key(&own) {
            return;
        }
        if let Some((_, id, _)) = self.epochs.arrived.first() {
            fx.reloads.push(*id);
            self.epochs.stage = Stage::Loading(*id);
        } else if self.is_rewrite_due(now) {
            self.rewrite(now, fx);
        }
    }

    fn is_rewrite_due(&mut self, now: Now) -> bool {
        if self.epochs.retry_at.is_some_and(|at| at > now.monotonic) {
            return false;
        }
        if self.epochs.asked || self.epochs.retry_at.is_some() {
            return true;
        }
        let document = &self.documents[&self.own_document()];
        let changes = document.change_count();
        if changes < CHANGES_MIN || changes < self.epochs.looked_at + LOOK_EVERY {
            return false;
        }
        self.epochs.looked_at = changes;
        let records =
            self.view.sessions_of(&self.node).count() + self.view.workspaces_of(&self.node).count();
        let needed = EMPTY_OPS + RECORD_OPS * records as u64;
        document.op_count() > OPS_FACTOR * needed
    }

    fn rewrite(&mut self, now: Now, fx: &mut Effects) {
        let own = self.own_document();
        let document = &self.documents[&own];
        if self.epochs.own == u32::MAX {
            return;
        }
        self.epochs.asked = false;
        self.epochs.retry_at = None;
        let heads = document.heads();
        let next = document.rewritten(self.actor.clone(), now.wall_ms);
        tracing::info!(
            changes = document.change_count(),
            operations = document.op_count(),
            operations_left = next.op_count(),
            "wrote the own document anew"
        );
        fx.writes.push(Write::Snapshot { document: next.id(), bytes: next.save() });
        fx.reloads.push(next.id());
        self.epochs.stage = Stage::Rewritten { document: Box::new(next), heads };
    }

    /// Goes on with what has waited for the store; gives back what it did not wait for.
    pub(super) fn epoch_reloaded(
        &mut self,
        now: Now,
        stored: StoredDocument,
        fx: &mut Effects,
    ) -> Option<StoredDocument> {
        let awaited = match &self.epochs.stage {
            Stage::Idle => None,
            Stage::Rewritten { document, .. } => Some(document.id()),
            Stage::Loading(id) => Some(*id),
            Stage::CarriedOver { of, .. } => Some(*of),
        };
        if awaited != Some(stored.id) || self.reloading.contains(&stored.id) {
            return Some(stored);
        }
        match std::mem::replace(&mut self.epochs.stage, Stage::Idle) {
            Stage::Idle => return Some(stored),
            Stage::Rewritten { document, heads } => self.begin_epoch(now, *document, &heads, fx),
            Stage::Loading(_) => self.carry_over(now, stored, fx),
            Stage::CarriedOver { document, authors, peer, .. } => {
                self.carried_over(now, &document, authors, peer, fx);
            }
        }
        None
    }

    /// Goes over to an epoch that is durable by now, unless the one before has gone on.
    fn begin_epoch(
        &mut self,
        now: Now,
        document: Document,
        heads: &[ChangeHash],
        fx: &mut Effects,
    ) {
        let own = self.documents.get(&self.own_document());
        if own.is_none_or(|own| own.heads() != heads) {
            fx.writes.push(Write::Forget { document: document.id() });
            self.epochs.retry_at = Some(now.monotonic + RETRY_AFTER);
            return;
        }
        let digest = self.view.digest();
        self.show(now, Origin::Here, document, None, fx);
        debug_assert_eq!(digest, self.view.digest(), "a new epoch shows what the one before did");
        let own = self.node;
        self.exchange.adopted(now.monotonic, &own, &self.documents, &mut fx.frames);
    }

    /// Writes what an earlier epoch has gained into the present one.
    fn carry_over(&mut self, now: Now, stored: StoredDocument, fx: &mut Effects) {
        let id = stored.id;
        let (waiting, rest) =
            std::mem::take(&mut self.epochs.arrived).into_iter().partition(|(_, of, _)| *of == id);
        self.epochs.arrived = rest;
        let waiting: Vec<(NodeId, DocumentId, Arrived)> = waiting;
        let own = self.own_document();
        let Some(present) = self.documents.get(&own) else {
            self.epochs.arrived.extend(waiting);
            return;
        };
        let (snapshot, changes) = (stored.snapshot, stored.changes);
        let loaded = Document::load(id, self.actor.clone(), snapshot.as_deref(), &changes);
        let parted =
            loaded.map(|earlier| present.part_carried(&earlier).map(|part| (earlier, part)));
        let (mut earlier, (before, mut touched)) = match parted {
            Ok(Some(parted)) => parted,
            Ok(None) => {
                tracing::error!(document = %id, "the epoch is not the one that was carried over");
                return;
            }
            Err(error) => {
                tracing::error!(document = %id, %error, "can't read the epoch back");
                return;
            }
        };
        let (mut gained, mut authors) = (Vec::new(), BTreeSet::from([self.node.fingerprint()]));
        let mut from = self.node;
        for (peer, _, what) in waiting {
            let merged = match what {
                Arrived::Whole(copy) => earlier.merge_copy(&copy),
                Arrived::Changes(changes) => earlier.apply(&changes),
            };
            match merged {
                Ok(applied) if applied.changes.is_empty() => {}
                Ok(applied) => {
                    from = peer;
                    touched.extend(applied.touched);
                    gained.extend(applied.changes);
                }
                Err(error) => {
                    // What came before it in the same batch comes again, from whoever has it.
                    self.contain(peer, id, &error, fx);
                    return;
                }
            }
        }
        if present.covers(&earlier) {
            return;
        }
        authors.extend(gained.iter().map(|change| change.author));
        // Under an actor of its own: the present document goes on meanwhile.
        let start = StartId(self.start.0.map(|byte| !byte));
        let mut document = present.fork(document::actor(&self.node, start));
        let carried = document.carry_over(&before, &earlier, &touched, now.wall_ms);
        tracing::info!(document = %id, changes = gained.len(), "carried over what was written to an earlier epoch");
        let gained = Applied { changes: gained, touched: BTreeSet::new() };
        self.record(id, &gained, fx);
        self.record(own, &carried, fx);
        fx.reloads.push(id);
        let document = Box::new(document);
        self.epochs.stage = Stage::CarriedOver { of: id, document, authors, peer: from };
    }

    fn carried_over(
        &mut self,
        now: Now,
        copy: &Document,
        authors: BTreeSet<Fingerprint>,
        peer: NodeId,
        fx: &mut Effects,
    ) {
        let id = copy.id();
        // Thrown away meanwhile, it comes back from the store with what was carried over.
        let Some(document) = self.documents.get_mut(&id) else { return };
        match document.merge_copy(copy) {
            Ok(applied) => {
                let origin = if peer == self.node { Origin::Here } else { Origin::Peer(peer) };
                self.spread(now, id, &applied, None, origin, authors, fx);
            }
            Err(error) => tracing::error!(document = %id, %error, "can't take up what was written"),
        }
    }

    /// Tells whether a change is held, or what it says has been taken over from an earlier epoch.
    pub fn holds(
        &self,
        document: &DocumentId,
        change: &ChangeHash,
        actor: &[u8],
        seq: u64,
    ) -> bool {
        if self.documents.get(document).is_some_and(|document| document.has(change)) {
            return true;
        }
        let DocumentId::Host { host, epoch } = document else { return false };
        self.host_document(*host).is_some_and(|newer| newer.covers_change(*epoch, actor, seq))
    }
}
