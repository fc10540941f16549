//! Owns what can be asked of a replica, what is answered, and why it is refused.
//!
//! Must not know who asks (HTTP, a bridge, a timer) or how an answer is shown: a [`Refusal`] names
//! the thing and carries a stable code; hints belong to `api` and `cli`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    ids::{NodeId, OperationId, ReceiptId, SessionId, TrashId, WorkspaceId},
    receipt::Receipt,
    record::{Extra, GitState, Role, Session, TeardownAction, Workspace},
    trash::{TrashEntry, TrashListed},
};

/// Names a record the way a person does: an id and, where two hosts have it, the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<Id> {
    /// The id on its host.
    pub id: Id,
    /// The host's name or a unique prefix of its key.
    pub host: Option<String>,
}

impl<Id> Target<Id> {
    /// Names a record by its id alone.
    pub fn new(id: Id) -> Self {
        Self { id, host: None }
    }
}

/// A field of a change to a record: absent leaves it as it is, `null` empties it.
pub type Patch<T> = Option<Option<T>>;

/// What to make a session of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSession {
    /// Its id; a time-ordered one is made if absent.
    #[serde(default)]
    pub id: Option<SessionId>,
    /// The host's key, a unique prefix of it, or its name; defaults to the workspace's or the
    /// parent's, else this node.
    #[serde(default)]
    pub host: Option<String>,
    /// The workspace to put it into, as `ID` or `ID@HOST`.
    #[serde(default)]
    pub workspace_id: Option<String>,
    /// The session it is started from.
    #[serde(default)]
    pub parent_id: Option<SessionId>,
    /// The agent's name for the project.
    #[serde(default)]
    pub project_id: Option<String>,
    /// Where it works, on its host.
    #[serde(default)]
    pub directory: Option<String>,
    /// What a person calls it.
    #[serde(default)]
    pub title: Option<String>,
    /// Free fields.
    #[serde(default)]
    pub extra: Extra,
}

/// What to change in a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionPatch {
    /// Its title.
    pub title: Patch<String>,
    /// Its workspace, on the same host.
    pub workspace_id: Patch<WorkspaceId>,
    /// When it was archived, milliseconds since the epoch.
    pub archived_at: Patch<i64>,
    /// Free fields to set (`Some`) or remove (`None`); those not named stay.
    pub extra: std::collections::BTreeMap<String, Option<String>>,
}

/// What to make a workspace of; it belongs to this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWorkspace {
    /// Its id; a time-ordered one is made if absent.
    #[serde(default)]
    pub id: Option<WorkspaceId>,
    /// What a person calls it.
    pub name: String,
    /// `worktree`, `directory`, `container`, …
    pub kind: String,
    /// The agent's name for the project.
    #[serde(default)]
    pub project_id: Option<String>,
    /// Where it is, on its host.
    #[serde(default)]
    pub directory: Option<String>,
    /// The branch checked out in it.
    #[serde(default)]
    pub branch: Option<String>,
    /// Whether it stays when it is empty.
    #[serde(default)]
    pub keep: bool,
    /// Free fields.
    #[serde(default)]
    pub extra: Extra,
}

/// What to change in a workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkspacePatch {
    /// Its name.
    pub name: Option<String>,
    /// Its branch.
    pub branch: Patch<String>,
    /// Whether it stays when it is empty.
    pub keep: Option<bool>,
    /// Free fields to set (`Some`) or remove (`None`); those not named stay.
    pub extra: std::collections::BTreeMap<String, Option<String>>,
}

/// A session that an agent has, to be taken into this node's document as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of `StoredSession`")]
pub struct ImportedSession {
    pub id: SessionId,
    #[serde(default)]
    pub workspace_id: Option<WorkspaceId>,
    #[serde(default)]
    pub parent_id: Option<SessionId>,
    #[serde(default)]
    pub project_id: Option<String>,
    #[serde(default)]
    pub directory: Option<String>,
    #[serde(default)]
    pub title: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
    #[serde(default)]
    pub archived_at: Option<i64>,
    #[serde(default)]
    pub agent: Option<String>,
    #[serde(default)]
    pub agent_server: Option<String>,
    #[serde(default)]
    pub extra: Extra,
}

/// A workspace that an agent has, to be taken into this node's document as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are those of `StoredWorkspace`")]
pub struct ImportedWorkspace {
    pub id: WorkspaceId,
    pub name: String,
    pub kind: String,
    #[serde(default)]
    pub project_id: Option<String>,
    #[serde(default)]
    pub directory: Option<String>,
    #[serde(default)]
    pub branch: Option<String>,
    pub created_at: i64,
    #[serde(default)]
    pub agent_server: Option<String>,
    #[serde(default)]
    pub extra: Extra,
}

/// A list that an agent gave, to be taken in: what is new is created, what differs is updated,
/// what was deleted or purged here stays so, and nothing is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// Taken in first.
    #[serde(default)]
    pub workspaces: Vec<ImportedWorkspace>,
    /// In any order; parents are taken in before their children.
    #[serde(default)]
    pub sessions: Vec<ImportedSession>,
}

/// What a list that was taken in changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Records that were not there.
    pub created: u64,
    /// Records that differed.
    pub updated: u64,
    /// Records that were there already, just so.
    pub unchanged: u64,
    /// Records that were deleted or purged here, or that are not valid, and so not taken in.
    pub skipped: u64,
}

/// What can be asked of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Makes a session on any host of the fleet.
    CreateSession(NewSession),
    /// Changes a session.
    UpdateSession(Target<SessionId>, SessionPatch),
    /// Deletes a session, or says what that would take along.
    DeleteSession {
        /// Which.
        session: Target<SessionId>,
        /// Only answer, change nothing.
        dry_run: bool,
    },
    /// Makes a workspace on this node.
    CreateWorkspace(NewWorkspace),
    /// Changes a workspace.
    UpdateWorkspace(Target<WorkspaceId>, WorkspacePatch),
    /// Deletes a workspace with the sessions that this replica sees in it.
    DeleteWorkspace {
        /// Which.
        workspace: Target<WorkspaceId>,
        /// Only answer, change nothing.
        dry_run: bool,
    },
    /// Undoes one delete, whole.
    Restore(OperationId),
    /// Goes on after a failed teardown.
    Teardown(Target<WorkspaceId>, TeardownAction),
    /// Takes an agent's list into this node's document.
    Import(Import),
    /// Tells that an agent's server has these sessions of this host no more: it was asked for each
    /// of them just now. What is alive here is deleted in its name.
    AgentGone {
        /// Its address, and those of others that stand on the same database.
        servers: BTreeSet<String>,
        /// What it was asked for.
        sessions: Vec<SessionId>,
    },
    /// Tells that an agent's server has these sessions: what was deleted in its name comes back.
    /// Answered with those that were purged here without its word.
    AgentHas {
        /// Its address, and those of others that stand on the same database.
        servers: BTreeSet<String>,
        /// What it has.
        sessions: Vec<SessionId>,
    },
    /// Lets a deleted session of this host be purged although its agent's server, which may be gone
    /// for good, has not said that it has it no more.
    ForgetAgent(Target<SessionId>),
    /// Tells what this node keeps of what it has ended, all of it, so that every node can list it.
    /// What differs from what was told before is written, a part at a time.
    ReportTrash {
        /// All that is kept, in any order.
        entries: Vec<TrashEntry>,
        /// The requests for a restore that these entries answer: each was carried out, or says in
        /// its `problem` why not.
        answered: BTreeSet<OperationId>,
    },
    /// Asks the host that keeps something to put it back where it was.
    RestoreTrashed(Target<TrashId>),
    /// Has the node write its own document anew, whether or not that is due: for tests, benches and
    /// simulations. Answered at once; done when what is being written meanwhile allows it.
    Rewrite,
    /// Asks how far a delete has come that was asked for here; those who have not told are asked.
    Receipt(ReceiptId),
    /// Makes a one-time ticket for a new member.
    Invite {
        /// What the new member may do.
        role: Role,
        /// How long the ticket is good for.
        expires_in: std::time::Duration,
        /// Random, from the system's own source: who has it gets in.
        secret: [u8; 32],
    },
    /// Asks the node that wrote the ticket to be let into its fleet.
    Join(super::invite::Ticket),
    /// Leaves the fleet for a new one of its own.
    Leave,
    /// Stops syncing with a member, also across restarts.
    Pause(String),
    /// Goes on syncing with a member.
    Resume(String),
    /// Shuts a member out for good.
    Revoke(String),
    /// Gives a member a greater role.
    Promote {
        /// Who.
        node: String,
        /// What it may do from now on.
        role: Role,
    },
    /// Makes this node an admin no more.
    StepDown,
    /// Publishes where this node can be dialled.
    Announce {
        /// What people call this machine.
        name: String,
        /// `IP:PORT` each.
        addresses: BTreeSet<String>,
    },
}

/// What a delete of a session did or, dry, would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionDeleted {
    /// The act, by which it can be undone; `null` when dry.
    pub operation: Option<OperationId>,
    /// What tells who has applied it; `null` when nothing was written.
    pub receipt: Option<ReceiptId>,
    /// The session afterwards.
    pub session: Session,
    /// It and the children that were alive until now.
    pub sessions_deleted: Vec<Session>,
    /// Whether its workspace has gone with it.
    pub workspace_vacated: bool,
    /// The workspace that has gone with it; `null` where none has.
    pub workspace: Option<Workspace>,
    /// How that workspace's git worktree stands, as its host last reported; `null` where it is
    /// none.
    pub git_state: Option<GitState>,
    /// Whether it had been deleted before.
    pub already_deleted: bool,
    /// Whether nothing was changed on purpose.
    pub dry_run: bool,
}

/// What a delete of a workspace did or, dry, would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceDeleted {
    /// The act, by which it can be undone; `null` when nothing was written.
    pub operation: Option<OperationId>,
    /// What tells who has applied it; `null` when nothing was written.
    pub receipt: Option<ReceiptId>,
    /// The workspace afterwards.
    pub workspace: Workspace,
    /// How its git worktree stands, as its host last reported; `null` where it is none.
    pub git_state: Option<GitState>,
    /// The sessions that were alive in it, and their children.
    pub sessions_deleted: Vec<Session>,
    /// Whether it had been deleted before.
    pub already_deleted: bool,
    /// Whether nothing was changed on purpose.
    pub dry_run: bool,
}

/// What an undo brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The delete that was undone.
    pub operation: OperationId,
    /// The sessions that it had deleted, and that are back.
    pub sessions: Vec<Session>,
    /// The workspaces that are back with them.
    pub workspaces: Vec<Workspace>,
}

/// What a replica answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The session as it now is.
    Session(Session),
    /// The workspace as it now is.
    Workspace(Workspace),
    /// A session was deleted.
    SessionDeleted(Box<SessionDeleted>),
    /// A workspace was deleted.
    WorkspaceDeleted(Box<WorkspaceDeleted>),
    /// A delete was undone.
    Restored(Restored),
    /// How far a delete has come.
    Receipt(Box<Receipt>),
    /// What is kept was taken over, but for so many entries, which another report is to bring.
    TrashReported {
        /// How many entries are still to be written.
        left: usize,
    },
    /// A restore is asked for, or was carried out before.
    Trash(Box<TrashListed>),
    /// A list was taken in.
    Imported(Imported),
    /// A ticket was made.
    Invited(super::invite::Ticket),
    /// This node now belongs to the fleet.
    Joined(super::ids::FleetId),
    /// The member is now paused, resumed or revoked.
    Peer(NodeId),
    /// These sessions were purged here without the word of the server that has them.
    AgentPurged(Vec<SessionId>),
    /// Done, with nothing to say.
    Done,
}

/// Why a command was refused; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such session, or it is purged.
    #[error("session {0} is not known here")]
    SessionNotFound(SessionId),
    /// No such workspace, or it is gone.
    #[error("workspace {0} is not known here")]
    WorkspaceNotFound(WorkspaceId),
    /// No delete of that name has left anything to restore.
    #[error("operation {0} has nothing to restore")]
    OperationNotFound(OperationId),
    /// No delete was asked for here under that receipt, or too long ago.
    #[error("receipt {0} is not known here")]
    ReceiptNotFound(ReceiptId),
    /// The id exists on several hosts.
    #[error("{id} exists on several hosts: {}", hosts.join(", "))]
    AmbiguousId {
        /// What was asked for.
        id: String,
        /// The hosts' names.
        hosts: Vec<String>,
    },
    /// A record of that id is, or was, there.
    #[error("{id} already exists on {host}")]
    IdTaken {
        /// What was asked for.
        id: String,
        /// Where it exists.
        host: String,
    },
    /// A record of that id was there and is gone for good.
    #[error("{id} was deleted on {host} for good, and an id is used only once")]
    IdSpent {
        /// What was asked for.
        id: String,
        /// Where it was.
        host: String,
    },
    /// The parent isn't there.
    #[error("parent session {0} is not on that host")]
    ParentNotFound(SessionId),
    /// The parent is deleted.
    #[error("parent session {0} is deleted")]
    ParentDeleted(SessionId),
    /// The workspace is on another host than the session.
    #[error("workspace {workspace} is on another host than the session")]
    WorkspaceElsewhere {
        /// What was asked for.
        workspace: WorkspaceId,
    },
    /// The workspace is being ended.
    #[error("workspace {0} is sealed: its host is removing it")]
    WorkspaceSealed(WorkspaceId),
    /// The record is deleted and can't be changed until it is restored.
    #[error("session {0} is deleted")]
    SessionDeleted(SessionId),
    /// There is no failed teardown to go on with.
    #[error("workspace {0} has no failed teardown")]
    NotFailed(WorkspaceId),
    /// No host is known to keep anything under that id.
    #[error("{0} is in no trash that is known here")]
    TrashNotFound(TrashId),
    /// Its host is deleting it for good.
    #[error("{0} is being deleted for good and can't be restored any more")]
    TrashExpiring(TrashId),
    /// A field breaks a limit or a rule.
    #[error("field `{field}` {problem}")]
    InvalidField {
        /// Which, as a path.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No member has that name or key.
    #[error("no member of the fleet is called {0}")]
    NodeNotFound(String),
    /// Several members have that name or key prefix.
    #[error("{name} may be any of several members: {}", nodes.join(", "))]
    AmbiguousNode {
        /// What was asked for.
        name: String,
        /// The members it may be.
        nodes: Vec<String>,
    },
    /// The host's document has not reached this node yet.
    #[error("the document of host {0} has not arrived here yet")]
    HostNotReady(NodeId),
    /// Something else than a map stands where what is written belongs.
    #[error("{place} holds what it must not{}", by.as_ref().map(|by| format!(", written by {by}")).unwrap_or_default())]
    Blocked {
        /// Which place.
        place: String,
        /// Who has written there, if that is known.
        by: Option<String>,
    },
    /// Other nodes would not take what this writes.
    #[error("other nodes would refuse what this writes to the document of {host}: {why}")]
    Unwritable {
        /// Whose document.
        host: String,
        /// Why they would.
        why: String,
    },
    /// The host has as much as other nodes take of one.
    #[error(
        "{host} holds too much for more: its document weighs {percent} % of what other nodes take, and at {limit} % nothing more is created"
    )]
    HostFull {
        /// Which host.
        host: String,
        /// How much of the limit is used, percent.
        percent: u64,
        /// Up to where something is created, percent.
        limit: u64,
    },
    /// This node is a reader.
    #[error("this node is a reader of its fleet and writes nothing")]
    ReadOnly,
    /// The host is a reader.
    #[error("host {0} is a reader of its fleet; nothing is written to its document")]
    ReaderHost(NodeId),
    /// Only an admin may do this.
    #[error("this node is not an admin of its fleet")]
    NotAdmin,
    /// An admin has shut this node out.
    #[error("this node was revoked from its fleet by {0}")]
    ThisNodeRevoked(String),
    /// The member was an admin and has stepped down.
    #[error("{0} has stepped down as an admin; with this key it can't be one again")]
    SteppedDown(String),
    /// A role only grows.
    #[error("{name} is {role} already, and a role only grows")]
    RoleShrinks {
        /// The member.
        name: String,
        /// What it may do.
        role: &'static str,
    },
    /// As many statements about membership are held as an admin's daemon makes.
    #[error("the fleet holds {statements} statements about its members and takes no more")]
    FleetFull {
        /// How many.
        statements: usize,
    },
    /// A fleet needs an admin.
    #[error("{0} is the last admin of the fleet")]
    LastAdmin(String),
    /// The member was revoked.
    #[error("{0} is revoked")]
    Revoked(String),
    /// A node can't be its own peer.
    #[error("{0} is this node itself")]
    Oneself(String),
    /// This node belongs to a fleet with others.
    #[error("this node belongs to a fleet with others")]
    NotAlone,
    /// This node is the fleet's only member.
    #[error("this node is alone in its fleet")]
    Alone,
    /// Another join is under way.
    #[error("a join is already under way")]
    JoinUnderWay,
    /// The other side turned the join down.
    #[error("the join was refused: {reason}")]
    JoinRefused {
        /// The close code by its name.
        code: String,
        /// What the other side said.
        reason: String,
    },
    /// The node that wrote the ticket did not answer in time.
    #[error("the node that wrote the ticket could not be reached: {0}")]
    JoinUnreachable(String),
    /// The ticket is past its time by this node's clock or malformed.
    #[error("the ticket {0}")]
    BadTicket(String),
}

impl Refusal {
    /// Returns the stable code that scripts may rely on.
    pub fn code(&self) -> &'static str {
        match self {
            Self::SessionNotFound(_) => "session_not_found",
            Self::WorkspaceNotFound(_) => "workspace_not_found",
            Self::OperationNotFound(_) => "operation_not_found",
            Self::ReceiptNotFound(_) => "receipt_not_found",
            Self::AmbiguousId { .. } => "ambiguous_id",
            Self::IdTaken { .. } => "id_taken",
            Self::IdSpent { .. } => "id_spent",
            Self::ParentNotFound(_) => "parent_not_found",
            Self::ParentDeleted(_) => "parent_deleted",
            Self::WorkspaceElsewhere { .. } => "workspace_on_other_host",
            Self::WorkspaceSealed(_) => "workspace_sealed",
            Self::SessionDeleted(_) => "session_deleted",
            Self::NotFailed(_) => "teardown_not_failed",
            Self::TrashNotFound(_) => "trash_not_found",
            Self::TrashExpiring(_) => "trash_expiring",
            Self::InvalidField { .. } => "invalid_field",
            Self::NodeNotFound(_) => "node_not_found",
            Self::AmbiguousNode { .. } => "ambiguous_node",
            Self::HostNotReady(_) => "host_not_ready",
            Self::Blocked { .. } => "blocked",
            Self::Unwritable { .. } => "unwritable",
            Self::HostFull { .. } => "host_full",
            Self::ReadOnly => "read_only",
            Self::ReaderHost(_) => "reader_host",
            Self::NotAdmin => "not_admin",
            Self::ThisNodeRevoked(_) => "this_node_revoked",
            Self::SteppedDown(_) => "stepped_down",
            Self::RoleShrinks { .. } => "role_shrinks",
            Self::FleetFull { .. } => "fleet_full",
            Self::LastAdmin(_) => "last_admin",
            Self::Revoked(_) => "revoked",
            Self::Oneself(_) => "oneself",
            Self::NotAlone => "not_alone",
            Self::Alone => "alone",
            Self::JoinUnderWay => "join_under_way",
            Self::JoinRefused { .. } => "join_refused",
            Self::JoinUnreachable(_) => "join_unreachable",
            Self::BadTicket(_) => "bad_ticket",
        }
    }
}
