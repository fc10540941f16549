//! Measures what a reconnect costs: of equal replicas whose history grows, and of replicas that are
//! 1, 100 and 10,000 changes apart, on one side and on both. Bytes, rounds and processor time.
//!
//! The pure core with the bytes that its frames have on the wire, and no network: these figures are
//! the same on every machine, but for the time.
//!
//! `cargo bench --bench greet [-- --quick]` prints a table and writes `target/bench/greet.json`.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    report::{Report, Samples, is_quick, ms, say},
    state::Fleet,
};
use sessionmesh::{
    identity::NodeKey,
    replica::{
        command::{Command, SessionPatch, Target},
        effect::{Effects, Input, Now, RequestId, Startup, Stored},
        ids::{NodeId, StartId},
        machine::Replica,
    },
    wire,
};

/// How many sessions the fleet has, on as many hosts.
const SESSIONS: usize = 1_000;
const HOSTS: usize = 10;
/// How often equal replicas greet.
const GREETINGS: usize = 20;

fn main() {
    let mut report = Report::new("greet");
    let quick = is_quick();
    let keys = [0, 1].map(|_| Arc::new(NodeKey::generate()));
    let fleet = Fleet::make(&keys, HOSTS, SESSIONS);
    let open = |n: usize| {
        let startup = Startup {
            node: keys[n].node(),
            name: ["a", "b"][n].to_owned(),
            start: StartId([n as u8 + 40; 8]),
            seed: n as u64,
            undo_window: Duration::from_secs(3_600),
            keep_removed: Duration::ZERO,
            start_grace: Duration::ZERO,
            keyring: keys[n].clone(),
        };
        let stored: Stored = fleet.stored(&[]);
        Replica::open(startup, stored, now(0)).expect("it was just saved").0
    };
    let mut pair = Pair { replicas: [open(0), open(1)], seconds: 0, written: 0 };

    let histories: &[usize] = if quick { &[0, 500] } else { &[0, 1_000, 10_000, 50_000] };
    println!("{:<28} {:>9} {:>7} {:>12}", "equal, changes so far", "bytes", "rounds", "cpu us");
    let (mut first, mut last) = (0.0, 0.0);
    for &history in histories {
        say(&format!("{history} changes of history"));
        pair.greet();
        while pair.written < history {
            pair.write(0, 256.min(history - pair.written));
            pair.greet();
        }
        let (mut cpu, mut met) = (Samples::default(), Met::default());
        for _ in 0..if quick { 3 } else { GREETINGS } {
            met = pair.greet();
            cpu.push(met.cpu);
        }
        println!("{history:<28} {:>9} {:>7} {:>12}", met.greeting_bytes, met.rounds, cpu.us(50));
        report.at_most(format!("equal_{history}_bytes"), met.greeting_bytes as f64, 300.0);
        report.at_most(format!("equal_{history}_rounds"), met.rounds as f64, 1.0);
        report.note(format!("equal_{history}_cpu_us"), cpu.us(50));
        if history == 0 {
            first = cpu.us(50);
        }
        last = cpu.us(50);
    }
    report.at_most("cpu_last_history_over_first", last / first, 1.5);

    println!("{:<28} {:>9} {:>7} {:>12}", "apart", "bytes", "rounds", "wall ms");
    let apart: &[usize] = if quick { &[1, 100] } else { &[1, 100, 10_000] };
    for &changes in apart {
        for (name, sides) in [("one side", &[0][..]), ("both sides", &[0, 1])] {
            for side in sides {
                pair.write(*side, changes);
            }
            let met = pair.greet();
            let what = format!("{changes} changes, {name}");
            println!("{what:<28} {:>9} {:>7} {:>12}", met.bytes, met.rounds, ms(met.cpu));
            let key = name.replace(' ', "_");
            report.note(format!("apart_{changes}_{key}_bytes"), met.bytes);
            report.note(format!("apart_{changes}_{key}_rounds"), met.rounds);
            report.note(format!("apart_{changes}_{key}_cpu_ms"), ms(met.cpu));
            assert_eq!(pair.replicas[0].frontier(), pair.replicas[1].frontier());
        }
    }
    report.finish();
}

fn now(seconds: u64) -> Now {
    Now { monotonic: Duration::from_secs(seconds), wall_ms: 1_795_379_110_867 }
}

/// What a meeting took.
#[derive(Debug, Clone, Copy, Default)]
struct Met {
    /// Bytes of the greetings themselves, of both sides.
    greeting_bytes: usize,
    /// Bytes of all frames of both sides.
    bytes: usize,
    /// Rounds until neither had anything more to say, the telling of links not counted.
    rounds: usize,
    cpu: Duration,
}

struct Pair {
    replicas: [Replica; 2],
    seconds: u64,
    written: usize,
}

impl Pair {
    fn node(&self, n: usize) -> NodeId {
        self.replicas[n].node()
    }

    /// Writes changes on one side while no link is up, to sessions of its own host.
    fn write(&mut self, side: usize, changes: usize) {
        for _ in 0..changes {
            self.written += 1;
            let sessions = SESSIONS / HOSTS;
            let host = self.node(side);
            let id = common::state::session_id(&host, self.written % sessions);
            let id = id.parse().expect("it is an id");
            let title = Some(Some(format!("number {}", self.written)));
            let patch = SessionPatch { title, ..SessionPatch::default() };
            let command = Command::UpdateSession(Target::new(id), patch);
            let asked = Input::Requested { request: RequestId(0), command };
            let fx = self.replicas[side].handle(now(self.seconds), asked);
            assert!(fx.replies.iter().all(|(_, reply)| reply.is_ok()), "{:?}", fx.replies);
            self.frames(side, fx);
        }
    }

    /// Links both, lets them talk until neither has anything to say, and ends the link.
    fn greet(&mut self) -> Met {
        self.seconds += 60;
        let at = now(self.seconds);
        let begun = Instant::now();
        let mut met = Met::default();
        let mut waiting = [0, 1].map(|n| {
            let peer = self.node(1 - n);
            let fx = self.replicas[n].handle(at, Input::PeerConnected { peer });
            self.frames(n, fx)
        });
        while waiting.iter().any(|frames| !frames.is_empty()) {
            let counts = |frame: &wire::Frame| !matches!(frame, wire::Frame::Links(_));
            met.rounds += usize::from(waiting.iter().flatten().any(counts));
            let [from_a, from_b] = waiting;
            waiting = [Vec::new(), Vec::new()];
            for (to, sent) in [(1, from_a), (0, from_b)] {
                for frame in sent {
                    let bytes = wire::encode(&frame).expect("it fits");
                    met.bytes += bytes.len();
                    if matches!(frame, wire::Frame::Hello(_)) {
                        met.greeting_bytes += bytes.len();
                    }
                    let frame = match wire::decode(&bytes[wire::HEADER_BYTES..]) {
                        Ok(wire::Decoded::Known(frame)) => frame,
                        other => panic!("{other:?}"),
                    };
                    let peer = self.node(1 - to);
                    let fx = self.replicas[to].handle(at, Input::FrameReceived { peer, frame });
                    waiting[to].extend(self.frames(to, fx));
                }
            }
        }
        met.cpu = begun.elapsed();
        for n in [0, 1] {
            let (peer, reason) = (self.node(1 - n), String::new());
            self.replicas[n].handle(at, Input::PeerLost { peer, code: None, reason });
        }
        met
    }

    /// Returns what a side says, and does at once what a daemon does beside its loop.
    fn frames(&mut self, side: usize, mut fx: Effects) -> Vec<wire::Frame> {
        let (replica, at) = (&mut self.replicas[side], now(self.seconds));
        let mut said = Vec::new();
        loop {
            assert!(fx.closes.is_empty(), "{:?}", fx.closes);
            let sent = fx.frames.into_iter().chain(fx.frames_durable);
            said.extend(sent.map(|outgoing| outgoing.frame));
            let work = if fx.work { replica.work() } else { None };
            let Some(work) = work else { return said };
            fx = replica.handle_done(at, work.run());
        }
    }
}
