//! Owns what can be done about one document by itself before the replica has it: reading it from
//! its bytes, and deriving the view of its host.
//!
//! Must not know the replica, so that whoever has several processors can read several documents at
//! once. Invariant: the parts, put together in any order, are the view that all documents give.

use super::super::{
    document::{ApplyError, Document},
    effect::{Startup, StoredDocument},
    ids::DocumentId,
    view::{self, Change, View},
};
use super::{actor_of, read_all};

/// What a document shows, where nothing else is known of its host.
#[derive(Debug)]
pub(super) struct Shown {
    pub view: View,
    /// What the view differs by from an empty one.
    pub changes: Vec<Change>,
}

impl Shown {
    /// Derives it; takes as long as the document is large.
    pub fn by(document: &Document) -> Self {
        let mut view = View::new();
        let mut changes = Vec::new();
        if let Some(host) = document.id().host() {
            let mut touched = view::Touched::default();
            read_all(document, host, &mut touched);
            changes = view.apply(touched);
        }
        Self { view, changes }
    }
}

/// A document that was read, with the view of its host.
#[derive(Debug)]
pub struct Loaded {
    pub(super) document: Document,
    /// What differs is told only where the node itself is the host.
    pub(super) shown: Shown,
}

impl Loaded {
    /// Reads a document as the store has it; takes as long as the document is large.
    pub fn read(startup: &Startup, stored: StoredDocument) -> Result<Self, ApplyError> {
        let StoredDocument { id, snapshot, changes, vouchers } = stored;
        let document =
            Document::load(id, actor_of(startup), snapshot.as_deref(), &changes, &vouchers)?;
        // Freed before the records are read, which take more memory than it.
        drop((snapshot, changes));
        let mut shown = Shown::by(&document);
        if id.host() != Some(startup.node) {
            shown.changes = Vec::new();
        }
        Ok(Self { document, shown })
    }

    /// Reads documents one after the other.
    pub fn read_in_turn(
        startup: &Startup,
        documents: Vec<StoredDocument>,
    ) -> Result<Vec<Self>, ApplyError> {
        documents.into_iter().map(|document| Self::read(startup, document)).collect()
    }

    /// Returns the document's name.
    pub fn id(&self) -> DocumentId {
        self.document.id()
    }
}
