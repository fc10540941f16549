//! Owns deleting entries for good: when their time is over, when a person says so, or early when
//! space is short.
//!
//! Must not know who asks. Invariant: an entry is deleted early only if it is known to have held
//! nothing that is nowhere else.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{
    Trash, TrashError, delete,
    manifest::{Manifest, Stage},
    moving, pin,
    restore::io_error,
};
use crate::{
    clock,
    replica::{
        record::{KIND_WORKTREE, TeardownAction},
        trash::{Held, TrashKind},
    },
    teardown::{
        admin,
        ledger::{Entry, Step},
    },
};

/// How long every entry is kept, however short space is: a day, in milliseconds.
const EARLIEST_MS: i64 = 24 * 60 * 60 * 1_000;
/// Less than this part of a file system that is free is little.
const FREE_PART: u64 = 10;

impl Trash {
    /// Deletes an entry for good, now. Blocks.
    ///
    /// # Errors
    ///
    /// There is no such entry, or something of it can't be deleted: that is tried again.
    pub fn empty(&self, id: &str) -> Result<(), TrashError> {
        let (manifest, _busy) = self.claim(id)?;
        self.delete(manifest, true)
    }

    /// Deletes what is due at this time, in milliseconds since the epoch, and tries again what could
    /// not be deleted before; then what may be deleted early, while space is short. Blocks; to be
    /// called from time to time, and each time after [`Trash::look_at_clock`].
    pub fn maintain(&self, now_ms: i64) {
        for manifest in self.store.manifests() {
            let is_over = manifest.kept_until <= now_ms && manifest.stage >= Stage::Unregistered;
            if is_over || manifest.stage == Stage::Expiring {
                self.expire(&manifest.entry, "its time is over");
            }
        }
        let early = self.store.manifests().into_iter().filter(is_replaceable);
        let mut early: Vec<_> = early.filter(|_| self.may_make_room(now_ms)).collect();
        early.sort_by_key(|manifest| manifest.ended_at);
        let mut taken: u64 = early.iter().map(|manifest| manifest.bytes).sum();
        for manifest in early {
            let is_young = now_ms.saturating_sub(manifest.ended_at) < EARLIEST_MS;
            let is_full =
                || manifest.folder.as_ref().is_some_and(|folder| (self.is_full)(&folder.place));
            if !is_young && (taken > self.settings.trash_max || is_full()) {
                taken = taken.saturating_sub(manifest.bytes);
                self.expire(&manifest.entry, "space is short");
            }
        }
        self.warn_of_space();
    }

    /// Says what takes the space, where it is short and nothing more may be deleted.
    fn warn_of_space(&self) {
        let mut full: BTreeMap<PathBuf, (usize, u64)> = BTreeMap::new();
        for manifest in self.store.manifests() {
            let Some(folder) = &manifest.folder else { continue };
            let Some(root) = folder.place.ancestors().nth(2) else { continue };
            if manifest.stage == Stage::Kept && (self.is_full)(root) {
                let (entries, bytes) = full.entry(root.to_owned()).or_default();
                *entries += 1;
                *bytes += manifest.bytes;
            }
        }
        for (path, (entries, bytes)) in full {
            tracing::warn!(
                path = %path.display(), entries, bytes,
                "less than a tenth of the file system is free; see `sessionmesh trash list`",
            );
        }
    }

    fn expire(&self, entry: &str, why: &str) {
        match self.claim(entry).and_then(|(manifest, _busy)| self.delete(manifest, false)) {
            Ok(()) => tracing::info!(entry, why, "an entry of the trash was deleted for good"),
            // Somebody is at it, or it is gone by now.
            Err(TrashError::Busy(_) | TrashError::Unknown(_)) => {}
            Err(error) => tracing::warn!(entry, %error, "an entry of the trash stays"),
        }
    }

    /// Deletes what is left of an entry; doing it again goes on where it failed. An entry whose place
    /// is not there is dropped only if a person insists: its file system may not be mounted.
    fn delete(&self, mut manifest: Manifest, insists: bool) -> Result<(), TrashError> {
        if manifest.stage < Stage::Unregistered || manifest.stage == Stage::Restoring {
            let why = "deleted: it is being moved or put back; retry that first";
            return Err(TrashError::NotKept { id: manifest.id, why });
        }
        let root = manifest.folder.as_ref().and_then(|folder| folder.place.ancestors().nth(2));
        if let Some(root) = root.filter(|root| !insists && !root.exists()) {
            let why = format!("{} is not there; mount its file system", root.display());
            if manifest.problem.as_ref() != Some(&why) {
                manifest.problem = Some(why.clone());
                self.write(&manifest)?;
            }
            return Err(TrashError::Stuck { id: manifest.id, why });
        }
        let was_restored = manifest.stage == Stage::Restored;
        manifest.stage = Stage::Expiring;
        if !was_restored {
            self.write(&manifest)?;
            if let Err(why) = delete_files(&manifest) {
                manifest.problem = Some(why.clone());
                self.write(&manifest)?;
                return Err(TrashError::Stuck { id: manifest.id, why });
            }
        }
        let dropped = self.drop_entry(&manifest);
        dropped.map_err(io_error(&self.store.folder(&manifest.entry)))?;
        if manifest.kind == TrashKind::Workspace
            && !was_restored
            && let Err(error) = self.note_expired(&manifest)
        {
            // It is gone, whether or not that could be noted.
            tracing::error!(path = %self.ledger.path().display(), %error, "not noted");
        }
        Ok(())
    }

    fn note_expired(&self, manifest: &Manifest) -> io::Result<()> {
        let Ok(workspace) = manifest.id.parse() else { return Ok(()) };
        let own = manifest.own();
        self.ledger.add(&Entry {
            at: clock::wall_ms(),
            workspace,
            name: manifest.name.clone(),
            kind: KIND_WORKTREE.to_owned(),
            incarnation: manifest.incarnation,
            action: TeardownAction::Retry,
            step: Step::Expired,
            directory: manifest.directory.clone(),
            repository: own.map(|own| own.repository.clone()),
            branch: own.and_then(|own| own.branch.clone()),
            commit: own.and_then(|own| own.commit.clone()),
            reason: None,
            entry: Some(manifest.entry.clone()),
            done: None,
        })
    }
}

/// Deletes an entry's files, then what repositories knew of it, then what they kept for it.
fn delete_files(manifest: &Manifest) -> Result<(), String> {
    if let Some(folder) = &manifest.folder {
        // What another entry's folder has moved up lies beside the files, and goes with them.
        delete::delete(&folder.place)?;
        let own = folder.place.parent().unwrap_or(Path::new("/"));
        delete::delete_deep(own)?;
    }
    for one in &manifest.registrations {
        if admin::identity(&one.repository).is_err() {
            // With the repository went what it kept.
            continue;
        }
        delete::delete(&one.place)?;
        delete::delete_deep(one.place.parent().unwrap_or(Path::new("/")))?;
        pin::unpin(&one.repository, &one.pins).map_err(|problem| problem.to_string())?;
        moving::close_admins(&one.repository);
    }
    Ok(())
}

fn is_replaceable(manifest: &Manifest) -> bool {
    manifest.stage == Stage::Kept
        && manifest.folder.is_some()
        && manifest.held.as_ref().is_some_and(Held::is_replaceable)
}

/// Tells whether less than a tenth of a file system is free.
pub(super) fn is_full(path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.exists());
    let found = existing.and_then(|path| rustix::fs::statvfs(path).ok());
    found.is_some_and(|found| found.f_bavail < found.f_blocks / FREE_PART)
}
