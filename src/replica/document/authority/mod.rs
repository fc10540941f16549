//! Owns what a change may do: where in a document each author may write, and what.
//!
//! Must not know who signed a change, nor how it came. Invariants: the verdict follows from the
//! change and what it builds on alone, so that it is the same on every replica, whatever else that
//! has; a change overwrites only what stands at the key that it writes to.

mod fleet;
mod host;

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use automerge::{
    ActorId, Automerge, ChangeHash, ExpandedChange, ObjId, ObjType, Prop, ROOT, ReadDoc,
    ScalarValue, legacy,
};

use super::{
    super::ids::{ActorBytes, Fingerprint, fingerprint},
    Document, Places, Touched, actor_in, touched,
};

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
    /// The map itself.
    object: &'a ObjId,
    /// Whether this change made the map.
    fresh: bool,
    key: &'a str,
    action: Action<'a>,
    /// How many of the values that stood there are overwritten.
    overwritten: usize,
}

/// Who writes, and what it knew.
#[derive(Debug)]
struct Author<'a> {
    fingerprint: Fingerprint,
    /// What the change builds on.
    heads: &'a [ChangeHash],
}

/// Names an object by the operation that made it.
type Made = (u64, ActorBytes);

/// Judges the changes of one batch, one after the other.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    automerge: &'a Automerge,
    places: &'a Places,
    /// Where the maps are that the batch writes to, those that it makes too.
    paths: BTreeMap<Made, Vec<String>>,
    /// What it writes to each key of a map.
    written: BTreeMap<(Made, String), Vec<Made>>,
    /// For each change of the batch, what it builds on in the document.
    built_on: BTreeMap<ChangeHash, BTreeSet<ChangeHash>>,
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
            paths: BTreeMap::new(),
            written: BTreeMap::new(),
            built_on: BTreeMap::new(),
        }
    }

    /// Judges a change, and returns the records that it touches; all that it builds on is in the
    /// document, or was judged before.
    ///
    /// For a fleet document all of it must be in the document.
    pub(super) fn check(
        &mut self,
        change: &ExpandedChange,
    ) -> Result<BTreeSet<Touched>, Overreach> {
        let mut touches = BTreeSet::new();
        let actor = actor_in(&change.actor_id);
        let mut built_on = BTreeSet::new();
        for dep in &change.deps {
            match self.built_on.get(dep) {
                Some(before) => built_on.extend(before),
                None => drop(built_on.insert(*dep)),
            }
        }
        let heads: Vec<ChangeHash> = built_on.iter().copied().collect();
        self.built_on.extend(change.hash.map(|hash| (hash, built_on)));
        let author = Author { fingerprint: fingerprint(&actor), heads: &heads };
        let mut fresh: BTreeSet<Made> = BTreeSet::new();
        for (number, operation) in (change.start_op.get()..).zip(&change.operations) {
            let id = (number, actor);
            let legacy::Key::Map(key) = &operation.key else { return refuse("writes to a list") };
            let action = match &operation.action {
                legacy::OpType::Make(ObjType::Map) => Action::Map,
                legacy::OpType::Put(value) => Action::Value(value),
                legacy::OpType::Delete => Action::Delete,
                _ => return refuse("writes other things than maps and values"),
            };
            let (object, made) = match &operation.obj {
                legacy::ObjectId::Root => (ROOT, (0, ActorBytes::default())),
                legacy::ObjectId::Id(legacy::OpId(counter, by)) => {
                    (ObjId::Id(*counter, by.clone(), 0), (*counter, actor_in(by)))
                }
            };
            let overwritten = operation.pred.iter().count();
            if overwritten > 0 {
                self.check_overwritten(&object, made, key, operation, author.heads)?;
            }
            let path = match self.paths.entry(made) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(
                    path_of(self.automerge, &object)
                        .ok_or(Overreach { what: "writes to a map that is not there" })?,
                ),
            };
            let act = Act {
                path,
                object: &object,
                fresh: fresh.contains(&made),
                key,
                action,
                overwritten,
            };
            match self.places {
                Places::Host(places) => host::check(places, &author, &act)?,
                Places::Fleet(places) => fleet::check(self.automerge, places, &author, &act)?,
            }
            if object != ROOT {
                touches.extend(touched::record_at(path, Some(key)));
            }
            if matches!(action, Action::Map) {
                let path = path.iter().cloned().chain([key.to_string()]).collect();
                self.paths.insert(id, path);
                fresh.insert(id);
            }
            if !matches!(action, Action::Delete) {
                self.written.entry((made, key.to_string())).or_default().push(id);
            }
        }
        Ok(touches)
    }

    /// Refuses to overwrite what stands elsewhere: automerge would find it only by chance, namely
    /// where another change of the same batch writes there.
    fn check_overwritten(
        &self,
        object: &ObjId,
        made: Made,
        key: &str,
        operation: &legacy::Op,
        heads: &[ChangeHash],
    ) -> Result<(), Overreach> {
        let written = self.written.get(&(made, key.to_owned()));
        let mut left: Vec<Made> = operation
            .pred
            .iter()
            .map(|legacy::OpId(counter, by)| (*counter, actor_in(by)))
            .filter(|id| !written.is_some_and(|written| written.contains(id)))
            .collect();
        let mut find = |there: Vec<(automerge::Value<'_>, ObjId)>| {
            left.retain(|id| !there.iter().any(|(_, other)| id_of(other) == Some(*id)));
            left.is_empty()
        };
        let found = find(Vec::new())
            || find(self.automerge.get_all(object, key).unwrap_or_default())
            // What is overwritten by now, was still there for the author.
            || find(self.automerge.get_all_at(object, key, heads).unwrap_or_default());
        if found { Ok(()) } else { refuse("overwrites what is not there") }
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
    let mut path = Vec::new();
    for parent in automerge.parents(object).ok()? {
        match parent.prop {
            Prop::Map(key) => path.push(key),
            Prop::Seq(_) => return None,
        }
    }
    path.reverse();
    Some(path)
}

/// Tells whether a node has written what has this name.
pub(super) fn is_by(object: &ObjId, node: &Fingerprint) -> bool {
    let by = |actor: &ActorId| fingerprint(&actor_in(actor)) == *node;
    matches!(object, ObjId::Id(_, actor, _) if by(actor))
}
