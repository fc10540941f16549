//! Owns what a client is told when a request fails: status, stable code, and the remedy.
//!
//! Must not know how a request is carried out. Invariant: everything that fails is told as
//! `application/problem+json` (RFC 9457), with a `code` that never changes its meaning.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use crate::{daemon::handle::RequestError, replica::command::Refusal, teardown::trash::TrashError};

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// How long a client is asked to wait before it tries again, seconds: a request takes the loop
/// milliseconds, so a second drains it, and a second brings thousands of requests that may be made.
pub const RETRY_AFTER_S: u32 = 1;

/// What to do where a host holds as much as others take.
const HOST_FULL: &str = "Delete sessions of that host that nobody needs any more; it makes room when it next tidies \
                         its document, or at once where few are left.";
/// What to do where something is in the way.
const BLOCKED: &str = "Nothing was written. Have the record's host delete it there; a node that writes what it must \
                       not is shut out with `sessionmesh peer revoke`.";
/// What to do where a document holds too much for one more change.
const UNWRITABLE: &str = "Nothing was written. Do less at once, or try again once the host has been connected: it \
                          tidies its document by itself.";
const BAD_TICKET: &str = "Copy the whole ticket, or make a new one with `sessionmesh invite`.";

/// A failed request as its client is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// A URN that ends in the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the status means.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time.
    pub detail: String,
    /// The stable code that scripts may rely on.
    pub code: String,
    /// What to do about it.
    pub hint: String,
    /// The field that is at fault, as a path, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The names of the hosts or members that were meant, where several were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // The rest of the body is not read, so nothing can follow it on this connection.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.append(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(r#"Bearer realm="sessionmesh""#),
            );
            headers.append(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(r#"Basic realm="sessionmesh", charset="UTF-8""#),
            );
        }
        response
    }
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the request names a host other than this machine's loopback")]
    ForeignHost,
    #[error("the request comes from a page of another origin")]
    ForeignOrigin,
    #[error("the request carries no valid token")]
    Unauthorized,
    #[error("the body is not declared as JSON")]
    NotJson,
    #[error("the body is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error("the body did not arrive within {seconds_max} seconds")]
    BodyTimeout { seconds_max: u64 },
    #[error("the body broke off")]
    BodyBroken,
    #[error("the body is not JSON: {0}")]
    MalformedJson(serde_json::Error),
    #[error("the body does not fit: {0}")]
    UnfitJson(serde_json::Error),
    #[error("{0}")]
    InvalidQuery(String),
    #[error("{0}")]
    InvalidId(crate::replica::ids::ParseIdError),
    #[error("the path is not valid UTF-8 once decoded")]
    InvalidPath,
    #[error(transparent)]
    UnreadableTicket(#[from] crate::identity::ticket::TicketError),
    #[error(transparent)]
    Trash(#[from] TrashError),
    #[error("only the machine that keeps it can do this: {host}")]
    NotHere { host: String },
    #[error("there is nothing at {path}")]
    RouteNotFound { path: String },
    #[error("{path} does not take {method}")]
    MethodNotAllowed { method: String, path: String },
    #[error("there are {subscribers_max} subscribers already")]
    TooManySubscribers { subscribers_max: usize },
    #[error("there are more requests than {} a second", super::rate::REQUESTS_PER_SECOND)]
    TooManyRequests,
    #[error("there are {} connections already", super::listen::CONNECTIONS_MAX)]
    TooManyConnections,
    #[error("the history can't be read")]
    HistoryUnread,
    #[error("the loop gave an answer to another question")]
    ForeignReply,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Request(refusal.into())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.problem().into_response()
    }
}

impl Error {
    /// Classifies the error for the client.
    pub fn problem(&self) -> Problem {
        let (status, code, hint) = self.class();
        let (field, candidates) = match self {
            Self::Request(RequestError::Refused(refusal)) => named(refusal),
            Self::NotHere { host } => (None, vec![host.clone()]),
            _ => Default::default(),
        };
        Problem {
            kind: format!("urn:sessionmesh:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: self.to_string(),
            code: code.to_owned(),
            hint: hint.to_owned(),
            field,
            candidates,
        }
    }

    fn class(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Request(RequestError::Refused(refusal)) => {
                let (status, hint) = refused(refusal);
                (status, refusal.code(), hint)
            }
            Self::Request(RequestError::Busy) => {
                (StatusCode::SERVICE_UNAVAILABLE, "busy", "Try again in a second.")
            }
            Self::Request(RequestError::Stopping) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "Start the daemon again with `sessionmesh serve`, then look whether the change is \
                 there before repeating it.",
            ),
            Self::ForeignHost => (
                StatusCode::FORBIDDEN,
                "foreign_host",
                "Address the daemon as localhost, 127.0.0.1 or [::1]; from another machine, go \
                 through `ssh -L`.",
            ),
            Self::ForeignOrigin => (
                StatusCode::FORBIDDEN,
                "foreign_origin",
                "Call from a page that the daemon itself serves, or from a program that sends no \
                 `Origin`.",
            ),
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "Send `Authorization: Bearer TOKEN` with the content of the file `token` in the \
                 data folder.",
            ),
            Self::NotJson => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "Send JSON, with `Content-Type: application/json`.",
            ),
            Self::TooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Send it in smaller pieces.")
            }
            Self::BodyTimeout { .. } => {
                (StatusCode::REQUEST_TIMEOUT, "request_timeout", "Send the body without pausing.")
            }
            Self::BodyBroken => {
                (StatusCode::BAD_REQUEST, "body_unreadable", "Send the whole body again.")
            }
            Self::MalformedJson(_) => (
                StatusCode::BAD_REQUEST,
                "malformed_json",
                "Correct the JSON at the place that the detail names.",
            ),
            Self::UnfitJson(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_field",
                "Compare the body with the request's schema in /v1/openapi.json.",
            ),
            Self::InvalidQuery(_) => (
                StatusCode::BAD_REQUEST,
                "invalid_query",
                "Compare the query with the route's parameters in /v1/openapi.json.",
            ),
            Self::InvalidId(_) | Self::InvalidPath => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_id",
                "Name the record as ID or ID@HOST, as the lists show it.",
            ),
            Self::UnreadableTicket(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "bad_ticket", BAD_TICKET)
            }
            Self::Trash(error) => kept(error),
            Self::NotHere { .. } => (
                StatusCode::FORBIDDEN,
                "not_here",
                "Do it on that machine; from here, it can be restored to where it was.",
            ),
            Self::RouteNotFound { .. } => {
                (StatusCode::NOT_FOUND, "route_not_found", "Find the routes in /v1/openapi.json.")
            }
            Self::MethodNotAllowed { .. } => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Use one of the methods that the `Allow` header names.",
            ),
            Self::TooManySubscribers { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_subscribers",
                "Close event streams that are not needed, or share one.",
            ),
            Self::TooManyConnections => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_connections",
                "Close connections that are not needed, or use fewer for more.",
            ),
            Self::TooManyRequests => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                "Follow GET /v1/events instead of asking again and again, or pause for a second.",
            ),
            Self::ForeignReply | Self::HistoryUnread => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "This is a mistake in sessionmesh: report it with the daemon's log.",
            ),
        }
    }
}

/// Classifies why an entry of the trash is left as it is.
fn kept(error: &TrashError) -> (StatusCode, &'static str, &'static str) {
    use StatusCode as Code;
    const LIST: &str = "List what is kept with GET /v1/trash.";
    match error {
        TrashError::Unknown(_) => (Code::NOT_FOUND, "trash_not_found", LIST),
        TrashError::Busy(_) => (Code::CONFLICT, "trash_busy", "Try again in a moment."),
        TrashError::NotKept { .. } => (Code::CONFLICT, "trash_not_kept", LIST),
        TrashError::InTheWay(_) => (
            Code::CONFLICT,
            "in_the_way",
            "Move what is there, or give another `directory`; nothing is overwritten.",
        ),
        TrashError::Place { .. } => {
            (Code::UNPROCESSABLE_ENTITY, "unusable_place", "Give another `directory`.")
        }
        TrashError::Import(_) => (
            Code::BAD_GATEWAY,
            "agent_refused",
            "Do what the detail says, or give a `directory` to have it written there as a file.",
        ),
        TrashError::Stuck { .. } => (
            Code::CONFLICT,
            "trash_stuck",
            "See to what the detail names; it is tried again every minute.",
        ),
        TrashError::Io { .. } => (
            Code::INTERNAL_SERVER_ERROR,
            "trash_io",
            "See to what the detail names, and try again.",
        ),
    }
}

/// Returns the field and the candidates that a refusal names.
fn named(refusal: &Refusal) -> (Option<String>, Vec<String>) {
    match refusal {
        Refusal::InvalidField { field, .. } => (Some(field.clone()), Vec::new()),
        Refusal::AmbiguousId { hosts, .. } => (None, hosts.clone()),
        Refusal::AmbiguousNode { nodes, .. } => (None, nodes.clone()),
        _ => (None, Vec::new()),
    }
}

fn refused(refusal: &Refusal) -> (StatusCode, &'static str) {
    const NOT_FOUND: StatusCode = StatusCode::NOT_FOUND;
    const CONFLICT: StatusCode = StatusCode::CONFLICT;
    const UNPROCESSABLE: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
    const FORBIDDEN: StatusCode = StatusCode::FORBIDDEN;
    match refusal {
        Refusal::SessionNotFound(_) => {
            (NOT_FOUND, "List the sessions, deleted ones too, with GET /v1/sessions?state=all.")
        }
        Refusal::WorkspaceNotFound(_) => {
            (NOT_FOUND, "List the workspaces, removed ones too, with GET /v1/workspaces?state=all.")
        }
        Refusal::OperationNotFound(_) => (
            NOT_FOUND,
            "Take the operation from the `deleted` of a session that is still listed; what its \
             host has carried out can't be undone.",
        ),
        Refusal::ReceiptNotFound(_) => (
            NOT_FOUND,
            "Ask the node on which the delete was asked for; it keeps the last few hundred receipts.",
        ),
        Refusal::AmbiguousId { .. } => (CONFLICT, "Say which one is meant as ID@HOST."),
        Refusal::IdTaken { .. } => (CONFLICT, "Leave `id` out to have one made."),
        Refusal::IdSpent { .. } => (CONFLICT, "Leave `id` out to have one made."),
        Refusal::ParentNotFound(_) => {
            (NOT_FOUND, "Create the session on the host that its parent is on.")
        }
        Refusal::ParentDeleted(_) => {
            (CONFLICT, "Restore the parent first, or leave `parent_id` out.")
        }
        Refusal::WorkspaceElsewhere { .. } => {
            (UNPROCESSABLE, "Choose a workspace on the session's own host.")
        }
        Refusal::WorkspaceSealed(_) => (CONFLICT, "Choose or create another workspace."),
        Refusal::SessionDeleted(_) => {
            (CONFLICT, "Restore it with POST /v1/operations/{operation}/restore first.")
        }
        Refusal::NotFailed(_) => {
            (CONFLICT, "Wait until the workspace's state is `failed`, or delete it first.")
        }
        Refusal::TrashNotFound(_) => (NOT_FOUND, "List what is kept with GET /v1/trash."),
        Refusal::TrashExpiring(_) => (CONFLICT, "It can't be had back; nothing else is affected."),
        Refusal::InvalidField { .. } => {
            (UNPROCESSABLE, "Change the field to what the detail asks for.")
        }
        Refusal::NodeNotFound(_) => (NOT_FOUND, "List the members with GET /v1/peers."),
        Refusal::AmbiguousNode { .. } => {
            (CONFLICT, "Give more digits of the key; GET /v1/peers lists them.")
        }
        Refusal::HostNotReady(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Try again once the host is connected; GET /v1/peers shows it.",
        ),
        Refusal::HostFull { .. } => (CONFLICT, HOST_FULL),
        Refusal::Blocked { .. } => (CONFLICT, BLOCKED),
        Refusal::Unwritable { .. } => (CONFLICT, UNWRITABLE),
        Refusal::ReadOnly | Refusal::ReaderHost(_) => {
            (FORBIDDEN, "Make the change on a node whose role is member or admin.")
        }
        Refusal::NotAdmin => (FORBIDDEN, "Do it on a node whose role is admin."),
        Refusal::ThisNodeRevoked { .. } => (
            FORBIDDEN,
            "Leave the fleet with POST /v1/leave; to come back the machine needs a new key and a ticket, or, where a junior admin has done it, to revoke that one in turn.",
        ),
        Refusal::SteppedDown(_) => {
            (CONFLICT, "Let the machine join again with a new key and invite.")
        }
        Refusal::RoleShrinks { .. } => {
            (CONFLICT, "Revoke the machine and let it join again with a new key and invite.")
        }
        Refusal::FleetFull { .. } => (
            CONFLICT,
            "Found a new fleet and invite the machines to it: each brings its own sessions along.",
        ),
        Refusal::LastAdmin(_) => (CONFLICT, "Promote or invite another admin first."),
        Refusal::Revoked(_) => (CONFLICT, "Let the machine join again with a new key and invite."),
        Refusal::Retired(_) => {
            (CONFLICT, "Let the machine join again with a new key and invite, under the same name.")
        }
        Refusal::IsRoot(_) => (
            CONFLICT,
            "Let it step down first, with POST /v1/step-down there; if it is lost, revoke it and then retire it.",
        ),
        Refusal::Oneself(_) => {
            (CONFLICT, "Name another member; to leave the fleet, use POST /v1/leave.")
        }
        Refusal::NotAlone => (CONFLICT, "Leave the present fleet first, with POST /v1/leave."),
        Refusal::Alone => (CONFLICT, "There is nothing to leave; join a fleet with POST /v1/join."),
        Refusal::JoinUnderWay => (CONFLICT, "Wait until that join has ended."),
        Refusal::JoinRefused { .. } => {
            (FORBIDDEN, "Ask for a new ticket: `sessionmesh invite` on a node of that fleet.")
        }
        Refusal::JoinUnreachable(_) => (
            StatusCode::GATEWAY_TIMEOUT,
            "See that the inviting daemon runs and that its UDP port can be reached from here.",
        ),
        Refusal::BadTicket(_) => (UNPROCESSABLE, BAD_TICKET),
    }
}
