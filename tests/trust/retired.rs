//! What becomes of a host that is retired: what it has is hidden everywhere, told once, and freed after a
//! while; and it comes back if the retirement ceases to count.

use std::{collections::BTreeSet, time::Duration};

use sessionmesh::{
    replica::{
        command::{Command, NewSession, Refusal, Reply, Target},
        ids::NodeId,
        receipt::Ending,
        record::Role,
    },
    wire::CloseCode,
};

use crate::{
    common::world::{World, name_of},
    create, scene, sessions,
};

const DAY_MS: i64 = 86_400_000;
const HOUR: Duration = Duration::from_secs(3_600);

fn retire(world: &mut World, by: usize, node: usize) {
    world.ask(by, Command::Retire(name_of(node))).expect("an admin retires");
    world.deliver();
}

/// How often a node told of an event of a record.
fn told(world: &World, node: usize, event: &'static str, id: &str) -> u64 {
    world.nodes[node].watch.events.get(&(event, id.to_owned())).copied().unwrap_or(0)
}

fn holds(world: &World, node: usize, host: NodeId) -> bool {
    let heads = world.nodes[node].replica.document_heads();
    heads.iter().any(|(id, ..)| id.host() == Some(host))
}

#[test]
fn what_a_retired_host_has_is_hidden_everywhere_told_once_and_stays_hidden_after_a_restart() {
    let mut world = scene();
    retire(&mut world, 0, 2);
    for node in [0, 1] {
        assert_eq!(sessions(&world, node), 2, "node {node}");
        assert!(world.workspace(node, 2, "w2").is_none());
        assert_eq!(told(&world, node, "session.hidden", "s2"), 1);
        assert_eq!(told(&world, node, "workspace.hidden", "w2"), 1);
        assert_eq!(told(&world, node, "session.purged", "s2"), 0);
    }
    assert_eq!(sessions(&world, 2), 3, "it goes on showing what it has itself");
    let target = Target::new("s2".parse().unwrap());
    let gone = world.ask(1, Command::DeleteSession { session: target, dry_run: false });
    assert_eq!(gone, Err(Refusal::SessionNotFound("s2".parse().unwrap())));
    let by_key = Some(world.nodes[2].id.to_string());
    let new = Command::CreateSession(NewSession { host: by_key, ..NewSession::default() });
    assert_eq!(world.ask(1, new), Err(Refusal::Retired(name_of(2))));
    world.check();
    (0..2).for_each(|other| world.cut(2, other));
    world.crash(1, usize::MAX);
    world.agree();
    assert_eq!((sessions(&world, 1), told(&world, 1, "session.hidden", "s2")), (2, 1));
    let [one, other] = [0, 1].map(|node| world.nodes[node].replica.digest());
    assert_eq!(one, other);
    assert!(world.nodes[0].replica.peers().iter().all(|peer| peer.member.name != name_of(2)));
    // Asking again is not wrong, and says nothing new.
    let statements = world.nodes[0].replica.statement_count();
    let retired = world.nodes[2].id;
    let again = world.ask(0, Command::Retire(retired.to_string()));
    assert_eq!(again, Ok(Reply::Peer(retired)));
    assert_eq!(world.nodes[0].replica.statement_count(), statements);
}

#[test]
fn a_member_that_slept_hides_too_and_who_comes_later_is_given_nothing_of_it() {
    let mut world = scene();
    let retired = world.nodes[2].id;
    world.part();
    retire(&mut world, 0, 2);
    create(&mut world, 1, 2, "meanwhile");
    assert_eq!(sessions(&world, 1), 4);
    world.plug(0, 1);
    world.agree();
    assert_eq!((sessions(&world, 0), sessions(&world, 1)), (2, 2));
    world.add(Default::default(), 0);
    world.join(3, 1, Role::Member);
    world.agree();
    assert_eq!(sessions(&world, 3), 2);
    assert!(!holds(&world, 3, retired) && holds(&world, 1, retired));
    world.sent = Some(Vec::new());
    world.pass(Duration::from_secs(60));
    let said = world.sent.take().unwrap_or_default();
    let kinds: BTreeSet<_> = said.iter().map(|(.., frame)| frame.kind()).collect();
    assert!(
        kinds.is_subset(&BTreeSet::from(["check", "links"])),
        "nothing is asked for: {kinds:?}"
    );
}

#[test]
fn the_documents_of_a_retired_host_are_freed_after_thirty_days_awake_or_not() {
    let mut world = scene();
    let retired = world.nodes[2].id;
    retire(&mut world, 0, 2);
    world.cut(0, 2);
    world.cut(1, 2);
    for node in [0, 1] {
        world.nodes[node].skew_ms += 29 * DAY_MS;
    }
    world.pass(2 * HOUR);
    assert!(holds(&world, 0, retired) && holds(&world, 1, retired));
    // One is awake when it is time, the other one is stopped, and started long after.
    world.nodes[0].skew_ms += DAY_MS;
    world.pass(2 * HOUR);
    assert!(!holds(&world, 0, retired) && holds(&world, 1, retired));
    world.nodes[1].skew_ms += 300 * DAY_MS;
    world.crash(1, usize::MAX);
    assert!(!holds(&world, 1, retired));
    world.agree();
    create(&mut world, 1, 0, "after");
    world.agree();
    for node in [0, 1] {
        world.crash(node, usize::MAX);
        world.pass(Duration::from_secs(60));
        assert!(!holds(&world, node, retired), "it is not fetched again");
        assert_eq!(sessions(&world, node), 3);
    }
}

#[test]
fn the_records_come_back_once_a_retirement_ceases_to_count_and_go_on() {
    for freed in [false, true] {
        let mut world = World::strangers(4, 1);
        world.join(1, 0, Role::Admin);
        (2..4).for_each(|node| world.join(node, 0, Role::Member));
        world.plug_all();
        world.agree();
        create(&mut world, 2, 2, "s2");
        world.agree();
        // The founder revokes node 1, which retires node 2 meanwhile and is heard by node 3.
        world.part();
        world.plug(1, 3);
        world.agree();
        world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
        retire(&mut world, 1, 2);
        assert_eq!(told(&world, 3, "session.hidden", "s2"), 1);
        world.cut(1, 3);
        if freed {
            world.nodes[3].skew_ms += 31 * DAY_MS;
            world.pass(2 * HOUR);
        }
        assert_eq!(holds(&world, 3, world.nodes[2].id), !freed);
        world.plug(0, 3);
        world.plug(0, 2);
        world.plug(2, 3);
        world.agree();
        assert_eq!(sessions(&world, 3), 1);
        assert_eq!(told(&world, 3, "session.created", "s2"), 2);
        create(&mut world, 2, 2, "goes_on");
        world.agree();
        assert_eq!(sessions(&world, 3), 2);
        world.check();
    }
}

#[test]
fn one_that_was_revoked_or_has_left_before_is_forgotten_by_its_name_or_key() {
    let mut world = scene();
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    world.ask(2, Command::Leave).expect("anybody may leave");
    world.deliver();
    assert_eq!(sessions(&world, 0), 3);
    for named in [name_of(1), world.nodes[2].id.to_string()] {
        assert!(matches!(world.ask(0, Command::Retire(named)), Ok(Reply::Peer(_))));
    }
    assert_eq!(sessions(&world, 0), 1);
    assert_eq!(told(&world, 0, "session.hidden", "s1"), 1);
    assert_eq!(told(&world, 0, "session.hidden", "s2"), 1);
}

#[test]
fn a_retired_key_is_told_so_by_name_and_its_name_is_free() {
    let mut world = scene();
    retire(&mut world, 0, 2);
    world.closes.clear();
    world.cut(0, 2);
    world.plug(0, 2);
    world.pass(Duration::from_secs(60));
    let why = world.closes.iter().find(|(by, ..)| *by == 0).map(|(_, _, code, why)| (*code, why));
    let (code, why) = why.expect("its link is closed");
    assert_eq!(code, CloseCode::Revoked);
    assert!(why.contains("retired from the fleet by node-0"), "{why}");
    let secret = [9; 32];
    let invite = Command::Invite { role: Role::Member, expires_in: HOUR, secret };
    let Ok(Reply::Invited(ticket)) = world.ask(0, invite) else { panic!("no ticket") };
    world.add(Default::default(), 0);
    let new = world.nodes[3].id;
    let request = world.request(3, Command::Join(ticket));
    world.plug(3, 0);
    world.pass(Duration::from_secs(10));
    assert!(matches!(world.answer(request), Some(Ok(Reply::Joined(_)))));
    // The new machine may have the old one's name; verbs mean the new one.
    let members = &world.nodes[0].replica.membership().nodes;
    assert!(members[&new].is_current());
}

#[test]
fn only_an_admin_retires_and_neither_itself_nor_the_root_nor_a_stranger() {
    let mut world = World::strangers(3, 1);
    world.join(1, 0, Role::Admin);
    world.join(2, 0, Role::Member);
    world.plug_all();
    world.agree();
    let refused = |world: &mut World, by: usize, name: &str| {
        world.ask(by, Command::Retire(name.to_owned())).expect_err("it is refused")
    };
    assert_eq!(refused(&mut world, 1, &name_of(0)), Refusal::IsRoot(name_of(0)));
    assert_eq!(refused(&mut world, 1, &name_of(1)), Refusal::Oneself(name_of(1)));
    assert_eq!(refused(&mut world, 1, "nobody"), Refusal::NodeNotFound("nobody".to_owned()));
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    world.deliver();
    let shut_out = Refusal::ThisNodeRevoked { what: "revoked", by: name_of(0) };
    assert_eq!(refused(&mut world, 1, &name_of(2)), shut_out);
    assert_eq!(refused(&mut world, 2, &name_of(0)), Refusal::NotAdmin);
    retire(&mut world, 0, 2);
    let resume = world.ask(0, Command::Resume(world.nodes[2].id.to_string()));
    assert_eq!(resume, Err(Refusal::Retired(name_of(2))));
}

/// A root that is lost: revoked first, then another one is the root, and it can be forgotten.
#[test]
fn a_root_that_is_lost_is_revoked_and_then_retired() {
    let mut world = scene();
    (1..3).for_each(|other| world.cut(0, other));
    world.ask(1, Command::Revoke(name_of(0))).expect("an admin revokes");
    let root = world.nodes[0].id.to_string();
    world.ask(1, Command::Retire(root)).expect("it is the root no more");
    world.deliver();
    assert_eq!((sessions(&world, 1), sessions(&world, 2)), (2, 2));
}

#[test]
fn a_delete_on_a_host_that_is_retired_meanwhile_waits_for_nobody() {
    let mut world = scene();
    world.cut(0, 2);
    world.cut(1, 2);
    let session = Target::new("s2".parse().unwrap());
    let deleted = world.ask(0, Command::DeleteSession { session, dry_run: false });
    let Ok(Reply::SessionDeleted(deleted)) = deleted else { panic!("{deleted:?}") };
    let receipt = deleted.receipt.expect("it was written");
    retire(&mut world, 0, 2);
    let told = world.ask(0, Command::Receipt(receipt));
    let Ok(Reply::Receipt(told)) = told else { panic!("{told:?}") };
    assert!(told.complete && told.sessions[0].state == Ending::Hidden, "{told:?}");
}
