//! Measures how long a new node takes to hold what a fleet of 100 hosts holds, at 1,000, 10,000 and
//! 100,000 sessions, and how many bytes that takes.
//!
//! The floor is measured in the same run: loading the same saved documents with nothing around
//! them, one after the other, and their saved size.
//!
//! `cargo bench --bench first_sync [-- --quick]` prints a table and writes
//! `target/bench/first_sync.json`.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;
#[path = "../tests/harness/mod.rs"]
mod harness;

use std::time::{Duration, Instant};

use automerge::Automerge;
use common::{
    report::{Report, Samples, cpu_s, is_quick, memory_mb, say},
    state::{self, Fleet},
};
use harness::Daemon;
use serde_json::json;

/// How many new nodes join at each size.
const NODES: usize = 3;
/// How often the new node is looked at, once it may be done: each look takes its time from it, which at
/// 100 documents is some 3 % of all where it begins at once.
const LOOK_EVERY: Duration = Duration::from_millis(5);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("there are threads");
    runtime.block_on(measure());
}

async fn measure() {
    let mut report = Report::new("first_sync");
    let quick = is_quick();
    let sizes: &[usize] = if quick { &[1_000] } else { &[1_000, 10_000, 100_000] };
    for &sessions in sizes {
        say(&format!("making {sessions} sessions on {} hosts", state::HOSTS));
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let dir = folder.path().join("a");
        let fleet = Fleet::make(&[state::key(&dir)], state::HOSTS, sessions);
        fleet.write(&dir, &[]);
        let a = Daemon::start(&dir, "a", &["--undo-window", "1h"]);
        // It covers sessions and workspaces, which a new node brings none of.
        let shown = a.get("/v1/status").await["digest"].clone();
        let (mut walls, mut loads) = (Samples::default(), Samples::default());
        let (mut bytes, mut cpu, mut peak) = (0.0, 0.0, 0.0_f64);
        for n in 0..if quick { 1 } else { NODES } {
            let begun = Instant::now();
            let documents: Vec<Automerge> = fleet
                .hosts
                .iter()
                .map(|host| Automerge::load(&host.bytes).expect("it was just saved"))
                .collect();
            let load = begun.elapsed();
            loads.push(load);
            drop(documents);

            let ticket = a.invite().await;
            let name = format!("b{n}");
            let b = Daemon::start(&folder.path().join(&name), &name, &["--undo-window", "1h"]);
            let begun = Instant::now();
            b.ok("POST", "/v1/join", Some(json!({ "ticket": ticket }))).await;
            // Two threads load; in less than half the time of one nothing can be done.
            tokio::time::sleep((load / 2).saturating_sub(begun.elapsed())).await;
            while b.get("/v1/status").await["digest"] != shown {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            walls.push(begun.elapsed());
            bytes = figure(&b, "sessionmesh_received_bytes_total").await;
            cpu = cpu_s(b.pid()).unwrap_or_default();
            peak = peak.max(memory_mb(b.pid(), "VmHWM").unwrap_or_default());
            assert!(b.stop().success());
        }
        let saved = fleet.saved_bytes() as f64;
        report.note(format!("saved_{sessions}_bytes"), saved);
        report.note(format!("load_{sessions}_ms"), loads.us(50) / 1e3);
        report.note(format!("wall_{sessions}_ms"), walls.us(50) / 1e3);
        report.note(format!("receiver_{sessions}_cpu_s"), cpu);
        report.note(format!("receiver_{sessions}_peak_mb"), peak);
        let (of_bytes, of_load) = (bytes / saved, walls.us(50) / loads.us(50));
        if sessions == 100_000 {
            report.at_most(format!("bytes_over_saved_{sessions}"), of_bytes, 1.05);
            report.at_most(format!("wall_over_load_{sessions}"), of_load, 1.3);
        } else {
            report.note(format!("bytes_over_saved_{sessions}"), of_bytes);
            report.note(format!("wall_over_load_{sessions}"), of_load);
        }
    }
    report.finish();
}

/// Reads one of the daemon's own figures.
async fn figure(daemon: &Daemon, name: &str) -> f64 {
    let request = daemon.request(reqwest::Method::GET, "/metrics");
    let text = request.send().await.expect("it answers").text().await.expect("it is text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or_else(|| panic!("no {name} among the figures"))
}
