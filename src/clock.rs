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

/// Writes milliseconds since the epoch as RFC 3339 in UTC, to the second.
pub fn utc(ms: i64) -> String {
    let (days, s) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000) / 1_000);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3_600, s / 60 % 60, s % 60)
}

/// Turns days since the epoch into a date of the Gregorian calendar, which repeats every 400 years.
fn civil(days: i64) -> (i64, i64, i64) {
    const ERA_DAYS: i64 = 146_097;
    const MARCH_0000_TO_EPOCH_DAYS: i64 = 719_468;
    // Years that begin in March have their leap day last.
    let since = days + MARCH_0000_TO_EPOCH_DAYS;
    let (era, day_of_era) = (since.div_euclid(ERA_DAYS), since.rem_euclid(ERA_DAYS));
    let leap = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}
