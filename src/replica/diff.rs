//! Owns the typed difference between two views.
//!
//! Must not know automerge: it compares records, before and after. Invariant: folding a diff's
//! events into the view before gives exactly the view after, and the digest says so.

mod fields;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use super::digest::Digest;
use super::{
    ids::{Cursor, NodeId},
    record::{DeletionReason, Session, SessionState, Workspace, WorkspaceState},
    view::Change,
};

/// About how long an event is as JSON: one of a session with a title and a directory, and what is around
/// a single one.
const EVENT_BYTES: usize = 512;

/// Why a session is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeletedReason {
    /// Someone deleted it.
    Deleted,
    /// Someone deleted a parent of it.
    ParentDeleted,
    /// Its agent's server had it no more.
    Agent,
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
#[expect(missing_docs, reason = "the names say it; `proto/diff.schema.json` lists them")]
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
    /// The record as last known; it is to be removed, and is created again if its host comes to count again.
    #[serde(rename = "session.hidden")]
    SessionHidden { session: Arc<Session> },
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
    /// The record as last known; it is to be removed, and is created again if its host comes to count again.
    #[serde(rename = "workspace.hidden")]
    WorkspaceHidden { workspace: Arc<Workspace> },
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

impl Diff {
    /// Returns it as JSON on one line.
    ///
    /// # Panics
    ///
    /// Never: it has no key but text, and no value that JSON has not.
    pub fn to_json(&self) -> Arc<str> {
        let mut json = Vec::with_capacity(EVENT_BYTES * self.events.len());
        serde_json::to_writer(&mut json, self).expect("a diff has only text keys");
        String::from_utf8(json).expect("JSON is text").into()
    }
}

/// Returns what a diff tells of changes: one event per change that shows.
///
/// First come the workspaces that are live afterwards or appear, then the sessions, then the
/// workspaces that end or stay ended; each in the order of the changes, which is that of the keys.
/// So a subscriber that applies the events one by one never shows a live session in a workspace
/// that it does not show.
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

/// Returns what a diff tells of records that are hidden with their host: the sessions, then the
/// workspaces.
pub fn hiding(changes: Vec<Change>) -> Vec<Event> {
    let (mut sessions, mut workspaces) = (Vec::new(), Vec::new());
    for change in changes {
        match change {
            Change::Session { before, .. } => {
                sessions.extend(before.map(|session| Event::SessionHidden { session }));
            }
            Change::Workspace { before, .. } => {
                workspaces.extend(before.map(|workspace| Event::WorkspaceHidden { workspace }));
            }
        }
    }
    sessions.append(&mut workspaces);
    sessions
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
            let reason = match after.deleted.as_ref().map(|deleted| deleted.reason) {
                Some(None) => DeletedReason::Deleted,
                Some(Some(DeletionReason::Agent)) => DeletedReason::Agent,
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
            let changed = fields::of_session(before, after);
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
        let changed = fields::of_workspace(before, after);
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::replica::{ids::StartId, record::Deletion};

    const SESSION_STATES: [SessionState; 3] =
        [SessionState::Live, SessionState::Deleted, SessionState::Stranded];
    const WORKSPACE_STATES: [WorkspaceState; 4] = [
        WorkspaceState::Live,
        WorkspaceState::Vacated,
        WorkspaceState::Sealed,
        WorkspaceState::Failed,
    ];

    fn deletion() -> Deletion {
        Deletion { by: NodeId([1; 32]), at: 3, operation: "op".parse().unwrap(), reason: None }
    }

    fn session(id: &str, state: SessionState) -> Arc<Session> {
        Arc::new(Session {
            id: id.parse().unwrap(),
            host: NodeId([7; 32]),
            workspace_id: None,
            parent_id: None,
            project_id: None,
            directory: None,
            title: None,
            created_at: 1,
            updated_at: 2,
            archived_at: None,
            agent: None,
            agent_server: None,
            state,
            deleted: None,
            extra: [].into(),
        })
    }

    fn workspace(id: &str, state: WorkspaceState, session_count: u64) -> Arc<Workspace> {
        Arc::new(Workspace {
            id: id.parse().unwrap(),
            host: NodeId([7; 32]),
            name: "w".into(),
            kind: "directory".into(),
            project_id: None,
            directory: None,
            branch: None,
            keep: false,
            used: true,
            created_at: 1,
            agent_server: None,
            state,
            session_count,
            teardown: None,
            extra: [].into(),
        })
    }

    fn told(change: Change) -> Option<Value> {
        let events = between(&[change]);
        assert!(events.len() <= 1);
        events.first().map(|event| serde_json::to_value(event).unwrap())
    }

    fn told_session(before: Option<&Arc<Session>>, after: Option<&Arc<Session>>) -> Option<Value> {
        told(Change::Session { before: before.cloned(), after: after.cloned() })
    }

    fn told_workspace(
        before: Option<&Arc<Workspace>>,
        after: Option<&Arc<Workspace>>,
    ) -> Option<Value> {
        told(Change::Workspace { before: before.cloned(), after: after.cloned(), dismissed: false })
    }

    fn kind(event: Option<Value>) -> String {
        event.map_or("none".into(), |event| event["type"].as_str().unwrap().into())
    }

    #[test]
    fn every_transition_of_a_session_is_told_by_its_name() {
        use SessionState::{Deleted, Live, Stranded};
        for (before, after, name) in [
            (Live, Live, "none"),
            (Live, Deleted, "session.deleted"),
            (Live, Stranded, "session.stranded"),
            (Deleted, Live, "session.restored"),
            (Deleted, Deleted, "none"),
            (Deleted, Stranded, "session.stranded"),
            (Stranded, Live, "session.updated"),
            (Stranded, Deleted, "session.deleted"),
            (Stranded, Stranded, "none"),
        ] {
            let event = told_session(Some(&session("s", before)), Some(&session("s", after)));
            assert_eq!(kind(event), name, "{before:?} to {after:?}");
        }
    }

    #[test]
    fn a_session_that_appears_is_created_and_one_that_is_gone_is_purged_in_any_state() {
        for state in SESSION_STATES {
            let record = session("s", state);
            let shown = serde_json::to_value(&record).unwrap();
            let created = told_session(None, Some(&record)).unwrap();
            assert_eq!(created, json!({ "type": "session.created", "session": shown }));
            let purged = told_session(Some(&record), None).unwrap();
            assert_eq!(purged, json!({ "type": "session.purged", "session": shown }));
        }
        assert_eq!(told_session(None, None), None);
    }

    #[test]
    fn a_deleted_session_says_whether_it_was_itself_or_a_parent_that_someone_deleted() {
        let live = session("s", SessionState::Live);
        let by_parent = session("s", SessionState::Deleted);
        let mut itself = (*by_parent).clone();
        itself.deleted = Some(deletion());
        let itself = Arc::new(itself);
        let reason = |after| told_session(Some(&live), Some(after)).unwrap()["reason"].clone();
        assert_eq!(reason(&itself), "deleted");
        assert_eq!(reason(&by_parent), "parent_deleted");
        // Deleted with its parent first and then by itself: the record changes, its state does not.
        let then = told_session(Some(&by_parent), Some(&itself)).unwrap();
        assert_eq!(
            (&then["type"], &then["changed"]),
            (&json!("session.updated"), &json!(["deleted"]))
        );
    }

    #[test]
    fn a_session_that_leaves_a_closed_workspace_is_updated_in_its_state_too() {
        let stranded = session("s", SessionState::Stranded);
        let mut moved = (*stranded).clone();
        moved.state = SessionState::Live;
        moved.workspace_id = Some("w".parse().unwrap());
        let event = told_session(Some(&stranded), Some(&Arc::new(moved))).unwrap();
        assert_eq!(event["changed"], json!(["state", "workspace_id"]));
    }

    #[test]
    fn every_transition_of_a_workspace_is_told_by_its_name() {
        for before in WORKSPACE_STATES {
            for after in WORKSPACE_STATES {
                let name = match after {
                    _ if before == after => "none",
                    WorkspaceState::Live => "workspace.restored",
                    WorkspaceState::Vacated => "workspace.removed",
                    WorkspaceState::Sealed => "workspace.sealed",
                    WorkspaceState::Failed => "workspace.failed",
                };
                let event = told_workspace(
                    Some(&workspace("w", before, 0)),
                    Some(&workspace("w", after, 0)),
                );
                assert_eq!(kind(event), name, "{before:?} to {after:?}");
            }
        }
    }

    #[test]
    fn a_workspace_that_appears_is_created_and_one_whose_record_is_gone_is_gone_in_any_state() {
        for state in WORKSPACE_STATES {
            let record = workspace("w", state, 0);
            let shown = serde_json::to_value(&record).unwrap();
            let created = told_workspace(None, Some(&record)).unwrap();
            assert_eq!(created, json!({ "type": "workspace.created", "workspace": shown }));
            let gone = told_workspace(Some(&record), None).unwrap();
            assert_eq!(gone, json!({ "type": "workspace.gone", "workspace": shown }));
        }
        assert_eq!(told_workspace(None, None), None);
    }

    #[test]
    fn a_removed_workspace_says_whether_its_last_session_went_or_someone_dismissed_it() {
        let reason = |session_count, dismissed| {
            let event = told(Change::Workspace {
                before: Some(workspace("w", WorkspaceState::Live, session_count)),
                after: Some(workspace("w", WorkspaceState::Vacated, 0)),
                dismissed,
            });
            event.unwrap()["reason"].clone()
        };
        assert_eq!(reason(2, false), "last_session");
        assert_eq!(reason(2, true), "dismissed");
        assert_eq!(reason(0, false), "dismissed");
        assert_eq!(reason(0, true), "dismissed");
    }

    #[test]
    fn a_change_of_the_count_alone_is_an_update() {
        let event = told_workspace(
            Some(&workspace("w", WorkspaceState::Live, 1)),
            Some(&workspace("w", WorkspaceState::Live, 2)),
        );
        let event = event.unwrap();
        assert_eq!(event["type"], "workspace.updated");
        assert_eq!(event["changed"], json!(["session_count"]));
        assert_eq!(event["workspace"]["session_count"], 2);
    }

    #[test]
    fn workspaces_begin_before_and_end_after_the_sessions_of_the_same_diff() {
        let change = |before, after| Change::Workspace { before, after, dismissed: false };
        let at = |id, state, count| Some(workspace(id, state, count));
        let changes = [
            Change::Session { before: None, after: Some(session("s", SessionState::Live)) },
            change(at("a", WorkspaceState::Live, 1), at("a", WorkspaceState::Vacated, 0)),
            change(at("b", WorkspaceState::Sealed, 0), None),
            change(at("c", WorkspaceState::Live, 1), at("c", WorkspaceState::Live, 2)),
            change(None, at("d", WorkspaceState::Vacated, 0)),
            change(at("e", WorkspaceState::Vacated, 0), at("e", WorkspaceState::Live, 1)),
            change(at("f", WorkspaceState::Vacated, 0), at("f", WorkspaceState::Sealed, 0)),
        ];
        let names: Vec<String> = between(&changes)
            .iter()
            .map(|event| kind(Some(serde_json::to_value(event).unwrap())))
            .collect();
        assert_eq!(
            names,
            [
                "workspace.updated",
                "workspace.created",
                "workspace.restored",
                "session.created",
                "workspace.removed",
                "workspace.gone",
                "workspace.sealed",
            ]
        );
    }

    #[test]
    fn a_diff_is_written_as_the_contract_shows_it_and_reads_back() {
        let mut deleted = (*session("s", SessionState::Deleted)).clone();
        deleted.deleted = Some(deletion());
        let changes = [
            Change::Session {
                before: Some(session("s", SessionState::Live)),
                after: Some(Arc::new(deleted)),
            },
            Change::Workspace {
                before: Some(workspace("w", WorkspaceState::Live, 1)),
                after: Some(workspace("w", WorkspaceState::Vacated, 0)),
                dismissed: false,
            },
        ];
        let start = StartId([0xcd; 8]);
        let diff = Diff {
            cursor: Cursor { sequence: 2, start },
            previous: Cursor { sequence: 1, start },
            digest: Digest(0xff),
            cause: Cause {
                kind: CauseKind::Merge,
                peer: None,
                authors: vec![NodeId([1; 32])],
                at: 1_795_379_110_867,
            },
            events: between(&changes),
        };
        let (host, by) = ("07".repeat(32), "01".repeat(32));
        let expected = json!({
            "cursor": "cdcdcdcdcdcdcdcd-2",
            "previous": "cdcdcdcdcdcdcdcd-1",
            "digest": "000000000000000000000000000000ff",
            "cause": {
                "kind": "merge", "peer": null, "authors": [by], "at": 1_795_379_110_867_u64
            },
            "events": [
                {
                    "type": "session.deleted",
                    "session": {
                        "id": "s", "host": host, "workspace_id": null, "parent_id": null,
                        "project_id": null, "directory": null, "title": null, "created_at": 1,
                        "updated_at": 2, "archived_at": null, "agent": null,
                        "agent_server": null, "state": "deleted",
                        "deleted": { "by": by, "at": 3, "operation": "op" }, "extra": {}
                    },
                    "reason": "deleted"
                },
                {
                    "type": "workspace.removed",
                    "workspace": {
                        "id": "w", "host": host, "name": "w", "kind": "directory",
                        "project_id": null, "directory": null, "branch": null, "keep": false,
                        "used": true, "created_at": 1, "agent_server": null,
                        "state": "vacated", "session_count": 0,
                        "teardown": null, "extra": {}
                    },
                    "reason": "last_session"
                }
            ]
        });
        assert_eq!(serde_json::to_value(&diff).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Diff>(expected).unwrap(), diff);
    }
}
