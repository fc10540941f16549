//! Owns the route that tells how a session or a workspace came to be what it is.
//!
//! Must not know documents. Invariant: history is read on a thread of its own, a few at a time, so
//! that nobody who asks for it delays the loop or another request.

use axum::{Json, extract::State};
use tokio::sync::Semaphore;

use super::{Shared, body::Named, problem::Error};
use crate::replica::{explain::Explanation, ids::SessionId};

/// How many histories are read at a time: each takes a core and a copy of a document.
static PLACES: Semaphore = Semaphore::const_new(2);

pub(super) async fn show(
    State(shared): State<Shared>,
    Named(target): Named<SessionId>,
) -> Result<Json<Explanation>, Error> {
    let _place = PLACES.acquire().await.map_err(|_| Error::ForeignReply)?;
    let explainable = shared.handle.explain(target).await?;
    let explained = tokio::task::spawn_blocking(move || explainable.explain()).await;
    explained.map(Json).map_err(|_| Error::HistoryUnread)
}
