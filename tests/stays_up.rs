//! Owns what a daemon does when what is around it fails: its log, its terminal, its hooks.
//!
//! Must not look into a daemon. Invariant: a daemon serves on, and ends when it is told to.

mod harness;

use std::{
    fs::{self, OpenOptions, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use harness::{Daemon, PATIENCE, serve};
use serde_json::json;

const LISTEN: &str = "127.0.0.1:0";

/// Waits until something on this machine is so.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes a session, deletes it, and waits until it is purged, which is logged.
async fn live_a_little(daemon: &Daemon) {
    for id in ["one", "two"] {
        daemon.ok("POST", "/v1/sessions", Some(json!({ "id": id }))).await;
        daemon.ok("DELETE", &format!("/v1/sessions/{id}"), None).await;
        daemon.until("/v1/view", "purged", |view| view["sessions"] == json!([])).await;
    }
}

#[tokio::test]
async fn a_log_whose_reader_has_gone_ends_no_daemon_and_blocks_no_signal() {
    let folder = tempfile::tempdir().unwrap();
    for (name, lives) in [("first", true), ("second", false)] {
        let dir = folder.path().join(name);
        let mut serve = serve(&dir, "A", LISTEN, &["--undo-window", "0"]);
        let (reader, writer) = std::io::pipe().unwrap();
        serve.stderr(Stdio::from(writer)).env("SESSIONMESH_LOG", "debug");
        drop(reader);
        let daemon = Daemon::started(serve, &dir);
        if lives {
            live_a_little(&daemon).await;
        }
        daemon.signal("-TERM");
        assert!(daemon.ended().await.success());
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_log_on_a_full_disk_ends_no_daemon_and_blocks_no_signal() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut serve = serve(&dir, "A", LISTEN, &["--undo-window", "0"]);
    serve.stderr(full()).env("SESSIONMESH_LOG", "debug");
    let daemon = Daemon::started(serve, &dir);
    live_a_little(&daemon).await;
    daemon.signal("-INT");
    assert!(daemon.ended().await.success());
}

#[tokio::test]
async fn a_log_that_nobody_reads_any_more_holds_no_request_and_no_end_up() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let mut serve = serve(&dir, "A", LISTEN, &["--undo-window", "0"]);
    let (reader, writer) = std::io::pipe().unwrap();
    // Everything that it can say fills the pipe soon.
    serve.stderr(Stdio::from(writer)).env("SESSIONMESH_LOG", "trace");
    let daemon = Daemon::started(serve, &dir);
    let written = || rustix::io::ioctl_fionread(&reader).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut before = 0;
    while before == 0 || written() > before {
        assert!(Instant::now() < deadline, "the pipe never fills");
        before = written();
        live_a_little_of(&daemon).await;
    }
    for _ in 0..20 {
        live_a_little_of(&daemon).await;
    }
    daemon.signal("-TERM");
    assert!(daemon.ended().await.success());
    drop(reader);
}

/// Makes a session with a new id and deletes it.
async fn live_a_little_of(daemon: &Daemon) {
    let made = daemon.ok("POST", "/v1/sessions", Some(json!({}))).await;
    let path = format!("/v1/sessions/{}", made["id"].as_str().unwrap());
    daemon.ok("DELETE", &path, None).await;
}

/// A hook that says that it runs, and then does so for as long as it is let.
struct Hook {
    _folder: tempfile::TempDir,
    dir: PathBuf,
    pid: PathBuf,
    told: PathBuf,
}

impl Hook {
    /// Makes a data folder with a hook that ignores SIGTERM if it is `stubborn`.
    fn new(stubborn: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("data");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        let (pid, told) = (folder.path().join("pid"), folder.path().join("told"));
        let script = format!(
            "{} env >'{}'; echo $$ >'{1}.new'; mv '{1}.new' '{}'; while :; do sleep 1; done",
            if stubborn { "trap '' TERM;" } else { "" },
            told.display(),
            pid.display()
        );
        let hooks = json!({ "box": { "argv": ["/bin/sh", "-c", script], "timeout_s": 600 } });
        let path = dir.join("hooks.json");
        fs::write(&path, hooks.to_string()).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        Self { _folder: folder, dir, pid, told }
    }

    /// Starts a daemon, and has it run the hook.
    async fn run(&self) -> Daemon {
        let log = self.dir.with_extension("log");
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut serve = serve(&self.dir, "A", LISTEN, &["--undo-window", "0"]);
        serve.stderr(log);
        serve.env("OPENCODE_SERVER_PASSWORD", "hunter2").env("DOCKER_HOST", "unix:///x");
        let daemon = Daemon::started(serve, &self.dir);
        let workspace = json!({ "id": "wrk_1", "name": "w", "kind": "box" });
        daemon.ok("POST", "/v1/workspaces", Some(workspace)).await;
        daemon.ok("DELETE", "/v1/workspaces/wrk_1", None).await;
        wait_until("the hook runs", || self.pid.exists());
        daemon
    }

    fn is_running(&self) -> bool {
        let pid = fs::read_to_string(&self.pid).unwrap();
        is_running(pid.trim())
    }

    /// Ends the hook where a daemon could not.
    fn kill(&self) {
        let pid = fs::read_to_string(&self.pid).unwrap();
        let group = format!("-{}", pid.trim());
        let killed = std::process::Command::new("kill").args(["-KILL", "--", &group]).status();
        assert!(killed.unwrap().success());
    }
}

/// Tells whether a process runs; one that has ended may wait for whoever inherited it.
fn is_running(pid: &str) -> bool {
    let out = std::process::Command::new("ps").args(["-o", "stat=", "-p", pid]).output().unwrap();
    let state = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "what was not tested belongs to the result")]
async fn the_end_of_its_terminal_ends_a_daemon_and_its_hooks_as_a_stop_does() {
    // Under `nohup` the daemon inherits that it is to go on, and does.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if ignored.is_some_and(|mask| mask & 1 != 0) {
        println!("skipped: SIGHUP is ignored here, as under nohup");
        return;
    }
    let hook = Hook::new(false);
    let daemon = hook.run().await;
    daemon.signal("-HUP");
    assert!(daemon.ended().await.success());
    wait_until("the hook has ended", || !hook.is_running());
    let log = fs::read_to_string(hook.dir.with_extension("log")).unwrap();
    assert!(log.contains("\"stopping\"") && log.contains("SIGHUP"), "{log}");
}

#[tokio::test]
async fn a_daemon_that_is_started_to_outlive_its_terminal_does() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let inner = serve(&dir, "A", LISTEN, &[]);
    let mut nohup = std::process::Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(inner.get_program());
    nohup.args(inner.get_args()).env("SESSIONMESH_DATA_DIR", &dir).env_remove("SESSIONMESH_LOG");
    nohup.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let daemon = Daemon::started(nohup, &dir);
    daemon.signal("-HUP");
    // Signals of one process are delivered before it answers what is asked after them.
    daemon.get("/v1/status").await;
    daemon.signal("-TERM");
    assert!(daemon.ended().await.success());
}

#[tokio::test]
async fn whoever_insists_gets_an_end_at_once_and_no_hook_goes_on() {
    let hook = Hook::new(true);
    let daemon = hook.run().await;
    daemon.signal("-TERM");
    wait_until("it stops", || {
        fs::read_to_string(hook.dir.with_extension("log")).unwrap().contains("\"stopping\"")
    });
    daemon.signal("-TERM");
    // It may have waited for the hook long enough before it was told again.
    daemon.ended().await;
    wait_until("the hook has ended", || !hook.is_running());
}

#[tokio::test]
async fn a_hook_that_outlives_a_killed_daemon_is_named_at_the_next_start() {
    let hook = Hook::new(false);
    let daemon = hook.run().await;
    daemon.kill();
    assert!(hook.is_running());
    let daemon = Daemon::start(&hook.dir, "A", &["--undo-window", "0"]);
    let status = daemon.get("/v1/status").await;
    assert_eq!(status["hooks_left_running"], json!(["wrk_1"]));
    assert!(daemon.log().contains("still runs"), "{}", daemon.log());
    hook.kill();
    let ended = |status: &serde_json::Value| status["hooks_left_running"] == json!([]);
    daemon.until("/v1/status", "the hook has ended", ended).await;
}

#[tokio::test]
async fn a_hook_gets_no_secret_of_the_daemon() {
    let hook = Hook::new(false);
    let daemon = hook.run().await;
    let told = fs::read_to_string(&hook.told).unwrap();
    assert!(!told.contains("hunter2"), "{told}");
    for part in ["PATH=", "DOCKER_HOST=unix:///x", "SESSIONMESH_WORKSPACE_ID=wrk_1"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    assert!(!told.contains("SESSIONMESH_DATA_DIR"), "{told}");
    assert!(daemon.stop().success());
}

#[tokio::test]
async fn a_socket_that_is_removed_comes_back_and_no_command_says_that_the_daemon_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let daemon = Daemon::start(&dir, "A", &[]);
    let socket = PathBuf::from(daemon.ready["socket"].as_str().unwrap());
    for _ in 0..2 {
        fs::remove_file(&socket).unwrap();
        let asked = harness::command(&dir).arg("status").output().unwrap();
        let stderr = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert!(asked.status.success(), "{stderr}");
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // What is not the daemon's stays as it is, and is named.
    fs::remove_file(&socket).unwrap();
    fs::create_dir(&socket).unwrap();
    let asked = harness::command(&dir).arg("status").output().unwrap();
    let stderr = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert_eq!(asked.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("it runs"), "{stderr}");
    assert!(daemon.stop().success());
    assert!(socket.is_dir());
}

#[tokio::test]
async fn a_directory_is_made_absolute_where_it_is_typed() {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().canonicalize().unwrap();
    let daemon = Daemon::start(&top.join("data"), "A", &[]);
    let work = top.join("work");
    fs::create_dir(&work).unwrap();
    let typed = |args: &[&str]| {
        let out = harness::command(daemon.dir()).args(args).current_dir(&work).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let workspace = ["workspace", "create", "--name", "w", "--kind", "directory", "--id"];
    let session = ["session", "create", "--id"];
    for (id, directory) in [("here", "."), ("below", "a b"), ("above", "../other")] {
        for verb in [&workspace[..], &session] {
            let (code, stderr) = typed(&[verb, &[id, "--directory", directory]].concat());
            assert_eq!((code, stderr.as_str()), (Some(0), ""), "{directory}");
        }
    }
    let view = daemon.get("/v1/view").await;
    for records in ["sessions", "workspaces"] {
        let of = |id: &str| {
            let records = view[records].as_array().unwrap().iter();
            let mut found = records.filter(|it| it["id"] == id).map(|it| it["directory"].clone());
            found.next().unwrap()
        };
        assert_eq!(of("here"), json!(work));
        assert_eq!(of("below"), json!(work.join("a b")));
        assert_eq!(of("above"), json!(top.join("other")));
    }
    let (code, stderr) = typed(&[&workspace[..], &["url", "--directory", "file:///w"]].concat());
    assert!(code == Some(2) && stderr.contains("file:///w"), "{stderr}");
}

#[tokio::test]
async fn what_is_gone_is_told_to_programs_as_to_people() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let daemon = Daemon::start(&dir, "A", &["--undo-window", "0"]);
    let workspace = json!({ "id": "wrk_1", "name": "w", "kind": "directory", "directory": "/w" });
    daemon.ok("POST", "/v1/workspaces", Some(workspace)).await;
    let session = json!({ "id": "ses_1", "workspace_id": "wrk_1" });
    daemon.ok("POST", "/v1/sessions", Some(session)).await;
    daemon.ok("DELETE", "/v1/sessions/ses_1", None).await;
    let is_gone = |view: &serde_json::Value| view["workspaces"] == json!([]);
    daemon.until("/v1/view", "gone", is_gone).await;
    for (kind, id, state) in [("session", "ses_1", "purged"), ("workspace", "wrk_1", "gone")] {
        let show = |more: &[&str]| {
            let out = harness::command(&dir).args([kind, "show", id]).args(more).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        let text = show(&[]);
        assert!(text.contains(state) && text.contains(id), "{text}");
        let told: serde_json::Value = serde_json::from_str(&show(&["--json"])).unwrap();
        assert_eq!((&told["id"], &told["state"]), (&json!(id), &json!(state)));
        assert_eq!(told["host"], json!(daemon.node()));
        assert_eq!(told["teardowns"].as_array().map(Vec::len), (kind == "workspace").then_some(1));
        let absent = harness::command(&dir).args([kind, "show", "never", "--json"]).output();
        assert_eq!(absent.unwrap().status.code(), Some(3));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn output_that_can_not_be_written_or_is_no_longer_read_ends_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let help = harness::command(&dir).arg("--help").stdout(full).output().unwrap();
    let stderr = String::from_utf8_lossy(&help.stderr).into_owned();
    assert!(help.status.code() == Some(1) && stderr.contains("can't be written"), "{stderr}");

    let _daemon = Daemon::start(&dir, "A", &[]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut watch = harness::command(&dir);
    let mut watch = watch.arg("watch").stdout(writer).stderr(Stdio::null()).spawn().unwrap();
    // The command itself, which was spawned from a copy, is now the only writer.
    let mut first = [0];
    std::io::Read::read_exact(&mut reader, &mut first).unwrap();
    drop(reader);
    wait_until("watch ends", || watch.try_wait().unwrap().is_some());
}

#[tokio::test]
async fn doctor_asks_the_daemon_for_what_the_daemon_finds() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let doctor = || {
        let out = harness::command(&dir).arg("doctor").output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let git = |text: &str| text.lines().find(|line| line.contains(" git: ")).unwrap().to_owned();
    let mut serve = serve(&dir, "A", LISTEN, &[]);
    serve.env("PATH", &empty).stderr(Stdio::null());
    let daemon = Daemon::started(serve, &dir);
    let looked = |status: &serde_json::Value| status["git"] != json!(null);
    daemon.until("/v1/status", "it has looked", looked).await;
    let said = git(&doctor());
    assert!(said.starts_with("warning") && said.contains("the daemon finds none"), "{said}");
    assert!(daemon.stop().success());
    let said = git(&doctor());
    assert!(said.starts_with("ok") && said.contains("no daemon could be asked"), "{said}");
}
