//! Random programs: commands, cables, crashes and time, drawn from one seed.
//!
//! Ids come from small pools, so that nodes create, delete and move the same things at once. What
//! a program does depends on the seed and on what the nodes show, never on a clock.

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use sessionmesh::replica::{
    command::{Command, Reply},
    effect::{RequestId, TeardownOutcome},
    ids::{DocumentId, NodeId, OperationId},
};

use super::{
    asks::Asks,
    ends,
    world::{Mode, UNDO_WINDOW, World, name_of},
};

const SESSIONS: usize = 7;
const WORKSPACES: usize = 4;
/// How many steps lie between two full comparisons, which cost more than the steps.
const CHECK_EVERY: usize = 8;

/// One program under way.
pub struct Program {
    pub world: World,
    random: fastrand::Rng,
    /// The deletes that can be undone.
    operations: Vec<OperationId>,
    /// Requests that wait for a disk: of whom.
    waiting: Vec<(usize, RequestId)>,
    /// What was done, for whoever looks into a failure.
    pub log: String,
    /// How often each kind of thing happened, and succeeded where it can fail.
    pub reached: Vec<&'static str>,
}

impl Program {
    /// Makes a fleet of 2 to 4 nodes whose wall clocks are wrong by as much as is given.
    pub fn new(seed: u64, skews_ms: [i64; 4]) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let nodes = random.usize(2..=4);
        let mut world = World::fleet(nodes, random.u64(..));
        world.teardowns = Mode::Held;
        world.disks = Mode::Held;
        world.reads_aside = seed % 4 < 2;
        for (node, skew_ms) in world.nodes.iter_mut().zip(skews_ms) {
            node.skew_ms = skew_ms;
        }
        let mut program = Self {
            world,
            random,
            operations: Vec::new(),
            waiting: Vec::new(),
            log: String::new(),
            reached: Vec::new(),
        };
        for _ in 0..2 {
            let node = program.node();
            program.create_workspace(node);
        }
        program
    }

    /// Takes as many random steps, and checks every few what must hold.
    pub fn run(&mut self, steps: usize) {
        for step in 0..steps {
            self.step();
            self.hear_answers();
            if step % CHECK_EVERY == 0 {
                self.world.check();
            }
        }
        self.world.check();
    }

    fn node(&mut self) -> usize {
        self.random.usize(..self.world.nodes.len())
    }

    fn request(&mut self, node: usize, command: Command) {
        let _ = writeln!(self.log, "  {} asks {command:?}", name_of(node));
        let request = self.world.request(node, command);
        self.waiting.push((node, request));
        if self.random.u8(..3) > 0 {
            self.world.sync(node, usize::MAX);
        }
    }

    fn hear_answers(&mut self) {
        for (node, request) in std::mem::take(&mut self.waiting) {
            match self.world.answer(request) {
                None => self.waiting.push((node, request)),
                Some(Err(refusal)) => self.reached.push(refusal.code()),
                Some(Ok(reply)) => {
                    self.reached.push("acknowledged");
                    match reply {
                        Reply::SessionDeleted(deleted) => self.operations.extend(deleted.operation),
                        Reply::WorkspaceDeleted(deleted) => {
                            self.operations.extend(deleted.operation);
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    fn step(&mut self) {
        let node = self.node();
        match self.random.u8(..100) {
            0..12 => self.ask(node, |asks| Some(asks.create_session())),
            12..17 => self.create_workspace(node),
            17..28 => self.ask(node, |asks| asks.delete_session()),
            28..32 => self.ask(node, |asks| asks.delete_workspace()),
            32..37 => self.restore(node),
            37..47 => self.ask(node, |asks| asks.update_session()),
            47..52 => self.ask(node, |asks| asks.update_workspace()),
            52..55 => self.go_on_with_teardown(node),
            55..58 => self.ask(node, |asks| Some(asks.import())),
            58..64 => self.turn_a_cable(),
            64..66 => self.pause_or_resume(node),
            66..69 => self.crash(node),
            69 => self.rewrite(node),
            70..75 => {
                let batches = self.random.usize(..4);
                self.world.sync(node, batches);
            }
            75..84 => {
                let packets = self.random.usize(1..20);
                (0..packets).for_each(|_| {
                    self.world.deliver_one();
                });
            }
            84..86 => {
                let other = self.node();
                if node != other && self.world.overflow(node, other) > 0 {
                    self.reached.push("overflow");
                }
            }
            86..91 => self.end_teardowns(),
            _ => self.pass(),
        }
    }

    /// Draws what a node is asked, and asks it, if there is something to ask.
    fn ask(&mut self, node: usize, draw: impl FnOnce(&mut Asks<'_>) -> Option<Command>) {
        let view = self.world.nodes[node].replica.view();
        let (sessions, workspaces) = (SESSIONS, WORKSPACES);
        let drawn = draw(&mut Asks { random: &mut self.random, view, sessions, workspaces });
        if let Some(command) = drawn {
            self.request(node, command);
        }
    }

    fn create_workspace(&mut self, node: usize) {
        self.ask(node, |asks| Some(asks.create_workspace()));
    }

    fn restore(&mut self, node: usize) {
        let operations = self.operations.iter().cloned();
        let Some(operation) = self.random.choice(operations.collect::<Vec<_>>()) else { return };
        let before: Vec<_> = self.world.nodes.iter().map(|n| n.watch.restored.clone()).collect();
        self.request(node, Command::Restore(operation));
        for (other, before) in before.iter().enumerate() {
            let after = &self.world.nodes[other].watch.restored;
            assert!(other == node || after == before, "only who was asked restores");
        }
    }

    fn go_on_with_teardown(&mut self, node: usize) {
        let before = self.waiting.len();
        self.ask(node, |asks| asks.go_on_with_teardown());
        if self.waiting.len() > before {
            self.reached.push("teardown asked for again");
        }
    }

    fn turn_a_cable(&mut self) {
        let (a, b) = (self.node(), self.node());
        if a == b {
            return;
        }
        let plugged = self.world.is_plugged(a, b);
        let _ = writeln!(self.log, "  {a} {b} {}", if plugged { "cut" } else { "plugged" });
        if plugged { self.world.cut(a, b) } else { self.world.plug(a, b) }
    }

    fn pause_or_resume(&mut self, node: usize) {
        let other = self.node();
        if other != node {
            let name = name_of(other);
            let pause = self.random.u8(..3) == 0;
            self.request(node, if pause { Command::Pause(name) } else { Command::Resume(name) });
        }
    }

    fn rewrite(&mut self, node: usize) {
        let host = self.world.nodes[node].id;
        let before = epochs_of(&self.world, node, host);
        self.request(node, Command::Rewrite);
        if epochs_of(&self.world, node, host) != before {
            self.reached.push("rewrite");
        }
    }

    fn crash(&mut self, node: usize) {
        let waiting = self.world.unsynced(node);
        let synced = self.random.usize(..=waiting);
        let _ = writeln!(self.log, "  {node} is killed, {synced} of {waiting} batches synced");
        self.reached.push(if synced < waiting { "crash that lost writes" } else { "crash" });
        self.world.crash(node, synced);
        self.hear_answers();
        self.waiting.retain(|(of, _)| *of != node);
    }

    fn end_teardowns(&mut self) {
        for node in 0..self.world.nodes.len() {
            for due in std::mem::take(&mut self.world.nodes[node].teardowns) {
                let outcome = match self.random.u8(..3) {
                    0 => TeardownOutcome::Failed("it holds uncommitted files".to_owned()),
                    _ => TeardownOutcome::Gone,
                };
                let _ = writeln!(self.log, "  {node} tore down {}: {outcome:?}", due.workspace.id);
                self.reached.push("teardown ended");
                self.world.end_teardown(node, due, outcome);
            }
        }
    }

    fn pass(&mut self) {
        let time = match self.random.u8(..4) {
            0 => UNDO_WINDOW + Duration::from_millis(1),
            1 => UNDO_WINDOW / 2,
            _ => Duration::from_millis(self.random.u64(1..2_000)),
        };
        let _ = writeln!(self.log, "  {time:?} pass");
        self.world.pass(time);
    }

    /// Heals everything, lets everything be carried out, and checks that all agree on it.
    pub fn end(&mut self) {
        let nodes = self.world.nodes.len();
        self.log.push_str("  all is healed\n");
        self.world.disks = Mode::Prompt;
        (0..nodes).for_each(|node| self.world.sync(node, usize::MAX));
        for node in 0..nodes {
            for other in (0..nodes).filter(|other| *other != node) {
                self.world.ask(node, Command::Resume(name_of(other))).expect("a member");
            }
        }
        self.world.plug_all();
        self.world.agree();
        // A failure that is answered while all agree is seen by all; the last ones succeed.
        self.end_teardowns();
        self.world.teardowns = Mode::Prompt;
        self.world.finish();
        // Whatever was under way, the next epoch is gone over to, and by all.
        let host = self.node();
        self.world.ask(host, Command::Rewrite).expect("any node may");
        self.world.agree();
        self.check_end();
    }

    fn check_end(&mut self) {
        let nodes = &self.world.nodes;
        for node in 0..nodes.len() {
            for host in nodes {
                let held = epochs_of(&self.world, node, host.id);
                assert_eq!(held.len(), 1, "{} holds {held:?} of {}", name_of(node), host.id);
            }
        }
        let watches: Vec<_> = nodes.iter().map(|node| &node.watch).collect();
        ends::nothing_came_back_by_itself(&watches);
        let acknowledged: BTreeSet<_> =
            watches.iter().flat_map(|watch| &watch.acknowledged).copied().collect();
        for node in nodes {
            let view = node.replica.view();
            assert_eq!(view, nodes[0].replica.view(), "all show the same");
            ends::nothing_is_due(view, |_| true);
            ends::nothing_acknowledged_is_lost(&node.replica, &acknowledged);
        }
    }

    /// Tells how all ended, without anything that a clock has a part in.
    pub fn outcome(&self) -> Vec<String> {
        let view = self.world.nodes[0].replica.view();
        let sessions = view.sessions().map(|s| {
            let home = s.workspace_id.as_ref();
            format!("{} {:?} {:?} {home:?} {:?} {:?}", s.id, s.state, s.parent_id, s.title, s.extra)
        });
        let workspaces = view.workspaces().map(|entry| {
            let w = &entry.record;
            format!("{} {:?} {} {} {}", w.id, w.state, w.session_count, w.keep, w.name)
        });
        sessions.chain(workspaces).collect()
    }
}

/// Lists the epochs of a host's document that a node holds.
fn epochs_of(world: &World, node: usize, host: NodeId) -> Vec<u32> {
    let documents = world.nodes[node].replica.document_heads();
    let of_host = documents.into_iter().filter_map(|(id, ..)| match id {
        DocumentId::Host { host: of, epoch } if of == host => Some(epoch),
        _ => None,
    });
    of_host.collect()
}
