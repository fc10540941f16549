//! Owns showing that a damaged store costs nothing that a peer holds: a real daemon refuses it by
//! name, `repair` puts a sound one in its place, and the rest comes back.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    create,
    harness::{Daemon, command, linked},
    session, until_equal,
};

/// Deletes stay pending unless a test says otherwise.
const UNDO: [&str; 2] = ["--undo-window", "1h"];

fn store(dir: &Path) -> PathBuf {
    dir.join("state.redb")
}

/// Starts a fleet of two admins: the only one could not be let in again if it forgot its fleet.
async fn admins(dir: &Path, more: &[&str]) -> Vec<Daemon> {
    let a = Daemon::start(&dir.join("A"), "A", more);
    let invited = a.ok("POST", "/v1/invites", Some(json!({ "role": "admin" }))).await;
    let ticket = invited["ticket"].as_str().expect("an invite has a ticket");
    let b = Daemon::start(&dir.join("B"), "B", &[more, &["--join", ticket]].concat());
    let daemons = vec![a, b];
    linked(&daemons).await;
    daemons
}

/// Runs `repair` and returns what it reports.
fn repair(dir: &Path) -> Value {
    let out = command(dir).args(["repair", "--json"]).output().expect("the command runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    serde_json::from_slice(&out.stdout).expect("the report is JSON")
}

/// Starts a daemon that must refuse its store, and returns what it says.
fn refused(dir: &Path) -> String {
    let out = command(dir)
        .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .output()
        .expect("the command runs");
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("state.redb") && said.contains("sessionmesh repair"), "{said}");
    said
}

/// Ways in which a store is damaged beyond what redb can mend.
fn damages(sound: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut flipped = sound.to_vec();
    for page in flipped.chunks_mut(4_096).skip(1) {
        page[page.len() / 3] ^= 0xff;
    }
    vec![
        ("empty", Vec::new()),
        ("cut short", sound[..sound.len() / 3].to_vec()),
        ("overwritten at its start", [&[0; 512][..], &sound[512..]].concat()),
        ("with wrong bytes in each page", flipped),
    ]
}

#[tokio::test]
async fn what_a_damaged_store_has_lost_comes_back_from_peers_however_it_was_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemons = admins(folder.path(), &UNDO).await;
    for number in 0..5 {
        create(&daemons[0], session(&format!("a{number}"))).await;
        create(&daemons[1], session(&format!("b{number}"))).await;
    }
    daemons[0].ok("DELETE", "/v1/sessions/a0", None).await;
    until_equal(&[&daemons[0], &daemons[1]]).await;
    let b = daemons.pop().unwrap();
    let a = daemons.pop().unwrap();
    let (dir, listen, node) = (a.dir().to_owned(), a.quic(), a.node());
    a.stop();
    let sound = fs::read(store(&dir)).unwrap();
    for (number, (what, bytes)) in damages(&sound).into_iter().enumerate() {
        let digest = b.view().await.digest.to_string();
        fs::write(store(&dir), &bytes).unwrap();
        refused(&dir);
        let report = repair(&dir);
        assert_eq!(report["damaged"], true, "{what}");
        let aside = report["aside"].as_str().expect("the damaged one is kept");
        assert!(aside.ends_with(&format!("state.redb.damaged-{}", number + 1)), "{aside}");
        assert!(fs::read(aside).unwrap() == bytes, "the damaged one is as it was");
        let lost = report["lost"].to_string();
        // Where the fleet is no longer known, a ticket lets the same node in again.
        let ticket = b.invite().await;
        let join = lost.contains("belongs to the fleet: all")
            || !report["kept"].to_string().contains("fleet");
        let mut more = UNDO.to_vec();
        if join {
            assert!(report["next"].to_string().contains("--join"), "{report}");
            more.extend(["--join", &ticket]);
        }
        let a = Daemon::start_at(&dir, "A", &listen, &more);
        assert_eq!(a.node(), node, "it is the same node");
        linked(&[&a, &b]).await;
        assert_eq!(until_equal(&[&a, &b]).await, digest, "{what}: {report}");
        // And it goes on as the host that it was.
        let body = json!({ "title": format!("after {what}") });
        a.ok("PATCH", "/v1/sessions/a1", Some(body)).await;
        until_equal(&[&a, &b]).await;
        a.ok("PATCH", "/v1/sessions/a1", Some(json!({ "title": "the session a1" }))).await;
        until_equal(&[&a, &b]).await;
        a.stop();
        assert_eq!(repair(&dir)["damaged"], false, "{what}: it was mended");
        fs::write(store(&dir), &sound).unwrap();
        // The old store is as good as an old backup: it takes back what it lacks.
        let a = Daemon::start_at(&dir, "A", &listen, &UNDO);
        linked(&[&a, &b]).await;
        until_equal(&[&a, &b]).await;
        a.stop();
        fs::write(store(&dir), &sound).unwrap();
    }
}

#[tokio::test]
async fn a_host_that_has_lost_its_store_takes_nothing_down_before_it_knows_what_was_restored() {
    let folder = tempfile::tempdir().unwrap();
    let undo = ["--undo-window", "300ms"];
    let mut daemons = admins(folder.path(), &UNDO).await;
    let body = json!({ "id": "w", "name": "w", "kind": "directory" });
    daemons[0].ok("POST", "/v1/workspaces", Some(body)).await;
    create(&daemons[0], json!({ "id": "s", "workspace_id": "w" })).await;
    let deleted = daemons[0].ok("DELETE", "/v1/sessions/s", None).await;
    until_equal(&[&daemons[0], &daemons[1]]).await;
    let (b, a) = (daemons.pop().unwrap(), daemons.pop().unwrap());
    let (dir, listen) = (a.dir().to_owned(), a.quic());
    a.stop();
    // While the host is away with a store that says deleted, the delete is undone.
    let old = fs::read(store(&dir)).unwrap();
    let operation = deleted["operation"].as_str().unwrap();
    b.ok("POST", &format!("/v1/operations/{operation}/restore"), None).await;
    let (b_dir, b_listen) = (b.dir().to_owned(), b.quic());
    b.stop();
    // Its store is damaged where the invites and the journal are, say: the documents are whole.
    let mut damaged = old.clone();
    let length = damaged.len();
    damaged.truncate(length - length / 4);
    fs::write(store(&dir), &damaged).unwrap();
    refused(&dir);
    let report = repair(&dir);
    assert_eq!(report["from_peers"], true, "{report}");
    let a = Daemon::start_at(&dir, "A", &listen, &undo);
    // Three undo windows, and nobody to ask: nothing may have been carried out.
    tokio::time::sleep(std::time::Duration::from_millis(900)).await;
    let purged = |log: &str| log.contains("purged");
    assert!(!purged(&a.view().await.sessions.iter().map(|s| s.id.to_string()).collect::<String>()));
    let ticket_needed = report["next"].to_string().contains("--join");
    let b = Daemon::start_at(&b_dir, "B", &b_listen, &undo);
    let a = if ticket_needed {
        let ticket = b.invite().await;
        a.stop();
        Daemon::start_at(&dir, "A", &listen, &[&undo[..], &["--join", &ticket]].concat())
    } else {
        a
    };
    linked(&[&a, &b]).await;
    until_equal(&[&a, &b]).await;
    for daemon in [&a, &b] {
        let view = daemon.view().await;
        assert_eq!(view.sessions.len(), 1, "{:?}", view.sessions);
        assert_eq!(serde_json::to_value(view.sessions[0].state).unwrap(), "live");
        assert_eq!(serde_json::to_value(view.workspaces[0].state).unwrap(), "live");
    }
}

#[tokio::test]
async fn a_store_that_is_gone_is_not_begun_anew_beside_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("alice");
    let daemon = Daemon::start(&dir, "alice", &UNDO);
    let node = daemon.node();
    create(&daemon, session("s")).await;
    daemon.stop();
    fs::rename(store(&dir), folder.path().join("elsewhere")).unwrap();
    assert!(refused(&dir).contains("is missing"));
    assert!(!store(&dir).exists(), "nothing was made");
    let report = repair(&dir);
    assert_eq!((&report["damaged"], &report["aside"]), (&json!(true), &Value::Null));
    let daemon = Daemon::start(&dir, "alice", &UNDO);
    assert_eq!(daemon.node(), node);
    let (status, problem) = daemon.send("POST", "/v1/sessions", Some(session("t"))).await;
    assert_eq!((status, &problem["code"]), (503, &json!("host_not_ready")), "{problem}");
}

#[tokio::test]
async fn a_sound_store_is_left_as_it_is_and_one_in_use_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("alice");
    let daemon = Daemon::start(&dir, "alice", &UNDO);
    create(&daemon, session("s")).await;
    let out = command(&dir).arg("repair").output().expect("the command runs");
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("in use"), "{said}");
    daemon.stop();
    let before = fs::read(store(&dir)).unwrap();
    let report = repair(&dir);
    assert_eq!(report["damaged"], false, "{report}");
    assert!(fs::read(store(&dir)).unwrap() == before);
}

/// Runs `doctor` on free ports; returns whether all is well, and its checks.
fn doctor(dir: &Path) -> (bool, Value) {
    let out = command(dir)
        .args(["doctor", "--json", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .output()
        .expect("the command runs");
    assert!(matches!(out.status.code(), Some(0 | 1)), "{:?}", out.status);
    (out.status.success(), serde_json::from_slice(&out.stdout).expect("the checks are JSON"))
}

fn state<'a>(checks: &'a Value, name: &str) -> &'a str {
    let all = checks.as_array().expect("it is a list");
    let check = all.iter().find(|check| check["name"] == name);
    check.unwrap_or_else(|| panic!("no {name} in {checks}"))["state"].as_str().expect("it has one")
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong_with_and_without_a_daemon_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemons = admins(folder.path(), &UNDO).await;
    create(&daemons[0], session("s")).await;
    until_equal(&[&daemons[0], &daemons[1]]).await;
    linked(&daemons).await;
    let (b, a) = (daemons.pop().unwrap(), daemons.pop().unwrap());
    let dir = a.dir().to_owned();
    let (well, checks) = doctor(&dir);
    assert!(well, "{checks}");
    for name in ["data folder", "store", "daemon", "peer", "clocks"] {
        assert_eq!(state(&checks, name), "ok", "{checks}");
    }
    b.stop();
    a.until("/v1/peers", "the peer is lost", |peers| peers[0]["connected"] == false).await;
    let (well, checks) = doctor(&dir);
    assert_eq!((well, state(&checks, "peer")), (true, "warning"), "{checks}");
    a.stop();
    let (well, checks) = doctor(&dir);
    assert!(well, "{checks}");
    assert_eq!((state(&checks, "daemon"), state(&checks, "store")), ("warning", "ok"));
    let sound = fs::read(store(&dir)).unwrap();
    fs::write(store(&dir), &sound[..sound.len() / 3]).unwrap();
    let (well, checks) = doctor(&dir);
    assert_eq!((well, state(&checks, "store")), (false, "failed"), "{checks}");
    assert!(checks.to_string().contains("sessionmesh repair"), "{checks}");
    assert!(fs::read(store(&dir)).unwrap() == sound[..sound.len() / 3], "nothing was changed");
}
