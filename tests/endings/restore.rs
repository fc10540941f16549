//! Putting back: what has changed meanwhile is neither overwritten nor taken over, and every place
//! that a folder can be moved to is one that it comes back from.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use sessionmesh::{
    replica::record::TeardownAction::{Force, Retry},
    teardown::trash::{Settings, TrashError},
};

use crate::{
    expiry::{force, kept_at, scene},
    features::loose,
    git::{attempt, git},
    record,
    scene::{Scene, without_root},
    template::Flavour,
};

#[test]
fn nothing_is_put_back_over_what_is_there_nor_from_what_is_not() {
    let scene = scene();
    loose::write(&scene, 0, "in no commit", b"mine\n");
    force(&scene, 0);
    let (path, id) = (scene.trees[0].path.clone(), scene.trees[0].id.clone());
    fs::create_dir(&path).unwrap();
    fs::write(path.join("newer"), "newer\n").unwrap();
    let trash = &scene.config.trash;
    let refused = trash.restore(&id, None).unwrap_err();
    assert!(matches!(&refused, TrashError::InTheWay(at) if *at == path), "{refused}");
    assert!(kept_at(&scene, 0).join("in no commit").exists() && path.join("newer").exists());
    let refused = trash.restore(&id, Some(&path)).unwrap_err().to_string();
    assert!(refused.contains(path.to_str().unwrap()), "{refused}");
    let unknown = trash.restore("wrk_none", None).unwrap_err();
    assert!(matches!(unknown, TrashError::Unknown(_)), "{unknown}");
    fs::remove_dir_all(&path).unwrap();
    trash.restore(&id, None).unwrap();
    assert_eq!(fs::read(path.join("in no commit")).unwrap(), b"mine\n");
}

#[test]
fn a_branch_that_went_on_meanwhile_is_left_where_it_is() {
    let mut scene = scene();
    let path = scene.trees[0].path.clone();
    let commit = scene.commit(&path);
    force(&scene, 0);
    git(&scene.repo(), &["branch", "-f", "feature0", "main"]);
    let restored = scene.config.trash.restore(&scene.trees[0].id, None).unwrap();
    assert!(!restored.notes.is_empty(), "it says that the branch is not attached");
    assert_eq!(git(&path, &["rev-parse", "HEAD"]), commit);
    let main = git(&scene.repo(), &["rev-parse", "main"]);
    assert_eq!(git(&scene.repo(), &["rev-parse", "feature0"]), main);
    assert_eq!(git(&path, &["status", "--porcelain"]), "");
}

#[test]
fn a_branch_that_is_checked_out_elsewhere_meanwhile_stays_there() {
    let scene = scene();
    loose::write(&scene, 0, "staged", b"staged\n");
    git(&scene.trees[0].path, &["add", "staged"]);
    force(&scene, 0);
    let other = scene.path("other place");
    git(&scene.repo(), &["worktree", "add", "-q", other.to_str().unwrap(), "feature0"]);
    let restored = scene.config.trash.restore(&scene.trees[0].id, None).unwrap();
    assert!(!restored.notes.is_empty(), "it says that the branch is not attached");
    let path = &scene.trees[0].path;
    assert_eq!(git(path, &["branch", "--show-current"]), "");
    assert_eq!(git(path, &["status", "--porcelain"]), "A  staged");
    assert_eq!(git(&other, &["branch", "--show-current"]), "feature0");
    assert_eq!(git(&other, &["status", "--porcelain"]), "");
}

#[test]
fn a_worktree_that_has_taken_its_name_in_the_repository_is_left_alone() {
    let scene = scene();
    loose::write(&scene, 0, "staged", b"staged\n");
    git(&scene.trees[0].path, &["add", "staged"]);
    force(&scene, 0);
    let other = scene.path("another/w0");
    fs::create_dir(scene.path("another")).unwrap();
    git(&scene.repo(), &["worktree", "add", "-q", "-b", "newer", other.to_str().unwrap()]);
    assert!(scene.trees[0].admin.exists(), "it has the name");
    let before = record::files(&scene.trees[0].admin, &[]);
    scene.config.trash.restore(&scene.trees[0].id, None).unwrap();
    assert_eq!(git(&scene.trees[0].path, &["status", "--porcelain"]), "A  staged");
    assert_eq!(git(&scene.trees[0].path, &["branch", "--show-current"]), "feature0");
    assert_eq!(git(&other, &["branch", "--show-current"]), "newer");
    let after = record::files(&scene.trees[0].admin, &[]);
    assert_eq!(record::difference(&before, &after, &|_| true, true), None);
    assert_eq!(git(&scene.repo(), &["worktree", "list"]).lines().count(), 3);
}

#[test]
fn what_was_put_back_can_end_again_and_each_end_can_be_had_back() {
    let scene = scene();
    let path = scene.trees[0].path.clone();
    for incarnation in 1..4 {
        loose::write(&scene, 0, &format!("work {incarnation}"), b"in no commit\n");
        let before = scene.files();
        scene.end(0, Force, incarnation).unwrap();
        scene.config.trash.restore("wrk_0", None).unwrap();
        let own = |path: &Path| path.starts_with("w0");
        let difference = record::difference(&before, &scene.files(), &own, true);
        assert_eq!(difference, None);
    }
    scene.end(0, Force, 4).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("mine"), "not what was ended\n").unwrap();
    scene.config.trash.restore("wrk_0", None).unwrap_err();
    assert!(path.join("mine").exists());
}

#[test]
fn a_repository_that_is_gone_is_named_and_the_files_can_still_be_had() {
    let scene = scene();
    loose::write(&scene, 0, "in no commit", b"mine\n");
    force(&scene, 0);
    fs::rename(scene.repo(), scene.path("unplugged")).unwrap();
    match scene.config.trash.restore("wrk_0", None) {
        // Either way nothing is lost and the repository is named.
        Ok(restored) => {
            assert!(restored.notes.concat().contains("repo"), "{:?}", restored.notes);
            assert!(scene.trees[0].path.join("in no commit").exists());
        }
        Err(error) => {
            assert!(error.to_string().contains("repo"), "{error}");
            assert!(kept_at(&scene, 0).join("in no commit").exists());
            fs::rename(scene.path("unplugged"), scene.repo()).unwrap();
            scene.config.trash.restore("wrk_0", None).unwrap();
            assert!(scene.trees[0].path.join("in no commit").exists());
        }
    }
}

#[test]
fn a_worktree_inside_another_that_ends_before_it_comes_back_after_it() {
    let mut scene = scene();
    scene.add_tree("w0/ignored/w1", "origin/main");
    loose::write(&scene, 1, "in no commit", b"inner\n");
    let before = scene.files();
    scene.end(0, Retry, 1).unwrap_err();
    scene.end(1, Force, 1).unwrap();
    scene.end(0, Retry, 2).unwrap();
    assert!(!scene.path("w0").exists());
    for tree in [0, 1] {
        scene.config.trash.restore(&scene.trees[tree].id, None).unwrap();
    }
    let own = |path: &Path| path.starts_with("w0");
    assert_eq!(record::difference(&before, &scene.files(), &own, true), None);
    assert_eq!(git(&scene.path("w0"), &["status", "--porcelain"]), "");
    assert_eq!(
        git(&scene.path("w0/ignored/w1"), &["status", "--porcelain"]),
        "?? \"in no commit\""
    );
}

/// Makes a scene whose worktree lies on a filesystem of its own, at `disk/far/w0`.
fn on_another_filesystem() -> Scene {
    let mut scene = Scene::new(Flavour::Remote);
    let disk = scene.path("disk");
    scene.mount(&["-t", "tmpfs", "-o", "mode=755"], Path::new("tmpfs"), &disk);
    scene.add_tree("disk/far/w0", "origin/main");
    loose::write(&scene, 0, "in no commit", b"mine\n");
    scene
}

#[test]
fn a_worktree_on_another_filesystem_stays_on_it_and_comes_back() {
    if without_root() {
        return;
    }
    let scene = on_another_filesystem();
    let path = scene.trees[0].path.clone();
    let device = path.metadata().unwrap().dev();
    force(&scene, 0);
    let place = kept_at(&scene, 0);
    assert!(place.starts_with(scene.path("disk")), "{}", place.display());
    assert_eq!(place.metadata().unwrap().dev(), device);
    let holding = place.ancestors().find(|at| at.ends_with(".sessionmesh-trash")).unwrap();
    assert_eq!(holding.metadata().unwrap().mode() & 0o7777, 0o700);
    scene.config.trash.restore("wrk_0", None).unwrap();
    assert!(path.join("in no commit").exists() && !place.exists());
    assert_eq!(git(&path, &["status", "--porcelain"]), "?? \"in no commit\"");
}

#[test]
fn a_link_where_the_trash_is_to_be_is_not_followed() {
    if without_root() {
        return;
    }
    let scene = on_another_filesystem();
    let trap = scene.path("disk/trap");
    fs::create_dir(&trap).unwrap();
    symlink(&trap, scene.path("disk/far/.sessionmesh-trash")).unwrap();
    symlink(&trap, scene.path("disk/.sessionmesh-trash")).unwrap();
    let ended = scene.end(0, Force, 1);
    assert_eq!(fs::read_dir(&trap).unwrap().count(), 0, "{ended:?}");
    let path = scene.trees[0].path.join("in no commit");
    assert!(path.exists() || kept_at(&scene, 0).join("in no commit").exists());
}

#[test]
fn a_worktree_that_is_a_whole_filesystem_is_refused_and_stays() {
    if without_root() {
        return;
    }
    let mut scene = Scene::new(Flavour::Remote);
    let disk = scene.path("disk");
    scene.mount(&["-t", "tmpfs"], Path::new("tmpfs"), &disk);
    scene.add_tree("disk", "origin/main");
    loose::write(&scene, 0, "in no commit", b"mine\n");
    for action in [Retry, Force] {
        scene.end(0, action, 1).unwrap_err();
    }
    assert!(disk.join("in no commit").exists() && scene.trees[0].admin.exists());
    assert_eq!(git(&disk, &["status", "--porcelain"]), "?? \"in no commit\"");
}

#[test]
fn a_place_on_another_filesystem_is_refused_and_nothing_is_copied() {
    if without_root() {
        return;
    }
    let mut scene = scene();
    loose::write(&scene, 0, "in no commit", b"mine\n");
    force(&scene, 0);
    let disk = scene.path("disk");
    scene.mount(&["-t", "tmpfs"], Path::new("tmpfs"), &disk);
    let refused = scene.config.trash.restore("wrk_0", Some(&disk.join("w"))).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("another file system") && text.contains("disk/w"), "{text}");
    assert!(kept_at(&scene, 0).join("in no commit").exists() && !disk.join("w").exists());
}

#[test]
fn a_trash_that_can_not_be_written_fails_the_end_and_leaves_everything() {
    let mut scene = scene();
    loose::write(&scene, 0, "in no commit", b"mine\n");
    let before = scene.files();
    fs::write(scene.path("data/trash"), "a file is in the way").unwrap();
    scene.restart(Settings::default());
    let reason = scene.end(0, Force, 1).unwrap_err();
    assert!(reason.contains("trash"), "it names the folder: {reason}");
    let difference = record::difference(&before, &scene.files(), &|_| true, true);
    assert_eq!(difference, None);
    fs::remove_file(scene.path("data/trash")).unwrap();
    force(&scene, 0);
    assert!(kept_at(&scene, 0).join("in no commit").exists());
}

#[test]
fn an_entry_is_its_owners_alone_to_look_into() {
    let scene = scene();
    loose::write(&scene, 0, ".env", b"SECRET=1\n");
    fs::set_permissions(scene.trees[0].path.join(".env"), Permissions::from_mode(0o644)).unwrap();
    force(&scene, 0);
    let place = kept_at(&scene, 0);
    let closed = |at: &&Path| at.metadata().is_ok_and(|found| found.mode() & 0o077 == 0);
    let inside = place.ancestors().take_while(|at| at.starts_with(&scene.root));
    assert!(inside.filter(|at| *at != scene.root).any(|at| closed(&at)), "{}", place.display());
}

#[test]
fn an_entry_that_is_being_deleted_is_not_put_back_half() {
    let scene = scene();
    loose::write(&scene, 0, "in no commit", b"mine\n");
    force(&scene, 0);
    scene.config.trash.empty("wrk_0").unwrap();
    let refused = scene.config.trash.restore("wrk_0", None).unwrap_err();
    assert!(matches!(refused, TrashError::Unknown(_) | TrashError::NotKept { .. }), "{refused}");
    assert!(!scene.trees[0].path.exists());
    let pruned = attempt(&scene.repo(), &["worktree", "prune", "--dry-run", "-v"]);
    assert!(pruned.stdout.is_empty() && pruned.stderr.is_empty());
}
