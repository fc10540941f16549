//! Owns a node that is nothing but its transport, and checks the order of all that it is told.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use sessionmesh::{
    identity::NodeKey,
    replica::{
        effect::DialTarget,
        ids::{NodeId, StartId},
    },
    transport::{Config, Event, Events, Timing, Transport},
    wire::{CloseCode, Frame},
};
use tokio::time::{Instant, timeout};

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub struct Node {
    pub id: NodeId,
    pub transport: Transport,
    events: Events,
    /// Peers with a link, and how many frames it has brought.
    pub up: BTreeMap<NodeId, usize>,
    /// Whether whoever says something is accepted.
    pub accepts: bool,
}

pub fn config(key: Arc<NodeKey>, start: u8) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        key,
        start: StartId([start; 8]),
        seed: u64::from(start),
        wall_ms: None,
        timing: Timing::default(),
    }
}

impl Node {
    /// A node with a key of its own, on a free port of the loopback interface.
    pub fn new() -> Self {
        Self::on_loopback(config(Arc::new(NodeKey::generate()), 1))
    }

    pub fn on_loopback(config: Config) -> Self {
        let id = config.key.node();
        Self::of(id, Transport::bind(config).unwrap())
    }

    pub fn of(id: NodeId, (transport, events): (Transport, Events)) -> Self {
        Self { id, transport, events, up: BTreeMap::new(), accepts: true }
    }

    /// Who it is and where.
    pub fn place(&self) -> (NodeId, SocketAddr) {
        (self.id, self.transport.local_addr().unwrap())
    }

    pub fn target(&self) -> DialTarget {
        self.target_at(self.id)
    }

    /// This node's address, under another's name.
    pub fn target_at(&self, node: NodeId) -> DialTarget {
        let address = self.transport.local_addr().unwrap().to_string();
        DialTarget { node, addresses: [address].into() }
    }

    /// The next event, which must not be out of order.
    pub async fn next(&mut self) -> Event {
        let event = self.events.recv().await.expect("the transport lives");
        match &event {
            Event::Connected { peer, .. } => {
                assert_eq!(self.up.insert(*peer, 0), None, "a second link was shown");
            }
            Event::Lost { peer, .. } => {
                assert!(self.up.remove(peer).is_some(), "a link was lost that was not shown");
            }
            Event::Frame { peer, .. } => {
                let frames = self.up.get_mut(peer).expect("a frame came on a link not shown");
                *frames += 1;
                if *frames == 1 && self.accepts {
                    self.transport.accept(*peer);
                }
            }
            Event::Drained { peer } => {
                assert!(self.up.contains_key(peer), "a link drained that is not shown");
            }
            Event::DialFailed { .. } => {}
        }
        event
    }

    /// The next event within the deadline.
    pub async fn expect(&mut self) -> Event {
        timeout(DEADLINE, self.next()).await.expect("something happens within the deadline")
    }

    /// Waits until a link to `peer` is up; tells whether this node has dialled it.
    pub async fn connected(&mut self, peer: NodeId) -> bool {
        loop {
            match self.expect().await {
                Event::Connected { peer: it, dialed } if it == peer => return dialed,
                Event::Connected { .. } | Event::DialFailed { .. } => {}
                other => panic!("not connected: {other:?}"),
            }
        }
    }

    /// Waits until the link to `peer` is lost; frames on the way are passed over.
    pub async fn lost(&mut self, peer: NodeId) -> (Option<CloseCode>, String) {
        loop {
            match self.expect().await {
                Event::Lost { peer: it, code, reason } if it == peer => return (code, reason),
                Event::Frame { .. } | Event::DialFailed { .. } => {}
                other => panic!("not lost: {other:?}"),
            }
        }
    }

    /// The next frame, which must be `peer`'s.
    pub async fn frame(&mut self, peer: NodeId) -> Frame {
        match self.expect().await {
            Event::Frame { peer: it, frame } if it == peer => frame,
            other => panic!("no frame: {other:?}"),
        }
    }

    pub async fn dial_failed(&mut self) -> String {
        match self.expect().await {
            Event::DialFailed { reason, .. } => reason,
            other => panic!("no failed dial: {other:?}"),
        }
    }
}

/// Two keys, the lower id first: it decides which link is kept.
pub fn ordered_keys() -> [Arc<NodeKey>; 2] {
    let mut keys = [NodeKey::generate(), NodeKey::generate()];
    keys.sort_by_key(NodeKey::node);
    keys.map(Arc::new)
}

/// Two nodes with a link.
pub async fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::new(), Node::new());
    a.transport.set_targets(vec![b.target()]);
    let (a_id, b_id) = (a.id, b.id);
    let (a_dialed, b_dialed) = tokio::join!(a.connected(b_id), b.connected(a_id));
    assert!(a_dialed && !b_dialed);
    (a, b)
}

/// A small frame that can be told from others.
pub fn numbered(number: u32) -> Frame {
    let mut frontier = [0; 32];
    frontier[..4].copy_from_slice(&number.to_le_bytes());
    Frame::Check { frontier, statements: [0; 32] }
}

/// Lets two nodes that dial each other come to rest: one link, the same on both sides, and each
/// has heard the other on it. Returns when the last link came up.
pub async fn settle(a: &mut Node, b: &mut Node) -> Instant {
    let (a_id, b_id) = (a.id, b.id);
    let mut linked = Instant::now();
    let settled = async {
        loop {
            let event = tokio::select! {
                event = a.next() => Some((event, &*a)),
                event = b.next() => Some((event, &*b)),
                () = tokio::time::sleep(Duration::from_millis(10)) => None,
            };
            if let Some((Event::Connected { peer, .. }, node)) = event {
                node.transport.send(&[peer], &numbered(7)).unwrap();
                linked = Instant::now();
            }
            let heard = a.up.get(&b_id).is_some_and(|frames| *frames > 0)
                && b.up.get(&a_id).is_some_and(|frames| *frames > 0);
            if heard && a.transport.connections() == 1 && b.transport.connections() == 1 {
                return;
            }
        }
    };
    timeout(DEADLINE, settled).await.expect("two nodes come to rest");
    let dialed = |node: &Node| node.transport.links().iter().map(|l| l.dialed).collect::<Vec<_>>();
    let (a_dialed, b_dialed) = (dialed(a), dialed(b));
    assert_eq!((a_dialed.len(), b_dialed.len()), (1, 1));
    assert_ne!(a_dialed, b_dialed, "both hold the same link");
    linked
}
