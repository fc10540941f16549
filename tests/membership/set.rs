//! Owns the claims about sets: order of arrival, what waits, what is left out, and the bytes.
//!
//! Must not know who belongs. Invariant: each test says in its name what holds.

use std::collections::BTreeSet;

use sessionmesh::replica::{
    ids::FleetId,
    membership::{
        evaluate::{Membership, evaluate},
        set::{LeftOut, Offered, StatementSet, WAITING_MAX},
        statement::{Act, STATEMENT_BYTES_MAX, Statement, StatementError, is_name},
    },
    record::Role,
};

use super::{
    ALICE, BOB, CAROL, EVE, Fleet, ROOT, admit,
    explore::{Kinds, foundings, grow},
    found,
    keys::key_of,
    revoke, sign,
};

/// Offers statements as they come, and all again until nothing changes, as greetings do.
fn arrive(fleet: FleetId, statements: &[Statement]) -> Membership {
    let mut set = StatementSet::new(fleet);
    let mut membership = Membership::default();
    loop {
        let before = set.held().len();
        for statement in statements {
            if set.offer(statement.clone(), |node| membership.is_closed(node)) == Offered::Held {
                membership = evaluate(&set);
            }
        }
        if set.held().len() == before {
            return membership;
        }
    }
}

#[test]
fn the_order_in_which_statements_arrive_decides_nothing() {
    let mut random = fastrand::Rng::with_seed(1);
    for founding in foundings() {
        for _ in 0..300 {
            let mut set = founding.set.clone();
            for _ in 0..5 {
                grow(&mut set, Kinds::All, &mut random);
            }
            let mut statements: Vec<Statement> =
                set.held().iter().map(|held| held.statement.clone()).collect();
            let nodes = evaluate(&set).nodes;
            for _ in 0..6 {
                random.shuffle(&mut statements);
                assert_eq!(arrive(set.fleet(), &statements).nodes, nodes, "{statements:#?}");
            }
        }
    }
}

#[test]
fn sets_that_exchange_what_they_lack_are_equal() {
    let mut fleet = Fleet::new();
    fleet.say(ROOT, admit(ALICE, Role::Admin));
    let mut other = fleet.clone();
    fleet.say(ROOT, admit(BOB, Role::Member));
    other.say(ALICE, admit(CAROL, Role::Member));
    assert_ne!(fleet.set.digest(), other.set.digest());
    let theirs: BTreeSet<_> = fleet.set.hashes().collect();
    let lacked: Vec<Statement> = other.set.lacked_by(&theirs).cloned().collect();
    assert_eq!(lacked.len(), 1);
    let theirs: BTreeSet<_> = other.set.hashes().collect();
    let back: Vec<Statement> = fleet.set.lacked_by(&theirs).cloned().collect();
    for (set, statement) in [(&mut fleet.set, &lacked[0]), (&mut other.set, &back[0])] {
        assert_eq!(set.offer(statement.clone(), |_| false), Offered::Held);
    }
    assert_eq!(fleet.set.digest(), other.set.digest());
    assert_eq!(fleet.membership(), other.membership());
}

#[test]
fn what_a_statement_builds_on_comes_first_and_what_waits_is_bounded() {
    let mut fleet = Fleet::new();
    fleet.say(ROOT, admit(ALICE, Role::Admin));
    let id = fleet.set.fleet();
    let outsider = sign(id, EVE, None, revoke(ROOT, None));
    assert_eq!(fleet.set.offer(outsider, |_| false), Offered::Waits, "an outsider has no say");
    let first = sign(id, ALICE, None, admit(CAROL, Role::Member));
    let second = sign(id, ALICE, Some(first.hash()), admit(BOB, Role::Member));
    assert_eq!(fleet.set.offer(second, |_| false), Offered::Waits);
    assert_eq!(fleet.set.waiting_count(), 2);
    assert_eq!(fleet.set.offer(first, |_| false), Offered::Held);
    assert_eq!(fleet.set.waiting_count(), 1, "what waited for it is in, the outsider waits on");
    assert!(fleet.is_in(BOB) && !fleet.is_in(EVE));
    for nonce in 0..2 * WAITING_MAX {
        let mut node = [7; 32];
        node[..8].copy_from_slice(&nonce.to_le_bytes());
        let act = admit(sessionmesh::replica::ids::NodeId(node), Role::Admin);
        fleet.set.offer(sign(id, EVE, None, act), |_| false);
    }
    assert_eq!(fleet.set.waiting_count(), WAITING_MAX);
}

#[test]
fn a_closed_key_fills_no_set() {
    let mut fleet = Fleet::new();
    fleet.say(ROOT, admit(ALICE, Role::Admin));
    fleet.say(ROOT, revoke(ALICE, None));
    let membership = fleet.membership();
    let more = sign(fleet.set.fleet(), ALICE, None, admit(EVE, Role::Admin));
    let offered = fleet.set.offer(more, |node| membership.is_closed(node));
    assert_eq!(offered, Offered::Refused(LeftOut::Closed));
}

#[test]
fn a_statement_that_names_what_is_not_its_own_is_left_out() {
    let mut fleet = Fleet::new();
    let admitted = fleet.say(ROOT, admit(ALICE, Role::Admin));
    fleet.say(ROOT, admit(CAROL, Role::Member));
    let id = fleet.set.fleet();
    for misnamed in [
        sign(id, ALICE, Some(admitted), admit(EVE, Role::Admin)),
        sign(id, ROOT, None, admit(EVE, Role::Admin)),
        sign(id, CAROL, None, Act::Left { admitted }),
    ] {
        let offered = fleet.set.offer(misnamed.clone(), |_| false);
        assert_eq!(offered, Offered::Refused(LeftOut::Misnamed), "{misnamed:?}");
    }
}

/// One statement of every kind, as long as it can be.
fn longest() -> Vec<Statement> {
    let (id, founding) = found(0);
    let name = "n".repeat(64);
    let previous = Some(founding.hash());
    let all = [
        Act::Admitted { node: ALICE, role: Role::Admin, name },
        Act::Promoted { node: ALICE, role: Role::Admin },
        Act::Revoked {
            node: ALICE,
            last: Some(founding.hash()),
            documents: Some([9; 32]),
            retire: true,
        },
        Act::SteppedDown,
    ];
    let mut all: Vec<_> = all.into_iter().map(|act| sign(id, ROOT, previous, act)).collect();
    all.push(sign(id, ROOT, None, Act::Left { admitted: founding.hash() }));
    all.push(founding);
    all
}

#[test]
fn every_statement_reads_back_and_fits() {
    let (id, _) = found(0);
    for statement in longest() {
        let bytes = statement.encode();
        assert!(bytes.len() <= STATEMENT_BYTES_MAX, "{} bytes", bytes.len());
        assert_eq!(Statement::decode(&bytes, id, &*key_of(EVE)), Ok(statement));
    }
}

#[test]
pub fn bytes_that_were_changed_cut_or_lengthened_are_no_statement() {
    let (id, _) = found(0);
    for statement in longest() {
        let bytes = statement.encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Statement::decode(&changed, id, &*key_of(EVE)).is_err(), "byte {at}");
            assert!(Statement::decode(&bytes[..at], id, &*key_of(EVE)).is_err(), "{at} bytes");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Statement::decode(&longer, id, &*key_of(EVE)).is_err());
    }
}

#[test]
fn a_statement_of_one_fleet_is_none_of_another() {
    let (fleet, founding) = found(0);
    let (other, _) = found(1);
    assert_ne!(fleet, other);
    let key = key_of(EVE);
    assert_eq!(
        Statement::decode(&founding.encode(), other, &*key),
        Err(StatementError::Meaningless)
    );
    let admitted = sign(fleet, ROOT, Some(founding.hash()), admit(ALICE, Role::Admin));
    assert_eq!(Statement::decode(&admitted.encode(), other, &*key), Err(StatementError::Signature));
}

#[test]
fn a_name_that_looks_like_a_key_or_can_not_be_typed_is_none() {
    for name in ["", "cafe", "0123456789abcdef", " desk", "desk\n", &"n".repeat(65)] {
        assert!(!is_name(name), "{name:?}");
    }
    for name in ["a", "fee", "desk", "café", "cafe-1", "CAFE", "ci runner 7"] {
        assert!(is_name(name), "{name:?}");
    }
}
