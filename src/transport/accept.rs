//! Owns the answering of dials.
//!
//! Must not know who is a member. Invariant: what strangers can make this node do at once is
//! bounded, over all of them and per address.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use quinn::Incoming;

use super::{
    open::{self, OpenError},
    shared::Shared,
};
use crate::identity::tls;

/// Most handshakes at once: one takes a millisecond, unless the other side dawdles.
const HANDSHAKES_MAX: usize = 128;
/// How many of them make a dialler prove its address first, at the price of a round trip.
const HANDSHAKES_EASY: usize = 16;
/// Most handshakes at once from one address, so that one machine can't take all places.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 32;
/// Most links: several times the fleets that a full mesh is meant for.
const LINKS_MAX: usize = 1_024;

/// Counts the handshakes on the way, by address.
#[derive(Debug, Default)]
struct Handshakes(Mutex<BTreeMap<IpAddr, usize>>);

/// Is one handshake on the way.
struct Place {
    handshakes: Arc<Handshakes>,
    address: IpAddr,
}

/// What becomes of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Welcome,
    ProveAddress,
    Refuse,
}

/// Answers dials until the endpoint is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let handshakes = Arc::new(Handshakes::default());
    loop {
        let incoming = tokio::select! {
            biased;
            () = shared.closing.cancelled() => return,
            incoming = shared.endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        let address = incoming.remote_address().ip();
        let crowded = shared.count() >= LINKS_MAX;
        match handshakes.admit(address, incoming.may_retry(), crowded) {
            Admission::Welcome => {
                let place = Handshakes::enter(&handshakes, address);
                let shared = shared.clone();
                shared.tasks.clone().spawn(async move {
                    answer(&shared, incoming).await;
                    drop(place);
                });
            }
            // Fails only where `may_retry` is false.
            Admission::ProveAddress => drop(incoming.retry()),
            Admission::Refuse => {
                tracing::debug!(%address, "refused a dial: too many at once");
                incoming.refuse();
            }
        }
    }
}

async fn answer(shared: &Arc<Shared>, incoming: Incoming) {
    let address = incoming.remote_address();
    // The handshake of a stranger that dawdles ends with the patience, like what comes after.
    let connection = match tokio::time::timeout(shared.open_max, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a dial came to nothing");
            return;
        }
        Err(_) => return,
    };
    let peer = tls::peer_node_id(&connection);
    let this = (shared.node(), shared.start);
    let opened = tokio::select! {
        biased;
        () = shared.closing.cancelled() => return,
        opened = open::open(connection, false, |peer| shared.is_arbiter(peer), this, shared.open_max)
            => opened,
    };
    match opened {
        Ok(opened) => {
            shared.adopt(opened);
        }
        Err(OpenError::Refused { code, reason }) => {
            tracing::warn!(%address, ?peer, %code, reason, "refused a link");
        }
        Err(OpenError::Closed { reason, .. }) => {
            tracing::debug!(%address, ?peer, reason, "a link came to nothing");
        }
    }
}

impl Handshakes {
    fn admit(&self, address: IpAddr, may_retry: bool, crowded: bool) -> Admission {
        let by_address = self.0.lock().expect("nothing panics while it holds this lock");
        let all: usize = by_address.values().sum();
        let here = by_address.get(&address).copied().unwrap_or(0);
        if all >= HANDSHAKES_EASY && may_retry {
            Admission::ProveAddress
        } else if crowded || all >= HANDSHAKES_MAX || here >= HANDSHAKES_PER_ADDRESS_MAX {
            Admission::Refuse
        } else {
            Admission::Welcome
        }
    }

    fn enter(handshakes: &Arc<Self>, address: IpAddr) -> Place {
        let mut by_address = handshakes.0.lock().expect("nothing panics while it holds this lock");
        *by_address.entry(address).or_default() += 1;
        Place { handshakes: handshakes.clone(), address }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Ok(mut by_address) = self.handshakes.0.lock() else { return };
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_crowd_has_to_prove_its_addresses_and_a_greater_one_is_refused() {
        let handshakes = Arc::new(Handshakes::default());
        let mut places = Vec::new();
        for n in 0..HANDSHAKES_MAX {
            let from = address(n as u8);
            let easy = n < HANDSHAKES_EASY;
            let expected = if easy { Admission::Welcome } else { Admission::ProveAddress };
            assert_eq!(handshakes.admit(from, true, false), expected, "{n}");
            assert_eq!(handshakes.admit(from, false, false), Admission::Welcome, "{n}");
            places.push(Handshakes::enter(&handshakes, from));
        }
        assert_eq!(handshakes.admit(address(200), false, false), Admission::Refuse);
        places.clear();
        assert_eq!(handshakes.admit(address(200), false, false), Admission::Welcome);
        assert!(handshakes.0.lock().unwrap().is_empty(), "no address is remembered");
    }

    #[test]
    fn one_address_cannot_take_all_places() {
        let handshakes = Arc::new(Handshakes::default());
        let _places: Vec<Place> = (0..HANDSHAKES_PER_ADDRESS_MAX)
            .map(|_| Handshakes::enter(&handshakes, address(1)))
            .collect();
        assert_eq!(handshakes.admit(address(1), false, false), Admission::Refuse);
        assert_eq!(handshakes.admit(address(2), false, false), Admission::Welcome);
    }

    #[test]
    fn a_node_with_too_many_links_takes_no_more() {
        let handshakes = Handshakes::default();
        assert_eq!(handshakes.admit(address(1), false, true), Admission::Refuse);
    }
}
