//! Owns where logs go and what they look like.
//!
//! Must not know what is logged. Invariant: logs go to stderr, so that stdout is for results, and
//! carry colours only where a terminal shows them; to log never fails.

mod writer;

use std::{
    env,
    io::{IsTerminal as _, Write as _},
    str::FromStr,
    sync::OnceLock,
    time::Duration,
};

use tracing_subscriber::{
    EnvFilter,
    fmt::{
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
};
use writer::Lines;

/// Names what is to be logged, in the syntax of `tracing-subscriber`'s filters.
pub const LOG_ENV: &str = "SESSIONMESH_LOG";
/// What is logged if nothing else is said.
const FILTER_DEFAULT: &str = "warn,sessionmesh=info";
/// How long the end of the process waits for a log that can't take its last lines.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(1);

/// Where lines go, once logs are written.
static LINES: OnceLock<Lines> = OnceLock::new();

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(Error::Format(other.to_owned())),
        }
    }
}

/// Why logs can't be written as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such format.
    #[error("`{}` is not a log format: text or json", .0.escape_debug())]
    Format(String),
    /// The filter can't be read.
    #[error("{LOG_ENV} is not a filter such as `info` or `warn,sessionmesh=debug`: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Logs already go somewhere.
    #[error("logs are already being written: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// There is no thread that could write them.
    #[error("logs can't be written: {0}")]
    Thread(#[from] std::io::Error),
}

/// Begins to write logs, for the whole process; works once.
pub fn start(format: Format) -> Result<(), Error> {
    use tracing_subscriber::util::SubscriberInitExt as _;
    let filter = filter(env::var(LOG_ENV).ok().as_deref())?;
    let lines = Lines::start(std::io::stderr(), move |lost| note(format, lost))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines.clone());
    // What can't be logged must not be told by printing, which panics.
    let builder = builder.log_internal_errors(false);
    match format {
        Format::Text => {
            let colours = std::io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colours).finish().try_init()?;
        }
        Format::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    // Nobody else has set it: logs are started once.
    let _ = LINES.set(lines);
    Ok(())
}

/// Writes the last line of a process to stderr, after all that was logged; gives up where that is a
/// log that nobody reads.
pub fn last_line(text: &str) {
    match LINES.get() {
        Some(lines) => {
            lines.add(format!("{text}\n").as_bytes());
            finish();
        }
        // Whoever can't be told is told by the exit code.
        None => drop(writeln!(std::io::stderr(), "{text}")),
    }
}

/// Waits for a moment until all that was logged is written.
pub fn finish() {
    if let Some(lines) = LINES.get() {
        lines.flush(LAST_LINES_WITHIN);
    }
}

/// Makes the line that says how many lines are missing from the log.
fn note(format: Format, lost: u64) -> String {
    let mut time = String::new();
    // A line without its time is better than none.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let (target, message) =
        (module_path!(), "lines are missing here: the log could not be written");
    match format {
        Format::Text => format!("{time}  WARN {target}: {message} lost={lost}\n"),
        Format::Json => {
            let line = serde_json::json!({
                "timestamp": time, "level": "WARN", "message": message, "lost": lost, "target": target,
            });
            format!("{line}\n")
        }
    }
}

fn filter(asked: Option<&str>) -> Result<EnvFilter, Error> {
    let directives = asked.filter(|text| !text.trim().is_empty()).unwrap_or(FILTER_DEFAULT);
    Ok(EnvFilter::builder().parse(directives)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_can_not_be_read_is_refused_by_its_name() {
        for good in [None, Some(""), Some("debug"), Some("warn,sessionmesh::store=trace")] {
            assert!(filter(good).is_ok(), "{good:?}");
        }
        let error = filter(Some("sessionmesh=loud")).unwrap_err().to_string();
        assert!(error.starts_with(LOG_ENV), "{error}");
    }

    #[test]
    fn the_formats_are_text_and_json() {
        assert_eq!("text".parse::<Format>().unwrap(), Format::Text);
        assert_eq!("json".parse::<Format>().unwrap(), Format::Json);
        assert!("yaml".parse::<Format>().is_err());
    }
}
