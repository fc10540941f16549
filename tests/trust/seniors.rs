//! A junior admin gone bad shuts out its seniors: they come back by their own word, on every node.

use std::time::Duration;

use sessionmesh::replica::{
    command::{Command, Refusal},
    record::Role,
};

use crate::{
    common::world::{World, name_of},
    statements::five,
};

/// A founder, two further admins, two members, all linked; the last admin has shut out the other two.
fn taken_over() -> World {
    let mut world = five();
    for senior in [1, 0] {
        assert!(world.ask(2, Command::Revoke(name_of(senior))).is_ok());
        world.deliver();
    }
    assert!(world.nodes[0].replica.shut_out().is_some(), "it heard so");
    world
}

fn is_in(world: &World, at: usize, node: usize) -> bool {
    let membership = world.nodes[at].replica.membership();
    let id = world.nodes[node].id;
    membership.nodes.get(&id).is_some_and(|belonging| belonging.is_current())
}

fn come_back(world: &mut World, senior: usize) {
    for other in (0..5).filter(|other| *other != senior) {
        world.cut(senior, other);
        world.plug(senior, other);
    }
    world.pass(Duration::from_secs(20));
}

#[test]
fn a_founder_that_a_junior_has_shut_out_shuts_that_one_out_and_is_back_everywhere() {
    let mut world = taken_over();
    // Only against a junior, and nothing else.
    let invite = Command::Promote { node: name_of(3), role: Role::Admin };
    assert!(matches!(world.ask(0, invite), Err(Refusal::ThisNodeRevoked { .. })));
    let member = world.ask(0, Command::Revoke(name_of(3)));
    assert!(matches!(member, Err(Refusal::ThisNodeRevoked { .. })));
    assert!(world.ask(0, Command::Revoke(name_of(2))).is_ok());
    assert_eq!(world.nodes[0].replica.shut_out(), None);
    come_back(&mut world, 0);
    for at in [0, 3, 4] {
        assert!(is_in(&world, at, 0) && !is_in(&world, at, 2), "node {at} knows");
        assert!(!is_in(&world, at, 1), "what was signed before stays until its senior says so");
    }
}

#[test]
fn who_was_shut_out_by_a_senior_answers_nobody() {
    let mut world = taken_over();
    assert!(world.ask(0, Command::Revoke(name_of(2))).is_ok());
    come_back(&mut world, 0);
    for other in 0..2 {
        let refused = world.ask(2, Command::Revoke(name_of(other)));
        assert!(matches!(refused, Err(Refusal::ThisNodeRevoked { .. })), "{refused:?}");
    }
    come_back(&mut world, 2);
    for at in [0, 3, 4] {
        assert!(is_in(&world, at, 0) && !is_in(&world, at, 2), "node {at} knows");
    }
}
