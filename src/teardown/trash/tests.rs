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
fn every_format_of_objects_and_refs_is_pinned_and_comes_back() {
    for format in [&["--object-format=sha256"] as &[_], &["--ref-format=reftable"]] {
        let known = std::process::Command::new("git").args(["init", "-h"]).output().unwrap();
        let known = String::from_utf8_lossy(&known.stdout).into_owned();
        let name = format[0].split('=').next().unwrap();
        // Git before 2.45 has one format of refs alone.
        if !known.contains(name) {
            continue;
        }
        let repository = Repository::init(format);
        repository.git("w", &["checkout", "-q", "--detach"]);
        repository.commit("w");
        let dropped = repository.git("w", &["rev-parse", "HEAD"]);
        repository.git("w", &["reset", "-q", "--hard", "feature"]);
        let only = repository.git("w", &["commit-tree", "-m", "only", "HEAD^{tree}"]);
        repository.git("w", &["update-ref", "refs/worktree/mine", only.trim()]);
        repository.write("w/staged", "staged");
        repository.git("w", &["add", "staged"]);
        let before = see(&repository, "w");
        end(&repository, "w");
        prune(&repository);
        repository.config.trash.restore("wrk_1", None).unwrap();
        assert_eq!(see(&repository, "w"), before, "{format:?}");
        for id in [dropped.trim(), only.trim()] {
            there(&repository, "w", id);
        }
        repository.git("repo", &["fsck"]);
    }
}

#[test]
fn a_read_only_folder_moves_with_its_mode_there_and_back() {
    let repository = Repository::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    fs::set_permissions(repository.path("w"), fs::Permissions::from_mode(0o2550)).unwrap();
    end(&repository, "w");
    let place = repository.config.trash.get("wrk_1").unwrap().place.unwrap();
    assert_eq!(mode(Path::new(&place)), 0o2550);
    repository.config.trash.restore("wrk_1", None).unwrap();
    assert_eq!(mode(&repository.path("w")), 0o2550);
    assert_eq!(repository.git("w", &["status", "--porcelain"]), "");
}

#[test]
fn what_reaches_something_missing_is_not_pinned_and_all_else_is() {
    let repository = Repository::new();
    let commit = |text: &str| {
        repository.write("w/file", text);
        repository.commit("w");
        repository.git("w", &["rev-parse", "HEAD"]).trim().to_owned()
    };
    let (broken, whole) = (commit("lost"), commit("kept"));
    repository.git("w", &["reset", "-q", "--hard", "HEAD~2"]);
    let single = repository.git("w", &["commit-tree", "-m", "single", "HEAD^{tree}"]);
    repository.git("w", &["update-ref", "refs/worktree/single", single.trim()]);
    let blob = repository.git("w", &["rev-parse", &format!("{broken}:file")]);
    let (first, rest) = blob.trim().split_at(2);
    fs::remove_file(repository.path(&format!("repo/.git/objects/{first}/{rest}"))).unwrap();
    end(&repository, "w");
    // Both commits reach the blob that is missing; were they pinned, this would fail.
    repository.git("repo", &["reflog", "expire", "--expire=now", "--all"]);
    repository.git("repo", &["gc", "-q", "--prune=now"]);
    there(&repository, "repo", single.trim());
    let gone = ["cat-file", "-e", whole.as_str()];
    let mut git = std::process::Command::new("git");
    let found = git.arg("-C").arg(repository.path("repo")).args(gone).output().unwrap();
    assert!(!found.status.success());
}

/// Needs a second file system; every Linux has one there.
#[cfg(target_os = "linux")]
#[test]
fn on_another_file_system_than_the_data_it_is_kept_beside_its_own_place() {
    let mut repository = Repository::new();
    let data = tempfile::tempdir_in("/dev/shm").unwrap();
    repository.config = testing::config_in(&repository, data.path());
    let holding = repository.path(".sessionmesh-trash");
    for is_restored in [true, false] {
        repository.write("w/new", "new");
        end(&repository, "w");
        let trash = &repository.config.trash;
        let place = PathBuf::from(trash.get("wrk_1").unwrap().place.unwrap());
        assert!(place.starts_with(&holding), "{}", place.display());
        assert_eq!(fs::metadata(&holding).unwrap().permissions().mode() & 0o777, 0o700);
        if is_restored {
            trash.restore("wrk_1", None).unwrap();
            assert_eq!(fs::read(repository.path("w/new")).unwrap(), b"new");
            trash.empty("wrk_1").unwrap();
            fs::remove_file(data.path().join("teardowns.jsonl")).unwrap();
        } else {
            // Where its file system is not there, it may come back.
            let away = repository.path("away");
            fs::rename(&holding, &away).unwrap();
            trash.maintain(i64::MAX);
            let entry = trash.get("wrk_1").unwrap();
            assert!(entry.problem.unwrap().contains("mount its file system"));
            fs::rename(&away, &holding).unwrap();
            trash.maintain(i64::MAX);
            assert_eq!(trash.list(), []);
        }
        assert!(!holding.exists());
    }
}

#[test]
fn what_a_partial_clone_has_not_fetched_is_no_reason_not_to_pin() {
    let repository = Repository::new();
    repository.git("repo", &["config", "uploadpack.allowFilter", "true"]);
    let origin = format!("file://{}", repository.path("repo").display());
    let clone = ["-c", "protocol.file.allow=always", "clone", "-q", "--no-checkout"];
    let clone = [&clone[..], &["--filter=blob:none", &origin, "../partial"]].concat();
    repository.git("repo", &clone);
    repository.git("partial", &["worktree", "add", "-q", "--no-checkout", "-b", "p", "../p"]);
    // A tree of its own with a blob that only the other side has.
    let listed = repository.git("p", &["ls-tree", "HEAD", "file"]).replace("\tfile", "\tmoved");
    repository.write("listed", &listed);
    let input = fs::File::open(repository.path("listed")).unwrap();
    let mut git = std::process::Command::new("git");
    git.arg("-C").arg(repository.path("p")).args(["mktree", "--missing"]).stdin(input);
    let tree = String::from_utf8(git.output().unwrap().stdout).unwrap();
    let only = repository.git("p", &["commit-tree", "-m", "only", tree.trim()]);
    repository.git("p", &["update-ref", "refs/worktree/only", only.trim()]);
    end(&repository, "p");
    repository.git("partial", &["gc", "-q", "--prune=now"]);
    there(&repository, "partial", only.trim());
}

#[test]
fn a_worktree_of_a_bare_repository_comes_back_to_its_branch() {
    let repository = Repository::new();
    repository.git("repo", &["clone", "-q", "--bare", ".", "../bare.git"]);
    repository.git("bare.git", &["worktree", "add", "-q", "-b", "of-bare", "../x"]);
    repository.git("bare.git", &["worktree", "add", "-q", "../y", "main"]);
    repository.write("x/new", "new");
    repository.git("x", &["add", "new"]);
    let seen = ["x", "y"].map(|name| see(&repository, name));
    let restored = ["x", "y"].map(|name| {
        end(&repository, name);
        repository.git("bare.git", &["gc", "-q", "--prune=now"]);
        let restored = repository.config.trash.restore("wrk_1", None).unwrap();
        repository.reset();
        restored.notes
    });
    // The branch that a bare repository's HEAD names is checked out nowhere.
    assert_eq!(restored, [Vec::<String>::new(), Vec::new()]);
    assert_eq!(["x", "y"].map(|name| see(&repository, name)), seen);
}

#[test]
fn nothing_that_a_repository_names_is_run_on_the_way_in_or_out() {
    let repository = Repository::new();
    let ran = repository.path("ran");
    let program = repository.path("program");
    fs::write(&program, format!("#!/bin/sh\necho \"$0 $*\" >>{}\n", ran.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let ids = fill(&repository);
    let hooks = repository.path("repo/.git/hooks");
    fs::create_dir_all(&hooks).unwrap();
    for name in ["reference-transaction", "post-index-change", "pre-auto-gc", "post-checkout"] {
        fs::copy(&program, hooks.join(name)).unwrap();
    }
    let named = program.to_str().unwrap();
    for (key, value) in [
        ("core.fsmonitor", named),
        ("filter.all.clean", named),
        ("filter.all.smudge", named),
        ("filter.all.process", named),
        ("diff.external", named),
        ("diff.all.textconv", named),
        ("gpg.program", named),
        ("commit.gpgSign", "true"),
        ("core.editor", named),
        ("core.pager", named),
        ("core.alternateRefsCommand", named),
        ("core.sshCommand", named),
        ("remote.origin.url", "ext::false"),
        ("remote.origin.promisor", "true"),
        ("extensions.partialClone", "origin"),
    ] {
        repository.git("repo", &["config", key, value]);
    }
    repository.write("repo/.git/info/attributes", "* filter=all diff=all\n");
    // A commit that is missing, which a partial clone would fetch.
    let log = repository.path("repo/.git/worktrees/w/logs/HEAD");
    let mut lines = fs::read_to_string(&log).unwrap();
    let missing = "0123456789".repeat(4);
    lines.push_str(&format!("{missing} {} x <x> 1 +0000\tx\n", ids[0]));
    fs::write(&log, lines).unwrap();
    let _ = fs::remove_file(&ran);
    end(&repository, "w");
    repository.git("repo", &["worktree", "add", "-q", "--no-checkout", "-b", "third", "../far/w"]);
    let _ = fs::remove_file(&ran);
    repository.config.trash.restore("wrk_1", None).unwrap();
    assert!(!ran.exists(), "{}", fs::read_to_string(&ran).unwrap());
    repository.reset();
    end(&repository, "w");
    assert!(!ran.exists(), "{}", fs::read_to_string(&ran).unwrap());
    repository.config.trash.empty("wrk_1").unwrap();
    assert!(!ran.exists(), "{}", fs::read_to_string(&ran).unwrap());
    // They would be run, were git left alone.
    let _ = std::process::Command::new("git")
        .arg("-C")
        .arg(repository.path("repo"))
        .args(["update-ref", "refs/heads/x", "HEAD"])
        .output();
    assert!(ran.exists());
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

#[test]
fn an_entry_is_deleted_when_its_time_is_over_and_not_before() {
    let repository = Repository::new();
    repository.write("w/new", "new");
    fs::create_dir(repository.path("w/read-only")).unwrap();
    repository.write("w/read-only/file", "x");
    std::os::unix::fs::symlink(repository.path("repo"), repository.path("w/read-only/link"))
        .unwrap();
    fs::set_permissions(repository.path("w/read-only"), fs::Permissions::from_mode(0o500)).unwrap();
    end(&repository, "w");
    let trash = &repository.config.trash;
    let entry = trash.get("wrk_1").unwrap();
    trash.maintain(entry.expires_at - 1);
    assert_eq!(trash.list(), std::slice::from_ref(&entry));
    trash.maintain(entry.expires_at);
    assert_eq!(trash.list(), []);
    assert!(!Path::new(&entry.place.unwrap()).exists());
    assert!(repository.path("repo/file").exists() && repository.has_branch("feature"));
    assert_eq!(repository.git("repo", &["for-each-ref", "refs/sessionmesh"]), "");
    assert_eq!(fs::read_dir(trash.path()).unwrap().count(), 0);
}

#[test]
fn where_nothing_is_kept_a_worktree_is_deleted_at_once() {
    let mut repository = Repository::new();
    let settings = Settings { keep_removed: Duration::ZERO, ..Settings::default() };
    let data = repository.path("data");
    repository.config.trash = Arc::new(Trash::new(&data, NodeId([1; 32]), settings));
    let done = end(&repository, "w");
    assert!(done.contains("deleted at once"), "{done}");
    assert!(repository.config.trash.list().is_empty() && !repository.path("w").exists());
    assert_eq!(end(&repository, "w"), done, "again is the same");
}

#[test]
fn only_what_held_nothing_that_is_nowhere_else_is_deleted_early_and_the_oldest_first() {
    let data = tempfile::tempdir().unwrap();
    let settings = Settings { trash_max: 100, ..Settings::default() };
    let mut trash = Trash::new(data.path(), NodeId([1; 32]), settings);
    trash.is_full = |_| false;
    let day = 24 * 60 * 60 * 1_000;
    let replaceable = Some(crate::replica::trash::Held::default());
    let only = crate::replica::trash::Held { untracked: 1, ..Default::default() };
    for (entry, held, ended_at) in [
        ("wrk_1.1", replaceable.clone(), 1),
        ("wrk_2.1", replaceable.clone(), 2),
        ("wrk_3.1", Some(only), 0),
        ("wrk_4.1", None, 0),
        ("wrk_5.1", replaceable, day),
    ] {
        let place = trash.store.folder(entry).join("files");
        files::make_folder(&place).unwrap();
        let folder = Some(testing::folder(&place));
        let kept_until = 100 * day;
        let manifest = testing::manifest(entry);
        let manifest = Manifest { held, ended_at, kept_until, bytes: 60, folder, ..manifest };
        trash.store.write(&manifest).unwrap();
    }
    let left = |trash: &Trash| {
        let mut ids: Vec<_> = trash.list().into_iter().map(|entry| entry.id).collect();
        ids.sort();
        ids.join(" ")
    };
    trash.maintain(day);
    assert_eq!(left(&trash), "wrk_1 wrk_2 wrk_3 wrk_4 wrk_5", "all are young");
    trash.maintain(day + 2);
    assert_eq!(left(&trash), "wrk_3 wrk_4 wrk_5");
    trash.maintain(50 * day);
    assert_eq!(left(&trash), "wrk_3 wrk_4 wrk_5", "there is room");
    trash.is_full = |_| true;
    trash.maintain(50 * day);
    assert_eq!(left(&trash), "wrk_3 wrk_4", "nothing else may go early");
    trash.maintain(100 * day);
    assert_eq!(left(&trash), "");
}

fn session(id: &str) -> KeptSession {
    KeptSession {
        id: id.to_owned(),
        title: "Fix it".to_owned(),
        directory: Some("/w".to_owned()),
        agent: "opencode".to_owned(),
        server: "http://127.0.0.1:4096/".to_owned(),
        cut: false,
        reason: Some("deleted".to_owned()),
    }
}

#[test]
fn a_session_is_kept_once_and_is_there_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let host = NodeId([7; 32]);
    let trash = Trash::new(data.path(), host, Settings::default());
    assert_eq!((trash.list(), trash.get("ses_1")), (Vec::new(), None));
    trash.keep_session(&session("ses_1"), b"{}").unwrap();
    trash.keep_session(&session("ses_1"), b"{\"info\":1}").unwrap();
    trash.keep_session(&KeptSession { cut: true, ..session("ses_2") }, b"").unwrap();
    for trash in [&trash, &Trash::new(data.path(), host, Settings::default())] {
        let ids: BTreeSet<_> = trash.list().into_iter().map(|entry| entry.id).collect();
        assert_eq!(ids, ["ses_1", "ses_2"].map(str::to_owned).into());
        let entry = trash.get("ses_1").unwrap();
        assert_eq!((entry.host, entry.bytes), (host, 10));
        assert_eq!(entry.expires_at - entry.ended_at, 14 * 24 * 60 * 60 * 1_000);
        let file = trash.session_file("ses_1").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"{\"info\":1}");
        assert_eq!(entry.place.as_deref(), file.to_str());
        assert!(trash.get("ses_2").unwrap().problem.unwrap().contains("newest"));
    }
}
