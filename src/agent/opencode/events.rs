//! Owns the stream of what happens at an opencode server.
//!
//! Must not know what is done about it. Invariants: an event is told whole or the stream has failed;
//! what nobody here needs is left out, and what can't be read is a reason to look again; how long a
//! line is costs a thread of its own, never the loop.
//!
//! Seen with opencode 1.18.33: `GET /global/event` sends `data:` lines of JSON, a heartbeat every
//! ten seconds, each change of a session with the whole session, and nothing at all when a
//! workspace comes or goes. `Last-Event-ID` is ignored: after a drop only a list tells what is.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use reqwest::{Response, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::{
    client::{Error, read_json, silent, unreachable},
    model::{LeftOut, Session},
};
use crate::sse::Parser;

/// How long the stream may be silent: three heartbeats.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Longest event: a message of a conversation is in it whole.
const EVENT_BYTES_MAX: usize = 64 << 20;
/// How many pieces of the stream, and how many events, wait to be taken: what comes faster waits in
/// the connection.
const WAITING_MAX: usize = 64;

/// What happened to a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It was made or changed; this is what it is now.
    Changed(Session),
    /// It is said to be deleted.
    Deleted(String),
    /// Something happened to one that can't be read.
    Odd(LeftOut),
}

/// The open stream.
#[derive(Debug)]
pub struct Events {
    events: Receiver<Result<Event, Error>>,
    has_ended: Arc<AtomicBool>,
}

#[derive(Debug, Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    payload: Payload<'a>,
}

#[derive(Debug, Deserialize)]
struct Payload<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

impl Events {
    /// Follows an open response; to be called within the runtime.
    pub(super) fn new(url: Url, response: Response) -> Self {
        let (pieces, to_parse) = mpsc::channel(WAITING_MAX);
        let (found, events) = mpsc::channel(WAITING_MAX);
        let (failed, named) = (found.clone(), url.clone());
        let has_ended = Arc::new(AtomicBool::new(false));
        let ends = has_ended.clone();
        // A thread of its own, and not one of the pool's: it lives as long as the stream.
        let parser = thread::Builder::new().name("agent-events".to_owned());
        let started = parser.spawn(move || parse(&named, to_parse, &found));
        tokio::spawn(async move {
            let error = match started {
                Ok(_) => receive(&url, response, &pieces).await,
                Err(error) => Some(Error::Foreign { url, reason: error.to_string() }),
            };
            ends.store(true, Ordering::Release);
            drop(pieces);
            if let Some(error) = error {
                // Nobody may be listening any more.
                let _ = failed.send(Err(error)).await;
            }
        });
        Self { events, has_ended }
    }

    /// Tells whether the stream has ended, although what it told before is not taken yet: what was
    /// read of the server meanwhile may be another's.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Returns what happens next to a session. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// The stream has ended, been silent for too long, or is none of opencode's.
    pub async fn next(&mut self) -> Result<Event, Error> {
        match self.events.recv().await {
            Some(event) => event,
            // It has told why before.
            None => std::future::pending().await,
        }
    }
}

/// Hands on what comes; returns why nothing more does, if somebody still listens.
async fn receive(url: &Url, mut response: Response, pieces: &Sender<Bytes>) -> Option<Error> {
    loop {
        let piece = tokio::select! {
            () = pieces.closed() => return None,
            piece = tokio::time::timeout(IDLE_MAX, response.chunk()) => piece,
        };
        match piece {
            Err(_) => return Some(silent(url)),
            Ok(Ok(Some(piece))) => pieces.send(piece).await.ok()?,
            Ok(Ok(None)) => {
                let reason = "the stream of events has ended".to_owned();
                return Some(Error::Unreachable { url: url.clone(), reason, timed_out: false });
            }
            Ok(Err(error)) => return Some(unreachable(url, &error)),
        }
    }
}

/// Cuts what comes into events, in one pass.
fn parse(url: &Url, mut pieces: Receiver<Bytes>, found: &Sender<Result<Event, Error>>) {
    let mut parser = Parser::new(EVENT_BYTES_MAX);
    while let Some(piece) = pieces.blocking_recv() {
        let events = match parser.push(&piece) {
            Ok(events) => events,
            Err(too_long) => {
                let (url, max) = (url.clone(), too_long.0);
                // Nobody may be listening any more.
                let _ = found.blocking_send(Err(Error::TooLong { url, max, unit: "bytes" }));
                return;
            }
        };
        for event in events {
            if let Some(event) = read(event.data.as_bytes())
                && found.blocking_send(Ok(event)).is_err()
            {
                return;
            }
        }
    }
}

fn read(data: &[u8]) -> Option<Event> {
    // Most lines are of no interest and some are large: their kind is read first, alone.
    let kind = match serde_json::from_slice::<Line<'_>>(data) {
        Ok(line) => line.payload.kind,
        Err(_) => Cow::Borrowed(""),
    };
    let is_of_session = match &*kind {
        "session.created" | "session.updated" => true,
        "session.deleted" => false,
        "" => {
            // No JSON, or such as only JavaScript writes.
            let value = read_json(data).ok()?;
            let kind = value.pointer("/payload/type").and_then(Value::as_str)?;
            return told(kind, &value);
        }
        _ => return None,
    };
    let kind = if is_of_session { "session.updated" } else { "session.deleted" };
    told(kind, &read_json(data).ok()?)
}

fn told(kind: &str, value: &Value) -> Option<Event> {
    let nothing = Value::Null;
    let info = value.pointer("/payload/properties/info").unwrap_or(&nothing);
    let odd = |why: String| {
        let mut left_out = LeftOut::default();
        left_out.note("session", info, why);
        Event::Odd(left_out)
    };
    match kind {
        "session.created" | "session.updated" => {
            Some(Session::read(info).map_or_else(odd, Event::Changed))
        }
        "session.deleted" => {
            let id = info.get("id").and_then(Value::as_str);
            Some(match id {
                Some(id) => Event::Deleted(id.to_owned()),
                None => odd("has no id".to_owned()),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As recorded from opencode 1.18.33.
    const INFO: &str = r#"{"id":"ses_1","slug":"glowing-garden","version":"1.18.33",
        "projectID":"941b","directory":"/home/dev","path":"","title":"t","cost":0,
        "time":{"created":1795379109504,"updated":1795379109504}}"#;

    fn data(kind: &str) -> String {
        format!(
            r#"{{"directory":"/home/dev","payload":{{"id":"evt_1","type":"{kind}",
            "properties":{{"sessionID":"ses_1","info":{INFO}}}}}}}"#
        )
    }

    #[test]
    fn what_happens_to_a_session_is_told_with_the_session() {
        for kind in ["session.created", "session.updated"] {
            let event = read(data(kind).as_bytes()).unwrap();
            assert!(matches!(event, Event::Changed(session) if session.id == "ses_1"));
        }
        let deleted = read(data("session.deleted").as_bytes());
        assert_eq!(deleted, Some(Event::Deleted("ses_1".to_owned())));
    }

    #[test]
    fn heartbeats_and_strange_events_are_left_out() {
        let beat = r#"{"payload":{"id":"e","type":"server.heartbeat","properties":{}}}"#;
        let sync = r#"{"payload":{"type":"sync","syncEvent":{"type":"session.created.1"}}}"#;
        for text in ["", "{", "[]", "7", beat, sync, &data("session.invented")] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn an_event_of_a_session_that_can_not_be_read_is_told_as_odd_and_no_reason_to_fail() {
        for info in ["{}", "null", r#"{"id":"ses_1","time":{}}"#, r#"{"id":7}"#] {
            let text = format!(
                r#"{{"payload":{{"type":"session.created","properties":{{"info":{info}}}}}}}"#
            );
            assert!(matches!(read(text.as_bytes()), Some(Event::Odd(_))), "{info}");
        }
    }

    #[test]
    fn a_title_that_was_cut_inside_of_an_emoji_is_read() {
        let text = data("session.updated").replace(r#""t""#, r#""t\ud83d""#);
        let Some(Event::Changed(session)) = read(text.as_bytes()) else { panic!("{text}") };
        assert_eq!(session.title.as_deref(), Some("t\u{fffd}"));
    }
}
