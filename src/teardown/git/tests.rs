//! Owns the tests of reading repositories through git and by themselves.
//!
//! Must not know what is concluded from it. Invariant: each asks real repositories.

use std::{fs, os::unix::fs::symlink};

use super::*;
use crate::teardown::testing::Repository as Fixture;

#[test]
fn a_question_about_what_is_no_repository_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let problem = worktrees(folder.path()).unwrap_err().to_string();
    assert!(problem.contains("git worktree list") && problem.contains("not a git"), "{problem}");
    let problem = common_dir(folder.path()).unwrap_err().to_string();
    assert!(problem.contains("not a git repository"), "{problem}");
}

#[test]
fn worktrees_are_listed_as_git_lists_them_whatever_their_names() {
    let fixture = Fixture::new();
    let odd = fixture.path("a b\n\"c\" $(d) é");
    fixture.git("repo", &["worktree", "add", "-q", "-b", "topic/x", odd.to_str().unwrap()]);
    fixture.git("repo", &["worktree", "add", "-q", "--detach", "../detached"]);
    fixture.git("repo", &["worktree", "lock", "--reason", "on a stick", "../detached"]);
    fixture.git("repo", &["pack-refs", "--all"]);
    let commit = fixture.git("repo", &["rev-parse", "HEAD"]).trim().to_owned();
    let listed = worktrees(&fixture.path("w")).unwrap();
    assert_eq!(listed[0].path, fixture.path("repo"));
    assert!(listed.iter().all(|listed| listed.commit.as_ref() == Some(&commit)));
    let find = |path: &Path| listed.iter().find(|listed| listed.path == path).unwrap();
    assert_eq!(find(&fixture.path("w")).branch.as_deref(), Some("feature"));
    assert_eq!(find(&odd).branch.as_deref(), Some("topic/x"));
    let detached = find(&fixture.path("detached"));
    assert_eq!(
        (detached.branch.as_deref(), detached.locked.as_deref()),
        (None, Some("on a stick"))
    );
    assert_eq!(listed.len(), 4);
}

#[test]
fn a_worktree_without_commits_and_a_bare_main_repository_are_listed() {
    let fixture = Fixture::new();
    fixture.git("repo", &["clone", "-q", "--bare", ".", "../bare.git"]);
    fixture.git("bare.git", &["worktree", "add", "-q", "../of-bare"]);
    let listed = worktrees(&fixture.path("of-bare")).unwrap();
    let paths: Vec<_> = listed.iter().map(|listed| listed.path.clone()).collect();
    assert_eq!(paths, [fixture.path("bare.git"), fixture.path("of-bare")]);
    assert_eq!(common_dir(&fixture.path("of-bare")).unwrap(), fixture.path("bare.git"));
    fs::create_dir(fixture.path("empty")).unwrap();
    fixture.git("empty", &["init", "-q", "-b", "first"]);
    let listed = worktrees(&fixture.path("empty")).unwrap();
    let head = (listed[0].commit.as_deref(), listed[0].branch.as_deref());
    assert_eq!(head, (None, Some("first")));
}

#[test]
fn a_link_that_leads_to_no_repository_is_an_error_and_no_repository_is_none() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("plain")).unwrap();
    assert_eq!(Repository::at(&fixture.path("plain")).unwrap(), None);
    fixture.write("plain/.git", "gitdir: /nowhere\n");
    let problem = Repository::at(&fixture.path("plain")).unwrap_err().to_string();
    assert!(problem.contains("leads to no repository"), "{problem}");
    fs::remove_file(fixture.path("plain/.git")).unwrap();
    symlink("gone", fixture.path("plain/.git")).unwrap();
    Repository::at(&fixture.path("plain")).unwrap_err();
}

#[test]
fn a_ref_that_climbs_out_of_its_repository_is_not_followed() {
    let fixture = Fixture::new();
    let id = fixture.git("repo", &["rev-parse", "HEAD"]);
    fixture.write("outside", &id);
    fixture.write("repo/.git/worktrees/w/HEAD", "ref: refs/../../../outside\n");
    let repository = Repository::at(&fixture.path("w")).unwrap().unwrap();
    assert_eq!(repository.head().unwrap().0, None);
}

#[test]
fn refs_that_are_kept_in_tables_are_read_too() {
    let fixture = Fixture::new();
    let old = std::process::Command::new("git")
        .args(["init", "-q", "--ref-format=reftable", "-b", "main"])
        .arg(fixture.path("tables"))
        .output()
        .unwrap();
    if !old.status.success() {
        // This git is older than the format.
        return;
    }
    fixture.git("tables", &["commit", "-q", "--allow-empty", "-m", "one"]);
    fixture.git("tables", &["worktree", "add", "-q", "-b", "topic", "../of-tables"]);
    fixture.git("of-tables", &["commit", "-q", "--allow-empty", "-m", "two"]);
    let repository = Repository::at(&fixture.path("of-tables")).unwrap().unwrap();
    let (commit, branch) = repository.head().unwrap();
    let id = fixture.git("of-tables", &["rev-parse", "HEAD"]);
    assert_eq!((commit.as_deref(), branch.as_deref()), (Some(id.trim()), Some("topic")));
    let private = Private::new(&repository, &fixture.config.data_dir).unwrap();
    assert_eq!(unreached(&private, id.trim(), Some("topic")).unwrap(), 1);
    assert_eq!(unreached(&private, id.trim(), None).unwrap(), 0);
}

#[test]
fn the_version_is_told() {
    let version = version().unwrap();
    assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
}
