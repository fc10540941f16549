//! Owns the loop: it takes inputs from wherever they come, in turns, and lends the engine the hands
//! of the daemon's shells.
//!
//! Must not know the rules of the domain, nor wait for the disk. Invariants: while the disk is behind, no
//! frame and no command is taken, but questions are answered; all effects of an input
//! are given out before the next input is taken, in their order: frames, diffs, what has to wait for
//! the disk. Between them the loop steps aside where nothing else waits for it: what it wakes runs on
//! the same thread, and would else have to wait until the loop has done all of its turn.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::yield_now,
};
use tokio_util::sync::CancellationToken;

use super::{
    aside,
    commit::{self, Committer},
    compact,
    durable::{Job, Told},
    ending::Ending,
    engine::{self, Engine, Hands, TURN_MAX},
    evidence,
    handle::{
        Answer, DocumentStatus, HoldingStatus, Peer, Request, RootStatus, ShutOutStatus, Status,
    },
    hub::{Hub, Published},
    last_look::Question,
    loading::Loading,
    pace::{Pace, timed},
    stall::Stall,
    trash::TrashStatus,
};
use crate::{
    clock::{self, Clock},
    replica::{
        command::Command,
        effect::{
            DialTarget, Effects, Evidence, Input, Outgoing, Publication, StoredDocument,
            TeardownDue,
        },
        ids::NodeId,
        machine::{
            Done, Holding, ReadBulk, TOGETHER_MAX, TeardownStands, Work, bulk_bytes, goes_together,
        },
        record::WorkspaceKey,
    },
    store::{self, Store},
    teardown,
    transport::{Event, Events, Transport},
    wire::{CloseCode, Frame},
};

/// What the loop carries effects out with.
pub struct Shells {
    /// Where diffs are published.
    pub hub: Arc<Hub>,
    /// The links.
    pub transport: Arc<Transport>,
    /// Makes writes durable.
    pub committer: Committer,
    /// What is durable.
    pub store: Arc<Store>,
    /// What ending a workspace needs to know.
    pub teardown: Arc<teardown::Config>,
    /// When workspaces may be ended.
    pub ending: Ending,
    /// Where what automerge panicked on is kept.
    pub evidence: Arc<evidence::Folder>,
    /// Tells those who wait for a receipt to look again.
    pub receipts: watch::Sender<bool>,
    /// Tells whoever carries restores out to look.
    pub restores: watch::Sender<()>,
    /// Where it is counted how long inputs take.
    pub pace: Arc<Pace>,
}

/// The shells, and where what is done elsewhere tells its end.
struct ShellHands {
    shells: Shells,
    inputs: mpsc::UnboundedSender<Input>,
    saved: mpsc::UnboundedSender<compact::Progress>,
    aside: std::sync::mpsc::Sender<aside::Job>,
    /// The jobs that the disk gets at the end of the turn, and what waits while it is behind.
    stall: Stall,
    /// Whether somebody was woken who is waited for elsewhere.
    has_woken: bool,
}

impl ShellHands {
    /// Gives the disk what it is to be given.
    fn give_jobs(&mut self) {
        self.stall.give(&self.shells.committer);
    }

    /// Has something done beside the loop.
    fn give_aside(&self, job: aside::Job) {
        self.aside.send(job).expect("it goes on for as long as the loop");
    }

    /// Lets those run who were woken.
    async fn step_aside(&mut self) {
        if std::mem::take(&mut self.has_woken) {
            yield_now().await;
        }
    }
}

impl Hands for ShellHands {
    type Asker = oneshot::Sender<Answer>;

    fn send(&mut self, outgoing: &Outgoing) {
        commit::send(&self.shells.transport, outgoing);
        self.has_woken = true;
    }

    fn publish(&mut self, publication: Publication) {
        self.shells.hub.publish(&publication.diff, publication.body);
        self.has_woken |= self.shells.hub.subscribers() > 0;
    }

    fn reset(&mut self, published: Published) {
        self.shells.hub.reset(published);
    }

    fn close(&mut self, peer: NodeId, code: CloseCode, reason: String) {
        self.shells.transport.close(peer, code, &reason);
    }

    fn accept(&mut self, peer: NodeId) {
        self.shells.transport.accept(peer);
    }

    fn members(&mut self, members: BTreeSet<NodeId>) {
        self.shells.transport.set_members(members);
    }

    fn dial(&mut self, targets: Vec<DialTarget>) {
        self.shells.transport.set_targets(targets);
    }

    fn receipts(&mut self) {
        self.shells.receipts.send_modify(|_| ());
    }

    fn restores_asked(&mut self) {
        self.shells.restores.send_modify(|()| ());
    }

    fn keep(&mut self, evidence: Evidence) {
        let folder = self.shells.evidence.clone();
        tokio::task::spawn_blocking(move || {
            let Evidence { peer, document, message, .. } = &evidence;
            match folder.keep(clock::wall_ms(), &evidence) {
                Ok(file) => {
                    tracing::warn!(%peer, %document, message, ?file, "automerge panicked; please report it");
                }
                Err(error) => tracing::error!(%error, "can't keep what automerge panicked on"),
            }
        });
    }

    fn store(&mut self, job: Job<Self::Asker>) {
        self.stall.add(job);
    }

    fn save(&mut self, plan: store::compact::Plan, stored: StoredDocument) {
        compact::save(plan, stored, self.saved.clone());
    }

    fn work(&mut self, work: Work) {
        self.give_aside(aside::Job::Work(work));
    }

    fn tear_down(&mut self, due: TeardownDue, occupants: Vec<teardown::Occupant>) {
        let (inputs, config) = (self.inputs.clone(), self.shells.teardown.clone());
        let changed = self.shells.restores.clone();
        let kind = due.workspace.kind.clone();
        self.shells.ending.begin(&kind, move || {
            let outcome = teardown::end(&due, &occupants, &config);
            // What was ended may lie in the trash now.
            changed.send_replace(());
            let workspace = WorkspaceKey { host: due.workspace.host, id: due.workspace.id };
            let incarnation = due.incarnation;
            // A loop that has stopped does it again at the next start.
            let _ = inputs.send(Input::TeardownEnded { workspace, incarnation, outcome });
        });
    }
}

/// Everything that the loop holds.
pub struct Loop {
    engine: Engine<oneshot::Sender<Answer>>,
    clock: Clock,
    hands: ShellHands,
    inputs: mpsc::UnboundedReceiver<Input>,
    looks: mpsc::UnboundedReceiver<Question>,
    saved: mpsc::UnboundedReceiver<compact::Progress>,
    loading: Loading<Frame>,
    done_aside: mpsc::UnboundedReceiver<aside::Done>,
}

impl Loop {
    /// Makes the loop of a daemon that has everything open, and carries out what its start asks for.
    pub fn new(
        mut engine: Engine<oneshot::Sender<Answer>>,
        effects: Effects,
        clock: Clock,
        shells: Shells,
        looks: mpsc::UnboundedReceiver<Question>,
    ) -> Self {
        // Bounded by what feeds them: one teardown a workspace, one compaction, three readings, and one
        // epoch and one answer at a time.
        let (inputs_sender, inputs) = mpsc::unbounded_channel();
        let (saved_sender, saved) = mpsc::unbounded_channel();
        let (done, done_aside) = mpsc::unbounded_channel();
        let mut hands = ShellHands {
            shells,
            inputs: inputs_sender,
            saved: saved_sender,
            aside: aside::start(done),
            stall: Stall::default(),
            has_woken: false,
        };
        engine.carry_out(effects, &mut hands);
        hands.give_jobs();
        let loading = Loading::default();
        Self { engine, clock, hands, inputs, looks, saved, loading, done_aside }
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
            let due = self.engine.replica().due().map(|due| self.clock.instant(due));
            // While the disk is behind nothing is begun that would make more for it to write.
            let is_behind = self.hands.stall.is_behind();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(what) = told.recv() => {
                    if let Err(error) = self.engine.told(self.clock.now(), what, &mut self.hands) {
                        failed = Some(error);
                        break;
                    }
                }
                () = self.hands.shells.committer.room(), if is_behind => {}
                Some(input) = self.inputs.recv() => self.take(input, false).await,
                Some((due, answer)) = self.looks.recv() => {
                    let stands = self.engine.replica().teardown_stands(&due);
                    let _ = answer.send(stands == TeardownStands::Awaited);
                }
                Some(progress) = self.saved.recv() => match progress {
                    compact::Progress::Ended(ended) => self.engine.saved(ended, &mut self.hands),
                    compact::Progress::Rested => self.engine.rested(&mut self.hands),
                },
                Some(done) = self.done_aside.recv() => match done {
                    aside::Done::Work(done) => self.take_done(done),
                    aside::Done::Judged => self.reading_ended().await,
                    aside::Done::Shown(read) => self.take_read(read),
                    aside::Done::Read(read) => {
                        self.take_read(read);
                        self.reading_ended().await;
                    }
                },
                Some(event) = events.recv(), if !is_behind => {
                    let mut next = Some(event);
                    let mut taken = 0;
                    while taken < TURN_MAX
                        && let Some(event) = next.take().or_else(|| events.try_recv())
                    {
                        let gathered = engine::gathered(event, |few| events.try_recv_if(few));
                        taken += gathered.len();
                        let mut gathered = gathered.into_iter();
                        while let Some(event) = gathered.next() {
                            let is_last = gathered.len() == 0 && events.is_empty();
                            self.event(event, is_last && requests.is_empty()).await;
                        }
                    }
                    // However much the peers have to say, people get their turn.
                    self.requests(None, &mut requests).await;
                }
                () = std::future::ready(()), if self.hands.stall.may_go_on() => {
                    self.requests(None, &mut requests).await;
                }
                Some(request) = requests.recv(), if self.hands.stall.has_place() => {
                    self.requests(Some(request), &mut requests).await;
                }
                () = sleep_until(due), if !is_behind => self.take(Input::TimePassed, false).await,
            }
            self.hands.give_jobs();
        }
        requests.close();
        if let Some(error) = failed {
            return Err(error);
        }
        // Requests that were let in before the stop are carried out, and answered once durable.
        while let Some((command, answer)) = self.hands.stall.next() {
            self.request(Request::Command(command, answer), false).await;
        }
        while let Ok(request) = requests.try_recv() {
            self.request(request, false).await;
        }
        let ShellHands { shells: Shells { committer, .. }, stall, .. } = self.hands;
        let finish = move || committer.finish(stall.into_jobs(), &mut told);
        let finished = tokio::task::spawn_blocking(finish);
        finished.await.expect("waiting for a thread does not panic")
    }

    async fn event(&mut self, event: Event, is_last: bool) {
        let event = match event {
            Event::Frame { peer, frame } => {
                if let Some(bytes) = bulk_bytes(&frame) {
                    if !self.loading.offer(peer, bytes, frame) {
                        tracing::debug!(%peer, "dropped what a peer sent: more of it waits");
                    }
                    return self.load().await;
                }
                Event::Frame { peer, frame }
            }
            other => other,
        };
        if let Event::Lost { peer, .. } = &event {
            self.loading.forget(peer);
        }
        self.take(engine::heard(event), is_last).await;
    }

    /// Has the next of what peers sent read, beside the loop.
    async fn load(&mut self) {
        while let Some((peer, frame)) = self.loading.begin() {
            match self.engine.replica().to_read(&peer, frame) {
                Ok(bulk) => return self.hands.give_aside(aside::Job::Read(bulk)),
                // There is nothing to read.
                Err(frame) => {
                    self.loading.ended();
                    self.take(Input::FrameReceived { peer, frame }, false).await;
                }
            }
        }
    }

    async fn reading_ended(&mut self) {
        self.loading.ended();
        self.load().await;
    }

    fn take_read(&mut self, read: ReadBulk) {
        let pace = self.hands.shells.pace.clone();
        let again =
            pace.measure("read", || self.engine.take_read(self.clock.now(), read, &mut self.hands));
        if let Some(bulk) = again {
            self.loading.again();
            self.hands.give_aside(aside::Job::Read(bulk));
        }
    }

    fn take_done(&mut self, done: Done) {
        let pace = self.hands.shells.pace.clone();
        let what = match done {
            Done::Epoch(_) => "epoch",
            Done::Answer(_) => "answer",
        };
        let now = self.clock.now();
        pace.measure(what, || self.engine.take_done(now, done, &mut self.hands));
    }

    /// Takes a request, and those that wait, as many as fit a turn.
    async fn requests(
        &mut self,
        mut first: Option<Request>,
        requests: &mut mpsc::Receiver<Request>,
    ) {
        let mut together = Vec::new();
        for _ in 0..TURN_MAX {
            let Some(request) = self.next_request(&mut first, requests) else { break };
            match request {
                Request::Command(command, answer) if goes_together(&command) => {
                    together.push((command, answer));
                    if together.len() == TOGETHER_MAX {
                        self.commands(std::mem::take(&mut together), requests.is_empty()).await;
                    }
                }
                other => {
                    self.commands(std::mem::take(&mut together), false).await;
                    self.request(other, requests.is_empty()).await;
                }
            }
        }
        self.commands(together, requests.is_empty()).await;
    }

    /// Returns the next request to carry out. While the disk is behind, commands are queued and only questions
    /// are returned; commands leave the queue in the order in which they came.
    fn next_request(
        &mut self,
        first: &mut Option<Request>,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Option<Request> {
        let stall = &mut self.hands.stall;
        while let Some(request) = first.take().or_else(|| {
            let may_wait = stall.is_behind() && stall.has_place();
            may_wait.then(|| requests.try_recv().ok()).flatten()
        }) {
            match request {
                Request::Command(command, answer) if stall.is_behind() || stall.may_go_on() => {
                    stall.park((command, answer));
                }
                other => return Some(other),
            }
        }
        if stall.is_behind() {
            return None;
        }
        let waiting = stall.next().map(|(command, answer)| Request::Command(command, answer));
        waiting.or_else(|| requests.try_recv().ok())
    }

    /// Takes commands in together, where they are several.
    async fn commands(
        &mut self,
        mut commands: Vec<(Command, oneshot::Sender<Answer>)>,
        is_last: bool,
    ) {
        if commands.len() > 1 {
            let (now, pace) = (self.clock.now(), self.hands.shells.pace.clone());
            self.hands.has_woken = false;
            pace.measure("requests", || self.engine.ask_together(now, commands, &mut self.hands));
            if is_last {
                self.hands.step_aside().await;
            }
            self.hands.give_jobs();
        } else if let Some((command, answer)) = commands.pop() {
            self.request(Request::Command(command, answer), is_last).await;
        }
    }

    async fn request(&mut self, request: Request, is_last: bool) {
        match request {
            Request::Command(command, answer) => {
                let input = self.engine.asked(command, answer);
                self.take(input, is_last).await;
            }
            // Whoever asked may have hung up.
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Peers(answer) => drop(answer.send(self.peers())),
            Request::Explain(target, answer) => {
                drop(answer.send(self.engine.replica().explainable(&target).map(Box::new)));
            }
            Request::Trash(answer) => drop(answer.send(self.engine.replica().trash())),
            Request::AgentDue(servers, answer) => {
                drop(answer.send(self.engine.replica().agent_due(&servers)));
            }
        }
    }

    /// Takes an input in; steps aside in between if it is the last that waits.
    async fn take(&mut self, input: Input, is_last: bool) {
        let (now, what) = (self.clock.now(), input.kind());
        let imported = input.imported();
        self.hands.has_woken = false;
        let (begun, begin_took) = timed(|| self.engine.begin(now, input, &mut self.hands));
        if is_last {
            self.hands.step_aside().await;
        }
        let ((), finish_took) = timed(|| self.engine.finish(now, begun, &mut self.hands));
        self.hands.shells.pace.note(what, begin_took + finish_took);
        if let Some(records) = imported {
            self.hands.shells.pace.imported(records, begin_took + finish_took);
        }
        if is_last {
            self.hands.step_aside().await;
        }
        self.hands.give_jobs();
    }

    fn status(&self) -> Status {
        let replica = self.engine.replica();
        let documents = replica.document_heads().into_iter();
        let traffic = self.hands.shells.transport.traffic();
        let now = self.clock.now();
        Status {
            node: replica.node(),
            name: replica.name().to_owned(),
            fleet: replica.fleet(),
            role: replica.role(),
            admins: replica.admin_count(),
            root: replica.root().map(|(node, name)| RootStatus { node, name }),
            shut_out: replica.shut_out().map(|it| ShutOutStatus {
                by: it.by,
                at: it.at,
                retired: it.is_retired,
            }),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(now.monotonic.as_millis()).unwrap_or(u64::MAX),
            documents: documents
                .map(|(document, heads, changes)| DocumentStatus { document, heads, changes })
                .collect(),
            digest: replica.digest(),
            links: replica.link_count(),
            store_bytes: self.hands.shells.store.size_bytes().unwrap_or(0),
            sent_bytes: traffic.sent_bytes,
            received_bytes: traffic.received_bytes,
            sync_repairs_total: replica.sync_repairs_total(),
            refusals: replica
                .refusals()
                .iter()
                .map(|(code, count)| ((*code).to_owned(), *count))
                .collect(),
            left_out: replica
                .left_out_total()
                .iter()
                .map(|(code, count)| ((*code).to_owned(), *count))
                .collect(),
            limits_used: replica
                .limits_used()
                .into_iter()
                .map(|(limit, percent)| (limit.to_owned(), percent))
                .collect(),
            kept_off: replica.kept_off_count(),
            recovering: replica.is_recovering(),
            holding: replica.holding(now).map(|Holding { sessions, workspaces, left }| {
                let left_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
                let until = now.wall_ms.saturating_add(left_ms);
                HoldingStatus { sessions, workspaces, until }
            }),
            // The handle knows the rest.
            agents_awaited: self.engine.replica().agents_awaited(),
            agents: Vec::new(),
            git: None,
            hooks_left_running: Vec::new(),
            trash: TrashStatus::default(),
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let peers = self.engine.replica().peers().into_iter();
        let twins = "two daemons run with its key; stop one and give it a data folder of its own";
        let are_two = |peer| self.hands.shells.transport.are_two(peer);
        peers
            .map(|peer| Peer {
                problem: match are_two(peer.member.node) {
                    true => Some(twins.to_owned()),
                    false => peer.problem.filter(|_| !peer.connected),
                },
                rtt_ms: self
                    .hands
                    .shells
                    .transport
                    .rtt(peer.member.node)
                    .filter(|_| peer.connected)
                    .map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
                node: peer.member.node,
                name: peer.name,
                admitted_as: peer.member.name,
                role: peer.member.role,
                connected: peer.connected,
                paused: peer.paused,
                in_sync: peer.in_sync,
                left_out: peer.left_out,
                addresses: peer.addresses,
                revoked: peer.member.revoked.is_some(),
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

#[cfg(test)]
mod tests;
