//! Owns how figures are told: percentiles, a table, JSON, and what the run before had.
//!
//! Must not know what was measured. Invariant: a report is written only whole, after everything in
//! it was measured.

use std::{path::PathBuf, time::Duration};

use serde_json::{Map, Value, json};

/// Durations of one kind of thing.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns a percentile in microseconds; 0 of nothing.
    pub fn us(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).map_or(0.0, |sample| rounded(sample.as_secs_f64() * 1e6))
    }
}

impl Extend<Duration> for Samples {
    fn extend<I: IntoIterator<Item = Duration>>(&mut self, samples: I) {
        self.0.extend(samples);
    }
}

/// Rounds to what can be told apart.
pub fn rounded(value: f64) -> f64 {
    if value.abs() >= 100.0 { value.round() } else { (value * 100.0).round() / 100.0 }
}

/// Returns milliseconds.
pub fn ms(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3)
}

/// Tells whether only a smoke run is wanted: every step, few samples.
pub fn is_quick() -> bool {
    std::env::var_os("SESSIONMESH_BENCH_QUICK").is_some()
        || std::env::args().any(|argument| argument == "--quick")
}

/// What one bench has to tell.
pub struct Report {
    name: &'static str,
    goals: Vec<(String, f64, f64, bool)>,
    figures: Map<String, Value>,
}

impl Report {
    /// Begins one.
    pub fn new(name: &'static str) -> Self {
        let mut figures = Map::new();
        figures.insert("quick".to_owned(), json!(is_quick()));
        Self { name, goals: Vec::new(), figures }
    }

    /// Notes a figure.
    pub fn note(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.figures.insert(key.into(), value.into());
    }

    /// Notes a figure that is not to be more than its goal.
    pub fn at_most(&mut self, key: impl Into<String>, value: f64, goal: f64) {
        let key = key.into();
        self.note(key.clone(), rounded(value));
        self.goals.push((key, rounded(value), goal, value <= goal));
    }

    /// Notes a figure that is not to be less than its goal.
    pub fn at_least(&mut self, key: impl Into<String>, value: f64, goal: f64) {
        let key = key.into();
        self.note(key.clone(), rounded(value));
        self.goals.push((key, rounded(value), goal, value >= goal));
    }

    /// Prints the goals beside the figures and what the run before had, and writes
    /// `target/bench/<name>.json`.
    pub fn finish(self) {
        let path = PathBuf::from(format!("target/bench/{}.json", self.name));
        let before = std::fs::read_to_string(&path).ok();
        let before: Map<String, Value> =
            before.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        println!(
            "\n{:<44} {:>10} {:>10} {:>5} {:>10}",
            self.name, "figure", "goal", "met", "before"
        );
        for (key, value, goal, met) in &self.goals {
            let before = before.get(key).map_or("-".to_owned(), Value::to_string);
            let met = if *met { "yes" } else { "NO" };
            println!("{key:<44} {value:>10} {goal:>10} {met:>5} {before:>10}");
        }
        let others = self
            .figures
            .iter()
            .filter(|(key, _)| *key != "quick" && self.goals.iter().all(|(goal, ..)| goal != *key));
        for (key, value) in others {
            let before = before.get(key).map_or("-".to_owned(), Value::to_string);
            println!("{key:<44} {:>10} {:>10} {:>5} {before:>10}", value.to_string(), "", "");
        }
        std::fs::create_dir_all("target/bench").expect("target is ours");
        let text = serde_json::to_string_pretty(&self.figures).expect("keys are text");
        std::fs::write(path, format!("{text}\n")).expect("target is ours");
    }
}

/// Prints what is being done, since some of it takes its time.
pub fn say(what: &str) {
    println!("... {what}");
}

/// Returns a line of `/proc/PID/status` in MB: `VmRSS` is what is resident, `VmHWM` the most that
/// ever was. `None` where there is no such file.
pub fn memory_mb(pid: u32, line: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'))?;
    let kb: f64 = value.trim().trim_end_matches(" kB").trim().parse().ok()?;
    Some(rounded(kb / 1024.0))
}

/// Returns the seconds of processor that a process has used.
pub fn cpu_s(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    // Linux counts in hundredths of a second, whatever its own clock.
    Some(ticks / 100.0)
}
