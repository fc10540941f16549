//! Owns how long single inputs keep the loop.
//!
//! Must not know what an input is. Invariant: it counts the loop's own processor time, so that a
//! busy machine is not taken for a slow daemon.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// What no input may take: a person who asks for something meanwhile would notice. A build that is
/// not optimised takes several times as long for the same, and nobody works with it.
pub const SLOW: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1_000 } else { 250 });

/// Keeps count; cheap to share.
#[derive(Debug, Default)]
pub struct Pace {
    longest_us: AtomicU64,
    slow: AtomicU64,
}

impl Pace {
    /// Does what an input of this name asks for, and counts how long this thread was at it.
    pub fn measure<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let (done, took) = timed(work);
        self.note(what, took);
        done
    }

    /// Counts how long this thread was at an input that was done in parts, all of them together.
    pub fn note(&self, what: &str, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.longest_us.fetch_max(us, Ordering::Relaxed);
        if took > SLOW {
            tracing::warn!(what, took_ms = us / 1_000, "an input kept the loop for long");
            self.slow.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the most that one input took, in microseconds.
    pub fn longest_us(&self) -> u64 {
        self.longest_us.load(Ordering::Relaxed)
    }

    /// Returns how many inputs took longer than [`SLOW`].
    pub fn slow(&self) -> u64 {
        self.slow.load(Ordering::Relaxed)
    }
}

/// Does something, and returns for how long this thread was at it.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = thread_time();
    let done = work();
    (done, thread_time().saturating_sub(began))
}

/// Returns for how long this thread has run on a processor.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_processor_time_is_slow() {
        let pace = Pace::default();
        assert_eq!(pace.measure("a", || 7), 7);
        pace.measure("a", || std::thread::sleep(Duration::from_millis(20)));
        assert!(pace.longest_us() < 20_000, "sleeping takes none: {} µs", pace.longest_us());
        pace.measure("a", || {
            let began = thread_time();
            while thread_time() - began < Duration::from_millis(5) {
                std::hint::spin_loop();
            }
        });
        assert!(pace.longest_us() >= 5_000);
        assert_eq!(pace.slow(), 0);
        pace.note("a", SLOW);
        assert_eq!(pace.slow(), 0, "just in time");
        pace.note("a", SLOW + Duration::from_millis(1));
        assert_eq!(pace.slow(), 1);
    }
}
