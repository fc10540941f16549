//! Owns tickets and invites: how a new node is let into a fleet, once.
//!
//! Must not know how a ticket travels. Invariant: a secret is stored only as its SHA-256, and of
//! all who present it exactly one node gets in.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    ids::{FleetId, NodeId},
    record::Role,
};

/// What the inviting node remembers of an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredInvite {
    /// What the new member may do.
    pub role: Role,
    /// Milliseconds since the epoch by the inviting node's clock.
    pub expires_at: i64,
    /// The node that was let in; it may ask again, nobody else may.
    pub redeemed_by: Option<NodeId>,
}

/// What a new node is given, out of band.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The fleet to join.
    pub fleet: FleetId,
    /// The node that lets it in.
    pub inviter: NodeId,
    /// Where that node can be dialled, `IP:PORT`.
    pub addresses: BTreeSet<String>,
    /// One-time, 256 bits.
    pub secret: [u8; 32],
    /// What the new member may do; informative, the inviter decides.
    pub role: Role,
    /// Milliseconds since the epoch by the inviter's clock.
    pub expires_at: i64,
}
