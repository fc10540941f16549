//! Owns what a host does about its epochs: writing its document anew once history outweighs state,
//! and carrying over what comes in for an epoch that it has left behind.
//!
//! Must not know what a record means, nor what other nodes hold. Invariants: nobody is told of a new
//! epoch before it is durable; what is carried over stands in one change with the word that it was,
//! or is told of once it is durable, so that a crash never has it done twice.

use std::{collections::BTreeSet, time::Duration};

use super::super::{
    document::{Applied, ApplyError, Document, NotRewritten, Part, Rewrite, Rewritten},
    effect::{Effects, Now, StoredDocument, Write},
    guard::DocumentLimits,
    ids::{ChangeHash, DocumentId, NodeId},
    trust::Trust,
    voucher::Voucher,
};
use super::{
    Origin, Replica,
    earlier::{Done, Earlier, EpochDone, EpochWork, Found, Parted, Read, ReadEarlier, Task},
    offence::Sent,
    split::Split,
    vouch_for,
};

/// How many changes a document has at least before it is written anew: at some 400 bytes of memory
/// and 5 µs of every start each, fewer are not worth that every peer fetches it whole.
const CHANGES_MIN: u64 = 10_000;
/// How many changes a document has at most before it is written anew, in few, whatever they hold: half
/// of what peers take of a snapshot, so that one that comes late can still be given it.
const CHANGES_MAX: u64 = 30_000;
const _: () = assert!(2 * CHANGES_MAX <= DocumentLimits::SNAPSHOT.changes);
/// How many times as many operations it has by then as the new one would have: so all that is ever
/// written anew stays within a fraction of what was written.
const OPS_FACTOR: u64 = 4;
/// About how many operations a record takes when it is written once.
const RECORD_OPS: u64 = 12;
/// About how many the empty document takes.
const EMPTY_OPS: u64 = 300;
/// How many changes lie between two looks.
const LOOK_EVERY: u64 = 256;
/// How long it waits to try again where the document was thrown away meanwhile.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How many copies of epochs are remembered that were of no use, so as not to ask for them again.
const SEEN_MAX: usize = 256;
/// By how much an epoch's number is greater than that of the one before, at most; drawn, so that a
/// host of which an old copy of the store was put in place does not call another document what its
/// peers call one that they have of its lost life. It lasts for a hundred thousand rewrites.
const EPOCHS_SKIPPED_MAX: u32 = 1 << 16;
/// How much may wait to be carried over; more comes again.
const ARRIVED_MAX: usize = 64;

/// What is known of epochs.
#[derive(Debug, Clone)]
pub struct Epochs {
    /// The one that this node's own document is in.
    own: u32,
    stage: Stage,
    /// Counts what is done elsewhere: what comes back of another turn is of no use any more.
    turn: u64,
    /// What peers have of earlier epochs of this host, and has not been looked into.
    arrived: Vec<(DocumentId, (NodeId, Arrived))>,
    /// Copies that were fetched and not kept, by their heads.
    seen: BTreeSet<(DocumentId, Vec<ChangeHash>)>,
    /// Whether a rewrite was asked for.
    asked: bool,
    /// Where this node's key has written two histories, if it has.
    pub(super) split: Option<Split>,
    /// How many changes the document had when it was last looked at.
    looked_at: u64,
    retry_at: Option<Duration>,
}

/// What is under way; one thing at a time.
#[derive(Debug, Clone)]
enum Stage {
    Idle,
    /// The next epoch is becoming durable.
    Written(Box<Rewritten>),
    /// An earlier epoch is awaited from the store.
    Loading(DocumentId),
    /// This is done elsewhere, once it was taken there.
    Working(Option<Task>),
}

/// What a peer has of an earlier epoch.
#[derive(Debug, Clone)]
pub enum Arrived {
    Whole(Box<Document>),
    Changes(Vec<Vec<u8>>, Vec<Voucher>),
}

/// What peers have of one earlier epoch.
pub type Waiting = Vec<(NodeId, Arrived)>;

impl Arrived {
    /// Returns the copy, if it is one.
    pub fn whole(&self) -> Option<&Document> {
        match self {
            Self::Whole(copy) => Some(copy),
            Self::Changes(..) => None,
        }
    }

    /// Returns the changes, if it came as such.
    pub fn changes(&self) -> &[Vec<u8>] {
        match self {
            Self::Whole(_) => &[],
            Self::Changes(changes, _) => changes,
        }
    }

    /// Merges it into what the store has of that epoch; errors as [`Document::apply`].
    pub fn merge_into(&self, earlier: &mut Document, trust: &Trust) -> Result<Applied, ApplyError> {
        match self {
            Self::Whole(copy) => earlier.merge_copy(copy, trust),
            Self::Changes(changes, vouchers) => earlier.apply(changes, vouchers, trust),
        }
    }
}

impl Epochs {
    /// Starts where a first start does.
    pub fn new() -> Self {
        Self {
            own: 0,
            stage: Stage::Idle,
            turn: 0,
            arrived: Vec::new(),
            seen: BTreeSet::new(),
            asked: false,
            split: None,
            looked_at: 0,
            retry_at: None,
        }
    }

    /// Returns the epoch that this node's own document is in.
    pub fn own(&self) -> u32 {
        self.own
    }

    /// Tells whether nothing that was written to an earlier epoch is still to be carried over, as far
    /// as it has come in.
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle) && self.arrived.is_empty()
    }

    /// Forgets what was said in a fleet that was left.
    pub fn forget_peers(&mut self) {
        self.arrived.clear();
        self.seen.clear();
        if let Stage::Working(Some(Task::Read(_)) | None) = self.stage {
            self.stage = Stage::Idle;
        }
    }

    /// Returns when a rewrite is tried again.
    pub fn due(&self) -> Option<Duration> {
        self.retry_at.filter(|_| matches!(self.stage, Stage::Idle))
    }

    /// Notes that this node's own document is in that epoch from now on.
    pub fn begun(&mut self, epoch: u32) {
        self.own = epoch;
        self.looked_at = 0;
    }

    /// Takes what a peer has of an earlier epoch of this host, to look into it.
    pub fn arrived(&mut self, peer: NodeId, id: DocumentId, what: Arrived) {
        if self.arrived.len() < ARRIVED_MAX {
            self.arrived.push((id, (peer, what)));
        }
    }

    /// Remembers a copy of an earlier epoch, so as not to ask for it again.
    pub fn remember(&mut self, document: DocumentId, heads: Vec<ChangeHash>) {
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert((document, heads));
    }

    /// Tells whether a copy with these heads has been here.
    pub fn has_seen(&self, document: &DocumentId, heads: &[ChangeHash]) -> bool {
        self.seen.contains(&(*document, heads.to_vec()))
    }
}

impl Replica {
    /// Returns the name of this node's own document.
    pub(super) fn own_document(&self) -> DocumentId {
        DocumentId::Host { host: self.node, epoch: self.epochs.own }
    }

    /// Settles which epoch of this node's own document is the present one, after a start: the newest,
    /// whether or not the one before had gone on, for that is then carried over.
    pub(super) fn open_epochs(&mut self, fx: &mut Effects) {
        if let Some(DocumentId::Host { epoch, .. }) = self.held_of(self.node).first() {
            self.epochs.own = *epoch;
            self.give_up_epochs(self.node, fx);
        }
    }

    /// Has this node's own document written anew as soon as that can be.
    pub(super) fn ask_for_rewrite(&mut self) {
        self.epochs.asked = true;
        self.epochs.retry_at = None;
    }

    /// Begins with what is due; level-triggered, so calling it again changes nothing.
    pub(super) fn go_on_with_epochs(&mut self, now: Now, fx: &mut Effects) {
        if !matches!(self.epochs.stage, Stage::Idle) || !self.may_carry_out() {
            return;
        }
        let arrived = self.epochs.arrived.first().map(|(id, _)| *id);
        let own = self.own_document();
        let held = || self.held_of(self.node).into_iter().find(|id| *id != own);
        if let Some(id) = arrived.or_else(held) {
            fx.reloads.push(id);
            self.epochs.stage = Stage::Loading(id);
        } else if self.is_rewrite_due(now) {
            self.rewrite(now, fx);
        }
    }

    fn is_rewrite_due(&mut self, now: Now) -> bool {
        // What a reader wrote before it was one goes to nobody.
        if !self.exchange.is_shared(&self.own_document())
            || self.epochs.retry_at.is_some_and(|at| at > now.monotonic)
        {
            return false;
        }
        if self.epochs.asked || self.epochs.retry_at.is_some() {
            return true;
        }
        let document = &self.documents[&self.own_document()];
        let changes = document.change_count();
        let few = changes < CHANGES_MIN && !self.is_heavy();
        if few || changes < self.epochs.looked_at + LOOK_EVERY {
            return false;
        }
        self.epochs.looked_at = changes;
        let records =
            self.view.sessions_of(&self.node).count() + self.view.workspaces_of(&self.node).count();
        let needed = EMPTY_OPS + RECORD_OPS * records as u64;
        changes >= CHANGES_MAX || document.op_count() > OPS_FACTOR * needed
    }

    fn rewrite(&mut self, now: Now, fx: &mut Effects) {
        let skipped = self.random.u32(1..EPOCHS_SKIPPED_MAX);
        let Some(epoch) = self.epochs.own.checked_add(skipped) else { return };
        self.epochs.asked = false;
        self.epochs.retry_at = None;
        let Some(own) = self.documents.get(&self.own_document()) else { return };
        let rewrite = Rewrite::new(self.unsplit(own), epoch, self.actor.clone(), now.wall_ms);
        self.work_on_epoch(Task::Rewrite(rewrite), fx);
    }

    fn work_on_epoch(&mut self, task: Task, fx: &mut Effects) {
        self.epochs.turn += 1;
        self.epochs.stage = Stage::Working(Some(task));
        fx.work = true;
    }

    /// Returns what is to be done about this node's own epochs, if something is.
    pub(super) fn epoch_work(&mut self) -> Option<EpochWork> {
        let Stage::Working(task) = &mut self.epochs.stage else { return None };
        Some(EpochWork { turn: self.epochs.turn, task: task.take()? })
    }

    /// Takes in what was done about its own epochs.
    pub(super) fn epoch_done(&mut self, now: Now, done: EpochDone, fx: &mut Effects) {
        if matches!(self.epochs.stage, Stage::Working(None)) && done.turn == self.epochs.turn {
            self.epochs.stage = Stage::Idle;
            match done.done {
                Done::Rewritten(written) => self.epoch_written(now, written, fx),
                Done::Read(read) => self.earlier_read(now, *read, fx),
            }
        }
    }

    /// Has the next epoch become durable.
    fn epoch_written(
        &mut self,
        now: Now,
        written: Result<Box<Rewritten>, NotRewritten>,
        fx: &mut Effects,
    ) {
        let mut rewritten = match written {
            Ok(rewritten) => rewritten,
            // Tried again once more is written, which may be what it takes.
            Err(error) => return tracing::error!(%error, "can't write the own document anew"),
        };
        if !self.is_of_own(&rewritten) {
            self.epochs.retry_at = Some(now.monotonic + RETRY_AFTER);
            return;
        }
        let Rewritten { before, next, written, bytes } = &mut *rewritten;
        vouch_for(&self.trust, next, written);
        tracing::info!(
            changes = before.change_count(),
            operations = before.op_count(),
            operations_left = next.op_count(),
            "wrote the own document anew"
        );
        let document = next.id();
        fx.writes.push(Write::Snapshot { document, bytes: std::mem::take(bytes) });
        let vouchers = std::mem::take(&mut written.vouchers).into_iter();
        fx.writes.extend(vouchers.map(|voucher| Write::Voucher { document, voucher }));
        fx.reloads.push(document);
        self.epochs.stage = Stage::Written(rewritten);
    }

    /// Tells whether the present document is the one that was written anew, or that with more.
    fn is_of_own(&self, rewritten: &Rewritten) -> bool {
        self.documents.get(&self.own_document()).is_some_and(|own| rewritten.is_of(own))
    }

    /// Goes on with what has waited for the store; gives back what it did not wait for.
    pub(super) fn epoch_reloaded(
        &mut self,
        now: Now,
        stored: StoredDocument,
        fx: &mut Effects,
    ) -> Option<StoredDocument> {
        let awaited = match &self.epochs.stage {
            Stage::Idle | Stage::Working(_) => None,
            Stage::Written(rewritten) => Some(rewritten.next.id()),
            Stage::Loading(id) => Some(*id),
        };
        if awaited != Some(stored.id) || self.reloading.contains(&stored.id) {
            return Some(stored);
        }
        match std::mem::replace(&mut self.epochs.stage, Stage::Idle) {
            Stage::Idle | Stage::Working(_) => return Some(stored),
            Stage::Written(rewritten) => self.begin_epoch(now, *rewritten, fx),
            Stage::Loading(_) => self.read_earlier(stored, fx),
        }
        None
    }

    /// Goes over to an epoch that is durable by now, with what was written to the one before
    /// meanwhile.
    fn begin_epoch(&mut self, now: Now, mut rewritten: Rewritten, fx: &mut Effects) {
        let own = self.documents.get(&self.own_document());
        let Some(own) = own.filter(|own| rewritten.is_of(own)) else {
            fx.writes.push(Write::Forget { document: rewritten.next.id() });
            self.epochs.retry_at = Some(now.monotonic + RETRY_AFTER);
            return;
        };
        let mut carried = rewritten.catch_up(&self.unsplit(own), now.wall_ms);
        let mut next = rewritten.next;
        vouch_for(&self.trust, &mut next, &mut carried);
        self.record(next.id(), &carried, fx);
        let digest = self.view.digest();
        self.forget_split_epoch(fx);
        self.go_over_to(now, Origin::Here, next, None, fx);
        debug_assert_eq!(digest, self.view.digest(), "a new epoch shows what the one before did");
        let own = self.node;
        let told = match carried.changes.is_empty() {
            true => &mut fx.frames,
            // Were it known before a crash that it does not outlast, it would be carried over twice.
            false => &mut fx.frames_durable,
        };
        self.exchange.adopted(now.monotonic, &own, &self.documents, told);
    }

    /// Has an earlier epoch read, and merged with what peers have of it.
    fn read_earlier(&mut self, stored: StoredDocument, fx: &mut Effects) {
        let Some(present) = self.documents.get(&self.own_document()) else { return };
        let (present, actor, trust) = (present.clone(), self.actor.clone(), self.trust.clone());
        let mut waiting = Waiting::new();
        for (id, what) in std::mem::take(&mut self.epochs.arrived) {
            if id == stored.id {
                waiting.push(what);
            } else {
                self.epochs.arrived.push((id, what));
            }
        }
        let earlier = Earlier { stored, waiting, present, actor, trust };
        self.work_on_epoch(Task::Read(Box::new(earlier)), fx);
    }

    fn earlier_read(&mut self, now: Now, done: ReadEarlier, fx: &mut Effects) {
        let ReadEarlier { id, waiting, present: (own, heads), trust, read } = done;
        // The one that it was parted by may be held still, as an earlier one itself by now.
        let present = self.documents.get(&own).filter(|_| own == self.own_document());
        let present = present.filter(|present| present.has_all(&heads));
        if present.is_none() || !trust.judges_like(&self.trust) {
            // What it was judged by, or what it was parted by, is no longer so.
            self.epochs.arrived.extend(waiting.into_iter().map(|what| (id, what)));
            return;
        }
        match read {
            Read::Nothing => {}
            Read::Unusable(reason) => {
                tracing::error!(document = %id, reason, "can't carry over what the epoch has gained");
                self.shelve(now, id, fx);
            }
            Read::Refused { peer, error, changes } => {
                // What came before it in the same batch comes again, from whoever has it.
                self.epochs.seen.retain(|(of, _)| *of != id);
                self.contain(now, peer, id, &error, Sent::Changes(&changes), fx);
            }
            Read::Parted(parted) => self.carry_over(now, *parted, fx),
        }
    }

    /// Writes what an earlier epoch has gained into the present one.
    fn carry_over(&mut self, now: Now, parted: Parted, fx: &mut Effects) {
        let Parted { earlier, part, gained, from, found } = parted;
        let (id, own) = (earlier.id(), self.own_document());
        if let Some(Found { bytes, vouchers }) = found {
            fx.writes.push(Write::Snapshot { document: id, bytes });
            fx.writes.push(Write::Archive { document: id });
            let vouchers = vouchers.into_iter();
            fx.writes.extend(vouchers.map(|voucher| Write::Voucher { document: id, voucher }));
        }
        let held = self.documents.get(&id);
        let Some(present) = self.documents.get(&own) else { return };
        if present.covers(&earlier) {
            // What came while that was read is read next.
            if held.is_none_or(|held| present.covers(held)) {
                self.shelve(now, id, fx);
            }
            return;
        }
        let earlier = self.settled(earlier);
        let Part { before, touched, mut authors, .. } = part;
        authors.insert(self.node.fingerprint());
        let Some(present) = self.documents.get_mut(&own) else { return };
        let mut carried = present.carry_over(&before, &earlier, &touched, now.wall_ms);
        let changes = gained.changes.len();
        tracing::info!(document = %id, changes, "carried over what was written to an earlier epoch");
        self.vouch(own, &mut carried);
        self.record(id, &gained, fx);
        self.record(own, &carried, fx);
        let origin = from.map_or(Origin::Here, Origin::Peer);
        let told = fx.frames.len();
        self.spread(now, own, &carried, None, origin, authors, fx);
        if carried.changes.len() > 1 {
            // Only the last of them says that it was done: were the others to come back after a
            // crash without it, all would be done again.
            fx.frames_durable.extend(fx.frames.drain(told..));
        }
    }

    /// Leaves an earlier epoch of this node's own to its store.
    fn shelve(&mut self, now: Now, id: DocumentId, fx: &mut Effects) {
        if self.documents.remove(&id).is_none() {
            return;
        }
        fx.writes.push(Write::Archive { document: id });
        self.exchange.forget(&id);
        let records = self.layers_changed(self.node, id, BTreeSet::new(), fx);
        let touched = self.read_touched(self.node, &records);
        self.publish(now, touched, Origin::Store, BTreeSet::new(), fx);
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
        self.newest(*host).is_some_and(|newer| newer.covers_change(*epoch, actor, seq))
    }
}
