//! What a host must not do after an old copy of its disk was put in place: purge a session, or end a
//! workspace, that it knew to be alive before, as all others do.

use std::collections::BTreeSet;

use sessionmesh::replica::{
    diff::{CauseKind, Diff, Event},
    ids::{ChangeHash, DocumentId, NodeId, SessionId, WorkspaceId},
    machine::Replica,
    record::{SessionState, WorkspaceState},
};

use super::{chaos::on_disk, count::Seen, world::World};

/// What a host has that is alive, as everyone knows but perhaps itself.
#[derive(Debug, Clone, Default)]
pub struct Alive {
    sessions: BTreeSet<SessionId>,
    workspaces: BTreeSet<WorkspaceId>,
}

impl Alive {
    /// Lists what a replica shows to be alive on a host.
    fn shown(replica: &Replica, host: &NodeId) -> Self {
        let sessions = replica.view().sessions_of(host);
        let sessions = sessions.filter(|session| session.state != SessionState::Deleted);
        let workspaces = replica.view().workspaces_of(host);
        let workspaces = workspaces.filter(|entry| entry.record.state == WorkspaceState::Live);
        Self {
            sessions: sessions.map(|session| session.id.clone()).collect(),
            workspaces: workspaces.map(|entry| entry.record.id.clone()).collect(),
        }
    }

    /// Keeps what is not alive in an old copy: about the rest there is nothing to learn.
    fn behind(self, replica: &Replica, host: &NodeId) -> Self {
        let known = Self::shown(replica, host);
        Self {
            sessions: &self.sessions - &known.sessions,
            workspaces: &self.workspaces - &known.workspaces,
        }
    }

    fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.workspaces.is_empty()
    }

    /// Takes note of what the host publishes, and checks that it does not end what is alive: as soon
    /// as it tells anything else of a record, it has learnt of it, or somebody there has.
    pub fn told(&mut self, diff: &Diff) {
        let is_local = diff.cause.kind == CauseKind::Local;
        let purged = diff.events.iter().filter_map(|event| match event {
            Event::SessionPurged { session } => Some(session.id.clone()),
            _ => None,
        });
        let purged: BTreeSet<SessionId> = purged.collect();
        for event in &diff.events {
            match event {
                Event::SessionPurged { session } => {
                    let with_parent =
                        session.parent_id.as_ref().is_some_and(|p| purged.contains(p));
                    assert!(
                        !is_local || with_parent || !self.sessions.contains(&session.id),
                        "{} was restored, and all but its host knew: it is purged",
                        session.id
                    );
                    self.sessions.remove(&session.id);
                }
                Event::WorkspaceSealed { workspace } => {
                    assert!(
                        !is_local || !self.workspaces.contains(&workspace.id),
                        "{} was live, and all but its host knew: it is ended",
                        workspace.id
                    );
                    self.workspaces.remove(&workspace.id);
                }
                Event::SessionCreated { session }
                | Event::SessionUpdated { session, .. }
                | Event::SessionDeleted { session, .. }
                | Event::SessionRestored { session }
                | Event::SessionStranded { session }
                | Event::SessionHidden { session } => drop(self.sessions.remove(&session.id)),
                Event::WorkspaceCreated { workspace }
                | Event::WorkspaceUpdated { workspace, .. }
                | Event::WorkspaceRemoved { workspace, .. }
                | Event::WorkspaceRestored { workspace }
                | Event::WorkspaceFailed { workspace }
                | Event::WorkspaceGone { workspace }
                | Event::WorkspaceHidden { workspace } => {
                    self.workspaces.remove(&workspace.id);
                }
            }
        }
    }
}

impl World {
    /// Returns what a node, of which an old copy of the disk is about to be put in place, hosts that is
    /// alive; nothing, unless all others know all that it has written itself.
    pub fn alive_on(&self, node: usize) -> Alive {
        let host = self.nodes[node].id;
        let own = |replica: &Replica| -> Vec<(DocumentId, Vec<ChangeHash>)> {
            let documents = replica.document_heads().into_iter();
            let own = documents.filter(|(id, ..)| id.host() == Some(host));
            own.map(|(id, heads, _)| (id, heads)).collect()
        };
        let Some(up) = &self.nodes[node].up else { return Alive::default() };
        let before = up.engine.replica();
        let known = own(before);
        let others = self.nodes.iter().filter(|other| other.number != node);
        let all_know = others
            .map(|other| on_disk(other.disk.synced_bytes()))
            .all(|other| other.fleet() == before.fleet() && own(&other) == known);
        if all_know && self.shut_out.is_none() {
            Alive::shown(before, &host)
        } else {
            Alive::default()
        }
    }

    /// Notes what a node is behind with since an old copy of its disk was put in place, and forgets what
    /// that copy knew of others.
    pub fn note_backup(&mut self, node: usize, alive: Alive) {
        let behind = alive.behind(&on_disk(self.nodes[node].disk.bytes()), &self.nodes[node].id);
        if !behind.is_empty() {
            self.fabric.counts.add(Seen::Behind);
        }
        self.forget_alive();
        self.nodes[node].alive = behind;
    }

    /// Forgets what all are known to know: from now on not all may.
    pub fn forget_alive(&mut self) {
        for node in &mut self.nodes {
            node.alive = Alive::default();
            if let Some(up) = &mut node.up {
                up.out.alive = Alive::default();
            }
        }
    }
}
