//! Links between nodes: dialled, opened, chosen among, read, lost. Which of two is kept, how long a
//! dial waits and what is queued are the daemon's own code.

use std::{rc::Rc, time::Duration};

use sessionmesh::{
    replica::ids::NodeId,
    transport::{
        Event as LinkEvent,
        conflict::{Adoption, Claim, is_arbiter},
    },
    wire::{CloseCode, Frame, Lane},
};

use super::{
    count::Seen,
    fabric::Event,
    link::{self, Contending, Link, State},
    node::{Dialing, address},
    world::World,
};

/// A link on which nothing was heard for so long is lost, as in the daemon.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// How often both sides show that they are there, as in the daemon.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// How long a peer may take to open, and an address to answer, as in the daemon.
const OPEN_MAX: Duration = Duration::from_secs(5);

impl World {
    /// Takes a turn at dialling.
    pub fn dial(&mut self, node: usize, peer: NodeId, turn: u64) {
        let Some(up) = &mut self.nodes[node].up else { return };
        let Some(dialer) = up.out.dialers.get_mut(&peer) else { return };
        if dialer.turn != turn || dialer.state != Dialing::Waits {
            return;
        }
        let running = up.out.berths.get(&peer).is_some_and(|berths| berths.running().is_some());
        if running {
            dialer.state = Dialing::Linked(self.fabric.now());
            return;
        }
        dialer.state = Dialing::Calls;
        let boot = up.out.boot;
        let other = self.number(peer);
        let reachable = !self.fabric.is_cut(node, other)
            && !self.fabric.is_cut(other, node)
            && self.nodes[other].is_here();
        let weather = self.fabric.weather;
        let mut time = self.fabric.between(weather.latency.0 * 2, weather.latency.1 * 4);
        while reachable && self.fabric.chance(weather.loss) {
            self.fabric.counts.add(Seen::Dropped);
            time += Duration::from_millis(300);
        }
        let answered = reachable && time < OPEN_MAX;
        let time = if answered { time } else { OPEN_MAX };
        self.fabric.after(time, Event::Dialed { node, boot, peer, turn, answered });
    }

    /// Learns how a dial went.
    pub fn dialed(&mut self, node: usize, peer: NodeId, turn: u64, answered: bool) {
        let other = self.number(peer);
        let now = self.fabric.now();
        let there = self.nodes[other].up.as_ref().map(|up| up.out.boot);
        let there = there.filter(|_| answered && self.nodes[other].is_here());
        let Some(up) = &mut self.nodes[node].up else { return };
        let (boot, start) = (up.out.boot, up.out.start);
        let Some(dialer) = up.out.dialers.get_mut(&peer) else { return };
        if dialer.turn != turn || dialer.state != Dialing::Calls {
            return;
        }
        let Some(there) = there else {
            self.fabric.counts.add(Seen::DialFailed);
            return self.dial_failed(node, peer, format!("{}: no answer", address(other)));
        };
        let id = self.fabric.next_link;
        self.fabric.next_link += 1;
        dialer.state = Dialing::Opens(id);
        self.fabric.links.insert(id, Link::new((node, boot), (other, there), now));
        self.fabric.transmit(id, 0, Lane::Link, &link::open(start));
        self.fabric.after(OPEN_MAX, Event::OpenDue { link: id });
        self.fabric.after(KEEP_ALIVE, Event::Beat { link: id });
    }

    fn dial_failed(&mut self, node: usize, peer: NodeId, reason: String) {
        self.tell(node, LinkEvent::DialFailed { peer, reason }, None);
        self.wait_to_dial(node, peer, None);
    }

    /// Waits for the next turn; `was_up` tells how long there was a link, if there was one.
    fn wait_to_dial(&mut self, node: usize, peer: NodeId, was_up: Option<Duration>) {
        let Some(up) = &mut self.nodes[node].up else { return };
        let boot = up.out.boot;
        let Some(dialer) = up.out.dialers.get_mut(&peer) else { return };
        if let Some(time) = was_up {
            dialer.backoff.was_up(time);
        }
        dialer.turn += 1;
        dialer.state = Dialing::Waits;
        let pause = dialer.backoff.next(&mut self.fabric.random);
        let turn = dialer.turn;
        self.fabric.after(pause, Event::Dial { node, boot, peer, turn });
    }

    /// Dials at once whoever is waited for, as after sleep.
    pub fn dial_at_once(&mut self, node: usize) {
        let Some(up) = &mut self.nodes[node].up else { return };
        let boot = up.out.boot;
        for (peer, dialer) in &mut up.out.dialers {
            if dialer.state == Dialing::Waits {
                dialer.turn += 1;
                let (peer, turn) = (*peer, dialer.turn);
                self.fabric.after(Duration::ZERO, Event::Dial { node, boot, peer, turn });
            }
        }
    }

    /// Takes a datagram in.
    pub fn arrive(&mut self, event: Event) {
        let Event::Arrive { link: id, to, lane, stream, offset, ref bytes } = event else { return };
        let Some(link) = self.fabric.links.get_mut(&id) else { return };
        let (here, there) = (link.sides[to].node, link.sides[1 - to].node);
        if link.sides[to].is_over() || self.nodes[here].boot != link.sides[to].boot {
            return;
        }
        if self.fabric.cuts.contains(&(there, here)) || self.nodes[here].asleep {
            if !link.sides[1 - to].is_over() {
                self.fabric.resend(event);
            }
            return;
        }
        link.sides[to].heard_at = self.fabric.clock.get();
        if !link.sides[to].arrive(lane, stream, offset, bytes.clone()) {
            return;
        }
        let sent = link.sides[1 - to].out(lane);
        sent.in_flight -= 1;
        let arrived = lane == Lane::Snapshot && sent.in_flight == 0;
        if link.sides[to].state == State::Opening {
            self.read_open(id, to);
        } else {
            self.read(id, to);
        }
        if arrived {
            self.written(id, 1 - to, lane);
        }
        self.fabric.pump(id, 1 - to);
    }

    /// What was taken from a queue is written: the next can be.
    pub fn written(&mut self, id: u64, side: usize, lane: Lane) {
        let Some(link) = self.fabric.links.get_mut(&id) else { return };
        let here = &mut link.sides[side];
        let node = here.node;
        if let Some((frames, bytes)) = here.out(lane).batch.take()
            && here.queues.written(lane, frames, bytes)
            && here.is_up()
            && here.ending.is_none()
        {
            let peer = self.nodes[link.sides[1 - side].node].id;
            self.tell(node, LinkEvent::Drained { peer }, None);
        }
        self.fabric.pump(id, side);
    }

    fn read_open(&mut self, id: u64, side: usize) {
        let Some(link) = self.fabric.links.get_mut(&id) else { return };
        let Some(frame) = link.sides[side].read(Lane::Link) else { return };
        let Frame::Open { start } = frame else { panic!("the first frame is not `open`") };
        let (here, there) = (link.sides[side].node, link.sides[1 - side].node);
        let (this, peer) = (self.nodes[here].id, self.nodes[there].id);
        let arbiter = is_arbiter(this, peer);
        let dialed = side == 0;
        let card = Contending::new(id, Claim { start, dialed }, &self.fabric.clock);
        link.sides[side].card = Some(card.clone());
        link.sides[side].owes_open = !dialed && arbiter;
        let owed = link.sides[side].owes_open;
        let Some(up) = &mut self.nodes[here].up else { return };
        if !dialed && !owed {
            self.fabric.transmit(id, side, Lane::Link, &link::open(up.out.start));
        }
        let berths = up.out.berths.entry(peer).or_default();
        if berths.count() > 0 {
            self.fabric.counts.add(Seen::Conflict);
        }
        let adoption = berths.adopt(arbiter, &card, ());
        if dialed
            && let Some(dialer) = up.out.dialers.get_mut(&peer)
            && dialer.state == Dialing::Opens(id)
        {
            dialer.state = Dialing::Linked(self.fabric.now());
        }
        match adoption {
            Adoption::Run((), old) => {
                if let Some(old) = old {
                    let reason = "a newer link takes its place";
                    self.end_at_once(old.link(), here, CloseCode::Duplicate, reason);
                }
                self.run(id, side);
            }
            Adoption::Wait(oldest) => {
                self.set_state(id, side, State::Aside);
                if let Some(oldest) = oldest {
                    let reason = "too many links";
                    self.end_at_once(oldest.link(), here, CloseCode::Duplicate, reason);
                }
            }
            Adoption::Refuse => {
                self.end_at_once(id, here, CloseCode::Duplicate, "another link is kept");
            }
        }
    }

    fn set_state(&mut self, id: u64, side: usize, state: State) {
        if let Some(link) = self.fabric.links.get_mut(&id) {
            link.sides[side].state = state;
        }
    }

    /// Runs a link as the one to its peer.
    fn run(&mut self, id: u64, side: usize) {
        let Some(link) = self.fabric.links.get_mut(&id) else { return };
        link.sides[side].state = State::Running;
        let owes = std::mem::take(&mut link.sides[side].owes_open);
        let (here, there) = (link.sides[side].node, link.sides[1 - side].node);
        let peer = self.nodes[there].id;
        let now = self.fabric.now();
        let Some(up) = &mut self.nodes[here].up else { return };
        if owes {
            self.fabric.transmit(id, side, Lane::Link, &link::open(up.out.start));
        }
        if let Some(dialer) = up.out.dialers.get_mut(&peer)
            && matches!(dialer.state, Dialing::Waits | Dialing::Calls)
        {
            dialer.turn += 1;
            dialer.state = Dialing::Linked(now);
        }
        self.tell(here, LinkEvent::Connected { peer, dialed: side == 0 }, Some(id));
        self.read(id, side);
    }

    /// Gives the loop what has arrived on a link that runs.
    fn read(&mut self, id: u64, side: usize) {
        loop {
            let Some(link) = self.fabric.links.get_mut(&id) else { return };
            let here = &mut link.sides[side];
            if !here.is_up() || here.ending.is_some() {
                return;
            }
            let frame = here.read(Lane::Link).or_else(|| here.read(Lane::Snapshot));
            let Some(frame) = frame else { return };
            let (node, there) = (here.node, link.sides[1 - side].node);
            let peer = self.nodes[there].id;
            self.tell(node, LinkEvent::Frame { peer, frame }, None);
        }
    }

    fn end_at_once(&mut self, id: u64, node: usize, code: CloseCode, reason: &str) {
        let Some(link) = self.fabric.links.get_mut(&id) else { return };
        let side = link.side_of(node);
        if let Some(card) = &link.sides[side].card {
            card.is_down_now();
        }
        self.fabric.tell_closed(id, side, code, &reason.into());
        self.over(id, side, None, reason);
    }

    /// Ends all links of a node at once, without a word to anyone where `told` is false.
    pub fn end_all(&mut self, node: usize, code: CloseCode, reason: &str, told: bool) {
        for id in self.links_of(node) {
            if told {
                self.end_at_once(id, node, code, reason);
            } else {
                let side = self.fabric.links[&id].side_of(node);
                self.set_state(id, side, State::Over);
                self.forget(id);
            }
        }
    }

    pub fn links_of(&self, node: usize) -> Vec<u64> {
        let links = self.fabric.links.iter();
        let of = links.filter(|(_, link)| link.sides.iter().any(|side| side.node == node));
        of.map(|(id, _)| *id).collect()
    }

    /// A link's end has had its time.
    pub fn end_due(&mut self, id: u64, side: usize) {
        let Some(link) = self.fabric.links.get(&id) else { return };
        let here = &link.sides[side];
        let Some((code, reason)) = here.ending.clone().filter(|_| !here.is_over()) else { return };
        self.fabric.tell_closed(id, side, code, &reason);
        self.over(id, side, None, &reason);
    }

    /// The other side has closed the link.
    pub fn closed(&mut self, id: u64, to: usize, code: CloseCode, reason: Rc<str>) {
        let Some(link) = self.fabric.links.get(&id) else { return };
        if !link.sides[to].is_over() && !self.nodes[link.sides[to].node].asleep {
            self.over(id, to, Some(code), &reason);
        }
    }

    /// Nobody has opened in time.
    pub fn open_due(&mut self, id: u64) {
        for side in 0..2 {
            let Some(link) = self.fabric.links.get(&id) else { return };
            if link.sides[side].state == State::Opening {
                let node = link.sides[side].node;
                self.end_at_once(id, node, CloseCode::Timeout, "nothing was said");
            }
        }
    }

    /// Both sides show that they are there, where that arrives.
    pub fn beat(&mut self, id: u64) {
        for side in 0..2 {
            let Some(link) = self.fabric.links.get_mut(&id) else { return };
            let (here, there) = (link.sides[side].node, link.sides[1 - side].node);
            if link.sides[side].is_over() || self.nodes[here].asleep {
                continue;
            }
            let known = link.sides[1 - side].boot == self.nodes[there].boot
                && !link.sides[1 - side].is_over();
            let heard = !self.fabric.cuts.contains(&(there, here)) && !self.nodes[there].asleep;
            let said = !self.fabric.cuts.contains(&(here, there));
            let now = self.fabric.clock.get();
            if known && heard {
                link.sides[side].heard_at = now;
            } else if heard && said && self.nodes[there].up.is_some() {
                let reason = "the peer has forgotten the link; it was restarted";
                self.over(id, side, None, reason);
                continue;
            }
            if now - link.sides[side].heard_at >= IDLE_MAX {
                self.over(id, side, None, "no answer");
            }
        }
        if self.fabric.links.contains_key(&id) {
            self.fabric.after(KEEP_ALIVE, Event::Beat { link: id });
        }
    }

    /// Cuts a link off on both sides, whatever was on its way.
    pub fn reset(&mut self, id: u64) {
        let Some(link) = self.fabric.links.get(&id) else { return };
        let within = link.sides.iter().any(|side| side.is_within_frame());
        self.fabric.counts.add(if within { Seen::ResetInFrame } else { Seen::Reset });
        for side in 0..2 {
            self.over(id, side, None, "the connection was reset");
        }
    }

    /// Takes a link out of its place on one side, and lets one that waits have it.
    pub fn over(&mut self, id: u64, side: usize, code: Option<CloseCode>, reason: &str) {
        let Some(link) = self.fabric.links.get_mut(&id) else { return };
        let here = &mut link.sides[side];
        if here.is_over() {
            return;
        }
        let was = std::mem::replace(&mut here.state, State::Over);
        let (node, card, boot) = (here.node, here.card.clone(), here.boot);
        let peer = self.nodes[link.sides[1 - side].node].id;
        self.forget(id);
        if self.nodes[node].boot != boot || self.nodes[node].up.is_none() {
            return;
        }
        if let Some(card) = &card {
            card.is_down_now();
        }
        if was == State::Running {
            self.tell(node, LinkEvent::Lost { peer, code, reason: reason.to_owned() }, None);
        }
        if was == State::Opening
            && side == 0
            && let Some(up) = &self.nodes[node].up
            && up.out.dialers.get(&peer).is_some_and(|d| d.state == Dialing::Opens(id))
        {
            if code == Some(CloseCode::Duplicate) {
                self.wait_to_dial(node, peer, None);
            } else {
                self.dial_failed(node, peer, reason.to_owned());
            }
        }
        let Some(up) = &mut self.nodes[node].up else { return };
        let Some(card) = card else { return };
        let Some(berths) = up.out.berths.get_mut(&peer) else { return };
        match berths.ended(&card) {
            Some((next, ())) => {
                let link = next.link();
                let side = self.fabric.links[&link].side_of(node);
                self.run(link, side);
            }
            None if berths.running().is_none() => {
                let now = self.fabric.now();
                let since = up.out.dialers.get(&peer).and_then(|dialer| match dialer.state {
                    Dialing::Linked(since) => Some(since),
                    _ => None,
                });
                if let Some(since) = since {
                    self.wait_to_dial(node, peer, Some(now - since));
                }
            }
            None => {}
        }
    }

    /// Forgets a link that is over on both sides.
    fn forget(&mut self, id: u64) {
        if self.fabric.links[&id].sides.iter().all(|side| side.is_over()) {
            self.fabric.links.remove(&id);
        }
    }
}
