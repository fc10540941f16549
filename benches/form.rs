//! Measures what it costs that links come up: of a fleet that forms, of a node that joins the mesh, of a
//! link that goes and comes back, and of a node that does. Bytes of all frames of all nodes, and of
//! those that tell of links; the comparisons that all make at least every ten seconds are not counted.
//!
//! The pure core in virtual time, with the bytes that its frames have on the wire and 5 ms on the way,
//! and no network: these figures are the same on every machine.
//!
//! `cargo bench --bench form [-- --quick]` prints a table and writes `target/bench/form.json`.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{
    report::{Report, is_quick, say},
    state::Fleet,
};
use sessionmesh::{
    identity::NodeKey,
    replica::{
        effect::{Effects, Input, Now, Startup},
        ids::{NodeId, StartId},
        machine::Replica,
    },
    wire::{self, Frame},
};

/// How long a frame is on its way.
const DELAY: Duration = Duration::from_millis(5);
/// Within which time all links of a fleet come up.
const WITHIN: Duration = Duration::from_secs(1);
/// How long the fleet is looked at after each event: longer than anything is put off.
const AWHILE: Duration = Duration::from_secs(4);

fn main() {
    let mut report = Report::new("form");
    let counts: &[usize] = if is_quick() { &[8, 16] } else { &[8, 16, 32, 64] };
    let columns =
        ["nodes", "forms", "links", "joins", "links", "link flaps", "links", "restarts", "links"];
    println!("{}", columns.map(|column| format!("{column:>11}")).join(""));
    for &count in counts {
        say(&format!("{count} nodes"));
        let mut mesh = Mesh::new(count);
        let forms = mesh.cost(|mesh| mesh.form(count - 1));
        let joins = mesh.cost(|mesh| mesh.come_up(count - 1));
        let flaps = mesh.cost(|mesh| {
            mesh.cut(0, 1);
            mesh.pass(Duration::from_secs(1));
            mesh.link(0, 1);
        });
        let restarts = mesh.cost(|mesh| {
            (0..count - 1).for_each(|peer| mesh.cut(count - 1, peer));
            mesh.pass(Duration::from_secs(2));
            mesh.come_up(count - 1);
        });
        let row = [forms, joins, flaps, restarts];
        let cells = row.iter().flat_map(|cost| [cost.all, cost.links]);
        let cells = [count].into_iter().chain(cells).map(|cell| format!("{cell:>11}"));
        println!("{}", cells.collect::<String>());
        for (name, cost) in ["forms", "joins", "link_flaps", "restarts"].into_iter().zip(row) {
            report.note(format!("{name}_{count}_bytes"), cost.all);
            report.note(format!("{name}_{count}_links_bytes"), cost.links);
        }
        let links = (count - 1) * (count - 2) / 2;
        let each = forms.all as f64 / links as f64;
        report.at_most(format!("forms_{count}_bytes_per_link"), each, 250.0);
    }
    report.finish();
}

/// Bytes of frames, over all nodes.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    all: usize,
    links: usize,
}

/// A frame on its way.
struct Packet {
    from: usize,
    to: usize,
    /// The link that it was sent on.
    link: u64,
    bytes: Vec<u8>,
}

/// The nodes of a fleet, of which each knows all, and the frames on their way.
struct Mesh {
    now: Duration,
    ids: Vec<NodeId>,
    replicas: Vec<Replica>,
    /// The links that are up, each with a number of its own.
    up: BTreeMap<(usize, usize), u64>,
    on_way: BTreeMap<(Duration, u64), Packet>,
    next: u64,
    cost: Cost,
}

fn ends(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Mesh {
    fn new(count: usize) -> Self {
        let keys: Vec<_> = (0..count).map(|_| Arc::new(NodeKey::generate())).collect();
        let fleet = Fleet::make(&keys, count, count);
        let open = |(n, key): (usize, &Arc<NodeKey>)| {
            let startup = Startup {
                node: key.node(),
                name: format!("node-{n}"),
                start: StartId([n as u8 + 40; 8]),
                seed: n as u64,
                undo_window: Duration::from_secs(3_600),
                keep_removed: Duration::ZERO,
                start_grace: Duration::ZERO,
                keyring: key.clone(),
            };
            Replica::open(startup, fleet.stored(&[]), at(Duration::ZERO))
                .expect("it was just saved")
                .0
        };
        Self {
            now: Duration::from_secs(60),
            ids: keys.iter().map(|key| key.node()).collect(),
            replicas: keys.iter().enumerate().map(open).collect(),
            up: BTreeMap::new(),
            on_way: BTreeMap::new(),
            next: 0,
            cost: Cost::default(),
        }
    }

    fn cost(&mut self, act: impl FnOnce(&mut Self)) -> Cost {
        let before = self.cost;
        act(self);
        self.pass(AWHILE);
        Cost { all: self.cost.all - before.all, links: self.cost.links - before.links }
    }

    /// All links among the first nodes come up, in a random order.
    fn form(&mut self, count: usize) {
        let mut all: Vec<_> = (0..count).flat_map(|a| (0..a).map(move |b| (a, b))).collect();
        fastrand::Rng::with_seed(1).shuffle(&mut all);
        let each = WITHIN / all.len() as u32;
        for (a, b) in all {
            self.link(a, b);
            self.pass(each);
        }
    }

    /// All links of a node come up, one after the other.
    fn come_up(&mut self, node: usize) {
        for peer in (0..self.ids.len()).filter(|peer| *peer != node) {
            self.link(node, peer);
            self.pass(Duration::from_millis(3));
        }
    }

    fn link(&mut self, a: usize, b: usize) {
        self.next += 1;
        self.up.insert(ends(a, b), self.next);
        for (at, peer) in [(a, b), (b, a)] {
            self.handle(at, Input::PeerConnected { peer: self.ids[peer] });
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        self.up.remove(&ends(a, b));
        for (at, peer) in [(a, b), (b, a)] {
            let reason = "cut".to_owned();
            self.handle(at, Input::PeerLost { peer: self.ids[peer], code: None, reason });
        }
    }

    fn handle(&mut self, node: usize, input: Input) {
        let mut fx = self.replicas[node].handle(at(self.now), input);
        loop {
            assert!(fx.closes.is_empty(), "{:?}", fx.closes);
            let is_more = fx.work;
            self.send(node, fx);
            let work = if is_more { self.replicas[node].work() } else { None };
            let Some(work) = work else { return };
            fx = self.replicas[node].handle_done(at(self.now), work.run());
        }
    }

    fn send(&mut self, from: usize, fx: Effects) {
        for outgoing in fx.frames.into_iter().chain(fx.frames_durable) {
            let bytes = wire::encode(&outgoing.frame).expect("it fits");
            for peer in &outgoing.to {
                let to = self.ids.iter().position(|id| id == peer).expect("it is one of them");
                let Some(link) = self.up.get(&ends(from, to)) else { continue };
                match outgoing.frame {
                    Frame::Check { .. } => {}
                    Frame::Links(_) => {
                        self.cost.links += bytes.len();
                        self.cost.all += bytes.len();
                    }
                    _ => self.cost.all += bytes.len(),
                }
                self.next += 1;
                let packet = Packet { from, to, link: *link, bytes: bytes.clone() };
                self.on_way.insert((self.now + DELAY, self.next), packet);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let arrives = self.on_way.keys().next().map(|(at, _)| *at);
            let due = self.replicas.iter().filter_map(Replica::due).min();
            let Some(next) = arrives.into_iter().chain(due).min().filter(|at| *at <= until) else {
                break;
            };
            self.now = next.max(self.now);
            while let Some(first) = self.on_way.first_entry().filter(|it| it.key().0 <= self.now) {
                let Packet { from, to, link, bytes } = first.remove();
                if self.up.get(&ends(from, to)) == Some(&link) {
                    let Ok(wire::Decoded::Known(frame)) =
                        wire::decode(&bytes[wire::HEADER_BYTES..])
                    else {
                        panic!("it was just encoded")
                    };
                    self.handle(to, Input::FrameReceived { peer: self.ids[from], frame });
                }
            }
            for node in 0..self.replicas.len() {
                if self.replicas[node].due().is_some_and(|due| due <= self.now) {
                    self.handle(node, Input::TimePassed);
                }
            }
        }
        self.now = until;
    }
}

fn at(monotonic: Duration) -> Now {
    Now { monotonic, wall_ms: 1_795_379_110_867 }
}
