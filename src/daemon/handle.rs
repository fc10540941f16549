//! Owns how the shells that face people (`api`, `agent`) reach the loop.
//!
//! Must not know HTTP. Invariant: an answer is given only after what it tells is durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

pub use super::pace::Task;
use super::{
    hub::Hub,
    machine::{Facts, Git, Machine},
    pace::Pace,
    trash::{HostTrash, TrashStatus},
};
use crate::{
    clock,
    replica::{
        command::{Command, Refusal, Reply, Target},
        diff::Digest,
        explain::Explainable,
        ids::{ChangeHash, DocumentId, FleetId, NodeId, SessionId, WorkspaceId},
        record::Role,
        trash::{TrashListed, TrashStored},
    },
};

/// How many requests may wait for the loop; more are answered `busy`.
pub const REQUESTS_MAX: usize = 1_024;

/// What comes of a command.
pub type Answer = Result<Reply, Refusal>;

/// A question or a request on its way to the loop.
#[derive(Debug)]
pub enum Request {
    /// Changes something.
    Command(Command, oneshot::Sender<Answer>),
    /// Asks how things stand.
    Status(oneshot::Sender<Status>),
    /// Asks for the members and the links to them.
    Peers(oneshot::Sender<Vec<Peer>>),
    /// Asks for what a session or workspace can be explained from.
    Explain(Target<SessionId>, oneshot::Sender<Result<Box<Explainable>, Refusal>>),
    /// Asks what hosts keep of what they have ended.
    Trash(oneshot::Sender<Vec<TrashStored>>),
    /// Asks what agents' servers on one database are to delete now.
    AgentDue(BTreeSet<String>, oneshot::Sender<Vec<SessionId>>),
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The command was refused; nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many requests wait already.
    #[error("the daemon has {REQUESTS_MAX} requests waiting")]
    Busy,
    /// The daemon is stopping; whether the command was carried out is not known.
    #[error("the daemon is stopping")]
    Stopping,
}

/// A document and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentStatus {
    /// Which.
    pub document: DocumentId,
    /// Its heads, sorted.
    pub heads: Vec<ChangeHash>,
    /// How many changes it is made of.
    pub changes: u64,
}

/// How the bridge to an agent's server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// It is being reached, or its list is being read.
    Connecting,
    /// Its list was read, and what happens there is followed.
    Connected,
    /// It can't be read; that is tried again and again.
    Failed,
}

/// An agent's server beside this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Where it is.
    pub url: String,
    /// How the bridge to it stands.
    pub state: AgentState,
    /// What is wrong, if anything is.
    pub problem: Option<String>,
    /// When its list was last read whole, milliseconds since the epoch.
    pub last_read_at: Option<i64>,
    /// What is left out or waits, one thing each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What was pending before the start and waits, lest an old copy of the store was put in place, for a
/// peer that may know better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldingStatus {
    /// How many deleted sessions are not purged yet.
    pub sessions: u64,
    /// How many workspaces are not ended yet.
    pub workspaces: u64,
    /// Until when at most, milliseconds since the epoch.
    pub until: i64,
}

/// The most senior admin of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootStatus {
    /// Its key.
    pub node: NodeId,
    /// The name under which it was admitted.
    pub name: String,
}

/// How this node was shut out of its fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutOutStatus {
    /// The name of the admin that did it.
    pub by: String,
    /// Milliseconds since the epoch by that admin's clock; for people only.
    pub at: i64,
    /// Whether it was retired, not only revoked.
    pub retired: bool,
}

/// How the daemon stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// What people call this machine.
    pub name: String,
    /// The fleet that it belongs to.
    pub fleet: FleetId,
    /// What it may do there.
    pub role: Role,
    /// How many admins the fleet has, this node among them if it is one.
    pub admins: u64,
    /// The most senior admin, which no other one can shut out for good.
    #[serde(default)]
    pub root: Option<RootStatus>,
    /// Who has shut this node out of its fleet; `null` unless it knows that somebody has.
    #[serde(default)]
    pub shut_out: Option<ShutOutStatus>,
    /// The software's version.
    pub version: String,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// Every document that it holds.
    pub documents: Vec<DocumentStatus>,
    /// The digest of the present view.
    pub digest: Digest,
    /// How many links are up.
    pub links: u64,
    /// Bytes on disk.
    pub store_bytes: u64,
    /// Bytes sent over links since the start.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Bytes received over links since the start.
    #[serde(default)]
    pub received_bytes: u64,
    /// How often two replicas were found to differ with nothing on the way, and repaired.
    pub sync_repairs_total: u64,
    /// How often what peers sent was refused since the start, by the reason's name.
    #[serde(default)]
    pub refusals: BTreeMap<String, u64>,
    /// How often something was left out of what nodes wrote, by the reason's name. The peer that passed it on is not blamed.
    #[serde(default)]
    pub left_out: BTreeMap<String, u64>,
    /// How much of each limit is used, percent, by the limit's name: see *What grows* in `proto/wire.md`.
    #[serde(default)]
    pub limits_used: BTreeMap<String, u64>,
    /// How many members are kept off for a while for what they sent, or hold this node to be hostile.
    #[serde(default)]
    pub kept_off: u64,
    /// Whether what a damaged store had lost is still to be had back from peers: until then nothing
    /// is purged and no workspace ended here.
    #[serde(default)]
    pub recovering: bool,
    /// How many deleted sessions wait for the word of which agent's server, bridged or not.
    #[serde(default)]
    pub agents_awaited: BTreeMap<String, u64>,
    /// What was pending before the start and waits for a peer; `null` if nothing does.
    #[serde(default)]
    pub holding: Option<HoldingStatus>,
    /// The agents' servers that are bridged, by address.
    #[serde(default)]
    pub agents: Vec<AgentStatus>,
    /// The git that the daemon finds; `None` before it has looked.
    #[serde(default)]
    pub git: Option<Git>,
    /// The workspaces whose hooks an earlier run of the daemon has left running.
    #[serde(default)]
    pub hooks_left_running: Vec<WorkspaceId>,
    /// What this machine keeps of what it has ended.
    #[serde(default)]
    pub trash: TrashStatus,
}

/// A member other than this node, and the link to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its key.
    pub node: NodeId,
    /// What it calls itself.
    pub name: String,
    /// The name under which it was admitted: the one that commands take.
    pub admitted_as: String,
    /// What it may do.
    pub role: Role,
    /// Whether a link is up and both have greeted.
    pub connected: bool,
    /// Whether this node has paused syncing with it.
    pub paused: bool,
    /// Whether both are known to hold the same.
    pub in_sync: bool,
    /// Where it can be dialled.
    pub addresses: BTreeSet<String>,
    /// Round trip of the link, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Whether it has been shut out.
    pub revoked: bool,
    /// Why there is no link, where that is known, or what is wrong although there is one.
    pub problem: Option<String>,
    /// What this node has left out of what the member wrote. Other nodes leave it out too.
    #[serde(default)]
    pub left_out: Option<String>,
}

/// Reaches the loop; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    hub: Arc<Hub>,
    pace: Arc<Pace>,
    agents: Arc<Mutex<BTreeMap<String, AgentStatus>>>,
    machine: Arc<OnceLock<Machine>>,
    receipts: watch::Sender<bool>,
    restores: watch::Sender<()>,
}

impl Handle {
    /// Makes a handle and the end at which the loop receives.
    pub fn new(hub: Arc<Hub>) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let receipts = watch::Sender::new(false);
        let restores = watch::Sender::new(());
        let (pace, agents, machine) = Default::default();
        (Self { requests, hub, pace, agents, machine, receipts, restores }, receiver)
    }

    /// Returns what marks that restores of what this node keeps may be asked for: they are among what
    /// [`Handle::trash`] lists, and stay so until [`Command::ReportTrash`] answers them.
    pub fn restores(&self) -> &watch::Sender<()> {
        &self.restores
    }

    /// Lets the handle tell of the machine, too.
    pub fn with_machine(self, machine: Machine) -> Self {
        // A handle is told once.
        let _ = self.machine.set(machine);
        self
    }

    /// Returns the trash of this machine, where there is one.
    pub fn host_trash(&self) -> Option<&HostTrash> {
        self.machine.get().map(Machine::trash)
    }

    /// Returns what marks that answers about receipts may have changed; `true` once nobody is to
    /// wait for them any more.
    pub fn receipts(&self) -> &watch::Sender<bool> {
        &self.receipts
    }

    /// Returns the present view and the stream of diffs.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Returns how long inputs keep the loop.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// Tells whether the loop has stopped taking requests.
    pub fn is_stopping(&self) -> bool {
        self.requests.is_closed()
    }

    /// Carries a command out and returns what it did, once that is durable.
    pub async fn command(&self, command: Command) -> Result<Reply, RequestError> {
        let (sender, receiver) = oneshot::channel();
        self.send(Request::Command(command, sender))?;
        Ok(receiver.await.map_err(|_| RequestError::Stopping)??)
    }

    /// Tells how things stand.
    pub async fn status(&self) -> Result<Status, RequestError> {
        let (sender, receiver) = oneshot::channel();
        self.send(Request::Status(sender))?;
        let mut status = receiver.await.map_err(|_| RequestError::Stopping)?;
        let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        status.agents.extend(agents.values().cloned());
        drop(agents);
        if let Some(machine) = self.machine.get() {
            let Facts { git, hooks_left_running, trash } = machine.facts();
            (status.git, status.hooks_left_running) = (git, hooks_left_running);
            status.trash = trash;
        }
        Ok(status)
    }

    /// Takes note of how the bridge to a server stands, and whether its list was just read.
    pub fn agent_stands(&self, url: &str, state: AgentState, problem: Option<String>, read: bool) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let before = agents.remove(url);
        let last_read_at = before.as_ref().and_then(|status| status.last_read_at);
        let last_read_at = if read { Some(clock::wall_ms()) } else { last_read_at };
        let notes = before.map(|status| status.notes).unwrap_or_default();
        let status = AgentStatus { url: url.to_owned(), state, problem, last_read_at, notes };
        agents.insert(url.to_owned(), status);
    }

    /// Takes note of what the bridge to a server leaves out or waits for.
    pub fn agent_notes(&self, url: &str, notes: Vec<String>) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = agents.get_mut(url) {
            status.notes = notes;
        }
    }

    /// Finds what a session or workspace can be explained from, also one that is purged or gone.
    pub async fn explain(
        &self,
        target: Target<SessionId>,
    ) -> Result<Box<Explainable>, RequestError> {
        let (sender, receiver) = oneshot::channel();
        self.send(Request::Explain(target, sender))?;
        Ok(receiver.await.map_err(|_| RequestError::Stopping)??)
    }

    /// Lists what all hosts keep of what they have ended, with the restores that are asked for.
    pub async fn trash(&self) -> Result<Vec<TrashListed>, RequestError> {
        let (sender, receiver) = oneshot::channel();
        self.send(Request::Trash(sender))?;
        let stored = receiver.await.map_err(|_| RequestError::Stopping)?;
        // Thousands of summaries are not read on the loop.
        Ok(stored.iter().filter_map(TrashStored::read).collect())
    }

    /// Lists sessions that agents' servers on one database are to delete now, children first.
    pub async fn agent_due(
        &self,
        servers: BTreeSet<String>,
    ) -> Result<Vec<SessionId>, RequestError> {
        let (sender, receiver) = oneshot::channel();
        self.send(Request::AgentDue(servers, sender))?;
        receiver.await.map_err(|_| RequestError::Stopping)
    }

    /// Lists the members other than this node.
    pub async fn peers(&self) -> Result<Vec<Peer>, RequestError> {
        let (sender, receiver) = oneshot::channel();
        self.send(Request::Peers(sender))?;
        receiver.await.map_err(|_| RequestError::Stopping)
    }

    fn send(&self, request: Request) -> Result<(), RequestError> {
        self.requests.try_send(request).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => RequestError::Busy,
            mpsc::error::TrySendError::Closed(_) => RequestError::Stopping,
        })
    }
}
