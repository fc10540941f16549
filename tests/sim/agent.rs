//! The coding agent's server beside a node: sessions come, change and go there, too.

use std::collections::{BTreeMap, BTreeSet};

use sessionmesh::{
    agent::bridge::compare::{Here, Speaker, mark},
    replica::{
        command::{Command, Import, ImportedSession},
        ids::{NodeId, SessionId},
        machine::Replica,
    },
};

/// The address with which sessions of the server are marked, the same on every host.
pub const SERVER: &str = "http://agent.test/";
/// How many ids its sessions have.
const IDS: usize = 5;

/// A server and what it has.
#[derive(Debug, Default)]
pub struct Agent {
    sessions: BTreeMap<SessionId, u32>,
    /// The ids of those that it has no more: a server makes an id once.
    spent: BTreeSet<SessionId>,
    made: u32,
    pub away: bool,
}

impl Agent {
    /// Does something of its own accord.
    pub fn act(&mut self, random: &mut fastrand::Rng) {
        let known: Vec<SessionId> = self.sessions.keys().cloned().collect();
        match (random.u8(..3), random.choice(known)) {
            (0, Some(id)) => {
                self.sessions.remove(&id);
                self.spent.insert(id);
            }
            (1, Some(id)) => {
                self.made += 1;
                self.sessions.insert(id, self.made);
            }
            _ => {
                self.made += 1;
                let ids = IDS + self.spent.len();
                let id: SessionId = format!("a{}", random.usize(..ids)).parse().unwrap();
                if !self.spent.contains(&id) {
                    self.sessions.insert(id, self.made);
                }
            }
        }
    }

    /// Deletes what it is asked to; all of it is gone then.
    pub fn delete(&mut self, ids: &[SessionId]) {
        self.sessions.retain(|id, _| !ids.contains(id));
        self.spent.extend(ids.iter().cloned());
    }

    pub fn sessions(&self) -> impl Iterator<Item = &SessionId> {
        self.sessions.keys()
    }

    fn list(&self) -> Import {
        let sessions = self.sessions.iter().map(|(id, made)| ImportedSession {
            id: id.clone(),
            workspace_id: None,
            parent_id: None,
            project_id: None,
            directory: None,
            title: Some(format!("agent {made}")),
            created_at: 1,
            updated_at: 1,
            archived_at: None,
            agent: None,
            agent_server: None,
            extra: Default::default(),
        });
        let mut list = Import { workspaces: Vec::new(), sessions: sessions.collect() };
        mark(&mut list, SERVER);
        list
    }

    /// Compares its list with what a host shows, and returns what the bridge asks for, as the
    /// daemon's bridge does with the same comparison.
    pub fn compare(&mut self, node: NodeId, replica: &Replica) -> Vec<Command> {
        let list = self.list();
        let sessions = replica.view().sessions_of(&node);
        let sessions = sessions.map(|session| (session.id.clone(), session.clone())).collect();
        let here = Here { sessions, ..Here::default() };
        let plan = here.compare(&list, &BTreeSet::new(), &Speaker::alone(SERVER));
        let servers = servers();
        let mut commands = Vec::new();
        // What is not listed is not there: it is asked for, and this is the answer.
        if !plan.missing.is_empty() {
            let sessions = plan.missing.into_iter().collect();
            commands.push(Command::AgentGone { servers: servers.clone(), sessions });
        }
        if !plan.import.sessions.is_empty() {
            commands.push(Command::Import(plan.import));
        }
        if !plan.back.is_empty() {
            let sessions = plan.back.into_iter().collect();
            commands.push(Command::AgentHas { servers, sessions });
        }
        commands
    }
}

/// The server as the loop is asked about it.
pub fn servers() -> BTreeSet<String> {
    BTreeSet::from([SERVER.to_owned()])
}
