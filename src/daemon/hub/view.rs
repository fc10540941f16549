//! Owns the published view as one consistent instant that is cheap to take.
//!
//! Must not know who reads it. Invariant: a [`View`] never changes after it was taken; publishing
//! copies only the shelves that a change touches and that someone still looks at.

use std::{cmp::Ordering, sync::Arc};

use serde::{Serialize, Serializer};

use crate::replica::{
    diff::{Diff, Digest, Event},
    ids::{Cursor, NodeId, SessionId, WorkspaceId},
    record::{Session, Workspace},
};

use super::Published;

/// How many shelves a kind of record is spread over: at 100,000 records, a publish that has to
/// copy a shelf which a reader holds copies 400 pointers and as many hashes.
const SHELVES: usize = 256;

/// All records at one instant; cheap to clone.
#[derive(Debug, Clone)]
pub struct View {
    cursor: Cursor,
    digest: Digest,
    sessions: Shelves<Session>,
    workspaces: Shelves<Workspace>,
}

impl View {
    /// Returns the place in the stream of diffs that the view stands for.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Returns the digest of all records.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns every session, in an order that depends on nothing but their ids and hosts.
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.iter()
    }

    /// Returns every workspace, in an order that depends on nothing but their ids and hosts.
    pub fn workspaces(&self) -> impl Iterator<Item = &Arc<Workspace>> {
        self.workspaces.iter()
    }

    /// Returns the sessions of that id, at most one per host, by host.
    pub fn session(&self, id: &SessionId) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.named(id.as_str())
    }

    /// Returns the workspaces of that id, at most one per host, by host.
    pub fn workspace(&self, id: &WorkspaceId) -> impl Iterator<Item = &Arc<Workspace>> {
        self.workspaces.named(id.as_str())
    }

    /// Returns how many records there are.
    pub fn len(&self) -> usize {
        self.sessions.len + self.workspaces.len
    }

    /// Tells whether there is no record at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in all that is to be shown at one instant.
    pub fn new(published: Published) -> Self {
        Self {
            cursor: published.cursor,
            digest: published.digest,
            sessions: published.sessions.into_iter().collect(),
            workspaces: published.workspaces.into_iter().collect(),
        }
    }

    /// Folds a diff in, which makes this the view after it.
    pub(super) fn fold(&mut self, diff: &Diff) {
        self.cursor = diff.cursor;
        self.digest = diff.digest;
        let mut sessions = Vec::new();
        for event in &diff.events {
            match event {
                Event::SessionCreated { session }
                | Event::SessionUpdated { session, .. }
                | Event::SessionDeleted { session, .. }
                | Event::SessionRestored { session }
                | Event::SessionStranded { session } => sessions.push(session),
                Event::SessionPurged { session } | Event::SessionHidden { session } => {
                    self.sessions.remove(session);
                }
                Event::WorkspaceCreated { workspace }
                | Event::WorkspaceUpdated { workspace, .. }
                | Event::WorkspaceRemoved { workspace, .. }
                | Event::WorkspaceRestored { workspace }
                | Event::WorkspaceSealed { workspace }
                | Event::WorkspaceFailed { workspace } => self.workspaces.upsert(workspace.clone()),
                Event::WorkspaceGone { workspace } | Event::WorkspaceHidden { workspace } => {
                    self.workspaces.remove(workspace);
                }
            }
        }
        self.sessions.upsert_all(sessions);
    }
}

/// Writes the body of `GET /v1/view`, which is also the data of a snapshot.
impl Serialize for View {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            cursor: Cursor,
            digest: Digest,
            sessions: &'a Shelves<Session>,
            workspaces: &'a Shelves<Workspace>,
        }
        let Self { cursor, digest, sessions, workspaces } = self;
        Body { cursor: *cursor, digest: *digest, sessions, workspaces }.serialize(serializer)
    }
}

/// What tells one record from another of its kind.
trait Record {
    fn id(&self) -> &str;
    fn host(&self) -> NodeId;
}

impl Record for Session {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn host(&self) -> NodeId {
        self.host
    }
}

impl Record for Workspace {
    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn host(&self) -> NodeId {
        self.host
    }
}

/// Records of one kind, spread over shelves by a hash of their id, sorted by that hash, id and host on
/// each.
#[derive(Debug)]
struct Shelves<R> {
    shelves: Arc<Vec<Arc<Shelf<R>>>>,
    len: usize,
}

/// Records beside the hash of their id: who looks for one looks at hardly any other.
type Shelf<R> = Vec<(u64, Arc<R>)>;

impl<R> Clone for Shelves<R> {
    fn clone(&self) -> Self {
        Self { shelves: self.shelves.clone(), len: self.len }
    }
}

impl<R: Record> Shelves<R> {
    fn iter(&self) -> impl Iterator<Item = &Arc<R>> {
        self.shelves.iter().flat_map(|shelf| shelf.iter()).map(|(_, record)| record)
    }

    /// Returns the records of that id, by host.
    fn named(&self, id: &str) -> impl Iterator<Item = &Arc<R>> {
        let hash = hash(id);
        let shelf = &self.shelves[shelf_of(hash)];
        let before = |(of, record): &(u64, Arc<R>)| (*of, record.id()) < (hash, id);
        let rest = &shelf[shelf.partition_point(before)..];
        rest.iter().map(|(_, record)| record).take_while(move |record| record.id() == id)
    }

    /// Puts different records away shelf by shelf: in the order of a diff, nearly each would have another
    /// shelf be fetched from memory.
    fn upsert_all(&mut self, records: Vec<&Arc<R>>) {
        let mut records: Vec<(u64, &Arc<R>)> =
            records.into_iter().map(|record| (hash(record.id()), record)).collect();
        records.sort_unstable_by_key(|(hash, _)| (shelf_of(*hash), *hash));
        for (hash, record) in records {
            self.upsert_hashed(hash, record.clone());
        }
    }

    fn upsert(&mut self, record: Arc<R>) {
        self.upsert_hashed(hash(record.id()), record);
    }

    fn upsert_hashed(&mut self, hash: u64, record: Arc<R>) {
        let shelf = self.shelf_mut(hash);
        match place(shelf, hash, &record) {
            Ok(at) => shelf[at].1 = record,
            Err(at) => {
                shelf.insert(at, (hash, record));
                self.len += 1;
            }
        }
    }

    fn remove(&mut self, record: &R) {
        let hash = hash(record.id());
        let shelf = self.shelf_mut(hash);
        if let Ok(at) = place(shelf, hash, record) {
            shelf.remove(at);
            self.len -= 1;
        }
    }

    fn shelf_mut(&mut self, hash: u64) -> &mut Shelf<R> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.shelves)[shelf_of(hash)])
    }
}

impl<R: Record> FromIterator<Arc<R>> for Shelves<R> {
    fn from_iter<I: IntoIterator<Item = Arc<R>>>(records: I) -> Self {
        let mut shelves: Vec<Shelf<R>> = (0..SHELVES).map(|_| Vec::new()).collect();
        for record in records {
            let hash = hash(record.id());
            shelves[shelf_of(hash)].push((hash, record));
        }
        for shelf in &mut shelves {
            shelf.sort_unstable_by(|(of, one), (hash, other)| order(*of, &**one, *hash, &**other));
        }
        let len = shelves.iter().map(Vec::len).sum();
        Self { shelves: Arc::new(shelves.into_iter().map(Arc::new).collect()), len }
    }
}

impl<R: Record + Serialize> Serialize for Shelves<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

fn place<R: Record>(shelf: &Shelf<R>, hash: u64, record: &R) -> Result<usize, usize> {
    shelf.binary_search_by(|(of, other)| order(*of, &**other, hash, record))
}

fn order<R: Record>(of: u64, one: &R, hash: u64, other: &R) -> Ordering {
    let by_id = || one.id().cmp(other.id());
    of.cmp(&hash).then_with(by_id).then_with(|| one.host().cmp(&other.host()))
}

/// FNV-1a, because it is short and the same on every machine: the order of a snapshot follows it.
fn hash(id: &str) -> u64 {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 32)
}

fn shelf_of(hash: u64) -> usize {
    hash as usize % SHELVES
}
