//! Owns the shape of a host document: its workspaces, and its sessions in 256 buckets.
//!
//! Must not know the rule. Invariants: an id that was purged leaves a grave, so that it never
//! comes back, not even by a creation that did not know; where two nodes created the same id at
//! once, all that either of them says of deleting, keeping and ending counts.

mod carried;
mod carry;
mod description;
mod graves;
mod read;
mod rewrite;
mod sketch;
mod trash;
mod tree;
mod write;

use std::{collections::BTreeSet, sync::Arc};

use automerge::{
    Automerge, AutomergeError, ObjId, ObjType, ROOT, ReadDoc, Value, ValueRef,
    transaction::{Transactable, Transaction},
};
use sha2::{Digest as _, Sha256};

use self::graves::Graves;
pub use self::{
    carried::{CARRIED, Part, Vector},
    description::SELF,
    read::Records,
    sketch::Sketch,
    trash::{Kept, REQUESTS, SUMMARY, TRASH},
    write::{CLEARED_MAX, Limits, Scope, SessionFields, Writer},
};
use super::{
    super::ids::{Fingerprint, NodeId, SessionId, WorkspaceId},
    Applied, Document, NotWritten, Places as AllPlaces, Touched, authority,
};

/// The version of the document's shape.
const SCHEMA: i64 = 1;

/// Into how many maps the sessions are spread: costs in automerge grow with a map's keys.
const BUCKETS: usize = 256;

/// The scalar that stands where a record was.
const GRAVE: &str = "gone";
/// Where in `meta` the graves of earlier epochs are.
const GRAVES: &str = "graves";
/// The one that stands where a session was that its agent's server has confirmed to have no more.
const GRAVE_CONFIRMED: &str = "gone there too";

/// What a write to a document gives.
pub type Done = Result<(), AutomergeError>;

/// Where things are in a host document; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    host: Fingerprint,
    workspaces: ObjId,
    buckets: Arc<[ObjId]>,
    graves: Arc<AllGraves>,
}

/// What was purged, or gone, before the document was begun.
#[derive(Debug, Default, PartialEq, Eq)]
struct AllGraves {
    sessions: Graves,
    workspaces: Graves,
}

impl AllGraves {
    fn read(automerge: &Automerge, meta: &ObjId, host: &NodeId) -> Self {
        let Some(graves) = map_at(automerge, meta, GRAVES) else { return Self::default() };
        let of = |key| {
            let map = map_at(automerge, &graves, key);
            map.map(|map| Graves::read(automerge, &map, host)).unwrap_or_default()
        };
        Self { sessions: of("sessions"), workspaces: of("workspaces") }
    }
}

/// Writes a host document's first change.
pub fn genesis(tx: &mut Transaction<'_>, host: NodeId, epoch: u32) -> Done {
    let meta = tx.put_object(ROOT, "meta", ObjType::Map)?;
    tx.put(&meta, "schema", SCHEMA)?;
    tx.put(&meta, "host", host.to_string())?;
    tx.put(&meta, "epoch", i64::from(epoch))?;
    description::lay_out(tx)?;
    tx.put_object(ROOT, "workspaces", ObjType::Map)?;
    let sessions = tx.put_object(ROOT, "sessions", ObjType::Map)?;
    for bucket in 0..BUCKETS {
        tx.put_object(&sessions, bucket_key(bucket), ObjType::Map)?;
    }
    Ok(())
}

impl Places {
    /// Finds them; `None` if this is not the named host's document.
    ///
    /// Nobody but the host begins its document: another's would take its place.
    pub fn find(automerge: &Automerge, host: NodeId, epoch: u32) -> Option<Self> {
        let meta = only_map_at(automerge, &ROOT, "meta").filter(|meta| is_by(meta, &host))?;
        let named = text_at(automerge, &meta, "host")? == host.to_string()
            && int_at(automerge, &meta, "epoch")? == i64::from(epoch);
        let sessions = only_map_at(automerge, &ROOT, "sessions")?;
        let buckets = buckets_in(automerge, &sessions)?;
        let workspaces = only_map_at(automerge, &ROOT, "workspaces")?;
        let graves = Arc::new(AllGraves::read(automerge, &meta, &host));
        named.then_some(Self { host: host.fingerprint(), workspaces, buckets, graves })
    }

    /// Returns the fingerprint of the host.
    pub fn host(&self) -> Fingerprint {
        self.host
    }

    /// Returns where a bucket, or the map of the workspaces, is, if it is one of these.
    pub fn path_of(&self, object: &ObjId) -> Option<Vec<String>> {
        if *object == self.workspaces {
            return Some(vec!["workspaces".to_owned()]);
        }
        let bucket = self.buckets.iter().position(|bucket| bucket == object)?;
        Some(vec!["sessions".to_owned(), bucket_key(bucket)])
    }

    /// Tells what stands at a session's key.
    fn session(&self, automerge: &impl ReadDoc, id: &SessionId) -> Standing {
        if self.graves.sessions.has(id.as_str()) {
            return Standing::Grave;
        }
        standing(automerge, self.bucket(id), id.as_str())
    }

    /// Tells what stands at a workspace's key.
    fn workspace(&self, automerge: &impl ReadDoc, id: &WorkspaceId) -> Standing {
        if self.graves.workspaces.has(id.as_str()) {
            return Standing::Grave;
        }
        standing(automerge, &self.workspaces, id.as_str())
    }

    fn bucket(&self, id: &SessionId) -> &ObjId {
        &self.buckets[bucket_of(id)]
    }
}

/// Finds the buckets, beside each of which nothing else may be, in one walk: asking for each by its
/// key takes longer than loading the document.
fn buckets_in(automerge: &Automerge, sessions: &ObjId) -> Option<Arc<[ObjId]>> {
    let mut buckets = Vec::with_capacity(BUCKETS);
    for item in automerge.map_range(sessions, ..) {
        // Keys come in their order, which is that of the buckets; others are of a newer version.
        if *item.key == *bucket_key(buckets.len()) {
            if item.conflict || !matches!(item.value, ValueRef::Object(ObjType::Map)) {
                return None;
            }
            buckets.push(item.id());
        }
    }
    (buckets.len() == BUCKETS).then(|| buckets.into())
}

fn bucket_of(id: &SessionId) -> usize {
    usize::from(Sha256::digest(id.as_str())[0])
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
        }
    }

    /// Returns how many bytes the ids take that were spent in earlier epochs.
    pub fn grave_bytes(&self) -> usize {
        let graves = &self.host_places().graves;
        graves.sessions.bytes() + graves.workspaces.bytes()
    }

    /// Tells whether a session of this id was here and has been purged.
    pub fn is_session_spent(&self, id: &SessionId) -> bool {
        matches!(self.host_places().session(&self.automerge, id), Standing::Grave)
    }

    /// Tells whether the agent's server of a purged session had confirmed that it is gone there.
    pub fn is_confirmed(&self, id: &SessionId) -> bool {
        let places = self.host_places();
        let all = self.automerge.get_all(places.bucket(id), id.as_str()).unwrap_or_default();
        places.graves.sessions.has_as(id.as_str(), GRAVE_CONFIRMED)
            || all.iter().any(|(value, _)| value.as_str() == Some(GRAVE_CONFIRMED))
    }

    /// Tells whether a workspace of this id was here and is gone.
    pub fn is_workspace_spent(&self, id: &WorkspaceId) -> bool {
        matches!(self.host_places().workspace(&self.automerge, id), Standing::Grave)
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
    ///
    /// # Errors
    ///
    /// Peers would not take it, and nothing was written.
    pub fn write(
        &mut self,
        wall_ms: i64,
        write: impl FnOnce(&mut Writer<'_, '_>) -> Done,
    ) -> Result<Option<Applied>, NotWritten> {
        self.write_noting(wall_ms, None, write)
    }

    /// Writes what of an act belongs into this one of its host's epochs; `None` if nothing does.
    /// Errors as [`Document::write`].
    pub fn write_within(
        &mut self,
        wall_ms: i64,
        limits: &Limits<'_>,
        write: impl FnOnce(&mut Writer<'_, '_>) -> Done,
    ) -> Result<Option<Applied>, NotWritten> {
        self.write_noting(wall_ms, Some(limits), write)
    }

    /// Writes, and notes which records are touched: to find it in the change takes it apart again.
    fn write_noting(
        &mut self,
        wall_ms: i64,
        limits: Option<&Limits<'_>>,
        write: impl FnOnce(&mut Writer<'_, '_>) -> Done,
    ) -> Result<Option<Applied>, NotWritten> {
        let places = self.host_places().clone();
        let mut touched = BTreeSet::new();
        let change = self.commit_change(wall_ms, |tx| {
            let mut writer = Writer::new(tx, &places, limits);
            write(&mut writer)?;
            let problem;
            (touched, problem) = writer.end();
            Ok(problem)
        })?;
        Ok(change.map(|change| self.describe(&[change], touched)))
    }

    /// Tells whether a record is there.
    pub fn has_record(&self, record: &Touched) -> bool {
        let standing = match record {
            Touched::Session(id) => self.host_places().session(&self.automerge, id),
            Touched::Workspace(id) => self.host_places().workspace(&self.automerge, id),
            Touched::Trash(id) => return self.keeps(id),
            Touched::Meta | Touched::Description => return false,
        };
        matches!(standing, Standing::Records(_))
    }
}

fn ids_in<Id: std::str::FromStr>(automerge: &Automerge, map: &ObjId) -> Vec<Id> {
    automerge.keys(map).filter_map(|key| key.parse().ok()).collect()
}

/// Tells whether a node has written what has this name.
fn is_by(id: &ObjId, node: &NodeId) -> bool {
    authority::is_by(id, &node.fingerprint())
}

/// Returns the map at a key, if one is there.
pub fn map_at(automerge: &impl ReadDoc, object: &ObjId, key: &str) -> Option<ObjId> {
    match automerge.get(object, key).ok()?? {
        (Value::Object(ObjType::Map), id) => Some(id),
        _ => None,
    }
}

/// Returns the map at a key where nothing else is.
pub fn only_map_at(automerge: &impl ReadDoc, object: &ObjId, key: &str) -> Option<ObjId> {
    let [(Value::Object(ObjType::Map), id)] = &automerge.get_all(object, key).ok()?[..] else {
        return None;
    };
    Some(id.clone())
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

#[cfg(test)]
mod tests;
