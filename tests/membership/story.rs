//! Owns the stories: what an admin gone bad, a stolen key or two hasty admins come to.
//!
//! Must not know how the evaluation goes about it. Invariant: each test says in its name what holds.

use sessionmesh::replica::{
    membership::{set::Offered, statement::Act},
    record::Role,
};

use super::{ALICE, BOB, CAROL, EVE, Fleet, ROOT, admit, revoke, sign};

/// Alice and Bob are admins by the root, Carol is a member.
fn fleet() -> Fleet {
    let mut fleet = Fleet::new();
    fleet.say(ROOT, admit(ALICE, Role::Admin));
    fleet.say(ROOT, admit(BOB, Role::Admin));
    fleet.say(ROOT, admit(CAROL, Role::Member));
    fleet
}

#[test]
fn a_revoked_admin_admits_and_revokes_nobody_whatever_it_signs_afterwards() {
    let mut fleet = fleet();
    let kept = fleet.say(ALICE, admit(EVE, Role::Member));
    fleet.say(ROOT, revoke(ALICE, Some(kept)));
    let before = fleet.membership();
    assert!(fleet.is_in(EVE), "whom it let in before stays");
    let other = sessionmesh::replica::ids::NodeId([9; 32]);
    fleet.say(ALICE, admit(other, Role::Admin));
    fleet.say(ALICE, revoke(ROOT, None));
    fleet.say_after(ALICE, None, revoke(BOB, None));
    fleet.say(other, revoke(ROOT, None));
    let after = fleet.membership();
    assert_eq!(before.nodes, after.nodes);
    assert!(after.is_closed(&ALICE) && after.forked.contains(&ALICE));
}

#[test]
fn of_two_admins_that_revoke_each_other_the_senior_stays() {
    let mut fleet = fleet();
    fleet.say(BOB, revoke(ALICE, None));
    assert!(!fleet.is_in(ALICE), "a junior's revocation holds");
    fleet.say(ALICE, revoke(BOB, None));
    assert!(fleet.is_in(ALICE) && !fleet.is_in(BOB), "until the senior revokes the junior");
}

#[test]
fn nobody_but_itself_removes_the_root_for_good() {
    let mut fleet = fleet();
    let newest = fleet.set.newest(&ROOT);
    fleet.say(ALICE, revoke(ROOT, newest));
    fleet.say(BOB, revoke(ROOT, newest));
    assert!(!fleet.is_in(ROOT));
    fleet.say(ROOT, revoke(ALICE, None));
    fleet.say(ROOT, revoke(BOB, None));
    assert_eq!(fleet.membership().admins, [ROOT]);
}

#[test]
fn what_is_signed_with_the_key_of_a_root_that_stepped_down_counts_for_nothing() {
    let mut fleet = fleet();
    let newest = fleet.set.newest(&ROOT);
    fleet.say(ROOT, Act::SteppedDown);
    let before = fleet.membership();
    assert_eq!(before.admins, [ALICE, BOB]);
    assert!(fleet.is_in(ROOT), "it is a member on");
    assert_eq!(before.nodes[&ROOT].role, Role::Member);
    // After it, beside it, and before it.
    fleet.say(ROOT, admit(EVE, Role::Admin));
    fleet.say_after(ROOT, newest, revoke(ALICE, None));
    let first = fleet.set.held()[0].statement.hash();
    fleet.say_after(ROOT, Some(first), revoke(BOB, None));
    fleet.say_after(ROOT, Some(first), admit(EVE, Role::Admin));
    fleet.say(EVE, revoke(ALICE, None));
    assert_eq!(fleet.membership().nodes, before.nodes);
    // A second step-down on another branch would choose what the first one keeps.
    let forged = sign(fleet.set.fleet(), ROOT, Some(first), Act::SteppedDown);
    assert!(matches!(fleet.set.offer(forged, |_| false), Offered::Refused(_)));
}

#[test]
fn a_root_that_stepped_down_stays_so_when_all_other_admins_go() {
    let mut fleet = fleet();
    fleet.say(ROOT, Act::SteppedDown);
    fleet.say(ALICE, Act::SteppedDown);
    assert_eq!(fleet.membership().admins, [BOB]);
    fleet.say(BOB, Act::SteppedDown);
    assert_eq!(fleet.membership().admins, [BOB], "the last admin can't go");
    // It goes on, and can step down when there is another one.
    fleet.say(BOB, Act::Promoted { node: CAROL, role: Role::Admin });
    assert_eq!(fleet.membership().admins, [BOB, CAROL]);
    fleet.say(BOB, Act::SteppedDown);
    assert_eq!(fleet.membership().admins, [CAROL]);
}

#[test]
fn a_root_takes_nobody_along_that_it_revoked_before_it_stepped_down() {
    let mut fleet = Fleet::new();
    fleet.say(ROOT, admit(ALICE, Role::Admin));
    fleet.say(ROOT, revoke(ALICE, None));
    fleet.say(ROOT, Act::SteppedDown);
    assert_eq!(fleet.membership().admins, [ROOT], "nobody else is left");
}

#[test]
fn of_a_chain_that_forked_a_revocation_keeps_one_branch() {
    let mut fleet = fleet();
    let kept = fleet.say_after(ALICE, None, admit(EVE, Role::Member));
    let other = sessionmesh::replica::ids::NodeId([9; 32]);
    fleet.say_after(ALICE, None, admit(other, Role::Member));
    assert!(fleet.is_in(EVE) && fleet.is_in(other), "both count until then");
    assert!(fleet.membership().forked.contains(&ALICE));
    fleet.say(ROOT, revoke(ALICE, Some(kept)));
    assert!(fleet.is_in(EVE) && !fleet.is_in(other));
}

#[test]
fn who_left_is_back_when_an_admin_lets_it_in_again_unless_its_key_was_revoked() {
    let mut fleet = fleet();
    let admitted = fleet.membership().nodes[&CAROL].admissions[0];
    fleet.say(CAROL, Act::Left { admitted });
    assert!(!fleet.is_in(CAROL));
    fleet.say(ALICE, Act::Admitted { node: CAROL, role: Role::Reader, name: "again".to_owned() });
    let back = fleet.membership().nodes[&CAROL].clone();
    assert!(back.is_current());
    assert_eq!((back.name.as_str(), back.role), ("again", Role::Member), "a role only grows");
    fleet.say(BOB, revoke(CAROL, None));
    fleet.say(ALICE, admit(CAROL, Role::Member));
    assert!(!fleet.is_in(CAROL));
}

#[test]
fn an_admin_leaves_only_after_it_has_stepped_down() {
    let mut fleet = fleet();
    let admitted = fleet.membership().nodes[&ALICE].admissions[0];
    fleet.say(ALICE, Act::Left { admitted });
    assert!(fleet.is_in(ALICE), "an admin's key could go on letting nodes in");
    fleet.say(ALICE, Act::SteppedDown);
    assert!(!fleet.is_in(ALICE));
    // With this key it can't be an admin again: nothing tells its new statements from stolen ones.
    fleet.say(ROOT, admit(ALICE, Role::Admin));
    let membership = fleet.membership();
    assert_eq!(membership.nodes[&ALICE].role, Role::Member);
    assert_eq!(membership.admins, [ROOT, BOB]);
}

#[test]
fn a_member_that_a_revoked_admin_promotes_at_the_same_time_stays_a_member() {
    let mut fleet = fleet();
    fleet.say(ALICE, Act::Promoted { node: CAROL, role: Role::Admin });
    assert_eq!(fleet.membership().admins, [ROOT, ALICE, CAROL, BOB], "after the one that did it");
    fleet.say(ROOT, revoke(ALICE, None));
    assert_eq!(fleet.membership().admins, [ROOT, BOB]);
    assert_eq!(fleet.membership().nodes[&CAROL].role, Role::Member);
}

#[test]
fn of_two_admissions_the_one_that_counts_keeps_a_node_in() {
    let mut fleet = fleet();
    fleet.say(ALICE, admit(EVE, Role::Admin));
    fleet.say(BOB, admit(EVE, Role::Member));
    fleet.say(ROOT, revoke(ALICE, None));
    assert!(fleet.is_in(EVE));
    assert_eq!(fleet.membership().nodes[&EVE].role, Role::Member);
}

#[test]
fn a_removal_does_not_take_away_what_its_own_author_stands_on() {
    let mut fleet = fleet();
    let first = fleet.set.held()[0].statement.hash();
    fleet.say(BOB, revoke(ROOT, Some(first)));
    assert!(fleet.is_in(ROOT) && fleet.is_in(ALICE) && fleet.is_in(BOB));
}

#[test]
fn a_name_that_two_admins_gave_at_once_stays_with_the_older() {
    let mut fleet = fleet();
    let named = |node| Act::Admitted { node, role: Role::Member, name: "desk".to_owned() };
    let other = sessionmesh::replica::ids::NodeId([9; 32]);
    fleet.say(BOB, named(EVE));
    fleet.say(ALICE, named(other));
    let membership = fleet.membership();
    assert_eq!(membership.nodes[&other].name, "desk");
    assert_eq!(membership.nodes[&EVE].name, "desk-050505");
    fleet.say(ROOT, revoke(other, None));
    assert_eq!(fleet.membership().nodes[&EVE].name, "desk", "the name is free");
}

#[test]
fn a_later_revocation_adds_its_list_of_documents_and_hides() {
    let mut fleet = fleet();
    let with = |documents, retire| Act::Revoked {
        node: CAROL,
        last: None,
        documents: Some([documents; 32]),
        retire,
    };
    fleet.say(BOB, with(1, true));
    fleet.say(ALICE, with(2, false));
    let removal = fleet.membership().nodes[&CAROL].removal.clone().unwrap();
    assert_eq!((removal.by, removal.retire), (ALICE, true));
    assert_eq!(removal.documents, [(ALICE, [2; 32]), (BOB, [1; 32])]);
}

#[test]
fn what_a_revocation_keeps_may_be_unknown_where_another_one_shut_it_out_first() {
    let mut fleet = fleet();
    let unseen = sign(fleet.set.fleet(), BOB, None, admit(EVE, Role::Member));
    fleet.say(ROOT, revoke(BOB, None));
    fleet.say(ALICE, revoke(BOB, Some(unseen.hash())));
    fleet.say(ALICE, Act::Promoted { node: CAROL, role: Role::Admin });
    let before = fleet.membership();
    assert_eq!(before.admins, [ROOT, ALICE, CAROL]);
    assert_eq!(fleet.set.offer(unseen, |_| false), Offered::Held);
    assert_eq!(fleet.membership().nodes, before.nodes);
}
