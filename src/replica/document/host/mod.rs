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
            AllPlaces::Fleet(_) => unreachable!("the fleet document has no sessions"),
        }
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
            Touched::Member(_) | Touched::Meta | Touched::Description => return false,
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

/// Returns all texts at a key: several, where nodes wrote one at once.
pub fn texts_at(automerge: &impl ReadDoc, object: &ObjId, key: &str) -> Vec<String> {
    let all = automerge.get_all(object, key).unwrap_or_default().into_iter();
    all.filter_map(|(value, _)| value.as_str().map(str::to_owned)).collect()
}

/// Returns the whole number at a key, if one is there.
pub fn int_at(automerge: &impl ReadDoc, object: &ObjId, key: &str) -> Option<i64> {
    automerge.get(object, key).ok()??.0.as_i64()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::replica::{
        document::Judged,
        ids::{DocumentId, StartId},
        record::{Deletion, DeletionReason, Extra, Member, Role, StoredSession, StoredWorkspace},
        trust::Trust,
        voucher::{Trusting, Voucher},
    };

    const HOST: NodeId = NodeId([1; 32]);

    /// Knows the host, and that whatever is signed is right.
    fn trust() -> Trust {
        let host = Member {
            node: HOST,
            name: "host".to_owned(),
            role: Role::Member,
            added_by: HOST,
            added_at: 0,
            revoked: None,
            left: false,
        };
        let mut trust = Trust::new(Arc::new(Trusting));
        trust.learn([&host]);
        trust
    }

    fn vouchers(document: &Document) -> Vec<Voucher> {
        document.vouchers().copied().collect()
    }

    /// Two replicas of one host document.
    fn replicas() -> (Document, Document) {
        let actor = |start| super::super::actor(&HOST, StartId([start; 8]));
        let (mut one, genesis) = Document::create_host(HOST, 0, actor(1), 0);
        vouch(&mut one, &genesis);
        let id = DocumentId::Host { host: HOST, epoch: 0 };
        let other = Document::adopt(id, actor(2), &one.save(), &vouchers(&one), &trust()).unwrap();
        (one, other)
    }

    fn meet(one: &mut Document, other: &mut Document) {
        one.merge_saved(&other.save(), &vouchers(other), &trust()).unwrap();
        other.merge_saved(&one.save(), &vouchers(one), &trust()).unwrap();
        assert_eq!(one.heads(), other.heads());
    }

    fn write(document: &mut Document, write: impl FnOnce(&mut Writer<'_, '_>) -> Done) -> Applied {
        let applied = document.write(0, write).unwrap().expect("something was written");
        vouch(document, &applied);
        applied
    }

    fn vouch(document: &mut Document, applied: &Applied) {
        let last = applied.changes.last().unwrap();
        let (id, trust) = (document.id(), trust());
        document.vouch(trust.vouch(&id, last.actor, last.seq, last.hash));
    }

    fn session(title: &str) -> StoredSession {
        StoredSession {
            workspace_id: None,
            parent_id: None,
            project_id: None,
            directory: None,
            title: Some(title.to_owned()),
            created_at: 0,
            updated_at: 0,
            archived_at: None,
            agent: None,
            agent_server: None,
            extra: Extra::new(),
            deleted: None,
        }
    }

    fn workspace() -> StoredWorkspace {
        StoredWorkspace {
            name: "w".to_owned(),
            kind: "directory".to_owned(),
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

    fn deletion() -> Deletion {
        Deletion { by: HOST, at: 0, operation: "op".parse().unwrap(), reason: None }
    }

    #[test]
    fn a_document_is_given_away_as_it_was_read_until_something_comes_to_it() {
        let (mut one, mut other) = replicas();
        let (first, second): (SessionId, SessionId) = ("s".parse().unwrap(), "t".parse().unwrap());
        write(&mut other, |tx| tx.create_session(&second, &session("other")));
        let bytes = one.automerge.save_nocompress();
        assert_ne!(bytes, one.save(), "nobody here saves it like this");
        let actor = super::super::actor(&HOST, StartId([3; 8]));
        let (id, signed) = (one.id(), vouchers(&one));
        let read = || Document::load(id, actor.clone(), Some(&bytes), &[], &signed).unwrap();
        let judged = Judged::of(id, &bytes).unwrap();
        let adopted = Document::adopt_judged(judged, actor.clone(), &bytes, &signed, &trust());
        for document in [read(), read().clone(), read().fork(actor.clone()), adopted.unwrap().0] {
            assert_eq!(document.save(), bytes);
        }
        let change = write(&mut one, |tx| tx.create_session(&first, &session("one")));
        let change = [change.changes[0].bytes.clone()];
        let behind = Document::load(id, actor.clone(), Some(&bytes), &change, &signed).unwrap();
        let (mut written, mut gained, mut merged) = (read(), read(), read());
        write(&mut written, |tx| tx.create_session(&first, &session("written")));
        gained.merge_saved(&other.save(), &vouchers(&other), &trust()).unwrap();
        merged.automerge.merge(&mut other.automerge).unwrap();
        for document in [behind, written, gained, merged] {
            let saved =
                Document::load(id, actor.clone(), Some(&document.save()), &[], &[]).unwrap();
            assert_eq!(saved.heads(), document.heads());
            assert_ne!(saved.heads(), read().heads());
        }
    }

    #[test]
    fn a_grave_wins_over_a_creation_that_did_not_know_of_it() {
        let (mut one, mut other) = replicas();
        let id: SessionId = "s".parse().unwrap();
        write(&mut one, |tx| tx.create_session(&id, &session("one")));
        write(&mut one, |tx| tx.purge_session(&id, false));
        write(&mut other, |tx| tx.create_session(&id, &session("other")));
        meet(&mut one, &mut other);
        for document in [&one, &other] {
            assert_eq!(document.session(&id), None);
            assert!(document.is_session_spent(&id));
        }
    }

    #[test]
    fn of_two_records_made_at_once_one_is_read_and_a_delete_of_either_counts() {
        let (mut one, mut other) = replicas();
        let id: SessionId = "s".parse().unwrap();
        write(&mut one, |tx| tx.create_session(&id, &session("one")));
        write(&mut one, |tx| tx.delete_session(&id, &deletion()));
        write(&mut other, |tx| tx.create_session(&id, &session("other")));
        meet(&mut one, &mut other);
        assert_eq!(one.session(&id), other.session(&id));
        assert_eq!(one.session(&id).unwrap().deleted, Some(deletion()));
        // And both are written to from now on.
        write(&mut other, |tx| tx.restore_session(&id));
        meet(&mut one, &mut other);
        assert_eq!(one.session(&id).unwrap().deleted, None);
    }

    #[test]
    fn a_delete_that_an_agent_and_a_person_made_at_once_is_the_persons() {
        let by_agent = Deletion { reason: Some(DeletionReason::Agent), ..deletion() };
        let id: SessionId = "s".parse().unwrap();
        for (first, second) in [(by_agent.clone(), deletion()), (deletion(), by_agent.clone())] {
            let (mut one, mut other) = replicas();
            write(&mut one, |tx| tx.create_session(&id, &session("s")));
            meet(&mut one, &mut other);
            write(&mut one, |tx| tx.delete_session(&id, &first));
            write(&mut other, |tx| tx.delete_session(&id, &second));
            assert!(first.reason.is_none() || one.session(&id).unwrap().deleted == Some(first));
            meet(&mut one, &mut other);
            let actor = super::super::actor(&HOST, StartId([3; 8]));
            for document in [&one, &other, &one.rewritten(1, actor, 0).0] {
                assert_eq!(document.session(&id).unwrap().deleted, Some(deletion()));
                assert_eq!(document.records().sessions, [(id.clone(), document.session(&id))]);
            }
        }
    }

    #[test]
    fn who_has_a_session_is_not_forgotten_because_another_one_was_made_under_its_id() {
        let id: SessionId = "s".parse().unwrap();
        let mut owned = session("owned");
        owned.agent_server = Some("http://localhost/".to_owned());
        for turned in [false, true] {
            let (mut one, mut other) = replicas();
            let (mine, theirs) =
                if turned { (&mut other, &mut one) } else { (&mut one, &mut other) };
            write(mine, |tx| tx.create_session(&id, &owned));
            write(theirs, |tx| tx.create_session(&id, &session("forged")));
            meet(mine, theirs);
            let actor = super::super::actor(&HOST, StartId([3; 8]));
            for document in [&one, &other, &one.rewritten(1, actor, 0).0] {
                let server = document.session(&id).unwrap().agent_server;
                assert_eq!(server, owned.agent_server);
            }
        }
    }

    /// Each made a map of its own for the first delete that it noted, and only one of the two was
    /// looked into: an undone delete stayed noted, and could be undone again.
    #[test]
    fn a_dismissal_is_taken_back_from_whichever_map_it_was_noted_in() {
        let (mut one, mut other) = replicas();
        let id: WorkspaceId = "w".parse().unwrap();
        write(&mut one, |tx| tx.create_workspace(&id, &workspace()));
        meet(&mut one, &mut other);
        let operations = ["op1", "op2"].map(|text| text.parse().unwrap());
        write(&mut one, |tx| tx.dismiss(&id, &operations[0], false));
        write(&mut other, |tx| tx.dismiss(&id, &operations[1], true));
        meet(&mut one, &mut other);
        assert_eq!(one.workspace(&id).unwrap().dismissals.len(), 2);
        for operation in &operations {
            write(&mut one, |tx| tx.undismiss(&id, operation));
        }
        meet(&mut one, &mut other);
        assert_eq!(other.workspace(&id).unwrap().dismissals, BTreeMap::new());
    }

    #[test]
    fn a_change_touches_the_records_that_it_writes_to_and_no_others() {
        let (mut one, mut other) = replicas();
        let (s, w): (SessionId, WorkspaceId) = ("s".parse().unwrap(), "w".parse().unwrap());
        write(&mut one, |tx| tx.create_session(&"quiet".parse().unwrap(), &session("quiet")));
        let applied = write(&mut one, |tx| {
            tx.create_session(&s, &session("one"))?;
            tx.create_workspace(&w, &workspace())
        });
        use super::super::Touched;
        let both: BTreeSet<_> = [Touched::Session(s.clone()), Touched::Workspace(w.clone())].into();
        assert_eq!(applied.touched, both);
        meet(&mut one, &mut other);
        // Also what is written deep inside of it, and beside a purge that takes it away.
        let deep = write(&mut other, |tx| tx.delete_session(&s, &deletion()));
        assert_eq!(deep.touched, [Touched::Session(s.clone())].into());
        write(&mut one, |tx| tx.purge_session(&s, true));
        let bytes: Vec<_> = deep.changes.into_iter().map(|change| change.bytes).collect();
        let applied = one.apply(&bytes, &vouchers(&other), &trust()).unwrap();
        assert_eq!(applied.touched, [Touched::Session(s.clone())].into());
        assert_eq!(one.session(&s), None);
    }

    #[test]
    fn an_epoch_that_another_node_has_begun_is_refused() {
        for (by, taken) in [(HOST, true), (NodeId([2; 32]), false)] {
            let actor = super::super::actor(&by, StartId([1; 8]));
            let mut automerge = Automerge::new().with_actor(actor);
            let mut tx = automerge.transaction();
            genesis(&mut tx, HOST, 1).unwrap();
            tx.commit();
            assert_eq!(Places::find(&automerge, HOST, 1).is_some(), taken);
        }
    }

    #[test]
    fn another_document_under_this_ones_name_is_refused_and_changes_nothing() {
        let (mut one, _) = replicas();
        let before = one.heads();
        let actor = super::super::actor(&HOST, StartId([9; 8]));
        let (twin, _) = Document::create_host(HOST, 0, actor, 0);
        let refused = one.merge_saved(&twin.save(), &[], &trust());
        assert!(matches!(refused, Err(super::super::ApplyError::Misnamed { .. })), "{refused:?}");
        assert_eq!(one.heads(), before);
    }
}
