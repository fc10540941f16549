//! Owns showing that real power cuts lose nothing: a real daemon on a real filesystem whose power
//! goes while it writes, or while it starts, and that then gets no room.
//!
//! What is cut is `common/power_disk.rs`, which takes root and loop devices; where they are missing
//! the tests say so and pass. `SESSIONMESH_REQUIRE_POWER_CUTS=1` makes them fail instead.
//!
//! `POWER_CUTS=150 SEED=7 cargo test --test mesh power` cuts oftener, or again as it was; where the
//! cuts fall depends on the machine, too. Only what was acknowledged *before* a cut is counted: an
//! answer that comes after it may have been given by a daemon that did not know yet.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde_json::json;
use sessionmesh::replica::record::SessionState;

use crate::{
    harness::{Client, Daemon, command},
    kills::{PrintedOnPanic, setting},
    power_disk::Disk,
};

/// How often the power is cut where `POWER_CUTS` says nothing.
const CUTS_DEFAULT: u32 = 10;
/// How many write at once: enough that commits are grouped.
const WORKERS: usize = 4;
/// How large the filesystem is: small enough to be filled, large enough for a journal.
const DISK_BYTES: u64 = 32 << 20;
/// Deletes stay pending: what is purged can't be asked for.
const UNDO: [&str; 2] = ["--undo-window", "1h"];

/// All titles that a session was asked to have, in order, and which was acknowledged last.
#[derive(Debug, Default)]
struct Promise {
    titles: Vec<String>,
    acknowledged: Option<usize>,
}

/// What was promised before the power went.
#[derive(Debug, Default)]
struct Ledger {
    cut: bool,
    promises: BTreeMap<String, Promise>,
    acknowledged: u64,
}

type Shared = Arc<Mutex<Ledger>>;

fn lock(ledger: &Shared) -> MutexGuard<'_, Ledger> {
    ledger.lock().expect("nobody panics while holding it")
}

/// Creates and renames sessions, one request after the other, until the daemon is gone.
async fn write(client: Client, ledger: Shared, round: u32, worker: usize) {
    for number in 0_u32.. {
        let id = format!("s{round}-{worker}-{}", number / 2);
        let title = format!("{id} {number} {}", "x".repeat(number as usize % 700));
        lock(&ledger).promises.entry(id.clone()).or_default().titles.push(title.clone());
        let answer = if number % 2 == 0 {
            client.try_send("POST", "/v1/sessions", json!({ "id": id, "title": title })).await
        } else {
            let path = format!("/v1/sessions/{id}");
            client.try_send("PATCH", &path, json!({ "title": title })).await
        };
        let Some((200 | 201, _)) = answer else { return };
        let mut ledger = lock(&ledger);
        if ledger.cut {
            // Not counted; and asked on, or a daemon that was idle at the cut would never notice it.
            continue;
        }
        ledger.acknowledged += 1;
        let promise = ledger.promises.get_mut(&id).expect("it was just asked for");
        promise.acknowledged = Some(promise.titles.len() - 1);
    }
}

/// Checks that all promises are kept, and takes what is there as promised from now on.
async fn check(daemon: &Daemon, ledger: &Shared) {
    let view = daemon.view().await;
    let shown: BTreeMap<_, _> =
        view.sessions.iter().map(|session| (session.id.as_str(), session)).collect();
    let mut ledger = lock(ledger);
    assert!(shown.keys().all(|id| ledger.promises.contains_key(*id)), "nothing else is there");
    ledger.promises.retain(|id, promise| {
        let Some(session) = shown.get(id.as_str()) else {
            assert_eq!(promise.acknowledged, None, "{id} is lost");
            return false;
        };
        assert_eq!(session.state, SessionState::Live, "{id}");
        let title = session.title.clone().unwrap_or_default();
        let may_be = &promise.titles[promise.acknowledged.unwrap_or(0)..];
        assert!(may_be.contains(&title), "{id} is {title:?} and not one of {may_be:?}");
        *promise = Promise { titles: vec![title], acknowledged: Some(0) };
        true
    });
    ledger.cut = false;
}

#[expect(clippy::print_stdout, reason = "how much was tried belongs to the result")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_lose_nothing_that_was_acknowledged_before_them() {
    let Some(disk) = Disk::new(DISK_BYTES) else { return };
    let cuts = setting("POWER_CUTS", CUTS_DEFAULT);
    let seed = setting("SEED", fastrand::u64(..));
    let printed = PrintedOnPanic(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let ledger = Shared::default();
    let mut first = None;
    for round in 0..cuts {
        let daemon = Daemon::start(&disk.dir(), "alice", &UNDO);
        check(&daemon, &ledger).await;
        let names = (daemon.node(), daemon.ready["fleet"].clone());
        assert_eq!(*first.get_or_insert(names.clone()), names, "it is the same node");
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| tokio::spawn(write(daemon.client(), ledger.clone(), round, worker)))
            .collect();
        tokio::time::sleep(Duration::from_millis(rng.u64(5..250))).await;
        {
            let mut ledger = lock(&ledger);
            ledger.cut = true;
            disk.cut();
        }
        if rng.bool() {
            daemon.kill();
        } else {
            // It notices by itself that nothing can be written, and must not go on.
            let status = daemon.ended().await;
            assert_eq!(status.code(), Some(1), "a daemon that can't write stops");
        }
        for worker in workers {
            worker.await.expect("no answer was wrong");
        }
        disk.power_on();
    }
    let daemon = Daemon::start(&disk.dir(), "alice", &UNDO);
    check(&daemon, &ledger).await;
    let Ledger { acknowledged, promises, .. } = &*lock(&ledger);
    println!(
        "power: cuts={cuts} acknowledged_before_cuts={acknowledged} records={} lost=0",
        promises.len()
    );
    assert!(*acknowledged > u64::from(cuts), "hardly anything was written: {acknowledged}");
    drop(printed);
}

#[tokio::test]
async fn a_power_cut_at_any_moment_of_a_first_start_leaves_a_folder_that_starts() {
    let Some(disk) = Disk::new(DISK_BYTES) else { return };
    let cuts = setting("POWER_CUTS", CUTS_DEFAULT) / 2;
    let seed = setting("SEED", fastrand::u64(..));
    let printed = PrintedOnPanic(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..cuts {
        let mut child = command(&disk.dir())
            .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command starts");
        tokio::time::sleep(Duration::from_millis(rng.u64(0..120))).await;
        disk.cut();
        child.kill().expect("it was not waited for");
        child.wait().expect("it can be waited for");
        disk.power_on();
        let daemon = Daemon::start(&disk.dir(), "alice", &UNDO);
        let node = daemon.node();
        daemon.kill();
        assert_eq!(Daemon::start(&disk.dir(), "alice", &UNDO).node(), node);
        for entry in fs::read_dir(disk.dir()).expect("it is mounted") {
            let path = entry.expect("it can be listed").path();
            fs::remove_file(&path).expect("all in it are files");
        }
    }
    drop(printed);
}

#[tokio::test]
async fn a_daemon_without_room_stops_says_which_file_and_loses_nothing() {
    let Some(disk) = Disk::new(DISK_BYTES) else { return };
    let ledger = Shared::default();
    let daemon = Daemon::start(&disk.dir(), "alice", &UNDO);
    let filler = disk.dir().join("filler");
    let mut file = File::create(&filler).expect("there is room");
    while std::io::Write::write_all(&mut file, &[0; 4_096]).is_ok() {}
    let log = daemon.dir().with_extension("log");
    let writers = (0..WORKERS).map(|worker| write(daemon.client(), ledger.clone(), 0, worker));
    let writers: Vec<_> = writers.map(tokio::spawn).collect();
    for writer in writers {
        writer.await.expect("no answer was wrong");
    }
    assert_eq!(daemon.ended().await.code(), Some(1), "a daemon that can't write stops");
    let log = fs::read_to_string(log).expect("it is outside the disk");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("state.redb") && last.contains("make room"), "{last}");
    drop(file);
    fs::remove_file(filler).expect("it is there");
    let daemon = Daemon::start(&disk.dir(), "alice", &UNDO);
    check(&daemon, &ledger).await;
}
