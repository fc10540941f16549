//! Owns the answering of dials.
//!
//! Must not know who a member is, beyond a list of keys. Invariant: what strangers can make this
//! node do at once is bounded, over all of them and per address; and no member is turned away for
//! them.

use std::{sync::Arc, time::Duration};

use quinn::{Incoming, VarInt};
use tokio_util::sync::CancellationToken;

use super::{
    open::{self, OpenError},
    places::{Limits, Place},
    shared::Shared,
};
use crate::{identity::tls, wire::CloseCode};

/// How many handshakes there may be at once: one takes a millisecond, unless the other side dawdles
/// for so long that it may be in the way of another. Whose key it is shows only at the end.
pub(super) const HANDSHAKES: Limits =
    Limits { all: 128, per_address: 32, kept_for: Duration::from_millis(500) };
/// How many of them make a dialler prove its address first, at the price of a round trip.
const HANDSHAKES_EASY: usize = 16;
/// How many keys that are no member's may have a connection at once: each is about to redeem a
/// ticket, which takes a few round trips.
pub(super) const STRANGERS: Limits = Limits { all: 64, per_address: 16, kept_for: Duration::ZERO };
/// Most links: several times the fleets that a full mesh is meant for, and the strangers.
const LINKS_MAX: usize = 1_024 + STRANGERS.all;

/// Answers dials until the endpoint is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let incoming = tokio::select! {
            biased;
            () = shared.closing.cancelled() => return,
            incoming = shared.endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let address = incoming.remote_address().ip();
        if shared.handshakes.count() >= HANDSHAKES_EASY && incoming.may_retry() {
            // Fails only where `may_retry` is false.
            drop(incoming.retry());
            continue;
        }
        let evicted = CancellationToken::new();
        let evict = evicted.clone();
        let place = (shared.count() < LINKS_MAX)
            .then(|| shared.handshakes.enter(address, move || evict.cancel()));
        let Some(place) = place.flatten() else {
            tracing::debug!(%address, "refused a dial: too many at once");
            incoming.refuse();
            continue;
        };
        let shared = shared.clone();
        shared.tasks.clone().spawn(async move {
            tokio::select! {
                biased;
                () = shared.closing.cancelled() => {}
                () = answer(&shared, incoming, place, evicted) => {}
            }
        });
    }
}

async fn answer(
    shared: &Arc<Shared>,
    incoming: Incoming,
    handshake: Place,
    evicted: CancellationToken,
) {
    let address = incoming.remote_address();
    // The handshake of a stranger that dawdles ends with the patience, like what comes after.
    let connection = tokio::select! {
        biased;
        () = evicted.cancelled() => {
            tracing::debug!(%address, "gave up a handshake: others wait");
            return;
        }
        connection = tokio::time::timeout(shared.open_max, incoming) => connection,
    };
    let connection = match connection {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a dial came to nothing");
            return;
        }
        Err(_) => return,
    };
    drop(handshake);
    let peer = tls::peer_node_id(&connection);
    if !tls::is_of_this_version(&connection) {
        let reason = open::other_version();
        tracing::warn!(%address, ?peer, reason, "refused a link");
        let code = VarInt::from_u32(CloseCode::Protocol.as_u32());
        connection.close(code, reason.as_bytes());
        return;
    }
    let mut place = None;
    if peer.is_none_or(|peer| !shared.is_member(peer)) {
        let evict = connection.clone();
        place = shared.strangers.enter(address.ip(), move || {
            let code = VarInt::from_u32(CloseCode::Timeout.as_u32());
            evict.close(code, b"too many wait here that are no members; try again");
        });
    }
    let this = (shared.node(), shared.start);
    let is_arbiter = |peer| shared.is_arbiter(peer);
    match open::open(connection, false, is_arbiter, this, shared.open_max).await {
        Ok(opened) => {
            shared.adopt(opened, place);
        }
        Err(OpenError::Refused { code, reason }) => {
            tracing::warn!(%address, ?peer, %code, reason, "refused a link");
        }
        Err(OpenError::Closed { reason, .. }) => {
            tracing::debug!(%address, ?peer, reason, "a link came to nothing");
        }
    }
}
