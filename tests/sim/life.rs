//! One life: a fleet, what happens to it, and how it ends once nothing goes wrong any more.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::{Mutex, Once, PoisonError},
    time::Duration,
};

use sessionmesh::replica::{
    command::Command,
    ids::{ChangeHash, DocumentId, NodeId},
    machine::Replica,
    record::{Role, Session, SessionState, Workspace},
};

use super::{
    chaos::{Act, holds},
    common::ends,
    count::{Counts, Seen},
    fabric::{Event, Weather},
    follow::{Follower, Read},
    world::{Asked, UNDO_WINDOW, World, name_of},
};

/// How long the fleet may take to agree once it is healed: the longest wait between two dials, a
/// link that is silent until it is given up, and what is then asked for.
const AGREE_WITHIN: Duration = Duration::from_secs(120);

/// What is played.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub nodes: usize,
    pub acts: Vec<Act>,
    /// The acts that are played, by number.
    pub only: Vec<usize>,
    pub weather: Weather,
    /// Nothing goes wrong.
    pub calm: bool,
    /// Added to the wall clocks from the start.
    pub skews_ms: [i64; 5],
}

/// How a life went.
pub struct Lived {
    pub counts: Counts,
    pub steps: u64,
    pub trace: u64,
    pub acknowledged: u64,
    /// What all showed in the end, without anything that a clock has a part in.
    pub outcome: Vec<String>,
}

/// Why a life did not end well.
pub struct Failure {
    pub message: String,
    pub log: String,
}

pub const CALM: Weather = Weather {
    loss: 0.0,
    duplication: 0.0,
    lateness: 0.0,
    latency: (Duration::from_micros(100), Duration::from_micros(900)),
    bandwidth: 10_000_000,
};

impl Scenario {
    /// Draws a scenario with so many acts.
    pub fn draw(seed: u64, acts: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let nodes = random.usize(2..=4);
        let share = |random: &mut fastrand::Rng, most: f64| match random.u8(..4) {
            0 => 0.0,
            _ => random.f64() * most,
        };
        let latency = Duration::from_micros(random.u64(100..40_000));
        // Where it varies much, overtaken datagrams are most of what goes wrong.
        let jitter = if random.u8(..4) == 0 { 0.5 } else { 0.0 };
        let weather = Weather {
            loss: share(&mut random, 0.12),
            duplication: share(&mut random, 0.06),
            lateness: share(&mut random, 0.05),
            latency: (latency.mul_f64(1.0 - jitter), latency),
            bandwidth: random.u64(20_000..2_000_000),
        };
        let acts: Vec<Act> = (0..acts).map(|_| Act::draw(&mut random)).collect();
        let only = (0..acts.len()).collect();
        Self { seed, nodes, acts, only, weather, calm: false, skews_ms: [0; 5] }
    }

    /// Draws a scenario in which nothing goes wrong, on three nodes of which the first and the last
    /// never meet.
    pub fn calm(seed: u64, acts: usize) -> Self {
        let mut scenario = Self::draw(seed, acts);
        scenario.acts.retain(|act| act.kind.is_calm());
        scenario.only = (0..scenario.acts.len()).collect();
        Self { nodes: 3, weather: CALM, calm: true, ..scenario }
    }

    /// Has the last of the first nodes gone bad: one thing in three is its own.
    pub fn with_rogue(mut self) -> Self {
        self.nodes = self.nodes.max(3);
        for act in self.acts.iter_mut().step_by(3) {
            act.kind = super::chaos::Kind::Rogue;
        }
        self
    }

    /// Plays it from beginning to end.
    ///
    /// # Errors
    ///
    /// An invariant was broken.
    pub fn play(&self, logged: bool) -> Result<Lived, Failure> {
        quiet();
        let mut world = World::new(self.seed, self.weather);
        world.fabric.log = logged.then(String::new);
        PLAYS.set(true);
        let played = catch_unwind(AssertUnwindSafe(|| {
            self.live(&mut world);
            world.heal();
            world.finish();
            world.outcome()
        }));
        PLAYS.set(false);
        match played {
            Ok(outcome) => Ok(Lived {
                acknowledged: world.nodes.iter().map(|n| n.acknowledged.len() as u64).sum(),
                counts: world.fabric.counts.clone(),
                steps: world.steps,
                trace: world.fabric.trace(),
                outcome,
            }),
            Err(panic) => {
                let message = panic.downcast_ref::<String>().map(String::as_str);
                let message = message.or(panic.downcast_ref::<&str>().copied());
                Err(Failure {
                    message: message.unwrap_or("no message").to_owned(),
                    log: world.fabric.log.take().unwrap_or_default(),
                })
            }
        }
    }

    fn live(&self, world: &mut World) {
        if self.calm {
            world.fabric.cuts.extend([(0, 2), (2, 0)]);
        }
        for (bytes, skew_ms) in formed(self.nodes).into_iter().zip(self.skews_ms) {
            let node = world.add(bytes, 1);
            world.nodes[node].skew_ms = skew_ms;
            world.take_backup(node);
            for pace in [1, 20] {
                let follower = Follower::new(Duration::from_millis(pace));
                world.nodes[node].followers.push(follower);
            }
            (0..2).for_each(|follower| world.look(node, follower));
        }
        let is_rogue = |act: &Act| matches!(act.kind, super::chaos::Kind::Rogue);
        world.fabric.rogue = self.acts.iter().any(is_rogue).then(|| self.nodes - 1);
        world.pass(Duration::from_secs(2));
        let mut wait = Duration::ZERO;
        for (number, act) in self.acts.iter().enumerate() {
            wait += act.after;
            if matches!(act.kind, super::chaos::Kind::WindowPasses) {
                wait += UNDO_WINDOW + Duration::from_millis(1);
            }
            if self.only.binary_search(&number).is_ok() {
                world.fabric.after(wait, Event::Act(number));
            }
            wait += act.lasts();
        }
        let until = world.fabric.now() + wait;
        while let Some(act) = world.step(until) {
            if let Some(number) = act {
                world.act(self.acts[number]);
                if number % 8 == 0 {
                    world.check();
                }
            }
        }
        world.check();
        if self.calm {
            // Less than it takes until frontiers are compared although nothing was said.
            world.pass(Duration::from_secs(5));
            let ups = world.nodes.iter().filter_map(|node| node.up.as_ref());
            let replicas: Vec<_> = ups.map(|up| up.engine.replica()).collect();
            for replica in &replicas {
                assert_eq!(replica.sync_repairs_total(), 0, "nothing went wrong, and was repaired");
                assert_eq!(replica.frontier(), replicas[0].frontier(), "all was passed on");
            }
        }
    }
}

thread_local! {
    /// Whether a panic of this thread is part of a life, and told by whoever plays it.
    static PLAYS: Cell<bool> = const { Cell::new(false) };
}

/// Has the panics of lives told once, and not for each attempt to make a scenario shorter.
fn quiet() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let told = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !PLAYS.get() {
                told(info);
            }
        }));
    });
}

/// Has the fleet of so many nodes formed from which lives start.
pub fn form(nodes: usize) {
    drop(formed(nodes));
}

/// Returns the disks of a fleet of so many nodes that are linked to each other.
///
/// The tickets and joins are played once for each size, and every life starts from there.
fn formed(nodes: usize) -> Vec<Vec<u8>> {
    static FORMED: Mutex<BTreeMap<usize, Vec<Vec<u8>>>> = Mutex::new(BTreeMap::new());
    let mut formed = FORMED.lock().unwrap_or_else(PoisonError::into_inner);
    let disks = formed.entry(nodes).or_insert_with(|| {
        let mut world = World::new(0, CALM);
        for _ in 0..nodes {
            world.add(Vec::new(), 0);
        }
        for joiner in 1..nodes {
            let (role, expires_in) = (Role::Admin, Duration::from_secs(3_600));
            let invite = Command::Invite { role, expires_in, secret: [joiner as u8; 32] };
            world.ask(0, invite, Asked::Ticket { joiner });
            world.pass(Duration::from_secs(5));
        }
        world.agree();
        for node in &world.nodes {
            let replica = node.up.as_ref().expect("nothing went wrong").engine.replica();
            assert_eq!(replica.peers().len(), nodes - 1, "all have joined");
        }
        (0..nodes).for_each(|node| world.stop(node));
        world.nodes.iter().map(|node| node.disk.bytes()).collect()
    });
    disks.clone()
}

/// Tells whether an operation takes a delete back.
fn restores(operation: &automerge::legacy::Op) -> bool {
    let of_deleted = matches!(&operation.key, automerge::legacy::Key::Map(key) if key == "deleted");
    of_deleted && matches!(operation.action, automerge::legacy::OpType::Delete)
}

impl World {
    /// Mends all that is broken.
    pub fn heal(&mut self) {
        self.fabric.log(|| "all is healed".to_owned());
        self.healed = true;
        self.fabric.crash_in_snapshot = false;
        self.fabric.reset_in_frame = false;
        self.fabric.crash_in_teardown = false;
        self.fabric.crash_in_compaction = false;
        self.fabric.crash_in_read = false;
        self.fabric.crash_in_rewrite = false;
        self.fabric.crash_in_carrying = false;
        self.cut_in_commit.clear();
        self.garble = false;
        self.fabric.cuts.clear();
        self.fabric.slow.clear();
        self.fabric.weather = CALM;
        for node in 0..self.nodes.len() {
            self.heal_disk(node);
            self.nodes[node].faulted = None;
            self.nodes[node].stalled_until = Duration::ZERO;
            self.nodes[node].agent.away = false;
            for follower in &mut self.nodes[node].followers {
                follower.pace = Duration::from_millis(1);
            }
        }
        // Those that are down or asleep come back by themselves.
        self.pass(Duration::from_secs(30));
        for node in 0..self.nodes.len() {
            assert!(self.nodes[node].is_here(), "node {node} is back");
            for other in (0..self.nodes.len()).filter(|other| *other != node) {
                self.ask(node, Command::Resume(name_of(other)), Asked::Person);
            }
        }
        self.pass(Duration::from_secs(1));
    }

    /// Lets as much time pass as the fleet needs to hold the same.
    pub fn agree(&mut self) {
        let until = self.fabric.now() + AGREE_WITHIN;
        while !self.is_agreed() {
            assert!(self.fabric.now() < until, "nodes still differ: {}", self.differences());
            self.pass(Duration::from_millis(500));
        }
    }

    /// Lets as much time pass as it takes that nothing is left to be done, and checks how all
    /// ended.
    pub fn finish(&mut self) {
        self.agree();
        self.pass_grace();
        for _ in 0..4 {
            self.pass(UNDO_WINDOW + Duration::from_secs(1));
            self.agree();
        }
        self.check();
        self.check_end();
        self.let_one_more_in();
    }

    /// Lets the time pass for which hosts hold back what was pending before their start: one that
    /// everybody has shut out, and that does not know it, meets none of those for whom it waits.
    fn pass_grace(&mut self) {
        let holding = (0..self.nodes.len()).filter_map(|node| {
            let up = self.nodes[node].up.as_ref()?;
            up.engine.replica().holding(self.now_at(node))
        });
        if let Some(left) = holding.map(|holding| holding.left).max() {
            self.pass(left);
            self.agree();
        }
    }

    /// Tells whether two nodes have no business with each other.
    fn is_apart(&self, a: usize, b: usize) -> bool {
        if self.fabric.rogue == Some(a) || self.fabric.rogue == Some(b) {
            return true;
        }
        let [a, b] = [a, b].map(|node| self.nodes[node].up.as_ref());
        let (Some(a), Some(b)) = (a, b) else { return false };
        let (a, b) = (a.engine.replica(), b.engine.replica());
        let shut_out = |a: &Replica, b: NodeId| {
            let peers = a.peers();
            let known = peers.iter().find(|peer| peer.member.node == b);
            known.is_none_or(|peer| !peer.member.is_current())
        };
        a.fleet() != b.fleet() || shut_out(a, b.node()) || shut_out(b, a.node())
    }

    /// Tells where a node's documents stand, but for those of a host gone bad, where nobody sees to it that
    /// what each has of them is carried over, and those of a retired one, which nobody exchanges.
    fn stands(&self, replica: &Replica) -> Vec<(DocumentId, Vec<ChangeHash>)> {
        let rogue = self.fabric.rogue.map(super::node::key);
        let documents = replica.document_heads().into_iter();
        let documents = documents.filter(|(id, ..)| rogue.is_none() || id.host() != rogue);
        let documents = documents.filter(|(id, ..)| !is_retired(replica, id));
        documents.map(|(id, heads, _)| (id, heads)).collect()
    }

    /// Lists what a node shows, but for what a host gone bad has.
    pub fn shows(&self, replica: &Replica) -> (Vec<Session>, Vec<Workspace>) {
        let rogue = self.fabric.rogue.map(super::node::key);
        let (sessions, workspaces) = replica.records();
        let sessions = sessions.iter().filter(|it| Some(it.host) != rogue);
        let workspaces = workspaces.iter().filter(|it| Some(it.host) != rogue);
        let workspaces = workspaces.map(|it| (**it).clone());
        (sessions.map(|it| (**it).clone()).collect(), workspaces.collect())
    }

    fn is_agreed(&self) -> bool {
        let nodes = self.nodes.len();
        let pairs = (0..nodes).flat_map(|a| (0..a).map(move |b| (a, b)));
        let idle =
            self.nodes.iter().all(|node| node.up.as_ref().is_some_and(|up| up.out.is_idle()));
        idle && pairs.filter(|(a, b)| !self.is_apart(*a, *b)).all(|(a, b)| {
            let [a, b] = [a, b].map(|node| self.nodes[node].up.as_ref());
            let (Some(a), Some(b)) = (a, b) else { return false };
            let (a, b) = (a.engine.replica(), b.engine.replica());
            members(a) == members(b) && self.stands(a) == self.stands(b)
        })
    }

    fn differences(&self) -> String {
        let of = |node: &super::node::Node| {
            let Some(up) = &node.up else { return format!("node {} is down\n", node.number) };
            let replica = up.engine.replica();
            let peers: Vec<_> = replica
                .peers()
                .into_iter()
                .map(|p| {
                    (p.member.name, p.connected, p.paused, p.member.revoked.is_some(), p.problem)
                })
                .collect();
            format!(
                "node {} idle {} fleet {:?} {:?}\n  {peers:?}\n  {:?}\n",
                node.number,
                up.out.is_idle(),
                replica.fleet(),
                replica.document_heads(),
                up.out.dialers,
            )
        };
        self.nodes.iter().map(of).collect()
    }

    /// Checks what holds at any moment and costs more than a step.
    pub fn check(&mut self) {
        for node in &mut self.nodes {
            if let Some(up) = &mut node.up {
                up.out.watch.check(up.engine.replica());
            }
        }
    }

    /// Returns the nodes that have to do with each other: not those that were shut out, that were
    /// let in by one of them while it was being shut out, or that did not get in.
    pub fn current(&self) -> Vec<usize> {
        let together = |node: usize| -> Vec<usize> {
            let others = 0..self.nodes.len();
            others.filter(|other| *other == node || !self.is_apart(node, *other)).collect()
        };
        let groups = (0..self.nodes.len()).map(together);
        groups.max_by_key(Vec::len).expect("a world has nodes")
    }

    fn check_end(&mut self) {
        let current = self.current();
        let hosts: BTreeSet<_> = current.iter().map(|node| self.nodes[*node].id).collect();
        let ups: Vec<_> = current.iter().filter_map(|node| self.nodes[*node].up.as_ref()).collect();
        let watches: Vec<_> =
            self.nodes.iter().filter_map(|node| Some(&node.up.as_ref()?.out.watch)).collect();
        if self.fabric.counts.of(Seen::Restored) == 0 {
            // A node that forgot what it was asked does not tell any more who restored what.
            ends::nothing_came_back_by_itself(&watches);
        }
        let mut acknowledged: BTreeSet<_> =
            current.iter().flat_map(|node| &self.nodes[*node].acknowledged).copied().collect();
        if self.fabric.counts.of(Seen::Restored) > 0 {
            // Old copies of disks may not know of a node that was let in since: what only that one
            // has nobody can ask for.
            let strangers = (0..self.nodes.len()).filter(|node| !current.contains(node));
            for up in strangers.filter_map(|node| self.nodes[node].up.as_ref()) {
                acknowledged.retain(|it| !holds(up.engine.replica(), it));
            }
        }
        if let Some(up) = ups.first() {
            acknowledged.retain(|it| !is_retired(up.engine.replica(), &it.document));
        }
        for up in &ups {
            let replica = up.engine.replica();
            let first = ups[0].engine.replica();
            assert!(self.shows(replica) == self.shows(first), "all show the same");
            let all = self.fabric.rogue.is_some() || replica.view() == first.view();
            assert!(all, "all show the same");
            ends::nothing_is_due(replica.view(), |host| hosts.contains(host));
            ends::nothing_acknowledged_is_lost(replica, &acknowledged);
            self.deleted_sessions_were_restored(replica);
        }
        for node in &mut self.nodes {
            let Some(up) = &node.up else { continue };
            let replica = up.engine.replica();
            let (sessions, workspaces) = replica.records();
            for follower in &mut node.followers {
                while follower.read(&up.out.hub) != Read::Nothing {}
                let view = follower.view().expect("it has read something");
                assert_eq!(view.sessions, sessions, "a subscriber has seen all");
                assert_eq!(view.workspaces, workspaces, "a subscriber has seen all");
            }
            for session in node.agent.sessions() {
                let state = replica.view().sessions_of(&node.id).find(|s| s.id == *session);
                assert!(state.is_some(), "the agent has session {session}, the node does not");
            }
        }
    }

    /// Checks that a session which was deleted and is alive was restored by someone who knew.
    fn deleted_sessions_were_restored(&self, replica: &Replica) {
        for (key, (document, delete)) in &self.deletes {
            let state = replica.view().session(key).map(|session| session.state);
            let Some(copy) = replica.document_copy(document) else { continue };
            let heads = replica.document_heads();
            if heads.iter().any(|(id, ..)| id.host() == document.host() && id > document) {
                // What was restored since stands in a later epoch.
                continue;
            }
            if matches!(state, None | Some(SessionState::Deleted)) || !copy.has(delete) {
                continue;
            }
            let loaded =
                automerge::Automerge::load(&copy.save()).expect("what is held can be read");
            let mut after = BTreeSet::from([automerge::ChangeHash(delete.0)]);
            let knew = loaded.get_changes(&[]).iter().any(|change| {
                let follows = change.deps().iter().any(|hash| after.contains(hash));
                if follows {
                    after.insert(change.hash());
                }
                follows && change.decode().operations.iter().any(restores)
            });
            assert!(knew, "session {} is alive after an acknowledged delete", key.id);
        }
    }

    fn outcome(&self) -> Vec<String> {
        let Some(up) = &self.nodes[0].up else { return Vec::new() };
        let view = up.engine.replica().view();
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

/// Lists who is in by what a node knows, in which role.
///
/// What they hold of statements may differ: of a key that was shut out, none are taken any more.
fn members(replica: &Replica) -> Vec<(NodeId, Role, &str)> {
    let nodes = replica.membership().nodes.iter();
    let current = nodes.filter(|(_, belonging)| belonging.is_current());
    current.map(|(node, it)| (*node, it.role, it.name.as_str())).collect()
}

/// Tells whether a document's host is retired, as a node knows it.
fn is_retired(replica: &Replica, document: &DocumentId) -> bool {
    let host = document.host().and_then(|host| replica.membership().nodes.get(&host));
    host.and_then(|host| host.removal.as_ref()).is_some_and(|removal| removal.retire)
}
