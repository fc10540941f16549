//! Owns the judging of whole documents.
//!
//! Must not know what the document is about. Invariant: a header is returned only for a document
//! of which each operation is by a change in it, is in a map that was made in it, and stands where
//! automerge looks for it.

use std::cmp::Ordering;

use super::{
    ACTOR_COST, Budget, ChangeHeader, DEPENDENCIES_MAX, DEPENDENCY_COST, DEPTH_MAX, HEADS_MAX,
    LOADED, MEMORY_BYTES_MAX, MESSAGE_BYTES_MAX, OPS_PER_BYTE_MAX, Refused, TIME_MAX,
    ahead::Ahead,
    at_most,
    change::check_chunk,
    chunk::{Chunk, Kind},
    column::{Columns, Deltas, Listed, Spec, count_items},
    operation::{
        ACTION, Action, INSERT, KEY, OBJECT_ACTOR, OBJECT_COUNTER, OpId, Operation, Operations,
        Related, VALUE, VALUE_META,
    },
    reader::Reader,
    witness::{Item, Witness},
};
use crate::replica::ids::{ActorBytes, ChangeHash};

const CHANGE_ACTOR: Spec = Spec { bits: 0x01, name: "change actor" };
const CHANGE_SEQ: Spec = Spec { bits: 0x03, name: "change seq" };
const CHANGE_MAX_OP: Spec = Spec { bits: 0x13, name: "change max_op" };
const CHANGE_TIME: Spec = Spec { bits: 0x23, name: "change time" };
const CHANGE_MESSAGE: Spec = Spec { bits: 0x35, name: "change message" };
const CHANGE_DEPENDENCIES: Spec = Spec { bits: 0x40, name: "change dependencies" };
const CHANGE_DEPENDENCY: Spec = Spec { bits: 0x43, name: "change dependency" };
const CHANGE_EXTRA_META: Spec = Spec { bits: 0x56, name: "change extra type" };
const CHANGE_EXTRA: Spec = Spec { bits: 0x57, name: "change extra" };

const CHANGE_COLUMNS: [Spec; 9] = [
    CHANGE_ACTOR,
    CHANGE_SEQ,
    CHANGE_MAX_OP,
    CHANGE_TIME,
    CHANGE_MESSAGE,
    CHANGE_DEPENDENCIES,
    CHANGE_DEPENDENCY,
    CHANGE_EXTRA_META,
    CHANGE_EXTRA,
];

const ID_ACTOR: Spec = Spec { bits: 0x21, name: "operation actor" };
const ID_COUNTER: Spec = Spec { bits: 0x23, name: "operation counter" };

const SUCCESSORS: Related = Related {
    count: Spec { bits: 0x80, name: "successor count" },
    actor: Spec { bits: 0x81, name: "successor actor" },
    counter: Spec { bits: 0x83, name: "successor counter" },
};

const OPERATION_COLUMNS: [Spec; 12] = [
    OBJECT_ACTOR,
    OBJECT_COUNTER,
    KEY,
    ID_ACTOR,
    ID_COUNTER,
    INSERT,
    ACTION,
    VALUE_META,
    VALUE,
    SUCCESSORS.count,
    SUCCESSORS.actor,
    SUCCESSORS.counter,
];

/// How many changes a document may have however short it is. Beyond, each takes a byte: honest ones,
/// which bring an id or a time, take three at the least.
const DOCUMENT_CHANGES_FREE: u64 = 1_024;

/// How many dependencies a document may have for each change that it may have: most have one, and of many
/// that stand beside each other each is named by all who write next.
const DEPENDENCIES_PER_CHANGE: u64 = 8;

/// How many operations a document may have however short it is: the buckets of a host document are
/// 256 that differ in nothing but two digits.
const DOCUMENT_OPS_FREE: u64 = 8_192;

/// How much a document may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentLimits {
    /// Most bytes, as saved.
    pub bytes: usize,
    /// Most bytes that its columns are inflated to.
    pub inflated_bytes: usize,
    /// Most changes.
    pub changes: u64,
    /// Most operations, and most overwritings of them.
    pub ops: u64,
    /// Most actors.
    pub actors: u64,
    /// Most bytes of memory that automerge may take for it.
    pub memory_bytes: u64,
}

impl DocumentLimits {
    /// For a snapshot, or a fleet document. A host writes its document anew from 10,000 changes on
    /// once history outweighs state, and from 30,000 in any case. Merging takes some 3.7 KB a change
    /// at the most. Of what is let pass, 10,000 changes of four operations each are a quarter at the
    /// most (`tests/guard.rs`).
    pub const SNAPSHOT: Self = Self {
        bytes: 16 << 20,
        inflated_bytes: 24 << 20,
        changes: 60_000,
        ops: 2_000_000,
        actors: 65_536,
        memory_bytes: MEMORY_BYTES_MAX,
    };

    /// For a document that came within a frame.
    pub const FRAME: Self = Self {
        bytes: 8 << 20,
        inflated_bytes: super::FRAME_INFLATED_BYTES_MAX,
        changes: super::FRAME_OPS_MAX,
        ops: super::FRAME_OPS_MAX,
        actors: 65_536,
        memory_bytes: MEMORY_BYTES_MAX,
    };

    /// Returns what a document of this length may hold: all of it may be runs, of which a few bytes
    /// claim any number, and automerge builds each item before it finds anything wrong.
    fn of_bytes(self, bytes: usize) -> Self {
        let bytes = bytes as u64;
        Self {
            changes: self.changes.min(DOCUMENT_CHANGES_FREE + bytes),
            ops: self.ops.min(DOCUMENT_OPS_FREE + OPS_PER_BYTE_MAX * bytes),
            ..self
        }
    }
}

/// What a document says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentHeader {
    /// Who wrote in it, ascending.
    pub actors: Vec<ActorBytes>,
    /// How many changes each of them made, in the same order.
    pub seqs: Vec<u32>,
    /// Its heads, without the appended changes.
    pub heads: Vec<ChangeHash>,
    /// How many changes it has, without the appended ones.
    pub changes: u64,
    /// How many operations it has, without deletes and the appended changes.
    pub ops: u64,
    /// The changes that were appended after it was last saved whole.
    pub appended: Vec<ChangeHeader>,
    /// How many bytes of memory automerge takes for it, as counted here, with the appended changes.
    pub memory_bytes: u64,
}

/// Judges a saved document as a peer sent it: a document chunk and changes appended to it.
///
/// # Errors
///
/// Automerge must not be given these bytes.
pub fn check_document(bytes: &[u8], limits: DocumentLimits) -> Result<DocumentHeader, Refused> {
    check_document_before(bytes, limits, &mut ())
}

/// Judges a saved document as [`check_document`] does before a witness, who sees nothing of the
/// changes appended to it.
///
/// # Errors
///
/// As there; what the witness has seen until then is of no use.
pub fn check_document_before(
    bytes: &[u8],
    limits: DocumentLimits,
    witness: &mut impl Witness,
) -> Result<DocumentHeader, Refused> {
    let mut budget = Budget {
        inflated_bytes: limits.inflated_bytes,
        ops: limits.ops,
        memory_bytes: limits.memory_bytes,
    };
    check_in(bytes, limits, &mut budget, witness)
}

/// Judges a saved document within the budget of the frame that it came in.
pub(super) fn check_in(
    bytes: &[u8],
    limits: DocumentLimits,
    budget: &mut Budget,
    witness: &mut impl Witness,
) -> Result<DocumentHeader, Refused> {
    at_most("bytes of a document", bytes.len() as u64, limits.bytes as u64)?;
    let limits = limits.of_bytes(bytes.len());
    let memory_before = budget.memory_bytes;
    let mut reader = Reader::new(bytes);
    let chunk = Chunk::take(&mut reader)?;
    if chunk.kind != Kind::Document {
        return Err(Refused::Invalid { what: "a document" });
    }
    chunk.verify(chunk.contents)?;
    let mut document = check_contents(chunk.contents, limits, budget, witness)?;
    while !reader.is_empty() {
        document.appended.push(check_chunk(&Chunk::take(&mut reader)?, budget)?);
    }
    document.memory_bytes = memory_before - budget.memory_bytes;
    Ok(document)
}

fn check_contents(
    contents: &[u8],
    limits: DocumentLimits,
    budget: &mut Budget,
    witness: &mut impl Witness,
) -> Result<DocumentHeader, Refused> {
    let mut reader = Reader::new(contents);
    let actors = reader.actors(limits.actors, "actors")?;
    let heads = reader.hashes(HEADS_MAX, "heads")?;
    if !heads.is_sorted_by(|one, next| one < next) {
        return Err(Refused::Order { what: "heads" });
    }
    let change_columns = Listed::take(&mut reader, &CHANGE_COLUMNS, true)?;
    let operation_columns = Listed::take(&mut reader, &OPERATION_COLUMNS, true)?;
    let inflated_before = budget.inflated_bytes;
    let change_columns = change_columns.data(&mut reader, budget)?;
    let operation_columns = operation_columns.data(&mut reader, budget)?;
    let bytes = contents.len() + (inflated_before - budget.inflated_bytes);
    budget.spend_memory(LOADED.byte * bytes as u64 + ACTOR_COST * actors.len() as u64)?;

    let actor_bytes = change_columns.bytes(CHANGE_ACTOR);
    let changes = count_items::<u64>(actor_bytes, limits.changes, "changes of a document")?;
    // The places of the heads among the changes; old versions leave them out.
    if !reader.is_empty() {
        for _ in &heads {
            if reader.unsigned("head")? >= changes {
                return Err(Refused::Dangling { what: "head" });
            }
        }
    }
    reader.end("a document")?;

    budget.spend_memory(LOADED.change * changes)?;
    let last = check_changes(&change_columns, changes, actors.len(), limits, budget)?;
    let ops = count_items::<u64>(
        operation_columns.bytes(ACTION),
        limits.ops,
        "operations of a document",
    )?;
    budget.spend_ops(ops)?;
    let successors_max = limits.ops;
    let mut operations =
        Operations::new(&operation_columns, ops, SUCCESSORS, successors_max, &actors)?;
    check_operations(&operation_columns, &mut operations, ops, &last, budget, witness)?;
    operations.end()?;
    let seqs = last.iter().map(|last| last.seq).collect();
    Ok(DocumentHeader { actors, seqs, heads, changes, ops, appended: Vec::new(), memory_bytes: 0 })
}

/// Where the changes of one actor have come to.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    seq: u32,
    max_op: u32,
    /// Among all changes.
    place: u32,
}

/// Checks the changes and returns each actor's last.
fn check_changes(
    columns: &Columns<'_>,
    count: u64,
    actors: usize,
    limits: DocumentLimits,
    budget: &mut Budget,
) -> Result<Vec<Last>, Refused> {
    let mut actor = columns.runs::<u64>(CHANGE_ACTOR, count);
    let mut seq = Deltas::new(columns, CHANGE_SEQ, count);
    let mut max_op = Deltas::new(columns, CHANGE_MAX_OP, count);
    let mut time = Deltas::new(columns, CHANGE_TIME, count);
    let mut message = columns.runs::<&'static str>(CHANGE_MESSAGE, count);
    let mut dependencies = columns.runs::<u64>(CHANGE_DEPENDENCIES, count);
    let edges_max = DEPENDENCIES_PER_CHANGE * limits.changes;
    let mut dependency = Deltas::new(columns, CHANGE_DEPENDENCY, edges_max);
    let mut extra = columns.runs::<u64>(CHANGE_EXTRA_META, count);
    let mut last = vec![Last::default(); actors];
    let mut edges = 0;
    // As many as there may be fit.
    for place in 0..count as u32 {
        let author = usize::try_from(actor.required()?).ok();
        let last = author
            .and_then(|author| last.get_mut(author))
            .ok_or(Refused::Dangling { what: CHANGE_ACTOR.name })?;
        let this = Last { seq: seq.required()?, max_op: max_op.required()?, place };
        if this.seq.checked_sub(1) != Some(last.seq) || this.max_op < last.max_op {
            return Err(Refused::Order { what: "changes of an actor" });
        }
        let previous = std::mem::replace(last, this);
        at_most("time", time.next()?.unwrap_or(0).unsigned_abs(), TIME_MAX)?;
        let text = message.next()?.unwrap_or_default();
        at_most("bytes of a message", text.len() as u64, MESSAGE_BYTES_MAX)?;
        let count = dependencies.required()?;
        at_most("dependencies", count, DEPENDENCIES_MAX)?;
        edges += count;
        at_most("dependencies of a document", edges, edges_max)?;
        budget.spend_memory(DEPENDENCY_COST * count + LOADED.byte * text.len() as u64)?;
        let mut is_linked = previous.seq == 0;
        for _ in 0..count {
            let dependency = dependency.required()?;
            if dependency >= place {
                return Err(Refused::Dangling { what: CHANGE_DEPENDENCY.name });
            }
            is_linked |= dependency == previous.place;
        }
        // Whoever vouches for an actor's last change vouches for all before it, by their hashes.
        if !is_linked {
            return Err(Refused::Unlinked);
        }
        // Bytes, none of them: what newer versions of automerge would add to a change.
        if !matches!(extra.next()?, None | Some(7)) {
            return Err(Refused::Unused { what: CHANGE_EXTRA.name });
        }
    }
    actor.end()?;
    seq.end()?;
    max_op.end()?;
    time.end()?;
    message.end()?;
    dependencies.end()?;
    dependency.end()?;
    extra.end()?;
    Reader::new(columns.bytes(CHANGE_EXTRA)).end(CHANGE_EXTRA.name)?;
    Ok(last)
}

fn check_operations<'a>(
    columns: &'a Columns<'_>,
    operations: &mut Operations<'a>,
    count: u64,
    last: &[Last],
    budget: &mut Budget,
    witness: &mut impl Witness,
) -> Result<(), Refused> {
    let mut id_actor = columns.runs::<u64>(ID_ACTOR, count);
    let mut id_counter = Deltas::new(columns, ID_COUNTER, count);
    let by_a_change = |id: OpId| {
        let max_op = last.get(id.actor as usize).map_or(0, |last| last.max_op);
        (1..=max_op).contains(&id.counter)
    };
    // A map is made before anything is put into it, and automerge sorts by map: so each map's
    // making comes before its contents.
    let mut depths: Ahead<u8> = Ahead::default();
    let mut last: Option<(Option<OpId>, &str, OpId)> = None;
    let mut depth = 0;
    // What stands at the key.
    let mut item: Option<Item<'_>> = None;
    let mut places = Places::default();
    for _ in 0..count {
        let actor = id_actor.required()?;
        let id = OpId {
            counter: id_counter.required()?,
            actor: u32::try_from(actor).map_err(|_| Refused::Dangling { what: ID_ACTOR.name })?,
        };
        if !by_a_change(id) {
            return Err(Refused::Dangling { what: "an operation" });
        }
        let operation = operations.next()?;
        budget.spend_memory(operation.cost(LOADED))?;
        let (mut is_same_map, mut is_same_key) = (false, false);
        if let Some((object, key, before)) = last {
            let maps = object.cmp(&operation.object);
            let keys = maps.then_with(|| key.cmp(operation.key));
            if keys.then_with(|| before.cmp(&id)) != Ordering::Less {
                return Err(Refused::Order { what: "operations" });
            }
            (is_same_map, is_same_key) = (maps.is_eq(), keys.is_eq());
        }
        if !is_same_map {
            depth = match operation.object {
                None => 0,
                Some(object) => {
                    depths.reach(object).ok_or(Refused::Dangling { what: "an object" })?
                }
            };
        }
        if !is_same_key {
            places.next();
            item.take().inspect(|item| witness.see(item));
        }
        places.add(id, operation.related);
        if operation.related.is_empty() {
            // The last of several wins.
            let Operation { object: map, key, value, .. } = operation;
            item = Some(Item { map, key, id, value, is_contested: item.is_some() });
        }
        last = Some((operation.object, operation.key, id));
        if operation.object.is_some_and(|object| object >= id) {
            return Err(Refused::Dangling { what: "an object" });
        }
        match operation.action {
            Action::MakeMap => {
                at_most("depth of maps", u64::from(depth) + 1, u64::from(DEPTH_MAX))?;
                depths.expect(id, depth + 1);
            }
            Action::Put => {}
            Action::Delete => return Err(Refused::Invalid { what: "a delete in a document" }),
        }
        let follows = |next: &OpId| next.counter > id.counter && by_a_change(*next);
        if !operation.related.iter().all(follows) {
            return Err(Refused::Dangling { what: "a successor" });
        }
    }
    places.next();
    item.inspect(|item| witness.see(item));
    places.end()?;
    id_actor.end()?;
    id_counter.end()
}

/// Sees to it that no two operations have one id, and that an operation is only overwritten by one
/// at the same key of the same map: automerge would take the others for overwriting it or not,
/// depending on what else it reads.
#[derive(Debug, Default)]
struct Places {
    /// How many keys came before.
    key: u32,
    here: Vec<OpId>,
    successors_here: Vec<OpId>,
    all: Vec<OpId>,
    /// Successors that are no operation at the key, so deletes, and the key.
    deletes: Vec<(OpId, u32)>,
}

impl Places {
    fn add(&mut self, id: OpId, successors: &[OpId]) {
        self.here.push(id);
        self.successors_here.extend(successors);
    }

    fn next(&mut self) {
        // They came in order.
        let is_here = |id: &OpId| self.here.binary_search(id).is_ok();
        let key = self.key;
        let elsewhere = self.successors_here.iter().filter(|id| !is_here(id));
        self.deletes.extend(elsewhere.map(|id| (*id, key)));
        self.all.append(&mut self.here);
        self.successors_here.clear();
        self.key += 1;
    }

    fn end(mut self) -> Result<(), Refused> {
        self.all.sort_unstable();
        self.deletes.sort_unstable();
        // Automerge asserts it where it takes a document apart into its changes.
        if self.all.windows(2).any(|two| two[0] == two[1]) {
            return Err(Refused::Invalid { what: "an operation whose id another has" });
        }
        let is_operation = |(id, _): &(OpId, u32)| self.all.binary_search(id).is_ok();
        let at_two_keys =
            self.deletes.windows(2).any(|two| two[0].0 == two[1].0 && two[0] != two[1]);
        if at_two_keys || self.deletes.iter().any(is_operation) {
            return Err(Refused::Dangling { what: "a successor" });
        }
        Ok(())
    }
}
