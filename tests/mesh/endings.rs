//! Owns showing that a daemon which is killed while it ends a worktree goes on by itself, and that
//! what it ended can be had back, byte by byte.
//!
//! `ENDING_KILLS=100 SEED=7 cargo test --test mesh ends_a_worktree` kills oftener, or again as it
//! was; where the kills fall depends on the machine, too.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::json;
use sessionmesh::{
    replica::ids::NodeId,
    teardown::trash::{Settings, Trash},
};

use crate::{
    harness::Daemon,
    kills::{PrintedOnPanic, setting},
};

/// How many worktrees are ended where `ENDING_KILLS` says nothing.
const KILLS_DEFAULT: u32 = 6;
const UNDO: [&str; 2] = ["--undo-window", "20ms"];

fn git(at: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=test", "-c", "user.email=test@localhost", "-C"]).arg(at);
    let output = git.args(arguments).output().expect("git is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Reads all files below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).expect("it can be listed").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).expect("it can be read");
                found.insert(path.strip_prefix(folder).expect("below it").to_owned(), bytes);
            }
        }
    }
    found
}

/// Makes a worktree with work in it that is nowhere else, and returns what only it names.
fn worktree(repo: &Path, at: &Path, number: u32) -> String {
    let (place, branch) = (at.to_str().expect("it is text"), format!("feature{number}"));
    git(repo, &["worktree", "add", "-q", "-b", &branch, place]);
    git(at, &["checkout", "-q", "--detach"]);
    git(at, &["commit", "-q", "--allow-empty", "-m", "only in the reflog"]);
    let commit = git(at, &["rev-parse", "HEAD"]);
    git(at, &["checkout", "-q", &branch]);
    fs::write(at.join("untracked"), "in no commit").expect("a file");
    for folder in 0..20 {
        let folder = at.join(format!("ignored/{folder}"));
        fs::create_dir_all(&folder).expect("a folder");
        for file in 0..20 {
            fs::write(folder.join(file.to_string()), "ignored").expect("a file");
        }
    }
    commit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_while_it_ends_a_worktree_goes_on_and_all_of_it_can_be_had_back() {
    let kills = setting("ENDING_KILLS", KILLS_DEFAULT);
    let seed = setting("SEED", fastrand::u64(..));
    let printed = PrintedOnPanic(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().canonicalize().expect("it is there");
    let (data, repo) = (root.join("data"), root.join("repo"));
    fs::create_dir(&repo).expect("a folder");
    git(&repo, &["init", "-q", "-b", "main"]);
    fs::write(repo.join(".gitignore"), "ignored/\n").expect("a file");
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-q", "-m", "first"]);
    for number in 0..kills {
        let at = root.join(format!("w{number}"));
        let commit = worktree(&repo, &at, number);
        let before = files(&at);
        let mut daemon = Daemon::start(&data, "alice", &UNDO);
        let body = json!({ "name": "w", "kind": "worktree", "directory": at });
        let workspace = daemon.ok("POST", "/v1/workspaces", Some(body)).await;
        let id = workspace["id"].as_str().expect("it has one").to_owned();
        let body = json!({ "workspace_id": id });
        let session = daemon.ok("POST", "/v1/sessions", Some(body)).await;
        let path = format!("/v1/sessions/{}", session["id"].as_str().expect("it has one"));
        daemon.ok("DELETE", &path, None).await;
        let path = format!("/v1/workspaces/{id}");
        daemon.until(&path, "it is refused", |found| found["state"] == "failed").await;
        let force = json!({ "action": "force" });
        daemon.ok("POST", &format!("{path}/teardown"), Some(force)).await;
        for _ in 0..rng.u32(1..4) {
            tokio::time::sleep(Duration::from_millis(rng.u64(..150))).await;
            daemon.kill();
            daemon = Daemon::start(&data, "alice", &UNDO);
        }
        let gone = |found: &serde_json::Value| {
            found["workspaces"].as_array().is_some_and(|all| all.iter().all(|one| one["id"] != id))
        };
        daemon.until("/v1/workspaces?state=all", "it goes on by itself", gone).await;
        assert!(!at.exists(), "it was moved away");
        daemon.kill();

        git(&repo, &["gc", "-q", "--prune=now"]);
        let trash = Trash::new(&data, NodeId([1; 32]), Settings::default());
        trash.recover();
        trash.restore(&id, None).expect("it is in the trash");
        assert!(files(&at) == before, "not all of {} came back", at.display());
        git(&repo, &["cat-file", "-e", &commit]);
        assert_eq!(git(&at, &["status", "--porcelain"]), "?? untracked");
        assert_eq!(git(&at, &["branch", "--show-current"]), format!("feature{number}"));
    }
    drop(printed);
}
