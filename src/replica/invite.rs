//! Owns tickets and invites: how a new node is let into a fleet, once.
//!
//! Must not know how a ticket travels. Invariant: a secret is stored only as its SHA-256, and of
//! all who present it exactly one node gets in.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

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

/// Returns the form in which a ticket's secret is stored and looked up.
///
/// A look-up among hashes of 256-bit secrets tells nothing by the time that it takes: to steer
/// it, one would have to know the secret.
pub fn secret_hash(secret: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(secret).into()
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
