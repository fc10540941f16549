//! Owns what can be done about one document by itself before the replica has it: reading it from
//! its bytes, and deriving the view of its host.
//!
//! Must not know the replica, so that whoever has several processors can read several documents at
//! once. Invariant: the parts, put together in any order, are the view that all documents give.

use super::super::{
    document::{ApplyError, Document, Records, Sketch},
    effect::{Startup, StoredDocument},
    ids::DocumentId,
    view::{Change, View},
};
use super::actor_of;

/// What a document shows, where nothing else is known of its host.
#[derive(Debug)]
pub(super) struct Shown {
    pub view: View,
    /// What the view differs by from an empty one.
    pub changes: Vec<Change>,
}

impl Shown {
    /// Derives it from its records; takes as long as the document is large.
    pub fn by(document: &Document, records: impl FnOnce() -> Records) -> Self {
        let Some(host) = document.id().host() else {
            return Self { view: View::new(), changes: Vec::new() };
        };
        let Records { sessions, workspaces } = records();
        let sessions = sessions.into_iter().filter_map(|(id, session)| Some((id, session?)));
        let workspaces =
            workspaces.into_iter().filter_map(|(id, workspace)| Some((id, workspace?)));
        let (view, changes) = View::of_host(host, sessions.collect(), workspaces.collect());
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
        let snapshot_is_all = id.host().is_some() && changes.is_empty();
        let sketch = snapshot.as_deref().filter(|_| snapshot_is_all).and_then(Sketch::of);
        // Freed before the view is derived, which takes more memory than it.
        drop((snapshot, changes));
        let mut shown = Shown::by(&document, || {
            let records = sketch.map_or_else(|| document.records(), |it| it.records(&document));
            debug_assert!(
                !snapshot_is_all || records.same_as(&document.records()),
                "what was seen in the bytes is what the document says"
            );
            records
        });
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
