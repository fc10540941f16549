//! Whole nodes in a world where everything goes wrong: network, disks, clocks, agents, subscribers,
//! people. What a node is made of is the daemon's own code: the replica, the engine that orders its
//! effects, the store on redb, the queues of links and the choice between them, the stream of
//! diffs. Only what those stand on is simulated, all of it drawn from one seed.
//!
//! - `cargo test --test sim` plays named past failures and some fresh short seeds.
//! - `SIM_FAULTS=1000000 cargo test --release --test sim -- --nocapture long_run --include-ignored`
//!   plays as many lives as it takes to see that many faults, the same each time; others with
//!   `SIM_FIRST=2000000`, the seed of the first, of which each takes the next.
//! - `SIM_SEED=7 cargo test --test sim -- --nocapture one_life --include-ignored` plays one life
//!   and tells what happened; `SIM_ONLY=3,14` only these of its acts, `SIM_ACTS` how many it has.

mod agent;
mod aside;
mod backups;
mod chaos;
#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;
mod count;
#[path = "../store/disk.rs"]
#[expect(dead_code, reason = "each test uses its own part of the disk")]
mod disk;
mod epochs;
mod fabric;
mod follow;
mod joining;
mod life;
mod link;
mod links;
mod node;
mod past;
mod power;
mod rogue;
mod teardowns;
mod world;

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use count::{Counts, Seen};
use life::{Failure, Lived, Scenario};

/// How many short lives are played where `SIM_LIVES` says nothing.
const LIVES: u64 = 200;
/// How many acts a short life has.
const ACTS_SHORT: usize = 24;
/// How many acts a life of the long run has.
const ACTS_LONG: usize = 60;
/// One life in so many is played twice, to see that it takes the same way.
const REPLAYED: u64 = 40;
/// In one life in so many a member has gone bad.
const ROGUE: u64 = 8;
/// How long a failing scenario is made shorter.
const SHRINK_MAX: Duration = Duration::from_secs(60);

/// How many lives are played in which nothing goes wrong.
const CALM_LIVES: u64 = 8;
/// How many lives are played with wrong clocks, too.
const YEARS: u64 = 8;
const YEAR_MS: i64 = 365 * 24 * 3_600 * 1_000;

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[expect(clippy::print_stdout, reason = "whoever runs it with --nocapture wants to see it")]
fn say(text: &str) {
    println!("{text}");
}

/// Draws a life; in one of so many a member has gone bad.
fn scenario(seed: u64, acts: usize) -> Scenario {
    let scenario = Scenario::draw(seed, acts);
    if seed % ROGUE == ROGUE - 1 { scenario.with_rogue() } else { scenario }
}

/// Plays a life; tells the line that plays it again if it fails, made as short as it gets.
fn play(scenario: &Scenario) -> Lived {
    let failure = match scenario.play(false) {
        Ok(lived) => return lived,
        Err(failure) => failure,
    };
    let (shrunk, failure) = shrink(scenario, failure);
    let only: Vec<String> = shrunk.only.iter().map(ToString::to_string).collect();
    panic!(
        "SIM_SEED={} SIM_ACTS={} SIM_ONLY={} cargo test --test sim -- --nocapture one_life \
         --include-ignored\n{}",
        shrunk.seed,
        shrunk.acts.len(),
        only.join(","),
        failure.message
    );
}

/// Leaves acts out, many and then few at a time, as long as the life still fails.
fn shrink(scenario: &Scenario, failure: Failure) -> (Scenario, Failure) {
    let began = Instant::now();
    let (mut best, mut failure) = (scenario.clone(), failure);
    let mut size = best.only.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < best.only.len() && began.elapsed() < SHRINK_MAX {
            let mut shorter = best.clone();
            shorter.only.drain(at..(at + size).min(best.only.len()));
            match shorter.play(false) {
                Ok(_) => at += size,
                Err(still) => (best, failure) = (shorter, still),
            }
        }
        if size == 1 || began.elapsed() >= SHRINK_MAX {
            return (best, failure);
        }
        size = size.div_ceil(2);
    }
}

/// What many lives came to.
#[derive(Default)]
struct Sum {
    counts: Counts,
    lives: u64,
    steps: u64,
    acknowledged: u64,
    replayed: u64,
}

/// Plays lives on two threads, one after the other, as long as `go_on` says so of the next seed and what was
/// seen so far.
fn play_many(
    (first, stride): (u64, u64),
    acts: usize,
    go_on: impl Fn(u64, &Sum) -> bool + Sync,
) -> Sum {
    (2..=4).for_each(life::form);
    let sum = Mutex::new(Sum::default());
    let next = AtomicU64::new(first);
    let failed = AtomicBool::new(false);
    let work = || loop {
        let seed = next.fetch_add(stride, Ordering::Relaxed);
        let goes_on = go_on(seed, &sum.lock().expect("nothing panics while it holds the sum"));
        if failed.load(Ordering::Relaxed) || !goes_on {
            return;
        }
        let scenario = scenario(seed, acts);
        // Whoever plays on is told by it that another life has failed.
        let guard = Guard(&failed);
        let lived = play(&scenario);
        let again = seed.is_multiple_of(REPLAYED);
        if again {
            assert_eq!(play(&scenario).trace, lived.trace, "SIM_SEED={seed} takes two ways");
        }
        drop(guard);
        let mut sum = sum.lock().expect("nothing panics while it holds the sum");
        sum.counts += &lived.counts;
        sum.lives += 1;
        sum.steps += lived.steps;
        sum.acknowledged += lived.acknowledged;
        sum.replayed += u64::from(again);
    };
    thread::scope(|scope| {
        let other = scope.spawn(work);
        work();
        if let Err(panic) = other.join() {
            std::panic::resume_unwind(panic);
        }
    });
    sum.into_inner().expect("nothing panics while it holds the sum")
}

/// Tells the other threads of a panic.
struct Guard<'a>(&'a AtomicBool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn short_lives_keep_the_invariants() {
    let lives = number("SIM_LIVES").unwrap_or(LIVES);
    let sum = play_many((0, 1), ACTS_SHORT, |seed, _| seed < lives);
    say(&format!("{} lives, {} steps\n{}", sum.lives, sum.steps, sum.counts));
    assert!(sum.counts.of(Seen::Acknowledged) > 0, "something was acknowledged");
}

/// A frame takes no longer because it is longer here, as one is that names another year.
#[test]
fn wall_clocks_that_are_a_year_apart_change_nothing_but_what_is_shown_of_time() {
    for seed in 0..YEARS {
        let mut scenario = Scenario::draw(seed, ACTS_SHORT);
        scenario.weather.bandwidth = u64::MAX;
        let right = play(&scenario).outcome;
        scenario.skews_ms = [YEAR_MS, -YEAR_MS, 0, YEAR_MS / 2, 0];
        assert_eq!(play(&scenario).outcome, right, "SIM_SEED={seed}");
    }
}

/// Whatever one of them writes, the others are never cut off from each other for it, and agree.
#[test]
fn honest_nodes_keep_the_invariants_beside_one_that_has_gone_bad() {
    let last = number("SIM_LIVES").unwrap_or(LIVES);
    let sum = play_many((ROGUE - 1, ROGUE), ACTS_SHORT, |seed, _| seed < last);
    assert!(sum.counts.of(Seen::Rogue) > 0, "it has done something");
}

#[test]
fn a_fleet_in_which_nothing_goes_wrong_has_nothing_to_repair() {
    (0..CALM_LIVES).for_each(|seed| drop(play(&Scenario::calm(seed, ACTS_LONG))));
}

#[test]
#[ignore = "takes minutes: SIM_FAULTS=1000000 cargo test --release --test sim -- --nocapture \
            long_run --include-ignored"]
fn long_run() {
    let faults = number("SIM_FAULTS").unwrap_or(100_000);
    let first = number("SIM_FIRST").unwrap_or(1_000_000);
    let began = Instant::now();
    let least = if faults >= 1_000_000 { 1_000 } else { 1 };
    // Most faults are datagrams that overtake others; what is rare may take some lives more.
    let sum = play_many((first, 1), ACTS_LONG, |_, sum| {
        let seen = sum.counts.faults();
        seen < faults || (seen < 2 * faults && !sum.counts.rarer_than(least).is_empty())
    });
    say(&format!("{}{} s", sum.counts, began.elapsed().as_secs()));
    say(&format!(
        "sim: faults={} seeds={} steps={} replayed={} acked={} lost=0 diverged=0 kinds={}",
        sum.counts.faults(),
        sum.lives,
        sum.steps,
        sum.replayed,
        sum.acknowledged,
        Seen::FAULTS.len(),
    ));
    let rare = sum.counts.rarer_than(least);
    assert!(rare.is_empty(), "seen less than {least} times: {rare:#?}");
}

#[test]
#[ignore = "SIM_SEED=7 cargo test --test sim -- --nocapture one_life --include-ignored"]
fn one_life() {
    let seed = number("SIM_SEED").expect("SIM_SEED names the life");
    let acts = number("SIM_ACTS").map_or(ACTS_SHORT, |acts| acts as usize);
    let mut scenario = scenario(seed, acts);
    if let Ok(only) = env::var("SIM_ONLY") {
        let parse = |text: &str| text.parse().expect("SIM_ONLY lists numbers");
        scenario.only = only.split(',').filter(|text| !text.is_empty()).map(parse).collect();
    }
    match scenario.play(true) {
        Ok(lived) => say(&format!("{}{} steps", lived.counts, lived.steps)),
        Err(failure) => panic!("{}\n{}", failure.log, failure.message),
    }
}
