//! Owns a daemon as it lives in virtual time: a replica, its real links over a simulated network,
//! and a disk in memory that is slower than the loop.
//!
//! Must not decide what happens when. Invariant: effects are carried out in the order in which the
//! real loop does it: frames and diffs at once, everything else once the writes are durable; a
//! crash forgets what was not.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    sync::Arc,
    time::Duration,
};

use quinn::EndpointConfig;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use sessionmesh::{
    identity::NodeKey,
    replica::{
        command::{Command, Refusal, Reply},
        effect::{
            Effects, Input, Now, Outgoing, RequestId, Startup, TeardownDue, TeardownOutcome, Write,
        },
        ids::{DocumentId, StartId},
        machine::{Replica, TeardownStands},
    },
    transport::{Config, Event, Events, Timing, Transport},
};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::{
    common::{disk::Disk, watch::Watch},
    network::Network,
};

/// How long a delete can be undone here.
pub const UNDO_WINDOW: Duration = Duration::from_secs(2);
/// Midnight of some day, in milliseconds since the epoch.
const WALL_MS: i64 = 1_795_000_000_000;
/// How long a commit takes, in microseconds: from a good disk to a bad one.
const COMMIT_US: std::ops::Range<u64> = 200..20_000;
/// How long the end of a workspace takes, in milliseconds.
const TEARDOWN_MS: std::ops::Range<u64> = 1..500;
/// How many teardowns out of a hundred fail at first.
const TEARDOWNS_FAILED: u32 = 25;

/// What waits for the disk.
struct Batch {
    durable_at: Instant,
    writes: Vec<Write>,
    frames: Vec<Outgoing>,
    reloads: Vec<DocumentId>,
    replies: Vec<(RequestId, Result<Reply, Refusal>)>,
    teardowns: Vec<TeardownDue>,
}

/// A process between its start and its end.
struct Running {
    replica: Replica,
    transport: Transport,
    events: Events,
    waiting: VecDeque<Batch>,
    teardowns: BTreeMap<Instant, TeardownDue>,
    born: Instant,
}

/// A node: what lasts of it, and its process while it runs.
pub struct Daemon {
    number: u8,
    network: Network,
    rng: fastrand::Rng,
    starts: u8,
    requests: u64,
    pub key: Arc<NodeKey>,
    pub disk: Disk,
    /// What is known of it from outside, over all its runs.
    pub watch: Option<Watch>,
    /// What was answered, in order, and not yet taken.
    pub answers: Vec<(RequestId, Result<Reply, Refusal>)>,
    /// Every diff, reply and teardown: equal for equal runs.
    pub trace: Sha256,
    /// How many batches were lost in crashes.
    pub lost: u64,
    running: Option<Running>,
}

impl Daemon {
    /// Makes a node that has this on its disk and does not run yet.
    pub fn new(number: u8, network: &Network, rng: fastrand::Rng, disk: Disk, starts: u8) -> Self {
        Self {
            number,
            network: network.clone(),
            rng,
            starts,
            requests: 0,
            key: key(number),
            disk,
            watch: None,
            answers: Vec::new(),
            trace: Sha256::new(),
            lost: 0,
            running: None,
        }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, self.number], 7177))
    }

    pub fn name(&self) -> String {
        format!("node-{}", self.number)
    }

    /// Starts it on its disk.
    pub fn start(&mut self) {
        self.starts += 1;
        let start = StartId([self.number, self.starts, 0, 0, 0, 0, 0, 0]);
        let seed = u64::from_le_bytes(start.0);
        let startup = Startup {
            node: self.key.node(),
            name: self.name(),
            start,
            seed,
            undo_window: UNDO_WINDOW,
            keep_removed: Duration::ZERO,
            start_grace: Duration::ZERO,
            keyring: self.key.clone(),
        };
        let born = Instant::now();
        let (replica, fx) =
            Replica::open(startup, self.disk.stored(), now(born)).expect("what was durable loads");
        let mut endpoint = EndpointConfig::default();
        endpoint.rng_seed(Some([self.rng.u8(..); 32]));
        let config = Config {
            listen: self.address(),
            key: self.key.clone(),
            start,
            seed,
            wall_ms: None,
            timing: Timing::default(),
        };
        let socket = self.network.socket(self.address());
        let (transport, events) =
            Transport::with_socket(config, endpoint, socket).expect("a simulated socket");
        match &mut self.watch {
            Some(watch) => watch.restarted(&replica, &self.disk.journal),
            None => self.watch = Some(Watch::new(&replica)),
        }
        let (waiting, teardowns) = (VecDeque::new(), BTreeMap::new());
        self.running = Some(Running { replica, transport, events, waiting, teardowns, born });
        self.carry_out(fx);
        let addresses = [self.address().to_string()].into();
        self.ask(Command::Announce { name: self.name(), addresses });
    }

    /// Kills it: no code of it runs any more, and what is not durable is forgotten.
    pub fn crash(&mut self) {
        if let Some(running) = self.running.take() {
            self.lost += running.waiting.len() as u64;
            self.network.unplug(self.address());
        }
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Returns the replica of a node that runs.
    pub fn replica(&self) -> &Replica {
        &self.running.as_ref().expect("it runs").replica
    }

    /// Tells whether nothing waits for its disk, nor a workspace for its end.
    pub fn is_idle(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.waiting.is_empty() && running.teardowns.is_empty())
    }

    /// Asks it for something.
    pub fn ask(&mut self, command: Command) -> RequestId {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.take(Input::Requested { request, command });
        request
    }

    /// Waits for the next event of its links; for ever while it does not run.
    pub async fn event(&mut self) -> Event {
        match &mut self.running {
            Some(running) => running.events.recv().await.expect("the transport lives"),
            None => std::future::pending().await,
        }
    }

    /// Takes in what its links told.
    pub fn told(&mut self, event: Event) {
        self.take(match event {
            Event::Connected { peer, .. } => Input::PeerConnected { peer },
            Event::Lost { peer, code, reason } => Input::PeerLost { peer, code, reason },
            Event::Frame { peer, frame } => Input::FrameReceived { peer, frame },
            Event::Drained { peer } => Input::PeerDrained { peer },
            Event::DialFailed { peer, reason } => Input::DialFailed { peer, reason },
        });
    }

    /// Returns when something of its own is due next.
    pub fn due(&self) -> Option<Instant> {
        let running = self.running.as_ref()?;
        let replica = running.replica.due().map(|due| running.born + due);
        let commit = running.waiting.front().map(|batch| batch.durable_at);
        let teardown = running.teardowns.keys().next().copied();
        [replica, commit, teardown].into_iter().flatten().min()
    }

    /// Does what is due by now.
    pub fn tick(&mut self) {
        let at = Instant::now();
        while let Some(running) = &mut self.running {
            if running.waiting.front().is_some_and(|batch| batch.durable_at <= at) {
                let batch = running.waiting.pop_front().expect("it was just there");
                self.durable(batch);
            } else if running.teardowns.keys().next().is_some_and(|due| *due <= at) {
                let (_, due) = running.teardowns.pop_first().expect("it was just there");
                let awaited = running.replica.teardown_stands(&due) == TeardownStands::Awaited;
                let outcome = match self.rng.u32(0..100) {
                    _ if !awaited => TeardownOutcome::PutOff,
                    0..TEARDOWNS_FAILED => TeardownOutcome::Failed("it holds files".to_owned()),
                    _ => TeardownOutcome::Gone,
                };
                let (workspace, incarnation) = (due.workspace.key(), due.incarnation);
                self.take(Input::TeardownEnded { workspace, incarnation, outcome });
            } else if running.replica.due().is_some_and(|due| running.born + due <= at) {
                self.take(Input::TimePassed);
            } else {
                return;
            }
        }
    }

    fn take(&mut self, input: Input) {
        let Some(running) = &mut self.running else { return };
        let fx = running.replica.handle(now(running.born), input);
        self.carry_out(fx);
    }

    fn carry_out(&mut self, fx: Effects) {
        let Some(running) = &mut self.running else { return };
        self.watch.as_mut().expect("it was started").effects(&running.replica, &fx);
        self.trace.update(format!("{:?} {:?}", fx.replies, fx.teardowns));
        fx.diffs.iter().for_each(|publication| self.trace.update(publication.body.as_bytes()));
        for Outgoing { to, frame } in fx.frames {
            running.transport.send(&to, &frame).expect("a replica keeps the limits");
        }
        fx.accepted.iter().for_each(|peer| running.transport.accept(*peer));
        if let Some(members) = fx.members {
            running.transport.set_members(members);
        }
        for (peer, code, reason) in fx.closes {
            running.transport.close(peer, code, &reason);
        }
        if let Some(targets) = fx.dials {
            running.transport.set_targets(targets);
        }
        let earlier = running.waiting.back().map_or_else(Instant::now, |batch| batch.durable_at);
        running.waiting.push_back(Batch {
            durable_at: earlier + Duration::from_micros(self.rng.u64(COMMIT_US)),
            writes: fx.writes,
            frames: fx.frames_durable,
            reloads: fx.reloads,
            replies: fx.replies,
            teardowns: fx.teardowns,
        });
        while fx.work
            && let Some(running) = &mut self.running
            && let Some(work) = running.replica.work()
        {
            let fx = running.replica.handle_done(now(running.born), work.run());
            self.carry_out(fx);
        }
    }

    fn durable(&mut self, batch: Batch) {
        let Some(running) = &mut self.running else { return };
        let watch = self.watch.as_mut().expect("it was started");
        self.disk.commit(&batch.writes);
        watch.durable(&batch.writes, &batch.replies);
        batch.teardowns.iter().for_each(|due| watch.teardown_started(self.disk.stored(), due));
        self.answers.extend(batch.replies);
        for Outgoing { to, frame } in batch.frames {
            running.transport.send(&to, &frame).expect("a replica keeps the limits");
        }
        for due in batch.teardowns {
            let at = Instant::now() + Duration::from_millis(self.rng.u64(TEARDOWN_MS));
            running.teardowns.insert(at, due);
        }
        for document in batch.reloads {
            let stored = self.disk.document(document);
            self.take(Input::DocumentReloaded(stored));
        }
    }
}

fn now(born: Instant) -> Now {
    let monotonic = born.elapsed();
    // Wall clocks go on while a node is down, but what they show decides nothing.
    Now { monotonic, wall_ms: WALL_MS + i64::try_from(monotonic.as_millis()).expect("short") }
}

/// Returns the key of a node: the same in every run of the test, so that a seed is a seed.
fn key(number: u8) -> Arc<NodeKey> {
    let seed = [number; 32];
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("32 bytes are a seed");
    // RFC 8410, section 7: version 2, Ed25519, the seed, the public key.
    let mut pkcs8 = vec![0x30, 0x51, 2, 1, 1, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    pkcs8.extend(seed);
    pkcs8.extend([0x81, 0x21, 0]);
    pkcs8.extend(pair.public_key().as_ref());
    let outer = tempfile::tempdir().expect("a folder");
    let dir = outer.path().join("data");
    std::fs::DirBuilder::new().mode(0o700).create(&dir).expect("a folder");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(dir.join("node.key"))
        .expect("a file");
    std::io::Write::write_all(&mut file, &pkcs8).expect("it can be written");
    Arc::new(NodeKey::load(&dir).expect("it is a key"))
}
