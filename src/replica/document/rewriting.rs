//! Owns a host document that is written anew, until the new one takes its place.
//!
//! Must not know when that is due, nor where it is done. Invariant: what takes long is done to a
//! copy, while the document goes on; what is written to it meanwhile is carried over like what comes
//! late, so that nothing is lost.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{ActorId, Change, ReadDoc as _};

use super::{
    super::{guard, ids::ActorBytes},
    Applied, Document, Touched, hash_in, touched,
};

/// A copy of a host document, to be written anew.
#[derive(Debug, Clone)]
pub struct Rewrite {
    copy: Document,
    epoch: u32,
    actor: ActorId,
    wall_ms: i64,
}

/// What a host document was written anew as.
#[derive(Debug, Clone)]
pub struct Rewritten {
    /// The document as it was.
    pub before: Document,
    /// What goes on from there.
    pub next: Document,
    /// Its last change.
    pub written: Applied,
    /// As automerge saves it.
    pub bytes: Vec<u8>,
}

/// Explains why a document could not be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum NotRewritten {
    /// Automerge panicked.
    #[error(transparent)]
    Panicked(#[from] guard::Panicked),
    /// Peers would not take it whole.
    #[error("it holds more than other nodes take of one host: {0}")]
    TooMuch(#[from] guard::Refused),
}

impl Rewrite {
    /// Has a copy of a document written anew as that epoch, under that actor.
    pub fn new(copy: Document, epoch: u32, actor: ActorId, wall_ms: i64) -> Self {
        Self { copy, epoch, actor, wall_ms }
    }

    /// Writes it; takes as long as it is large.
    ///
    /// # Errors
    ///
    /// Automerge panicked, or peers would not take it.
    pub fn write(self) -> Result<Rewritten, NotRewritten> {
        let Self { copy, epoch, actor, wall_ms } = self;
        guard::contained(|| {
            let (next, written) = copy.rewritten(epoch, actor, wall_ms);
            let bytes = next.save();
            // It goes to peers as a whole, and is judged as that.
            guard::check_document(&bytes, guard::DocumentLimits::SNAPSHOT)?;
            Ok(Rewritten { before: copy, next, written, bytes })
        })?
    }
}

impl Rewritten {
    /// Tells whether the document is the one that this was made of, or that with more.
    pub fn is_of(&self, own: &Document) -> bool {
        own.id == self.before.id && own.has_all(&self.before.heads())
    }

    /// Writes into the new document what the one before has gained meanwhile; it is held up to there
    /// from now on.
    pub fn catch_up(&mut self, own: &Document, wall_ms: i64) -> Applied {
        if own.heads() == self.before.heads() {
            return Applied::default();
        }
        let touched = own.touched_since(&self.before);
        let mut written = self.next.say_again(&self.before, own, wall_ms).unwrap_or_default();
        written.extend(self.next.carry_over(&self.before, own, &touched, wall_ms));
        written
    }
}

impl Document {
    /// Returns the records that were written to since the document was as this copy of it.
    fn touched_since(&self, before: &Self) -> BTreeSet<Touched> {
        let is_old = |hash: &automerge::ChangeHash| before.has(&hash_in(hash));
        let gained = self.newest(is_old, usize::MAX).unwrap_or_default();
        let gained: Vec<_> = gained.iter().map(Change::decode).collect();
        touched::by(&self.automerge, &gained)
    }

    /// Returns what an actor has written from its change of that number on; takes as long as the document has
    /// changes.
    pub fn written_since(&self, actor: &ActorBytes, seq: u64) -> Vec<Vec<u8>> {
        let all = self.automerge.get_changes(&[]).into_iter();
        let theirs = all.filter(|it| it.seq() >= seq && it.actor_id().to_bytes() == actor);
        theirs.map(|change| change.raw_bytes().to_vec()).collect()
    }

    /// Returns the changes that are not old, in an order in which they can be applied; `None` if they
    /// are more than so many.
    ///
    /// Automerge would read all of the document to find the last few.
    pub(super) fn newest(
        &self,
        is_old: impl Fn(&automerge::ChangeHash) -> bool,
        most: usize,
    ) -> Option<Vec<Change>> {
        let mut left = self.automerge.get_heads();
        let (mut seen, mut newest) = (BTreeSet::new(), Vec::new());
        while let Some(hash) = left.pop() {
            if is_old(&hash) || !seen.insert(hash) {
                continue;
            }
            if newest.len() == most {
                return None;
            }
            let change = self.automerge.get_change_by_hash(&hash)?;
            left.extend(change.deps());
            newest.push(change);
        }
        // Whatever a change builds on has lower counters than it, but where one of the two is empty.
        newest.sort_by_key(Change::start_op);
        Some(if newest.iter().any(Change::is_empty) { in_order(newest) } else { newest })
    }
}

/// Puts changes in an order in which they can be applied.
fn in_order(changes: Vec<Change>) -> Vec<Change> {
    let mut left: BTreeMap<automerge::ChangeHash, Change> =
        changes.iter().map(|change| (change.hash(), change.clone())).collect();
    let mut ordered = Vec::with_capacity(changes.len());
    let mut stack: Vec<(automerge::ChangeHash, bool)> =
        changes.iter().rev().map(|change| (change.hash(), false)).collect();
    while let Some((hash, is_behind_deps)) = stack.pop() {
        if is_behind_deps {
            ordered.extend(left.remove(&hash));
        } else if let Some(change) = left.get(&hash) {
            stack.push((hash, true));
            stack.extend(change.deps().iter().map(|dep| (*dep, false)));
        }
    }
    ordered
}
