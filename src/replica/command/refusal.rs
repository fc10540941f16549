//! Owns why a command is refused, and the code by which scripts know it.
//!
//! Must not know how a refusal is shown. Invariant: it names the thing, and its code stays.

use super::super::ids::{NodeId, OperationId, ReceiptId, SessionId, TrashId, WorkspaceId};

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
    #[error("this node was {what} from its fleet by {by}")]
    ThisNodeRevoked {
        /// `revoked` or `retired`.
        what: &'static str,
        /// The admin.
        by: String,
    },
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
    /// The member was retired.
    #[error("{0} is retired: what was on it is hidden")]
    Retired(String),
    /// The most senior admin is retired by nobody.
    #[error("{0} is the fleet's most senior admin, and can't be retired as such")]
    IsRoot(String),
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
            Self::ThisNodeRevoked { .. } => "this_node_revoked",
            Self::SteppedDown(_) => "stepped_down",
            Self::RoleShrinks { .. } => "role_shrinks",
            Self::FleetFull { .. } => "fleet_full",
            Self::LastAdmin(_) => "last_admin",
            Self::Revoked(_) => "revoked",
            Self::Retired(_) => "retired",
            Self::IsRoot(_) => "is_root",
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
