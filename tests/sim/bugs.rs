//! Would the simulation notice? Each of the faults that `sessionmesh::seeded` plants, one at a
//! time, is to be caught by the lives that find nothing in the sound build.
//!
//! `cargo test --features seeded-bugs --test bugs -- --nocapture` prints which check caught which.

mod agent;
mod aside;
mod backups;
mod chaos;
#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;
#[expect(dead_code, reason = "what a life has seen matters only where it ends well")]
mod count;
#[path = "../store/disk.rs"]
#[expect(dead_code, reason = "each test uses its own part of the disk")]
mod disk;
mod epochs;
mod fabric;
mod follow;
mod joining;
#[expect(dead_code, reason = "the simulation asks more of a life")]
mod life;
mod link;
mod links;
mod node;
mod power;
mod rogue;
mod teardowns;
mod world;

use std::{sync::Mutex, thread};

use chaos::Kind;
use life::Scenario;
use sessionmesh::seeded::{self, Bug};

/// How many lives a fault may stay unnoticed.
const LIVES_MAX: u64 = 150;
/// How many acts a life has.
const ACTS: usize = 60;
/// The first life: the same for each fault.
const FIRST: u64 = 500_000;

/// Plays lives until one fails; tells which did, and by what.
fn caught(bug: Bug) -> Option<(u64, String)> {
    // What every life starts from was made by sound nodes.
    (2..=4).for_each(life::form);
    seeded::plant(Some(bug));
    let found = (0..LIVES_MAX).find_map(|life| {
        // Quiet lives first: what mends itself in time shows only where nothing goes wrong.
        let scenario = match life % 10 {
            0 => Scenario::calm(FIRST + life, ACTS),
            3 | 6 | 9 => entering(Scenario::draw(FIRST + life, ACTS)),
            _ => Scenario::draw(FIRST + life, ACTS),
        };
        let failure = scenario.play(false).err()?;
        Some((life + 1, failure.message))
    });
    seeded::plant(None);
    found
}

/// Has one act in three be a workspace that is ended and, at the same time, entered elsewhere: that a
/// session arrives between the seal and the first step of the teardown is rare otherwise.
fn entering(mut scenario: Scenario) -> Scenario {
    scenario.acts.iter_mut().step_by(3).for_each(|act| act.kind = Kind::Apart);
    scenario
}

#[test]
fn every_seeded_bug_is_caught() {
    let bugs = Mutex::new(Bug::ALL.to_vec());
    let table = Mutex::new(Vec::new());
    let work = || {
        while let Some(bug) = { bugs.lock().expect("nobody panics with it").pop() } {
            let found = caught(bug);
            table.lock().expect("nobody panics with it").push((bug, found));
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    let mut missed = Vec::new();
    for (bug, found) in table.into_inner().expect("nobody panics with it") {
        match found {
            Some((lives, message)) => {
                // An assertion says first what was to hold.
                let check = message.lines().next().unwrap_or_default();
                let check: String = check.chars().take(110).collect();
                say(&format!("{:<20} life {lives:>3}  {check}", format!("{bug:?}")));
            }
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?} in {LIVES_MAX} lives");
}

#[expect(clippy::print_stdout, reason = "whoever runs it with --nocapture wants to see it")]
fn say(text: &str) {
    println!("{text}");
}
