//! Owns the two clocks of the machine and turns them into the time that a replica is given.
//!
//! Must not know what is timed. Invariant: the monotonic part never goes back.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::replica::effect::Now;

/// The clocks of this machine, counted from the start of the daemon.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Starts counting.
    #[expect(clippy::new_without_default, reason = "a default that reads a clock surprises")]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }

    /// Reads both clocks.
    pub fn now(&self) -> Now {
        Now { monotonic: self.started.elapsed(), wall_ms: wall_ms() }
    }

    /// Returns the moment at which the monotonic part has reached `at`.
    pub fn instant(&self, at: std::time::Duration) -> Instant {
        self.started + at
    }
}

/// Returns the wall clock in milliseconds since the epoch; negative before it.
pub fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}
