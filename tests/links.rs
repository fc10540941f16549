//! What a replica does about peers that say nothing, too much, or what they should not; and that
//! whatever it writes itself is taken by its peers.

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{
    keys::key_of,
    world::{Mode, UNDO_WINDOW, World},
};
use sessionmesh::{
    replica::{
        command::{
            Command, Import, ImportedSession, NewSession, NewWorkspace, Refusal, Reply, Target,
        },
        effect::{Effects, Input, Now, RequestId, Startup, Stored, TeardownOutcome, Write},
        guard,
        ids::{ChangeHash, DocumentId, NodeId, StartId},
        machine::Replica,
        record::{Role, WorkspaceState},
        sync::{Documents, Exchange, FETCH_WITHIN, GREET_WITHIN},
    },
    wire::{CloseCode, DocumentHeads, Frame, Links, LinksBase},
};

const MOMENT: Duration = Duration::from_millis(1);

fn is_closed(world: &World, node: usize, peer: usize, code: CloseCode) -> bool {
    world.closes.iter().any(|close| (close.0, close.1, close.2) == (node, peer, code))
}

#[test]
fn a_stranger_that_says_nothing_is_cut_off_after_a_while() {
    let mut world = World::strangers(2, 1);
    let peer = world.nodes[1].id;
    world.handle(0, Input::PeerConnected { peer });
    world.pass(GREET_WITHIN - MOMENT);
    assert!(world.closes.is_empty(), "it has time");
    world.pass(MOMENT);
    assert!(is_closed(&world, 0, 1, CloseCode::Timeout), "{:?}", world.closes);
}

#[test]
fn a_member_that_does_not_answer_the_greeting_is_cut_off_and_one_that_does_is_not() {
    let mut world = World::fleet(2, 1);
    world.pass(GREET_WITHIN * 3);
    assert!(world.is_linked(0, 1) && world.closes.is_empty(), "{:?}", world.closes);
    world.cut(0, 1);
    let peer = world.nodes[1].id;
    world.handle(0, Input::PeerConnected { peer });
    world.pass(GREET_WITHIN);
    assert!(is_closed(&world, 0, 1, CloseCode::Timeout), "{:?}", world.closes);
}

#[test]
fn of_two_nodes_that_join_each_other_at_once_none_ends_up_in_the_fleet_that_the_other_left() {
    for seed in 0..20 {
        let mut world = World::strangers(2, seed);
        let before = [0, 1].map(|node| world.nodes[node].replica.fleet());
        let tickets = [0, 1].map(|node| {
            let expires_in = Duration::from_secs(3_600);
            let secret = [node as u8; 32];
            match world.ask(node, Command::Invite { role: Role::Admin, expires_in, secret }) {
                Ok(Reply::Invited(ticket)) => ticket,
                other => panic!("{other:?}"),
            }
        });
        let [of_0, of_1] = tickets;
        let requests =
            [world.request(0, Command::Join(of_1)), world.request(1, Command::Join(of_0))];
        world.plug(0, 1);
        world.pass(Duration::from_secs(60));
        let after = [0, 1].map(|node| world.nodes[node].replica.fleet());
        assert!(after == before || after[0] == after[1], "seed {seed}: {before:?} {after:?}");
        for request in requests {
            assert!(world.answer(request).is_some(), "seed {seed}: both were answered");
        }
    }
}

/// Whether its host has begun an epoch shows in the document alone; so one has to be looked at.
#[test]
fn of_any_number_of_epochs_that_a_peer_claims_one_is_asked_for() {
    let mut world = World::fleet(2, 1);
    world.sent = Some(Vec::new());
    let host = world.nodes[0].id;
    let heads = vec![ChangeHash([7; 32])];
    let documents: Vec<_> = (1..100)
        .map(|epoch| DocumentHeads {
            document: DocumentId::Host { host, epoch },
            heads: heads.clone(),
        })
        .collect();
    world.forge(1, 0, &Frame::Heads { documents, answer: false });
    world.deliver();
    let sent = world.sent.take().unwrap_or_default();
    let wants = sent.iter().filter(|(_, _, frame)| matches!(frame, Frame::Want(_)));
    assert_eq!(wants.count(), 1, "{sent:?}");
}

#[test]
fn a_document_that_comes_back_from_the_store_after_its_fleet_was_left_stays_away() {
    let mut world = World::fleet(2, 1);
    let document = DocumentId::Host { host: world.nodes[1].id, epoch: 0 };
    let stored = world.nodes[0].disk.document(document);
    world.part();
    assert_eq!(world.ask(0, Command::Leave), Ok(Reply::Done));
    world.handle(0, Input::DocumentReloaded(stored));
    let held = world.nodes[0].replica.document_heads();
    assert!(held.iter().all(|(id, ..)| *id != document), "{held:?}");
}

#[test]
fn a_peer_whose_frames_were_dropped_is_told_anew_with_whom_there_are_links() {
    let mut world = World::fleet(3, 1);
    world.sent = Some(Vec::new());
    let peer = world.nodes[1].id;
    world.handle(0, Input::PeerDrained { peer });
    let sent = world.sent.take().unwrap_or_default();
    // Of the three members the one that is neither end.
    let all = |links: &Links| match &links.base {
        LinksBase::Members { bits, .. } => {
            bits.iter().map(|byte| byte.count_ones()).sum::<u32>() == 1
        }
        _ => false,
    };
    let told = |(from, to, frame): &(usize, usize, Frame)| {
        (*from, *to) == (0, 1) && matches!(frame, Frame::Links(links) if all(links))
    };
    assert!(sent.iter().any(told), "{sent:?}");
}

#[test]
fn of_what_a_member_tells_of_its_addresses_few_are_dialled_and_none_where_no_peer_is() {
    let mut world = World::fleet(2, 1);
    let peer = world.nodes[1].id;
    let bad = ["0.0.0.0:1", "224.0.0.251:5353", "255.255.255.255:9", "10.0.0.9:0", "127.0.0.1:53"];
    let mut addresses: BTreeSet<String> = bad.map(str::to_owned).into();
    addresses.insert("10.0.0.2:7177".to_owned());
    let announce = |addresses| Command::Announce { name: "node-1".to_owned(), addresses };
    assert_eq!(world.ask(1, announce(addresses)), Ok(Reply::Done));
    world.agree();
    assert_eq!(world.nodes[0].dials[&peer], BTreeSet::from(["10.0.0.2:7177".to_owned()]));
    let told = world.nodes[0].replica.peers()[0].addresses.len();
    assert_eq!(told, bad.len() + 1, "people see what it tells");
}

#[test]
fn a_document_that_one_peer_never_sends_is_asked_of_another() {
    let [us, one, other] = [1, 2, 3].map(|byte| NodeId([byte; 32]));
    let document = DocumentId::Host { host: NodeId([9; 32]), epoch: 0 };
    let documents = Documents::new();
    let mut exchange = Exchange::new(us);
    let mut out = Vec::new();
    for peer in [one, other] {
        exchange.connected(Duration::ZERO, peer);
        exchange.greet(&peer, [0; 32]);
        exchange.accept(Duration::ZERO, &peer, [1; 32], &documents, &mut out);
        let heads = vec![DocumentHeads { document, heads: vec![ChangeHash([7; 32])] }];
        exchange.heads_told(Duration::ZERO, &peer, heads, false, &documents, &mut out);
    }
    exchange.time_passed(FETCH_WITHIN, &documents, &mut out);
    let wanted = |frame: &Frame| matches!(frame, Frame::Want(want) if want.document == document);
    let asked: Vec<NodeId> =
        out.iter().filter(|sent| wanted(&sent.frame)).flat_map(|sent| sent.to.clone()).collect();
    assert_eq!(asked, [one, other]);
}

#[test]
fn a_teardown_that_fails_for_a_very_long_reason_is_told_to_all() {
    let mut world = World::fleet(2, 1);
    world.teardowns = Mode::Held;
    create_workspace(|command| world.ask(0, command));
    let session = NewSession { workspace_id: Some("w".to_owned()), ..NewSession::default() };
    let Ok(Reply::Session(session)) = world.ask(0, Command::CreateSession(session)) else {
        panic!("it is created")
    };
    let delete = Command::DeleteSession { session: Target::new(session.id), dry_run: false };
    world.ask(0, delete).expect("it is deleted");
    world.pass(UNDO_WINDOW);
    let due = world.nodes[0].teardowns.pop().expect("its time has come");
    world.end_teardown(0, due, TeardownOutcome::Failed("no ".repeat(100_000)));
    world.agree();
    let state = world.workspace(1, 0, "w").map(|workspace| workspace.state);
    assert_eq!(state, Some(WorkspaceState::Failed));
}

fn create_workspace(mut ask: impl FnMut(Command) -> Result<Reply, Refusal>) {
    let created = ask(Command::CreateWorkspace(NewWorkspace {
        id: Some("w".parse().unwrap()),
        name: "w".to_owned(),
        kind: "directory".to_owned(),
        project_id: None,
        directory: None,
        branch: None,
        keep: false,
        extra: BTreeMap::new(),
    }));
    assert!(matches!(created, Ok(Reply::Workspace(_))), "{created:?}");
}

/// A node alone, of which only what it writes is looked at.
struct Alone {
    replica: Replica,
    at: Duration,
}

impl Alone {
    fn new() -> Self {
        let startup = Startup {
            node: NodeId([1; 32]),
            name: "alone".to_owned(),
            start: StartId([1; 8]),
            seed: 1,
            undo_window: UNDO_WINDOW,
            keep_removed: Duration::ZERO,
            start_grace: Duration::ZERO,
            keyring: key_of(NodeId([1; 32])),
        };
        let now = Now { monotonic: Duration::ZERO, wall_ms: 0 };
        let (replica, _) = Replica::open(startup, Stored::default(), now).expect("it starts");
        Self { replica, at: Duration::ZERO }
    }

    /// Hands an input over; every change that comes of it is one that peers take.
    fn handle(&mut self, input: Input) -> Effects {
        let now = Now { monotonic: self.at, wall_ms: 0 };
        let fx = self.replica.handle(now, input);
        for write in &fx.writes {
            if let Write::Change { bytes, .. } = write {
                let judged = guard::check_changes(std::slice::from_ref(bytes));
                assert!(judged.is_ok(), "{judged:?}");
            }
        }
        fx
    }

    fn ask(&mut self, command: Command) -> Result<Reply, Refusal> {
        let mut fx = self.handle(Input::Requested { request: RequestId(0), command });
        fx.replies.remove(0).1
    }

    fn import(&mut self, sessions: Vec<ImportedSession>) {
        let count = sessions.len() as u64;
        match self.ask(Command::Import(Import { workspaces: Vec::new(), sessions })) {
            Ok(Reply::Imported(done)) => assert_eq!(done.created, count),
            other => panic!("{other:?}"),
        }
    }
}

fn imported(number: usize) -> ImportedSession {
    ImportedSession {
        id: format!("s{number}").parse().unwrap(),
        workspace_id: Some("w".parse().unwrap()),
        parent_id: None,
        project_id: None,
        directory: None,
        title: None,
        created_at: 0,
        updated_at: 0,
        archived_at: None,
        agent: None,
        agent_server: None,
        extra: BTreeMap::new(),
    }
}

#[test]
fn deleting_and_restoring_a_huge_workspace_is_taken_by_every_peer() {
    // More than one change may hold.
    const SESSIONS: usize = 2_100;
    let mut alone = Alone::new();
    create_workspace(|command| alone.ask(command));
    let all: Vec<usize> = (0..SESSIONS).collect();
    all.chunks(1_000).for_each(|part| alone.import(part.iter().copied().map(imported).collect()));
    let workspace = Target::new("w".parse().unwrap());
    let command = Command::DeleteWorkspace { workspace, dry_run: false };
    let mut fx = alone.handle(Input::Requested { request: RequestId(0), command });
    let changes = fx.writes.iter().filter(|write| matches!(write, Write::Change { .. }));
    assert_eq!(changes.count(), 2, "what one change can't hold is spread over several");
    let deleted = fx.replies.remove(0).1;
    let Ok(Reply::WorkspaceDeleted(deleted)) = deleted else { panic!("{deleted:?}") };
    assert_eq!(deleted.sessions_deleted.len(), SESSIONS);
    assert_eq!(deleted.workspace.state, WorkspaceState::Vacated);
    let restored = alone.ask(Command::Restore(deleted.operation.expect("it can be undone")));
    let Ok(Reply::Restored(restored)) = restored else { panic!("{restored:?}") };
    assert_eq!(restored.sessions.len(), SESSIONS);
    assert_eq!(restored.workspaces.len(), 1);
}

#[test]
fn an_import_of_very_long_records_is_taken_by_every_peer() {
    let mut alone = Alone::new();
    create_workspace(|command| alone.ask(command));
    // Not the same over and over: what is judged is the length inflated, yet it must also deflate.
    let text = |n: usize, chars: usize| format!("{n:>chars$}");
    let long = |number: usize| ImportedSession {
        directory: Some(text(number, 4_096)),
        title: Some(text(number, 1_024)),
        extra: (0..32).map(|n| (format!("k{n}"), text(number + n, 4_096))).collect(),
        ..imported(number)
    };
    alone.import((0..100).map(long).collect());
}
