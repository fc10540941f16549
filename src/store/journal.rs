//! Owns the journal: the published diffs, so that a subscriber can go on after a restart.
//!
//! Must not know what is in a diff but its digest. Invariant: the journal is bounded, has no gap
//! that is not at its beginning, and its last entry is the last durable diff.

use std::sync::Arc;

use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};
use serde::Deserialize;

use super::{
    error::Fault,
    ledger::Ledger,
    tables::{self, JOURNAL, SETTING_JOURNAL_BASE, SETTINGS},
};
use crate::replica::{diff::Digest, ids::Cursor};

/// Most entries of the journal: a subscriber that missed more is better served by a snapshot.
pub const JOURNAL_ENTRIES_MAX: u64 = 10_000;
/// Most bytes of the journal's entries, so that wide diffs don't outgrow the documents; the last
/// entry stays even if it alone is larger.
pub const JOURNAL_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A published diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its cursor.
    pub cursor: Cursor,
    /// Its JSON.
    pub body: Arc<str>,
}

/// Reads all entries, oldest first.
pub(super) fn read(transaction: &ReadTransaction) -> Result<Vec<JournalEntry>, Fault> {
    let mut entries = Vec::new();
    for entry in transaction.open_table(JOURNAL)?.iter()? {
        let (sequence, value) = entry?;
        let (cursor, body) = tables::journal_entry(sequence.value(), value.value())?;
        entries.push(JournalEntry { cursor, body: body.into() });
    }
    Ok(entries)
}

/// Reads the last durable cursor, and the digest of the diff that it names.
pub(super) fn read_last(
    transaction: &ReadTransaction,
) -> Result<(Option<Cursor>, Option<Digest>), Fault> {
    #[derive(Deserialize)]
    struct Body {
        digest: Option<Digest>,
    }
    if let Some((sequence, value)) = transaction.open_table(JOURNAL)?.last()? {
        let (cursor, body) = tables::journal_entry(sequence.value(), value.value())?;
        let body: Body = serde_json::from_str(body).map_err(|_| Fault::Table("journal"))?;
        return Ok((Some(cursor), body.digest));
    }
    let base = transaction.open_table(SETTINGS)?.get(SETTING_JOURNAL_BASE)?;
    Ok((base.map(|base| tables::cursor(base.value())).transpose()?, None))
}

/// Adds an entry and drops the oldest that are too many.
pub(super) fn append(
    transaction: &WriteTransaction,
    ledger: &mut Ledger,
    cursor: Cursor,
    body: &str,
) -> Result<(), Fault> {
    let mut table = transaction.open_table(JOURNAL)?;
    let value = tables::journal_value(cursor.start, body);
    let replaced =
        table.insert(cursor.sequence, value.as_slice())?.map(|old| old.value().len() as u64);
    match replaced {
        Some(bytes) => ledger.journal_bytes -= bytes,
        None => ledger.journal_entries += 1,
    }
    ledger.journal_bytes += value.len() as u64;
    prune(&mut table, ledger)
}

fn prune(table: &mut Table<'_, u64, &[u8]>, ledger: &mut Ledger) -> Result<(), Fault> {
    while ledger.journal_entries > JOURNAL_ENTRIES_MAX
        || (ledger.journal_bytes > JOURNAL_BYTES_MAX && ledger.journal_entries > 1)
    {
        let Some((_, value)) = table.pop_first()? else { break };
        ledger.journal_entries -= 1;
        ledger.journal_bytes -= value.value().len() as u64;
    }
    Ok(())
}

/// Empties the journal; it counts on from `cursor`.
pub(super) fn reset(
    transaction: &WriteTransaction,
    ledger: &mut Ledger,
    cursor: Cursor,
) -> Result<(), Fault> {
    transaction.open_table(JOURNAL)?.retain(|_, _| false)?;
    ledger.journal_entries = 0;
    ledger.journal_bytes = 0;
    let base = tables::cursor_value(cursor);
    transaction.open_table(SETTINGS)?.insert(SETTING_JOURNAL_BASE, base.as_slice())?;
    Ok(())
}
