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

/// Ends it and returns what is said to have been done.
fn said(repository: &Repository, name: &str, action: TeardownAction) -> Result<String, String> {
    match teardown::end(&repository.due(name, action), &[], &repository.config) {
        TeardownOutcome::Gone => Ok(String::new()),
        TeardownOutcome::Done(done) => Ok(done),
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
    assert_eq!(steps, [Step::Begun, Step::Pinned, Step::Moved, Step::Unregistered, Step::Gone]);
    let commit = repository.git("repo", &["rev-parse", "feature"]);
    assert_eq!(entries[4].commit.as_deref(), Some(commit.trim()));
    assert_eq!(entries[4].branch.as_deref(), Some("feature"));
    let done = entries[4].done.clone().unwrap();
    let w = repository.path("w");
    for part in [
        format!("moved the worktree {} of", w.display()),
        "to the trash (".to_owned(),
        "kept until 20".to_owned(),
        format!("branch feature stays, at {}", commit.trim()),
    ] {
        assert!(done.contains(&part), "{part} is not in {done}");
    }
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
fn a_worktree_that_holds_another_needs_force_and_takes_it_along() {
    let repository = Repository::new();
    repository.git("repo", &["worktree", "add", "-q", "-b", "inner", "../w/ignored"]);
    only_force_ends(&repository, "w", "w/ignored");
    assert!(!repository.lists("w/ignored"), "it would be pruned");
}

#[test]
fn a_worktree_that_holds_a_repository_of_worktrees_elsewhere_stays_even_with_force() {
    let repository = Repository::new();
    repository.git("repo", &["worktree", "add", "-q", "-b", "other", "../x"]);
    repository.git("repo", &["worktree", "move", "../w", "../outer"]);
    std::fs::rename(repository.path("repo"), repository.path("outer/ignored")).unwrap();
    repository.git("outer/ignored", &["worktree", "repair", "../../outer", "../../x"]);
    let refused = end(&repository, "outer", TeardownAction::Force).unwrap_err();
    assert!(refused.contains("holds, the repository"), "{refused}");
    assert!(repository.path("outer/ignored/file").exists());

    let repository = Repository::new();
    repository.git("w", &["init", "-q", "ignored/own"]);
    repository.commit("w/ignored/own");
    repository.git("w/ignored/own", &["worktree", "add", "-q", "../../../far"]);
    let refused = end(&repository, "w", TeardownAction::Force).unwrap_err();
    assert!(refused.contains("the repository of the worktree"), "{refused}");
    assert!(repository.path("w/ignored/own/.git").exists());
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
fn what_a_repository_knows_of_a_missing_worktree_goes_to_the_trash_too() {
    let repository = Repository::new();
    std::fs::remove_dir_all(repository.path("w")).unwrap();
    assert!(repository.lists("w"));
    let done = said(&repository, "w", TeardownAction::Retry).unwrap();
    assert!(done.contains("was not there; moved what its repository"), "{done}");
    assert!(!repository.lists("w") && repository.has_branch("feature"));
    let entry = repository.config.trash.get("wrk_1").unwrap();
    assert!(Path::new(&entry.place.unwrap()).join("HEAD").exists());
}

#[test]
fn a_missing_worktree_is_ended_only_where_its_repository_can_be_asked() {
    let repository = Repository::new();
    let refused = end(&repository, "nowhere/at/all", TeardownAction::Retry).unwrap_err();
    assert!(refused.contains("is not there") && refused.contains("force"), "{refused}");
    repository.write("a-file", "");
    let refused = end(&repository, "a-file/below", TeardownAction::Retry).unwrap_err();
    assert!(refused.contains("is not there"), "a parent that became a file: {refused}");
    let done = said(&repository, "nowhere/at/all", TeardownAction::Force).unwrap();
    assert!(done.contains("moved nothing and forgot it"), "{done}");

    // Its repository is far away, and remembered; then it can't be read any more.
    for is_there in [true, false] {
        let repository = Repository::new();
        std::fs::create_dir_all(repository.path("far/away")).unwrap();
        repository.git("repo", &["worktree", "move", "../w", "../far/away/w"]);
        let due = repository.due("far/away/w", TeardownAction::Retry);
        teardown::known::remember(&repository.config, &due.workspace);
        std::fs::remove_dir_all(repository.path("far/away/w")).unwrap();
        if !is_there {
            std::fs::rename(repository.path("repo"), repository.path("moved")).unwrap();
        }
        let ended = said(&repository, "far/away/w", TeardownAction::Retry);
        if is_there {
            assert!(ended.unwrap().contains("moved what its repository"));
            assert!(!repository.lists("far/away/w"));
        } else {
            let refused = ended.unwrap_err();
            assert!(refused.contains("can't be read"), "{refused}");
        }
    }
}

#[test]
fn a_missing_worktree_that_its_repository_no_longer_knows_is_not_called_moved() {
    let repository = Repository::new();
    let due = repository.due("w", TeardownAction::Retry);
    teardown::known::remember(&repository.config, &due.workspace);
    repository.git("repo", &["worktree", "remove", "../w"]);
    let done = said(&repository, "w", TeardownAction::Retry).unwrap();
    assert!(done.contains("moved nothing") && done.contains("knows no worktree"), "{done}");
    assert_eq!(repository.config.trash.list(), []);
}

#[test]
fn what_is_staged_or_unfinished_in_a_missing_worktree_needs_force() {
    for (make, why) in [
        (
            (|r: &Repository| {
                r.write("w/new", "staged");
                r.git("w", &["add", "new"]);
            }) as fn(&Repository),
            "(new)",
        ),
        (
            |r| {
                r.git("w", &["merge", "-q", "--no-commit", "-s", "ours", "main"]);
            },
            "in the middle of a merge",
        ),
    ] {
        let repository = Repository::new();
        repository.commit("repo");
        make(&repository);
        // As with `mv`: the folder is elsewhere, and git knows it where it was.
        std::fs::rename(repository.path("w"), repository.path("elsewhere")).unwrap();
        let refused = end(&repository, "w", TeardownAction::Retry).unwrap_err();
        assert!(refused.contains(why) && refused.contains("force"), "{refused}");
        assert!(repository.lists("w"));
        assert_eq!(end(&repository, "w", TeardownAction::Force), Ok(()));
        assert!(!repository.lists("w"));
    }
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
fn another_worktree_at_the_place_of_a_workspace_is_left_and_force_forgets_the_workspace() {
    let repository = Repository::new();
    let due = repository.due("w", TeardownAction::Retry);
    teardown::known::remember(&repository.config, &due.workspace);
    repository.git("repo", &["worktree", "remove", "../w"]);
    repository.git("repo", &["clone", "-q", ".", "../second"]);
    repository.git("second", &["worktree", "add", "-q", "-b", "mine", "../w"]);
    let refused = end(&repository, "w", TeardownAction::Retry).unwrap_err();
    assert!(refused.contains("is not the worktree") && refused.contains("second"), "{refused}");
    let done = said(&repository, "w", TeardownAction::Force).unwrap();
    assert!(done.contains("moved nothing") && done.contains("another worktree"), "{done}");
    assert!(repository.path("w/.git").exists());
}

/// What a version without a trash had begun to remove when it was killed.
fn begun_without_trash(repository: &Repository) {
    let due = repository.due("w", TeardownAction::Retry);
    let git_dir = Some(repository.path("repo/.git"));
    let begun = Entry { repository: git_dir, ..Entry::new(&due, Step::Begun) };
    repository.config.ledger.add(&begun).unwrap();
}

#[test]
fn what_such_a_removal_left_goes_to_the_trash_whether_or_not_it_is_still_registered() {
    for is_registered in [true, false] {
        let repository = Repository::new();
        begun_without_trash(&repository);
        std::fs::remove_file(repository.path("w/.git")).unwrap();
        repository.write("w/ignored", "left");
        if !is_registered {
            std::fs::remove_dir_all(repository.path("repo/.git/worktrees/w")).unwrap();
        }
        let done = said(&repository, "w", TeardownAction::Retry).unwrap();
        assert!(done.contains("to the trash"), "{done}");
        assert!(!repository.path("w").exists() && !repository.lists("w"));
        let place = repository.config.trash.get("wrk_1").unwrap().place.unwrap();
        assert_eq!(std::fs::read(Path::new(&place).join("ignored")).unwrap(), b"left");
    }
}

#[test]
fn that_a_removal_was_begun_is_no_reason_to_take_what_is_missing_for_ended() {
    let repository = Repository::new();
    begun_without_trash(&repository);
    std::fs::remove_file(repository.path("w/file")).unwrap();
    only_force_ends(&repository, "w", "1 changed file (file)");
}

/// Does as opencode does: forgets the worktree, and deletes its branch.
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
        let directory = Path::new(workspace.directory.as_deref().unwrap());
        assert!(!directory.exists(), "the folder is in the trash before the agent is asked");
        let mut git = std::process::Command::new("git");
        git.arg("-C").arg(&self.repository).args(["branch", "-D", "feature"]);
        assert!(git.output().unwrap().status.success(), "the branch is free");
        if self.refuses { Err("the agent is not there".to_owned()) } else { Ok(()) }
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
fn a_remover_that_claims_a_worktree_is_asked_only_once_it_lies_in_the_trash() {
    let (repository, agent) = with_agent(false);
    repository.write("w/new", "new");
    end(&repository, "w", TeardownAction::Retry).unwrap_err();
    assert_eq!(*agent.asked.lock().unwrap(), 0);
    std::fs::remove_file(repository.path("w/new")).unwrap();
    assert_eq!(end(&repository, "w", TeardownAction::Retry), Ok(()));
    assert_eq!(*agent.asked.lock().unwrap(), 1);
    assert!(!repository.lists("w"));
    let steps = repository.config.ledger.entries().unwrap();
    assert!(steps.iter().any(|entry| entry.step == Step::Forgotten));
}

#[test]
fn a_remover_that_does_not_forget_fails_the_attempt_and_is_asked_again() {
    let (repository, agent) = with_agent(true);
    repository.write("w/new", "kept");
    for times in 1..=2 {
        let refused = end(&repository, "w", TeardownAction::Force).unwrap_err();
        assert!(refused.contains("the agent is not there"), "{refused}");
        let place = repository.config.trash.list()[0].place.clone().unwrap();
        assert!(refused.contains(&place), "it says where the files are: {refused}");
        assert!(refused.contains("start the agent's server and retry"), "{refused}");
        assert_eq!(*agent.asked.lock().unwrap(), times);
        assert!(repository.has_branch("feature"), "it is put back all the same");
        assert_eq!(repository.config.trash.list().len(), 1);
    }
    // An agent that never forgets keeps nobody's disk full.
    let trash = &repository.config.trash;
    trash.maintain(trash.list()[0].expires_at);
    assert_eq!(trash.list(), []);
}

#[test]
fn a_remover_is_not_asked_while_something_new_stands_at_the_place() {
    let (repository, agent) = with_agent(true);
    end(&repository, "w", TeardownAction::Force).unwrap_err();
    assert_eq!(*agent.asked.lock().unwrap(), 1);
    std::fs::create_dir(repository.path("w")).unwrap();
    let refused = end(&repository, "w", TeardownAction::Retry).unwrap_err();
    assert!(refused.contains("was made there since") && refused.contains("force"), "{refused}");
    assert_eq!(end(&repository, "w", TeardownAction::Force), Ok(()));
    assert_eq!(*agent.asked.lock().unwrap(), 1);
    assert!(repository.path("w").exists());
    assert_eq!(repository.config.trash.list().len(), 1);
}

#[test]
fn a_branch_that_a_remover_deleted_is_brought_back_even_where_others_reach_its_commits() {
    for is_unreached in [true, false] {
        let (repository, _agent) = with_agent(false);
        if is_unreached {
            repository.commit("w");
        }
        let commit = repository.git("w", &["rev-parse", "HEAD"]);
        let done = said(&repository, "w", TeardownAction::Force).unwrap();
        assert_eq!(repository.git("repo", &["rev-parse", "feature"]), commit);
        assert!(done.contains("had deleted branch feature, which was put back"), "{done}");
    }
}

#[test]
fn a_worktree_of_which_git_can_not_read_the_index_or_the_head_goes_by_force_and_comes_back() {
    type Break = fn(&Path);
    let breaks: [(&str, Break); 3] = [
        ("index", |admin| std::fs::write(admin.join("index"), "no index").unwrap()),
        ("HEAD", |admin| std::fs::write(admin.join("HEAD"), "").unwrap()),
        ("no HEAD", |admin| std::fs::remove_file(admin.join("HEAD")).unwrap()),
    ];
    for (name, make) in breaks {
        let repository = Repository::new();
        repository.write("w/staged", "only in the index");
        repository.git("w", &["add", "staged"]);
        let blob = repository.git("w", &["rev-parse", ":staged"]);
        std::fs::remove_file(repository.path("w/staged")).unwrap();
        repository.write("w/new", "new");
        make(&repository.path("repo/.git/worktrees/w"));
        end(&repository, "w", TeardownAction::Retry).unwrap_err();
        assert!(repository.path("w/new").exists(), "{name}");
        let done = said(&repository, "w", TeardownAction::Force).unwrap();
        assert!(done.contains("not all of it could be read"), "{name}: {done}");
        assert!(!repository.path("w").exists(), "{name}");
        assert!(repository.config.trash.get("wrk_1").unwrap().held.is_none(), "{name}: not known");
        if name != "index" {
            // What was staged is kept all the same.
            repository.git("repo", &["gc", "-q", "--prune=now"]);
            repository.git("repo", &["cat-file", "-e", blob.trim()]);
        }
        repository.config.trash.restore("wrk_1", None).unwrap();
        assert_eq!(std::fs::read(repository.path("w/new")).unwrap(), b"new", "{name}");
    }
}

/// Deletes the branch the first time that it is asked, with a git that dies and leaves its lock.
#[derive(Debug)]
struct Dying {
    lock: PathBuf,
    agent: Agent,
}

impl Remover for Dying {
    fn claims(&self, workspace: &Workspace) -> bool {
        self.agent.claims(workspace)
    }

    fn remove(&self, workspace: &Workspace) -> Result<(), String> {
        if *self.agent.asked.lock().unwrap() == 0 {
            self.agent.remove(workspace)?;
            std::fs::write(&self.lock, "").unwrap();
        }
        Ok(())
    }
}

#[test]
fn a_branch_that_can_not_be_put_back_for_a_lock_fails_the_attempt_and_is_put_back_at_the_next() {
    for is_forced in [false, true] {
        let mut repository = Repository::new();
        let agent = Agent { repository: repository.path("repo"), ..Agent::default() };
        let lock = repository.path("repo/.git/refs/heads/feature.lock");
        repository.config.removers.push(Arc::new(Dying { lock: lock.clone(), agent }));
        let commit = repository.git("w", &["rev-parse", "HEAD"]);
        let refused = end(&repository, "w", TeardownAction::Retry).unwrap_err();
        assert!(refused.contains("feature.lock"), "the lock is named: {refused}");
        assert!(refused.contains("retry"), "{refused}");
        assert_eq!(repository.config.trash.list().len(), 1);
        if is_forced {
            let done = said(&repository, "w", TeardownAction::Force).unwrap();
            assert!(done.contains("can't be put back"), "a person does without it: {done}");
            continue;
        }
        std::fs::remove_file(&lock).unwrap();
        let done = said(&repository, "w", TeardownAction::Retry).unwrap();
        assert!(done.contains("was put back"), "{done}");
        assert_eq!(repository.git("repo", &["rev-parse", "feature"]), commit);
    }
}

#[test]
fn worktrees_that_reach_each_others_commits_and_end_at_once_leave_every_commit_reached() {
    let repository = Repository::new();
    repository.commit("w");
    repository.git("w", &["worktree", "add", "-q", "-b", "second", "../x"]);
    repository.commit("x");
    repository.git("x", &["checkout", "-q", "--detach"]);
    repository.git("repo", &["branch", "-f", "second", "main"]);
    let commits = ["w", "x"].map(|name| repository.git(name, &["rev-parse", "HEAD"]));
    let ended = std::thread::scope(|scope| {
        let end = |name: &'static str, id: &'static str| {
            let mut due = repository.due(name, TeardownAction::Retry);
            due.workspace.id = id.parse().unwrap();
            let config = &repository.config;
            scope.spawn(move || teardown::end(&due, &[], config))
        };
        [end("w", "wrk_1"), end("x", "wrk_2")].map(|thread| thread.join().unwrap())
    });
    // The detached head alone reached its own commit, so it stays; the branch keeps the other's.
    assert!(matches!(ended[1], TeardownOutcome::Failed(_)), "{ended:?}");
    let branches = repository.git("repo", &["rev-list", "--branches"]);
    assert_eq!(repository.git("x", &["rev-parse", "HEAD"]), commits[1]);
    assert!(branches.contains(commits[0].trim()));
}
