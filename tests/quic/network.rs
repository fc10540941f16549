//! Owns a simulated network: datagrams that are delayed, lost, repeated, reordered and damaged as
//! a seed says, in tokio's virtual time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// How bad the network is, in percent of the datagrams.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub lost: u32,
    pub repeated: u32,
    pub late: u32,
    pub damaged: u32,
}

#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

struct State {
    rng: fastrand::Rng,
    weather: Weather,
    ports: BTreeMap<SocketAddr, Port>,
    /// Addresses that nothing reaches and nothing leaves.
    cut_off: BTreeSet<SocketAddr>,
    began: Instant,
    /// When what went where: how much of it, as QUIC's keys differ from run to run.
    trace: Sha256,
    pub datagrams: u64,
    sockets: u64,
}

#[derive(Default)]
struct Port {
    /// The socket that it belongs to: others at its address are dead.
    socket: u64,
    arrived: VecDeque<(SocketAddr, Vec<u8>)>,
    reader: Option<Waker>,
}

impl Network {
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: fastrand::Rng::with_seed(seed),
            weather,
            ports: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            began: Instant::now(),
            trace: Sha256::new(),
            datagrams: 0,
            sockets: 0,
        })))
    }

    pub fn socket(&self, address: SocketAddr) -> Arc<dyn AsyncUdpSocket> {
        let mut state = self.state();
        state.sockets += 1;
        let number = state.sockets;
        // A new socket does not get what was sent to the one before it.
        state.ports.insert(address, Port { socket: number, ..Port::default() });
        Arc::new(Socket { address, number, network: self.clone() })
    }

    /// Has whoever is at an address die: QUIC goes on for a while without the process, and would
    /// turn away who dials it.
    pub fn unplug(&self, address: SocketAddr) {
        self.state().ports.remove(&address);
    }

    pub fn cut_off(&self, address: SocketAddr, cut: bool) {
        let mut state = self.state();
        if cut {
            state.cut_off.insert(address);
        } else {
            state.cut_off.remove(&address);
        }
    }

    /// How many datagrams were sent, and a digest of when and where.
    pub fn trace(&self) -> (u64, Vec<u8>) {
        let state = self.state();
        (state.datagrams, state.trace.clone().finalize().to_vec())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn send(&self, from: SocketAddr, socket: u64, to: SocketAddr, bytes: &[u8]) {
        let mut state = self.state();
        if state.ports.get(&from).is_none_or(|port| port.socket != socket) {
            return;
        }
        let at = state.began.elapsed().as_micros();
        state.trace.update(format!("{at} {from} {to} {}\n", bytes.len()));
        state.datagrams += 1;
        let weather = state.weather;
        let mut dice = |percent: u32| state.rng.u32(0..100) < percent;
        let (lost, repeated, late) =
            (dice(weather.lost), dice(weather.repeated), dice(weather.late));
        let damaged = dice(weather.damaged);
        let delay = 2_000 + state.rng.u64(0..2_000);
        let later = delay + state.rng.u64(0..60_000);
        let spot = state.rng.usize(0..bytes.len().max(1));
        if lost || state.cut_off.contains(&from) || state.cut_off.contains(&to) {
            return;
        }
        let mut bytes = bytes.to_vec();
        if repeated {
            self.deliver(from, to, bytes.clone(), later);
        }
        if damaged && let Some(byte) = bytes.get_mut(spot) {
            *byte ^= 0x10;
        }
        self.deliver(from, to, bytes, if late { later } else { delay });
    }

    fn deliver(&self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>, delay_us: u64) {
        let network = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_micros(delay_us)).await;
            let mut state = network.state();
            let cut = state.cut_off.contains(&to);
            if let Some(port) = state.ports.get_mut(&to).filter(|_| !cut) {
                port.arrived.push_back((from, bytes));
                if let Some(reader) = port.reader.take() {
                    reader.wake();
                }
            }
        });
    }
}

struct Socket {
    address: SocketAddr,
    number: u64,
    network: Network,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.address)
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.network.send(self.address, self.number, transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.network.state();
        let port = state.ports.get_mut(&self.address).filter(|port| port.socket == self.number);
        let Some(port) = port else { return Poll::Pending };
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some((from, bytes)) = port.arrived.pop_front() else { break };
            buffer[..bytes.len()].copy_from_slice(&bytes);
            *meta = RecvMeta {
                addr: from,
                len: bytes.len(),
                stride: bytes.len(),
                ecn: None,
                dst_ip: None,
            };
            count += 1;
        }
        if count == 0 {
            port.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
