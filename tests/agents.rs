//! What an agent's server still has is not purged on its host, and is found again after a crash.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::world::{SERVER, UNDO_WINDOW, World};
use sessionmesh::replica::{
    command::{Command, Import, ImportedSession, Reply, SessionPatch, Target},
    ids::SessionId,
    record::{DeletionReason, EXTRA_SERVER, SessionState},
};

const HOST: usize = 1;
const OTHER: usize = 0;
const ELSEWHERE: &str = "http://elsewhere.test/";

fn id(name: &str) -> SessionId {
    name.parse().unwrap()
}

fn imported(name: &str, server: &str, parent: Option<&str>) -> ImportedSession {
    ImportedSession {
        id: id(name),
        workspace_id: None,
        parent_id: parent.map(id),
        project_id: None,
        directory: None,
        title: None,
        created_at: 1,
        updated_at: 1,
        archived_at: None,
        agent: None,
        agent_server: Some(server.to_owned()),
        extra: BTreeMap::new(),
    }
}

/// Has the host take sessions in, each with its parent, as listed by a server.
fn take_in(world: &mut World, server: &str, sessions: &[(&str, Option<&str>)]) {
    let sessions = sessions.iter().map(|(name, parent)| imported(name, server, *parent));
    let import = Import { workspaces: Vec::new(), sessions: sessions.collect() };
    world.ask(HOST, Command::Import(import)).unwrap();
    world.agree();
}

fn delete(world: &mut World, name: &str) {
    let session = Target::new(id(name));
    world.ask(OTHER, Command::DeleteSession { session, dry_run: false }).unwrap();
    world.agree();
}

fn due(world: &World) -> Vec<SessionId> {
    world.nodes[HOST].replica.agent_due(&BTreeSet::from([SERVER.to_owned()]))
}

/// Has a server say that it has these no more.
fn said(world: &mut World, server: &str, names: &[&str]) {
    let sessions = names.iter().map(|name| id(name)).collect();
    let servers = BTreeSet::from([server.to_owned()]);
    world.ask(HOST, Command::AgentGone { servers, sessions }).unwrap();
    world.agree();
}

fn confirm(world: &mut World, names: &[&str]) {
    said(world, SERVER, names);
}

/// Has the server list these; returns what it is to delete.
fn listed(world: &mut World, names: &[&str]) -> Vec<SessionId> {
    let sessions = names.iter().map(|name| id(name)).collect();
    let servers = BTreeSet::from([SERVER.to_owned()]);
    let told = world.ask(HOST, Command::AgentHas { servers, sessions }).unwrap();
    world.agree();
    let Reply::AgentPurged(purged) = told else { panic!("{told:?}") };
    purged
}

fn state(world: &World, name: &str) -> Option<SessionState> {
    world.session(OTHER, HOST, name).map(|session| session.state)
}

#[test]
fn a_session_that_its_server_still_has_is_purged_once_the_server_has_confirmed() {
    let mut world = World::fleet(2, 1);
    take_in(&mut world, SERVER, &[("s", None)]);
    delete(&mut world, "s");
    assert_eq!(due(&world), [], "it can still be undone");
    world.pass(UNDO_WINDOW);
    assert_eq!(due(&world), [id("s")]);
    world.pass(UNDO_WINDOW * 100);
    assert_eq!(state(&world, "s"), Some(SessionState::Deleted));
    confirm(&mut world, &["s"]);
    assert_eq!(state(&world, "s"), None);
    assert_eq!(due(&world), []);
}

#[test]
fn children_are_asked_for_before_their_parents_and_hold_them_back() {
    let mut world = World::fleet(2, 2);
    take_in(&mut world, SERVER, &[("p", None), ("c", Some("p")), ("a", Some("c"))]);
    delete(&mut world, "p");
    world.pass(UNDO_WINDOW);
    assert_eq!(due(&world), [id("a"), id("c"), id("p")]);
    confirm(&mut world, &["a", "p"]);
    assert_eq!(due(&world), [id("c")]);
    assert_eq!(state(&world, "p"), Some(SessionState::Deleted));
    confirm(&mut world, &["c"]);
    for name in ["p", "c", "a"] {
        assert_eq!(state(&world, name), None, "{name}");
    }
}

#[test]
fn a_session_waits_for_its_own_server_also_while_that_is_not_bridged() {
    let mut world = World::fleet(2, 3);
    take_in(&mut world, ELSEWHERE, &[("s", None)]);
    delete(&mut world, "s");
    world.pass(UNDO_WINDOW * 100);
    confirm(&mut world, &["s"]);
    assert_eq!(state(&world, "s"), Some(SessionState::Deleted), "another server's word");
    assert_eq!(due(&world), []);
    let awaited = world.nodes[HOST].replica.agents_awaited();
    assert_eq!(awaited, BTreeMap::from([(ELSEWHERE.to_owned(), 1)]));
    said(&mut world, ELSEWHERE, &["s"]);
    assert_eq!(state(&world, "s"), None);
}

#[test]
fn what_the_free_fields_say_of_a_server_takes_nothing_from_what_its_host_says() {
    let mut world = World::fleet(2, 8);
    take_in(&mut world, SERVER, &[("s", None)]);
    for server in [None, Some(ELSEWHERE.to_owned())] {
        let extra = BTreeMap::from([(EXTRA_SERVER.to_owned(), server)]);
        let patch = SessionPatch { extra, ..SessionPatch::default() };
        world.ask(OTHER, Command::UpdateSession(Target::new(id("s")), patch)).unwrap();
        world.agree();
    }
    delete(&mut world, "s");
    world.pass(UNDO_WINDOW * 100);
    assert_eq!(state(&world, "s"), Some(SessionState::Deleted));
    assert_eq!(due(&world), [id("s")]);
}

/// Before hosts said it in a field of their own, the server was only noted in the free fields.
#[test]
fn a_record_of_an_earlier_version_waits_for_the_server_that_its_free_fields_name() {
    let mut world = World::fleet(2, 9);
    let extra = BTreeMap::from([(EXTRA_SERVER.to_owned(), SERVER.to_owned())]);
    let old = ImportedSession { agent_server: None, extra, ..imported("s", SERVER, None) };
    let import = Import { workspaces: Vec::new(), sessions: vec![old] };
    world.ask(HOST, Command::Import(import)).unwrap();
    world.agree();
    delete(&mut world, "s");
    world.pass(UNDO_WINDOW * 100);
    assert_eq!(due(&world), [id("s")]);
    confirm(&mut world, &["s"]);
    assert_eq!(state(&world, "s"), None);
}

#[test]
fn a_word_within_the_undo_window_is_none_on_what_is_at_its_end() {
    let mut world = World::fleet(2, 4);
    take_in(&mut world, SERVER, &[("s", None)]);
    delete(&mut world, "s");
    confirm(&mut world, &["s"]);
    assert_eq!(state(&world, "s"), Some(SessionState::Deleted), "it can still be undone");
    world.pass(UNDO_WINDOW);
    assert_eq!(due(&world), [id("s")], "the server is asked again");
    confirm(&mut world, &["s"]);
    assert_eq!(state(&world, "s"), None);
}

#[test]
fn a_restore_takes_back_what_the_server_was_to_delete() {
    let mut world = World::fleet(2, 5);
    take_in(&mut world, SERVER, &[("p", None), ("s", Some("p"))]);
    for confirmed in [false, true] {
        delete(&mut world, "p");
        let deleted = world.session(OTHER, HOST, "p").unwrap().deleted.unwrap();
        world.pass(UNDO_WINDOW);
        if confirmed {
            confirm(&mut world, &["s"]);
        }
        world.ask(OTHER, Command::Restore(deleted.operation)).unwrap();
        world.agree();
        assert_eq!(state(&world, "s"), Some(SessionState::Live));
        assert_eq!(due(&world), []);
    }
    delete(&mut world, "p");
    world.pass(UNDO_WINDOW);
    let all = [id("s"), id("p")];
    assert_eq!(due(&world), all, "a word from before the restore counts no more");
}

#[test]
fn what_a_server_has_no_more_is_deleted_in_its_name_and_comes_back_in_its_name() {
    let mut world = World::fleet(2, 6);
    take_in(&mut world, SERVER, &[("p", None), ("c", Some("p")), ("s", None)]);
    confirm(&mut world, &["p", "c", "unknown"]);
    let deleted = world.session(OTHER, HOST, "p").unwrap().deleted.unwrap();
    assert_eq!(deleted.reason, Some(DeletionReason::Agent));
    assert_eq!(world.session(OTHER, HOST, "c").unwrap().deleted, None, "it goes along");
    assert_eq!(state(&world, "c"), Some(SessionState::Deleted));
    // A person's delete stays, also one on top of the agent's.
    delete(&mut world, "s");
    listed(&mut world, &["s", "p"]);
    assert_eq!(state(&world, "p"), Some(SessionState::Live));
    assert_eq!(state(&world, "c"), Some(SessionState::Live));
    assert_eq!(state(&world, "s"), Some(SessionState::Deleted));
    confirm(&mut world, &["p", "c"]);
    delete(&mut world, "p");
    assert_eq!(world.session(OTHER, HOST, "p").unwrap().deleted.unwrap().reason, None);
    listed(&mut world, &["p"]);
    assert_eq!(state(&world, "p"), Some(SessionState::Deleted));
}

#[test]
fn a_server_that_is_gone_for_good_is_waited_for_until_a_person_says_so_on_the_host() {
    let mut world = World::fleet(2, 10);
    take_in(&mut world, ELSEWHERE, &[("p", None), ("c", Some("p")), ("s", None)]);
    let forget = |name: &str| Command::ForgetAgent(Target::new(id(name)));
    assert!(world.ask(HOST, forget("p")).is_err(), "it is alive");
    delete(&mut world, "p");
    delete(&mut world, "s");
    world.pass(UNDO_WINDOW * 100);
    assert!(world.ask(OTHER, forget("p")).is_err(), "that is for the host to say");
    assert_eq!(state(&world, "p"), Some(SessionState::Deleted));
    world.ask(HOST, forget("p")).unwrap();
    world.agree();
    for (name, expected) in [("p", None), ("c", None), ("s", Some(SessionState::Deleted))] {
        assert_eq!(state(&world, name), expected, "{name}");
    }
}

#[test]
fn what_was_purged_without_the_servers_word_is_to_be_deleted_there_once_it_is_listed() {
    let mut world = World::fleet(2, 11);
    take_in(&mut world, SERVER, &[("confirmed", None), ("forgotten", None)]);
    delete(&mut world, "confirmed");
    delete(&mut world, "forgotten");
    world.pass(UNDO_WINDOW);
    confirm(&mut world, &["confirmed"]);
    world.ask(HOST, Command::ForgetAgent(Target::new(id("forgotten")))).unwrap();
    world.agree();
    assert_eq!(state(&world, "forgotten"), None);
    let names = ["confirmed", "forgotten", "unknown"];
    assert_eq!(listed(&mut world, &names), [id("forgotten")]);
}

#[test]
fn what_the_server_has_yet_to_delete_is_found_again_after_a_crash() {
    let mut world = World::fleet(2, 7);
    take_in(&mut world, SERVER, &[("p", None), ("c", Some("p"))]);
    delete(&mut world, "p");
    world.pass(UNDO_WINDOW);
    confirm(&mut world, &["c"]);
    let unsynced = world.unsynced(HOST);
    world.crash(HOST, unsynced);
    world.plug_all();
    world.agree();
    world.pass(UNDO_WINDOW);
    assert_eq!(due(&world), [id("c"), id("p")]);
    confirm(&mut world, &["c", "p"]);
    assert_eq!(state(&world, "p"), None);
}
