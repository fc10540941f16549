//! Owns what all documents together say, with everything that follows from it: what a UI shows.
//!
//! Must not know automerge or who reads. Invariant: after each [`View::apply`] the view is the one
//! that a fresh view would derive from all facts at once, whatever the order in which they came.

mod host;

use std::{collections::BTreeMap, sync::Arc};

pub use self::host::WorkspaceEntry;
use self::host::{HostFacts, HostView};
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
/// kept and derived host by host; what is asked for by a bare id costs one look-up per host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    hosts: BTreeMap<NodeId, HostView>,
    digest: Digest,
}

impl View {
    /// Makes an empty view.
    pub fn new() -> Self {
        Self::default()
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
            view.apply(host, facts, &mut self.digest, &mut changes);
            if view.is_empty() {
                self.hosts.remove(&host);
            }
        }
        changes
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

    /// Removes all records of a host, as when its document is dropped, and returns them.
    pub fn remove_host(&mut self, host: NodeId) -> Vec<Change> {
        let removed = self.hosts.remove(&host).map(|view| view.dissolve(&mut self.digest));
        removed.unwrap_or_default()
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
        self.hosts.values().filter_map(|view| view.session(id))
    }

    /// Returns the workspaces of that id, one per host that has it, in key order.
    pub fn workspaces_named(&self, id: &WorkspaceId) -> impl Iterator<Item = &WorkspaceEntry> {
        self.hosts.values().filter_map(|view| view.workspace(id))
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
