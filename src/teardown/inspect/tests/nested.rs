//! Owns the tests of judging repositories below a folder.
//!
//! Must not know how they are found. Invariant: each repository is refused for what it holds, and
//! not for being there.

use std::fs;

use super::*;

#[test]
fn a_submodule_with_nothing_of_its_own_stops_nobody() {
    let fixture = Fixture::new();
    add_submodule(&fixture);
    free(&fixture);
    assert_eq!(inspected(&fixture).held.nested, ["lib"]);
    fixture.write("w/lib/new", "new");
    assert!(refused(&fixture).contains("w/lib holds 1 untracked file (new)"));
    fixture.git("w/lib", &["add", "."]);
    fixture.commit("w/lib");
    let refusal = refused(&fixture);
    assert!(refusal.contains("1 changed file (lib)"), "{refusal}");
}

#[test]
fn commits_of_a_submodule_whose_folder_was_removed_are_seen() {
    let fixture = Fixture::new();
    add_submodule(&fixture);
    fixture.git("w/lib", &["checkout", "-q", "-b", "topic"]);
    fixture.commit("w/lib");
    fixture.git("w/lib", &["checkout", "-q", "main"]);
    let refusal = refused(&fixture);
    assert!(refusal.contains("w/lib has 1 commit that no remote-tracking ref"), "{refusal}");
    fs::remove_dir_all(fixture.path("w/lib")).unwrap();
    fs::create_dir(fixture.path("w/lib")).unwrap();
    let refusal = refused(&fixture);
    assert!(refusal.contains("modules/lib has 1 commit"), "{refusal}");
}

#[test]
fn a_repository_in_an_ignored_folder_is_judged_by_itself() {
    let fixture = Fixture::new();
    publish(&fixture);
    fs::create_dir(fixture.path("w/ignored")).unwrap();
    let clone = "w/ignored/deep/clone";
    fixture.git("w", &["clone", "-q", "../origin.git", "ignored/deep/clone"]);
    free(&fixture);
    let nested = ["ignored/deep/clone"];
    assert_eq!(inspected(&fixture).held.nested, nested);
    fixture.write(&format!("{clone}/file"), "other");
    assert!(refused(&fixture).contains("ignored/deep/clone holds 1 changed file (file)"));
    fixture.git(clone, &["stash", "-q"]);
    let refusal = refused(&fixture);
    assert!(refusal.contains("that no remote-tracking ref reaches"), "{refusal}");
    fixture.git(clone, &["stash", "drop", "-q"]);
    fixture.git(clone, &["checkout", "-q", "-b", "topic"]);
    fixture.commit(clone);
    fixture.git(clone, &["checkout", "-q", "main"]);
    assert!(refused(&fixture).contains("ignored/deep/clone has 1 commit"));
    fixture.git(clone, &["push", "-q", "origin", "topic"]);
    free(&fixture);
}

#[test]
fn a_repository_without_a_remote_holds_everything_and_one_that_is_empty_nothing() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("w/ignored/own")).unwrap();
    fixture.git("w/ignored/own", &["init", "-q", "-b", "main"]);
    free(&fixture);
    fixture.git("w/ignored/own", &["commit", "-q", "--allow-empty", "-m", "one"]);
    assert!(refused(&fixture).contains("ignored/own has 1 commit"));

    let fixture = Fixture::new();
    fs::create_dir(fixture.path("w/ignored")).unwrap();
    fixture.git("repo", &["clone", "-q", "--bare", ".", "../w/ignored/bare"]);
    assert!(refused(&fixture).contains("ignored/bare has 1 commit"));
}

#[test]
fn what_was_cloned_at_a_tag_or_is_a_mirror_is_on_its_remote() {
    let fixture = Fixture::new();
    fixture.git("repo", &["tag", "v1"]);
    fs::create_dir(fixture.path("w/ignored")).unwrap();
    let url = format!("file://{}", fixture.path("repo").display());
    let shallow = ["clone", "-q", "--depth", "1", "--branch", "v1", &url, "ignored/shallow"];
    fixture.git("w", &shallow);
    fixture.git("w", &["clone", "-q", "--mirror", &url, "ignored/mirror"]);
    free(&fixture);
    fixture.git("w/ignored/shallow", &["commit", "-q", "--allow-empty", "-m", "own"]);
    assert!(refused(&fixture).contains("ignored/shallow has 1 commit"));
}

#[test]
fn a_git_folder_that_is_itself_tracked_is_a_file_like_others() {
    let fixture = Fixture::new();
    fixture.git("repo", &["clone", "-q", "--bare", ".", "../w/fixture"]);
    fixture.git("w", &["add", "--force", "fixture"]);
    fixture.commit("w");
    publish(&fixture);
    free(&fixture);
}

#[test]
fn a_worktree_of_another_repository_below_is_named() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("other")).unwrap();
    fixture.git("other", &["init", "-q", "-b", "main"]);
    fixture.git("other", &["commit", "-q", "--allow-empty", "-m", "one"]);
    fixture.git("other", &["worktree", "add", "-q", "-b", "inner", "../w/ignored"]);
    let refusal = refused(&fixture);
    assert!(refusal.contains("w/ignored is a worktree of"), "{refusal}");
    fs::remove_dir_all(fixture.path("other")).unwrap();
    let refusal = refused(&fixture);
    assert!(refusal.contains("leads to no repository"), "{refusal}");
}

#[test]
fn a_repository_below_that_worktrees_elsewhere_need_is_named() {
    let fixture = Fixture::new();
    publish(&fixture);
    fixture.git("w", &["clone", "-q", "../origin.git", "ignored"]);
    free(&fixture);
    fixture.git("w/ignored", &["worktree", "add", "-q", "--detach", "../../elsewhere"]);
    let refusal = refused(&fixture);
    assert!(refusal.contains("is the repository of the worktree"), "{refusal}");
}

#[test]
fn a_hooks_folder_of_several_repositories_is_judged_by_each_of_them() {
    let fixture = Fixture::new();
    publish(&fixture);
    fs::create_dir(fixture.path("multi")).unwrap();
    for name in ["api", "web"] {
        fixture.git("repo", &["clone", "-q", "../origin.git", &format!("../multi/{name}")]);
    }
    fixture.git("repo", &["worktree", "add", "-q", "-b", "third", "../multi/third"]);
    let judged = || refuse_loss(&fixture.path("multi"), &fixture.config);
    judged().unwrap();
    fixture.write("multi/web/file", "dirty");
    assert!(judged().unwrap_err().to_string().contains("multi/web holds 1 changed file"));
    fixture.git("multi/web", &["checkout", "-q", "-f"]);
    fixture.commit("multi/api");
    assert!(judged().unwrap_err().to_string().contains("multi/api has 1 commit"));
    fixture.git("multi/api", &["push", "-q", "origin", "HEAD:refs/heads/x"]);
    judged().unwrap();
    fixture.commit("multi/third");
    assert!(judged().unwrap_err().to_string().contains("multi/third has 1 commit"));
}

#[test]
fn a_hooks_folder_inside_a_repository_is_judged_by_what_is_in_it() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("repo/sub/dir")).unwrap();
    let judged = || refuse_loss(&fixture.path("repo/sub"), &fixture.config);
    fixture.write("repo/new", "not in it");
    judged().unwrap();
    fixture.write("repo/sub/dir/new", "in it");
    assert!(judged().unwrap_err().to_string().contains("(sub/dir/new)"));
}
