//! Owns which of the frames that bring much is read next, beside the loop.
//!
//! Must not know what is in them. Invariants: none is begun while another is read, or, where it is
//! judged on a thread of its own before it is loaded, while another is judged: one is judged, two are
//! loaded or shown, and no more are there; each peer waits in a queue of its own, which is bounded, so
//! that nobody keeps another out.

use std::collections::{BTreeMap, VecDeque};

use crate::replica::ids::NodeId;

/// How many bytes of a peer may wait, unless it is a single frame: as many as a few documents have that it
/// is asked for at once. What is dropped comes again with the comparison of the frontiers.
pub const WAITING_BYTES_MAX: usize = 16 << 20;

/// The frames that wait, and how many are being judged, or read where that is one.
#[derive(Debug)]
pub struct Loading<T> {
    waiting: BTreeMap<NodeId, VecDeque<(usize, T)>>,
    /// Whose turn it was last.
    last: Option<NodeId>,
    under_way: usize,
}

impl<T> Default for Loading<T> {
    /// Begins with nothing to read.
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), last: None, under_way: 0 }
    }
}

impl<T> Loading<T> {
    /// Has a frame of so many bytes wait for its turn; false if it is dropped, since too much of
    /// that peer waits.
    pub fn offer(&mut self, peer: NodeId, bytes: usize, frame: T) -> bool {
        let queue = self.waiting.entry(peer).or_default();
        let waiting: usize = queue.iter().map(|(bytes, _)| bytes).sum();
        let fits = queue.is_empty() || waiting + bytes <= WAITING_BYTES_MAX;
        if fits {
            queue.push_back((bytes, frame));
        }
        fits
    }

    /// Drops what waits of a peer whose link is lost.
    pub fn forget(&mut self, peer: &NodeId) {
        self.waiting.remove(peer);
    }

    /// Returns the frame that is to be begun now, if none is under way, and whose it is: of each peer in
    /// turn.
    pub fn begin(&mut self) -> Option<(NodeId, T)> {
        if self.under_way > 0 {
            return None;
        }
        let after = self.last.and_then(|last| self.waiting.keys().find(|peer| **peer > last));
        let peer = *after.or_else(|| self.waiting.keys().next())?;
        let queue = self.waiting.get_mut(&peer)?;
        let (_, next) = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&peer);
        }
        self.last = Some(peer);
        self.under_way = 1;
        Some((peer, next))
    }

    /// Notes that a frame which had been read is read again, behind the one that may be by now.
    pub fn again(&mut self) {
        self.under_way += 1;
    }

    /// Notes that a frame which was being judged, or read, has been.
    pub fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);

    fn all(loading: &mut Loading<u32>) -> Vec<u32> {
        let mut read = Vec::new();
        while let Some((_, next)) = loading.begin() {
            assert_eq!(loading.begin(), None, "one at a time");
            read.push(next);
            loading.ended();
        }
        read
    }

    #[test]
    fn a_peer_that_sends_much_has_the_others_wait_for_one_document_of_its_own() {
        let mut loading = Loading::default();
        for number in 0..4 {
            assert!(loading.offer(A, 1, number));
        }
        assert!(loading.offer(B, 1, 10) && loading.offer(B, 1, 11));
        assert_eq!(all(&mut loading), [0, 10, 1, 11, 2, 3]);
    }

    #[test]
    fn nothing_is_begun_until_what_is_read_again_has_been_too() {
        let mut loading = Loading::default();
        assert!(loading.offer(A, 1, 0) && loading.offer(A, 1, 1));
        assert_eq!(loading.begin(), Some((A, 0)));
        loading.again();
        loading.ended();
        assert_eq!(loading.begin(), None, "it is read again");
        loading.ended();
        assert_eq!(loading.begin(), Some((A, 1)));
    }

    #[test]
    fn what_waits_of_a_peer_is_bounded_and_gone_with_its_link() {
        let mut loading = Loading::default();
        assert!(loading.offer(A, 2 * WAITING_BYTES_MAX, 0), "one may be as large as it likes");
        assert!(!loading.offer(A, 1, 1));
        assert!(loading.offer(B, WAITING_BYTES_MAX - 1, 10));
        assert!(loading.offer(B, 1, 11));
        assert!(!loading.offer(B, 1, 12));
        loading.forget(&A);
        assert_eq!(all(&mut loading), [10, 11]);
        assert!(loading.offer(A, 1, 2), "there is room again");
        assert_eq!(all(&mut loading), [2]);
    }
}
