//! Owns starting a daemon with the data folder of an earlier version.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
};

use serde_json::json;

use crate::harness::{Daemon, command};

/// Puts a copy of a data folder of 0.1.0 in place.
fn put(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::create_dir_all(dir).unwrap();
    mode(dir, 0o700);
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-0.1.0");
    for name in ["state.redb", "node.key"] {
        let to = dir.join(name);
        std::fs::copy(from.join(name), &to).unwrap();
        mode(&to, 0o600);
    }
}

/// Returns what `serve` says to a person once it is ready.
fn said(dir: &Path) -> String {
    let mut serve = command(dir);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--name", "alice"]);
    serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = serve.spawn().unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    // The last line that it says.
    while !said.contains("sessionmesh serve --join TICKET") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "it has ended after {said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    said
}

#[tokio::test]
async fn a_store_of_0_1_0_opens_with_its_own_records_and_serve_says_once_how_to_invite_again() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("alice");
    put(&dir);
    let first = said(&dir);
    assert!(first.contains("alone in a new fleet"), "{first}");
    assert!(first.contains("invite --role admin") && first.contains("join TICKET"), "{first}");
    let second = said(&dir);
    assert!(!second.contains("alone in a new fleet"), "{second}");
    let alice = Daemon::start(&dir, "alice", &[]);
    let view = alice.ok("GET", "/v1/view", None).await;
    let titles: Vec<_> =
        view["sessions"].as_array().unwrap().iter().map(|it| &it["title"]).collect();
    assert_eq!(titles, [&json!("from before")], "its own, and nobody else's");
    assert_eq!(view["workspaces"][0]["name"], "try");
    let status = alice.ok("GET", "/v1/status", None).await;
    assert_eq!((&status["role"], &status["admins"]), (&json!("admin"), &json!(1)));
    // And the way that it says works.
    let bob = Daemon::start(&folder.path().join("bob"), "bob", &[]);
    bob.ok("POST", "/v1/join", Some(json!({ "ticket": alice.invite().await }))).await;
    let all = |view: &serde_json::Value| view["sessions"].as_array().map(Vec::len) == Some(1);
    bob.until("/v1/view", "it has what alice has", all).await;
}
