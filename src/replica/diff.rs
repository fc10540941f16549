//! Owns the typed difference between two views, and the digest of a view.
//!
//! Must not know automerge: it compares records, before and after. Invariant: folding a diff's
//! events into the view before gives exactly the view after, and the digest says so.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    ids::{Cursor, NodeId},
    record::{Session, Workspace},
};

/// Why a session is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeletedReason {
    /// Someone deleted it.
    Deleted,
    /// Someone deleted a parent of it.
    ParentDeleted,
}

/// Why a workspace is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovedReason {
    /// Its last session went.
    LastSession,
    /// Someone deleted it, or stopped keeping it, while it was empty.
    Dismissed,
}

/// One record's change; it carries the whole record after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
#[expect(missing_docs, reason = "the names say it; `1-semantics` of the wire contract lists them")]
pub enum Event {
    #[serde(rename = "session.created")]
    SessionCreated { session: Arc<Session> },
    #[serde(rename = "session.updated")]
    SessionUpdated { session: Arc<Session>, changed: Vec<String> },
    #[serde(rename = "session.deleted")]
    SessionDeleted { session: Arc<Session>, reason: DeletedReason },
    #[serde(rename = "session.restored")]
    SessionRestored { session: Arc<Session> },
    #[serde(rename = "session.stranded")]
    SessionStranded { session: Arc<Session> },
    /// The record as last known; it is to be removed.
    #[serde(rename = "session.purged")]
    SessionPurged { session: Arc<Session> },
    #[serde(rename = "workspace.created")]
    WorkspaceCreated { workspace: Arc<Workspace> },
    #[serde(rename = "workspace.updated")]
    WorkspaceUpdated { workspace: Arc<Workspace>, changed: Vec<String> },
    #[serde(rename = "workspace.removed")]
    WorkspaceRemoved { workspace: Arc<Workspace>, reason: RemovedReason },
    #[serde(rename = "workspace.restored")]
    WorkspaceRestored { workspace: Arc<Workspace> },
    #[serde(rename = "workspace.sealed")]
    WorkspaceSealed { workspace: Arc<Workspace> },
    #[serde(rename = "workspace.failed")]
    WorkspaceFailed { workspace: Arc<Workspace> },
    /// The record as last known; it is to be removed.
    #[serde(rename = "workspace.gone")]
    WorkspaceGone { workspace: Arc<Workspace> },
}

/// Where a change came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// A commit on this node.
    Local,
    /// A merge of what a peer sent.
    Merge,
    /// A start that found more than was last published.
    Load,
}

/// What made a view change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Where the change came from.
    pub kind: CauseKind,
    /// The node that sent it, where one did; not always its author.
    pub peer: Option<NodeId>,
    /// The nodes that wrote it.
    pub authors: Vec<NodeId>,
    /// Milliseconds since the epoch by this node's clock; for people only.
    pub at: i64,
}

/// The exact difference between the view before and after one commit or one merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// Names the view after it.
    pub cursor: Cursor,
    /// Names the view before it.
    pub previous: Cursor,
    /// The digest of the view after it.
    pub digest: Digest,
    /// What made the change.
    pub cause: Cause,
    /// At most one per record.
    pub events: Vec<Event>,
}

/// The sum mod 2^128 of the first 16 bytes (big endian) of SHA-256 over each record's RFC 8785
/// canonical JSON, written as 32 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest(pub u128);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits =
            text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let digest = digits.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        digest
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a digest is 32 hexadecimal digits"))
    }
}
