//! Owns the stream of what happens at an opencode server.
//!
//! Must not know what is done about it. Invariant: an event is told whole or the stream has failed;
//! what nobody here needs is left out.
//!
//! Seen with opencode 1.18.33: `GET /global/event` sends `data:` lines of JSON, a heartbeat every
//! ten seconds, each change of a session with the whole session, and nothing at all when a
//! workspace comes or goes. `Last-Event-ID` is ignored: after a drop only a list tells what is.

use std::time::Duration;

use reqwest::{Response, Url};
use serde::Deserialize;
use serde_json::Value;

use super::{
    client::{Error, silent, unreachable},
    model::Session,
};

/// How long the stream may be silent: three heartbeats.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Longest line: a message of a conversation is in an event whole.
const LINE_BYTES_MAX: usize = 64 << 20;

/// What happened to a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It was made or changed; this is what it is now.
    Changed(Session),
    /// It was deleted.
    Deleted(String),
}

/// The open stream.
#[derive(Debug)]
pub struct Events {
    url: Url,
    response: Response,
    buffer: Vec<u8>,
}

#[derive(Debug, Deserialize)]
struct Line {
    payload: Payload,
}

#[derive(Debug, Deserialize)]
struct Payload {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    properties: Value,
}

#[derive(Debug, Deserialize)]
struct Properties {
    info: Session,
}

impl Events {
    pub(super) fn new(url: Url, response: Response) -> Self {
        Self { url, response, buffer: Vec::new() }
    }

    /// Returns what happens next to a session. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// The stream has ended, been silent for too long, or is none of opencode's.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let read = read(line.trim_ascii());
                let foreign = |reason| Error::Foreign { url: self.url.clone(), reason };
                if let Some(event) = read.map_err(|error| foreign(error.to_string()))? {
                    return Ok(event);
                }
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                let url = self.url.clone();
                return Err(Error::TooLong { url, max: LINE_BYTES_MAX, unit: "bytes" });
            }
            let chunk = tokio::time::timeout(IDLE_MAX, self.response.chunk()).await;
            match chunk.map_err(|_| silent(&self.url))? {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => {
                    let reason = "the stream of events has ended".to_owned();
                    let url = self.url.clone();
                    return Err(Error::Unreachable { url, reason, timed_out: false });
                }
                Err(error) => return Err(unreachable(&self.url, &error)),
            }
        }
    }
}

fn read(line: &[u8]) -> Result<Option<Event>, serde_json::Error> {
    let Some(data) = line.strip_prefix(b"data:") else { return Ok(None) };
    let Payload { kind, properties } = serde_json::from_slice::<Line>(data)?.payload;
    Ok(match kind.as_str() {
        "session.created" | "session.updated" => {
            Some(Event::Changed(Properties::deserialize(properties)?.info))
        }
        "session.deleted" => Some(Event::Deleted(Properties::deserialize(properties)?.info.id)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As recorded from opencode 1.18.33.
    const INFO: &str = r#"{"id":"ses_1","slug":"glowing-garden","version":"1.18.33",
        "projectID":"941b","directory":"/home/dev","path":"","title":"t","cost":0,
        "time":{"created":1795379109504,"updated":1795379109504}}"#;

    fn line(kind: &str) -> String {
        let text = format!(
            r#"data: {{"directory":"/home/dev","payload":{{"id":"evt_1","type":"{kind}",
            "properties":{{"sessionID":"ses_1","info":{INFO}}}}}}}"#
        );
        text.replace('\n', " ")
    }

    #[test]
    fn what_happens_to_a_session_is_told_with_the_session() {
        for kind in ["session.created", "session.updated"] {
            let event = read(line(kind).as_bytes()).unwrap().unwrap();
            assert!(matches!(event, Event::Changed(session) if session.id == "ses_1"));
        }
        let deleted = read(line("session.deleted").as_bytes()).unwrap();
        assert_eq!(deleted, Some(Event::Deleted("ses_1".to_owned())));
    }

    #[test]
    fn heartbeats_comments_and_strange_events_are_left_out() {
        let beat = r#"data: {"payload":{"id":"e","type":"server.heartbeat","properties":{}}}"#;
        let sync = r#"data: {"payload":{"type":"sync","syncEvent":{"type":"session.created.1"}}}"#;
        for text in ["", ": comment", "event: x", beat, sync, &line("session.invented")] {
            assert_eq!(read(text.as_bytes()).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn a_session_that_can_not_be_read_fails_the_stream() {
        let text = r#"data: {"payload":{"type":"session.created","properties":{}}}"#;
        assert!(read(text.as_bytes()).is_err());
        assert!(read(b"data: {").is_err());
    }
}
