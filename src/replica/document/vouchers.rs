//! Owns the words by which authors stand for what a document holds.
//!
//! Must not know whether a word is good: whoever puts one in has checked it. Invariant: of each actor
//! the last word that counts is kept, and those for changes that wait.

use std::collections::BTreeMap;

use automerge::Change;

use super::{
    super::{ids::ActorBytes, voucher::Voucher},
    actor_in, hash_in,
};

/// The vouchers that a document holds.
#[derive(Debug, Clone, Default)]
pub struct Vouchers {
    /// For each actor's last change.
    pub newest: BTreeMap<ActorBytes, Voucher>,
    /// Checked ones, for changes that wait.
    pub pending: BTreeMap<(ActorBytes, u64), Voucher>,
}

impl Vouchers {
    /// Takes those that were stored.
    pub fn stored(vouchers: &[Voucher]) -> Self {
        let newest = vouchers.iter().map(|voucher| (voucher.actor, *voucher)).collect();
        Self { newest, pending: BTreeMap::new() }
    }

    /// Takes over what authors have given their word for in another copy of the document.
    pub fn follow(&mut self, other: &Self) {
        for (actor, voucher) in &other.newest {
            if self.newest.get(actor).is_none_or(|known| known.seq < voucher.seq) {
                self.newest.insert(*actor, *voucher);
            }
        }
        self.pending.extend(&other.pending);
    }

    /// Tells whether this is the word that counts for its actor.
    pub fn is_newest(&self, voucher: &Voucher) -> bool {
        self.newest.get(&voucher.actor) == Some(voucher)
    }

    pub fn is_known(&self, voucher: &Voucher) -> bool {
        self.is_newest(voucher) || self.pending.get(&(voucher.actor, voucher.seq)) == Some(voucher)
    }

    /// Tells whether a change that waits is vouched for itself.
    pub fn reaches(&self, change: &Change) -> bool {
        let key = (actor_in(change.actor_id()), change.seq());
        self.pending.get(&key).is_some_and(|voucher| voucher.hash == hash_in(&change.hash()))
    }
}
