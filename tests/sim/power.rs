//! How nodes start, stop, crash, sleep and wake.

use std::{rc::Rc, time::Duration};

use sessionmesh::{
    daemon::{
        durable::Job,
        engine::{Engine, Opened},
        hub::stream::Stream,
    },
    replica::{
        command::Command,
        diff::Diff,
        effect::{Now, Startup},
        ids::StartId,
    },
    store::{OpenError, Store},
    transport::wake,
    wire::CloseCode,
};

use super::{
    common::{keys::key_of, watch::Watch},
    count::Seen,
    disk::Fault,
    fabric::Event,
    node::{Out, Ports, Up, address},
    world::{
        Asked, BRIDGE_EVERY, HUB, KEEP_REMOVED, LOG, START_GRACE, UNDO_WINDOW, World, name_of,
    },
};

impl World {
    /// Starts a node that is down.
    pub fn start(&mut self, number: usize) {
        if self.nodes[number].up.is_some() {
            return;
        }
        let node = &mut self.nodes[number];
        node.starts = node.starts.checked_add(1).expect("a life has few starts");
        let struck = node.disk.struck();
        let store = match Store::with_backend(node.disk.backend()) {
            Ok(store) => store,
            Err(OpenError::Io { .. }) if node.disk.struck() > struck => {
                // It is tried again, as whoever supervises a daemon does.
                return self.exit(number);
            }
            Err(error) => panic!("a store can't be opened again: {error}"),
        };
        let start = StartId([node.starts, number as u8, 0, 0, 0, 0, 0, 7]);
        let startup = Startup {
            node: node.id,
            name: name_of(number),
            start,
            seed: u64::from_le_bytes(start.0),
            undo_window: UNDO_WINDOW,
            keep_removed: KEEP_REMOVED,
            start_grace: START_GRACE,
            keyring: key_of(node.id),
        };
        let age = self.fabric.between(Duration::ZERO, Duration::from_secs(900));
        let born = self.fabric.now().saturating_sub(age);
        let wall_ms = self.now_at(number).wall_ms;
        let now = Now { monotonic: self.fabric.now() - born, wall_ms };
        let opened = Engine::open(&store, startup, now, LOG);
        let Opened { mut engine, effects, journal } =
            opened.unwrap_or_else(|error| panic!("what was durable can't be read: {error}"));
        let node = &mut self.nodes[number];
        let boot = node.boot;
        let diffs: Vec<Diff> = journal
            .iter()
            .map(|(_, body)| serde_json::from_str(body).expect("a diff reads back"))
            .collect();
        let mut watch = node.watch.take().unwrap_or_else(|| Watch::new(engine.replica()));
        watch.restarted(engine.replica(), &diffs);
        let hub = Stream::new(engine.published(), journal, HUB);
        let mut out = Out::new((number, boot, start), Rc::new(store), hub, watch, born);
        out.alive = std::mem::take(&mut node.alive);
        engine.carry_out(effects, &mut Ports { fabric: &mut self.fabric, out: &mut out });
        node.up = Some(Up { engine, out });
        self.settle(number);
        // A daemon tells where it can be reached.
        let command =
            Command::Announce { name: name_of(number), addresses: [address(number)].into() };
        self.ask(number, command, Asked::Bridge);
        self.fabric.after(BRIDGE_EVERY, Event::Bridge { node: number, boot });
        for follower in 0..self.nodes[number].followers.len() {
            let (node, up) = {
                let node = &mut self.nodes[number];
                (&mut node.followers[follower], node.up.as_ref().expect("it was just started"))
            };
            if node.cursor().is_some() {
                node.come_back(&up.out.hub);
            }
            self.look(number, follower);
        }
    }

    /// Ends a node's process as its supervisor sees it, and has it started again.
    pub fn exit(&mut self, node: usize) {
        self.down(node);
        self.nodes[node].disk.kill();
        if self.nodes[node].disk_broken {
            self.nodes[node].disk.fail(Fault::From(0));
        }
        self.fabric.after(Duration::from_millis(500), Event::Start { node });
    }

    /// Kills a node, or cuts its power.
    pub fn crash(&mut self, node: usize, power: bool) {
        let Some(up) = &self.nodes[node].up else { return };
        if up.out.saving {
            self.fabric.counts.add(Seen::CompactionAtCrash);
        }
        if up
            .out
            .jobs
            .iter()
            .any(|job| matches!(job, Job::Batch(batch) if !batch.writes.is_empty()))
        {
            self.fabric.counts.add(Seen::LostInCrash);
        }
        if !up.out.tearing_down.is_empty() {
            self.fabric.counts.add(Seen::TeardownAtCrash);
        }
        if up.out.reads > 0 {
            self.fabric.counts.add(Seen::ReadAtCrash);
        }
        self.count_epochs_at_crash(node);
        let links = self.links_of(node);
        let sending =
            |id: &u64| self.fabric.links[id].sides.iter().any(|s| s.is_sending_snapshot());
        if links.iter().any(sending) {
            self.fabric.counts.add(Seen::SnapshotAtCrash);
        }
        self.fabric.log(|| format!("node {node} crashes, power {power}"));
        self.down(node);
        if power {
            self.nodes[node].disk.cut_power();
        } else {
            self.nodes[node].disk.kill();
        }
        let time = self.fabric.between(Duration::from_millis(50), Duration::from_secs(12));
        self.fabric.after(time, Event::Start { node });
    }

    /// Takes all from a node that it has in memory.
    pub fn down(&mut self, node: usize) {
        self.end_all(node, CloseCode::Internal, "", false);
        self.nodes[node].boot += 1;
        if let Some(Up { out, engine }) = self.nodes[node].up.take() {
            self.nodes[node].watch = Some(out.watch);
            self.nodes[node].alive = out.alive;
            drop((engine, out.store));
        }
        self.asked.retain(|_, (of, _)| *of != node);
    }

    /// Stops a node in good order: what was let in is made durable, links are closed with a word.
    pub fn stop(&mut self, node: usize) {
        self.take_asked(node);
        for _ in 0..10_000 {
            let Some(up) = &self.nodes[node].up else { return };
            if up.out.jobs.is_empty() {
                break;
            }
            self.turn_disk(node);
        }
        self.end_all(node, CloseCode::Shutdown, "the daemon is stopping", true);
        self.down(node);
        self.nodes[node].disk.kill();
        let time = self.fabric.between(Duration::from_millis(50), Duration::from_secs(5));
        self.fabric.after(time, Event::Start { node });
    }

    /// A machine wakes up.
    pub fn wake(&mut self, node: usize, slept: Duration) {
        self.nodes[node].asleep = false;
        let Some(up) = &mut self.nodes[node].up else { return };
        up.out.slept += slept;
        up.out.due = None;
        let wall_ms = slept.as_millis() as i64;
        if let Some(gap) = wake::asleep(Duration::ZERO, wall_ms) {
            if gap >= Duration::from_secs(10) {
                self.end_all(node, CloseCode::Timeout, "this machine was asleep", true);
            }
            self.dial_at_once(node);
        }
        self.wake_loop(node);
        self.settle(node);
    }

    pub fn heal_disk(&mut self, node: usize) {
        self.nodes[node].disk_slow = false;
        self.nodes[node].disk_broken = false;
        self.nodes[node].disk.fail(Fault::None);
    }
}
