//! Owns which of several links to the same peer is kept, and which wait aside.
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
const CROSSING_MAX: Duration = Duration::from_secs(20);

/// Most links that wait aside per peer: a node that dials at each change of network makes a few.
const WAITING_MAX: usize = 4;

/// What matters about a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The peer's start, as it told.
    pub start: StartId,
    /// Whether this node dialled.
    pub dialed: bool,
}

/// What becomes of a new link to a peer that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The old one is closed.
    Replace,
    /// The new one is kept aside until the arbiter has closed one of them.
    Wait,
    /// The new one is closed.
    Refuse,
}

/// Tells whether this node decides which link to a peer is kept.
pub fn is_arbiter(this: NodeId, peer: NodeId) -> bool {
    this < peer
}

/// Decides between the link to a peer that is `up_for` so long already and a new one.
fn judge(arbiter: bool, old: Claim, up_for: Duration, new: Claim) -> Verdict {
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

/// A link that may be the one to its peer; a simulation has its own.
pub trait Contender: Clone + PartialEq {
    /// Returns what matters about it.
    fn claim(&self) -> Claim;
    /// Returns how long it has been open.
    fn up_for(&self) -> Duration;
    /// Tells whether it is over, although not all that came on it may have been told.
    fn is_down(&self) -> bool;
}

/// The links to one peer: the one that runs, and those that wait aside, unread, with what is needed
/// to run them.
#[derive(Debug)]
pub struct Berths<L, S> {
    running: Option<L>,
    waiting: Vec<(L, S)>,
}

/// What becomes of a new link.
#[derive(Debug)]
pub enum Adoption<L, S> {
    /// It is run, once the one that it replaces has been ended.
    Run(S, Option<L>),
    /// It waits aside; one that has waited too long is closed instead.
    Wait(Option<L>),
    /// It is closed: another is kept.
    Refuse,
}

impl<L, S> Default for Berths<L, S> {
    fn default() -> Self {
        Self { running: None, waiting: Vec::new() }
    }
}

impl<L: Contender, S> Berths<L, S> {
    /// Takes a new link in, or refuses it.
    pub fn adopt(&mut self, arbiter: bool, link: &L, streams: S) -> Adoption<L, S> {
        let verdict = match &self.running {
            Some(old) if !old.is_down() => judge(arbiter, old.claim(), old.up_for(), link.claim()),
            // What is down may still have frames and its end to tell; whoever runs the new one
            // waits for that.
            _ => {
                self.running = Some(link.clone());
                return Adoption::Run(streams, None);
            }
        };
        match verdict {
            Verdict::Replace => Adoption::Run(streams, self.running.replace(link.clone())),
            Verdict::Wait => {
                self.waiting.retain(|(link, _)| !link.is_down());
                let full = self.waiting.len() == WAITING_MAX;
                let oldest = full.then(|| self.waiting.remove(0).0);
                self.waiting.push((link.clone(), streams));
                Adoption::Wait(oldest)
            }
            Verdict::Refuse => Adoption::Refuse,
        }
    }

    /// Takes a link that has ended out of its place; returns the one to be run now, if the link was
    /// in place and another waits.
    pub fn ended(&mut self, link: &L) -> Option<(L, S)> {
        self.running.take_if(|running| running == link)?;
        while let Some((next, streams)) = self.waiting.pop() {
            if !next.is_down() {
                self.running = Some(next.clone());
                return Some((next, streams));
            }
        }
        None
    }

    /// Returns the link that runs.
    pub fn running(&self) -> Option<&L> {
        self.running.as_ref()
    }

    /// Takes out those that wait.
    pub fn clear_waiting(&mut self) -> impl Iterator<Item = L> {
        self.waiting.drain(..).map(|(link, _)| link)
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        usize::from(self.running.is_some()) + self.waiting.len()
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
