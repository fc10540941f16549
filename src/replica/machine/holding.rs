//! Owns waiting, after a start, with what was pending before it, until this node has met another that
//! may know better: of a host that an old copy of its store was put in place of, all that has been
//! restored since would be purged, and its files removed.
//!
//! Must not know how anything is carried out. Invariants: what was deleted since the start never
//! waits; where nobody else writes to the fleet, nobody is waited for; whatever waits has its time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{
    effect::Now,
    ids::{NodeId, SessionId, WorkspaceId},
    record::{Member, Role, TeardownState},
};
use super::{Replica, carry_out::HostWork, workspace_key};

/// What waits, after a start.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// Until when, by the monotonic clock, if nobody is met.
    until: Duration,
    /// Who is waited for: whoever is let in later has all from those who were there.
    peers: BTreeSet<NodeId>,
    /// The deleted sessions, by when their undo windows are over.
    pub(super) deleted: BTreeMap<SessionId, Duration>,
    /// The vacated workspaces, likewise.
    pub(super) vacated: BTreeMap<WorkspaceId, Duration>,
    /// The workspaces whose teardown was under way, or was to be tried again.
    pub(super) ending: BTreeSet<WorkspaceId>,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.deleted.is_empty() && self.vacated.is_empty() && self.ending.is_empty()
    }

    /// Returns until when it waits.
    pub(super) fn until(&self) -> Duration {
        self.until
    }
}

/// How much waits, as [`Replica::holding`] tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// How many deleted sessions.
    pub sessions: u64,
    /// How many workspaces that are to be ended.
    pub workspaces: u64,
    /// For how long at most.
    pub left: Duration,
}

impl HostWork {
    /// Has all that is pending wait; `ending` are the teardowns that are.
    fn hold(&mut self, until: Duration, peers: BTreeSet<NodeId>, ending: BTreeSet<WorkspaceId>) {
        let (deleted, vacated) = (self.deleted.take_all(), self.vacated.take_all());
        let held = Held { until, peers, deleted, vacated, ending };
        self.held = Some(held).filter(|held| !held.is_empty());
    }

    /// Goes on with what has waited.
    fn go_on(&mut self) {
        let Some(Held { deleted, vacated, .. }) = self.held.take() else { return };
        deleted.into_iter().for_each(|(id, due)| self.deleted.put(due, id));
        vacated.into_iter().for_each(|(id, due)| self.vacated.put(due, id));
        self.look_again();
    }

    /// Tells whether a teardown waits.
    pub(super) fn is_ending_held(&self, id: &WorkspaceId) -> bool {
        self.held.as_ref().is_some_and(|held| held.ending.contains(id))
    }

    /// Has a teardown that was asked for since the start wait no longer.
    pub(super) fn ask_for_teardown(&mut self, id: &WorkspaceId) {
        if let Some(held) = &mut self.held {
            held.ending.remove(id);
        }
    }
}

impl Replica {
    /// Has what is pending at a start wait, unless there is nobody to wait for.
    pub(super) fn hold(&mut self, now: Now) {
        let grace = self.host_work.start_grace;
        let peers: BTreeSet<NodeId> = self.others().collect();
        if grace.is_zero() || peers.is_empty() {
            return;
        }
        let ending = self.view.workspaces_of(&self.node).filter(|entry| {
            let state = entry.stored.teardown.as_ref().map(|teardown| teardown.state);
            let is_retried = !entry.stored.requests.is_empty();
            state == Some(TeardownState::Sealed) || state.is_some() && is_retried
        });
        let ending = ending.map(|entry| entry.record.id.clone()).collect();
        self.host_work.hold(now.monotonic.saturating_add(grace), peers, ending);
        if let Some(Holding { sessions, workspaces, .. }) = self.holding(now) {
            tracing::info!(sessions, workspaces, "waits for a peer with what was pending");
        }
    }

    /// Goes on with what waits, once a peer was met, or enough time is over.
    pub(super) fn stop_holding(&mut self, now: Now) {
        let Some(held) = &self.host_work.held else { return };
        let awaited: BTreeSet<NodeId> =
            self.others().filter(|other| held.peers.contains(other)).collect();
        let met = self.exchange.greeted().into_iter().find(|peer| {
            awaited.contains(peer)
                && self.epochs.is_idle()
                && self.exchange.has_caught_up(peer, &self.documents)
        });
        if let Some(peer) = met {
            tracing::info!(%peer, "goes on with what was pending: a peer knows no better");
        } else if awaited.is_empty() || held.until <= now.monotonic {
            tracing::warn!("goes on with what was pending before the start; no peer was met");
        } else {
            return;
        }
        self.host_work.go_on();
    }

    /// Lists the members other than this node that write: nothing is taken from a reader, whatever
    /// it holds, so that nobody waits for one.
    fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        let writes = |member: &&Member| member.is_current() && member.role != Role::Reader;
        let others = self.members.values().filter(writes).map(|member| member.node);
        others.filter(|node| *node != self.node)
    }

    /// Tells how much of what was pending before the start waits for a peer, if something does.
    pub fn holding(&self, now: Now) -> Option<Holding> {
        let held = self.host_work.held.as_ref().filter(|held| !held.is_empty())?;
        let here = |id: &&WorkspaceId| self.view.workspace(&workspace_key(self.node, id)).is_some();
        Some(Holding {
            sessions: held.deleted.len() as u64,
            workspaces: (held.vacated.len() + held.ending.iter().filter(here).count()) as u64,
            left: held.until.saturating_sub(now.monotonic),
        })
    }
}
