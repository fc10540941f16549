//! Owns noticing that two daemons run with one key: a data folder that was copied, or a machine that was
//! resumed from an image beside the one that goes on.
//!
//! Must not know connections. Invariants: a daemon that is started again, however often, is not taken
//! for two, for none comes back with the start of an earlier one; and two that are take turns a few
//! times a minute, not several times a second.

use std::time::Duration;

use tokio::time::Instant;

use crate::replica::ids::StartId;

/// How long a link of one of the two is left alone by the other one.
pub(super) const TURN: Duration = Duration::from_secs(30);
/// How long after both were seen last they are believed to be there.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How often a start has to come back: a link that was opened just before its daemon was started again
/// may come after the new one's, and has that one come back once.
const RETURNS_MIN: u32 = 3;

/// The starts that a peer's links have told.
#[derive(Debug)]
pub(super) struct Starts {
    present: StartId,
    before: Option<StartId>,
    /// How often a start was seen again that another had followed, and when last.
    returns: u32,
    returned_at: Option<Instant>,
    turn_began: Instant,
}

/// What becomes of a link by its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is judged like any other.
    Welcome,
    /// It is the other one's turn.
    NotNow,
}

impl Starts {
    /// Notes the first one.
    pub(super) fn new(start: StartId) -> Self {
        let turn_began = Instant::now();
        Self { present: start, before: None, returns: 0, returned_at: None, turn_began }
    }

    /// Takes note of a link's start; `has_link` tells whether the present one has a link.
    pub(super) fn told(&mut self, start: StartId, has_link: bool) -> Verdict {
        if start == self.present {
            return Verdict::Welcome;
        }
        let now = Instant::now();
        if self.before == Some(start) {
            let lately = self.returned_at.is_some_and(|at| now - at < REMEMBERED);
            self.returns = if lately { self.returns.saturating_add(1) } else { 1 };
            self.returned_at = Some(now);
        }
        if self.are_two() && has_link && now - self.turn_began < TURN {
            return Verdict::NotNow;
        }
        self.before = Some(self.present);
        self.present = start;
        self.turn_began = now;
        Verdict::Welcome
    }

    /// Tells whether two daemons were seen lately.
    pub(super) fn are_two(&self) -> bool {
        self.returns >= RETURNS_MIN && self.returned_at.is_some_and(|at| at.elapsed() < REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(byte: u8) -> StartId {
        StartId([byte; 8])
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_is_started_again_and_again_is_one() {
        let mut starts = Starts::new(start(0));
        for next in 1..100 {
            assert_eq!(starts.told(start(next), true), Verdict::Welcome);
            assert_eq!(starts.told(start(next), true), Verdict::Welcome, "it dials once more");
            assert!(!starts.are_two());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_daemons_are_recognised_and_take_turns() {
        let mut starts = Starts::new(start(1));
        for next in [2, 1, 2] {
            assert_eq!(starts.told(start(next), true), Verdict::Welcome);
            assert!(!starts.are_two());
        }
        assert_eq!(starts.told(start(1), true), Verdict::NotNow);
        assert!(starts.are_two());
        assert_eq!(starts.told(start(1), false), Verdict::Welcome, "the other one has no link");
        let mut turns = 0;
        for second in 0..600_u32 {
            let other = if starts.present == start(1) { start(2) } else { start(1) };
            turns += u32::from(starts.told(other, true) == Verdict::Welcome);
            assert!(starts.are_two(), "after {second} s");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(turns <= 600 / 30, "{turns} turns in ten minutes");
        tokio::time::advance(REMEMBERED).await;
        assert!(!starts.are_two(), "one of them was stopped");
    }
}
