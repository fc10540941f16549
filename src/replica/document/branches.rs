//! Owns how many changes of one author may stand beside each other in a document, none of them known to
//! the next.
//!
//! Must not know who may write. Invariants: what is left out for that is taken once something that was
//! taken builds on it, or on the others: so the order in which things come decides nothing for long; and
//! what several authors leave standing together never adds up to more heads than a change may name.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{Automerge, Change, ChangeHash};

use super::{
    super::ids::{Fingerprint, fingerprint},
    actor_in,
};

/// Most heads of one author in a document: each start of a node begins a branch, where it does not know
/// all that it wrote before, and the next change of anyone ends them all.
pub const BRANCHES_MAX: usize = 64;
/// From how many heads of one author on a host ends them by a change of its own. Others do once there is
/// no room for more: the host may be away, and what each of them holds they take from each other by that.
const ENDED_BY_HOST_FROM: usize = 32;

/// Tells whether a document has so many branches of one author that this node is to end them.
pub(super) fn are_to_be_ended(automerge: &Automerge, by_host: bool) -> bool {
    let most = if by_host { ENDED_BY_HOST_FROM } else { BRANCHES_MAX };
    let heads = automerge.get_heads();
    let mut counts: BTreeMap<Fingerprint, usize> = BTreeMap::new();
    let authors = heads.iter().filter(|_| heads.len() >= most).filter_map(|head| {
        let meta = automerge.get_change_meta_by_hash(head)?;
        Some(fingerprint(&actor_in(&meta.actor)))
    });
    authors.for_each(|author| *counts.entry(author).or_default() += 1);
    counts.values().any(|count| *count >= most)
}

/// Finds which of the changes to be applied would leave more branches of their authors than are taken.
pub(super) fn crowded(
    automerge: &Automerge,
    ready: &[Change],
    refused: &BTreeSet<ChangeHash>,
) -> BTreeMap<ChangeHash, Fingerprint> {
    let author = |change: &Change| fingerprint(&actor_in(change.actor_id()));
    // Fewer than that can't be too many.
    let heads = automerge.get_heads();
    if heads.len() + ready.len() <= BRANCHES_MAX {
        return BTreeMap::new();
    }
    let mut standing: BTreeMap<ChangeHash, Fingerprint> = BTreeMap::new();
    for head in heads {
        let meta = automerge.get_change_meta_by_hash(&head);
        standing.extend(meta.map(|meta| (head, fingerprint(&actor_in(&meta.actor)))));
    }
    let mut left_out: BTreeMap<ChangeHash, Fingerprint> = BTreeMap::new();
    loop {
        let is_taken = |change: &&Change| {
            let hash = change.hash();
            !refused.contains(&hash) && !left_out.contains_key(&hash)
        };
        let covered: BTreeSet<ChangeHash> =
            ready.iter().filter(is_taken).flat_map(|change| change.deps()).copied().collect();
        let mut counts: BTreeMap<Fingerprint, usize> = BTreeMap::new();
        for (_, author) in standing.iter().filter(|(head, _)| !covered.contains(head)) {
            *counts.entry(*author).or_default() += 1;
        }
        let mut more = BTreeMap::new();
        // The last ones first: what they build on is then a head again.
        for change in ready.iter().filter(is_taken) {
            let (hash, author) = (change.hash(), author(change));
            if covered.contains(&hash) {
                continue;
            }
            let count = counts.entry(author).or_default();
            *count += 1;
            if *count > BRANCHES_MAX {
                more.insert(hash, author);
            }
        }
        if more.is_empty() {
            return left_out;
        }
        left_out.append(&mut more);
    }
}
