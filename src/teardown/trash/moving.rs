//! Owns moving a folder, and what repositories know of it, into the trash; and out again.
//!
//! Must not judge whether it may be ended. Invariants: each step is on the disk before the next; what
//! a crash or a refusal cuts off is finished once the folder has moved, and undone before.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::{
    Claim, Trash, holding,
    manifest::{Folder, Manifest, Registration, Stage},
    pin::{self, Unreadable},
};
use crate::{
    clock, files,
    replica::{
        effect::TeardownDue,
        trash::{Held, TrashKind},
    },
    teardown::{
        admin::{self, Admin},
        problem::Problem,
    },
};

/// The folder of an entry that holds the files.
const FILES: &str = "files";
/// The folder in a repository that holds what it knew of worktrees in the trash.
const ADMINS: &str = "sessionmesh-trash";
/// Where the pins of all entries are.
const PINS: &str = "refs/sessionmesh/trash";
/// Lets a folder's owner rename it.
const OWNER_MAY: u32 = 0o700;

/// One worktree that goes into the trash.
#[derive(Debug, Clone)]
pub struct Leaving {
    /// Where it is below the folder that is moved; empty if it is that folder.
    pub below: PathBuf,
    /// What its repository knows of it.
    pub admin: Admin,
    /// The branch that is checked out.
    pub branch: Option<String>,
    /// The commit that is checked out.
    pub commit: Option<String>,
}

/// What is to be moved, as it was judged.
#[derive(Debug)]
pub struct Request<'a> {
    /// The attempt.
    pub due: &'a TeardownDue,
    /// Where the folder really is; `None` if only a repository still knows it.
    pub folder: Option<&'a Path>,
    /// The folder's own first.
    pub leaving: Vec<Leaving>,
    /// How many bytes it takes.
    pub bytes: u64,
    /// What it holds.
    pub held: Option<Held>,
    /// Folders in which nothing may be kept.
    pub avoid: &'a [PathBuf],
}

impl Trash {
    /// Announces an entry, durably; nothing is moved yet.
    ///
    /// # Errors
    ///
    /// There is no place for it, or it can't be noted.
    pub(in crate::teardown) fn announce(&self, request: &Request<'_>) -> Result<Manifest, Problem> {
        let due = request.due;
        let workspace = &due.workspace;
        let entry = entry_name(workspace.id.as_str(), due.incarnation);
        if self.store.manifest(&entry).is_some() {
            let folder = self.store.folder(&entry);
            return Err(Problem::io(&folder)(io::ErrorKind::AlreadyExists.into()));
        }
        let folder = match request.folder {
            None => None,
            Some(from) => {
                let found = from.symlink_metadata().map_err(Problem::io(from))?;
                let root = holding::choose(self.store.path(), from, request.avoid)?;
                Some(Folder {
                    from: from.to_owned(),
                    place: root.join(&entry).join(FILES),
                    to: from.to_owned(),
                    identity: (found.dev(), found.ino()),
                    mode: found.mode(),
                })
            }
        };
        let mut registrations = Vec::new();
        for (number, leaving) in request.leaving.iter().enumerate() {
            registrations.push(registration(&entry, number, leaving)?);
        }
        let ended_at = clock::wall_ms();
        let manifest = Manifest {
            id: workspace.id.as_str().to_owned(),
            kind: TrashKind::Workspace,
            incarnation: due.incarnation,
            name: workspace.name.clone(),
            directory: workspace.directory.clone(),
            reason: Some(reason(due).to_owned()),
            stage: Stage::Begun,
            forgotten: false,
            ended_at,
            kept_until: self.kept_until(ended_at, due.kept_until),
            added_ms: 0,
            gap_began: None,
            bytes: request.bytes,
            held: request.held.clone(),
            problem: None,
            unpinned: Vec::new(),
            restored_as: None,
            folder,
            registrations,
            session: None,
            entry,
        };
        self.record(&manifest)?;
        Ok(manifest)
    }

    /// Moves what was announced; `note` is told of each step once it is on the disk. What fails is
    /// undone.
    ///
    /// # Errors
    ///
    /// Something refuses to move: all is as it was.
    pub(in crate::teardown) fn take(
        &self,
        manifest: &mut Manifest,
        unreadable: Unreadable,
        note: &dyn Fn(Stage) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let noted = if manifest.stage == Stage::Begun { note(Stage::Begun) } else { Ok(()) };
        match noted.and_then(|()| self.advance(manifest, unreadable, note)) {
            // What a stop cuts off is settled at the next start.
            Err(problem) if !matches!(problem, Problem::Stopped) => match self.undo(manifest) {
                Ok(()) => Err(problem),
                Err(undoing) => {
                    manifest.problem = Some(format!("{problem}; {undoing}"));
                    self.record(manifest)?;
                    Err(undoing)
                }
            },
            other => other,
        }
    }

    /// Returns the entry of an attempt whose files lie in the trash already, or of an earlier one of
    /// the same workspace that was not finished.
    pub(in crate::teardown) fn unfinished(&self, id: &str, incarnation: u32) -> Option<Manifest> {
        let of_it =
            |manifest: &Manifest| manifest.kind == TrashKind::Workspace && manifest.id == id;
        for manifest in self.store.manifests() {
            if of_it(&manifest) && manifest.stage < Stage::Moved {
                self.settle(manifest);
            }
        }
        let name = entry_name(id, incarnation);
        let mut all = self.store.manifests().into_iter().filter(of_it);
        all.find(|manifest| {
            let is_underway = (Stage::Moved..=Stage::Unregistered).contains(&manifest.stage);
            is_underway || (manifest.entry == name && manifest.stage >= Stage::Kept)
        })
    }

    /// Keeps an entry from being put back or deleted by anybody else, and returns it as it is now.
    pub(in crate::teardown) fn hold(
        &self,
        manifest: Manifest,
    ) -> Result<(Manifest, Claim<'_>), Problem> {
        self.claim(&manifest.entry).map_err(|error| Problem::Held(error.to_string()))
    }

    /// Moves what is left to be moved of an entry whose folder lies in the trash.
    pub(in crate::teardown) fn finish(&self, manifest: &mut Manifest) -> Result<(), Problem> {
        self.take(manifest, Unreadable::Refused, &|_| Ok(()))
    }

    /// Notes that nothing is left to do with an entry until its time is over.
    pub(in crate::teardown) fn keep(&self, manifest: &mut Manifest) -> Result<(), Problem> {
        manifest.forgotten = true;
        manifest.stage = manifest.stage.max(Stage::Kept);
        self.checkpoint()?;
        self.record(manifest)?;
        self.checkpoint()
    }

    fn advance(
        &self,
        manifest: &mut Manifest,
        unreadable: Unreadable,
        note: &dyn Fn(Stage) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        while manifest.stage < Stage::Unregistered {
            self.checkpoint()?;
            let next = match manifest.stage {
                Stage::Begun => {
                    let scratch = self.store.folder(&manifest.entry);
                    let mut unpinned = Vec::new();
                    for one in &manifest.registrations {
                        unpinned.extend(pin::pin(one, unreadable, &scratch)?);
                    }
                    manifest.unpinned = unpinned;
                    Stage::Pinned
                }
                Stage::Pinned => {
                    if let Some(folder) = &manifest.folder {
                        move_in(folder, &manifest.entry)?;
                    }
                    Stage::Moved
                }
                _ => {
                    for one in &manifest.registrations {
                        self.checkpoint()?;
                        unregister(one)?;
                    }
                    Stage::Unregistered
                }
            };
            self.checkpoint()?;
            manifest.stage = next;
            self.record(manifest)?;
            self.checkpoint()?;
            note(next)?;
        }
        Ok(())
    }

    /// Puts everything that was moved of an unfinished entry where it was, and drops the entry.
    fn undo(&self, manifest: &Manifest) -> Result<(), Problem> {
        for one in manifest.registrations.iter().rev() {
            if exists(&one.place) {
                rename(&one.place, &one.admin)?;
            }
        }
        if let Some(folder) = &manifest.folder
            && exists(&folder.place)
        {
            rename_folder(folder, &folder.place, &folder.from)?;
        }
        for one in &manifest.registrations {
            // A pin that stays keeps some objects; the repository may be gone.
            if let Err(problem) = pin::unpin(&one.repository, &one.pins) {
                tracing::warn!(entry = manifest.entry, %problem, "pins stay");
            }
            close_admins(&one.repository);
        }
        self.drop_entry(manifest).map_err(Problem::io(self.store.path()))
    }

    /// Finishes or undoes an entry that a crash cut off on its way in.
    pub(super) fn settle(&self, mut manifest: Manifest) {
        // Where it is at neither place, its file system may not be mounted: whether it was moved is not known.
        if let Some(folder) = &manifest.folder
            && !exists(&folder.place)
            && !exists(&folder.from)
        {
            let (from, place) = (folder.from.display(), folder.place.display());
            let why = format!(
                "its folder is neither at {from} nor at {place}; mount its file system and restart the daemon"
            );
            tracing::error!(entry = manifest.entry, why, "an entry of the trash is not whole");
            if manifest.problem.as_ref() != Some(&why) {
                manifest.problem = Some(why);
                if let Err(problem) = self.record(&manifest) {
                    tracing::error!(entry = manifest.entry, %problem, "not noted");
                }
            }
            return;
        }
        let has_moved = match &manifest.folder {
            Some(folder) => exists(&folder.place),
            None => manifest.registrations.iter().any(|one| exists(&one.place)),
        };
        let settled = if has_moved {
            manifest.stage = manifest.stage.max(Stage::Moved);
            self.take(&mut manifest, Unreadable::Refused, &|_| Ok(()))
        } else {
            self.undo(&manifest)
        };
        match settled {
            Ok(()) => tracing::info!(
                entry = manifest.entry,
                finished = has_moved,
                "what a stop had cut off is settled"
            ),
            Err(problem) => {
                tracing::error!(entry = manifest.entry, %problem, "an entry of the trash is not whole");
            }
        }
    }

    /// Removes the folders of an entry that is empty but for its manifest.
    pub(super) fn drop_entry(&self, manifest: &Manifest) -> io::Result<()> {
        if let Some(root) =
            manifest.folder.as_ref().and_then(|folder| folder.place.ancestors().nth(2))
            && root != self.store.path()
        {
            holding::close(root, &manifest.entry)?;
        }
        self.store.remove(&manifest.entry)
    }

    pub(super) fn record(&self, manifest: &Manifest) -> Result<(), Problem> {
        self.store.write(manifest).map_err(Problem::io(self.store.path()))
    }
}

/// Returns the name of the entry of an attempt.
pub fn entry_name(id: &str, incarnation: u32) -> String {
    format!("{id}.{incarnation}")
}

/// Returns why a workspace is ended, in one word.
fn reason(due: &TeardownDue) -> &'static str {
    use crate::replica::record::TeardownAction;
    match due.action {
        TeardownAction::Force => "forced",
        TeardownAction::Retry if due.workspace.used => "last_session",
        TeardownAction::Retry => "dismissed",
    }
}

fn registration(entry: &str, number: usize, leaving: &Leaving) -> Result<Registration, Problem> {
    let Leaving { below, admin: Admin { path, repository }, branch, commit } = leaving;
    // The first is the folder's own; the names of the others must not be taken for another entry's.
    let name = if number == 0 { entry.to_owned() } else { format!("{entry}.{number}") };
    Ok(Registration {
        repository: repository.clone(),
        admin: path.clone(),
        place: repository.join(ADMINS).join(&name),
        back: PathBuf::new(),
        identity: admin::identity(path).map_err(Problem::io(path))?,
        below: below.clone(),
        pins: format!("{PINS}/{name}"),
        branch: branch.clone(),
        commit: commit.clone(),
    })
}

fn move_in(folder: &Folder, entry: &str) -> Result<(), Problem> {
    if exists(&folder.place) {
        return Ok(());
    }
    let root = folder.place.ancestors().nth(2).expect("a place is in an entry in a root");
    let held = holding::open(root, entry).map_err(Problem::io(root))?;
    crate::teardown::mounts::refuse_mounts(&folder.from)?;
    let found = admin::identity(&folder.from).map_err(Problem::io(&folder.from))?;
    if found != folder.identity {
        let why = "it was replaced while it was judged".to_owned();
        return Err(Problem::Another { path: folder.from.clone(), why });
    }
    rename_folder(folder, &folder.from, &folder.place)?;
    drop(held);
    Ok(())
}

/// Moves what a repository knows of a worktree into its trash.
fn unregister(one: &Registration) -> Result<(), Problem> {
    // The device of a file system may have another number after a restart.
    let is_same = admin::identity(&one.admin).is_ok_and(|found| found.1 == one.identity.1);
    if exists(&one.place) || !is_same {
        // Done before a crash; or somebody has pruned it since, and the pins are all that is left.
        return Ok(());
    }
    let kept = one.repository.join(ADMINS);
    files::make_folder(&kept).map_err(Problem::io(&kept))?;
    rename(&one.admin, &one.place)
}

/// Removes a repository's own trash if nothing is in it any more.
pub(super) fn close_admins(repository: &Path) {
    // Another entry may lie in it, or the repository may be gone.
    let _ = fs::remove_dir(repository.join(ADMINS));
}

/// Tells whether something is at a path, if only a link.
pub(super) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Renames the folder of an entry, even if it is read-only, and keeps its mode.
pub(super) fn rename_folder(folder: &Folder, from: &Path, to: &Path) -> Result<(), Problem> {
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let moved = match rename(from, to) {
        Err(Problem::Io { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied
                && folder.mode & OWNER_MAY != OWNER_MAY =>
        {
            set(from, folder.mode | OWNER_MAY).map_err(Problem::io(from))?;
            rename(from, to)
        }
        other => other,
    };
    let now = if moved.is_ok() { to } else { from };
    if now.symlink_metadata().is_ok_and(|found| found.mode() != folder.mode) {
        set(now, folder.mode).map_err(Problem::io(now))?;
    }
    moved
}

/// Renames a folder within a file system, durably, and never onto something.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Problem> {
    let renamed = match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems can't promise it; the look before is as good as it gets there.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => fs::rename(from, to),
        other => other.map_err(io::Error::from),
    };
    renamed.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Problem::io(to)(source),
        _ => Problem::io(from)(source),
    })?;
    files::sync_parent(from).and_then(|()| files::sync_parent(to)).map_err(Problem::io(to))
}
