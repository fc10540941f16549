//! Owns where a host document says what its host keeps after it has ended it, and which restores
//! are asked for.
//!
//! Must not know what a summary says. Invariants: only what the host itself has put there counts; a
//! request stands below an entry, and is seen whichever of several copies of that it was put into.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{
    ObjId, ObjType, ReadDoc,
    transaction::{Transactable, Transaction},
};

use super::{
    super::super::ids::{NodeId, OperationId, TrashId},
    super::{Touched, authority},
    Document, Done, Places, Scope, Writer, maps_at,
    read::{node, note, value_in},
    tree::{Node, Tree},
};

/// The key beside the workspaces below which the entries stand.
///
/// It is no workspace's id, so that versions before this one pass it on, and don't look at it: at the
/// top level of a document they would take it for an attack.
pub const TRASH: &str = ".trash";
/// In an entry, its summary.
pub const SUMMARY: &str = "summary";
/// In an entry, the restores that were asked for, by operation.
pub const REQUESTS: &str = "requests";

/// What a host document holds of one thing that its host keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What the host says of it.
    pub summary: String,
    /// The restores that were asked for and not yet answered, and who asked.
    pub requests: BTreeMap<OperationId, NodeId>,
}

impl Places {
    /// Returns the maps of entries, ascending: several, where a host of which an old copy of the
    /// store was put in place has begun another.
    fn trashes(&self, automerge: &impl ReadDoc) -> Vec<ObjId> {
        let maps = maps_at(automerge, &self.workspaces, TRASH).into_iter();
        maps.filter(|map| authority::is_by(map, &self.host)).collect()
    }

    /// Returns the copies of an entry, ascending; the last one is shown.
    pub(super) fn kept(&self, automerge: &impl ReadDoc, id: &TrashId) -> Vec<ObjId> {
        let trashes = self.trashes(automerge).into_iter();
        let copies = trashes.flat_map(|trash| maps_at(automerge, &trash, id.as_str()));
        copies.filter(|copy| authority::is_by(copy, &self.host)).collect()
    }
}

impl Document {
    /// Lists the ids of what the host keeps, at most so many.
    pub fn kept_ids(&self, at_most: usize) -> BTreeSet<TrashId> {
        let trashes = self.host_places().trashes(&self.automerge).into_iter();
        let ids = trashes.flat_map(|trash| {
            let ids = self.automerge.keys(&trash).filter_map(|id| id.parse().ok());
            ids.take(at_most).collect::<Vec<_>>()
        });
        ids.take(at_most).collect()
    }

    /// Reads what the host says of one thing that it keeps.
    pub fn kept(&self, id: &TrashId) -> Option<Kept> {
        let copies = self.host_places().kept(&self.automerge, id);
        let summary = super::text_at(&self.automerge, copies.last()?, SUMMARY)?;
        Some(Kept { summary, requests: requests(&self.automerge, &copies) })
    }

    /// Tells whether the host keeps something of that id.
    pub(super) fn keeps(&self, id: &TrashId) -> bool {
        !self.host_places().kept(&self.automerge, id).is_empty()
    }

    /// Reads, as a tree, the restores that are asked for of one thing.
    pub(super) fn requests_tree(&self, id: &TrashId) -> Tree {
        let copies = self.host_places().kept(&self.automerge, id);
        let requests = requests(&self.automerge, &copies).into_iter();
        requests.map(|(operation, by)| (operation.to_string(), by_node(by))).collect()
    }
}

fn by_node(by: NodeId) -> Node {
    Node::Scalar(by.to_string().into())
}

fn requests(automerge: &automerge::Automerge, copies: &[ObjId]) -> BTreeMap<OperationId, NodeId> {
    let maps = copies.iter().flat_map(|copy| maps_at(automerge, copy, REQUESTS));
    let entries = maps.flat_map(|map| {
        let items = automerge.map_range(&map, ..);
        items.filter_map(|item| note(&item.key, value_in(&item.value), node)).collect::<Vec<_>>()
    });
    entries.collect()
}

/// Writes an entry that is not there.
pub(super) fn write_new(
    tx: &mut Transaction<'_>,
    places: &Places,
    id: &TrashId,
    summary: &str,
    requests: &Tree,
) -> Done {
    let trash = match places.trashes(tx).pop() {
        Some(trash) => trash,
        None => tx.put_object(&places.workspaces, TRASH, ObjType::Map)?,
    };
    let entry = tx.put_object(&trash, id.as_str(), ObjType::Map)?;
    tx.put(&entry, SUMMARY, summary)?;
    // Made with the entry: others may put something into it, and not make it.
    let map = tx.put_object(&entry, REQUESTS, ObjType::Map)?;
    super::tree::write(tx, &map, requests)
}

/// Asks for restores that were asked for in an earlier epoch, if the thing is still kept.
pub(super) fn carry_requests(
    tx: &mut Transaction<'_>,
    places: &Places,
    id: &TrashId,
    (was, is): (&Tree, &Tree),
) -> Done {
    for copy in places.kept(tx, id) {
        for map in maps_at(tx, &copy, REQUESTS) {
            for (operation, by) in is.iter().filter(|(key, _)| !was.contains_key(*key)) {
                super::tree::write_node(tx, &map, operation, by)?;
            }
        }
    }
    Ok(())
}

impl Writer<'_, '_> {
    /// Says what the host keeps under an id; only the host may.
    pub fn keep_in_trash(&mut self, id: &TrashId, summary: &str) -> Done {
        if !self.may(Touched::Trash(id.clone()), Scope::All) {
            return Ok(());
        }
        self.touched.insert(Touched::Trash(id.clone()));
        let copies = self.places.kept(self.tx, id);
        if copies.is_empty() {
            return write_new(self.tx, self.places, id, summary, &Tree::new());
        }
        copies.iter().try_for_each(|copy| self.tx.put(copy, SUMMARY, summary))
    }

    /// Says that the host keeps nothing under an id any more; only the host may.
    pub fn drop_from_trash(&mut self, id: &TrashId) -> Done {
        if !self.may(Touched::Trash(id.clone()), Scope::Removals) {
            return Ok(());
        }
        self.touched.insert(Touched::Trash(id.clone()));
        for trash in self.places.trashes(self.tx) {
            if self.tx.get(&trash, id.as_str())?.is_some() {
                self.tx.delete(&trash, id.as_str())?;
            }
        }
        Ok(())
    }

    /// Asks the host to restore what it keeps under an id, if it does.
    pub fn request_restore(&mut self, id: &TrashId, operation: &OperationId, by: NodeId) -> Done {
        if !self.may(Touched::Trash(id.clone()), Scope::All) {
            return Ok(());
        }
        self.touched.insert(Touched::Trash(id.clone()));
        let tree = Tree::from([(operation.to_string(), by_node(by))]);
        carry_requests(self.tx, self.places, id, (&Tree::new(), &tree))
    }

    /// Removes requests that were answered; only the host may.
    pub fn clear_restores(&mut self, id: &TrashId, answered: &BTreeSet<OperationId>) -> Done {
        if !self.may(Touched::Trash(id.clone()), Scope::Removals) {
            return Ok(());
        }
        self.touched.insert(Touched::Trash(id.clone()));
        for copy in self.places.kept(self.tx, id) {
            for map in maps_at(self.tx, &copy, REQUESTS) {
                for operation in answered {
                    if self.tx.get(&map, operation.as_str())?.is_some() {
                        self.tx.delete(&map, operation.as_str())?;
                    }
                }
            }
        }
        Ok(())
    }
}
