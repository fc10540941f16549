//! Owns the local HTTP interface: its routes, who may use them, and what their JSON looks like.
//!
//! Must not know how anything is decided or stored: it asks the loop through a
//! [`Handle`] and reads the published view. Invariant: code and
//! `proto/openapi.json` say the same.

pub mod body;
pub mod events;
mod explain;
pub mod fleet;
pub mod gate;
pub mod list;
pub mod listen;
pub mod metrics;
pub mod names;
mod patience;
pub mod problem;
pub mod rate;
mod receipts;
pub mod routes;
pub mod sessions;
pub mod trash;
pub mod workspaces;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    middleware,
    response::{IntoResponse as _, Response},
};

pub use self::{
    gate::Via,
    listen::{BindError, Listeners, socket_path},
    problem::Problem,
};
pub use crate::identity::token::FILE as TOKEN_FILE;
use crate::{daemon::handle::Handle, identity::Token, replica::ids::NodeId};

/// The contract that the routes keep.
pub const OPENAPI: &str = include_str!("../../proto/openapi.json");
/// The contract that the event stream keeps.
pub const DIFF_SCHEMA: &str = include_str!("../../proto/diff.schema.json");

/// The local HTTP interface; cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    shared: Shared,
}

/// What every handler may use.
#[derive(Debug)]
pub struct Context {
    handle: Handle,
    node: NodeId,
    name: String,
    token: Token,
    counters: metrics::Counters,
    bucket: rate::Bucket,
}

type Shared = Arc<Context>;

impl Api {
    /// Makes the interface of a daemon whose machine has this key and name.
    pub fn new(handle: Handle, node: NodeId, name: String, token: Token) -> Self {
        let (counters, bucket) = Default::default();
        Self { shared: Arc::new(Context { handle, node, name, token, counters, bucket }) }
    }

    /// Returns all routes behind the gate.
    pub fn router(&self) -> Router {
        let mut router = Router::new();
        for route in routes::ROUTES {
            router = router.route(route.path, (route.handler)());
        }
        router
            .fallback(nothing_there)
            .method_not_allowed_fallback(wrong_method)
            .layer(middleware::from_fn_with_state(self.shared.clone(), gate::pass))
            .with_state(self.shared.clone())
    }
}

async fn nothing_there(request: Request) -> Response {
    problem::Error::RouteNotFound { path: request.uri().path().to_owned() }.into_response()
}

async fn wrong_method(request: Request) -> Response {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    problem::Error::MethodNotAllowed { method, path }.into_response()
}
