//! Owns looking at a git worktree that nobody wants to end yet: what would be lost if it were.
//!
//! Must not change anything, nor take a lock in the repository. Invariant: what can't be looked at
//! is not called clean.

use super::{git, place, problem::Problem};
use crate::replica::record::{GitState, Workspace};

/// Looks at a workspace's worktree; `None` for other kinds, and where there is no directory.
pub fn look(workspace: &Workspace) -> Option<GitState> {
    if workspace.kind != super::KIND_WORKTREE {
        return None;
    }
    let seen = of(workspace.directory.as_deref()?);
    Some(seen.unwrap_or_else(|problem| {
        tracing::debug!(workspace = %workspace.id, %problem, "can't look at the worktree");
        GitState::Unknown
    }))
}

fn of(directory: &str) -> Result<GitState, Problem> {
    let path = place::judge_directory(directory)?;
    let path = path.canonicalize().map_err(Problem::io(path))?;
    let changed = !git::changed(&path)?.is_empty() || git::unfinished(&path)?.is_some();
    let listed = git::worktrees(&path)?;
    let this = listed.into_iter().find(|listed| {
        listed.path == path || listed.path.canonicalize().is_ok_and(|listed| listed == path)
    });
    let unreached = match this {
        Some(git::Listed { commit: Some(commit), branch, .. }) => {
            git::unreached(&path, &commit, branch.as_deref())? > 0
        }
        _ => false,
    };
    Ok(match (changed, unreached) {
        (false, false) => GitState::Clean,
        (true, false) => GitState::Uncommitted,
        (false, true) => GitState::Unreached,
        (true, true) => GitState::UncommittedAndUnreached,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        replica::record::TeardownAction,
        teardown::testing::{Repository, due},
    };

    #[test]
    fn a_worktree_is_clean_until_it_holds_what_is_nowhere_else() {
        let repository = Repository::new();
        let look = || look(&repository.due("w", TeardownAction::Retry).workspace);
        assert_eq!(look(), Some(GitState::Clean));
        repository.write("w/ignored", "x");
        assert_eq!(look(), Some(GitState::Clean));
        repository.write("w/new", "x");
        assert_eq!(look(), Some(GitState::Uncommitted));
        repository.commit("w");
        assert_eq!(look(), Some(GitState::UncommittedAndUnreached), "the new file is untracked");
        std::fs::remove_file(repository.path("w/new")).unwrap();
        assert_eq!(look(), Some(GitState::Unreached));
        repository.git("repo", &["branch", "kept", "feature"]);
        assert_eq!(look(), Some(GitState::Clean));
    }

    #[test]
    fn what_can_not_be_looked_at_is_unknown_and_other_kinds_have_no_state() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str();
        assert_eq!(
            look(&due("worktree", here, TeardownAction::Retry).workspace),
            Some(GitState::Unknown)
        );
        assert_eq!(look(&due("directory", here, TeardownAction::Retry).workspace), None);
        assert_eq!(look(&due("worktree", None, TeardownAction::Retry).workspace), None);
    }
}
