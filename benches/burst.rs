//! Measures 10,000 changes in a row at one of two nodes, and 10,000 from eight nodes at once, until
//! every node shows them: changes a second, bytes a change, memory.
//!
//! Real daemons with real links, all within this process, and asked through their loops' handles:
//! what HTTP adds is not in it. The floor in the same run is the bare commit and the bare applying
//! of as many changes in automerge, one after the other. With the feature `compare`, samod 0.16 over
//! TCP takes as many in a row in the same run, its sessions in one document.
//!
//! `cargo bench [--features compare] --bench burst [-- --quick]` prints a table and writes `target/bench/burst.json`.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;

use std::time::{Duration, Instant};

use common::{
    floor::{Core, Kind},
    node::{Node, PATIENCE, free_address},
    report::{Report, is_quick, memory_mb, rounded, say},
    state::{self, Fleet},
};
use futures_util::{StreamExt as _, stream};
use sessionmesh::replica::command::{Command, SessionPatch, Target};

/// How many changes are written in all.
const CHANGES: usize = 10_000;
/// How many sessions the fleet has.
const SESSIONS: usize = 1_000;
/// How many changes are under way at a time, over all nodes.
const UNDER_WAY: usize = 256;
/// How long memory is given to come to rest.
const REST: Duration = Duration::from_secs(2);

fn main() {
    let mut report = Report::new("burst");
    let changes = if is_quick() { 500 } else { CHANGES };
    let fleet = Fleet::make(&[], 1, SESSIONS);
    let mut core = Core::of(&fleet);
    let host = fleet.hosts[0].key.node();
    let room = format!("wrk_{}{:014}", host.short(), 0).parse().expect("it is an id");
    let bare: Duration = (0..changes)
        .map(|n| {
            let id = state::session_id(&host, n % SESSIONS).parse().expect("it is an id");
            let taken = core.take(Kind::Title, &id, &room, Duration::ZERO);
            taken.commit + taken.apply
        })
        .sum();
    report.note("bare_changes_per_s", (changes as f64 / bare.as_secs_f64()).round());
    for (name, nodes, writers) in [("one_of_two", 2, 1), ("eight_at_once", 8, 8)] {
        say(&format!("{changes} changes by {writers} of {nodes} nodes"));
        let measured = measure(nodes, writers, changes);
        report.at_least(format!("{name}_changes_per_s"), measured.changes_per_s, 5_000.0);
        report.note(format!("{name}_bytes_per_change_and_link"), measured.bytes_per_change);
        report.note(format!("{name}_peak_mb_a_node"), measured.peak_mb / nodes as f64);
        report.note(format!("{name}_settled_mb_a_node"), measured.settled_mb / nodes as f64);
    }
    #[cfg(feature = "compare")]
    compare(&mut report, &fleet, changes);
    report.finish();
}

/// Measures the peer.
#[cfg(feature = "compare")]
fn compare(report: &mut Report, fleet: &Fleet, changes: usize) {
    use common::peer::{Samod, one_document};

    say(&format!("{changes} changes by one of two nodes of samod"));
    let host = fleet.hosts[0].key.node();
    let ids: Vec<String> = (0..SESSIONS).map(|n| state::session_id(&host, n)).collect();
    let (document, sessions) = one_document(fleet);
    let samod = Samod::share(vec![document], sessions);
    match samod.burst(changes, &ids, PATIENCE) {
        Some(took) => {
            let per_s = (changes as f64 / took.as_secs_f64()).round();
            report.note("samod_one_of_two_changes_per_s", per_s);
        }
        None => report.note("samod_one_of_two_longer_than_s", PATIENCE.as_secs()),
    }
}

struct Measured {
    changes_per_s: f64,
    bytes_per_change: f64,
    peak_mb: f64,
    settled_mb: f64,
}

fn measure(count: usize, writers: usize, changes: usize) -> Measured {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let folders: Vec<_> = (0..count).map(|n| folder.path().join(format!("n{n}"))).collect();
    let keys: Vec<_> = folders.iter().map(|folder| state::key(folder)).collect();
    let fleet = Fleet::make(&keys, count, SESSIONS);
    let keys: Vec<_> = keys.iter().map(|key| key.node()).collect();
    let addresses: Vec<_> = keys.iter().map(|key| (*key, free_address())).collect();
    folders.iter().for_each(|folder| fleet.write(folder, &addresses));
    let nodes: Vec<Node> = folders
        .iter()
        .zip(&addresses)
        .map(|(folder, (_, address))| Node::start(folder, address))
        .collect();
    for node in &nodes {
        keys.iter().filter(|key| **key != node.ready.node).for_each(|key| node.until_in_sync(*key));
    }
    let sent = |nodes: &[Node]| -> u64 {
        nodes
            .iter()
            .map(|node| {
                let handle = node.handle.clone();
                node.block_on(async move { handle.status().await.expect("it runs").sent_bytes })
            })
            .sum()
    };
    let before = sent(&nodes);
    let begun = Instant::now();
    let per_host = SESSIONS / count;
    for node in nodes.iter().take(writers) {
        let (handle, host) = (node.handle.clone(), node.ready.node);
        let (own, at_a_time) = (changes / writers, UNDER_WAY / writers);
        node.spawn(async move {
            let asked = stream::iter(0..own).map(|n| {
                let id = state::session_id(&host, n % per_host).parse().expect("it is an id");
                let title = Some(Some(format!("burst {n}")));
                let patch = SessionPatch { title, ..SessionPatch::default() };
                handle.command(Command::UpdateSession(Target::new(id), patch))
            });
            let answers = asked.buffer_unordered(at_a_time);
            answers.for_each(async |answer| drop(answer.expect("it is carried out"))).await;
        });
    }
    // Seen everywhere: each node shows the last title of each writer's last session.
    let shown = |node: &Node| {
        let view = node.handle.hub().view();
        keys.iter().take(writers).all(|host| {
            let own = changes / writers;
            let first = own.saturating_sub(per_host);
            (first..own).all(|n| {
                let id = state::session_id(host, n % per_host).parse().expect("it is an id");
                let title = format!("burst {n}");
                view.session(&id).any(|session| session.title.as_ref() == Some(&title))
            })
        })
    };
    for node in &nodes {
        while !shown(node) {
            assert!(begun.elapsed() < PATIENCE, "the changes do not arrive");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let elapsed = begun.elapsed();
    let pid = std::process::id();
    let peak_mb = memory_mb(pid, "VmHWM").unwrap_or_default();
    let bytes = sent(&nodes) - before;
    std::thread::sleep(REST);
    let settled_mb = memory_mb(pid, "VmRSS").unwrap_or_default();
    let told = changes * (count - 1);
    Measured {
        changes_per_s: changes as f64 / elapsed.as_secs_f64(),
        bytes_per_change: rounded(bytes as f64 / told as f64),
        peak_mb,
        settled_mb,
    }
}
