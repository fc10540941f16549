//! Owns what a host does about its epochs beside the loop: writing its document anew, and reading
//! what has come in for an epoch that it has left behind.
//!
//! Must not know when that is due, nor what is done with what was read. Invariants: it needs nothing
//! of the replica but copies; what takes as long as a document has history is done here.

use std::collections::BTreeSet;

use super::super::{
    document::{Applied, ApplyError, Document, NotRewritten, Part, Rewrite, Rewritten},
    effect::StoredDocument,
    guard,
    ids::{ChangeHash, DocumentId, NodeId},
    trust::Trust,
    voucher::Voucher,
};
use super::epoch::Waiting;

/// Work on this node's own epochs, to be done anywhere.
#[derive(Debug, Clone)]
pub struct EpochWork {
    pub(super) turn: u64,
    pub(super) task: Task,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) enum Task {
    Rewrite(Rewrite),
    Read(Box<Earlier>),
}

/// What came of it.
#[derive(Debug)]
pub struct EpochDone {
    pub(super) turn: u64,
    pub(super) done: Done,
}

#[derive(Debug)]
pub(super) enum Done {
    Rewritten(Result<Box<Rewritten>, NotRewritten>),
    Read(Box<ReadEarlier>),
}

impl EpochWork {
    /// Does it; takes as long as the document is large.
    pub fn run(self) -> EpochDone {
        let done = match self.task {
            Task::Rewrite(rewrite) => Done::Rewritten(rewrite.write().map(Box::new)),
            Task::Read(earlier) => Done::Read(Box::new(earlier.read())),
        };
        EpochDone { turn: self.turn, done }
    }
}

/// An earlier epoch, as the store has it, and what peers have of it.
#[derive(Debug, Clone)]
pub(super) struct Earlier {
    pub(super) stored: StoredDocument,
    pub(super) waiting: Waiting,
    /// A copy of the document that goes on from it.
    pub(super) present: Document,
    pub(super) actor: automerge::ActorId,
    pub(super) trust: Trust,
}

/// What there is of an earlier epoch.
#[derive(Debug)]
pub(super) struct ReadEarlier {
    pub(super) id: DocumentId,
    /// As it came.
    pub(super) waiting: Waiting,
    /// Where the document stood that it was parted by.
    pub(super) present: (DocumentId, Vec<ChangeHash>),
    /// As it was when it was judged.
    pub(super) trust: Trust,
    pub(super) read: Read,
}

#[derive(Debug)]
pub(super) enum Read {
    /// There is nothing of it.
    Nothing,
    /// It is to be left to the store.
    Unusable(String),
    /// What a peer sent of it is not to be taken.
    Refused { peer: NodeId, error: ApplyError, changes: Vec<Vec<u8>> },
    /// It is parted, and merged with what peers have of it.
    Parted(Box<Parted>),
}

#[derive(Debug)]
pub(super) struct Parted {
    pub(super) earlier: Document,
    pub(super) part: Part,
    /// What the store has not, with those that vouch for it.
    pub(super) gained: Applied,
    /// The last of the peers who had any of that.
    pub(super) from: Option<NodeId>,
    /// What is to be stored, if the store knows nothing of this epoch.
    pub(super) found: Option<Found>,
}

/// A copy of an epoch that was begun in a life of this node which its store does not know of.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) bytes: Vec<u8>,
    pub(super) vouchers: Vec<Voucher>,
}

impl Earlier {
    fn read(self) -> ReadEarlier {
        let id = self.stored.id;
        let present = (self.present.id(), self.present.heads());
        // Nobody would be told of a panic, and the next would wait for ever.
        let read = guard::contained(|| self.parted());
        let read = read.unwrap_or_else(|error| Read::Unusable(error.to_string()));
        ReadEarlier { id, waiting: self.waiting, present, trust: self.trust, read }
    }

    fn parted(&self) -> Read {
        let StoredDocument { id, snapshot, changes, vouchers } = &self.stored;
        let mut found = None;
        let loaded = if snapshot.is_some() || !changes.is_empty() {
            Document::load(*id, self.actor.clone(), snapshot.as_deref(), changes, vouchers)
        } else {
            let whole = self.waiting.iter().find_map(|(_, what)| what.whole());
            let Some(copy) = whole else { return Read::Nothing };
            let vouchers = copy.vouchers().copied().collect();
            found = Some(Found { bytes: copy.save(), vouchers });
            Ok(copy.fork(self.actor.clone()))
        };
        let mut earlier = match loaded {
            Ok(earlier) => earlier,
            Err(error) => return Read::Unusable(error.to_string()),
        };
        let Some(mut part) = self.present.part_carried(&earlier) else {
            return Read::Unusable("it is not the one that was carried over".to_owned());
        };
        let (mut gained, mut from) = (Applied::default(), None);
        for (peer, what) in &self.waiting {
            match what.merge_into(&mut earlier, &self.trust) {
                Ok(applied) if applied.changes.is_empty() => {}
                Ok(applied) => {
                    from = Some(*peer);
                    gained.touched.extend(applied.touched);
                    gained.changes.extend(applied.changes);
                    gained.vouchers.extend(applied.vouchers);
                }
                Err(error) => {
                    return Read::Refused { peer: *peer, error, changes: what.changes().to_vec() };
                }
            }
        }
        part.touched.append(&mut gained.touched);
        let authors: BTreeSet<_> = gained.changes.iter().map(|change| change.author()).collect();
        part.authors.extend(authors);
        Read::Parted(Box::new(Parted { earlier, part, gained, from, found }))
    }
}
