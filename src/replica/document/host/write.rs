//! Owns writing sessions and workspaces to a host document.
//!
//! Must not know the rule, nor who may write what. Invariant: where two nodes created the same id
//! at once, what is written is written to both, so that it holds whichever is read.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{
    AutomergeError, ObjId, ObjType, ReadDoc, ScalarValue,
    iter::MapRangeItem,
    transaction::{Transactable, Transaction},
};

use super::{
    super::super::{
        ids::{NodeId, OperationId, SessionId, WorkspaceId},
        record::{
            Deletion, DeletionReason, Ended, Extra, StoredSession, StoredWorkspace, Teardown,
            TeardownAction, TeardownState,
        },
    },
    super::{NotWritten, Touched, own::in_the_way},
    Done, GRAVE, GRAVE_CONFIRMED, Places, Standing, int_at, map_at, maps_at,
    read::{text, value_in},
};

/// The fields of a session that can be written later than at its creation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `StoredSession`")]
pub struct SessionFields {
    pub title: Option<Option<String>>,
    pub workspace_id: Option<Option<WorkspaceId>>,
    pub project_id: Option<Option<String>>,
    pub directory: Option<Option<String>>,
    pub archived_at: Option<Option<i64>>,
    pub updated_at: Option<i64>,
    pub agent: Option<Option<String>>,
    pub agent_server: Option<Option<String>>,
    pub extra: BTreeMap<String, Option<String>>,
}

/// How many notes of a workspace are removed in one change at most: a fraction of the operations that peers
/// take of one.
pub const CLEARED_MAX: usize = 8_192;

/// What may be written to a record of one epoch while its host has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Nothing: all that it says is in a newer one.
    Nothing,
    /// What takes something back: it may have been put there, and it can't take back more than it
    /// has seen.
    Removals,
    /// That, and the fields of which only one value counts.
    Fields,
    /// Everything.
    All,
}

/// Tells what of an act is written to one of several epochs.
pub struct Limits<'a> {
    /// To a record.
    pub scope: &'a dyn Fn(&Touched) -> Scope,
    /// Whether a session is created there.
    pub creates: &'a dyn Fn(&StoredSession) -> bool,
}

/// One change to a host document, as it is being written.
pub struct Writer<'tx, 'doc> {
    pub(super) tx: &'tx mut Transaction<'doc>,
    pub(super) places: &'tx Places,
    limits: Option<&'tx Limits<'tx>>,
    /// The records that were written to, or may have been.
    pub(super) touched: BTreeSet<Touched>,
    /// What is in the way of what was to be written.
    problem: Option<NotWritten>,
}

impl<'tx, 'doc> Writer<'tx, 'doc> {
    /// Begins to write where the places are.
    pub(super) fn new(
        tx: &'tx mut Transaction<'doc>,
        places: &'tx Places,
        limits: Option<&'tx Limits<'tx>>,
    ) -> Self {
        Self { tx, places, limits, touched: BTreeSet::new(), problem: None }
    }

    /// Returns the records that were written to, and what was in the way.
    pub(super) fn end(self) -> (BTreeSet<Touched>, Option<NotWritten>) {
        (self.touched, self.problem)
    }

    /// Finds the map at a key of a record, or makes it; `None` if something else stands there, which
    /// only its author may overwrite.
    fn map_in(
        &mut self,
        record: &ObjId,
        key: &str,
        of: impl FnOnce() -> String,
    ) -> Result<Option<ObjId>, AutomergeError> {
        if let Some(map) = map_at(self.tx, record, key) {
            return Ok(Some(map));
        }
        let place = || format!("`{key}` of {}", of());
        if let Some(problem) = in_the_way(self.tx, record, key, place) {
            self.problem.get_or_insert(problem);
            return Ok(None);
        }
        self.tx.put_object(record, key, ObjType::Map).map(Some)
    }

    pub(super) fn may(&self, record: Touched, scope: Scope) -> bool {
        self.limits.is_none_or(|limits| (limits.scope)(&record) >= scope)
    }

    fn may_session(&self, id: &SessionId, scope: Scope) -> bool {
        self.may(Touched::Session(id.clone()), scope)
    }

    fn may_workspace(&self, id: &WorkspaceId, scope: Scope) -> bool {
        self.may(Touched::Workspace(id.clone()), scope)
    }

    /// Creates a session; whatever stood at its id loses.
    pub fn create_session(&mut self, id: &SessionId, session: &StoredSession) -> Done {
        if self.limits.is_some_and(|limits| !(limits.creates)(session)) {
            return Ok(());
        }
        self.touched.insert(Touched::Session(id.clone()));
        let record = self.tx.put_object(self.places.bucket(id), id.as_str(), ObjType::Map)?;
        let tx = &mut *self.tx;
        put_text(tx, &record, "workspace_id", session.workspace_id.as_ref().map(|id| id.as_str()))?;
        put_text(tx, &record, "parent_id", session.parent_id.as_ref().map(|id| id.as_str()))?;
        put_text(tx, &record, "project_id", session.project_id.as_deref())?;
        put_text(tx, &record, "directory", session.directory.as_deref())?;
        put_text(tx, &record, "title", session.title.as_deref())?;
        tx.put(&record, "created_at", session.created_at)?;
        tx.put(&record, "updated_at", session.updated_at)?;
        if let Some(archived_at) = session.archived_at {
            tx.put(&record, "archived_at", archived_at)?;
        }
        put_text(tx, &record, "agent", session.agent.as_deref())?;
        put_text(tx, &record, "agent_server", session.agent_server.as_deref())?;
        put_extra(tx, &record, &session.extra)
    }

    /// Changes fields of a session.
    pub fn update_session(&mut self, id: &SessionId, fields: &SessionFields) -> Done {
        if !self.may_session(id, Scope::Fields) {
            return Ok(());
        }
        for record in self.session_objects(id) {
            let tx = &mut *self.tx;
            let workspace_id = fields.workspace_id.as_ref();
            let workspace_id = workspace_id.map(|id| id.as_ref().map(|id| id.as_str()));
            let texts = [
                ("title", fields.title.as_ref().map(Option::as_deref)),
                ("workspace_id", workspace_id),
                ("project_id", fields.project_id.as_ref().map(Option::as_deref)),
                ("directory", fields.directory.as_ref().map(Option::as_deref)),
                ("agent", fields.agent.as_ref().map(Option::as_deref)),
                ("agent_server", fields.agent_server.as_ref().map(Option::as_deref)),
            ];
            for (key, text) in texts {
                match text {
                    None => {}
                    Some(Some(text)) => tx.put(&record, key, text)?,
                    Some(None) => delete_key(tx, &record, key)?,
                }
            }
            match fields.archived_at {
                None => {}
                Some(Some(at)) => tx.put(&record, "archived_at", at)?,
                Some(None) => delete_key(tx, &record, "archived_at")?,
            }
            if let Some(at) = fields.updated_at {
                tx.put(&record, "updated_at", at)?;
            }
            self.patch_extra(&record, &fields.extra, || format!("session {id}"))?;
        }
        Ok(())
    }

    /// Marks a session deleted, anew even if it is: a restore that did not see this loses.
    pub fn delete_session(&mut self, id: &SessionId, deletion: &Deletion) -> Done {
        if !self.may_session(id, Scope::All) {
            return Ok(());
        }
        for record in self.session_objects(id) {
            let deleted = self.tx.put_object(&record, "deleted", ObjType::Map)?;
            self.tx.put(&deleted, "by", deletion.by.to_string())?;
            self.tx.put(&deleted, "at", deletion.at)?;
            self.tx.put(&deleted, "operation", deletion.operation.as_str())?;
            let reason = deletion.reason.map(DeletionReason::as_str);
            put_text(self.tx, &deleted, "reason", reason)?;
        }
        Ok(())
    }

    /// Takes back every delete of a session that this replica has seen.
    pub fn restore_session(&mut self, id: &SessionId) -> Done {
        if !self.may_session(id, Scope::Removals) {
            return Ok(());
        }
        for record in self.session_objects(id) {
            if planted!(RestoreBeatsDelete) {
                self.tx.put(&record, "restored", true)?;
            }
            delete_key(self.tx, &record, "deleted")?;
        }
        Ok(())
    }

    /// Removes a session for good, and notes whether its agent's server has confirmed that it is
    /// gone there; only its host may.
    pub fn purge_session(&mut self, id: &SessionId, confirmed: bool) -> Done {
        if planted!(PurgeUndone) {
            for record in self.session_objects(id) {
                let edited = int_at(self.tx, &record, "updated_at").unwrap_or(0);
                self.tx.put(&record, "purged_at", edited)?;
            }
            return Ok(());
        }
        self.touched.insert(Touched::Session(id.clone()));
        let grave = if confirmed { GRAVE_CONFIRMED } else { GRAVE };
        self.tx.put(self.places.bucket(id), id.as_str(), grave)
    }

    /// Creates a workspace; whatever stood at its id loses.
    pub fn create_workspace(&mut self, id: &WorkspaceId, workspace: &StoredWorkspace) -> Done {
        if !self.may_workspace(id, Scope::All) {
            return Ok(());
        }
        self.touched.insert(Touched::Workspace(id.clone()));
        let record = self.tx.put_object(&self.places.workspaces, id.as_str(), ObjType::Map)?;
        let tx = &mut *self.tx;
        tx.put(&record, "name", workspace.name.as_str())?;
        tx.put(&record, "kind", workspace.kind.as_str())?;
        put_text(tx, &record, "project_id", workspace.project_id.as_deref())?;
        put_text(tx, &record, "directory", workspace.directory.as_deref())?;
        put_text(tx, &record, "branch", workspace.branch.as_deref())?;
        tx.put(&record, "created_at", workspace.created_at)?;
        tx.put(&record, "used", workspace.used)?;
        put_text(tx, &record, "agent_server", workspace.agent_server.as_deref())?;
        let keepers = tx.put_object(&record, "keepers", ObjType::Map)?;
        for (operation, node) in &workspace.keepers {
            tx.put(&keepers, operation.as_str(), node.to_string())?;
        }
        put_extra(tx, &record, &workspace.extra)
    }

    /// Changes a workspace's name, branch or free fields.
    pub fn update_workspace(
        &mut self,
        id: &WorkspaceId,
        name: Option<&str>,
        branch: Option<Option<&str>>,
        extra: &BTreeMap<String, Option<String>>,
    ) -> Done {
        if !self.may_workspace(id, Scope::Fields) {
            return Ok(());
        }
        for record in self.workspace_objects(id) {
            if let Some(name) = name {
                self.tx.put(&record, "name", name)?;
            }
            match branch {
                None => {}
                Some(Some(branch)) => self.tx.put(&record, "branch", branch)?,
                Some(None) => delete_key(self.tx, &record, "branch")?,
            }
            self.patch_extra(&record, extra, || format!("workspace {id}"))?;
        }
        Ok(())
    }

    /// Says which agent's server has a workspace; only its host may.
    pub fn set_workspace_server(&mut self, id: &WorkspaceId, server: &str) -> Done {
        if !self.may_workspace(id, Scope::Fields) {
            return Ok(());
        }
        for record in self.workspace_objects(id) {
            self.tx.put(&record, "agent_server", server)?;
        }
        Ok(())
    }

    /// Notes that a workspace has held a session or was dismissed.
    pub fn use_workspace(&mut self, id: &WorkspaceId) -> Done {
        if !self.may_workspace(id, Scope::All) {
            return Ok(());
        }
        for record in self.workspace_objects(id) {
            self.tx.put(&record, "used", true)?;
        }
        Ok(())
    }

    /// Keeps a workspace, under the operation's own entry: automerge drops a put of an equal
    /// value, and a keep beside a concurrent unkeep would be lost. It stands for the node's earlier ones.
    pub fn keep(&mut self, id: &WorkspaceId, operation: &OperationId, by: NodeId) -> Done {
        let by = by.to_string();
        if self.may_workspace(id, Scope::All) {
            for record in self.workspace_objects(id) {
                for notes in maps_at(self.tx, &record, "keepers") {
                    let own = |item: &MapRangeItem<'_>| text(value_in(&item.value)) == Some(&by);
                    let own = self.tx.map_range(&notes, ..).filter(own);
                    let own: Vec<String> =
                        own.take(CLEARED_MAX).map(|item| item.key.to_string()).collect();
                    own.into_iter().try_for_each(|key| self.tx.delete(&notes, key))?;
                }
            }
        }
        self.note(id, "keepers", operation, by.into())
    }

    /// Takes back every keep that this replica has seen.
    pub fn unkeep(&mut self, id: &WorkspaceId) -> Done {
        self.clear(id, "keepers", usize::MAX)
    }

    /// Takes back so many of the keeps as go into one change, for [`Self::unkeep`] to do the rest.
    pub fn unkeep_some(&mut self, id: &WorkspaceId) -> Done {
        self.clear(id, "keepers", CLEARED_MAX)
    }

    /// Removes so many of the requests as go into one change, as [`Self::unkeep_some`] does.
    pub fn clear_some_requests(&mut self, id: &WorkspaceId) -> Done {
        self.clear(id, "requests", CLEARED_MAX)
    }

    /// Notes a delete of the workspace as a whole, and whether it cleared a keep.
    pub fn dismiss(&mut self, id: &WorkspaceId, operation: &OperationId, kept: bool) -> Done {
        self.note(id, "dismissals", operation, kept.into())
    }

    /// Takes back a delete of the workspace as a whole.
    pub fn undismiss(&mut self, id: &WorkspaceId, operation: &OperationId) -> Done {
        if !self.may_workspace(id, Scope::Removals) {
            return Ok(());
        }
        for record in self.workspace_objects(id) {
            for notes in maps_at(self.tx, &record, "dismissals") {
                delete_key(self.tx, &notes, operation.as_str())?;
            }
        }
        Ok(())
    }

    /// Notes what a person asks for after a failed teardown.
    pub fn request_teardown(
        &mut self,
        id: &WorkspaceId,
        operation: &OperationId,
        action: TeardownAction,
    ) -> Done {
        let action = match action {
            TeardownAction::Retry => "retry",
            TeardownAction::Force => "force",
        };
        self.note(id, "requests", operation, action.into())
    }

    /// Removes the requests that this replica has seen; only the host may.
    pub fn clear_requests(&mut self, id: &WorkspaceId) -> Done {
        self.clear(id, "requests", usize::MAX)
    }

    /// Writes where the ending of a workspace stands; only its host may.
    pub fn set_teardown(&mut self, id: &WorkspaceId, teardown: &Teardown) -> Done {
        for record in self.workspace_objects(id) {
            let object = self.tx.put_object(&record, "teardown", ObjType::Map)?;
            let state = match teardown.state {
                TeardownState::Sealed => "sealed",
                TeardownState::Failed => "failed",
            };
            self.tx.put(&object, "state", state)?;
            self.tx.put(&object, "incarnation", i64::from(teardown.incarnation))?;
            self.tx.put(&object, "at", teardown.at)?;
            put_text(self.tx, &object, "error", teardown.error.as_deref())?;
            if let Some(kept_until) = teardown.kept_until {
                self.tx.put(&object, "kept_until", kept_until)?;
            }
        }
        Ok(())
    }

    /// Removes a workspace for good, and leaves what was done; only its host may.
    pub fn remove_workspace(&mut self, id: &WorkspaceId, ended: &Ended) -> Done {
        self.touched.insert(Touched::Workspace(id.clone()));
        self.tx.put(&self.places.workspaces, id.as_str(), ended.grave(GRAVE))
    }

    fn note(
        &mut self,
        id: &WorkspaceId,
        map: &str,
        operation: &OperationId,
        value: ScalarValue,
    ) -> Done {
        if !self.may_workspace(id, Scope::All) {
            return Ok(());
        }
        for record in self.workspace_objects(id) {
            if let Some(notes) = self.map_in(&record, map, || format!("workspace {id}"))? {
                self.tx.put(&notes, operation.as_str(), value.clone())?;
            }
        }
        Ok(())
    }

    fn patch_extra(
        &mut self,
        record: &ObjId,
        patch: &BTreeMap<String, Option<String>>,
        of: impl FnOnce() -> String,
    ) -> Done {
        if patch.is_empty() {
            return Ok(());
        }
        let Some(object) = self.map_in(record, "extra", of)? else { return Ok(()) };
        for (key, value) in patch {
            match value {
                Some(value) => self.tx.put(&object, key, value.as_str())?,
                None => delete_key(self.tx, &object, key)?,
            }
        }
        Ok(())
    }

    fn clear(&mut self, id: &WorkspaceId, map: &str, most: usize) -> Done {
        if !self.may_workspace(id, Scope::Removals) {
            return Ok(());
        }
        for record in self.workspace_objects(id) {
            for notes in maps_at(self.tx, &record, map) {
                let keys: Vec<String> = self.tx.keys(&notes).take(most).collect();
                for key in keys {
                    self.tx.delete(&notes, key)?;
                }
            }
        }
        Ok(())
    }

    fn session_objects(&mut self, id: &SessionId) -> Vec<ObjId> {
        self.touched.insert(Touched::Session(id.clone()));
        match self.places.session(self.tx, id) {
            Standing::Records(objects) => objects,
            Standing::Nothing | Standing::Grave => Vec::new(),
        }
    }

    fn workspace_objects(&mut self, id: &WorkspaceId) -> Vec<ObjId> {
        self.touched.insert(Touched::Workspace(id.clone()));
        match self.places.workspace(self.tx, id) {
            Standing::Records(objects) => objects,
            Standing::Nothing | Standing::Grave => Vec::new(),
        }
    }
}

fn put_text(tx: &mut Transaction<'_>, object: &ObjId, key: &str, text: Option<&str>) -> Done {
    text.map_or(Ok(()), |text| tx.put(object, key, text))
}

fn put_extra(tx: &mut Transaction<'_>, record: &ObjId, extra: &Extra) -> Done {
    let object = tx.put_object(record, "extra", ObjType::Map)?;
    extra.iter().try_for_each(|(key, value)| tx.put(&object, key, value.as_str()))
}

/// Deletes a key; nothing if it is not there, which automerge takes for an error in some cases.
fn delete_key(tx: &mut Transaction<'_>, object: &ObjId, key: &str) -> Done {
    match tx.get(object, key)? {
        Some(_) => tx.delete(object, key),
        None => Ok(()),
    }
}
