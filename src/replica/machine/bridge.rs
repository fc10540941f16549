//! Owns taking an agent's list into this node's own document.
//!
//! Must not know which agent it is. Invariants: taking the same list in again changes nothing;
//! what was deleted or purged here stays so; nothing is deleted because a list lacks it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    command::{Import, Imported, ImportedSession, ImportedWorkspace, Refusal, Reply},
    document::{HostWriter, SessionFields, Written},
    effect::{Effects, Now},
    ids::{SessionId, WorkspaceId},
    record::{Extra, SessionState, StoredSession, StoredWorkspace, Workspace, WorkspaceState},
};
use super::{
    Replica, batch,
    names::{check_directory, check_extra, check_time, check_title, check_word},
    session_key, workspace_key,
};

/// Most records of one list: a larger one is taken in as several.
pub const IMPORT_RECORDS_MAX: usize = 1_000;

/// What is to be written for one record of a list.
enum Step {
    CreateWorkspace(WorkspaceId, StoredWorkspace),
    UpdateWorkspace(WorkspaceId, ImportedWorkspace),
    CreateSession(SessionId, StoredSession),
    UpdateSession(SessionId, SessionFields),
    UseWorkspace(WorkspaceId),
}

impl Step {
    fn write(&self, tx: &mut HostWriter<'_, '_>) -> Written {
        match self {
            Self::CreateWorkspace(id, stored) => tx.create_workspace(id, stored),
            Self::UpdateWorkspace(id, new) => {
                let extra = new.extra.iter().map(|(k, v)| (k.clone(), Some(v.clone())));
                let branch = Some(new.branch.as_deref());
                tx.update_workspace(id, Some(&new.name), branch, &extra.collect())?;
                match &new.agent_server {
                    Some(server) => tx.set_workspace_server(id, server),
                    None => Ok(()),
                }
            }
            Self::CreateSession(id, stored) => tx.create_session(id, stored),
            Self::UpdateSession(id, fields) => tx.update_session(id, fields),
            Self::UseWorkspace(id) => tx.use_workspace(id),
        }
    }

    /// Returns about how many bytes of text are written; none for what belongs to the step before.
    fn bytes(&self) -> usize {
        /// Names of fields, ids and what automerge notes of each operation.
        const OVERHEAD: usize = 512;
        let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let all = |extra: &Extra| extra.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
        let set = |text: &Option<Option<String>>| text.as_ref().map_or(0, of);
        let texts = match self {
            Self::CreateWorkspace(_, new) => {
                new.name.len() + of(&new.directory) + of(&new.branch) + all(&new.extra)
            }
            Self::UpdateWorkspace(_, new) => new.name.len() + of(&new.branch) + all(&new.extra),
            Self::CreateSession(_, new) => of(&new.title) + of(&new.directory) + all(&new.extra),
            Self::UpdateSession(_, new) => {
                let extra = new.extra.iter().map(|(k, v)| k.len() + of(v)).sum::<usize>();
                set(&new.title) + set(&new.directory) + extra
            }
            Self::UseWorkspace(_) => return 0,
        };
        OVERHEAD + texts
    }
}

impl Replica {
    pub(super) fn import(
        &mut self,
        now: Now,
        import: Import,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_write()?;
        let records = import.sessions.len() + import.workspaces.len();
        if records > IMPORT_RECORDS_MAX {
            return Err(Refusal::InvalidField {
                field: "sessions".to_owned(),
                problem: format!("has {records} records, at most {IMPORT_RECORDS_MAX} at once"),
            });
        }
        let mut done = Imported::default();
        let mut steps = Vec::new();
        let mut open = BTreeSet::new();
        for workspace in import.workspaces {
            self.import_workspace(workspace, &mut open, &mut steps, &mut done);
        }
        let mut taken_in = BTreeSet::new();
        let listed = import.sessions.len();
        let sessions = parents_first(import.sessions);
        done.skipped += (listed - sessions.len()) as u64;
        for session in sessions {
            self.import_session(session, &open, &mut taken_in, &mut steps, &mut done);
        }
        for part in batch::split(&steps, batch::BYTES_MAX, Step::bytes) {
            let creates =
                |step: &Step| matches!(step, Step::CreateWorkspace(..) | Step::CreateSession(..));
            if part.iter().any(creates) {
                self.may_grow(self.node)?;
            }
            self.write_host(now, self.node, fx, |tx| part.iter().try_for_each(|s| s.write(tx)))?;
        }
        Ok(Reply::Imported(done))
    }

    fn import_workspace(
        &self,
        new: ImportedWorkspace,
        open: &mut BTreeSet<WorkspaceId>,
        steps: &mut Vec<Step>,
        done: &mut Imported,
    ) {
        let key = workspace_key(self.node, &new.id);
        let spent = self.host_document(self.node).is_some_and(|d| d.is_workspace_spent(&new.id));
        if spent || check_workspace(&new).is_err() {
            done.skipped += 1;
            return;
        }
        match self.view.workspace(&key) {
            Some(entry) if entry.record.state != WorkspaceState::Live => done.skipped += 1,
            Some(entry) => {
                open.insert(new.id.clone());
                if is_workspace_equal(&entry.record, &new) {
                    done.unchanged += 1;
                } else {
                    done.updated += 1;
                    steps.push(Step::UpdateWorkspace(new.id.clone(), new));
                }
            }
            None => {
                done.created += 1;
                open.insert(new.id.clone());
                let stored = StoredWorkspace {
                    name: new.name,
                    kind: new.kind,
                    project_id: new.project_id,
                    directory: new.directory,
                    branch: new.branch,
                    created_at: new.created_at,
                    agent_server: new.agent_server,
                    keepers: BTreeMap::new(),
                    used: false,
                    extra: new.extra,
                    teardown: None,
                    requests: BTreeMap::new(),
                    dismissals: BTreeMap::new(),
                };
                steps.push(Step::CreateWorkspace(new.id, stored));
            }
        }
    }

    fn import_session(
        &self,
        new: ImportedSession,
        open: &BTreeSet<WorkspaceId>,
        taken_in: &mut BTreeSet<SessionId>,
        steps: &mut Vec<Step>,
        done: &mut Imported,
    ) {
        let key = session_key(self.node, &new.id);
        let spent = self.host_document(self.node).is_some_and(|d| d.is_session_spent(&new.id));
        let known = self.view.session(&key);
        let deleted = known.is_some_and(|session| session.state == SessionState::Deleted);
        let parent_deleted = new.parent_id.as_ref().is_some_and(|parent| {
            let known = self.view.session(&session_key(self.node, parent));
            known.is_some_and(|parent| parent.state == SessionState::Deleted)
                || self.host_document(self.node).is_some_and(|d| d.is_session_spent(parent))
        });
        if spent || deleted || parent_deleted || check_session(&new).is_err() {
            done.skipped += 1;
            return;
        }
        // A parent that nobody knows would make the session count as deleted with it.
        let parent_id = new.parent_id.filter(|parent| {
            taken_in.contains(parent)
                || self.view.session(&session_key(self.node, parent)).is_some()
        });
        // A session is taken in even where its workspace is ending: it is shown without one rather
        // than not at all, and goes nowhere.
        let workspace_id = new.workspace_id.filter(|id| {
            let is_open = |entry: &super::view::WorkspaceEntry| {
                matches!(entry.record.state, WorkspaceState::Live | WorkspaceState::Vacated)
            };
            let here = self.view.workspace(&workspace_key(self.node, id)).is_some_and(is_open);
            let already = known.is_some_and(|session| session.workspace_id.as_ref() == Some(id));
            open.contains(id) || here || already
        });
        taken_in.insert(new.id.clone());
        let first = workspace_id.clone().filter(|id| {
            let entry = self.view.workspace(&workspace_key(self.node, id));
            entry.is_none_or(|entry| !entry.stored.used)
        });
        match known {
            None => {
                done.created += 1;
                let stored = StoredSession {
                    workspace_id,
                    parent_id,
                    project_id: new.project_id,
                    directory: new.directory,
                    title: new.title,
                    created_at: new.created_at,
                    updated_at: new.updated_at,
                    archived_at: new.archived_at,
                    agent: new.agent,
                    agent_server: new.agent_server,
                    extra: new.extra,
                    deleted: None,
                };
                steps.push(Step::CreateSession(new.id, stored));
            }
            Some(known) => {
                let extra = changed_extra(&known.extra, &new.extra);
                let fields = SessionFields {
                    title: (known.title != new.title).then_some(new.title),
                    workspace_id: (known.workspace_id != workspace_id).then_some(workspace_id),
                    project_id: (known.project_id != new.project_id).then_some(new.project_id),
                    directory: (known.directory != new.directory).then_some(new.directory),
                    archived_at: (known.archived_at != new.archived_at).then_some(new.archived_at),
                    updated_at: (known.updated_at != new.updated_at).then_some(new.updated_at),
                    agent: changed_text(&known.agent, new.agent),
                    agent_server: changed_text(&known.agent_server, new.agent_server),
                    extra,
                };
                if fields == SessionFields::default() {
                    done.unchanged += 1;
                    return;
                }
                done.updated += 1;
                steps.push(Step::UpdateSession(new.id, fields));
            }
        }
        steps.extend(first.map(Step::UseWorkspace));
    }
}

/// Returns what to set so that `after` holds; a list that doesn't say takes nothing away.
fn changed_text(before: &Option<String>, after: Option<String>) -> Option<Option<String>> {
    (after.is_some() && *before != after).then_some(after)
}

/// Returns what to set so that `after`'s entries hold; entries that only `before` has stay.
fn changed_extra(before: &Extra, after: &Extra) -> BTreeMap<String, Option<String>> {
    let differs = |(key, value): &(&String, &String)| before.get(*key) != Some(*value);
    let changed = after.iter().filter(differs);
    changed.map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
}

fn is_workspace_equal(known: &Workspace, new: &ImportedWorkspace) -> bool {
    known.name == new.name
        && known.branch == new.branch
        && changed_text(&known.agent_server, new.agent_server.clone()).is_none()
        && changed_extra(&known.extra, &new.extra).is_empty()
}

fn check_session(new: &ImportedSession) -> Result<(), Refusal> {
    check_title("title", new.title.as_deref())?;
    check_word("project_id", new.project_id.as_deref())?;
    check_directory(new.directory.as_deref())?;
    check_time("created_at", Some(new.created_at))?;
    check_time("updated_at", Some(new.updated_at))?;
    check_time("archived_at", new.archived_at)?;
    check_word("agent", new.agent.as_deref())?;
    check_word("agent_server", new.agent_server.as_deref())?;
    check_extra(new.extra.iter().map(|(key, value)| (key, Some(value))), new.extra.len())
}

fn check_workspace(new: &ImportedWorkspace) -> Result<(), Refusal> {
    check_title("name", Some(&new.name))?;
    check_word("kind", Some(&new.kind))?;
    check_word("project_id", new.project_id.as_deref())?;
    check_word("branch", new.branch.as_deref())?;
    check_word("agent_server", new.agent_server.as_deref())?;
    check_directory(new.directory.as_deref())?;
    check_time("created_at", Some(new.created_at))?;
    check_extra(new.extra.iter().map(|(key, value)| (key, Some(value))), new.extra.len())
}

/// Orders sessions so that each comes after its parent; of a cycle, none comes.
fn parents_first(sessions: Vec<ImportedSession>) -> Vec<ImportedSession> {
    let listed: BTreeSet<SessionId> = sessions.iter().map(|session| session.id.clone()).collect();
    let mut children: BTreeMap<SessionId, Vec<ImportedSession>> = BTreeMap::new();
    let mut stack = Vec::new();
    for session in sessions {
        match &session.parent_id {
            Some(parent) if listed.contains(parent) => {
                children.entry(parent.clone()).or_default().push(session);
            }
            _ => stack.push(session),
        }
    }
    stack.reverse();
    let mut ordered = Vec::new();
    while let Some(session) = stack.pop() {
        stack.extend(children.remove(&session.id).into_iter().flatten().rev());
        ordered.push(session);
    }
    ordered
}
