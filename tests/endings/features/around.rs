//! Draws what stands around a worktree: settings of its repository, locks, who is in it, what is
//! mounted below it, and a folder that is not where it was.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use fastrand::Rng;
use sessionmesh::teardown::Occupant;

use super::{
    Feature, Group,
    Loss::{self, Always, Either, Nothing, Refused, RefusedPerhaps},
    feature, loose,
};
use crate::{
    git::{self, git},
    scene::{Missing, Scene, is_root},
    template::LFS_CONTENT,
};

const fn set(loss: Loss, name: &'static str, make: fn(&mut Scene, usize, &mut Rng)) -> Feature {
    feature(Group::Settings, loss, name, make)
}

const fn of(loss: Loss, name: &'static str, make: fn(&mut Scene, usize, &mut Rng)) -> Feature {
    feature(Group::Around, loss, name, make)
}

const fn gone(loss: Loss, name: &'static str, make: fn(&mut Scene, usize, &mut Rng)) -> Feature {
    feature(Group::Missing, loss, name, make)
}

/// Features that take root, or `/proc`.
const MOUNTS: &[&str] = &[FOLDER_MOUNTED, MEMORY_MOUNTED, PROCESS_BY_MOUNT];
const FOLDER_MOUNTED: &str = "a folder from elsewhere that is mounted inside";
const MEMORY_MOUNTED: &str = "a filesystem in memory that is mounted inside";
const PROCESS: &str = "a process that stands in it";
const PROCESS_BY_MOUNT: &str = "a process that stands in it by another mount";

/// Tells whether this machine can make a feature.
pub fn is_possible(feature: &Feature) -> bool {
    let linux = cfg!(target_os = "linux");
    (linux || feature.name != PROCESS) && (linux && is_root() || !MOUNTS.contains(&feature.name))
}

/// What stands there now is not the workspace's: it is left as it is, also by force.
pub const REPLACED: &str = "a folder in whose place another repository's is";

/// The file that a program leaves behind which a repository's settings name.
pub const MARKER: &str = "marker";

/// Settings of the repository. A program that they name must never run.
pub const SETTINGS: &[Feature] = &[
    set(Either, "a filter for all files", |scene, tree, _| {
        let program = program(scene);
        filter(&scene.repo(), "marker", &program);
        attributes(scene, "* filter=marker\n");
        touch(scene, tree);
    }),
    set(Either, "a filter in a file that the settings include", |scene, tree, _| {
        let (program, included) = (program(scene), scene.path("included"));
        let text = format!(
            "[filter \"marker\"]\n\tclean = {0}\n\tsmudge = {0}\n\tprocess = {0}\n[core]\n\t\
             fsmonitor = {0}\n",
            program.display()
        );
        fs::write(&included, text).expect("a file");
        git(&scene.repo(), &["config", "include.path", included.to_str().expect("text")]);
        attributes(scene, "* filter=marker\n");
        touch(scene, tree);
    }),
    set(Nothing, "a monitor, hooks and a diff program", |scene, tree, _| {
        let program = program(scene);
        let hooks = scene.path("hooks");
        fs::create_dir_all(&hooks).expect("a folder");
        for name in ["post-index-change", "reference-transaction", "pre-auto-gc"] {
            let _ = symlink(&program, hooks.join(name));
        }
        let repo = scene.repo();
        git(&repo, &["config", "core.hooksPath", hooks.to_str().expect("it is text")]);
        for key in ["core.fsmonitor", "diff.external", "core.pager", "core.sshCommand"] {
            git(&repo, &["config", key, program.to_str().expect("it is text")]);
        }
        touch(scene, tree);
    }),
    set(Nothing, "a large file with its pointer in the commit", |scene, tree, _| {
        let program = program(scene);
        filter(&scene.repo(), "lfs", &program);
        loose::write(scene, tree, "large.bin", LFS_CONTENT);
    }),
    set(Refused, "a changed large file with a pointer in the commit", |scene, tree, _| {
        let program = program(scene);
        filter(&scene.repo(), "lfs", &program);
        loose::write(scene, tree, "large.bin", b"another content of that file\n");
    }),
    set(Nothing, "line ends that git converts", |scene, tree, _| {
        git(&scene.repo(), &["config", "core.autocrlf", "true"]);
        let path = scene.trees[tree].path.join("run");
        fs::remove_file(&path).expect("it is there");
        git(&scene.trees[tree].path, &["checkout", "-q", "--", "run"]);
        let text = fs::read(&path).expect("it is there again");
        assert!(text.ends_with(b"\r\n"), "git has converted it");
        // Written again, so that its content has to be looked at.
        fs::write(&path, text).expect("a file");
    }),
    set(Nothing, "permissions that git does not look at", |scene, tree, _| {
        git(&scene.repo(), &["config", "core.fileMode", "false"]);
        let path = scene.trees[tree].path.join("dir/a");
        let _ = fs::set_permissions(path, Permissions::from_mode(0o755));
    }),
    set(Refused, "settings that hide an untracked file", |scene, tree, _| {
        for (key, value) in [
            ("status.showUntrackedFiles", "no"),
            ("diff.ignoreSubmodules", "all"),
            ("color.ui", "always"),
        ] {
            git(&scene.repo(), &["config", key, value]);
        }
        loose::write(scene, tree, "hidden by a setting", b"in no commit\n");
    }),
];

/// Writes the program that tells when it was run.
fn program(scene: &Scene) -> PathBuf {
    let program = scene.path("program");
    let text = format!("#!/bin/sh\ntouch '{}'\ncat\n", scene.path(MARKER).display());
    // Another tree may have it already, and a program that runs can't be written.
    if !program.exists() {
        fs::write(&program, text).expect("a file");
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("it is ours");
    }
    program
}

fn filter(repository: &Path, name: &str, program: &Path) {
    for key in ["clean", "smudge", "process"] {
        let key = format!("filter.{name}.{key}");
        git(repository, &["config", &key, program.to_str().expect("it is text")]);
    }
}

fn attributes(scene: &Scene, text: &str) {
    let info = scene.common().join("info");
    fs::create_dir_all(&info).expect("a folder");
    fs::write(info.join("attributes"), text).expect("a file");
}

/// Writes a file again as it is, so that its content has to be looked at.
fn touch(scene: &Scene, tree: usize) {
    let path = scene.trees[tree].path.join("file");
    if let Ok(bytes) = fs::read(&path) {
        fs::write(path, bytes).expect("a file");
    }
}

/// Locks, and who or what is in the worktree.
pub const AROUND: &[Feature] = &[
    of(Refused, "a lock", |scene, tree, rng| {
        let path = scene.trees[tree].path.to_str().expect("it is text").to_owned();
        let mut arguments = vec!["worktree", "lock"];
        if rng.bool() {
            arguments.extend(["--reason", "mine"]);
        }
        arguments.extend(["--", &path]);
        git(&scene.repo(), &arguments);
    }),
    of(Nothing, "an index lock that was left over", |scene, tree, _| {
        fs::write(scene.trees[tree].admin.join("index.lock"), "").expect("a file");
    }),
    of(Refused, PROCESS, |scene, tree, rng| {
        let path = scene.trees[tree].path.clone();
        let below = path.join("ignored/deep");
        fs::create_dir_all(&below).expect("a folder");
        scene.stand_in(if rng.bool() { &path } else { &below });
    }),
    of(Refused, PROCESS_BY_MOUNT, |scene, tree, _| {
        let alias = scene.path("aliases").join(scene.fresh("alias"));
        let path = scene.trees[tree].path.clone();
        scene.mount(&["--bind"], &path, &alias);
        scene.stand_in(&alias);
    }),
    of(Refused, "a live session in it", |scene, tree, rng| {
        let mut directory = spelling(scene, tree, rng);
        if rng.bool() {
            fs::create_dir_all(directory.join("ignored/session")).expect("a folder");
            directory.push("ignored/session");
        }
        let directory = directory.to_str().expect("it is text").to_owned();
        scene.occupants.push(Occupant { what: "session ses_1".to_owned(), directory });
    }),
    of(Nothing, "a directory that is spelled in another way", |scene, tree, rng| {
        let spelled = spelling(scene, tree, rng);
        scene.trees[tree].spelled = spelled.to_str().expect("it is text").to_owned();
    }),
    of(Always, FOLDER_MOUNTED, |scene, tree, _| {
        let (outside, name) = (scene.path("outside"), scene.fresh("ignored/mount"));
        let at = scene.trees[tree].path.join(name);
        scene.mount(&["--bind"], &outside, &at);
    }),
    of(Always, MEMORY_MOUNTED, |scene, tree, _| {
        let name = scene.fresh("ignored/deeper/mount");
        let at = scene.trees[tree].path.join(name);
        scene.mount(&["-t", "tmpfs"], Path::new("tmpfs"), &at);
        fs::write(at.join("precious"), "only in memory\n").expect("a file");
    }),
];

/// Returns another name of a worktree: by a link, or with more slashes.
fn spelling(scene: &mut Scene, tree: usize, rng: &mut Rng) -> PathBuf {
    let path = scene.trees[tree].path.clone();
    if rng.u8(..3) == 0 {
        let text = path.to_str().expect("it is text").replacen('/', "//", 3);
        return PathBuf::from(text + "/.");
    }
    let link = {
        let name = scene.fresh("linked");
        scene.path(&name)
    };
    let (folder, name) = (path.parent().expect("it has one"), path.file_name().expect("it has"));
    symlink(folder, &link).expect("a link");
    link.join(name)
}

/// Folders that are not where they were; nothing is drawn after this.
pub const MISSING: &[Feature] = &[
    gone(Either, "a folder that was moved by hand", |scene, tree, _| moved(scene, tree)),
    gone(Refused, "a folder that was moved by hand, with staged files", |scene, tree, _| {
        loose::write(scene, tree, "staged before", b"staged\n");
        git(&scene.trees[tree].path, &["add", "--", "staged before"]);
        moved(scene, tree);
    }),
    gone(Refused, "a folder that was moved by hand in a merge", |scene, tree, _| {
        let merge = ["merge", "-q", "-s", "ours", "--no-commit", &scene.upstream("side")];
        git(&scene.trees[tree].path, &merge);
        moved(scene, tree);
    }),
    gone(Either, "a folder that was deleted by hand", |scene, tree, _| deleted(scene, tree)),
    gone(Refused, "a folder that was deleted by hand, with staged files", |scene, tree, _| {
        loose::write(scene, tree, "staged before", b"staged\n");
        git(&scene.trees[tree].path, &["add", "--", "staged before"]);
        deleted(scene, tree);
    }),
    gone(Refused, "a folder that was deleted by hand, with a commit on no branch", |s, tree, _| {
        let path = s.trees[tree].path.clone();
        git(&path, &["checkout", "-q", "--detach"]);
        s.commit(&path);
        deleted(s, tree);
    }),
    gone(RefusedPerhaps, REPLACED, |scene, tree, _| {
        let path = scene.trees[tree].path.clone();
        moved(scene, tree);
        let (repository, branch) = (scene.path("other"), scene.fresh("instead"));
        let text = path.to_str().expect("it is text");
        git(&repository, &["worktree", "add", "-q", "-b", &branch, "--", text]);
        scene.trees[tree].inner.push(git::rev_parse(&path, "--git-dir"));
        scene.others.push(repository);
    }),
];

fn moved(scene: &mut Scene, tree: usize) {
    scene.look(tree);
    let to = scene.path("elsewhere").join(scene.fresh("moved"));
    fs::create_dir_all(to.parent().expect("it has one")).expect("a folder");
    fs::rename(&scene.trees[tree].path, &to).expect("one filesystem");
    scene.trees[tree].missing = Some(Missing::Moved(to));
    scene.trees[tree].probes.clear();
}

fn deleted(scene: &mut Scene, tree: usize) {
    scene.look(tree);
    fs::remove_dir_all(&scene.trees[tree].path).expect("it is ours");
    scene.trees[tree].missing = Some(Missing::Deleted);
    scene.trees[tree].probes.clear();
}
