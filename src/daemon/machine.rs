//! Owns what a daemon tells of the machine that it runs on, which its loop does not know.
//!
//! Must not know documents or peers. Invariant: to ask never waits for a program; what a program
//! must be asked for is looked up beside, at the start and from time to time.

use std::{
    env,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::trash::{HostTrash, TrashStatus};
use crate::{replica::ids::WorkspaceId, teardown};

/// The program that worktrees are ended with.
const GIT: &str = "git";

/// The git that a process finds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Git {
    /// Where it is; `None` if no folder of `PATH` has it.
    pub path: Option<PathBuf>,
    /// What it says of its version; `None` if it can't be run.
    pub version: Option<String>,
}

impl Git {
    /// Looks for the git of this process, and asks it; blocks.
    pub fn look() -> Self {
        let version = teardown::git_version().ok().map(|version| format!("git version {version}"));
        let folders = env::var_os("PATH").unwrap_or_default();
        let path =
            env::split_paths(&folders).map(|folder| folder.join(GIT)).find(|it| it.is_file());
        // A path that is not UTF-8 could not be told as JSON.
        let path = path.map(|path| PathBuf::from(path.to_string_lossy().into_owned()));
        Self { path, version }
    }
}

/// What is known of the machine at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The git that the daemon finds; `None` before it has looked.
    pub git: Option<Git>,
    /// The workspaces whose hooks an earlier run of the daemon has left running.
    pub hooks_left_running: Vec<WorkspaceId>,
    /// How the trash stands.
    pub trash: TrashStatus,
}

/// Knows the machine; cheap to clone.
#[derive(Debug, Clone)]
pub struct Machine {
    teardown: Arc<teardown::Config>,
    trash: HostTrash,
    git: Arc<Mutex<Option<Git>>>,
}

impl Machine {
    /// Begins to know a machine.
    pub fn new(teardown: Arc<teardown::Config>, trash: HostTrash) -> Self {
        Self { teardown, trash, git: Arc::default() }
    }

    /// Returns the trash of this host.
    pub fn trash(&self) -> &HostTrash {
        &self.trash
    }

    /// Looks again at what changes seldom and takes a while to look at; blocks.
    pub fn look(&self) {
        let git = Git::look();
        *self.git.lock().unwrap_or_else(PoisonError::into_inner) = Some(git);
    }

    /// Tells what is known.
    pub fn facts(&self) -> Facts {
        let git = self.git.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let hooks_left_running = self.teardown.left_running();
        Facts { git, hooks_left_running, trash: self.trash.status() }
    }
}
