//! What keys that are no member's can make a node do, and whom they can't keep out.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::poll;
use sessionmesh::{identity::NodeKey, replica::ids::NodeId, transport::Event, wire};

use crate::{
    node::{Node, config, numbered, pair},
    raw::{Raw, open},
};

/// As many as there ever were places, for all links.
const CROWD: usize = 1_060;

/// Strangers at an address that say so much as to get a link, and nothing then.
async fn crowd(node: (NodeId, SocketAddr), ip: &str, count: usize) -> Vec<Raw> {
    let mut strangers = Vec::new();
    for _ in 0..count {
        let stranger = Raw::dial_from(ip, &NodeKey::generate(), node).await;
        let Ok(mut stranger) = stranger else { continue };
        stranger.open().await;
        strangers.push(stranger);
    }
    strangers
}

/// Has a node take its events, whatever they are, until it is dropped.
fn run(mut node: Node) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            node.next().await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_strangers_come_a_member_is_let_in_and_most_strangers_are_not() {
    let key = Arc::new(NodeKey::generate());
    let mut member = Node::on_loopback(config(key.clone(), 2));
    let mut a = Node::new();
    a.accepts = false;
    a.transport.set_members(BTreeSet::from([key.node()]));
    let (target, id) = (a.target(), a.id);
    let strangers = {
        let crowd = crowd(a.place(), "127.0.0.1", CROWD);
        tokio::pin!(crowd);
        loop {
            tokio::select! {
                strangers = &mut crowd => break strangers,
                _ = a.next() => {}
            }
        }
    };
    let left = strangers.iter().filter(|it| it.connection.close_reason().is_none()).count();
    assert!(left <= 64, "{left} strangers have a place");
    let running = run(a);
    member.transport.set_targets(vec![target]);
    assert!(matches!(member.expect().await, Event::Connected { peer, .. } if peer == id));
    running.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_keep_no_other_stranger_from_redeeming_a_ticket() {
    let (mut a, b) = pair().await;
    let strangers = crowd(a.place(), "127.0.0.1", 100).await;
    // From another address nobody is in the way, and from the same one whoever came first is.
    for ip in ["127.0.0.2", "127.0.0.1"] {
        let joiner = Raw::dial_from(ip, &NodeKey::generate(), a.place()).await.unwrap();
        let (mut send, _receive) = joiner.connection.open_bi().await.unwrap();
        send.write_all(&open()).await.unwrap();
        send.write_all(&wire::encode(&numbered(1)).unwrap()).await.unwrap();
        loop {
            match a.expect().await {
                Event::Frame { peer, frame } if peer == joiner.id => {
                    assert_eq!(frame, numbered(1));
                    break;
                }
                Event::Connected { .. } | Event::Lost { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(joiner.connection.close_reason().is_none());
    }
    let closed = strangers.iter().filter(|it| it.connection.close_reason().is_some()).count();
    assert!(closed >= 100 - 16, "{closed} of them had to go");
    b.transport.send(&[a.id], &numbered(2)).unwrap();
    while !matches!(a.expect().await, Event::Frame { peer, .. } if peer == b.id) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_a_link_is_accepted_its_peer_can_send_little_and_no_snapshots() {
    let (mut a, b) = pair().await;
    a.accepts = false;
    let raw = Raw::dial(&a).await;
    let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
    send.write_all(&open()).await.unwrap();
    let first = wire::encode(&numbered(1)).unwrap();
    send.write_all(&first).await.unwrap();
    a.connected(raw.id).await;
    assert_eq!(a.frame(raw.id).await, numbered(1));
    let snapshots = raw.connection.clone();
    let mut opening = std::pin::pin!(snapshots.open_uni());
    assert!(matches!(poll!(opening.as_mut()), Poll::Pending), "a stream was open to it");

    let written = Arc::new(AtomicUsize::new(0));
    let counts = written.clone();
    let frames = 20_000;
    let writer = tokio::spawn(async move {
        for number in 0..frames {
            send.write_all(&wire::encode(&numbered(number)).unwrap()).await.unwrap();
            counts.fetch_add(first.len(), Ordering::Relaxed);
        }
        send
    });
    let tick = || tokio::time::sleep(Duration::from_millis(1));
    while written.load(Ordering::Relaxed) < 60 << 10 {
        tick().await;
    }
    // Others are not held up, and meanwhile no more is taken from it.
    for number in 0..200 {
        b.transport.send(&[a.id], &numbered(number)).unwrap();
        assert_eq!(a.frame(b.id).await, numbered(number));
    }
    assert!(!writer.is_finished());
    let held = written.load(Ordering::Relaxed);
    assert!(held <= 192 << 10, "{held} bytes were taken of it");

    a.transport.accept(raw.id);
    for number in 0..frames {
        assert_eq!(a.frame(raw.id).await, numbered(number));
    }
    writer.await.unwrap();
    assert!(matches!(poll!(opening.as_mut()), Poll::Ready(Ok(_))), "no stream was open to it");
}
