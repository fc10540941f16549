//! Owns noticing that the machine was asleep.
//!
//! Must not know what is done about it. Invariant: nothing but the moment of a dial depends on the
//! wall clock, so one that jumps does no harm.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often the two clocks are compared.
const TICK: Duration = Duration::from_secs(1);
/// How much further the wall clock must have gone than the monotonic one, which stands still
/// while the machine sleeps: more than clocks are set right by in ordinary times.
const GAP_MIN: Duration = Duration::from_secs(5);

/// Tells how long the machine was asleep, if it was, while the monotonic clock went on by
/// `monotonic` and the wall clock by `wall_ms`.
pub fn asleep(monotonic: Duration, wall_ms: i64) -> Option<Duration> {
    let wall = Duration::from_millis(u64::try_from(wall_ms).unwrap_or(0));
    Some(wall.saturating_sub(monotonic)).filter(|gap| *gap >= GAP_MIN)
}

/// Resolves when the machine has been asleep, with how long about; `wall_ms` reads the wall clock.
pub(super) async fn woken(wall_ms: fn() -> i64) -> Duration {
    let mut before = (Instant::now(), wall_ms());
    loop {
        sleep(TICK).await;
        let now = (Instant::now(), wall_ms());
        if let Some(gap) = asleep(now.0 - before.0, now.1 - before.1) {
            return gap;
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_wall_clock_that_runs_ahead_is_a_sleep() {
        static WALL_MS: AtomicI64 = AtomicI64::new(0);
        fn wall_ms() -> i64 {
            WALL_MS.load(Ordering::Relaxed)
        }
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                told.send(woken(wall_ms).await).unwrap();
            }
        });
        // In step, standing still, stepping back, and slewing a little.
        for step_ms in [1_000, 1_000, 0, 0, -1_000_000, 4_000, 1_000] {
            WALL_MS.fetch_add(step_ms, Ordering::Relaxed);
            sleep(TICK).await;
            assert!(hears.try_recv().is_err(), "after {step_ms} ms");
        }
        WALL_MS.fetch_add(3_600_000, Ordering::Relaxed);
        let slept = hears.recv().await.unwrap();
        assert!(slept > Duration::from_secs(3_500), "{slept:?}");
    }
}
