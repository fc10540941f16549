//! Owns reading the stored documents with all processors that there are.
//!
//! Must not know what is in them. Invariant: what is read does not depend on which thread read it.

use std::sync::{Mutex, PoisonError};

use crate::replica::{
    document::ApplyError,
    effect::{Startup, StoredDocument},
    machine::Loaded,
};

/// How many threads read at most: more wait for each other's memory.
const THREADS_MAX: usize = 8;

/// Reads documents, several at once: that is nearly all that the start of a large fleet takes.
pub fn at_once(
    startup: &Startup,
    documents: Vec<StoredDocument>,
) -> Result<Vec<Loaded>, ApplyError> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(THREADS_MAX).min(documents.len());
    let waiting = Mutex::new(documents.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let read = || -> Result<Vec<Loaded>, ApplyError> {
        std::iter::from_fn(next).map(|stored| Loaded::read(startup, stored)).collect()
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(read)).collect();
        let mut loaded = read()?;
        for other in others {
            loaded.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(loaded)
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc, time::Duration};

    use super::*;
    use crate::replica::{
        document::{Document, actor},
        ids::{DocumentId, NodeId, StartId},
        voucher::Trusting,
    };

    #[test]
    fn every_document_is_read_once_and_a_broken_one_is_told() {
        let startup = Startup {
            node: NodeId([1; 32]),
            name: "a".to_owned(),
            start: StartId([1; 8]),
            seed: 1,
            undo_window: Duration::ZERO,
            keep_removed: Duration::ZERO,
            start_grace: Duration::ZERO,
            keyring: Arc::new(Trusting),
        };
        let stored = |n: u8| {
            let host = NodeId([n; 32]);
            let (document, _) = Document::create_host(host, 0, actor(&host, StartId([n; 8])), 0);
            let snapshot = Some(document.save());
            let (changes, vouchers) = (Vec::new(), Vec::new());
            StoredDocument { id: document.id(), snapshot, changes, vouchers }
        };
        let mut documents: Vec<_> = (1..20).map(stored).collect();
        let wanted: BTreeSet<DocumentId> = documents.iter().map(|document| document.id).collect();
        let loaded = at_once(&startup, documents.clone()).unwrap();
        assert_eq!(loaded.len(), wanted.len());
        assert_eq!(loaded.iter().map(Loaded::id).collect::<BTreeSet<_>>(), wanted);
        documents[7].snapshot = Some(vec![1, 2, 3]);
        let broken = documents[7].id;
        let refused = at_once(&startup, documents).unwrap_err();
        assert!(matches!(refused, ApplyError::Unreadable { document, .. } if document == broken));
        assert!(at_once(&startup, Vec::new()).unwrap().is_empty());
    }
}
