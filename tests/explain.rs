//! An explanation tells which changes made a record what it is, on every replica alike, and of what
//! is no more, too.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use common::world::{Mode, UNDO_WINDOW, World};
use sessionmesh::replica::{
    command::{Command, NewSession, NewWorkspace, Refusal, Reply, SessionPatch, Target},
    effect::TeardownOutcome,
    explain::{ExplainedWrite, Explanation, Outcome},
    ids::{SessionId, WorkspaceId},
    record::TeardownAction,
};

const HOST: usize = 0;
const OTHER: usize = 1;

fn id(name: &str) -> SessionId {
    name.parse().unwrap()
}

/// Makes a workspace with sessions on the host, each with the parent that follows a `/`.
fn create(world: &mut World, workspace: &str, sessions: &[&str]) {
    let new = NewWorkspace {
        id: Some(workspace.parse().unwrap()),
        name: "w".to_owned(),
        kind: "worktree".to_owned(),
        project_id: None,
        directory: None,
        branch: None,
        keep: false,
        extra: Default::default(),
    };
    world.ask(HOST, Command::CreateWorkspace(new)).unwrap();
    for name in sessions {
        let (name, parent) = name.split_once('/').map_or((*name, None), |(n, p)| (n, Some(p)));
        create_in(world, HOST, workspace, name, parent);
    }
    world.agree();
}

fn create_in(world: &mut World, node: usize, workspace: &str, name: &str, parent: Option<&str>) {
    let new = NewSession {
        id: Some(id(name)),
        workspace_id: Some(workspace.to_owned()),
        parent_id: parent.map(id),
        title: Some(name.to_owned()),
        ..NewSession::default()
    };
    world.ask(node, Command::CreateSession(new)).unwrap();
}

fn rename(world: &mut World, node: usize, name: &str, title: &str) {
    let patch = SessionPatch { title: Some(Some(title.to_owned())), ..SessionPatch::default() };
    world.ask(node, Command::UpdateSession(Target::new(id(name)), patch)).unwrap();
}

fn delete(world: &mut World, node: usize, name: &str) {
    let session = Target::new(id(name));
    let done = world.ask(node, Command::DeleteSession { session, dry_run: false });
    assert!(matches!(done, Ok(Reply::SessionDeleted(_))), "{done:?}");
}

fn explain(world: &World, node: usize, name: &str) -> Explanation {
    world.nodes[node].replica.explainable(&Target::new(id(name))).unwrap().explain()
}

/// Returns who wrote a field of the record, what, and what became of it, sorted.
fn writes(told: &Explanation, field: Option<&str>) -> Vec<(String, String, Outcome)> {
    let of = |write: &&ExplainedWrite| write.id == told.id && write.field.as_deref() == field;
    let mut found: Vec<_> = told
        .changes
        .iter()
        .flat_map(|change| {
            let writes = change.writes.iter().filter(of);
            writes.map(|w| (change.name.clone(), w.value.to_string(), w.outcome))
        })
        .collect();
    found.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    found
}

#[test]
fn of_two_titles_that_did_not_know_of_each_other_the_one_that_lost_is_told_on_both_sides() {
    let mut world = World::fleet(2, 1);
    create(&mut world, "w", &["s"]);
    rename(&mut world, HOST, "s", "before");
    world.agree();
    world.part();
    rename(&mut world, HOST, "s", "here");
    rename(&mut world, OTHER, "s", "there");
    world.plug_all();
    world.agree();
    let shown = world.session(HOST, HOST, "s").unwrap().title.unwrap();
    for node in [HOST, OTHER] {
        let told = explain(&world, node, "s");
        let titles = writes(&told, Some("title"));
        let outcome = |title: &str| if shown == title { Outcome::Stands } else { Outcome::Lost };
        let expected = [
            ("node-0".to_owned(), "\"before\"".to_owned(), Outcome::Replaced),
            ("node-0".to_owned(), "\"here\"".to_owned(), outcome("here")),
            ("node-1".to_owned(), "\"there\"".to_owned(), outcome("there")),
        ];
        assert_eq!(titles, expected);
        let rivals = told.changes.iter().flat_map(|change| &change.writes);
        let rivals: Vec<_> = rivals.filter(|w| w.field.as_deref() == Some("title")).collect();
        assert_eq!(rivals.iter().map(|w| w.rivals.len()).sum::<usize>(), 2, "{rivals:?}");
    }
}

#[test]
fn a_delete_wins_over_a_restore_that_did_not_know_of_it_and_both_are_told() {
    let mut world = World::fleet(2, 2);
    create(&mut world, "w", &["s"]);
    delete(&mut world, HOST, "s");
    world.agree();
    let operation = world.session(HOST, HOST, "s").unwrap().deleted.unwrap().operation;
    world.part();
    world.ask(HOST, Command::Restore(operation.clone())).unwrap();
    delete(&mut world, OTHER, "s");
    world.plug_all();
    world.agree();
    let told = explain(&world, HOST, "s");
    assert_eq!(told.state, "deleted");
    assert!(told.because[0].contains(operation.as_str()), "{:?}", told.because);
    let deletes: Vec<_> = writes(&told, Some("deleted"))
        .into_iter()
        .map(|(by, value, o)| (by, value != "null", o))
        .collect();
    let expected = [
        ("node-0".to_owned(), false, Outcome::Lost),
        ("node-0".to_owned(), true, Outcome::Replaced),
        ("node-1".to_owned(), true, Outcome::Stands),
    ];
    let mut deletes = deletes;
    deletes.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    assert_eq!(deletes, expected);
}

#[test]
fn a_purged_session_is_explained_by_its_delete_and_its_purge_and_what_it_beat() {
    let mut world = World::fleet(2, 3);
    create(&mut world, "w", &["s", "stays"]);
    world.part();
    delete(&mut world, HOST, "s");
    rename(&mut world, OTHER, "s", "too late");
    world.pass(UNDO_WINDOW * 2);
    world.plug_all();
    world.agree();
    for node in [HOST, OTHER] {
        let told = explain(&world, node, "s");
        assert_eq!((told.state.as_str(), told.session.as_ref()), ("purged", None));
        let whole = writes(&told, None);
        assert_eq!(whole.len(), 2, "created and purged: {whole:?}");
        let late = writes(&told, Some("title"));
        assert_eq!(late[0].2, Outcome::Lost, "{late:?}");
    }
}

#[test]
fn a_child_is_explained_by_its_parents_delete() {
    let mut world = World::fleet(2, 4);
    create(&mut world, "w", &["p", "c/p"]);
    delete(&mut world, OTHER, "p");
    world.agree();
    let told = explain(&world, HOST, "c");
    assert_eq!(told.state, "deleted");
    assert!(told.because[0].contains("its parent p was deleted by node-1"), "{:?}", told.because);
    let of_parent = told.changes.iter().flat_map(|change| &change.writes);
    let of_parent: Vec<_> =
        of_parent.filter(|w| w.id == "p" && w.field.as_deref() == Some("deleted")).collect();
    assert_eq!(of_parent.len(), 1);
}

#[test]
fn a_stranded_session_is_explained_by_the_seal_that_did_not_know_of_it() {
    let mut world = World::fleet(2, 5);
    world.teardowns = Mode::Held;
    create(&mut world, "w", &["s"]);
    world.part();
    delete(&mut world, HOST, "s");
    world.pass(UNDO_WINDOW * 2);
    create_in(&mut world, OTHER, "w", "late", None);
    world.plug_all();
    world.agree();
    let told = explain(&world, OTHER, "late");
    assert_eq!(told.state, "stranded");
    let seal = told.changes.iter().flat_map(|change| &change.writes);
    let seal: Vec<_> =
        seal.filter(|w| w.id == "w" && w.field.as_deref() == Some("teardown")).collect();
    assert_eq!(seal.len(), 1, "{told:#?}");
    assert_eq!(seal[0].value["state"], "sealed");
}

#[test]
fn a_workspace_that_is_gone_tells_on_every_replica_what_each_attempt_came_to() {
    let mut world = World::fleet(2, 6);
    world.teardowns = Mode::Held;
    create(&mut world, "w", &["s"]);
    delete(&mut world, OTHER, "s");
    world.pass(UNDO_WINDOW * 2);
    world.agree();
    let due = world.nodes[HOST].teardowns.remove(0);
    world.end_teardown(HOST, due, TeardownOutcome::Failed("it is dirty".to_owned()));
    world.agree();
    let failed = explain(&world, OTHER, "w");
    assert_eq!((failed.state.as_str(), failed.teardowns.len()), ("failed", 1));
    assert!(failed.because.iter().any(|why| why.contains("it is dirty")), "{:?}", failed.because);
    let workspace: WorkspaceId = "w".parse().unwrap();
    world.ask(OTHER, Command::Teardown(Target::new(workspace), TeardownAction::Force)).unwrap();
    world.agree();
    let due = world.nodes[HOST].teardowns.remove(0);
    assert_eq!((due.incarnation, due.action), (2, TeardownAction::Force));
    world.end_teardown(HOST, due, TeardownOutcome::Done("removed /w".to_owned()));
    world.agree();
    for node in [HOST, OTHER] {
        let told = explain(&world, node, "w");
        assert_eq!(told.state, "gone");
        let attempts: Vec<_> = told
            .teardowns
            .iter()
            .map(|t| (t.incarnation, t.state.as_str(), t.error.as_deref(), t.done.as_deref()))
            .collect();
        let expected =
            [(1, "failed", Some("it is dirty"), None), (2, "gone", None, Some("removed /w"))];
        assert_eq!(attempts, expected);
        assert_eq!(told.teardowns[1].action, Some(TeardownAction::Force));
        // Who came and went is part of what the workspace has come to.
        let deleted = told.changes.iter().flat_map(|change| &change.writes);
        assert!(deleted.clone().any(|w| w.id == "s" && w.field.as_deref() == Some("deleted")));
    }
}

#[test]
fn a_long_history_keeps_its_beginning_and_says_what_it_leaves_out() {
    let mut world = World::fleet(1, 7);
    create(&mut world, "w", &["s"]);
    for number in 0..300 {
        rename(&mut world, HOST, "s", &format!("title {number}"));
    }
    let told = explain(&world, HOST, "s");
    assert_eq!(told.changes.len() + told.omitted, 302, "two creations and the renames");
    assert!(told.omitted > 0 && told.changes.len() < 302);
    assert!(told.changes[0].writes.iter().any(|w| w.field.is_none()), "{:?}", told.changes[0]);
    let mut titles = writes(&told, Some("title"));
    titles.retain(|(.., outcome)| *outcome == Outcome::Stands);
    let last = ("node-0".to_owned(), "\"title 299\"".to_owned(), Outcome::Stands);
    assert_eq!(titles, [last]);
}

#[test]
fn what_no_document_knows_is_refused_by_name() {
    let world = World::fleet(2, 8);
    let refused = world.nodes[OTHER].replica.explainable(&Target::new(id("nobody")));
    assert_eq!(refused.err(), Some(Refusal::SessionNotFound(id("nobody"))));
}
