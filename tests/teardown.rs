//! Ends workspaces as their host does, with real daemons, real git worktrees and real hooks: the
//! last session is deleted on one machine, the files go, or stay with a reason, on the other.

mod harness;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use harness::{Daemon, Message, PATIENCE, Subscriber, linked};
use serde_json::{Value, json};

/// The developer's machine and the host of the workspaces, in one fleet, and a repository there.
struct World {
    folder: tempfile::TempDir,
    alice: Daemon,
    bob: Option<Daemon>,
}

impl World {
    async fn new(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let alice = Daemon::start(&folder.path().join("alice"), "alice", &[]);
        let ticket = alice.invite().await;
        let arguments = [&["--undo-window", "50ms", "--join", &ticket], more].concat();
        let bob = Daemon::start(&folder.path().join("bob"), "bob", &arguments);
        let daemons = [alice, bob];
        linked(&daemons).await;
        let [alice, bob] = daemons;
        let world = Self { folder, alice, bob: Some(bob) };
        fs::create_dir(world.path("repo")).unwrap();
        world.git("repo", &["init", "-q", "-b", "main"]);
        world.commit("repo");
        world.git("repo", &["worktree", "add", "-q", "-b", "feature", "../w"]);
        world
    }

    fn bob(&self) -> &Daemon {
        self.bob.as_ref().expect("it runs")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn git(&self, at: &str, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=test", "-c", "user.email=test@localhost"])
            .args(["-c", "commit.gpgsign=false", "-C"])
            .arg(self.path(at))
            .args(arguments)
            .output()
            .expect("git is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn commit(&self, at: &str) {
        self.git(at, &["commit", "-q", "--allow-empty", "-m", "a change"]);
    }

    fn lists_worktree(&self) -> bool {
        self.git("repo", &["worktree", "list"]).lines().count() > 1
    }

    /// Makes a workspace with one session on Bob's machine, and deletes the session on Alice's.
    async fn vacate(&self, kind: &str, directory: &Path) -> String {
        let workspace = json!({ "name": "w", "kind": kind, "directory": directory });
        let workspace = self.bob().ok("POST", "/v1/workspaces", Some(workspace)).await;
        let id = workspace["id"].as_str().unwrap().to_owned();
        let session = json!({ "workspace_id": id });
        let session = self.bob().ok("POST", "/v1/sessions", Some(session)).await;
        let path = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
        self.alice
            .until("/v1/sessions", "the session is seen", |sessions| {
                sessions["sessions"].as_array().unwrap().contains(&session)
            })
            .await;
        let deleted = self.alice.ok("DELETE", &path, None).await;
        assert_eq!(deleted["workspace_vacated"], true, "{deleted}");
        id
    }

    /// Waits until no machine lists the workspace any more.
    async fn until_gone(&self) {
        for daemon in [&self.alice, self.bob()] {
            let none = |found: &Value| found["workspaces"].as_array().unwrap().is_empty();
            daemon.until("/v1/workspaces?state=all", "the workspace is gone", none).await;
        }
    }

    /// Waits until an attempt has failed on every machine, for the same reason; returns that.
    async fn until_failed(&self, id: &str, incarnation: u32) -> String {
        let mut reasons = Vec::new();
        for daemon in [&self.alice, self.bob()] {
            let failed = |workspace: &Value| {
                workspace["state"] == "failed"
                    && workspace["teardown"]["incarnation"] == json!(incarnation)
            };
            let path = format!("/v1/workspaces/{id}");
            let workspace = daemon.until(&path, "the attempt has failed", failed).await;
            reasons.push(workspace["teardown"]["error"].as_str().unwrap().to_owned());
        }
        assert_eq!(reasons[0], reasons[1]);
        reasons.pop().unwrap()
    }

    /// Asks on Alice's machine to go on.
    async fn go_on(&self, id: &str, action: &str) {
        let path = format!("/v1/workspaces/{id}/teardown");
        self.alice.ok("POST", &path, Some(json!({ "action": action }))).await;
    }

    fn write_hook(&self, script: &str, timeout_s: u32) {
        let argv = ["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let hooks = json!({ "box": { "argv": argv, "timeout_s": timeout_s } });
        let path = self.path("bob/hooks.json");
        fs::write(&path, hooks.to_string()).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Waits until hooks have written so many lines.
async fn until_said(runs: &Path, lines: usize) {
    let deadline = Instant::now() + PATIENCE;
    while fs::read_to_string(runs).unwrap_or_default().lines().count() < lines {
        assert!(Instant::now() < deadline, "no hook has come so far");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A hook that goes on, whatever becomes of the daemon that has started it, until it is let go.
struct Lasting {
    runs: PathBuf,
    slow: PathBuf,
}

impl Lasting {
    /// Has Bob's daemon start it, kills that daemon and starts another.
    async fn outlives_its_daemon(world: &mut World, timeout_s: u32) -> (Self, String) {
        let hook = Self { runs: world.path("runs"), slow: world.path("slow") };
        fs::write(&hook.slow, "").unwrap();
        let (runs, slow) = (hook.runs.display(), hook.slow.display());
        world.write_hook(
            &format!(
                "echo begun >>{runs}; while [ -e {slow} ]; do sleep 0.05; done; echo ended >>{runs}"
            ),
            timeout_s,
        );
        let place = world.path("place");
        fs::create_dir(&place).unwrap();
        let id = world.vacate("box", &place).await;
        until_said(&hook.runs, 1).await;
        world.bob.take().unwrap().kill();
        world.bob = Some(Daemon::start(&world.path("bob"), "bob", &["--undo-window", "50ms"]));
        (hook, id)
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.runs).unwrap()
    }

    fn let_go(&self) {
        fs::remove_file(&self.slow).unwrap();
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        // A test that fails leaves no hook behind that waits for ever.
        let _ = fs::remove_file(&self.slow);
    }
}

#[tokio::test]
async fn a_clean_worktree_goes_where_it_is_once_its_last_session_is_deleted_elsewhere() {
    let world = World::new(&[]).await;
    world.vacate("worktree", &world.path("w")).await;
    world.until_gone().await;
    assert!(!world.path("w").exists() && !world.lists_worktree());
    assert!(!world.git("repo", &["branch", "--list", "feature"]).is_empty(), "the branch is kept");
}

#[tokio::test]
async fn a_worktree_with_work_in_it_stays_with_a_reason_everywhere_and_goes_by_force() {
    let world = World::new(&[]).await;
    fs::write(world.path("w/notes"), "not in git").unwrap();
    let id = world.vacate("worktree", &world.path("w")).await;
    let reason = world.until_failed(&id, 1).await;
    assert!(reason.contains("1 untracked file (notes)") && reason.contains("force"), "{reason}");

    let show = harness::command(&world.path("alice")).args(["workspace", "show", &id]).output();
    let shown = String::from_utf8(show.unwrap().stdout).unwrap();
    for part in ["failed", "1, at ", "1 untracked file (notes)"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    world.go_on(&id, "retry").await;
    assert_eq!(world.until_failed(&id, 2).await, reason);
    assert!(world.path("w/notes").exists());
    world.go_on(&id, "force").await;
    world.until_gone().await;
    assert!(!world.path("w").exists() && !world.lists_worktree());

    let told = world.alice.get(&format!("/v1/explain/{id}")).await;
    let attempts = told["teardowns"].as_array().unwrap();
    let done = attempts.last().unwrap()["done"].as_str().unwrap();
    assert!(done.contains("to the trash (") && done.contains("branch feature stays"), "{done}");
    world.git("repo", &["gc", "-q", "--prune=now"]);
    let path = format!("/v1/trash/{id}/restore");
    let restored = world.bob().ok("POST", &path, None).await;
    assert_eq!(restored["restored_as"], json!(world.path("w")), "{restored}");
    assert_eq!(fs::read_to_string(world.path("w/notes")).unwrap(), "not in git");
    assert!(world.lists_worktree());
    let branch = world.git("w", &["symbolic-ref", "--short", "HEAD"]);
    assert_eq!(branch.trim(), "feature");
}

#[tokio::test]
async fn a_worktree_with_commits_that_are_nowhere_else_goes_once_they_are_pushed() {
    let world = World::new(&[]).await;
    world.commit("w");
    let id = world.vacate("worktree", &world.path("w")).await;
    let reason = world.until_failed(&id, 1).await;
    assert!(reason.contains("1 commit that no other branch"), "{reason}");
    assert!(world.path("w").exists());
    world.git("repo", &["init", "-q", "--bare", "../origin"]);
    world.git("repo", &["remote", "add", "origin", "../origin"]);
    world.git("w", &["push", "-q", "origin", "feature"]);
    world.go_on(&id, "retry").await;
    world.until_gone().await;
    assert!(!world.path("w").exists());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_worktree_in_which_a_process_runs_stays_until_it_has_ended() {
    let world = World::new(&[]).await;
    // It ends when its input does, should the test end first.
    let mut process = Command::new("cat")
        .current_dir(world.path("w"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let id = world.vacate("worktree", &world.path("w")).await;
    let reason = world.until_failed(&id, 1).await;
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(reason.contains(&format!("process {} (cat)", process.id())), "{reason}");
    assert!(world.path("w/.git").exists());
    world.go_on(&id, "retry").await;
    world.until_gone().await;
    assert!(!world.path("w").exists());
}

#[tokio::test]
async fn what_lies_outside_the_allowed_roots_is_never_removed() {
    let allowed = tempfile::tempdir().unwrap();
    let world = World::new(&["--teardown-root", allowed.path().to_str().unwrap()]).await;
    let id = world.vacate("worktree", &world.path("w")).await;
    let reason = world.until_failed(&id, 1).await;
    assert!(reason.contains("--teardown-root"), "{reason}");
    world.go_on(&id, "force").await;
    assert_eq!(world.until_failed(&id, 2).await, reason);
    assert!(world.path("w/.git").exists() && world.lists_worktree());
}

#[tokio::test]
async fn a_hook_ends_what_the_daemon_can_not_and_says_why_where_it_does_not() {
    let world = World::new(&[]).await;
    let place = world.path("place");
    fs::create_dir(&place).unwrap();
    let id = world.vacate("box", &place).await;
    let reason = world.until_failed(&id, 1).await;
    assert!(reason.contains("no hook") && reason.contains("`box`"), "{reason}");

    world.write_hook("echo the box is stuck >&2; exit 3", 60);
    world.go_on(&id, "retry").await;
    let reason = world.until_failed(&id, 2).await;
    assert!(reason.contains("the box is stuck"), "{reason}");

    world.write_hook("sleep 600", 1);
    world.go_on(&id, "retry").await;
    let reason = world.until_failed(&id, 3).await;
    assert!(reason.contains("stopped after 1 s"), "{reason}");
    assert!(place.exists());

    world.write_hook("rmdir \"$SESSIONMESH_WORKSPACE_DIRECTORY\"", 60);
    world.go_on(&id, "retry").await;
    world.until_gone().await;
    assert!(!place.exists());
}

#[tokio::test]
async fn a_host_that_dies_between_seal_and_outcome_ends_the_same_attempt_at_its_next_start() {
    let mut world = World::new(&[]).await;
    let (runs, slow) = (world.path("runs"), world.path("slow"));
    fs::write(&slow, "").unwrap();
    world.write_hook(
        &format!(
            "echo $SESSIONMESH_WORKSPACE_INCARNATION >>{}; while [ -e {} ]; do sleep 0.05; done",
            runs.display(),
            slow.display()
        ),
        60,
    );
    let mut stream = world.alice.follow(None).await;
    let mut subscriber = Subscriber::begin(&mut stream).await;
    let place = world.path("place");
    fs::create_dir(&place).unwrap();
    let id = world.vacate("box", &place).await;
    until_said(&runs, 1).await;
    let sealed = |found: &Value| found["state"] == "sealed";
    world.alice.until(&format!("/v1/workspaces/{id}"), "the seal is seen", sealed).await;
    world.bob.take().unwrap().kill();
    fs::remove_file(&slow).unwrap();
    let bob = Daemon::start(&world.path("bob"), "bob", &["--undo-window", "50ms"]);
    world.bob = Some(bob);
    world.until_gone().await;
    assert_eq!(fs::read_to_string(&runs).unwrap(), "1\n1\n");

    let types = |subscriber: &Subscriber| {
        let events = subscriber.events.iter().map(|event| serde_json::to_value(event).unwrap());
        let events = events.map(|event| event["type"].as_str().unwrap().to_owned());
        events.filter(|name| name.starts_with("workspace.")).collect::<Vec<_>>()
    };
    while types(&subscriber).last().is_none_or(|last| last != "workspace.gone") {
        let message: Message = stream.next().await.expect("the stream goes on");
        subscriber.take(message);
    }
    for (name, times) in [("sealed", 1), ("failed", 0), ("restored", 0), ("gone", 1)] {
        let seen = types(&subscriber);
        let count = seen.iter().filter(|found| **found == format!("workspace.{name}")).count();
        assert_eq!(count, times, "{name} in {seen:?}");
    }
}

#[tokio::test]
async fn a_hook_that_outlives_its_killed_daemon_is_waited_for_and_has_no_second_beside_it() {
    let mut world = World::new(&[]).await;
    let (hook, id) = Lasting::outlives_its_daemon(&mut world, 60).await;
    let deadline = Instant::now() + PATIENCE;
    while !world.bob().log().contains("waiting for a hook that still runs") {
        assert!(Instant::now() < deadline, "the new daemon never came to it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(hook.said(), "begun\n");
    for daemon in [&world.alice, world.bob()] {
        let workspace = daemon.get(&format!("/v1/workspaces/{id}")).await;
        assert_eq!(workspace["state"], "sealed");
    }
    hook.let_go();
    world.until_gone().await;
    assert_eq!(hook.said(), "begun\nended\nbegun\nended\n");
    let told = world.alice.get(&format!("/v1/explain/{id}")).await;
    let attempts = told["teardowns"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{told}");
    assert_eq!((&attempts[0]["incarnation"], &attempts[0]["state"]), (&json!(1), &json!("gone")));
}

#[tokio::test]
async fn a_hook_that_never_ends_after_its_daemon_was_killed_fails_the_attempt_until_it_has() {
    let mut world = World::new(&[]).await;
    let (hook, id) = Lasting::outlives_its_daemon(&mut world, 1).await;
    let reason = world.until_failed(&id, 1).await;
    assert!(reason.contains("has not ended"), "{reason}");
    assert_eq!(hook.said(), "begun\n");
    hook.let_go();
    until_said(&hook.runs, 2).await;
    world.go_on(&id, "retry").await;
    world.until_gone().await;
    assert_eq!(hook.said(), "begun\nended\nbegun\nended\n");
}
