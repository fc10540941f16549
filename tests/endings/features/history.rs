//! Draws commits, and what is unfinished.

use std::fs;

use fastrand::Rng;

use super::{
    Feature, Group,
    Loss::{self, Either, Nothing, Refused},
    feature,
};
use crate::{
    git::{git, stops},
    scene::Scene,
};

const fn of(loss: Loss, name: &'static str, make: fn(&mut Scene, usize, &mut Rng)) -> Feature {
    feature(Group::History, loss, name, make)
}

const fn un(name: &'static str, make: fn(&mut Scene, usize, &mut Rng)) -> Feature {
    feature(Group::Unfinished, Refused, name, make)
}

/// Commits, by what reaches them.
pub const HISTORY: &[Feature] = &[
    of(Refused, "unpushed commits on its branch", |scene, tree, rng| {
        for _ in 0..rng.usize(1..3) {
            scene.commit(&scene.trees[tree].path.clone());
        }
    }),
    of(Nothing, "a commit that is elsewhere, too", |scene, tree, _| {
        let commit = scene.commit(&scene.trees[tree].path.clone());
        scene.publish(tree, &commit);
    }),
    of(Nothing, "a detached HEAD", |scene, tree, _| detach(scene, tree)),
    of(Refused, "a commit on a detached HEAD", |scene, tree, _| {
        detach(scene, tree);
        scene.commit(&scene.trees[tree].path.clone());
    }),
    of(Refused, "a commit that only its reflog names", |scene, tree, _| {
        let path = scene.trees[tree].path.clone();
        let branch = git(&path, &["branch", "--show-current"]);
        detach(scene, tree);
        scene.commit(&path);
        git(&path, &["checkout", "-q", &branch]);
    }),
    of(Refused, "a commit that only refs/worktree and its reflog name", |scene, tree, _| {
        let path = scene.trees[tree].path.clone();
        let branch = git(&path, &["branch", "--show-current"]);
        detach(scene, tree);
        scene.commit(&path);
        git(&path, &["update-ref", "refs/worktree/checkpoint", "HEAD"]);
        git(&path, &["checkout", "-q", &branch]);
    }),
    of(Either, "an amended commit", |scene, tree, _| {
        let path = scene.trees[tree].path.clone();
        scene.commit(&path);
        git(&path, &["commit", "-q", "--amend", "-m", "better words"]);
        scene.publish(tree, "HEAD");
    }),
    of(Refused, "a commit amended on a detached HEAD", |scene, tree, _| {
        let path = scene.trees[tree].path.clone();
        detach(scene, tree);
        scene.commit(&path);
        fs::write(path.join("file"), "amended\n").expect("a file");
        git(&path, &["commit", "-q", "-a", "--amend", "-m", "better words"]);
        scene.publish(tree, "HEAD");
    }),
    of(Either, "a commit that a reset left", |scene, tree, _| {
        let path = scene.trees[tree].path.clone();
        scene.commit(&path);
        git(&path, &["reset", "-q", "--hard", "HEAD~1"]);
    }),
    of(Either, "a commit that only a tag reaches", |scene, tree, _| {
        let path = scene.trees[tree].path.clone();
        detach(scene, tree);
        scene.commit(&path);
        let tag = scene.fresh("tag");
        git(&path, &["tag", &tag]);
    }),
    of(Either, "a branch without commits", |scene, tree, _| {
        let branch = scene.fresh("unborn");
        git(&scene.trees[tree].path, &["switch", "-q", "--orphan", &branch]);
        scene.trees[tree].branch = None;
    }),
    of(Nothing, "a stash", |scene, tree, _| {
        let path = scene.trees[tree].path.clone();
        fs::write(path.join("third"), "stashed\n").expect("a file");
        git(&path, &["stash", "-q"]);
    }),
];

fn detach(scene: &Scene, tree: usize) {
    git(&scene.trees[tree].path, &["checkout", "-q", "--detach"]);
}

/// What git began and has not ended. The status of some of them is clean.
pub const UNFINISHED: &[Feature] = &[
    un("a merge with a conflict", |scene, tree, rng| {
        let path = scene.trees[tree].path.clone();
        stops(&path, &["merge", "-q", &scene.upstream("side")]);
        if rng.bool() {
            fs::write(path.join("file"), "resolved\n").expect("a file");
            git(&path, &["add", "file"]);
        }
    }),
    un("a merge that changes nothing", |scene, tree, _| {
        let merge = ["merge", "-q", "-s", "ours", "--no-commit", &scene.upstream("side")];
        git(&scene.trees[tree].path, &merge);
    }),
    un("a rebase", |scene, tree, _| {
        stops(&scene.trees[tree].path, &["rebase", "-q", &scene.upstream("side")]);
    }),
    un("a cherry-pick with a conflict", |scene, tree, _| {
        stops(&scene.trees[tree].path, &["cherry-pick", &scene.upstream("side")]);
    }),
    un("a cherry-pick of which only the list is left", |scene, tree, _| {
        let (path, side) = (scene.trees[tree].path.clone(), scene.upstream("side"));
        stops(&path, &["cherry-pick", &format!("{side}~2"), &format!("{side}~1"), &side]);
        fs::write(path.join("file"), "resolved\n").expect("a file");
        git(&path, &["commit", "-q", "-a", "-m", "resolved"]);
        scene.publish(tree, "HEAD");
        assert!(scene.trees[tree].admin.join("sequencer/todo").exists());
    }),
    un("a revert with a conflict", |scene, tree, _| {
        let (path, main) = (scene.trees[tree].path.clone(), scene.upstream("main"));
        stops(&path, &["revert", "--no-edit", &format!("{main}~1")]);
    }),
    un("a bisection", |scene, tree, _| {
        let path = scene.trees[tree].path.clone();
        git(&path, &["bisect", "start", "HEAD", &format!("{}~2", scene.upstream("main"))]);
    }),
    un("patches that are applied", |scene, tree, _| {
        let patch = scene.path("patch");
        stops(&scene.trees[tree].path, &["am", "-q", patch.to_str().expect("it is text")]);
    }),
];
