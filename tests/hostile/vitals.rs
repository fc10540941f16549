//! Owns watching the attacked daemon: whether it lives, answers, and how much memory it takes.
//!
//! Must not know what it is attacked with. Invariant: what a busy machine makes slow is not taken
//! for a hang: that is counted by the daemon, in processor time of its loop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::harness::Client;

/// How often the daemon is asked how it stands.
const EVERY: Duration = Duration::from_millis(50);

/// Memory of a process, KiB; zero where the system does not say.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// At most, since the mark was last taken down.
    pub peak: u64,
}

/// Reads the memory of a process.
pub fn memory(pid: u32) -> Memory {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let read = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Memory { resident: read("VmRSS:").unwrap_or(0), peak: read("VmHWM:").unwrap_or(0) }
}

/// Takes the mark of the most memory down to what there is now.
pub fn forget_peak(pid: u32) {
    // Where it can't be, the peak of the start counts too: that only makes the check stricter.
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Asks the daemon again and again, and remembers the longest that an answer took.
pub struct Probe {
    stop: Arc<AtomicBool>,
    longest_us: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<u64>,
}

impl Probe {
    /// Begins to ask.
    pub fn start(client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let longest_us = Arc::new(AtomicU64::new(0));
        let (stopped, longest) = (stop.clone(), longest_us.clone());
        let task = tokio::spawn(async move {
            let mut asked = 0;
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                client.get("/v1/peers").await;
                let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                longest.fetch_max(us, Ordering::Relaxed);
                asked += 1;
                tokio::time::sleep(EVERY).await;
            }
            asked
        });
        Self { stop, longest_us, task }
    }

    /// Stops asking; returns how often it was asked and the longest that an answer took.
    pub async fn end(self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let asked = self.task.await.expect("the daemon answers whenever it is asked");
        (asked, Duration::from_micros(self.longest_us.load(Ordering::Relaxed)))
    }
}

/// Reads one figure of `/metrics`.
pub async fn metric(client: &Client, name: &str) -> u64 {
    let text = client.get("/metrics").await;
    let text = text.as_str().expect("it is text");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("sessionmesh_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}
