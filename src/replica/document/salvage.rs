//! Owns telling what can still be read of a document that a damaged store gives back in parts.
//!
//! Must not know the store, nor keys. Invariants: what is kept loads by itself, no change without
//! all that it depends on; and of each actor in it the last change is vouched for.

use std::collections::{BTreeMap, BTreeSet};

use automerge::Automerge;

use super::{
    super::{
        guard,
        ids::{ActorBytes, ChangeHash, DocumentId, NodeId, StartId},
        voucher::Voucher,
    },
    Document, actor_in, hash_in, sound_change,
};

/// What is left of a document.
#[derive(Debug)]
pub struct Salvaged {
    /// As it loads.
    pub document: Document,
    /// The snapshot, if there was one.
    pub snapshot: Option<Vec<u8>>,
    /// The changes since that are sound, in an order in which they can be applied.
    pub changes: Vec<Vec<u8>>,
    /// How many changes are not.
    pub lost: usize,
}

impl Document {
    /// Keeps what is sound of a document; `None` if it does not even have its beginning.
    ///
    /// An actor whose last change is lost is vouched for anew where `vouch` can; where it can't, as
    /// with other nodes' actors, what it wrote is left out: nobody would take it from this node, and
    /// its author, or whoever has it, gives it again.
    pub fn salvage(
        id: DocumentId,
        snapshot: Option<Vec<u8>>,
        changes: Vec<Vec<u8>>,
        vouchers: &[Voucher],
        vouch: impl Fn(ActorBytes, u64, ChangeHash) -> Option<Voucher>,
    ) -> Option<Salvaged> {
        let mut without = BTreeSet::new();
        loop {
            let (automerge, kept) = sound(snapshot.as_deref(), &changes, &without)?;
            let mut last: BTreeMap<ActorBytes, (u64, ChangeHash)> = BTreeMap::new();
            for change in automerge.get_changes(&[]) {
                let this = (change.seq(), hash_in(&change.hash()));
                let of = last.entry(actor_in(change.actor_id())).or_insert(this);
                *of = (*of).max(this);
            }
            let mut words = Vec::new();
            let mut unvouched = BTreeSet::new();
            for (actor, (seq, hash)) in last {
                let names = |it: &&Voucher| (it.actor, it.seq, it.hash) == (actor, seq, hash);
                let word = vouchers.iter().find(names).copied();
                match word.or_else(|| vouch(actor, seq, hash)) {
                    Some(word) => words.push(word),
                    None => {
                        unvouched.insert(actor);
                    }
                }
            }
            if !unvouched.is_empty() {
                if !unvouched.is_disjoint(&without) {
                    // The snapshot has it, and nothing can be taken out of that.
                    return None;
                }
                without.append(&mut unvouched);
                continue;
            }
            // Nothing is written under this actor: the document is only looked at.
            let reader = super::actor(&NodeId([0; 32]), StartId([0; 8]));
            let document = Self::load(id, reader, snapshot.as_deref(), &kept, &words).ok()?;
            let lost = changes.len() - kept.len();
            return Some(Salvaged { document, snapshot, lost, changes: kept });
        }
    }
}

/// Loads a snapshot and applies what can be applied to it, but for what these actors wrote.
fn sound(
    snapshot: Option<&[u8]>,
    changes: &[Vec<u8>],
    without: &BTreeSet<ActorBytes>,
) -> Option<(Automerge, Vec<Vec<u8>>)> {
    let mut automerge = match snapshot {
        Some(bytes) => guard::contained(|| Automerge::load(bytes)).ok()?.ok()?,
        None => Automerge::new(),
    };
    let mut kept = Vec::new();
    for bytes in changes {
        let Ok(Ok(change)) = guard::contained(|| sound_change(bytes)) else { continue };
        let has = |hash: &automerge::ChangeHash| automerge.get_change_meta_by_hash(hash).is_some();
        let is_out = without.contains(&actor_in(change.actor_id()));
        if is_out || has(&change.hash()) || !change.deps().iter().all(has) {
            continue;
        }
        if !matches!(guard::contained(|| automerge.apply_changes([change])), Ok(Ok(()))) {
            // What it has become by now is not known; what follows is not tried on it.
            break;
        }
        kept.push(bytes.clone());
    }
    Some((automerge, kept))
}

#[cfg(test)]
mod tests {
    use super::{super::actor, *};

    /// A host document's beginning, and changes of which each depends on the one before.
    fn written() -> (DocumentId, Vec<Vec<u8>>) {
        let host = NodeId([1; 32]);
        let by = actor(&host, StartId([1; 8]));
        let (mut document, applied) = Document::create_host(host, 0, by, 0);
        let mut changes: Vec<_> = applied.changes.into_iter().map(|change| change.bytes).collect();
        for number in 0..4_i64 {
            let change = document.commit_unjudged(0, |tx| {
                automerge::transaction::Transactable::put(tx, automerge::ROOT, "x", number)
            });
            changes.push(change.expect("it writes").raw_bytes().to_vec());
        }
        (document.id(), changes)
    }

    /// Vouches for everything, as a node does for what it wrote itself.
    fn own(actor: ActorBytes, seq: u64, hash: ChangeHash) -> Option<Voucher> {
        Some(Voucher { actor, seq, hash, signature: [0; 64] })
    }

    #[test]
    fn what_is_sound_is_kept_up_to_what_depends_on_what_is_not() {
        let (id, changes) = written();
        let whole = Document::salvage(id, None, changes.clone(), &[], own).expect("all is there");
        assert_eq!((whole.changes.len(), whole.lost), (5, 0));
        for broken in 0..5 {
            for at in (0..changes[broken].len()).step_by(5) {
                let mut damaged = changes.clone();
                damaged[broken][at] ^= 1;
                match Document::salvage(id, None, damaged, &[], own) {
                    None => assert_eq!(broken, 0, "only the beginning is indispensable"),
                    // The last bits of what is deflated may be of no consequence.
                    Some(left) if left.lost == 0 => {
                        assert_eq!(left.document.heads(), whole.document.heads());
                    }
                    Some(left) => {
                        assert_eq!((left.changes.len(), left.lost), (broken, 5 - broken));
                        let word = left.document.vouchers().next().expect("it is vouched for");
                        assert_eq!(word.seq, broken as u64);
                    }
                }
            }
        }
    }

    #[test]
    fn what_nobody_vouches_for_any_more_is_left_out() {
        let (id, changes) = written();
        let whole = Document::salvage(id, None, changes.clone(), &[], own).expect("all is there");
        let words: Vec<_> = whole.document.vouchers().copied().collect();
        let nobody = |_, _, _| None;
        let all = Document::salvage(id, None, changes.clone(), &words, nobody);
        assert_eq!(all.expect("it is vouched for").lost, 0);
        // Without its last change, no word for the one before is at hand.
        assert!(Document::salvage(id, None, changes[..4].to_vec(), &words, nobody).is_none());
    }

    #[test]
    fn a_snapshot_that_is_damaged_takes_all_that_builds_on_it_along() {
        let (id, changes) = written();
        let whole = Document::salvage(id, None, changes[..3].to_vec(), &[], own);
        let mut snapshot = whole.expect("all is there").document.save();
        let left = Document::salvage(id, Some(snapshot.clone()), changes[3..].to_vec(), &[], own);
        assert_eq!(left.expect("all is there").lost, 0);
        let middle = snapshot.len() / 2;
        snapshot[middle] ^= 1;
        let left = Document::salvage(id, Some(snapshot), changes[3..].to_vec(), &[], own);
        assert!(left.is_none());
    }
}
