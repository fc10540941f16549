//! Owns deleting sessions and workspaces, or saying what a delete would take along.
//!
//! Must not carry a delete out: the host does, once it can't be undone. Invariant: what a dry run
//! says is what the delete would do at that moment.

use super::super::{
    command::{Refusal, Reply, SessionDeleted, Target, WorkspaceDeleted},
    document::HostWriter,
    effect::{Effects, Now},
    ids::{ChangeHash, SessionId, WorkspaceId},
    record::{Deletion, Session, SessionKey, SessionState, Workspace, WorkspaceState},
    view::{Change, Touched},
};
use super::Replica;

/// A delete that was written, and whose answer waits until it is shown.
#[derive(Debug, Clone)]
pub(super) struct Deleting {
    key: SessionKey,
    deletion: Deletion,
    change: Option<ChangeHash>,
    /// What it changes, where that was to be found out before.
    previewed: Option<Vec<Change>>,
    answer: SessionDeleted,
}

impl Replica {
    /// Deletes a session; what came of it is told once it is shown.
    pub(super) fn delete_session(
        &mut self,
        now: Now,
        target: &Target<SessionId>,
        fx: &mut Effects,
    ) -> Result<Deleting, Refusal> {
        let (key, deletion, answer) = self.session_deletion(now, target)?;
        self.may_write()?;
        // What several epochs show together is derived at once, with the write.
        let previewed = self
            .has_layers(key.host)
            .then(|| self.preview_deletion(std::iter::once(&key), &deletion));
        let change =
            self.write_host(now, key.host, fx, |tx| tx.delete_session(&key.id, &deletion))?;
        Ok(Deleting { key, deletion, change, previewed, answer })
    }

    /// Tells what a delete has done; `shown` is what differs by it.
    pub(super) fn session_deleted(
        &mut self,
        now: Now,
        deleting: Deleting,
        shown: Vec<Change>,
        fx: &mut Effects,
    ) -> SessionDeleted {
        let Deleting { key, deletion, change, previewed, mut answer } = deleting;
        tell(&mut answer, &previewed.unwrap_or(shown));
        let sessions = if answer.already_deleted {
            std::slice::from_ref(&answer.session)
        } else {
            &answer.sessions_deleted
        };
        answer.receipt = self.keep_receipt(now, key.host, change, &deletion, sessions, fx);
        answer.session = self.session_record(&key);
        answer
    }

    /// Tells what deleting a session would do.
    pub(super) fn preview_session(
        &mut self,
        now: Now,
        target: &Target<SessionId>,
    ) -> Result<SessionDeleted, Refusal> {
        let (key, deletion, mut answer) = self.session_deletion(now, target)?;
        tell(&mut answer, &self.preview_deletion(std::iter::once(&key), &deletion));
        answer.operation = answer.operation.filter(|_| answer.already_deleted);
        answer.dry_run = true;
        Ok(answer)
    }

    /// Begins to answer a delete.
    fn session_deletion(
        &mut self,
        now: Now,
        target: &Target<SessionId>,
    ) -> Result<(SessionKey, Deletion, SessionDeleted), Refusal> {
        let key = self.find_session(target)?;
        let session = self.session_record(&key);
        let already_deleted = session.deleted.is_some();
        // What is deleted already is marked again, so that a restore which did not know of this
        // delete loses; it stays part of the act that deleted it first. Where that was the agent's,
        // it is a person's from now on, and no list brings it back.
        let deletion = match session.deleted.clone() {
            Some(deletion) => Deletion { reason: None, ..deletion },
            None => self.new_deletion(now),
        };
        let answer = SessionDeleted {
            operation: Some(deletion.operation.clone()),
            receipt: None,
            session,
            sessions_deleted: Vec::new(),
            workspace_vacated: false,
            git_state: None,
            git_ignored: None,
            workspace: None,
            already_deleted,
            dry_run: false,
        };
        Ok((key, deletion, answer))
    }

    fn new_deletion(&mut self, now: Now) -> Deletion {
        let operation = self.new_operation(now.wall_ms);
        Deletion { by: self.node, at: now.wall_ms, operation, reason: None }
    }

    /// Tells what deleting sessions that are not yet deleted would change.
    fn preview_deletion<'a>(
        &mut self,
        keys: impl Iterator<Item = &'a SessionKey>,
        deletion: &Deletion,
    ) -> Vec<Change> {
        let mut touched = Touched::default();
        for key in keys {
            let stored = self.host_document(key.host).and_then(|d| d.session(&key.id));
            if let Some(mut stored) = stored.filter(|stored| stored.deleted.is_none()) {
                stored.deleted = Some(deletion.clone());
                touched.sessions.insert(key.clone(), Some(stored));
            }
        }
        self.view.preview(touched)
    }

    pub(super) fn delete_workspace(
        &mut self,
        now: Now,
        target: &Target<WorkspaceId>,
        dry_run: bool,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        let key = self.find_workspace(target)?;
        let before = self.workspace_record(&key);
        let already_deleted = before.state != WorkspaceState::Live && before.session_count == 0;
        let sessions: Vec<SessionKey> =
            self.view.sessions_in(&key).map(|session| session.key()).collect();
        let deletion = self.new_deletion(now);
        let changes = self.preview_deletion(sessions.iter(), &deletion);
        let mut answer = WorkspaceDeleted {
            operation: None,
            receipt: None,
            git_state: before.git_state(),
            git_ignored: before.git_ignored(),
            workspace: before,
            sessions_deleted: deleted_in(&changes),
            already_deleted,
            dry_run,
        };
        if !dry_run {
            self.may_write()?;
            let marks: Vec<(SessionId, Deletion)> = sessions
                .into_iter()
                .filter_map(|session| {
                    let known = self.view.session(&session)?.deleted.clone();
                    let known = known.map(|known| Deletion { reason: None, ..known });
                    Some((session.id, known.unwrap_or_else(|| deletion.clone())))
                })
                .collect();
            let kept = answer.workspace.keep;
            let mark = |tx: &mut HostWriter<'_, '_>, (id, deletion): &(SessionId, Deletion)| {
                tx.delete_session(id, deletion)
            };
            self.unkeep_most(now, &key, fx)?;
            let hash = self.write_records(now, key.host, fx, &marks, mark, |tx| {
                tx.use_workspace(&key.id)?;
                tx.unkeep(&key.id)?;
                if already_deleted {
                    Ok(())
                } else {
                    tx.dismiss(&key.id, &deletion.operation, kept)
                }
            })?;
            let sessions = &answer.sessions_deleted;
            answer.receipt = self.keep_receipt(now, key.host, hash, &deletion, sessions, fx);
            answer.operation = Some(deletion.operation).filter(|_| !already_deleted);
            answer.workspace = self.workspace_record(&key);
        }
        Ok(Reply::WorkspaceDeleted(Box::new(answer)))
    }
}

/// Says in an answer what a delete changes.
fn tell(answer: &mut SessionDeleted, changes: &[Change]) {
    let vacated = changes.iter().find_map(vacated_in);
    answer.sessions_deleted = deleted_in(changes);
    answer.workspace_vacated = vacated.is_some();
    answer.git_state = vacated.as_ref().and_then(Workspace::git_state);
    answer.git_ignored = vacated.as_ref().and_then(Workspace::git_ignored);
    answer.workspace = vacated;
}

/// Returns the workspace that a change takes with its last session, as it is afterwards.
fn vacated_in(change: &Change) -> Option<Workspace> {
    match change {
        Change::Workspace { before: Some(before), after: Some(after), .. }
            if before.state == WorkspaceState::Live && after.state == WorkspaceState::Vacated =>
        {
            Some((**after).clone())
        }
        _ => None,
    }
}

/// Returns the sessions that changes delete, as they are afterwards.
fn deleted_in(changes: &[Change]) -> Vec<Session> {
    changes
        .iter()
        .filter_map(|change| match change {
            Change::Session { before: Some(before), after: Some(after) }
                if before.state != SessionState::Deleted
                    && after.state == SessionState::Deleted =>
            {
                Some((**after).clone())
            }
            _ => None,
        })
        .collect()
}
