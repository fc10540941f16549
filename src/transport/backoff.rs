//! Owns how long to wait before a peer is dialled again.
//!
//! Must not know clocks. Invariant: the wait is random between nothing and a ceiling that doubles
//! ("full jitter"), so that nodes that lost each other at once do not come back at once.

use std::time::Duration;

/// The first ceiling: about what a daemon needs to start again.
pub const CEILING_MIN: Duration = Duration::from_millis(100);
/// The last ceiling: a machine that comes back is found within half a minute.
pub const CEILING_MAX: Duration = Duration::from_secs(30);
/// How long a link must have been up for the waits to begin anew.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Counts the attempts to reach one peer.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// Returns how long to wait before the next attempt, and counts it.
    pub fn next(&mut self, rng: &mut fastrand::Rng) -> Duration {
        let ceiling = self.ceiling();
        self.attempts = self.attempts.saturating_add(1);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(rng.u64(0..=nanos))
    }

    /// Takes note that there was a link for so long; after a stable one the waits begin anew.
    pub fn was_up(&mut self, time: Duration) {
        if time >= STABLE_AFTER {
            self.attempts = 0;
        }
    }

    fn ceiling(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        CEILING_MIN.saturating_mul(factor).min(CEILING_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_from_a_tenth_of_a_second_to_half_a_minute() {
        let mut backoff = Backoff::default();
        let mut rng = fastrand::Rng::with_seed(1);
        let ceilings: Vec<u128> = (0..12)
            .map(|_| {
                let ceiling = backoff.ceiling().as_millis();
                backoff.next(&mut rng);
                ceiling
            })
            .collect();
        assert_eq!(
            ceilings,
            [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000, 30_000]
        );
    }

    #[test]
    fn the_ceiling_holds_however_long_a_peer_is_away() {
        let mut backoff = Backoff { attempts: u32::MAX };
        assert!(backoff.next(&mut fastrand::Rng::with_seed(2)) <= CEILING_MAX);
        assert_eq!(backoff.ceiling(), CEILING_MAX);
    }

    #[test]
    fn waits_fill_the_whole_range_below_the_ceiling() {
        let mut rng = fastrand::Rng::with_seed(3);
        let waits: Vec<Duration> =
            (0..1_000).map(|_| Backoff { attempts: 20 }.next(&mut rng)).collect();
        assert!(waits.iter().all(|wait| *wait <= CEILING_MAX));
        assert!(waits.iter().any(|wait| *wait < CEILING_MAX / 20));
        assert!(waits.iter().any(|wait| *wait > CEILING_MAX * 19 / 20));
    }

    #[test]
    fn the_same_seed_gives_the_same_waits_and_a_reset_begins_anew() {
        let waits = |backoff: &mut Backoff| {
            let mut rng = fastrand::Rng::with_seed(4);
            (0..8).map(|_| backoff.next(&mut rng)).collect::<Vec<_>>()
        };
        let mut backoff = Backoff::default();
        let first = waits(&mut backoff);
        backoff.was_up(STABLE_AFTER);
        assert_eq!(waits(&mut backoff), first);
    }
}
