//! Who belongs, where nodes exchange it: what a revoked admin, a stolen key and an ordinary member
//! sign counts for nothing, no matter who carries it, and a revocation reaches everybody.

use std::time::Duration;

use automerge::transaction::Transactable as _;
use sessionmesh::{
    replica::{
        command::{Command, Refusal, Reply},
        effect::Input,
        ids::{NodeId, StatementHash},
        membership::statement::{Act, Statement},
        record::Role,
    },
    wire::{CloseCode, Frame, Hello, PROTOCOL, PROTOCOL_MIN},
};

use crate::{
    Rogue, closes,
    common::{
        keys::key_of,
        world::{World, name_of},
    },
    host_document, scene, send, session_at,
};

const HOUR: Duration = Duration::from_secs(3_600);
const EVE: NodeId = NodeId([0xee; 32]);

/// A founder, two further admins, two members, all linked.
pub fn five() -> World {
    let mut world = World::strangers(5, 1);
    world.join(1, 0, Role::Admin);
    world.join(2, 0, Role::Admin);
    (3..5).for_each(|node| world.join(node, 0, Role::Member));
    world.plug_all();
    world.agree();
    world.closes.clear();
    world
}

/// Has a key sign statements one after the other, from a statement on or from its newest.
fn sign(world: &World, by: NodeId, after: Option<StatementHash>, acts: Vec<Act>) -> Vec<Statement> {
    let held = world.nodes[0].replica.statements();
    let mut previous = after.or_else(|| held.newest(&by));
    let mut signed = Vec::new();
    for act in acts {
        let statement = Statement::sign(&*key_of(by), held.fleet(), by, previous, 1, act);
        previous = Some(statement.hash());
        signed.push(statement);
    }
    signed
}

fn say(world: &mut World, from: usize, to: usize, statements: &[Statement]) {
    let statements = statements.iter().map(Statement::encode).collect();
    world.forge(from, to, &Frame::Statements { statements });
    world.deliver();
}

fn is_in(world: &World, at: usize, node: NodeId) -> bool {
    let membership = world.nodes[at].replica.membership();
    membership.nodes.get(&node).is_some_and(|belonging| belonging.is_current())
}

fn admit(node: NodeId) -> Act {
    Act::Admitted { node, role: Role::Admin, name: "eve".to_owned() }
}

fn revoke(node: NodeId) -> Act {
    Act::Revoked { node, last: None, documents: None, retire: false }
}

#[test]
fn an_admin_that_was_revoked_is_told_and_admits_and_revokes_nobody() {
    let mut world = five();
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    world.deliver();
    let invite = Command::Invite { role: Role::Admin, expires_in: HOUR, secret: [1; 32] };
    let shut_out = || Refusal::ThisNodeRevoked { what: "revoked", by: name_of(0) };
    assert_eq!(world.ask(1, invite), Err(shut_out()));
    let promote = Command::Promote { node: name_of(4), role: Role::Admin };
    for command in [Command::Revoke(name_of(0)), promote, Command::StepDown] {
        assert_eq!(world.ask(1, command), Err(shut_out()));
    }
}

#[test]
fn a_revoked_admin_takes_nothing_over_though_it_meets_first_who_was_asleep() {
    let mut world = five();
    let ids: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    // Nodes 2 and 3 do not hear that the founder revokes node 1.
    for asleep in [1, 2, 3] {
        [0, 4].into_iter().for_each(|other| world.cut(asleep, other));
    }
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    world.deliver();
    // What its daemon would refuse, its key signs: by itself, and by whom it lets in.
    let own = vec![admit(EVE), revoke(ids[0]), revoke(ids[2])];
    let previous = world.nodes[1].replica.statements().newest(&ids[1]);
    let signed = sign(&world, ids[1], previous, own);
    let by_eve = sign(&world, EVE, None, vec![revoke(ids[0]), admit(NodeId([0xed; 32]))]);
    for asleep in [3, 2] {
        say(&mut world, 1, asleep, &signed);
        if world.is_linked(1, asleep) {
            say(&mut world, 1, asleep, &by_eve);
        }
        assert!(is_in(&world, asleep, EVE), "it can't know better yet");
    }
    world.cut(1, 2);
    world.cut(1, 3);
    world.plug(3, 4);
    world.pass(Duration::from_secs(5));
    world.plug_all();
    world.pass(Duration::from_secs(60));
    for at in [0, 2, 3, 4] {
        assert!(!is_in(&world, at, ids[1]) && !is_in(&world, at, EVE), "at {at}");
        for node in [0, 2, 3, 4] {
            assert!(is_in(&world, at, ids[node]), "{node} at {at}");
        }
        assert_eq!(world.nodes[at].replica.membership().admins, [ids[0], ids[2]]);
        assert!(!world.is_linked(1, at), "{at} lets it in");
    }
    // After a restart it is the same.
    world.crash(3, usize::MAX);
    world.pass(Duration::from_secs(60));
    assert!(!is_in(&world, 3, EVE) && is_in(&world, 3, ids[0]));
}

#[test]
fn whatever_is_signed_with_the_key_of_a_root_that_stepped_down_counts_for_nothing() {
    let mut world = five();
    let ids: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    let first = world.nodes[0].replica.statements().held()[0].statement.hash();
    let newest = world.nodes[0].replica.statements().newest(&ids[0]);
    (0..4).for_each(|other| world.cut(4, other));
    assert_eq!(world.ask(0, Command::StepDown), Ok(Reply::Peer(ids[0])));
    world.deliver();
    // Its key signs on: after it stepped down, beside that, and before it.
    let takeover = || vec![admit(EVE), revoke(ids[1]), revoke(ids[2])];
    for after in [None, newest, Some(first)] {
        let signed = sign(&world, ids[0], after, takeover());
        say(&mut world, 0, 1, &signed);
        world.plug(0, 4);
        world.pass(Duration::from_secs(5));
        say(&mut world, 0, 4, &signed);
    }
    let forged = sign(&world, ids[0], Some(first), vec![admit(EVE), Act::SteppedDown]);
    say(&mut world, 0, 1, &forged);
    world.plug_all();
    world.agree();
    for at in 0..5 {
        assert_eq!(world.nodes[at].replica.membership().admins, [ids[1], ids[2]], "at {at}");
        assert!((0..5).all(|node| is_in(&world, at, ids[node])) && !is_in(&world, at, EVE));
    }
    assert_eq!(world.ask(0, Command::Revoke(name_of(1))), Err(Refusal::NotAdmin));
    let again = Command::Promote { node: name_of(0), role: Role::Admin };
    assert_eq!(world.ask(1, again), Err(Refusal::SteppedDown(name_of(0))));
}

/// Two changes under one number once split a document that the revocation was in.
#[test]
fn a_member_does_not_keep_its_own_revocation_from_anybody() {
    let mut world = scene();
    let rogue = Rogue::new(&world, 1);
    let document = host_document(&world, 2);
    for (to, text) in [(0, "one"), (2, "other")] {
        let change = rogue.write(&world, &document, |doc| {
            let record = session_at(doc, "s2");
            doc.put(&record, "title", text).unwrap();
        });
        let vouchers = vec![rogue.vouch(&document, &change)];
        send(&mut world, 1, to, document, &[&change], vouchers);
    }
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    world.add(Default::default(), 0);
    world.join(3, 0, Role::Member);
    world.deliver();
    let (revoked, new) = (world.nodes[1].id, world.nodes[3].id);
    for at in [0, 2, 3] {
        assert!(!is_in(&world, at, revoked) && is_in(&world, at, new), "at {at}");
    }
}

#[test]
fn a_member_has_no_say_and_who_forges_is_cut_off() {
    let mut world = five();
    let ids: Vec<NodeId> = world.nodes.iter().map(|node| node.id).collect();
    let before = world.nodes[4].replica.statements_digest();
    let signed = sign(&world, ids[3], None, vec![admit(EVE), revoke(ids[0])]);
    say(&mut world, 3, 4, &signed);
    assert_eq!(world.nodes[4].replica.statements_digest(), before);
    assert!(closes(&world).is_empty(), "who passes it on is not to blame");
    // In the founder's name, by another key.
    let held = world.nodes[0].replica.statements();
    let previous = held.newest(&ids[0]);
    let forged = Statement::sign(&*key_of(ids[3]), held.fleet(), ids[0], previous, 1, admit(EVE));
    say(&mut world, 3, 4, &[forged]);
    assert_eq!(closes(&world), [(4, 3, CloseCode::Hostile)]);
    assert_eq!(world.nodes[4].replica.statements_digest(), before);
}

#[test]
fn a_promoted_member_invites_and_the_admitted_name_is_free_and_no_key() {
    let mut world = five();
    let role = Role::Admin;
    let promote = Command::Promote { node: name_of(3), role };
    assert!(world.ask(0, promote).is_ok());
    world.agree();
    world.add(Default::default(), 0);
    world.join(5, 3, Role::Reader);
    assert!(is_in(&world, 0, world.nodes[5].id));
    let shrink = Command::Promote { node: name_of(3), role: Role::Member };
    let refused = world.ask(0, shrink);
    assert_eq!(refused, Err(Refusal::RoleShrinks { name: name_of(3), role: "admin" }));
}

/// How many statements a node was sent, all told, before anybody greeted it.
fn shown(world: &mut World, to: usize) -> usize {
    let said = world.sent.replace(Vec::new()).unwrap_or_default();
    let count = |frame: &Frame| match frame {
        Frame::Statements { statements } => statements.len(),
        _ => 0,
    };
    said.iter().filter(|(_, at, _)| *at == to).map(|(.., frame)| count(frame)).sum()
}

#[test]
fn a_machine_that_slept_through_its_revocation_is_shown_it_and_says_so() {
    for retire in [false, true] {
        let mut world = five();
        (0..5).filter(|other| *other != 1).for_each(|other| world.cut(1, other));
        // By an admin that was let in meanwhile.
        world.add(Default::default(), 0);
        world.join(5, 0, Role::Admin);
        world.plug_all();
        (0..6).filter(|other| *other != 1).for_each(|other| world.cut(1, other));
        let act = if retire { Command::Retire } else { Command::Revoke };
        world.ask(5, act(name_of(1))).expect("an admin may");
        world.deliver();
        assert_eq!(world.nodes[1].replica.shut_out(), None);
        world.sent = Some(Vec::new());
        world.plug(1, 3);
        world.pass(Duration::from_secs(5));
        let shut_out = world.nodes[1].replica.shut_out().expect("it was shown");
        assert_eq!((shut_out.by, shut_out.is_retired), (name_of(5), retire));
        assert!(shown(&mut world, 1) > 0);
        let invite = Command::Invite { role: Role::Admin, expires_in: HOUR, secret: [1; 32] };
        assert!(matches!(world.ask(1, invite), Err(Refusal::ThisNodeRevoked { .. })));
        // It goes on dialling, and is not told the same again and again.
        for _ in 0..5 {
            world.cut(1, 3);
            world.plug(1, 3);
            world.pass(Duration::from_secs(5));
        }
        assert_eq!(shown(&mut world, 1), 0);
        world.crash(1, usize::MAX);
        assert!(world.nodes[1].replica.shut_out().is_some(), "it is durable");
    }
}

/// Whose admission ceased to count hears that, too: who let it in was shut out.
#[test]
fn a_node_that_an_admin_gone_bad_let_in_is_shown_why_it_is_no_member() {
    let mut world = five();
    (0..5).filter(|other| *other != 1).for_each(|other| world.cut(1, other));
    world.add(Default::default(), 0);
    world.join(5, 1, Role::Member);
    world.plug(1, 2);
    world.pass(Duration::from_secs(5));
    world.cut(1, 2);
    assert!(is_in(&world, 2, world.nodes[5].id));
    let (root, second) = (world.nodes[0].id, world.nodes[1].id);
    let act = Act::Revoked { node: second, last: None, documents: None, retire: false };
    let signed = sign(&world, root, None, vec![act]);
    say(&mut world, 0, 2, &signed);
    assert!(!is_in(&world, 2, world.nodes[5].id) && is_in(&world, 5, second));
    world.cut(1, 5);
    world.plug(5, 2);
    world.pass(Duration::from_secs(5));
    assert!(!is_in(&world, 5, second), "it has seen the revocation");
}

#[test]
fn a_stranger_is_shown_nothing() {
    let mut world = five();
    world.ask(0, Command::Revoke(name_of(1))).expect("an admin revokes");
    let hello = |fleet| {
        Frame::Hello(Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            fleet,
            name: "eve".to_owned(),
            version: "1".to_owned(),
            features: 0,
            frontier: [0; 32],
            statements: [0; 32],
        })
    };
    let now = world.now_at(0);
    let replica = &mut world.nodes[0].replica;
    let frame = hello(replica.fleet());
    replica.handle(now, Input::PeerConnected { peer: EVE });
    let fx = replica.handle(now, Input::FrameReceived { peer: EVE, frame });
    assert_eq!(fx.closes.first().map(|(_, code, _)| *code), Some(CloseCode::UnknownKey));
    assert!(fx.frames.is_empty(), "{:?}", fx.frames);
}
