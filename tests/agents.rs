//! What an agent's server still has is not purged on its host, and is found again after a crash.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::collections::BTreeMap;

use common::world::{SERVER, UNDO_WINDOW, World};
use sessionmesh::replica::{
    command::{Command, Import, ImportedSession, Target},
    ids::SessionId,
    record::SessionState,
};

const HOST: usize = 1;
const OTHER: usize = 0;

fn id(name: &str) -> SessionId {
    name.parse().unwrap()
}

/// Has the host take sessions in, each with its parent, as listed by a server.
fn take_in(world: &mut World, server: &str, sessions: &[(&str, Option<&str>)]) {
    let sessions = sessions.iter().map(|(name, parent)| ImportedSession {
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
    });
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
    world.nodes[HOST].replica.agent_due(SERVER)
}

fn confirm(world: &mut World, names: &[&str]) {
    let gone = names.iter().map(|name| id(name)).collect();
    world.ask(HOST, Command::AgentGone(gone)).unwrap();
    world.agree();
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
fn a_session_of_a_server_that_is_not_bridged_is_not_held_back() {
    let mut world = World::fleet(2, 3);
    take_in(&mut world, "http://elsewhere.test/", &[("s", None)]);
    delete(&mut world, "s");
    world.pass(UNDO_WINDOW);
    world.agree();
    assert_eq!(state(&world, "s"), None);
}

#[test]
fn what_was_confirmed_within_the_undo_window_is_purged_when_it_is_over() {
    let mut world = World::fleet(2, 4);
    take_in(&mut world, SERVER, &[("s", None)]);
    delete(&mut world, "s");
    confirm(&mut world, &["s"]);
    assert_eq!(state(&world, "s"), Some(SessionState::Deleted), "it can still be undone");
    world.pass(UNDO_WINDOW);
    world.agree();
    assert_eq!(state(&world, "s"), None);
}

#[test]
fn a_restore_takes_back_what_the_server_was_to_delete_and_what_it_has_confirmed() {
    let mut world = World::fleet(2, 5);
    take_in(&mut world, SERVER, &[("s", None)]);
    for confirmed in [false, true] {
        delete(&mut world, "s");
        let deleted = world.session(OTHER, HOST, "s").unwrap().deleted.unwrap();
        if confirmed {
            confirm(&mut world, &["s"]);
        } else {
            world.pass(UNDO_WINDOW);
        }
        world.ask(OTHER, Command::Restore(deleted.operation)).unwrap();
        world.agree();
        assert_eq!(state(&world, "s"), Some(SessionState::Live));
        assert_eq!(due(&world), []);
    }
    delete(&mut world, "s");
    world.pass(UNDO_WINDOW);
    assert_eq!(due(&world), [id("s")], "a confirmation from before the restore counts no more");
}

#[test]
fn a_confirmation_of_what_is_not_deleted_means_nothing() {
    let mut world = World::fleet(2, 6);
    take_in(&mut world, SERVER, &[("s", None)]);
    confirm(&mut world, &["s", "unknown"]);
    delete(&mut world, "s");
    world.pass(UNDO_WINDOW);
    assert_eq!(due(&world), [id("s")]);
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
