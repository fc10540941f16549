//! Owns compaction: putting a snapshot in the place of the changes that it was made of.
//!
//! Must not know when it is worth it. Invariant: a change is deleted only in the transaction that
//! puts a snapshot in its place which was loaded again and found to be the same document.

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::Automerge;
use redb::WriteTransaction;

use super::{
    error::{Error, Fault},
    ledger::Ledger,
    tables::{self, CHANGES, SNAPSHOTS},
};
use crate::replica::ids::{ChangeHash, DocumentId};

/// Which changes of a document a snapshot is to replace.
///
/// The document is to be saved, or cloned in order to be saved, after the plan was made: it then
/// holds at least the changes that the plan covers, for those are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    document: DocumentId,
    generation: u64,
    through_sequence: u64,
}

impl Plan {
    /// Returns the document.
    pub fn document(&self) -> DocumentId {
        self.document
    }

    /// Returns the number of the last change that is to be replaced.
    pub fn through_sequence(&self) -> u64 {
        self.through_sequence
    }

    /// Plans for all that is stored; `None` if that is no change.
    pub(super) fn of(ledger: &Ledger, document: DocumentId) -> Option<Self> {
        let account = ledger.find(&document).filter(|account| account.changes > 0)?;
        Some(Self {
            document,
            generation: account.generation,
            through_sequence: account.next_sequence - 1,
        })
    }

    /// Tells whether what is stored is still what was planned for, apart from newer changes.
    pub(super) fn holds(&self, ledger: &Ledger) -> bool {
        ledger.find(&self.document).is_some_and(|account| account.generation == self.generation)
    }
}

/// A snapshot that was loaded again; only [`verify`] makes one.
#[derive(Debug)]
pub struct Verified {
    plan: Plan,
    snapshot: Vec<u8>,
}

impl Verified {
    /// Returns the plan that the snapshot was made for.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// Loads a snapshot and compares its heads with those that the document had when it was saved.
///
/// It takes as long as loading does, and needs nothing of the store: it belongs on another thread
/// than the loop.
pub fn verify(
    plan: Plan,
    snapshot: Vec<u8>,
    expected_heads: &[ChangeHash],
) -> Result<Verified, Error> {
    let document = plan.document;
    if planted!(SnapshotUnverified) {
        return Ok(Verified { plan, snapshot });
    }
    let loaded = catch_unwind(AssertUnwindSafe(|| {
        Automerge::load(&snapshot).map(|loaded| loaded.get_heads())
    }));
    let heads = loaded
        .map_err(|_| Error::Panicked { document })?
        .map_err(|source| Error::Unreadable { document, source: Box::new(source) })?;
    let mut heads: Vec<_> = heads.into_iter().map(|head| ChangeHash(head.0)).collect();
    let mut expected = expected_heads.to_vec();
    heads.sort_unstable();
    expected.sort_unstable();
    if heads != expected {
        return Err(Error::Differs { document });
    }
    Ok(Verified { plan, snapshot })
}

/// Puts the snapshot in place and deletes the changes that it replaces.
pub(super) fn replace(
    transaction: &WriteTransaction,
    ledger: &mut Ledger,
    verified: &Verified,
) -> Result<(), Fault> {
    let Verified { plan, snapshot } = verified;
    let key = tables::document_key(&plan.document);
    let mut dropped = (0, 0);
    transaction.open_table(CHANGES)?.retain_in(
        (key.as_slice(), 0)..=(key.as_slice(), plan.through_sequence),
        |_, change| {
            dropped.0 += 1;
            dropped.1 += change.len() as u64;
            false
        },
    )?;
    transaction.open_table(SNAPSHOTS)?.insert(key.as_slice(), snapshot.as_slice())?;
    ledger.compact(plan.document, snapshot.len() as u64, dropped);
    Ok(())
}
