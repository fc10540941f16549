//! Owns how often the addresses of one peer may be dialled.
//!
//! Must not know whose they are. Invariant: where nobody has answered with the peer's key, dials go
//! out as often as a peer that is looked for needs, and no more, whatever addresses are told in turn:
//! whoever tells them may mean a third party.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::time::Instant;

/// How many dials may go out at once: all addresses of a peer, once.
pub(super) const DIALS_MAX: u32 = 32;
/// How long it takes until one more may: a dial is a few packets of 1,200 bytes.
pub(super) const DIAL_EVERY: Duration = Duration::from_secs(5);
/// How many addresses are remembered at which the peer has answered.
const PROVEN_MAX: usize = 4;

/// Counts the dials of one peer's addresses.
#[derive(Debug)]
pub(super) struct Budget {
    /// When all that was dialled so far will have been paid for.
    paid_at: Instant,
    /// Where the peer has answered, with its key.
    proven: BTreeSet<SocketAddr>,
    /// Which address is to be the first of the next round.
    turn: usize,
}

impl Budget {
    /// Makes one of which nothing is spent.
    pub(super) fn new() -> Self {
        Self { paid_at: Instant::now(), proven: BTreeSet::new(), turn: 0 }
    }

    /// Puts addresses in the order in which they are dialled: those first at which the peer has
    /// answered; of the others each is the first in its turn, so that all are dialled in the end.
    pub(super) fn order(&mut self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        if !addresses.is_empty() {
            let count = addresses.len();
            addresses.rotate_left(self.turn % count);
            self.turn = (self.turn % count) + 1;
        }
        addresses.sort_by_key(|address| !self.proven.contains(address));
        addresses
    }

    /// Tells whether an address may be dialled now, and counts it.
    pub(super) fn spend(&mut self, address: &SocketAddr) -> bool {
        if self.proven.contains(address) {
            return true;
        }
        let now = Instant::now();
        let from = self.paid_at.max(now);
        let may = from - now <= DIAL_EVERY * (DIALS_MAX - 1);
        if may {
            self.paid_at = from + DIAL_EVERY;
        }
        may
    }

    /// Notes that the peer has answered at an address.
    pub(super) fn answered(&mut self, address: SocketAddr) {
        if self.proven.len() >= PROVEN_MAX && !self.proven.contains(&address) {
            self.proven.clear();
        }
        self.proven.insert(address);
    }

    /// Tells whether nothing of it is spent.
    pub(super) fn is_full(&self) -> bool {
        self.paid_at <= Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 7177))
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_addresses_are_told_dials_go_out_at_a_low_rate() {
        let mut budget = Budget::new();
        let mut dials = 0;
        for second in 0..600_u32 {
            let told = (0..32).map(|last| SocketAddr::from(([10, 0, 0, last], second as u16)));
            dials += told.filter(|address| budget.spend(address)).count();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(dials, 32 + 600 / 5 - 1);
        assert!(!budget.is_full());
        tokio::time::advance(DIAL_EVERY * DIALS_MAX).await;
        assert!(budget.is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_peer_has_answered_it_is_dialled_first_and_as_often_as_one_likes() {
        let mut budget = Budget::new();
        budget.answered(address(9));
        let addresses = || vec![address(1), address(2), address(9)];
        assert_eq!(budget.order(addresses())[0], address(9));
        assert!((0..1_000).all(|_| budget.spend(&address(9))));
        assert!(budget.is_full());
        (0..2 * PROVEN_MAX as u8).for_each(|last| budget.answered(address(last)));
        assert!(budget.proven.len() <= PROVEN_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_is_the_first_in_its_turn() {
        let mut budget = Budget::new();
        let firsts = (0..6).map(|_| budget.order(vec![address(1), address(2), address(3)])[0]);
        let firsts: Vec<_> = firsts.collect();
        assert_eq!(firsts[..3], [address(1), address(2), address(3)]);
        assert_eq!(firsts[..3], firsts[3..]);
    }
}
