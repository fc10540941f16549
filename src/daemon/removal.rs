//! Owns having an agent's workspaces removed by the agent that made them.
//!
//! Must not decide whether one may be removed: the teardown has looked before it asks. Invariant:
//! only the server that a workspace is marked with is asked.

use std::time::Duration;

use tokio::runtime::Handle;

use crate::{
    agent::opencode::Client,
    replica::record::{EXTRA_SERVER, Workspace},
    teardown::Remover,
};

/// How long a server may take to remove a workspace, files and all.
const REMOVE_WITHIN: Duration = Duration::from_secs(60);

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
        let server = self.client.address().as_str();
        workspace.extra.get(EXTRA_SERVER).is_some_and(|marked| marked == server)
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
