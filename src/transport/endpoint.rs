//! Owns the endpoint: binding it, and what others can ask of it.
//!
//! Must not know how links work inside. Invariant: nothing here waits for a peer, but `shutdown`,
//! which waits for a bounded time.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use quinn::{AsyncUdpSocket, EndpointConfig, Runtime as _, ServerConfig, TokioRuntime, VarInt};

use super::{
    accept,
    budget::Budget,
    dial::Dialer,
    event::{self, Events, Shown},
    link::{Ending, FLUSH_MAX, LINK_WINDOW, SNAPSHOT_STREAMS_MAX, STRANGER_WINDOW, STREAM_WINDOW},
    shared::{Foundation, Shared, Traffic},
    wake,
};
use crate::{
    identity::{NodeKey, tls},
    replica::{
        effect::DialTarget,
        ids::{NodeId, StartId},
    },
    wire::{self, CloseCode, EncodeError, Frame},
};

/// Most bytes of one link that are on their way and not acknowledged.
const SEND_WINDOW: u64 = 4 << 20;
/// The round trip that is assumed before it is measured: a first packet that is lost is sent anew
/// after three of these, and a daemon that has just started is found.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// How long the last packets of closed links may take.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A link on which nothing was heard for so long is lost.
    pub idle_max: Duration,
    /// How often something is said on a link that is silent otherwise; a third of `idle_max`, so
    /// that two lost packets do no harm.
    pub keep_alive: Duration,
    /// How long a peer may take for the handshake, and for its first frame after it.
    pub open_max: Duration,
    /// How long one address may take to answer a dial.
    pub dial_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            idle_max: Duration::from_secs(10),
            keep_alive: Duration::from_secs(3),
            open_max: Duration::from_secs(5),
            dial_max: Duration::from_secs(5),
        }
    }
}

/// What a transport needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 picks a free one. Not looked at if the socket is given.
    pub listen: SocketAddr,
    /// This node's key.
    pub key: Arc<NodeKey>,
    /// This start of the node.
    pub start: StartId,
    /// Seeds the waits between dials; random but in a simulation.
    pub seed: u64,
    /// Reads the wall clock, milliseconds since the epoch, to notice that the machine was asleep;
    /// `None` where time is simulated.
    pub wall_ms: Option<fn() -> i64>,
    /// How long is waited for what.
    pub timing: Timing,
}

/// Explains why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has the port.
    #[error("{address}/udp is in use, perhaps by another daemon; stop it or pass --listen")]
    InUse {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// No interface of this machine has the address.
    #[error("{address}/udp: this machine has no such address; pass another with --listen")]
    NotHere {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// The operating system refused for another reason.
    #[error("{address}/udp: cannot listen: {source}")]
    Io {
        /// Where it was to listen.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// How a link stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// Whose it is.
    pub peer: NodeId,
    /// Whether this node dialled.
    pub dialed: bool,
    /// Where the peer is now.
    pub address: SocketAddr,
    /// The round trip, as estimated.
    pub rtt: Duration,
}

/// Holds this node's endpoint and its links. Dropping it cuts them off; see
/// [`shutdown`](Self::shutdown).
///
/// - For the loop: [`send`](Self::send), [`accept`](Self::accept), [`close`](Self::close),
///   [`set_members`](Self::set_members), [`set_targets`](Self::set_targets),
///   [`redial`](Self::redial).
/// - For status: [`links`](Self::links), [`rtt`](Self::rtt), [`are_two`](Self::are_two),
///   [`traffic`](Self::traffic),
///   [`local_addr`](Self::local_addr), [`connections`](Self::connections).
pub struct Transport {
    shared: Arc<Shared>,
    dialers: Arc<Mutex<BTreeMap<NodeId, Dialer>>>,
    /// How often each may be dialled; those of former targets are kept until they are full again, so
    /// that nothing is gained by being no target for a moment.
    budgets: Mutex<BTreeMap<NodeId, Arc<Mutex<Budget>>>>,
    rng: Arc<Mutex<fastrand::Rng>>,
    dial_max: Duration,
}

impl Transport {
    /// Listens on a UDP port; to be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The port is taken, or the address is not this machine's.
    pub fn bind(config: Config) -> Result<(Self, Events), BindError> {
        let address = config.listen;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address },
            io::ErrorKind::AddrNotAvailable => BindError::NotHere { address },
            _ => BindError::Io { address, source },
        };
        let socket = std::net::UdpSocket::bind(address).map_err(failed)?;
        let socket = TokioRuntime.wrap_udp_socket(socket).map_err(failed)?;
        Self::with_socket(config, EndpointConfig::default(), socket).map_err(failed)
    }

    /// Takes a socket that may be simulated; with a seeded `endpoint` and tokio's paused time the
    /// same network gives the same run.
    ///
    /// # Errors
    ///
    /// The socket has no address.
    pub fn with_socket(
        config: Config,
        endpoint: EndpointConfig,
        socket: Arc<dyn AsyncUdpSocket>,
    ) -> io::Result<(Self, Events)> {
        let Config { key, start, seed, wall_ms, timing, .. } = config;
        let transport = Arc::new(transport_config(&timing));
        let mut server = ServerConfig::with_crypto(Arc::new(tls::server(&key)));
        let mut strangers = transport_config(&timing);
        strangers
            .receive_window(VarInt::from_u32(STRANGER_WINDOW))
            .max_concurrent_uni_streams(VarInt::from_u32(0));
        server.transport_config(Arc::new(strangers)).migration(true);
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            endpoint,
            Some(server),
            socket,
            Arc::new(TokioRuntime),
        )?;
        let shown = Arc::new(Shown::default());
        let (teller, events) = event::channel(shown.clone());
        let foundation = Foundation {
            key,
            start,
            endpoint,
            shown,
            teller,
            open_max: timing.open_max,
            transport,
        };
        let shared = Arc::new(Shared::new(foundation));
        shared.tasks.spawn(accept::run(shared.clone()));
        let transport = Self {
            shared,
            dialers: Arc::default(),
            budgets: Mutex::default(),
            rng: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
            dial_max: timing.dial_max,
        };
        if let Some(wall_ms) = wall_ms {
            transport.watch_for_sleep(wall_ms, timing.idle_max);
        }
        Ok((transport, events))
    }

    /// Sends a frame, encoded once, to the peers among `to` whose link was shown.
    ///
    /// Never waits: where a peer's queue is full the frame is dropped, and
    /// [`Event::Drained`](super::Event::Drained) follows.
    ///
    /// # Errors
    ///
    /// The frame has no encoding; it was sent to nobody.
    pub fn send(&self, to: &[NodeId], frame: &Frame) -> Result<(), EncodeError> {
        let links: Vec<_> = to.iter().filter_map(|peer| self.shared.shown.get(*peer)).collect();
        if links.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(wire::encode(frame)?);
        for link in links {
            if !link.outbox.push(frame.lane(), bytes.clone()) {
                tracing::debug!(peer = %link.peer.short(), kind = frame.kind(), "dropped a frame");
            }
        }
        Ok(())
    }

    /// Says whose keys are members': none of them is ever turned away for others that dial.
    pub fn set_members(&self, members: BTreeSet<NodeId>) {
        self.shared.set_members(members);
    }

    /// Lets a peer say all that a link is for. Until then nothing but its first frame is read, and it
    /// can make this node hold no more than a little.
    pub fn accept(&self, peer: NodeId) {
        if let Some(link) = self.shared.shown.get(peer) {
            link.accept();
        }
    }

    /// Closes the shown link to a peer, after what was queued for it before; `Lost` follows.
    pub fn close(&self, peer: NodeId, code: CloseCode, reason: &str) {
        if let Some(link) = self.shared.shown.get(peer) {
            link.end(Ending { code, reason: reason.into(), flush: true });
        }
    }

    /// Dials these nodes as long as they have no link, and no others.
    ///
    /// A target that is new, or has other addresses than before, is dialled at once.
    pub fn set_targets(&self, targets: Vec<DialTarget>) {
        let mut wanted: BTreeMap<NodeId, _> = targets
            .into_iter()
            .filter(|target| target.node != self.shared.node())
            .map(|target| (target.node, target.addresses))
            .collect();
        let mut dialers = lock(&self.dialers);
        dialers.retain(|peer, dialer| {
            let Some(addresses) = wanted.remove(peer) else { return false };
            dialer.addresses.send_if_modified(|known| {
                let changed = *known != addresses;
                *known = addresses;
                changed
            });
            true
        });
        let mut budgets = lock(&self.budgets);
        budgets.retain(|peer, budget| dialers.contains_key(peer) || !lock(budget).is_full());
        for (peer, addresses) in wanted {
            let new = || Arc::new(Mutex::new(Budget::new()));
            let budget = budgets.entry(peer).or_insert_with(new).clone();
            let how = (addresses, budget);
            dialers.insert(peer, Dialer::start(&self.shared, &self.rng, peer, how, self.dial_max));
        }
    }

    /// Dials a target at once if it has no link.
    pub fn redial(&self, peer: NodeId) {
        if let Some(dialer) = lock(&self.dialers).get(&peer) {
            dialer.at_once.notify_waiters();
        }
    }

    /// Returns the round trip of a peer's link.
    pub fn rtt(&self, peer: NodeId) -> Option<Duration> {
        self.shared.shown.get(peer).map(|link| link.connection.rtt())
    }

    /// Tells whether two daemons that run with a member's key were seen in the last minutes.
    pub fn are_two(&self, peer: NodeId) -> bool {
        self.shared.are_two(peer)
    }

    /// Returns how much went over links since the start.
    pub fn traffic(&self) -> Traffic {
        self.shared.traffic()
    }

    /// Returns the links that were shown, by peer.
    pub fn links(&self) -> Vec<LinkStatus> {
        let links = self.shared.shown.all();
        links
            .iter()
            .map(|link| LinkStatus {
                peer: link.peer,
                dialed: link.claim.dialed,
                address: link.connection.remote_address(),
                rtt: link.connection.rtt(),
            })
            .collect()
    }

    /// Returns how many QUIC connections there are, those in their handshake or being closed too.
    pub fn connections(&self) -> usize {
        self.shared.endpoint.open_connections()
    }

    /// Returns where the endpoint listens.
    ///
    /// # Errors
    ///
    /// The operating system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.endpoint.local_addr()
    }

    /// Closes all links, after what was queued on them, and waits until that is done, two or
    /// three seconds at most. No events are told any more.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        shared.closing.cancel();
        lock(&self.dialers).clear();
        shared.end_all(&Ending {
            code: CloseCode::Shutdown,
            reason: "the daemon is stopping".into(),
            flush: true,
        });
        shared.tasks.close();
        // Links flush for so long at most; one that waits for its event to be taken is cut off.
        let _ = tokio::time::timeout(FLUSH_MAX + FAREWELL_MAX / 2, shared.until_none()).await;
        shared.deaf.cancel();
        shared.endpoint.close(VarInt::from_u32(CloseCode::Shutdown.as_u32()), b"");
        let _ = tokio::time::timeout(FAREWELL_MAX, async {
            shared.tasks.wait().await;
            shared.endpoint.wait_idle().await;
        })
        .await;
    }

    fn watch_for_sleep(&self, wall_ms: fn() -> i64, idle_max: Duration) {
        let shared = self.shared.clone();
        let dialers = Arc::downgrade(&self.dialers);
        let watch = async move {
            loop {
                let slept = wake::woken(wall_ms).await;
                let Some(dialers) = dialers.upgrade() else { return };
                tracing::info!(?slept, "the machine was asleep; dialling");
                if slept >= idle_max {
                    // The other sides have given these links up by now.
                    shared.end_all(&Ending {
                        code: CloseCode::Timeout,
                        reason: "this machine was asleep".into(),
                        flush: false,
                    });
                }
                for dialer in lock(&dialers).values() {
                    dialer.at_once.notify_one();
                }
            }
        };
        let closing = self.shared.closing.clone();
        self.shared.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => {}
                () = watch => {}
            }
        });
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.shared.deaf.cancel();
        self.shared.endpoint.close(VarInt::from_u32(CloseCode::Shutdown.as_u32()), b"");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this lock")
}

fn transport_config(timing: &Timing) -> quinn::TransportConfig {
    let idle = timing.idle_max.try_into().expect("an idle timeout is far below 2^62 ms");
    let mut config = quinn::TransportConfig::default();
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(timing.keep_alive))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(SNAPSHOT_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(LINK_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None);
    config
}
