//! Situations from public reports that the drawing does not come to by itself, each a claim.
//!
//! The others are features of the drawing, by the number of their row in the table of reports:
//! 1 something mounted inside; 2, 3 a change behind an index flag; 4 files in a submodule that is
//! not populated; 5 worktrees that reach each other's commits; 8, 10 nested repositories; 11 and
//! the like, commits that only the administrative folder names; 13 a folder moved in a merge;
//! 15 a cherry-pick of which only the list is left; 17 a live session by another spelling;
//! 34, 66b a branch that an agent deletes; 42 populated submodules; 44 a directory by a link;
//! 51 programs that settings name. Row 33 is `crash.rs`, row 32 is in `expiry.rs`.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use sessionmesh::{
    replica::{
        effect::TeardownOutcome,
        record::TeardownAction::{self, Force, Retry},
    },
    teardown,
};

use crate::{features, git::git, scene::Scene, template::Flavour};

fn make(scene: &mut Scene, name: &str) {
    let feature = features::all().find(|feature| feature.name == name).expect("a known feature");
    (feature.make)(scene, 0, &mut fastrand::Rng::with_seed(1));
}

/// Row 6.
#[test]
fn a_retry_takes_no_submodule_whose_folder_was_removed_since_the_refusal() {
    let mut scene = Scene::new(Flavour::Remote);
    scene.add_tree("w0", "origin/subs");
    make(&mut scene, "a submodule with a branch of its own");
    scene.end(0, Retry, 1).unwrap_err();
    fs::remove_dir_all(scene.trees[0].path.join("lib")).unwrap();
    let reason = scene.end(0, Retry, 2).unwrap_err();
    assert!(reason.contains("lib"), "it names the submodule: {reason}");
    let kept = scene.trees[0].admin.join("modules/lib/refs/heads/topic");
    assert!(kept.exists());
}

/// Row 11, where no reflog names it either: git keeps such a commit only until its next `gc`.
#[test]
fn a_commit_that_only_a_ref_of_the_worktree_names_is_refused_and_pinned() {
    let mut scene = Scene::new(Flavour::Remote);
    scene.add_tree("w0", "origin/main");
    let path = scene.trees[0].path.clone();
    git(&path, &["checkout", "-q", "--detach"]);
    let commit = scene.commit(&path);
    git(&path, &["update-ref", "refs/worktree/checkpoint", "HEAD"]);
    git(&path, &["checkout", "-q", "feature0"]);
    fs::remove_file(scene.trees[0].admin.join("logs/HEAD")).unwrap();
    let reason = scene.end(0, Retry, 1).unwrap_err();
    assert!(reason.contains("commit"), "{reason}");
    scene.end(0, Force, 2).unwrap();
    git(&scene.repo(), &["gc", "-q", "--prune=now"]);
    assert_eq!(git(&scene.repo(), &["cat-file", "-t", &commit]), "commit");
    scene.config.trash.restore("wrk_0", None).unwrap();
    assert_eq!(git(&path, &["rev-parse", "refs/worktree/checkpoint"]), commit);
}

/// Row 14.
#[test]
fn a_hook_is_not_run_over_a_folder_of_repositories_of_which_one_holds_work() {
    for (name, holds_work) in [
        ("dirty", true),
        ("unpushed", true),
        ("unpublished", true),
        ("stash", true),
        ("unborn", true),
        ("bare.git", true),
        ("published", false),
    ] {
        let scene = Scene::new(Flavour::Remote);
        let ran = hook(&scene);
        let folder = scene.path("multi");
        scene.flavour.copy_nested("published", &folder.join("web"));
        scene.flavour.copy_nested(name, &folder.join("services/deep/api"));
        let outcome = end_boxed(&scene, &folder, Retry);
        let refused = matches!(outcome, TeardownOutcome::Failed(_));
        assert_eq!((refused, ran.exists()), (holds_work, !holds_work), "{name}: {outcome:?}");
        if refused {
            let forced = end_boxed(&scene, &folder, Force);
            assert!(ran.exists() && matches!(forced, TeardownOutcome::Done(_)), "{forced:?}");
        }
    }
}

/// Names a hook for workspaces of the kind `box`, and returns the file that it leaves.
fn hook(scene: &Scene) -> std::path::PathBuf {
    let ran = scene.path("ran");
    let script = format!("touch '{}'", ran.display());
    let hooks = serde_json::json!({ "box": { "argv": ["/bin/sh", "-c", script] } });
    let path = scene.path("data/hooks.json");
    fs::write(&path, hooks.to_string()).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    ran
}

fn end_boxed(scene: &Scene, folder: &Path, action: TeardownAction) -> TeardownOutcome {
    let mut of_tree = Scene::new(Flavour::Remote);
    of_tree.add_tree("w0", "origin/main");
    let mut due = of_tree.due(0, action, 1);
    due.workspace.kind = "box".to_owned();
    due.workspace.directory = folder.to_str().map(str::to_owned);
    teardown::end(&due, &[], &scene.config)
}

/// Row 35.
#[test]
fn a_worktree_deleted_by_hand_is_forgotten_by_its_repository_however_far_away_that_is() {
    let mut scene = Scene::new(Flavour::Remote);
    scene.add_tree("far/away/from/it/w0", "origin/main");
    scene.look(0);
    fs::remove_dir_all(scene.path("far")).unwrap();
    scene.end(0, Retry, 1).unwrap();
    let listed = git(&scene.repo(), &["worktree", "list"]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
    git(&scene.repo(), &["branch", "-D", "feature0"]);
}

/// Row 35: it is not said that something was removed which was never found.
#[test]
fn a_missing_worktree_whose_repository_can_not_be_read_is_not_called_removed() {
    let mut scene = Scene::new(Flavour::Remote);
    scene.add_tree("far/w0", "origin/main");
    scene.look(0);
    fs::rename(scene.path("far/w0"), scene.path("moved")).unwrap();
    fs::rename(scene.repo(), scene.path("unplugged")).unwrap();
    let reason = scene.end(0, Retry, 1).unwrap_err();
    assert!(reason.contains("repo"), "it names the repository: {reason}");
}

/// Row 43.
#[test]
fn a_worktree_whose_parent_became_a_file_counts_as_missing() {
    let mut scene = Scene::new(Flavour::Remote);
    scene.add_tree("parent/w0", "origin/main");
    scene.look(0);
    fs::remove_dir_all(scene.path("parent")).unwrap();
    fs::write(scene.path("parent"), "a file now\n").unwrap();
    scene.end(0, Retry, 1).unwrap();
    assert!(scene.path("parent").is_file());
    assert_eq!(git(&scene.repo(), &["worktree", "list"]).lines().count(), 1);
}

/// Row 1: the reason has to lead to what is to be unmounted.
#[test]
fn what_is_mounted_inside_is_named_in_the_refusal_also_of_a_forced_end() {
    if crate::scene::without_root() {
        return;
    }
    let mut scene = Scene::new(Flavour::Remote);
    scene.add_tree("w0", "origin/main");
    let (outside, at) = (scene.path("outside"), scene.path("w0/ignored/data set"));
    scene.mount(&["--bind"], &outside, &at);
    for action in [Retry, Force] {
        let reason = scene.end(0, action, 1).unwrap_err();
        assert!(reason.contains("ignored/data set"), "{reason}");
    }
    assert!(outside.join("precious").exists());
    scene.unmount(&at);
    scene.end(0, Retry, 2).unwrap();
    assert!(outside.join("precious").exists());
}

/// Row 19: what git ignores goes to the trash, and how much that is can be seen.
#[test]
fn an_entry_says_how_much_of_it_is_ignored_and_what_is_nested() {
    let mut scene = Scene::new(Flavour::Remote);
    scene.add_tree("w0", "origin/main");
    make(&mut scene, "a large ignored file");
    let nested = scene.trees[0].path.join("ignored/deep/repository");
    scene.flavour.copy_nested("published", &nested);
    scene.end(0, Force, 1).unwrap();
    let entry = scene.config.trash.get("wrk_0").unwrap();
    let held = entry.held.expect("it could be read");
    assert!(held.ignored >= 300_000, "{held:?}");
    assert_eq!(held.nested, ["ignored/deep/repository"]);
    assert_eq!((held.uncommitted, held.untracked, held.unreached), (0, 0, 0), "{held:?}");
}
