//! Random programs of commands, cuts, crashes and time over two to four nodes, against the
//! invariants of the contract.
//!
//! `PROGRAMS=10000 cargo test --test programs` plays more of them than usual;
//! `PROGRAM=SEED cargo test --test programs` plays one, and tells what it did if it fails.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::{
    collections::BTreeMap,
    env,
    panic::{AssertUnwindSafe, catch_unwind},
};

use common::program::Program;

/// How many programs are played where `PROGRAMS` says nothing: what takes some 20 s without
/// optimisation.
const PROGRAMS: u64 = 200;
/// How many steps a program has.
const STEPS: usize = 60;
/// How many are played more than once, to see that they take the same way.
const REPLAYED: u64 = 6;
const YEAR_MS: i64 = 365 * 24 * 3_600 * 1_000;

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn play(seed: u64, skews_ms: [i64; 4]) -> Program {
    let mut program = Program::new(seed, skews_ms);
    let played = catch_unwind(AssertUnwindSafe(|| {
        program.run(STEPS);
        program.end();
    }));
    if let Err(panic) = played {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        let log = if number("PROGRAM").is_some() { program.log.as_str() } else { "" };
        panic!("PROGRAM={seed} cargo test --test programs\n{message}\n{log}");
    }
    program
}

fn seeds() -> impl Iterator<Item = u64> {
    let only = number("PROGRAM");
    let many = number("PROGRAMS").unwrap_or(PROGRAMS);
    only.into_iter().chain((0..many).filter(move |_| only.is_none()))
}

/// Every other seed in one test, the rest in another: the harness plays them side by side.
fn play_all(odd: bool) {
    let mut reached: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in seeds().filter(|seed| (seed % 2 == 1) == odd) {
        let program = play(seed, [0; 4]);
        program.reached.iter().for_each(|kind| *reached.entry(kind).or_default() += 1);
    }
    if number("PROGRAM").is_none() {
        for kind in
            ["acknowledged", "crash that lost writes", "overflow", "rewrite", "teardown ended"]
        {
            assert!(reached.contains_key(kind), "never reached: {kind}; {reached:?}");
        }
    }
}

#[test]
fn programs_of_even_seeds_keep_the_invariants() {
    play_all(false);
}

#[test]
fn programs_of_odd_seeds_keep_the_invariants() {
    play_all(true);
}

#[test]
fn the_same_seed_takes_the_same_way_twice() {
    for seed in seeds().take(REPLAYED as usize) {
        let (first, second) = (play(seed, [0; 4]), play(seed, [0; 4]));
        assert_eq!(first.world.trace(), second.world.trace(), "PROGRAM={seed}");
    }
}

#[test]
fn wall_clocks_that_are_a_year_apart_change_nothing_but_what_is_shown_of_time() {
    for seed in seeds().take(4 * REPLAYED as usize) {
        let right = play(seed, [0; 4]).outcome();
        let wrong = play(seed, [YEAR_MS, -YEAR_MS, 0, YEAR_MS / 2]).outcome();
        assert_eq!(right, wrong, "PROGRAM={seed}");
    }
}
