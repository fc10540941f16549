//! A machine that is resumed from a snapshot, and so writes a second time under the numbers of what it has
//! forgotten: it and its peers come together again, and what either had written stands.

use std::time::Duration;

use sessionmesh::replica::{
    command::{Command, SessionPatch, Target},
    machine::Replica,
};

use crate::{
    common::{disk::Disk, watch::Watch, world::World},
    create, scene,
};

/// A machine with all that it has in memory and on its disk.
struct Snapshot {
    replica: Replica,
    watch: Watch,
    disk: Disk,
}

fn take(world: &World, node: usize) -> Snapshot {
    let node = &world.nodes[node];
    Snapshot { replica: node.replica.clone(), watch: node.watch.clone(), disk: node.disk.clone() }
}

fn resume(world: &mut World, node: usize, snapshot: Snapshot) {
    let Snapshot { replica, watch, disk } = snapshot;
    let node = &mut world.nodes[node];
    (node.replica, node.watch, node.disk) = (replica, watch, disk);
}

fn rename(world: &mut World, node: usize, id: &str, title: &str) {
    let patch = SessionPatch { title: Some(Some(title.to_owned())), ..SessionPatch::default() };
    let target = Target::new(id.parse().unwrap());
    world.ask(node, Command::UpdateSession(target, patch)).expect("it is there");
}

/// A node writes `first`, is resumed from before that, and writes `second` instead.
fn forked(forks: usize, first: impl FnOnce(&mut World), second: impl FnOnce(&mut World)) -> World {
    let mut world = scene();
    world.part();
    let snapshot = take(&world, forks);
    world.plug_all();
    world.agree();
    first(&mut world);
    world.agree();
    world.part();
    resume(&mut world, forks, snapshot);
    second(&mut world);
    come_together(&mut world);
    world
}

fn come_together(world: &mut World) {
    world.plug_all();
    world.pass(Duration::from_secs(600));
    world.agree();
    for node in 0..3 {
        let replica = &world.nodes[node].replica;
        assert_eq!(replica.digest(), world.nodes[0].replica.digest(), "node {node}");
        assert!(replica.peers().iter().all(|peer| peer.connected && peer.in_sync), "node {node}");
    }
}

fn nothing_is_left_out(world: &World) {
    let peers = world.nodes.iter().flat_map(|node| node.replica.peers());
    let told: Vec<_> = peers.filter_map(|peer| peer.left_out).collect();
    assert!(told.is_empty(), "{told:?}");
}

fn title(world: &World, node: usize, host: usize, id: &str) -> Option<String> {
    world.session(node, host, id).and_then(|session| session.title)
}

#[test]
fn what_a_resumed_machine_had_written_before_and_has_written_since_stands_everywhere() {
    for host in 0..3 {
        let other = (host + 1) % 3;
        let before = |world: &mut World| {
            (0..5).for_each(|number| create(world, host, host, &format!("before{number}")));
            rename(world, host, &format!("s{host}"), "before");
            create(world, other, host, "by_other");
        };
        let since = |world: &mut World| {
            (0..3).for_each(|number| create(world, host, host, &format!("since{number}")));
        };
        let mut world = forked(host, before, since);
        for node in 0..3 {
            for id in ["before0", "before4", "since0", "since2", "by_other"] {
                assert!(world.session(node, host, id).is_some(), "{id} at {node}");
            }
            let renamed = title(&world, node, host, &format!("s{host}"));
            assert_eq!(renamed.as_deref(), Some("before"));
        }
        nothing_is_left_out(&world);
        // And all go on.
        create(&mut world, host, host, "after");
        create(&mut world, other, host, "after_by_other");
        world.agree();
        world.crash(host, usize::MAX);
        world.agree();
        assert!(world.session(other, host, "after").is_some());
        assert!(world.session(host, host, "after_by_other").is_some());
    }
}

/// One peer has taken what it wrote first, the other what it wrote instead.
#[test]
fn peers_that_hold_each_another_history_of_a_machine_come_together_again() {
    for (one, other) in [(0, 2), (2, 0)] {
        let mut world = scene();
        world.part();
        let snapshot = take(&world, 1);
        world.plug(1, one);
        world.agree();
        (0..3).for_each(|number| create(&mut world, 1, 1, &format!("before{number}")));
        create(&mut world, one, 1, "on_top_of_before");
        world.agree();
        world.part();
        resume(&mut world, 1, snapshot);
        world.plug(1, other);
        world.agree();
        (0..8).for_each(|number| create(&mut world, 1, 1, &format!("since{number}")));
        create(&mut world, other, 1, "on_top_of_since");
        world.agree();
        world.plug(one, other);
        world.pass(Duration::from_secs(60));
        come_together(&mut world);
        nothing_is_left_out(&world);
        for id in ["before2", "since7", "on_top_of_before", "on_top_of_since"] {
            assert!((0..3).all(|node| world.session(node, 1, id).is_some()), "{id}");
        }
    }
}

#[test]
fn a_resumed_machine_that_has_written_nothing_yet_goes_on_as_another_author() {
    let before = |world: &mut World| {
        (0..3).for_each(|number| create(world, 1, 1, &format!("before{number}")));
        create(world, 1, 0, "elsewhere");
    };
    let mut world = forked(1, before, |_| {});
    create(&mut world, 1, 1, "after");
    create(&mut world, 1, 0, "after0");
    world.agree();
    for node in 0..3 {
        for (host, id) in [(1, "before2"), (1, "after"), (0, "elsewhere"), (0, "after0")] {
            assert!(world.session(node, host, id).is_some(), "{id} at {node}");
        }
    }
}

#[test]
fn of_what_others_host_a_resumed_machine_takes_what_they_have() {
    let before = |world: &mut World| create(world, 1, 0, "before");
    let since = |world: &mut World| create(world, 1, 0, "since");
    let mut world = forked(1, before, since);
    assert!(world.session(1, 0, "before").is_some());
    create(&mut world, 1, 0, "after");
    world.agree();
    assert!((0..3).all(|node| world.session(node, 0, "after").is_some()));
}
