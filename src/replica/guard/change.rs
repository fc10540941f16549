//! Owns the judging of changes.
//!
//! Must not know which changes a document has. Invariant: a header is returned only for a change
//! that automerge can decode within the limits, and whose hash, actor and counters it states.

use std::collections::BTreeMap;

use super::{
    APPLIED, Budget, CHANGE_ACTORS_MAX, CHANGE_BYTES_MAX, CHANGE_OPS_FREE, CHANGE_OPS_MAX,
    CHANGE_OVERWRITES_MAX, DEPENDENCIES_MAX, DEPTH_MAX, MEMORY_BYTES_MAX, MESSAGE_BYTES_MAX,
    OPS_PER_BYTE_MAX, Refused, TIME_MAX, at_most,
    chunk::{Chunk, Kind, inflate},
    column::{Listed, Spec, count_items},
    operation::{
        ACTION, Action, INSERT, KEY, OBJECT_ACTOR, OBJECT_COUNTER, OpId, Operations, Related,
        VALUE, VALUE_META,
    },
    reader::Reader,
};
use crate::replica::ids::{ActorBytes, ChangeHash, Fingerprint, fingerprint};

const PREDECESSORS: Related = Related {
    count: Spec { bits: 0x70, name: "predecessor count" },
    actor: Spec { bits: 0x71, name: "predecessor actor" },
    counter: Spec { bits: 0x73, name: "predecessor counter" },
};

const COLUMNS: [Spec; 10] = [
    OBJECT_ACTOR,
    OBJECT_COUNTER,
    KEY,
    INSERT,
    ACTION,
    VALUE_META,
    VALUE,
    PREDECESSORS.count,
    PREDECESSORS.actor,
    PREDECESSORS.counter,
];

/// What a change says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeHeader {
    /// Its name.
    pub hash: ChangeHash,
    /// What must have been applied before it.
    pub dependencies: Vec<ChangeHash>,
    /// Who says to have written it.
    pub actor: ActorBytes,
    /// The how-manieth change of its actor it is, from 1.
    pub seq: u64,
    /// The counter of its first operation.
    pub start_op: u64,
    /// How many operations it has.
    pub ops: u64,
    /// Its author's clock; automerge gives it no unit.
    pub time: i64,
    /// The authors of what it builds on, beside its own, ascending.
    pub other_actors: Vec<ActorBytes>,
}

impl ChangeHeader {
    /// Returns the fingerprint of the node that says to have written the change.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.actor)
    }

    /// Returns the counter of the last operation, or the one before the first if there is none.
    pub fn max_op(&self) -> u64 {
        self.start_op + self.ops - 1
    }
}

/// Judges one change as a peer sent it.
///
/// # Errors
///
/// Automerge must not be given these bytes.
pub fn check_change(bytes: &[u8]) -> Result<ChangeHeader, Refused> {
    check_one(bytes, &mut Budget::frame())
}

/// Judges all changes of one frame, which share a budget; their headers come in the same order.
///
/// # Errors
///
/// Automerge must not be given these bytes: neither the one change that is meant, nor those beside
/// it, which its sender has chosen too.
pub fn check_changes<B: AsRef<[u8]>>(changes: &[B]) -> Result<Vec<ChangeHeader>, Refused> {
    let mut budget = Budget::frame();
    changes.iter().map(|change| check_one(change.as_ref(), &mut budget)).collect()
}

/// Judges changes as [`check_changes`] does, and returns how much memory a node is counted to take for
/// them, bytes.
///
/// # Errors
///
/// As [`check_changes`].
pub fn memory_of_changes<B: AsRef<[u8]>>(changes: &[B]) -> Result<u64, Refused> {
    let mut budget = Budget::frame();
    for change in changes {
        check_one(change.as_ref(), &mut budget)?;
    }
    Ok(MEMORY_BYTES_MAX - budget.memory_bytes)
}

fn check_one(bytes: &[u8], budget: &mut Budget) -> Result<ChangeHeader, Refused> {
    let mut reader = Reader::new(bytes);
    let chunk = Chunk::take(&mut reader)?;
    reader.end("a change")?;
    check_chunk(&chunk, budget)
}

/// Judges a chunk that must be a change.
pub(super) fn check_chunk(chunk: &Chunk<'_>, budget: &mut Budget) -> Result<ChangeHeader, Refused> {
    let bytes = chunk.contents.len() as u64;
    at_most("bytes of a change", bytes, CHANGE_BYTES_MAX as u64)?;
    let ops_max = CHANGE_OPS_MAX.min(CHANGE_OPS_FREE + OPS_PER_BYTE_MAX * bytes);
    match chunk.kind {
        Kind::Document => Err(Refused::Unused { what: "a document among changes" }),
        Kind::Change => {
            check_contents(chunk.verify(chunk.contents)?, chunk.contents, ops_max, budget)
        }
        Kind::DeflatedChange => {
            let contents = inflate(chunk.contents, CHANGE_BYTES_MAX, budget, "a change")?;
            check_contents(chunk.verify(&contents)?, &contents, ops_max, budget)
        }
    }
}

/// Judges what is in a change, which may have so many operations for the bytes that it came in.
fn check_contents(
    hash: ChangeHash,
    contents: &[u8],
    ops_max: u64,
    budget: &mut Budget,
) -> Result<ChangeHeader, Refused> {
    budget.spend_memory(APPLIED.change + APPLIED.byte * contents.len() as u64)?;
    let mut reader = Reader::new(contents);
    let dependencies = reader.hashes(DEPENDENCIES_MAX, "dependencies")?;
    let actor = reader.actor("actor")?;
    let seq = reader.unsigned("seq")?;
    let start_op = reader.unsigned("start_op")?;
    let time = reader.signed("time")?;
    at_most("time", time.unsigned_abs(), TIME_MAX)?;
    let message_bytes = reader.count(MESSAGE_BYTES_MAX, 1, "message")?;
    if std::str::from_utf8(reader.take(message_bytes, "message")?).is_err() {
        return Err(Refused::Invalid { what: "message" });
    }
    let other_actors = reader.actors(CHANGE_ACTORS_MAX, "other actors")?;
    if other_actors.binary_search(&actor).is_ok() {
        return Err(Refused::Order { what: "other actors" });
    }
    let columns = Listed::take(&mut reader, &COLUMNS, false)?.data(&mut reader, budget)?;
    reader.end("a change")?;

    let ops = count_items::<u64>(columns.bytes(ACTION), ops_max, "operations of a change")?;
    budget.spend_ops(ops)?;
    // Automerge keeps both numbers in 32 bits.
    let limit = u64::from(u32::MAX);
    at_most("seq", seq, limit)?;
    at_most("start_op", start_op, limit - CHANGE_OPS_MAX)?;
    if seq == 0 || start_op == 0 {
        return Err(Refused::Invalid { what: "seq or start_op" });
    }
    let mut actors = Vec::with_capacity(1 + other_actors.len());
    actors.push(actor);
    actors.extend_from_slice(&other_actors);

    let mut operations =
        Operations::new(&columns, ops, PREDECESSORS, CHANGE_OVERWRITES_MAX, &actors)?;
    let mut depths: BTreeMap<u32, u8> = BTreeMap::new();
    // It fits, as both summands were just bounded.
    let counters = start_op as u32..start_op as u32 + ops as u32;
    for counter in counters.clone() {
        let operation = operations.next()?;
        budget.spend_memory(operation.cost(APPLIED))?;
        let mut depth = 0;
        if let Some(OpId { counter: object, actor }) = operation.object {
            let made_here = actor == 0 && counters.contains(&object);
            if object >= counter || made_here && !depths.contains_key(&object) {
                return Err(Refused::Dangling { what: "an object" });
            }
            depth = if made_here { depths[&object] } else { 1 };
        }
        if operation.action == Action::MakeMap {
            at_most("depth of maps", u64::from(depth) + 1, u64::from(DEPTH_MAX))?;
            depths.insert(counter, depth + 1);
        }
        if operation.related.iter().any(|id| id.counter == 0 || id.counter >= counter) {
            return Err(Refused::Dangling { what: "a predecessor" });
        }
        if operation.action == Action::Delete && operation.related.is_empty() {
            return Err(Refused::Dangling { what: "a delete" });
        }
    }
    operations.end()?;
    Ok(ChangeHeader { hash, dependencies, actor, seq, start_op, ops, time, other_actors })
}
