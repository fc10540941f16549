//! Links over a simulated network, in virtual time: bad weather, cuts, restarts and sleep.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use quinn::EndpointConfig;
use sessionmesh::{
    identity::NodeKey,
    transport::{Config, Event, Timing, Transport, backoff::CEILING_MAX},
    wire::CloseCode,
};
use tokio::time::{Instant, sleep};

use crate::{
    network::{Network, Weather},
    node::{Node, config, numbered, ordered_keys, settle},
};

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 7177))
}

fn node_of(network: &Network, last: u8, config: Config) -> Node {
    let mut endpoint = EndpointConfig::default();
    endpoint.rng_seed(Some([last; 32]));
    let id = config.key.node();
    Node::of(id, Transport::with_socket(config, endpoint, network.socket(address(last))).unwrap())
}

fn node(network: &Network, last: u8) -> Node {
    node_of(network, last, config(Arc::new(NodeKey::generate()), last))
}

async fn linked(network: &Network) -> (Node, Node) {
    let (mut a, mut b) = (node(network, 1), node(network, 2));
    a.transport.set_targets(vec![b.target()]);
    b.transport.set_targets(vec![a.target()]);
    settle(&mut a, &mut b).await;
    (a, b)
}

/// The next event but failed dials.
async fn next(node: &mut Node) -> Event {
    loop {
        match node.next().await {
            Event::DialFailed { .. } => {}
            other => return other,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_network_is_noticed_and_left_behind_within_seconds_of_its_repair() {
    let network = Network::new(1, Weather::default());
    let (mut a, mut b) = linked(&network).await;
    let cut = Instant::now();
    network.cut_off(address(1), true);
    assert!(
        matches!(next(&mut a).await, Event::Lost { code: None, reason, .. } if reason == "no answer")
    );
    assert!(matches!(next(&mut b).await, Event::Lost { code: None, .. }));
    assert!(cut.elapsed() <= Duration::from_secs(14), "{:?}", cut.elapsed());
    // Long enough for the waits between dials to reach their ceiling.
    sleep(Duration::from_secs(600)).await;
    network.cut_off(address(1), false);
    let repaired = Instant::now();
    let linked = settle(&mut a, &mut b).await - repaired;
    assert!(linked <= CEILING_MAX + Duration::from_secs(6), "{linked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_be_reached_is_dialled_ever_more_seldom() {
    let network = Network::new(2, Weather::default());
    let mut a = node(&network, 1);
    let mut absent = node(&network, 9).target();
    network.cut_off(address(9), true);
    absent.addresses.insert("10.0.0.8:7177".into());
    let began = Instant::now();
    a.transport.set_targets(vec![absent]);
    let mut rounds = Vec::new();
    while began.elapsed() < Duration::from_secs(600) {
        assert_eq!(a.dial_failed().await, "10.0.0.8:7177: no answer; 10.0.0.9:7177: no answer");
        rounds.push(began.elapsed());
    }
    let early = rounds.iter().filter(|at| **at < Duration::from_secs(60)).count();
    let late = rounds.iter().filter(|at| **at > Duration::from_secs(540)).count();
    assert!(early > late, "{early} rounds in the first minute, {late} in the last");
    assert!((20..=70).contains(&rounds.len()), "{} rounds in ten minutes", rounds.len());
}

/// A data folder that was copied: both dial as long as they have no link, and each link of one took the
/// place of the other's.
#[tokio::test(start_paused = true)]
async fn two_daemons_with_one_key_are_recognised_and_take_turns() {
    let network = Network::new(2, Weather::default());
    let mut a = node(&network, 1);
    let key = Arc::new(NodeKey::generate());
    let mut twins = [2, 3].map(|last| node_of(&network, last, config(key.clone(), last)));
    a.transport.set_members([key.node()].into());
    twins.iter().for_each(|twin| twin.transport.set_targets(vec![a.target()]));
    let mut links = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(300) {
        let [one, other] = &mut twins;
        let happens = async {
            tokio::select! {
                event = a.next() => matches!(event, Event::Connected { .. }),
                _ = one.next() => false,
                _ = other.next() => false,
            }
        };
        links += u32::from(tokio::time::timeout(Duration::from_secs(1), happens).await == Ok(true));
    }
    assert!(a.transport.are_two(key.node()));
    assert!((2..25).contains(&links), "{links} links in five minutes");
}

/// Whoever tells them may mean a third party to get the packets.
#[tokio::test(start_paused = true)]
async fn whatever_addresses_are_told_of_a_peer_in_turn_few_packets_go_out() {
    let network = Network::new(2, Weather::default());
    let mut a = node(&network, 1);
    let absent = node(&network, 9).target();
    let began = Instant::now();
    let mut turn = 0_u16;
    while began.elapsed() < Duration::from_secs(600) {
        turn += 1;
        let mut target = absent.clone();
        let victim = |port| SocketAddr::from(([10, 0, 9, 9], 32 * turn + port)).to_string();
        target.addresses = (0..32).map(victim).collect();
        // Being no target for a moment brings nothing either.
        a.transport.set_targets(vec![]);
        a.transport.set_targets(vec![target]);
        while tokio::time::timeout(Duration::from_secs(1), a.next()).await.is_ok() {}
    }
    let (packets, _) = network.trace();
    assert!((100..2_000).contains(&packets), "{packets} packets in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_new_address_and_a_wish_are_dialled_at_once() {
    let network = Network::new(3, Weather::default());
    let (mut a, mut b) = (node(&network, 1), node(&network, 2));
    let mut target = b.target();
    target.addresses = ["10.0.0.77:1".into()].into();
    a.transport.set_targets(vec![target.clone()]);
    for _ in 0..12 {
        a.dial_failed().await;
    }
    let changed = Instant::now();
    a.transport.set_targets(vec![b.target()]);
    a.connected(b.id).await;
    b.connected(a.id).await;
    assert!(changed.elapsed() < Duration::from_millis(100), "{:?}", changed.elapsed());

    network.cut_off(address(2), true);
    a.lost(b.id).await;
    for _ in 0..12 {
        a.dial_failed().await;
    }
    network.cut_off(address(2), false);
    let wished = Instant::now();
    a.transport.redial(b.id);
    loop {
        // What the link that is gone on this side has left on the other.
        tokio::select! {
            event = next(&mut a) => match event {
                Event::Connected { .. } => break,
                other => panic!("{other:?}"),
            },
            _ = b.next() => {}
        }
    }
    assert!(wished.elapsed() < Duration::from_millis(100), "{:?}", wished.elapsed());
}

#[tokio::test(start_paused = true)]
async fn in_any_weather_two_nodes_come_to_rest_and_frames_arrive_in_order() {
    for seed in 0..30 {
        let weather = Weather { lost: 15, repeated: 5, late: 20, damaged: 3 };
        let network = Network::new(seed, weather);
        let (a, mut b) = linked(&network).await;
        for number in 0..200 {
            a.transport.send(&[b.id], &numbered(number)).unwrap();
        }
        for number in 0..200 {
            assert_eq!(b.frame(a.id).await, numbered(number), "seed {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_dials_that_cross_one_is_kept_and_none_is_needed_again() {
    let mut replaced = 0;
    for seed in 0..400 {
        // Nothing is lost, but much overtakes what was sent before it.
        let network = Network::new(seed, Weather { late: 40, ..Weather::default() });
        let keys = ordered_keys();
        let [mut a, mut b] = [1, 2]
            .map(|last| node_of(&network, last, config(keys[usize::from(last) - 1].clone(), last)));
        // Either may begin, by up to two round trips.
        let (first, second) = if seed % 2 == 0 { (&a, &b) } else { (&b, &a) };
        first.transport.set_targets(vec![second.target()]);
        sleep(Duration::from_micros(seed / 2 * 80)).await;
        second.transport.set_targets(vec![first.target()]);
        let mut links = [0; 2];
        // A dial that was given up half way may linger on its other side for the idle timeout.
        let rest = sleep(Timing::default().idle_max * 2);
        tokio::pin!(rest);
        loop {
            let (which, event) = tokio::select! {
                biased;
                event = a.next() => (0, event),
                event = b.next() => (1, event),
                () = &mut rest => break,
            };
            match event {
                Event::Lost { .. } => replaced += 1,
                Event::Connected { .. } => links[which] += 1,
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        // One dial each: more links than two mean that both were closed, and dialled again.
        assert!(links.iter().all(|links| *links <= 2), "seed {seed}: {links:?} links");
        assert_eq!((a.up.len(), b.up.len()), (1, 1), "seed {seed}");
        assert_eq!((a.transport.connections(), b.transport.connections()), (1, 1), "seed {seed}");
    }
    assert!(replaced > 0, "no seed made a link take the place of another");
}

#[tokio::test(start_paused = true)]
async fn whichever_side_forgets_a_link_first_both_agree_on_the_next() {
    for (forgetful, seed) in [(0, 1), (1, 2), (0, 3), (1, 4)] {
        let network = Network::new(seed, Weather::default());
        let keys = ordered_keys();
        let [mut a, mut b] = [1, 2]
            .map(|last| node_of(&network, last, config(keys[usize::from(last) - 1].clone(), last)));
        a.transport.set_targets(vec![b.target()]);
        b.transport.set_targets(vec![a.target()]);
        settle(&mut a, &mut b).await;
        let (id, peer) = if forgetful == 0 { (&mut a, b.id) } else { (&mut b, a.id) };
        // The other side does not hear that the link was closed.
        network.cut_off(address(forgetful + 1), true);
        id.transport.close(peer, CloseCode::Internal, "forgotten");
        id.lost(peer).await;
        network.cut_off(address(forgetful + 1), false);
        settle(&mut a, &mut b).await;
        a.transport.send(&[b.id], &numbered(42)).unwrap();
        loop {
            match b.expect().await {
                Event::Frame { frame, .. } if frame == numbered(42) => break,
                Event::Frame { .. } | Event::DialFailed { .. } => {}
                other => panic!("seed {seed}: {other:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_asleep_dials_at_once() {
    static WALL_MS: AtomicI64 = AtomicI64::new(0);
    let network = Network::new(5, Weather::default());
    let mut awake = config(Arc::new(NodeKey::generate()), 1);
    awake.wall_ms = Some(|| WALL_MS.load(Ordering::Relaxed));
    let mut a = node_of(&network, 1, awake);
    let mut b = node(&network, 2);
    a.transport.set_targets(vec![b.target()]);
    a.connected(b.id).await;
    b.connected(a.id).await;
    sleep(Duration::from_secs(5)).await;
    WALL_MS.fetch_add(3_600_000, Ordering::Relaxed);
    let woken = Instant::now();
    assert_eq!(a.lost(b.id).await, (None, "this machine was asleep".into()));
    a.connected(b.id).await;
    assert!(woken.elapsed() < Duration::from_millis(1_200), "{:?}", woken.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_every_link_at_once_is_dialled_ever_more_seldom() {
    let network = Network::new(6, Weather::default());
    let (mut a, mut b) = (node(&network, 1), node(&network, 2));
    a.transport.set_targets(vec![b.target()]);
    let began = Instant::now();
    let mut links = 0;
    while began.elapsed() < Duration::from_secs(600) {
        b.connected(a.id).await;
        b.transport.close(a.id, CloseCode::UnknownKey, "who are you?");
        b.lost(a.id).await;
        a.connected(b.id).await;
        assert_eq!(a.lost(b.id).await.0, Some(CloseCode::UnknownKey));
        links += 1;
    }
    assert!((20..=80).contains(&links), "{links} links in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn after_a_stable_minute_a_lost_link_is_dialled_without_delay() {
    let network = Network::new(7, Weather::default());
    let (mut a, mut b) = (node(&network, 1), node(&network, 2));
    a.transport.set_targets(vec![b.target()]);
    for _ in 0..20 {
        a.connected(b.id).await;
        b.connected(a.id).await;
        sleep(Duration::from_secs(61)).await;
        b.transport.close(a.id, CloseCode::Internal, "again");
        b.lost(a.id).await;
        a.lost(b.id).await;
        let lost = Instant::now();
        a.connected(b.id).await;
        b.connected(a.id).await;
        assert!(lost.elapsed() < Duration::from_millis(200), "{:?}", lost.elapsed());
        sleep(Duration::from_secs(61)).await;
        a.transport.close(b.id, CloseCode::Internal, "and again");
        a.lost(b.id).await;
        b.lost(a.id).await;
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let keys = ordered_keys();
    let run = |seed: u64| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let keys = keys.clone();
        runtime.block_on(async move {
            let weather = Weather { lost: 10, repeated: 5, late: 10, damaged: 2 };
            let network = Network::new(seed, weather);
            let mut nodes = [1, 2].map(|last| {
                node_of(&network, last, config(keys[usize::from(last) - 1].clone(), last))
            });
            let [a, b] = &mut nodes;
            a.transport.set_targets(vec![b.target()]);
            b.transport.set_targets(vec![a.target()]);
            settle(a, b).await;
            for number in 0..100 {
                a.transport.send(&[b.id], &numbered(number)).unwrap();
            }
            for number in 0..100 {
                assert_eq!(b.frame(a.id).await, numbered(number));
            }
            network.trace()
        })
    };
    let first = run(1);
    assert_eq!(run(1), first);
    assert_ne!(run(2).1, first.1);
}
