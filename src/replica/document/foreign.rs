//! Owns documents that came from elsewhere, whole, until they are part of one of ours.
//!
//! Must not know who sent them. Invariant: what takes as long as the bytes like, judging and loading
//! them and checking who stands for them, needs nothing of the document that is held, so that it can
//! be done elsewhere than where that is.

use automerge::{ActorId, Automerge, Change};

use super::{
    super::{
        guard,
        ids::{ChangeHash, DocumentId},
        trust::Trust,
        voucher::Voucher,
    },
    Applied, ApplyError, Coverage, Document, Sketch,
    saved::Saved,
    vouchers::Vouchers,
};

/// A saved document of a peer's that the guard lets pass, before it is loaded.
#[derive(Debug)]
pub struct Judged {
    id: DocumentId,
    header: guard::DocumentHeader,
    sketch: Sketch,
}

impl Judged {
    /// Judges what a peer sent; takes as long as it is large.
    ///
    /// # Errors
    ///
    /// The guard refuses the bytes.
    pub fn of(id: DocumentId, bytes: &[u8]) -> Result<Self, ApplyError> {
        let mut sketch = Sketch::default();
        let header = guard::contained(|| check(id, bytes, &mut sketch))
            .map_err(ApplyError::panicked(id))??;
        Ok(Self { id, header, sketch })
    }

    /// Returns how many bytes of memory it takes to load it, as the guard counts.
    pub fn memory_bytes(&self) -> u64 {
        self.header.memory_bytes
    }
}

fn check(
    id: DocumentId,
    bytes: &[u8],
    witness: &mut impl guard::Witness,
) -> Result<guard::DocumentHeader, ApplyError> {
    let refused = |source| ApplyError::Refused { document: id, source };
    let limits = guard::DocumentLimits::SNAPSHOT;
    let header = guard::check_document_before(bytes, limits, witness).map_err(refused)?;
    if header.appended.is_empty() {
        Ok(header)
    } else {
        // Whoever saves a document saves it whole.
        Err(refused(guard::Refused::Unused { what: "changes behind a document" }))
    }
}

/// A document that was loaded, and is not yet known to be of any use.
#[derive(Debug)]
pub struct Foreign {
    id: DocumentId,
    automerge: Automerge,
    header: guard::DocumentHeader,
}

impl Foreign {
    /// Loads a document from what a peer sent; takes as long as it is large.
    ///
    /// Returns `None` without loading it if it says to stand where `heads` are: whatever else is in it,
    /// there is nothing to be had from it.
    ///
    /// # Errors
    ///
    /// The guard refuses the bytes, or automerge can't load them.
    pub fn read(
        id: DocumentId,
        bytes: &[u8],
        heads: Option<&[ChangeHash]>,
    ) -> Result<Option<Self>, ApplyError> {
        let header = check(id, bytes, &mut ())?;
        if heads.is_some_and(|heads| heads == header.heads) {
            return Ok(None);
        }
        Self::load(id, bytes, header).map(Some)
    }

    fn whole(id: DocumentId, bytes: &[u8]) -> Result<Self, ApplyError> {
        Self::load(id, bytes, check(id, bytes, &mut ())?)
    }

    fn load(
        id: DocumentId,
        bytes: &[u8],
        header: guard::DocumentHeader,
    ) -> Result<Self, ApplyError> {
        let automerge = guard::contained(|| Automerge::load(bytes))
            .map_err(ApplyError::panicked(id))?
            .map_err(|e| ApplyError::Unreadable { document: id, reason: e.to_string() })?;
        Ok(Self { id, automerge, header })
    }
}

impl Document {
    /// Takes a document over from a peer, whole.
    ///
    /// # Errors
    ///
    /// The guard refuses the bytes, automerge can't load them, they are another document than they
    /// are said to be, or its authors don't stand for what is in it. Who they are, a fleet document
    /// says itself.
    pub fn adopt(
        id: DocumentId,
        actor: ActorId,
        bytes: &[u8],
        vouchers: &[Voucher],
        trust: &Trust,
    ) -> Result<Self, ApplyError> {
        Self::adopt_read(Foreign::whole(id, bytes)?, actor, vouchers, trust)
    }

    /// Takes a document over that was judged, as [`Document::adopt`] does, with what was seen of it; the
    /// bytes are those that were judged.
    ///
    /// # Errors
    ///
    /// As there, but for the guard's.
    pub fn adopt_judged(
        judged: Judged,
        actor: ActorId,
        bytes: &[u8],
        vouchers: &[Voucher],
        trust: &Trust,
    ) -> Result<(Self, Sketch), ApplyError> {
        let Judged { id, header, sketch } = judged;
        let foreign = Foreign::load(id, bytes, header)?;
        let document = Self::adopt_read(foreign, actor, vouchers, trust)?;
        let saved = Saved::of(&document.automerge, bytes);
        Ok((Self { saved, ..document }, sketch))
    }

    /// Takes a document over that was read; errors as [`Document::adopt`].
    pub fn adopt_read(
        foreign: Foreign,
        actor: ActorId,
        vouchers: &[Voucher],
        trust: &Trust,
    ) -> Result<Self, ApplyError> {
        let Foreign { id, automerge, header } = foreign;
        let automerge = automerge.with_actor(actor);
        let document = Self::place(id, automerge, Vouchers::default());
        let mut document = document.ok_or(ApplyError::Misnamed { document: id })?;
        document.vouchers = Self::check_whole(&document.automerge, id, &header, vouchers, trust)?;
        document.check_authority(&header, trust)?;
        Ok(document)
    }

    /// Applies what another copy of the same document has and this one lacks.
    ///
    /// # Errors
    ///
    /// As [`Document::apply`].
    pub fn merge_saved(
        &mut self,
        bytes: &[u8],
        vouchers: &[Voucher],
        trust: &Trust,
    ) -> Result<Applied, ApplyError> {
        self.merge_read(Foreign::whole(self.id, bytes)?, vouchers, trust)
    }

    /// Applies what a copy that was read has and this one lacks; errors as [`Document::apply`].
    pub fn merge_read(
        &mut self,
        foreign: Foreign,
        vouchers: &[Voucher],
        trust: &Trust,
    ) -> Result<Applied, ApplyError> {
        let changes = self.changes_in(&foreign)?;
        // It takes as much memory as what is made of it.
        drop(foreign);
        self.take_in(changes, vouchers, trust, Coverage::Whole)
    }

    /// Lists the changes that another copy of the same document has and this one lacks.
    fn changes_in(&self, foreign: &Foreign) -> Result<Vec<Change>, ApplyError> {
        let document = self.id;
        guard::contained(|| {
            // Another beginning would put its own maps beside those that hold the records.
            let is_same = self.places.are_in(document, &foreign.automerge);
            is_same.then(|| self.automerge.get_changes_added(&foreign.automerge))
        })
        .map_err(ApplyError::panicked(document))?
        .ok_or(ApplyError::Misnamed { document })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::ids::StartId;

    #[test]
    fn a_copy_that_says_to_stand_where_ours_does_is_not_loaded() {
        let node = crate::replica::ids::NodeId([1; 32]);
        let actor = super::super::actor(&node, StartId([1; 8]));
        let (document, _) = Document::create_host(node, 0, actor, 0);
        let (id, bytes, heads) = (document.id(), document.save(), document.heads());
        assert!(Foreign::read(id, &bytes, Some(&heads)).unwrap().is_none());
        assert!(Foreign::read(id, &bytes, Some(&[])).unwrap().is_some());
        assert!(Foreign::read(id, &bytes, None).unwrap().is_some());
        let cut = &bytes[..bytes.len() - 1];
        assert!(Foreign::read(id, cut, Some(&heads)).is_err(), "it is judged all the same");
    }
}
