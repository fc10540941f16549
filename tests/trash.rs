//! Ends worktrees and has them back, with real daemons and real git: what is ended from one machine
//! lies in the trash of the other, is listed on both, and comes back from either.

mod harness;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use harness::{Client, Daemon, linked};
use serde_json::{Value, json};

/// Two machines in one fleet, and a repository with a worktree on the second.
struct World {
    folder: tempfile::TempDir,
    alice: Daemon,
    bob: Daemon,
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
        let world = Self { folder, alice, bob };
        fs::create_dir(world.path("repo")).unwrap();
        world.git("repo", &["init", "-q", "-b", "main"]);
        world.git("repo", &["commit", "-q", "--allow-empty", "-m", "a change"]);
        world.git("repo", &["worktree", "add", "-q", "-b", "feature", "../w"]);
        world
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

    fn worktrees(&self) -> usize {
        self.git("repo", &["worktree", "list"]).lines().count()
    }

    /// Ends the worktree on Bob's machine, from Alice's, with a file that is in no commit.
    async fn end(&self) -> String {
        fs::write(self.path("w/notes.txt"), "half an idea").unwrap();
        let workspace = json!({ "name": "w", "kind": "worktree", "directory": self.path("w") });
        let workspace = self.bob.ok("POST", "/v1/workspaces", Some(workspace)).await;
        let id = workspace["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/workspaces/{id}");
        let found = |view: &Value| view["workspaces"].as_array().unwrap().len() == 1;
        self.alice.until("/v1/view", "the workspace is seen", found).await;
        let deleted = self.alice.ok("DELETE", &path, None).await;
        // What only Bob knows is not said: for how long it will be kept.
        let ahead = json!({ "id": id, "kind": "workspace", "host": self.bob.node(), "keep_removed_s": null });
        assert_eq!(deleted["trash"], json!([ahead]));
        let failed = |workspace: &Value| workspace["state"] == "failed";
        self.alice.until(&path, "it holds what is nowhere else", failed).await;
        assert!(self.path("w/notes.txt").exists());
        let force = Some(json!({ "action": "force" }));
        self.alice.ok("POST", &format!("{path}/teardown"), force).await;
        for daemon in [&self.alice, &self.bob] {
            let none = |view: &Value| view["workspaces"] == json!([]);
            daemon.until("/v1/view", "the workspace is gone", none).await;
        }
        id
    }

    /// Waits until a machine lists one entry, in this state.
    async fn until_listed(&self, on: &Client, state: &str) -> Value {
        let one = |list: &Value| {
            let entries = list["entries"].as_array().unwrap();
            entries.len() == 1 && entries[0]["state"] == state
        };
        on.until("/v1/trash", "it is listed", one).await["entries"][0].clone()
    }
}

/// Runs a command on a machine.
fn run(on: &Daemon, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = harness::command(on.dir()).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test]
async fn what_is_ended_from_another_machine_is_listed_there_and_comes_back_from_there() {
    let world = World::new(&[]).await;
    let id = world.end().await;
    assert!(!world.path("w").exists());
    assert_eq!(world.worktrees(), 1);
    let entry = world.until_listed(&world.alice, "kept").await;
    assert_eq!((&entry["id"], &entry["host"]), (&json!(id), &json!(world.bob.node())));
    assert_eq!((&entry["branch"], &entry["kind"]), (&json!("feature"), &json!("workspace")));
    assert_eq!(entry["directory"], json!(world.path("w")));
    let kept_ms = entry["expires_at"].as_i64().unwrap() - entry["ended_at"].as_i64().unwrap();
    assert!(kept_ms >= 14 * 86_400_000 - 60_000, "{entry}");
    let place = entry["place"].as_str().unwrap();
    assert_eq!(fs::read_to_string(format!("{place}/notes.txt")).unwrap(), "half an idea");

    // Told of the workspace on both machines, to people and to programs.
    for daemon in [&world.alice, &world.bob] {
        let (code, text, _) = run(daemon, &["workspace", "show", &id]);
        assert!(code == Some(0) && text.contains("trash restore"), "{text}");
        let (_, text, _) = run(daemon, &["workspace", "show", &id, "--json"]);
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["trash"]["state"], "kept", "{told}");
        let until = &told["teardowns"].as_array().unwrap().last().unwrap()["kept_until"];
        assert!(until.is_i64(), "{told}");
    }

    // While it is restored, what Alice sees says who has asked.
    let path = format!("/v1/trash/{id}/restore");
    let (status, asked) = world.alice.send("POST", &path, None).await;
    assert_eq!(status, 202, "{asked}");
    assert_eq!(asked["restored_as"], Value::Null);
    let entry = world.until_listed(&world.alice, "restored").await;
    assert_eq!(entry["restored_as"], json!(world.path("w")));
    let answered = |listed: &Value| listed["requests"] == json!({});
    world.alice.until(&format!("/v1/trash/{id}"), "the request is answered", answered).await;
    assert_eq!(fs::read_to_string(world.path("w/notes.txt")).unwrap(), "half an idea");
    assert_eq!(world.worktrees(), 2);
    assert_eq!(world.git("w", &["branch", "--show-current"]).trim(), "feature");
    // To ask again changes nothing.
    let (status, again) = world.alice.send("POST", &path, None).await;
    assert_eq!((status, &again["restored_as"]), (200, &json!(world.path("w"))), "{again}");
}

#[tokio::test]
async fn what_only_its_host_can_do_and_what_is_in_the_way_is_refused_by_name() {
    let world = World::new(&[]).await;
    let id = world.end().await;
    world.until_listed(&world.alice, "kept").await;
    let (one, restore) = (format!("/v1/trash/{id}"), format!("/v1/trash/{id}/restore"));
    let refused = |answer: (u16, Value)| {
        let code = answer.1["code"].as_str().unwrap_or_default().to_owned();
        (answer.0, code, answer.1)
    };
    let to = |directory: &str| Some(json!({ "directory": directory }));
    for (method, path, body) in [("DELETE", &one, None), ("POST", &restore, to("/elsewhere"))] {
        let (status, code, problem) = refused(world.alice.send(method, path, body).await);
        assert_eq!((status, code.as_str()), (403, "not_here"), "{problem}");
        assert_eq!(problem["candidates"], json!(["bob"]), "{problem}");
    }
    for daemon in [&world.alice, &world.bob] {
        let nothing = daemon.send("POST", "/v1/trash/wrk_never/restore", None).await;
        assert_eq!(refused(nothing).1, "trash_not_found");
        let relative = daemon.send("POST", &restore, to("w")).await;
        assert_eq!(refused(relative).1, "invalid_field");
        let host = daemon.send("GET", &format!("{one}@carol"), None).await;
        assert_eq!(refused(host).1, "node_not_found");
    }

    fs::create_dir(world.path("w")).unwrap();
    fs::write(world.path("w/mine"), "not to be lost").unwrap();
    let (status, code, problem) = refused(world.bob.send("POST", &restore, None).await);
    assert_eq!((status, code.as_str()), (409, "in_the_way"), "{problem}");
    let named = world.path("w");
    assert!(problem["detail"].as_str().unwrap().contains(named.to_str().unwrap()), "{problem}");
    let (code, _, stderr) = run(&world.alice, &["trash", "restore", &id]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("bob") && stderr.contains(named.to_str().unwrap()), "{stderr}");
    assert_eq!(fs::read_to_string(world.path("w/mine")).unwrap(), "not to be lost");

    let elsewhere = world.path("elsewhere");
    let restored = world.bob.ok("POST", &restore, to(elsewhere.to_str().unwrap())).await;
    assert_eq!(restored["restored_as"], json!(elsewhere), "{restored}");
    assert!(elsewhere.join("notes.txt").exists());
    assert_eq!(world.git("elsewhere", &["branch", "--show-current"]).trim(), "feature");
    let entry = world.until_listed(&world.alice, "restored").await;
    assert_eq!(entry["restored_as"], json!(elsewhere));
}

#[tokio::test]
async fn the_command_line_lists_shows_restores_and_empties() {
    let world = World::new(&[]).await;
    let (code, out, _) = run(&world.alice, &["trash", "list", "--json"]);
    assert_eq!((code, out.as_str()), (Some(0), "{\"entries\":[]}\n"));
    let id = world.end().await;
    world.until_listed(&world.alice, "kept").await;
    let prefix = &id[..id.len() - 3];
    let (code, out, _) = run(&world.alice, &["trash", "list"]);
    let lines: Vec<_> = out.lines().collect();
    assert!(code == Some(0) && lines.len() == 2, "{out}");
    assert!(lines[1].starts_with(&format!("{id}\tworkspace\tw\tbob\t")), "{out}");
    let (code, out, _) = run(&world.alice, &["trash", "show", prefix]);
    for part in ["kept until", "bob", "feature", world.path("w").to_str().unwrap()] {
        assert!(code == Some(0) && out.contains(part), "{part} is not in {out}");
    }
    assert_eq!(run(&world.alice, &["trash", "show", "wrk_never"]).0, Some(3));
    assert_eq!(run(&world.alice, &["trash", "show", "a/b"]).0, Some(2));

    let (code, _, stderr) = run(&world.bob, &["trash", "empty"]);
    assert!(code == Some(2) && stderr.contains("--yes"), "{stderr}");
    let (code, out, _) = run(&world.bob, &["trash", "empty", "--older-than", "1d", "--yes"]);
    assert_eq!((code, out.as_str()), (Some(0), "nothing to delete\n"));
    let (code, _, stderr) = run(&world.alice, &["trash", "empty", &id, "--yes"]);
    assert!(code == Some(1) && stderr.contains("bob"), "{stderr}");
    let (code, _, stderr) = run(&world.alice, &["trash", "restore", &id, "--to", "x"]);
    assert!(code == Some(1) && stderr.contains("bob"), "{stderr}");

    let (code, out, stderr) = run(&world.alice, &["trash", "restore", prefix]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(out.contains(world.path("w").to_str().unwrap()), "{out}");
    assert!(world.path("w/notes.txt").exists());
    let (code, out, stderr) = run(&world.bob, &["trash", "empty", "--yes"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(out, "deleted 1 item for good\n");
    assert!(world.path("w/notes.txt").exists(), "what was put back stays");
    for daemon in [&world.alice, &world.bob] {
        let empty = |list: &Value| list["entries"] == json!([]);
        daemon.until("/v1/trash", "nothing is kept", empty).await;
    }
}

#[tokio::test]
async fn what_is_kept_is_counted_and_goes_when_its_time_is_over() {
    let world = World::new(&["--keep-removed", "6s"]).await;
    let id = world.end().await;
    let entry = world.until_listed(&world.bob, "kept").await;
    let counted = |status: &Value| status["trash"]["entries"] == json!(1);
    let status = world.bob.until("/v1/status", "it is counted", counted).await;
    assert_eq!(status["trash"]["keep_removed_s"], json!(6));
    let bytes = entry["bytes"].as_u64().unwrap();
    assert!(bytes > 0 && status["trash"]["bytes"] == json!(bytes), "{status}");
    let metrics = world.bob.get("/metrics").await;
    let metrics = metrics.as_str().unwrap().to_owned();
    assert!(metrics.contains("\nsessionmesh_trash_entries 1\n"), "{metrics}");
    assert!(metrics.contains(&format!("\nsessionmesh_trash_bytes {bytes}\n")), "{metrics}");
    let place = PathBuf::from(entry["place"].as_str().unwrap());
    for daemon in [&world.alice, &world.bob] {
        let empty = |list: &Value| list["entries"] == json!([]);
        daemon.until("/v1/trash", "its time is over", empty).await;
    }
    assert!(!place.exists());
    let (status, problem) = world.bob.send("POST", &format!("/v1/trash/{id}/restore"), None).await;
    assert_eq!((status, &problem["code"]), (404, &json!("trash_not_found")));
}

#[tokio::test]
async fn a_machine_that_keeps_nothing_says_so() {
    let world = World::new(&["--keep-removed", "0"]).await;
    let (_, out, _) = run(&world.bob, &["status"]);
    assert!(out.contains("--keep-removed 0"), "{out}");
    let (_, out, _) = run(&world.bob, &["doctor"]);
    assert!(out.contains("warning  trash: "), "{out}");
    let id = world.end().await;
    assert!(!world.path("w").exists());
    for daemon in [&world.alice, &world.bob] {
        let empty = |list: &Value| list["entries"] == json!([]);
        daemon.until("/v1/trash", "nothing is kept", empty).await;
        let (_, text, _) = run(daemon, &["workspace", "show", &id, "--json"]);
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["trash"], Value::Null, "{told}");
    }
}

#[tokio::test]
async fn a_restore_that_was_asked_for_while_its_host_was_away_is_carried_out_at_its_start() {
    let mut world = World::new(&[]).await;
    let id = world.end().await;
    world.until_listed(&world.alice, "kept").await;
    let (dir, listen) = (world.bob.dir().to_owned(), world.bob.quic());
    let stand_in = Daemon::start(&world.path("stand-in"), "stand-in", &[]);
    let bob = std::mem::replace(&mut world.bob, stand_in);
    assert!(bob.stop().success());
    let (code, _, stderr) = run(&world.alice, &["trash", "restore", &id]);
    assert!(code == Some(1) && stderr.contains("bob is asked"), "{stderr}");
    world.bob = Daemon::start_at(&dir, "bob", &listen, &["--undo-window", "50ms"]);
    world.until_listed(&world.alice, "restored").await;
    assert!(world.path("w/notes.txt").exists());
}
