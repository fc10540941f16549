//! Links over real UDP on the loopback interface.

use std::{sync::Arc, time::Duration};

use quinn::VarInt;
use sessionmesh::{
    identity::{NodeKey, tls},
    replica::{
        effect::DialTarget,
        ids::{DocumentId, FleetId},
    },
    transport::{BindError, Event, Transport},
    wire::{self, CloseCode, Frame},
};
use tokio::time::timeout;

use crate::{
    node::{DEADLINE, Node, config, numbered, ordered_keys, pair, settle},
    raw::{Raw, open},
};

fn document() -> DocumentId {
    DocumentId::Fleet(FleetId([9; 16]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_prove_their_keys_and_frames_pass_in_order_both_ways() {
    let (mut a, mut b) = pair().await;
    for number in 0..2_000 {
        a.transport.send(&[b.id], &numbered(number)).unwrap();
        b.transport.send(&[a.id], &numbered(number)).unwrap();
    }
    for number in 0..2_000 {
        assert_eq!(b.frame(a.id).await, numbered(number));
        assert_eq!(a.frame(b.id).await, numbered(number));
    }
    assert!(a.transport.rtt(b.id).is_some());
    assert_eq!(a.transport.rtt(a.id), None);
    assert_eq!(a.transport.links()[0].address, b.transport.local_addr().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_does_not_delay_the_pushes_behind_it() {
    let (a, mut b) = pair().await;
    let snapshot =
        Frame::Snapshot { document: document(), bytes: vec![7; 15 << 20], vouchers: vec![] };
    a.transport.send(&[b.id], &numbered(0)).unwrap();
    a.transport.send(&[b.id], &snapshot).unwrap();
    for number in 1..100 {
        a.transport.send(&[b.id], &numbered(number)).unwrap();
    }
    for number in 0..100 {
        assert_eq!(b.frame(a.id).await, numbered(number));
    }
    assert_eq!(b.frame(a.id).await, snapshot);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_arrive_in_the_order_in_which_they_were_sent() {
    let (a, mut b) = pair().await;
    let snapshot =
        |n: u8| Frame::Snapshot { document: document(), bytes: vec![n; 1 << 10], vouchers: vec![] };
    a.transport.send(&[b.id], &numbered(0)).unwrap();
    for n in 0..50 {
        a.transport.send(&[b.id], &snapshot(n)).unwrap();
    }
    assert_eq!(b.frame(a.id).await, numbered(0));
    for n in 0..50 {
        assert_eq!(b.frame(a.id).await, snapshot(n));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_dial_each_other_at_once_keep_one_link() {
    for _ in 0..50 {
        let (mut a, mut b) = (Node::new(), Node::new());
        a.transport.set_targets(vec![b.target()]);
        b.transport.set_targets(vec![a.target()]);
        settle(&mut a, &mut b).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_restarted_takes_the_place_of_its_old_link_at_once() {
    for lower_first in [true, false] {
        let [mut a, mut b] = ordered_keys();
        if !lower_first {
            std::mem::swap(&mut a, &mut b);
        }
        let mut a = Node::on_loopback(config(a, 1));
        // It stays as it is, as a process that was killed would, and only its successor speaks.
        let mut killed = Node::on_loopback(config(b.clone(), 1));
        killed.transport.set_targets(vec![a.target()]);
        a.connected(killed.id).await;
        killed.connected(a.id).await;
        killed.transport.set_targets(vec![]);

        let mut successor = Node::on_loopback(config(b, 2));
        successor.transport.set_targets(vec![a.target()]);
        let (code, reason) = a.lost(successor.id).await;
        assert_eq!((code, reason.as_str()), (None, "a newer link takes its place"));
        a.connected(successor.id).await;
        successor.connected(a.id).await;
        a.transport.send(&[successor.id], &numbered(1)).unwrap();
        assert_eq!(successor.frame(a.id).await, numbered(1));
        assert_eq!(killed.lost(a.id).await.0, Some(CloseCode::Duplicate));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_at_the_address_is_not_the_one_that_was_dialled() {
    let (mut a, mut stranger) = (Node::new(), Node::new());
    let expected = NodeKey::generate().node();
    let target = stranger.target_at(expected);
    let address = target.addresses.first().unwrap().clone();
    a.transport.set_targets(vec![target]);
    assert_eq!(a.dial_failed().await, format!("{address}: another node answers there"));
    // The stranger was told nothing; its next event is another's link.
    let mut friend = Node::new();
    friend.transport.set_targets(vec![stranger.target()]);
    assert!(matches!(stranger.expect().await, Event::Connected { peer, .. } if peer == friend.id));
    friend.connected(stranger.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_told_several_addresses_finds_the_right_one() {
    let (mut a, b, stranger) = (Node::new(), Node::new(), Node::new());
    let mut target = b.target();
    target.addresses.extend(stranger.target().addresses);
    target.addresses.insert("[::1]:9".into());
    target.addresses.insert("nonsense".into());
    a.transport.set_targets(vec![target]);
    assert!(a.connected(b.id).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_dial_names_every_address_and_why() {
    let mut a = Node::new();
    let stranger = Node::new();
    let mut target = stranger.target_at(NodeKey::generate().node());
    target.addresses.insert("nonsense".into());
    a.transport.set_targets(vec![target.clone()]);
    let reason = a.dial_failed().await;
    for address in &target.addresses {
        assert!(reason.contains(address.as_str()), "{reason}");
    }
    assert!(reason.contains("nonsense: not an IP address and a port"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_frames_close_that_link_only() {
    let (mut a, b) = pair().await;
    let snapshot = Frame::Snapshot { document: document(), bytes: vec![1], vouchers: vec![] };
    let long = [&(1_u32 << 20).to_le_bytes()[..], &[1; 1 << 17]].concat();
    let cases: [(Vec<u8>, CloseCode); 6] = [
        (vec![0; 4], CloseCode::Malformed),
        (vec![0xff; 64], CloseCode::Malformed),
        ([&[1, 0, 0, 0, 1][..]].concat(), CloseCode::Malformed),
        (open(), CloseCode::Unexpected),
        (wire::encode(&snapshot).unwrap(), CloseCode::Unexpected),
        (long, CloseCode::Unexpected),
    ];
    for (bytes, expected) in cases {
        let raw = Raw::dial(&a).await;
        let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
        send.write_all(&open()).await.unwrap();
        // Fails if the other side has heard enough before the end.
        let _ = send.write_all(&bytes).await;
        a.connected(raw.id).await;
        let (code, reason) = a.lost(raw.id).await;
        assert_eq!(code, None, "the peer did not close it");
        assert_eq!(raw.closed().await, (Some(expected), reason), "{:?}", &bytes[..4]);
    }
    b.transport.send(&[a.id], &numbered(1)).unwrap();
    assert_eq!(a.frame(b.id).await, numbered(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_of_a_newer_version_is_skipped() {
    let mut a = Node::new();
    let raw = Raw::dial(&a).await;
    let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
    send.write_all(&open()).await.unwrap();
    send.write_all(&[3, 0, 0, 0, 200, 1, 2]).await.unwrap();
    send.write_all(&wire::encode(&numbered(1)).unwrap()).await.unwrap();
    a.connected(raw.id).await;
    assert_eq!(a.frame(raw.id).await, numbered(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_does_not_begin_with_open_gets_no_link() {
    let mut a = Node::new();
    let long = [&(1_u32 << 20).to_le_bytes()[..], &[1; 1 << 17]].concat();
    for (bytes, expected) in [
        (wire::encode(&numbered(1)).unwrap(), CloseCode::Unexpected),
        (vec![0xff; 64], CloseCode::Malformed),
        (long, CloseCode::Unexpected),
    ] {
        let raw = Raw::dial(&a).await;
        let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
        // Fails if the other side has heard enough before the end.
        let _ = send.write_all(&bytes).await;
        assert_eq!(raw.closed().await.0, Some(expected));
    }
    let friend = Node::new();
    friend.transport.set_targets(vec![a.target()]);
    assert!(matches!(a.expect().await, Event::Connected { peer, .. } if peer == friend.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_says_nothing_is_closed() {
    let mut config = config(Arc::new(NodeKey::generate()), 1);
    config.timing.open_max = Duration::from_secs(1);
    let a = Node::on_loopback(config);
    let raw = Raw::dial(&a).await;
    assert_eq!(raw.closed().await.0, Some(CloseCode::Timeout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_broken_off_or_malformed_closes_its_link_only() {
    let mut a = Node::new();
    for bytes in [&b"\x05\0\0\0\xff\xff\xff\xff\xff"[..], b"\xff\xff\xff\xff", b"\x09\0\0\0\x09"] {
        let raw = Raw::dial(&a).await;
        let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
        send.write_all(&open()).await.unwrap();
        send.write_all(&wire::encode(&numbered(1)).unwrap()).await.unwrap();
        a.connected(raw.id).await;
        assert_eq!(a.frame(raw.id).await, numbered(1));
        let mut snapshot = raw.connection.open_uni().await.unwrap();
        snapshot.write_all(bytes).await.unwrap();
        snapshot.finish().unwrap();
        a.lost(raw.id).await;
        let code = raw.closed().await.0;
        assert!(matches!(code, Some(CloseCode::Malformed | CloseCode::Unexpected)), "{code:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_dropped_and_draining_is_told() {
    let (mut a, mut b) = pair().await;
    let changes = |n: u8| Frame::Changes {
        document: document(),
        changes: vec![vec![n; (1 << 20) - 100]],
        vouchers: vec![],
    };
    // Whoever has dialled begins with a short frame.
    a.transport.send(&[b.id], &numbered(0)).unwrap();
    assert_eq!(b.frame(a.id).await, numbered(0));
    for n in 0..20 {
        a.transport.send(&[b.id], &changes(n)).unwrap();
    }
    assert_eq!(a.expect().await, Event::Drained { peer: b.id });
    a.transport.send(&[b.id], &numbered(99)).unwrap();
    let mut received = 0;
    loop {
        match b.frame(a.id).await {
            frame if frame == numbered(99) => break,
            frame => assert_eq!(frame, changes(received)),
        }
        received += 1;
    }
    assert!((4..20).contains(&received), "a prefix of {received} frames arrived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_and_reason_of_a_close_arrive_after_all_that_was_sent_before() {
    let (mut a, mut b) = pair().await;
    a.transport.set_targets(vec![]);
    for number in 0..1_000 {
        a.transport.send(&[b.id], &numbered(number)).unwrap();
    }
    a.transport.close(b.id, CloseCode::Paused, "paused by Ann");
    a.transport.send(&[b.id], &numbered(1_000)).unwrap();
    for number in 0..1_000 {
        assert_eq!(b.frame(a.id).await, numbered(number));
    }
    assert_eq!(b.lost(a.id).await, (Some(CloseCode::Paused), "paused by Ann".into()));
    assert_eq!(a.lost(b.id).await, (None, "paused by Ann".into()));
    assert!(a.transport.links().is_empty() && b.transport.links().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peers_reason_cannot_write_on_a_terminal() {
    let mut a = Node::new();
    let raw = Raw::dial(&a).await;
    let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
    send.write_all(&open()).await.unwrap();
    a.connected(raw.id).await;
    raw.connection.close(VarInt::from_u32(99), b"\x1b[2Jbye\n\xff");
    assert_eq!(a.lost(raw.id).await, (None, "\\u{1b}[2Jbye\\n\u{fffd}".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_says_so_and_leaves_nothing_behind() {
    let (a, mut b) = pair().await;
    for number in 0..100 {
        a.transport.send(&[b.id], &numbered(number)).unwrap();
    }
    timeout(DEADLINE, a.transport.shutdown()).await.unwrap();
    assert_eq!(a.transport.connections(), 0);
    for number in 0..100 {
        assert_eq!(b.frame(a.id).await, numbered(number));
    }
    assert_eq!(b.lost(a.id).await, (Some(CloseCode::Shutdown), "the daemon is stopping".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_was_closed_comes_back_as_long_as_it_is_wanted() {
    let (mut a, mut b) = pair().await;
    for _ in 0..3 {
        b.transport.close(a.id, CloseCode::Internal, "again");
        assert_eq!(a.lost(b.id).await.0, Some(CloseCode::Internal));
        b.lost(a.id).await;
        assert!(a.connected(b.id).await);
        assert!(!b.connected(a.id).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_for_a_link_that_was_not_shown_yet_go_nowhere() {
    let (a, mut b) = (Node::new(), Node::new());
    b.transport.set_targets(vec![a.target()]);
    // On its side the link is up; here nobody has taken the event that says so.
    b.connected(a.id).await;
    a.transport.send(&[b.id], &numbered(1)).unwrap();
    let mut a = a;
    a.connected(b.id).await;
    a.transport.send(&[b.id], &numbered(2)).unwrap();
    assert_eq!(b.frame(a.id).await, numbered(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named_with_a_remedy() {
    let a = Node::new();
    let mut config = config(Arc::new(NodeKey::generate()), 1);
    config.listen = a.transport.local_addr().unwrap();
    let error = Transport::bind(config.clone()).err().expect("the port is in use");
    assert!(matches!(error, BindError::InUse { .. }));
    let text = error.to_string();
    assert!(text.starts_with(&format!("{}/udp is in use", config.listen)), "{text}");
    assert!(text.contains("--listen"), "{text}");
    config.listen = "192.0.2.1:0".parse().unwrap();
    assert!(matches!(Transport::bind(config).err(), Some(BindError::NotHere { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_does_not_talk_to_a_copy_of_itself() {
    let key = Arc::new(NodeKey::generate());
    let mut a = Node::on_loopback(config(key.clone(), 1));
    let raw = Raw::dial_as(&key, &a).await.unwrap();
    let (code, reason) = raw.closed().await;
    assert_eq!(code, Some(CloseCode::Unexpected));
    assert!(reason.contains("two machines"), "{reason}");
    let friend = Node::new();
    friend.transport.set_targets(vec![a.target()]);
    assert!(matches!(a.expect().await, Event::Connected { peer, .. } if peer == friend.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_the_version_before_is_refused_by_name_whoever_dials() {
    let a = Node::new();
    let key = NodeKey::generate();
    let raw = Raw::dial_naming(tls::ALPN_BEFORE, "127.0.0.1", &key, a.place()).await.unwrap();
    let (code, reason) = raw.closed().await;
    assert_eq!(code, Some(CloseCode::Protocol));
    assert!(reason.contains("another version of the protocol than 2"), "{reason}");

    // One that answers dials and knows nothing but its own version.
    let old = tls::server_naming(&key, &[tls::ALPN_BEFORE]);
    let config = quinn::ServerConfig::with_crypto(Arc::new(old));
    let old = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let addresses = [old.local_addr().unwrap().to_string()].into();
    let answering = tokio::spawn(async move {
        while let Some(incoming) = old.accept().await {
            let _ = incoming.await;
        }
    });
    let mut a = a;
    a.transport.set_targets(vec![DialTarget { node: key.node(), addresses }]);
    let reason = a.dial_failed().await;
    assert!(reason.contains("another version of the protocol than 2"), "{reason}");
    answering.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_events_slowly_is_told_the_old_links_end_before_the_new_one() {
    let [key, other] = ordered_keys();
    let mut a = Node::on_loopback(config(key, 1));
    let mut killed = Node::on_loopback(config(other.clone(), 1));
    killed.transport.set_targets(vec![a.target()]);
    killed.connected(a.id).await;
    killed.transport.set_targets(vec![]);
    // More than fits between the link and whoever takes the events.
    for number in 0..3_000 {
        killed.transport.send(&[a.id], &numbered(number)).unwrap();
    }
    let mut successor = Node::on_loopback(config(other, 2));
    successor.transport.set_targets(vec![a.target()]);
    successor.connected(a.id).await;
    successor.transport.send(&[a.id], &numbered(9_999)).unwrap();
    // The order of all these events is checked as they are taken.
    a.connected(successor.id).await;
    a.lost(successor.id).await;
    a.connected(successor.id).await;
    assert_eq!(a.frame(successor.id).await, numbered(9_999));
}
