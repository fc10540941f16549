//! Owns deriving a host's view from all of its facts at once.
//!
//! Must not know what was there before: nothing was. Invariant: it gives what
//! [`HostView::apply`] makes of an empty view, and takes a fraction of the time: there is nothing
//! to take out of an index, and each map is made once, from what is sorted already.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::Change, HostView, Room, SessionEntry, WorkspaceEntry, is_alive, session, workspace,
};
use crate::replica::{
    digest::Digest,
    ids::{NodeId, SessionId, WorkspaceId},
    lifecycle::{self, Ancestor},
    record::{SessionState, StoredSession, StoredWorkspace, WorkspaceState},
};

/// What is known of a workspace while its sessions are gone through.
struct Home {
    /// In their order.
    sessions: Vec<SessionId>,
    alive: u64,
    closed: bool,
}

impl Home {
    fn new(workspace: Option<&StoredWorkspace>) -> Self {
        Self { sessions: Vec::new(), alive: 0, closed: lifecycle::closed(workspace) }
    }
}

impl HostView {
    /// Derives it; a session's id that is there several times has the same facts each time, and a
    /// workspace's is there once.
    pub(in crate::replica::view) fn whole(
        host: NodeId,
        mut sessions: Vec<(SessionId, StoredSession)>,
        mut workspaces: Vec<(WorkspaceId, StoredWorkspace)>,
        digest: &mut Digest,
        changes: &mut Vec<Change>,
    ) -> Self {
        sessions.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        sessions.dedup_by(|(one, _), (other, _)| one == other);
        workspaces.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        changes.reserve(sessions.len() + workspaces.len());
        let homes = workspaces.iter().map(|(id, stored)| (id.clone(), Home::new(Some(stored))));
        let mut homes: BTreeMap<WorkspaceId, Home> = homes.collect();
        let mut view = Self::default();
        view.take_sessions(host, sessions, &mut homes, digest, changes);
        view.take_workspaces(host, workspaces, &homes, digest, changes);
        let rooms = homes.into_iter().filter(|(_, home)| !home.sessions.is_empty());
        view.rooms = rooms
            .map(|(id, Home { sessions, alive, .. })| {
                (id, Room { sessions: sessions.into_iter().collect(), alive })
            })
            .collect();
        view
    }

    fn take_sessions(
        &mut self,
        host: NodeId,
        sessions: Vec<(SessionId, StoredSession)>,
        homes: &mut BTreeMap<WorkspaceId, Home>,
        digest: &mut Digest,
        changes: &mut Vec<Change>,
    ) {
        let alive = aliveness(&sessions);
        let mut entries = Vec::with_capacity(sessions.len());
        for ((id, mut stored), alive) in sessions.into_iter().zip(alive) {
            let mut in_closed = false;
            if let Some(workspace) = &mut stored.workspace_id {
                let entry = homes.entry(workspace.clone());
                // One text for all that are in it.
                *workspace = entry.key().clone();
                let home = entry.or_insert_with(|| Home::new(None));
                home.sessions.push(id.clone());
                home.alive += u64::from(alive);
                in_closed = home.closed;
            }
            if let Some(parent) = &stored.parent_id {
                self.children.entry(parent.clone()).or_default().insert(id.clone());
            }
            if let Some(deleted) = &stored.deleted {
                self.deletes.entry(deleted.operation.clone()).or_default().insert(id.clone());
            }
            let state = lifecycle::session_state(alive, in_closed);
            if state != SessionState::Live {
                self.ended_sessions.insert(id.clone());
            }
            let record = Arc::new(session(host, id.clone(), stored, state));
            debug_assert_eq!(is_alive(&record), alive);
            let entry = SessionEntry { digest: Digest::of_session(&record), record };
            *digest += entry.digest;
            changes.push(Change::Session { before: None, after: Some(entry.record.clone()) });
            entries.push((id, entry));
        }
        self.sessions = entries.into_iter().collect();
    }

    fn take_workspaces(
        &mut self,
        host: NodeId,
        workspaces: Vec<(WorkspaceId, StoredWorkspace)>,
        homes: &BTreeMap<WorkspaceId, Home>,
        digest: &mut Digest,
        changes: &mut Vec<Change>,
    ) {
        let mut entries = Vec::with_capacity(workspaces.len());
        for (id, stored) in workspaces {
            for operation in stored.dismissals.keys() {
                self.dismissals.entry(operation.clone()).or_default().insert(id.clone());
            }
            let mut record = workspace(host, id.clone(), &stored);
            record.session_count = homes.get(&id).map_or(0, |home| home.alive);
            record.state = lifecycle::workspace_state(&stored, record.session_count);
            if record.state != WorkspaceState::Live {
                self.ended_workspaces.insert(id.clone());
            }
            let record = Arc::new(record);
            let after = Some(record.clone());
            let dismissed = !stored.dismissals.is_empty();
            changes.push(Change::Workspace { before: None, after, dismissed });
            let entry = WorkspaceEntry { digest: Digest::of_workspace(&record), stored, record };
            *digest += entry.digest;
            entries.push((id, entry));
        }
        self.workspaces = entries.into_iter().collect();
    }
}

/// Tells of each session, all of which are in key order, whether it is alive.
fn aliveness(sessions: &[(SessionId, StoredSession)]) -> Vec<bool> {
    let place = |id: &SessionId| sessions.binary_search_by(|(other, _)| other.cmp(id)).ok();
    let mut decided: Vec<Option<bool>> = vec![None; sessions.len()];
    for (index, (id, stored)) in sessions.iter().enumerate() {
        if stored.parent_id.is_none() {
            // It has no chain of parents to go along.
            decided[index] = Some(stored.deleted.is_none());
        } else if decided[index].is_none() {
            let lineage = lifecycle::alive(id, |at| {
                let Some(index) = place(at) else { return Ancestor::Missing };
                let stored = &sessions[index].1;
                decided[index].map_or_else(
                    || Ancestor::Undecided {
                        deleted: stored.deleted.is_some(),
                        parent: stored.parent_id.as_ref(),
                    },
                    Ancestor::Decided,
                )
            });
            let walked: Vec<usize> = lineage.walked.into_iter().filter_map(place).collect();
            walked.into_iter().for_each(|index| decided[index] = Some(lineage.alive));
        }
    }
    decided.into_iter().map(|alive| alive.expect("each is gone through")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{
        ids::OperationId,
        record::{Deletion, Extra, SessionKey, Teardown, TeardownState, WorkspaceKey},
        view::{Touched, View},
    };

    const HOST: NodeId = NodeId([7; 32]);

    fn some_session(random: &mut fastrand::Rng, ids: usize) -> StoredSession {
        let any = |random: &mut fastrand::Rng, what: &str, share: u8| {
            let number = random.usize(..ids);
            (random.u8(..100) < share).then(|| format!("{what}{number}"))
        };
        let operation = |number: String| -> OperationId { number.parse().unwrap() };
        StoredSession {
            workspace_id: any(random, "w", 70).map(|id| id.parse().unwrap()),
            parent_id: any(random, "s", 40).map(|id| id.parse().unwrap()),
            project_id: None,
            directory: None,
            title: any(random, "title ", 50),
            created_at: random.i64(0..5),
            updated_at: 0,
            archived_at: None,
            agent: None,
            agent_server: any(random, "server ", 30),
            extra: Extra::new(),
            deleted: any(random, "op", 20).map(|number| Deletion {
                by: HOST,
                at: 1,
                operation: operation(number),
                reason: None,
            }),
        }
    }

    fn some_workspace(random: &mut fastrand::Rng) -> StoredWorkspace {
        let operation: OperationId = format!("op{}", random.u8(..4)).parse().unwrap();
        let teardown = (random.u8(..4) == 0).then(|| Teardown {
            state: if random.bool() { TeardownState::Sealed } else { TeardownState::Failed },
            incarnation: 1,
            at: 0,
            error: None,
            kept_until: None,
        });
        StoredWorkspace {
            name: "w".to_owned(),
            kind: "directory".to_owned(),
            project_id: None,
            directory: None,
            branch: None,
            created_at: 0,
            agent_server: random.bool().then(|| format!("server {}", random.u8(..3))),
            keepers: random.bool().then(|| (operation.clone(), HOST)).into_iter().collect(),
            used: random.bool(),
            extra: Extra::new(),
            teardown,
            requests: BTreeMap::new(),
            dismissals: random.bool().then_some((operation, false)).into_iter().collect(),
        }
    }

    /// Parents are missing, gone, each other's and their own; workspaces are sealed and missing.
    #[test]
    fn it_is_what_taking_the_same_facts_into_an_empty_view_gives() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let ids = random.usize(1..12);
            let mut sessions = Vec::new();
            let mut workspaces = Vec::new();
            for number in 0..ids {
                if random.u8(..5) > 0 {
                    let id: SessionId = format!("s{number}").parse().unwrap();
                    sessions.push((id, some_session(&mut random, ids)));
                }
                if random.u8(..5) > 0 {
                    let id: WorkspaceId = format!("w{number}").parse().unwrap();
                    workspaces.push((id, some_workspace(&mut random)));
                }
            }
            random.shuffle(&mut sessions);
            let mut touched = Touched::default();
            for (id, stored) in &sessions {
                let key = SessionKey { host: HOST, id: id.clone() };
                touched.sessions.insert(key, Some(stored.clone()));
            }
            for (id, stored) in &workspaces {
                let key = WorkspaceKey { host: HOST, id: id.clone() };
                touched.workspaces.insert(key, Some(stored.clone()));
            }
            // As a walk gives it that comes by a key in two buckets.
            sessions.extend(sessions.first().cloned());
            let mut applied = View::new();
            let changes = applied.apply(touched);
            assert_eq!(
                View::of_host(HOST, sessions, workspaces),
                (applied, changes),
                "seed {seed}"
            );
        }
    }
}
