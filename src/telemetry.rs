//! Owns where logs go and what they look like.
//!
//! Must not know what is logged. Invariant: logs go to stderr, so that stdout is for results, and
//! carry colours only where a terminal shows them.

use std::{env, io::IsTerminal as _, str::FromStr};

use tracing_subscriber::EnvFilter;

/// Names what is to be logged, in the syntax of `tracing-subscriber`'s filters.
pub const LOG_ENV: &str = "SESSIONMESH_LOG";
/// What is logged if nothing else is said.
const FILTER_DEFAULT: &str = "warn,sessionmesh=info";

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
}

/// Begins to write logs, for the whole process; works once.
pub fn start(format: Format) -> Result<(), Error> {
    use tracing_subscriber::util::SubscriberInitExt as _;
    let filter = filter(env::var(LOG_ENV).ok().as_deref())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => {
            let colours = std::io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colours).finish().try_init()?;
        }
        Format::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
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
