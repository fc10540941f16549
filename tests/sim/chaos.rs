//! What a scenario is made of: what people ask, and what goes wrong, one thing after the other.

use std::{rc::Rc, time::Duration};

use sessionmesh::{
    replica::{
        command::{Command, NewSession, Target},
        effect::{Now, Startup, Stored},
        ids::{StartId, WorkspaceId},
        machine::Replica,
        record::{Role, WorkspaceState},
    },
    store::Store,
};

use super::{
    common::{asks::Asks, keys::key_of, watch::Acknowledged},
    count::Seen,
    disk::{Disk, Fault},
    epochs,
    fabric::Event,
    world::{Asked, UNDO_WINDOW, World, name_of},
};

/// Most machines in a life, those that join included.
const NODES_MAX: usize = 5;
/// How much longer than its undo window a host that ended a workspace hears nothing of who enters it.
const ENTERED_WITHIN: Duration = Duration::from_secs(4);
const YEAR_MS: i64 = 365 * 24 * 3_600 * 1_000;

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
pub struct Act {
    /// How long after the one before.
    pub after: Duration,
    pub kind: Kind,
    /// To whom; drawn where it is `None`.
    pub node: Option<usize>,
    /// What is left open is drawn from this.
    pub salt: u64,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    CreateSession,
    CreateWorkspace,
    DeleteSession,
    DeleteWorkspace,
    Restore,
    UpdateSession,
    UpdateWorkspace,
    GoOnWithTeardown,
    Import,
    Agent,
    AgentAway,
    Burst,
    WindowPasses,
    Cut,
    OneWay,
    Part,
    Reset,
    ResetInFrame,
    SlowLink,
    Kill,
    PowerCut,
    TornCommit,
    SyncFails,
    DiskFull,
    SlowDisk,
    Garble,
    TakeBackup,
    RestoreBackup,
    Restart,
    Stall,
    ClockJump,
    YearOff,
    Sleep,
    SlowSubscriber,
    VanishingSubscriber,
    Pause,
    Resume,
    Join,
    JoinAndCrash,
    /// A host ends a workspace.
    End,
    /// A host ends a workspace, and the next teardown is interrupted.
    CrashInTeardown,
    CrashInCompaction,
    CrashInRead,
    /// A workspace is ended by its host and entered elsewhere.
    Apart,
    Revoke,
    Retire,
    /// A host writes its document anew.
    Rewrite,
    CrashInRewrite,
    /// A host writes its document anew, others go on with the one before.
    Straggle,
    /// The node that has gone bad does something, if there is one; drawn for its lives only.
    Rogue,
}

/// How often each is drawn.
const WEIGHTS: &[(Kind, u32)] = &[
    (Kind::CreateSession, 130),
    (Kind::CreateWorkspace, 60),
    (Kind::DeleteSession, 120),
    (Kind::DeleteWorkspace, 45),
    (Kind::Restore, 55),
    (Kind::UpdateSession, 100),
    (Kind::UpdateWorkspace, 45),
    (Kind::GoOnWithTeardown, 30),
    (Kind::Import, 30),
    (Kind::Agent, 80),
    (Kind::AgentAway, 25),
    (Kind::Burst, 30),
    (Kind::WindowPasses, 60),
    (Kind::Cut, 22),
    (Kind::OneWay, 20),
    (Kind::Part, 22),
    (Kind::Reset, 30),
    (Kind::ResetInFrame, 30),
    (Kind::SlowLink, 22),
    (Kind::Kill, 20),
    (Kind::PowerCut, 26),
    (Kind::TornCommit, 25),
    (Kind::SyncFails, 31),
    (Kind::DiskFull, 33),
    (Kind::SlowDisk, 20),
    (Kind::Garble, 45),
    (Kind::TakeBackup, 20),
    (Kind::RestoreBackup, 25),
    (Kind::Restart, 27),
    (Kind::Stall, 22),
    (Kind::ClockJump, 20),
    (Kind::YearOff, 22),
    (Kind::Sleep, 26),
    (Kind::SlowSubscriber, 20),
    (Kind::VanishingSubscriber, 20),
    (Kind::Pause, 20),
    (Kind::Resume, 20),
    (Kind::Join, 10),
    (Kind::JoinAndCrash, 25),
    (Kind::End, 30),
    (Kind::CrashInTeardown, 40),
    (Kind::CrashInCompaction, 30),
    (Kind::CrashInRead, 25),
    (Kind::Apart, 160),
    (Kind::Revoke, 70),
    (Kind::Rewrite, 30),
    (Kind::CrashInRewrite, 40),
    (Kind::Straggle, 135),
    (Kind::Retire, 40),
];

impl Kind {
    /// Tells whether nothing goes wrong in it, and it fits the queues of links.
    pub fn is_calm(self) -> bool {
        matches!(
            self,
            Self::CreateSession
                | Self::CreateWorkspace
                | Self::DeleteSession
                | Self::DeleteWorkspace
                | Self::Restore
                | Self::UpdateSession
                | Self::UpdateWorkspace
                | Self::GoOnWithTeardown
                | Self::Agent
                | Self::WindowPasses
                | Self::End
                | Self::Rewrite
        )
    }
}

impl Act {
    /// Returns how long everything else waits for what follows from it, which it does half the time.
    pub fn lasts(&self) -> Duration {
        match self.kind {
            _ if self.salt.is_multiple_of(2) => Duration::ZERO,
            Kind::End | Kind::CrashInTeardown | Kind::Apart => UNDO_WINDOW + ENTERED_WITHIN,
            Kind::Straggle => epochs::AWAY.1 + Duration::from_secs(2),
            _ => Duration::ZERO,
        }
    }

    /// Draws the next thing.
    pub fn draw(random: &mut fastrand::Rng) -> Self {
        let sum: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut at = random.u32(..sum);
        let kind = WEIGHTS.iter().find(|(_, weight)| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        });
        let after = match random.u8(..10) {
            0..4 => Duration::ZERO,
            4..9 => Duration::from_millis(random.u64(1..400)),
            _ => Duration::from_millis(random.u64(1..4_000)),
        };
        let (kind, _) = *kind.expect("the weights add up");
        Self { after, kind, node: None, salt: random.u64(..) }
    }
}

impl World {
    /// Lets one thing of the scenario happen.
    pub fn act(&mut self, act: Act) {
        let mut random = fastrand::Rng::with_seed(act.salt);
        let drawn = random.usize(..self.nodes.len());
        let node = act.node.unwrap_or(drawn);
        let other = (node + random.usize(1..self.nodes.len())) % self.nodes.len();
        let short = Duration::from_millis(random.u64(50..3_000));
        let long = Duration::from_millis(random.u64(500..25_000));
        self.fabric.log(|| format!("act {:?} node {node} other {other}", act.kind));
        self.fabric.note((act.kind as u8, node, other));
        // Who is let in by it alone, or shut out, is not to blame for what follows.
        let by_rogue = self.fabric.rogue == Some(node);
        if by_rogue
            && matches!(act.kind, Kind::Join | Kind::JoinAndCrash | Kind::Revoke | Kind::Retire)
        {
            return;
        }
        match act.kind {
            Kind::CreateSession => self.draw(node, &mut random, |a| Some(a.create_session())),
            Kind::CreateWorkspace => self.draw(node, &mut random, |a| Some(a.create_workspace())),
            Kind::DeleteSession => self.draw(node, &mut random, |a| a.delete_session()),
            Kind::DeleteWorkspace => self.draw(node, &mut random, |a| a.delete_workspace()),
            Kind::UpdateSession => self.draw(node, &mut random, |a| a.update_session()),
            Kind::UpdateWorkspace => self.draw(node, &mut random, |a| a.update_workspace()),
            Kind::GoOnWithTeardown => self.draw(node, &mut random, |a| a.go_on_with_teardown()),
            Kind::Import => self.draw(node, &mut random, |a| Some(a.import())),
            Kind::Restore => {
                if let Some(operation) = random.choice(self.operations.clone()) {
                    self.ask(node, Command::Restore(operation), Asked::Person);
                }
            }
            Kind::Burst => {
                for _ in 0..16 {
                    self.draw(node, &mut random, |a| a.update_session());
                    self.draw(node, &mut random, |a| Some(a.create_session()));
                }
            }
            Kind::Agent => self.nodes[node].agent.act(&mut random),
            Kind::AgentAway => {
                let agent = &mut self.nodes[node].agent;
                agent.away = !agent.away;
                if agent.away {
                    self.fabric.counts.add(Seen::AgentAway);
                }
            }
            Kind::WindowPasses => {}
            Kind::Cut => {
                self.fabric.counts.add(Seen::Cut);
                self.cut(node, other, long);
                self.cut(other, node, long);
            }
            Kind::OneWay => {
                self.fabric.counts.add(Seen::OneWay);
                self.cut(node, other, long);
            }
            Kind::Part => {
                self.fabric.counts.add(Seen::Parted);
                let here: Vec<bool> = self.nodes.iter().map(|_| random.bool()).collect();
                for a in 0..here.len() {
                    for b in (0..here.len()).filter(|b| here[*b] != here[a]) {
                        self.cut(a, b, long);
                    }
                }
            }
            Kind::Reset => {
                let link = random.choice(self.fabric.links.keys().copied().collect::<Vec<_>>());
                if let Some(link) = link {
                    self.reset(link);
                }
            }
            Kind::ResetInFrame => self.fabric.reset_in_frame = true,
            Kind::SlowLink => {
                self.fabric.counts.add(Seen::SlowLink);
                self.fabric.slow.insert((node, other));
                self.fabric.after(long, Event::Mend { from: node, to: other });
            }
            Kind::Kill => self.count_and_crash(Seen::Killed, node, false),
            Kind::PowerCut => self.count_and_crash(Seen::PowerCut, node, true),
            Kind::TornCommit => drop(self.cut_in_commit.insert(node)),
            Kind::SyncFails => {
                self.nodes[node].disk.fail(Fault::NextSync);
                self.nodes[node].faulted = Some(Seen::SyncFailed);
            }
            Kind::DiskFull => {
                self.nodes[node].disk.fail(Fault::From(random.u64(..12)));
                self.nodes[node].disk_broken = true;
                self.nodes[node].faulted = Some(Seen::DiskFull);
                self.fabric.after(long, Event::DiskHeals { node });
            }
            Kind::SlowDisk => {
                self.fabric.counts.add(Seen::SlowDisk);
                self.nodes[node].disk_slow = true;
                self.fabric.after(long, Event::DiskHeals { node });
            }
            Kind::Garble => self.garble = true,
            Kind::TakeBackup => self.take_backup(node),
            Kind::End => self.end(node, &mut random),
            Kind::CrashInTeardown => {
                self.fabric.crash_in_teardown = true;
                self.end(node, &mut random);
            }
            Kind::CrashInCompaction => self.fabric.crash_in_compaction = true,
            Kind::CrashInRead => self.fabric.crash_in_read = true,
            Kind::Apart => self.end_and_enter(node, other, &mut random),
            Kind::RestoreBackup => self.restore_backup(node),
            Kind::Restart => {
                if self.nodes[node].is_here() {
                    self.fabric.counts.add(Seen::Restarted);
                    self.stop(node);
                }
            }
            Kind::Stall => {
                self.fabric.counts.add(Seen::Stalled);
                self.nodes[node].stalled_until = self.fabric.now() + short;
            }
            Kind::ClockJump => {
                self.fabric.counts.add(Seen::ClockJumped);
                self.nodes[node].skew_ms += random.i64(-7_200_000..7_200_000);
            }
            Kind::YearOff => {
                self.fabric.counts.add(Seen::YearOff);
                self.nodes[node].skew_ms = if random.bool() { YEAR_MS } else { -YEAR_MS };
            }
            Kind::Sleep => {
                if self.nodes[node].is_here() {
                    self.fabric.counts.add(Seen::Suspended);
                    self.nodes[node].asleep = true;
                    self.nodes[node].fell_asleep = self.fabric.now();
                    self.fabric.after(long, Event::Wake { node });
                }
            }
            Kind::SlowSubscriber => {
                self.fabric.counts.add(Seen::SlowSubscriber);
                for follower in &mut self.nodes[node].followers {
                    follower.pace = short * 2;
                }
            }
            Kind::VanishingSubscriber => self.subscribers_leave(node, random.bool()),
            Kind::Pause => {
                self.ask(node, Command::Pause(name_of(other)), Asked::Person);
                self.fabric.counts.add(Seen::Paused);
            }
            Kind::Resume => {
                self.ask(node, Command::Resume(name_of(other)), Asked::Person);
            }
            Kind::Join => self.join(node),
            Kind::JoinAndCrash => {
                if self.nodes.len() < NODES_MAX {
                    self.fabric.crash_in_snapshot = true;
                }
                self.join(node);
            }
            Kind::Rewrite => drop(self.ask(node, Command::Rewrite, Asked::Person)),
            Kind::CrashInRewrite => {
                self.fabric.crash_in_rewrite = true;
                self.ask(node, Command::Rewrite, Asked::Person);
            }
            Kind::Straggle => self.straggle(node, other, &mut random),
            Kind::Rogue => self.play_rogue(&mut random),
            Kind::Revoke | Kind::Retire => self.shut_out(act.kind, node, other),
        }
    }

    /// Revokes or retires a node; only one in a life, or nobody might be left. One that was revoked may be
    /// retired after that.
    fn shut_out(&mut self, kind: Kind, node: usize, other: usize) {
        let whom = match self.shut_out {
            None if self.nodes.len() > 2 => other,
            Some(whom) if kind == Kind::Retire && whom != node => whom,
            _ => return,
        };
        self.shut_out = Some(whom);
        self.forget_alive();
        let (seen, command) = match kind {
            Kind::Retire => (Seen::Retired, Command::Retire(name_of(whom))),
            _ => (Seen::Revoked, Command::Revoke(name_of(whom))),
        };
        self.fabric.counts.add(seen);
        self.ask(node, command, Asked::Person);
    }

    /// Draws what a node is asked, if it is up and there is something to ask.
    fn draw(
        &mut self,
        node: usize,
        random: &mut fastrand::Rng,
        draw: impl FnOnce(&mut Asks<'_>) -> Option<Command>,
    ) {
        let Some(up) = &self.nodes[node].up else { return };
        if self.nodes[node].asleep {
            return;
        }
        let view = up.engine.replica().view();
        let command = draw(&mut Asks { random, view, sessions: 12, workspaces: 6 });
        if let Some(command) = command {
            self.ask(node, command, Asked::Person);
        }
    }

    fn cut(&mut self, from: usize, to: usize, time: Duration) {
        self.fabric.cuts.insert((from, to));
        self.fabric.after(time, Event::Mend { from, to });
    }

    /// Keeps a copy of a node's disk, to be put back later.
    pub fn take_backup(&mut self, node: usize) {
        let bytes = self.nodes[node].disk.synced_bytes();
        self.nodes[node].backup = Some(Rc::new(bytes));
    }

    /// Returns a live workspace that a node hosts; if there is none, it makes one first.
    fn own_workspace(&mut self, host: usize, random: &mut fastrand::Rng) -> Option<WorkspaceId> {
        for attempt in 0..2 {
            let up = self.nodes[host].up.as_ref()?;
            let own = up.engine.replica().view().workspaces_of(&self.nodes[host].id);
            let own = own.filter(|entry| entry.record.state == WorkspaceState::Live);
            let own: Vec<_> = own.map(|entry| entry.record.id.clone()).collect();
            if let Some(id) = random.choice(own) {
                return Some(id);
            }
            if attempt == 0 {
                self.draw(host, random, |asks| Some(asks.create_workspace()));
            }
        }
        None
    }

    /// Has a host end one of its workspaces.
    fn end(&mut self, host: usize, random: &mut fastrand::Rng) {
        let Some(id) = self.own_workspace(host, random) else { return };
        let workspace = Target { id, host: Some(self.nodes[host].id.to_string()) };
        self.ask(host, Command::DeleteWorkspace { workspace, dry_run: false }, Asked::Person);
    }

    /// Has a host delete a workspace, and another node put a session into it, until the host has
    /// sealed it, without the one knowing of the other.
    fn end_and_enter(&mut self, host: usize, other: usize, random: &mut fastrand::Rng) {
        let at = self.nodes[host].id;
        let Some(up) = &self.nodes[other].up else { return };
        let known = up.engine.replica().view().workspaces_of(&at);
        let known = known.filter(|entry| entry.record.state == WorkspaceState::Live);
        let known: Vec<_> = known.map(|entry| entry.record.id.clone()).collect();
        // Who is to enter it must know of it: if there is none, there will be.
        let Some(id) = random.choice(known) else {
            return drop(self.own_workspace(host, random));
        };
        self.fabric.counts.add(Seen::Apart);
        for node in (0..self.nodes.len()).filter(|node| *node != other) {
            self.cut(node, other, UNDO_WINDOW + ENTERED_WITHIN);
            self.cut(other, node, UNDO_WINDOW + ENTERED_WITHIN);
        }
        self.entered += 1;
        let new = NewSession {
            id: Some(format!("e{}", self.entered).parse().expect("a valid id")),
            workspace_id: Some(format!("{id}@{at}")),
            ..NewSession::default()
        };
        let workspace = Target { id, host: Some(at.to_string()) };
        let delete = Command::DeleteWorkspace { workspace, dry_run: false };
        self.ask(host, delete, Asked::Person);
        self.ask(other, Command::CreateSession(new), Asked::Person);
    }

    fn count_and_crash(&mut self, seen: Seen, node: usize, power: bool) {
        if self.nodes[node].up.is_some() {
            self.fabric.counts.add(seen);
            self.crash(node, power);
        }
    }

    fn subscribers_leave(&mut self, node: usize, for_good: bool) {
        self.fabric.counts.add(Seen::VanishedSubscriber);
        for index in 0..self.nodes[node].followers.len() {
            let known = &mut self.nodes[node];
            let follower = &mut known.followers[index];
            match &known.up {
                Some(up) if !for_good => follower.come_back(&up.out.hub),
                _ => follower.vanish(),
            }
            self.look(node, index);
        }
    }

    fn join(&mut self, inviter: usize) {
        if self.nodes.len() >= NODES_MAX || self.nodes[inviter].up.is_none() {
            return;
        }
        self.fabric.counts.add(Seen::Joined);
        self.forget_alive();
        let joiner = self.add(Vec::new(), 0);
        let mut secret = [joiner as u8; 32];
        secret[..8].copy_from_slice(&self.fabric.random.u64(..).to_le_bytes());
        let (role, expires_in) = (Role::Admin, Duration::from_secs(3_600));
        let invite = Command::Invite { role, expires_in, secret };
        self.ask(inviter, invite, Asked::Ticket { joiner });
    }

    /// Puts an old copy of a disk in its place. What only that disk had is lost, as promised to
    /// nobody; what another disk has is not.
    fn restore_backup(&mut self, node: usize) {
        let Some(bytes) = self.nodes[node].backup.clone() else { return };
        self.fabric.counts.add(Seen::Restored);
        let was_up = self.nodes[node].up.is_some();
        let alive = self.alive_on(node);
        self.down(node);
        self.nodes[node].disk.restore(&bytes);
        self.note_backup(node, alive);
        self.heal_disk(node);
        self.nodes[node].watch = None;
        self.nodes[node].asleep = false;
        let replicas: Vec<Replica> = self
            .nodes
            .iter()
            .filter(|node| !node.revoked)
            .map(|n| on_disk(n.disk.bytes()))
            .collect();
        for known in &mut self.nodes {
            known.acknowledged.retain(|change| replicas.iter().any(|it| holds(it, change)));
        }
        if was_up {
            self.fabric.after(Duration::from_millis(200), Event::Start { node });
        }
    }
}

/// Returns the replica that would start from what is on a disk.
pub fn on_disk(bytes: Vec<u8>) -> Replica {
    let copy = Disk::new(bytes, Fault::None, 0);
    let store = Store::with_backend(copy.backend()).expect("it can be opened");
    replica_of(store.load().expect("it can be read"))
}

fn replica_of(stored: Stored) -> Replica {
    let startup = Startup {
        node: super::node::key(99),
        name: String::new(),
        start: StartId([0xee; 8]),
        seed: 0,
        undo_window: UNDO_WINDOW,
        keep_removed: Duration::ZERO,
        start_grace: Duration::ZERO,
        keyring: key_of(super::node::key(99)),
    };
    let now = Now { monotonic: Duration::ZERO, wall_ms: 0 };
    Replica::open(startup, stored, now).expect("what is stored can be understood").0
}

/// Tells whether a replica has a change beside which something was acknowledged, or what it says.
pub fn holds(replica: &Replica, acknowledged: &Acknowledged) -> bool {
    let Acknowledged { document, change, actor, seq } = acknowledged;
    replica.holds(document, change, actor, *seq)
}
