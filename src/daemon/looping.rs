//! Owns the loop: it feeds inputs to the replica and carries its effects out.
//!
//! Must not know the rules of the domain, nor wait for the disk. Invariant: frames and diffs of an
//! input leave before the next input is taken; everything else of it waits for the commit.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    commit::{Batch, Committer, Told},
    compact::{self, Compaction},
    handle::{Answer, DocumentStatus, Peer, Request, Status},
    hub::Hub,
    pace::Pace,
    run::published,
};
use crate::{
    clock::Clock,
    replica::{
        effect::{Effects, Input, RequestId, TeardownDue},
        machine::Replica,
        record::{SessionState, WorkspaceKey},
    },
    store::{self, Store},
    teardown,
    transport::{Event, Events, Transport},
};

/// How many inputs of one source are taken before the others get their turn.
const TURN_MAX: usize = 64;

/// What the loop carries effects out with.
pub struct Shells {
    /// Where diffs are published.
    pub hub: Arc<Hub>,
    /// The links.
    pub transport: Arc<Transport>,
    /// Makes writes durable.
    pub committer: Committer,
    /// Which documents are due to be compacted.
    pub compaction: Compaction,
    /// What is durable.
    pub store: Arc<Store>,
    /// What ending a workspace needs to know.
    pub teardown: Arc<teardown::Config>,
    /// Where it is counted how long inputs take.
    pub pace: Arc<Pace>,
}

/// Everything that the loop holds.
pub struct Loop {
    replica: Replica,
    clock: Clock,
    hub: Arc<Hub>,
    transport: Arc<Transport>,
    committer: Committer,
    compaction: Compaction,
    store: Arc<Store>,
    teardown: Arc<teardown::Config>,
    pace: Arc<Pace>,
    waiting: BTreeMap<RequestId, oneshot::Sender<Answer>>,
    next_request: u64,
    inputs: (mpsc::UnboundedSender<Input>, mpsc::UnboundedReceiver<Input>),
    compacted: (mpsc::UnboundedSender<compact::Ended>, mpsc::UnboundedReceiver<compact::Ended>),
}

impl Loop {
    /// Makes the loop of a daemon that has everything open.
    pub fn new(replica: Replica, clock: Clock, shells: Shells) -> Self {
        let Shells { hub, transport, committer, compaction, store, teardown, pace } = shells;
        Self {
            replica,
            clock,
            hub,
            transport,
            committer,
            compaction,
            store,
            teardown,
            pace,
            waiting: BTreeMap::new(),
            next_request: 0,
            // Bounded by what feeds them: one teardown a workspace, one compaction at a time.
            inputs: mpsc::unbounded_channel(),
            compacted: mpsc::unbounded_channel(),
        }
    }

    /// Runs until it is told to stop or the store fails.
    ///
    /// # Errors
    ///
    /// The store has failed: what is in memory may never become durable.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut events: Events,
        mut told: mpsc::UnboundedReceiver<Told>,
        stop: CancellationToken,
    ) -> Result<(), store::Error> {
        let mut failed = None;
        loop {
            let due = self.replica.due().map(|due| self.clock.instant(due));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(what) = told.recv() => {
                    if let Told::Failed(error) = what {
                        failed = Some(error);
                        break;
                    }
                    self.told(what);
                }
                Some(input) = self.inputs.1.recv() => self.take(input),
                Some(ended) = self.compacted.1.recv() => self.compacted(ended),
                Some(event) = events.recv() => {
                    self.event(event);
                    for _ in 1..TURN_MAX {
                        let Some(event) = events.try_recv() else { break };
                        self.event(event);
                    }
                    // However much the peers have to say, people get their turn.
                    self.requests(&mut requests);
                }
                Some(request) = requests.recv() => {
                    self.request(request);
                    self.requests(&mut requests);
                }
                () = sleep_until(due) => self.take(Input::TimePassed),
            }
        }
        requests.close();
        if let Some(error) = failed {
            return Err(error);
        }
        // Requests that were let in before the stop are carried out, and answered once durable.
        while let Ok(request) = requests.try_recv() {
            self.request(request);
        }
        let committer = self.committer;
        let finished = tokio::task::spawn_blocking(move || committer.finish());
        finished.await.expect("waiting for a thread does not panic");
        match told.try_recv() {
            Ok(Told::Failed(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn event(&mut self, event: Event) {
        self.take(match event {
            Event::Connected { peer, .. } => Input::PeerConnected { peer },
            Event::Lost { peer, code, reason } => Input::PeerLost { peer, code, reason },
            Event::Frame { peer, frame } => Input::FrameReceived { peer, frame },
            Event::Drained { peer } => Input::PeerDrained { peer },
            Event::DialFailed { peer, reason } => Input::DialFailed { peer, reason },
        });
    }

    /// Takes the requests that wait, as many as fit a turn.
    fn requests(&mut self, requests: &mut mpsc::Receiver<Request>) {
        for _ in 1..TURN_MAX {
            let Ok(request) = requests.try_recv() else { break };
            self.request(request);
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Command(command, answer) => {
                let request = RequestId(self.next_request);
                self.next_request += 1;
                self.waiting.insert(request, answer);
                self.take(Input::Requested { request, command });
            }
            // Whoever asked may have hung up.
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Peers(answer) => drop(answer.send(self.peers())),
            Request::AgentDue(server, answer) => {
                drop(answer.send(self.replica.agent_due(&server)));
            }
        }
    }

    fn take(&mut self, input: Input) {
        let pace = self.pace.clone();
        pace.measure(|| {
            let effects = self.replica.handle(self.clock.now(), input);
            self.carry_out(effects);
        });
    }

    /// Carries effects out, in the order that [`Effects`] asks for.
    pub fn carry_out(&mut self, effects: Effects) {
        let Effects {
            frames,
            closes,
            dials,
            diffs,
            reset,
            writes,
            frames_durable,
            reloads,
            replies,
            teardowns,
        } = effects;
        for outgoing in frames {
            if let Err(error) = self.transport.send(&outgoing.to, &outgoing.frame) {
                tracing::error!(%error, "a frame is too large to be sent");
            }
        }
        for publication in diffs {
            self.hub.publish(&publication.diff, publication.body);
        }
        if reset {
            self.hub.reset(published(&self.replica));
        }
        for (peer, code, reason) in closes {
            self.transport.close(peer, code, &reason);
        }
        if let Some(targets) = dials {
            self.transport.set_targets(targets);
        }
        let replies = replies
            .into_iter()
            .filter_map(|(request, reply)| Some((self.waiting.remove(&request)?, reply)))
            .collect();
        let batch = Batch { writes, frames: frames_durable, replies, teardowns, reloads };
        if !batch.is_empty() {
            self.committer.commit(batch);
        }
    }

    fn told(&mut self, what: Told) {
        match what {
            Told::Backlogs(backlogs) => {
                self.compaction.note(backlogs);
                self.compact();
            }
            Told::Teardown(due) => self.tear_down(due),
            Told::Reloaded(document) => self.take(Input::DocumentReloaded(document)),
            Told::Planned(plan) => match self.replica.document_copy(&plan.document()) {
                Some(copy) => compact::save(plan, copy, self.compacted.0.clone()),
                None => self.compaction.ended(plan.document()),
            },
            Told::NothingToPlan(document) => self.compaction.ended(document),
            Told::Failed(_) => unreachable!("the loop ends on it"),
        }
    }

    fn tear_down(&self, due: TeardownDue) {
        let (inputs, config) = (self.inputs.0.clone(), self.teardown.clone());
        let occupants = self.occupants(&due);
        tokio::task::spawn_blocking(move || {
            let outcome = teardown::end(&due, &occupants, &config);
            let workspace = WorkspaceKey { host: due.workspace.host, id: due.workspace.id };
            let incarnation = due.incarnation;
            // A loop that has stopped does it again at the next start.
            let _ = inputs.send(Input::TeardownEnded { workspace, incarnation, outcome });
        });
    }

    /// Returns who else is on this host, and where.
    fn occupants(&self, due: &TeardownDue) -> Vec<teardown::Occupant> {
        let host = due.workspace.host;
        let (sessions, workspaces) = self.replica.records();
        let sessions = sessions
            .iter()
            .filter(|session| session.host == host && session.state != SessionState::Deleted);
        let sessions =
            sessions.map(|session| (format!("session {}", session.id), &session.directory));
        let workspaces = workspaces.iter().filter(|workspace| {
            workspace.host == host
                && workspace.id != due.workspace.id
                && workspace.teardown.is_none()
        });
        let workspaces =
            workspaces.map(|other| (format!("workspace {}", other.id), &other.directory));
        let found = sessions.chain(workspaces).filter_map(|(what, directory)| {
            Some(teardown::Occupant { what, directory: directory.clone()? })
        });
        found.collect()
    }

    fn compact(&mut self) {
        if let Some(document) = self.compaction.pick() {
            self.committer.plan(document);
        }
    }

    fn compacted(&mut self, (document, verified): compact::Ended) {
        self.compaction.ended(document);
        match verified {
            Ok(verified) => self.committer.replace(verified),
            Err(error) => tracing::error!(%document, %error, "a snapshot was not verified"),
        }
        self.compact();
    }

    fn status(&self) -> Status {
        let replica = &self.replica;
        let documents = replica.document_heads().into_iter();
        Status {
            node: replica.node(),
            name: replica.name().to_owned(),
            fleet: replica.fleet(),
            role: replica.role(),
            admins: replica.admin_count(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(self.clock.now().monotonic.as_millis()).unwrap_or(u64::MAX),
            documents: documents
                .map(|(document, heads, changes)| DocumentStatus { document, heads, changes })
                .collect(),
            digest: replica.digest(),
            links: replica.link_count(),
            store_bytes: self.store.size_bytes().unwrap_or(0),
            sync_repairs_total: replica.sync_repairs_total(),
            // The bridges tell the handle, which fills it in.
            agents: Vec::new(),
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let peers = self.replica.peers().into_iter();
        peers
            .map(|peer| Peer {
                rtt_ms: self
                    .transport
                    .rtt(peer.member.node)
                    .filter(|_| peer.connected)
                    .map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
                node: peer.member.node,
                name: peer.member.name,
                role: peer.member.role,
                connected: peer.connected,
                paused: peer.paused,
                in_sync: peer.in_sync,
                addresses: peer.member.addresses,
                revoked: peer.member.revoked.is_some(),
                problem: peer.problem.filter(|_| !peer.connected),
            })
            .collect()
    }
}

/// Sleeps until a moment, for ever if there is none.
async fn sleep_until(due: Option<std::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
