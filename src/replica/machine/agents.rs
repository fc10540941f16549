//! Owns what holds a purge back: a session that an agent's server may still have.
//!
//! Must not know how an agent is asked. Invariants: a session of an agent's server is purged only
//! once that server has said, after the undo window, that it has neither it nor a child of it; what
//! the server has yet to delete is found again after a restart, since such a word is not stored; only
//! a delete that was made in an agent's name is taken back in its name.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    command::{Refusal, Reply, Target},
    document::SessionFields,
    effect::{Effects, Now},
    ids::SessionId,
    record::{Deletion, DeletionReason, EXTRA_SERVER, Session, SessionState},
};
use super::{Replica, session_key};

/// Most sessions that a server is asked to delete at a time: what is restored meanwhile is spared.
const DUE_MAX: usize = 64;

/// What is known of the agents' servers beside this host.
#[derive(Debug, Clone, Default)]
pub struct Agents {
    /// Deleted sessions whose undo window is over and which a server may still have.
    pub(super) awaiting: BTreeSet<SessionId>,
    /// Deleted sessions that their server is known to have no more.
    gone: BTreeSet<SessionId>,
    /// Those of which something was said since it was last looked at.
    said: BTreeSet<SessionId>,
}

impl Agents {
    /// Notes that a session is purged or not deleted any more.
    pub fn forget(&mut self, session: &SessionId) {
        self.awaiting.remove(session);
        self.gone.remove(session);
    }

    fn may_have(&self, session: &Session) -> bool {
        session.server().is_some() && !self.gone.contains(&session.id)
    }
}

impl Replica {
    /// Lists sessions of this host that servers on one database are to be asked about, and to delete, now: their
    /// undo window is over. Children come before their parents; more may follow once these are gone.
    pub fn agent_due(&self, servers: &BTreeSet<String>) -> Vec<SessionId> {
        let mut due = Vec::new();
        let mut seen = BTreeSet::new();
        for id in &self.host_work.agents.awaiting {
            let left = self.left_of(id).into_iter();
            let left = left.filter(|session| is_of(session, servers));
            due.extend(left.map(|session| &session.id).filter(|id| seen.insert(*id)).cloned());
            if due.len() >= DUE_MAX {
                break;
            }
        }
        due
    }

    /// Counts the sessions whose purge waits for the word of each agent's server.
    pub fn agents_awaited(&self) -> BTreeMap<String, u64> {
        let mut awaited = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for id in &self.host_work.agents.awaiting {
            for session in self.left_of(id) {
                if let Some(server) = session.server()
                    && seen.insert(&session.id)
                {
                    *awaited.entry(server.to_owned()).or_default() += 1;
                }
            }
        }
        awaited
    }

    /// Takes in that a server has these sessions no more: it was asked for each, just now.
    pub(super) fn agent_gone(
        &mut self,
        now: Now,
        servers: &BTreeSet<String>,
        sessions: &[SessionId],
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_write()?;
        let owned = |id: &&SessionId| {
            let known = self.view.session(&session_key(self.node, id));
            known.is_some_and(|session| is_of(session, servers))
        };
        let owned: BTreeSet<SessionId> = sessions.iter().filter(owned).cloned().collect();
        let is_alive = |id: &SessionId| {
            let known = self.view.session(&session_key(self.node, id));
            known.is_some_and(|session| session.state != SessionState::Deleted)
        };
        let (alive, deleted): (BTreeSet<_>, BTreeSet<_>) =
            owned.into_iter().partition(|id| is_alive(id));
        for id in deleted {
            // Within the undo window it is no word on what is at its end.
            if !self.host_work.is_undoable(&id) {
                self.host_work.agents.gone.insert(id.clone());
                self.host_work.agents.said.insert(id);
            }
        }
        // Those whose parent is missing, too, go along with it.
        let goes_along = |id: &SessionId| {
            let known = self.view.session(&session_key(self.node, id));
            let parent = known.and_then(|session| session.parent_id.as_ref());
            parent.is_some_and(|parent| alive.contains(parent))
        };
        let roots: Vec<SessionId> = alive.iter().filter(|id| !goes_along(id)).cloned().collect();
        let reason = Some(DeletionReason::Agent);
        let mut marks = Vec::new();
        for id in roots {
            let operation = self.new_operation(now.wall_ms);
            marks.push((id, Deletion { by: self.node, at: now.wall_ms, operation, reason }));
        }
        if !marks.is_empty() {
            self.write_records(
                now,
                self.node,
                fx,
                &marks,
                |tx, (id, deletion)| tx.delete_session(id, deletion),
                |_| Ok(()),
            )?;
        }
        Ok(Reply::Done)
    }

    /// Takes in that a server has these sessions: what was deleted in its name comes back. Answers
    /// with those that were purged here without its word, which it is to delete.
    pub(super) fn agent_has(
        &mut self,
        now: Now,
        servers: &BTreeSet<String>,
        sessions: &[SessionId],
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_write()?;
        let (mut back, mut purged) = (Vec::new(), Vec::new());
        for id in sessions {
            self.host_work.agents.gone.remove(id);
            let document = self.host_document(self.node);
            let known = self.view.session(&session_key(self.node, id));
            match known {
                Some(session) if is_of(session, servers) => {
                    let deleted = session.deleted.as_ref();
                    if deleted.is_some_and(|it| it.reason == Some(DeletionReason::Agent)) {
                        back.push(id.clone());
                    }
                }
                Some(_) => {}
                None => {
                    let is_unconfirmed =
                        document.is_some_and(|it| it.is_session_spent(id) && !it.is_confirmed(id));
                    if is_unconfirmed {
                        purged.push(id.clone());
                    }
                }
            }
        }
        if !back.is_empty() {
            self.write_records(
                now,
                self.node,
                fx,
                &back,
                |tx, id| tx.restore_session(id),
                |_| Ok(()),
            )?;
        }
        Ok(Reply::AgentPurged(purged))
    }

    /// Takes a deleted session, and its children, from the server that has not confirmed its end.
    pub(super) fn forget_agent(
        &mut self,
        now: Now,
        target: &Target<SessionId>,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_write()?;
        let key = self.find_session(target)?;
        let refused = |problem: String| {
            Err(Refusal::InvalidField { field: "forget_agent".to_owned(), problem })
        };
        if key.host != self.node {
            let host = self.name_of(&key.host);
            return refused(format!("is for the session's own host alone; say it on {host}"));
        }
        if self.session_record(&key).state != SessionState::Deleted {
            return refused("is for a session that is deleted already; delete it first".to_owned());
        }
        let mut family = vec![key.id.clone()];
        family.extend(self.view.descendants(&key).into_iter().map(|child| child.id.clone()));
        let fields = SessionFields {
            agent_server: Some(None),
            extra: BTreeMap::from([(EXTRA_SERVER.to_owned(), None)]),
            ..SessionFields::default()
        };
        self.write_records(
            now,
            self.node,
            fx,
            &family,
            |tx, id| tx.update_session(id, &fields),
            |_| Ok(()),
        )?;
        self.host_work.agents.said.extend(family);
        Ok(Reply::Session(self.session_record(&key)))
    }

    /// Tells whether a server may still have a deleted session or a child of it.
    pub(super) fn is_held_back(&self, id: &SessionId) -> bool {
        !self.left_of(id).is_empty()
    }

    /// Tells whether the server of a session is known to have it no more.
    pub(super) fn is_confirmed(&self, id: &SessionId) -> bool {
        self.host_work.agents.gone.contains(id)
    }

    /// Lists what awaited a word and does no more.
    pub(super) fn confirmed(&mut self) -> Vec<SessionId> {
        let said = std::mem::take(&mut self.host_work.agents.said);
        let mut roots = BTreeSet::new();
        for id in said {
            // It may be held back with a parent of it, or for itself.
            let mut at = Some(id);
            let mut walked = BTreeSet::new();
            while let Some(id) = at.filter(|id| walked.insert(id.clone())) {
                let known = self.view.session(&session_key(self.node, &id));
                at = known.and_then(|session| session.parent_id.clone());
                if self.host_work.agents.awaiting.contains(&id) {
                    roots.insert(id);
                }
            }
        }
        roots.into_iter().filter(|id| !self.is_held_back(id)).collect()
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

fn is_of(session: &Session, servers: &BTreeSet<String>) -> bool {
    session.server().is_some_and(|server| servers.contains(server))
}
