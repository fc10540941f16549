//! Owns ending a worktree whose folder is missing: what its repository still knows of it.
//!
//! Must not guess. Invariant: nothing is called ended that was not found, and what only the
//! repository still knows goes to the trash as a folder would.

use std::path::{Path, PathBuf};

use super::take;
use crate::{
    replica::{effect::TeardownDue, record::TeardownAction, trash::Held},
    teardown::{
        Config,
        admin::{self, Admin},
        conclude, git,
        inspect::Found,
        known::Known,
        ledger::Entry,
        problem::Problem,
        trash::{Leaving, Request},
    },
};

/// Most neighbours of a missing worktree that are asked whether it was theirs.
const NEIGHBOURS_MAX: usize = 64;

/// Moves what a repository knows of a missing worktree to the trash, as far as it can be found.
pub fn end(due: &TeardownDue, directory: &str, config: &Config) -> Result<Entry, Problem> {
    let path = Path::new(directory);
    let forced = due.action == TeardownAction::Force;
    let known = config.known.get(&due.workspace.id, directory);
    let (admin, repository) = match find(path, known.as_ref(), due, config) {
        Ok(found) => found,
        // Of an agent's own workspace it is the agent that has removed the folder.
        Err(why) if forced || config.remover(&due.workspace).is_some() => {
            return conclude::forget(due, &format!(" was not there, and {why}"), config);
        }
        Err(why) => return Err(Problem::Missing { path: path.into(), why }),
    };
    let Some(admin) = admin else {
        let why = format!(" was not there, and {} knows no worktree there", repository.display());
        return conclude::forget(due, &why, config);
    };
    let _alone = config.locks.lock([admin.repository.as_path()].into_iter());
    let (branch, commit) = config.trash.head(&admin);
    let held = judge(path, &admin, config, forced)?;
    let leaving = vec![Leaving { below: PathBuf::new(), admin, branch, commit }];
    let request = Request { due, folder: None, leaving, bytes: 0, held, avoid: &[] };
    conclude::conclude(due, take(&request, config)?, config)
}

/// Judges what a repository still keeps of a worktree without its files.
fn judge(
    path: &Path,
    admin: &Admin,
    config: &Config,
    forced: bool,
) -> Result<Option<Held>, Problem> {
    let repository = admin.repository.clone();
    let mut listed = git::worktrees(&repository)?.into_iter();
    let Some(listed) = listed.find(|listed| listed.git_dir == admin.path) else {
        let why = "its repository no longer knows it".to_owned();
        return Err(Problem::Missing { path: path.into(), why });
    };
    super::judge(&Found { path: path.to_owned(), repository, listed }, &[], config, forced)
}

/// Returns what is left of a worktree in its repository, and that repository.
///
/// # Errors
///
/// The repository is not known, or can't be read.
fn find(
    path: &Path,
    known: Option<&Known>,
    due: &TeardownDue,
    config: &Config,
) -> Result<(Option<Admin>, PathBuf), String> {
    let begun = config.ledger.half_removed(&due.workspace.id).ok().flatten();
    let begun = begun.filter(|begun| begun.directory.as_deref() == path.to_str());
    let repository = known
        .map(|known| PathBuf::from(&known.repository))
        .or_else(|| begun.and_then(|begun| begun.repository));
    match repository {
        Some(repository) => {
            let all = admin::all(&repository).map_err(|error| {
                format!("its repository {} can't be read ({error})", repository.display())
            })?;
            let found = all.into_iter().find(|admin| {
                let is_known = known.is_none_or(|known| Path::new(&known.admin) == admin.path);
                is_known && names(admin, path)
            });
            Ok((found, repository))
        }
        None => {
            let found = neighbours(path).into_iter().find_map(|neighbour| {
                let all = admin::all(&git::common_dir(&neighbour).ok()?).ok()?;
                all.into_iter().find(|admin| names(admin, path))
            });
            let found = found.ok_or("its repository is not known")?;
            let repository = found.repository.clone();
            Ok((Some(found), repository))
        }
    }
}

/// Tells whether an administrative folder says that its worktree is at a path.
fn names(admin: &Admin, path: &Path) -> bool {
    let named = admin::worktree_of(&admin.path);
    named.is_some_and(|named| named == path || Some(named) == real_of_missing(path))
}

/// Returns where a missing directory would really be.
fn real_of_missing(path: &Path) -> Option<PathBuf> {
    path.ancestors().skip(1).find_map(|ancestor| {
        let rest = path.strip_prefix(ancestor).ok()?;
        Some(ancestor.canonicalize().ok()?.join(rest))
    })
}

/// Returns the repositories around a missing worktree: those that it lay in or beside.
fn neighbours(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
    if let Some(Ok(beside)) = path.ancestors().skip(1).map(std::fs::read_dir).find(Result::is_ok) {
        found.extend(beside.flatten().map(|entry| entry.path()));
    }
    found.retain(|path| path.join(".git").exists());
    found.truncate(NEIGHBOURS_MAX);
    found
}
