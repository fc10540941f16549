//! Owns the trash: what was ended on this host, kept whole until its time is over.
//!
//! Must not know who asks, nor documents or peers. Invariants: an entry is deleted only when its
//! time is over, when a person says so, or early if it held nothing that is nowhere else; a crash
//! leaves a folder in its old place or in the trash, never between.

mod aging;
mod delete;
mod expire;
mod heads;
mod holding;
mod manifest;
mod mounted;
mod moving;
mod pin;
mod plumbing;
mod relink;
mod restore;
mod returning;
mod scan;
#[cfg(test)]
mod testing;

use std::{
    collections::BTreeSet,
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub(in crate::teardown) use heads::BranchKept;
pub(in crate::teardown) use manifest::{Manifest, Stage};
use manifest::{SESSION_FILE_NAME, Store};
pub(in crate::teardown) use moving::{Leaving, Request, entry_name};
pub(in crate::teardown) use pin::Unreadable;
pub(in crate::teardown) use scan::scan;
use serde::{Deserialize, Serialize};

use super::{ledger::Ledger, problem::Problem};
use crate::{
    clock, files,
    replica::{
        ids::NodeId,
        trash::{TrashEntry, TrashKind},
    },
};

/// How long what was ended is kept if nothing is said.
pub const KEEP_REMOVED_DEFAULT: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// How much the entries that may be deleted early take together, in bytes, if nothing is said.
pub const TRASH_MAX_DEFAULT: u64 = 20 << 30;

/// A conversation that its agent exported before it was deleted there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSession {
    /// The session's id.
    pub id: String,
    /// What people called it.
    pub title: String,
    /// Where it worked.
    pub directory: Option<String>,
    /// The kind of agent.
    pub agent: String,
    /// The agent's server.
    pub server: String,
    /// Whether only its newest messages fit.
    pub cut: bool,
    /// Why it was deleted.
    pub reason: Option<String>,
}

/// Gives a kept session back to its agent.
pub trait SessionImporter: Debug + Send + Sync {
    /// Tells whether it can give sessions of this agent and server back.
    fn claims(&self, agent: &str, server: &str) -> bool;

    /// Gives one back and returns the id of the new session; blocks.
    ///
    /// # Errors
    ///
    /// Why it could not, for a person, with the command to type where there is one.
    fn import(&self, session: &KeptSession, export: &Path) -> Result<String, String>;
}

/// What a host says of its trash.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long what was ended is kept; zero deletes it at once.
    pub keep_removed: Duration,
    /// How much the entries that may be deleted early take together, in bytes.
    pub trash_max: u64,
    /// Asked in order; the first that claims a session gives it back.
    pub importers: Vec<Arc<dyn SessionImporter>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keep_removed: KEEP_REMOVED_DEFAULT,
            trash_max: TRASH_MAX_DEFAULT,
            importers: Vec::new(),
        }
    }
}

/// How an entry was put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The entry as it is now.
    pub entry: TrashEntry,
    /// The directory, the file or the id of the new session.
    pub restored_as: String,
    /// What is not as it was, and what is left to do, for a person; one line each.
    pub notes: Vec<String>,
}

/// Why an entry was not put back or deleted.
#[derive(Debug, thiserror::Error)]
pub enum TrashError {
    /// There is no such entry.
    #[error("the trash of this host has no entry `{}`; see `sessionmesh trash list`", .0.escape_debug())]
    Unknown(String),
    /// Another request is at it.
    #[error("the entry `{0}` is being put back or deleted at this moment; try again")]
    Busy(String),
    /// It can't be put back any more.
    #[error("the entry `{id}` can't be {why}")]
    NotKept {
        /// The workspace's or session's id.
        id: String,
        /// What can't be done, and why not.
        why: &'static str,
    },
    /// Something is where it is to go.
    #[error(
        "{} is in the way; move it, or name another place with --to, and nothing is overwritten",
        .0.display()
    )]
    InTheWay(PathBuf),
    /// The place can't be used.
    #[error("{} {why}", path.display())]
    Place {
        /// Where it was to go.
        path: PathBuf,
        /// What is wrong with that, and the remedy.
        why: String,
    },
    /// Its agent did not take it.
    #[error("{0}")]
    Import(String),
    /// Something can't be deleted.
    #[error("the entry `{id}` can't be deleted: {why}; see to that, it is tried again")]
    Stuck {
        /// The workspace's or session's id.
        id: String,
        /// What stands in the way.
        why: String,
    },
    /// The operating system refused something.
    #[error("{}: {source}; see to that and try again", path.display())]
    Io {
        /// What it was about.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// The trash of this host.
#[derive(Debug)]
pub struct Trash {
    store: Store,
    ledger: Arc<Ledger>,
    host: NodeId,
    settings: Settings,
    /// The entries that somebody puts back or deletes at this moment.
    busy: Mutex<BTreeSet<String>>,
    /// What the wall clock said last.
    looks: Mutex<aging::Looks>,
    /// Tells whether space is short where something lies; a test says so by itself.
    is_full: fn(&Path) -> bool,
    /// After how many steps a test lets it crash; below zero it does not.
    #[cfg(test)]
    pub(in crate::teardown) steps_left: std::sync::atomic::AtomicI64,
}

impl Trash {
    /// Opens the trash of a data folder on this host; nothing is read or made yet.
    pub fn new(data_dir: &Path, host: NodeId, settings: Settings) -> Self {
        Self {
            store: Store::new(data_dir),
            ledger: Arc::new(Ledger::new(data_dir)),
            host,
            settings,
            busy: Mutex::default(),
            looks: Mutex::default(),
            is_full: expire::is_full,
            #[cfg(test)]
            steps_left: std::sync::atomic::AtomicI64::new(-1),
        }
    }

    /// Returns how long what was ended is kept.
    pub fn keep_removed(&self) -> Duration {
        self.settings.keep_removed
    }

    /// Returns the record of what was done to entries.
    pub(in crate::teardown) fn ledger(&self) -> Arc<Ledger> {
        self.ledger.clone()
    }

    /// Returns the folder that holds the entries' manifests.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// Keeps what an agent exported of a session, durably; the same session again replaces it.
    ///
    /// # Errors
    ///
    /// It can't be written: the session must not be deleted at its agent then.
    pub fn keep_session(&self, session: &KeptSession, export: &[u8]) -> io::Result<()> {
        // An earlier entry of the session may be being deleted.
        let _claim = self.claim_entry(session.id.clone()).map_err(io::Error::other)?;
        let ended_at = clock::wall_ms();
        let folder = self.store.folder(&session.id);
        files::make_folder(&folder)?;
        files::replace(&folder.join(SESSION_FILE_NAME), export)?;
        self.store.write(&Manifest {
            entry: session.id.clone(),
            id: session.id.clone(),
            kind: TrashKind::Session,
            incarnation: 0,
            name: session.title.clone(),
            directory: session.directory.clone(),
            reason: session.reason.clone(),
            stage: Stage::Kept,
            forgotten: true,
            ended_at,
            kept_until: self.kept_until(ended_at, None),
            added_ms: 0,
            gap_began: None,
            bytes: export.len() as u64,
            held: None,
            problem: session.cut.then(|| "only its newest messages were kept".to_owned()),
            restored_as: None,
            unpinned: Vec::new(),
            folder: None,
            registrations: Vec::new(),
            session: Some(session.clone()),
        })
    }

    /// Returns the entries, the newest first.
    pub fn list(&self) -> Vec<TrashEntry> {
        let mut found: Vec<_> =
            self.store.manifests().into_iter().filter(Manifest::is_listed).collect();
        found.sort_by(|a, b| b.ended_at.cmp(&a.ended_at).then_with(|| a.entry.cmp(&b.entry)));
        found.iter().map(|manifest| manifest.listed(self.host, &self.store)).collect()
    }

    /// Returns the entry of a workspace or session.
    pub fn get(&self, id: &str) -> Option<TrashEntry> {
        Some(self.find(id)?.listed(self.host, &self.store))
    }

    /// Returns where the export of a kept session lies.
    pub fn session_file(&self, id: &str) -> Option<PathBuf> {
        let manifest = self.find(id)?;
        manifest.session.as_ref()?;
        Some(self.store.folder(&manifest.entry).join(SESSION_FILE_NAME))
    }

    /// Finishes or undoes what a crash has cut off; to be called before anything else. Blocks.
    pub fn recover(&self) {
        self.store.sweep();
        for manifest in self.store.manifests() {
            match manifest.stage {
                Stage::Begun | Stage::Pinned | Stage::Moved => self.settle(manifest),
                Stage::Restoring => self.settle_restoring(manifest),
                _ => {}
            }
        }
    }

    /// Ends the attempt here if a test says so, as a crash would.
    fn checkpoint(&self) -> Result<(), Problem> {
        #[cfg(test)]
        if self.steps_left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            return Err(Problem::Stopped);
        }
        Ok(())
    }

    /// Takes an entry for one caller, who puts it back or deletes it.
    fn claim(&self, id: &str) -> Result<(Manifest, Claim<'_>), TrashError> {
        let unknown = || TrashError::Unknown(id.to_owned());
        let claim = self.claim_entry(self.find(id).ok_or_else(unknown)?.entry)?;
        // The caller before may have changed it.
        let manifest = self.store.manifest(&claim.entry).ok_or_else(unknown)?;
        Ok((manifest, claim))
    }

    fn claim_entry(&self, entry: String) -> Result<Claim<'_>, TrashError> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(entry.clone()) {
            return Err(TrashError::Busy(entry));
        }
        drop(busy);
        Ok(Claim { trash: self, entry })
    }

    /// Returns the newest entry of a workspace or session, or the one with this very name.
    fn find(&self, id: &str) -> Option<Manifest> {
        if let Some(manifest) = self.store.manifest(id).filter(Manifest::is_listed) {
            return Some(manifest);
        }
        let all = self.store.manifests().into_iter();
        all.filter(|manifest| manifest.id == id && manifest.is_listed())
            .max_by_key(|manifest| (manifest.ended_at, manifest.incarnation))
    }

    /// Returns until when something is kept that was ended at a time, both in milliseconds.
    fn kept_until(&self, ended_at: i64, promised: Option<i64>) -> i64 {
        let keep = i64::try_from(self.settings.keep_removed.as_millis()).unwrap_or(i64::MAX);
        ended_at.saturating_add(keep).max(promised.unwrap_or(i64::MIN))
    }
}

/// An entry in somebody's hands, until it is dropped.
pub(in crate::teardown) struct Claim<'a> {
    trash: &'a Trash,
    entry: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut busy = self.trash.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.entry);
    }
}

#[cfg(test)]
mod tests;
