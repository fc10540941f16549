//! Draws what becomes of submodules, on a branch that has two: `lib`, and `outer` with one inside.

use std::{fs, path::PathBuf};

use fastrand::Rng;

use super::{
    Feature, Group,
    Loss::{self, Nothing, Refused},
    feature, loose,
};
use crate::{git::git, scene::Scene};

const fn of(loss: Loss, name: &'static str, make: fn(&mut Scene, usize, &mut Rng)) -> Feature {
    feature(Group::Submodules, loss, name, make)
}

/// Submodules, populated or not.
pub const SUBMODULES: &[Feature] = &[
    of(Nothing, "submodules that are not populated", |_, _, _| {}),
    of(Refused, "files in the folder of a submodule that is not populated", |scene, tree, _| {
        loose::write(scene, tree, "lib/generated", b"in no commit\n");
    }),
    of(Nothing, "a populated submodule", |scene, tree, _| {
        populate(scene, tree, false);
    }),
    of(Refused, "a submodule with a file in no commit", |scene, tree, rng| {
        let lib = populate(scene, tree, false);
        let name = if rng.bool() { "code" } else { "new" };
        fs::write(lib.join(name), "changed\n").expect("a file");
    }),
    of(Refused, "a submodule with a commit of its own", |scene, tree, _| {
        let lib = populate(scene, tree, false);
        scene.commit(&lib);
    }),
    of(Refused, "a submodule with a branch of its own", |scene, tree, _| {
        let lib = populate(scene, tree, false);
        branch(scene, &lib);
    }),
    of(Refused, "a submodule with a stash", |scene, tree, _| {
        let lib = populate(scene, tree, false);
        fs::write(lib.join("code"), "stashed\n").expect("a file");
        git(&lib, &["stash", "-q"]);
    }),
    of(Refused, "a submodule with a commit whose folder is removed", |scene, tree, _| {
        let lib = populate(scene, tree, false);
        branch(scene, &lib);
        fs::remove_dir_all(&lib).expect("it is ours");
        scene.trees[tree].probes.retain(|probe| *probe != lib);
    }),
    of(Refused, "a submodule with a commit that is deinitialised", |scene, tree, _| {
        let lib = populate(scene, tree, false);
        branch(scene, &lib);
        git(&scene.trees[tree].path, &["submodule", "--quiet", "deinit", "-f", "lib"]);
        scene.trees[tree].probes.retain(|probe| *probe != lib);
    }),
    of(Refused, "a submodule in a submodule with a commit of its own", |scene, tree, _| {
        let outer = populate(scene, tree, true);
        branch(scene, &outer.join("inner"));
    }),
    of(Nothing, "a populated submodule in a submodule", |scene, tree, _| {
        populate(scene, tree, true);
    }),
];

/// Populates a submodule, and returns its folder.
fn populate(scene: &mut Scene, tree: usize, nested: bool) -> PathBuf {
    let path = scene.trees[tree].path.clone();
    let name = if nested { "outer" } else { "lib" };
    // Without a remote, a relative address is taken from the worktree.
    for name in ["lib", "outer"] {
        let url = scene.path(name);
        let key = format!("submodule.{name}.url");
        git(&scene.repo(), &["config", &key, url.to_str().expect("it is text")]);
    }
    let mut arguments = vec!["submodule", "--quiet", "update", "--init"];
    if nested {
        arguments.push("--recursive");
    }
    arguments.push(name);
    git(&path, &arguments);
    let folder = path.join(name);
    scene.trees[tree].probes.push(folder.clone());
    if nested {
        scene.trees[tree].probes.push(folder.join("inner"));
    }
    folder
}

/// Commits on a branch of a submodule, and leaves it again.
fn branch(scene: &mut Scene, at: &std::path::Path) {
    git(at, &["checkout", "-q", "-b", "topic"]);
    scene.commit(at);
    git(at, &["checkout", "-q", "--detach", "HEAD~1"]);
}
