//! The table of concurrent pairs of the contract, row by row.
//!
//! Each row is played with the pair's replicas and a third one. The third learns of the left
//! side's change first, or of the right side's, or stands between the two as their only link; and
//! each of the three is the workspace's host in turn, where the row leaves that open. At the end
//! every replica has the row's outcome, equal heads and an equal digest, and each one's own diffs,
//! folded from the first snapshot, gave its view at every step and told each change once (the
//! world sees to that).

#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;

use std::collections::BTreeMap;

use common::world::{Mode, UNDO_WINDOW, World, name_of};
use sessionmesh::replica::{
    command::{Command, NewSession, NewWorkspace, Reply, SessionPatch, Target, WorkspacePatch},
    ids::OperationId,
    record::{
        SessionState::{self, Deleted, Live, Stranded},
        WorkspaceState::{self, Sealed, Vacated},
    },
};

/// In which way the changes come together.
#[derive(Debug, Clone, Copy)]
enum Meeting {
    LeftFirst,
    RightFirst,
    Relay,
}

const MEETINGS: [Meeting; 3] = [Meeting::LeftFirst, Meeting::RightFirst, Meeting::Relay];

const LEFT: usize = 0;
const RIGHT: usize = 1;
const THIRD: usize = 2;

/// A row being played: who acts, where the records live, and what was done so far.
struct Scene {
    world: World,
    host: usize,
    /// Who acts.
    at: usize,
    /// The last delete of each record.
    operations: BTreeMap<String, OperationId>,
}

type Act = fn(&mut Scene);

/// One row of the table.
struct Row {
    /// Who may be the host.
    hosts: &'static [usize],
    before: Act,
    left: Act,
    right: Act,
    then: Act,
}

const ANY: &[usize] = &[LEFT, RIGHT, THIRD];
fn nothing(_: &mut Scene) {}

impl Row {
    fn play(&self) {
        for host in self.hosts {
            for meeting in MEETINGS {
                self.play_once(*host, meeting);
            }
        }
    }

    fn play_once(&self, host: usize, meeting: Meeting) {
        let mut world = World::fleet(3, 7);
        world.teardowns = Mode::Held;
        let mut scene = Scene { world, host, at: host, operations: BTreeMap::new() };
        (self.before)(&mut scene);
        scene.world.agree();
        scene.world.nodes.iter_mut().for_each(|node| node.watch.events.clear());
        scene.world.part();
        scene.at = LEFT;
        (self.left)(&mut scene);
        scene.at = RIGHT;
        (self.right)(&mut scene);
        let world = &mut scene.world;
        match meeting {
            Meeting::LeftFirst | Meeting::RightFirst => {
                let first = if matches!(meeting, Meeting::LeftFirst) { LEFT } else { RIGHT };
                world.plug(THIRD, first);
                world.agree();
                world.cut(THIRD, first);
                world.plug(THIRD, LEFT + RIGHT - first);
                world.agree();
                world.plug(THIRD, first);
                world.plug(LEFT, RIGHT);
            }
            Meeting::Relay => {
                world.plug(LEFT, THIRD);
                world.plug(THIRD, RIGHT);
            }
        }
        world.agree();
        scene.at = LEFT;
        (self.then)(&mut scene);
        scene.world.agree();
        let frontier = scene.world.nodes[LEFT].replica.frontier();
        let digest = scene.world.nodes[LEFT].replica.digest();
        for node in &scene.world.nodes {
            assert_eq!(node.replica.frontier(), frontier, "all hold the same");
            assert_eq!(node.replica.digest(), digest, "all show the same");
        }
    }
}

impl Scene {
    fn ask(&mut self, command: Command) -> Reply {
        self.world.ask(self.at, command).unwrap_or_else(|refusal| panic!("refused: {refusal}"))
    }

    fn workspace(&mut self, id: &str) {
        let by = std::mem::replace(&mut self.at, self.host);
        self.ask(Command::CreateWorkspace(NewWorkspace {
            id: Some(id.parse().unwrap()),
            name: id.to_owned(),
            kind: "directory".to_owned(),
            project_id: None,
            directory: None,
            branch: None,
            keep: false,
            extra: BTreeMap::new(),
        }));
        self.at = by;
        self.world.agree();
    }

    fn create(&mut self, id: &str, workspace: &str) {
        self.ask(Command::CreateSession(NewSession {
            id: Some(id.parse().unwrap()),
            workspace_id: Some(workspace.to_owned()),
            ..NewSession::default()
        }));
    }

    fn create_child(&mut self, id: &str, parent: &str, workspace: &str) {
        self.ask(Command::CreateSession(NewSession {
            id: Some(id.parse().unwrap()),
            parent_id: Some(parent.parse().unwrap()),
            workspace_id: Some(workspace.to_owned()),
            ..NewSession::default()
        }));
    }

    fn delete(&mut self, id: &str) {
        let session = Target::new(id.parse().unwrap());
        let reply = self.ask(Command::DeleteSession { session, dry_run: false });
        let Reply::SessionDeleted(deleted) = reply else { panic!("{reply:?}") };
        self.operations.insert(id.to_owned(), deleted.operation.expect("it was deleted"));
    }

    fn delete_workspace(&mut self, id: &str) {
        let workspace = Target::new(id.parse().unwrap());
        let reply = self.ask(Command::DeleteWorkspace { workspace, dry_run: false });
        let Reply::WorkspaceDeleted(deleted) = reply else { panic!("{reply:?}") };
        self.operations.insert(id.to_owned(), deleted.operation.expect("it was deleted"));
    }

    fn restore(&mut self, id: &str) {
        let operation = self.operations[id].clone();
        self.ask(Command::Restore(operation));
    }

    fn patch(&mut self, id: &str, patch: SessionPatch) {
        self.ask(Command::UpdateSession(Target::new(id.parse().unwrap()), patch));
    }

    fn rename(&mut self, id: &str, title: &str) {
        self.patch(id, SessionPatch { title: Some(Some(title.to_owned())), ..Default::default() });
    }

    fn archive(&mut self, id: &str) {
        self.patch(id, SessionPatch { archived_at: Some(Some(1)), ..Default::default() });
    }

    fn move_to(&mut self, id: &str, workspace: &str) {
        let workspace_id = Some(Some(workspace.parse().unwrap()));
        self.patch(id, SessionPatch { workspace_id, ..Default::default() });
    }

    fn move_out(&mut self, id: &str) {
        self.patch(id, SessionPatch { workspace_id: Some(None), ..Default::default() });
    }

    fn set_keep(&mut self, id: &str, keep: bool) {
        let patch = WorkspacePatch { keep: Some(keep), ..Default::default() };
        self.ask(Command::UpdateWorkspace(Target::new(id.parse().unwrap()), patch));
    }

    /// Lets the undo windows pass, so that the host carries out what it knows of.
    fn pass_undo_window(&mut self) {
        self.world.pass(UNDO_WINDOW);
    }

    /// The session is in this state on every replica.
    #[track_caller]
    fn session_is(&self, id: &str, state: SessionState) {
        for node in 0..self.world.nodes.len() {
            let session = self.world.session(node, self.host, id);
            assert_eq!(session.map(|s| s.state), Some(state), "{id} on {}", name_of(node));
        }
    }

    /// The workspace is in this state on every replica, with so many sessions alive in it.
    #[track_caller]
    fn workspace_is(&self, id: &str, state: WorkspaceState, session_count: u64) {
        for node in 0..self.world.nodes.len() {
            let workspace =
                self.world.workspace(node, self.host, id).map(|w| (w.state, w.session_count));
            assert_eq!(workspace, Some((state, session_count)), "{id} on {}", name_of(node));
        }
    }

    /// Every replica has published such an event of the record so often since the parting.
    #[track_caller]
    fn told(&self, event: &'static str, id: &str, times: u64) {
        for (number, node) in self.world.nodes.iter().enumerate() {
            let told = node.watch.events.get(&(event, id.to_owned())).copied().unwrap_or(0);
            assert_eq!(told, times, "{event} of {id} by {}", name_of(number));
        }
    }
}

/// A workspace `w` with these sessions.
fn room(scene: &mut Scene, sessions: &[&str]) {
    scene.workspace("w");
    sessions.iter().for_each(|id| scene.create(id, "w"));
}

#[test]
fn row_1_deleting_the_only_session_vacates_its_workspace() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.delete("s"),
        right: nothing,
        then: |s| {
            s.session_is("s", Deleted);
            s.workspace_is("w", Vacated, 0);
            s.told("session.deleted", "s", 1);
            s.told("workspace.removed", "w", 1);
        },
    }
    .play();
}

#[test]
fn row_2_two_replicas_that_each_delete_one_of_the_last_two_sessions_vacate_the_workspace() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s1", "s2"]),
        left: |s| s.delete("s1"),
        right: |s| s.delete("s2"),
        then: |s| {
            s.session_is("s1", Deleted);
            s.session_is("s2", Deleted);
            s.workspace_is("w", Vacated, 0);
            s.told("session.deleted", "s1", 1);
            s.told("session.deleted", "s2", 1);
            s.told("workspace.removed", "w", 1);
        },
    }
    .play();
}

#[test]
fn row_3_a_session_created_beside_the_delete_of_the_last_one_keeps_the_workspace() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.delete("s"),
        right: |s| s.create("s2", "w"),
        then: |s| {
            s.session_is("s", Deleted);
            s.session_is("s2", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.deleted", "s", 1);
            s.told("session.created", "s2", 1);
        },
    }
    .play();
}

#[test]
fn row_4_a_session_created_beside_the_seal_is_stranded() {
    Row {
        hosts: &[LEFT],
        before: |s| {
            room(s, &["s"]);
            s.delete("s");
        },
        left: Scene::pass_undo_window,
        right: |s| s.create("s2", "w"),
        then: |s| {
            s.session_is("s2", Stranded);
            s.workspace_is("w", Sealed, 1);
            s.told("workspace.sealed", "w", 1);
            s.told("session.purged", "s", 1);
        },
    }
    .play();
}

#[test]
fn row_5_two_deletes_of_one_session_are_told_once_on_each_replica() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.delete("s"),
        right: |s| s.delete("s"),
        then: |s| {
            s.session_is("s", Deleted);
            s.workspace_is("w", Vacated, 0);
            s.told("session.deleted", "s", 1);
            s.told("workspace.removed", "w", 1);
        },
    }
    .play();
}

#[test]
fn row_6_a_restore_shows_the_name_given_beside_the_delete() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.delete("s"),
        right: |s| s.rename("s", "new"),
        then: |s| {
            s.session_is("s", Deleted);
            s.told("session.deleted", "s", 1);
            s.restore("s");
            s.world.agree();
            s.session_is("s", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.restored", "s", 1);
            for node in 0..3 {
                let title = s.world.session(node, s.host, "s").unwrap().title;
                assert_eq!(title.as_deref(), Some("new"));
            }
        },
    }
    .play();
}

#[test]
fn row_7_a_delete_that_did_not_see_the_restore_wins_over_it() {
    Row {
        hosts: ANY,
        before: |s| {
            room(s, &["s"]);
            s.delete("s");
        },
        left: |s| s.restore("s"),
        right: |s| s.delete("s"),
        then: |s| {
            s.session_is("s", Deleted);
            s.workspace_is("w", Vacated, 0);
        },
    }
    .play();
}

#[test]
fn row_8_a_purge_wins_over_a_restore() {
    Row {
        hosts: &[RIGHT],
        before: |s| {
            room(s, &["s", "other"]);
            s.delete("s");
        },
        left: |s| s.restore("s"),
        right: Scene::pass_undo_window,
        then: |s| {
            for node in 0..3 {
                assert_eq!(s.world.session(node, s.host, "s"), None);
            }
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.purged", "s", 1);
        },
    }
    .play();
}

#[test]
fn row_9_deleting_a_workspace_spares_the_session_that_it_did_not_see() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s1", "s3"]),
        left: |s| s.delete_workspace("w"),
        right: |s| s.create("s2", "w"),
        then: |s| {
            s.session_is("s1", Deleted);
            s.session_is("s3", Deleted);
            s.session_is("s2", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.deleted", "s1", 1);
            s.told("session.created", "s2", 1);
        },
    }
    .play();
}

#[test]
fn row_10_the_first_session_keeps_a_workspace_that_was_deleted_fresh() {
    Row {
        hosts: ANY,
        before: |s| s.workspace("w"),
        left: |s| s.delete_workspace("w"),
        right: |s| s.create("s", "w"),
        then: |s| {
            s.session_is("s", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
        },
    }
    .play();
}

#[test]
fn row_11_a_keep_beside_the_delete_of_the_workspace_keeps_it_empty() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.delete_workspace("w"),
        right: |s| s.set_keep("w", true),
        then: |s| {
            s.session_is("s", Deleted);
            s.workspace_is("w", WorkspaceState::Live, 0);
        },
    }
    .play();
}

#[test]
fn row_12_a_child_created_beside_the_delete_of_its_parent_goes_and_comes_back_with_it() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["p"]),
        left: |s| s.delete("p"),
        right: |s| s.create_child("c", "p", "w"),
        then: |s| {
            s.session_is("p", Deleted);
            s.session_is("c", Deleted);
            s.workspace_is("w", Vacated, 0);
            s.restore("p");
            s.world.agree();
            s.session_is("p", Live);
            s.session_is("c", Live);
            s.workspace_is("w", WorkspaceState::Live, 2);
            s.told("session.restored", "c", 1);
        },
    }
    .play();
}

#[test]
fn row_13_restoring_a_parent_does_not_restore_the_child_that_was_deleted_by_itself() {
    Row {
        hosts: ANY,
        before: |s| {
            room(s, &["p"]);
            s.create_child("c", "p", "w");
        },
        left: |s| s.delete("p"),
        right: |s| s.delete("c"),
        then: |s| {
            s.workspace_is("w", Vacated, 0);
            s.restore("p");
            s.world.agree();
            s.session_is("p", Live);
            s.session_is("c", Deleted);
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.deleted", "c", 1);
        },
    }
    .play();
}

#[test]
fn row_14_a_session_deleted_beside_its_move_vacates_both_workspaces() {
    Row {
        hosts: ANY,
        before: |s| {
            s.workspace("w1");
            s.workspace("w2");
            s.create("s", "w1");
        },
        left: |s| s.move_to("s", "w2"),
        right: |s| s.delete("s"),
        then: |s| {
            s.session_is("s", Deleted);
            s.workspace_is("w1", Vacated, 0);
            s.workspace_is("w2", Vacated, 0);
            s.told("session.deleted", "s", 1);
        },
    }
    .play();
}

#[test]
fn row_15_a_session_moved_to_two_places_ends_in_one_of_them_everywhere() {
    Row {
        hosts: ANY,
        before: |s| {
            ["w1", "w2", "w3"].iter().for_each(|id| s.workspace(id));
            s.create("s", "w1");
        },
        left: |s| s.move_to("s", "w2"),
        right: |s| s.move_to("s", "w3"),
        then: |s| {
            s.session_is("s", Live);
            let home = s.world.session(0, s.host, "s").unwrap().workspace_id.unwrap();
            let other = if home.as_str() == "w2" { "w3" } else { "w2" };
            s.workspace_is(home.as_str(), WorkspaceState::Live, 1);
            s.workspace_is(other, Vacated, 0);
            s.workspace_is("w1", Vacated, 0);
        },
    }
    .play();
}

#[test]
fn row_16_a_session_created_beside_the_move_of_the_last_one_keeps_the_workspace() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.move_out("s"),
        right: |s| s.create("s2", "w"),
        then: |s| {
            s.session_is("s", Live);
            s.session_is("s2", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
        },
    }
    .play();
}

#[test]
fn row_17_a_session_moved_in_beside_the_seal_is_stranded() {
    Row {
        hosts: &[RIGHT],
        before: |s| {
            s.workspace("w");
            s.workspace("w2");
            s.create("s", "w");
            s.create("last", "w2");
            s.delete("last");
        },
        left: |s| s.move_to("s", "w2"),
        right: Scene::pass_undo_window,
        then: |s| {
            s.session_is("s", Stranded);
            s.workspace_is("w2", Sealed, 1);
            s.told("session.stranded", "s", 1);
        },
    }
    .play();
}

#[test]
fn row_18_an_archived_session_keeps_its_workspace() {
    Row {
        hosts: ANY,
        before: |s| room(s, &["s"]),
        left: |s| s.archive("s"),
        right: nothing,
        then: |s| {
            s.session_is("s", Live);
            s.workspace_is("w", WorkspaceState::Live, 1);
            s.told("session.updated", "s", 1);
        },
    }
    .play();
}

#[test]
fn row_19_a_keep_beside_an_unkeep_keeps_the_workspace() {
    Row {
        hosts: ANY,
        before: |s| {
            room(s, &["s"]);
            s.set_keep("w", true);
            s.delete("s");
        },
        left: |s| s.set_keep("w", false),
        right: |s| s.set_keep("w", true),
        then: |s| s.workspace_is("w", WorkspaceState::Live, 0),
    }
    .play();
}

#[test]
fn row_20_what_an_offline_replica_deleted_is_purged_once_another_relayed_it() {
    let mut world = World::fleet(3, 7);
    world.teardowns = Mode::Held;
    let host = RIGHT;
    let mut scene = Scene { world, host, at: host, operations: BTreeMap::new() };
    room(&mut scene, &["s", "other"]);
    scene.world.agree();
    scene.world.part();
    scene.at = LEFT;
    scene.delete("s");
    scene.world.plug(LEFT, THIRD);
    scene.world.agree();
    scene.world.cut(LEFT, THIRD);
    scene.world.plug(THIRD, RIGHT);
    scene.world.agree();
    scene.session_is("s", Deleted);
    scene.pass_undo_window();
    scene.world.agree();
    for node in [RIGHT, THIRD] {
        assert_eq!(scene.world.session(node, host, "s"), None, "s is gone");
        let told = &scene.world.nodes[node].watch.events;
        assert_eq!(told.get(&("session.purged", "s".to_owned())), Some(&1));
        assert_eq!(told.get(&("session.restored", "s".to_owned())), None);
    }
    // Even if it comes back after all.
    scene.world.plug(LEFT, THIRD);
    scene.world.agree();
    assert_eq!(scene.world.session(LEFT, host, "s"), None, "s is gone");
}
