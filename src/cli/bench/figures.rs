//! Owns what a run has to tell: percentiles, bytes, memory, as a table and as JSON.
//!
//! Must not measure. Invariant: the table and the JSON tell the same figures.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::{api::rate::REQUESTS_PER_SECOND, cli::table::Table};

/// Durations of one kind of thing.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Adds all of another.
    pub fn append(&mut self, other: &mut Self) {
        self.0.append(&mut other.0);
    }

    fn told(&self) -> Told {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        // The smallest sample that at least so many are not greater than.
        let at = |per_mille: usize| {
            let rank = (sorted.len() * per_mille).div_ceil(1_000).max(1);
            sorted.get(rank - 1).copied().map_or(0.0, ms)
        };
        Told {
            count: sorted.len(),
            p50_ms: at(500),
            p90_ms: at(900),
            p99_ms: at(990),
            max_ms: at(1_000),
        }
    }
}

impl Serialize for Samples {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.told().serialize(serializer)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Told {
    count: usize,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

/// Returns milliseconds, to the microsecond.
pub fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// What a run has to tell.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// What was run.
    pub scenario: String,
    /// From a delete's request at one node to its event at another.
    pub delete_seen: Samples,
    /// From any change's request at one node to its event at another.
    pub change_seen: Samples,
    /// From a change's request to its answer, when it is durable.
    pub answered: Samples,
    /// From the last answer of the load until all nodes show the same.
    pub converged: Samples,
    /// From the healing of a cut until all nodes show the same.
    pub healed: Samples,
    /// From the resuming of all links of a node until it is in sync with all peers again.
    pub reconnected: Samples,
    /// Changes that were answered during the load.
    pub changes: u64,
    /// Changes a second that were asked for; `null` for as many as go.
    pub rate_asked: Option<f64>,
    /// Changes a second that were answered during the load.
    pub rate_done: f64,
    /// How often a change was one too many for a node's API in that second, and was asked for again
    /// when the node said to.
    pub held_back: u64,
    /// Bytes sent over links during the load, for each change and each node that is told of it.
    pub bytes_per_change: f64,
    /// Resident memory in MB: of each remote daemon, or of this process with all nodes in it.
    pub memory_mb: Vec<f64>,
    /// How often an event stream began anew because it could not keep up.
    pub resets: u64,
    /// How often two replicas were found to differ with nothing on the way, and repaired.
    pub repairs: u64,
}

impl Figures {
    /// Returns them as a table.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&["MILLISECONDS", "COUNT", "P50", "P90", "P99", "MAX"]);
        for (name, samples) in [
            ("delete at a node -> event at another", &self.delete_seen),
            ("any change -> event at another", &self.change_seen),
            ("any change -> answer, durable", &self.answered),
            ("last answer -> all nodes show the same", &self.converged),
            ("cut healed -> all nodes show the same", &self.healed),
            ("links resumed -> in sync with all peers", &self.reconnected),
        ] {
            let told = samples.told();
            if told.count > 0 {
                let cell = |value: f64| format!("{value:.3}");
                table.row([
                    name.to_owned(),
                    told.count.to_string(),
                    cell(told.p50_ms),
                    cell(told.p90_ms),
                    cell(told.p99_ms),
                    cell(told.max_ms),
                ]);
            }
        }
        table
    }

    /// Returns what is no duration, one a line.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let asked = self.rate_asked.map_or("as many as go".to_owned(), |rate| format!("{rate}"));
        let limit = format!("{REQUESTS_PER_SECOND} requests a second at a node");
        let held_back = match self.held_back {
            0 => "no".to_owned(),
            count => {
                format!("yes, {count} times by {limit}: the rate is the API's, not the fleet's")
            }
        };
        let memory: Vec<String> = self.memory_mb.iter().map(|mb| format!("{mb:.1}")).collect();
        vec![
            ("scenario", self.scenario.clone()),
            ("changes", format!("{} ({:.1}/s, asked {asked})", self.changes, self.rate_done)),
            ("held back by the API", held_back),
            ("bytes per change and node", format!("{:.0}", self.bytes_per_change)),
            ("memory, MB", memory.join(" ")),
            ("streams begun anew", self.resets.to_string()),
            ("repairs", self.repairs.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_sample_that_was_measured() {
        let mut samples = Samples::default();
        assert_eq!(samples.told().count, 0);
        assert_eq!(samples.told().max_ms, 0.0);
        (1..=200).rev().for_each(|ms| samples.push(Duration::from_millis(ms)));
        let told = samples.told();
        assert_eq!((told.count, told.p50_ms, told.p90_ms), (200, 100.0, 180.0));
        assert_eq!((told.p99_ms, told.max_ms), (198.0, 200.0));
        let mut one = Samples::default();
        one.push(Duration::from_micros(1_500));
        assert_eq!((one.told().p50_ms, one.told().p99_ms), (1.5, 1.5));
    }

    #[test]
    fn who_reads_the_figures_is_told_that_the_api_was_the_limit() {
        let told = |held_back| {
            let facts = Figures { held_back, ..Figures::default() }.facts();
            facts.into_iter().find(|(name, _)| *name == "held back by the API").unwrap().1
        };
        assert_eq!(told(0), "no");
        assert!(told(3).starts_with("yes, 3 times by 2000 requests a second"), "{}", told(3));
    }

    #[test]
    fn a_row_is_shown_only_of_what_was_measured() {
        let mut figures = Figures::default();
        assert!(figures.table().is_empty());
        figures.healed.push(Duration::from_millis(3));
        let text = figures.table().render(None);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("cut healed -> all nodes show the same\t1\t3.000"), "{text}");
    }
}
