//! Owns the shape of a host document: its workspaces, and its sessions in 256 buckets.
//!
//! Must not know the rule. Invariants: an id that was purged leaves a grave, so that it never
//! comes back, not even by a creation that did not know; where two nodes created the same id at
//! once, all that either of them says of deleting, keeping and ending counts.

mod read;
mod write;

use std::sync::Arc;

use automerge::{
    Automerge, AutomergeError, ObjId, ObjType, ROOT, ReadDoc, Value,
    transaction::{Transactable, Transaction},
};
use sha2::{Digest as _, Sha256};

pub use self::write::{SessionFields, Writer};
use super::{
    super::ids::{NodeId, SessionId, WorkspaceId},
    Applied, Document, Places as AllPlaces,
};

/// The version of the document's shape.
const SCHEMA: i64 = 1;

/// Into how many maps the sessions are spread: costs in automerge grow with a map's keys.
const BUCKETS: usize = 256;

/// The scalar that stands where a record was.
const GRAVE: &str = "gone";

/// What a write to a document gives.
pub type Done = Result<(), AutomergeError>;

/// Where things are in a host document; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    workspaces: ObjId,
    buckets: Arc<[ObjId]>,
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
        let places = self.host_places().clone();
        self.commit(wall_ms, |tx| write(&mut Writer::new(tx, &places)))
    }
}

fn ids_in<Id: std::str::FromStr>(automerge: &Automerge, map: &ObjId) -> Vec<Id> {
    automerge.keys(map).filter_map(|key| key.parse().ok()).collect()
}

/// Returns the map at a key, if one is there.
pub fn map_at(automerge: &impl ReadDoc, object: &ObjId, key: &str) -> Option<ObjId> {
    match automerge.get(object, key).ok()?? {
        (Value::Object(ObjType::Map), id) => Some(id),
        _ => None,
    }
}

/// Returns all maps at a key, ascending: several, where nodes made one at once.
pub fn maps_at(automerge: &impl ReadDoc, object: &ObjId, key: &str) -> Vec<ObjId> {
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
