//! Who belongs to a fleet: tickets, joining, leaving, pausing and shutting out.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::time::Duration;

use common::world::{World, name_of};
use sessionmesh::{
    replica::{
        command::{Command, NewSession, Refusal, Reply, Target},
        invite::Ticket,
        record::Role,
    },
    wire::CloseCode,
};

const HOUR: Duration = Duration::from_secs(3_600);

fn ticket(world: &mut World, by: usize, role: Role, secret: u8) -> Ticket {
    let secret = [secret; 32];
    match world.ask(by, Command::Invite { role, expires_in: HOUR, secret }) {
        Ok(Reply::Invited(ticket)) => ticket,
        other => panic!("{other:?}"),
    }
}

/// Has a node present a ticket over a cable to `to`, and returns what it is answered.
fn present(world: &mut World, node: usize, to: usize, ticket: Ticket) -> Result<Reply, Refusal> {
    let request = world.request(node, Command::Join(ticket));
    world.plug(node, to);
    world.pass(Duration::from_secs(30));
    world.answer(request).expect("an answer")
}

fn refused_by(answer: Result<Reply, Refusal>) -> String {
    match answer {
        Err(Refusal::JoinRefused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

fn create(world: &mut World, node: usize, id: &str) {
    let id = Some(id.parse().unwrap());
    let reply = world.ask(node, Command::CreateSession(NewSession { id, ..Default::default() }));
    assert!(matches!(reply, Ok(Reply::Session(_))), "{reply:?}");
}

fn sessions(world: &World, node: usize) -> usize {
    world.nodes[node].replica.view().sessions().count()
}

fn current(world: &World, node: usize, other: usize) -> bool {
    let peers = world.nodes[node].replica.peers();
    peers.iter().any(|p| p.member.node == world.nodes[other].id && p.member.is_current())
}

#[test]
fn of_two_nodes_that_present_one_ticket_one_gets_in() {
    let mut world = World::strangers(3, 1);
    let ticket = ticket(&mut world, 0, Role::Member, 9);
    let first = present(&mut world, 1, 0, ticket.clone());
    assert!(matches!(first, Ok(Reply::Joined(_))), "{first:?}");
    let second = present(&mut world, 2, 0, ticket);
    assert_eq!(refused_by(second), CloseCode::TicketUsed.name());
    assert!(!current(&world, 0, 2));
}

#[test]
fn a_ticket_that_is_unknown_or_past_its_time_lets_nobody_in() {
    let mut world = World::strangers(3, 1);
    let real = ticket(&mut world, 0, Role::Member, 9);
    let forged = Ticket { secret: [8; 32], ..real.clone() };
    let answer = present(&mut world, 1, 0, forged);
    assert_eq!(refused_by(answer), CloseCode::TicketUnknown.name());
    world.pass(HOUR);
    let answer = present(&mut world, 2, 0, real);
    assert_eq!(refused_by(answer), CloseCode::TicketExpired.name());
}

#[test]
fn a_node_that_crashed_before_it_heard_that_it_is_in_gets_in_with_the_same_ticket() {
    let mut world = World::strangers(2, 1);
    let ticket = ticket(&mut world, 0, Role::Member, 9);
    world.request(1, Command::Join(ticket.clone()));
    world.plug(1, 0);
    // The inviter lets it in, and the answer is lost.
    assert!(world.deliver_one());
    world.lose_silently(0, 1);
    world.crash(1, 0);
    assert!(current(&world, 0, 1));
    let answer = present(&mut world, 1, 0, ticket);
    assert!(matches!(answer, Ok(Reply::Joined(_))), "{answer:?}");
    world.agree();
}

#[test]
fn a_node_brings_its_own_sessions_along() {
    let mut world = World::strangers(2, 1);
    create(&mut world, 0, "a");
    create(&mut world, 1, "b");
    world.join(1, 0, Role::Member);
    assert_eq!((sessions(&world, 0), sessions(&world, 1)), (2, 2));
}

#[test]
fn a_node_that_belongs_with_others_must_leave_before_it_joins() {
    let mut world = World::fleet(2, 1);
    world.add(Default::default(), 0);
    let ticket = ticket(&mut world, 2, Role::Member, 9);
    assert_eq!(world.ask(1, Command::Join(ticket)), Err(Refusal::NotAlone));
}

#[test]
fn who_leaves_keeps_only_its_own_sessions_and_may_come_back() {
    let mut world = World::fleet(3, 1);
    (0..3).for_each(|node| create(&mut world, node, &format!("s{node}")));
    world.agree();
    assert_eq!(world.ask(1, Command::Leave), Ok(Reply::Done));
    world.deliver();
    assert_eq!(sessions(&world, 1), 1);
    assert!(!current(&world, 0, 1) && !current(&world, 2, 1));
    assert_eq!(sessions(&world, 0), 3, "what it hosts stays readable");
    world.check();
    // What is stored of it says the same.
    world.crash(1, 0);
    assert_eq!(sessions(&world, 1), 1);
    create(&mut world, 1, "later");
    world.pass(Duration::from_secs(5));
    assert_eq!(sessions(&world, 0), 3);
    let again = ticket(&mut world, 0, Role::Member, 9);
    let answer = present(&mut world, 1, 0, again);
    assert!(matches!(answer, Ok(Reply::Joined(_))), "{answer:?}");
    world.agree();
    assert_eq!(sessions(&world, 1), 4);
    assert_eq!(sessions(&world, 2), 4);
}

/// A node whose fellows had all been revoked was alone, and took what they host into the fleet
/// that it joined: nobody there wants it, so its frontier differed from everybody's for ever.
#[test]
fn who_joins_leaves_behind_what_former_fellows_host() {
    let mut world = World::fleet(2, 1);
    create(&mut world, 0, "a");
    create(&mut world, 1, "b");
    world.agree();
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    world.deliver();
    world.part();
    world.add(Default::default(), 0);
    world.join(0, 2, Role::Member);
    assert_eq!((sessions(&world, 0), sessions(&world, 2)), (1, 1));
    world.check();
    world.crash(0, 0);
    world.agree();
    assert_eq!(sessions(&world, 0), 1);
}

#[test]
fn a_revoked_key_is_cut_off_by_all_and_stays_out() {
    let mut world = World::fleet(3, 1);
    world.ask(0, Command::Revoke(name_of(2))).expect("an admin revokes");
    world.deliver();
    assert!(!world.is_linked(0, 2) && !world.is_linked(1, 2));
    create(&mut world, 2, "late");
    world.pass(Duration::from_secs(30));
    assert_eq!((sessions(&world, 0), sessions(&world, 1)), (0, 0));
    let ticket = ticket(&mut world, 0, Role::Member, 9);
    world.ask(2, Command::Leave).expect("it may leave for a fleet of its own");
    world.pass(Duration::from_secs(5));
    let answer = present(&mut world, 2, 0, ticket);
    assert_eq!(refused_by(answer), CloseCode::Revoked.name());
}

/// Two admins that let the same node in at once each made an entry for it, only one of which was
/// read: a revocation that was written into the other one did not count.
#[test]
fn a_revocation_counts_though_another_admin_let_the_node_in_at_the_same_time() {
    for revoker in [0, 1] {
        let mut world = World::fleet(2, 1);
        world.add(Default::default(), 0);
        let tickets = [0, 1].map(|by| ticket(&mut world, by, Role::Member, by as u8 + 9));
        world.part();
        for (by, ticket) in tickets.into_iter().enumerate() {
            let answer = present(&mut world, 2, by, ticket);
            assert!(matches!(answer, Ok(Reply::Joined(_))), "{answer:?}");
            world.cut(2, by);
            let forgets = world.ask(2, Command::Leave);
            assert!(matches!(forgets, Ok(Reply::Done)), "{forgets:?}");
        }
        world.ask(revoker, Command::Revoke(name_of(2))).expect("an admin revokes");
        world.plug(0, 1);
        world.agree();
        assert!(!current(&world, 0, 2) && !current(&world, 1, 2), "revoked by {revoker}");
    }
}

/// Two admins of four nodes that can't hear each other do something, and each is heard by one of
/// the others first.
fn apart_and_together_again(acts: [Command; 2]) -> World {
    let mut world = World::strangers(4, 1);
    world.join(1, 0, Role::Admin);
    (2..4).for_each(|node| world.join(node, 0, Role::Member));
    world.plug_all();
    world.agree();
    world.part();
    world.plug(0, 2);
    world.plug(1, 3);
    world.agree();
    for (admin, act) in acts.into_iter().enumerate() {
        world.ask(admin, act).expect("an admin may");
    }
    world.deliver();
    for node in 0..4 {
        assert_eq!(world.nodes[node].replica.admin_count(), 1, "node {node} has heard one");
    }
    world.part();
    world.plug(2, 3);
    world.agree();
    world
}

/// The senior's revocation stands whatever the junior has signed, wherever the two meet.
#[test]
fn of_two_admins_that_revoke_each_other_at_once_the_senior_stays_and_every_member_knows() {
    let mut world =
        apart_and_together_again([Command::Revoke(name_of(1)), Command::Revoke(name_of(0))]);
    for node in [2, 3] {
        assert!(current(&world, node, 0) && !current(&world, node, 1), "seen by {node}");
        assert_eq!(world.nodes[node].replica.admin_count(), 1);
    }
    for member in [2, 3] {
        world.plug(1, member);
        world.pass(Duration::from_secs(5));
        assert!(!world.is_linked(1, member), "the junior is not let in by {member}");
        world.cut(1, member);
    }
    world.plug(0, 2);
    create(&mut world, 2, "after");
    world.pass(Duration::from_secs(40));
    assert!(world.is_linked(0, 2));
    assert_eq!(sessions(&world, 0), 1);
    let invite = Command::Invite { role: Role::Member, expires_in: HOUR, secret: [1; 32] };
    assert!(world.ask(0, invite).is_ok());
}

/// The last admin can't go: of two that go at once, not knowing of each other, the junior is held to
/// be one still.
#[test]
fn of_two_admins_that_leave_at_once_one_counts_as_an_admin_on() {
    let world = apart_and_together_again([Command::Leave, Command::Leave]);
    for node in [2, 3] {
        assert_eq!(world.nodes[node].replica.admin_count(), 1, "known to {node}");
        assert!(!current(&world, node, 0) && current(&world, node, 1), "seen by {node}");
    }
}

/// The replica closes the link in the very step in which it learns of the revocation: no clock is
/// involved, so nothing can make it late.
#[test]
fn a_revocation_closes_the_link_in_the_step_that_brings_it() {
    let mut world = World::strangers(3, 1);
    (1..3).for_each(|node| world.join(node, 0, Role::Member));
    world.plug_all();
    world.agree();
    world.closes.clear();
    let before = world.now;
    world.request(0, Command::Revoke(name_of(2)));
    let revoked = |(node, peer, code): (usize, usize, CloseCode)| (node, peer, code);
    let closes = |world: &World| -> Vec<_> {
        world.closes.iter().map(|(node, peer, code, _)| revoked((*node, *peer, *code))).collect()
    };
    assert_eq!(closes(&world), [(0, 2, CloseCode::Revoked)], "by who revokes, at once");
    world.deliver();
    assert!(closes(&world).contains(&(1, 2, CloseCode::Revoked)), "by who hears of it");
    assert_eq!(world.now, before, "no time has passed");
}

#[test]
fn a_paused_peer_gets_nothing_from_either_side_also_after_a_restart() {
    let mut world = World::fleet(2, 1);
    world.ask(0, Command::Pause(name_of(1))).expect("a member");
    create(&mut world, 0, "a");
    create(&mut world, 1, "b");
    world.pass(Duration::from_secs(30));
    world.crash(0, usize::MAX);
    world.pass(Duration::from_secs(30));
    assert_eq!((sessions(&world, 0), sessions(&world, 1)), (1, 1));
    world.ask(0, Command::Resume(name_of(1))).expect("a member");
    world.agree();
    assert_eq!((sessions(&world, 0), sessions(&world, 1)), (2, 2));
}

/// A reader's own, empty document was offered to all and taken by none: it was asked for again and
/// again, and no reader was ever in sync with anyone.
#[test]
fn a_reader_sees_all_writes_nothing_and_is_in_sync() {
    let mut world = World::fleet(2, 1);
    create(&mut world, 0, "a");
    world.add(Default::default(), 0);
    world.join(2, 0, Role::Reader);
    world.pass(Duration::from_secs(1));
    assert_eq!(sessions(&world, 2), 1);
    let session = Target::new("a".parse().unwrap());
    let refused = world.ask(2, Command::DeleteSession { session, dry_run: false });
    assert_eq!(refused, Err(Refusal::ReadOnly));
    assert!(world.nodes[2].replica.peers().iter().any(|peer| peer.in_sync));
    world.sent = Some(Vec::new());
    world.pass(Duration::from_secs(60));
    let said = world.sent.take().unwrap_or_default();
    assert!(said.iter().all(|(.., frame)| frame.kind() == "check"), "nothing but comparisons");
}
