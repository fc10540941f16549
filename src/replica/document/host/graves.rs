//! Owns the ids that were purged, or gone, before the host rewrote its document: they must not come
//! back, and are most of what a busy host would have to remember for ever.
//!
//! Must not know records. Invariants: an id of which a grave was taken in is found for good; a grave
//! costs eight bytes, and not an operation.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{Automerge, ObjId, ObjType, ReadDoc, transaction::Transactable};
use sha2::{Digest as _, Sha256};

use super::{super::super::ids::NodeId, Done, is_by, map_at};

/// How many bytes of an id's SHA-256 stand for it: among ten million graves, one id in two billion
/// would wrongly be taken for spent, and its creation be refused.
const GRAVE_BYTES: usize = 8;
/// How many graves one value holds: peers refuse values of more than 64 KiB.
const GRAVES_MAX: usize = 8_000;

type Grave = [u8; GRAVE_BYTES];

/// Graves, by what stood where the record was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Graves(BTreeMap<String, BTreeSet<Grave>>);

/// One value of a document that holds graves.
#[derive(Debug)]
pub(super) struct Row<'a> {
    text: &'a str,
    number: usize,
    graves: Vec<u8>,
}

impl Row<'_> {
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.graves.len()
    }
}

fn grave(id: &str) -> Grave {
    let mut grave = Grave::default();
    grave.copy_from_slice(&Sha256::digest(id)[..GRAVE_BYTES]);
    grave
}

impl Graves {
    /// Reads what the host, and nobody else, has put into a map.
    pub(super) fn read(automerge: &Automerge, map: &ObjId, host: &NodeId) -> Self {
        let mut graves = Self::default();
        for text in automerge.keys(map) {
            let Some(rows) = map_at(automerge, map, &text) else { continue };
            for number in automerge.keys(&rows) {
                let all = automerge.get_all(&rows, &number).unwrap_or_default();
                for (value, _) in all.iter().filter(|(_, id)| is_by(id, host)) {
                    let bytes = value.as_bytes().unwrap_or_default();
                    let (found, _) = bytes.as_chunks::<GRAVE_BYTES>();
                    graves.0.entry(text.clone()).or_default().extend(found);
                }
            }
        }
        graves
    }

    /// Tells whether an id was spent.
    pub(super) fn has(&self, id: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let grave = grave(id);
        self.0.values().any(|graves| graves.contains(&grave))
    }

    /// Tells whether an id was spent, and this stood where its record was.
    pub(super) fn has_as(&self, id: &str, text: &str) -> bool {
        self.0.get(text).is_some_and(|graves| graves.contains(&grave(id)))
    }

    /// Takes in that an id is spent, and what stands where its record was.
    pub(super) fn insert(&mut self, id: &str, text: &str) {
        self.0.entry(text.to_owned()).or_default().insert(grave(id));
    }

    /// Returns how many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        GRAVE_BYTES * self.0.values().map(BTreeSet::len).sum::<usize>()
    }

    /// Splits the graves into values to be written.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for (text, graves) in &self.0 {
            let graves: Vec<Grave> = graves.iter().copied().collect();
            for (number, part) in graves.chunks(GRAVES_MAX).enumerate() {
                rows.push(Row { text, number, graves: part.as_flattened().to_vec() });
            }
        }
        rows
    }
}

/// Writes one value that holds graves into a map.
pub(super) fn write_row(tx: &mut impl Transactable, map: &ObjId, row: &Row<'_>) -> Done {
    let rows = match map_at(tx, map, row.text) {
        Some(rows) => rows,
        None => tx.put_object(map, row.text, ObjType::Map)?,
    };
    tx.put(&rows, row.number.to_string(), row.graves.clone())
}

#[cfg(test)]
mod tests {
    use automerge::ROOT;

    use super::*;
    use crate::replica::{document, ids::StartId};

    #[test]
    fn graves_are_found_again_only_where_the_host_has_written_them() {
        let host = NodeId([1; 32]);
        let mut graves = Graves::default();
        for n in 0..GRAVES_MAX + 1 {
            graves.insert(&format!("s{n}"), "gone");
        }
        graves.insert("other", "gone there too");
        let rows = graves.rows();
        assert_eq!(rows.len(), 3);
        for (writer, found) in [(host, true), (NodeId([2; 32]), false)] {
            let actor = document::actor(&writer, StartId([0; 8]));
            let mut automerge = Automerge::new().with_actor(actor);
            let mut tx = automerge.transaction();
            let map = tx.put_object(ROOT, "graves", ObjType::Map).unwrap();
            rows.iter().for_each(|row| write_row(&mut tx, &map, row).unwrap());
            tx.commit();
            let read = Graves::read(&automerge, &map, &host);
            assert_eq!(read == graves, found);
            assert_eq!(read.has("s8000"), found);
            assert!(!read.has("s8001"));
        }
    }
}
