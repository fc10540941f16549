//! Owns ending a git worktree: what must hold before it is moved to the trash, and what follows.
//!
//! Must not know who asked. Invariants: nothing is moved that is not a linked worktree of its
//! repository; without force nothing is moved that holds what is nowhere else; the branch stays;
//! doing it again after a crash at any moment ends the same.

mod missing;

use std::path::{Path, PathBuf};

use super::{
    Config, Occupant, admin, conclude, git,
    inspect::{self, Found},
    ledger::{Entry, Step},
    mounts, place,
    problem::Problem,
    trash::{Leaving, Request, Stage, Unreadable, scan},
};
use crate::replica::{
    effect::TeardownDue,
    record::{TeardownAction, Workspace},
    trash::Held,
};

/// Moves a worktree with what its repository knows of it to the trash, and keeps its branch.
pub fn end(
    due: &TeardownDue,
    directory: &str,
    occupants: &[Occupant],
    config: &Config,
) -> Result<Entry, Problem> {
    let id = &due.workspace.id;
    if let Some(manifest) = config.trash.unfinished(id.as_str(), due.incarnation) {
        return conclude::conclude(due, manifest, config);
    }
    let judging = config.judging();
    let forced = due.action == TeardownAction::Force;
    let Some(path) = place::approve(directory, config)? else {
        return missing::end(due, directory, config);
    };
    mounts::refuse_mounts(&path)?;
    if let Some(why) = another(due, directory, &path, config) {
        return if forced {
            conclude::forget(due, &format!("; it is another worktree now ({why})"), config)
        } else {
            Err(Problem::Another { path, why })
        };
    }
    if let Some(begun) = half_removed(due, directory, &path, config)? {
        return end_half(due, &path, begun, occupants, config);
    }
    let found = match find(path.clone()) {
        Err(problem) => by_links(path, forced).unwrap_or(Err(problem))?,
        found => found?,
    };
    let admin = admin::of_worktree(&found.path).ok_or_else(|| not_worktree(&found.path, ""))?;
    let inside = scan(&found.path, Some(&admin.path));
    if let Some(outside) = inside.dependents.first() {
        let what = format!("the repository of the worktree {}", outside.display());
        return Err(Problem::Protected { path: found.path, what });
    }
    let repositories = inside.worktrees.iter().map(|(_, admin)| admin.repository.as_path());
    let _alone = config.locks.lock(repositories.chain([admin.repository.as_path()]));
    let held = judge(&found, occupants, config, forced)?;
    let mut leaving = vec![Leaving {
        below: PathBuf::new(),
        admin,
        branch: found.listed.branch.clone(),
        commit: found.listed.commit.clone(),
    }];
    for (below, admin) in inside.worktrees {
        let (branch, commit) = config.trash.head(&admin);
        leaving.push(Leaving { below, admin, branch, commit });
    }
    let avoid = config.avoid(&due.workspace, &found.path, occupants);
    let request = Request {
        due,
        folder: Some(&found.path),
        leaving,
        bytes: inside.bytes,
        held,
        avoid: &avoid,
    };
    let moved = take(&request, config)?;
    drop(judging);
    conclude::conclude(due, moved, config)
}

/// Moves what was judged to the trash, and notes each step.
fn take(request: &Request<'_>, config: &Config) -> Result<super::trash::Manifest, Problem> {
    let due = request.due;
    config.look_again(due)?;
    let mut manifest = config.trash.announce(request)?;
    let own = request.leaving.first();
    let note = |step| {
        let entry = Entry {
            repository: own.map(|own| own.admin.repository.clone()),
            branch: own.and_then(|own| own.branch.clone()),
            commit: own.and_then(|own| own.commit.clone()),
            entry: Some(super::trash::entry_name(due.workspace.id.as_str(), due.incarnation)),
            ..Entry::new(due, step)
        };
        config.ledger.add(&entry).map_err(Problem::io(config.ledger.path()))
    };
    let noted = |stage| match stage {
        Stage::Begun => note(Step::Begun),
        Stage::Pinned => note(Step::Pinned),
        Stage::Moved => note(Step::Moved),
        _ => note(Step::Unregistered),
    };
    // A rename loses nothing, whatever git can read of it.
    let unreadable = match due.action {
        TeardownAction::Force => Unreadable::PassedOver,
        TeardownAction::Retry => Unreadable::Refused,
    };
    config.trash.take(&mut manifest, unreadable, &noted)?;
    Ok(manifest)
}

/// Says why what is at a workspace's place is not its worktree, if it was another when it was first
/// seen.
fn another(due: &TeardownDue, directory: &str, path: &Path, config: &Config) -> Option<String> {
    let known = config.known.get(&due.workspace.id, directory)?;
    let now = admin::of_worktree(path)?;
    known.differs(&now, admin::branch(&now.path).as_deref())
}

/// Judges whether a worktree may be ended, and returns what it holds where that is known.
fn judge(
    found: &Found,
    occupants: &[Occupant],
    config: &Config,
    forced: bool,
) -> Result<Option<Held>, Problem> {
    // Branches stay, also of those that are ended at the same time, so each may reach for another.
    match inspect::inspect(found, occupants, config) {
        Ok(inspection) => match inspection.refusal {
            Some(refusal) if !forced => Err(refusal),
            // Something stood in the way that no number tells, such as an unfinished merge. It must
            // not be taken for nothing, or it would be deleted early.
            Some(_) if inspection.held.is_replaceable() => Ok(None),
            _ => Ok(Some(inspection.held)),
        },
        Err(problem) if forced => {
            tracing::warn!(path = %found.path.display(), %problem, "it is not known what it holds");
            Ok(None)
        }
        Err(problem) => Err(problem),
    }
}

/// Returns what a version without a trash began to remove at a place, if its link to the repository
/// is gone: whatever is left there is no worktree any more.
fn half_removed(
    due: &TeardownDue,
    directory: &str,
    path: &Path,
    config: &Config,
) -> Result<Option<Entry>, Problem> {
    if admin::of_worktree(path).is_some() || path.join(".git").is_dir() {
        return Ok(None);
    }
    let begun = config.ledger.half_removed(&due.workspace.id);
    let begun = begun.map_err(Problem::io(config.ledger.path()))?;
    Ok(begun.filter(|begun| begun.directory.as_deref() == Some(directory)))
}

/// Moves what such a removal has left; it was judged before it began.
fn end_half(
    due: &TeardownDue,
    path: &Path,
    begun: Entry,
    occupants: &[Occupant],
    config: &Config,
) -> Result<Entry, Problem> {
    if due.action != TeardownAction::Force {
        place::refuse_used(path, occupants)?;
    }
    let admin = begun.repository.as_deref().and_then(|repository| {
        let mut all = admin::all(repository).ok()?.into_iter();
        all.find(|admin| admin::worktree_of(&admin.path).is_some_and(|named| named == path))
    });
    let inside = scan(path, admin.as_ref().map(|admin| admin.path.as_path()));
    let repositories = admin.iter().map(|admin| admin.repository.as_path());
    let _alone = config.locks.lock(repositories);
    let leaving = admin.into_iter().map(|admin| {
        let (branch, commit) = config.trash.head(&admin);
        Leaving { below: PathBuf::new(), admin, branch, commit }
    });
    let avoid = config.avoid(&due.workspace, path, occupants);
    let (bytes, leaving) = (inside.bytes, leaving.collect());
    let request = Request { due, folder: Some(path), leaving, bytes, held: None, avoid: &avoid };
    conclude::conclude(due, take(&request, config)?, config)
}

fn not_worktree(path: &Path, why: &str) -> Problem {
    Problem::NotWorktree { path: path.to_owned(), why: why.to_owned() }
}

/// Finds the repository of a worktree, and makes sure that it is nothing else.
fn find(path: PathBuf) -> Result<Found, Problem> {
    if path.join(".git").symlink_metadata().is_err() {
        return Err(not_worktree(&path, " (it has no .git)"));
    }
    let repository = git::common_dir(&path)?;
    let worktrees = git::worktrees(&repository)?;
    if worktrees.first().is_some_and(|main| is_same(&main.path, &path)) {
        return Err(not_worktree(&path, " but the main one of its repository"));
    }
    let mut same = worktrees.into_iter().filter(|listed| is_same(&listed.path, &path));
    let Some(listed) = same.next() else { return Err(not_worktree(&path, "")) };
    if repository.canonicalize().is_ok_and(|repository| repository.starts_with(&path)) {
        let what = format!("the repository {}", repository.display());
        return Err(Problem::Protected { path, what });
    }
    Ok(Found { path, repository, listed })
}

/// Takes a worktree for one by its links alone, where it is forced: git may not be able to read it.
fn by_links(path: PathBuf, forced: bool) -> Option<Result<Found, Problem>> {
    let admin = admin::of_worktree(&path).filter(|_| forced)?;
    if admin.repository.starts_with(&path) {
        let what = format!("the repository {}", admin.repository.display());
        return Some(Err(Problem::Protected { path, what }));
    }
    let listed = git::Listed { path: path.clone(), git_dir: admin.path, ..Default::default() };
    Some(Ok(Found { path, repository: admin.repository, listed }))
}

fn is_same(listed: &Path, path: &Path) -> bool {
    listed == path || listed.canonicalize().is_ok_and(|listed| listed == path)
}

/// Tells whether a workspace is one that this module ends.
pub fn is_worktree(workspace: &Workspace) -> bool {
    workspace.kind == super::KIND_WORKTREE
}

#[cfg(test)]
mod tests;
