//! Owns the names of the public fields in which two records differ.
//!
//! Must not know what the difference means. Invariant: a name is the key in the record's JSON.

use crate::replica::record::{Session, Workspace};

/// Makes a function that names the fields in which two records differ. The pattern in it makes
/// forgetting a field an error; that the list is sorted is tested.
macro_rules! differing_fields {
    ($(#[$doc:meta])* $name:ident, $record:ident { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        pub(super) fn $name(before: &$record, after: &$record) -> Vec<String> {
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
    /// Names the public fields in which two sessions differ, sorted.
    of_session,
    Session {
        agent,
        agent_server,
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
    /// Names the public fields in which two workspaces differ, sorted.
    of_workspace,
    Workspace {
        agent_server,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::replica::{
        ids::NodeId,
        record::{Deletion, SessionState, Teardown, TeardownState, WorkspaceState},
    };

    /// Returns the keys of a record's JSON, sorted.
    fn keys(record: &impl serde::Serialize) -> Vec<String> {
        let json = serde_json::to_string(record).unwrap();
        let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
        object.into_keys().collect()
    }

    #[test]
    fn every_public_field_of_a_session_that_differs_is_named_in_order_and_no_other() {
        let before = Session {
            id: "s".parse().unwrap(),
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
            state: SessionState::Live,
            deleted: None,
            extra: [].into(),
        };
        let after = Session {
            id: "t".parse().unwrap(),
            host: NodeId([8; 32]),
            workspace_id: Some("w".parse().unwrap()),
            parent_id: Some("p".parse().unwrap()),
            project_id: Some("p".into()),
            directory: Some("/".into()),
            title: Some("t".into()),
            created_at: 8,
            updated_at: 8,
            archived_at: Some(8),
            agent: Some("a".into()),
            agent_server: Some("s".into()),
            state: SessionState::Stranded,
            deleted: Some(Deletion {
                by: NodeId([1; 32]),
                at: 3,
                operation: "op".parse().unwrap(),
                reason: None,
            }),
            extra: [("k".into(), "v".into())].into(),
        };
        let all = keys(&after);
        assert_eq!(of_session(&before, &after), all);
        assert!(of_session(&after, &after).is_empty());
    }

    #[test]
    fn every_public_field_of_a_workspace_that_differs_is_named_in_order_and_no_other() {
        let before = Workspace {
            id: "w".parse().unwrap(),
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
            state: WorkspaceState::Live,
            session_count: 1,
            teardown: None,
            extra: [].into(),
        };
        let after = Workspace {
            id: "x".parse().unwrap(),
            host: NodeId([8; 32]),
            name: "x".into(),
            kind: "worktree".into(),
            project_id: Some("p".into()),
            directory: Some("/".into()),
            branch: Some("b".into()),
            keep: true,
            used: false,
            created_at: 8,
            agent_server: Some("s".into()),
            state: WorkspaceState::Failed,
            session_count: 8,
            teardown: Some(Teardown {
                state: TeardownState::Failed,
                incarnation: 1,
                at: 8,
                error: None,
                kept_until: Some(9),
            }),
            extra: [("k".into(), "v".into())].into(),
        };
        let all = keys(&after);
        assert_eq!(of_workspace(&before, &after), all);
        assert!(of_workspace(&after, &after).is_empty());
    }
}
