//! Draws files that are not as the commit has them, and marks in the index.

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    path::PathBuf,
};

use fastrand::Rng;

use super::{
    Feature, Group,
    Loss::{self, Either, Nothing, Refused},
    feature,
};
use crate::{git::git, scene::Scene};

const fn of(loss: Loss, name: &'static str, make: fn(&mut Scene, usize, &mut Rng)) -> Feature {
    feature(Group::Loose, loss, name, make)
}

const fn flag(loss: Loss, name: &'static str, make: fn(&mut Scene, usize, &mut Rng)) -> Feature {
    feature(Group::Flags, loss, name, make)
}

/// Names that a shell, a line or a text would trip over.
const ODD_NAMES: &[&[u8]] = &[
    b"new\nline",
    b"not \xff\xfe UTF-8",
    b"-leading",
    b"trailing ",
    b"--",
    b"quote\"'$(touch x)`",
    "\u{202e}gnp.exe".as_bytes(),
    b"*",
    b"back\\slash",
];

/// Files, as editors, builds and people leave them.
pub const LOOSE: &[Feature] = &[
    of(Refused, "a changed file", |scene, tree, _| write(scene, tree, "third", b"changed\n")),
    of(Refused, "a staged file", |scene, tree, rng| {
        let name = scene.fresh("staged");
        write(scene, tree, &name, b"staged\n");
        git(&scene.trees[tree].path, &["add", "--", &name]);
        match rng.u8(0..3) {
            0 => write(scene, tree, &name, b"and changed since\n"),
            1 => fs::remove_file(scene.trees[tree].path.join(&name)).expect("it is there"),
            _ => {}
        }
    }),
    of(Refused, "an untracked file", |scene, tree, _| {
        let name = scene.fresh("untracked");
        write(scene, tree, &name, b"in no commit\n");
    }),
    of(Refused, "an untracked file in a new folder", |scene, tree, _| {
        let name = format!("{}/below/it", scene.fresh("folder"));
        write(scene, tree, &name, b"in no commit\n");
    }),
    of(Refused, "an untracked file of size zero", |scene, tree, _| {
        let name = scene.fresh("empty");
        write(scene, tree, &name, b"");
    }),
    of(Refused, "an untracked file with an odd name", |scene, tree, rng| {
        odd(scene, tree, rng, "");
    }),
    of(Refused, "an intent to add", |scene, tree, _| {
        let name = scene.fresh("intended");
        write(scene, tree, &name, b"intended\n");
        git(&scene.trees[tree].path, &["add", "-N", "--", &name]);
    }),
    of(Refused, "a deleted file", |scene, tree, _| {
        let _ = fs::remove_file(scene.trees[tree].path.join("dir/b"));
    }),
    of(Refused, "a file that is no longer tracked", |scene, tree, _| {
        git(&scene.trees[tree].path, &["rm", "-q", "--cached", "--ignore-unmatch", "dir/a"]);
    }),
    of(Refused, "a file that became executable", |scene, tree, _| {
        let path = scene.trees[tree].path.join("deep/er/c");
        write(scene, tree, "deep/er/c", b"c\n");
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it is ours");
    }),
    of(Refused, "a file that became a link", |scene, tree, _| {
        let path = scene.trees[tree].path.join("other");
        let _ = fs::remove_file(&path);
        symlink("file", path).expect("a link");
    }),
    of(Refused, "an untracked link", |scene, tree, _| {
        let name = scene.fresh("link");
        symlink(scene.path("outside"), scene.trees[tree].path.join(name)).expect("a link");
    }),
    of(Nothing, "ignored files", |scene, tree, _| {
        write(scene, tree, "ignored/some/cache", b"ignored\n");
        write(scene, tree, "node_modules/package/index.js", b"ignored\n");
        write(scene, tree, "build.log", b"ignored\n");
        write(scene, tree, ".env", b"SECRET=1\n");
    }),
    of(Nothing, "an ignored file with an odd name", |scene, tree, rng| {
        odd(scene, tree, rng, "ignored");
    }),
    of(Nothing, "a large ignored file", |scene, tree, rng| {
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(300_000).collect();
        write(scene, tree, "ignored/large", &bytes);
    }),
    of(Nothing, "a file that only this machine ignores", |scene, tree, _| {
        let exclude = scene.common().join("info/exclude");
        fs::create_dir_all(exclude.parent().expect("it has one")).expect("a folder");
        fs::write(exclude, "PLAN.md\n").expect("a file");
        write(scene, tree, "PLAN.md", b"the plan\n");
    }),
    of(Nothing, "files and folders without permission to write", |scene, tree, _| {
        write(scene, tree, "ignored/readonly/file", b"read only\n");
        let folder = scene.trees[tree].path.join("ignored/readonly");
        fs::set_permissions(folder.join("file"), Permissions::from_mode(0o444)).expect("ours");
        fs::set_permissions(folder, Permissions::from_mode(0o555)).expect("ours");
    }),
    of(Nothing, "ignored links that lead inside, outside and nowhere", |scene, tree, _| {
        let path = scene.trees[tree].path.join("ignored/links");
        fs::create_dir_all(&path).expect("a folder");
        for (name, target) in [
            ("inside", PathBuf::from("../../file")),
            ("outside", scene.path("outside")),
            ("file", scene.path("outside/precious")),
            ("nowhere", PathBuf::from("/nowhere/at/all")),
            ("itself", PathBuf::from("itself")),
        ] {
            let _ = symlink(target, path.join(name));
        }
    }),
    of(Nothing, "hard links, one of them to a file outside", |scene, tree, _| {
        write(scene, tree, "ignored/hard/one", b"one file\n");
        let path = scene.trees[tree].path.join("ignored/hard");
        let _ = fs::hard_link(path.join("one"), path.join("two"));
        let _ = fs::hard_link(scene.path("outside/precious"), path.join("precious"));
    }),
    of(Nothing, "empty folders", |scene, tree, _| {
        let name = scene.fresh("void");
        fs::create_dir_all(scene.trees[tree].path.join(name).join("void")).expect("a folder");
    }),
    of(Nothing, "a named pipe and a socket", |scene, tree, _| {
        let path = scene.trees[tree].path.join("ignored");
        fs::create_dir_all(&path).expect("a folder");
        let pipe = path.join(scene.fresh("pipe"));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("a pipe");
        let socket = path.join(scene.fresh("socket"));
        drop(std::os::unix::net::UnixListener::bind(socket));
    }),
];

/// What `git status` does not show.
pub const FLAGS: &[Feature] = &[
    flag(Refused, "a change behind assume-unchanged", |scene, tree, _| {
        mark(scene, tree, "--assume-unchanged");
        write(scene, tree, "third", b"hidden work\n");
    }),
    flag(Refused, "a change behind skip-worktree", |scene, tree, _| {
        mark(scene, tree, "--skip-worktree");
        write(scene, tree, "third", b"local settings\n");
    }),
    flag(Refused, "a change of a mode behind assume-unchanged", |scene, tree, _| {
        mark(scene, tree, "--assume-unchanged");
        let path = scene.trees[tree].path.join("third");
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it is ours");
    }),
    flag(Nothing, "assume-unchanged without a change", |scene, tree, _| {
        mark(scene, tree, "--assume-unchanged");
    }),
    flag(Nothing, "skip-worktree without a change", |scene, tree, _| {
        mark(scene, tree, "--skip-worktree");
    }),
    flag(Either, "a file that is missing behind assume-unchanged", |scene, tree, _| {
        mark(scene, tree, "--assume-unchanged");
        fs::remove_file(scene.trees[tree].path.join("third")).expect("it is there");
    }),
    flag(Nothing, "a sparse checkout", |scene, tree, _| {
        git(&scene.trees[tree].path, &["sparse-checkout", "set", "dir"]);
    }),
    flag(Refused, "a file outside a sparse checkout", |scene, tree, _| {
        git(&scene.trees[tree].path, &["sparse-checkout", "set", "dir"]);
        write(scene, tree, "deep/er/c", b"outside the cone\n");
    }),
    flag(Refused, "core.ignoreStat and a change", |scene, tree, _| {
        let path = scene.trees[tree].path.clone();
        git(&scene.repo(), &["config", "core.ignoreStat", "true"]);
        git(&path, &["checkout", "-q", "-f", "--", "third"]);
        write(scene, tree, "third", b"after the checkout\n");
    }),
];

fn mark(scene: &Scene, tree: usize, how: &str) {
    git(&scene.trees[tree].path, &["update-index", how, "third"]);
}

/// Writes a file, and makes the folders for it.
pub fn write(scene: &Scene, tree: usize, name: &str, bytes: &[u8]) {
    let path = scene.trees[tree].path.join(name);
    fs::create_dir_all(path.parent().expect("it is in the worktree")).expect("a folder");
    fs::write(path, bytes).expect("a file");
}

fn odd(scene: &Scene, tree: usize, rng: &mut Rng, folder: &str) {
    let name = OsStr::from_bytes(ODD_NAMES[rng.usize(..ODD_NAMES.len())]);
    let folder = scene.trees[tree].path.join(folder);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(name), "odd\n").expect("a file");
}
