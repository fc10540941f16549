//! Owns showing that ending a worktree loses nothing: worktrees drawn at random, ended without and
//! with force, and judged by a record of every byte and object that was there before.
//!
//! `cargo test --test endings` draws some hundred. `ENDINGS=10000 cargo test --test endings drawn
//! -- --nocapture` draws as many as are asked for; a failure prints the line that draws it again.
//! Must not look into the teardown's own judgement: what was drawn says what must be refused.
//! Invariant: the same seed draws the same.

mod afterwards;
mod crash;
mod draw;
mod ending;
mod environment;
mod expiry;
mod features;
mod git;
mod power;
#[path = "../common/power_disk.rs"]
mod power_disk;
mod record;
mod restore;
mod rows;
mod scene;
mod template;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use features::Loss;
use template::Flavour;

/// How many cases are drawn where `ENDINGS` says nothing: each feature alone and among others.
const ENDINGS_DEFAULT: u64 = 200;
/// How many failures are told before the run is given up.
const FAULTS_MAX: usize = 10;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs one case; a panic is a fault like any other.
fn run(seed: u64) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| ending::run(seed))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "it panicked, as told above".to_owned()))
    })
}

#[expect(clippy::print_stdout, reason = "how much was tried belongs to the result")]
#[test]
fn what_is_drawn_at_random_is_refused_or_ended_and_nothing_of_it_is_lost() {
    let first = setting("ENDINGS_SEED");
    let cases = setting("ENDINGS").unwrap_or(if first.is_some() { 1 } else { ENDINGS_DEFAULT });
    let (first, began) = (first.unwrap_or(0), Instant::now());
    let (next, faults) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let workers = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + cases || faults.lock().expect("told").len() >= FAULTS_MAX {
                        return;
                    }
                    if let Err(fault) = run(seed) {
                        println!(
                            "ENDINGS_SEED={seed} cargo test --test endings drawn\n    {fault}"
                        );
                        faults.lock().expect("told").push(seed);
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().expect("told");
    let spawns = git::STARTED.load(Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f32();
    println!(
        "endings: {cases} cases, {} faults, {spawns} calls of git, {seconds:.1} s",
        faults.len()
    );
    assert!(faults.is_empty(), "{} cases failed, see above: {faults:?}", faults.len());
    if cases >= ENDINGS_DEFAULT {
        every_kind_was_reached();
    }
}

/// A kind that is never drawn, or never refused, is a test that can't fail.
#[expect(clippy::print_stdout, reason = "how much was tried belongs to the result")]
fn every_kind_was_reached() {
    let counts = ending::COUNTS.lock().expect("counted");
    let count = |name: &str| counts.get(name).copied().unwrap_or_default();
    let mut never = Vec::new();
    for name in draw::TRAITS.iter().copied().chain(Flavour::ALL.map(Flavour::name)) {
        println!("{:>6} drawn  {name}", count(name).drawn);
        never.extend((count(name).drawn == 0).then_some(("drawn", name)));
    }
    for feature in features::all().filter(|feature| features::around::is_possible(feature)) {
        let found = count(feature.name);
        println!(
            "{:>6} drawn {:>6} refused {:>6} ended {:>6} forced  {}",
            found.drawn, found.refused, found.ended, found.forced, feature.name
        );
        never.extend((found.drawn == 0).then_some(("drawn", feature.name)));
        let must = feature.loss >= Loss::Refused;
        never.extend((must && found.refused == 0).then_some(("refused", feature.name)));
        let ends = feature.loss == Loss::Nothing;
        never.extend((ends && found.ended == 0).then_some(("ended", feature.name)));
        let forces = matches!(feature.loss, Loss::Refused);
        never.extend((forces && found.forced == 0).then_some(("forced", feature.name)));
    }
    assert!(never.is_empty(), "never reached: {never:?}");
}
