//! Owns ending a git worktree: what must hold before it is removed, and the removal.
//!
//! Must not know who asked. Invariants: nothing is removed that is not a linked worktree of its
//! repository; without force nothing is removed that holds what is nowhere else; the branch stays;
//! doing it again after a crash at any moment ends the same.

use std::path::{Path, PathBuf};

use super::{
    Config, Occupant, git,
    git::Listed,
    inspect::{self, Found},
    ledger::{Entry, Step},
    mounts, place,
    problem::Problem,
};
use crate::replica::{
    effect::TeardownDue,
    record::{TeardownAction, Workspace},
};

/// Most files that a reason names.
const FILES_NAMED_MAX: usize = 5;
/// Most neighbours of a missing worktree that are asked whether it was theirs.
const NEIGHBOURS_MAX: usize = 64;

/// Removes a worktree with what its repository knows of it, and keeps its branch.
pub fn end(
    due: &TeardownDue,
    directory: &str,
    occupants: &[Occupant],
    config: &Config,
) -> Result<Entry, Problem> {
    let judging = config.judging();
    let forced = due.action == TeardownAction::Force;
    let begun = config
        .ledger
        .begun(&due.workspace.id)
        .map_err(Problem::io(config.ledger.path()))?
        .filter(|begun| begun.directory.as_deref() == Some(directory));
    let Some(path) = place::approve(directory, config)? else {
        return end_missing(due, directory, begun.and_then(|begun| begun.repository), config);
    };
    mounts::refuse_mounts(&path)?;
    let found = find(path, begun.as_ref())?;
    let mut insist = if forced { 2 } else { 0 };
    let unreached = unreached(&found)?;
    if !forced {
        if let Some(why) = &found.listed.locked {
            return Err(locked(&found.path, why));
        }
        if begun.is_none()
            && let Some(refusal) = inspect::inspect(&found, occupants, &[], config)?.refusal
        {
            return Err(refusal);
        }
        refuse_unfinished(&found.path)?;
        let missing = refuse_changed(&found.path, begun.is_some())?;
        if missing {
            // The removal that was begun is gone on with; git counts what it took as changed.
            insist = 1;
        }
        refuse_unreached(&found, unreached)?;
        place::refuse_used(&found.path, occupants)?;
    }
    drop(judging);
    let mut entry = Entry {
        repository: Some(found.repository.clone()),
        branch: found.listed.branch.clone(),
        commit: found.listed.commit.clone(),
        ..Entry::new(due, Step::Begun)
    };
    config.ledger.add(&entry).map_err(Problem::io(config.ledger.path()))?;
    if let Some(remover) = config.remover(&due.workspace) {
        remover.remove(&due.workspace).map_err(Problem::Remover)?;
    }
    remove(&found, insist)?;
    if unreached > 0 {
        keep_branch(&found)?;
    }
    entry.step = Step::Gone;
    Ok(entry)
}

/// Finds the repository of a worktree, and makes sure that it is nothing else.
fn find(path: PathBuf, begun: Option<&Entry>) -> Result<Found, Problem> {
    let not = |why: &str| Problem::NotWorktree { path: path.clone(), why: why.to_owned() };
    let repository = match begun.and_then(|begun| begun.repository.clone()) {
        // Half removed: the link to the repository is the first to be missed.
        Some(repository) if !path.join(".git").exists() => {
            git::repair(&repository)?;
            repository
        }
        _ if path.join(".git").symlink_metadata().is_err() => {
            return Err(not(" (it has no .git)"));
        }
        _ => git::common_dir(&path)?,
    };
    let worktrees = git::worktrees(&repository)?;
    if worktrees.first().is_some_and(|main| is_same(&main.path, &path)) {
        return Err(not(" but the main one of its repository"));
    }
    let (mut same, others): (Vec<_>, Vec<_>) =
        worktrees.into_iter().partition(|listed| is_same(&listed.path, &path));
    let Some(listed) = same.pop() else { return Err(not("")) };
    let holds = |other: &Path| other.canonicalize().is_ok_and(|other| other.starts_with(&path));
    if let Some(inner) = others.iter().find(|other| holds(&other.path)) {
        let what = format!("the worktree {}", inner.path.display());
        return Err(Problem::Protected { path, what });
    }
    if holds(&repository) {
        let what = format!("the repository {}", repository.display());
        return Err(Problem::Protected { path, what });
    }
    Ok(Found { path, repository, listed })
}

fn is_same(listed: &Path, path: &Path) -> bool {
    listed == path || listed.canonicalize().is_ok_and(|listed| listed == path)
}

fn locked(path: &Path, why: &str) -> Problem {
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.escape_debug()) };
    Problem::Locked { path: path.into(), why }
}

/// Refuses a worktree in which a rebase, merge or the like is unfinished.
pub fn refuse_unfinished(path: &Path) -> Result<(), Problem> {
    match git::unfinished(path)? {
        Some(what) => Err(Problem::Unfinished { path: path.into(), what }),
        None => Ok(()),
    }
}

/// Refuses a directory of a worktree with changed or untracked files; where a removal was begun,
/// tells whether files are missing that the commit still has.
pub fn refuse_changed(path: &Path, begun: bool) -> Result<bool, Problem> {
    let (missing, lost): (Vec<_>, Vec<_>) =
        git::changed(path)?.into_iter().partition(|file| begun && file.is_only_missing());
    if lost.is_empty() {
        return Ok(!missing.is_empty());
    }
    let (mut untracked, mut changed) = (0, 0);
    for file in &lost {
        *(if file.code == *b"??" { &mut untracked } else { &mut changed }) += 1;
    }
    let counts =
        [(changed, "changed"), (untracked, "untracked")].map(|(count, what)| match count {
            0 => None,
            1 => Some(format!("1 {what} file")),
            _ => Some(format!("{count} {what} files")),
        });
    let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let names = lost.iter().take(FILES_NAMED_MAX).map(|file| file.path.escape_debug().to_string());
    let mut names = names.collect::<Vec<_>>().join(", ");
    if lost.len() > FILES_NAMED_MAX {
        names.push_str(", …");
    }
    Err(Problem::Uncommitted { path: path.into(), what: format!("{counts} ({names})") })
}

fn unreached(found: &Found) -> Result<u32, Problem> {
    let Listed { commit, branch, .. } = &found.listed;
    match commit {
        Some(commit) => git::unreached(&found.repository, commit, branch.as_deref()),
        None => Ok(0),
    }
}

fn refuse_unreached(found: &Found, count: u32) -> Result<(), Problem> {
    if count == 0 {
        return Ok(());
    }
    let keeps = match &found.listed.branch {
        Some(branch) => format!(", which keeps the branch `{}`", branch.escape_debug()),
        None => " to lose them".to_owned(),
    };
    Err(Problem::Unreached {
        path: found.path.clone(),
        count: commits(count),
        elsewhere: "no other branch and no remote-tracking ref",
        keeps,
    })
}

/// Says how many commits there are, or that there are many.
pub fn commits(count: u32) -> String {
    match count {
        1 => "1 commit".to_owned(),
        git::COMMITS_COUNTED_MAX.. => format!("{count} or more commits"),
        _ => format!("{count} commits"),
    }
}

/// Removes what is left of a worktree and makes sure that nothing is.
fn remove(found: &Found, insist: usize) -> Result<(), Problem> {
    // Whoever else removes it may have left the one or the other.
    if is_listed(found)? {
        git::remove(&found.repository, &found.path, insist)?;
    }
    let git = |why: &str| Problem::Git {
        verb: "worktree remove".to_owned(),
        at: found.repository.clone(),
        why: format!("{} {why}", found.path.display()),
    };
    if is_listed(found)? {
        return Err(git("is still listed"));
    }
    if found.path.symlink_metadata().is_ok() {
        return Err(git("still exists"));
    }
    Ok(())
}

fn is_listed(found: &Found) -> Result<bool, Problem> {
    Ok(git::worktrees(&found.repository)?.iter().any(|listed| listed.path == found.listed.path))
}

/// Brings back the branch that another remover has deleted with commits that are nowhere else.
fn keep_branch(found: &Found) -> Result<(), Problem> {
    let Listed { commit: Some(commit), branch: Some(branch), .. } = &found.listed else {
        return Ok(());
    };
    if git::branch_commit(&found.repository, branch)?.is_none() {
        git::make_branch(&found.repository, branch, commit)?;
    }
    Ok(())
}

/// Has a repository forget a worktree whose directory is gone, as far as it can be found.
fn end_missing(
    due: &TeardownDue,
    directory: &str,
    repository: Option<PathBuf>,
    config: &Config,
) -> Result<Entry, Problem> {
    let path = Path::new(directory);
    let mut entry = Entry::new(due, Step::Gone);
    let found = match repository {
        Some(repository) => listed_in(&repository, path),
        None => neighbours(path).into_iter().find_map(|neighbour| listed_in(&neighbour, path)),
    };
    let forced = due.action == TeardownAction::Force;
    if let Some(found) = &found {
        if !forced {
            if let Some(why) = &found.listed.locked {
                return Err(locked(path, why));
            }
            if found.listed.branch.is_none() {
                refuse_unreached(found, unreached(found)?)?;
            }
        }
        entry.repository = Some(found.repository.clone());
        entry.branch.clone_from(&found.listed.branch);
        entry.commit.clone_from(&found.listed.commit);
    }
    if let Some(remover) = config.remover(&due.workspace) {
        remover.remove(&due.workspace).map_err(Problem::Remover)?;
    }
    if let Some(found) = found {
        remove(&found, if forced { 2 } else { 0 })?;
    }
    Ok(entry)
}

/// Returns a missing worktree as a repository lists it; what can't be asked does not know it.
fn listed_in(repository: &Path, path: &Path) -> Option<Found> {
    let worktrees = git::worktrees(repository).ok()?;
    let real = real_of_missing(path);
    let known = |listed: &Listed| listed.path == path || Some(&listed.path) == real.as_ref();
    let listed = worktrees.into_iter().skip(1).find(known)?;
    let repository = git::common_dir(repository).ok()?;
    Some(Found { path: listed.path.clone(), repository, listed })
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

/// Tells whether a workspace is one that this module ends.
pub fn is_worktree(workspace: &Workspace) -> bool {
    workspace.kind == super::KIND_WORKTREE
}

#[cfg(test)]
mod tests;
