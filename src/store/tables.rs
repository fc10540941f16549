//! Owns the tables of `state.redb` and the bytes of their keys and values.
//!
//! Must not know transactions. Invariant: all keys of one document lie side by side, and what is
//! decoded here was encoded here or is reported as damage.

use redb::TableDefinition;

use super::error::Fault;
use crate::replica::{
    ids::{ACTOR_BYTES, ActorBytes, ChangeHash, Cursor, DocumentId, FleetId, NodeId, StartId},
    voucher::Voucher,
};

/// The schema that this version writes; counted up when a table's meaning changes.
pub(super) const SCHEMA: u32 = 1;

/// (document, sequence) → the change as automerge encodes it.
pub(super) const CHANGES: TableDefinition<(&[u8], u64), &[u8]> = TableDefinition::new("changes");
/// document → as automerge saves it.
pub(super) const SNAPSHOTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("snapshots");
/// The documents that are not loaded at a start. Added after the first stores were made.
pub(super) const ARCHIVED: TableDefinition<&[u8], ()> = TableDefinition::new("archived");
/// (document, actor) → the voucher for the actor's last change: its number, big endian, its hash and
/// the signature.
pub(super) const VOUCHERS: TableDefinition<(&[u8], &[u8; ACTOR_BYTES]), &[u8]> =
    TableDefinition::new("vouchers");
/// The cursor's sequence → its start, then the diff's JSON.
pub(super) const JOURNAL: TableDefinition<u64, &[u8]> = TableDefinition::new("journal");
/// SHA-256 of the secret → the invite's JSON.
pub(super) const INVITES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("invites");
/// The nodes with which syncing is paused.
pub(super) const PAUSED: TableDefinition<&[u8; 32], ()> = TableDefinition::new("paused");
/// The member that has not said itself where it can be dialled → its addresses as JSON. Added after the
/// first stores were made.
pub(super) const CONTACTS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("contacts");
/// The retired host whose documents are kept unseen → since when, in milliseconds since the epoch, big
/// endian. Added after the first stores were made.
pub(super) const HIDDEN: TableDefinition<&[u8; 32], &[u8; 8]> = TableDefinition::new("hidden");
/// Its place → the statement about membership, as it was signed. Added after the first stores were made.
pub(super) const STATEMENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("statements");
/// The receipt's name → its JSON. Added after the first stores were made.
pub(super) const RECEIPTS: TableDefinition<&str, &[u8]> = TableDefinition::new("receipts");
/// (receipt's name, member): the member has told that it holds the delete. It is not part of the receipt's
/// JSON, which names up to 20,000 sessions and would be written again for each member. Added after the first
/// stores were made.
pub(super) const APPLIED: TableDefinition<(&str, &[u8; 32]), ()> = TableDefinition::new("applied");
/// What there is one of, under the names below.
pub(super) const SETTINGS: TableDefinition<&str, &[u8]> = TableDefinition::new("settings");

/// [`SCHEMA`] when the file was made, big endian.
pub(super) const SETTING_SCHEMA: &str = "schema";
/// The fleet that the node belongs to.
pub(super) const SETTING_FLEET: &str = "fleet";
/// Present while what a damaged store has lost is still to be had back from peers.
pub(super) const SETTING_RECOVERING: &str = "recovering";
/// The cursor from which the journal counts while it is empty.
pub(super) const SETTING_JOURNAL_BASE: &str = "journal_base";

const FLEET_TAG: u8 = 0;
const HOST_TAG: u8 = 1;
const START_BYTES: usize = 8;

/// Encodes a document's name: a tag, then the fleet, or the host and its epoch, big endian.
///
/// The tag fixes the length, so no document's key begins another's.
pub(super) fn document_key(document: &DocumentId) -> Vec<u8> {
    match document {
        DocumentId::Fleet(FleetId(fleet)) => [&[FLEET_TAG][..], fleet].concat(),
        DocumentId::Host { host: NodeId(host), epoch } => {
            [&[HOST_TAG][..], host, &epoch.to_be_bytes()].concat()
        }
    }
}

/// Decodes what [`document_key`] made; `table` is named where it did not.
pub(super) fn document(key: &[u8], table: &'static str) -> Result<DocumentId, Fault> {
    let decoded = match key.split_first() {
        Some((&FLEET_TAG, fleet)) => fleet.try_into().ok().map(|id| DocumentId::Fleet(FleetId(id))),
        Some((&HOST_TAG, rest)) => rest.split_first_chunk().and_then(|(host, epoch)| {
            let epoch = u32::from_be_bytes(epoch.try_into().ok()?);
            Some(DocumentId::Host { host: NodeId(*host), epoch })
        }),
        _ => None,
    };
    decoded.ok_or(Fault::Table(table))
}

/// Encodes what of a voucher is not in its key.
pub(super) fn voucher_value(voucher: &Voucher) -> Vec<u8> {
    [&voucher.seq.to_be_bytes()[..], &voucher.hash.0, &voucher.signature].concat()
}

/// Decodes what [`voucher_value`] made.
pub(super) fn voucher(actor: ActorBytes, value: &[u8]) -> Result<Voucher, Fault> {
    let decoded = value.split_first_chunk().and_then(|(seq, rest)| {
        let (hash, signature) = rest.split_first_chunk()?;
        let (hash, signature) = (ChangeHash(*hash), signature.try_into().ok()?);
        Some(Voucher { actor, seq: u64::from_be_bytes(*seq), hash, signature })
    });
    decoded.ok_or(Fault::Table("vouchers"))
}

/// Encodes a journal entry's value.
pub(super) fn journal_value(start: StartId, body: &str) -> Vec<u8> {
    [&start.0, body.as_bytes()].concat()
}

/// Decodes what [`journal_value`] made.
pub(super) fn journal_entry(sequence: u64, value: &[u8]) -> Result<(Cursor, &str), Fault> {
    let (start, body) = value.split_first_chunk::<START_BYTES>().ok_or(Fault::Table("journal"))?;
    let body = std::str::from_utf8(body).map_err(|_| Fault::Table("journal"))?;
    Ok((Cursor { sequence, start: StartId(*start) }, body))
}

/// Encodes a cursor: its sequence, big endian, then its start.
pub(super) fn cursor_value(cursor: Cursor) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&cursor.sequence.to_be_bytes());
    value[8..].copy_from_slice(&cursor.start.0);
    value
}

/// Decodes what [`cursor_value`] made.
pub(super) fn cursor(value: &[u8]) -> Result<Cursor, Fault> {
    let (sequence, start) = value.split_first_chunk().ok_or(Fault::Table("settings"))?;
    let start = start.try_into().map_err(|_| Fault::Table("settings"))?;
    Ok(Cursor { sequence: u64::from_be_bytes(*sequence), start: StartId(start) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_anything_else_is_damage() {
        let host = NodeId([7; 32]);
        for id in [
            DocumentId::Fleet(FleetId([1; 16])),
            DocumentId::Host { host, epoch: 0 },
            DocumentId::Host { host, epoch: u32::MAX },
        ] {
            let key = document_key(&id);
            assert_eq!(document(&key, "changes").unwrap(), id);
            assert!(document(&key[..key.len() - 1], "changes").is_err());
            assert!(document(&[&key[..], &[0]].concat(), "changes").is_err());
        }
        assert!(document(&[], "changes").is_err());
        assert!(document(&[9; 17], "changes").is_err());

        let at = Cursor { sequence: 258, start: StartId([3; 8]) };
        assert_eq!(cursor(&cursor_value(at)).unwrap(), at);
        assert!(cursor(&cursor_value(at)[..15]).is_err());
        assert_eq!(journal_entry(258, &journal_value(at.start, "{}")).unwrap(), (at, "{}"));
        assert!(journal_entry(258, &[0; 7]).is_err());
        assert!(journal_entry(258, &[0xff; 9]).is_err());
    }

    #[test]
    fn a_voucher_reads_back_and_half_of_one_is_damage() {
        let stored = Voucher {
            actor: [1; ACTOR_BYTES],
            seq: 258,
            hash: ChangeHash([2; 32]),
            signature: [3; 64],
        };
        let value = voucher_value(&stored);
        assert_eq!(voucher(stored.actor, &value).unwrap(), stored);
        assert!(voucher(stored.actor, &value[..40]).is_err());
        assert!(voucher(stored.actor, &[&value[..], &[0]].concat()).is_err());
    }

    #[test]
    fn epochs_of_a_host_are_stored_in_their_order() {
        let key = |epoch| document_key(&DocumentId::Host { host: NodeId([7; 32]), epoch });
        assert!(key(1) < key(2) && key(2) < key(256) && key(256) < key(u32::MAX));
    }
}
