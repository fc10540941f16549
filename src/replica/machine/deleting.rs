//! Owns deleting sessions and workspaces, or saying what a delete would take along.
//!
//! Must not carry a delete out: the host does, once it can't be undone. Invariant: what a dry run
//! says is what the delete would do at that moment.

use super::super::{
    command::{Refusal, Reply, SessionDeleted, Target, WorkspaceDeleted},
    document::HostWriter,
    effect::{Effects, Now},
    ids::{SessionId, WorkspaceId},
    record::{Deletion, Session, SessionKey, SessionState, Workspace, WorkspaceState},
    view::{Change, Touched},
};
use super::Replica;

impl Replica {
    pub(super) fn delete_session(
        &mut self,
        now: Now,
        target: &Target<SessionId>,
        dry_run: bool,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        let key = self.find_session(target)?;
        let session = self.session_record(&key);
        let already_deleted = session.deleted.is_some();
        // What is deleted already is marked again, so that a restore which did not know of this
        // delete loses; it stays part of the act that deleted it first.
        let deletion = match session.deleted {
            Some(deletion) => deletion,
            None => self.new_deletion(now),
        };
        let changes = self.preview_deletion(std::iter::once(&key), &deletion);
        let vacated = changes.iter().find_map(vacated_in);
        let mut answer = SessionDeleted {
            operation: Some(deletion.operation.clone()).filter(|_| !dry_run || already_deleted),
            receipt: None,
            session: self.session_record(&key),
            sessions_deleted: deleted_in(&changes),
            workspace_vacated: vacated.is_some(),
            git_state: vacated.as_ref().and_then(Workspace::git_state),
            workspace: vacated,
            already_deleted,
            dry_run,
        };
        if !dry_run {
            self.may_write()?;
            let hash =
                self.write_host(now, key.host, fx, |tx| tx.delete_session(&key.id, &deletion))?;
            let sessions = if already_deleted {
                std::slice::from_ref(&answer.session)
            } else {
                &answer.sessions_deleted
            };
            answer.receipt = self.keep_receipt(now, key.host, hash, &deletion, sessions, fx);
            answer.session = self.session_record(&key);
        }
        Ok(Reply::SessionDeleted(Box::new(answer)))
    }

    fn new_deletion(&mut self, now: Now) -> Deletion {
        Deletion { by: self.node, at: now.wall_ms, operation: self.new_operation(now.wall_ms) }
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
                    Some((session.id, known.unwrap_or_else(|| deletion.clone())))
                })
                .collect();
            let kept = answer.workspace.keep;
            let mark = |tx: &mut HostWriter<'_, '_>, (id, deletion): &(SessionId, Deletion)| {
                tx.delete_session(id, deletion)
            };
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
