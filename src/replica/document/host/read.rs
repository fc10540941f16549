//! Owns reading sessions and workspaces from a host document.
//!
//! Must not write. Invariant: whatever a peer wrote at a record's fields, a record is read: what
//! can't be understood has a default, and what deletes or seals does so however it is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use automerge::{
    Automerge, ObjId, ObjType, ReadDoc, ValueRef,
    iter::{DocItem, DocObjItem, MapRangeItem},
};

use super::{
    super::super::{
        guard,
        ids::{NodeId, OperationId, SessionId, WorkspaceId},
        record::{
            Deletion, Extra, StoredSession, StoredWorkspace, Teardown, TeardownAction,
            TeardownState,
        },
    },
    Document, Standing, int_at, maps_at, text_at,
};

/// Largest time that JSON readers keep exact; what a peer writes beyond it is brought back.
const TIME_MS_MAX: i64 = 1 << 53;

/// Most operations of a document that is read in one walk, far more than most have: automerge notes
/// each map that it comes by, and what a document may cost is counted without that.
const WALKED_OPERATIONS_MAX: u64 = 1 << 18;

/// Where a walk over a document is.
#[derive(Clone, Copy)]
enum Place {
    Bucket,
    /// In the record of the how-manieth session.
    Session(usize),
    /// In what that record holds for newer versions.
    Extra(usize),
    Elsewhere,
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
            let deleted = later.deleted.clone().or(session.deleted.take());
            session = StoredSession { deleted, ..later };
        }
        Some(session)
    }

    /// Reads all sessions, each as [`Document::session`] does; `None` stands for one that was purged.
    ///
    /// In one walk: to look each record up takes longer than to load the document.
    pub fn sessions(&self) -> Vec<(SessionId, Option<StoredSession>)> {
        let one_by_one = || {
            let ids = self.session_ids().into_iter();
            ids.map(|id| (id.clone(), self.session(&id))).collect()
        };
        let operations = self.automerge.stats().num_ops;
        if operations > WALKED_OPERATIONS_MAX || planted!(PurgeUndone) {
            return one_by_one();
        }
        // Automerge walks over what this version has no name for, too, and nobody has judged that.
        let walked = guard::contained(|| self.walk_sessions()).unwrap_or_else(|_| one_by_one());
        debug_assert_eq!(
            walked.iter().cloned().collect::<BTreeMap<_, _>>(),
            one_by_one().into_iter().collect::<BTreeMap<_, _>>(),
            "a walk reads what a look at each reads"
        );
        walked
    }

    fn walk_sessions(&self) -> Vec<(SessionId, Option<StoredSession>)> {
        let places = self.host_places();
        let buckets: BTreeSet<&ObjId> = places.buckets.iter().collect();
        let mut sessions = Vec::new();
        let mut records = BTreeMap::new();
        let mut place = (None, Place::Elsewhere);
        // A map comes behind the one that it is in, and all of it together.
        for DocObjItem { obj, item } in self.automerge.iter() {
            let DocItem::Map(item) = item else { continue };
            if !place.0.as_ref().is_some_and(|at| Arc::ptr_eq(at, &obj)) {
                let at = match records.remove(&*obj) {
                    Some(at) => at,
                    None if buckets.contains(&*obj) => Place::Bucket,
                    None => Place::Elsewhere,
                };
                place = (Some(obj), at);
            }
            match place.1 {
                Place::Bucket => {
                    let Ok(id) = item.key.parse::<SessionId>() else { continue };
                    let is_map = matches!(item.value, ValueRef::Object(ObjType::Map));
                    let is_plain =
                        is_map && !item.conflict && Some(places.bucket(&id)) == place.0.as_deref();
                    if is_plain && !places.graves.sessions.has(id.as_str()) {
                        records.insert(item.id(), Place::Session(sessions.len()));
                        sessions.push((id, Some(empty_session())));
                    } else {
                        let session = self.session(&id);
                        sessions.push((id, session));
                    }
                }
                Place::Session(index) => {
                    if item.key == "extra" && matches!(item.value, ValueRef::Object(ObjType::Map)) {
                        records.insert(item.id(), Place::Extra(index));
                    } else if let (_, Some(session)) = &mut sessions[index] {
                        read_session_field(&self.automerge, session, &item);
                    }
                }
                Place::Extra(index) => {
                    if let (_, Some(session)) = &mut sessions[index] {
                        session.extra.extend(extra_entry(&item));
                    }
                }
                Place::Elsewhere => {}
            }
        }
        sessions
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
            workspace = later;
        }
        Some(workspace)
    }
}

fn read_session(automerge: &Automerge, record: &ObjId) -> StoredSession {
    let mut session = empty_session();
    for item in automerge.map_range(record, ..) {
        read_session_field(automerge, &mut session, &item);
    }
    session
}

fn empty_session() -> StoredSession {
    StoredSession {
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
    }
}

fn read_session_field(automerge: &Automerge, session: &mut StoredSession, item: &MapRangeItem<'_>) {
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
        "restored" if planted!(RestoreBeatsDelete) => session.deleted = None,
        _ => {}
    }
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
    automerge.map_range(object, ..).filter_map(|item| extra_entry(&item)).collect()
}

fn extra_entry(item: &MapRangeItem<'_>) -> Option<(String, String)> {
    Some((item.key.to_string(), text(&item.value)?.to_owned()))
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
