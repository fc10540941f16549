//! Owns what a host alone does: purging sessions, sealing workspaces, having them torn down.
//!
//! Must not tear anything down itself. Invariants: nothing is carried out before the undo window,
//! counted by the monotonic clock from when the delete was seen, is over; a teardown is asked for
//! only beside the seal that must be durable before it, and begins only while no alive session is in
//! the workspace; whatever is due is found again after a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::super::{
    document::CLEARED_MAX,
    effect::{Effects, Now, Startup, TeardownDue, TeardownOutcome},
    ids::{NodeId, SessionId, WorkspaceId},
    record::{
        Ended, KIND_WORKTREE, Session, SessionState, TIME_MS_MAX, Teardown, TeardownAction,
        TeardownState, WorkspaceKey, WorkspaceState,
    },
    view::Change,
};
use super::{Replica, agents::Agents, batch, holding::Held, session_key, workspace_key};

/// Most records carried out in one change: an undo window that ends for thousands at once is
/// spread over several.
const CARRIED_OUT_MAX: usize = 256;

/// How long what peers would not take waits until it is tried again: what is in the way of it is somebody's
/// doing, and goes, if at all, when the document is rewritten.
const REFUSED_RETRY: Duration = Duration::from_secs(3_600);

/// Longest word on a teardown that is written down, in characters: a person reads it, and
/// peers refuse values of more than 64 KiB.
const REASON_CHARS_MAX: usize = 4_096;

/// When each of some things was seen to be over, and so when it is due.
#[derive(Debug, Clone)]
pub(super) struct Deadlines<K> {
    window: Duration,
    by_key: BTreeMap<K, Duration>,
    by_time: BTreeSet<(Duration, K)>,
}

impl<K: Ord + Clone> Deadlines<K> {
    fn new(window: Duration) -> Self {
        Self { window, by_key: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// Starts the window, unless it runs.
    fn start(&mut self, now: Duration, key: K) {
        if !self.by_key.contains_key(&key) {
            self.put(self.after(now), key);
        }
    }

    /// Returns when a window that starts now is over.
    fn after(&self, now: Duration) -> Duration {
        now.saturating_add(self.window)
    }

    fn stop(&mut self, key: &K) {
        if let Some(due) = self.by_key.remove(key) {
            self.by_time.remove(&(due, key.clone()));
        }
    }

    /// Starts the window anew, if it runs.
    fn restart(&mut self, now: Duration, key: &K) {
        if self.by_key.contains_key(key) {
            self.stop(key);
            self.start(now, key.clone());
        }
    }

    /// Takes all out, by when they are due.
    pub(super) fn take_all(&mut self) -> BTreeMap<K, Duration> {
        self.by_time.clear();
        std::mem::take(&mut self.by_key)
    }

    /// Puts one back that was taken out.
    pub(super) fn put(&mut self, due: Duration, key: K) {
        self.stop(&key);
        self.by_time.insert((due, key.clone()));
        self.by_key.insert(key, due);
    }

    fn due(&self) -> Option<Duration> {
        self.by_time.first().map(|(due, _)| *due)
    }

    fn reached(&self, now: Duration) -> Vec<K> {
        let reached = self.by_time.iter().take_while(|(due, _)| *due <= now);
        reached.take(CARRIED_OUT_MAX).map(|(_, key)| key.clone()).collect()
    }
}

/// How it stands with a teardown that became due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TeardownStands {
    /// It may begin.
    Awaited,
    /// An alive session is in the workspace: it is to be put off.
    Occupied,
    /// It has ended before a crash that the host does not know of; a peer did.
    Over,
}

/// What this node, as a host, has yet to carry out.
#[derive(Debug, Clone)]
pub struct HostWork {
    pub(super) deleted: Deadlines<SessionId>,
    /// What holds a purge back when the window is over.
    pub(super) agents: Agents,
    pub(super) vacated: Deadlines<WorkspaceId>,
    /// What was pending before the start and waits for a peer.
    pub(super) held: Option<Held>,
    /// How long that waits at most.
    pub(super) start_grace: Duration,
    /// Sealed or failed.
    ending: BTreeSet<WorkspaceId>,
    /// The teardowns under way, by incarnation.
    running: BTreeMap<WorkspaceId, u32>,
    /// How long what is removed is kept, in milliseconds; `None` if it is not.
    keep_removed: Option<i64>,
    /// Whether an ending workspace, or what is in it, has changed.
    ending_changed: bool,
    /// How many deadlines were dropped because the view did not have what they are of.
    stale: u64,
}

impl HostWork {
    /// Starts with nothing to do.
    pub fn new(startup: &Startup) -> Self {
        let undo_window = startup.undo_window;
        let keep = Some(startup.keep_removed).filter(|keep| !keep.is_zero());
        Self {
            deleted: Deadlines::new(undo_window),
            agents: Agents::default(),
            vacated: Deadlines::new(undo_window),
            held: None,
            start_grace: startup.start_grace,
            ending: BTreeSet::new(),
            running: BTreeMap::new(),
            keep_removed: keep.map(|keep| i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)),
            ending_changed: false,
            stale: 0,
        }
    }

    /// Takes note of what changed in the view.
    pub fn note(&mut self, now: Duration, host: &NodeId, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Session { before, after } => {
                    let Some(session) = after.as_ref().or(before.as_ref()) else { continue };
                    if session.host != *host {
                        continue;
                    }
                    match after {
                        Some(after) if after.state == SessionState::Deleted => {
                            let act = |session: &Arc<Session>| {
                                session.deleted.as_ref().map(|deleted| deleted.operation.clone())
                            };
                            // Another delete than the one that was seen has a window of its own.
                            if before.as_ref().and_then(act) != act(after) {
                                self.deleted_anew(now, session);
                            }
                            let is_held = |held: &Held| held.deleted.contains_key(&session.id);
                            if !self.agents.awaiting.contains(&session.id)
                                && !self.held.as_ref().is_some_and(is_held)
                            {
                                self.deleted.start(now, session.id.clone());
                            }
                        }
                        _ => {
                            self.deleted.stop(&session.id);
                            self.agents.forget(&session.id);
                            if let Some(held) = &mut self.held {
                                held.deleted.remove(&session.id);
                            }
                        }
                    }
                }
                Change::Workspace { before, after, .. } => {
                    let Some(workspace) = after.as_ref().or(before.as_ref()) else { continue };
                    if workspace.host != *host {
                        continue;
                    }
                    let state = after.as_ref().map(|after| after.state);
                    let is_held = |held: &Held| held.vacated.contains_key(&workspace.id);
                    match state {
                        Some(WorkspaceState::Vacated)
                            if self.held.as_ref().is_some_and(is_held) => {}
                        Some(WorkspaceState::Vacated) => {
                            self.vacated.start(now, workspace.id.clone());
                        }
                        _ => {
                            self.vacated.stop(&workspace.id);
                            if let Some(held) = &mut self.held {
                                held.vacated.remove(&workspace.id);
                            }
                        }
                    }
                    if matches!(state, Some(WorkspaceState::Sealed | WorkspaceState::Failed)) {
                        self.ending.insert(workspace.id.clone());
                        self.ending_changed = true;
                    } else {
                        self.ending.remove(&workspace.id);
                    }
                }
            }
        }
    }

    /// Tells whether the delete of a session can still be undone.
    pub(super) fn is_undoable(&self, id: &SessionId) -> bool {
        let held = self.held.as_ref();
        self.deleted.by_key.contains_key(id)
            || held.is_some_and(|held| held.deleted.contains_key(id))
    }

    /// Gives a session that was deleted by another act than the one that was seen a window of its
    /// own, and its workspace with it.
    fn deleted_anew(&mut self, now: Duration, session: &Session) {
        self.deleted.stop(&session.id);
        self.agents.awaiting.remove(&session.id);
        let workspace = session.workspace_id.as_ref();
        if let Some(workspace) = workspace {
            self.vacated.restart(now, workspace);
        }
        if let Some(held) = &mut self.held {
            held.deleted.remove(&session.id);
            if let Some(due) = workspace.and_then(|workspace| held.vacated.get_mut(workspace)) {
                *due = self.vacated.after(now);
            }
        }
    }

    /// Counts a deadline that the view contradicts, which is a fault of this program. Nothing is
    /// carried out by it: a daemon that ended here instead would end again after each start.
    fn drop_stale(&mut self, kind: &str, id: &impl std::fmt::Display) {
        self.stale += 1;
        tracing::error!(
            %id,
            "dropped the deadline of a {kind} that is not deleted, and left it alone; please report this"
        );
    }

    /// Notes that an ending workspace must be looked at again, though its record is unchanged.
    pub fn look_again(&mut self) {
        self.ending_changed |= !self.ending.is_empty();
    }

    /// Returns when the next undo window is over.
    pub fn due(&self) -> Option<Duration> {
        let held = self.held.as_ref().map(Held::until);
        [self.deleted.due(), self.vacated.due(), held].into_iter().flatten().min()
    }
}

impl Replica {
    /// Carries out what is due; level-triggered, so calling it again changes nothing.
    pub(super) fn carry_out(&mut self, now: Now, fx: &mut Effects) {
        self.purge_due(now, fx);
        self.seal_due(now, fx);
        if std::mem::take(&mut self.host_work.ending_changed) {
            self.go_on_ending(now, fx);
        }
    }

    fn purge_due(&mut self, now: Now, fx: &mut Effects) {
        let due = self.host_work.deleted.reached(now.monotonic);
        let mut purged = BTreeSet::new();
        for id in due.into_iter().chain(self.confirmed()) {
            let key = session_key(self.node, &id);
            let session = self.view.session(&key).filter(|s| s.state == SessionState::Deleted);
            let Some(session) = session else {
                self.host_work.drop_stale("session", &id);
                self.host_work.deleted.stop(&id);
                self.host_work.agents.forget(&id);
                continue;
            };
            let parent = session.parent_id.as_ref().map(|parent| session_key(self.node, parent));
            if session.deleted.is_none() && parent.is_some_and(|p| self.view.session(&p).is_some())
            {
                // It goes along with the one that was deleted, whose own window counts.
                self.host_work.deleted.stop(&id);
                continue;
            }
            if self.is_held_back(&id) {
                self.host_work.deleted.stop(&id);
                self.host_work.agents.awaiting.insert(id);
                continue;
            }
            purged.extend(self.view.descendants(&key).into_iter().map(|child| child.id.clone()));
            purged.insert(id);
        }
        if purged.is_empty() {
            return;
        }
        tracing::info!(sessions = purged.len(), "purging deleted sessions");
        let purged: Vec<(SessionId, bool)> = purged
            .into_iter()
            .map(|id| {
                let confirmed = self.is_confirmed(&id);
                (id, confirmed)
            })
            .collect();
        let mut refused = Vec::new();
        for part in batch::split(&purged, batch::RECORDS_MAX, |_| 1) {
            refused.extend(self.write_own_each(now, fx, part, &|tx, (id, confirmed)| {
                tx.purge_session(id, *confirmed)
            }));
        }
        for (id, _) in refused {
            self.host_work.agents.awaiting.remove(&id);
            self.host_work.deleted.put(now.monotonic + REFUSED_RETRY, id);
        }
    }

    fn seal_due(&mut self, now: Now, fx: &mut Effects) {
        let mut due = self.host_work.vacated.reached(now.monotonic);
        due.retain(|id| {
            let entry = self.view.workspace(&workspace_key(self.node, id));
            let stands = entry.is_some_and(|it| it.record.state == WorkspaceState::Vacated);
            if !stands {
                self.host_work.drop_stale("workspace", id);
                self.host_work.vacated.stop(id);
            }
            stands
        });
        if due.is_empty() {
            return;
        }
        for id in &due {
            tracing::info!(workspace = %id, "sealing vacated workspace");
        }
        let due: Vec<_> = due.into_iter().map(|id| (self.sealed(now, &id, 1), id)).collect();
        let refused =
            self.write_own_each(now, fx, &due, &|tx, (sealed, id)| tx.set_teardown(id, sealed));
        for (_, id) in refused {
            self.host_work.vacated.put(now.monotonic + REFUSED_RETRY, id);
        }
    }

    /// Returns the seal of an attempt to end a workspace that begins now.
    fn sealed(&self, now: Now, id: &WorkspaceId, incarnation: u32) -> Teardown {
        let entry = self.view.workspace(&workspace_key(self.node, id));
        // Of other kinds the files belong to somebody else, who keeps them or does not.
        let is_kept = entry.is_some_and(|entry| entry.record.kind == KIND_WORKTREE);
        let keep = self.host_work.keep_removed.filter(|_| is_kept);
        let at = now.wall_ms;
        let kept_until = keep.map(|keep_ms| at.saturating_add(keep_ms).min(TIME_MS_MAX));
        Teardown { state: TeardownState::Sealed, incarnation, at, error: None, kept_until }
    }

    /// Starts the teardowns that may start, and takes up what people asked for after failed ones.
    fn go_on_ending(&mut self, now: Now, fx: &mut Effects) {
        let ending: Vec<WorkspaceId> = self.host_work.ending.iter().cloned().collect();
        let mut retried = Vec::new();
        for id in ending {
            let Some(entry) = self.view.workspace(&workspace_key(self.node, &id)) else { continue };
            let Some(teardown) = &entry.stored.teardown else { continue };
            if self.host_work.is_ending_held(&id) {
                continue;
            }
            match teardown.state {
                TeardownState::Failed if !entry.stored.requests.is_empty() => {
                    retried.push((id, teardown.incarnation.saturating_add(1)));
                }
                TeardownState::Failed => {}
                TeardownState::Sealed => {
                    let running = self.host_work.running.get(&id) == Some(&teardown.incarnation);
                    if running || entry.record.session_count > 0 {
                        continue;
                    }
                    let forced =
                        entry.stored.requests.values().any(|a| *a == TeardownAction::Force);
                    let action = if forced { TeardownAction::Force } else { TeardownAction::Retry };
                    self.host_work.running.insert(id, teardown.incarnation);
                    fx.teardowns.push(TeardownDue {
                        workspace: (*entry.record).clone(),
                        incarnation: teardown.incarnation,
                        action,
                        kept_until: teardown.kept_until,
                    });
                }
            }
        }
        if !retried.is_empty() {
            let retried: Vec<_> = retried
                .into_iter()
                .map(|(id, incarnation)| (self.sealed(now, &id, incarnation), id))
                .collect();
            let refused = self
                .write_own_each(now, fx, &retried, &|tx, (sealed, id)| tx.set_teardown(id, sealed));
            self.host_work.ending_changed = false;
            if refused.is_empty() {
                self.go_on_ending(now, fx);
            }
        }
    }

    /// Returns how many deadlines were dropped since the start because the view contradicted them; more
    /// than none is a fault of this program.
    pub fn stale_deadlines_total(&self) -> u64 {
        self.host_work.stale
    }

    /// Tells how it stands with a teardown that became due: to be asked directly before its first
    /// step, since a session may have come into the workspace while the seal became durable.
    pub fn teardown_stands(&self, due: &TeardownDue) -> TeardownStands {
        let Some(entry) = self.view.workspace(&due.workspace.key()) else {
            return TeardownStands::Over;
        };
        let awaited = entry.stored.teardown.as_ref().is_some_and(|it| {
            it.state == TeardownState::Sealed && it.incarnation == due.incarnation
        });
        match (awaited, entry.record.session_count) {
            (false, _) => TeardownStands::Over,
            (true, 1..) if !planted!(SealNotLookedAt) => TeardownStands::Occupied,
            (true, _) => TeardownStands::Awaited,
        }
    }

    pub(super) fn teardown_ended(
        &mut self,
        now: Now,
        workspace: WorkspaceKey,
        incarnation: u32,
        outcome: TeardownOutcome,
        fx: &mut Effects,
    ) {
        let id = workspace.id.clone();
        if self.host_work.running.get(&id) == Some(&incarnation) {
            self.host_work.running.remove(&id);
        }
        if outcome == TeardownOutcome::PutOff {
            // It is asked for again as soon as nobody is in the workspace, perhaps by now.
            tracing::info!(workspace = %id, incarnation, "put a teardown off: a session is in it");
            return self.host_work.look_again();
        }
        let entry = self.view.workspace(&workspace);
        let expected = entry
            .and_then(|entry| entry.stored.teardown.as_ref())
            .is_some_and(|t| t.state == TeardownState::Sealed && t.incarnation == incarnation);
        if !expected {
            tracing::warn!(workspace = %id, incarnation, "outcome of a teardown nobody waits for");
            return;
        }
        let forced = entry.is_some_and(|entry| {
            entry.stored.requests.values().any(|action| *action == TeardownAction::Force)
        });
        let kept_until = entry
            .and_then(|entry| entry.stored.teardown.as_ref())
            .and_then(|teardown| teardown.kept_until);
        let requests = entry.map_or(0, |entry| entry.stored.requests.len());
        let gone = |done: String| Ended {
            kept_until,
            incarnation,
            at: now.wall_ms,
            action: if forced { TeardownAction::Force } else { TeardownAction::Retry },
            done: done.chars().take(REASON_CHARS_MAX).collect(),
        };
        match outcome {
            TeardownOutcome::Gone => {
                self.workspace_gone(now, &id, &gone("nothing is left of it".to_owned()), fx);
            }
            TeardownOutcome::Done(done) => self.workspace_gone(now, &id, &gone(done), fx),
            TeardownOutcome::PutOff => {}
            TeardownOutcome::Failed(reason) => {
                tracing::warn!(workspace = %id, incarnation, %reason, "teardown failed");
                let failed = Teardown {
                    state: TeardownState::Failed,
                    incarnation,
                    at: now.wall_ms,
                    error: Some(reason.chars().take(REASON_CHARS_MAX).collect()),
                    kept_until: None,
                };
                for _ in 0..requests / CLEARED_MAX {
                    self.write_own(now, fx, |tx| tx.clear_some_requests(&id));
                }
                self.write_own(now, fx, |tx| {
                    tx.set_teardown(&id, &failed)?;
                    tx.clear_requests(&id)
                });
            }
        }
    }

    fn workspace_gone(&mut self, now: Now, id: &WorkspaceId, ended: &Ended, fx: &mut Effects) {
        tracing::info!(workspace = %id, incarnation = ended.incarnation, "workspace is gone");
        self.write_own(now, fx, |tx| tx.remove_workspace(id, ended));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{
        command::{Command, NewSession, NewWorkspace},
        effect::{Input, RequestId, Stored},
        machine::testing::startup,
    };

    fn at(seconds: u64) -> Now {
        Now { monotonic: Duration::from_secs(seconds), wall_ms: 0 }
    }

    #[test]
    fn a_deadline_that_the_view_contradicts_is_dropped_and_carries_nothing_out() {
        let (mut replica, _) = Replica::open(startup(), Stored::default(), at(0)).unwrap();
        let (alive, kept): (SessionId, WorkspaceId) = ("s".parse().unwrap(), "w".parse().unwrap());
        let session = NewSession { id: Some(alive.clone()), ..NewSession::default() };
        let workspace = NewWorkspace {
            id: Some(kept.clone()),
            name: "w".to_owned(),
            kind: "directory".to_owned(),
            project_id: None,
            directory: None,
            branch: None,
            keep: false,
            extra: BTreeMap::new(),
        };
        for command in [Command::CreateSession(session), Command::CreateWorkspace(workspace)] {
            replica.handle(at(0), Input::Requested { request: RequestId(1), command });
        }
        let before = replica.view().clone();
        replica.host_work.deleted.start(Duration::ZERO, alive);
        replica.host_work.deleted.start(Duration::ZERO, "nowhere".parse().unwrap());
        replica.host_work.vacated.start(Duration::ZERO, kept);
        replica.host_work.vacated.start(Duration::ZERO, "nowhere".parse().unwrap());
        let fx = replica.handle(at(11), Input::TimePassed);
        assert!(fx.writes.is_empty() && fx.teardowns.is_empty());
        assert_eq!(*replica.view(), before);
        assert_eq!(replica.stale_deadlines_total(), 4);
        assert_eq!(replica.host_work.due(), None, "none of them comes again");
    }
}
