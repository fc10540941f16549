//! Owns the rule: what follows, for sessions and workspaces, from what a document says of them.
//!
//! Must not know documents or indices: each function is given the few facts that it decides on.
//! Invariant: every function is pure, total and free of clocks, so that equal documents give equal
//! states on every replica.
//!
//! ```text
//! alive(s)    =  s has no `deleted`  and  (s has no parent  or  alive(parent(s)))
//! occupied(w) =  some s: alive(s) and s.workspace_id = w
//! keep(w)     =  keepers(w) is not empty
//! live(w)     =  no teardown(w)  and  (occupied(w)  or  keep(w)  or  not used(w))
//! stranded(s) =  alive(s) and s.workspace_id = w and (teardown(w) or w is gone)
//! ```

use std::collections::BTreeSet;

use super::{
    ids::SessionId,
    record::{SessionState, StoredWorkspace, TeardownState, WorkspaceState},
};

/// What is known of a session when the chain of its children's parents reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ancestor<'a> {
    /// It was purged: a document never names a parent that it has not held.
    Missing,
    /// Whether it is alive has been found out before.
    Decided(bool),
    /// What the document says of it.
    Undecided {
        /// Whether it has a `deleted` of its own.
        deleted: bool,
        /// The session that it was started from.
        parent: Option<&'a SessionId>,
    },
}

/// Whether a session is alive, and all those for which that was found out along the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage<'a> {
    /// Holds for every session in `walked`.
    pub alive: bool,
    /// The session and those of its ancestors that were undecided.
    pub walked: BTreeSet<&'a SessionId>,
}

/// Tells whether a session is alive: neither it nor a session in the chain of its parents is
/// deleted or missing.
///
/// Two replicas that create the same ids concurrently, each the child of the other, can merge into
/// a circle: the chain ends where it repeats, and the walk takes no more steps than there are
/// sessions.
pub fn alive<'a>(
    session: &'a SessionId,
    ancestor: impl Fn(&SessionId) -> Ancestor<'a>,
) -> Lineage<'a> {
    let mut walked = BTreeSet::new();
    let mut next = Some(session);
    let alive = loop {
        let Some(at) = next.filter(|at| !walked.contains(at)) else { break true };
        match ancestor(at) {
            Ancestor::Missing => break false,
            Ancestor::Decided(alive) => break alive,
            Ancestor::Undecided { deleted, parent } => {
                walked.insert(at);
                if deleted {
                    break false;
                }
                next = parent;
            }
        }
    };
    Lineage { alive, walked }
}

/// Tells whether an alive session is in a workspace, given how many are.
pub fn occupied(session_count: u64) -> bool {
    session_count > 0
}

/// Tells whether an empty workspace stays because someone wants it to.
pub fn keep(workspace: &StoredWorkspace) -> bool {
    !workspace.keepers.is_empty()
}

/// Tells whether a workspace is there to be worked in, given how many alive sessions are in it.
pub fn live(workspace: &StoredWorkspace, session_count: u64) -> bool {
    workspace.teardown.is_none() && (occupied(session_count) || keep(workspace) || !workspace.used)
}

/// Tells whether nobody can work in a workspace any more, whatever enters it: its host has sealed
/// it, or its record is gone.
pub fn closed(workspace: Option<&StoredWorkspace>) -> bool {
    workspace.is_none_or(|workspace| workspace.teardown.is_some())
}

/// Tells whether a session is alive in a workspace that is closed; `in_closed` is `false` for a
/// session that is in no workspace.
pub fn stranded(alive: bool, in_closed: bool) -> bool {
    alive && in_closed
}

/// Returns what became of a session.
pub fn session_state(alive: bool, in_closed: bool) -> SessionState {
    if !alive {
        SessionState::Deleted
    } else if stranded(alive, in_closed) {
        SessionState::Stranded
    } else {
        SessionState::Live
    }
}

/// Returns what became of a workspace, given how many alive sessions are in it.
pub fn workspace_state(workspace: &StoredWorkspace, session_count: u64) -> WorkspaceState {
    match &workspace.teardown {
        Some(teardown) => match teardown.state {
            TeardownState::Sealed => WorkspaceState::Sealed,
            TeardownState::Failed => WorkspaceState::Failed,
        },
        None if live(workspace, session_count) => WorkspaceState::Live,
        None => WorkspaceState::Vacated,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::replica::{ids::NodeId, record::Teardown};

    /// Names, each with its own `deleted` and its parent.
    type Family = BTreeMap<SessionId, (bool, Option<SessionId>)>;

    fn id(name: &str) -> SessionId {
        name.parse().unwrap()
    }

    fn family(members: &[(&str, bool, Option<&str>)]) -> Family {
        members.iter().map(|&(name, gone, parent)| (id(name), (gone, parent.map(id)))).collect()
    }

    fn is_alive(family: &Family, name: &str) -> bool {
        alive(&id(name), |at| {
            family.get(at).map_or(Ancestor::Missing, |(deleted, parent)| Ancestor::Undecided {
                deleted: *deleted,
                parent: parent.as_ref(),
            })
        })
        .alive
    }

    fn workspace() -> StoredWorkspace {
        StoredWorkspace {
            name: "w".into(),
            kind: "directory".into(),
            project_id: None,
            directory: None,
            branch: None,
            created_at: 0,
            agent_server: None,
            keepers: BTreeMap::new(),
            used: true,
            extra: BTreeMap::new(),
            teardown: None,
            requests: BTreeMap::new(),
            dismissals: BTreeMap::new(),
        }
    }

    fn ended(state: TeardownState) -> StoredWorkspace {
        let teardown =
            Some(Teardown { state, incarnation: 1, at: 0, error: None, kept_until: None });
        StoredWorkspace { teardown, ..workspace() }
    }

    fn kept(workspace: StoredWorkspace) -> StoredWorkspace {
        let keepers = [("op".parse().unwrap(), NodeId([0; 32]))].into();
        StoredWorkspace { keepers, ..workspace }
    }

    #[test]
    fn a_session_is_alive_unless_it_or_an_ancestor_is_deleted() {
        let sound = family(&[("a", false, None), ("b", false, Some("a")), ("c", false, Some("b"))]);
        assert!(["a", "b", "c"].iter().all(|name| is_alive(&sound, name)));

        let cut = family(&[("a", false, None), ("b", true, Some("a")), ("c", false, Some("b"))]);
        assert!(is_alive(&cut, "a"));
        assert!(!is_alive(&cut, "b"));
        assert!(!is_alive(&cut, "c"));
    }

    #[test]
    fn a_session_whose_ancestor_was_purged_is_not_alive() {
        let orphans = family(&[("b", false, Some("a")), ("c", false, Some("b"))]);
        assert!(!is_alive(&orphans, "b"));
        assert!(!is_alive(&orphans, "c"));
        assert!(!is_alive(&orphans, "a"));
    }

    #[test]
    fn a_circle_of_parents_is_alive_until_one_of_it_is_deleted_and_then_no_part_of_it_is() {
        let circle = [("a", false, Some("b")), ("b", false, Some("a")), ("tail", false, Some("a"))];
        assert!(["a", "b", "tail"].iter().all(|name| is_alive(&family(&circle), name)));
        assert!(is_alive(&family(&[("own", false, Some("own"))]), "own"));

        let mut broken = circle;
        broken[1].1 = true;
        assert!(!["a", "b", "tail"].iter().any(|name| is_alive(&family(&broken), name)));
    }

    #[test]
    fn a_very_long_chain_is_walked_without_recursion() {
        let name = |n: usize| format!("s{n}");
        let mut chain: Family =
            (1..50_000).map(|n| (id(&name(n)), (false, Some(id(&name(n - 1)))))).collect();
        chain.insert(id("s0"), (false, None));
        assert!(is_alive(&chain, "s49999"));
        chain.insert(id("s0"), (true, None));
        assert!(!is_alive(&chain, "s49999"));
    }

    #[test]
    fn what_was_decided_for_an_ancestor_holds_for_all_that_were_walked() {
        let (child, parent) = (id("c"), id("p"));
        for verdict in [true, false] {
            let lineage = alive(&child, |at| match at.as_str() {
                "c" => Ancestor::Undecided { deleted: false, parent: Some(&parent) },
                _ => Ancestor::Decided(verdict),
            });
            assert_eq!(lineage, Lineage { alive: verdict, walked: [&child].into() });
        }
    }

    #[test]
    fn a_session_is_stranded_only_while_it_is_alive_in_a_closed_workspace() {
        assert_eq!(session_state(true, false), SessionState::Live);
        assert_eq!(session_state(true, true), SessionState::Stranded);
        assert_eq!(session_state(false, true), SessionState::Deleted);
        assert_eq!(session_state(false, false), SessionState::Deleted);
    }

    #[test]
    fn a_workspace_is_closed_once_it_is_sealed_failed_or_gone() {
        assert!(!closed(Some(&workspace())));
        assert!(closed(Some(&ended(TeardownState::Sealed))));
        assert!(closed(Some(&ended(TeardownState::Failed))));
        assert!(closed(None));
    }

    #[test]
    fn a_workspace_is_live_while_it_is_occupied_kept_or_not_yet_used() {
        let unused = StoredWorkspace { used: false, ..workspace() };
        assert_eq!(workspace_state(&workspace(), 1), WorkspaceState::Live);
        assert_eq!(workspace_state(&kept(workspace()), 0), WorkspaceState::Live);
        assert_eq!(workspace_state(&unused, 0), WorkspaceState::Live);
        assert_eq!(workspace_state(&workspace(), 0), WorkspaceState::Vacated);
    }

    #[test]
    fn a_teardown_outweighs_sessions_and_keeps() {
        let sealed = kept(ended(TeardownState::Sealed));
        assert_eq!(workspace_state(&sealed, 3), WorkspaceState::Sealed);
        assert!(!live(&sealed, 3));
        let failed = kept(ended(TeardownState::Failed));
        assert_eq!(workspace_state(&failed, 3), WorkspaceState::Failed);
        assert!(!live(&failed, 3));
    }
}
