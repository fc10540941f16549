//! Tickets under pressure: whoever comes, however many and in whatever order, a ticket lets exactly
//! one node in, and none after its time.

#[path = "common/keys.rs"]
mod keys;

use std::{collections::BTreeMap, time::Duration};

use sessionmesh::{
    replica::{
        command::{Command, Reply},
        effect::{Effects, Input, Now, RequestId, Startup, Stored, Write},
        ids::{NodeId, StartId},
        invite::{StoredInvite, Ticket, secret_hash},
        machine::Replica,
        record::Role,
    },
    wire::{CloseCode, Frame, Join, PROTOCOL, PROTOCOL_MIN},
};

const HOUR: Duration = Duration::from_secs(3_600);
/// How many come.
const CROWD: u32 = 10_000;
/// How many of them are linked before the first of these presents its ticket: many, and few enough
/// that a step, which looks at all links, stays cheap.
const WAVE: usize = 200;

fn at(ms: i64) -> Now {
    Now { monotonic: Duration::from_millis(u64::try_from(ms).unwrap()), wall_ms: ms }
}

fn admin() -> Replica {
    let startup = Startup {
        node: NodeId([1; 32]),
        name: "admin".to_owned(),
        start: StartId([1; 8]),
        seed: 1,
        undo_window: Duration::from_secs(10),
        keep_removed: Duration::ZERO,
        start_grace: Duration::ZERO,
        keyring: keys::key_of(NodeId([1; 32])),
    };
    Replica::open(startup, Stored::default(), at(0)).unwrap().0
}

fn invite(replica: &mut Replica, secret: u8) -> Ticket {
    let command = Command::Invite { role: Role::Member, expires_in: HOUR, secret: [secret; 32] };
    let mut fx = replica.handle(at(0), Input::Requested { request: RequestId(1), command });
    match fx.replies.remove(0).1 {
        Ok(Reply::Invited(ticket)) => ticket,
        other => panic!("{other:?}"),
    }
}

fn newcomer(number: u32) -> NodeId {
    let mut key = [7; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    NodeId(key)
}

fn present(replica: &mut Replica, now: Now, peer: NodeId, ticket: &Ticket) -> Effects {
    let join = Join {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL,
        fleet: ticket.fleet,
        secret: ticket.secret,
        name: "newcomer".to_owned(),
        addresses: Vec::new(),
    };
    replica.handle(now, Input::FrameReceived { peer, frame: Frame::Join(join) })
}

/// What became of one that asked to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    In,
    Closed(CloseCode),
}

fn outcome(peer: NodeId, fx: &Effects) -> Outcome {
    let joined = |frame: &Frame| matches!(frame, Frame::Joined { .. });
    assert!(!fx.frames.iter().any(|it| joined(&it.frame)), "told before it is durable");
    let told: Vec<_> = fx.frames_durable.iter().filter(|it| joined(&it.frame)).collect();
    match (&told[..], &fx.closes[..]) {
        ([told], []) => {
            assert_eq!(told.to, [peer]);
            Outcome::In
        }
        ([], [(closed, code, _)]) => {
            assert_eq!(*closed, peer);
            Outcome::Closed(*code)
        }
        other => panic!("{other:?}"),
    }
}

/// The member and the redeemed ticket are written together: a crash leaves both or none.
fn one_transaction(peer: NodeId, fx: &Effects) {
    let redeemed = fx.writes.iter().filter(|write| {
        let Write::Invite { invite: Some(StoredInvite { redeemed_by, .. }), .. } = write else {
            return false;
        };
        *redeemed_by == Some(peer)
    });
    assert_eq!(redeemed.count(), 1);
    assert!(fx.writes.iter().any(|write| matches!(write, Write::Statement { .. })));
}

/// Has a crowd link up, and then each present one of the tickets, in a random order.
fn rush(
    replica: &mut Replica,
    now: Now,
    tickets: &[Ticket],
    random: &mut fastrand::Rng,
) -> BTreeMap<(usize, Outcome), Vec<NodeId>> {
    let mut crowd: Vec<u32> = (0..CROWD).collect();
    random.shuffle(&mut crowd);
    let mut outcomes: BTreeMap<_, Vec<NodeId>> = BTreeMap::new();
    for wave in crowd.chunks(WAVE) {
        for number in wave {
            replica.handle(now, Input::PeerConnected { peer: newcomer(*number) });
        }
        for number in wave {
            let (peer, place) = (newcomer(*number), *number as usize % tickets.len());
            let fx = present(replica, now, peer, &tickets[place]);
            let outcome = outcome(peer, &fx);
            if outcome == Outcome::In {
                one_transaction(peer, &fx);
            } else {
                assert!(fx.writes.is_empty(), "a refusal writes nothing");
            }
            let reason = "its answer was read".to_owned();
            replica.handle(now, Input::PeerLost { peer, code: None, reason });
            outcomes.entry((place, outcome)).or_default().push(peer);
        }
    }
    outcomes
}

#[test]
fn of_ten_thousand_that_present_one_ticket_exactly_one_gets_in() {
    let mut replica = admin();
    let ticket = invite(&mut replica, 9);
    let mut random = fastrand::Rng::with_seed(3);
    let outcomes = rush(&mut replica, at(1), std::slice::from_ref(&ticket), &mut random);
    let inside = &outcomes[&(0, Outcome::In)];
    assert_eq!(inside.len(), 1);
    let used = &outcomes[&(0, Outcome::Closed(CloseCode::TicketUsed))];
    assert_eq!(used.len(), CROWD as usize - 1);
    assert_eq!(replica.peers().len(), 1, "the others have left no trace");
    // It may ask again, having heard nothing; a second time round nobody else has better luck.
    let used_by_another = Outcome::Closed(CloseCode::TicketUsed);
    for (peer, expected) in [(inside[0], Outcome::In), (used[0], used_by_another)] {
        replica.handle(at(2), Input::PeerConnected { peer });
        let fx = present(&mut replica, at(2), peer, &ticket);
        assert_eq!(outcome(peer, &fx), expected);
    }
}

#[test]
fn of_a_crowd_with_several_tickets_each_lets_exactly_one_in() {
    let mut replica = admin();
    let tickets: Vec<Ticket> = (10..17).map(|secret| invite(&mut replica, secret)).collect();
    let outcomes = rush(&mut replica, at(1), &tickets, &mut fastrand::Rng::with_seed(4));
    for place in 0..tickets.len() {
        assert_eq!(outcomes[&(place, Outcome::In)].len(), 1, "ticket {place}");
    }
    assert_eq!(outcomes.len(), 2 * tickets.len(), "nothing but in, and used");
    assert_eq!(replica.peers().len(), tickets.len());
}

#[test]
fn of_a_crowd_that_comes_when_the_time_is_over_nobody_gets_in() {
    let mut replica = admin();
    let ticket = invite(&mut replica, 9);
    assert_eq!(ticket.expires_at, 3_600_000);
    let late = at(ticket.expires_at + 1);
    let mut random = fastrand::Rng::with_seed(5);
    let outcomes = rush(&mut replica, late, std::slice::from_ref(&ticket), &mut random);
    let expired = (0, Outcome::Closed(CloseCode::TicketExpired));
    assert_eq!(outcomes.keys().collect::<Vec<_>>(), [&expired]);
    assert!(replica.peers().is_empty());
    // In its last millisecond it still counts.
    let peer = newcomer(0);
    let now = at(ticket.expires_at);
    replica.handle(now, Input::PeerConnected { peer });
    assert_eq!(outcome(peer, &present(&mut replica, now, peer, &ticket)), Outcome::In);
}

#[test]
fn a_ticket_that_was_redeemed_stays_so_over_a_restart_and_after_its_time() {
    let mut replica = admin();
    let ticket = invite(&mut replica, 9);
    let first = newcomer(1);
    replica.handle(at(1), Input::PeerConnected { peer: first });
    let fx = present(&mut replica, at(1), first, &ticket);
    assert_eq!(outcome(first, &fx), Outcome::In);
    let hash = secret_hash(&ticket.secret);
    let stored = fx.writes.iter().find_map(|write| match write {
        Write::Invite { secret_hash, invite } if *secret_hash == hash => invite.clone(),
        _ => None,
    });
    assert_eq!(stored.unwrap().redeemed_by, Some(first));
    let secret = ticket.secret.as_slice();
    let shows = |write: &Write| format!("{write:?}").contains(&format!("{secret:?}"));
    assert!(!fx.writes.iter().any(shows), "no secret is stored");
    for now in [at(2), at(ticket.expires_at + 1)] {
        let second = newcomer(2);
        replica.handle(now, Input::PeerConnected { peer: second });
        let fx = present(&mut replica, now, second, &ticket);
        assert_eq!(outcome(second, &fx), Outcome::Closed(CloseCode::TicketUsed));
    }
}
