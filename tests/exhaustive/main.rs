//! Every way in which a few nodes can act and learn from each other, one after the other, from
//! scenes of one host with two workspaces, sessions with a parent among them, and rooms that end.
//!
//! What can happen: each node creates, deletes, restores and moves sessions, keeps, lets go and
//! deletes workspaces, is started anew, asks for a failed teardown again; the host's undo window
//! passes (it purges and seals), its teardowns end well or badly. Before each step its node learns
//! *any* set of changes that peers could have passed on to it, directly or through others: merges
//! in any order and any direction. Steps of different nodes that don't know of each other commute,
//! so of all their orders one is played; and of two ways that differ only in which of the nodes that
//! host nothing does what, one is. Nothing else is left out (see `explore`).
//!
//! In each state what the node shows is held against its documents read anew, against the diffs
//! folded so far, and against a second, slow reading of the contract (`model`). Then, from each
//! state, all nodes learn everything, each in another order, and all windows pass.
//!
//! Not played: half an undo window, a crash that loses what was written, how frames travel (the
//! programs do), and the same with nodes' keys in another order.
//!
//! - `cargo test --test exhaustive` plays what takes some 30 s without optimisation.
//! - `EXHAUSTIVE_COMMANDS=4 cargo test --release --test exhaustive -- --nocapture` plays more steps
//!   from each scene; `EXHAUSTIVE_SCENE=room` only one scene; `EXHAUSTIVE_REPLICAS=2` fewer nodes.
//! - `EXHAUSTIVE_COMMANDS=5 cargo test --release --test exhaustive two_kinds -- --nocapture` plays five
//!   steps of three nodes, for each two kinds of what people do, which takes an hour.
//!   `EXHAUSTIVE_KINDS='move, keep'` plays only those.
//! - `EXHAUSTIVE_PATH='…' cargo test --test exhaustive` plays the one path that a failure printed.

mod act;
#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;
mod explore;
mod model;
mod world;

use std::env;

use act::{ALPHABET, Act, HOST_ACTS, KINDS, LIFE};
use explore::{Plan, explore};

fn number(variable: &str) -> Option<usize> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn play(plan: Plan, rare: &[&str]) {
    let path = env::var("EXHAUSTIVE_PATH").ok();
    // What a failure was printed in that is no step of its own: it follows from the ones before.
    let is_step = |text: &&str| !text.ends_with(" learns") && !text.starts_with("all learn");
    let steps = path.as_ref().map_or(0, |path| path.split("; ").filter(is_step).count());
    let default = plan.commands;
    let plan = Plan {
        commands: number("EXHAUSTIVE_COMMANDS").unwrap_or(default).max(steps),
        replicas: number("EXHAUSTIVE_REPLICAS").unwrap_or(plan.replicas),
        ..plan
    };
    let is_other = |variable, own: &str| env::var(variable).is_ok_and(|only| only != own);
    if is_other("EXHAUSTIVE_SCENE", plan.scene) || is_other("EXHAUSTIVE_KINDS", &plan.kinds) {
        return;
    }
    let figures = explore(&plan, path.as_deref());
    assert!(figures.states > steps as u64, "no such path from here: {path:?}");
    if path.is_none() && plan.commands >= default {
        for kind in rare {
            assert!(figures.reached.contains_key(kind), "never shown: {kind}");
        }
    }
}

fn all() -> String {
    "all".to_owned()
}

const ROOM: &[(usize, Act)] = &[
    (0, Act::Create { session: "p", workspace: "w1", parent: None }),
    (0, Act::Create { session: "c", workspace: "w1", parent: Some("p") }),
];

const VACATED: &[(usize, Act)] = &[ROOM[0], ROOM[1], (1, Act::Delete("p"))];

const FAILED: &[(usize, Act)] = &[
    ROOM[0],
    ROOM[1],
    (1, Act::Move("p", Some("w2"))),
    (1, Act::Delete("c")),
    (0, Act::Pass),
    (0, Act::End { workspace: "w1", well: false }),
];

#[test]
fn whatever_three_nodes_do_to_a_room_with_two_sessions_keeps_the_contract() {
    let plan = Plan {
        scene: "room",
        kinds: all(),
        before: ROOM,
        replicas: 3,
        commands: 2,
        alphabet: ALPHABET.to_vec(),
    };
    play(plan, &["vacated", "sealed", "moved twice at once"]);
}

#[test]
fn whatever_three_nodes_do_to_a_vacated_room_keeps_the_contract() {
    let plan = Plan {
        scene: "vacated",
        kinds: all(),
        before: VACATED,
        replicas: 3,
        commands: 2,
        alphabet: ALPHABET.to_vec(),
    };
    play(plan, &["sealed", "stranded"]);
}

#[test]
fn whatever_three_nodes_do_to_a_room_that_failed_to_end_keeps_the_contract() {
    let plan = Plan {
        scene: "failed",
        kinds: all(),
        before: FAILED,
        replicas: 3,
        commands: 2,
        alphabet: ALPHABET.to_vec(),
    };
    play(plan, &["failed", "sealed"]);
}

#[test]
fn whatever_a_host_and_another_node_do_in_three_steps_keeps_the_contract() {
    let plan = Plan {
        scene: "life",
        kinds: all(),
        before: ROOM,
        replicas: 2,
        commands: 3,
        alphabet: LIFE.to_vec(),
    };
    play(plan, &["sealed", "stranded", "vacated"]);
}

#[test]
fn whatever_three_nodes_do_with_two_kinds_of_acts_keeps_the_contract() {
    for (at, (one, acts)) in KINDS.iter().enumerate() {
        for (other, more) in &KINDS[at + 1..] {
            let kinds = format!("{one}, {other}");
            let alphabet = [*acts, *more, HOST_ACTS].concat();
            let scene = "room";
            play(Plan { scene, kinds, before: ROOM, replicas: 3, commands: 2, alphabet }, &[]);
        }
    }
}
