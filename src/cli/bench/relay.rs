//! Owns a UDP relay that stands before a node: what passes it is lost, late or cut off as asked.
//!
//! Must not know what passes. Invariant: what is not lost is passed on unchanged, and, towards one
//! peer, in the order in which it came.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// Longest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Most datagrams under way in one direction: beyond, a real network loses them too.
const UNDER_WAY_MAX: usize = 16_384;

/// What becomes of datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Weather {
    /// How many of a hundred are lost.
    pub loss_percent: f64,
    /// How long each takes.
    pub delay: Duration,
}

/// The addresses between which nothing passes, shared by all relays.
#[derive(Debug, Clone, Default)]
pub struct Cuts(Arc<Mutex<BTreeSet<SocketAddr>>>);

impl Cuts {
    /// Cuts a node off from all others.
    pub fn cut(&self, node: SocketAddr) {
        self.set().insert(node);
    }

    /// Lets it be reached again.
    pub fn heal(&self, node: SocketAddr) {
        self.set().remove(&node);
    }

    fn holds(&self, one: SocketAddr, other: SocketAddr) -> bool {
        let set = self.set();
        set.contains(&one) || set.contains(&other)
    }

    fn set(&self) -> std::sync::MutexGuard<'_, BTreeSet<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stands before a node until it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// Begins to stand before a node.
    pub async fn before(node: SocketAddr, weather: Weather, cuts: Cuts) -> io::Result<Self> {
        let front = Arc::new(UdpSocket::bind((node.ip(), 0)).await?);
        let address = front.local_addr()?;
        let task = tokio::spawn(async move {
            let mut backs: BTreeMap<SocketAddr, Back> = BTreeMap::new();
            let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
            loop {
                let Ok((length, peer)) = front.recv_from(&mut datagram).await else { continue };
                if let std::collections::btree_map::Entry::Vacant(place) = backs.entry(peer) {
                    match Back::start(node, peer, front.clone(), weather, cuts.clone()).await {
                        Ok(back) => drop(place.insert(back)),
                        Err(error) => {
                            tracing::warn!(%error, "the relay has no port for a peer");
                            continue;
                        }
                    }
                }
                backs[&peer].forth.take(datagram[..length].to_vec());
            }
        });
        Ok(Self { address, task })
    }

    /// Returns where the node is reached through it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Both directions between one peer and the node.
#[derive(Debug)]
struct Back {
    forth: Arc<Way>,
    tasks: [JoinHandle<()>; 3],
}

impl Back {
    async fn start(
        node: SocketAddr,
        peer: SocketAddr,
        front: Arc<UdpSocket>,
        weather: Weather,
        cuts: Cuts,
    ) -> io::Result<Self> {
        let back = Arc::new(UdpSocket::bind((node.ip(), 0)).await?);
        back.connect(node).await?;
        let [forth, home] = [0, 1].map(|_| Arc::new(Way::new(node, peer, weather, cuts.clone())));
        let carry_forth = {
            let (way, back) = (forth.clone(), back.clone());
            tokio::spawn(async move {
                loop {
                    let datagram = way.next().await;
                    // A datagram that can't be sent is lost, as datagrams are.
                    let _ = back.send(&datagram).await;
                }
            })
        };
        let carry_home = {
            let way = home.clone();
            tokio::spawn(async move {
                loop {
                    let datagram = way.next().await;
                    let _ = front.send_to(&datagram, peer).await;
                }
            })
        };
        let receive = tokio::spawn(async move {
            let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
            loop {
                if let Ok(length) = back.recv(&mut datagram).await {
                    home.take(datagram[..length].to_vec());
                }
            }
        });
        Ok(Self { forth, tasks: [carry_forth, carry_home, receive] })
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One direction between a peer and the node.
#[derive(Debug)]
struct Way {
    node: SocketAddr,
    peer: SocketAddr,
    weather: Weather,
    cuts: Cuts,
    under_way: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    filled: Notify,
}

impl Way {
    fn new(node: SocketAddr, peer: SocketAddr, weather: Weather, cuts: Cuts) -> Self {
        let (under_way, filled) = (Mutex::default(), Notify::new());
        Self { node, peer, weather, cuts, under_way, filled }
    }

    fn take(&self, datagram: Vec<u8>) {
        let lost = fastrand::f64() * 100.0 < self.weather.loss_percent;
        if lost || self.cuts.holds(self.node, self.peer) {
            return;
        }
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.len() < UNDER_WAY_MAX {
            under_way.push_back((Instant::now() + self.weather.delay, datagram));
            drop(under_way);
            self.filled.notify_one();
        }
    }

    /// Returns the next datagram once it is there.
    async fn next(&self) -> Vec<u8> {
        loop {
            let first = {
                let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
                under_way.pop_front()
            };
            match first {
                Some((at, datagram)) => {
                    // Even a sleep that is over yields, and has the grain of a millisecond.
                    if at > Instant::now() {
                        sleep_until(at).await;
                    }
                    return datagram;
                }
                None => self.filled.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "127.0.0.1:0";

    async fn pair(weather: Weather, cuts: Cuts) -> (Relay, UdpSocket, UdpSocket) {
        let node = UdpSocket::bind(HERE).await.unwrap();
        let relay = Relay::before(node.local_addr().unwrap(), weather, cuts).await.unwrap();
        let peer = UdpSocket::bind(HERE).await.unwrap();
        peer.connect(relay.address()).await.unwrap();
        (relay, node, peer)
    }

    async fn received(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut datagram = [0; 16];
        let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
        (datagram[..length].to_vec(), from)
    }

    #[tokio::test]
    async fn what_is_sent_arrives_late_and_in_order_both_ways() {
        let delay = Duration::from_millis(20);
        let weather = Weather { loss_percent: 0.0, delay };
        let (_relay, node, peer) = pair(weather, Cuts::default()).await;
        let begun = Instant::now();
        for n in 0..10 {
            peer.send(&[n]).await.unwrap();
        }
        let (first, from) = received(&node).await;
        assert!(begun.elapsed() >= delay);
        assert_eq!(first, [0]);
        for n in 1..10 {
            assert_eq!(received(&node).await.0, [n]);
        }
        node.send_to(b"back", from).await.unwrap();
        assert_eq!(received(&peer).await.0, b"back");
    }

    #[tokio::test]
    async fn nothing_passes_to_or_from_a_node_that_is_cut_off_until_it_is_healed() {
        let cuts = Cuts::default();
        let (_relay, node, peer) = pair(Weather::default(), cuts.clone()).await;
        let address = peer.local_addr().unwrap();
        peer.send(b"before").await.unwrap();
        let (_, from) = received(&node).await;
        cuts.cut(address);
        peer.send(b"lost").await.unwrap();
        node.send_to(b"lost", from).await.unwrap();
        // A datagram of another peer, sent after them, shows that they were looked at and lost.
        let other = UdpSocket::bind(HERE).await.unwrap();
        other.send_to(b"other", peer.peer_addr().unwrap()).await.unwrap();
        assert_eq!(received(&node).await.0, b"other");
        cuts.heal(address);
        peer.send(b"after").await.unwrap();
        assert_eq!(received(&node).await.0, b"after");
    }

    #[tokio::test]
    async fn all_or_none_are_lost_where_that_is_asked() {
        let weather = Weather { loss_percent: 100.0, delay: Duration::ZERO };
        let way = Way::new(HERE.parse().unwrap(), HERE.parse().unwrap(), weather, Cuts::default());
        (0..100).for_each(|_| way.take(Vec::new()));
        assert!(way.under_way.lock().unwrap().is_empty());
        let weather = Weather { loss_percent: 0.0, delay: Duration::ZERO };
        let way = Way::new(HERE.parse().unwrap(), HERE.parse().unwrap(), weather, Cuts::default());
        (0..100).for_each(|_| way.take(Vec::new()));
        assert_eq!(way.under_way.lock().unwrap().len(), 100);
    }
}
