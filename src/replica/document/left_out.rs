//! Owns what was not taken of what a peer sent, and who wrote it.
//!
//! Must not know who passed it on. Invariant: an author is named only for what it has signed itself.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{Change, ChangeHash};

use super::{
    super::ids::{ActorBytes, NodeId},
    Untrusted,
};

/// Most changes of a document that are remembered as refused; beyond, what builds on a forgotten one
/// waits like anything else whose dependencies are missing.
const REMEMBERED_MAX: usize = 1_024;

/// What was not taken of what a peer sent, though the peer may mean well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Changes of nodes that are not known here, or not yet.
    pub unknown: u64,
    /// Changes of members that may only read.
    pub reader: u64,
    /// Changes of revoked members, that no present member has built on.
    pub revoked: u64,
    /// Changes that no voucher at hand reaches.
    pub unvouched: u64,
    /// Changes that build on refused ones.
    pub based_on_refused: u64,
    /// Members that have signed two changes for one place, and the first such place of each: what others
    /// have of theirs, this node may never have.
    pub forked: BTreeMap<NodeId, Place>,
    /// The authors of changes that no node takes, where they are known, and what is wrong with the
    /// first of each.
    pub refused: BTreeMap<Option<NodeId>, Untrusted>,
    /// The authors that write beside themselves more often than is taken at once.
    pub crowded: BTreeSet<NodeId>,
}

/// Which of an author's changes it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Under which it was written.
    pub actor: ActorBytes,
    /// The change's sequence number.
    pub seq: u64,
}

impl LeftOut {
    pub(super) fn extend(&mut self, more: Self) {
        let Self {
            unknown,
            reader,
            revoked,
            unvouched,
            based_on_refused,
            forked,
            refused,
            crowded,
        } = more;
        self.unknown += unknown;
        self.reader += reader;
        self.revoked += revoked;
        self.unvouched += unvouched;
        self.based_on_refused += based_on_refused;
        for (author, place) in forked {
            self.forked.entry(author).or_insert(place);
        }
        for (author, wrong) in refused {
            self.refused.entry(author).or_insert(wrong);
        }
        self.crowded.extend(crowded);
    }
}

/// The changes that were refused for what their authors signed: nothing that builds on one is taken, and
/// no peer is asked for one again.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused(BTreeSet<ChangeHash>);

impl Refused {
    /// Tells whether a change was refused.
    pub fn has(&self, hash: &ChangeHash) -> bool {
        self.0.contains(hash)
    }

    /// Remembers changes that were refused.
    pub fn extend(&mut self, hashes: impl IntoIterator<Item = ChangeHash>) {
        for hash in hashes {
            if self.0.len() >= REMEMBERED_MAX {
                self.0.clear();
            }
            self.0.insert(hash);
        }
    }

    /// Takes out those changes that build on refused ones, and remembers them as such; returns how many.
    pub fn drop_based_on(&mut self, changes: &mut Vec<Change>) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        let before = changes.len();
        changes.retain(|change| {
            let is_sound = !change.deps().iter().any(|dep| self.0.contains(dep));
            if !is_sound {
                self.extend([change.hash()]);
            }
            is_sound
        });
        (before - changes.len()) as u64
    }
}
