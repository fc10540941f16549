//! Owns the records of one host, the indices over them, and their re-derivation.
//!
//! Must not know other hosts. Invariant: every index, count and state is what the facts alone give;
//! no index has an entry that is empty.

mod whole;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Change;
use crate::replica::{
    digest::Digest,
    ids::{NodeId, OperationId, SessionId, WorkspaceId},
    lifecycle::{self, Ancestor},
    record::{Session, SessionState, StoredSession, StoredWorkspace, Workspace, WorkspaceState},
};

/// A workspace as its document holds it and as a person is shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceEntry {
    /// What the document says.
    pub stored: StoredWorkspace,
    /// The same with its derived parts; shared with diffs and readers.
    pub record: Arc<Workspace>,
    digest: Digest,
}

/// What a document now says of some of its records.
#[derive(Debug, Default)]
pub(super) struct HostFacts {
    pub(super) sessions: BTreeMap<SessionId, Option<StoredSession>>,
    pub(super) workspaces: BTreeMap<WorkspaceId, Option<StoredWorkspace>>,
}

/// A session's record; it holds all facts, so they are not kept twice.
#[derive(Debug, Clone, PartialEq)]
struct SessionEntry {
    record: Arc<Session>,
    digest: Digest,
}

/// The sessions that name a workspace, which may be gone.
#[derive(Debug, Clone, Default, PartialEq)]
struct Room {
    sessions: BTreeSet<SessionId>,
    alive: u64,
}

/// What one application of facts has set in motion.
#[derive(Debug, Default)]
struct Step {
    /// Each session that may differ, as it was.
    sessions: BTreeMap<SessionId, Option<SessionEntry>>,
    /// Each workspace that may differ, as it was.
    workspaces: BTreeMap<WorkspaceId, Option<WorkspaceEntry>>,
    /// The sessions from which on aliveness must be found out anew.
    uprooted: Vec<SessionId>,
    /// The sessions whose workspace was closed or opened.
    displaced: BTreeSet<SessionId>,
    /// The workspaces whose number of alive sessions may differ.
    recounted: BTreeSet<WorkspaceId>,
}

/// The records of one host with the indices over them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct HostView {
    sessions: BTreeMap<SessionId, SessionEntry>,
    workspaces: BTreeMap<WorkspaceId, WorkspaceEntry>,
    children: BTreeMap<SessionId, BTreeSet<SessionId>>,
    rooms: BTreeMap<WorkspaceId, Room>,
    deletes: BTreeMap<OperationId, BTreeSet<SessionId>>,
    dismissals: BTreeMap<OperationId, BTreeSet<WorkspaceId>>,
    ended_sessions: BTreeSet<SessionId>,
    ended_workspaces: BTreeSet<WorkspaceId>,
}

impl HostView {
    /// Takes facts over and derives what follows; see [`super::View::apply`].
    pub(super) fn apply(
        &mut self,
        host: NodeId,
        facts: HostFacts,
        digest: &mut Digest,
        changes: &mut Vec<Change>,
    ) {
        let mut step = Step::default();
        for (id, stored) in facts.sessions {
            self.take_session(host, id, stored, &mut step);
        }
        for (id, stored) in facts.workspaces {
            self.take_workspace(host, id, stored, &mut step);
        }
        self.derive_sessions(&mut step);
        self.derive_workspaces(&mut step);
        self.conclude(step, digest, changes);
    }

    /// Takes everything out and returns it as changes.
    pub(super) fn dissolve(self, digest: &mut Digest) -> Vec<Change> {
        let sessions = self.sessions.into_values().map(|entry| {
            *digest -= entry.digest;
            Change::Session { before: Some(entry.record), after: None }
        });
        let mut changes: Vec<Change> = sessions.collect();
        changes.extend(self.workspaces.into_values().map(|entry| {
            *digest -= entry.digest;
            Change::Workspace { before: Some(entry.record), after: None, dismissed: false }
        }));
        changes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.workspaces.is_empty()
    }

    pub(super) fn session(&self, id: &SessionId) -> Option<&Arc<Session>> {
        self.sessions.get(id).map(|entry| &entry.record)
    }

    pub(super) fn workspace(&self, id: &WorkspaceId) -> Option<&WorkspaceEntry> {
        self.workspaces.get(id)
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.values().map(|entry| &entry.record)
    }

    pub(super) fn workspaces(&self) -> impl Iterator<Item = &WorkspaceEntry> {
        self.workspaces.values()
    }

    pub(super) fn ended_sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.ended_sessions.iter().filter_map(|id| self.session(id))
    }

    pub(super) fn ended_workspaces(&self) -> impl Iterator<Item = &WorkspaceEntry> {
        self.ended_workspaces.iter().filter_map(|id| self.workspace(id))
    }

    pub(super) fn sessions_in(&self, id: &WorkspaceId) -> impl Iterator<Item = &Arc<Session>> {
        let room = self.rooms.get(id).into_iter();
        room.flat_map(|room| &room.sessions).filter_map(|id| self.session(id))
    }

    pub(super) fn children(&self, id: &SessionId) -> impl Iterator<Item = &Arc<Session>> {
        self.children.get(id).into_iter().flatten().filter_map(|id| self.session(id))
    }

    pub(super) fn descendants(&self, id: &SessionId) -> Vec<&Arc<Session>> {
        let mut family = self.family([id.clone()]);
        family.remove(id);
        family.iter().filter_map(|id| self.session(id)).collect()
    }

    pub(super) fn deleted_by(
        &self,
        operation: &OperationId,
    ) -> impl Iterator<Item = &Arc<Session>> {
        self.deletes.get(operation).into_iter().flatten().filter_map(|id| self.session(id))
    }

    pub(super) fn dismissed_by(
        &self,
        operation: &OperationId,
    ) -> impl Iterator<Item = &WorkspaceEntry> {
        self.dismissals.get(operation).into_iter().flatten().filter_map(|id| self.workspace(id))
    }

    /// Returns the sessions with all their descendants; ends also where parents form a circle.
    fn family(&self, sessions: impl IntoIterator<Item = SessionId>) -> BTreeSet<SessionId> {
        let mut family = BTreeSet::new();
        let mut waiting: Vec<SessionId> = sessions.into_iter().collect();
        while let Some(id) = waiting.pop() {
            if !family.contains(&id) {
                waiting.extend(self.children.get(&id).into_iter().flatten().cloned());
                family.insert(id);
            }
        }
        family
    }

    /// Replaces a session's facts. Its state stays what it was until it is derived.
    fn take_session(
        &mut self,
        host: NodeId,
        id: SessionId,
        stored: Option<StoredSession>,
        step: &mut Step,
    ) {
        let before = self.session(&id);
        // Most new sessions are live; deriving the state then finds nothing to change.
        let state = before.map_or(SessionState::Live, |record| record.state);
        let after = stored.map(|stored| session(host, id.clone(), stored, state));
        if before.map(|record| &**record) == after.as_ref() {
            return;
        }
        let ties = |record: &Session| (record.deleted.is_some(), record.parent_id.clone());
        if before.map(|record| ties(record)) != after.as_ref().map(ties) {
            step.uprooted.push(id.clone());
        }
        let before = self.sessions.remove(&id);
        if let Some(entry) = &before {
            self.unlink_session(&entry.record, step);
        }
        if let Some(record) = after {
            self.link_session(&record, step);
            let entry = SessionEntry { record: Arc::new(record), digest: Digest::default() };
            self.sessions.insert(id.clone(), entry);
        }
        step.sessions.insert(id, before);
    }

    fn link_session(&mut self, record: &Session, step: &mut Step) {
        if let Some(parent) = &record.parent_id {
            self.children.entry(parent.clone()).or_default().insert(record.id.clone());
        }
        if let Some(workspace) = &record.workspace_id {
            let room = self.rooms.entry(workspace.clone()).or_default();
            room.sessions.insert(record.id.clone());
            room.alive += u64::from(is_alive(record));
            step.recounted.insert(workspace.clone());
        }
        if let Some(deleted) = &record.deleted {
            self.deletes.entry(deleted.operation.clone()).or_default().insert(record.id.clone());
        }
    }

    fn unlink_session(&mut self, record: &Session, step: &mut Step) {
        if let Some(parent) = &record.parent_id {
            drop_from(&mut self.children, parent, &record.id);
        }
        if let Some(workspace) = &record.workspace_id
            && let Some(room) = self.rooms.get_mut(workspace)
        {
            room.sessions.remove(&record.id);
            room.alive -= u64::from(is_alive(record));
            if room.sessions.is_empty() {
                self.rooms.remove(workspace);
            }
            step.recounted.insert(workspace.clone());
        }
        if let Some(deleted) = &record.deleted {
            drop_from(&mut self.deletes, &deleted.operation, &record.id);
        }
    }

    /// Replaces a workspace's facts. Its count may be wrong until it is derived.
    fn take_workspace(
        &mut self,
        host: NodeId,
        id: WorkspaceId,
        stored: Option<StoredWorkspace>,
        step: &mut Step,
    ) {
        let before = self.workspaces.get(&id).map(|entry| &entry.stored);
        if before == stored.as_ref() {
            return;
        }
        if lifecycle::closed(before) != lifecycle::closed(stored.as_ref()) {
            let room = self.rooms.get(&id).into_iter();
            step.displaced.extend(room.flat_map(|room| &room.sessions).cloned());
        }
        let before = self.workspaces.remove(&id);
        for operation in before.iter().flat_map(|entry| entry.stored.dismissals.keys()) {
            drop_from(&mut self.dismissals, operation, &id);
        }
        if let Some(stored) = stored {
            for operation in stored.dismissals.keys() {
                self.dismissals.entry(operation.clone()).or_default().insert(id.clone());
            }
            let record = Arc::new(workspace(host, id.clone(), &stored));
            let entry = WorkspaceEntry { stored, record, digest: Digest::default() };
            self.workspaces.insert(id.clone(), entry);
        }
        step.recounted.insert(id.clone());
        step.workspaces.insert(id, before);
    }

    /// Gives every session on which the step bears the state that follows from the facts.
    fn derive_sessions(&mut self, step: &mut Step) {
        let decided = self.decide(std::mem::take(&mut step.uprooted));
        let mut waiting = std::mem::take(&mut step.displaced);
        waiting.extend(step.sessions.keys().cloned());
        waiting.extend(decided.keys().cloned());
        for id in waiting {
            let Some(entry) = self.sessions.get_mut(&id) else { continue };
            let was_alive = is_alive(&entry.record);
            let alive = decided.get(&id).copied().unwrap_or(was_alive);
            let home = entry.record.workspace_id.as_ref();
            let in_closed = home.is_some_and(|workspace| {
                lifecycle::closed(self.workspaces.get(workspace).map(|entry| &entry.stored))
            });
            let state = lifecycle::session_state(alive, in_closed);
            if state == entry.record.state {
                continue;
            }
            if let Some(workspace) = home
                && alive != was_alive
                && let Some(room) = self.rooms.get_mut(workspace)
            {
                room.alive = room.alive + u64::from(alive) - u64::from(was_alive);
                step.recounted.insert(workspace.clone());
            }
            step.sessions.entry(id).or_insert_with(|| Some(entry.clone()));
            Arc::make_mut(&mut entry.record).state = state;
        }
    }

    /// Finds out which of the sessions and their descendants are alive, each in its chain of
    /// parents once.
    fn decide(&self, uprooted: Vec<SessionId>) -> BTreeMap<SessionId, bool> {
        let family = self.family(uprooted);
        let mut decided = BTreeMap::new();
        for id in &family {
            if !self.sessions.contains_key(id) || decided.contains_key(id) {
                continue;
            }
            let lineage = lifecycle::alive(id, |at| match (self.session(at), decided.get(at)) {
                (None, _) => Ancestor::Missing,
                (Some(_), Some(alive)) => Ancestor::Decided(*alive),
                // The chain of a session outside the family has not changed.
                (Some(record), None) if !family.contains(at) => Ancestor::Decided(is_alive(record)),
                (Some(record), None) => Ancestor::Undecided {
                    deleted: record.deleted.is_some(),
                    parent: record.parent_id.as_ref(),
                },
            });
            decided.extend(lineage.walked.into_iter().map(|id| (id.clone(), lineage.alive)));
        }
        decided
    }

    /// Gives every workspace on which the step bears the count and state that follow.
    fn derive_workspaces(&mut self, step: &mut Step) {
        for id in std::mem::take(&mut step.recounted) {
            let Some(entry) = self.workspaces.get_mut(&id) else { continue };
            let session_count = self.rooms.get(&id).map_or(0, |room| room.alive);
            let state = lifecycle::workspace_state(&entry.stored, session_count);
            if (session_count, state) == (entry.record.session_count, entry.record.state) {
                continue;
            }
            step.workspaces.entry(id).or_insert_with(|| Some(entry.clone()));
            let record = Arc::make_mut(&mut entry.record);
            record.session_count = session_count;
            record.state = state;
        }
    }

    /// Brings the digest and the remaining indices up to the records, and tells which differ.
    fn conclude(&mut self, step: Step, digest: &mut Digest, changes: &mut Vec<Change>) {
        for (id, before) in step.sessions {
            *digest -= before.as_ref().map_or_else(Digest::default, |entry| entry.digest);
            self.ended_sessions.remove(&id);
            let mut after = None;
            if let Some(entry) = self.sessions.get_mut(&id) {
                if !planted!(DigestStale) || before.is_none() {
                    entry.digest = Digest::of_session(&entry.record);
                }
                *digest += entry.digest;
                after = Some(entry.record.clone());
                if entry.record.state != SessionState::Live {
                    self.ended_sessions.insert(id);
                }
            }
            changes.push(Change::Session { before: before.map(|entry| entry.record), after });
        }
        for (id, before) in step.workspaces {
            *digest -= before.as_ref().map_or_else(Digest::default, |entry| entry.digest);
            self.ended_workspaces.remove(&id);
            let (mut after, mut dismissed) = (None, false);
            if let Some(entry) = self.workspaces.get_mut(&id) {
                entry.digest = Digest::of_workspace(&entry.record);
                *digest += entry.digest;
                after = Some(entry.record.clone());
                let known = before.as_ref().map(|entry| &entry.stored.dismissals);
                let is_new = |operation| known.is_none_or(|known| !known.contains_key(operation));
                dismissed = entry.stored.dismissals.keys().any(is_new);
                if entry.record.state != WorkspaceState::Live {
                    self.ended_workspaces.insert(id);
                }
            }
            let before = before.map(|entry| entry.record);
            // Keeps, requests and dismissals can differ where nothing that is shown does.
            if before != after {
                changes.push(Change::Workspace { before, after, dismissed });
            }
        }
    }
}

/// Tells whether a session was last found to be alive.
fn is_alive(record: &Session) -> bool {
    record.state != SessionState::Deleted
}

/// Takes `member` out of the set under `key`, and the set out when that leaves it empty.
fn drop_from<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: &K, member: &V) {
    if let Some(members) = index.get_mut(key) {
        members.remove(member);
        if members.is_empty() {
            index.remove(key);
        }
    }
}

fn session(host: NodeId, id: SessionId, stored: StoredSession, state: SessionState) -> Session {
    let StoredSession {
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
        extra,
        deleted,
    } = stored;
    Session {
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
    }
}

/// Returns what the document says of a session: its record without what is derived.
pub(super) fn facts_of(record: &Session) -> StoredSession {
    let Session {
        id: _,
        host: _,
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
        state: _,
        deleted,
        extra,
    } = record.clone();
    StoredSession {
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
        extra,
        deleted,
    }
}

/// Returns the record of a workspace in which no alive session is counted yet.
fn workspace(host: NodeId, id: WorkspaceId, stored: &StoredWorkspace) -> Workspace {
    Workspace {
        id,
        host,
        name: stored.name.clone(),
        kind: stored.kind.clone(),
        project_id: stored.project_id.clone(),
        directory: stored.directory.clone(),
        branch: stored.branch.clone(),
        agent_server: stored.agent_server.clone(),
        keep: lifecycle::keep(stored),
        used: stored.used,
        created_at: stored.created_at,
        state: lifecycle::workspace_state(stored, 0),
        session_count: 0,
        teardown: stored.teardown.clone(),
        extra: stored.extra.clone(),
    }
}
