//! Short lives of three daemons' links, full stack: real replicas over real QUIC with mutual TLS,
//! on a network that loses 15 % of all datagrams, repeats, delays and damages others and goes
//! black, in virtual time.
//!
//! Each life begins with a fleet at rest. For some seconds people create, delete, restore, move and
//! keep things at all three, nodes are cut off and crash with writes that were not yet durable;
//! then the cuts end, and nothing else: the weather stays. All must come to hold the same, carry
//! everything out, and have lost nothing that was acknowledged.
//!
//! - `cargo test --test quic lives` plays a share of the lives.
//! - `LIVES=1000 cargo test --release --test quic lives -- --nocapture` plays a thousand.
//! - `LIFE=SEED cargo test --test quic lives` plays one.

use std::{collections::BTreeMap, collections::BTreeSet, env, sync::OnceLock, time::Duration};

use sessionmesh::replica::{
    command::{Command, NewSession, NewWorkspace, Reply, SessionPatch, Target, WorkspacePatch},
    ids::{ChangeHash, OperationId},
    record::{Role, Session, SessionState, TeardownAction, Workspace, WorkspaceState},
};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep_until};

use crate::{
    common::{disk::Disk, watch::Acknowledged},
    daemon::{Daemon, UNDO_WINDOW},
    network::{Network, Weather},
};

const NODES: usize = 3;
/// How many lives are played where `LIVES` says nothing: what takes some 10 s without optimisation.
const LIVES: u64 = 25;
/// One life in so many is played twice, to see that it takes the same way.
const REPLAYED_EVERY: u64 = 8;
/// What all lives are played in.
const WEATHER: Weather = Weather { lost: 15, repeated: 5, late: 20, damaged: 3 };
/// How long people do things, in milliseconds.
const BUSY_MS: u64 = 12_000;
/// How many things happen in a life.
const ACTS: usize = 40;
/// How long all may take to agree after the last cut: dials back off to 30 s, and in this weather
/// every second or third handshake takes several seconds.
const AGREE_WITHIN: Duration = Duration::from_secs(240);

/// What was seen in one life.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Equal for equal lives: each datagram, diff, answer and teardown.
    trace: Vec<u8>,
    datagrams: u64,
    /// Virtual time from the last cut's end until all agreed and had carried everything out.
    agreed_after: Duration,
    virtual_time: Duration,
    reached: BTreeMap<&'static str, u64>,
}

struct Life {
    network: Network,
    daemons: [Daemon; NODES],
    rng: fastrand::Rng,
    operations: Vec<OperationId>,
    acknowledged: u64,
    reached: BTreeMap<&'static str, u64>,
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Person(usize),
    Cut(usize),
    Mend(usize),
    Crash(usize),
    Start(usize),
}

impl Life {
    fn new(seed: u64, weather: Weather, disks: [Disk; NODES], starts: u8) -> Self {
        let network = Network::new(seed, weather);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut number = 0;
        let daemons = disks.map(|disk| {
            number += 1;
            Daemon::new(number, &network, rng.fork(), disk, starts)
        });
        let (operations, reached) = (Vec::new(), BTreeMap::new());
        Self { network, daemons, rng, operations, acknowledged: 0, reached }
    }

    fn reached(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    /// Lets everything happen until a moment, or until `enough` holds; tells whether it does.
    async fn run(&mut self, until: Instant, enough: impl Fn(&Self) -> bool) -> bool {
        loop {
            self.daemons.iter_mut().for_each(Daemon::tick);
            self.hear();
            if enough(self) {
                return true;
            }
            let due = self.daemons.iter().filter_map(Daemon::due).min();
            let [a, b, c] = &mut self.daemons;
            let (at, event) = tokio::select! {
                biased;
                event = a.event() => (0, event),
                event = b.event() => (1, event),
                event = c.event() => (2, event),
                () = sleep_until(due.unwrap_or(until).min(until)) => {
                    if Instant::now() >= until {
                        return false;
                    }
                    continue;
                }
            };
            self.daemons[at].told(event);
        }
    }

    fn hear(&mut self) {
        for at in 0..NODES {
            for (_, answer) in std::mem::take(&mut self.daemons[at].answers) {
                let Ok(reply) = answer else { continue };
                self.acknowledged += 1;
                match reply {
                    Reply::SessionDeleted(deleted) => self.operations.extend(deleted.operation),
                    Reply::WorkspaceDeleted(deleted) => self.operations.extend(deleted.operation),
                    Reply::Restored(_) => self.reached("restored"),
                    _ => {}
                }
            }
        }
    }

    /// Has someone do something at a node, going by what it shows.
    fn person(&mut self, at: usize) {
        let daemon = &self.daemons[at];
        if !daemon.is_running() {
            return;
        }
        let view = daemon.replica().view();
        let of = |session: &Session| Target {
            id: session.id.clone(),
            host: Some(session.host.to_string()),
        };
        let at_home = |workspace: &Workspace| Target {
            id: workspace.id.clone(),
            host: Some(workspace.host.to_string()),
        };
        let sessions: Vec<_> = view.sessions().cloned().collect();
        let workspaces: Vec<_> = view.workspaces().map(|entry| entry.record.clone()).collect();
        let session = self.rng.choice(sessions);
        let workspace = self.rng.choice(workspaces);
        let home = workspace.as_ref().map(|home| format!("{}@{}", home.id, home.host));
        let command = match (self.rng.u8(..100), session, workspace) {
            (0..12, ..) | (.., None) => Command::CreateWorkspace(NewWorkspace {
                id: None,
                name: "room".to_owned(),
                kind: "directory".to_owned(),
                project_id: None,
                directory: None,
                branch: None,
                keep: false,
                extra: Default::default(),
            }),
            (12..40, ..) | (_, None, _) => {
                Command::CreateSession(NewSession { workspace_id: home, ..NewSession::default() })
            }
            (40..60, Some(session), _) => {
                Command::DeleteSession { session: of(&session), dry_run: false }
            }
            (60..68, _, Some(workspace)) => {
                Command::DeleteWorkspace { workspace: at_home(&workspace), dry_run: false }
            }
            (68..78, ..) => match self.rng.choice(self.operations.clone()) {
                Some(operation) => Command::Restore(operation),
                None => return,
            },
            (78..84, Some(session), _) => Command::UpdateSession(
                of(&session),
                SessionPatch {
                    title: Some(Some(format!("title {}", self.rng.u8(..)))),
                    ..SessionPatch::default()
                },
            ),
            (84..90, Some(session), Some(workspace)) => Command::UpdateSession(
                of(&session),
                SessionPatch {
                    workspace_id: Some(Some(workspace.id.clone())),
                    ..SessionPatch::default()
                },
            ),
            (90..95, _, Some(workspace)) => Command::UpdateWorkspace(
                at_home(&workspace),
                WorkspacePatch { keep: Some(self.rng.bool()), ..WorkspacePatch::default() },
            ),
            (_, _, Some(workspace)) => {
                Command::Teardown(at_home(&workspace), TeardownAction::Retry)
            }
        };
        self.daemons[at].ask(command);
    }

    /// Draws what happens when, in order.
    fn script(&mut self) -> Vec<(u64, Act)> {
        let mut script = Vec::new();
        for _ in 0..ACTS {
            let (when, at) = (self.rng.u64(0..BUSY_MS), self.rng.usize(0..NODES));
            // Short cuts that a link survives, and long ones that it does not.
            let lasts = self.rng.u64(200..14_000);
            match self.rng.u8(..100) {
                0..8 => script.extend([(when, Act::Cut(at)), (when + lasts, Act::Mend(at))]),
                8..12 => {
                    script.extend([(when, Act::Crash(at)), (when + lasts / 4, Act::Start(at))]);
                }
                12..14 => {
                    let all = 0..NODES;
                    script.extend(all.clone().map(|at| (when, Act::Cut(at))));
                    script.extend(all.map(|at| (when + lasts, Act::Mend(at))));
                }
                _ => script.push((when, Act::Person(at))),
            }
        }
        script.sort_unstable();
        script
    }

    async fn play(&mut self) {
        let began = Instant::now();
        let mut cuts = [0_u32; NODES];
        for (when, act) in self.script() {
            self.run(began + Duration::from_millis(when), |_| false).await;
            match act {
                Act::Person(at) => self.person(at),
                Act::Cut(at) => {
                    cuts[at] += 1;
                    self.network.cut_off(self.daemons[at].address(), true);
                    self.reached("blackout");
                }
                Act::Mend(at) => {
                    cuts[at] -= 1;
                    self.network.cut_off(self.daemons[at].address(), cuts[at] > 0);
                }
                Act::Crash(at) => {
                    self.daemons[at].crash();
                    self.reached("crash");
                }
                Act::Start(at) => {
                    if !self.daemons[at].is_running() {
                        self.daemons[at].start();
                    }
                }
            }
        }
    }

    /// Tells whether all hold the same and nothing is left to carry out.
    fn is_at_rest(&self) -> bool {
        let first = self.daemons[0].replica();
        let agreed = self.daemons.iter().all(|daemon| {
            daemon.is_idle()
                && daemon.replica().frontier() == first.frontier()
                && daemon.replica().link_count() == NODES as u64 - 1
        });
        agreed
            && first.view().sessions().all(|session| session.state != SessionState::Deleted)
            && first.view().workspaces().all(|entry| match entry.record.state {
                WorkspaceState::Live | WorkspaceState::Failed => true,
                WorkspaceState::Vacated => false,
                WorkspaceState::Sealed => entry.record.session_count > 0,
            })
    }

    /// Checks what must hold once all agree.
    fn check(&mut self) {
        let acknowledged: BTreeSet<_> = self
            .daemons
            .iter()
            .filter_map(|daemon| daemon.watch.as_ref())
            .flat_map(|watch| watch.acknowledged.iter().copied())
            .collect();
        let digest = self.daemons[0].replica().digest();
        for daemon in &mut self.daemons {
            let mut watch = daemon.watch.take().expect("it was started");
            watch.check(daemon.replica());
            daemon.watch = Some(watch);
            assert_eq!(daemon.replica().digest(), digest, "all show the same");
            for Acknowledged { document, change, actor, seq } in &acknowledged {
                let held = daemon.replica().holds(document, change, actor, *seq);
                assert!(held, "{} lost {}", daemon.name(), hex(change));
            }
        }
        // And all of it is on the disks.
        for at in 0..NODES {
            self.daemons[at].crash();
            self.daemons[at].start();
            assert_eq!(self.daemons[at].replica().digest(), digest, "a restart changes nothing");
        }
    }

    fn trace(&self) -> Vec<u8> {
        let mut trace = Sha256::new();
        trace.update(self.network.trace().1);
        for daemon in &self.daemons {
            trace.update(daemon.trace.clone().finalize());
        }
        trace.finalize().to_vec()
    }
}

fn hex(hash: &ChangeHash) -> String {
    hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn in_virtual_time<T>(life: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(life)
}

/// Forms the fleet that all lives begin with: by tickets and joins, over the same links.
fn formed() -> [Disk; NODES] {
    static FORMED: OnceLock<[Disk; NODES]> = OnceLock::new();
    let form = || {
        in_virtual_time(async {
            let disks = std::array::from_fn(|_| Disk::default());
            let mut life = Life::new(0, Weather::default(), disks, 0);
            life.daemons.iter_mut().for_each(Daemon::start);
            let soon = Duration::from_secs(60);
            for at in 1..NODES {
                let secret = [at as u8; 32];
                life.run(Instant::now() + soon, |life| life.daemons.iter().all(Daemon::is_idle))
                    .await;
                life.daemons[0].answers.clear();
                let expires_in = Duration::from_secs(3_600);
                life.daemons[0].ask(Command::Invite { role: Role::Admin, expires_in, secret });
                let ticket = loop {
                    life.daemons.iter_mut().for_each(Daemon::tick);
                    if let Some((_, answer)) = life.daemons[0].answers.pop() {
                        let Ok(Reply::Invited(ticket)) = answer else { panic!("{answer:?}") };
                        break ticket;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                };
                life.daemons[at].ask(Command::Join(ticket));
                let fleet = life.daemons[0].replica().fleet();
                let joined = life
                    .run(Instant::now() + soon, |life| life.daemons[at].replica().fleet() == fleet)
                    .await;
                assert!(joined, "node {at} joins");
            }
            assert!(life.run(Instant::now() + soon, Life::is_at_rest).await, "a fleet forms");
            life.daemons.map(|daemon| daemon.disk)
        })
    };
    FORMED.get_or_init(form).clone()
}

/// Plays a life from its seed.
fn play(seed: u64) -> Seen {
    let disks = formed();
    in_virtual_time(async move {
        let _said = Said(seed);
        let began = Instant::now();
        // The first starts formed the fleet.
        let mut life = Life::new(seed, WEATHER, disks, 1);
        life.daemons.iter_mut().for_each(Daemon::start);
        life.play().await;
        let calm = Instant::now();
        let rested = life.run(calm + AGREE_WITHIN, Life::is_at_rest).await;
        let heads = |daemon: &Daemon| format!("{:?}", daemon.replica().document_heads());
        assert!(rested, "no agreement: {:#?}", life.daemons.each_ref().map(heads));
        let agreed_after = calm.elapsed();
        let trace = life.trace();
        life.check();
        let lost: u64 = life.daemons.iter().map(|daemon| daemon.lost).sum();
        life.reached.insert("batch lost in a crash", lost);
        life.reached.insert("acknowledged", life.acknowledged);
        let events = |daemon: &Daemon| daemon.watch.as_ref().map(|w| w.events.clone());
        for ((kind, _), count) in
            life.daemons.each_ref().map(events).into_iter().flatten().flatten()
        {
            *life.reached.entry(kind).or_default() += count;
        }
        Seen {
            trace,
            datagrams: life.network.trace().0,
            agreed_after,
            virtual_time: began.elapsed(),
            reached: life.reached,
        }
    })
}

/// Says how to repeat a life that fails.
struct Said(u64);

impl Drop for Said {
    #[expect(clippy::print_stdout, reason = "it goes with the failure that is printed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("LIFE={} cargo test --test quic lives", self.0);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[expect(clippy::print_stdout, reason = "how much was tried belongs to the result")]
#[test]
fn after_any_short_life_in_bad_weather_three_daemons_agree_and_have_lost_nothing() {
    let seeds = match number("LIFE") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LIVES").unwrap_or(LIVES),
    };
    let lives = seeds.end - seeds.start;
    let (mut replayed, mut datagrams) = (0, 0);
    let (mut virtual_time, mut slowest) = (Duration::ZERO, Duration::ZERO);
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds {
        let seen = play(seed);
        if seed % REPLAYED_EVERY == 0 || lives == 1 {
            assert_eq!(play(seed), seen, "LIFE={seed} cargo test --test quic lives: not the same");
            replayed += 1;
        }
        datagrams += seen.datagrams;
        virtual_time += seen.virtual_time;
        slowest = slowest.max(seen.agreed_after);
        seen.reached.iter().for_each(|(what, n)| *reached.entry(*what).or_default() += n);
    }
    println!(
        "lives: lives={lives} converged={lives} replayed={replayed} datagrams={datagrams} \
         virtual={virtual_time:.0?} slowest_agreement={slowest:.1?} {reached:?}"
    );
    if lives > 1 {
        for what in ["blackout", "crash", "batch lost in a crash", "restored", "workspace.gone"] {
            assert!(reached.get(what).is_some_and(|n| *n > 0), "never reached: {what}");
        }
    }
    assert!(slowest > UNDO_WINDOW / 2, "the end of a life takes time: {slowest:?}");
}
