//! Owns the typed difference between two views.
//!
//! Must not know automerge: it compares records, before and after. Invariant: folding a diff's
//! events into the view before gives exactly the view after, and the digest says so.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use super::digest::Digest;
use super::{
    ids::{Cursor, NodeId},
    record::{Session, SessionState, Workspace, WorkspaceState},
    view::Change,
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

/// Returns what a diff tells of changes: one event per change that shows.
///
/// A subscriber that applies the events one by one never shows a live session in a workspace that it
/// does not show: first come the workspaces that are live afterwards or appear, then the sessions,
/// then the workspaces that end; each in the order of the changes, which is that of the keys.
pub fn between(changes: &[Change]) -> Vec<Event> {
    let (mut begun, mut sessions, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        match change {
            Change::Session { before, after } => {
                sessions.extend(session_event(before.as_ref(), after.as_ref()));
            }
            Change::Workspace { before, after, dismissed } => {
                let Some(event) = workspace_event(before.as_ref(), after.as_ref(), *dismissed)
                else {
                    continue;
                };
                let is_live = after.as_ref().is_some_and(|w| w.state == WorkspaceState::Live);
                if before.is_none() || is_live { begun.push(event) } else { ended.push(event) }
            }
        }
    }
    begun.into_iter().chain(sessions).chain(ended).collect()
}

fn session_event(before: Option<&Arc<Session>>, after: Option<&Arc<Session>>) -> Option<Event> {
    let (before, after) = match (before, after) {
        (None, None) => return None,
        (None, Some(after)) => return Some(Event::SessionCreated { session: after.clone() }),
        (Some(before), None) => return Some(Event::SessionPurged { session: before.clone() }),
        (Some(before), Some(after)) => (before, after),
    };
    let session = after.clone();
    Some(match (before.state, after.state) {
        (SessionState::Live | SessionState::Stranded, SessionState::Deleted) => {
            let reason = match after.deleted {
                Some(_) => DeletedReason::Deleted,
                None => DeletedReason::ParentDeleted,
            };
            Event::SessionDeleted { session, reason }
        }
        (SessionState::Deleted, SessionState::Live) => Event::SessionRestored { session },
        (SessionState::Live | SessionState::Deleted, SessionState::Stranded) => {
            Event::SessionStranded { session }
        }
        // What stayed as it was, and what was moved out of a workspace that had ended.
        (SessionState::Live, SessionState::Live)
        | (SessionState::Deleted, SessionState::Deleted)
        | (SessionState::Stranded, SessionState::Stranded | SessionState::Live) => {
            let changed = session_fields(before, after);
            if changed.is_empty() {
                return None;
            }
            Event::SessionUpdated { session, changed }
        }
    })
}

fn workspace_event(
    before: Option<&Arc<Workspace>>,
    after: Option<&Arc<Workspace>>,
    dismissed: bool,
) -> Option<Event> {
    let (before, after) = match (before, after) {
        (None, None) => return None,
        (None, Some(after)) => return Some(Event::WorkspaceCreated { workspace: after.clone() }),
        (Some(before), None) => return Some(Event::WorkspaceGone { workspace: before.clone() }),
        (Some(before), Some(after)) => (before, after),
    };
    let workspace = after.clone();
    if before.state == after.state {
        let changed = workspace_fields(before, after);
        return (!changed.is_empty()).then_some(Event::WorkspaceUpdated { workspace, changed });
    }
    Some(match after.state {
        WorkspaceState::Live => Event::WorkspaceRestored { workspace },
        WorkspaceState::Vacated => {
            let reason = if dismissed || before.session_count == 0 {
                RemovedReason::Dismissed
            } else {
                RemovedReason::LastSession
            };
            Event::WorkspaceRemoved { workspace, reason }
        }
        WorkspaceState::Sealed => Event::WorkspaceSealed { workspace },
        WorkspaceState::Failed => Event::WorkspaceFailed { workspace },
    })
}

/// Makes a function that names the fields in which two records differ. The pattern in it makes
/// forgetting a field an error; that the list is sorted is tested.
macro_rules! differing_fields {
    ($name:ident, $record:ident { $($field:ident),* $(,)? }) => {
        fn $name(before: &$record, after: &$record) -> Vec<String> {
            let $record { $($field),* } = after;
            let mut changed = Vec::new();
            $(if before.$field != *$field {
                changed.push(stringify!($field).to_owned());
            })*
            changed
        }
    };
}

differing_fields!(
    session_fields,
    Session {
        archived_at,
        created_at,
        deleted,
        directory,
        extra,
        host,
        id,
        parent_id,
        project_id,
        state,
        title,
        updated_at,
        workspace_id,
    }
);

differing_fields!(
    workspace_fields,
    Workspace {
        branch,
        created_at,
        directory,
        extra,
        host,
        id,
        keep,
        kind,
        name,
        project_id,
        session_count,
        state,
        teardown,
        used,
    }
);
