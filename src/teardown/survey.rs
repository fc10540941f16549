//! Owns looking at a git worktree that nobody wants to end yet: what would be lost if it were.
//!
//! Must not change anything, nor take a lock in the repository. Invariant: what can't be looked at
//! is not called clean.

use super::{Config, git, inspect, inspect::Found, known, place, problem::Problem};
use crate::replica::record::{GitState, Workspace};

/// What was seen of a worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What would be lost.
    pub state: GitState,
    /// How much is ignored, and where, in a few words; nothing if nothing is.
    pub ignored: Option<String>,
}

/// Looks at a workspace's worktree; `None` for other kinds, where there is no directory, and while
/// it is judged whether any workspace may be ended.
pub fn look(workspace: &Workspace, config: &Config) -> Option<Seen> {
    if workspace.kind != super::KIND_WORKTREE {
        return None;
    }
    let _alone = config.looking.try_write().ok()?;
    known::remember(config, workspace);
    let seen = of(workspace.directory.as_deref()?, config);
    Some(seen.unwrap_or_else(|problem| {
        tracing::debug!(workspace = %workspace.id, %problem, "can't look at the worktree");
        Seen { state: GitState::Unknown, ignored: None }
    }))
}

fn of(directory: &str, config: &Config) -> Result<Seen, Problem> {
    let path = place::judge_directory(directory)?;
    let path = path.canonicalize().map_err(Problem::io(path))?;
    let repository = git::common_dir(&path)?;
    let is_this = |listed: &git::Listed| {
        listed.path == path || listed.path.canonicalize().is_ok_and(|listed| listed == path)
    };
    let Some(listed) = git::worktrees(&repository)?.into_iter().find(is_this) else {
        return Err(Problem::NotWorktree { path, why: String::new() });
    };
    let seen = inspect::survey(&Found { path, repository, listed }, config)?;
    let held = &seen.held;
    let changed = seen.unfinished || held.uncommitted > 0 || held.untracked > 0;
    let state = match (changed, held.unreached > 0) {
        (false, false) if seen.refusal.is_some() => GitState::Uncommitted,
        (false, false) => GitState::Clean,
        (true, false) => GitState::Uncommitted,
        (false, true) => GitState::Unreached,
        (true, true) => GitState::UncommittedAndUnreached,
    };
    Ok(Seen { state, ignored: seen.ignored_in_words() })
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        replica::{effect::TeardownOutcome, record::TeardownAction},
        teardown::{
            self,
            testing::{Repository, due},
        },
    };

    #[test]
    fn a_worktree_is_clean_until_it_holds_what_is_nowhere_else() {
        let repository = Repository::new();
        let workspace = repository.due("w", TeardownAction::Retry).workspace;
        let look = || look(&workspace, &repository.config).map(|seen| seen.state);
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
        let repository = Repository::new();
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str();
        let look = |kind, directory| {
            let workspace = due(kind, directory, TeardownAction::Retry).workspace;
            look(&workspace, &repository.config).map(|seen| seen.state)
        };
        assert_eq!(look("worktree", here), Some(GitState::Unknown));
        assert_eq!(look("directory", here), None);
        assert_eq!(look("worktree", None), None);
    }

    #[test]
    fn nothing_is_looked_at_while_it_is_judged_whether_a_workspace_may_be_ended() {
        let repository = Repository::new();
        let workspace = repository.due("w", TeardownAction::Retry).workspace;
        let judging = repository.config.judging();
        assert_eq!(look(&workspace, &repository.config), None);
        drop(judging);
        let seen = look(&workspace, &repository.config).map(|seen| seen.state);
        assert_eq!(seen, Some(GitState::Clean));
    }

    /// A removal that began while the host's own git looked at the worktree failed for it.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_program_that_looks_at_a_worktree_is_not_taken_for_somebody_who_works_there() {
        let repository = Repository::new();
        let due = repository.due("w", TeardownAction::Retry);
        // As `look` does: alone, with a program in the worktree.
        let alone = repository.config.looking.try_write().unwrap();
        let mut looks = Command::new("cat")
            .current_dir(repository.path("w"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| teardown::end(&due, &[], &repository.config));
            // Time enough for one that does not wait to find the program and fail.
            let until = Instant::now() + Duration::from_millis(500);
            while !ended.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            looks.kill().unwrap();
            looks.wait().unwrap();
            drop(alone);
            let outcome = ended.join().unwrap();
            assert!(matches!(outcome, TeardownOutcome::Done(_)), "{outcome:?}");
        });
        assert!(!repository.path("w").exists());
    }
}
