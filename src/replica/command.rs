//! Owns what can be asked of a replica, what is answered, and why it is refused.
//!
//! Must not know who asks (HTTP, a bridge, a timer) or how an answer is shown: a [`Refusal`] names
//! the thing and carries a stable code; hints belong to `api` and `cli`.

mod refusal;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    ids::{NodeId, OperationId, ReceiptId, SessionId, TrashId, WorkspaceId},
    receipt::Receipt,
    record::{Extra, GitState, Role, Session, TeardownAction, Workspace},
    trash::{TrashEntry, TrashListed},
};
pub use refusal::Refusal;

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
    /// Shuts a member, or a former one, out for good and hides what it hosts.
    Retire(String),
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
    /// The size of the ignored files in that worktree and its largest, as a line for a person, as its
    /// host last reported; `null` where there are none.
    pub git_ignored: Option<String>,
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
    /// The size of the ignored files in that worktree and its largest, as a line for a person, as its
    /// host last reported; `null` where there are none.
    pub git_ignored: Option<String>,
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
