//! Owns the dialling of nodes that have no link.
//!
//! Must not know why a node is to be dialled. Invariant: a target without a link is being dialled
//! or waits for its next turn; each round that fails is told once; and where nobody has answered as
//! the peer, no more is dialled than the [budget](Budget) allows.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use quinn::{Connection, ConnectionError, TransportErrorCode};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    backoff::Backoff,
    budget::Budget,
    event::Event,
    link,
    open::{self, OpenError},
    shared::Shared,
};
use crate::{identity::tls, replica::ids::NodeId, wire::CloseCode};

/// How long after one address the next is tried beside it (RFC 8305 recommends 100 to 250 ms).
const STAGGER: Duration = Duration::from_millis(100);

/// Dials one node for as long as it is a target.
#[derive(Debug)]
pub(super) struct Dialer {
    pub addresses: watch::Sender<BTreeSet<String>>,
    pub at_once: Arc<Notify>,
    pub task: tokio::task::AbortHandle,
}

/// Whom to dial, and how.
struct Place {
    peer: NodeId,
    budget: Arc<Mutex<Budget>>,
    attempt_max: Duration,
}

/// How a round ended.
enum Round {
    /// There is a link, dialled or accepted, or there will be.
    Linked,
    /// The peer keeps another link.
    Duplicate,
    /// Nobody was reached.
    Failed(String),
}

impl Dialer {
    /// Starts to dial.
    pub(super) fn start(
        shared: &Arc<Shared>,
        rng: &Arc<Mutex<fastrand::Rng>>,
        peer: NodeId,
        (addresses, budget): (BTreeSet<String>, Arc<Mutex<Budget>>),
        attempt_max: Duration,
    ) -> Self {
        let (sender, receiver) = watch::channel(addresses);
        let at_once = Arc::new(Notify::new());
        let place = Place { peer, budget, attempt_max };
        let dial = keep_dialing(shared.clone(), rng.clone(), place, receiver, at_once.clone());
        let closing = shared.closing.clone();
        let task = shared.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => {}
                () = dial => {}
            }
        });
        Self { addresses: sender, at_once, task: task.abort_handle() }
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_dialing(
    shared: Arc<Shared>,
    rng: Arc<Mutex<fastrand::Rng>>,
    place: Place,
    mut addresses: watch::Receiver<BTreeSet<String>>,
    at_once: Arc<Notify>,
) {
    let peer = place.peer;
    let mut backoff = Backoff::default();
    loop {
        let told = addresses.borrow_and_update().clone();
        match round(&shared, &place, &told).await {
            Round::Linked => {
                let since = Instant::now();
                shared.until(peer, false).await;
                backoff.was_up(since.elapsed());
            }
            Round::Duplicate => {}
            Round::Failed(reason) => {
                tracing::debug!(peer = %peer.short(), reason, "dial failed");
                shared.teller.tell(Event::DialFailed { peer, reason }).await;
            }
        }
        // Also after a link: one that is closed as soon as it is up is not to be dialled in a loop.
        wait(&shared, &rng, &mut backoff, peer, &mut addresses, &at_once).await;
    }
}

/// Waits for the next turn, or for a reason not to wait.
async fn wait(
    shared: &Arc<Shared>,
    rng: &Mutex<fastrand::Rng>,
    backoff: &mut Backoff,
    peer: NodeId,
    addresses: &mut watch::Receiver<BTreeSet<String>>,
    at_once: &Notify,
) {
    let pause = backoff.next(&mut lock(rng));
    tokio::select! {
        biased;
        () = at_once.notified() => {}
        // An error means that the dialler is being dropped, which aborts this.
        _ = addresses.changed() => {}
        () = shared.until(peer, true) => {}
        () = sleep(pause) => {}
    }
}

/// Dials all addresses that the budget allows, one shortly after the other; the first that answers as
/// the peer is taken.
async fn round(shared: &Arc<Shared>, place: &Place, addresses: &BTreeSet<String>) -> Round {
    let Place { peer, budget, attempt_max } = place;
    let (peer, attempt_max) = (*peer, *attempt_max);
    if shared.is_up(peer) {
        return Round::Linked;
    }
    if addresses.is_empty() {
        return Round::Failed("no address is known".into());
    }
    let mut config = quinn::ClientConfig::new(Arc::new(tls::client(&shared.key, peer)));
    config.transport_config(shared.transport.clone());
    let (allowed, mut failures) = allowed(&mut lock(budget), addresses);
    let mut attempts: FuturesUnordered<_> = allowed
        .into_iter()
        .zip(0_u32..)
        .map(|(address, turn)| {
            let config = config.clone();
            async move {
                sleep(STAGGER * turn).await;
                let attempt = timeout(attempt_max, connect(shared, config, address)).await;
                attempt
                    .unwrap_or_else(|_| Err("no answer".into()))
                    .map_err(|reason| format!("{address}: {reason}"))
            }
        })
        .collect();
    let connection = loop {
        let answer = tokio::select! {
            biased;
            () = shared.until(peer, true) => return Round::Linked,
            answer = attempts.next() => answer,
        };
        match answer {
            Some(Ok(connection)) => break connection,
            Some(Err(failure)) => failures.push(failure),
            None => {
                failures.sort();
                return Round::Failed(failures.join("; "));
            }
        }
    };
    drop(attempts);
    let address = connection.remote_address();
    lock(budget).answered(address);
    let this = (shared.node(), shared.start);
    // Not given up when another link comes up meanwhile: the peer may have chosen this one.
    match open::open(connection, true, |_| false, this, shared.open_max).await {
        Ok(opened) => {
            shared.adopt(opened, None);
            Round::Linked
        }
        Err(OpenError::Closed { code: Some(CloseCode::Duplicate), .. }) => Round::Duplicate,
        Err(error) => Round::Failed(format!("{address}: {error}")),
    }
}

/// Returns where to dial, in order, and why not at the other addresses.
fn allowed(budget: &mut Budget, addresses: &BTreeSet<String>) -> (Vec<SocketAddr>, Vec<String>) {
    let mut parsed = BTreeSet::new();
    let mut failures = Vec::new();
    for address in addresses {
        match address.parse() {
            Ok(address) => drop(parsed.insert(address)),
            Err(_) => failures.push(format!("{address}: not an IP address and a port")),
        }
    }
    let mut allowed = budget.order(parsed.into_iter().collect());
    allowed.retain(|address| {
        let may = budget.spend(address);
        if !may {
            failures.push(format!("{address}: dialled in vain too often, put off"));
        }
        may
    });
    (allowed, failures)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this lock")
}

async fn connect(
    shared: &Shared,
    config: quinn::ClientConfig,
    address: SocketAddr,
) -> Result<Connection, String> {
    let connecting = shared.endpoint.connect_with(config, address, tls::SERVER_NAME).map_err(
        |error| match error {
            quinn::ConnectError::InvalidRemoteAddress(_) if address.is_ipv6() => {
                "this node speaks IPv4 only; start it with --listen [::]:PORT to speak both".into()
            }
            other => other.to_string(),
        },
    )?;
    connecting.await.map_err(|error| match &error {
        ConnectionError::TransportError(alert)
            if alert.code == TransportErrorCode::crypto(tls::WRONG_KEY_ALERT) =>
        {
            "another node answers there".into()
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::crypto(tls::WRONG_PROTOCOL_ALERT) =>
        {
            open::other_version()
        }
        other => link::describe(other),
    })
}
