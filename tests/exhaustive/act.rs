//! What can happen at a node, and what each thing means.

use std::fmt;

use sessionmesh::replica::{
    command::{Command, NewSession, Reply, SessionPatch, Target, WorkspacePatch},
    effect::{Input, TeardownOutcome},
    ids::OperationId,
    record::{SessionKey, SessionState, TeardownAction, WorkspaceKey, WorkspaceState},
};

use crate::{
    model::Event,
    world::{HOST, WORKSPACES, World},
};

type Id = &'static str;

/// Something that happens at a node once it has learnt what it is to learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Create {
        session: Id,
        workspace: Id,
        parent: Option<Id>,
    },
    Delete(Id),
    /// Undoes the delete that the node shows of a session.
    Restore(Id),
    Move(Id, Option<Id>),
    Keep(Id),
    Unkeep(Id),
    DeleteWorkspace(Id),
    /// Undoes the last delete of a workspace that the node knows of.
    RestoreWorkspace(Id),
    Retry(Id),
    /// The host's undo windows end.
    Pass,
    /// A teardown that the host asked for ends.
    End {
        workspace: Id,
        well: bool,
    },
    /// The host learns something, which leads to something.
    Look,
    Restart,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { session, workspace, parent: None } => {
                write!(f, "creates {session} in {workspace}")
            }
            Self::Create { session, workspace, parent: Some(parent) } => {
                write!(f, "creates {session} in {workspace} below {parent}")
            }
            Self::Delete(session) => write!(f, "deletes {session}"),
            Self::Restore(session) => write!(f, "restores {session}"),
            Self::Move(session, Some(workspace)) => write!(f, "moves {session} to {workspace}"),
            Self::Move(session, None) => write!(f, "moves {session} out"),
            Self::Keep(workspace) => write!(f, "keeps {workspace}"),
            Self::Unkeep(workspace) => write!(f, "lets go of {workspace}"),
            Self::DeleteWorkspace(workspace) => write!(f, "deletes {workspace}"),
            Self::RestoreWorkspace(workspace) => write!(f, "restores {workspace}"),
            Self::Retry(workspace) => write!(f, "retries {workspace}"),
            Self::Pass => write!(f, "waits"),
            Self::End { workspace, well: true } => write!(f, "tore {workspace} down"),
            Self::End { workspace, well: false } => write!(f, "failed to tear {workspace} down"),
            Self::Look => write!(f, "looks"),
            Self::Restart => write!(f, "restarts"),
        }
    }
}

/// All that may happen in the scenes, wherever it makes sense.
pub const ALPHABET: &[Act] = &[
    Act::Create { session: "n", workspace: "w1", parent: None },
    Act::Create { session: "n", workspace: "w2", parent: None },
    Act::Create { session: "n", workspace: "w1", parent: Some("p") },
    Act::Delete("p"),
    Act::Delete("c"),
    Act::Delete("n"),
    Act::Restore("p"),
    Act::Restore("c"),
    Act::Restore("n"),
    Act::Move("p", Some("w2")),
    Act::Move("p", Some("w1")),
    Act::Move("p", None),
    Act::Move("c", Some("w2")),
    Act::Move("n", Some("w2")),
    Act::Keep("w1"),
    Act::Keep("w2"),
    Act::Unkeep("w1"),
    Act::Unkeep("w2"),
    Act::DeleteWorkspace("w1"),
    Act::DeleteWorkspace("w2"),
    Act::RestoreWorkspace("w1"),
    Act::RestoreWorkspace("w2"),
    Act::Retry("w1"),
    Act::Retry("w2"),
    Act::Pass,
    Act::End { workspace: "w1", well: true },
    Act::End { workspace: "w1", well: false },
    Act::End { workspace: "w2", well: true },
    Act::End { workspace: "w2", well: false },
    Act::Look,
    Act::Restart,
];

/// The few that a session's and a workspace's life cannot do without, for longer paths.
pub const LIFE: &[Act] = &[
    Act::Create { session: "n", workspace: "w1", parent: None },
    Act::Create { session: "n", workspace: "w1", parent: Some("p") },
    Act::Delete("p"),
    Act::Restore("p"),
    Act::Move("p", Some("w2")),
    Act::DeleteWorkspace("w1"),
    Act::Pass,
    Act::End { workspace: "w1", well: true },
    Act::End { workspace: "w1", well: false },
    Act::Retry("w1"),
    Act::Look,
    Act::Restart,
];

/// What people do, by kind, to a session and to the workspace that it is in.
pub const KINDS: &[(&str, &[Act])] = &[
    ("create", &[Act::Create { session: "n", workspace: "w1", parent: Some("p") }]),
    ("delete and restore", &[Act::Delete("p"), Act::Restore("p")]),
    ("move", &[Act::Move("p", Some("w2")), Act::Move("p", Some("w1"))]),
    ("keep", &[Act::Keep("w1"), Act::Unkeep("w1")]),
    (
        "delete and restore the workspace",
        &[Act::DeleteWorkspace("w1"), Act::RestoreWorkspace("w1")],
    ),
    ("fail and retry", &[Act::End { workspace: "w1", well: false }, Act::Retry("w1")]),
    ("restart", &[Act::Restart]),
];

/// What a host does by itself: purges and seals, tears down, takes up what it learns.
pub const HOST_ACTS: &[Act] = &[Act::Pass, Act::End { workspace: "w1", well: true }, Act::Look];

impl Act {
    /// Tells at once of most acts that make no sense at a node, which is cheaper than to try.
    pub fn may_play(self, world: &World, at: usize) -> bool {
        let view = world.nodes[at].replica.view();
        let session = |id| view.session(&session_key(world, id));
        let workspace = |id| view.workspace(&workspace_key(world, id));
        let state = |id| workspace(id).map(|entry| entry.record.state);
        let open = |id| matches!(state(id), Some(WorkspaceState::Live | WorkspaceState::Vacated));
        match self {
            Self::Pass | Self::Look => at == HOST,
            Self::End { .. } => !world.nodes[at].teardowns.is_empty(),
            Self::Create { session: id, workspace, .. } => session(id).is_none() && open(workspace),
            Self::Delete(id) | Self::Restore(id) => session(id).is_some(),
            Self::Move(id, home) => session(id).is_some() && home.is_none_or(open),
            Self::Keep(id) => open(id),
            Self::Unkeep(id) => workspace(id).is_some_and(|entry| entry.record.keep),
            Self::DeleteWorkspace(id) | Self::RestoreWorkspace(id) => workspace(id).is_some(),
            Self::Retry(id) => state(id) == Some(WorkspaceState::Failed),
            Self::Restart => true,
        }
    }

    /// Has it happen at a node; false if it makes no sense there, and then the world is spoilt.
    pub fn play(self, world: &mut World, at: usize) -> bool {
        let before = world.changes.len();
        match self {
            Self::Restart => {
                world.restart(at);
                return true;
            }
            Self::Look => return false,
            Self::Pass => {
                let expected = due(world, at);
                world.pass(at);
                let done: Vec<Event> =
                    world.changes[before..].iter().flat_map(|c| c.events.clone()).collect();
                assert_eq!(done, expected, "the host carries out what is due and no more");
            }
            Self::End { workspace, well } => {
                let teardowns = &world.nodes[at].teardowns;
                let due = teardowns.iter().position(|due| due.workspace.id.as_str() == workspace);
                let Some(due) = due else { return false };
                let node = std::sync::Arc::make_mut(&mut world.nodes[at]);
                let due = node.teardowns.remove(due);
                let failed = || TeardownOutcome::Failed("it holds files".to_owned());
                let input = Input::TeardownEnded {
                    workspace: due.workspace.key(),
                    incarnation: due.incarnation,
                    outcome: if well { TeardownOutcome::Gone } else { failed() },
                };
                let fx = world.give(at, input);
                world.take(at, fx, None);
            }
            command => {
                let Some(asked) = command.command(world, at) else { return false };
                let keepers = keepers(world, at);
                let meant = command.meaning(world, at);
                let (Ok(reply), fx) = world.ask(at, asked) else { return false };
                let mut events = meant;
                if let Reply::Restored(restored) = &reply {
                    let sessions = restored.sessions.iter();
                    events.extend(sessions.map(|s| Event::Restored(s.id.to_string())));
                }
                for (workspace, now) in keepers_of(world, at) {
                    if now.iter().any(|keeper| !keepers.contains(&(workspace, keeper.clone()))) {
                        events.push(Event::Kept(workspace.to_owned()));
                    }
                }
                world.take(at, fx, Some(events));
            }
        }
        world.changes.len() > before
    }

    fn command(self, world: &World, at: usize) -> Option<Command> {
        let view = world.nodes[at].replica.view();
        let session = |id: Id| Target { id: id.parse().unwrap(), host: None };
        let workspace = |id: Id| Target { id: id.parse().unwrap(), host: None };
        Some(match self {
            Self::Create { session, workspace, parent } => Command::CreateSession(NewSession {
                id: Some(session.parse().unwrap()),
                workspace_id: Some(workspace.to_owned()),
                parent_id: parent.map(|parent| parent.parse().unwrap()),
                ..NewSession::default()
            }),
            Self::Delete(id) => Command::DeleteSession { session: session(id), dry_run: false },
            Self::Restore(id) => {
                let shown = view.session(&session_key(world, id))?;
                Command::Restore(shown.deleted.as_ref()?.operation.clone())
            }
            Self::Move(id, home) => {
                let shown = view.session(&session_key(world, id))?;
                let home = home.map(|home| home.parse().unwrap());
                // A move to where it is says nothing.
                (shown.workspace_id != home).then_some(())?;
                let patch = SessionPatch { workspace_id: Some(home), ..SessionPatch::default() };
                Command::UpdateSession(session(id), patch)
            }
            Self::Keep(id) | Self::Unkeep(id) => {
                let keep = Some(matches!(self, Self::Keep(_)));
                let patch = WorkspacePatch { keep, ..WorkspacePatch::default() };
                Command::UpdateWorkspace(workspace(id), patch)
            }
            Self::DeleteWorkspace(id) => {
                Command::DeleteWorkspace { workspace: workspace(id), dry_run: false }
            }
            Self::RestoreWorkspace(id) => {
                let entry = view.workspace(&workspace_key(world, id))?;
                let operation: &OperationId = entry.stored.dismissals.keys().next_back()?;
                Command::Restore(operation.clone())
            }
            Self::Retry(id) => Command::Teardown(workspace(id), TeardownAction::Retry),
            Self::Pass | Self::End { .. } | Self::Look | Self::Restart => return None,
        })
    }

    /// Returns what the contract makes of a command, but for what a restore brings back.
    fn meaning(self, world: &World, at: usize) -> Vec<Event> {
        let used = |workspace: Id| Event::Used(workspace.to_owned());
        match self {
            Self::Create { session, workspace, parent } => vec![
                Event::Created {
                    session: session.to_owned(),
                    workspace: Some(workspace.to_owned()),
                    parent: parent.map(str::to_owned),
                },
                used(workspace),
            ],
            Self::Delete(session) => vec![Event::Deleted(session.to_owned())],
            Self::Move(session, workspace) => {
                let moved = Event::Moved {
                    session: session.to_owned(),
                    workspace: workspace.map(str::to_owned),
                };
                std::iter::once(moved).chain(workspace.map(used)).collect()
            }
            Self::Unkeep(workspace) => vec![Event::Unkept(workspace.to_owned())],
            Self::DeleteWorkspace(workspace) => {
                let key = workspace_key(world, workspace);
                let seen = world.nodes[at].replica.view().sessions_in(&key);
                let deleted = seen.map(|session| Event::Deleted(session.id.to_string()));
                deleted.chain([used(workspace), Event::Unkept(workspace.to_owned())]).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Returns what a host must do when all windows end: purge who is dead, seal what is vacated.
fn due(world: &World, at: usize) -> Vec<Event> {
    let view = world.nodes[at].replica.view();
    let model = world.model(at);
    let dead = view.sessions().filter(|session| session.state == SessionState::Deleted);
    let dead: Vec<_> = dead.map(|session| session.id.to_string()).collect();
    assert!(dead.iter().all(|id| !model.alive(id)));
    let vacated = view.workspaces().filter(|w| w.record.state == WorkspaceState::Vacated);
    let vacated = vacated.map(|entry| Event::Sealed(entry.record.id.to_string()));
    dead.into_iter().map(Event::Purged).chain(vacated).collect()
}

fn session_key(world: &World, id: Id) -> SessionKey {
    SessionKey { host: world.nodes[HOST].replica.node(), id: id.parse().unwrap() }
}

fn workspace_key(world: &World, id: Id) -> WorkspaceKey {
    WorkspaceKey { host: world.nodes[HOST].replica.node(), id: id.parse().unwrap() }
}

fn keepers(world: &World, at: usize) -> Vec<(Id, OperationId)> {
    let all = keepers_of(world, at).into_iter();
    all.flat_map(|(id, keepers)| keepers.into_iter().map(move |keeper| (id, keeper))).collect()
}

fn keepers_of(world: &World, at: usize) -> Vec<(Id, Vec<OperationId>)> {
    let view = world.nodes[at].replica.view();
    let keepers = |id: Id| {
        let entry = view.workspace(&workspace_key(world, id));
        entry.map(|entry| entry.stored.keepers.keys().cloned().collect()).unwrap_or_default()
    };
    WORKSPACES.into_iter().map(|id| (id, keepers(id))).collect()
}
