//! Ends worktrees with another git, or another environment, than this machine's: each in a process
//! of its own.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use sessionmesh::replica::record::TeardownAction::Retry;

use crate::{
    crash::{Act, Order, in_child},
    features::loose,
    git::{self, git},
    scene::Scene,
    template::Flavour,
};

/// What git 2.30 does not know yet, as words in its arguments: the command (or none), and the option.
const NEWER: &[(&str, &str)] = &[
    ("worktree list", "-z"),
    ("rev-parse", "--path-format=*"),
    ("cat-file", "--batch-command*"),
    ("cat-file", "-z"),
    ("ls-files", "--format=*"),
    ("ls-files", "--sparse"),
    ("for-each-ref", "--include-root-refs"),
    ("for-each-ref", "--stdin"),
    ("for-each-ref", "--exclude=*"),
    ("rev-list", "--exclude-hidden=*"),
    ("merge-tree", "--write-tree"),
    ("worktree add", "--orphan"),
    ("fsck", "--no-references"),
    ("", "--config-env=*"),
    ("", "--no-lazy-fetch"),
    ("", "--no-advice"),
];

/// Writes a `git` that knows what 2.30 knows, and returns the `PATH` that finds it first.
fn old_git(scene: &Scene) -> OsString {
    let real = std::env::split_paths(&std::env::var_os("PATH").expect("there is a PATH"))
        .map(|folder| folder.join("git"))
        .find(|path| path.is_file())
        .expect("git is installed");
    let mut script = String::from(
        "#!/bin/sh\nunset GIT_CONFIG_COUNT GIT_CONFIG_GLOBAL\n\
         [ \"$*\" = --version ] && { echo git version 2.30.2; exit; }\n",
    );
    for (command, option) in NEWER {
        let command = if command.is_empty() { String::new() } else { format!("*\" {command} \"") };
        script.push_str(&format!(
            "case \" $* \" in {command}*) for word; do case $word in {option}) echo \"error: unknown \
             option $word\" >&2; exit 129;; esac; done;; esac\n"
        ));
    }
    script.push_str(&format!("exec '{}' \"$@\"\n", real.display()));
    let folder = scene.path("bin");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("git"), script).unwrap();
    fs::set_permissions(folder.join("git"), Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path))).unwrap()
}

fn order(scene: &Scene, act: Act) -> Order {
    let due = |tree| scene.due(tree, Retry, 1).workspace;
    Order { root: scene.root.clone(), act, workspaces: (0..scene.trees.len()).map(due).collect() }
}

/// Has a clean tree and one with a file end in another environment, and come back.
fn ends_as_usual(scene: &mut Scene, environment: &[(&str, &OsStr)]) {
    scene.add_tree("clean", "origin/main");
    scene.add_tree("dirty", "origin/main");
    loose::write(scene, 1, "untracked", b"in no commit\n");
    loose::write(scene, 1, "ignored/file", b"ignored\n");
    let [clean, dirty] = [0, 1].map(|tree| scene.trees[tree].path.clone());
    let told = in_child(&order(scene, Act::Try), environment);
    assert_eq!(told[0], Ok(()));
    let reason = told[1].clone().unwrap_err();
    assert!(reason.contains("untracked") && !clean.exists() && dirty.exists(), "{reason}");
    assert_eq!(in_child(&order(scene, Act::End), environment)[1], Ok(()));
    assert!(!dirty.exists());
    assert_eq!(git(&scene.repo(), &["worktree", "list"]).lines().count(), 1);
    assert_eq!(in_child(&order(scene, Act::Restore), environment), [Ok(()), Ok(())]);
    assert_eq!(fs::read(dirty.join("untracked")).unwrap(), b"in no commit\n");
    for (at, status) in [(&clean, ""), (&dirty, "?? untracked")] {
        assert_eq!(git(at, &["status", "--porcelain"]), status);
    }
}

/// Row 38: the git of long-lived distributions.
#[test]
fn a_git_of_version_2_30_ends_worktrees_and_puts_them_back() {
    let mut scene = Scene::new(Flavour::Remote);
    let path = old_git(&scene);
    let old = std::env::split_paths(&path).next().unwrap().join("git");
    let refused = std::process::Command::new(old)
        .args(["-C", scene.repo().to_str().unwrap(), "worktree", "list", "--porcelain", "-z"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(129), "the stand-in is old");
    ends_as_usual(&mut scene, &[("PATH", &path)]);
}

/// Row 39: a setting that people are told to make.
#[test]
fn a_bare_main_repository_is_found_where_bare_ones_have_to_be_named() {
    let mut scene = Scene::new(Flavour::Bare);
    let home = scene.path("home");
    fs::write(home.join(".gitconfig"), "[safe]\n\tbareRepository = explicit\n").unwrap();
    ends_as_usual(&mut scene, &[("HOME", home.as_os_str())]);
}

/// Row 49.
#[test]
fn an_environment_that_leads_git_elsewhere_leads_nothing_astray() {
    let mut scene = Scene::new(Flavour::Remote);
    let other = scene.path("other");
    let before = git::rev_parse(&other, "--git-dir");
    let index = before.join("index");
    let environment: Vec<(&str, &OsStr)> = vec![
        ("GIT_DIR", before.as_os_str()),
        ("GIT_WORK_TREE", other.as_os_str()),
        ("GIT_INDEX_FILE", index.as_os_str()),
        ("GIT_CONFIG_PARAMETERS", OsStr::new("'core.worktree=/'")),
        ("GIT_CEILING_DIRECTORIES", OsStr::new("/")),
        ("GIT_OBJECT_DIRECTORY", Path::new("/nowhere").as_os_str()),
        ("LC_ALL", OsStr::new("de_DE.UTF-8")),
    ];
    let untouched = crate::record::files(&other, &[]);
    ends_as_usual(&mut scene, &environment);
    let after = crate::record::files(&other, &[]);
    assert_eq!(crate::record::difference(&untouched, &after, &|_| true, true), None);
}

/// Row 59.
#[test]
fn without_git_nothing_is_ended_and_the_reason_says_so() {
    let mut scene = Scene::new(Flavour::Remote);
    scene.add_tree("w0", "origin/main");
    let empty = scene.path("home");
    for act in [Act::Try, Act::End] {
        let told = in_child(&order(&scene, act), &[("PATH", empty.as_os_str())]);
        let reason = told[0].clone().unwrap_err();
        assert!(reason.contains("git is not") && reason.contains("PATH"), "{reason}");
    }
    assert!(scene.trees[0].path.join("file").exists() && scene.trees[0].admin.exists());
}
