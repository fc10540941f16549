//! Owns who is sent a new change.
//!
//! Must not wait for anyone: a push is not acknowledged, the comparison of frontiers finds what
//! was lost. Invariant: a change reaches every peer that has no link to its author.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    super::{
        document::{Applied, AppliedChange},
        effect::Outgoing,
        guard,
        ids::{DocumentId, Fingerprint, NodeId, fingerprint},
        trust::Trust,
        voucher::Voucher,
    },
    Exchange, Out,
};
use crate::wire::Frame;

/// Most bytes of changes in one frame, so that a long catch-up never stands in the way of a push for
/// long: what is more goes as a snapshot, on a stream of its own. It can't be split, since only the
/// last change of each author is vouched for.
pub const CHANGES_BYTES_MAX: usize = 4 << 20;
/// Most changes in one frame.
pub const CHANGES_MAX: usize = 16_384;

impl Exchange {
    /// Lists the peers that may lack what these nodes have signed, and one of them sent.
    pub fn to_tell(&self, authors: &[NodeId], from: Option<NodeId>) -> Vec<NodeId> {
        let is_open = |(peer, link): &(&NodeId, &super::Link)| {
            link.greeted_with.is_some() && Some(**peer) != from
        };
        let lacks = |peer: &NodeId| {
            let mut relayed = authors.iter().filter(|author| **author != self.node);
            let gets = |author: &NodeId| author == peer || self.is_linked(peer, author);
            authors.contains(&self.node) || relayed.any(|author| !gets(author))
        };
        self.links.iter().filter(is_open).map(|(peer, _)| *peer).filter(lacks).collect()
    }

    /// Sends changes on to those who may lack them.
    ///
    /// What does not fit a frame is left to the comparison of frontiers that follows.
    pub fn push(
        &mut self,
        now: Duration,
        document: DocumentId,
        applied: &Applied,
        from: Option<NodeId>,
        trust: &Trust,
        out: &mut Out,
    ) {
        let authors: BTreeSet<Fingerprint> =
            applied.changes.iter().map(AppliedChange::author).collect();
        // Most often there is one author, and all lack what it wrote.
        let mut groups: BTreeMap<BTreeSet<Fingerprint>, Vec<NodeId>> = BTreeMap::new();
        for (peer, link) in &self.links {
            // From our own greeting on: the peer compares with the frontier told there.
            if link.greeted_with.is_none() || Some(*peer) == from {
                continue;
            }
            if planted!(RelayDropped) && from.is_some() {
                continue;
            }
            let lacks = |author: &Fingerprint| {
                let relayed = trust.node(author).filter(|author| *author != self.node);
                !relayed.is_some_and(|author| author == *peer || self.is_linked(peer, &author))
            };
            let lacking: BTreeSet<Fingerprint> = authors.iter().copied().filter(lacks).collect();
            if !lacking.is_empty() {
                groups.entry(lacking).or_default().push(*peer);
            }
        }
        for (lacking, to) in groups {
            let of = |change: &&AppliedChange| lacking.contains(&change.author());
            let changes = applied.changes.iter().filter(of).map(|change| change.bytes.clone());
            let by = |voucher: &&Voucher| lacking.contains(&fingerprint(&voucher.actor));
            let vouchers = applied.vouchers.iter().filter(by).copied().collect();
            if let Some(frame) = frame(document, changes.collect(), vouchers) {
                out.push(Outgoing { to, frame });
            }
        }
        // Also with those to whom nothing went, since they get it elsewhere: until both have told
        // their new frontiers, neither knows that they hold the same.
        for link in self.links.values_mut() {
            link.traffic_at = Some(now);
        }
    }
}

/// Packs changes, in order, into a frame; `None` if they don't fit one, or are more at once than peers
/// take: it is what a node is counted to take for them that bounds it, and not their bytes alone.
pub fn frame(document: DocumentId, changes: Vec<Vec<u8>>, vouchers: Vec<Voucher>) -> Option<Frame> {
    let bytes: usize = changes.iter().map(Vec::len).sum();
    let fits = bytes <= CHANGES_BYTES_MAX
        && changes.len() <= CHANGES_MAX
        && guard::check_changes(&changes).is_ok();
    fits.then_some(Frame::Changes { document, changes, vouchers })
}

#[cfg(test)]
mod tests {
    use automerge::{ActorId, Automerge, ROOT, transaction::Transactable as _};

    use super::*;
    use crate::replica::ids::{ACTOR_BYTES, FleetId};

    /// They would close the link, again and again, as what a hostile peer sends.
    #[test]
    fn changes_that_peers_would_refuse_as_too_much_do_not_go_as_one_frame() {
        let mut doc = Automerge::new().with_actor(ActorId::from([1; ACTOR_BYTES]));
        let mut tx = doc.transaction();
        (0..30_000).for_each(|key| tx.put(ROOT, format!("{key:05}"), 1).expect("it is valid"));
        tx.commit();
        let change = doc.get_last_local_change().expect("it was just made").bytes().into_owned();
        let id = DocumentId::Fleet(FleetId([1; 16]));
        let packed = |count| frame(id, vec![change.clone(); count], Vec::new());
        assert!(packed(1).is_some() && packed(4).is_some());
        assert!(9 * change.len() < CHANGES_BYTES_MAX, "it is not the bytes");
        assert_eq!(packed(9), None);
    }
}
