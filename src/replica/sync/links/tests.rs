//! Owns the checks, over whole meshes of nodes that know nothing but links, that all come to know which
//! are there, and what it costs to tell it.
//!
//! Must not know documents. Invariant: what is sent goes through its encoding.

use std::collections::BTreeMap;

use super::*;
use crate::{
    replica::sync::Documents,
    wire::{self, HEADER_BYTES},
};

/// How long a frame is on its way.
const DELAY: Duration = Duration::from_millis(5);
/// Longer than anything waits to be told.
const AWHILE: Duration = Duration::from_secs(5);

/// Nodes, the links between them, and the frames on their way.
struct Mesh {
    now: Duration,
    nodes: Vec<Exchange>,
    /// The links that are up, each with a number of its own.
    up: BTreeMap<(usize, usize), u64>,
    on_way: BTreeMap<(Duration, u64), (usize, usize, u64, Frame)>,
    next: u64,
    /// Bytes of what was told of links.
    bytes: usize,
    /// How many frames told them.
    frames: usize,
    documents: Documents,
}

fn id(node: usize) -> NodeId {
    let mut bytes = [7; 32];
    // Not in the order of the numbers.
    bytes[0] = (node as u8).wrapping_mul(97);
    bytes[1] = node as u8;
    NodeId(bytes)
}

fn ends(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Mesh {
    fn new(count: usize) -> Self {
        let members: BTreeSet<NodeId> = (0..count).map(id).collect();
        let nodes = (0..count).map(|node| {
            let mut exchange = Exchange::new(id(node));
            exchange.set_members(members.clone());
            exchange
        });
        Self {
            now: Duration::from_secs(60),
            nodes: nodes.collect(),
            up: BTreeMap::new(),
            on_way: BTreeMap::new(),
            next: 0,
            bytes: 0,
            frames: 0,
            documents: Documents::new(),
        }
    }

    fn link(&mut self, a: usize, b: usize) {
        if self.up.contains_key(&ends(a, b)) {
            return;
        }
        self.next += 1;
        self.up.insert(ends(a, b), self.next);
        for (at, peer) in [(a, b), (b, a)] {
            let (now, mut out) = (self.now, Out::new());
            let exchange = &mut self.nodes[at];
            exchange.connected(now, id(peer));
            exchange.greet(&id(peer), [0; 32]);
            exchange.accept(now, &id(peer), [0; 32], &self.documents, &mut out);
            self.send(at, out);
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        if self.up.remove(&ends(a, b)).is_some() {
            for (at, peer) in [(a, b), (b, a)] {
                let mut out = Out::new();
                self.nodes[at].lost(self.now, &id(peer), &mut out);
                self.send(at, out);
            }
        }
    }

    fn send(&mut self, from: usize, mut out: Out) {
        self.nodes[from].time_passed(self.now, &self.documents, &mut out);
        for outgoing in out {
            if !matches!(outgoing.frame, Frame::Links(_)) {
                continue;
            }
            let bytes = wire::encode(&outgoing.frame).expect("it has an encoding");
            for peer in outgoing.to {
                let to = (0..self.nodes.len()).find(|node| id(*node) == peer).expect("it is there");
                let link = self.up[&ends(from, to)];
                self.bytes += bytes.len();
                self.frames += 1;
                self.next += 1;
                let frame = outgoing.frame.clone();
                self.on_way.insert((self.now + DELAY, self.next), (from, to, link, frame));
            }
        }
    }

    fn drop_frames_to(&mut self, from: usize, to: usize) {
        if !self.up.contains_key(&ends(from, to)) {
            return;
        }
        self.on_way.retain(|_, (by, at, ..)| (*by, *at) != (from, to));
        let mut out = Out::new();
        self.nodes[from].drained(self.now, &id(to), &self.documents, &mut out);
        self.send(from, out);
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let arrives = self.on_way.keys().next().map(|(at, _)| *at);
            let due = self.nodes.iter().filter_map(Exchange::telling_due).min();
            let Some(next) = arrives.into_iter().chain(due).min().filter(|at| *at <= until) else {
                break;
            };
            self.now = next.max(self.now);
            while let Some(first) = self.on_way.first_entry().filter(|it| it.key().0 <= self.now) {
                let (from, to, link, frame) = first.remove();
                if self.up.get(&ends(from, to)) != Some(&link) {
                    continue;
                }
                let bytes = wire::encode(&frame).expect("it has an encoding");
                let read = wire::decode(&bytes[HEADER_BYTES..]);
                let Ok(wire::Decoded::Known(Frame::Links(links))) = read else {
                    panic!("{read:?}")
                };
                let mut out = Out::new();
                self.nodes[to].links_told(self.now, &id(from), links, &mut out);
                self.send(to, out);
            }
            for node in 0..self.nodes.len() {
                if self.nodes[node].telling_due().is_some_and(|due| due <= self.now) {
                    self.send(node, Out::new());
                }
            }
        }
        self.now = until;
    }

    /// All links that there can be come up, in a random order within so long.
    fn form(&mut self, within: Duration, rng: &mut fastrand::Rng) {
        let count = self.nodes.len();
        let mut all: Vec<_> = (0..count).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
        rng.shuffle(&mut all);
        let each = within / all.len() as u32;
        for (a, b) in all {
            self.link(a, b);
            self.pass(each);
        }
        self.pass(AWHILE);
    }

    fn cost(&mut self, act: impl FnOnce(&mut Self)) -> (usize, usize) {
        let before = (self.bytes, self.frames);
        act(self);
        (self.bytes - before.0, self.frames - before.1)
    }

    /// Checks that who has a link to one of two nodes knows whether they have a link.
    fn check(&self, what: &str) {
        let count = self.nodes.len();
        let is_up = |a, b| self.up.contains_key(&ends(a, b));
        for at in 0..count {
            for a in (0..count).filter(|a| *a != at) {
                for b in (0..a).filter(|b| *b != at && (is_up(at, a) || is_up(at, *b))) {
                    let known = self.nodes[at].is_linked(&id(a), &id(b));
                    assert_eq!(known, is_up(a, b), "{what}: {at} of {a} and {b}");
                }
            }
        }
    }
}

#[test]
fn whatever_links_come_and_go_all_come_to_know_which_are_there() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(3..9);
        let mut mesh = Mesh::new(count);
        if rng.bool() {
            mesh.form(Duration::from_millis(rng.u64(1..3_000)), &mut rng);
            mesh.check(&format!("seed {seed}, formed"));
        }
        for _ in 0..rng.usize(1..60) {
            let (a, b) = (rng.usize(0..count), rng.usize(0..count));
            match rng.u32(0..20) {
                _ if a == b => {}
                0..9 => mesh.link(a, b),
                9..16 => mesh.cut(a, b),
                16 => mesh.drop_frames_to(a, b),
                17 => (0..count).filter(|peer| *peer != a).for_each(|peer| mesh.cut(a, peer)),
                18 => (0..count).filter(|peer| *peer != a).for_each(|peer| mesh.link(a, peer)),
                _ => {
                    // Who knows fewer members for a while does not understand what refers to all.
                    let members = (0..count).filter(|node| *node != b).map(id).collect();
                    mesh.nodes[a].set_members(members);
                }
            }
            let times = [0, 0, 1, 10, 100, 300, 1_000, 2_000];
            mesh.pass(Duration::from_millis(times[rng.usize(0..times.len())]));
        }
        mesh.pass(AWHILE);
        mesh.check(&format!("seed {seed}"));
    }
}

#[test]
fn a_fleet_forms_for_bytes_that_grow_with_its_square() {
    for within in [100, 1_000, 5_000] {
        let cost = |count: usize| {
            let mut mesh = Mesh::new(count);
            let mut rng = fastrand::Rng::with_seed(1);
            let within = Duration::from_millis(within);
            let (bytes, _) = mesh.cost(|mesh| mesh.form(within, &mut rng));
            mesh.check("formed");
            bytes
        };
        let (half, whole) = (cost(24), cost(48));
        assert!(whole < 48 * 48 * 100, "within {within} ms: {whole} bytes");
        assert!(whole < half * 6, "within {within} ms: {half} bytes for half as many, {whole}");
    }
}

#[test]
fn a_fleet_that_grows_node_by_node_costs_bytes_that_grow_with_its_square() {
    let cost = |count: usize| {
        let mut mesh = Mesh::new(count);
        let (bytes, _) = mesh.cost(|mesh| {
            for node in 1..count {
                for peer in 0..node {
                    mesh.link(node, peer);
                    mesh.pass(Duration::from_millis(3));
                }
                mesh.pass(AWHILE);
            }
        });
        mesh.check("grown");
        bytes
    };
    let (half, whole) = (cost(16), cost(32));
    assert!(whole < half * 5, "{half} bytes for half as many, {whole}");
}

#[test]
fn a_link_that_goes_and_comes_back_and_a_node_that_does_cost_each_node_little() {
    let mut costs = Vec::new();
    for count in [16, 32] {
        let mut mesh = Mesh::new(count);
        mesh.form(Duration::from_millis(500), &mut fastrand::Rng::with_seed(1));
        let (flap, frames) = mesh.cost(|mesh| {
            mesh.cut(0, 1);
            mesh.pass(Duration::from_secs(1));
            mesh.link(0, 1);
            mesh.pass(AWHILE);
        });
        mesh.check("one link flapped");
        assert!(frames <= 5 * count, "{frames} frames for one link of {count} nodes");
        let restart = |mesh: &mut Mesh| {
            (1..count).for_each(|peer| mesh.cut(0, peer));
            mesh.pass(Duration::from_secs(2));
            for peer in 1..count {
                mesh.link(0, peer);
                mesh.pass(Duration::from_millis(2));
            }
            mesh.pass(AWHILE);
        };
        mesh.cost(restart);
        mesh.check("one node was started again");
        // From now on all that is known of its links was told by itself.
        let (_, again) = mesh.cost(restart);
        mesh.check("one node was started once more");
        assert!(again <= 4 * count, "{again} frames for a start among {count} nodes");
        costs.push(flap);
    }
    assert!(costs[1] < costs[0] * 3, "one link's flap: {costs:?}");
}

#[test]
fn storms_are_told_of_a_few_times_a_second() {
    let mut mesh = Mesh::new(4);
    mesh.form(Duration::from_millis(100), &mut fastrand::Rng::with_seed(1));
    let (_, frames) = mesh.cost(|mesh| {
        for _ in 0..1_000 {
            mesh.cut(0, 1);
            mesh.pass(Duration::from_millis(1));
            mesh.link(0, 1);
            mesh.pass(Duration::from_millis(1));
        }
        mesh.pass(AWHILE);
    });
    assert!(frames < 150, "{frames} frames for two seconds of a link that comes and goes");
    mesh.check("calm again");
}
