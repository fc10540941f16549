//! Owns how the shells reach the trash of this host: one at a time per entry, and not before what a
//! crash has cut off is settled.
//!
//! Must not know how an entry lies on the disk, nor HTTP. Invariant: whatever blocks runs on a thread
//! of its own.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    clock,
    replica::trash::{TrashEntry, TrashState},
    teardown::trash::{KeptSession, Restored, Trash, TrashError},
};

/// How the trash of a host stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashStatus {
    /// How many entries it keeps.
    pub entries: u64,
    /// How many bytes they take.
    pub bytes: u64,
    /// How many bytes of these held something that is nowhere else: they are never deleted early.
    pub irreplaceable_bytes: u64,
    /// How many entries can't be deleted although their time is over.
    pub stuck: u64,
    /// How long what is ended is kept, in seconds; 0 if it is deleted at once.
    pub keep_removed_s: u64,
    /// How many bytes the entries that may be deleted early take at most.
    pub max_bytes: u64,
}

/// The trash of this host; cheap to clone.
#[derive(Debug, Clone)]
pub struct HostTrash {
    trash: Arc<Trash>,
    max_bytes: u64,
    settled: watch::Sender<bool>,
    changed: watch::Sender<()>,
    seen: Arc<Mutex<Seen>>,
}

/// What was seen last.
#[derive(Debug, Default)]
struct Seen {
    entries: Vec<TrashEntry>,
    /// Why restores that members asked for were not carried out, by entry.
    refused: BTreeMap<String, String>,
}

impl HostTrash {
    /// Makes the shells' way to a trash; `changed` is told whenever its entries may have changed.
    pub fn new(trash: Arc<Trash>, max_bytes: u64, changed: watch::Sender<()>) -> Self {
        let (settled, seen) = (watch::Sender::new(false), Arc::default());
        Self { trash, max_bytes, settled, changed, seen }
    }

    /// Settles what a crash has cut off; blocks. Nothing else is done before it has ended.
    pub fn settle(&self) {
        self.trash.recover();
        // Before anything is ended, put back or deleted.
        if let Err(error) = self.trash.look_at_clock_first(clock::wall_ms()) {
            tracing::warn!(%error, "what the clock says could not be noted for the trash");
        }
        self.settled.send_replace(true);
    }

    /// Returns what tells once it is settled.
    pub fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    /// Lists the entries, the newest first.
    pub async fn list(&self) -> Vec<TrashEntry> {
        let trash = self.trash.clone();
        let mut entries = self.blocking(move || trash.list()).await;
        let mut seen = self.lock();
        seen.refused.retain(|id, _| entries.iter().any(|it| it.id == *id && is_kept(it)));
        for entry in entries.iter_mut().filter(|entry| is_kept(entry)) {
            if let Some(why) = seen.refused.get(&entry.id) {
                entry.problem = Some(why.clone());
            }
        }
        seen.entries.clone_from(&entries);
        entries
    }

    /// Tells whether anything is kept at all.
    pub fn keeps(&self) -> bool {
        !self.trash.keep_removed().is_zero()
    }

    /// Keeps what an agent exported of a session; blocks.
    ///
    /// # Errors
    ///
    /// As [`Trash::keep_session`].
    pub fn keep_session(&self, session: &KeptSession, export: &[u8]) -> io::Result<()> {
        self.trash.keep_session(session, export)?;
        self.changed.send_replace(());
        Ok(())
    }

    /// Puts an entry back, to where it was or to another place.
    ///
    /// # Errors
    ///
    /// As [`Trash::restore`].
    pub async fn restore(&self, id: &str, to: Option<PathBuf>) -> Result<Restored, TrashError> {
        let (trash, owned) = (self.trash.clone(), id.to_owned());
        let restored = self.blocking(move || trash.restore(&owned, to.as_deref())).await;
        if restored.is_ok() {
            self.lock().refused.remove(id);
        }
        self.changed.send_replace(());
        restored
    }

    /// Takes note of why a restore that a member asked for was not carried out: it is told with the
    /// entry from now on.
    pub fn note_refused(&self, id: &str, why: String) {
        self.lock().refused.insert(id.to_owned(), why);
    }

    /// Deletes an entry for good.
    ///
    /// # Errors
    ///
    /// As [`Trash::empty`].
    pub async fn empty(&self, id: &str) -> Result<(), TrashError> {
        let (trash, id) = (self.trash.clone(), id.to_owned());
        let emptied = self.blocking(move || trash.empty(&id)).await;
        self.changed.send_replace(());
        emptied
    }

    /// Deletes what is due, and tries again what could not be deleted.
    pub async fn maintain(&self) {
        let trash = self.trash.clone();
        let maintain = move || {
            let now_ms = clock::wall_ms();
            match trash.look_at_clock(now_ms) {
                Ok(()) => trash.maintain(now_ms),
                Err(error) => tracing::warn!(%error, "nothing of the trash is deleted"),
            }
        };
        self.blocking(maintain).await;
        self.changed.send_replace(());
    }

    /// Tells how it stands, as it was seen last.
    pub fn status(&self) -> TrashStatus {
        let seen = self.lock();
        let kept = seen.entries.iter().filter(|entry| entry.state != TrashState::Restored);
        let mut status = TrashStatus {
            keep_removed_s: self.trash.keep_removed().as_secs(),
            max_bytes: self.max_bytes,
            ..TrashStatus::default()
        };
        for entry in kept {
            status.entries += 1;
            status.bytes += entry.bytes;
            status.stuck += u64::from(entry.state == TrashState::Stuck);
            if !entry.held.as_ref().is_some_and(|held| held.is_replaceable()) {
                status.irreplaceable_bytes += entry.bytes;
            }
        }
        status
    }

    /// Does something that blocks, once everything is settled.
    async fn blocking<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        // The sender lives as long as this.
        let _ = self.settled().wait_for(|settled| *settled).await;
        let done = tokio::task::spawn_blocking(act).await;
        done.expect("the trash does not panic")
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whether an entry can still be put back.
fn is_kept(entry: &TrashEntry) -> bool {
    entry.state == TrashState::Kept
}
