//! Draws repositories and worktrees inside the worktree, at any depth.

use std::path::PathBuf;

use fastrand::Rng;

use super::{
    Feature, Group,
    Loss::{self, Either, Refused, RefusedPerhaps},
    feature,
};
use crate::{
    git::{self, git},
    scene::Scene,
};

const fn of(loss: Loss, name: &'static str, make: fn(&mut Scene, usize, &mut Rng)) -> Feature {
    feature(Group::Nested, loss, name, make)
}

/// Repositories below the worktree. An ignored folder hides them from `git status`; in any other
/// they are untracked, which alone is refused.
pub const NESTED: &[Feature] = &[
    of(Refused, "a nested repository without a remote", |scene, tree, rng| {
        copied(scene, tree, rng, "unpublished");
    }),
    of(Refused, "a nested repository with unpushed commits", |scene, tree, rng| {
        copied(scene, tree, rng, "unpushed");
    }),
    of(Either, "a nested repository with all of it pushed", |scene, tree, rng| {
        copied(scene, tree, rng, "published");
    }),
    of(Refused, "a nested repository with a changed file", |scene, tree, rng| {
        copied(scene, tree, rng, "dirty");
    }),
    of(Refused, "a nested repository with a stash", |scene, tree, rng| {
        copied(scene, tree, rng, "stash");
    }),
    of(Refused, "a nested repository without commits", |scene, tree, rng| {
        copied(scene, tree, rng, "unborn");
    }),
    of(Refused, "a nested bare repository", |scene, tree, rng| {
        copied(scene, tree, rng, "bare.git");
    }),
    of(RefusedPerhaps, "a worktree of the same repository inside", |scene, tree, rng| {
        let (at, branch) = (place(scene, tree, rng), scene.fresh("inside"));
        let text = at.to_str().expect("it is text");
        git(&scene.repo(), &["worktree", "add", "-q", "--no-track", "-b", &branch, text]);
        scene.trees[tree].inner.push(git::rev_parse(&at, "--git-dir"));
        scene.trees[tree].probes.push(at);
    }),
    of(Either, "a clean worktree of another repository inside", |scene, tree, rng| {
        other(scene, tree, rng);
    }),
    of(Refused, "a worktree of another repository inside, with a commit", |scene, tree, rng| {
        let at = other(scene, tree, rng);
        scene.commit(&at);
    }),
    of(Refused, "a worktree of another repository inside, with a file", |scene, tree, rng| {
        let at = other(scene, tree, rng);
        std::fs::write(at.join("new"), "new\n").expect("a file");
    }),
];

/// Draws a folder that does not exist yet. Only an ignored one shows that it is not `git status`
/// that finds what is in it, so most are ignored.
fn place(scene: &mut Scene, tree: usize, rng: &mut Rng) -> PathBuf {
    let mut path = scene.trees[tree].path.clone();
    path.push(match rng.u8(..8) {
        0 => "plain",
        1 => "node_modules",
        _ => "ignored",
    });
    for _ in 0..rng.usize(..4) {
        path.push(scene.fresh("level"));
    }
    path.push(scene.fresh("nested"));
    path
}

fn copied(scene: &mut Scene, tree: usize, rng: &mut Rng, name: &str) {
    let at = place(scene, tree, rng);
    scene.flavour.copy_nested(name, &at);
    if name != "bare.git" {
        scene.trees[tree].probes.push(at);
    }
}

fn other(scene: &mut Scene, tree: usize, rng: &mut Rng) -> PathBuf {
    let (at, branch) = (place(scene, tree, rng), scene.fresh("elsewhere"));
    let (repository, text) = (scene.path("other"), at.to_str().expect("it is text"));
    git(&repository, &["worktree", "add", "-q", "-b", &branch, text]);
    scene.trees[tree].inner.push(git::rev_parse(&at, "--git-dir"));
    scene.trees[tree].probes.push(at.clone());
    if !scene.others.contains(&repository) {
        scene.others.push(repository);
    }
    at
}
