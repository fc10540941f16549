//! Owns the bytes of a record over which a digest is taken: its RFC 8785 canonical JSON.
//!
//! Must not know what is done with them. Invariant: they are those that a general canonicaliser
//! gives. Writing the keys in their order right away, in place of sorting them for every record,
//! costs a fraction of it, and a start takes the digest of every record there is.

use serde::{Serialize, Serializer, ser::Error as _};

use crate::replica::{
    ids::{NodeId, OperationId, SessionId, WorkspaceId},
    record::{
        Deletion, DeletionReason, Extra, Session, SessionState, Teardown, TeardownState, Workspace,
        WorkspaceState,
    },
};

/// The greatest magnitude up to which each integer is a number of its own in RFC 8785, 2^53.
const EXACT_MAX: u64 = 1 << 53;

/// Returns a session's canonical JSON.
pub(super) fn session(session: &Session) -> Vec<u8> {
    bytes(&InOrderSession::from(session), session)
}

/// Returns a workspace's canonical JSON.
pub(super) fn workspace(workspace: &Workspace) -> Vec<u8> {
    bytes(&InOrderWorkspace::from(workspace), workspace)
}

fn bytes(in_order: &impl Serialize, record: &impl Serialize) -> Vec<u8> {
    // The short way refuses an integer that RFC 8785 rounds. The general one refuses nothing of
    // which a record is made; did it, every replica would add the same, and a digest is no reason
    // to stop a daemon.
    serde_json::to_vec(in_order)
        .or_else(|_| serde_json_canonicalizer::to_vec(record))
        .unwrap_or_default()
}

/// A session with its keys sorted.
#[derive(Serialize)]
struct InOrderSession<'a> {
    agent: Option<&'a str>,
    agent_server: Option<&'a str>,
    archived_at: Option<Exact>,
    created_at: Exact,
    deleted: Option<InOrderDeletion<'a>>,
    directory: Option<&'a str>,
    extra: InOrderExtra<'a>,
    host: NodeId,
    id: &'a SessionId,
    parent_id: Option<&'a SessionId>,
    project_id: Option<&'a str>,
    state: SessionState,
    title: Option<&'a str>,
    updated_at: Exact,
    workspace_id: Option<&'a WorkspaceId>,
}

impl<'a> From<&'a Session> for InOrderSession<'a> {
    fn from(record: &'a Session) -> Self {
        let Session {
            id,
            host,
            workspace_id,
            parent_id,
            project_id,
            directory,
            title,
            created_at,
            updated_at,
            archived_at,
            agent,
            agent_server,
            state,
            deleted,
            extra,
        } = record;
        Self {
            agent: agent.as_deref(),
            agent_server: agent_server.as_deref(),
            archived_at: archived_at.map(Exact),
            created_at: Exact(*created_at),
            deleted: deleted.as_ref().map(InOrderDeletion::from),
            directory: directory.as_deref(),
            extra: InOrderExtra(extra),
            host: *host,
            id,
            parent_id: parent_id.as_ref(),
            project_id: project_id.as_deref(),
            state: *state,
            title: title.as_deref(),
            updated_at: Exact(*updated_at),
            workspace_id: workspace_id.as_ref(),
        }
    }
}

/// A deletion with its keys sorted.
#[derive(Serialize)]
struct InOrderDeletion<'a> {
    at: Exact,
    by: NodeId,
    operation: &'a OperationId,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<DeletionReason>,
}

impl<'a> From<&'a Deletion> for InOrderDeletion<'a> {
    fn from(Deletion { by, at, operation, reason }: &'a Deletion) -> Self {
        Self { at: Exact(*at), by: *by, operation, reason: *reason }
    }
}

/// A workspace with its keys sorted.
#[derive(Serialize)]
struct InOrderWorkspace<'a> {
    agent_server: Option<&'a str>,
    branch: Option<&'a str>,
    created_at: Exact,
    directory: Option<&'a str>,
    extra: InOrderExtra<'a>,
    host: NodeId,
    id: &'a WorkspaceId,
    keep: bool,
    kind: &'a str,
    name: &'a str,
    project_id: Option<&'a str>,
    session_count: Exact,
    state: WorkspaceState,
    teardown: Option<InOrderTeardown<'a>>,
    used: bool,
}

impl<'a> From<&'a Workspace> for InOrderWorkspace<'a> {
    fn from(record: &'a Workspace) -> Self {
        let Workspace {
            id,
            host,
            name,
            kind,
            project_id,
            directory,
            branch,
            keep,
            used,
            created_at,
            agent_server,
            state,
            session_count,
            teardown,
            extra,
        } = record;
        Self {
            agent_server: agent_server.as_deref(),
            branch: branch.as_deref(),
            created_at: Exact(*created_at),
            directory: directory.as_deref(),
            extra: InOrderExtra(extra),
            host: *host,
            id,
            keep: *keep,
            kind,
            name,
            project_id: project_id.as_deref(),
            session_count: Exact(i64::try_from(*session_count).unwrap_or(i64::MAX)),
            state: *state,
            teardown: teardown.as_ref().map(InOrderTeardown::from),
            used: *used,
        }
    }
}

/// A teardown with its keys sorted.
#[derive(Serialize)]
struct InOrderTeardown<'a> {
    at: Exact,
    error: Option<&'a str>,
    incarnation: u32,
    kept_until: Option<Exact>,
    state: TeardownState,
}

impl<'a> From<&'a Teardown> for InOrderTeardown<'a> {
    fn from(Teardown { state, incarnation, at, error, kept_until }: &'a Teardown) -> Self {
        Self {
            at: Exact(*at),
            error: error.as_deref(),
            incarnation: *incarnation,
            kept_until: kept_until.map(Exact),
            state: *state,
        }
    }
}

/// Free fields, sorted as RFC 8785 does, by UTF-16; Rust sorts by UTF-8.
struct InOrderExtra<'a>(&'a Extra);

impl Serialize for InOrderExtra<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.keys().all(|key| key.is_ascii()) {
            return serializer.collect_map(self.0);
        }
        let mut fields: Vec<(&String, &String)> = self.0.iter().collect();
        fields.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        serializer.collect_map(fields)
    }
}

/// An integer that RFC 8785 writes as it is; refuses to be written if it is not.
struct Exact(i64);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.unsigned_abs() > EXACT_MAX {
            return Err(S::Error::custom("an integer beyond 2^53"));
        }
        serializer.serialize_i64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::btree_map, option, prelude::*};

    use super::*;

    fn integer() -> impl Strategy<Value = i64> {
        let edge = EXACT_MAX as i64;
        prop_oneof![any::<i64>(), -3..3_i64, (edge - 2)..(edge + 3), (-edge - 2)..(3 - edge)]
    }

    /// Text with what is escaped, and with what UTF-8 and UTF-16 sort differently.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ -~]{0,6}",
            "[\u{0}-\u{1f}\"\\\\/\u{7f}é\u{2028}\u{d7ff}\u{e000}\u{ff5e}\u{10000}]{0,4}"
        ]
    }

    fn deletion() -> impl Strategy<Value = Deletion> {
        integer().prop_map(|at| Deletion {
            by: NodeId([1; 32]),
            at,
            operation: "op".parse().unwrap(),
            reason: (at % 2 == 0).then_some(DeletionReason::Agent),
        })
    }

    prop_compose! {
        fn any_session()(
            (created_at, updated_at) in (integer(), integer()),
            archived_at in option::of(integer()),
            agent in option::of(text()),
            (directory, title) in (option::of(text()), option::of(text())),
            deleted in option::of(deletion()),
            extra in btree_map(text(), text(), 0..5),
            parent in option::of(Just("ses_p")),
        ) -> Session {
            Session {
                id: "ses_1".parse().unwrap(),
                host: NodeId([0xab; 32]),
                workspace_id: None,
                parent_id: parent.map(|id| id.parse().unwrap()),
                project_id: title.clone(),
                directory,
                title,
                created_at,
                updated_at,
                archived_at,
                agent_server: agent.clone(),
                agent,
                state: SessionState::Live,
                deleted,
                extra,
            }
        }
    }

    prop_compose! {
        fn any_workspace()(
            (created_at, at, kept_until) in (integer(), integer(), option::of(integer())),
            session_count in prop_oneof![any::<u64>(), 0..3_u64],
            (name, branch, error) in (text(), option::of(text()), option::of(text())),
            server in option::of(text()),
            ended in any::<bool>(),
            extra in btree_map(text(), text(), 0..5),
        ) -> Workspace {
            let state = TeardownState::Failed;
            Workspace {
                id: "wrk_1".parse().unwrap(),
                host: NodeId([0xab; 32]),
                kind: name.clone(),
                name,
                project_id: branch.clone(),
                directory: error.clone(),
                branch,
                keep: ended,
                used: true,
                created_at,
                agent_server: server,
                state: WorkspaceState::Failed,
                session_count,
                teardown: ended.then_some(Teardown {
                    state,
                    incarnation: 7,
                    at,
                    error,
                    kept_until,
                }),
                extra,
            }
        }
    }

    proptest! {
        #[test]
        fn the_short_way_writes_what_the_general_canonicaliser_writes(
            a_session in any_session(),
            a_workspace in any_workspace(),
        ) {
            let general = serde_json_canonicalizer::to_vec(&a_session).unwrap();
            prop_assert_eq!(session(&a_session), general);
            let general = serde_json_canonicalizer::to_vec(&a_workspace).unwrap();
            prop_assert_eq!(workspace(&a_workspace), general);
        }
    }
}
