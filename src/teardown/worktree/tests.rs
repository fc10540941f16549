//! Owns the tests of ending worktrees, against real repositories.
//!
//! Must not know more than the room's users do. Invariant: each shows both what goes and what stays.

use std::sync::{Arc, Mutex};

use super::*;
use crate::{
    replica::effect::TeardownOutcome,
    teardown::{self, Remover, testing::Repository},
};

fn end(repository: &Repository, name: &str, action: TeardownAction) -> Result<(), String> {
    end_with(repository, name, action, &[])
}

fn end_with(
    repository: &Repository,
    name: &str,
    action: TeardownAction,
    occupants: &[Occupant],
) -> Result<(), String> {
    match teardown::end(&repository.due(name, action), occupants, &repository.config) {
        TeardownOutcome::Gone | TeardownOutcome::Done(_) => Ok(()),
        TeardownOutcome::Failed(reason) => Err(reason),
        TeardownOutcome::PutOff => unreachable!("nobody is asked"),
    }
}

/// Without force it stays, for the reason given; with force it goes.
fn only_force_ends(repository: &Repository, name: &str, reason: &str) {
    let refused = end(repository, name, TeardownAction::Retry).unwrap_err();
    assert!(refused.contains(reason) && refused.contains("force"), "{refused}");
    assert!(repository.path(name).exists() && repository.lists(name));
    assert_eq!(end(repository, name, TeardownAction::Force), Ok(()));
    assert!(!repository.path(name).exists() && !repository.lists(name));
}

#[test]
fn a_clean_worktree_goes_with_its_metadata_and_its_branch_stays() {
    let repository = Repository::new();
    repository.write("w/ignored", "what git ignores is nobody's loss");
    assert_eq!(end(&repository, "w", TeardownAction::Retry), Ok(()));
    assert!(!repository.path("w").exists() && !repository.lists("w"));
    assert!(repository.has_branch("feature"));
    let entries = repository.config.ledger.entries().unwrap();
    let steps: Vec<_> = entries.iter().map(|entry| entry.step).collect();
    assert_eq!(steps, [Step::Begun, Step::Gone]);
    let commit = repository.git("repo", &["rev-parse", "feature"]);
    assert_eq!(entries[1].commit.as_deref(), Some(commit.trim()));
    assert_eq!(entries[1].branch.as_deref(), Some("feature"));
    assert_eq!(end(&repository, "w", TeardownAction::Retry), Ok(()), "again is the same");
}

#[test]
fn a_changed_a_staged_an_untracked_and_a_deleted_file_each_need_force() {
    for (name, make) in [
        ("changed", (|r| r.write("w/file", "second")) as fn(&Repository)),
        ("staged", |r| {
            r.write("w/new", "new");
            r.git("w", &["add", "new"]);
        }),
        ("untracked", |r| r.write("w/-odd\nname", "new")),
        ("deleted", |r| std::fs::remove_file(r.path("w/file")).unwrap()),
    ] {
        let repository = Repository::new();
        make(&repository);
        only_force_ends(&repository, "w", "are in no commit");
        assert!(repository.has_branch("feature"), "{name}");
    }
}

#[test]
fn configuration_that_hides_untracked_files_does_not_hide_them_here() {
    let repository = Repository::new();
    repository.git("repo", &["config", "status.showUntrackedFiles", "no"]);
    repository.write("w/new", "new");
    only_force_ends(&repository, "w", "1 untracked file (new)");
}

#[test]
fn commits_that_only_its_own_branch_reaches_need_force_and_the_branch_keeps_them() {
    let repository = Repository::new();
    repository.commit("w");
    let commit = repository.git("w", &["rev-parse", "HEAD"]);
    only_force_ends(&repository, "w", "1 commit that no other branch");
    assert_eq!(repository.git("repo", &["rev-parse", "feature"]), commit);
}

#[test]
fn commits_of_a_detached_head_need_force() {
    let repository = Repository::new();
    repository.git("w", &["checkout", "-q", "--detach"]);
    repository.commit("w");
    only_force_ends(&repository, "w", "1 commit that no other branch");
}

#[test]
fn commits_that_a_remote_or_another_branch_has_are_no_loss() {
    let repository = Repository::new();
    repository.commit("w");
    let commit = repository.git("w", &["rev-parse", "HEAD"]);
    repository.git("repo", &["update-ref", "refs/remotes/origin/feature", commit.trim()]);
    assert_eq!(end(&repository, "w", TeardownAction::Retry), Ok(()));

    let repository = Repository::new();
    repository.commit("w");
    repository.git("repo", &["merge", "-q", "feature"]);
    assert_eq!(end(&repository, "w", TeardownAction::Retry), Ok(()));
}

#[test]
fn an_unfinished_bisection_needs_force() {
    let repository = Repository::new();
    repository.git("w", &["bisect", "start"]);
    only_force_ends(&repository, "w", "in the middle of a bisection");
}

#[test]
fn a_locked_worktree_needs_force_and_its_lock_is_told() {
    let repository = Repository::new();
    repository.git("repo", &["worktree", "lock", "--reason", "mine", "../w"]);
    only_force_ends(&repository, "w", "locked in git (mine)");
}

#[test]
fn a_worktree_in_which_another_session_is_needs_force() {
    let repository = Repository::new();
    let directory = repository.path("w").to_str().unwrap().to_owned();
    let occupants = [Occupant { what: "session ses_1".to_owned(), directory }];
    let refused = end_with(&repository, "w", TeardownAction::Retry, &occupants).unwrap_err();
    assert!(refused.contains("in use by session ses_1"), "{refused}");
    assert_eq!(end_with(&repository, "w", TeardownAction::Force, &occupants), Ok(()));
}

#[test]
fn what_is_no_linked_worktree_stays_even_with_force() {
    let repository = Repository::new();
    repository.git("repo", &["clone", "-q", ".", "../clone"]);
    std::fs::create_dir(repository.path("w/sub")).unwrap();
    std::fs::create_dir(repository.path("repo/sub")).unwrap();
    std::fs::create_dir(repository.path("plain")).unwrap();
    repository.write("a-file", "");
    // It says to be a worktree of a repository that does not know it.
    std::fs::create_dir(repository.path("forged")).unwrap();
    let link = std::fs::read_to_string(repository.path("w/.git")).unwrap();
    repository.write("forged/.git", &link);
    for (name, why) in [
        ("repo", "main one"),
        ("clone", "main one"),
        ("w/sub", "no .git"),
        ("repo/sub", "no .git"),
        ("plain", "no .git"),
        ("forged", "not a linked git worktree"),
        ("a-file", "a file"),
    ] {
        let refused = end(&repository, name, TeardownAction::Force).unwrap_err();
        assert!(refused.contains(why), "{name}: {refused}");
        assert!(repository.path(name).exists(), "{name}");
    }
}

#[test]
fn a_worktree_that_holds_another_stays_even_with_force() {
    let repository = Repository::new();
    repository.git("repo", &["worktree", "add", "-q", "-b", "inner", "../w/ignored"]);
    let refused = end(&repository, "w", TeardownAction::Force).unwrap_err();
    assert!(refused.contains("holds, the worktree"), "{refused}");
    assert!(repository.path("w/ignored/file").exists());

    let repository = Repository::new();
    repository.git("repo", &["worktree", "move", "../w", "../outer"]);
    std::fs::rename(repository.path("repo"), repository.path("outer/ignored")).unwrap();
    repository.git("outer/ignored", &["worktree", "repair", "../../outer"]);
    let refused = end(&repository, "outer", TeardownAction::Force).unwrap_err();
    assert!(refused.contains("holds, the worktree"), "{refused}");
    assert!(repository.path("outer/ignored/file").exists());
}

#[test]
fn what_lies_outside_the_allowed_roots_stays_even_with_force() {
    let mut repository = Repository::new();
    repository.config.roots = vec![repository.path("home")];
    let refused = end(&repository, "w", TeardownAction::Force).unwrap_err();
    assert!(refused.contains("--teardown-root"), "{refused}");
    assert!(repository.path("w/file").exists() && repository.lists("w"));
    repository.config.roots.push(repository.path("."));
    assert_eq!(end(&repository, "w", TeardownAction::Retry), Ok(()));
}

#[test]
fn the_metadata_of_a_worktree_whose_directory_is_gone_goes_too() {
    let repository = Repository::new();
    std::fs::remove_dir_all(repository.path("w")).unwrap();
    assert!(repository.lists("w"));
    assert_eq!(end(&repository, "w", TeardownAction::Retry), Ok(()));
    assert!(!repository.lists("w") && repository.has_branch("feature"));
    assert_eq!(end(&repository, "nowhere/at/all", TeardownAction::Retry), Ok(()));
}

#[test]
fn commits_of_a_detached_worktree_whose_directory_is_gone_need_force() {
    let repository = Repository::new();
    repository.git("w", &["checkout", "-q", "--detach"]);
    repository.commit("w");
    std::fs::remove_dir_all(repository.path("w")).unwrap();
    let refused = end(&repository, "w", TeardownAction::Retry).unwrap_err();
    assert!(refused.contains("1 commit") && repository.lists("w"), "{refused}");
    assert_eq!(end(&repository, "w", TeardownAction::Force), Ok(()));
    assert!(!repository.lists("w"));
}

#[test]
fn a_removal_that_a_crash_cut_off_is_gone_on_with_wherever_it_was() {
    for missing in [&["w/file"] as &[_], &["w/.git", "w/file"]] {
        let repository = Repository::new();
        let due = repository.due("w", TeardownAction::Retry);
        let git_dir = Some(repository.path("repo/.git"));
        let begun = Entry { repository: git_dir, ..Entry::new(&due, Step::Begun) };
        repository.config.ledger.add(&begun).unwrap();
        for name in missing {
            std::fs::remove_file(repository.path(name)).unwrap();
        }
        assert_eq!(end(&repository, "w", TeardownAction::Retry), Ok(()), "{missing:?}");
        assert!(!repository.path("w").exists() && !repository.lists("w"));
    }
}

#[test]
fn a_removal_that_was_cut_off_takes_nothing_that_was_made_since() {
    let repository = Repository::new();
    let due = repository.due("w", TeardownAction::Retry);
    let git_dir = Some(repository.path("repo/.git"));
    let begun = Entry { repository: git_dir, ..Entry::new(&due, Step::Begun) };
    repository.config.ledger.add(&begun).unwrap();
    std::fs::remove_file(repository.path("w/file")).unwrap();
    repository.write("w/new", "new");
    let refused = end(&repository, "w", TeardownAction::Retry).unwrap_err();
    assert!(refused.contains("1 untracked file (new)"), "{refused}");
    assert!(repository.path("w/new").exists());
}

/// Does as opencode does: removes the worktree, and its branch with it.
#[derive(Debug, Default)]
struct Agent {
    repository: PathBuf,
    refuses: bool,
    asked: Mutex<u32>,
}

impl Remover for Agent {
    fn claims(&self, workspace: &Workspace) -> bool {
        workspace.name == "w"
    }

    fn remove(&self, workspace: &Workspace) -> Result<(), String> {
        *self.asked.lock().unwrap() += 1;
        if self.refuses {
            return Err("the agent is not there".to_owned());
        }
        let directory = workspace.directory.as_deref().unwrap();
        for arguments in
            [&["worktree", "remove", "--force", directory] as &[_], &["branch", "-D", "feature"]]
        {
            let mut git = std::process::Command::new("git");
            git.arg("-C").arg(&self.repository).args(arguments);
            assert!(git.output().unwrap().status.success());
        }
        Ok(())
    }
}

fn with_agent(refuses: bool) -> (Repository, Arc<Agent>) {
    let mut repository = Repository::new();
    let agent = Agent { repository: repository.path("repo"), refuses, ..Agent::default() };
    let agent = Arc::new(agent);
    repository.config.removers.push(agent.clone());
    (repository, agent)
}

#[test]
fn a_remover_that_claims_a_worktree_is_asked_only_once_nothing_would_be_lost() {
    let (repository, agent) = with_agent(false);
    repository.write("w/new", "new");
    end(&repository, "w", TeardownAction::Retry).unwrap_err();
    assert_eq!(*agent.asked.lock().unwrap(), 0);
    std::fs::remove_file(repository.path("w/new")).unwrap();
    assert_eq!(end(&repository, "w", TeardownAction::Retry), Ok(()));
    assert_eq!(*agent.asked.lock().unwrap(), 1);
    assert!(!repository.lists("w") && !repository.has_branch("feature"));
}

#[test]
fn a_remover_that_does_not_remove_fails_the_attempt() {
    let (repository, _agent) = with_agent(true);
    let refused = end(&repository, "w", TeardownAction::Force).unwrap_err();
    assert!(refused.contains("the agent is not there"), "{refused}");
    assert!(repository.path("w/file").exists() && repository.lists("w"));
}

#[test]
fn a_branch_that_a_remover_deleted_with_commits_that_are_nowhere_else_is_brought_back() {
    let (repository, _agent) = with_agent(false);
    repository.commit("w");
    let commit = repository.git("w", &["rev-parse", "HEAD"]);
    assert_eq!(end(&repository, "w", TeardownAction::Force), Ok(()));
    assert_eq!(repository.git("repo", &["rev-parse", "feature"]), commit);
}
