//! A receipt tells which members have applied a delete: as they have told, and no more than that.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::{collections::BTreeMap, time::Duration};

use common::world::{Mode, SERVER, UNDO_WINDOW, World};
use sessionmesh::replica::{
    command::{Command, Import, ImportedSession, NewSession, Refusal, Reply, Target},
    ids::{ReceiptId, SessionId},
    receipt::{
        Applying::{self, Applied, Pending, Unreachable},
        CarryingOut, Ending, Receipt,
    },
};

const ASKED: usize = 0;
const HOST: usize = 1;
const OTHER: usize = 2;

fn id(name: &str) -> SessionId {
    name.parse().unwrap()
}

/// Makes a session on the host that everyone knows of.
fn create(world: &mut World, name: &str) {
    let host = Some(world.nodes[HOST].id.to_string());
    let new = NewSession { id: Some(id(name)), host, ..NewSession::default() };
    world.ask(HOST, Command::CreateSession(new)).unwrap();
    world.agree();
}

/// Has the host take a session of its agent's server in.
fn take_in(world: &mut World, server: &str, name: &str) {
    let session = ImportedSession {
        id: id(name),
        workspace_id: None,
        parent_id: None,
        project_id: None,
        directory: None,
        title: None,
        created_at: 1,
        updated_at: 1,
        archived_at: None,
        agent: None,
        agent_server: Some(server.to_owned()),
        extra: BTreeMap::new(),
    };
    let import = Import { workspaces: Vec::new(), sessions: vec![session] };
    world.ask(HOST, Command::Import(import)).unwrap();
    world.agree();
}

/// Says that the server has these no more.
fn gone(names: &[&str]) -> Command {
    let sessions = names.iter().map(|name| id(name)).collect();
    Command::AgentGone { servers: [SERVER.to_owned()].into(), sessions }
}

fn delete(world: &mut World, name: &str) -> ReceiptId {
    let command = Command::DeleteSession { session: Target::new(id(name)), dry_run: false };
    match world.ask(ASKED, command) {
        Ok(Reply::SessionDeleted(deleted)) => deleted.receipt.expect("something was written"),
        other => panic!("{other:?}"),
    }
}

fn told(world: &mut World, receipt: &ReceiptId) -> Receipt {
    match world.ask(ASKED, Command::Receipt(receipt.clone())) {
        Ok(Reply::Receipt(told)) => *told,
        other => panic!("{other:?}"),
    }
}

fn states(told: &Receipt) -> Vec<Applying> {
    told.members.iter().map(|member| member.state).collect()
}

/// Lets a question and its answer travel, in less time than it takes to compare frontiers.
fn answered(world: &mut World, receipt: &ReceiptId) -> Receipt {
    told(world, receipt);
    world.pass(Duration::from_millis(1));
    told(world, receipt)
}

#[test]
fn who_has_a_link_is_pending_until_it_has_told_and_who_has_none_is_unreachable() {
    let mut world = World::fleet(3, 1);
    create(&mut world, "s");
    world.cut(ASKED, OTHER);
    world.cut(HOST, OTHER);
    let receipt = delete(&mut world, "s");
    let first = told(&mut world, &receipt);
    assert_eq!(states(&first), [Applied, Pending, Unreachable]);
    assert!(!first.complete);
    assert_eq!(states(&answered(&mut world, &receipt)), [Applied, Applied, Unreachable]);
    world.plug_all();
    world.agree();
    world.pass(Duration::from_secs(1));
    let last = told(&mut world, &receipt);
    assert_eq!(states(&last), [Applied, Applied, Applied]);
    assert!(last.complete);
    assert_eq!((last.sessions[0].state, last.sessions[0].agent), (Ending::Deleted, None));
}

#[test]
fn a_delete_that_was_lost_on_its_way_is_not_taken_for_applied() {
    let mut world = World::fleet(2, 2);
    create(&mut world, "s");
    let receipt = delete(&mut world, "s");
    assert_eq!(world.lose_silently(ASKED, HOST), 1, "the push was on its way");
    let lost = answered(&mut world, &receipt);
    assert_eq!(states(&lost), [Applied, Pending]);
    assert!(world.session(HOST, HOST, "s").is_some_and(|s| s.deleted.is_none()));
    world.pass(Duration::from_secs(2));
    assert_eq!(states(&told(&mut world, &receipt)), [Applied, Applied]);
}

#[test]
fn nobody_need_ask_for_it_to_become_known() {
    let mut world = World::fleet(3, 3);
    create(&mut world, "s");
    let receipt = delete(&mut world, "s");
    world.pass(Duration::from_secs(1));
    assert_eq!(states(&told(&mut world, &receipt)), [Applied, Applied, Applied]);
}

#[test]
fn what_a_member_has_told_stays_told_after_a_crash_although_it_is_away() {
    let mut world = World::fleet(3, 4);
    create(&mut world, "s");
    let receipt = delete(&mut world, "s");
    assert!(answered(&mut world, &receipt).complete);
    world.part();
    world.crash(ASKED, usize::MAX);
    let again = told(&mut world, &receipt);
    assert_eq!(states(&again), [Applied, Applied, Applied]);
}

#[test]
fn an_agent_is_pending_until_the_host_has_purged_what_it_confirmed() {
    let mut world = World::fleet(3, 5);
    take_in(&mut world, SERVER, "s");
    let receipt = delete(&mut world, "s");
    world.pass(UNDO_WINDOW * 3);
    let waiting = told(&mut world, &receipt);
    assert_eq!(states(&waiting), [Applied, Applied, Applied]);
    assert_eq!(waiting.sessions[0].agent, Some(CarryingOut::Pending));
    assert!(!waiting.complete);
    world.ask(HOST, gone(&["s"])).unwrap();
    world.agree();
    let done = told(&mut world, &receipt);
    assert_eq!(done.sessions[0].state, Ending::Purged);
    assert_eq!(done.sessions[0].agent, Some(CarryingOut::Done));
    assert!(done.complete);
}

#[test]
fn a_purge_without_the_agents_word_is_told_as_such() {
    let mut world = World::fleet(2, 6);
    take_in(&mut world, "http://elsewhere.test/", "s");
    let receipt = delete(&mut world, "s");
    world.pass(UNDO_WINDOW * 2);
    world.agree();
    let waiting = told(&mut world, &receipt);
    assert_eq!(waiting.sessions[0].agent, Some(CarryingOut::Pending));
    assert!(!waiting.complete);
    world.ask(HOST, Command::ForgetAgent(Target::new(id("s")))).unwrap();
    world.agree();
    let purged = told(&mut world, &receipt);
    assert_eq!(purged.sessions[0].agent, Some(CarryingOut::Unasked));
    assert!(purged.complete);
}

#[test]
fn a_restored_session_has_nothing_left_to_be_carried_out() {
    let mut world = World::fleet(2, 7);
    take_in(&mut world, SERVER, "s");
    let receipt = delete(&mut world, "s");
    let operation = answered(&mut world, &receipt).operation;
    world.ask(HOST, Command::Restore(operation)).unwrap();
    world.agree();
    let restored = answered(&mut world, &receipt);
    assert_eq!((restored.sessions[0].state, restored.sessions[0].agent), (Ending::Restored, None));
    assert!(restored.complete);
}

#[test]
fn a_hosts_purge_shows_that_it_has_the_delete_even_if_it_never_said_so() {
    let mut world = World::fleet(2, 8);
    create(&mut world, "s");
    world.disks = Mode::Held;
    let receipt = delete(&mut world, "s");
    world.pass(Duration::ZERO);
    world.cut(ASKED, HOST);
    // The crash takes whatever the host may have told by now.
    world.pass(UNDO_WINDOW * 2);
    world.plug(ASKED, HOST);
    world.agree();
    assert_eq!(states(&told(&mut world, &receipt)), [Applied, Applied]);
}

#[test]
fn the_oldest_receipts_are_forgotten_and_unknown_ones_refused() {
    let mut world = World::fleet(1, 9);
    let mut receipts = Vec::new();
    for number in 0..513 {
        let name = format!("s{number}");
        let new = NewSession { id: Some(id(&name)), ..NewSession::default() };
        world.ask(ASKED, Command::CreateSession(new)).unwrap();
        receipts.push(delete(&mut world, &name));
        world.pass(Duration::from_millis(1));
    }
    for (receipt, kept) in [(&receipts[0], false), (&receipts[1], true), (&receipts[512], true)] {
        let answer = world.ask(ASKED, Command::Receipt(receipt.clone()));
        assert_eq!(answer.is_ok(), kept, "{receipt}");
        let refused = Err(Refusal::ReceiptNotFound(receipt.clone()));
        assert!(kept || answer == refused, "{answer:?}");
    }
    assert_eq!(world.nodes[ASKED].disk.stored().receipts.len(), 512);
}
