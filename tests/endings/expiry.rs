//! What lies in the trash goes when its time is over or its space is needed, and takes nothing
//! along; until then it is kept, whatever git is asked to clean up.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use sessionmesh::{
    clock,
    replica::{record::TeardownAction, trash::TrashState},
    teardown::trash::{KEEP_REMOVED_DEFAULT, Settings, TrashError},
};

use crate::{
    features::loose,
    git::git,
    record,
    scene::{Scene, quick, skipped, without_root},
    template::Flavour,
};

const HOUR_MS: i64 = 60 * 60 * 1_000;

/// Makes a scene with a worktree `w0`.
pub fn scene() -> Scene {
    let mut scene = Scene::new(Flavour::Remote);
    scene.add_tree("w0", "origin/main");
    scene
}

pub fn force(scene: &Scene, tree: usize) {
    scene.end(tree, TeardownAction::Force, 1).unwrap();
}

/// Returns where the files of a tree lie in the trash.
pub fn kept_at(scene: &Scene, tree: usize) -> PathBuf {
    let entry = scene.config.trash.get(&scene.trees[tree].id).expect("it is in the trash");
    PathBuf::from(entry.place.expect("a folder was moved there"))
}

fn has(scene: &Scene, object: &str) -> bool {
    record::missing(&scene.repo(), &BTreeSet::from([object.to_owned()])).is_empty()
}

#[test]
fn git_deletes_what_only_the_trash_named_once_its_time_is_over_and_not_before() {
    let mut scene = scene();
    let path = scene.trees[0].path.clone();
    git(&path, &["checkout", "-q", "--detach"]);
    let commit = scene.commit(&path);
    git(&path, &["checkout", "-q", "feature0"]);
    loose::write(&scene, 0, "staged", b"only in the index\n");
    git(&path, &["add", "staged"]);
    let blob = git(&path, &["rev-parse", ":staged"]);
    force(&scene, 0);
    let gc = || git(&scene.repo(), &["gc", "-q", "--prune=now"]);
    gc();
    assert!(has(&scene, &commit) && has(&scene, &blob), "the trash keeps them");
    let over = clock::wall_ms() + i64::try_from(KEEP_REMOVED_DEFAULT.as_millis()).unwrap();
    scene.config.trash.maintain(over - HOUR_MS);
    assert!(kept_at(&scene, 0).join("staged").exists(), "there is still an hour");
    scene.config.trash.maintain(over + HOUR_MS);
    assert_eq!(scene.config.trash.list(), Vec::new());
    assert_eq!(git(&scene.repo(), &["for-each-ref", "refs/sessionmesh/"]), "");
    let kept = scene.common().join("sessionmesh-trash");
    assert_eq!(fs::read_dir(kept).into_iter().flatten().count(), 0);
    gc();
    assert!(!has(&scene, &commit) && !has(&scene, &blob), "nothing names them any more");
    assert!(git(&scene.repo(), &["branch", "--list", "feature0"]).contains("feature0"));
}

#[test]
fn what_is_deleted_for_good_is_not_looked_for_behind_links() {
    let scene = scene();
    let (path, outside) = (scene.trees[0].path.clone(), scene.path("outside"));
    fs::create_dir_all(path.join("ignored")).unwrap();
    std::os::unix::fs::symlink(&outside, path.join("ignored/folder")).unwrap();
    std::os::unix::fs::symlink(outside.join("precious"), path.join("ignored/file")).unwrap();
    fs::hard_link(outside.join("precious"), path.join("ignored/hard")).unwrap();
    let before = record::files(&outside, &[]);
    force(&scene, 0);
    let place = kept_at(&scene, 0);
    scene.config.trash.empty(&scene.trees[0].id).unwrap();
    assert!(!place.exists());
    assert_eq!(record::difference(&before, &record::files(&outside, &[]), &|_| true, true), None);
}

#[test]
fn what_can_not_be_written_to_is_deleted_all_the_same() {
    let mut scene = scene();
    let feature = crate::features::all()
        .find(|feature| feature.name == "files and folders without permission to write")
        .unwrap();
    (feature.make)(&mut scene, 0, &mut fastrand::Rng::with_seed(1));
    force(&scene, 0);
    let place = kept_at(&scene, 0);
    scene.config.trash.empty(&scene.trees[0].id).unwrap();
    assert!(!place.exists());
}

#[test]
fn what_is_mounted_into_the_trash_is_not_deleted_with_it() {
    if without_root() {
        return;
    }
    let mut scene = scene();
    loose::write(&scene, 0, "ignored/file", b"ignored\n");
    force(&scene, 0);
    let at = kept_at(&scene, 0).join("ignored/mounted");
    let outside = scene.path("outside");
    scene.mount(&["--bind"], &outside, &at);
    let id = scene.trees[0].id.clone();
    let stuck = scene.config.trash.empty(&id).unwrap_err();
    assert!(matches!(stuck, TrashError::Stuck { .. }), "{stuck}");
    assert!(outside.join("precious").exists());
    let entry = scene.config.trash.get(&id).unwrap();
    assert_eq!(entry.state, TrashState::Stuck);
    let problem = entry.problem.unwrap();
    assert!(problem.contains("mount"), "{problem}");
    scene.unmount(&at);
    scene.config.trash.maintain(clock::wall_ms());
    assert_eq!(scene.config.trash.get(&id), None, "it is tried again");
    assert!(outside.join("precious").exists());
}

#[test]
fn a_worktree_with_a_file_that_can_not_be_deleted_ends_and_is_stuck_until_it_can() {
    if without_root() {
        return;
    }
    let scene = scene();
    loose::write(&scene, 0, "node_modules/package/of-root", b"ignored\n");
    let immutable = |how: &str, path: &Path| {
        std::process::Command::new("chattr").arg(how).arg(path).status().is_ok_and(|s| s.success())
    };
    let file = "node_modules/package/of-root";
    if !immutable("+i", &scene.trees[0].path.join(file)) {
        skipped("the file system has no immutable files, or `chattr` is not installed");
        return;
    }
    let ended = scene.end(0, TeardownAction::Retry, 1);
    let (place, id) = (kept_at(&scene, 0), scene.trees[0].id.clone());
    let stuck = scene.config.trash.empty(&id);
    let state = scene.config.trash.get(&id).map(|entry| entry.state);
    assert!(immutable("-i", &place.join(file)), "or the test's folder stays");
    ended.unwrap();
    let stuck = stuck.unwrap_err().to_string();
    assert!(stuck.contains("of-root"), "it names the file: {stuck}");
    assert_eq!(state, Some(TrashState::Stuck));
    scene.config.trash.maintain(clock::wall_ms());
    assert_eq!(scene.config.trash.get(&id), None);
    assert!(!place.exists());
}

#[expect(clippy::print_stdout, reason = "what was not tested belongs to the result")]
#[test]
fn space_is_made_from_what_held_nothing_after_a_day_and_from_nothing_else() {
    let parent = quick();
    let room = rustix::fs::statvfs(&parent).unwrap();
    if room.f_bavail < room.f_blocks / 5 {
        println!("skipped: space is short on this machine in earnest");
        return;
    }
    let mut scene = Scene::new_in(Flavour::Remote, &parent);
    for place in ["w0", "w1", "w2"] {
        scene.add_tree(place, "origin/main");
    }
    for tree in [0, 1] {
        loose::write(&scene, tree, "ignored/cache", &[0; 100_000]);
    }
    loose::write(&scene, 2, "in no commit", &[0; 100_000]);
    scene.restart(Settings { trash_max: 250_000, ..Settings::default() });
    for tree in [2, 0, 1] {
        force(&scene, tree);
    }
    let ids = |scene: &Scene| -> BTreeSet<String> {
        scene.config.trash.list().into_iter().map(|entry| entry.id).collect()
    };
    let all: BTreeSet<String> = ["wrk_0", "wrk_1", "wrk_2"].map(str::to_owned).into();
    scene.config.trash.maintain(clock::wall_ms() + 23 * HOUR_MS);
    assert_eq!(ids(&scene), all, "nothing goes in its first day");
    scene.config.trash.maintain(clock::wall_ms() + 25 * HOUR_MS);
    let left: BTreeSet<String> = ["wrk_1", "wrk_2"].map(str::to_owned).into();
    assert_eq!(ids(&scene), left, "the oldest that held nothing makes room");
    scene.restart(Settings { trash_max: 1, ..Settings::default() });
    scene.config.trash.maintain(clock::wall_ms() + 25 * HOUR_MS);
    assert_eq!(ids(&scene), ["wrk_2".to_owned()].into(), "a file in no commit is never early");
    assert!(kept_at(&scene, 2).join("in no commit").exists());
}

#[test]
fn a_host_that_keeps_nothing_deletes_at_once() {
    let mut scene = scene();
    scene.restart(Settings { keep_removed: Duration::ZERO, ..Settings::default() });
    loose::write(&scene, 0, "ignored/file", b"ignored\n");
    let before = scene.files();
    scene.end(0, TeardownAction::Retry, 1).unwrap();
    assert_eq!(scene.config.trash.list(), Vec::new());
    assert!(!scene.trees[0].path.exists());
    let outside = |path: &Path| path.starts_with("outside");
    assert_eq!(record::difference(&before, &scene.files(), &outside, true), None);
    assert_eq!(git(&scene.repo(), &["for-each-ref", "refs/sessionmesh/"]), "");
}
