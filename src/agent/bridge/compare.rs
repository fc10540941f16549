//! Owns what must be done so that this host's records say what a server's list says.
//!
//! Must not know HTTP or the loop. Invariants: only records that are the server's are found missing,
//! and are only missing; a record of a server on another database is left alone; what a person has
//! deleted here is left alone, whatever the list says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::replica::{
    command::{Import, ImportedSession, ImportedWorkspace},
    ids::{SessionId, WorkspaceId},
    record::{DeletionReason, Extra, Session, SessionState, Workspace, WorkspaceState},
};

/// This host's records.
#[derive(Debug, Default)]
pub struct Here {
    /// Its sessions.
    pub sessions: BTreeMap<SessionId, Arc<Session>>,
    /// Its workspaces.
    pub workspaces: BTreeMap<WorkspaceId, Arc<Workspace>>,
}

/// A server, and whose records it may speak for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Speaker {
    /// The server, as records are marked with it.
    pub server: String,
    /// The servers that stand on the same database, itself among them.
    pub own: BTreeSet<String>,
    /// Servers that stand, or may stand, on another one.
    pub others: BTreeSet<String>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is new there or differs.
    pub import: Import,
    /// Sessions of which only the time of the last change differs.
    pub ticked: Vec<SessionId>,
    /// Sessions that the list lacks, in any order: the server is to be asked for each.
    pub missing: BTreeSet<SessionId>,
    /// Sessions that were deleted here in an agent's name, and are listed.
    pub back: BTreeSet<SessionId>,
    /// Sessions that are another server's, and listed here, too.
    pub foreign: BTreeMap<SessionId, String>,
    /// Empty workspaces that the list lacks.
    pub missing_workspaces: Vec<WorkspaceId>,
}

/// Marks everything in a list as the server's.
pub fn mark(list: &mut Import, server: &str) {
    for session in &mut list.sessions {
        session.agent_server = Some(server.to_owned());
    }
    for workspace in &mut list.workspaces {
        workspace.agent_server = Some(server.to_owned());
    }
}

impl Speaker {
    /// Makes one that speaks for itself alone.
    pub fn alone(server: &str) -> Self {
        let own = BTreeSet::from([server.to_owned()]);
        Self { server: server.to_owned(), own, others: BTreeSet::new() }
    }

    fn owns(&self, server: Option<&str>) -> bool {
        server.is_some_and(|server| self.own.contains(server))
    }

    fn is_foreign(&self, server: Option<&str>) -> bool {
        server.is_some_and(|server| self.others.contains(server))
    }
}

impl Here {
    /// Finds what must be done about a list that is marked. `unlisted` are the workspaces in it that
    /// were only made of what sessions say.
    pub fn compare(
        &self,
        list: &Import,
        unlisted: &BTreeSet<WorkspaceId>,
        speaker: &Speaker,
    ) -> Plan {
        let mut plan = Plan::default();
        for workspace in &list.workspaces {
            match self.workspaces.get(&workspace.id) {
                None => plan.import.workspaces.push(workspace.clone()),
                Some(known) => {
                    let server = known.agent_server.as_deref();
                    let is_open = known.state == WorkspaceState::Live
                        && !unlisted.contains(&workspace.id)
                        && !speaker.is_foreign(server);
                    let mut workspace = workspace.clone();
                    if speaker.owns(server) {
                        // Two servers on one database would each write its own name for ever.
                        workspace.agent_server = None;
                    }
                    if is_open && differs(known, &workspace) {
                        plan.import.workspaces.push(workspace);
                    }
                }
            }
        }
        for session in &list.sessions {
            let Some(known) = self.sessions.get(&session.id) else {
                plan.import.sessions.push(session.clone());
                continue;
            };
            if let Some(server) = known.server().filter(|server| speaker.is_foreign(Some(server))) {
                plan.foreign.insert(session.id.clone(), server.to_owned());
                continue;
            }
            let deleted = known.deleted.as_ref();
            if deleted.is_some_and(|it| it.reason == Some(DeletionReason::Agent)) {
                plan.back.insert(session.id.clone());
            }
            let mut session = session.clone();
            if speaker.owns(known.agent_server.as_deref()) {
                session.agent_server = None;
            }
            if known.state == SessionState::Deleted || is_equal(known, &session, true) {
                continue;
            }
            if is_equal(known, &session, false) {
                plan.ticked.push(session.id.clone());
            }
            plan.import.sessions.push(session);
        }
        let listed: BTreeSet<_> = list.sessions.iter().map(|session| &session.id).collect();
        let missing = self.alive(speaker).filter(|session| !listed.contains(&session.id));
        plan.missing = missing.map(|session| session.id.clone()).collect();
        let listed: BTreeSet<_> = list.workspaces.iter().map(|workspace| &workspace.id).collect();
        let missing = self.workspaces.values().filter(|workspace| {
            workspace.state == WorkspaceState::Live
                && workspace.session_count == 0
                && speaker.owns(workspace.agent_server.as_deref())
                && !listed.contains(&workspace.id)
        });
        plan.missing_workspaces = missing.map(|workspace| workspace.id.clone()).collect();
        plan
    }

    fn alive(&self, speaker: &Speaker) -> impl Iterator<Item = &Arc<Session>> {
        let sessions = self.sessions.values();
        sessions.filter(move |session| {
            session.state != SessionState::Deleted && speaker.owns(session.server())
        })
    }
}

fn differs(known: &Workspace, listed: &ImportedWorkspace) -> bool {
    let is_unmarked = listed.agent_server.is_some() && known.agent_server != listed.agent_server;
    known.name != listed.name
        || known.branch != listed.branch
        || is_unmarked
        || !contains(&known.extra, &listed.extra)
}

fn is_equal(known: &Session, listed: &ImportedSession, with_tick: bool) -> bool {
    let says =
        |known: &Option<String>, listed: &Option<String>| listed.is_none() || known == listed;
    known.title == listed.title
        && known.workspace_id == listed.workspace_id
        && known.project_id == listed.project_id
        && known.directory == listed.directory
        && known.archived_at == listed.archived_at
        && contains(&known.extra, &listed.extra)
        && says(&known.agent, &listed.agent)
        && says(&known.agent_server, &listed.agent_server)
        && (!with_tick || known.updated_at == listed.updated_at)
}

fn contains(known: &Extra, listed: &Extra) -> bool {
    listed.iter().all(|(key, value)| known.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{ids::NodeId, record::Deletion};

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
        let plan = here.compare(&list, &BTreeSet::new(), &Speaker::alone(SERVER));
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
        let plan = here.compare(&list(&["x"]), &BTreeSet::new(), &Speaker::alone(SERVER));
        assert_eq!(plan.missing, ids(&["mine", "stranded"]));
    }

    #[test]
    fn what_was_deleted_in_an_agents_name_comes_back_and_what_a_person_deleted_does_not() {
        let deleted = |id: &str, reason| {
            let mut session = known(id, SERVER, SessionState::Deleted);
            let (by, operation) = (NodeId([1; 32]), "op".parse().unwrap());
            Arc::make_mut(&mut session).deleted = Some(Deletion { by, at: 1, operation, reason });
            session
        };
        let here = here(&[deleted("agents", Some(DeletionReason::Agent)), deleted("mine", None)]);
        let list = list(&["agents", "mine"]);
        let plan = here.compare(&list, &BTreeSet::new(), &Speaker::alone(SERVER));
        assert_eq!((plan.back, plan.import), (ids(&["agents"]), Import::default()));
    }

    #[test]
    fn only_an_empty_workspace_that_its_host_has_marked_is_missing_whatever_its_free_fields_say() {
        let workspace = |id: &str, agent_server: Option<&str>, extra: &[(&str, &str)]| {
            let extra = extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Arc::new(Workspace {
                id: id.parse().unwrap(),
                host: NodeId([1; 32]),
                name: id.to_owned(),
                kind: "worktree".to_owned(),
                project_id: None,
                directory: None,
                branch: None,
                keep: false,
                used: false,
                created_at: 1,
                agent_server: agent_server.map(str::to_owned),
                state: WorkspaceState::Live,
                session_count: 0,
                teardown: None,
                extra: extra.collect(),
            })
        };
        let all = [
            workspace("marked", Some(SERVER), &[]),
            workspace("claimed", None, &[("agent_server", SERVER)]),
            workspace("listed", None, &[]),
        ];
        let here = Here {
            workspaces: all.into_iter().map(|one| (one.id.clone(), one)).collect(),
            ..Here::default()
        };
        let listed = ImportedWorkspace {
            id: "listed".parse().unwrap(),
            name: "listed".to_owned(),
            kind: "worktree".to_owned(),
            project_id: None,
            directory: None,
            branch: None,
            created_at: 1,
            agent_server: None,
            extra: Extra::new(),
        };
        let mut list = Import { workspaces: vec![listed], ..Import::default() };
        mark(&mut list, SERVER);
        let plan = here.compare(&list, &BTreeSet::new(), &Speaker::alone(SERVER));
        assert_eq!(plan.missing_workspaces, ["marked".parse().unwrap()]);
        assert_eq!(plan.import, list, "one that an earlier version has made is marked now");
    }

    #[test]
    fn a_server_on_the_same_database_speaks_for_the_other_and_one_on_another_does_not() {
        const OTHER: &str = "http://localhost:5000/";
        let here = here(&[
            known("theirs", OTHER, SessionState::Live),
            known("missing", OTHER, SessionState::Live),
        ]);
        let list = list(&["theirs"]);
        let mut speaker = Speaker::alone(SERVER);
        speaker.own.insert(OTHER.to_owned());
        let plan = here.compare(&list, &BTreeSet::new(), &speaker);
        assert_eq!(plan, Plan { missing: ids(&["missing"]), ..Plan::default() });
        let mut speaker = Speaker::alone(SERVER);
        speaker.others.insert(OTHER.to_owned());
        let plan = here.compare(&list, &BTreeSet::new(), &speaker);
        let foreign = [("theirs".parse().unwrap(), OTHER.to_owned())].into();
        assert_eq!(plan, Plan { foreign, ..Plan::default() });
    }
}
