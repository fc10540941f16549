//! Owns the routes about the fleet: its members, tickets, joining and leaving.
//!
//! Must not know how nodes find or trust each other. Invariant: a ticket's text is told only to
//! who asked for the ticket, and is never logged.

use std::time::Duration;

use axum::{Json, body::Body, extract::State};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    body::{self, BODY_BYTES_MAX, InviteBody, JoinBody, PromoteBody, Segment},
    problem::Error,
};
use crate::{
    daemon::handle::Peer,
    identity::{random, ticket},
    replica::{
        command::{Command, Refusal, Reply},
        ids::{FleetId, NodeId},
        record::Role,
    },
};

/// How long a ticket is good for if the request doesn't say, seconds.
pub const INVITE_EXPIRES_S_DEFAULT: u64 = 3_600;
/// How long a ticket may be good for, seconds: 30 days. It is a key to the fleet that lies about
/// somewhere.
pub const INVITE_EXPIRES_S_MAX: u64 = 30 * 86_400;

/// The answer of `POST /v1/invites`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// What to give to `sessionmesh join`.
    pub ticket: String,
    /// What the new member may do.
    pub role: Role,
    /// Milliseconds since the epoch by this node's clock.
    pub expires_at: i64,
}

/// The answer of `POST /v1/join` and `POST /v1/leave`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFleet {
    /// The fleet that this node now belongs to.
    pub fleet: FleetId,
}

/// The answer of pausing, resuming, promoting, revoking, retiring and stepping down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerChanged {
    /// The member that was meant.
    pub node: NodeId,
}

pub(super) async fn peers(State(shared): State<Shared>) -> Result<Json<Vec<Peer>>, Error> {
    Ok(Json(shared.handle.peers().await?))
}

pub(super) async fn pause(
    State(shared): State<Shared>,
    Segment(node): Segment,
) -> Result<Json<PeerChanged>, Error> {
    peer(&shared, Command::Pause(node)).await
}

pub(super) async fn resume(
    State(shared): State<Shared>,
    Segment(node): Segment,
) -> Result<Json<PeerChanged>, Error> {
    peer(&shared, Command::Resume(node)).await
}

pub(super) async fn revoke(
    State(shared): State<Shared>,
    Segment(node): Segment,
) -> Result<Json<PeerChanged>, Error> {
    peer(&shared, Command::Revoke(node)).await
}

pub(super) async fn retire(
    State(shared): State<Shared>,
    Segment(node): Segment,
) -> Result<Json<PeerChanged>, Error> {
    peer(&shared, Command::Retire(node)).await
}

pub(super) async fn promote(
    State(shared): State<Shared>,
    Segment(node): Segment,
    body: Body,
) -> Result<Json<PeerChanged>, Error> {
    let PromoteBody { role } = body::json(body, BODY_BYTES_MAX).await?;
    peer(&shared, Command::Promote { node, role }).await
}

pub(super) async fn step_down(State(shared): State<Shared>) -> Result<Json<PeerChanged>, Error> {
    peer(&shared, Command::StepDown).await
}

async fn peer(shared: &Shared, command: Command) -> Result<Json<PeerChanged>, Error> {
    match shared.handle.command(command).await? {
        Reply::Peer(node) => Ok(Json(PeerChanged { node })),
        _ => Err(Error::ForeignReply),
    }
}

pub(super) async fn invite(
    State(shared): State<Shared>,
    body: Body,
) -> Result<Json<Invited>, Error> {
    let InviteBody { role, expires_in_s } = body::json_or_default(body, BODY_BYTES_MAX).await?;
    let seconds = expires_in_s.unwrap_or(INVITE_EXPIRES_S_DEFAULT);
    if !(1..=INVITE_EXPIRES_S_MAX).contains(&seconds) {
        let problem = format!("is {seconds}, but must be from 1 to {INVITE_EXPIRES_S_MAX}");
        return Err(Refusal::InvalidField { field: "expires_in_s".to_owned(), problem }.into());
    }
    let (role, expires_in) = (role.unwrap_or(Role::Member), Duration::from_secs(seconds));
    match shared.handle.command(Command::Invite { role, expires_in, secret: random() }).await? {
        Reply::Invited(ticket) => Ok(Json(Invited {
            ticket: ticket::encode(&ticket),
            role: ticket.role,
            expires_at: ticket.expires_at,
        })),
        _ => Err(Error::ForeignReply),
    }
}

pub(super) async fn join(State(shared): State<Shared>, body: Body) -> Result<Json<InFleet>, Error> {
    let JoinBody { ticket } = body::json(body, BODY_BYTES_MAX).await?;
    let ticket = ticket::decode(ticket.trim())?;
    match shared.handle.command(Command::Join(ticket)).await? {
        Reply::Joined(fleet) => Ok(Json(InFleet { fleet })),
        _ => Err(Error::ForeignReply),
    }
}

pub(super) async fn leave(State(shared): State<Shared>) -> Result<Json<InFleet>, Error> {
    match shared.handle.command(Command::Leave).await? {
        Reply::Joined(fleet) => Ok(Json(InFleet { fleet })),
        Reply::Done => Ok(Json(InFleet { fleet: shared.handle.status().await?.fleet })),
        _ => Err(Error::ForeignReply),
    }
}
