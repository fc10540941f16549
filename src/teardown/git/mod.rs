//! Owns asking git, and reading what it answers and what it keeps on the disk.
//!
//! Must not decide anything. Invariant: git is run with arguments, never through a shell, and
//! neither the daemon's environment nor a repository's configuration or attributes make it run
//! another program or ask a person. What looks at files, or follows history, therefore goes through
//! a private git folder.

mod commits;
mod private;
mod repository;
mod run;
mod status;

use std::path::{Path, PathBuf};

pub use commits::{COMMITS_COUNTED_MAX, anchored, unpushed, unreached};
pub use private::Private;
use repository::path_of;
pub use repository::{Listed, Repository, is_missing};
pub use run::version;
pub use status::{Changed, staged, status};

use super::problem::Problem;

/// Returns the folder that a repository's worktrees share.
///
/// Git itself is asked, so that it refuses a repository of another user, and says how to allow it.
pub fn common_dir(at: &Path) -> Result<PathBuf, Problem> {
    // `--path-format` is as old as git 2.31: the answer may be relative.
    let mut output = run::ask_at(at, &["rev-parse", "--git-common-dir"])?;
    output.truncate(output.strip_suffix(b"\n").unwrap_or(&output).len());
    let path = at.join(path_of(output));
    path.canonicalize().map_err(Problem::io(&path))
}

/// Returns the worktrees of the repository that `at` is part of, the main one first.
pub fn worktrees(at: &Path) -> Result<Vec<Listed>, Problem> {
    match Repository::at(at)? {
        Some(repository) => repository.worktrees(),
        None => {
            Err(run::failed(at, &["worktree", "list"], "it is not a git repository".to_owned()))
        }
    }
}

/// Returns the commit that a branch points at.
pub fn branch_commit(at: &Path, branch: &str) -> Result<Option<String>, Problem> {
    let name = format!("refs/heads/{branch}");
    let arguments = ["for-each-ref", "--format=%(objectname) %(refname)", "--", &name];
    let output = run::ask_repository(at, &arguments)?;
    let text = String::from_utf8_lossy(&output);
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.find(|(_, found)| *found == name).map(|(commit, _)| commit.to_owned()))
}

/// Makes a branch that is not there.
pub fn make_branch(at: &Path, branch: &str, commit: &str) -> Result<(), Problem> {
    run::ask_repository(at, &["branch", "--no-track", "--", branch, commit]).map(drop)
}

/// Removes a worktree and what the repository knows of it, branches excepted; `insist` is how
/// strongly: 1 despite changed files, 2 despite a lock, too.
pub fn remove(repository: &Path, path: &Path, insist: usize) -> Result<(), Problem> {
    let path = path.to_str().ok_or_else(|| Problem::Name {
        what: "directory",
        value: path.to_string_lossy().into_owned(),
        why: "is not UTF-8",
    })?;
    let forces = vec!["--force"; insist];
    let arguments = [&["worktree", "remove"], forces.as_slice(), &["--", path]].concat();
    run::remove_in_repository(repository, &arguments).map(drop)
}

/// Makes the links between a repository and its worktrees whole again.
pub fn repair(repository: &Path) -> Result<(), Problem> {
    run::ask_at(repository, &["worktree", "repair"]).map(drop)
}

#[cfg(test)]
mod tests;
