//! Owns what the store knows by heart: how much of each document, and of the journal, is stored.
//!
//! Must not know redb's file. Invariant: it tells what the last successful commit left; after one
//! that failed it is not asked again.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable};

use super::{
    error::Fault,
    tables::{self, CHANGES, JOURNAL, SNAPSHOTS},
};
use crate::replica::ids::DocumentId;

/// How much of a document is stored, by which it is decided when to compact it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Which.
    pub document: DocumentId,
    /// How many changes were stored since the snapshot.
    pub changes: u64,
    /// Their bytes.
    pub change_bytes: u64,
    /// The snapshot's bytes, 0 without one.
    pub snapshot_bytes: u64,
}

/// What is stored of one document.
#[derive(Debug)]
pub(super) struct Account {
    /// Differs between any two snapshots that were ever put in place in this run.
    pub(super) generation: u64,
    /// The number of the next change; never handed out twice in one generation.
    pub(super) next_sequence: u64,
    pub(super) changes: u64,
    pub(super) change_bytes: u64,
    pub(super) snapshot_bytes: u64,
}

/// What is stored of everything.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    documents: BTreeMap<DocumentId, Account>,
    generations: u64,
    /// How many entries the journal has.
    pub(super) journal_entries: u64,
    /// The bytes of their values.
    pub(super) journal_bytes: u64,
}

impl Ledger {
    /// Counts what is stored.
    pub(super) fn read(transaction: &ReadTransaction) -> Result<Self, Fault> {
        let mut ledger = Self::default();
        for entry in transaction.open_table(SNAPSHOTS)?.iter()? {
            let (key, value) = entry?;
            let document = tables::document(key.value(), "snapshots")?;
            ledger.account(document).snapshot_bytes = value.value().len() as u64;
        }
        for entry in transaction.open_table(CHANGES)?.iter()? {
            let (key, value) = entry?;
            let (document, sequence) = key.value();
            let account = ledger.account(tables::document(document, "changes")?);
            account.next_sequence = sequence.checked_add(1).ok_or(Fault::Table("changes"))?;
            account.changes += 1;
            account.change_bytes += value.value().len() as u64;
        }
        for entry in transaction.open_table(JOURNAL)?.iter()? {
            ledger.journal_entries += 1;
            ledger.journal_bytes += entry?.1.value().len() as u64;
        }
        Ok(ledger)
    }

    /// Returns what is stored of a document, opening an account where there is none.
    pub(super) fn account(&mut self, document: DocumentId) -> &mut Account {
        self.documents.entry(document).or_insert_with(|| {
            self.generations += 1;
            Account {
                generation: self.generations,
                next_sequence: 0,
                changes: 0,
                change_bytes: 0,
                snapshot_bytes: 0,
            }
        })
    }

    /// Returns what is stored of a document, if anything is.
    pub(super) fn find(&self, document: &DocumentId) -> Option<&Account> {
        self.documents.get(document)
    }

    /// Notes that a document is no longer stored.
    pub(super) fn close(&mut self, document: &DocumentId) {
        self.documents.remove(document);
    }

    /// Notes that a snapshot took the place of all that was stored of a document.
    pub(super) fn replace(&mut self, document: DocumentId, snapshot_bytes: u64) {
        self.close(&document);
        self.account(document).snapshot_bytes = snapshot_bytes;
    }

    /// Notes that a snapshot took the place of a document's oldest changes.
    pub(super) fn compact(
        &mut self,
        document: DocumentId,
        snapshot_bytes: u64,
        (changes, change_bytes): (u64, u64),
    ) {
        self.generations += 1;
        let generation = self.generations;
        let account = self.account(document);
        account.generation = generation;
        account.snapshot_bytes = snapshot_bytes;
        account.changes -= changes;
        account.change_bytes -= change_bytes;
    }

    /// Tells how much is stored of the documents that `wanted` picks, in their order.
    pub(super) fn backlogs(&self, wanted: impl Fn(&DocumentId) -> bool) -> Vec<Backlog> {
        let wanted = self.documents.iter().filter(|(document, _)| wanted(document));
        wanted
            .map(|(&document, account)| Backlog {
                document,
                changes: account.changes,
                change_bytes: account.change_bytes,
                snapshot_bytes: account.snapshot_bytes,
            })
            .collect()
    }
}
