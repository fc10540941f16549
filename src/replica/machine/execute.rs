//! Owns carrying commands out on sessions and workspaces: judging them whole, then writing them
//! in one change.
//!
//! Must not publish: what was written goes the way of every change. Invariant: a refused command
//! has written nothing.

use std::collections::BTreeMap;

use super::super::{
    command::{
        Command, NewSession, NewWorkspace, Refusal, Reply, Restored, SessionPatch, Target,
        WorkspacePatch,
    },
    document::{CLEARED_MAX, HostWriter, NotWritten, SessionFields, Written},
    effect::{Effects, Now, RequestId},
    ids::{ChangeHash, NodeId, OperationId, SessionId, WorkspaceId},
    record::{
        Extra, Role, Session, SessionKey, SessionState, StoredSession, StoredWorkspace,
        TeardownAction, TeardownState, Workspace, WorkspaceKey, WorkspaceState,
    },
};
use super::{
    Replica,
    later::Unanswered,
    names::{check_absolute, check_extra, check_present, check_time, check_title, check_word},
};

impl Replica {
    /// Carries a command out, or refuses it; an answer that waits for a peer comes later.
    pub(super) fn execute(
        &mut self,
        now: Now,
        request: RequestId,
        command: Command,
        fx: &mut Effects,
    ) {
        let answer = match command {
            Command::Join(ticket) => match self.join(now, request, ticket, fx) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Command::CreateSession(new) => {
                let created = self.create_session(now, new, fx);
                return self.answer_later(request, created.map(Unanswered::Session), fx);
            }
            Command::UpdateSession(target, patch) => {
                let updated = self.update_session(now, &target, patch, fx);
                return self.answer_later(request, updated.map(Unanswered::Session), fx);
            }
            Command::DeleteSession { session, dry_run: false } => {
                let deleted = self.delete_session(now, &session, fx);
                let unanswered = deleted.map(|it| Unanswered::Deleted(Box::new(it)));
                return self.answer_later(request, unanswered, fx);
            }
            command => self.answer(now, command, fx),
        };
        fx.replies.push((request, answer));
    }

    /// Answers once what was written is shown.
    fn answer_later(
        &mut self,
        request: RequestId,
        unanswered: Result<Unanswered, Refusal>,
        fx: &mut Effects,
    ) {
        match unanswered {
            Ok(unanswered) => self.later.answer(request, unanswered),
            Err(refusal) => fx.replies.push((request, Err(refusal))),
        }
    }

    fn answer(&mut self, now: Now, command: Command, fx: &mut Effects) -> Result<Reply, Refusal> {
        match command {
            Command::DeleteSession { session, .. } => {
                self.preview_session(now, &session).map(|it| Reply::SessionDeleted(Box::new(it)))
            }
            Command::CreateWorkspace(new) => self.create_workspace(now, new, fx),
            Command::UpdateWorkspace(target, patch) => {
                self.update_workspace(now, &target, patch, fx)
            }
            Command::DeleteWorkspace { workspace, dry_run } => {
                self.delete_workspace(now, &workspace, dry_run, fx)
            }
            Command::Restore(operation) => self.restore(now, operation, fx),
            Command::Receipt(receipt) => self.tell_receipt(now, &receipt, fx),
            Command::Teardown(target, action) => self.request_teardown(now, &target, action, fx),
            Command::Import(import) => self.import(now, import, fx),
            Command::AgentGone { servers, sessions } => {
                self.agent_gone(now, &servers, &sessions, fx)
            }
            Command::ReportTrash { entries, answered } => {
                self.report_trash(now, entries, &answered, fx)
            }
            Command::RestoreTrashed(target) => self.request_restore(now, &target, fx),
            Command::AgentHas { servers, sessions } => self.agent_has(now, &servers, &sessions, fx),
            Command::ForgetAgent(target) => self.forget_agent(now, &target, fx),
            Command::Rewrite => {
                self.ask_for_rewrite();
                Ok(Reply::Done)
            }
            Command::Invite { role, expires_in, secret } => {
                self.invite(now, role, expires_in, secret, fx)
            }
            Command::CreateSession(_) | Command::UpdateSession(..) | Command::Join(_) => {
                unreachable!("it is answered later")
            }
            Command::Leave => self.leave(now, fx),
            Command::Pause(name) => self.pause(&name, fx),
            Command::Resume(name) => self.resume(&name, fx),
            Command::Revoke(name) => self.revoke(now, &name, fx),
            Command::Retire(name) => self.retire(now, &name, fx),
            Command::Promote { node, role } => self.promote(now, &node, role, fx),
            Command::StepDown => self.step_down(now, fx),
            Command::Announce { name, addresses } => self.announce(now, name, addresses, fx),
        }
    }

    fn create_session(
        &mut self,
        now: Now,
        new: NewSession,
        fx: &mut Effects,
    ) -> Result<SessionKey, Refusal> {
        self.may_write()?;
        check_title("title", new.title.as_deref())?;
        check_word("project_id", new.project_id.as_deref())?;
        check_absolute(new.directory.as_deref())?;
        check_extra(new.extra.iter().map(|(k, v)| (k, Some(v))), new.extra.len())?;
        let host = new.host.as_deref().map(|host| self.find_node(host)).transpose()?;
        let workspace = match &new.workspace_id {
            None => None,
            Some(text) => Some(self.workspace_to_enter(text, host)?),
        };
        let parent = match (&new.parent_id, host.or(workspace.as_ref().map(|w| w.host))) {
            (None, _) => None,
            (Some(id), Some(host)) => Some(SessionKey { host, id: id.clone() }),
            (Some(id), None) => Some(self.find_session(&Target::new(id.clone())).map_err(
                |refusal| match refusal {
                    Refusal::SessionNotFound(id) => Refusal::ParentNotFound(id),
                    other => other,
                },
            )?),
        };
        if let Some(parent) = &parent {
            match self.view.session(parent).map(|session| session.state) {
                None => return Err(Refusal::ParentNotFound(parent.id.clone())),
                Some(SessionState::Deleted) => {
                    return Err(Refusal::ParentDeleted(parent.id.clone()));
                }
                Some(SessionState::Live | SessionState::Stranded) => {}
            }
        }
        let host = host
            .or(workspace.as_ref().map(|workspace| workspace.host))
            .or(parent.as_ref().map(|parent| parent.host))
            .unwrap_or(self.node);
        self.refuse_retired(host)?;
        self.may_grow(host)?;
        let id = match new.id {
            Some(id) => self.unused_session(host, id)?,
            None => self.new_session_id(now.wall_ms),
        };
        let stored = StoredSession {
            workspace_id: workspace.as_ref().map(|workspace| workspace.id.clone()),
            parent_id: new.parent_id,
            project_id: new.project_id,
            directory: new.directory,
            title: new.title,
            created_at: now.wall_ms,
            updated_at: now.wall_ms,
            archived_at: None,
            agent: None,
            agent_server: None,
            extra: new.extra,
            deleted: None,
        };
        let first = workspace.filter(|workspace| self.is_unused(workspace));
        self.write_host(now, host, fx, |tx| {
            tx.create_session(&id, &stored)?;
            first.iter().try_for_each(|workspace| tx.use_workspace(&workspace.id))
        })?;
        Ok(SessionKey { host, id })
    }

    /// Finds a workspace, named `ID` or `ID@HOST`, that a session may be put into.
    fn workspace_to_enter(
        &self,
        text: &str,
        host: Option<NodeId>,
    ) -> Result<WorkspaceKey, Refusal> {
        let (id, at) = match text.split_once('@') {
            Some((id, at)) => (id, Some(at.to_owned())),
            None => (text, None),
        };
        let id: WorkspaceId = id.parse().map_err(|error| invalid("workspace_id", &error))?;
        let named = Target { id: id.clone(), host: at };
        let key = match (self.find_workspace(&named), host) {
            (Err(Refusal::AmbiguousId { .. }), Some(host)) => WorkspaceKey { host, id },
            (found, _) => found?,
        };
        if host.is_some_and(|host| host != key.host) {
            return Err(Refusal::WorkspaceElsewhere { workspace: key.id });
        }
        self.may_enter(&key)?;
        Ok(key)
    }

    fn may_enter(&self, key: &WorkspaceKey) -> Result<(), Refusal> {
        match self.view.workspace(key).map(|entry| entry.record.state) {
            None => Err(Refusal::WorkspaceNotFound(key.id.clone())),
            Some(WorkspaceState::Sealed | WorkspaceState::Failed) => {
                Err(Refusal::WorkspaceSealed(key.id.clone()))
            }
            Some(WorkspaceState::Live | WorkspaceState::Vacated) => Ok(()),
        }
    }

    pub(super) fn is_unused(&self, key: &WorkspaceKey) -> bool {
        self.view.workspace(key).is_some_and(|entry| !entry.stored.used)
    }

    fn unused_session(&self, host: NodeId, id: SessionId) -> Result<SessionId, Refusal> {
        let taken = self.view.session(&SessionKey { host, id: id.clone() }).is_some();
        let spent = self.host_document(host).is_some_and(|d| d.is_session_spent(&id));
        match (taken, spent) {
            (true, _) => Err(Refusal::IdTaken { id: id.to_string(), host: self.name_of(&host) }),
            (_, true) => Err(Refusal::IdSpent { id: id.to_string(), host: self.name_of(&host) }),
            _ => Ok(id),
        }
    }

    fn update_session(
        &mut self,
        now: Now,
        target: &Target<SessionId>,
        patch: SessionPatch,
        fx: &mut Effects,
    ) -> Result<SessionKey, Refusal> {
        self.may_write()?;
        let key = self.find_session(target)?;
        check_title("title", patch.title.as_ref().and_then(Option::as_deref))?;
        check_time("archived_at", patch.archived_at.flatten())?;
        let session = self.session_record(&key);
        if session.state == SessionState::Deleted {
            return Err(Refusal::SessionDeleted(key.id));
        }
        check_patched_extra(&session.extra, &patch.extra)?;
        let entered = patch.workspace_id.as_ref().and_then(Option::as_ref);
        let entered = entered.map(|id| WorkspaceKey { host: key.host, id: id.clone() });
        if let Some(workspace) = &entered
            && session.workspace_id.as_ref() != Some(&workspace.id)
        {
            let elsewhere = self.view.workspace(workspace).is_none()
                && self.view.workspaces_named(&workspace.id).next().is_some();
            if elsewhere {
                return Err(Refusal::WorkspaceElsewhere { workspace: workspace.id.clone() });
            }
            self.may_enter(workspace)?;
        }
        let first = entered.filter(|workspace| self.is_unused(workspace));
        let fields = SessionFields {
            title: patch.title.filter(|title| *title != session.title),
            workspace_id: patch.workspace_id.filter(|id| *id != session.workspace_id),
            archived_at: patch.archived_at.filter(|at| *at != session.archived_at),
            extra: patch.extra,
            updated_at: Some(now.wall_ms),
            ..SessionFields::default()
        };
        self.write_host(now, key.host, fx, |tx| {
            tx.update_session(&key.id, &fields)?;
            first.iter().try_for_each(|workspace| tx.use_workspace(&workspace.id))
        })?;
        Ok(key)
    }

    fn create_workspace(
        &mut self,
        now: Now,
        new: NewWorkspace,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_write()?;
        check_present("name", &new.name)?;
        check_title("name", Some(&new.name))?;
        check_present("kind", &new.kind)?;
        check_word("kind", Some(&new.kind))?;
        check_word("project_id", new.project_id.as_deref())?;
        check_word("branch", new.branch.as_deref())?;
        check_absolute(new.directory.as_deref())?;
        check_extra(new.extra.iter().map(|(k, v)| (k, Some(v))), new.extra.len())?;
        let host = self.node;
        self.may_grow(host)?;
        let id = match new.id {
            None => self.new_workspace_id(now.wall_ms),
            Some(id) => {
                let key = WorkspaceKey { host, id };
                let spent = self.host_document(host).is_some_and(|d| d.is_workspace_spent(&key.id));
                let (id, host) = (key.id.to_string(), self.name_of(&host));
                if self.view.workspace(&key).is_some() {
                    return Err(Refusal::IdTaken { id, host });
                }
                if spent {
                    return Err(Refusal::IdSpent { id, host });
                }
                key.id
            }
        };
        let mut keepers = BTreeMap::new();
        if new.keep {
            keepers.insert(self.new_operation(now.wall_ms), self.node);
        }
        let stored = StoredWorkspace {
            name: new.name,
            kind: new.kind,
            project_id: new.project_id,
            directory: new.directory,
            branch: new.branch,
            agent_server: None,
            created_at: now.wall_ms,
            keepers,
            used: false,
            extra: new.extra,
            teardown: None,
            requests: BTreeMap::new(),
            dismissals: BTreeMap::new(),
        };
        self.write_host(now, host, fx, |tx| tx.create_workspace(&id, &stored))?;
        Ok(Reply::Workspace(self.workspace_record(&WorkspaceKey { host, id })))
    }

    fn update_workspace(
        &mut self,
        now: Now,
        target: &Target<WorkspaceId>,
        patch: WorkspacePatch,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_write()?;
        let key = self.find_workspace(target)?;
        if let Some(name) = &patch.name {
            check_present("name", name)?;
        }
        check_title("name", patch.name.as_deref())?;
        check_word("branch", patch.branch.as_ref().and_then(Option::as_deref))?;
        let workspace = self.workspace_record(&key);
        check_patched_extra(&workspace.extra, &patch.extra)?;
        if workspace.teardown.is_some() {
            return Err(Refusal::WorkspaceSealed(key.id));
        }
        let operation = self.new_operation(now.wall_ms);
        let by = self.node;
        let name = patch.name.filter(|name| *name != workspace.name);
        let branch = patch.branch.filter(|branch| *branch != workspace.branch);
        if patch.keep == Some(false) {
            self.unkeep_most(now, &key, fx)?;
        }
        self.write_host(now, key.host, fx, |tx| {
            let branch = branch.as_ref().map(Option::as_deref);
            tx.update_workspace(&key.id, name.as_deref(), branch, &patch.extra)?;
            match patch.keep {
                Some(true) => tx.keep(&key.id, &operation, by),
                Some(false) => tx.unkeep(&key.id),
                None => Ok(()),
            }
        })?;
        Ok(Reply::Workspace(self.workspace_record(&key)))
    }

    /// Takes back so many keeps of a workspace that the rest goes into one change with something else.
    pub(super) fn unkeep_most(
        &mut self,
        now: Now,
        key: &WorkspaceKey,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let keeps = self.view.workspace(key).map_or(0, |entry| entry.stored.keepers.len());
        for _ in 0..keeps / CLEARED_MAX {
            self.write_host(now, key.host, fx, |tx| tx.unkeep_some(&key.id))?;
        }
        Ok(())
    }

    fn restore(
        &mut self,
        now: Now,
        operation: OperationId,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_write()?;
        let undoable = self.view.by_operation(&operation);
        if undoable.is_empty() {
            return Err(Refusal::OperationNotFound(operation));
        }
        let sessions: Vec<SessionKey> = undoable.sessions.iter().map(|s| s.key()).collect();
        // A workspace that was deleted while nothing was in it has no session to bring it back.
        let dismissed: Vec<(WorkspaceKey, bool)> = undoable
            .workspaces
            .iter()
            .map(|entry| {
                let key = entry.record.key();
                let kept = entry.stored.dismissals.get(&operation).copied().unwrap_or(false);
                let is_in = |s: &std::sync::Arc<Session>| {
                    s.host == key.host && s.workspace_id.as_ref() == Some(&key.id)
                };
                let keep = kept || !undoable.sessions.iter().any(|s| is_in(s));
                (key, keep)
            })
            .collect();
        let vacated: Vec<WorkspaceKey> = self
            .view
            .workspaces()
            .filter(|entry| entry.record.state == WorkspaceState::Vacated)
            .map(|entry| entry.record.key())
            .collect();
        let mut hosts: Vec<NodeId> = sessions.iter().map(|key| key.host).collect();
        hosts.extend(dismissed.iter().map(|(key, _)| key.host));
        hosts.sort_unstable();
        hosts.dedup();
        let by = self.node;
        if let Some(host) = hosts.iter().find(|host| self.host_document(**host).is_none()) {
            return Err(Refusal::HostNotReady(*host));
        }
        for host in hosts {
            let here: Vec<&SessionKey> = sessions.iter().filter(|key| key.host == host).collect();
            let unmark =
                |tx: &mut HostWriter<'_, '_>, key: &&SessionKey| tx.restore_session(&key.id);
            self.write_records(now, host, fx, &here, unmark, |tx| {
                for (key, keep) in dismissed.iter().filter(|(key, _)| key.host == host) {
                    tx.undismiss(&key.id, &operation)?;
                    if *keep {
                        tx.keep(&key.id, &operation, by)?;
                    }
                }
                Ok(())
            })?;
        }
        let back = |key: &WorkspaceKey| {
            let entry = self.view.workspace(key)?;
            (entry.record.state == WorkspaceState::Live).then(|| (*entry.record).clone())
        };
        Ok(Reply::Restored(Restored {
            sessions: sessions.iter().map(|key| self.session_record(key)).collect(),
            workspaces: vacated.iter().filter_map(back).collect(),
            operation,
        }))
    }

    fn request_teardown(
        &mut self,
        now: Now,
        target: &Target<WorkspaceId>,
        action: TeardownAction,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_write()?;
        let key = self.find_workspace(target)?;
        let state = self.workspace_record(&key).teardown.map(|teardown| teardown.state);
        if state != Some(TeardownState::Failed) {
            return Err(Refusal::NotFailed(key.id));
        }
        let operation = self.new_operation(now.wall_ms);
        if key.host == self.node {
            self.host_work.ask_for_teardown(&key.id);
        }
        self.write_host(now, key.host, fx, |tx| tx.request_teardown(&key.id, &operation, action))?;
        Ok(Reply::Workspace(self.workspace_record(&key)))
    }

    /// Writes to a host's document in one change and sees to what follows; `None` if nothing was
    /// written. Where several epochs of it are held, each gets what belongs there.
    pub(super) fn write_host(
        &mut self,
        now: Now,
        host: NodeId,
        fx: &mut Effects,
        write: impl Fn(&mut HostWriter<'_, '_>) -> Written,
    ) -> Result<Option<ChangeHash>, Refusal> {
        self.refuse_retired(host)?;
        let id = self.host_document_id(host).ok_or(Refusal::HostNotReady(host))?;
        // Nothing but what it says of itself is taken in there, from whomever.
        let member = self.members.get(&host).filter(|member| member.node != self.node);
        if member.is_some_and(|member| member.role == Role::Reader) {
            return Err(Refusal::ReaderHost(host));
        }
        if self.has_layers(host) {
            let written = self.write_layers(now, host, fx, write);
            return written.map_err(|problem| self.not_written(host, problem));
        }
        let document = self.documents.get_mut(&id).ok_or(Refusal::HostNotReady(host))?;
        let written = document.write(now.wall_ms, write);
        let written = written.map_err(|problem| self.not_written(host, problem))?;
        let Some(mut applied) = written else { return Ok(None) };
        self.absorb(now, id, &mut applied, None, fx);
        Ok(applied.changes.first().map(|change| change.hash))
    }

    /// Says why nothing was written to a host's document, and who has written what is in the way.
    pub(super) fn not_written(&self, host: NodeId, problem: NotWritten) -> Refusal {
        let host = self.name_of(&host);
        tracing::warn!(host, %problem, "took back what peers would refuse");
        match problem {
            NotWritten::Blocked { place, by } => {
                let by = self.trust.node(&by).map(|by| self.name_of(&by));
                Refusal::Blocked { place: format!("{place} on {host}"), by }
            }
            NotWritten::Refused(why) => Refusal::Unwritable { host, why: why.to_string() },
            NotWritten::Overreach(why) => Refusal::Unwritable { host, why: why.to_string() },
        }
    }

    /// Writes to this node's own document.
    pub(super) fn write_own(
        &mut self,
        now: Now,
        fx: &mut Effects,
        write: impl Fn(&mut HostWriter<'_, '_>) -> Written,
    ) {
        if let Err(refusal) = self.write_host(now, self.node, fx, write) {
            tracing::warn!(%refusal, "could not write to the own document; the work stays due");
        }
    }

    /// Returns a record that is known to be there.
    pub(super) fn session_record(&self, key: &SessionKey) -> Session {
        (**self.view.session(key).expect("it was just found or written")).clone()
    }

    /// Returns a record that is known to be there.
    pub(super) fn workspace_record(&self, key: &WorkspaceKey) -> Workspace {
        (*self.view.workspace(key).expect("it was just found or written").record).clone()
    }
}

fn invalid(field: &str, problem: &impl std::fmt::Display) -> Refusal {
    Refusal::InvalidField { field: field.to_owned(), problem: problem.to_string() }
}

fn check_patched_extra(
    before: &Extra,
    patch: &BTreeMap<String, Option<String>>,
) -> Result<(), Refusal> {
    let kept = before.keys().filter(|key| !patch.contains_key(*key)).count();
    let set = patch.values().filter(|value| value.is_some()).count();
    check_extra(patch.iter().map(|(key, value)| (key, value.as_ref())), kept + set)
}
