//! Owns how long single inputs keep the loop, and for how long tasks keep the thread that it runs on.
//!
//! Must not know what an input or a task does. Invariant: it counts that thread's own processor time,
//! so that a busy machine is not taken for a slow daemon.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// What no input may take: a person who asks for something meanwhile would notice. A build that is
/// not optimised takes several times as long for the same, and nobody works with it.
pub const SLOW: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1_000 } else { 250 });

/// The tasks that share one thread with the loop and are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The loop itself.
    Loop,
    /// The bridges to agents' servers.
    Bridge,
    /// What looks after the trash.
    Keeper,
    /// What looks at worktrees.
    Survey,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Loop, Self::Bridge, Self::Keeper, Self::Survey];

    /// Returns its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Bridge => "bridge",
            Self::Keeper => "keeper",
            Self::Survey => "survey",
        }
    }
}

/// Keeps count; cheap to share.
#[derive(Debug, Default)]
pub struct Pace {
    longest_us: AtomicU64,
    slow: AtomicU64,
    /// How long the last import took on the loop, per record.
    import_us_a_record: AtomicU64,
    /// By [`Task`], in the order of [`Task::ALL`].
    longest_turns_us: [AtomicU64; Task::ALL.len()],
}

/// A task of which each turn is counted: from when it gets the thread until it gives it back.
pub struct Watched<F> {
    work: Pin<Box<F>>,
    task: Task,
    pace: Arc<Pace>,
}

impl<F> fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.task).finish()
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let (done, took) = timed(|| self.work.as_mut().poll(context));
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.pace.longest_turns_us[self.task as usize].fetch_max(us, Ordering::Relaxed);
        done
    }
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

    /// Notes how long an import of so many records took on the loop.
    pub fn imported(&self, records: usize, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let each = us.checked_div(records as u64).unwrap_or(0);
        self.import_us_a_record.store(each.max(1), Ordering::Relaxed);
    }

    /// Returns how many records fit into an import that may take this long, by the time that the last one took;
    /// `None` before the first.
    pub fn importable(&self, within: Duration) -> Option<usize> {
        let within = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        let records = within.checked_div(self.import_us_a_record.load(Ordering::Relaxed))?;
        Some(usize::try_from(records).unwrap_or(usize::MAX))
    }

    /// Returns the most that one input took, in microseconds.
    pub fn longest_us(&self) -> u64 {
        self.longest_us.load(Ordering::Relaxed)
    }

    /// Counts the turns of a task.
    pub fn watch<F: Future>(self: &Arc<Self>, task: Task, work: F) -> Watched<F> {
        Watched { work: Box::pin(work), task, pace: self.clone() }
    }

    /// Returns the most that one turn of a task took, in microseconds.
    pub fn longest_turn_us(&self, task: Task) -> u64 {
        self.longest_turns_us[task as usize].load(Ordering::Relaxed)
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

    fn spin(time: Duration) {
        let began = thread_time();
        while thread_time() - began < time {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn a_turn_ends_where_a_task_waits_and_the_longest_is_kept_of_each_task() {
        let pace = Arc::new(Pace::default());
        let work = async {
            spin(Duration::from_millis(4));
            tokio::task::yield_now().await;
            spin(Duration::from_millis(2));
            7
        };
        assert_eq!(pace.watch(Task::Bridge, work).await, 7);
        let turn = pace.longest_turn_us(Task::Bridge);
        assert!((4_000..6_000).contains(&turn), "{turn} µs");
        assert_eq!(pace.longest_turn_us(Task::Loop), 0);
        for (at, task) in Task::ALL.into_iter().enumerate() {
            assert_eq!(task as usize, at, "{}", task.name());
        }
    }

    #[test]
    fn how_large_the_next_import_may_be_follows_from_what_the_last_one_took() {
        let pace = Pace::default();
        let within = Duration::from_micros(1_200);
        assert_eq!(pace.importable(within), None);
        pace.imported(4, Duration::from_micros(800));
        assert_eq!(pace.importable(within), Some(6));
        pace.imported(6, Duration::from_millis(12));
        assert_eq!(pace.importable(within), Some(0), "one takes longer");
        pace.imported(0, Duration::from_micros(1));
        assert_eq!(pace.importable(within), Some(1_200));
    }

    #[test]
    fn only_what_takes_processor_time_is_slow() {
        let pace = Pace::default();
        assert_eq!(pace.measure("a", || 7), 7);
        pace.measure("a", || std::thread::sleep(Duration::from_millis(20)));
        assert!(pace.longest_us() < 20_000, "sleeping takes none: {} µs", pace.longest_us());
        pace.measure("a", || spin(Duration::from_millis(5)));
        assert!(pace.longest_us() >= 5_000);
        assert_eq!(pace.slow(), 0);
        pace.note("a", SLOW);
        assert_eq!(pace.slow(), 0, "just in time");
        pace.note("a", SLOW + Duration::from_millis(1));
        assert_eq!(pace.slow(), 1);
    }
}
