//! The network of the world: cables, links over them, and what is on its way.

use std::{collections::VecDeque, time::Duration};

use sessionmesh::{
    replica::{
        effect::{Input, Outgoing},
        ids::NodeId,
    },
    wire::{self, CloseCode, Decoded, Frame},
};

use super::world::World;

/// How long a node waits before it dials again.
pub const REDIAL: Duration = Duration::from_millis(250);
/// How long before it dials a node again that turned it down.
const REDIAL_REFUSED: Duration = Duration::from_secs(2);
/// What travels on a link.
#[derive(Debug, Clone)]
pub enum Packet {
    Frame(Vec<u8>),
    Close(CloseCode, String),
}

/// A cable between two nodes, and the link over it.
#[derive(Debug, Default)]
pub struct Wire {
    pub plugged: bool,
    pub up: bool,
    pub redial_at: Duration,
    /// By direction: from the lower node, from the higher one.
    pub packets: [VecDeque<Packet>; 2],
    /// Whether frames were dropped that way since it last drained.
    pub overflowed: [bool; 2],
}

impl World {
    /// Plugs a cable in; the two link up if either dials the other.
    pub fn plug(&mut self, a: usize, b: usize) {
        let now = self.now;
        let wire = self.wires.entry(ends(a, b)).or_default();
        wire.plugged = true;
        wire.redial_at = now;
        self.dial();
    }

    /// Pulls a cable out; what is on its way is lost.
    pub fn cut(&mut self, a: usize, b: usize) {
        let wire = self.wires.entry(ends(a, b)).or_default();
        wire.plugged = false;
        let was_up = std::mem::take(&mut wire.up);
        wire.packets.iter_mut().for_each(VecDeque::clear);
        wire.overflowed = [false; 2];
        if was_up {
            for (node, other) in [(a, b), (b, a)] {
                let peer = self.nodes[other].id;
                let reason = "the cable was pulled".to_owned();
                self.handle(node, Input::PeerLost { peer, code: None, reason });
            }
        }
    }

    /// Pulls all cables out.
    pub fn part(&mut self) {
        let plugged: Vec<_> =
            self.wires.iter().filter(|(_, wire)| wire.plugged).map(|(ends, _)| *ends).collect();
        plugged.into_iter().for_each(|(a, b)| self.cut(a, b));
    }

    pub fn is_plugged(&self, a: usize, b: usize) -> bool {
        self.wires.get(&ends(a, b)).is_some_and(|wire| wire.plugged)
    }

    /// Tells whether a link is up.
    pub fn is_linked(&self, a: usize, b: usize) -> bool {
        self.wires.get(&ends(a, b)).is_some_and(|wire| wire.up)
    }

    /// Drops what is on its way from one node to another, as a full queue would; `drain` tells the
    /// sender.
    pub fn overflow(&mut self, from: usize, to: usize) -> usize {
        let wire = self.wires.entry(ends(from, to)).or_default();
        let way = usize::from(from > to);
        let before = wire.packets[way].len();
        wire.packets[way].retain(|packet| match packet {
            // Snapshots travel on streams of their own, and a greeting opens the link.
            Packet::Close(..) => true,
            Packet::Frame(bytes) => {
                matches!(frame(bytes), Frame::Hello(_) | Frame::Snapshot { .. })
            }
        });
        let dropped = before - wire.packets[way].len();
        wire.overflowed[way] |= dropped > 0;
        dropped
    }

    /// Loses what is on its way without telling anyone, as no sound transport does.
    pub fn lose_silently(&mut self, from: usize, to: usize) -> usize {
        let wire = self.wires.entry(ends(from, to)).or_default();
        std::mem::take(&mut wire.packets[usize::from(from > to)]).len()
    }

    /// Has a node say something to a peer that its replica did not.
    pub fn forge(&mut self, from: usize, to: usize, frame: &Frame) {
        let wire = self.wires.entry(ends(from, to)).or_default();
        assert!(wire.up, "a forger needs a link");
        let bytes = wire::encode(frame).expect("a frame within limits");
        wire.packets[usize::from(from > to)].push_back(Packet::Frame(bytes));
    }

    fn number(&self, id: NodeId) -> usize {
        usize::from(id.0[0]) - 1
    }

    pub(super) fn send(&mut self, from: usize, outgoing: Outgoing) {
        let bytes = wire::encode(&outgoing.frame).expect("a replica keeps the limits");
        for to in outgoing.to {
            let to = self.number(to);
            if let Some(wire) = self.wires.get_mut(&ends(from, to)).filter(|wire| wire.up) {
                if let Some(sent) = &mut self.sent {
                    sent.push((from, to, outgoing.frame.clone()));
                }
                wire.packets[usize::from(from > to)].push_back(Packet::Frame(bytes.clone()));
            }
        }
    }

    pub(super) fn close(&mut self, node: usize, peer: NodeId, code: CloseCode, reason: String) {
        let other = self.number(peer);
        self.closes.push((node, other, code, reason.clone()));
        let redial_at = self.now + if code.is_refusal() { REDIAL_REFUSED } else { REDIAL };
        let Some(wire) = self.wires.get_mut(&ends(node, other)).filter(|wire| wire.up) else {
            return;
        };
        wire.redial_at = redial_at;
        wire.packets[usize::from(other > node)].clear();
        wire.packets[usize::from(node > other)].push_back(Packet::Close(code, reason.clone()));
        self.handle(node, Input::PeerLost { peer, code: None, reason });
    }

    /// Links up all that are plugged and of whom one dials the other.
    pub(super) fn dial(&mut self) {
        let ready: Vec<(usize, usize)> = self
            .wires
            .iter()
            .filter(|((a, b), wire)| {
                let dials = |from: usize, to: usize| {
                    self.nodes[from].dials.contains_key(&self.nodes[to].id)
                };
                let wanted = *a < self.nodes.len() && (dials(*a, *b) || dials(*b, *a));
                wire.plugged && !wire.up && wire.redial_at <= self.now && wanted
            })
            .map(|(ends, _)| *ends)
            .collect();
        for (a, b) in ready {
            let wire = self.wires.get_mut(&(a, b)).expect("it is there");
            if wire.up {
                continue;
            }
            wire.up = true;
            wire.packets.iter_mut().for_each(VecDeque::clear);
            let (first, second) = (self.nodes[a].id, self.nodes[b].id);
            self.handle(b, Input::PeerConnected { peer: first });
            self.handle(a, Input::PeerConnected { peer: second });
        }
    }

    /// Delivers one packet, from a link chosen at random, or a document that was read; false if nothing
    /// is on its way.
    pub fn deliver_one(&mut self) -> bool {
        let ways: Vec<((usize, usize), usize)> = self
            .wires
            .iter()
            .flat_map(|(ends, wire)| [(*ends, 0, &wire.packets[0]), (*ends, 1, &wire.packets[1])])
            .filter(|(_, _, packets)| !packets.is_empty())
            .map(|(ends, way, _)| (ends, way))
            .collect();
        let aside: Vec<usize> =
            (0..self.nodes.len()).filter(|node| !self.nodes[*node].aside.is_empty()).collect();
        if ways.is_empty() && aside.is_empty() {
            return false;
        }
        let chosen = self.random.usize(..ways.len() + aside.len());
        let Some(((a, b), way)) = ways.get(chosen).copied() else {
            self.give_aside(aside[chosen - ways.len()]);
            return true;
        };
        let wire = self.wires.get_mut(&(a, b)).expect("it was just found");
        let packet = wire.packets[way].pop_front().expect("it was just found");
        let (from, to) = if way == 0 { (a, b) } else { (b, a) };
        let peer = self.nodes[from].id;
        match packet {
            Packet::Frame(bytes) => {
                self.handle(to, Input::FrameReceived { peer, frame: frame(&bytes) });
            }
            Packet::Close(code, reason) => {
                wire.up = false;
                wire.packets.iter_mut().for_each(VecDeque::clear);
                self.handle(to, Input::PeerLost { peer, code: Some(code), reason });
            }
        }
        self.drain();
        true
    }

    /// Tells the senders whose queues had overflowed and are empty again.
    pub(super) fn drain(&mut self) {
        let drained: Vec<(usize, usize, usize)> = self
            .wires
            .iter()
            .flat_map(|((a, b), wire)| {
                [0, 1]
                    .map(|way| (*a, *b, way, wire.overflowed[way] && wire.packets[way].is_empty()))
            })
            .filter(|(.., drained)| *drained)
            .map(|(a, b, way, _)| (a, b, way))
            .collect();
        for (a, b, way) in drained {
            self.wires.get_mut(&(a, b)).expect("it was just found").overflowed[way] = false;
            let (from, to) = if way == 0 { (a, b) } else { (b, a) };
            let peer = self.nodes[to].id;
            self.handle(from, Input::PeerDrained { peer });
        }
    }

    /// Delivers all that is on its way, and what that leads to, in no time.
    pub fn deliver(&mut self) {
        self.drain();
        for _ in 0..1_000_000 {
            if !self.deliver_one() {
                return;
            }
        }
        panic!("frames never end");
    }
}

pub fn ends(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

fn frame(bytes: &[u8]) -> Frame {
    match wire::decode(&bytes[wire::HEADER_BYTES..]) {
        Ok(Decoded::Known(frame)) => frame,
        other => panic!("a frame that can't be read back: {other:?}"),
    }
}
