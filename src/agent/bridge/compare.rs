//! Owns what must be done so that this host's records say what a server's list says.
//!
//! Must not know HTTP or the loop. Invariants: only records that are marked as the server's are
//! found missing; what is deleted here is left alone, whatever the list says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::replica::{
    command::{Import, ImportedSession, ImportedWorkspace},
    ids::{SessionId, WorkspaceId},
    record::{EXTRA_SERVER, Extra, Session, SessionState, Workspace, WorkspaceState},
};

/// Fewest missing sessions that make a list suspicious although others are on it.
const MISSING_MIN: usize = 4;

/// This host's records.
#[derive(Debug, Default)]
pub struct Here {
    /// Its sessions.
    pub sessions: BTreeMap<SessionId, Arc<Session>>,
    /// Its workspaces.
    pub workspaces: BTreeMap<WorkspaceId, Arc<Workspace>>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is new there or differs.
    pub import: Import,
    /// Sessions of which only the time of the last change differs.
    pub ticked: Vec<SessionId>,
    /// Sessions that the server has no more, in any order.
    pub missing: BTreeSet<SessionId>,
    /// Empty workspaces that the server has no more.
    pub missing_workspaces: Vec<WorkspaceId>,
}

/// Marks everything in a list as the server's.
pub fn mark(list: &mut Import, server: &str) {
    for session in &mut list.sessions {
        session.agent_server = Some(server.to_owned());
    }
    for workspace in &mut list.workspaces {
        workspace.extra.insert(EXTRA_SERVER.to_owned(), server.to_owned());
    }
}

impl Here {
    /// Finds what must be done about a list that is marked.
    pub fn compare(&self, list: &Import, server: &str) -> Plan {
        let mut plan = Plan::default();
        for workspace in &list.workspaces {
            match self.workspaces.get(&workspace.id) {
                None => plan.import.workspaces.push(workspace.clone()),
                Some(known) if known.state == WorkspaceState::Live && differs(known, workspace) => {
                    plan.import.workspaces.push(workspace.clone());
                }
                Some(_) => {}
            }
        }
        for session in &list.sessions {
            let Some(known) = self.sessions.get(&session.id) else {
                plan.import.sessions.push(session.clone());
                continue;
            };
            if known.state == SessionState::Deleted || is_equal(known, session, true) {
                continue;
            }
            if is_equal(known, session, false) {
                plan.ticked.push(session.id.clone());
            }
            plan.import.sessions.push(session.clone());
        }
        let listed: BTreeSet<_> = list.sessions.iter().map(|session| &session.id).collect();
        let missing = self.alive(server).filter(|session| !listed.contains(&session.id));
        plan.missing = missing.map(|session| session.id.clone()).collect();
        let listed: BTreeSet<_> = list.workspaces.iter().map(|workspace| &workspace.id).collect();
        let missing = self.workspaces.values().filter(|workspace| {
            workspace.state == WorkspaceState::Live
                && workspace.session_count == 0
                && is_marked(&workspace.extra, server)
                && !listed.contains(&workspace.id)
        });
        plan.missing_workspaces = missing.map(|workspace| workspace.id.clone()).collect();
        plan
    }

    /// Returns those of the missing sessions whose parents aren't missing: the others go along.
    pub fn roots(&self, missing: &BTreeSet<SessionId>) -> Vec<SessionId> {
        let goes_along = |id: &&SessionId| {
            let parent = self.sessions.get(*id).and_then(|session| session.parent_id.as_ref());
            parent.is_some_and(|parent| missing.contains(parent))
        };
        missing.iter().filter(|id| !goes_along(id)).cloned().collect()
    }

    /// Tells whether so much is missing that the list needs a second look.
    pub fn is_suspicious(&self, list: &Import, plan: &Plan, server: &str) -> bool {
        let (missing, known) = (plan.missing.len(), self.alive(server).count());
        let most = missing >= MISSING_MIN && missing * 2 > known;
        missing > 0 && (list.sessions.is_empty() || most)
    }

    fn alive(&self, server: &str) -> impl Iterator<Item = &Arc<Session>> {
        let sessions = self.sessions.values();
        sessions.filter(move |session| {
            session.state != SessionState::Deleted && session.server() == Some(server)
        })
    }
}

fn is_marked(extra: &Extra, server: &str) -> bool {
    extra.get(EXTRA_SERVER).is_some_and(|marked| marked == server)
}

fn differs(known: &Workspace, listed: &ImportedWorkspace) -> bool {
    known.name != listed.name
        || known.branch != listed.branch
        || !contains(&known.extra, &listed.extra)
}

fn is_equal(known: &Session, listed: &ImportedSession, with_tick: bool) -> bool {
    known.title == listed.title
        && known.workspace_id == listed.workspace_id
        && known.project_id == listed.project_id
        && known.directory == listed.directory
        && known.archived_at == listed.archived_at
        && contains(&known.extra, &listed.extra)
        && (listed.agent.is_none() || known.agent == listed.agent)
        && (listed.agent_server.is_none() || known.agent_server == listed.agent_server)
        && (!with_tick || known.updated_at == listed.updated_at)
}

fn contains(known: &Extra, listed: &Extra) -> bool {
    listed.iter().all(|(key, value)| known.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::ids::NodeId;

    const SERVER: &str = "http://localhost:4096/";

    fn listed(id: &str, title: &str) -> ImportedSession {
        ImportedSession {
            id: id.parse().unwrap(),
            workspace_id: None,
            parent_id: None,
            project_id: None,
            directory: None,
            title: Some(title.to_owned()),
            created_at: 1,
            updated_at: 1,
            archived_at: None,
            agent: None,
            agent_server: None,
            extra: Extra::new(),
        }
    }

    fn list(ids: &[&str]) -> Import {
        let sessions = ids.iter().map(|id| listed(id, "t")).collect();
        let mut list = Import { sessions, workspaces: Vec::new() };
        mark(&mut list, SERVER);
        list
    }

    fn known(id: &str, server: &str, state: SessionState) -> Arc<Session> {
        Arc::new(Session {
            id: id.parse().unwrap(),
            host: NodeId([1; 32]),
            workspace_id: None,
            parent_id: None,
            project_id: None,
            directory: None,
            title: Some("t".to_owned()),
            created_at: 1,
            updated_at: 1,
            archived_at: None,
            agent: None,
            agent_server: Some(server.to_owned()),
            state,
            deleted: None,
            extra: Extra::new(),
        })
    }

    fn here(sessions: &[Arc<Session>]) -> Here {
        let sessions = sessions.iter().map(|s| (s.id.clone(), s.clone())).collect();
        Here { sessions, ..Here::default() }
    }

    fn ids(list: &[&str]) -> BTreeSet<SessionId> {
        list.iter().map(|id| id.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_new_or_differs_is_taken_in_and_what_is_deleted_here_is_not() {
        let here = here(&[
            known("same", SERVER, SessionState::Live),
            known("changed", SERVER, SessionState::Live),
            known("ticked", SERVER, SessionState::Stranded),
            known("deleted", SERVER, SessionState::Deleted),
            known("unmarked", "", SessionState::Live),
        ]);
        let mut list = list(&["same", "changed", "ticked", "deleted", "unmarked", "new"]);
        list.sessions[1].title = Some("another".to_owned());
        list.sessions[2].updated_at = 2;
        let plan = here.compare(&list, SERVER);
        let taken_in: BTreeSet<_> = plan.import.sessions.iter().map(|s| s.id.clone()).collect();
        assert_eq!(taken_in, ids(&["changed", "ticked", "unmarked", "new"]));
        assert_eq!(plan.ticked, ["ticked".parse().unwrap()]);
        assert!(plan.missing.is_empty());
    }

    #[test]
    fn only_alive_sessions_of_the_same_server_are_missing() {
        let here = here(&[
            known("mine", SERVER, SessionState::Live),
            known("stranded", SERVER, SessionState::Stranded),
            known("deleted", SERVER, SessionState::Deleted),
            known("other", "http://localhost:5000/", SessionState::Live),
        ]);
        let plan = here.compare(&list(&["x"]), SERVER);
        assert_eq!(plan.missing, ids(&["mine", "stranded"]));
    }

    #[test]
    fn an_empty_list_and_one_without_most_of_what_was_known_are_suspicious() {
        let suspicious = |known_ids: &[&str], listed: &[&str]| {
            let sessions = known_ids.iter().map(|id| known(id, SERVER, SessionState::Live));
            let here = here(&sessions.collect::<Vec<_>>());
            let list = list(listed);
            here.is_suspicious(&list, &here.compare(&list, SERVER), SERVER)
        };
        assert!(suspicious(&["a"], &[]));
        assert!(!suspicious(&[], &[]));
        assert!(!suspicious(&["a", "b"], &["b"]));
        assert!(!suspicious(&["a", "b", "c", "d", "e", "f", "g", "h"], &["a", "b", "c", "d"]));
        assert!(suspicious(&["a", "b", "c", "d", "e", "f", "g"], &["a", "b", "c"]));
        assert!(suspicious(&["a", "b", "c", "d"], &["x"]));
    }

    #[test]
    fn children_that_are_missing_with_their_parents_go_along() {
        let mut child = known("child", SERVER, SessionState::Live);
        Arc::make_mut(&mut child).parent_id = Some("parent".parse().unwrap());
        let here = here(&[child, known("parent", SERVER, SessionState::Live)]);
        assert_eq!(here.roots(&ids(&["child", "parent"])), ["parent".parse().unwrap()]);
        assert_eq!(here.roots(&ids(&["child"])), ["child".parse().unwrap()]);
    }
}
