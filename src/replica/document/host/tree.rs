//! Owns records as plain trees: everything that stands in them, also what a newer version has put
//! there and this one does not understand.
//!
//! Must not know what a field means beyond how several nodes' copies of it count together.
//! Invariant: a record written from its tree reads as the one that the tree was taken from.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{
    Automerge, ObjId, ObjType, ReadDoc, ScalarValue, Value,
    transaction::{Transactable, Transaction},
};

use super::{Done, map_at, maps_at};

/// The maps of a workspace that hold an entry for each act: what any node noted there counts,
/// whichever of several maps at that key it was noted in.
const NOTES: [&str; 3] = ["dismissals", "keepers", "requests"];
/// What counts as soon as it stands in one of several records made at once.
const SEALS: [&str; 2] = [DELETED, TEARDOWN];
/// What a host has said of a session or a workspace in one of several records made at once stays said.
const OWNERS: [&str; 2] = ["agent", "agent_server"];
/// Where a session's deletion stands.
pub(super) const DELETED: &str = "deleted";
/// In a deletion: why, where no person asked for it.
pub(super) const REASON: &str = "reason";
/// Where a workspace's ending stands.
pub(super) const TEARDOWN: &str = "teardown";
/// Where it is noted that a workspace has held a session, or was dismissed.
const USED: &str = "used";
/// About how many bytes automerge notes of an operation beside its key and value.
const OP_BYTES: usize = 16;

/// What stands at a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// A value.
    Scalar(ScalarValue),
    /// A map.
    Map(Tree),
}

/// A map by its keys.
pub(super) type Tree = BTreeMap<String, Node>;

/// Reads a map as it is shown: of several values at a key, the one that wins.
pub(super) fn read(automerge: &Automerge, object: &ObjId) -> Tree {
    let keys = automerge.keys(object);
    keys.filter_map(|key| {
        let node = match automerge.get(object, &key).ok()?? {
            (Value::Object(ObjType::Map), id) => Node::Map(read(automerge, &id)),
            (Value::Scalar(value), _) => Node::Scalar(value.into_owned()),
            (Value::Object(_), _) => return None,
        };
        Some((key, node))
    })
    .collect()
}

/// Reads a record of which there may be several copies, ascending, that nodes made at once.
pub(super) fn read_record(automerge: &Automerge, copies: &[ObjId]) -> Option<Tree> {
    let mut record = read(automerge, copies.last()?);
    let earlier: Vec<Tree> =
        copies.iter().rev().skip(1).map(|copy| read(automerge, copy)).collect();
    for key in SEALS.into_iter().chain(OWNERS) {
        let standing = earlier.iter().find_map(|copy| copy.get(key));
        if let (None, Some(node)) = (record.get(key), standing) {
            record.insert(key.to_owned(), node.clone());
        }
    }
    if let Some(Node::Map(deletion)) = record.get_mut(DELETED)
        && !are_agents(automerge, copies.iter().flat_map(|copy| maps_at(automerge, copy, DELETED)))
    {
        deletion.remove(REASON);
    }
    let used = Node::Scalar(true.into());
    if earlier.iter().any(|copy| copy.get(USED) == Some(&used)) {
        record.insert(USED.to_owned(), used);
    }
    for key in NOTES {
        let maps: Vec<ObjId> =
            copies.iter().flat_map(|copy| maps_at(automerge, copy, key)).collect();
        let notes: Tree = maps.iter().flat_map(|map| read(automerge, map)).collect();
        if !maps.is_empty() {
            record.insert(key.to_owned(), Node::Map(notes));
        }
    }
    Some(record)
}

/// Tells whether no person asked for any of these deletes of one session.
pub(super) fn are_agents(automerge: &impl ReadDoc, mut marks: impl Iterator<Item = ObjId>) -> bool {
    marks.all(|mark| automerge.get(&mark, REASON).is_ok_and(|reason| reason.is_some()))
}

/// Returns the map at a key, which is made if none is there.
pub(super) fn map_or_new(
    tx: &mut Transaction<'_>,
    object: &ObjId,
    key: &str,
) -> Result<ObjId, automerge::AutomergeError> {
    match map_at(tx, object, key) {
        Some(map) => Ok(map),
        None => tx.put_object(object, key, ObjType::Map),
    }
}

/// Writes all of a tree into a map.
pub(super) fn write(tx: &mut Transaction<'_>, object: &ObjId, tree: &Tree) -> Done {
    tree.iter().try_for_each(|(key, node)| write_node(tx, object, key, node))
}

pub(super) fn write_node(tx: &mut Transaction<'_>, object: &ObjId, key: &str, node: &Node) -> Done {
    match node {
        Node::Scalar(value) => tx.put(object, key, value.clone()),
        Node::Map(tree) => {
            let map = tx.put_object(object, key, ObjType::Map)?;
            write(tx, &map, tree)
        }
    }
}

/// Writes what differs between two trees into maps, except where they have gone another way since
/// `before`: of two writes that did not know of each other, the one that is there stays.
pub(super) fn patch(
    tx: &mut Transaction<'_>,
    objects: &[ObjId],
    before: &Tree,
    after: &Tree,
) -> Done {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let (was, is) = (before.get(key), after.get(key));
        if was == is {
            continue;
        }
        for object in objects {
            if let Some(Node::Map(tree)) = is {
                let nothing = Tree::new();
                let was = match was {
                    Some(Node::Map(was)) => was,
                    _ => &nothing,
                };
                let mut maps = maps_at(tx, object, key);
                if map_at(tx, object, key).is_none() {
                    maps.push(tx.put_object(object, key, ObjType::Map)?);
                }
                patch(tx, &maps, was, tree)?;
                continue;
            }
            let here = tx.get(object, key)?.map(|(value, _)| match value {
                Value::Scalar(value) => Node::Scalar(value.into_owned()),
                Value::Object(_) => Node::Map(Tree::new()),
            });
            let unchanged = match (&here, was) {
                (Some(Node::Map(_)), Some(Node::Map(_))) => true,
                (here, was) => here.as_ref() == was,
            };
            match is {
                _ if !unchanged => {}
                Some(node) => write_node(tx, object, key, node)?,
                None => tx.delete(object, key)?,
            }
        }
    }
    Ok(())
}

/// Writes into a workspace's copies what counts of another one that was made at once. How that one has
/// ended counts where this one has not, but nothing that was asked for about that end: a worktree that is
/// there anew is not removed by force because of one that was.
///
/// Of an epoch of a lost life all seems new, also what both lives began with, and what this one has taken
/// back since: unless it `is_gained`, only what nobody takes back counts, that it has ended, or was used.
pub(super) fn join(
    tx: &mut Transaction<'_>,
    copies: &[ObjId],
    workspace: &Tree,
    is_gained: bool,
) -> Done {
    let has_ended = copies.iter().any(|copy| map_at(tx, copy, TEARDOWN).is_some());
    let keys = [("dismissals", is_gained), ("keepers", is_gained), (TEARDOWN, !has_ended)];
    let keys = keys.into_iter().filter_map(|(key, counts)| counts.then_some(key));
    let counts = keys.filter_map(|key| match workspace.get(key)? {
        Node::Map(tree) if tree.is_empty() => None,
        node => Some((key.to_owned(), node.clone())),
    });
    patch(tx, copies, &Tree::new(), &counts.collect())?;
    if workspace.get(USED) == Some(&Node::Scalar(true.into())) {
        for copy in copies {
            tx.put(copy, USED, true)?;
        }
    }
    Ok(())
}

/// Returns how many operations it takes to write a tree, and about how many bytes.
pub(super) fn weight(tree: &Tree) -> (usize, usize) {
    let weights = tree.iter().map(|(key, node)| {
        let (ops, bytes) = match node {
            Node::Scalar(ScalarValue::Str(text)) => (0, text.len()),
            Node::Scalar(ScalarValue::Bytes(bytes)) => (0, bytes.len()),
            Node::Scalar(_) => (0, 0),
            Node::Map(tree) => weight(tree),
        };
        (ops + 1, bytes + key.len() + OP_BYTES)
    });
    weights
        .fold((0, 0), |(ops, bytes), (more_ops, more_bytes)| (ops + more_ops, bytes + more_bytes))
}
