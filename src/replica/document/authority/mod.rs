//! Owns what a change may do: where in a document each author may write, and what.
//!
//! Must not know who signed a change, nor how it came. Invariants: the verdict follows from the
//! change and what it builds on alone, so that it is the same on every replica, whatever else that
//! has; a change overwrites only what stands at the key that it writes to.

mod host;

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use automerge::{
    ActorId, Automerge, ChangeHash, ExpandedChange, ObjId, ObjType, Prop, ROOT, ReadDoc,
    ScalarValue, legacy,
};
use sha2::{Digest as _, Sha256};

use super::{
    super::ids::{ActorBytes, Fingerprint, fingerprint},
    Document, Places, Touched, actor_in, touched,
};

/// How much is kept of where maps are, in bytes: of some thousand maps that are written to.
const PATHS_BYTES_MAX: usize = 1 << 20;
/// About how much each takes of that beside its keys.
const PATH_BYTES: usize = 64;

/// Says that a change does what its author must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Overreach {
    /// What it does.
    pub what: &'static str,
}

fn refuse<T>(what: &'static str) -> Result<T, Overreach> {
    Err(Overreach { what })
}

/// What is done to a key.
#[derive(Debug, Clone, Copy)]
enum Action<'a> {
    /// A map is put there.
    Map,
    /// A value is put there.
    Value(&'a ScalarValue),
    /// Whatever is there goes.
    Delete,
}

impl Act<'_> {
    fn overwrites(&self) -> bool {
        self.overwritten > 0
    }
}

impl Action<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Value(ScalarValue::Str(text)) => Some(text),
            _ => None,
        }
    }

    fn is_int(&self) -> bool {
        matches!(self, Self::Value(ScalarValue::Int(_)))
    }
}

/// One operation of a change.
#[derive(Debug)]
struct Act<'a> {
    /// Where the map is that is written to.
    path: &'a [String],
    /// Whether this change made the map.
    fresh: bool,
    key: &'a str,
    action: Action<'a>,
    /// How many of the values that stood there are overwritten.
    overwritten: usize,
}

/// Who writes.
#[derive(Debug)]
struct Author {
    fingerprint: Fingerprint,
}

/// Names an object by the operation that made it.
type Made = (u64, ActorBytes);

/// Says that an operation writes to a key of a map, in few bytes.
type Mark = [u8; 16];

/// Returns the first half of SHA-256 over the map, the operation and the key.
fn mark(map: Made, key: &str, operation: Made) -> Mark {
    let mut hasher = Sha256::new();
    for (counter, actor) in [map, operation] {
        hasher.update(counter.to_le_bytes());
        hasher.update(actor);
    }
    hasher.update(key);
    let mut mark = Mark::default();
    mark.copy_from_slice(&hasher.finalize()[..16]);
    mark
}

/// Judges the changes of one batch, one after the other.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    automerge: &'a Automerge,
    places: &'a Places,
    /// The maps that the batch makes: each in which other, and at which key there.
    made: BTreeMap<Made, (Made, String)>,
    /// Where maps are that the batch writes to, of those that were looked up of late.
    paths: BTreeMap<Made, Vec<String>>,
    paths_bytes: usize,
    /// What it writes, each by its [mark]: as many as it may be, each is found at once. Of a
    /// whole document what nothing has overwritten so far.
    written: BTreeSet<Mark>,
    /// Whether the batch is all of the document: what a change builds on is in there.
    is_whole: bool,
    /// Whether this node's own automerge has just made the change: it overwrites what stands there.
    is_own: bool,
    /// For each change of the batch, where to find what it builds on in the document.
    built_on: BTreeMap<ChangeHash, BuiltOn>,
}

/// What a change builds on. Of a long row of changes only the first says it for all, and what many
/// together build on is found when it is asked for: each of thousands of changes may build on
/// thousands.
#[derive(Debug)]
enum BuiltOn {
    /// On the same as another change of the batch.
    Same(ChangeHash),
    /// On these, in the document or in the batch.
    These(Vec<ChangeHash>),
}

impl<'a> Judge<'a> {
    /// Begins to judge what would be applied to a document.
    pub(super) fn new(document: &'a Document) -> Self {
        Self::of(&document.automerge, &document.places)
    }

    pub(super) fn of(automerge: &'a Automerge, places: &'a Places) -> Self {
        Self {
            automerge,
            places,
            made: BTreeMap::new(),
            paths: BTreeMap::new(),
            paths_bytes: 0,
            written: BTreeSet::new(),
            is_whole: false,
            is_own: false,
            built_on: BTreeMap::new(),
        }
    }

    /// Begins to judge a change that this node has just made, which is in the document.
    pub(super) fn of_own(document: &'a Document) -> Self {
        Self { is_own: true, ..Self::new(document) }
    }

    /// Begins to judge all that a document is made of: each of its changes is judged, or
    /// [noted](Self::note), after what it builds on; each that is judged builds on the one that its
    /// actor made before.
    pub(super) fn of_whole(document: &'a Document) -> Self {
        Self { is_whole: true, ..Self::new(document) }
    }

    /// Notes what a change overwrites that is not judged.
    pub(super) fn note(&mut self, change: &ExpandedChange) {
        for operation in &change.operations {
            if let legacy::Key::Map(key) = &operation.key {
                let (_, made) = object_of(operation);
                self.note_overwritten(made, key, operation);
            }
        }
    }

    fn note_overwritten(&mut self, map: Made, key: &str, operation: &legacy::Op) {
        for legacy::OpId(counter, by) in operation.pred.iter() {
            self.written.remove(&mark(map, key, (*counter, actor_in(by))));
        }
    }

    /// Judges a change, and returns the records that it touches; all that it builds on is in the
    /// document, or was judged before.
    pub(super) fn check(
        &mut self,
        change: &ExpandedChange,
    ) -> Result<BTreeSet<Touched>, Overreach> {
        let mut touches = BTreeSet::new();
        let actor = actor_in(&change.actor_id);
        let built_on = match change.deps[..] {
            [dep] => match self.built_on.get(&dep) {
                Some(BuiltOn::Same(first)) => BuiltOn::Same(*first),
                Some(BuiltOn::These(_)) => BuiltOn::Same(dep),
                None => BuiltOn::These(vec![dep]),
            },
            ref deps => BuiltOn::These(deps.to_vec()),
        };
        if !self.is_whole {
            self.built_on.extend(change.hash.map(|hash| (hash, built_on)));
        }
        let author = Author { fingerprint: fingerprint(&actor) };
        let heads = OnceCell::new();
        let mut fresh: BTreeSet<Made> = BTreeSet::new();
        // What the change itself has left standing at each key that it wrote to.
        let mut left: BTreeMap<(Made, &str), u64> = BTreeMap::new();
        for (number, operation) in (change.start_op.get()..).zip(&change.operations) {
            let id = (number, actor);
            let legacy::Key::Map(key) = &operation.key else { return refuse("writes to a list") };
            let action = match &operation.action {
                legacy::OpType::Make(ObjType::Map) => Action::Map,
                legacy::OpType::Put(value) => Action::Value(value),
                legacy::OpType::Delete => Action::Delete,
                _ => return refuse("writes other things than maps and values"),
            };
            let (object, made) = object_of(operation);
            let overwritten = operation.pred.iter().count();
            // Else a few bytes would leave thousands of values at a key, which the next writer there
            // would have to name one by one.
            let is_named = |own: &u64| {
                operation.pred.iter().any(|legacy::OpId(at, by)| at == own && actor_in(by) == actor)
            };
            if left.remove(&(made, key.as_str())).is_some_and(|own| !is_named(&own)) {
                return refuse("writes to one key twice at once");
            }
            if !matches!(action, Action::Delete) {
                left.insert((made, key.as_str()), number);
            }
            if overwritten > 0 && !self.is_own {
                let heads = || heads.get_or_init(|| self.in_document(&change.deps)).as_slice();
                self.check_overwritten(&actor, &object, made, key, operation, heads)?;
            }
            if self.is_whole {
                self.note_overwritten(made, key, operation);
            }
            if !self.paths.contains_key(&made) {
                let path = self.path_to(made, &object);
                let path = path.ok_or(Overreach { what: "writes to a map that is not there" })?;
                self.remember(made, path);
            }
            let path = &self.paths[&made];
            let act = Act { path, fresh: fresh.contains(&made), key, action, overwritten };
            match self.places {
                Places::Host(places) => host::check(places, &author, &act)?,
            }
            if object != ROOT {
                touches.extend(touched::record_at(path, Some(key)));
            }
            if matches!(action, Action::Map) {
                self.made.insert(id, (made, key.to_string()));
                fresh.insert(id);
            }
            // What its own automerge overwrites is not looked up.
            if !matches!(action, Action::Delete) && !self.is_own {
                self.written.insert(mark(made, key, id));
            }
        }
        Ok(touches)
    }

    /// Returns where a map is, of the document or of the batch.
    fn path_to(&self, mut made: Made, object: &ObjId) -> Option<Vec<String>> {
        let mut keys = Vec::new();
        while let Some((inside, key)) = self.made.get(&made) {
            keys.push(key.clone());
            made = *inside;
        }
        let mut path = match (keys.is_empty(), made) {
            (true, _) => self.path_in_document(object)?,
            (false, (0, _)) => Vec::new(),
            (false, (counter, by)) => {
                self.path_in_document(&ObjId::Id(counter, ActorId::from(by), 0))?
            }
        };
        path.extend(keys.into_iter().rev());
        Some(path)
    }

    /// Returns where a map of the document is; what is known of the places in it need not be looked up.
    fn path_in_document(&self, object: &ObjId) -> Option<Vec<String>> {
        let path = path_up_to(self.automerge, object, |at| self.places.path_of(at));
        debug_assert_eq!(path, path_of(self.automerge, object));
        path
    }

    /// Keeps where a map is, since most is written to one again and again; not of too many.
    fn remember(&mut self, made: Made, path: Vec<String>) {
        let keys: usize = path.iter().map(|key| size_of::<String>() + key.len()).sum();
        let bytes = PATH_BYTES + keys;
        if self.paths_bytes + bytes > PATHS_BYTES_MAX {
            self.paths.clear();
            self.paths_bytes = 0;
        }
        self.paths_bytes += bytes;
        self.paths.insert(made, path);
    }

    /// Returns what of the document changes build on, through those of the batch.
    fn in_document(&self, deps: &[ChangeHash]) -> Vec<ChangeHash> {
        let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut left = deps.to_vec();
        while let Some(hash) = left.pop() {
            match self.built_on.get(&hash) {
                None => drop(found.insert(hash)),
                Some(_) if !seen.insert(hash) => {}
                Some(BuiltOn::Same(first)) => left.push(*first),
                Some(BuiltOn::These(deps)) => left.extend(deps),
            }
        }
        found.into_iter().collect()
    }

    /// Refuses to overwrite what stands elsewhere: automerge would find it only by chance, namely
    /// where another change of the same batch writes there.
    ///
    /// Of a whole document only what the same actor has written is known to be what it builds on, and
    /// only if nothing has overwritten it since, to stand there still.
    fn check_overwritten<'h>(
        &self,
        actor: &ActorBytes,
        object: &ObjId,
        made: Made,
        key: &str,
        operation: &legacy::Op,
        heads: impl FnOnce() -> &'h [ChangeHash],
    ) -> Result<(), Overreach> {
        let left: Vec<Made> = operation
            .pred
            .iter()
            .map(|legacy::OpId(counter, by)| (*counter, actor_in(by)))
            .filter(|id| {
                let is_known = !self.is_whole || id.1 == *actor;
                !(is_known && self.written.contains(&mark(made, key, *id)))
            })
            .collect();
        // To look up what stands at a key, automerge goes through all that ever stood there.
        let found = left.is_empty() || self.is_in_document(left, object, key, heads);
        if found { Ok(()) } else { refuse("overwrites what is not there") }
    }

    /// Tells whether all of these stand at a key, or stood there for the author.
    fn is_in_document<'h>(
        &self,
        mut left: Vec<Made>,
        object: &ObjId,
        key: &str,
        heads: impl FnOnce() -> &'h [ChangeHash],
    ) -> bool {
        let mut find = |there: Vec<(automerge::Value<'_>, ObjId)>| {
            left.retain(|id| !there.iter().any(|(_, other)| id_of(other) == Some(*id)));
            left.is_empty()
        };
        find(self.automerge.get_all(object, key).unwrap_or_default())
            // What is overwritten by now, was still there for the author.
            || find(self.automerge.get_all_at(object, key, heads()).unwrap_or_default())
    }
}

/// Returns the map that an operation writes to, as automerge and as we name it.
fn object_of(operation: &legacy::Op) -> (ObjId, Made) {
    match &operation.obj {
        legacy::ObjectId::Root => (ROOT, (0, ActorBytes::default())),
        legacy::ObjectId::Id(legacy::OpId(counter, by)) => {
            (ObjId::Id(*counter, by.clone(), 0), (*counter, actor_in(by)))
        }
    }
}

fn id_of(object: &ObjId) -> Option<Made> {
    match object {
        ObjId::Root => None,
        ObjId::Id(counter, actor, _) => Some((*counter, actor_in(actor))),
    }
}

/// Returns where a map is.
pub(super) fn path_of(automerge: &Automerge, object: &ObjId) -> Option<Vec<String>> {
    path_up_to(automerge, object, |_| None)
}

/// Returns where a map is, by looking upwards until that is known.
fn path_up_to(
    automerge: &Automerge,
    object: &ObjId,
    known: impl Fn(&ObjId) -> Option<Vec<String>>,
) -> Option<Vec<String>> {
    let mut path = known(object);
    let mut keys = Vec::new();
    if path.is_none() {
        for parent in automerge.parents(object).ok()? {
            let Prop::Map(key) = parent.prop else { return None };
            keys.push(key);
            path = known(&parent.obj);
            if path.is_some() {
                break;
            }
        }
    }
    let mut path = path.unwrap_or_default();
    path.extend(keys.into_iter().rev());
    Some(path)
}

/// Tells whether a node has written what has this name.
pub(super) fn is_by(object: &ObjId, node: &Fingerprint) -> bool {
    let by = |actor: &ActorId| fingerprint(&actor_in(actor)) == *node;
    matches!(object, ObjId::Id(_, actor, _) if by(actor))
}
