//! Owns copies of documents with what a peer sent in them, until they take the document's place.
//!
//! Must not know who sent it, nor where the copy is made. Invariant: what takes long is done to the
//! copy, while the document goes on; what the document has gained meanwhile is in the copy before it
//! takes its place, so that nothing is lost and nothing is told twice.

use std::collections::BTreeSet;

use automerge::Change;

use super::{
    super::{guard, trust::Trust},
    Applied, ApplyError, Document, apply_all, hash_in, hash_out,
};

/// A copy of a document, with what a peer sent in it.
#[derive(Debug)]
pub struct Merged {
    copy: Document,
    /// Where the document stood of which it has everything.
    base: Vec<automerge::ChangeHash>,
    applied: Applied,
    /// The names of what was applied.
    came: BTreeSet<automerge::ChangeHash>,
}

impl Merged {
    /// Makes one of a copy of a document; takes as long as what is taken in is large.
    ///
    /// # Errors
    ///
    /// Those of `take`, but that nothing is broken, since the document itself is as it was.
    pub fn new(
        mut copy: Document,
        take: impl FnOnce(&mut Document) -> Result<Applied, ApplyError>,
    ) -> Result<Self, ApplyError> {
        let base = copy.automerge.get_heads();
        match take(&mut copy) {
            Ok(applied) => {
                let came = applied.changes.iter().map(|change| hash_out(&change.hash)).collect();
                Ok(Self { copy, base, applied, came })
            }
            Err(ApplyError::Broken { document, message }) => {
                Err(ApplyError::Panicked { document, message })
            }
            Err(error) => Err(error),
        }
    }

    /// Tells whether this is a copy of what is held: that may have been thrown away meanwhile and built
    /// anew from less.
    pub fn is_of(&self, held: &Document) -> bool {
        self.base.iter().all(|hash| held.has(&hash_in(hash)))
    }

    /// Takes over what the document has gained meanwhile, all of which was judged there, if that is
    /// no more than so many changes; false if it is more.
    ///
    /// # Errors
    ///
    /// As [`Self::follow`].
    pub fn follow_closely(&mut self, held: &Document, most: usize) -> Result<bool, ApplyError> {
        match self.newest(held, most) {
            Some(gained) => self.take_gained(held, &gained).map(|()| true),
            None => Ok(false),
        }
    }

    /// Takes over what the document has gained meanwhile, all of which was judged there; takes as long
    /// as the document is large.
    ///
    /// # Errors
    ///
    /// Each of the two has taken another change that an author signed for one and the same place, or
    /// automerge can't apply them for another reason: this copy is of no use any more.
    pub fn follow(&mut self, held: &Document) -> Result<(), ApplyError> {
        self.take_gained(held, &held.automerge.get_changes(&self.base))
    }

    /// Returns what the document has gained, in here or not, in an order in which it can be applied;
    /// `None` if it is more than so many changes.
    fn newest(&self, held: &Document, most: usize) -> Option<Vec<Change>> {
        let is_old = |hash: &automerge::ChangeHash| {
            let is_of_copy = || !self.came.contains(hash) && self.copy.has(&hash_in(hash));
            self.base.contains(hash) || is_of_copy()
        };
        held.newest(is_old, most)
    }

    fn take_gained(&mut self, held: &Document, gained: &[Change]) -> Result<(), ApplyError> {
        let document = held.id;
        let lacks = |change: &&Change| !self.copy.has(&hash_in(&change.hash()));
        let new: Vec<Change> = gained.iter().filter(lacks).cloned().collect();
        guard::contained(|| apply_all(&mut self.copy.automerge, &new))
            .map_err(ApplyError::panicked(document))?
            .map_err(|e| ApplyError::Unreadable { document, reason: e.to_string() })?;
        self.base = held.automerge.get_heads();
        self.copy.vouchers.follow(&held.vouchers);
        // What came both ways was told when it came to the document.
        let gained: BTreeSet<_> = gained.iter().map(|change| hash_in(&change.hash())).collect();
        self.applied.changes.retain(|change| !gained.contains(&change.hash));
        let newest = &self.copy.vouchers;
        self.applied.vouchers.retain(|voucher| newest.is_newest(voucher));
        Ok(())
    }

    /// Takes the place of the document, of which it has everything.
    ///
    /// Returns what the document has gained by that, together with what had waited there for just
    /// this: both show at once, so they are told at once.
    ///
    /// # Errors
    ///
    /// Only [`ApplyError::Broken`]: the document must be thrown away.
    ///
    /// # Panics
    ///
    /// If the document has gained what is [not followed](Self::follow).
    pub fn take_place(self, held: &mut Document, trust: &Trust) -> Result<Applied, ApplyError> {
        let Self { mut copy, base, mut applied, came: _ } = self;
        assert_eq!(base, held.automerge.get_heads(), "nothing that was gained may be lost");
        copy.vouchers.follow(&held.vouchers);
        let waiting: Vec<Change> = held.orphans.iter().cloned().collect();
        *held = copy;
        if !waiting.is_empty() {
            applied.extend(held.take_waiting(waiting, trust)?);
        }
        Ok(applied)
    }
}

#[cfg(test)]
mod tests {
    use automerge::{ROOT, transaction::Transactable as _};

    use super::*;
    use crate::replica::ids::{NodeId, StartId};

    #[test]
    fn a_copy_of_what_was_thrown_away_meanwhile_is_told_apart() {
        let host = NodeId([1; 32]);
        let actor = super::super::actor(&host, StartId([1; 8]));
        let (stored, _) = Document::create_host(host, 0, actor, 0);
        let mut lost = stored.clone();
        let mut tx = lost.automerge.transaction();
        tx.put(ROOT, "lost", 1).unwrap();
        tx.commit();
        let merged = Merged::new(lost.clone(), |_| Ok(Applied::default())).unwrap();
        assert!(merged.is_of(&lost));
        assert_eq!(merged.newest(&lost, 0).map(|gained| gained.len()), Some(0));
        assert!(!merged.is_of(&stored), "what was never stored is in it");
        let merged = Merged::new(stored, |_| Ok(Applied::default())).unwrap();
        assert!(merged.is_of(&lost), "what has gained more is the same document");
        assert_eq!(merged.newest(&lost, 0), None);
        assert_eq!(merged.newest(&lost, 1).map(|gained| gained.len()), Some(1));
    }

    #[test]
    fn a_copy_that_broke_leaves_the_document_as_it_was() {
        let host = NodeId([1; 32]);
        let actor = super::super::actor(&host, StartId([1; 8]));
        let (document, _) = Document::create_host(host, 0, actor, 0);
        let id = document.id();
        let broken = |_: &mut Document| {
            Err(ApplyError::Broken { document: id, message: "half of it is in".to_owned() })
        };
        let error = Merged::new(document, broken).unwrap_err();
        assert!(matches!(error, ApplyError::Panicked { .. }), "{error}");
    }
}
