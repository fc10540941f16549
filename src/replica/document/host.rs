//! Owns the shape of a host document: its workspaces, and its sessions in 256 buckets.
//!
//! Must not know the rule. Invariants: an id that was purged leaves a grave, so that it never
//! comes back, not even by a creation that did not know; where two nodes created the same id at
//! once, all that either of them says of deleting, keeping and ending counts.

use std::collections::BTreeMap;

use automerge::{
    Automerge, AutomergeError, ObjId, ObjType, ROOT, ReadDoc, ScalarValue, Value, ValueRef,
    transaction::{Transactable, Transaction},
};
use sha2::{Digest as _, Sha256};

use super::{
    super::{
        ids::{NodeId, OperationId, SessionId, WorkspaceId},
        record::{
            Deletion, Extra, StoredSession, StoredWorkspace, Teardown, TeardownAction,
            TeardownState,
        },
    },
    Applied, Document, Places as AllPlaces,
};

/// The version of the document's shape.
const SCHEMA: i64 = 1;

/// Into how many maps the sessions are spread: costs in automerge grow with a map's keys.
const BUCKETS: usize = 256;

/// The scalar that stands where a record was.
const GRAVE: &str = "gone";

/// Largest time that JSON readers keep exact; what a peer writes beyond it is brought back.
const TIME_MS_MAX: i64 = 1 << 53;

/// What a write to a document gives.
pub type Done = Result<(), AutomergeError>;

/// Where things are in a host document.
#[derive(Debug)]
pub struct Places {
    workspaces: ObjId,
    buckets: Vec<ObjId>,
}

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
    pub extra: BTreeMap<String, Option<String>>,
}

/// Writes a host document's first change.
pub fn genesis(tx: &mut Transaction<'_>, host: NodeId, epoch: u32) -> Done {
    let meta = tx.put_object(ROOT, "meta", ObjType::Map)?;
    tx.put(&meta, "schema", SCHEMA)?;
    tx.put(&meta, "host", host.to_string())?;
    tx.put(&meta, "epoch", i64::from(epoch))?;
    tx.put_object(ROOT, "workspaces", ObjType::Map)?;
    let sessions = tx.put_object(ROOT, "sessions", ObjType::Map)?;
    for bucket in 0..BUCKETS {
        tx.put_object(&sessions, bucket_key(bucket), ObjType::Map)?;
    }
    Ok(())
}

impl Places {
    /// Finds them; `None` if this is not the named host's document.
    pub fn find(automerge: &Automerge, host: NodeId, epoch: u32) -> Option<Self> {
        let meta = map_at(automerge, &ROOT, "meta")?;
        let named = text_at(automerge, &meta, "host")? == host.to_string()
            && int_at(automerge, &meta, "epoch")? == i64::from(epoch);
        let sessions = map_at(automerge, &ROOT, "sessions")?;
        let buckets = (0..BUCKETS)
            .map(|bucket| map_at(automerge, &sessions, &bucket_key(bucket)))
            .collect::<Option<_>>()?;
        named.then_some(Self { workspaces: map_at(automerge, &ROOT, "workspaces")?, buckets })
    }

    fn bucket(&self, id: &SessionId) -> &ObjId {
        &self.buckets[usize::from(Sha256::digest(id.as_str())[0])]
    }
}

fn bucket_key(bucket: usize) -> String {
    format!("{bucket:02x}")
}

/// What stands at a record's key.
enum Standing {
    Nothing,
    Grave,
    /// Ascending; the last wins where only one can.
    Records(Vec<ObjId>),
}

fn standing(automerge: &impl ReadDoc, map: &ObjId, id: &str) -> Standing {
    let all = automerge.get_all(map, id).unwrap_or_default();
    if all.is_empty() {
        return Standing::Nothing;
    }
    let is_record = |value: &Value<'_>| matches!(value, Value::Object(ObjType::Map));
    if all.iter().all(|(value, _)| is_record(value)) {
        Standing::Records(all.into_iter().map(|(_, object)| object).collect())
    } else {
        Standing::Grave
    }
}

impl Document {
    fn host_places(&self) -> &Places {
        match &self.places {
            AllPlaces::Host(places) => places,
            AllPlaces::Fleet(_) => unreachable!("the fleet document has no sessions"),
        }
    }

    /// Reads a session; `None` if it is not there or was purged.
    pub fn session(&self, id: &SessionId) -> Option<StoredSession> {
        let objects = match standing(&self.automerge, self.host_places().bucket(id), id.as_str()) {
            Standing::Records(objects) => objects,
            Standing::Nothing | Standing::Grave => return None,
        };
        let mut sessions = objects.iter().map(|object| read_session(&self.automerge, object));
        let mut session = sessions.next()?;
        for later in sessions {
            let deleted = later.deleted.clone().or(session.deleted.take());
            session = StoredSession { deleted, ..later };
        }
        Some(session)
    }

    /// Reads a workspace; `None` if it is not there or is gone.
    pub fn workspace(&self, id: &WorkspaceId) -> Option<StoredWorkspace> {
        let objects = match standing(&self.automerge, &self.host_places().workspaces, id.as_str()) {
            Standing::Records(objects) => objects,
            Standing::Nothing | Standing::Grave => return None,
        };
        let mut workspaces = objects.iter().map(|object| read_workspace(&self.automerge, object));
        let mut workspace = workspaces.next()?;
        for mut later in workspaces {
            later.keepers.append(&mut workspace.keepers);
            later.requests.append(&mut workspace.requests);
            later.dismissals.append(&mut workspace.dismissals);
            later.used |= workspace.used;
            later.teardown = later.teardown.or(workspace.teardown);
            workspace = later;
        }
        Some(workspace)
    }

    /// Tells whether a session of this id was here and has been purged.
    pub fn is_session_spent(&self, id: &SessionId) -> bool {
        let bucket = self.host_places().bucket(id);
        matches!(standing(&self.automerge, bucket, id.as_str()), Standing::Grave)
    }

    /// Tells whether a workspace of this id was here and is gone.
    pub fn is_workspace_spent(&self, id: &WorkspaceId) -> bool {
        let workspaces = &self.host_places().workspaces;
        matches!(standing(&self.automerge, workspaces, id.as_str()), Standing::Grave)
    }

    /// Lists the ids of all sessions, purged ones too.
    pub fn session_ids(&self) -> Vec<SessionId> {
        let buckets = self.host_places().buckets.iter();
        buckets.flat_map(|bucket| ids_in(&self.automerge, bucket)).collect()
    }

    /// Lists the ids of all workspaces, gone ones too.
    pub fn workspace_ids(&self) -> Vec<WorkspaceId> {
        ids_in(&self.automerge, &self.host_places().workspaces)
    }

    /// Writes to the workspaces and sessions in one change; `None` if nothing was written.
    pub fn write(
        &mut self,
        wall_ms: i64,
        write: impl FnOnce(&mut Writer<'_, '_>) -> Done,
    ) -> Option<Applied> {
        let places = Places {
            workspaces: self.host_places().workspaces.clone(),
            buckets: self.host_places().buckets.clone(),
        };
        self.commit(wall_ms, |tx| write(&mut Writer { tx, places: &places }))
    }
}

fn ids_in<Id: std::str::FromStr>(automerge: &Automerge, map: &ObjId) -> Vec<Id> {
    automerge.keys(map).filter_map(|key| key.parse().ok()).collect()
}

/// One change to a host document, as it is being written.
pub struct Writer<'tx, 'doc> {
    tx: &'tx mut Transaction<'doc>,
    places: &'tx Places,
}

impl Writer<'_, '_> {
    /// Creates a session; whatever stood at its id loses.
    pub fn create_session(&mut self, id: &SessionId, session: &StoredSession) -> Done {
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
        put_extra(tx, &record, &session.extra)
    }

    /// Changes fields of a session.
    pub fn update_session(&mut self, id: &SessionId, fields: &SessionFields) -> Done {
        for record in self.session_objects(id) {
            let tx = &mut *self.tx;
            let workspace_id = fields.workspace_id.as_ref();
            let workspace_id = workspace_id.map(|id| id.as_ref().map(|id| id.as_str()));
            let texts = [
                ("title", fields.title.as_ref().map(Option::as_deref)),
                ("workspace_id", workspace_id),
                ("project_id", fields.project_id.as_ref().map(Option::as_deref)),
                ("directory", fields.directory.as_ref().map(Option::as_deref)),
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
            patch_extra(tx, &record, &fields.extra)?;
        }
        Ok(())
    }

    /// Marks a session deleted, anew even if it is: a restore that did not see this loses.
    pub fn delete_session(&mut self, id: &SessionId, deletion: &Deletion) -> Done {
        for record in self.session_objects(id) {
            let deleted = self.tx.put_object(&record, "deleted", ObjType::Map)?;
            self.tx.put(&deleted, "by", deletion.by.to_string())?;
            self.tx.put(&deleted, "at", deletion.at)?;
            self.tx.put(&deleted, "operation", deletion.operation.as_str())?;
        }
        Ok(())
    }

    /// Takes back every delete of a session that this replica has seen.
    pub fn restore_session(&mut self, id: &SessionId) -> Done {
        for record in self.session_objects(id) {
            delete_key(self.tx, &record, "deleted")?;
        }
        Ok(())
    }

    /// Removes a session for good; only its host may.
    pub fn purge_session(&mut self, id: &SessionId) -> Done {
        self.tx.put(self.places.bucket(id), id.as_str(), GRAVE)
    }

    /// Creates a workspace; whatever stood at its id loses.
    pub fn create_workspace(&mut self, id: &WorkspaceId, workspace: &StoredWorkspace) -> Done {
        let record = self.tx.put_object(&self.places.workspaces, id.as_str(), ObjType::Map)?;
        let tx = &mut *self.tx;
        tx.put(&record, "name", workspace.name.as_str())?;
        tx.put(&record, "kind", workspace.kind.as_str())?;
        put_text(tx, &record, "project_id", workspace.project_id.as_deref())?;
        put_text(tx, &record, "directory", workspace.directory.as_deref())?;
        put_text(tx, &record, "branch", workspace.branch.as_deref())?;
        tx.put(&record, "created_at", workspace.created_at)?;
        tx.put(&record, "used", workspace.used)?;
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
        for record in self.workspace_objects(id) {
            if let Some(name) = name {
                self.tx.put(&record, "name", name)?;
            }
            match branch {
                None => {}
                Some(Some(branch)) => self.tx.put(&record, "branch", branch)?,
                Some(None) => delete_key(self.tx, &record, "branch")?,
            }
            patch_extra(self.tx, &record, extra)?;
        }
        Ok(())
    }

    /// Notes that a workspace has held a session or was dismissed.
    pub fn use_workspace(&mut self, id: &WorkspaceId) -> Done {
        for record in self.workspace_objects(id) {
            self.tx.put(&record, "used", true)?;
        }
        Ok(())
    }

    /// Keeps a workspace, under the operation's own entry: automerge drops a put of an equal
    /// value, and a keep beside a concurrent unkeep would be lost.
    pub fn keep(&mut self, id: &WorkspaceId, operation: &OperationId, by: NodeId) -> Done {
        self.note(id, "keepers", operation, by.to_string().into())
    }

    /// Takes back every keep that this replica has seen.
    pub fn unkeep(&mut self, id: &WorkspaceId) -> Done {
        self.clear(id, "keepers")
    }

    /// Notes a delete of the workspace as a whole, and whether it cleared a keep.
    pub fn dismiss(&mut self, id: &WorkspaceId, operation: &OperationId, kept: bool) -> Done {
        self.note(id, "dismissals", operation, kept.into())
    }

    /// Takes back a delete of the workspace as a whole.
    pub fn undismiss(&mut self, id: &WorkspaceId, operation: &OperationId) -> Done {
        for record in self.workspace_objects(id) {
            if let Some(notes) = map_at(self.tx, &record, "dismissals") {
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
        self.clear(id, "requests")
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
        }
        Ok(())
    }

    /// Removes a workspace for good; only its host may.
    pub fn remove_workspace(&mut self, id: &WorkspaceId) -> Done {
        self.tx.put(&self.places.workspaces, id.as_str(), GRAVE)
    }

    fn note(
        &mut self,
        id: &WorkspaceId,
        map: &str,
        operation: &OperationId,
        value: ScalarValue,
    ) -> Done {
        for record in self.workspace_objects(id) {
            let notes = match map_at(self.tx, &record, map) {
                Some(notes) => notes,
                None => self.tx.put_object(&record, map, ObjType::Map)?,
            };
            self.tx.put(&notes, operation.as_str(), value.clone())?;
        }
        Ok(())
    }

    fn clear(&mut self, id: &WorkspaceId, map: &str) -> Done {
        for record in self.workspace_objects(id) {
            for notes in maps_at(self.tx, &record, map) {
                let keys: Vec<String> = self.tx.keys(&notes).collect();
                for key in keys {
                    self.tx.delete(&notes, key)?;
                }
            }
        }
        Ok(())
    }

    fn session_objects(&self, id: &SessionId) -> Vec<ObjId> {
        match standing(self.tx, self.places.bucket(id), id.as_str()) {
            Standing::Records(objects) => objects,
            Standing::Nothing | Standing::Grave => Vec::new(),
        }
    }

    fn workspace_objects(&self, id: &WorkspaceId) -> Vec<ObjId> {
        match standing(self.tx, &self.places.workspaces, id.as_str()) {
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

fn patch_extra(
    tx: &mut Transaction<'_>,
    record: &ObjId,
    patch: &BTreeMap<String, Option<String>>,
) -> Done {
    if patch.is_empty() {
        return Ok(());
    }
    let object = match map_at(tx, record, "extra") {
        Some(object) => object,
        None => tx.put_object(record, "extra", ObjType::Map)?,
    };
    for (key, value) in patch {
        match value {
            Some(value) => tx.put(&object, key, value.as_str())?,
            None => delete_key(tx, &object, key)?,
        }
    }
    Ok(())
}

/// Deletes a key; nothing if it is not there, which automerge takes for an error in some cases.
fn delete_key(tx: &mut Transaction<'_>, object: &ObjId, key: &str) -> Done {
    match tx.get(object, key)? {
        Some(_) => tx.delete(object, key),
        None => Ok(()),
    }
}

fn read_session(automerge: &Automerge, record: &ObjId) -> StoredSession {
    let mut session = StoredSession {
        workspace_id: None,
        parent_id: None,
        project_id: None,
        directory: None,
        title: None,
        created_at: 0,
        updated_at: 0,
        archived_at: None,
        extra: Extra::new(),
        deleted: None,
    };
    for item in automerge.map_range(record, ..) {
        match &*item.key {
            "workspace_id" => session.workspace_id = text(&item.value).and_then(parsed),
            "parent_id" => session.parent_id = text(&item.value).and_then(parsed),
            "project_id" => session.project_id = text(&item.value).map(str::to_owned),
            "directory" => session.directory = text(&item.value).map(str::to_owned),
            "title" => session.title = text(&item.value).map(str::to_owned),
            "created_at" => session.created_at = time(&item.value).unwrap_or(0),
            "updated_at" => session.updated_at = time(&item.value).unwrap_or(0),
            "archived_at" => session.archived_at = time(&item.value),
            "extra" => session.extra = read_extra(automerge, &item.id()),
            "deleted" => session.deleted = read_deletion(automerge, &item.id()),
            _ => {}
        }
    }
    session
}

/// Reads a deletion; whatever stands there deletes, so what can't be read has a default.
fn read_deletion(automerge: &Automerge, object: &ObjId) -> Option<Deletion> {
    let by = text_at(automerge, object, "by").and_then(|text| text.parse().ok());
    let operation = text_at(automerge, object, "operation").and_then(|text| text.parse().ok());
    Some(Deletion {
        by: by.unwrap_or(NodeId([0; 32])),
        at: int_at(automerge, object, "at").map_or(0, in_range),
        operation: operation.or_else(|| "op_unknown".parse().ok())?,
    })
}

fn read_workspace(automerge: &Automerge, record: &ObjId) -> StoredWorkspace {
    let mut workspace = StoredWorkspace {
        name: String::new(),
        kind: String::new(),
        project_id: None,
        directory: None,
        branch: None,
        created_at: 0,
        keepers: BTreeMap::new(),
        used: false,
        extra: Extra::new(),
        teardown: None,
        requests: BTreeMap::new(),
        dismissals: BTreeMap::new(),
    };
    for item in automerge.map_range(record, ..) {
        match &*item.key {
            "name" => workspace.name = text(&item.value).unwrap_or_default().to_owned(),
            "kind" => workspace.kind = text(&item.value).unwrap_or_default().to_owned(),
            "project_id" => workspace.project_id = text(&item.value).map(str::to_owned),
            "directory" => workspace.directory = text(&item.value).map(str::to_owned),
            "branch" => workspace.branch = text(&item.value).map(str::to_owned),
            "created_at" => workspace.created_at = time(&item.value).unwrap_or(0),
            "used" => workspace.used = truth(&item.value).unwrap_or(false),
            "extra" => workspace.extra = read_extra(automerge, &item.id()),
            "teardown" => workspace.teardown = Some(read_teardown(automerge, &item.id())),
            "keepers" => {
                workspace.keepers =
                    read_notes(automerge, record, "keepers", |value| text(value).and_then(parsed));
            }
            "requests" => {
                workspace.requests =
                    read_notes(automerge, record, "requests", |value| match text(value)? {
                        "retry" => Some(TeardownAction::Retry),
                        "force" => Some(TeardownAction::Force),
                        _ => None,
                    });
            }
            "dismissals" => {
                workspace.dismissals = read_notes(automerge, record, "dismissals", truth);
            }
            _ => {}
        }
    }
    workspace
}

/// Reads a teardown; whatever stands there seals, so what can't be read has a default.
fn read_teardown(automerge: &Automerge, object: &ObjId) -> Teardown {
    let state = match text_at(automerge, object, "state").as_deref() {
        Some("failed") => TeardownState::Failed,
        _ => TeardownState::Sealed,
    };
    let incarnation = int_at(automerge, object, "incarnation").unwrap_or(1);
    Teardown {
        state,
        incarnation: u32::try_from(incarnation).unwrap_or(1),
        at: int_at(automerge, object, "at").map_or(0, in_range),
        error: text_at(automerge, object, "error"),
    }
}

fn read_extra(automerge: &Automerge, object: &ObjId) -> Extra {
    automerge
        .map_range(object, ..)
        .filter_map(|item| Some((item.key.to_string(), text(&item.value)?.to_owned())))
        .collect()
}

/// Reads a map from operation to value: all of them, where two nodes made the map at once.
fn read_notes<T>(
    automerge: &Automerge,
    record: &ObjId,
    key: &str,
    read: impl Fn(&ValueRef<'_>) -> Option<T>,
) -> BTreeMap<OperationId, T> {
    maps_at(automerge, record, key)
        .iter()
        .flat_map(|object| automerge.map_range(object, ..))
        .filter_map(|item| Some((item.key.parse().ok()?, read(&item.value)?)))
        .collect()
}

/// Returns the map at a key, if one is there.
pub fn map_at(automerge: &impl ReadDoc, object: &ObjId, key: &str) -> Option<ObjId> {
    match automerge.get(object, key).ok()?? {
        (Value::Object(ObjType::Map), id) => Some(id),
        _ => None,
    }
}

fn maps_at(automerge: &impl ReadDoc, object: &ObjId, key: &str) -> Vec<ObjId> {
    let all = automerge.get_all(object, key).unwrap_or_default().into_iter();
    all.filter(|(value, _)| matches!(value, Value::Object(ObjType::Map)))
        .map(|(_, id)| id)
        .collect()
}

/// Returns the text at a key, if one is there.
pub fn text_at(automerge: &impl ReadDoc, object: &ObjId, key: &str) -> Option<String> {
    automerge.get(object, key).ok()??.0.as_str().map(str::to_owned)
}

/// Returns the whole number at a key, if one is there.
pub fn int_at(automerge: &impl ReadDoc, object: &ObjId, key: &str) -> Option<i64> {
    automerge.get(object, key).ok()??.0.as_i64()
}

fn text<'a>(value: &'a ValueRef<'_>) -> Option<&'a str> {
    match value {
        ValueRef::Scalar(automerge::ScalarValueRef::Str(text)) => Some(text),
        _ => None,
    }
}

fn truth(value: &ValueRef<'_>) -> Option<bool> {
    match value {
        ValueRef::Scalar(automerge::ScalarValueRef::Boolean(truth)) => Some(*truth),
        _ => None,
    }
}

fn time(value: &ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Scalar(automerge::ScalarValueRef::Int(at)) => Some(in_range(*at)),
        _ => None,
    }
}

fn in_range(at: i64) -> i64 {
    at.clamp(-TIME_MS_MAX, TIME_MS_MAX)
}

fn parsed<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}
