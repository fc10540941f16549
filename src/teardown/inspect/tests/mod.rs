//! Owns the tests of judging folders, against real repositories.
//!
//! Must not end anything. Invariant: each shows what is refused and, where it is near, what is not.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

mod nested;
mod programs;

use super::*;
use crate::{
    replica::record::{GitState, TeardownAction},
    teardown::{git, survey, testing::Repository as Fixture},
};

fn found(fixture: &Fixture, name: &str) -> Found {
    let path = fixture.path(name);
    let repository = git::common_dir(&path).unwrap();
    let listed = git::worktrees(&repository).unwrap();
    let listed = listed.into_iter().find(|listed| listed.path == path).unwrap();
    Found { path, repository, listed }
}

fn inspected(fixture: &Fixture) -> Inspection {
    inspect(&found(fixture, "w"), &[], &fixture.config).unwrap()
}

/// What `w` is refused for; the survey says the same.
fn refused(fixture: &Fixture) -> String {
    let refusal = inspected(fixture).refusal.expect("it is refused").to_string();
    assert_ne!(state(fixture), GitState::Clean, "{refusal}");
    refusal
}

fn state(fixture: &Fixture) -> GitState {
    let workspace = fixture.due("w", TeardownAction::Retry).workspace;
    survey::look(&workspace, &fixture.config).unwrap().state
}

fn free(fixture: &Fixture) {
    let inspection = inspected(fixture);
    assert!(inspection.refusal.is_none(), "{}", inspection.refusal.unwrap());
    assert_eq!(state(fixture), GitState::Clean);
}

/// Gives `w` a remote that has all its commits, at `origin.git`.
fn publish(fixture: &Fixture) {
    if !fixture.path("origin.git").exists() {
        fixture.git("repo", &["clone", "-q", "--bare", ".", "../origin.git"]);
        fixture.git("repo", &["remote", "add", "origin", "../origin.git"]);
    }
    fixture.git("w", &["push", "-q", "origin", "HEAD:refs/heads/published"]);
    fixture.git("repo", &["fetch", "-q", "origin"]);
}

/// Adds a submodule `lib` to `w`, initialised, committed and published.
fn add_submodule(fixture: &Fixture) {
    fs::create_dir(fixture.path("sub")).unwrap();
    fixture.git("sub", &["init", "-q", "-b", "main"]);
    fixture.git("sub", &["commit", "-q", "--allow-empty", "-m", "s"]);
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "../sub", "lib"];
    fixture.git("repo", &["config", "remote.origin.url", fixture.path("repo").to_str().unwrap()]);
    fixture.git("w", &add);
    fixture.git("repo", &["config", "--remove-section", "remote.origin"]);
    fixture.commit("w");
    publish(fixture);
}

#[test]
fn commits_that_only_a_reflog_or_a_ref_of_its_own_names_are_seen_where_those_are_in_tables() {
    let known = Command::new("git").args(["init", "-h"]).output().unwrap();
    // Git before 2.45 has one format of refs alone.
    if !String::from_utf8_lossy(&known.stdout).contains("--ref-format") {
        return;
    }
    let dropped = |fixture: &Fixture| {
        fixture.commit("w");
        fixture.git("w", &["reset", "-q", "--hard", "HEAD~1"]);
    };
    let own = |fixture: &Fixture| {
        let only = fixture.git("w", &["commit-tree", "-m", "only", "HEAD^{tree}"]);
        fixture.git("w", &["update-ref", "refs/worktree/mine", only.trim()]);
    };
    for (name, make) in [("dropped", &dropped as &dyn Fn(&Fixture)), ("own", &own)] {
        let fixture = Fixture::init(&["--ref-format=reftable"]);
        fixture.git("w", &["checkout", "-q", "--detach"]);
        free(&fixture);
        make(&fixture);
        let refusal = refused(&fixture);
        assert!(refusal.contains("1 commit that nothing but its own reflog"), "{name}: {refusal}");
    }
}

#[test]
fn a_file_that_a_flag_in_the_index_hides_is_seen() {
    for flag in ["--assume-unchanged", "--skip-worktree"] {
        let fixture = Fixture::new();
        fixture.git("w", &["update-index", flag, "file"]);
        free(&fixture);
        fixture.write("w/file", "other");
        assert_eq!(fixture.git("w", &["status", "--porcelain"]), "", "git does not see it");
        assert!(refused(&fixture).contains("1 changed file (file)"), "{flag}");
        assert_eq!(fixture.git("w", &["status", "--porcelain"]), "", "the index is as it was");
    }
}

#[test]
fn a_file_that_is_hidden_because_stat_is_ignored_is_seen() {
    let fixture = Fixture::new();
    fixture.git("repo", &["config", "core.ignoreStat", "true"]);
    fixture.git("w", &["update-index", "--really-refresh"]);
    fixture.git("w", &["checkout", "-q", "-f"]);
    fixture.write("w/file", "other");
    assert!(refused(&fixture).contains("1 changed file (file)"));
}

#[test]
fn of_a_sparse_worktree_only_what_is_there_and_differs_counts() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("w/out")).unwrap();
    fixture.write("w/out/a", "a");
    fixture.git("w", &["add", "."]);
    fixture.commit("w");
    publish(&fixture);
    fixture.git("w", &["sparse-checkout", "set", "--cone", "in"]);
    assert!(!fixture.path("w/out/a").exists());
    free(&fixture);
    fs::create_dir_all(fixture.path("w/out")).unwrap();
    fixture.write("w/out/a", "a");
    free(&fixture);
    fixture.write("w/out/a", "other");
    assert!(refused(&fixture).contains("(out/a)"));
}

#[test]
fn a_file_that_is_only_intended_and_a_conflict_are_seen() {
    let fixture = Fixture::new();
    fixture.write("w/new", "new");
    fixture.git("w", &["add", "--intent-to-add", "new"]);
    assert!(refused(&fixture).contains("1 changed file (new)"));

    let fixture = Fixture::new();
    fixture.write("w/file", "ours");
    fixture.commit("w");
    fixture.write("repo/file", "theirs");
    fixture.commit("repo");
    let merge =
        Command::new("git").arg("-C").arg(fixture.path("w")).args(["merge", "main"]).output();
    assert!(!merge.unwrap().status.success());
    assert!(refused(&fixture).contains("in the middle of a merge"));
    let inspection = inspected(&fixture);
    assert_eq!((inspection.held.uncommitted, inspection.unfinished), (1, true));
}

#[test]
fn files_in_the_folder_of_a_submodule_that_is_not_there_are_seen() {
    let fixture = Fixture::new();
    add_submodule(&fixture);
    fixture.git("w", &["submodule", "--quiet", "deinit", "-f", "lib"]);
    fs::remove_dir_all(fixture.path("repo/.git/worktrees/w/modules")).unwrap();
    free(&fixture);
    fs::create_dir_all(fixture.path("w/lib/deep")).unwrap();
    fixture.write("w/lib/deep/work.c", "work");
    assert!(refused(&fixture).contains("1 untracked file (lib/deep/work.c)"));
}

#[test]
fn commits_that_only_the_worktrees_own_folder_names_are_seen() {
    // By a ref of its own.
    let fixture = Fixture::new();
    fixture.git("w", &["checkout", "-q", "--detach"]);
    fixture.commit("w");
    fixture.git("w", &["update-ref", "refs/worktree/checkpoint", "HEAD"]);
    fixture.git("w", &["checkout", "-q", "feature"]);
    fs::remove_dir_all(fixture.path("repo/.git/worktrees/w/logs")).unwrap();
    let refusal = refused(&fixture);
    assert!(refusal.contains("1 commit that nothing but its own reflog and refs"), "{refusal}");
    fixture.git("w", &["branch", "kept", "refs/worktree/checkpoint"]);
    free(&fixture);

    // By a ref of its own that names a file.
    fixture.write("data/x", "x");
    let path = fixture.path("data/x");
    let blob = fixture.git("w", &["hash-object", "-w", path.to_str().unwrap()]);
    fixture.git("w", &["update-ref", "refs/worktree/blob", blob.trim()]);
    refused(&fixture);

    // By its reflog.
    let fixture = Fixture::new();
    fixture.git("w", &["checkout", "-q", "--detach"]);
    fixture.commit("w");
    fixture.git("w", &["checkout", "-q", "feature"]);
    assert!(refused(&fixture).contains("1 commit that nothing but its own reflog"));
    // What is older git itself would delete.
    let log = fixture.path("repo/.git/worktrees/w/logs/HEAD");
    let text = fs::read_to_string(&log).unwrap();
    let old: Vec<String> = text.lines().map(aged).collect();
    fs::write(&log, old.join("\n") + "\n").unwrap();
    free(&fixture);
}

/// Makes a line of a reflog as old as can be.
fn aged(line: &str) -> String {
    let (head, message) = line.split_once('\t').unwrap_or((line, ""));
    let words: Vec<&str> = head.rsplitn(3, ' ').collect();
    format!("{} 1000000000 {}\t{message}", words[2], words[0])
}

#[test]
fn what_was_amended_or_reset_is_in_the_reflog_of_the_branch_which_stays() {
    let fixture = Fixture::new();
    fixture.write("w/file", "second");
    fixture.commit("w");
    fixture.git("w", &["commit", "-q", "--amend", "-m", "better"]);
    fixture.git("w", &["reset", "-q", "--hard", "HEAD~1"]);
    free(&fixture);
}

#[test]
fn the_steps_of_a_rebase_that_has_ended_are_no_work() {
    let fixture = Fixture::new();
    for text in ["one", "two"] {
        fixture.write("w/new", text);
        fixture.git("w", &["add", "."]);
        fixture.commit("w");
    }
    fixture.write("repo/other", "x");
    fixture.git("repo", &["add", "."]);
    fixture.commit("repo");
    fixture.git("w", &["rebase", "-q", "main"]);
    publish(&fixture);
    free(&fixture);
}

#[test]
fn a_tag_reaches_and_a_ref_of_the_trash_does_not() {
    let fixture = Fixture::new();
    fixture.git("w", &["checkout", "-q", "--detach"]);
    fixture.commit("w");
    fixture.git("w", &["update-ref", "refs/sessionmesh/trash/wrk_1.1/HEAD", "HEAD"]);
    assert!(refused(&fixture).contains("1 commit that no other branch"));
    fixture.git("w", &["tag", "kept"]);
    free(&fixture);
}

#[test]
fn whatever_is_unfinished_is_named() {
    for (name, text, what) in [
        ("sequencer/todo", "pick 1", "cherry-pick or revert"),
        ("rebase-merge/done", "", "rebase"),
        ("rebase-apply/applying", "", "git am"),
        ("MERGE_HEAD", "", "merge"),
        ("BISECT_START", "main", "bisection"),
    ] {
        let fixture = Fixture::new();
        let path = fixture.path("repo/.git/worktrees/w").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        let refusal = refused(&fixture);
        assert!(refusal.contains(&format!("in the middle of a {what}")) || refusal.contains(what));
        assert_eq!(state(&fixture), GitState::Uncommitted);
    }
}

#[test]
fn a_missing_folder_with_staged_content_or_something_unfinished_is_not_ended() {
    let fixture = Fixture::new();
    fixture.write("w/staged", "only here");
    fixture.git("w", &["add", "."]);
    fs::rename(fixture.path("w"), fixture.path("saved")).unwrap();
    let missing = |fixture: &Fixture| {
        let path = fixture.path("w");
        let repository = fixture.path("repo/.git");
        let listed = git::worktrees(&repository).unwrap().pop().unwrap();
        let found = Found { path, repository, listed };
        inspect(&found, &[], &fixture.config).unwrap().refusal.map(|it| it.to_string())
    };
    assert!(missing(&fixture).unwrap().contains("1 changed file (staged) in its index"));
    fixture.git("repo", &["worktree", "repair", "../saved"]);
    fixture.git("saved", &["rm", "-q", "-f", "staged"]);
    assert_eq!(missing(&fixture), None);
    fs::write(fixture.path("repo/.git/worktrees/w/MERGE_HEAD"), "").unwrap();
    assert!(missing(&fixture).unwrap().contains("in the middle of a merge"));
}

#[test]
fn ignored_files_are_named_by_size_with_the_reason() {
    let fixture = Fixture::new();
    fixture.write("repo/.git/info/exclude", "*.log\nout/\n.env\n");
    fs::create_dir_all(fixture.path("w/out/deep")).unwrap();
    fixture.write("w/out/deep/large", &"x".repeat(2_000_000));
    fixture.write("w/.env", "key");
    free(&fixture);
    let inspection = inspected(&fixture);
    assert_eq!(inspection.held.ignored, 2_000_003);
    assert_eq!(inspection.ignored_in_words().as_deref(), Some("2 MB in out, .env"));
    fixture.write("w/new", "x");
    let refusal = refused(&fixture);
    assert!(refusal.contains("go along: 2 MB in out, .env"), "{refusal}");
}

#[test]
fn a_file_that_is_what_its_pointer_names_is_clean_and_another_is_not() {
    let fixture = Fixture::new();
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 3\n");
    fixture.write("w/.gitattributes", "*.bin filter=lfs -text\n*.enc filter=crypt\n");
    fixture.write("w/a.bin", &pointer);
    fixture.write("w/b.enc", "stored");
    fixture.git("w", &["-c", "filter.lfs.clean=cat", "add", "."]);
    fixture.commit("w");
    publish(&fixture);
    free(&fixture);
    fixture.write("w/a.bin", "abc");
    free(&fixture);
    fixture.write("w/a.bin", "abd");
    assert!(refused(&fixture).contains("(a.bin: its filter `lfs` is not run)"));
    fixture.write("w/a.bin", "abc");
    fs::set_permissions(fixture.path("w/a.bin"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(refused(&fixture).contains("(a.bin"));
    fs::set_permissions(fixture.path("w/a.bin"), fs::Permissions::from_mode(0o644)).unwrap();
    fixture.write("w/b.enc", "stored");
    free(&fixture);
    fixture.write("w/b.enc", "readable");
    assert!(refused(&fixture).contains("(b.enc: its filter `crypt` is not run)"));
}

#[test]
fn line_ends_that_git_converts_are_no_change() {
    let fixture = Fixture::new();
    fixture.write("w/.gitattributes", "*.txt text eol=crlf\n");
    fixture.write("w/a.txt", "one\r\ntwo\r\n");
    fixture.git("w", &["add", "."]);
    fixture.commit("w");
    publish(&fixture);
    fixture.write("w/a.txt", "one\r\ntwo\r\n");
    free(&fixture);
    fixture.git("repo", &["config", "core.autocrlf", "true"]);
    fixture.write("w/file", "first\r\n");
    fixture.git("w", &["add", "."]);
    fixture.commit("w");
    publish(&fixture);
    fixture.write("w/file", "first\r\n");
    free(&fixture);
}
