//! Owns reading sessions and workspaces from a host document.
//!
//! Must not write. Invariant: whatever a peer wrote at a record's fields, a record is read: what
//! can't be understood has a default, and what deletes or seals does so however it is written.

use std::{collections::BTreeMap, sync::Arc};

use automerge::{
    Automerge, ObjId, ObjType, ReadDoc, ScalarValueRef, ValueRef,
    iter::{DocItem, DocObjItem, MapRangeItem},
};

use super::{
    super::super::{
        guard::{self, Value},
        ids::{NodeId, OperationId, SessionId, WorkspaceId},
        record::{
            Deletion, DeletionReason, Ended, Extra, StoredSession, StoredWorkspace, TIME_MS_MAX,
            Teardown, TeardownAction, TeardownState,
        },
    },
    Document, Standing, int_at, maps_at, text_at,
};

/// Most operations of a document that is read in one walk, far more than most have: automerge notes
/// each map that it comes by, and what a document may cost is counted without that.
const WALKED_OPERATIONS_MAX: u64 = 1 << 18;

/// All records of a host document, in no order; `None` stands for what was purged or is gone.
#[derive(Debug, Default)]
pub struct Records {
    /// As [`Document::session`] reads each.
    pub sessions: Vec<(SessionId, Option<StoredSession>)>,
    /// As [`Document::workspace`] reads each.
    pub workspaces: Vec<(WorkspaceId, Option<StoredWorkspace>)>,
}

impl Document {
    /// Reads a session; `None` if it is not there or was purged.
    pub fn session(&self, id: &SessionId) -> Option<StoredSession> {
        let objects = match self.host_places().session(&self.automerge, id) {
            Standing::Records(objects) => objects,
            Standing::Nothing | Standing::Grave => return None,
        };
        if planted!(PurgeUndone) {
            let time = |object: &ObjId, key| int_at(&self.automerge, object, key);
            let is_purged = |object: &ObjId| {
                time(object, "purged_at").is_some_and(|at| time(object, "updated_at") == Some(at))
            };
            if objects.iter().any(is_purged) {
                return None;
            }
        }
        let mut sessions = objects.iter().map(|object| read_session(&self.automerge, object));
        let mut session = sessions.next()?;
        for later in sessions {
            // Another node may have made a session of the same id meanwhile: what its host has said
            // of this one stays said.
            session = StoredSession {
                deleted: both_deleted(session.deleted, later.deleted),
                agent: later.agent.or(session.agent),
                agent_server: later.agent_server.or(session.agent_server),
                ..later
            };
        }
        Some(session)
    }

    /// Reads all sessions and workspaces.
    ///
    /// In one walk: to look each record up takes longer than to load the document.
    pub fn records(&self) -> Records {
        let one_by_one = || {
            let (sessions, workspaces) = (self.session_ids(), self.workspace_ids());
            Records {
                sessions: sessions.into_iter().map(|id| (id.clone(), self.session(&id))).collect(),
                workspaces: workspaces
                    .into_iter()
                    .map(|id| (id.clone(), self.workspace(&id)))
                    .collect(),
            }
        };
        let operations = self.automerge.stats().num_ops;
        if operations > WALKED_OPERATIONS_MAX || planted!(PurgeUndone) {
            return one_by_one();
        }
        // Automerge walks over what this version has no name for, too, and nobody has judged that.
        let walked = guard::contained(|| Walk::over(self)).unwrap_or_else(|_| one_by_one());
        debug_assert_eq!(
            walked.by_id(),
            one_by_one().by_id(),
            "a walk reads what a look at each reads"
        );
        walked
    }

    /// Reads a workspace; `None` if it is not there or is gone.
    pub fn workspace(&self, id: &WorkspaceId) -> Option<StoredWorkspace> {
        let objects = match self.host_places().workspace(&self.automerge, id) {
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
            later.agent_server = later.agent_server.or(workspace.agent_server);
            workspace = later;
        }
        Some(workspace)
    }
}

impl Document {
    /// Reads what is left of a workspace that is gone, if its host has not begun another epoch since.
    pub fn ended(&self, id: &WorkspaceId) -> Option<Ended> {
        let workspaces = &self.host_places().workspaces;
        let all = self.automerge.get_all(workspaces, id.as_str()).unwrap_or_default();
        all.iter().filter_map(|(value, _)| value.as_str()).find_map(Ended::parse)
    }
}

impl Records {
    /// Tells whether both hold the same, in whatever order.
    pub fn same_as(&self, other: &Self) -> bool {
        self.by_id() == other.by_id()
    }

    /// Returns them in their order, each once.
    #[expect(clippy::type_complexity, reason = "it is only compared")]
    pub(super) fn by_id(
        &self,
    ) -> (
        BTreeMap<&SessionId, &Option<StoredSession>>,
        BTreeMap<&WorkspaceId, &Option<StoredWorkspace>>,
    ) {
        let sessions = self.sessions.iter().map(|(id, session)| (id, session));
        let workspaces = self.workspaces.iter().map(|(id, workspace)| (id, workspace));
        (sessions.collect(), workspaces.collect())
    }
}

/// What the map is that a walk is in.
#[derive(Clone, Copy)]
enum Place {
    Bucket,
    Workspaces,
    /// The record of the how-manieth session.
    Session(usize),
    /// What that record holds for newer versions.
    SessionExtra(usize),
    /// The record of the how-manieth workspace.
    Workspace(usize),
    /// What that record holds for newer versions.
    WorkspaceExtra(usize),
    Elsewhere,
}

/// A walk over all of a document.
struct Walk<'a> {
    document: &'a Document,
    /// What the maps are that have been come by and not yet been walked.
    ahead: BTreeMap<ObjId, Place>,
    found: Records,
}

impl<'a> Walk<'a> {
    fn over(document: &'a Document) -> Records {
        let places = document.host_places();
        let buckets = places.buckets.iter().map(|bucket| (bucket.clone(), Place::Bucket));
        let workspaces = (places.workspaces.clone(), Place::Workspaces);
        let ahead = buckets.chain([workspaces]).collect();
        let mut walk = Self { document, ahead, found: Records::default() };
        let mut here = None;
        // A map comes behind the one that it is in, and all of it together.
        for DocObjItem { obj, item } in document.automerge.iter() {
            let DocItem::Map(item) = item else { continue };
            let place = match &here {
                Some((map, place)) if Arc::ptr_eq(map, &obj) => *place,
                _ => {
                    let place = walk.ahead.remove(&*obj).unwrap_or(Place::Elsewhere);
                    here = Some((obj.clone(), place));
                    place
                }
            };
            walk.take(&obj, place, &item);
        }
        walk.found
    }

    fn take(&mut self, map: &ObjId, place: Place, item: &MapRangeItem<'_>) {
        let automerge = &self.document.automerge;
        match place {
            Place::Bucket => self.take_session(map, item),
            Place::Workspaces => self.take_workspace(item),
            Place::Session(index) => {
                if is_extra(item) {
                    self.ahead.insert(item.id(), Place::SessionExtra(index));
                } else if let (_, Some(session)) = &mut self.found.sessions[index] {
                    read_session_field(automerge, map, session, item);
                }
            }
            Place::SessionExtra(index) => {
                if let (_, Some(session)) = &mut self.found.sessions[index] {
                    session.extra.extend(extra_entry(item));
                }
            }
            Place::Workspace(index) => {
                if is_extra(item) {
                    self.ahead.insert(item.id(), Place::WorkspaceExtra(index));
                } else if let (_, Some(workspace)) = &mut self.found.workspaces[index] {
                    read_workspace_field(automerge, map, workspace, item);
                }
            }
            Place::WorkspaceExtra(index) => {
                if let (_, Some(workspace)) = &mut self.found.workspaces[index] {
                    workspace.extra.extend(extra_entry(item));
                }
            }
            Place::Elsewhere => {}
        }
    }

    fn take_session(&mut self, bucket: &ObjId, item: &MapRangeItem<'_>) {
        let Ok(id) = item.key.parse::<SessionId>() else { return };
        let places = self.document.host_places();
        let is_plain = is_one_map(item)
            && places.bucket(&id) == bucket
            && !places.graves.sessions.has(id.as_str());
        let session = if is_plain {
            self.ahead.insert(item.id(), Place::Session(self.found.sessions.len()));
            Some(empty_session())
        } else {
            self.document.session(&id)
        };
        self.found.sessions.push((id, session));
    }

    fn take_workspace(&mut self, item: &MapRangeItem<'_>) {
        let Ok(id) = item.key.parse::<WorkspaceId>() else { return };
        let places = self.document.host_places();
        let workspace = if is_one_map(item) && !places.graves.workspaces.has(id.as_str()) {
            self.ahead.insert(item.id(), Place::Workspace(self.found.workspaces.len()));
            Some(empty_workspace())
        } else {
            self.document.workspace(&id)
        };
        self.found.workspaces.push((id, workspace));
    }
}

/// Tells whether a map, and nothing else, is at a key.
fn is_one_map(item: &MapRangeItem<'_>) -> bool {
    !item.conflict && matches!(item.value, ValueRef::Object(ObjType::Map))
}

fn is_extra(item: &MapRangeItem<'_>) -> bool {
    item.key == "extra" && matches!(item.value, ValueRef::Object(ObjType::Map))
}

fn read_session(automerge: &Automerge, record: &ObjId) -> StoredSession {
    let mut session = empty_session();
    for item in automerge.map_range(record, ..) {
        read_session_field(automerge, record, &mut session, &item);
    }
    session
}

pub(super) fn empty_session() -> StoredSession {
    StoredSession {
        workspace_id: None,
        parent_id: None,
        project_id: None,
        directory: None,
        title: None,
        created_at: 0,
        updated_at: 0,
        archived_at: None,
        agent: None,
        agent_server: None,
        extra: Extra::new(),
        deleted: None,
    }
}

fn read_session_field(
    automerge: &Automerge,
    record: &ObjId,
    session: &mut StoredSession,
    item: &MapRangeItem<'_>,
) {
    match &*item.key {
        "extra" => session.extra = read_extra(automerge, &item.id()),
        "deleted" if item.conflict => {
            let all = automerge.get_all(record, &*item.key).unwrap_or_default();
            let all = all.iter().map(|(_, object)| read_deletion(automerge, object));
            session.deleted = all.fold(None, both_deleted);
        }
        "deleted" => session.deleted = read_deletion(automerge, &item.id()),
        "restored" if planted!(RestoreBeatsDelete) => session.deleted = None,
        key => set_session_field(session, key, value_in(&item.value)),
    }
}

/// Sets what a session has no map for.
pub(super) fn set_session_field(session: &mut StoredSession, key: &str, value: Value<'_>) {
    match key {
        "workspace_id" => session.workspace_id = text(value).and_then(parsed),
        "parent_id" => session.parent_id = text(value).and_then(parsed),
        "project_id" => session.project_id = text(value).map(str::to_owned),
        "directory" => session.directory = text(value).map(str::to_owned),
        "title" => session.title = text(value).map(str::to_owned),
        "created_at" => session.created_at = time(value).unwrap_or(0),
        "updated_at" => session.updated_at = time(value).unwrap_or(0),
        "archived_at" => session.archived_at = time(value),
        "agent" => session.agent = text(value).map(str::to_owned),
        "agent_server" => session.agent_server = text(value).map(str::to_owned),
        _ => {}
    }
}

/// Reads a deletion; whatever stands there deletes, so what can't be read has a default.
fn read_deletion(automerge: &Automerge, object: &ObjId) -> Option<Deletion> {
    let by = text_at(automerge, object, "by").and_then(|text| text.parse().ok());
    let operation = text_at(automerge, object, "operation").and_then(|text| text.parse().ok());
    let reason = text_at(automerge, object, "reason");
    Some(Deletion {
        by: by.unwrap_or(NodeId([0; 32])),
        at: int_at(automerge, object, "at").map_or(0, in_range),
        operation: operation.or_else(|| "op_unknown".parse().ok())?,
        reason: (reason.as_deref() == Some(DeletionReason::Agent.as_str()))
            .then_some(DeletionReason::Agent),
    })
}

/// Returns the later of two deletes that count together; it is a person's if either is.
fn both_deleted(earlier: Option<Deletion>, later: Option<Deletion>) -> Option<Deletion> {
    match (earlier, later) {
        (Some(earlier), Some(later)) => {
            Some(Deletion { reason: later.reason.and(earlier.reason), ..later })
        }
        (earlier, later) => later.or(earlier),
    }
}

fn read_workspace(automerge: &Automerge, record: &ObjId) -> StoredWorkspace {
    let mut workspace = empty_workspace();
    for item in automerge.map_range(record, ..) {
        read_workspace_field(automerge, record, &mut workspace, &item);
    }
    workspace
}

pub(super) fn empty_workspace() -> StoredWorkspace {
    StoredWorkspace {
        name: String::new(),
        kind: String::new(),
        project_id: None,
        directory: None,
        branch: None,
        created_at: 0,
        agent_server: None,
        keepers: BTreeMap::new(),
        used: false,
        extra: Extra::new(),
        teardown: None,
        requests: BTreeMap::new(),
        dismissals: BTreeMap::new(),
    }
}

fn read_workspace_field(
    automerge: &Automerge,
    record: &ObjId,
    workspace: &mut StoredWorkspace,
    item: &MapRangeItem<'_>,
) {
    match &*item.key {
        "extra" => workspace.extra = read_extra(automerge, &item.id()),
        "teardown" => workspace.teardown = Some(read_teardown(automerge, &item.id())),
        "keepers" => {
            workspace.keepers = read_notes(automerge, record, "keepers", node);
        }
        "requests" => {
            workspace.requests = read_notes(automerge, record, "requests", requested);
        }
        "dismissals" => {
            workspace.dismissals = read_notes(automerge, record, "dismissals", truth);
        }
        key => set_workspace_field(workspace, key, value_in(&item.value)),
    }
}

/// Sets what a workspace has no map for.
pub(super) fn set_workspace_field(workspace: &mut StoredWorkspace, key: &str, value: Value<'_>) {
    match key {
        "name" => workspace.name = text(value).unwrap_or_default().to_owned(),
        "kind" => workspace.kind = text(value).unwrap_or_default().to_owned(),
        "project_id" => workspace.project_id = text(value).map(str::to_owned),
        "directory" => workspace.directory = text(value).map(str::to_owned),
        "branch" => workspace.branch = text(value).map(str::to_owned),
        "agent_server" => workspace.agent_server = text(value).map(str::to_owned),
        "created_at" => workspace.created_at = time(value).unwrap_or(0),
        "used" => workspace.used = truth(value).unwrap_or(false),
        _ => {}
    }
}

fn requested(value: Value<'_>) -> Option<TeardownAction> {
    match text(value)? {
        "retry" => Some(TeardownAction::Retry),
        "force" => Some(TeardownAction::Force),
        _ => None,
    }
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
        kept_until: int_at(automerge, object, "kept_until").map(in_range),
    }
}

fn read_extra(automerge: &Automerge, object: &ObjId) -> Extra {
    automerge.map_range(object, ..).filter_map(|item| extra_entry(&item)).collect()
}

fn extra_entry(item: &MapRangeItem<'_>) -> Option<(String, String)> {
    Some((item.key.to_string(), text(value_in(&item.value))?.to_owned()))
}

/// Reads a map from operation to value: all of them, where two nodes made the map at once.
fn read_notes<T>(
    automerge: &Automerge,
    record: &ObjId,
    key: &str,
    read: impl Fn(Value<'_>) -> Option<T>,
) -> BTreeMap<OperationId, T> {
    maps_at(automerge, record, key)
        .iter()
        .flat_map(|object| automerge.map_range(object, ..))
        .filter_map(|item| note(&item.key, value_in(&item.value), &read))
        .collect()
}

/// Reads one entry of such a map.
pub(super) fn note<T>(
    key: &str,
    value: Value<'_>,
    read: impl Fn(Value<'_>) -> Option<T>,
) -> Option<(OperationId, T)> {
    Some((key.parse().ok()?, read(value)?))
}

pub(super) fn value_in<'a>(value: &'a ValueRef<'_>) -> Value<'a> {
    match value {
        ValueRef::Object(ObjType::Map) => Value::Map,
        ValueRef::Scalar(ScalarValueRef::Str(text)) => Value::Text(text),
        ValueRef::Scalar(ScalarValueRef::Int(number)) => Value::Int(*number),
        ValueRef::Scalar(ScalarValueRef::Boolean(truth)) => Value::Truth(*truth),
        _ => Value::Other,
    }
}

pub(super) fn text(value: Value<'_>) -> Option<&str> {
    if let Value::Text(text) = value { Some(text) } else { None }
}

fn truth(value: Value<'_>) -> Option<bool> {
    if let Value::Truth(truth) = value { Some(truth) } else { None }
}

fn time(value: Value<'_>) -> Option<i64> {
    if let Value::Int(at) = value { Some(in_range(at)) } else { None }
}

fn in_range(at: i64) -> i64 {
    at.clamp(-TIME_MS_MAX, TIME_MS_MAX)
}

pub(super) fn node(value: Value<'_>) -> Option<NodeId> {
    text(value).and_then(parsed)
}

fn parsed<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}
