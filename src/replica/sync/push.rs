//! Owns who is sent a new change.
//!
//! Must not wait for anyone: a push is not acknowledged, the comparison of frontiers finds what
//! was lost. Invariant: a change reaches every peer that has no link to its author.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{
        document::AppliedChange,
        effect::Outgoing,
        ids::{DocumentId, Fingerprint, NodeId},
    },
    Exchange, Out,
};
use crate::wire::Frame;

/// Most bytes of changes in one frame: far below what a frame may have, so that a long catch-up
/// never stands in the way of a push for long.
pub const CHANGES_BYTES_MAX: usize = 256 * 1024;
/// Most changes in one frame: one frame is applied as one batch.
pub const CHANGES_MAX: usize = 256;

impl Exchange {
    /// Sends changes on to those who may lack them.
    pub fn push(
        &mut self,
        now: Duration,
        document: DocumentId,
        changes: &[AppliedChange],
        from: Option<NodeId>,
        authors: &BTreeMap<Fingerprint, NodeId>,
        out: &mut Out,
    ) {
        let mut rest = changes;
        while let Some(first) = rest.first() {
            let same = rest.iter().take_while(|change| change.author == first.author).count();
            let (batch, later) = rest.split_at(same);
            rest = later;
            let author = authors.get(&first.author).copied();
            let to = self.lacking_changes_of(author, from);
            if to.is_empty() {
                continue;
            }
            let bytes = batch.iter().map(|change| change.bytes.clone());
            for frame in frames(document, bytes) {
                out.push(Outgoing { to: to.clone(), frame });
            }
        }
        // Also with those to whom nothing went, since they get it elsewhere: until both have told
        // their new frontiers, neither knows that they hold the same.
        for link in self.links.values_mut() {
            link.traffic_at = Some(now);
        }
    }

    fn lacking_changes_of(&self, author: Option<NodeId>, from: Option<NodeId>) -> Vec<NodeId> {
        let relayed = author.filter(|author| *author != self.node);
        self.links
            .iter()
            .filter(|(peer, link)| {
                let has_it_anyway = relayed
                    .is_some_and(|author| author == **peer || link.their_links.contains(&author));
                // From our own greeting on: the peer compares with the frontier told there.
                link.greeted_with.is_some() && Some(**peer) != from && !has_it_anyway
            })
            .map(|(peer, _)| *peer)
            .collect()
    }
}

/// Packs changes into frames, in order.
pub fn frames(document: DocumentId, changes: impl IntoIterator<Item = Vec<u8>>) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    for change in changes {
        let full = batch_bytes + change.len() > CHANGES_BYTES_MAX || batch.len() == CHANGES_MAX;
        if full && !batch.is_empty() {
            frames.push(Frame::Changes { document, changes: std::mem::take(&mut batch) });
            batch_bytes = 0;
        }
        batch_bytes += change.len();
        batch.push(change);
    }
    if !batch.is_empty() {
        frames.push(Frame::Changes { document, changes: batch });
    }
    frames
}
