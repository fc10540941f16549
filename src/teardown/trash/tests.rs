//! Owns the tests of the trash against real repositories: what is moved comes back.
//!
//! Must not know more than the room's users do. Invariant: before each restore the repository is
//! pruned, so that only what is pinned is there.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

mod formats;
mod keeping;
mod unreachable;

use super::*;
use crate::{
    replica::{effect::TeardownOutcome, record::TeardownAction, trash::TrashState},
    teardown::{self, testing::Repository},
};

/// Everything that can be seen of a worktree.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    files: BTreeMap<PathBuf, Vec<u8>>,
    git: Vec<String>,
}

fn see(repository: &Repository, name: &str) -> Seen {
    let top = repository.path(name);
    let mut files = BTreeMap::new();
    let mut waiting = vec![top.clone()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            let below = path.strip_prefix(&top).unwrap().to_owned();
            let kind = entry.file_type().unwrap();
            // Links differ with the place, and git writes the index when it looks.
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() && below.file_name().unwrap() != ".git" {
                files.insert(below, fs::read(path).unwrap());
            }
        }
    }
    files.retain(|path, _| !path.ends_with("index"));
    let ask = |arguments: &[&str]| repository.git(name, arguments);
    let git = vec![
        ask(&["ls-files", "--stage"]),
        ask(&["status", "--porcelain", "--ignored"]),
        ask(&["rev-parse", "--symbolic-full-name", "HEAD"]),
        ask(&["rev-parse", "HEAD"]),
        ask(&["reflog", "--format=%H %gs", "HEAD"]),
        ask(&["for-each-ref", "refs/worktree"]),
    ];
    Seen { files, git }
}

/// Fills the worktree `w` with everything that only its folders hold. Returns ids that must be there
/// after it is back.
fn fill(repository: &Repository) -> Vec<String> {
    let git = |at: &str, arguments: &[&str]| repository.git(at, arguments).trim().to_owned();
    let mut ids = Vec::new();
    // A commit that only the log of HEAD names, and one that only a ref of the worktree does.
    repository.commit("w");
    ids.push(git("w", &["rev-parse", "HEAD"]));
    git("w", &["reset", "-q", "--hard", "HEAD~1"]);
    ids.push(git("w", &["commit-tree", "-m", "checkpoint", "HEAD^{tree}"]));
    git("w", &["update-ref", "refs/worktree/checkpoint", ids.last().unwrap()]);
    // A blob that was staged and then changed, and one that was never committed at all.
    repository.write("w/staged", "staged");
    git("w", &["add", "staged"]);
    ids.push(git("w", &["rev-parse", ":staged"]));
    repository.write("w/staged", "changed since");
    repository.write("w/file", "not staged");
    repository.write("w/untracked", "untracked");
    // A submodule with a commit of its own that is nowhere else.
    git("repo", &["clone", "-q", ".", "../library"]);
    let allow = ["-c", "protocol.file.allow=always", "submodule", "add", "-q", "../library", "lib"];
    git("w", &allow);
    repository.commit("w/lib");
    ids.push(git("w/lib", &["rev-parse", "HEAD"]));
    // A repository in an ignored folder, and one in the middle of a merge.
    git("w", &["init", "-q", "ignored/own"]);
    repository.write("w/ignored/own/only", "here");
    git("w/ignored/own", &["add", "."]);
    repository.commit("w/ignored/own");
    git("repo", &["branch", "other", "HEAD"]);
    ids
}

fn end(repository: &Repository, name: &str) -> String {
    match teardown::end(&repository.due(name, TeardownAction::Force), &[], &repository.config) {
        TeardownOutcome::Done(done) => done,
        other => panic!("{other:?}"),
    }
}

fn prune(repository: &Repository) {
    repository.git("repo", &["reflog", "expire", "--expire=now", "--all"]);
    repository.git("repo", &["gc", "-q", "--prune=now"]);
    repository.git("repo", &["worktree", "prune"]);
}

fn there(repository: &Repository, at: &str, id: &str) {
    assert_eq!(repository.git(at, &["cat-file", "-e", id]), "", "{id} is not there");
}

#[test]
fn everything_that_a_worktree_held_comes_back_after_the_repository_was_pruned() {
    let repository = Repository::new();
    let ids = fill(&repository);
    let before = see(&repository, "w");
    let done = end(&repository, "w");
    assert!(done.contains("branch feature stays"), "{done}");
    assert!(!repository.path("w").exists() && !repository.lists("w"));
    prune(&repository);
    let trash = &repository.config.trash;
    let entry = trash.get("wrk_1").unwrap();
    assert_eq!((entry.state, entry.branch.as_deref()), (TrashState::Kept, Some("feature")));
    assert_eq!(entry.reason.as_deref(), Some("forced"));
    assert!(entry.bytes > 0 && Path::new(entry.place.as_deref().unwrap()).join("file").exists());
    let restored = trash.restore("wrk_1", None).unwrap();
    assert_eq!(restored.notes, Vec::<String>::new());
    assert_eq!(see(&repository, "w"), before);
    assert!(repository.lists("w"));
    for (id, at) in ids.iter().zip(["w", "w", "w", "w/lib"]) {
        there(&repository, at, id);
    }
    repository.git("w/lib", &["status"]);
    assert_eq!(trash.get("wrk_1").unwrap().state, TrashState::Restored);
    assert_eq!(repository.git("repo", &["for-each-ref", "refs/sessionmesh"]), "");
    assert!(!repository.path("repo/.git/sessionmesh-trash").exists());
    let again = trash.restore("wrk_1", None).unwrap();
    assert_eq!(again.restored_as, restored.restored_as);
    repository.git("repo", &["fsck", "--strict"]);
}

#[test]
fn unfinished_work_a_detached_head_and_an_unborn_one_come_back_as_they_were() {
    let merge = |r: &Repository| {
        r.write("w/file", "ours");
        r.commit("w");
        r.write("repo/file", "theirs");
        r.commit("repo");
        let merge = ["-c", "merge.conflictStyle=merge", "merge", "main"];
        let mut git = std::process::Command::new("git");
        git.arg("-C").arg(r.path("w")).args(["-c", "user.name=x", "-c", "user.email=x@x"]);
        assert!(!git.args(merge).output().unwrap().status.success());
    };
    let detached = |r: &Repository| {
        r.git("w", &["checkout", "-q", "--detach"]);
        r.commit("w");
        r.git("w", &["bisect", "start"]);
    };
    for make in [&merge as &dyn Fn(&Repository), &detached] {
        let repository = Repository::new();
        make(&repository);
        let before = see(&repository, "w");
        let heads = |r: &Repository| {
            let admin = r.path("repo/.git/worktrees/w");
            ["MERGE_HEAD", "BISECT_START", "HEAD"].map(|name| fs::read(admin.join(name)).ok())
        };
        let heads_before = heads(&repository);
        end(&repository, "w");
        repository.git("repo", &["reset", "-q", "--hard", "HEAD~0"]);
        prune(&repository);
        repository.config.trash.restore("wrk_1", None).unwrap();
        assert_eq!((see(&repository, "w"), heads(&repository)), (before, heads_before));
    }
    let repository = Repository::new();
    repository.git("w", &["checkout", "-q", "--orphan", "new"]);
    repository.write("w/only", "staged");
    repository.git("w", &["add", "only"]);
    let blob = repository.git("w", &["rev-parse", ":only"]);
    let done = end(&repository, "w");
    assert!(!done.contains("stays"), "there is no such branch yet: {done}");
    prune(&repository);
    repository.config.trash.restore("wrk_1", None).unwrap();
    there(&repository, "w", blob.trim());
    assert_eq!(repository.git("w", &["symbolic-ref", "HEAD"]).trim(), "refs/heads/new");
}

#[test]
fn it_comes_back_to_another_place_with_its_submodules_and_the_worktrees_in_it() {
    let repository = Repository::new();
    let ids = fill(&repository);
    repository.git("repo", &["worktree", "add", "-q", "-b", "inner", "../w/ignored/inner"]);
    repository.write("w/ignored/inner/new", "staged in the inner one");
    repository.git("w/ignored/inner", &["add", "new"]);
    let inner = see(&repository, "w/ignored/inner");
    end(&repository, "w");
    assert!(!repository.lists("w/ignored/inner"));
    prune(&repository);
    // Its name is taken by then.
    repository.git("repo", &["worktree", "add", "-q", "-b", "third", "../far/w"]);
    let trash = &repository.config.trash;
    let to = repository.path("a/b/deeper");
    let refused = trash.restore("wrk_1", Some(&to)).unwrap_err().to_string();
    assert!(refused.contains("is not there") && refused.contains("a/b"), "{refused}");
    fs::create_dir_all(repository.path("a/b")).unwrap();
    let restored = trash.restore("wrk_1", Some(&to)).unwrap();
    assert_eq!(Path::new(&restored.restored_as), to);
    assert_eq!(see(&repository, "a/b/deeper/ignored/inner"), inner);
    assert!(repository.lists("a/b/deeper") && repository.lists("a/b/deeper/ignored/inner"));
    repository.git("a/b/deeper", &["submodule", "status"]);
    there(&repository, "a/b/deeper/lib", &ids[3]);
    let top = repository.git("a/b/deeper/lib", &["rev-parse", "--show-toplevel"]);
    assert_eq!(Path::new(top.trim()), to.join("lib"));
    assert_eq!(repository.git("far/w", &["symbolic-ref", "HEAD"]).trim(), "refs/heads/third");
}

#[test]
fn head_is_attached_only_where_its_branch_still_is_and_is_free() {
    for (change, says) in [
        ((|_| {}) as fn(&Repository), ""),
        (|r| drop(r.git("repo", &["branch", "-D", "feature"])), "was gone, and is again"),
        (|r| drop(r.git("repo", &["checkout", "-q", "feature"])), "is checked out in"),
        (
            |r| drop(r.git("repo", &["worktree", "add", "-q", "../x", "feature"])),
            "is checked out in",
        ),
        (
            |r| {
                r.git("repo", &["checkout", "-q", "feature"]);
                r.commit("repo");
            },
            "by now, so HEAD is detached",
        ),
    ] {
        let repository = Repository::new();
        repository.commit("w");
        let commit = repository.git("w", &["rev-parse", "HEAD"]);
        end(&repository, "w");
        change(&repository);
        prune(&repository);
        let restored = repository.config.trash.restore("wrk_1", None).unwrap();
        assert_eq!(repository.git("w", &["rev-parse", "HEAD"]), commit);
        let notes = restored.notes.join("; ");
        assert!(notes.contains(says) && notes.is_empty() == says.is_empty(), "{says}: {notes}");
        let name = repository.git("w", &["rev-parse", "--abbrev-ref", "HEAD"]);
        let is_attached = says.is_empty() || says.contains("again");
        assert_eq!(name.trim(), if is_attached { "feature" } else { "HEAD" });
        assert_eq!(repository.git("w", &["status", "--porcelain"]), "");
    }
}

#[test]
fn nothing_is_overwritten_and_what_is_in_the_way_is_named() {
    let repository = Repository::new();
    end(&repository, "w");
    let trash = &repository.config.trash;
    fs::create_dir(repository.path("w")).unwrap();
    repository.write("a-file", "");
    for (to, why) in [
        (None, "w is in the way"),
        (Some(repository.path("repo")), "repo is in the way"),
        (Some(repository.path("a-file/below")), "is not there, or no folder"),
        (Some("relative".into()), "absolute"),
    ] {
        let refused = trash.restore("wrk_1", to.as_deref()).unwrap_err().to_string();
        assert!(refused.contains(why), "{to:?}: {refused}");
        assert_eq!(trash.get("wrk_1").unwrap().state, TrashState::Kept);
    }
    #[cfg(target_os = "linux")]
    {
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        let refused = trash.restore("wrk_1", Some(&elsewhere.path().join("w")));
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("another file system") && refused.contains("--to"), "{refused}");
    }
    let unknown = trash.restore("wrk_2", None).unwrap_err().to_string();
    assert!(unknown.contains("`wrk_2`") && unknown.contains("trash list"), "{unknown}");
    fs::remove_dir(repository.path("w")).unwrap();
    trash.restore("wrk_1", None).unwrap();
    assert!(repository.lists("w"));
}

#[test]
fn files_come_back_without_their_repository_and_it_is_said() {
    let repository = Repository::new();
    repository.write("w/new", "new");
    end(&repository, "w");
    fs::remove_dir_all(repository.path("repo")).unwrap();
    let restored = repository.config.trash.restore("wrk_1", None).unwrap();
    assert!(restored.notes[0].contains("is not there"), "{:?}", restored.notes);
    assert_eq!(fs::read(repository.path("w/new")).unwrap(), b"new");
}

/// Ends, or restores, with a crash after each step in turn, until there is none left.
fn with_crashes(prepare: impl Fn() -> Repository, act: impl Fn(&Repository) -> bool) {
    for steps in 0.. {
        let mut repository = prepare();
        repository.config.trash.steps_left.store(steps, Ordering::SeqCst);
        let is_done = act(&repository);
        repository.reopen();
        repository.config.trash.recover();
        if repository.path("w").exists() {
            assert!(repository.lists("w"), "{steps}: it is in its old place, whole");
            repository.git("w", &["status"]);
            if !is_done {
                assert_eq!(repository.git("repo", &["for-each-ref", "refs/sessionmesh"]), "");
            }
        } else {
            assert!(!repository.lists("w"), "{steps}: it is in the trash, whole");
            assert!(repository.config.trash.get("wrk_1").is_some());
        }
        if !act(&repository) {
            panic!("{steps}: the next try does not end it");
        }
        if is_done {
            assert!(steps > 3, "there are steps");
            return;
        }
    }
}

#[test]
fn a_crash_between_any_two_steps_leaves_it_here_or_there_and_the_next_try_ends_it() {
    let prepare = || {
        let repository = Repository::new();
        repository.write("w/new", "new");
        repository.git("repo", &["worktree", "add", "-q", "-b", "inner", "../w/ignored"]);
        repository.git("w", &["checkout", "-q", "--detach"]);
        repository.commit("w");
        repository
    };
    with_crashes(prepare, |repository| {
        let due = repository.due("w", TeardownAction::Force);
        let ended = teardown::end(&due, &[], &repository.config);
        let is_done = matches!(ended, TeardownOutcome::Done(_));
        if is_done {
            repository.config.trash.steps_left.store(-1, Ordering::SeqCst);
            assert!(!repository.path("w").exists());
            prune(repository);
            let place = repository.config.trash.get("wrk_1").unwrap().place.unwrap();
            assert_eq!(fs::read(Path::new(&place).join("new")).unwrap(), b"new");
            repository.config.trash.restore("wrk_1", None).unwrap();
            assert!(repository.lists("w") && repository.lists("w/ignored"));
            assert_eq!(repository.git("w", &["rev-list", "--count", "HEAD"]).trim(), "2");
            // The next round ends it again.
            repository.config.trash.empty("wrk_1").unwrap();
            fs::remove_file(repository.path("data/teardowns.jsonl")).unwrap();
        }
        is_done
    });
}

#[test]
fn a_crash_in_a_restore_leaves_it_here_or_there_and_the_next_try_ends_it() {
    let prepare = || {
        let repository = Repository::new();
        repository.write("w/new", "new");
        repository.git("repo", &["worktree", "add", "-q", "-b", "inner", "../w/ignored"]);
        end(&repository, "w");
        prune(&repository);
        // So that links are rewritten, too.
        repository.git("repo", &["worktree", "add", "-q", "-b", "third", "../far/w"]);
        repository
    };
    with_crashes(prepare, |repository| {
        let restored = repository.config.trash.restore("wrk_1", None);
        if restored.is_ok() {
            assert!(repository.lists("w") && repository.lists("w/ignored"));
            assert_eq!(repository.git("w", &["status", "--porcelain"]), "?? new\n");
            assert_eq!(repository.git("repo", &["for-each-ref", "refs/sessionmesh"]), "");
        }
        restored.is_ok()
    });
}

/// A power cut in the middle of `git update-ref` leaves its lock, and git asks a person to remove it.
#[test]
fn a_lock_that_a_git_which_died_has_left_on_a_pin_stops_nobody() {
    let repository = Repository::new();
    let pins = repository.path("repo/.git/refs/sessionmesh/trash/wrk_1.1");
    fs::create_dir_all(&pins).unwrap();
    fs::write(pins.join("HEAD.lock"), "").unwrap();
    let outcome =
        teardown::end(&repository.due("w", TeardownAction::Retry), &[], &repository.config);
    assert!(matches!(outcome, TeardownOutcome::Done(_)), "{outcome:?}");
    fs::write(pins.join("HEAD.lock"), "").unwrap();
    repository.config.trash.restore("wrk_1", None).unwrap();
    assert!(repository.path("w/file").exists() && !pins.join("HEAD").exists());
}
