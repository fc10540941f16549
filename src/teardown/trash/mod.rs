//! Owns the trash: what was ended on this host, kept whole until its time is over.
//!
//! Must not know who asks, nor documents or peers. Invariants: an entry is deleted only when its
//! time is over, when a person says so, or early if it held nothing that is nowhere else; a crash
//! leaves a folder in its old place or in the trash, never between.

mod expire;
mod manifest;
mod restore;
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

use manifest::{Manifest, SESSION_FILE_NAME, Stage, Store};
use serde::{Deserialize, Serialize};

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
    #[error("the entry `{id}` can't be put back: {why}")]
    NotKept {
        /// The workspace's or session's id.
        id: String,
        /// Why not.
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
    host: NodeId,
    settings: Settings,
    /// The entries that somebody puts back or deletes at this moment.
    busy: Mutex<BTreeSet<String>>,
}

impl Trash {
    /// Opens the trash of a data folder on this host; nothing is read or made yet.
    pub fn new(data_dir: &Path, host: NodeId, settings: Settings) -> Self {
        Self { store: Store::new(data_dir), host, settings, busy: Mutex::default() }
    }

    /// Returns how long what was ended is kept.
    pub fn keep_removed(&self) -> Duration {
        self.settings.keep_removed
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
            bytes: export.len() as u64,
            held: None,
            problem: session.cut.then(|| "only its newest messages were kept".to_owned()),
            restored_as: None,
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
        let _ = self.store.manifests();
    }

    /// Takes an entry for one caller, who puts it back or deletes it.
    fn claim(&self, id: &str) -> Result<(Manifest, Claim<'_>), TrashError> {
        let unknown = || TrashError::Unknown(id.to_owned());
        let entry = self.find(id).ok_or_else(unknown)?.entry;
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(entry.clone()) {
            return Err(TrashError::Busy(id.to_owned()));
        }
        drop(busy);
        let claim = Claim { trash: self, entry };
        // Whoever had it before may have changed it.
        let manifest = self.store.manifest(&claim.entry).ok_or_else(unknown)?;
        Ok((manifest, claim))
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
struct Claim<'a> {
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
mod tests {
    use super::*;

    fn session(id: &str) -> KeptSession {
        KeptSession {
            id: id.to_owned(),
            title: "Fix it".to_owned(),
            directory: Some("/w".to_owned()),
            agent: "opencode".to_owned(),
            server: "http://127.0.0.1:4096/".to_owned(),
            cut: false,
            reason: Some("deleted".to_owned()),
        }
    }

    #[test]
    fn a_session_is_kept_once_and_is_there_after_a_restart() {
        let data = tempfile::tempdir().unwrap();
        let host = NodeId([7; 32]);
        let trash = Trash::new(data.path(), host, Settings::default());
        assert_eq!((trash.list(), trash.get("ses_1")), (Vec::new(), None));
        trash.keep_session(&session("ses_1"), b"{}").unwrap();
        trash.keep_session(&session("ses_1"), b"{\"info\":1}").unwrap();
        trash.keep_session(&KeptSession { cut: true, ..session("ses_2") }, b"").unwrap();
        for trash in [&trash, &Trash::new(data.path(), host, Settings::default())] {
            let ids: BTreeSet<_> = trash.list().into_iter().map(|entry| entry.id).collect();
            assert_eq!(ids, ["ses_1", "ses_2"].map(str::to_owned).into());
            let entry = trash.get("ses_1").unwrap();
            assert_eq!((entry.host, entry.bytes), (host, 10));
            assert_eq!(entry.expires_at - entry.ended_at, 14 * 24 * 60 * 60 * 1_000);
            let file = trash.session_file("ses_1").unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), b"{\"info\":1}");
            assert_eq!(entry.place.as_deref(), file.to_str());
            assert!(trash.get("ses_2").unwrap().problem.unwrap().contains("newest"));
        }
    }
}
