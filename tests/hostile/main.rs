//! A member of the fleet goes bad, and has real daemons listen to it.
//!
//! One daemon is attacked over QUIC by keys that it has let in, while two honest daemons work with
//! it and with each other over HTTP. It is given, in this order: the files under
//! `tests/fixtures/hostile`, those of the folder that `SESSIONMESH_HOSTILE_DIR` names, hand-made
//! cases, and mutations of what a member said that was honest before: frames, changes, documents and
//! sync messages, with lengths, checksums and the hashes by which changes name each other put right.
//! A file whose name has `t0` in it is a document, `t1` an increment, `t2` a sync message; others
//! are tried as all of these and as frames. Each comes in every document of the fleet.
//!
//! Every input goes to a daemon in a process of its own, over a link of its own unless the one
//! before was let stand. At the end that process has not ended; no input has kept the loop of any of
//! the three for more than 250 ms of processor time (a second in a build that is not optimised), and
//! none has kept it from answering for long, not even while a snapshot was read that takes a second, a
//! long history merged, or a document written anew for it; its memory has stayed within 256 MiB of what
//! it was before the attack; and all three daemons show what the honest work has left, and the same.
//! The last line says so, and how many inputs were refused (their link was closed) and contained
//! (automerge panicked, and the document was built anew):
//!
//! `hostile: inputs=… held_out=… refused=… contained=… exits=0 hangs=0 peak_mib=…`
//!
//! `held_out` counts the inputs of `SESSIONMESH_HOSTILE_DIR`; `peak_mib` is the most memory over
//! idle.
//!
//! - `cargo test --test hostile` takes some seconds.
//! - `HOSTILE_INPUTS=500000 cargo test --release --test hostile` is the long run.
//! - `HOSTILE_SEED=7` draws others.
//! - `HOSTILE_KEEP=1` leaves the daemons' folders and logs, which it names.

mod bombs;
#[path = "../forge/mod.rs"]
mod forge;
#[path = "../harness/mod.rs"]
mod harness;
mod honest;
mod inputs;
mod puppet;
mod rogue;
mod seal;
mod vitals;

use std::{
    collections::BTreeMap,
    env,
    path::Path,
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{Daemon, fleet};
use honest::{Worker, converged};
use inputs::Arsenal;
use rogue::{Attack, Rogue, Verdict};
use sessionmesh::{daemon::evidence, identity::ticket, replica::ids::NodeId, wire::CloseCode};
use vitals::{Probe, forget_peak, memory, metric};

/// How many inputs there are unless `HOSTILE_INPUTS` says otherwise.
const INPUTS: usize = 1_500;
/// How many keys attack at once: few enough that their handshakes are all welcome.
const ROGUES: usize = 6;
/// What the daemon may take beside what it takes idle.
const MEMORY_KIB_MAX: u64 = 256 << 10;
/// How often the loop has to answer while a snapshot is read that takes a second or more.
const MEANWHILE_MIN: usize = 10;
/// How long an answer may take on a machine that is busy with the attack itself.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What became of the inputs.
#[derive(Debug, Default)]
struct Tally {
    refused: AtomicUsize,
    contained: AtomicUsize,
    by_reason: Mutex<BTreeMap<String, usize>>,
}

impl Tally {
    fn count(&self, closed: &rogue::Closed) {
        let contained = closed.reason.contains("panicked");
        let counter = if contained { &self.contained } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
        let code = closed.code.map_or("no code", CloseCode::name);
        *self.by_reason.lock().unwrap().entry(code.to_owned()).or_default() += 1;
    }
}

fn number(variable: &str, default: usize) -> usize {
    match env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

fn main() -> ExitCode {
    // What `cargo test` may pass on: a list, or names of which this one is none.
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        print("hostile: test");
        return ExitCode::SUCCESS;
    }
    let named = arguments.iter().find(|argument| !argument.starts_with('-'));
    if named.is_some_and(|name| !"hostile".contains(name.as_str())) {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("threads can be started").block_on(run())
}

#[expect(clippy::print_stdout, reason = "it is this program's result")]
fn print(line: &str) {
    println!("{line}");
}

async fn run() -> ExitCode {
    let mut folder = tempfile::tempdir().expect("a folder for the daemons");
    folder.disable_cleanup(env::var_os("HOSTILE_KEEP").is_some());
    // What is deleted is still to be seen at the end.
    let more = ["--undo-window", "1h"];
    let daemons = fleet(folder.path(), &["attacked", "honest1", "honest2"], &more).await;
    let [mut attacked, one, two] = <[Daemon; 3]>::try_from(daemons).expect("there are three");
    let target: NodeId = attacked.node().parse().expect("the ready line names it");
    let address = attacked.quic().parse().expect("the ready line names it");

    let others: Vec<NodeId> =
        [&attacked, &one, &two].iter().map(|daemon| daemon.node().parse().unwrap()).collect();
    let mut first = Rogue::new(attacked.client(), target, address);
    let ticket_of = async |daemon: &Daemon| ticket::decode(&daemon.invite().await).unwrap();
    let ticket = ticket_of(&attacked).await;
    let recording = puppet::record(&mut first, target, ticket, &others).await;
    let mut rogues = vec![first];
    // One more for what comes after the attack.
    while rogues.len() <= ROGUES {
        let mut next = Rogue::new(attacked.client(), target, address);
        next.join(&ticket_of(&attacked).await).await;
        rogues.push(next);
    }

    let mut arsenal = Arsenal::new(recording, number("HOSTILE_SEED", 1) as u64);
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/hostile");
    let known = arsenal.add_folder(Path::new(fixtures)).expect("the fixtures are there");
    assert!(known > 60, "only {known} inputs of {fixtures}");
    let held_out = env::var_os("SESSIONMESH_HOSTILE_DIR").map_or(0, |folder| {
        arsenal.add_folder(Path::new(&folder)).unwrap_or_else(|error| panic!("{folder:?}: {error}"))
    });
    let inputs = number("HOSTILE_INPUTS", INPUTS).max(arsenal.fixed());

    converged(&[attacked.client(), one.client(), two.client()], &BTreeMap::new()).await;
    let pid = attacked.pid();
    let idle = memory(pid);
    forget_peak(pid);
    let probe = Probe::start(attacked.client());
    let workers = [
        Worker::start(one.client(), "own", one.node()),
        Worker::start(two.client(), "other", attacked.node()),
    ];

    let slow = arsenal.named("a document dear for its operations");
    let meanwhile = answered_while_reading(&attacked, &mut rogues[0], slow).await;
    assert!(meanwhile >= MEANWHILE_MIN, "{meanwhile} answers while a snapshot was read");

    let ([whole, pushed, longest], changes) = arsenal.long_histories(target);
    let document = format!("host:{}/0", attacked.node());
    for history in [&whole, &pushed] {
        let of_host = |(of, changes): &(String, u64)| (*of == document).then_some(*changes);
        let count = async || documents(&attacked).await.iter().find_map(of_host);
        let after = count().await.expect("it is there") + changes;
        let is_merged = async || count().await.is_some_and(|now| now >= after);
        answered_until(is_merged, &mut rogues[0], history).await;
    }

    let began = Instant::now();
    let tally = Arc::new(Tally::default());
    let mut last = rogues.pop().expect("one more than attack");
    let (arsenal, next) = (Arc::new(arsenal), Arc::new(AtomicUsize::new(0)));
    let mut attacks = Vec::new();
    for mut rogue in rogues {
        let (arsenal, next, tally) = (arsenal.clone(), next.clone(), tally.clone());
        attacks.push(tokio::spawn(async move {
            let mut line = None;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= inputs {
                    return;
                }
                let attack: Attack = arsenal.attack(number);
                let up = match line.take() {
                    Some(up) => up,
                    None => Box::new(rogue.greet().await),
                };
                match up.attack(&attack).await {
                    Verdict::Alive(up) => line = Some(up),
                    Verdict::Closed(closed) => tally.count(&closed),
                }
            }
        }));
    }
    let mut broken = Vec::new();
    for attack in attacks {
        if let Err(error) = attack.await {
            broken.push(format!("an attack did not end: {error}"));
        }
    }
    let took = began.elapsed();
    let exits = usize::from(attacked.has_ended());
    if exits > 0 {
        print(&attacked.log());
        panic!("the attacked daemon has ended");
    }
    assert!(broken.is_empty(), "{broken:?}");

    // Only now: what was recorded is of the epoch that ends by it.
    let of_host = format!("host:{}/", attacked.node());
    let is_next = |(of, _): &(String, u64)| of.starts_with(&of_host) && *of != document;
    let is_left = async || documents(&attacked).await.iter().any(is_next);
    answered_until(is_left, &mut last, &longest).await;
    let (asked, longest) = probe.end().await;
    let mut expected = BTreeMap::new();
    for worker in workers {
        expected.extend(worker.end().await);
    }
    let done = expected.len();
    converged(&[attacked.client(), one.client(), two.client()], &expected).await;
    linked_to_each_other(&attacked, &one, &two).await;
    let peak = memory(pid);
    let over = peak.peak.saturating_sub(idle.resident);
    let (mut slow, mut most_us) = (0, [0; 3]);
    for (daemon, most_us) in [&attacked, &one, &two].into_iter().zip(&mut most_us) {
        slow += metric(daemon, "slow_inputs_total").await;
        *most_us = metric(daemon, "longest_input_microseconds").await;
    }
    let hangs = slow + u64::from(longest > ANSWER_MAX);
    let (refused, contained) =
        (tally.refused.load(Ordering::Relaxed), tally.contained.load(Ordering::Relaxed));
    print(&format!(
        "in {took:.1?}: closed {:?}; {done} honest sessions; {asked} questions, the longest \
         answered in {longest:.1?}; the longest input took the loop {:.1} ms, the others' {:.1} and \
         {:.1}; memory {} KiB idle, \
         {} KiB at most, {} KiB at the end",
        tally.by_reason.lock().unwrap(),
        most_us[0] as f64 / 1e3,
        most_us[1] as f64 / 1e3,
        most_us[2] as f64 / 1e3,
        idle.resident,
        peak.peak,
        peak.resident,
    ));
    // What automerge panicked on is there for whoever mends it.
    let panics = metric(&attacked, "contained_panics_total").await;
    let kept = evidence::look(attacked.dir()).len() as u64;
    assert!(panics >= contained as u64, "{panics} panics, {contained} links closed for one");
    let kept_max = evidence::FILES_MAX as u64;
    assert!(kept == panics.min(kept_max), "{kept} inputs kept of {panics} that panicked");
    let good = hangs == 0 && over <= MEMORY_KIB_MAX && refused > 0;
    print(&format!(
        "hostile: inputs={inputs} held_out={held_out} refused={refused} contained={contained} \
         exits={exits} hangs={hangs} peak_mib={}",
        over.div_ceil(1_024),
    ));
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Sends a snapshot that takes long to read, and returns how often the loop has answered, a person and
/// the peer itself, until the link was closed for it.
///
/// Were it read on the loop, neither would be answered before.
async fn answered_while_reading(daemon: &Daemon, rogue: &mut Rogue, slow: &Attack) -> usize {
    let mut line = match rogue.greet().await.attack(slow).await {
        Verdict::Alive(line) => line,
        Verdict::Closed(closed) => panic!("{} was read at once: {closed:?}", slow.name),
    };
    for answered in 0.. {
        daemon.get("/v1/status").await;
        if line.ping().await.is_err() {
            return answered;
        }
    }
    unreachable!("a link does not stand for ever")
}

/// Lists the documents that a daemon holds, and how many changes each has.
async fn documents(daemon: &Daemon) -> Vec<(String, u64)> {
    let status = daemon.get("/v1/status").await;
    let documents = status["documents"].as_array().expect("a list").iter();
    let read = |it: &serde_json::Value| {
        Some((it["document"].as_str()?.to_owned(), it["changes"].as_u64()?))
    };
    documents.map(|it| read(it).expect("a name and a number")).collect()
}

/// Sends a history that takes long to merge, and asks on until it was, the peer itself too.
///
/// Were it merged on the loop, that input would be told as slow at the end.
async fn answered_until(is_done: impl AsyncFn() -> bool, rogue: &mut Rogue, history: &Attack) {
    let mut line = match rogue.greet().await.attack(history).await {
        Verdict::Alive(line) => line,
        Verdict::Closed(closed) => panic!("{}: {closed:?}", history.name),
    };
    let deadline = Instant::now() + harness::PATIENCE;
    while !is_done().await {
        assert!(Instant::now() < deadline, "{} is not merged", history.name);
        line.ping().await.expect("what it may write closes no link");
    }
}

/// Waits until the three daemons have links to each other, whatever members there are beside them.
async fn linked_to_each_other(one: &Daemon, two: &Daemon, three: &Daemon) {
    let all = [one.node(), two.node(), three.node()];
    for daemon in [one, two, three] {
        let own = daemon.node();
        daemon
            .until("/v1/peers", "linked and in sync with the honest", |peers| {
                let peers = peers.as_array().expect("it is a list");
                all.iter().filter(|node| **node != own).all(|node| {
                    peers.iter().any(|peer| {
                        peer["node"] == node.as_str()
                            && peer["connected"] == true
                            && peer["in_sync"] == true
                    })
                })
            })
            .await;
    }
}
