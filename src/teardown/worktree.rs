//! Owns ending a git worktree: what must hold before it is removed, and the removal.
//!
//! Must not know who asked. Invariants: nothing is removed that is not a linked worktree of its
//! repository; without force nothing is removed that holds what is nowhere else; the branch stays;
//! doing it again after a crash at any moment ends the same.

use std::path::{Path, PathBuf};

use super::{
    Config, Occupant, git,
    git::Listed,
    ledger::{Entry, Step},
    place,
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

/// A worktree that was found.
struct Found {
    path: PathBuf,
    repository: PathBuf,
    listed: Listed,
}

/// Removes a worktree with what its repository knows of it, and keeps its branch.
pub fn end(
    due: &TeardownDue,
    directory: &str,
    occupants: &[Occupant],
    config: &Config,
) -> Result<Entry, Problem> {
    let forced = due.action == TeardownAction::Force;
    let begun = config
        .ledger
        .begun(&due.workspace.id)
        .map_err(Problem::io(config.ledger.path()))?
        .filter(|begun| begun.directory.as_deref() == Some(directory));
    let Some(path) = place::approve(directory, config)? else {
        return end_missing(due, directory, begun.and_then(|begun| begun.repository), config);
    };
    let found = find(path, begun.as_ref())?;
    let mut insist = if forced { 2 } else { 0 };
    let unreached = unreached(&found)?;
    if !forced {
        if let Some(why) = &found.listed.locked {
            return Err(locked(&found.path, why));
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
mod tests {
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
            TeardownOutcome::Gone => Ok(()),
            TeardownOutcome::Failed(reason) => Err(reason),
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
            for arguments in [
                &["worktree", "remove", "--force", directory] as &[_],
                &["branch", "-D", "feature"],
            ] {
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
}
