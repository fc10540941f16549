//! Owns what is kept of a delete that was asked for here, and what is told of how far it has come.
//!
//! Must not know how peers tell what they hold. Invariant: a member is said to have applied a
//! delete only once it has told so itself; nothing is guessed from time or from what was sent.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ids::{ChangeHash, DocumentId, NodeId, OperationId, ReceiptId, SessionId};

/// A delete that was asked for on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredReceipt {
    /// Its name.
    pub id: ReceiptId,
    /// The act that it is the receipt of.
    pub operation: OperationId,
    /// Milliseconds since the epoch by this node's clock; for people only.
    pub at: i64,
    /// What was written to.
    pub document: DocumentId,
    /// The last change of the act: whoever has it has all of the act.
    pub change: ChangeHash,
    /// The sessions that it deleted, with the agent's server that each was marked with.
    pub sessions: Vec<(SessionId, Option<String>)>,
    /// The members that have told that they hold the change.
    pub applied: BTreeSet<NodeId>,
}

/// How far a delete has come, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Its name.
    pub receipt: ReceiptId,
    /// The act that it is the receipt of.
    pub operation: OperationId,
    /// Milliseconds since the epoch by this node's clock; for people only.
    pub at: i64,
    /// The host that carries the delete out.
    pub host: NodeId,
    /// Whether every member has applied it and no agent is still to carry it out.
    pub complete: bool,
    /// Every present member, this node too.
    pub members: Vec<ReceiptMember>,
    /// The sessions that it deleted.
    pub sessions: Vec<ReceiptSession>,
}

/// A member and whether it has applied a delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptMember {
    /// Its key.
    pub node: NodeId,
    /// What people call the machine.
    pub name: String,
    /// How far it is.
    pub state: Applying,
}

/// How far a member is with a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applying {
    /// It has told that it holds the delete.
    Applied,
    /// There is a link to it, and it has not told yet.
    Pending,
    /// There is no link to it, and it has not told before.
    Unreachable,
}

/// What has become of a session that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptSession {
    /// Which.
    pub id: SessionId,
    /// How far its end is.
    pub state: Ending,
    /// The agent's server that it was of, if it was of one.
    pub agent_server: Option<String>,
    /// Whether that server has carried the delete out; `null` where there is none to do so.
    pub agent: Option<CarryingOut>,
}

/// How far the end of a deleted session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It is marked, and can be restored until its host carries that out.
    Deleted,
    /// It was restored.
    Restored,
    /// Its host has carried the delete out, for good.
    Purged,
    /// Its host was retired, and it is hidden: nobody carries the delete out.
    Hidden,
}

/// How far an agent's server is with the delete of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CarryingOut {
    /// The undo window runs, or the server has not confirmed yet.
    Pending,
    /// The server has it no more.
    Done,
    /// The session was purged by a host that stood beside no such server.
    Unasked,
}
