//! Measures how long a daemon takes from its start to its readiness, and how much memory it then
//! has, with 10,000 and 100,000 sessions on 100 hosts.
//!
//! The floor is measured in the same run: loading the same saved documents with nothing around
//! them, one after the other. Memory is that of the daemon's own process: the most it ever had
//! while it started, what it has once it is ready, and what it has after 10,000 updates.
//!
//! `cargo bench --bench startup [-- --quick]` prints a table and writes `target/bench/startup.json`.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;
#[path = "../tests/harness/mod.rs"]
mod harness;

use std::time::{Duration, Instant};

use automerge::Automerge;
use common::{
    report::{Report, Samples, is_quick, memory_mb, ms, say},
    state::{self, Fleet},
};
use harness::Daemon;
use serde_json::json;

/// How often a daemon is started, and the documents are loaded, at each size.
const STARTS: usize = 5;
/// How many updates the burst has, and how many are under way at a time.
const UPDATES: usize = 10_000;
const AT_A_TIME: usize = 32;
/// How long memory is given to come to rest.
const REST: Duration = Duration::from_secs(2);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("there are threads");
    runtime.block_on(measure());
}

async fn measure() {
    let mut report = Report::new("startup");
    let (quick, sizes) = (is_quick(), [(10_000, 60.0), (100_000, 250.0)]);
    for (sessions, memory_goal) in if quick { &sizes[..1] } else { &sizes[..] } {
        let sessions = *sessions;
        say(&format!("making {sessions} sessions on {} hosts", state::HOSTS));
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let dir = folder.path().join("a");
        let key = state::key(&dir);
        let node = key.node();
        let fleet = Fleet::make(&[key], state::HOSTS, sessions);
        fleet.write(&dir, &[]);
        report.note(format!("saved_mb_{sessions}"), fleet.saved_bytes() as f64 / 1e6);

        let (mut ready, mut loads) = (Samples::default(), Samples::default());
        for _ in 0..if quick { 1 } else { STARTS } {
            let begun = Instant::now();
            let documents: Vec<Automerge> = fleet
                .hosts
                .iter()
                .map(|host| Automerge::load(&host.bytes).expect("it was just saved"))
                .collect();
            loads.push(begun.elapsed());
            assert_eq!(documents.len(), state::HOSTS);
            drop(documents);

            let begun = Instant::now();
            let daemon = Daemon::start(&dir, "a", &["--undo-window", "1h"]);
            let (status, _) = daemon.send("GET", "/readyz", None).await;
            ready.push(begun.elapsed());
            assert_eq!(status, 200);
            assert!(daemon.stop().success());
        }
        report.note(format!("load_{sessions}_ms"), loads.us(50) / 1e3);
        report.note(format!("ready_{sessions}_ms"), ready.us(50) / 1e3);
        let key = format!("ready_over_load_{sessions}");
        if sessions == 100_000 {
            report.at_most(key, ready.us(50) / loads.us(50), 1.2);
        } else {
            report.note(key, ready.us(50) / loads.us(50));
        }

        let daemon = Daemon::start(&dir, "a", &["--undo-window", "1h"]);
        let pid = daemon.pid();
        tokio::time::sleep(REST).await;
        if let (Some(peak), Some(settled)) = (memory_mb(pid, "VmHWM"), memory_mb(pid, "VmRSS")) {
            report.note(format!("peak_mb_{sessions}"), peak);
            report.at_most(format!("settled_mb_{sessions}"), settled, *memory_goal);
        }
        let begun = Instant::now();
        let view = daemon.view().await;
        report.note(format!("view_{sessions}_ms"), ms(begun.elapsed()));
        assert_eq!(view.sessions.len(), fleet.sessions);
        drop(view);

        let begun = Instant::now();
        burst(&daemon, &node, sessions / state::HOSTS, if quick { 500 } else { UPDATES }).await;
        report.note(format!("burst_{sessions}_ms"), ms(begun.elapsed()));
        tokio::time::sleep(REST).await;
        if let (Some(peak), Some(settled)) = (memory_mb(pid, "VmHWM"), memory_mb(pid, "VmRSS")) {
            report.note(format!("peak_after_burst_mb_{sessions}"), peak);
            report.at_most(format!("after_burst_mb_{sessions}"), settled, *memory_goal);
        }
    }
    report.finish();
}

/// Gives sessions of the daemon's own host new titles, over and over.
async fn burst(
    daemon: &Daemon,
    host: &sessionmesh::replica::ids::NodeId,
    sessions: usize,
    updates: usize,
) {
    let tasks: Vec<_> = (0..AT_A_TIME)
        .map(|task| {
            let (client, host) = (daemon.client(), *host);
            tokio::spawn(async move {
                for n in (task..updates).step_by(AT_A_TIME) {
                    let id = state::session_id(&host, n % sessions);
                    let title = json!({ "title": format!("update number {n}") });
                    client.ok("PATCH", &format!("/v1/sessions/{id}"), Some(title)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("every update is taken");
    }
}
