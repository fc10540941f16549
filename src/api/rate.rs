//! Owns how many requests are taken in a while, from all callers together.
//!
//! Must not know what is asked for. Invariant: in any span of time no more requests pass than
//! [`BURST_MAX`] and those that [`REQUESTS_PER_SECOND`] adds to them meanwhile.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How many requests a second are taken for as long as one likes: a user interface needs a few, a
/// script over one connection gets a thousand durable writes answered, and a program that asks again
/// without a pause is held to what leaves most of a core to peers and to everyone else.
pub const REQUESTS_PER_SECOND: u32 = 2_000;
/// How many are taken at once after a rest: a script that touches each session of a large fleet by
/// itself is done within them.
pub const BURST_MAX: u32 = 20_000;

const EVERY: Duration = Duration::from_nanos(1_000_000_000 / REQUESTS_PER_SECOND as u64);

/// A bucket of tokens, of which each request takes one.
///
/// There is one for all: whoever has the token of the API is the same user, and can have as many
/// connections as there are places.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When the bucket will be full again; `None` if it has never been touched.
    full_at: Mutex<Option<Instant>>,
}

impl Bucket {
    /// Takes a token; false if there is none, in which case nothing is owed either.
    pub(super) fn take(&self) -> bool {
        let now = Instant::now();
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = full_at.map_or(now, |full_at| full_at.max(now)) + EVERY;
        let fits = next - now <= EVERY * BURST_MAX;
        if fits {
            *full_at = Some(next);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &Bucket) -> u32 {
        (0..).take_while(|_| bucket.take()).count() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_as_many_as_time_brings() {
        let bucket = Bucket::default();
        assert_eq!(taken(&bucket), BURST_MAX);
        assert_eq!(taken(&bucket), 0, "who is refused owes nothing");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken(&bucket), REQUESTS_PER_SECOND);
        tokio::time::advance(Duration::from_secs(86_400)).await;
        assert_eq!(taken(&bucket), BURST_MAX, "a rest of a day saves up no more than a burst");
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_to_the_rate_is_never_refused() {
        let bucket = Bucket::default();
        for _ in 0..3 * BURST_MAX {
            assert!(bucket.take());
            tokio::time::advance(EVERY).await;
        }
    }
}
