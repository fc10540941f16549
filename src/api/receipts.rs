//! Owns the route that tells how far a delete has come.
//!
//! Must not know how that is found out. Invariant: a wait ends with what is then so, however long
//! the client would have waited on.

use std::time::Duration;

use axum::{Json, extract::State, http::Uri};
use serde::Deserialize;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Shared,
    body::{self, Segment},
    problem::Error,
};
use crate::{
    config,
    replica::{
        command::{Command, Reply},
        ids::ReceiptId,
        receipt::Receipt,
    },
};

/// Longest wait: what is not complete by then waits for a machine that is away.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long after an answer the loop is asked again at the soonest, however much happens.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How many of the waiting requests ask the loop again within [`LOOK_EVERY`]: each change wakes all of them,
/// and up to 1,024 requests may wait.
const LOOKS_AT_ONCE: usize = 4;
/// One permit for each request that asks again. The first and the last question of a request need none.
static PLACES: Semaphore = Semaphore::const_new(LOOKS_AT_ONCE);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReceiptQuery {
    wait: Option<String>,
}

pub(super) async fn show(
    State(shared): State<Shared>,
    Segment(text): Segment,
    uri: Uri,
) -> Result<Json<Receipt>, Error> {
    let ReceiptQuery { wait } = body::query(&uri)?;
    let id: ReceiptId = text.parse().map_err(Error::InvalidId)?;
    let until = Instant::now() + wait.as_deref().map_or(Ok(Duration::ZERO), parse_wait)?;
    let mut changes = shared.handle.receipts().subscribe();
    let mut place = None;
    loop {
        changes.mark_unchanged();
        let reply = shared.handle.command(Command::Receipt(id.clone())).await?;
        let Reply::Receipt(receipt) = reply else { return Err(Error::ForeignReply) };
        let ended = receipt.complete || *changes.borrow();
        if ended || Instant::now() >= until {
            return Ok(Json(*receipt));
        }
        sleep(LOOK_EVERY).await;
        drop(place);
        // It is asked once more at the end: what is told is what is then so.
        place = timeout_at(until, async {
            // Where the loop has ended, the next question says so.
            let _ = changes.changed().await;
            PLACES.acquire().await
        })
        .await
        .ok();
    }
}

fn parse_wait(text: &str) -> Result<Duration, Error> {
    let wait = config::parse_duration(text);
    let wait = wait.map_err(|error| Error::InvalidQuery(format!("`wait`: {error}")))?;
    if wait > WAIT_MAX {
        let told = format!("`wait` is longer than {} s", WAIT_MAX.as_secs());
        return Err(Error::InvalidQuery(told));
    }
    Ok(wait)
}
