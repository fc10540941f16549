//! Owns putting a folder back: its files, what its repositories knew of it, and its branch.
//!
//! Must not know who asks. Invariants: nothing that exists is overwritten; the pins go last, once all
//! is on the disk; what a crash cuts off is finished once the files have moved, and undone before.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Restored, Trash, TrashError, holding,
    manifest::{Manifest, Registration, Stage},
    mounted, moving, pin,
    plumbing::Git,
    relink,
    restore::io_error,
};
use crate::teardown::{admin, problem::Problem};

/// Most names that are tried for an administrative folder.
const NAMES_MAX: u32 = 10_000;

impl Trash {
    /// Puts a workspace's folder back to where it was, or to another place.
    pub(super) fn put_back(
        &self,
        mut manifest: Manifest,
        to: Option<&Path>,
    ) -> Result<Restored, TrashError> {
        let before = if manifest.forgotten { Stage::Kept } else { Stage::Unregistered };
        let is_begun = match &manifest.folder {
            Some(folder) => manifest.stage == Stage::Restoring && !moving::exists(&folder.place),
            None => false,
        };
        if !is_begun {
            let target = judge_target(&manifest, to)?;
            if let Some(folder) = &mut manifest.folder {
                folder.to = target;
            }
        }
        manifest.stage = Stage::Restoring;
        self.write(&manifest)?;
        self.step()?;
        if !is_begun && let Some(folder) = &manifest.folder {
            if to.is_none()
                && let Some(parent) = folder.to.parent()
            {
                fs::create_dir_all(parent).map_err(io_error(parent))?;
            }
            if let Err(problem) = moving::rename_folder(folder, &folder.place, &folder.to) {
                let error = refusal(problem, &folder.to);
                manifest.stage = before;
                self.write(&manifest)?;
                return Err(error);
            }
        }
        self.step()?;
        let notes = self.register(&mut manifest)?;
        self.step()?;
        for one in &manifest.registrations {
            // Where nothing else names its commits any more, the pins go on doing so.
            if !moving::exists(&one.back) {
                continue;
            }
            if let Err(problem) = pin::unpin(&one.repository, &one.pins) {
                tracing::warn!(entry = manifest.entry, %problem, "pins stay");
            }
            moving::close_admins(&one.repository);
        }
        if let Some(root) = manifest.folder.as_ref().and_then(|one| one.place.ancestors().nth(2))
            && root != self.store.path()
            && let Err(error) = holding::close(root, &manifest.entry)
        {
            tracing::warn!(path = %root.display(), %error, "an empty folder stays");
        }
        let restored_as = match (&manifest.folder, manifest.own()) {
            (Some(folder), _) => folder.to.to_string_lossy().into_owned(),
            (None, Some(own)) => own.back.to_string_lossy().into_owned(),
            (None, None) => String::new(),
        };
        manifest.stage = Stage::Restored;
        manifest.restored_as = Some(restored_as.clone());
        manifest.problem = (!notes.is_empty()).then(|| notes.join("; "));
        self.write(&manifest)?;
        Ok(self.restored(&manifest, restored_as, notes))
    }

    /// Finishes or undoes what a crash has cut off on its way out.
    pub(super) fn settle_restoring(&self, mut manifest: Manifest) {
        let is_undone =
            manifest.folder.as_ref().is_some_and(|folder| moving::exists(&folder.place));
        let entry = manifest.entry.clone();
        let settled = if is_undone {
            manifest.stage = if manifest.forgotten { Stage::Kept } else { Stage::Unregistered };
            self.write(&manifest)
        } else {
            self.put_back(manifest, None).map(drop)
        };
        match settled {
            Ok(()) => tracing::info!(entry, finished = !is_undone, "a restore is settled"),
            Err(error) => tracing::error!(entry, %error, "a restore is not finished"),
        }
    }

    /// Gives repositories back what they knew of the worktrees, and mends the links.
    fn register(&self, manifest: &mut Manifest) -> Result<Vec<String>, TrashError> {
        let mut notes = Vec::new();
        let mut returned = Vec::new();
        for at in 0..manifest.registrations.len() {
            let one = &manifest.registrations[at];
            if admin::all(&one.repository).is_err() {
                notes.push(format!(
                    "its repository {} is not there, so what git knew of it could not be put back",
                    one.repository.display()
                ));
                continue;
            }
            if moving::exists(&one.place) {
                let back = free_name(&one.admin)?;
                manifest.registrations[at].back = back;
                self.write(manifest)?;
                self.step()?;
                let one = &manifest.registrations[at];
                let folder = one.back.parent().unwrap_or(Path::new("/"));
                fs::create_dir_all(folder).map_err(io_error(folder))?;
                moving::rename(&one.place, &one.back).map_err(|p| refusal(p, &one.back))?;
                self.step()?;
            }
            let one = &manifest.registrations[at];
            if one.back == Path::new("") || !moving::exists(&one.back) {
                let repository = one.repository.display();
                notes.push(format!(
                    "what {repository} knew of it was deleted meanwhile; its commits and staged files stay \
                     below refs/{}: delete these refs once you need them no more",
                    one.pins
                ));
                continue;
            }
            returned.push(one.clone());
        }
        let mut moves: Vec<relink::Move> =
            returned.iter().map(|one| (one.admin.clone(), one.back.clone())).collect();
        let mut folders: Vec<&Path> = returned.iter().map(|one| one.back.as_path()).collect();
        if let Some(folder) = &manifest.folder {
            moves.push((folder.from.clone(), folder.to.clone()));
            folders.push(&folder.to);
        }
        if moves.iter().any(|(old, new)| old != new) {
            relink::relink(&folders, &moves)
                .map_err(io_error(folders.last().unwrap_or(&self.path())))?;
        }
        self.step()?;
        for one in &returned {
            notes.extend(attach(one));
        }
        if manifest.folder.is_none() && !returned.is_empty() {
            notes.push(
                "only what git knew of it was put back: its folder was not there when it \
                        was ended; run `git worktree repair PATH` once it is"
                    .to_owned(),
            );
        }
        Ok(notes)
    }

    /// Ends the restore here if a test says so, as a crash would.
    fn step(&self) -> Result<(), TrashError> {
        let path = self.store.path();
        self.checkpoint().map_err(|problem| {
            io_error(path)(io::Error::new(io::ErrorKind::Interrupted, problem.to_string()))
        })
    }
}

/// Returns where a folder is to go, if it can.
fn judge_target(manifest: &Manifest, to: Option<&Path>) -> Result<PathBuf, TrashError> {
    let place = |path: &Path, why: &str| {
        Err(TrashError::Place { path: path.to_owned(), why: why.to_owned() })
    };
    let Some(folder) = &manifest.folder else {
        return match to {
            Some(to) => place(to, "can't be filled: the entry holds no folder; leave --to out"),
            None => Ok(PathBuf::new()),
        };
    };
    if !moving::exists(&folder.place) {
        return place(&folder.place, "is not there; mount its file system and try again");
    }
    let target = match to {
        Some(to) if !to.is_absolute() => {
            return place(to, "is not an absolute path; name one that begins with /");
        }
        Some(to) => admin::lexical(to),
        None => folder.from.clone(),
    };
    if moving::exists(&target) {
        return Err(TrashError::InTheWay(target));
    }
    let mut parent = target.parent().unwrap_or(Path::new("/"));
    if to.is_some() && !parent.is_dir() {
        return place(parent, "is not there, or no folder; make it and try again");
    }
    while !moving::exists(parent) {
        parent = parent.parent().unwrap_or(Path::new("/"));
    }
    if !parent.is_dir() {
        return Err(TrashError::InTheWay(parent.to_owned()));
    }
    let root = folder.place.parent().unwrap_or(Path::new("/"));
    if !mounted::is_same(root, parent) {
        let on = format!(
            "is on another file system than the trash, and nothing is copied; name a place on that \
             of {} with --to",
            root.display()
        );
        return place(&target, &on);
    }
    Ok(target)
}

/// Tells a person why a folder could not be moved.
fn refusal(problem: Problem, to: &Path) -> TrashError {
    match problem {
        Problem::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
            TrashError::InTheWay(to.to_owned())
        }
        Problem::Io { path, source } => TrashError::Io { path, source },
        other => {
            TrashError::Place { path: to.to_owned(), why: format!("can't be filled: {other}") }
        }
    }
}

/// Returns a free name for an administrative folder: its own, or one like it, as git would take.
fn free_name(admin: &Path) -> Result<PathBuf, TrashError> {
    if !moving::exists(admin) {
        return Ok(admin.to_owned());
    }
    let name = admin.file_name().unwrap_or_default();
    let names = (1..NAMES_MAX).map(|number| {
        let mut name = name.to_owned();
        name.push(number.to_string());
        admin.with_file_name(name)
    });
    let free = names.into_iter().find(|path| !moving::exists(path));
    free.ok_or_else(|| TrashError::InTheWay(admin.to_owned()))
}

/// Makes sure that a worktree that was put back is on its branch, or says why it is on none.
fn attach(one: &Registration) -> Option<String> {
    let (own, shared) = (Git::new(&one.back), Git::new(&one.repository));
    let (branch, commit) = (one.branch.as_deref()?, one.commit.as_deref()?);
    let name = format!("refs/heads/{branch}");
    let now = shared.line(&["rev-parse", "--verify", "--quiet", &name], Vec::new()).ok();
    let detached = match now {
        Some(now) if now == commit => {
            let other = checked_out(one, branch)?;
            format!("branch {branch} is checked out in {}", other.display())
        }
        Some(now) => format!("branch {branch} is at {now} by now"),
        None => {
            let only_new = "0".repeat(commit.len());
            match shared.run(&["update-ref", &name, commit, &only_new], Vec::new()) {
                Ok(_) => {
                    return Some(format!("branch {branch} was gone, and is again at {commit}"));
                }
                Err(_) => format!("branch {branch} is gone and can't be made"),
            }
        }
    };
    let arguments = ["update-ref", "--no-deref", "-m", "restored from the trash", "HEAD", commit];
    Some(match own.run(&arguments, Vec::new()) {
        Ok(_) => format!("{detached}, so HEAD is detached at {commit}"),
        Err(problem) => format!("{detached}, and HEAD can't be detached: {problem}"),
    })
}

/// Returns another worktree in which a branch is checked out.
fn checked_out(one: &Registration, branch: &str) -> Option<PathBuf> {
    let is_on = |dir: &Path| {
        let name = Git::new(dir).line(&["symbolic-ref", "--quiet", "HEAD"], Vec::new());
        name.is_ok_and(|name| name.strip_prefix("refs/heads/") == Some(branch))
    };
    let bare = ["config", "--type=bool", "--get", "core.bare"];
    let is_bare =
        Git::new(&one.repository).line(&bare, Vec::new()).is_ok_and(|said| said == "true");
    if !is_bare && is_on(&one.repository) {
        return Some(one.repository.clone());
    }
    let others = admin::all(&one.repository).unwrap_or_default().into_iter();
    let mut others = others.filter(|other| other.path != one.back && is_on(&other.path));
    others.find_map(|other| admin::worktree_of(&other.path))
}
