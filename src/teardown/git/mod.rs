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

#[cfg(test)]
mod tests;
