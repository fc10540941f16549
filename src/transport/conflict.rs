//! Owns which of two links to the same peer is kept.
//!
//! Must not know connections. Invariant: of two links between the same two starts only one side,
//! the arbiter, ever closes one; the other side waits and sees. Hence they agree and never close
//! both, in whatever order each of them learns of the links.
//!
//! The arbiter is the node with the lower id. It keeps its own dial when both dialled at once, and
//! the newer link otherwise: whoever dials has no link, so the older one is dead on its side.

use std::time::Duration;

use crate::replica::ids::{NodeId, StartId};

/// How long two dials can be on their way past each other: the longest handshake, twice.
pub(super) const CROSSING_MAX: Duration = Duration::from_secs(20);

/// What matters about a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    /// The peer's start, as it told.
    pub start: StartId,
    /// Whether this node dialled.
    pub dialed: bool,
}

/// What becomes of a new link to a peer that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The old one is closed.
    Replace,
    /// The new one is kept aside until the arbiter has closed one of them.
    Wait,
    /// The new one is closed.
    Refuse,
}

/// Tells whether this node decides which link to a peer is kept.
pub(super) fn is_arbiter(this: NodeId, peer: NodeId) -> bool {
    this < peer
}

/// Decides between the link to a peer that is `up_for` so long already and a new one.
pub(super) fn judge(arbiter: bool, old: Claim, up_for: Duration, new: Claim) -> Verdict {
    if new.start != old.start {
        // The peer was restarted; nobody holds the other end of the old link any more.
        Verdict::Replace
    } else if !arbiter {
        Verdict::Wait
    } else if new.dialed || !old.dialed || up_for > CROSSING_MAX {
        Verdict::Replace
    } else {
        Verdict::Refuse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn claim(start: u8, dialed: bool) -> Claim {
        Claim { start: StartId([start; 8]), dialed }
    }

    #[test]
    fn a_restarted_peers_link_replaces_the_old_one_on_either_side() {
        for arbiter in [true, false] {
            for (old, new) in [(true, true), (true, false), (false, true), (false, false)] {
                let verdict = judge(arbiter, claim(1, old), NOW, claim(2, new));
                assert_eq!(verdict, Verdict::Replace);
            }
        }
    }

    #[test]
    fn between_two_starts_only_the_arbiter_closes_a_link() {
        for (old, new) in [(true, true), (true, false), (false, true), (false, false)] {
            let verdict = judge(false, claim(1, old), CROSSING_MAX * 2, claim(1, new));
            assert_eq!(verdict, Verdict::Wait);
            let verdict = judge(true, claim(1, old), CROSSING_MAX * 2, claim(1, new));
            assert_ne!(verdict, Verdict::Wait);
        }
    }

    #[test]
    fn of_crossing_dials_the_arbiters_own_is_kept_whichever_is_first() {
        let [mine, theirs] = [claim(1, true), claim(1, false)];
        assert_eq!(judge(true, mine, NOW, theirs), Verdict::Refuse);
        assert_eq!(judge(true, theirs, NOW, mine), Verdict::Replace);
    }

    #[test]
    fn of_two_dials_by_the_same_side_the_newer_is_kept() {
        for dialed in [true, false] {
            let verdict = judge(true, claim(1, dialed), NOW, claim(1, dialed));
            assert_eq!(verdict, Verdict::Replace);
        }
    }

    #[test]
    fn a_dial_long_after_the_link_means_that_the_peer_has_lost_it() {
        let verdict = judge(true, claim(1, true), CROSSING_MAX * 2, claim(1, false));
        assert_eq!(verdict, Verdict::Replace);
    }
}
