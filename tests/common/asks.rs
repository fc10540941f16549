//! What people and agents ask of a node, drawn at random from small pools of ids, so that nodes
//! create, delete and move the same things at once.

use std::collections::BTreeSet;

use sessionmesh::replica::{
    command::{
        Command, Import, ImportedSession, ImportedWorkspace, NewSession, NewWorkspace,
        SessionPatch, Target, WorkspacePatch,
    },
    ids::{SessionId, WorkspaceId},
    record::{SessionKey, TeardownAction, WorkspaceKey, WorkspaceState},
    view::View,
};

/// Draws what is asked next of a node that shows a view.
pub struct Asks<'a> {
    pub random: &'a mut fastrand::Rng,
    pub view: &'a View,
    /// How many ids of sessions there are, `s0` and so on.
    pub sessions: usize,
    /// How many ids of workspaces there are, `w0` and so on.
    pub workspaces: usize,
}

impl Asks<'_> {
    fn session_id(&mut self) -> SessionId {
        format!("s{}", self.random.usize(..self.sessions)).parse().unwrap()
    }

    fn workspace_id(&mut self) -> WorkspaceId {
        format!("w{}", self.random.usize(..self.workspaces)).parse().unwrap()
    }

    /// A session that the node shows.
    fn session(&mut self) -> Option<SessionKey> {
        let keys: Vec<SessionKey> = self.view.sessions().map(|session| session.key()).collect();
        self.random.choice(keys)
    }

    fn workspace(&mut self) -> Option<WorkspaceKey> {
        let keys: Vec<_> = self.view.workspaces().map(|entry| entry.record.key()).collect();
        self.random.choice(keys)
    }

    pub fn create_session(&mut self) -> Command {
        let mut new = NewSession { id: Some(self.session_id()), ..NewSession::default() };
        if self.random.u8(..4) > 0
            && let Some(key) = self.workspace()
        {
            new.workspace_id = Some(format!("{}@{}", key.id, key.host));
        }
        if self.random.u8(..4) == 0
            && let Some(key) = self.session()
        {
            new.host = Some(key.host.to_string());
            new.parent_id = Some(key.id);
        }
        Command::CreateSession(new)
    }

    pub fn create_workspace(&mut self) -> Command {
        let id = Some(self.workspace_id());
        let keep = self.random.u8(..5) == 0;
        Command::CreateWorkspace(NewWorkspace {
            id,
            name: "w".to_owned(),
            kind: "directory".to_owned(),
            project_id: None,
            directory: None,
            branch: None,
            keep,
            extra: Default::default(),
        })
    }

    pub fn delete_session(&mut self) -> Option<Command> {
        let session = named(self.session()?);
        Some(Command::DeleteSession { session, dry_run: self.random.u8(..8) == 0 })
    }

    pub fn delete_workspace(&mut self) -> Option<Command> {
        let workspace = workspace_named(self.workspace()?);
        Some(Command::DeleteWorkspace { workspace, dry_run: self.random.u8(..8) == 0 })
    }

    pub fn update_session(&mut self) -> Option<Command> {
        let key = self.session()?;
        let mut patch = SessionPatch::default();
        match self.random.u8(..6) {
            0..3 => {
                patch.workspace_id = Some(match self.random.u8(..3) {
                    0 => None,
                    _ => Some(self.workspace_id()),
                });
            }
            3 => patch.title = Some(Some(format!("title {}", self.random.u8(..9)))),
            4 => {
                patch.archived_at = Some(if self.random.bool() { Some(1) } else { None });
            }
            _ => {
                let value = if self.random.bool() { Some("x".to_owned()) } else { None };
                patch.extra.insert(format!("k{}", self.random.u8(..2)), value);
            }
        }
        Some(Command::UpdateSession(named(key), patch))
    }

    pub fn update_workspace(&mut self) -> Option<Command> {
        let key = self.workspace()?;
        let mut patch = WorkspacePatch::default();
        match self.random.u8(..4) {
            0 => patch.name = Some(format!("name {}", self.random.u8(..9))),
            1 => patch.keep = Some(true),
            _ => patch.keep = Some(false),
        }
        Some(Command::UpdateWorkspace(workspace_named(key), patch))
    }

    /// Goes on after a failed teardown, where there is one.
    pub fn go_on_with_teardown(&mut self) -> Option<Command> {
        let failed = self.view.workspaces();
        let failed = failed.filter(|w| w.record.state == WorkspaceState::Failed);
        let failed: Vec<WorkspaceKey> = failed.map(|entry| entry.record.key()).collect();
        let key = self.random.choice(failed)?;
        let action = if self.random.bool() { TeardownAction::Retry } else { TeardownAction::Force };
        Some(Command::Teardown(workspace_named(key), action))
    }

    pub fn import(&mut self) -> Command {
        let mut import = Import::default();
        for _ in 0..self.random.usize(..2) {
            import.workspaces.push(ImportedWorkspace {
                id: self.workspace_id(),
                name: "imported".to_owned(),
                kind: "worktree".to_owned(),
                project_id: None,
                directory: None,
                branch: None,
                created_at: 1,
                agent_server: Some("http://localhost/".to_owned()),
                extra: Default::default(),
            });
        }
        let mut ids = BTreeSet::new();
        for _ in 0..self.random.usize(1..4) {
            ids.insert(self.session_id());
        }
        for id in ids {
            let workspace_id = self.random.bool().then(|| self.workspace_id());
            let parent_id = (self.random.u8(..3) == 0).then(|| self.session_id());
            import.sessions.push(ImportedSession {
                parent_id: parent_id.filter(|parent| *parent != id),
                id,
                workspace_id,
                project_id: None,
                directory: None,
                title: Some("imported".to_owned()),
                created_at: 1,
                updated_at: 2,
                archived_at: None,
                agent: None,
                agent_server: None,
                extra: Default::default(),
            });
        }
        Command::Import(import)
    }
}

fn named(key: SessionKey) -> Target<SessionId> {
    Target { id: key.id, host: Some(key.host.to_string()) }
}

fn workspace_named(key: WorkspaceKey) -> Target<WorkspaceId> {
    Target { id: key.id, host: Some(key.host.to_string()) }
}
