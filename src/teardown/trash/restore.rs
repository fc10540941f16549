//! Owns putting an entry back: a conversation into its agent, a folder to its place.
//!
//! Must not know who asks. Invariant: nothing that exists is overwritten, and doing it again after a
//! crash or a refusal ends the same.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    KeptSession, Restored, Trash, TrashError,
    manifest::{Manifest, SESSION_FILE_NAME, Stage},
};
use crate::files;

impl Trash {
    /// Puts an entry back: a folder to where it was, a conversation into its agent; or either one
    /// to another place. Blocks. An entry that was put back already is only told again.
    ///
    /// # Errors
    ///
    /// It is not there, something is in its way, or its place can't be used; it stays as it is.
    pub fn restore(&self, id: &str, to: Option<&Path>) -> Result<Restored, TrashError> {
        let (manifest, _busy) = self.claim(id)?;
        match (manifest.stage, &manifest.session) {
            (Stage::Expiring, _) => Err(TrashError::NotKept {
                id: manifest.id.clone(),
                why: "put back: its deletion has begun; what is left of it is named by `trash show`",
            }),
            (Stage::Restored, _) if to.is_none() => {
                let restored_as = manifest.restored_as.clone().unwrap_or_default();
                let notes = vec!["it was put back before; nothing was done".to_owned()];
                Ok(self.restored(&manifest, restored_as, notes))
            }
            (_, Some(session)) => match to {
                Some(to) => self.write_session(&manifest, to),
                None => self.import_session(&manifest, session),
            },
            (Stage::Restored, None) => Err(TrashError::NotKept {
                id: manifest.id.clone(),
                why: "put back to another place: it was put back before; see `trash show`",
            }),
            (Stage::Begun | Stage::Pinned | Stage::Moved, None) => Err(TrashError::NotKept {
                id: manifest.id.clone(),
                why: "put back: it is still being moved; try again",
            }),
            (_, None) => self.put_back(manifest, to),
        }
    }

    /// Hands a conversation to its agent.
    fn import_session(
        &self,
        manifest: &Manifest,
        session: &KeptSession,
    ) -> Result<Restored, TrashError> {
        let export = self.store.folder(&manifest.entry).join(SESSION_FILE_NAME);
        let mut importers = self.settings.importers.iter();
        let importer = importers.find(|one| one.claims(&session.agent, &session.server));
        let importer = importer.ok_or_else(|| {
            TrashError::Import(format!(
                "no bridge of this host leads to {} at {}; start `serve` with it and try again, or \
                 import {} there by hand",
                session.agent,
                session.server,
                export.display()
            ))
        })?;
        let new = importer.import(session, &export).map_err(TrashError::Import)?;
        let mut manifest = manifest.clone();
        manifest.stage = Stage::Restored;
        manifest.restored_as = Some(new.clone());
        self.write(&manifest)?;
        Ok(self.restored(&manifest, new, Vec::new()))
    }

    /// Writes a conversation as a file into a folder; the entry stays.
    fn write_session(&self, manifest: &Manifest, to: &Path) -> Result<Restored, TrashError> {
        let export = self.store.folder(&manifest.entry).join(SESSION_FILE_NAME);
        let bytes = std::fs::read(&export).map_err(io_error(&export))?;
        let path = to.join(format!("{}.json", manifest.id));
        let mut open = OpenOptions::new();
        match open.write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => {
                let written = file.write_all(&bytes).and_then(|()| file.sync_all());
                written.and_then(|()| files::sync_parent(&path)).map_err(io_error(&path))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if std::fs::read(&path).is_ok_and(|found| found != bytes) {
                    return Err(TrashError::InTheWay(path));
                }
            }
            Err(error) => return Err(io_error(&path)(error)),
        }
        let place = path.to_string_lossy().into_owned();
        Ok(self.restored(manifest, place, vec!["the entry stays in the trash".to_owned()]))
    }

    pub(super) fn restored(
        &self,
        manifest: &Manifest,
        restored_as: String,
        notes: Vec<String>,
    ) -> Restored {
        Restored { entry: manifest.listed(self.host, &self.store), restored_as, notes }
    }

    pub(super) fn write(&self, manifest: &Manifest) -> Result<(), TrashError> {
        self.store.write(manifest).map_err(io_error(&self.store.folder(&manifest.entry)))
    }
}

/// Makes the error of a system call about a path.
pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> TrashError {
    let path = PathBuf::from(path);
    move |source| TrashError::Io { path, source }
}
