//! Owns the event stream: the hub's items as server-sent events.
//!
//! Must not know what a diff says. Invariant: each item becomes exactly one event, whose `id` is
//! its cursor.

use std::{future::Future, pin::Pin, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Uri, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::Instant;

use super::{Shared, body, problem::Error, routes::SharedText};
use crate::{
    daemon::hub::{Item, Snapshot, Subscription},
    replica::ids::Cursor,
};

/// Most event streams at a time: each takes a file descriptor, of which a process commonly has
/// 1,024, and peers and the store need some.
pub const SUBSCRIBERS_MAX: usize = 256;
/// How long a stream may be silent before it says that it is still there.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);

const PING: &[u8] = b": ping\n\n";

/// The parameters that name the cursor to go on from, the stronger first: a library that can't set
/// a header appends `lastEventId` when it reconnects, to an address that may hold its old `after`.
const CURSORS: [&str; 2] = ["lastEventId", "after"];

pub(super) async fn follow(
    State(shared): State<Shared>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Error> {
    // Other parameters, against caches for one, mean nothing here, and refuse nobody who reconnects.
    let query: Vec<(String, String)> = body::query(&uri)?;
    let named = |name: &&str| query.iter().rev().find(|(key, _)| key == name);
    let after = CURSORS.iter().find_map(named).map(|(_, value)| value.as_str());
    // The header goes first: a browser that reconnects repeats the address with its old `after`.
    let last = headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
    // What is not a cursor is treated as one that is too old.
    let after = last.or(after).and_then(|text| text.parse::<Cursor>().ok());
    let subscription = shared.handle.hub().subscribe(after);
    if shared.handle.hub().subscribers() > SUBSCRIBERS_MAX {
        return Err(Error::TooManySubscribers { subscribers_max: SUBSCRIBERS_MAX });
    }
    let content = [(header::CONTENT_TYPE, "text/event-stream")];
    Ok((content, Body::from_stream(chunks(subscription))).into_response())
}

type Waiting = Pin<Box<dyn Future<Output = (Subscription, Option<Item>)> + Send>>;

/// What a stream does next.
enum Step {
    /// Waits for an item. The wait outlives a ping, so that a large snapshot's work isn't lost.
    Wait(Waiting),
    /// Writes the rest of an event.
    Rest(Subscription, Bytes),
    /// Ends an event.
    End(Subscription),
}

fn chunks(subscription: Subscription) -> impl stream::Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold(wait(subscription), async |step| {
        let (chunk, next) = match step {
            Step::Wait(mut waiting) => {
                let silent_until = Instant::now() + PING_INTERVAL;
                match tokio::time::timeout_at(silent_until, waiting.as_mut()).await {
                    Err(_) => (Bytes::from_static(PING), Step::Wait(waiting)),
                    Ok((_, None)) => return None,
                    Ok((subscription, Some(item))) => {
                        let (head, body) = event(item);
                        (head, Step::Rest(subscription, body))
                    }
                }
            }
            Step::Rest(subscription, body) => (body, Step::End(subscription)),
            Step::End(subscription) => (Bytes::from_static(b"\n\n"), wait(subscription)),
        };
        Some((Ok(chunk), next))
    })
}

fn wait(mut subscription: Subscription) -> Step {
    Step::Wait(Box::pin(async move {
        let item = subscription.next().await;
        (subscription, item)
    }))
}

/// Returns an event's beginning and its data, which is lent and not copied.
fn event(item: Item) -> (Bytes, Bytes) {
    let (name, cursor, body) = match item {
        Item::Snapshot(Snapshot { cursor, body }) => {
            ("snapshot", cursor, Bytes::from_owner(SharedText(body)))
        }
        Item::Diff { cursor, body } => ("diff", cursor, Bytes::from_owner(SharedText(body))),
    };
    (format!("event: {name}\nid: {cursor}\ndata: ").into(), body)
}
