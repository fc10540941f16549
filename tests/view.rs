//! Random facts against the rule, written down a second time as plainly as can be: the view that is
//! kept up in step equals the one derived from scratch, and folding its diffs gives just that view.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::{collection::vec, option, prelude::*};
use sessionmesh::replica::{
    diff::{Cause, CauseKind, Diff, between},
    digest::Digest,
    fold::{Fold, Snapshot},
    ids::{Cursor, NodeId, StartId},
    record::{
        Deletion, Session, SessionKey, SessionState, StoredSession, StoredWorkspace, Teardown,
        TeardownAction, TeardownState, Workspace, WorkspaceKey, WorkspaceState,
    },
    view::{Change, Touched, View},
};

/// Enough to see every transition in a few seconds without optimisation; `PROPTEST_CASES` overrides.
const CASES: u32 = 400;

const HOSTS: u8 = 2;
const SESSIONS: u8 = 6;
const WORKSPACES: u8 = 3;
const OPERATIONS: u8 = 3;

/// What the documents say, by key.
type Facts = (BTreeMap<SessionKey, StoredSession>, BTreeMap<WorkspaceKey, StoredWorkspace>);

fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    let chosen = std::env::var_os("PROPTEST_CASES").is_some();
    if chosen { config } else { ProptestConfig { cases: CASES, ..config } }
}

fn host() -> impl Strategy<Value = NodeId> {
    (0..HOSTS).prop_map(|n| NodeId([n; 32]))
}

fn session_key() -> impl Strategy<Value = SessionKey> {
    (host(), 0..SESSIONS)
        .prop_map(|(host, n)| SessionKey { host, id: format!("s{n}").parse().unwrap() })
}

fn workspace_key() -> impl Strategy<Value = WorkspaceKey> {
    (host(), 0..WORKSPACES)
        .prop_map(|(host, n)| WorkspaceKey { host, id: format!("w{n}").parse().unwrap() })
}

/// A session whose parent may be itself, a descendant or nobody, and whose workspace may be gone.
fn stored_session() -> impl Strategy<Value = StoredSession> {
    let parent = option::weighted(0.6, 0..=SESSIONS);
    let workspace = option::weighted(0.8, 0..=WORKSPACES);
    let deleted = option::weighted(0.25, 0..OPERATIONS);
    (parent, workspace, deleted, 0_u8..2, option::weighted(0.2, 0_i64..2)).prop_map(
        |(parent, workspace, deleted, title, archived_at)| StoredSession {
            workspace_id: workspace.map(|n| format!("w{n}").parse().unwrap()),
            parent_id: parent.map(|n| format!("s{n}").parse().unwrap()),
            project_id: None,
            directory: None,
            title: Some(title.to_string()),
            created_at: 1,
            updated_at: 2,
            archived_at,
            agent: archived_at.map(|at| at.to_string()),
            agent_server: None,
            extra: BTreeMap::new(),
            deleted: deleted.map(|n| Deletion {
                by: NodeId([0; 32]),
                at: 3,
                operation: format!("op{n}").parse().unwrap(),
                reason: None,
            }),
        },
    )
}

fn stored_workspace() -> impl Strategy<Value = StoredWorkspace> {
    let keepers = vec((0..OPERATIONS, host()), 0..2);
    let teardown = option::weighted(
        0.3,
        (prop_oneof![Just(TeardownState::Sealed), Just(TeardownState::Failed)], 1_u32..3),
    );
    let requests = vec(0..OPERATIONS, 0..2);
    let dismissals = vec((0..OPERATIONS, any::<bool>()), 0..3);
    (keepers, any::<bool>(), teardown, requests, dismissals, 0_u8..2).prop_map(
        |(keepers, used, teardown, requests, dismissals, name)| {
            let operation = |n: u8| format!("op{n}").parse().unwrap();
            StoredWorkspace {
                name: name.to_string(),
                kind: "worktree".into(),
                project_id: None,
                directory: None,
                branch: None,
                created_at: 1,
                agent_server: None,
                keepers: keepers.into_iter().map(|(n, host)| (operation(n), host)).collect(),
                used,
                extra: BTreeMap::new(),
                teardown: teardown.map(|(state, incarnation)| Teardown {
                    state,
                    incarnation,
                    at: 2,
                    error: None,
                    kept_until: None,
                }),
                requests: requests
                    .into_iter()
                    .map(|n| (operation(n), TeardownAction::Retry))
                    .collect(),
                dismissals: dismissals.into_iter().map(|(n, kept)| (operation(n), kept)).collect(),
            }
        },
    )
}

fn touched() -> impl Strategy<Value = Touched> {
    let sessions = vec((session_key(), option::weighted(0.8, stored_session())), 0..4);
    let workspaces = vec((workspace_key(), option::weighted(0.8, stored_workspace())), 0..3);
    (sessions, workspaces).prop_map(|(sessions, workspaces)| Touched {
        sessions: sessions.into_iter().collect(),
        workspaces: workspaces.into_iter().collect(),
    })
}

fn take<K: Ord, V>(facts: &mut BTreeMap<K, V>, touched: BTreeMap<K, Option<V>>) {
    for (key, value) in touched {
        match value {
            Some(value) => facts.insert(key, value),
            None => facts.remove(&key),
        };
    }
}

/// The rule, word for word.
fn alive((sessions, _): &Facts, key: &SessionKey) -> bool {
    let mut at = key.clone();
    // A chain longer than there are sessions repeats, and what repeats was found not deleted.
    for _ in 0..=sessions.len() {
        match sessions.get(&at) {
            None => return false,
            Some(facts) if facts.deleted.is_some() => return false,
            Some(facts) => match &facts.parent_id {
                None => return true,
                Some(parent) => at.id = parent.clone(),
            },
        }
    }
    true
}

fn expected_sessions(facts: &Facts) -> Vec<Session> {
    let record = |(key, stored): (&SessionKey, &StoredSession)| {
        let closed = stored.workspace_id.as_ref().is_some_and(|id| {
            let workspace = facts.1.get(&WorkspaceKey { host: key.host, id: id.clone() });
            workspace.is_none_or(|workspace| workspace.teardown.is_some())
        });
        Session {
            id: key.id.clone(),
            host: key.host,
            workspace_id: stored.workspace_id.clone(),
            parent_id: stored.parent_id.clone(),
            project_id: stored.project_id.clone(),
            directory: stored.directory.clone(),
            title: stored.title.clone(),
            created_at: stored.created_at,
            updated_at: stored.updated_at,
            archived_at: stored.archived_at,
            agent: stored.agent.clone(),
            agent_server: stored.agent_server.clone(),
            state: match (alive(facts, key), closed) {
                (false, _) => SessionState::Deleted,
                (true, true) => SessionState::Stranded,
                (true, false) => SessionState::Live,
            },
            deleted: stored.deleted.clone(),
            extra: stored.extra.clone(),
        }
    };
    facts.0.iter().map(record).collect()
}

fn expected_workspaces(facts: &Facts) -> Vec<Workspace> {
    let record = |(key, stored): (&WorkspaceKey, &StoredWorkspace)| {
        let inside = facts.0.iter().filter(|(session, stored)| {
            session.host == key.host
                && stored.workspace_id.as_ref() == Some(&key.id)
                && alive(facts, session)
        });
        let session_count = inside.count() as u64;
        let keep = !stored.keepers.is_empty();
        Workspace {
            id: key.id.clone(),
            host: key.host,
            name: stored.name.clone(),
            kind: stored.kind.clone(),
            project_id: stored.project_id.clone(),
            directory: stored.directory.clone(),
            branch: stored.branch.clone(),
            keep,
            used: stored.used,
            created_at: stored.created_at,
            agent_server: stored.agent_server.clone(),
            state: match stored.teardown.as_ref().map(|teardown| teardown.state) {
                Some(TeardownState::Sealed) => WorkspaceState::Sealed,
                Some(TeardownState::Failed) => WorkspaceState::Failed,
                None if session_count > 0 || keep || !stored.used => WorkspaceState::Live,
                None => WorkspaceState::Vacated,
            },
            session_count,
            teardown: stored.teardown.clone(),
            extra: stored.extra.clone(),
        }
    };
    facts.1.iter().map(record).collect()
}

fn rebuilt(facts: &Facts) -> View {
    let mut view = View::new();
    view.apply(Touched {
        sessions: facts.0.iter().map(|(key, facts)| (key.clone(), Some(facts.clone()))).collect(),
        workspaces: facts.1.iter().map(|(key, facts)| (key.clone(), Some(facts.clone()))).collect(),
    });
    view
}

fn cursor(sequence: usize) -> Cursor {
    Cursor { sequence: sequence as u64, start: StartId([9; 8]) }
}

fn snapshot(view: &View, sequence: usize) -> Snapshot {
    Snapshot {
        cursor: cursor(sequence),
        digest: view.digest(),
        sessions: view.sessions().cloned().collect(),
        workspaces: view.workspaces().map(|entry| entry.record.clone()).collect(),
    }
}

/// The diff of a step, as a subscriber reads it from JSON.
fn diff(changes: &[Change], view: &View, sequence: usize) -> Diff {
    let diff = Diff {
        cursor: cursor(sequence + 1),
        previous: cursor(sequence),
        digest: view.digest(),
        cause: Cause { kind: CauseKind::Local, peer: None, authors: Vec::new(), at: 0 },
        events: between(changes),
    };
    serde_json::from_str(&serde_json::to_string(&diff).unwrap()).unwrap()
}

/// How often a record is told of in a diff, at most.
fn most_events_of_a_record(diff: &Diff) -> usize {
    let mut seen: BTreeMap<(String, String, String), usize> = BTreeMap::new();
    for event in &diff.events {
        let event = serde_json::to_value(event).unwrap();
        let (kind, _) = event["type"].as_str().unwrap().split_once('.').unwrap();
        let name = |field: &str| event[kind][field].as_str().unwrap().to_owned();
        *seen.entry((kind.to_owned(), name("host"), name("id"))).or_default() += 1;
    }
    seen.values().copied().max().unwrap_or_default()
}

/// Compares every way of asking the view with a plain search through the facts.
fn check_indices(view: &View, facts: &Facts) {
    let sessions: Vec<&Arc<Session>> = view.sessions().collect();
    let all = |fits: &dyn Fn(&Session) -> bool| -> Vec<&Arc<Session>> {
        sessions.iter().copied().filter(|session| fits(session)).collect()
    };
    for h in 0..HOSTS {
        let host = NodeId([h; 32]);
        let ended = all(&|s| s.host == host && s.state != SessionState::Live);
        assert_eq!(view.ended_sessions(&host).collect::<Vec<_>>(), ended);
        let ended = view.workspaces().filter(|entry| {
            entry.record.host == host && entry.record.state != WorkspaceState::Live
        });
        assert_eq!(view.ended_workspaces(&host).collect::<Vec<_>>(), ended.collect::<Vec<_>>());
        assert_eq!(view.sessions_of(&host).collect::<Vec<_>>(), all(&|s| s.host == host));
        for n in 0..=WORKSPACES {
            let key = WorkspaceKey { host, id: format!("w{n}").parse().unwrap() };
            let inside = all(&|s| s.host == host && s.workspace_id.as_ref() == Some(&key.id));
            assert_eq!(view.sessions_in(&key).collect::<Vec<_>>(), inside);
            let stored = view.workspace(&key).map(|entry| &entry.stored);
            assert_eq!(stored, facts.1.get(&key));
        }
        for n in 0..=SESSIONS {
            let key = SessionKey { host, id: format!("s{n}").parse().unwrap() };
            let children = all(&|s| s.host == host && s.parent_id.as_ref() == Some(&key.id));
            assert_eq!(view.children(&key).collect::<Vec<_>>(), children);
            let mut family: BTreeSet<_> = [key.id.clone()].into();
            for _ in 0..SESSIONS {
                let next = all(&|s| {
                    s.host == host && s.parent_id.as_ref().is_some_and(|id| family.contains(id))
                });
                family.extend(next.into_iter().map(|session| session.id.clone()));
            }
            family.remove(&key.id);
            let descendants = all(&|s| s.host == host && family.contains(&s.id));
            assert_eq!(view.descendants(&key), descendants);
            let named = all(&|s| s.id == key.id);
            assert_eq!(view.sessions_named(&key.id).collect::<Vec<_>>(), named);
        }
    }
    for n in 0..OPERATIONS {
        let operation = format!("op{n}").parse().unwrap();
        let undoable = view.by_operation(&operation);
        let deleted = all(&|s| s.deleted.as_ref().is_some_and(|d| d.operation == operation));
        assert_eq!(undoable.sessions, deleted);
        let dismissed = view.workspaces().filter(|w| w.stored.dismissals.contains_key(&operation));
        assert_eq!(undoable.workspaces, dismissed.collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_view_kept_up_in_step_is_the_one_derived_from_scratch_and_its_diffs_fold_into_it(
        steps in vec(touched(), 1..12)
    ) {
        let mut facts = Facts::default();
        let mut view = View::new();
        let mut fold = Fold::from_snapshot(snapshot(&view, 0)).unwrap();
        for (sequence, touched) in steps.into_iter().enumerate() {
            let before = view.clone();
            let foretold = view.preview(touched.clone());
            prop_assert_eq!(&view, &before);

            take(&mut facts.0, touched.sessions.clone());
            take(&mut facts.1, touched.workspaces.clone());
            let changes = view.apply(touched);
            prop_assert_eq!(&changes, &foretold);

            // Each record is what the rule says, none is missing, and no alive session is hidden.
            let sessions: Vec<Session> = view.sessions().map(|record| (**record).clone()).collect();
            prop_assert_eq!(&sessions, &expected_sessions(&facts));
            let workspaces: Vec<Workspace> =
                view.workspaces().map(|entry| (*entry.record).clone()).collect();
            prop_assert_eq!(&workspaces, &expected_workspaces(&facts));
            for key in facts.0.keys().filter(|key| alive(&facts, key)) {
                let state = view.session(key).map(|record| record.state);
                prop_assert!(matches!(state, Some(SessionState::Live | SessionState::Stranded)));
            }

            // Digest and indices, too, are what they would be had all facts come at once.
            let sum: Digest = sessions.iter().map(Digest::of_session).sum();
            let mut digest: Digest = workspaces.iter().map(Digest::of_workspace).sum();
            digest += sum;
            prop_assert_eq!(view.digest(), digest);
            prop_assert_eq!(&view, &rebuilt(&facts));
            check_indices(&view, &facts);

            let diff = diff(&changes, &view, sequence);
            prop_assert!(most_events_of_a_record(&diff) <= 1);
            prop_assert_eq!(diff.events.len(), changes.len());
            prop_assert_eq!(diff.events.is_empty(), snapshot(&before, 0) == snapshot(&view, 0));
            fold.apply(&diff).unwrap();
            prop_assert_eq!(fold.snapshot(), snapshot(&view, sequence + 1));
        }

        // A snapshot taken at the end is what folding from the beginning led to.
        let sequence = fold.cursor().sequence as usize;
        prop_assert_eq!(Fold::from_snapshot(snapshot(&view, sequence)).unwrap(), fold);
        for h in 0..HOSTS {
            view.remove_host(NodeId([h; 32]));
        }
        prop_assert_eq!(view, View::new());
    }
}
