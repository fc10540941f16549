//! Owns what all documents together say, with everything that follows from it: what a UI shows.
//!
//! Must not know automerge or who reads. Invariant: after each [`View::apply`] the view is the one
//! that a fresh view would derive from all facts at once, whatever the order in which they came.

mod host;
mod named;

use std::{collections::BTreeMap, sync::Arc};

pub use self::host::WorkspaceEntry;
use self::{
    host::{HostFacts, HostView},
    named::Named,
};
use super::{
    digest::Digest,
    ids::{NodeId, OperationId, SessionId, WorkspaceId},
    record::{Session, SessionKey, StoredSession, StoredWorkspace, Workspace, WorkspaceKey},
};

/// What the documents now say of the records that a change touched; `None` means that the record
/// is not there any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// By session.
    pub sessions: BTreeMap<SessionKey, Option<StoredSession>>,
    /// By workspace.
    pub workspaces: BTreeMap<WorkspaceKey, Option<StoredWorkspace>>,
}

impl Touched {
    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.workspaces.is_empty()
    }
}

/// A record before and after; `None` where it was not there. The two differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A session's.
    Session {
        /// As it was.
        before: Option<Arc<Session>>,
        /// As it is.
        after: Option<Arc<Session>>,
    },
    /// A workspace's.
    Workspace {
        /// As it was.
        before: Option<Arc<Workspace>>,
        /// As it is.
        after: Option<Arc<Workspace>>,
        /// Whether a delete of the workspace as a whole has come to be known with it.
        dismissed: bool,
    },
}

/// What one act of deleting has left that can be restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Undoable<'a> {
    /// The sessions whose own `deleted` names the act, in key order.
    pub sessions: Vec<&'a Arc<Session>>,
    /// The workspaces that it dismissed, in key order.
    pub workspaces: Vec<&'a WorkspaceEntry>,
}

impl Undoable<'_> {
    /// Tells whether there is nothing to restore.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.workspaces.is_empty()
    }
}

/// All sessions and workspaces of a fleet, with their derived states.
///
/// Parents and workspaces are on the same host as the sessions that name them, so everything is
/// kept and derived host by host; what is asked for by a bare id is found over all hosts at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    hosts: BTreeMap<NodeId, HostView>,
    digest: Digest,
    named_sessions: Named,
    named_workspaces: Named,
}

impl View {
    /// Makes an empty view.
    pub fn new() -> Self {
        Self::default()
    }

    /// Derives the view of one host from all that its document says, in no order; returns it with what
    /// it differs by from an empty one: what [`View::apply`] makes of the same facts, in a fraction of
    /// the time.
    pub fn of_host(
        host: NodeId,
        sessions: Vec<(SessionId, StoredSession)>,
        workspaces: Vec<(WorkspaceId, StoredWorkspace)>,
    ) -> (Self, Vec<Change>) {
        let (mut view, mut changes) = (Self::new(), Vec::new());
        let of_host = HostView::whole(host, sessions, workspaces, &mut view.digest, &mut changes);
        if !of_host.is_empty() {
            let sessions = of_host.sessions().map(|session| session.id.as_str());
            view.named_sessions = Named::of(&host, sessions);
            let workspaces = of_host.workspaces().map(|entry| entry.record.id.as_str());
            view.named_workspaces = Named::of(&host, workspaces);
            view.hosts.insert(host, of_host);
        }
        (view, changes)
    }

    /// Takes over what the documents now say, derives what follows from it, and returns the
    /// records that differ from before: at most one change per record, host by host, sessions
    /// before workspaces, in key order.
    ///
    /// Costs as much as what changed: the touched records, the descendants of a session that was
    /// deleted or came back, and the sessions of a workspace that was closed.
    pub fn apply(&mut self, touched: Touched) -> Vec<Change> {
        let mut by_host: BTreeMap<NodeId, HostFacts> = BTreeMap::new();
        for (key, facts) in touched.sessions {
            by_host.entry(key.host).or_default().sessions.insert(key.id, facts);
        }
        for (key, facts) in touched.workspaces {
            by_host.entry(key.host).or_default().workspaces.insert(key.id, facts);
        }
        let mut changes = Vec::new();
        for (host, facts) in by_host {
            let view = self.hosts.entry(host).or_default();
            let known = changes.len();
            view.apply(host, facts, &mut self.digest, &mut changes);
            if view.is_empty() {
                self.hosts.remove(&host);
            }
            self.name(&host, &changes[known..]);
        }
        changes
    }

    /// Notes which ids have come, and which have gone.
    fn name(&mut self, host: &NodeId, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Session { before: None, after: Some(it) } => {
                    self.named_sessions.add(host, it.id.as_str());
                }
                Change::Session { before: Some(it), after: None } => {
                    self.named_sessions.remove(host, it.id.as_str());
                }
                Change::Workspace { before: None, after: Some(it), .. } => {
                    self.named_workspaces.add(host, it.id.as_str());
                }
                Change::Workspace { before: Some(it), after: None, .. } => {
                    self.named_workspaces.remove(host, it.id.as_str());
                }
                Change::Session { .. } | Change::Workspace { .. } => {}
            }
        }
    }

    /// Returns what [`View::apply`] would, and leaves the view as it was.
    pub fn preview(&mut self, touched: Touched) -> Vec<Change> {
        let sessions = touched.sessions.keys().map(|key| {
            let facts = self.session(key).map(|session| host::facts_of(session));
            (key.clone(), facts)
        });
        let workspaces = touched
            .workspaces
            .keys()
            .map(|key| (key.clone(), self.workspace(key).map(|entry| entry.stored.clone())));
        let undo = Touched { sessions: sessions.collect(), workspaces: workspaces.collect() };
        let changes = self.apply(touched);
        self.apply(undo);
        changes
    }

    /// Takes over all of a view of other hosts.
    ///
    /// # Panics
    ///
    /// If both have records of one host, which would have to be derived together.
    pub fn join(&mut self, other: Self) {
        for (host, view) in other.hosts {
            let before = self.hosts.insert(host, view);
            assert!(before.is_none(), "host {host} is in both views");
        }
        self.digest += other.digest;
        self.named_sessions.join(other.named_sessions);
        self.named_workspaces.join(other.named_workspaces);
    }

    /// Removes all records of a host, as when its document is dropped, and returns them.
    pub fn remove_host(&mut self, host: NodeId) -> Vec<Change> {
        let removed = self.hosts.remove(&host).map(|view| view.dissolve(&mut self.digest));
        let changes = removed.unwrap_or_default();
        self.name(&host, &changes);
        changes
    }

    /// Returns a session; its record holds all that its document says of it.
    pub fn session(&self, key: &SessionKey) -> Option<&Arc<Session>> {
        self.hosts.get(&key.host)?.session(&key.id)
    }

    /// Returns a workspace.
    pub fn workspace(&self, key: &WorkspaceKey) -> Option<&WorkspaceEntry> {
        self.hosts.get(&key.host)?.workspace(&key.id)
    }

    /// Returns all sessions in key order.
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.hosts.values().flat_map(HostView::sessions)
    }

    /// Returns all workspaces in key order.
    pub fn workspaces(&self) -> impl Iterator<Item = &WorkspaceEntry> {
        self.hosts.values().flat_map(HostView::workspaces)
    }

    /// Returns the sessions of one host in key order.
    pub fn sessions_of(&self, host: &NodeId) -> impl Iterator<Item = &Arc<Session>> {
        self.hosts.get(host).into_iter().flat_map(HostView::sessions)
    }

    /// Returns the workspaces of one host in key order.
    pub fn workspaces_of(&self, host: &NodeId) -> impl Iterator<Item = &WorkspaceEntry> {
        self.hosts.get(host).into_iter().flat_map(HostView::workspaces)
    }

    /// Returns the sessions of one host that are not live, in key order: what its host may have to
    /// purge. Costs as much as there are.
    pub fn ended_sessions(&self, host: &NodeId) -> impl Iterator<Item = &Arc<Session>> {
        self.hosts.get(host).into_iter().flat_map(HostView::ended_sessions)
    }

    /// Returns the workspaces of one host that are not live, in key order: what its host may have
    /// to seal or tear down. Costs as much as there are.
    pub fn ended_workspaces(&self, host: &NodeId) -> impl Iterator<Item = &WorkspaceEntry> {
        self.hosts.get(host).into_iter().flat_map(HostView::ended_workspaces)
    }

    /// Returns the sessions that name a workspace, whatever their state and whether or not it
    /// still exists, in key order.
    pub fn sessions_in(&self, workspace: &WorkspaceKey) -> impl Iterator<Item = &Arc<Session>> {
        self.hosts.get(&workspace.host).into_iter().flat_map(|view| view.sessions_in(&workspace.id))
    }

    /// Returns the sessions that name a session as their parent, whatever their state and whether
    /// or not it still exists, in key order.
    pub fn children(&self, parent: &SessionKey) -> impl Iterator<Item = &Arc<Session>> {
        self.hosts.get(&parent.host).into_iter().flat_map(|view| view.children(&parent.id))
    }

    /// Returns the children of a session, their children and so on, without itself, in key order.
    pub fn descendants(&self, ancestor: &SessionKey) -> Vec<&Arc<Session>> {
        self.hosts.get(&ancestor.host).map_or_else(Vec::new, |view| view.descendants(&ancestor.id))
    }

    /// Returns the sessions of that id, one per host that has it, in key order.
    pub fn sessions_named(&self, id: &SessionId) -> impl Iterator<Item = &Arc<Session>> {
        let hosts = self.named_sessions.hosts(id.as_str());
        let views = hosts.flat_map(|hosts| self.hosts.range(hosts));
        views.filter_map(|(_, view)| view.session(id))
    }

    /// Returns the workspaces of that id, one per host that has it, in key order.
    pub fn workspaces_named(&self, id: &WorkspaceId) -> impl Iterator<Item = &WorkspaceEntry> {
        let hosts = self.named_workspaces.hosts(id.as_str());
        let views = hosts.flat_map(|hosts| self.hosts.range(hosts));
        views.filter_map(|(_, view)| view.workspace(id))
    }

    /// Returns what one act of deleting has left that can be restored.
    pub fn by_operation(&self, operation: &OperationId) -> Undoable<'_> {
        let mut undoable = Undoable::default();
        for view in self.hosts.values() {
            undoable.sessions.extend(view.deleted_by(operation));
            undoable.workspaces.extend(view.dismissed_by(operation));
        }
        undoable
    }

    /// Returns the digest of all records.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::record::{Deletion, SessionState, Teardown, TeardownState, WorkspaceState};

    const HOST: NodeId = NodeId([7; 32]);
    const OTHER: NodeId = NodeId([8; 32]);

    fn sid(id: &str) -> SessionKey {
        SessionKey { host: HOST, id: id.parse().unwrap() }
    }

    fn wid(id: &str) -> WorkspaceKey {
        WorkspaceKey { host: HOST, id: id.parse().unwrap() }
    }

    fn session(workspace: Option<&str>, parent: Option<&str>) -> StoredSession {
        StoredSession {
            workspace_id: workspace.map(|id| id.parse().unwrap()),
            parent_id: parent.map(|id| id.parse().unwrap()),
            project_id: None,
            directory: None,
            title: None,
            created_at: 0,
            updated_at: 0,
            archived_at: None,
            agent: None,
            agent_server: None,
            extra: [].into(),
            deleted: None,
        }
    }

    fn deleted(session: StoredSession, operation: &str) -> StoredSession {
        let operation = operation.parse().unwrap();
        StoredSession {
            deleted: Some(Deletion { by: HOST, at: 0, operation, reason: None }),
            ..session
        }
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
            keepers: [].into(),
            used: true,
            extra: [].into(),
            teardown: None,
            requests: [].into(),
            dismissals: [].into(),
        }
    }

    fn sealed() -> StoredWorkspace {
        let state = TeardownState::Sealed;
        let teardown =
            Some(Teardown { state, incarnation: 1, at: 0, error: None, kept_until: None });
        StoredWorkspace { teardown, ..workspace() }
    }

    fn put_session(id: &str, facts: impl Into<Option<StoredSession>>) -> Touched {
        Touched { sessions: [(sid(id), facts.into())].into(), ..Touched::default() }
    }

    fn put_workspace(id: &str, facts: impl Into<Option<StoredWorkspace>>) -> Touched {
        Touched { workspaces: [(wid(id), facts.into())].into(), ..Touched::default() }
    }

    /// A workspace `w` with the sessions named, each without a parent.
    fn view_with(sessions: &[&str]) -> View {
        let mut view = View::new();
        view.apply(put_workspace("w", workspace()));
        for id in sessions {
            view.apply(put_session(id, session(Some("w"), None)));
        }
        view
    }

    fn state(view: &View, id: &str) -> SessionState {
        view.session(&sid(id)).unwrap().state
    }

    fn room(view: &View, id: &str) -> (WorkspaceState, u64) {
        let record = &view.workspace(&wid(id)).unwrap().record;
        (record.state, record.session_count)
    }

    #[test]
    fn the_last_session_to_be_deleted_vacates_its_workspace_and_a_restore_brings_it_back() {
        let mut view = view_with(&["a", "b"]);
        assert_eq!(room(&view, "w"), (WorkspaceState::Live, 2));
        view.apply(put_session("a", deleted(session(Some("w"), None), "op")));
        assert_eq!(room(&view, "w"), (WorkspaceState::Live, 1));
        view.apply(put_session("b", deleted(session(Some("w"), None), "op")));
        assert_eq!(room(&view, "w"), (WorkspaceState::Vacated, 0));
        assert_eq!(view.ended_workspaces(&HOST).count(), 1);
        view.apply(put_session("a", session(Some("w"), None)));
        assert_eq!(room(&view, "w"), (WorkspaceState::Live, 1));
        assert_eq!(view.ended_workspaces(&HOST).count(), 0);
    }

    #[test]
    fn a_move_counts_in_the_new_workspace_and_no_longer_in_the_old_one() {
        let mut view = view_with(&["a"]);
        view.apply(put_workspace("v", workspace()));
        let changes = view.apply(put_session("a", session(Some("v"), None)));
        assert_eq!(changes.len(), 3);
        assert_eq!(room(&view, "w"), (WorkspaceState::Vacated, 0));
        assert_eq!(room(&view, "v"), (WorkspaceState::Live, 1));
    }

    #[test]
    fn a_seal_strands_the_sessions_of_its_workspace_and_a_move_frees_them() {
        let mut view = view_with(&["a", "b"]);
        view.apply(put_session("b", deleted(session(Some("w"), None), "op")));
        let changes = view.apply(put_workspace("w", sealed()));
        assert_eq!(changes.len(), 2);
        assert_eq!(state(&view, "a"), SessionState::Stranded);
        assert_eq!(state(&view, "b"), SessionState::Deleted);
        assert_eq!(room(&view, "w"), (WorkspaceState::Sealed, 1));
        view.apply(put_session("a", session(None, None)));
        assert_eq!(state(&view, "a"), SessionState::Live);
        assert_eq!(room(&view, "w"), (WorkspaceState::Sealed, 0));
    }

    #[test]
    fn a_session_in_a_workspace_that_is_gone_is_stranded_and_still_found() {
        let mut view = view_with(&["a"]);
        view.apply(put_workspace("w", None));
        assert_eq!(state(&view, "a"), SessionState::Stranded);
        assert_eq!(view.sessions_in(&wid("w")).count(), 1);
        view.apply(put_session("late", session(Some("w"), None)));
        assert_eq!(state(&view, "late"), SessionState::Stranded);
    }

    #[test]
    fn a_delete_takes_all_descendants_along_and_a_restore_brings_back_those_not_deleted_themselves()
    {
        let mut view = view_with(&["p"]);
        view.apply(put_session("c", session(Some("w"), Some("p"))));
        view.apply(put_session("d", deleted(session(Some("w"), Some("p")), "own")));
        view.apply(put_session("g", session(Some("w"), Some("c"))));
        assert_eq!(room(&view, "w"), (WorkspaceState::Live, 3));
        let family = view.descendants(&sid("p"));
        assert_eq!(family.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["c", "d", "g"]);

        view.apply(put_session("p", deleted(session(Some("w"), None), "op")));
        assert!(["p", "c", "d", "g"].iter().all(|id| state(&view, id) == SessionState::Deleted));
        assert_eq!(room(&view, "w"), (WorkspaceState::Vacated, 0));

        view.apply(put_session("p", session(Some("w"), None)));
        assert!(["p", "c", "g"].iter().all(|id| state(&view, id) == SessionState::Live));
        assert_eq!(state(&view, "d"), SessionState::Deleted);
        assert_eq!(room(&view, "w"), (WorkspaceState::Live, 3));
    }

    #[test]
    fn a_child_whose_parent_is_purged_before_it_is_not_alive() {
        let mut view = view_with(&["p"]);
        view.apply(put_session("c", session(Some("w"), Some("p"))));
        view.apply(put_session("p", None));
        assert_eq!(state(&view, "c"), SessionState::Deleted);
        assert_eq!(view.children(&sid("p")).count(), 1);
        assert_eq!(room(&view, "w"), (WorkspaceState::Vacated, 0));
    }

    #[test]
    fn parents_in_a_circle_live_and_die_together() {
        let mut view = View::new();
        let mut circle = put_session("a", session(None, Some("b")));
        circle.sessions.extend(put_session("b", session(None, Some("a"))).sessions);
        view.apply(circle);
        assert_eq!(
            (state(&view, "a"), state(&view, "b")),
            (SessionState::Live, SessionState::Live)
        );
        view.apply(put_session("b", deleted(session(None, Some("a")), "op")));
        assert_eq!(state(&view, "a"), SessionState::Deleted);
        view.apply(put_session("b", session(None, Some("a"))));
        assert_eq!(state(&view, "a"), SessionState::Live);
        assert_eq!(view.descendants(&sid("a")).len(), 1);
    }

    #[test]
    fn a_title_is_changed_without_a_look_at_descendants_or_count() {
        let mut view = view_with(&["p"]);
        view.apply(put_session("c", session(Some("w"), Some("p"))));
        let title = Some("new".into());
        let named = StoredSession { title, ..session(Some("w"), None) };
        let changes = view.apply(put_session("p", named.clone()));
        assert_eq!(changes.len(), 1);
        assert_eq!(view.apply(put_session("p", named)), []);
    }

    #[test]
    fn what_is_not_shown_is_taken_over_without_a_change_to_tell() {
        let mut view = view_with(&["a"]);
        let digest = view.digest();
        let dismissals = [("op".parse().unwrap(), false)].into();
        let facts = StoredWorkspace { dismissals, ..workspace() };
        assert_eq!(view.apply(put_workspace("w", facts.clone())), []);
        assert_eq!(view.digest(), digest);
        assert_eq!(view.workspace(&wid("w")).unwrap().stored, facts);
        let undoable = view.by_operation(&"op".parse().unwrap());
        assert_eq!(undoable.workspaces.len(), 1);
    }

    #[test]
    fn a_dismissal_is_reported_with_the_change_that_brought_it_and_not_again() {
        let dismissed = |changes: Vec<Change>| {
            changes
                .into_iter()
                .any(|change| matches!(change, Change::Workspace { dismissed: true, .. }))
        };
        let mut view = view_with(&["a"]);
        let dismissals = [("op".parse().unwrap(), false)].into();
        let facts = StoredWorkspace { dismissals, ..workspace() };
        let mut delete = put_workspace("w", facts.clone());
        delete.sessions = put_session("a", deleted(session(Some("w"), None), "op")).sessions;
        assert!(dismissed(view.apply(delete)));
        let renamed = StoredWorkspace { name: "new".into(), ..facts };
        assert!(!dismissed(view.apply(put_workspace("w", renamed))));
        let operation = "op".parse().unwrap();
        assert_eq!(view.by_operation(&operation).sessions.len(), 1);
        view.apply(put_session("a", session(Some("w"), None)));
        assert!(view.by_operation(&operation).sessions.is_empty());
    }

    #[test]
    fn the_same_ids_on_two_hosts_are_two_records() {
        let mut view = view_with(&["a"]);
        let twin = SessionKey { host: OTHER, id: sid("a").id };
        let elsewhere = [(twin.clone(), Some(session(Some("w"), None)))].into();
        view.apply(Touched { sessions: elsewhere, ..Touched::default() });
        assert_eq!(view.sessions_named(&sid("a").id).count(), 2);
        assert_eq!(view.session(&twin).unwrap().state, SessionState::Stranded);
        assert_eq!(state(&view, "a"), SessionState::Live);
        assert_eq!(room(&view, "w"), (WorkspaceState::Live, 1));
    }

    #[test]
    fn a_preview_tells_what_would_change_and_changes_nothing() {
        let mut view = view_with(&["a"]);
        let before = view.clone();
        let delete = put_session("a", deleted(session(Some("w"), None), "op"));
        let foretold = view.preview(delete.clone());
        assert_eq!(view, before);
        assert_eq!(foretold, view.apply(delete));
        assert_ne!(view, before);
    }

    #[test]
    fn a_host_is_removed_with_all_its_records_and_nothing_else() {
        let mut view = View::new();
        let elsewhere = SessionKey { host: OTHER, id: sid("a").id };
        let other = [(elsewhere, Some(session(None, None)))].into();
        view.apply(Touched { sessions: other, ..Touched::default() });
        let before = view.clone();
        view.apply(put_workspace("w", workspace()));
        view.apply(put_session("a", session(Some("w"), None)));
        assert_eq!(view.remove_host(HOST).len(), 2);
        assert_eq!(view, before);
        assert_eq!(view.remove_host(HOST), []);
    }
}
