//! Measures one change to 8, 64 and 256 peers, and one to 1,000 followers of the event stream of
//! which 100 never take anything.
//!
//! The node is a real daemon with real links. Its peers are bare ends of links within this process
//! that greet and count, so that what is measured is the node. The followers follow the hub as the
//! HTTP streams do; what HTTP adds for each is not in it.
//!
//! `cargo bench --bench fanout [-- --quick]` prints a table and writes `target/bench/fanout.json`.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    node::{Node, PATIENCE, free_address},
    report::{Report, Samples, cpu_s, is_quick, rounded, say},
    state::{self, Fleet},
};
use sessionmesh::{
    identity::NodeKey,
    replica::{
        command::{Command, SessionPatch, Target},
        effect::DialTarget,
        ids::{NodeId, StartId},
    },
    transport::{Config, Event, Timing, Transport},
    wire::Frame,
};
use tokio::sync::mpsc;

/// How many changes are measured with each number of peers, after a few that are not.
const CHANGES: usize = 100;
const WARM_UP: usize = 10;
/// How many follow, and how many of them never take anything.
const FOLLOWERS: usize = 1_000;
const FOLLOWERS_IDLE: usize = 100;
/// How many sessions the fleet has, on one host.
const SESSIONS: usize = 1_000;
/// How long is waited between two changes.
const PAUSE: Duration = Duration::from_millis(3);

fn main() {
    let mut report = Report::new("fanout");
    let sizes: &[usize] = if is_quick() { &[8] } else { &[1, 8, 64, 256] };
    println!(
        "{:<12} {:>12} {:>12} {:>12} {:>14}",
        "peers", "last p50 us", "last p99 us", "us a peer", "cpu us a change"
    );
    let mut per_peer = Vec::new();
    for &peers in sizes {
        let measured = to_peers(peers);
        let (p50, p99) = (measured.last.us(50), measured.last.us(99));
        let each = rounded(p50 / peers as f64);
        println!("{peers:<12} {p50:>12} {p99:>12} {each:>12} {:>14}", measured.cpu_us);
        report.note(format!("peers_{peers}_last_p50_us"), p50);
        report.note(format!("peers_{peers}_last_p99_us"), p99);
        report.note(format!("peers_{peers}_cpu_us"), measured.cpu_us);
        per_peer.push(each);
    }
    if let [.., eight, _, most] = per_peer[..] {
        // Linear: each more peer costs no more where there are many.
        report.at_most("us_a_peer_at_256_over_8", most / eight, 1.2);
    }
    let followed = to_followers();
    println!(
        "{FOLLOWERS} followers, {FOLLOWERS_IDLE} of them idle: last p50 {} us",
        followed.us(50)
    );
    report.note("followers_1000_last_p50_us", followed.us(50));
    report.note("followers_1000_last_p99_us", followed.us(99));
    report.finish();
}

struct Measured {
    last: Samples,
    cpu_us: f64,
}

fn node(folder: &std::path::Path, peers: &[NodeId]) -> Node {
    let dir = folder.join("a");
    let key = state::key(&dir);
    let address = free_address();
    let mut members = vec![(key.node(), address.clone())];
    // Nobody dials them: they are members without an address.
    members.extend(peers.iter().map(|peer| (*peer, String::new())));
    Fleet::make(&[key], 1, SESSIONS).write(&dir, &members);
    Node::start(&dir, &address)
}

fn rename(node: &Node, n: usize) -> Command {
    let id = state::session_id(&node.ready.node, n % SESSIONS).parse().expect("it is an id");
    let title = Some(Some(format!("fanned out {n}")));
    Command::UpdateSession(Target::new(id), SessionPatch { title, ..SessionPatch::default() })
}

fn to_peers(count: usize) -> Measured {
    say(&format!("one change to {count} peers"));
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let keys: Vec<_> = (0..count).map(|_| Arc::new(NodeKey::generate())).collect();
    let nodes: Vec<NodeId> = keys.iter().map(|key| key.node()).collect();
    let node = node(folder.path(), &nodes);
    let runtime = tokio::runtime::Runtime::new().expect("there are threads");
    let (told, mut arrivals) = mpsc::unbounded_channel();
    let (greeted, mut greetings) = mpsc::unbounded_channel();
    let target =
        DialTarget { node: node.ready.node, addresses: [node.ready.quic.to_string()].into() };
    for key in keys {
        let (target, told, greeted) = (target.clone(), told.clone(), greeted.clone());
        runtime.spawn(peer(key, target, told, greeted));
    }
    for _ in 0..count {
        let greeting = async { tokio::time::timeout(PATIENCE, greetings.recv()).await };
        runtime.block_on(greeting).expect("all greet").expect("they live");
    }
    let (mut last, mut cpu) = (Samples::default(), 0.0);
    let changes = if is_quick() { 10 } else { CHANGES };
    for n in 0..WARM_UP + changes {
        if n == WARM_UP {
            cpu = cpu_s(std::process::id()).unwrap_or_default();
        }
        let (handle, command) = (node.handle.clone(), rename(&node, n));
        let begun = node.block_on(async move {
            let begun = Instant::now();
            handle.command(command).await.expect("it is carried out");
            begun
        });
        let mut latest = begun;
        for _ in 0..count {
            let arrived: Instant = arrivals.blocking_recv().expect("the peers live");
            latest = latest.max(arrived);
        }
        if n >= WARM_UP {
            last.push(latest - begun);
        }
        std::thread::sleep(PAUSE);
    }
    let used = cpu_s(std::process::id()).unwrap_or_default() - cpu;
    Measured { last, cpu_us: (used * 1e6 / changes as f64).round() }
}

/// Is a peer that greets as one that holds the same, and tells when changes come.
async fn peer(
    key: Arc<NodeKey>,
    target: DialTarget,
    told: mpsc::UnboundedSender<Instant>,
    greeted: mpsc::UnboundedSender<()>,
) {
    let config = Config {
        listen: "127.0.0.1:0".parse().expect("it is an address"),
        start: StartId(key.node().0[..8].try_into().expect("a key is longer")),
        key,
        seed: 0,
        wall_ms: None,
        timing: Timing::default(),
    };
    let (transport, mut events) = Transport::bind(config).expect("a port is free");
    transport.set_targets(vec![target.clone()]);
    while let Some(event) = events.recv().await {
        match event {
            Event::Frame { frame: Frame::Hello(hello), .. } => {
                // The same frontier: both hold the same, as far as the node can tell.
                transport.send(&[target.node], &Frame::Hello(hello)).expect("it fits");
                let _ = greeted.send(());
            }
            Event::Frame { frame: frame @ Frame::Check { .. }, .. } => {
                transport.send(&[target.node], &frame).expect("it fits");
            }
            Event::Frame { frame: Frame::Changes { .. }, .. } => {
                let _ = told.send(Instant::now());
            }
            _ => {}
        }
    }
}

fn to_followers() -> Samples {
    say("one change to many followers");
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let node = node(folder.path(), &[]);
    let hub = node.handle.hub().clone();
    let idle: Vec<_> = (0..FOLLOWERS_IDLE).map(|_| hub.subscribe(Some(hub.cursor()))).collect();
    let (told, mut arrivals) = mpsc::unbounded_channel();
    for _ in FOLLOWERS_IDLE..FOLLOWERS {
        let (mut subscription, told) = (hub.subscribe(Some(hub.cursor())), told.clone());
        node.spawn(async move {
            while subscription.next().await.is_some() && told.send(Instant::now()).is_ok() {}
        });
    }
    let mut last = Samples::default();
    for n in 0..WARM_UP + if is_quick() { 10 } else { CHANGES } {
        let (handle, command) = (node.handle.clone(), rename(&node, n));
        let begun = node.block_on(async move {
            let begun = Instant::now();
            handle.command(command).await.expect("it is carried out");
            begun
        });
        let arrived = (FOLLOWERS_IDLE..FOLLOWERS).map(|_| arrivals.blocking_recv());
        let latest = arrived.map(|at| at.expect("the followers live")).max();
        if n >= WARM_UP {
            last.push(latest.expect("there are some") - begun);
        }
        std::thread::sleep(PAUSE);
    }
    drop(idle);
    last
}
