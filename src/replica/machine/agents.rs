//! Owns what holds a purge back: a session that an agent's server beside this host still has.
//!
//! Must not know how an agent is told. Invariants: a session of a bridged server is purged only
//! once the server is known to have neither it nor a child of it; what the server has yet to delete
//! is found again after a restart, since a confirmation is not stored.

use std::collections::BTreeSet;

use super::super::{
    ids::SessionId,
    record::{Session, SessionState},
};
use super::{Replica, session_key};

/// Most sessions that a server is asked to delete at a time: what is restored meanwhile is spared.
const DUE_MAX: usize = 64;

/// What is known of the agents' servers beside this host.
#[derive(Debug, Clone)]
pub struct Agents {
    /// The servers that are bridged, as their sessions are marked.
    servers: BTreeSet<String>,
    /// Deleted sessions whose undo window is over and which a server may still have.
    pub(super) awaiting: BTreeSet<SessionId>,
    /// Deleted sessions that their server is known to have no more.
    gone: BTreeSet<SessionId>,
    /// Whether `gone` has grown since it was last looked at.
    grown: bool,
}

impl Agents {
    /// Starts with nothing confirmed.
    pub fn new(servers: BTreeSet<String>) -> Self {
        Self { servers, awaiting: BTreeSet::new(), gone: BTreeSet::new(), grown: false }
    }

    /// Notes that a session is purged or not deleted any more.
    pub fn forget(&mut self, session: &SessionId) {
        self.awaiting.remove(session);
        self.gone.remove(session);
    }

    fn may_have(&self, session: &Session) -> bool {
        session.server().is_some_and(|server| self.servers.contains(server))
            && !self.gone.contains(&session.id)
    }
}

impl Replica {
    /// Lists sessions of this host that a server is to delete now: their undo window is over.
    /// Children come before their parents; more may follow once these are gone.
    pub fn agent_due(&self, server: &str) -> Vec<SessionId> {
        let mut due = Vec::new();
        let mut seen = BTreeSet::new();
        for id in &self.host_work.agents.awaiting {
            let left = self.left_of(id).into_iter();
            let left = left.filter(|session| session.server() == Some(server));
            due.extend(left.map(|session| &session.id).filter(|id| seen.insert(*id)).cloned());
            if due.len() >= DUE_MAX {
                break;
            }
        }
        due
    }

    pub(super) fn agent_gone(&mut self, sessions: Vec<SessionId>) {
        for id in sessions {
            let known = self.view.session(&session_key(self.node, &id));
            if known.is_some_and(|session| session.state == SessionState::Deleted) {
                self.host_work.agents.grown |= self.host_work.agents.gone.insert(id);
            }
        }
    }

    /// Tells whether a server may still have a deleted session or a child of it.
    pub(super) fn is_held_back(&self, id: &SessionId) -> bool {
        !self.left_of(id).is_empty()
    }

    /// Tells whether the server of a session is known to have it no more.
    pub(super) fn is_confirmed(&self, id: &SessionId) -> bool {
        self.host_work.agents.gone.contains(id)
    }

    /// Lists what awaited a confirmation and does no more.
    pub(super) fn confirmed(&mut self) -> Vec<SessionId> {
        if !std::mem::take(&mut self.host_work.agents.grown) {
            return Vec::new();
        }
        let awaiting = self.host_work.agents.awaiting.iter();
        awaiting.filter(|id| !self.is_held_back(id)).cloned().collect()
    }

    /// Lists what a server may still have of a session and its children, children first.
    fn left_of(&self, id: &SessionId) -> Vec<&Session> {
        let key = session_key(self.node, id);
        let itself = self.view.session(&key).into_iter();
        let family = itself.chain(self.view.descendants(&key)).map(AsRef::as_ref);
        let mut left: Vec<&Session> =
            family.filter(|session| self.host_work.agents.may_have(session)).collect();
        // Each of a chain is deeper than the one before it; the order in which siblings go is free.
        left.sort_by_cached_key(|session| std::cmp::Reverse(self.depth(session, id)));
        left
    }

    /// Counts the steps from a session up to an ancestor of it.
    fn depth(&self, session: &Session, ancestor: &SessionId) -> usize {
        let mut steps = 0;
        let mut walked = BTreeSet::new();
        let mut at = session;
        while at.id != *ancestor && walked.insert(&at.id) {
            let parent = at.parent_id.as_ref().map(|parent| session_key(self.node, parent));
            let Some(parent) = parent.and_then(|parent| self.view.session(&parent)) else { break };
            at = parent;
            steps += 1;
        }
        steps
    }
}
