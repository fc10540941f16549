//! Owns the route that tells how far a delete has come.
//!
//! Must not know how that is found out. Invariant: a wait ends with what is then so, however long
//! the client would have waited on.

use std::time::Duration;

use axum::{Json, extract::State, http::Uri};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};

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
    loop {
        changes.mark_unchanged();
        let reply = shared.handle.command(Command::Receipt(id.clone())).await?;
        let Reply::Receipt(receipt) = reply else { return Err(Error::ForeignReply) };
        let ended = receipt.complete || *changes.borrow();
        if ended || timeout_at(until, changes.changed()).await.is_err() {
            return Ok(Json(*receipt));
        }
        sleep(LOOK_EVERY).await;
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
