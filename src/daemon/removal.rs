//! Owns what the teardown and the trash ask of opencode: to forget its workspaces, to keep its
//! conversations, and to take one back.
//!
//! Must not decide whether anything may be ended: the teardown has looked before it asks. Invariant:
//! only the server that a workspace or a session is marked with is asked, or, to take one back, one
//! that stands on the same database.

use std::{collections::BTreeMap, io, path::Path, path::PathBuf, sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::Notify};

use super::trash::HostTrash;
use crate::{
    agent::{
        bridge::{Keeper, Kept},
        opencode::{Client, Standing, import},
    },
    replica::record::Workspace,
    teardown::{
        Remover,
        trash::{KeptSession, SessionImporter},
    },
};

/// How long a server may take to forget a workspace.
const REMOVE_WITHIN: Duration = Duration::from_secs(60);
/// The name of the agent.
const AGENT: &str = "opencode";
/// Where what is given back lies for the moment, in the data folder.
const SCRATCH: &str = "importing";

/// An opencode server that is asked to remove its own workspaces.
#[derive(Debug)]
pub struct ByOpencode {
    client: Client,
    runtime: Handle,
}

impl ByOpencode {
    /// Makes it of a server; must be called within the runtime that is to do the asking.
    pub fn new(client: Client) -> Self {
        Self { client, runtime: Handle::current() }
    }
}

impl Remover for ByOpencode {
    fn claims(&self, workspace: &Workspace) -> bool {
        workspace.agent_server.as_deref() == Some(self.client.address().as_str())
    }

    fn remove(&self, workspace: &Workspace) -> Result<(), String> {
        let (id, directory) = (workspace.id.as_str(), workspace.directory.as_deref());
        self.runtime.block_on(async {
            let removed = self.client.remove_workspace(id, directory);
            match tokio::time::timeout(REMOVE_WITHIN, removed).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(format!("opencode did not remove it: {error}")),
                Err(_) => {
                    Err(format!("opencode did not remove it within {} s", REMOVE_WITHIN.as_secs()))
                }
            }
        })
    }
}

/// Keeps conversations in the trash.
#[derive(Debug)]
pub struct InTrash(pub HostTrash);

impl Keeper for InTrash {
    fn keeps(&self) -> bool {
        self.0.keeps()
    }

    fn keep(&self, session: &Kept, export: &[u8]) -> io::Result<()> {
        let Kept { id, title, directory, agent, server, is_cut } = session.clone();
        let reason = Some("deleted".to_owned());
        let kept = KeptSession { id, title, directory, agent, server, cut: is_cut, reason };
        self.0.keep_session(&kept, export)
    }
}

/// Gives conversations back to the opencode servers beside this node.
#[derive(Debug)]
pub struct ToOpencode {
    /// The servers, and what has each listed again.
    servers: BTreeMap<String, (Client, Arc<Notify>)>,
    scratch: PathBuf,
    runtime: Handle,
}

impl ToOpencode {
    /// Makes it of the servers; must be called within the runtime that is to do the asking.
    pub fn new(servers: &[(Client, Arc<Notify>)], data_dir: &Path) -> Self {
        let servers = servers.iter().map(|it| (it.0.address().to_string(), it.clone()));
        let scratch = data_dir.join(SCRATCH);
        Self { servers: servers.collect(), scratch, runtime: Handle::current() }
    }
}

impl SessionImporter for ToOpencode {
    fn claims(&self, agent: &str, _server: &str) -> bool {
        agent == AGENT
    }

    fn import(&self, session: &KeptSession, export: &Path) -> Result<String, String> {
        // The server may have another address by now, and the only one is the one that is meant.
        let only = self.servers.values().next().filter(|_| self.servers.len() == 1);
        let server = self.servers.get(&session.server).or(only);
        let process = server.and_then(|(client, _)| self.runtime.block_on(client.process()));
        let directory = session.directory.as_deref();
        let id = import::run(export, directory, &self.scratch, process.as_ref())?;
        let Some((client, relist)) = server else { return Ok(id) };
        match self.runtime.block_on(client.session(&id)) {
            Ok(Standing::There(_)) => {
                relist.notify_one();
                Ok(id)
            }
            Ok(Standing::Gone) => Err(format!(
                "opencode's command has taken it as {id}, and the server at {} does not have it: its \
                 database is another one than the command's",
                client.address()
            )),
            // It is listed once the server is back.
            Err(_) => Ok(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{replica::record::TeardownAction, teardown::testing};

    #[tokio::test]
    async fn a_workspace_is_an_agents_by_its_hosts_word_alone() {
        let server = "http://localhost:4096/";
        let by_opencode = ByOpencode::new(Client::new(server, None).unwrap());
        let mut workspace = testing::due("worktree", None, TeardownAction::Retry).workspace;
        workspace.extra.insert("agent_server".to_owned(), server.to_owned());
        assert!(!by_opencode.claims(&workspace), "anyone may write the free fields");
        workspace.agent_server = Some(server.to_owned());
        assert!(by_opencode.claims(&workspace));
        workspace.agent_server = Some("http://localhost:5000/".to_owned());
        assert!(!by_opencode.claims(&workspace));
    }
}
