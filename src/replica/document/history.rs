//! Owns reading from a document's changes how a record came to be what it is.
//!
//! Must not know the view. Invariants: a change is told as it was written, whoever reads; of two
//! writes to the same field neither of which knew of the other, the one that does not stand is told
//! as lost. Takes as long as the document has changes, so it is for a copy, off the loop.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{ObjType, ScalarValue, legacy};
use serde_json::{Map, Value};

use super::{
    super::ids::{ChangeHash, Fingerprint, SessionId, WorkspaceId, fingerprint},
    Copied, Touched, actor_in, hash_in,
};

/// Most changes that are told of: a page or two for a person, and the bound of what the search for
/// rivals costs. The first is always among them.
const STEPS_MAX: usize = 256;

/// The field whose ticks say nothing about why a record is what it is.
const TICKING: &str = "updated_at";

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is what the record says.
    Stands,
    /// A later change, which knew of it, wrote something else.
    Replaced,
    /// A change that did not know of it wins over it.
    Lost,
}

/// A write to one field of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Wrote {
    /// Which record.
    pub record: Touched,
    /// Which field; `None` for the record as a whole.
    pub field: Option<String>,
    /// What was written; `None` if it was taken away.
    pub value: Option<Value>,
    /// What became of it.
    pub outcome: Outcome,
    /// The changes that wrote to the same without knowing of this one.
    pub rivals: Vec<ChangeHash>,
}

/// A change, as far as it is about what was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its name.
    pub change: ChangeHash,
    /// The node that wrote it.
    pub author: Fingerprint,
    /// Milliseconds since the epoch by that node's clock, to the second.
    pub at: i64,
    /// What it wrote.
    pub writes: Vec<Wrote>,
}

/// The changes that made a record what it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// In an order in which each comes after those that it knew of.
    pub steps: Vec<Step>,
    /// How many changes in between are left out.
    pub omitted: usize,
    /// How many changes only told that the record was used.
    pub ticks: usize,
}

/// An operation's name.
type OpId = (u64, Vec<u8>);

/// What an object of the document is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// The map of workspaces, or one of those of sessions.
    Records { sessions: bool },
    /// The map of the maps of sessions.
    Buckets,
    /// A record.
    Record(Touched),
    /// A map in a record, with its field.
    Inside(Touched, String),
}

/// A write as it is found, with what decides between rivals.
#[derive(Debug)]
struct Found {
    wrote: Wrote,
    /// The greatest wins.
    op: OpId,
}

/// Which fields of a record are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    All,
    /// What a parent, a workspace or a session in it has to do with the record asked for.
    Ends,
}

impl Told {
    fn takes(self, field: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Ends => field.is_none_or(|field| {
                matches!(field, "deleted" | "workspace_id") || field.starts_with("teardown")
            }),
        }
    }
}

impl Copied {
    /// Tells how a record came to be what it is; for a session with what ended its parents and its
    /// workspaces, for a workspace with who came and went.
    pub fn history(&self, of: &Touched) -> History {
        let changes = self.0.get_changes(&[]);
        let places = Places::find(&changes);
        let wanted = places.wanted(of);
        let mut found: Vec<(usize, Vec<Found>)> = Vec::new();
        let mut history = History::default();
        for (index, change) in changes.iter().enumerate() {
            let writes = places.writes(change, &wanted);
            let ticks = |write: &Found| write.wrote.field.as_deref() == Some(TICKING);
            if writes.is_empty() {
                continue;
            } else if writes.iter().all(ticks) {
                history.ticks += 1;
            } else {
                found.push((index, writes));
            }
        }
        if found.len() > STEPS_MAX {
            history.omitted = found.len() - STEPS_MAX;
            found.drain(1..=history.omitted);
        }
        judge(&changes, &mut found);
        history.steps = found
            .into_iter()
            .map(|(index, writes)| Step {
                change: hash_in(&changes[index].hash()),
                author: fingerprint(&actor_in(changes[index].actor_id())),
                at: changes[index].timestamp().saturating_mul(1_000),
                writes: writes.into_iter().map(|found| found.wrote).collect(),
            })
            .collect();
        history
    }
}

/// Where each object of the document is, and how its records hang together.
#[derive(Debug, Default)]
struct Places {
    objects: BTreeMap<OpId, Place>,
    parents: BTreeMap<SessionId, SessionId>,
    /// Every workspace that each session has ever been in.
    entered: BTreeSet<(SessionId, WorkspaceId)>,
}

impl Places {
    fn find(changes: &[automerge::Change]) -> Self {
        let mut places = Self::default();
        for change in changes {
            let actor = change.actor_id().to_bytes().to_vec();
            for (offset, operation) in change.decode().operations.iter().enumerate() {
                let op = (change.start_op().get() + offset as u64, actor.clone());
                places.note(op, operation);
            }
        }
        places
    }

    fn note(&mut self, op: OpId, operation: &legacy::Op) {
        let Some(key) = map_key(operation) else { return };
        let within = match &operation.obj {
            legacy::ObjectId::Root => None,
            legacy::ObjectId::Id(id) => match self.objects.get(&op_id(id)) {
                Some(place) => Some(place.clone()),
                None => return,
            },
        };
        let makes_map = matches!(operation.action, legacy::OpType::Make(ObjType::Map));
        let place = match (&within, key) {
            (None, "workspaces") => Some(Place::Records { sessions: false }),
            (None, "sessions") => Some(Place::Buckets),
            (Some(Place::Buckets), _) => Some(Place::Records { sessions: true }),
            (Some(Place::Records { sessions }), _) => record(*sessions, key).map(Place::Record),
            (Some(Place::Record(record)), _) => Some(Place::Inside(record.clone(), key.to_owned())),
            (Some(Place::Inside(record, field)), _) => {
                Some(Place::Inside(record.clone(), format!("{field}.{key}")))
            }
            (None, _) => None,
        };
        if makes_map {
            self.objects.extend(place.map(|place| (op, place)));
        } else if let Some(Place::Record(Touched::Session(session))) = within
            && let legacy::OpType::Put(ScalarValue::Str(text)) = &operation.action
        {
            match key {
                "parent_id" => self.parents.extend(text.parse().ok().map(|p| (session, p))),
                "workspace_id" => self.entered.extend(text.parse().ok().map(|w| (session, w))),
                _ => {}
            }
        }
    }

    /// Returns the records that have to do with one, and what is told of each.
    fn wanted(&self, of: &Touched) -> BTreeMap<Touched, Told> {
        let mut wanted = BTreeMap::new();
        match of {
            Touched::Session(id) => {
                let workspaces = self.entered.iter().filter(|(session, _)| session == id);
                wanted.extend(workspaces.map(|(_, w)| (Touched::Workspace(w.clone()), Told::Ends)));
                let mut at = id;
                while let Some(parent) = self.parents.get(at) {
                    if wanted.insert(Touched::Session(parent.clone()), Told::Ends).is_some() {
                        break;
                    }
                    at = parent;
                }
            }
            Touched::Workspace(id) => {
                let sessions = self.entered.iter().filter(|(_, workspace)| workspace == id);
                wanted.extend(sessions.map(|(s, _)| (Touched::Session(s.clone()), Told::Ends)));
            }
            Touched::Trash(_) | Touched::Meta | Touched::Description => {}
        }
        wanted.insert(of.clone(), Told::All);
        wanted
    }

    /// Lists what a change writes to some records; what is written into a map that it makes itself
    /// is part of that write.
    fn writes(&self, change: &automerge::Change, wanted: &BTreeMap<Touched, Told>) -> Vec<Found> {
        let actor = change.actor_id().to_bytes().to_vec();
        let mut writes: Vec<Found> = Vec::new();
        // The maps that the change makes: the write that each belongs to, and its way in there.
        let mut made: BTreeMap<OpId, (usize, Vec<String>)> = BTreeMap::new();
        for (offset, operation) in change.decode().operations.iter().enumerate() {
            let op = (change.start_op().get() + offset as u64, actor.clone());
            let legacy::ObjectId::Id(object) = &operation.obj else { continue };
            let (object, Some(key)) = (op_id(object), map_key(operation)) else { continue };
            let value = value_of(&operation.action);
            if let Some((index, way)) = made.get(&object).cloned() {
                let part = &mut writes[index].wrote.value;
                put_within(part, &way, key, value);
                if matches!(operation.action, legacy::OpType::Make(_)) {
                    made.insert(op, (index, [way, vec![key.to_owned()]].concat()));
                }
                continue;
            }
            let (record, field) = match self.objects.get(&object) {
                Some(Place::Records { sessions }) => match record(*sessions, key) {
                    Some(record) => (record, None),
                    None => continue,
                },
                Some(Place::Record(record)) => (record.clone(), Some(key.to_owned())),
                Some(Place::Inside(record, field)) => {
                    (record.clone(), Some(format!("{field}.{key}")))
                }
                Some(Place::Buckets) | None => continue,
            };
            if !wanted.get(&record).is_some_and(|told| told.takes(field.as_deref())) {
                continue;
            }
            if matches!(operation.action, legacy::OpType::Make(_)) {
                made.insert(op.clone(), (writes.len(), Vec::new()));
            }
            let (outcome, rivals) = (Outcome::Stands, Vec::new());
            writes.push(Found { wrote: Wrote { record, field, value, outcome, rivals }, op });
        }
        // The same is written to each of several copies of a record: it is told once.
        let mut seen = BTreeSet::new();
        writes.retain(|found| seen.insert((found.wrote.record.clone(), found.wrote.field.clone())));
        writes
    }
}

fn op_id(id: &legacy::OpId) -> OpId {
    (id.counter(), id.actor().to_bytes().to_vec())
}

fn map_key(operation: &legacy::Op) -> Option<&str> {
    match &operation.key {
        legacy::Key::Map(key) => Some(key.as_str()),
        legacy::Key::Seq(_) => None,
    }
}

fn record(sessions: bool, id: &str) -> Option<Touched> {
    if sessions {
        id.parse().ok().map(Touched::Session)
    } else {
        id.parse().ok().map(Touched::Workspace)
    }
}

fn value_of(action: &legacy::OpType) -> Option<Value> {
    match action {
        legacy::OpType::Make(_) => Some(Value::Object(Map::new())),
        legacy::OpType::Put(ScalarValue::Str(text)) => Some(Value::String(text.to_string())),
        legacy::OpType::Put(ScalarValue::Int(number)) => Some(Value::from(*number)),
        legacy::OpType::Put(ScalarValue::Uint(number)) => Some(Value::from(*number)),
        legacy::OpType::Put(ScalarValue::Boolean(truth)) => Some(Value::Bool(*truth)),
        // The schema has no others; a newer version's are told as being there.
        legacy::OpType::Put(_) => Some(Value::Null),
        _ => None,
    }
}

/// Puts a value at a key of the map that lies at the end of a way.
fn put_within(whole: &mut Option<Value>, way: &[String], key: &str, value: Option<Value>) {
    let Some(mut at) = whole.as_mut() else { return };
    for step in way {
        let Some(next) = at.get_mut(step) else { return };
        at = next;
    }
    if let (Value::Object(map), Some(value)) = (at, value) {
        map.insert(key.to_owned(), value);
    }
}

/// Says of each write what became of it.
fn judge(changes: &[automerge::Change], found: &mut [(usize, Vec<Found>)]) {
    let knows = Ancestry::of(changes, &found.iter().map(|(index, _)| *index).collect::<Vec<_>>());
    let mut by_record: BTreeMap<&Touched, Vec<(usize, usize)>> = BTreeMap::new();
    for (step, (_, writes)) in found.iter().enumerate() {
        for (write, this) in writes.iter().enumerate() {
            by_record.entry(&this.wrote.record).or_default().push((step, write));
        }
    }
    let mut judged = Vec::new();
    for all in by_record.into_values() {
        for &(step, write) in &all {
            let this = &found[step].1[write];
            let (mut outcome, mut rivals) = (Outcome::Stands, Vec::new());
            for &(other_step, other_write) in all.iter().filter(|(other, _)| *other != step) {
                let other = &found[other_step].1[other_write];
                if other.wrote.field != this.wrote.field && !other.is_grave() {
                    continue;
                }
                if knows.is_before(step, other_step) {
                    // What was known of is replaced, whatever else was not.
                    outcome = Outcome::Replaced;
                } else if !knows.is_before(other_step, step) {
                    rivals.push(hash_in(&changes[found[other_step].0].hash()));
                    if outcome == Outcome::Stands && other.beats(this) {
                        outcome = Outcome::Lost;
                    }
                }
            }
            judged.push((step, write, outcome, rivals));
        }
    }
    for (step, write, outcome, rivals) in judged {
        let wrote = &mut found[step].1[write].wrote;
        (wrote.outcome, wrote.rivals) = (outcome, rivals);
    }
}

impl Found {
    /// Tells whether it removes the record for good.
    fn is_grave(&self) -> bool {
        let scalar = self.wrote.value.as_ref().is_some_and(|value| !value.is_object());
        self.wrote.field.is_none() && scalar
    }

    /// Tells whether it wins over another write that did not know of it, nor it of that.
    fn beats(&self, other: &Self) -> bool {
        match (&self.wrote.value, &other.wrote.value) {
            _ if self.is_grave() != other.is_grave() => self.is_grave(),
            // What was taken away is there again if someone wrote it, not knowing.
            (None, _) => false,
            (Some(_), None) => true,
            (Some(_), Some(_)) => self.op > other.op,
        }
    }
}

/// Which of some changes each of them knew of.
struct Ancestry(Vec<Vec<u64>>);

impl Ancestry {
    /// Finds out in one pass over all changes, which are in an order in which each comes after
    /// those that it knew of.
    fn of(changes: &[automerge::Change], chosen: &[usize]) -> Self {
        let words = chosen.len().div_ceil(64);
        let positions: BTreeMap<ChangeHash, usize> =
            changes.iter().enumerate().map(|(at, change)| (hash_in(&change.hash()), at)).collect();
        let mut known: Vec<Vec<u64>> = Vec::with_capacity(changes.len());
        for change in changes {
            let mut bits = vec![0; words];
            for dep in change.deps() {
                let Some(&at) = positions.get(&hash_in(dep)) else { continue };
                let Some(before) = known.get(at) else { continue };
                bits.iter_mut().zip(before).for_each(|(bit, other)| *bit |= other);
                if let Ok(number) = chosen.binary_search(&at) {
                    bits[number / 64] |= 1 << (number % 64);
                }
            }
            known.push(bits);
        }
        Self(chosen.iter().map(|at| std::mem::take(&mut known[*at])).collect())
    }

    /// Tells whether the second change knew of the first.
    fn is_before(&self, first: usize, second: usize) -> bool {
        self.0[second][first / 64] >> (first % 64) & 1 == 1
    }
}
