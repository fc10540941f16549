//! Owns the reading of operations, which changes and documents hold in nearly the same columns.
//!
//! Must not know whether they are a change's or a document's. Invariant: what is read is a map made
//! in a map, a scalar put into a map, or a delete from a map; nothing else.

use super::{
    Costs, KEY_BYTES_MAX, Refused, VALUE_BYTES_MAX, at_most,
    column::{Columns, Deltas, Runs, Spec, all_false},
    reader::Reader,
};
use crate::replica::ids::ActorBytes;

pub(super) const OBJECT_ACTOR: Spec = Spec { bits: 0x01, name: "object actor" };
pub(super) const OBJECT_COUNTER: Spec = Spec { bits: 0x02, name: "object counter" };
pub(super) const KEY: Spec = Spec { bits: 0x15, name: "key" };
pub(super) const INSERT: Spec = Spec { bits: 0x34, name: "insert" };
pub(super) const ACTION: Spec = Spec { bits: 0x42, name: "action" };
pub(super) const VALUE_META: Spec = Spec { bits: 0x56, name: "value type" };
pub(super) const VALUE: Spec = Spec { bits: 0x57, name: "value" };

/// The three columns of the operations that each operation overwrites, or is overwritten by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Related {
    pub(super) count: Spec,
    pub(super) actor: Spec,
    pub(super) counter: Spec,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    MakeMap,
    Put,
    Delete,
}

/// Names an operation: its counter, and its actor's place in the list of actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId {
    pub(super) counter: u32,
    pub(super) actor: u32,
}

/// What an operation puts at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A map of its own.
    Map,
    /// Text.
    Text(&'a str),
    /// A whole number with a sign.
    Int(i64),
    /// True or false.
    Truth(bool),
    /// What no record of ours has.
    Other,
}

/// An operation.
#[derive(Debug)]
pub(super) struct Operation<'a, 'b> {
    /// The map; `None` is the root.
    pub(super) object: Option<OpId>,
    pub(super) key: &'a str,
    pub(super) action: Action,
    pub(super) value: Value<'a>,
    /// Ascending.
    pub(super) related: &'b [OpId],
}

impl Operation<'_, '_> {
    /// Returns how much memory it takes in automerge, without its value.
    pub(super) fn cost(&self, costs: Costs) -> u64 {
        let map = if self.action == Action::MakeMap { costs.map } else { 0 };
        let (key, related) = (self.key.len() as u64, self.related.len() as u64);
        costs.op + map + costs.byte * key + costs.related * related
    }
}

/// Reads operations one after the other.
#[derive(Debug)]
pub(super) struct Operations<'a> {
    actors: &'a [ActorBytes],
    object_actor: Runs<'a, u64>,
    object_counter: Runs<'a, u64>,
    key: Runs<'a, &'static str>,
    action: Runs<'a, u64>,
    value_meta: Runs<'a, u64>,
    value: Reader<'a>,
    related_count: Runs<'a, u64>,
    related_actor: Runs<'a, u64>,
    related_counter: Deltas<'a>,
    related: Vec<OpId>,
}

impl<'a> Operations<'a> {
    /// Begins to read `count` operations, which may have `related_max` related ones in all.
    pub(super) fn new(
        columns: &'a Columns<'_>,
        count: u64,
        related: Related,
        related_max: u64,
        actors: &'a [ActorBytes],
    ) -> Result<Self, Refused> {
        all_false(columns, INSERT, count)?;
        let mut total = 0_u64;
        let mut counts = columns.runs::<u64>(related.count, count);
        for _ in 0..count {
            total = total.saturating_add(counts.required()?);
            at_most("related operations", total, related_max)?;
        }
        Ok(Self {
            actors,
            object_actor: columns.runs(OBJECT_ACTOR, count),
            object_counter: columns.runs(OBJECT_COUNTER, count),
            key: columns.runs(KEY, count),
            action: columns.runs(ACTION, count),
            value_meta: columns.runs(VALUE_META, count),
            value: Reader::new(columns.bytes(VALUE)),
            related_count: columns.runs(related.count, count),
            related_actor: columns.runs(related.actor, total),
            related_counter: Deltas::new(columns, related.counter, total),
            related: Vec::new(),
        })
    }

    /// Reads the next operation.
    pub(super) fn next(&mut self) -> Result<Operation<'a, '_>, Refused> {
        let object = match (self.object_actor.next()?, self.object_counter.next()?) {
            (None, None) => None,
            (Some(actor), Some(counter)) => {
                let counter = u32::try_from(counter)
                    .ok()
                    .filter(|counter| *counter > 0)
                    .ok_or(Refused::Invalid { what: OBJECT_COUNTER.name })?;
                Some(OpId { counter, actor: self.actor(actor, OBJECT_ACTOR.name)? })
            }
            _ => return Err(Refused::Invalid { what: OBJECT_ACTOR.name }),
        };
        let key = self.key.required()?;
        if key.is_empty() {
            return Err(Refused::Invalid { what: KEY.name });
        }
        at_most("bytes of a key", key.len() as u64, KEY_BYTES_MAX as u64)?;
        let action = match self.action.required()? {
            0 => Action::MakeMap,
            1 => Action::Put,
            3 => Action::Delete,
            2 | 4..=7 => return Err(Refused::Unused { what: "an action on other than maps" }),
            _ => return Err(Refused::Invalid { what: ACTION.name }),
        };
        let meta = self.value_meta.required()?;
        let value = match action {
            Action::Put => take_value(meta, &mut self.value)?,
            _ if meta != 0 => return Err(Refused::Invalid { what: VALUE_META.name }),
            Action::MakeMap => Value::Map,
            Action::Delete => Value::Other,
        };
        self.related.clear();
        for _ in 0..self.related_count.required()? {
            let actor = self.related_actor.required()?;
            let actor = self.actor(actor, "related actor")?;
            let id = OpId { counter: self.related_counter.required()?, actor };
            if self.related.last().is_some_and(|last| self.place(*last) >= self.place(id)) {
                return Err(Refused::Order { what: "related operations" });
            }
            self.related.push(id);
        }
        Ok(Operation { object, key, action, value, related: &self.related })
    }

    /// Refuses bytes that no operation took.
    pub(super) fn end(&self) -> Result<(), Refused> {
        self.object_actor.end()?;
        self.object_counter.end()?;
        self.key.end()?;
        self.action.end()?;
        self.value_meta.end()?;
        self.value.end(VALUE.name)?;
        self.related_count.end()?;
        self.related_actor.end()?;
        self.related_counter.end()
    }

    fn actor(&self, place: u64, what: &'static str) -> Result<u32, Refused> {
        let known = usize::try_from(place).is_ok_and(|place| place < self.actors.len());
        u32::try_from(place).ok().filter(|_| known).ok_or(Refused::Dangling { what })
    }

    /// Returns what operations are ordered by.
    fn place(&self, id: OpId) -> (u32, &ActorBytes) {
        (id.counter, &self.actors[id.actor as usize])
    }
}

/// Takes a value and checks it; `meta` is its type in the lowest four bits, and its length.
fn take_value<'a>(meta: u64, raw: &mut Reader<'a>) -> Result<Value<'a>, Refused> {
    const WHAT: &str = VALUE.name;
    let length = meta >> 4;
    at_most("bytes of a value", length, VALUE_BYTES_MAX)?;
    let bytes = raw.take(length, WHAT)?;
    let invalid = Refused::Invalid { what: WHAT };
    let mut number = Reader::new(bytes);
    match meta & 0b1111 {
        0 if length == 0 => Ok(Value::Other),
        1 | 2 if length == 0 => Ok(Value::Truth(meta & 0b1111 == 2)),
        3 if number.unsigned(WHAT).is_ok() && number.is_empty() => Ok(Value::Other),
        kind @ (4 | 9) => match number.signed(WHAT) {
            Ok(value) if number.is_empty() && kind == 4 => Ok(Value::Int(value)),
            Ok(_) if number.is_empty() => Ok(Value::Other),
            _ => Err(invalid),
        },
        5 if length == 8 => Ok(Value::Other),
        6 => std::str::from_utf8(bytes).map(Value::Text).map_err(|_| invalid),
        7 => Ok(Value::Other),
        0..=3 | 5 => Err(invalid),
        8 => Err(Refused::Unused { what: "a counter" }),
        _ => Err(Refused::Unused { what: "a value of unknown type" }),
    }
}
