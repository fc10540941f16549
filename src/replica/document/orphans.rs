//! Owns the changes of one document that wait for others which they depend on.
//!
//! Must not know what the changes say. Invariant: a change is handed out once, after everything
//! that it depends on.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{Change, ChangeHash};

/// Most changes of one document that may wait; a peer that sends more is behind in a way that
/// pushes don't mend, and is repaired instead.
pub const ORPHANS_MAX: usize = 1_024;

/// Most changes that may wait until their author's word reaches them: as many as come in one frame.
const HELD_MAX: usize = 65_536;

/// Most bytes that they may have together, so that few great ones are no more than many small.
pub const ORPHANS_BYTES_MAX: usize = 16 << 20;

/// Says that more changes would wait than may.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// The changes that wait, by hash.
#[derive(Debug, Clone, Default)]
pub struct Orphans {
    waiting: BTreeMap<ChangeHash, Change>,
    /// For each missing hash, those that wait for it.
    waiters: BTreeMap<ChangeHash, BTreeSet<ChangeHash>>,
    /// Those that could be applied, and wait until their author's word reaches them.
    held: Vec<Change>,
}

impl Orphans {
    /// Lists what is waited for and does not itself wait.
    pub fn missing(&self) -> impl Iterator<Item = &ChangeHash> {
        self.waiters.keys().filter(|hash| !self.waiting.contains_key(hash))
    }

    /// Returns all that wait.
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.waiting.values().chain(&self.held)
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
        let mut ready_hashes = BTreeSet::new();
        let mut stack: Vec<Change> = std::mem::take(&mut self.held);
        stack.extend(changes.into_iter().rev());
        while let Some(change) = stack.pop() {
            let hash = change.hash();
            if ready_hashes.contains(&hash) || has(&hash) {
                self.waiting.remove(&hash);
                continue;
            }
            let missing =
                change.deps().iter().find(|dep| !ready_hashes.contains(*dep) && !has(dep));
            if let Some(missing) = missing {
                self.waiters.entry(*missing).or_default().insert(hash);
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
        if self.waiting.len() > ORPHANS_MAX || self.bytes() > ORPHANS_BYTES_MAX {
            self.clear();
            if ready.is_empty() {
                return Err(Full);
            }
        }
        Ok(ready)
    }

    /// Has changes wait that could be applied, until the next ones come.
    /// Of more than may wait none do: they come again with the repair.
    pub fn hold(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.held.extend(changes);
        let bytes = || self.held.iter().map(|change| change.raw_bytes().len()).sum::<usize>();
        if self.held.len() > HELD_MAX
            || self.held.len() > ORPHANS_MAX && bytes() > ORPHANS_BYTES_MAX
        {
            self.held.clear();
        }
    }

    /// Drops all that wait.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.waiters.clear();
        self.held.clear();
    }

    /// Tells whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.held.is_empty()
    }

    fn bytes(&self) -> usize {
        self.waiting.values().map(|change| change.raw_bytes().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use automerge::{Automerge, ROOT, transaction::Transactable};

    use super::*;

    /// Changes each of which depends on the one before.
    fn chain(length: usize) -> Vec<Change> {
        let mut document = Automerge::new();
        for n in 0..length {
            let mut tx = document.transaction();
            tx.put(ROOT, "n", n as i64).unwrap();
            tx.commit();
        }
        document.get_changes(&[])
    }

    fn hashes(changes: &[Change]) -> Vec<ChangeHash> {
        changes.iter().map(Change::hash).collect()
    }

    #[test]
    fn changes_that_come_in_any_order_are_handed_out_once_and_in_order() {
        let chain = chain(6);
        let mut orphans = Orphans::default();
        let mut applied: Vec<Change> = Vec::new();
        for index in [5, 3, 4, 1, 3, 0, 5, 2] {
            let known = hashes(&applied);
            let has = |hash: &ChangeHash| known.contains(hash);
            applied.extend(orphans.admit(vec![chain[index].clone()], has).unwrap());
        }
        assert_eq!(hashes(&applied), hashes(&chain));
        assert_eq!(orphans.missing().count(), 0);
        assert!(orphans.waiting.is_empty() && orphans.waiters.is_empty(), "nothing is left over");
    }

    #[test]
    fn what_is_missing_is_what_is_waited_for_and_does_not_wait_itself() {
        let chain = chain(4);
        let mut orphans = Orphans::default();
        let later = vec![chain[3].clone(), chain[2].clone()];
        assert!(orphans.admit(later, |_| false).unwrap().is_empty());
        assert_eq!(orphans.missing().collect::<Vec<_>>(), [&chain[1].hash()]);
    }

    #[test]
    fn more_than_may_wait_are_dropped_and_what_was_ready_is_not() {
        let chain = chain(ORPHANS_MAX + 3);
        let mut orphans = Orphans::default();
        assert_eq!(orphans.admit(chain[2..].to_vec(), |_| false), Err(Full));
        assert!(orphans.waiting.is_empty());
        let mut gap = chain.clone();
        gap.remove(1);
        let ready = orphans.admit(gap, |_| false).unwrap();
        assert_eq!(hashes(&ready), [chain[0].hash()]);
    }
}
