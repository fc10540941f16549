//! Owns the table of routes, from which the router is built and against which the contract is
//! checked.
//!
//! Must not know what a handler does. Invariant: a route that is not in the table does not exist.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, delete, get, patch, post},
};
use bytes::Bytes;

use super::{
    OPENAPI, Shared, events, explain, fleet, metrics, problem::Error, receipts, sessions, trash,
    workspaces,
};
use crate::daemon::{handle::Status, hub::Snapshot};

/// One route.
pub struct Route {
    /// In capitals.
    pub method: &'static str,
    /// With its variable part in braces, as in the contract.
    pub path: &'static str,
    /// Makes the handler.
    pub(super) handler: fn() -> MethodRouter<Shared>,
}

/// The routes that need no token, since they say nothing about content.
pub const OPEN: [&str; 2] = ["/healthz", "/readyz"];

const fn route(
    method: &'static str,
    path: &'static str,
    handler: fn() -> MethodRouter<Shared>,
) -> Route {
    Route { method, path, handler }
}

/// Every route there is.
pub const ROUTES: &[Route] = &[
    route("GET", "/healthz", || get(healthz)),
    route("GET", "/readyz", || get(readyz)),
    route("GET", "/metrics", || get(metrics::show)),
    route("GET", "/v1/openapi.json", || get(openapi)),
    route("GET", "/v1/status", || get(status)),
    route("GET", "/v1/view", || get(view)),
    route("GET", "/v1/events", || get(events::follow)),
    route("GET", "/v1/sessions", || get(sessions::list)),
    route("POST", "/v1/sessions", || post(sessions::create)),
    route("GET", "/v1/sessions/{id}", || get(sessions::show)),
    route("PATCH", "/v1/sessions/{id}", || patch(sessions::update)),
    route("DELETE", "/v1/sessions/{id}", || delete(sessions::delete)),
    route("GET", "/v1/workspaces", || get(workspaces::list)),
    route("POST", "/v1/workspaces", || post(workspaces::create)),
    route("GET", "/v1/workspaces/{id}", || get(workspaces::show)),
    route("PATCH", "/v1/workspaces/{id}", || patch(workspaces::update)),
    route("DELETE", "/v1/workspaces/{id}", || delete(workspaces::delete)),
    route("POST", "/v1/workspaces/{id}/teardown", || post(workspaces::teardown)),
    route("POST", "/v1/operations/{operation}/restore", || post(sessions::restore)),
    route("GET", "/v1/explain/{id}", || get(explain::show)),
    route("GET", "/v1/receipts/{receipt}", || get(receipts::show)),
    route("POST", "/v1/import", || post(sessions::import)),
    route("GET", "/v1/trash", || get(trash::list)),
    route("GET", "/v1/trash/{id}", || get(trash::show)),
    route("DELETE", "/v1/trash/{id}", || delete(trash::delete)),
    route("POST", "/v1/trash/{id}/restore", || post(trash::restore)),
    route("GET", "/v1/peers", || get(fleet::peers)),
    route("DELETE", "/v1/peers/{node}", || delete(fleet::revoke)),
    route("POST", "/v1/peers/{node}/pause", || post(fleet::pause)),
    route("POST", "/v1/peers/{node}/resume", || post(fleet::resume)),
    route("POST", "/v1/peers/{node}/promote", || post(fleet::promote)),
    route("POST", "/v1/peers/{node}/retire", || post(fleet::retire)),
    route("POST", "/v1/step-down", || post(fleet::step_down)),
    route("POST", "/v1/invites", || post(fleet::invite)),
    route("POST", "/v1/join", || post(fleet::join)),
    route("POST", "/v1/leave", || post(fleet::leave)),
];

/// Tells whether a path needs no token.
pub(super) fn is_open(path: &str) -> bool {
    OPEN.contains(&path)
}

/// Makes a response of text that is JSON already, without copying it.
pub(super) fn json_text(text: impl AsRef<[u8]> + Send + 'static) -> Response {
    let body = Bytes::from_owner(text);
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Shared>) -> Response {
    if shared.handle.is_stopping() || shared.handle.hub().is_closed() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response()
    } else {
        "ready\n".into_response()
    }
}

async fn openapi() -> Response {
    json_text(OPENAPI)
}

async fn status(State(shared): State<Shared>) -> Result<Json<Status>, Error> {
    Ok(Json(shared.handle.status().await?))
}

async fn view(State(shared): State<Shared>) -> Result<Response, Error> {
    let snapshot = shared.handle.hub().snapshot().await;
    let Snapshot { body, .. } = snapshot.ok_or(crate::daemon::handle::RequestError::Stopping)?;
    Ok(json_text(SharedText(body)))
}

/// Lends a shared text to a response.
pub(super) struct SharedText<T>(pub(super) T);

impl AsRef<[u8]> for SharedText<std::sync::Arc<String>> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl AsRef<[u8]> for SharedText<std::sync::Arc<str>> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
