//! How a row of the table of concurrent pairs is written and played.

use std::collections::BTreeMap;

use sessionmesh::replica::{
    command::{Command, NewSession, NewWorkspace, Reply, SessionPatch, Target, WorkspacePatch},
    ids::OperationId,
    record::{SessionState, WorkspaceState},
};

use super::world::{Mode, UNDO_WINDOW, World, name_of};

/// In which way the changes come together.
#[derive(Debug, Clone, Copy)]
enum Meeting {
    LeftFirst,
    RightFirst,
    Relay,
}

const MEETINGS: [Meeting; 3] = [Meeting::LeftFirst, Meeting::RightFirst, Meeting::Relay];

pub const LEFT: usize = 0;
pub const RIGHT: usize = 1;
pub const THIRD: usize = 2;

/// A row being played: who acts, where the records live, and what was done so far.
pub struct Scene {
    pub world: World,
    pub host: usize,
    /// Who acts.
    pub at: usize,
    /// The last delete of each record.
    pub operations: BTreeMap<String, OperationId>,
}

pub type Act = fn(&mut Scene);

/// One row of the table.
pub struct Row {
    /// Who may be the host.
    pub hosts: &'static [usize],
    pub before: Act,
    pub left: Act,
    pub right: Act,
    pub then: Act,
}

pub const ANY: &[usize] = &[LEFT, RIGHT, THIRD];
pub fn nothing(_: &mut Scene) {}

impl Row {
    pub fn play(&self) {
        for host in self.hosts {
            for meeting in MEETINGS {
                self.play_once(*host, meeting);
            }
        }
    }

    fn play_once(&self, host: usize, meeting: Meeting) {
        let mut scene = Scene::new(host);
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
    /// Makes three nodes that know of each other; teardowns wait.
    pub fn new(host: usize) -> Self {
        let mut world = World::fleet(3, 7);
        world.teardowns = Mode::Held;
        Self { world, host, at: host, operations: BTreeMap::new() }
    }

    pub fn ask(&mut self, command: Command) -> Reply {
        self.world.ask(self.at, command).unwrap_or_else(|refusal| panic!("refused: {refusal}"))
    }

    pub fn workspace(&mut self, id: &str) {
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

    pub fn create(&mut self, id: &str, workspace: &str) {
        self.ask(Command::CreateSession(NewSession {
            id: Some(id.parse().unwrap()),
            workspace_id: Some(workspace.to_owned()),
            ..NewSession::default()
        }));
    }

    pub fn create_child(&mut self, id: &str, parent: &str, workspace: &str) {
        self.ask(Command::CreateSession(NewSession {
            id: Some(id.parse().unwrap()),
            parent_id: Some(parent.parse().unwrap()),
            workspace_id: Some(workspace.to_owned()),
            ..NewSession::default()
        }));
    }

    pub fn delete(&mut self, id: &str) {
        let session = Target::new(id.parse().unwrap());
        let reply = self.ask(Command::DeleteSession { session, dry_run: false });
        let Reply::SessionDeleted(deleted) = reply else { panic!("{reply:?}") };
        self.operations.insert(id.to_owned(), deleted.operation.expect("it was deleted"));
    }

    pub fn delete_workspace(&mut self, id: &str) {
        let workspace = Target::new(id.parse().unwrap());
        let reply = self.ask(Command::DeleteWorkspace { workspace, dry_run: false });
        let Reply::WorkspaceDeleted(deleted) = reply else { panic!("{reply:?}") };
        self.operations.insert(id.to_owned(), deleted.operation.expect("it was deleted"));
    }

    pub fn restore(&mut self, id: &str) {
        let operation = self.operations[id].clone();
        self.ask(Command::Restore(operation));
    }

    pub fn patch(&mut self, id: &str, patch: SessionPatch) {
        self.ask(Command::UpdateSession(Target::new(id.parse().unwrap()), patch));
    }

    pub fn rename(&mut self, id: &str, title: &str) {
        self.patch(id, SessionPatch { title: Some(Some(title.to_owned())), ..Default::default() });
    }

    pub fn archive(&mut self, id: &str) {
        self.patch(id, SessionPatch { archived_at: Some(Some(1)), ..Default::default() });
    }

    pub fn move_to(&mut self, id: &str, workspace: &str) {
        let workspace_id = Some(Some(workspace.parse().unwrap()));
        self.patch(id, SessionPatch { workspace_id, ..Default::default() });
    }

    pub fn move_out(&mut self, id: &str) {
        self.patch(id, SessionPatch { workspace_id: Some(None), ..Default::default() });
    }

    pub fn set_keep(&mut self, id: &str, keep: bool) {
        let patch = WorkspacePatch { keep: Some(keep), ..Default::default() };
        self.ask(Command::UpdateWorkspace(Target::new(id.parse().unwrap()), patch));
    }

    /// Lets the undo windows pass, so that the host carries out what it knows of.
    pub fn pass_undo_window(&mut self) {
        self.world.pass(UNDO_WINDOW);
    }

    /// The session is in this state on every replica.
    #[track_caller]
    pub fn session_is(&self, id: &str, state: SessionState) {
        for node in 0..self.world.nodes.len() {
            let session = self.world.session(node, self.host, id);
            assert_eq!(session.map(|s| s.state), Some(state), "{id} on {}", name_of(node));
        }
    }

    /// The workspace is in this state on every replica, with so many sessions alive in it.
    #[track_caller]
    pub fn workspace_is(&self, id: &str, state: WorkspaceState, session_count: u64) {
        for node in 0..self.world.nodes.len() {
            let workspace =
                self.world.workspace(node, self.host, id).map(|w| (w.state, w.session_count));
            assert_eq!(workspace, Some((state, session_count)), "{id} on {}", name_of(node));
        }
    }

    /// Every replica has published such an event of the record so often since the parting.
    #[track_caller]
    pub fn told(&self, event: &'static str, id: &str, times: u64) {
        for (number, node) in self.world.nodes.iter().enumerate() {
            let told = node.watch.events.get(&(event, id.to_owned())).copied().unwrap_or(0);
            assert_eq!(told, times, "{event} of {id} by {}", name_of(number));
        }
    }
}

/// A workspace `w` with these sessions.
pub fn room(scene: &mut Scene, sessions: &[&str]) {
    scene.workspace("w");
    sessions.iter().for_each(|id| scene.create(id, "w"));
}
