//! What a host keeps of what it has ended: every node lists it, and any member may ask for it back.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{
    scene::{LEFT, RIGHT, Scene, THIRD, room},
    world::{KEEP_REMOVED, World},
};
use sessionmesh::replica::{
    command::{Command, NewSession, NewWorkspace, Refusal, Reply, Target},
    diff::Event,
    effect::{TeardownDue, TeardownOutcome},
    ids::{NodeId, OperationId},
    record::{Role, TeardownAction},
    trash::{Held, TrashEntry, TrashKind, TrashListed, TrashState},
};

fn entry(host: NodeId, id: &str) -> TrashEntry {
    TrashEntry {
        id: id.to_owned(),
        kind: TrashKind::Workspace,
        name: format!("what was {id}"),
        directory: Some(format!("/work/{id}")),
        branch: Some("main".to_owned()),
        commit: None,
        host,
        ended_at: 1_000,
        expires_at: 2_000,
        bytes: 3,
        held: Some(Held { uncommitted: 1, ..Held::default() }),
        place: Some(format!("/trash/{id}.1")),
        state: TrashState::Kept,
        reason: Some("last_session".to_owned()),
        problem: None,
        restored_as: None,
    }
}

/// Has a node tell all that it keeps, and what it has answered.
fn report(world: &mut World, host: usize, entries: &[TrashEntry], answered: &[OperationId]) {
    loop {
        let (entries, answered) = (entries.to_vec(), answered.iter().cloned().collect());
        let reply = world.ask(host, Command::ReportTrash { entries, answered });
        let Ok(Reply::TrashReported { left }) = reply else { panic!("{reply:?}") };
        if left == 0 {
            return;
        }
    }
}

fn ask(world: &mut World, node: usize, id: &str) -> Result<TrashListed, Refusal> {
    match world.ask(node, Command::RestoreTrashed(Target::new(id.parse().unwrap()))) {
        Ok(Reply::Trash(listed)) => Ok(*listed),
        Ok(reply) => panic!("{reply:?}"),
        Err(refusal) => Err(refusal),
    }
}

fn listed(world: &World, node: usize) -> Vec<TrashListed> {
    let stored = world.nodes[node].replica.trash();
    stored.iter().map(|entry| entry.read().expect("it can be read")).collect()
}

/// Returns the requests that a node knows of, by what they are about.
fn requests(world: &World, node: usize) -> BTreeMap<String, Vec<NodeId>> {
    let with_requests = listed(world, node).into_iter().filter(|it| !it.requests.is_empty());
    with_requests.map(|it| (it.entry.id, it.requests.into_values().collect())).collect()
}

fn operations(world: &World, host: usize) -> Vec<OperationId> {
    listed(world, host).into_iter().flat_map(|it| it.requests.into_keys()).collect()
}

#[test]
fn what_a_host_keeps_is_listed_everywhere_and_no_view_shows_it() {
    let mut world = World::fleet(3, 1);
    let digests: Vec<_> = world.nodes.iter().map(|node| node.replica.digest()).collect();
    let cursors: Vec<_> = world.nodes.iter().map(|node| node.replica.cursor()).collect();
    let host = world.nodes[LEFT].id;
    let entries = [entry(host, "w1"), entry(host, "w2"), entry(host, "w3")];
    report(&mut world, LEFT, &entries, &[]);
    world.agree();
    for node in [LEFT, RIGHT, THIRD] {
        let told: Vec<TrashEntry> = listed(&world, node).into_iter().map(|it| it.entry).collect();
        assert_eq!(told, entries);
    }
    let smaller = TrashEntry { bytes: 1, ..entry(host, "w2") };
    report(&mut world, LEFT, &[entries[0].clone(), smaller.clone()], &[]);
    world.agree();
    for node in [LEFT, RIGHT, THIRD] {
        let told: Vec<TrashEntry> = listed(&world, node).into_iter().map(|it| it.entry).collect();
        assert_eq!(told, [entries[0].clone(), smaller.clone()]);
        assert_eq!(world.nodes[node].replica.digest(), digests[node], "expiry tells nothing");
        assert_eq!(world.nodes[node].replica.cursor(), cursors[node], "expiry tells nothing");
    }
    world.crash(RIGHT, usize::MAX);
    assert_eq!(listed(&world, RIGHT).len(), 2, "it is stored");
}

#[test]
fn what_was_reported_before_is_not_written_again() {
    let mut world = World::fleet(2, 1);
    let host = world.nodes[LEFT].id;
    let entries: Vec<_> = (0..1_200).map(|n| entry(host, &format!("w{n:04}"))).collect();
    report(&mut world, LEFT, &entries, &[]);
    let frontier = world.nodes[LEFT].replica.frontier();
    report(&mut world, LEFT, &entries, &[]);
    assert_eq!(world.nodes[LEFT].replica.frontier(), frontier);
    world.agree();
    assert_eq!(listed(&world, RIGHT).len(), 1_000, "no more are told of");
    // The newest are.
    let newer = TrashEntry { ended_at: 9_000, ..entry(host, "new") };
    let entries: Vec<_> = entries.into_iter().chain([newer.clone()]).collect();
    report(&mut world, LEFT, &entries, &[]);
    world.agree();
    let told = listed(&world, RIGHT);
    assert_eq!(told.len(), 1_000);
    assert!(told.iter().any(|it| it.entry == newer));
}

#[test]
fn a_request_reaches_the_host_and_stays_until_that_one_is_answered() {
    let mut world = World::fleet(3, 1);
    let host = world.nodes[LEFT].id;
    report(&mut world, LEFT, &[entry(host, "w")], &[]);
    world.agree();
    world.nodes[LEFT].restores_asked = false;
    let asked = ask(&mut world, RIGHT, "w").expect("a member may");
    assert_eq!(asked.requests.values().collect::<Vec<_>>(), [&world.nodes[RIGHT].id]);
    // Asked again it says nothing more.
    assert_eq!(ask(&mut world, RIGHT, "w"), Ok(asked));
    world.agree();
    assert!(world.nodes[LEFT].restores_asked, "the host is told");
    let first = operations(&world, LEFT);
    assert_eq!(first.len(), 1);
    ask(&mut world, THIRD, "w").expect("a member may");
    world.agree();
    // The host has seen to the first one, and not of the second.
    let problem = Some("the branch is checked out elsewhere".to_owned());
    let failed = TrashEntry { problem, ..entry(host, "w") };
    report(&mut world, LEFT, &[failed], &first);
    world.agree();
    for node in [LEFT, RIGHT, THIRD] {
        let third = world.nodes[THIRD].id;
        assert_eq!(requests(&world, node), [("w".to_owned(), vec![third])].into());
    }
    // It is found again after a restart.
    world.crash(LEFT, usize::MAX);
    assert!(world.nodes[LEFT].restores_asked, "the host is told");
    let restored = TrashEntry {
        state: TrashState::Restored,
        restored_as: Some("/work/w".to_owned()),
        ..entry(host, "w")
    };
    let rest = operations(&world, LEFT);
    report(&mut world, LEFT, std::slice::from_ref(&restored), &rest);
    world.agree();
    for node in [LEFT, RIGHT, THIRD] {
        assert!(requests(&world, node).is_empty());
        // Nobody needs to ask any more.
        let told = ask(&mut world, node, "w").expect("it was carried out");
        assert_eq!((told.entry, told.requests.len()), (restored.clone(), 0));
    }
}

#[test]
fn a_request_is_refused_by_name_where_it_makes_no_sense() {
    let mut world = World::fleet(3, 1);
    let (left, right) = (world.nodes[LEFT].id, world.nodes[RIGHT].id);
    let unknown = ask(&mut world, THIRD, "w");
    assert_eq!(unknown, Err(Refusal::TrashNotFound("w".parse().unwrap())));
    report(&mut world, LEFT, &[entry(left, "w")], &[]);
    let state = TrashState::Expiring;
    report(&mut world, RIGHT, &[TrashEntry { state, ..entry(right, "w") }], &[]);
    // What another host keeps is not this one's to tell.
    report(&mut world, THIRD, &[entry(left, "other")], &[]);
    world.agree();
    assert_eq!(listed(&world, LEFT).len(), 2);
    let ambiguous = ask(&mut world, THIRD, "w");
    assert!(matches!(ambiguous, Err(Refusal::AmbiguousId { .. })), "{ambiguous:?}");
    let at = |host: NodeId| Target { id: "w".parse().unwrap(), host: Some(host.to_string()) };
    let expiring = world.ask(THIRD, Command::RestoreTrashed(at(right)));
    assert_eq!(expiring, Err(Refusal::TrashExpiring("w".parse().unwrap())));
    let kept = world.ask(THIRD, Command::RestoreTrashed(at(left)));
    assert!(matches!(kept, Ok(Reply::Trash(_))), "{kept:?}");
}

#[test]
fn a_reader_lists_what_is_kept_and_asks_for_nothing() {
    let mut world = World::strangers(2, 1);
    world.join(RIGHT, LEFT, Role::Reader);
    world.plug(LEFT, RIGHT);
    world.agree();
    let host = world.nodes[LEFT].id;
    report(&mut world, LEFT, &[entry(host, "w")], &[]);
    world.agree();
    assert_eq!(listed(&world, RIGHT).len(), 1);
    assert_eq!(ask(&mut world, RIGHT, "w"), Err(Refusal::ReadOnly));
}

#[test]
fn a_new_epoch_keeps_what_is_kept_and_what_was_asked_for_in_the_one_before() {
    for meets_first in [RIGHT, THIRD] {
        let mut scene = Scene::new(LEFT);
        room(&mut scene, &["s"]);
        let world = &mut scene.world;
        let host = world.nodes[LEFT].id;
        let all = ["asked", "answered", "late", "gone"].map(|id| entry(host, id));
        report(world, LEFT, &all, &[]);
        world.agree();
        for id in ["asked", "answered"] {
            ask(world, RIGHT, id).expect("a member may");
        }
        world.agree();
        world.part();
        world.ask(LEFT, Command::Rewrite).expect("any node may");
        assert_eq!(listed(world, LEFT).len(), 4);
        assert_eq!(requests(world, LEFT).len(), 2);
        // The host goes on in the new epoch, another one in the one before.
        let answered = listed(world, LEFT).into_iter().find(|it| it.entry.id == "answered");
        let answered: Vec<_> = answered.expect("it is kept").requests.into_keys().collect();
        report(world, LEFT, &all[..3], &answered);
        ask(world, RIGHT, "late").expect("a member may");
        ask(world, RIGHT, "gone").expect("as far as it knows");
        world.plug(meets_first, LEFT);
        if meets_first == THIRD {
            world.agree();
            world.plug(RIGHT, THIRD);
        }
        world.agree();
        world.plug_all();
        world.agree();
        let right = world.nodes[RIGHT].id;
        for node in [LEFT, RIGHT, THIRD] {
            assert_eq!(listed(world, node).len(), 3);
            let asked = ["asked", "late"].map(|id| (id.to_owned(), vec![right]));
            assert_eq!(requests(world, node), asked.into());
        }
        assert!(world.nodes[LEFT].restores_asked, "the host is told");
    }
}

/// Whatever happens in whichever order, all list the same in the end, what the host last told, with
/// each request that it has not answered.
#[test]
fn requests_and_answers_in_any_order_come_to_the_same_everywhere() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::fleet(3, seed);
        let host = world.nodes[LEFT].id;
        let mut kept: BTreeMap<String, TrashEntry> = BTreeMap::new();
        let mut asked: BTreeSet<(String, OperationId)> = BTreeSet::new();
        let mut answered: Vec<OperationId> = Vec::new();
        // What is ended again is something else, under another id.
        let mut dropped: BTreeSet<String> = BTreeSet::new();
        for _ in 0..40 {
            let id = format!("w{}", random.u8(..8));
            let node = random.usize(..3);
            match random.u8(..10) {
                0 | 1 if !dropped.contains(&id) => {
                    let bytes = random.u64(..9);
                    kept.insert(id.clone(), TrashEntry { bytes, ..entry(host, &id) });
                    let entries: Vec<_> = kept.values().cloned().collect();
                    report(&mut world, LEFT, &entries, &[]);
                }
                2 => {
                    kept.remove(&id);
                    dropped.insert(id);
                    let entries: Vec<_> = kept.values().cloned().collect();
                    report(&mut world, LEFT, &entries, &[]);
                }
                3..=5 => {
                    if let Ok(listed) = ask(&mut world, node, &id) {
                        // What is listed beside its own may have been answered elsewhere.
                        let by = world.nodes[node].id;
                        let own = listed.requests.into_iter().filter(|(_, asked)| *asked == by);
                        let own = own.map(|(operation, _)| (id.clone(), operation));
                        asked.extend(own.filter(|(_, operation)| !answered.contains(operation)));
                    }
                }
                6 => {
                    answered.extend(operations(&world, LEFT));
                    let entries: Vec<_> = kept.values().cloned().collect();
                    report(&mut world, LEFT, &entries, &answered);
                    asked.retain(|(_, operation)| !answered.contains(operation));
                }
                7 => drop(world.ask(LEFT, Command::Rewrite)),
                8 => world.part(),
                _ => {
                    world.plug(node, (node + 1) % 3);
                    world.agree();
                }
            }
            if random.u8(..20) == 0 {
                world.crash(node, usize::MAX);
            }
            world.check();
        }
        world.plug_all();
        world.agree();
        for node in [LEFT, RIGHT, THIRD] {
            let told = listed(&world, node);
            let entries: Vec<&TrashEntry> = told.iter().map(|it| &it.entry).collect();
            assert_eq!(entries, kept.values().collect::<Vec<_>>(), "seed {seed}");
            let requests: BTreeSet<_> = told
                .iter()
                .flat_map(|it| it.requests.keys().map(|op| (it.entry.id.clone(), op.clone())))
                .collect();
            let of_kept = asked.iter().filter(|(id, _)| kept.contains_key(id));
            assert_eq!(requests, of_kept.cloned().collect(), "seed {seed}");
            assert_eq!(told, listed(&world, LEFT), "seed {seed}");
        }
    }
}

/// A worktree `w` on the left node, sealed.
fn sealed_worktree(kind: &str) -> (Scene, TeardownDue) {
    let mut scene = Scene::new(LEFT);
    scene.ask(Command::CreateWorkspace(NewWorkspace {
        id: Some("w".parse().unwrap()),
        name: "w".to_owned(),
        kind: kind.to_owned(),
        project_id: None,
        directory: Some("/work/w".to_owned()),
        branch: None,
        keep: false,
        extra: BTreeMap::new(),
    }));
    scene.ask(Command::CreateSession(NewSession {
        id: Some("s".parse().unwrap()),
        workspace_id: Some("w".to_owned()),
        ..NewSession::default()
    }));
    scene.world.agree();
    scene.delete("s");
    scene.pass_undo_window();
    scene.world.agree();
    let due = scene.world.nodes[LEFT].teardowns.pop().expect("a teardown");
    (scene, due)
}

#[test]
fn the_seal_tells_everywhere_until_when_a_worktree_is_kept_and_a_retry_tells_it_again() {
    let (mut scene, due) = sealed_worktree("worktree");
    let keep_ms = i64::try_from(KEEP_REMOVED.as_millis()).unwrap();
    let told = |scene: &Scene, node| {
        let workspace = scene.world.workspace(node, LEFT, "w").expect("it is sealed");
        let teardown = workspace.teardown.expect("it is sealed");
        (teardown.at, teardown.kept_until)
    };
    for node in [LEFT, RIGHT, THIRD] {
        let (at, kept_until) = told(&scene, node);
        assert_eq!(kept_until, Some(at + keep_ms));
    }
    assert_eq!(due.kept_until, told(&scene, LEFT).1, "whoever tears it down is told the same");
    scene.world.end_teardown(LEFT, due.clone(), TeardownOutcome::Failed("in use".to_owned()));
    scene.world.agree();
    assert_eq!(told(&scene, RIGHT).1, None, "nothing was removed");
    scene.world.pass(KEEP_REMOVED / 2);
    scene.at = RIGHT;
    scene.ask(Command::Teardown(Target::new("w".parse().unwrap()), TeardownAction::Retry));
    scene.world.agree();
    let again = scene.world.nodes[LEFT].teardowns.pop().expect("a teardown");
    assert!(again.kept_until > due.kept_until);
    assert_eq!(again.kept_until, told(&scene, THIRD).1);
}

#[test]
fn who_learns_of_the_seal_only_with_the_end_is_told_all_the_same_until_when_it_is_kept() {
    let (mut scene, due) = sealed_worktree("worktree");
    scene.world.end_teardown(LEFT, due.clone(), TeardownOutcome::Failed("in use".to_owned()));
    scene.world.agree();
    scene.world.cut(LEFT, RIGHT);
    scene.world.cut(THIRD, RIGHT);
    scene.ask(Command::Teardown(Target::new("w".parse().unwrap()), TeardownAction::Retry));
    let again = scene.world.nodes[LEFT].teardowns.pop().expect("a teardown");
    scene.world.end_teardown(LEFT, again.clone(), TeardownOutcome::Gone);
    scene.world.plug_all();
    scene.world.agree();
    assert!(again.kept_until.is_some());
    for node in [LEFT, RIGHT, THIRD] {
        let events = scene.world.nodes[node].disk.journal.iter().flat_map(|diff| &diff.events);
        let told = events.filter_map(|event| match event {
            Event::WorkspaceGone { workspace } => workspace.teardown.as_ref()?.kept_until,
            _ => None,
        });
        assert_eq!(told.collect::<Vec<_>>(), [again.kept_until.unwrap()], "on node {node}");
    }
}

#[test]
fn of_other_kinds_nothing_is_kept() {
    let (scene, due) = sealed_worktree("directory");
    let workspace = scene.world.workspace(RIGHT, LEFT, "w").expect("it is sealed");
    assert_eq!(workspace.teardown.expect("it is sealed").kept_until, None);
    assert_eq!(due.kept_until, None);
}
