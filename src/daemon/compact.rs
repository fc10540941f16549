//! Owns replacing long logs of changes by snapshots, off the loop.
//!
//! Must not delete anything that a snapshot was not verified to hold. Invariant: one document at a
//! time and not one right after the other, so that all of it takes a tenth of a core.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use tokio::sync::mpsc;

use crate::{
    replica::{document::Copied, effect::StoredDocument, ids::DocumentId},
    store::{self, Backlog, compact},
};

/// How many changes a log has at least before it is replaced: loading fewer takes no time.
const CHANGES_MIN: u64 = 256;
/// How much longer than the snapshot, in bytes, a log gets before it is replaced: so all that is
/// ever rewritten stays within a constant factor of what was written.
const SNAPSHOT_FACTOR: u64 = 2;

/// How many times as long as one replacement took, the next one waits: a burst of changes made logs
/// long enough again and again, and a fifth of all that it took was this.
const REST_FACTOR: u32 = 9;

/// How long a log gets.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many changes it has at least before it is replaced.
    pub changes_min: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { changes_min: CHANGES_MIN }
    }
}

/// Keeps count of the logs, and of the one that is being replaced.
#[derive(Debug)]
pub struct Compaction {
    limits: Limits,
    backlogs: BTreeMap<DocumentId, Backlog>,
    under_way: Option<DocumentId>,
}

impl Compaction {
    /// Starts without any log.
    pub fn new(limits: Limits) -> Self {
        Self { limits, backlogs: BTreeMap::new(), under_way: None }
    }

    /// Takes in how long some logs are.
    pub fn note(&mut self, backlogs: Vec<Backlog>) {
        self.backlogs.extend(backlogs.into_iter().map(|backlog| (backlog.document, backlog)));
    }

    /// Picks the document whose log is to be replaced next, if none is.
    pub fn pick(&mut self) -> Option<DocumentId> {
        if self.under_way.is_some() {
            return None;
        }
        let long = |backlog: &&Backlog| {
            backlog.changes >= self.limits.changes_min
                && backlog.change_bytes >= SNAPSHOT_FACTOR * backlog.snapshot_bytes
        };
        let longest = self.backlogs.values().filter(long).max_by_key(|backlog| backlog.changes)?;
        self.under_way = Some(longest.document);
        self.under_way
    }

    /// Takes note that it is done, or has failed: it is tried again when the log has grown.
    ///
    /// The next one is picked after [`Self::rested`].
    pub fn ended(&mut self, document: DocumentId) {
        self.backlogs.remove(&document);
    }

    /// Lets the next document be picked.
    pub fn rested(&mut self) {
        self.under_way = None;
    }
}

/// A snapshot that was verified, or the reason why there is none.
pub type Ended = (DocumentId, Result<compact::Verified, store::Error>);

/// What a thread that compacts tells, in this order.
pub enum Progress {
    /// It has saved a document.
    Ended(Ended),
    /// It has rested for long enough after that.
    Rested,
}

/// Reads a document as it is stored, saves it, and verifies what was saved.
///
/// It does not take the loop's document: copying a large one takes milliseconds on the loop.
pub fn saved(plan: compact::Plan, stored: &StoredDocument) -> Ended {
    let document = plan.document();
    let panicked = |_| Err(store::Error::Panicked { document });
    let saved = catch_unwind(AssertUnwindSafe(|| {
        let read = Copied::read(stored.id, stored.snapshot.as_deref(), &stored.changes);
        let read = read.map(|copy| (copy.heads(), copy.save()));
        read.map_err(|error| store::Error::NotRead { document, reason: error.to_string() })
    }));
    let verify = |(heads, bytes): (Vec<_>, _)| compact::verify(plan, bytes, &heads);
    (document, saved.unwrap_or_else(panicked).and_then(verify))
}

/// Does so on a thread of its own, and rests afterwards.
pub fn save(plan: compact::Plan, stored: StoredDocument, done: mpsc::UnboundedSender<Progress>) {
    tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let ended = saved(plan, &stored);
        drop(stored);
        let rest = began.elapsed() * REST_FACTOR;
        // A loop that has stopped wants no snapshot.
        if done.send(Progress::Ended(ended)).is_ok() {
            std::thread::sleep(rest);
            let _ = done.send(Progress::Rested);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::ids::NodeId;

    fn long(host: u8) -> Backlog {
        let document = DocumentId::Host { host: NodeId([host; 32]), epoch: 0 };
        Backlog { document, changes: 1_000, change_bytes: 100_000, snapshot_bytes: 0 }
    }

    #[test]
    fn the_next_document_is_picked_only_after_the_rest() {
        let mut compaction = Compaction::new(Limits::default());
        compaction.note(vec![long(1), long(2)]);
        let first = compaction.pick().unwrap();
        compaction.ended(first);
        assert_eq!(compaction.pick(), None, "the thread still rests");
        compaction.rested();
        let second = compaction.pick().unwrap();
        assert_ne!(first, second);
    }
}
