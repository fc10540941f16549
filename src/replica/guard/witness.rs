//! Owns what can be learned of a document while it is judged.
//!
//! Must not know what it is used for. Invariant: a witness is told, key by key in the order of maps
//! and keys, what automerge would say stands there, and decides nothing about the document.

use super::operation::{OpId, Value};

/// What stands at a key of a map.
#[derive(Debug)]
pub struct Item<'a> {
    /// The operation that made the map; `None` is the root.
    pub map: Option<OpId>,
    /// The key.
    pub key: &'a str,
    /// The operation that put it there.
    pub id: OpId,
    /// What it is.
    pub value: Value<'a>,
    /// Whether another one that was put there at the same time stands beside it; this one is the one
    /// that automerge returns.
    pub is_contested: bool,
}

/// Is told what a document holds.
pub trait Witness {
    /// Takes in what stands at the next key at which anything stands.
    fn see(&mut self, item: &Item<'_>);
}

/// Looks at nothing.
impl Witness for () {
    fn see(&mut self, _: &Item<'_>) {}
}
