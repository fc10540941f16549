//! Owns telling what can still be read of a document that a damaged store gives back in parts.
//!
//! Must not know the store. Invariant: what is kept loads by itself: no change without all that it
//! depends on.

use automerge::{Automerge, Change};

use super::{
    super::{
        guard,
        ids::{DocumentId, NodeId, StartId},
    },
    Document, actor,
};

/// What is left of a document.
#[derive(Debug)]
pub struct Salvaged {
    /// As it loads.
    pub document: Document,
    /// The snapshot, if there was one.
    pub snapshot: Option<Vec<u8>>,
    /// The changes since that are sound, in an order in which they can be applied.
    pub changes: Vec<Vec<u8>>,
    /// How many changes are not.
    pub lost: usize,
}

impl Document {
    /// Keeps what is sound of a document; `None` if it does not even have its beginning.
    pub fn salvage(
        id: DocumentId,
        snapshot: Option<Vec<u8>>,
        changes: Vec<Vec<u8>>,
    ) -> Option<Salvaged> {
        let mut automerge = match &snapshot {
            Some(bytes) => guard::contained(|| Automerge::load(bytes)).ok()?.ok()?,
            None => Automerge::new(),
        };
        let all = changes.len();
        let mut kept = Vec::new();
        for bytes in changes {
            let Ok(Ok(change)) = guard::contained(|| Change::try_from(&bytes[..])) else {
                continue;
            };
            let has =
                |hash: &automerge::ChangeHash| automerge.get_change_meta_by_hash(hash).is_some();
            if has(&change.hash()) || !change.deps().iter().all(has) {
                continue;
            }
            if !matches!(guard::contained(|| automerge.apply_changes([change])), Ok(Ok(()))) {
                // What it has become by now is not known; what follows is not tried on it.
                break;
            }
            kept.push(bytes);
        }
        // Nothing is written under this actor: the document is only looked at.
        let reader = actor(&NodeId([0; 32]), StartId([0; 8]));
        let document = Self::load(id, reader, snapshot.as_deref(), &kept).ok()?;
        Some(Salvaged { document, snapshot, lost: all - kept.len(), changes: kept })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host document's beginning, and changes of which each depends on the one before.
    fn written() -> (DocumentId, Vec<Vec<u8>>) {
        let host = NodeId([1; 32]);
        let by = actor(&host, StartId([1; 8]));
        let (mut document, applied) = Document::create_host(host, 0, by, 0);
        let mut changes: Vec<_> = applied.changes.into_iter().map(|change| change.bytes).collect();
        for number in 0..4_i64 {
            let applied = document.commit(0, |tx| {
                automerge::transaction::Transactable::put(tx, automerge::ROOT, "x", number)
            });
            changes.extend(applied.expect("it writes").changes.into_iter().map(|c| c.bytes));
        }
        (document.id(), changes)
    }

    #[test]
    fn what_is_sound_is_kept_up_to_what_depends_on_what_is_not() {
        let (id, changes) = written();
        let whole = Document::salvage(id, None, changes.clone()).expect("all is there");
        assert_eq!((whole.changes.len(), whole.lost), (5, 0));
        for broken in 0..5 {
            let mut damaged = changes.clone();
            let middle = damaged[broken].len() / 2;
            damaged[broken][middle] ^= 1;
            match Document::salvage(id, None, damaged) {
                None => assert_eq!(broken, 0, "only the beginning is indispensable"),
                Some(left) => assert_eq!((left.changes.len(), left.lost), (broken, 5 - broken)),
            }
        }
    }

    #[test]
    fn a_snapshot_that_is_damaged_takes_all_that_builds_on_it_along() {
        let (id, changes) = written();
        let whole = Document::salvage(id, None, changes[..3].to_vec()).expect("all is there");
        let mut snapshot = whole.document.save();
        let left = Document::salvage(id, Some(snapshot.clone()), changes[3..].to_vec());
        assert_eq!(left.expect("all is there").lost, 0);
        let middle = snapshot.len() / 2;
        snapshot[middle] ^= 1;
        assert!(Document::salvage(id, Some(snapshot), changes[3..].to_vec()).is_none());
    }
}
