//! Owns the changes of one document that wait for others which they depend on.
//!
//! Must not know what the changes say. Invariant: a change is handed out once, after everything
//! that it depends on.

use std::collections::BTreeMap;

use automerge::{Change, ChangeHash};

/// Most changes of one document that may wait; a peer that sends more is behind in a way that
/// pushes don't mend, and is repaired instead.
pub const ORPHANS_MAX: usize = 1_024;

/// Says that more changes would wait than may.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// The changes that wait, by hash.
#[derive(Debug, Clone, Default)]
pub struct Orphans {
    waiting: BTreeMap<ChangeHash, Change>,
    /// For each missing hash, those that wait for it.
    waiters: BTreeMap<ChangeHash, Vec<ChangeHash>>,
}

impl Orphans {
    /// Lists what is waited for and does not itself wait.
    pub fn missing(&self) -> impl Iterator<Item = &ChangeHash> {
        self.waiters.keys().filter(|hash| !self.waiting.contains_key(hash))
    }

    /// Takes changes in and returns all that can be applied now, in order.
    ///
    /// If too many would wait, all that wait are dropped: they come again with the repair.
    pub fn admit(
        &mut self,
        changes: Vec<Change>,
        has: impl Fn(&ChangeHash) -> bool,
    ) -> Result<Vec<Change>, Full> {
        let mut ready = Vec::with_capacity(changes.len());
        let mut ready_hashes = std::collections::BTreeSet::new();
        let mut stack: Vec<Change> = changes.into_iter().rev().collect();
        while let Some(change) = stack.pop() {
            let hash = change.hash();
            if ready_hashes.contains(&hash) || has(&hash) {
                self.waiting.remove(&hash);
                continue;
            }
            let missing =
                change.deps().iter().find(|dep| !ready_hashes.contains(*dep) && !has(dep));
            if let Some(missing) = missing {
                let waiters = self.waiters.entry(*missing).or_default();
                if !waiters.contains(&hash) {
                    waiters.push(hash);
                }
                self.waiting.insert(hash, change);
                continue;
            }
            self.waiting.remove(&hash);
            ready_hashes.insert(hash);
            ready.push(change);
            for waiter in self.waiters.remove(&hash).unwrap_or_default() {
                stack.extend(self.waiting.remove(&waiter));
            }
        }
        if self.waiting.len() > ORPHANS_MAX {
            self.waiting.clear();
            self.waiters.clear();
            if ready.is_empty() {
                return Err(Full);
            }
        }
        Ok(ready)
    }
}
