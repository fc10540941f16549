//! What a node has done beside its loop, as the daemon does: reading what peers send much of, and
//! what it asks for of its own accord.

use std::time::Duration;

use sessionmesh::{
    daemon::engine::Engine,
    replica::{
        effect::Now,
        machine::{Bulk, ReadBulk, Work},
    },
    transport::Event as LinkEvent,
};

use super::{
    count::Seen,
    fabric::Event,
    node::{Asker, Ports, Up},
    world::World,
};

/// Has a node read what waits for it to be read, beside its loop, as the daemon's does.
pub fn load(now: Now, engine: &mut Engine<Asker>, ports: &mut Ports<'_>) {
    while let Some((peer, frame)) = ports.out.loading.begin() {
        match engine.replica().to_read(&peer, frame) {
            Ok(bulk) => {
                ports.fabric.counts.add(Seen::ReadAside);
                return ports.read_aside(bulk);
            }
            Err(frame) => {
                ports.out.loading.ended();
                engine.hear(now, LinkEvent::Frame { peer, frame }, ports);
            }
        }
    }
}

impl World {
    /// Has a node take in what it was asked for and has waited.
    pub fn take_asked(&mut self, node: usize) {
        let now = self.now_at(node);
        let Some(Up { engine, out }) = &mut self.nodes[node].up else { return };
        if out.asked.is_empty() {
            return;
        }
        let asked = std::mem::take(&mut out.asked);
        (1..asked.len()).for_each(|_| self.fabric.counts.add(Seen::AskedTogether));
        engine.ask_together(now, asked, &mut Ports { fabric: &mut self.fabric, out });
        self.settle(node);
    }

    pub fn read_bulk(&mut self, node: usize, bulk: Bulk) {
        let Some(Up { out, .. }) = &mut self.nodes[node].up else { return };
        let bulk = bulk.judge();
        let is_judged = bulk.is_judged();
        let read = bulk.read();
        out.reading_ended += 1;
        if is_judged {
            let (boot, read) = (out.boot, Box::new(read));
            let time = Duration::from_micros(self.fabric.aside.u64(100..100_000));
            self.fabric.after(time, Event::Shown { node, boot, read });
        } else {
            out.read.push_back(read);
        }
        self.wake_loop(node);
    }

    pub fn show(&mut self, node: usize, read: ReadBulk) {
        let Some(Up { out, .. }) = &mut self.nodes[node].up else { return };
        out.read.push_back(read.show());
        self.wake_loop(node);
    }

    pub fn work(&mut self, node: usize, work: Work) {
        let Some(Up { out, .. }) = &mut self.nodes[node].up else { return };
        out.done.push_back(work.run());
        self.wake_loop(node);
    }
}
