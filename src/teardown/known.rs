//! Owns remembering which worktree a workspace is, since it was first seen.
//!
//! Must not decide anything. A folder that is gone no longer says which repository it belonged to,
//! and another worktree may stand in its place. Invariant: what is remembered of a workspace goes
//! only once it has been ended; of a worktree in its place nothing is learnt.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

use super::{
    Config,
    admin::{self, Admin},
};
use crate::{
    files,
    replica::{ids::WorkspaceId, record::Workspace},
};

/// The file in the data folder.
pub const FILE_NAME: &str = "worktrees.json";

/// What is remembered of a workspace's worktree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Where the record says that it is.
    pub directory: String,
    /// The folder that its repository's worktrees share.
    pub repository: String,
    /// Its administrative folder.
    pub admin: String,
    /// The device, the inode and the time of birth of that folder, in milliseconds; a folder of the
    /// same name that git made later has others.
    pub made: (u64, u64, u64),
    /// The branch that was checked out when it was last seen.
    pub branch: Option<String>,
}

impl Known {
    /// Says why what is at the place now is another worktree, if it is.
    pub fn differs(&self, now: &Admin, branch: Option<&str>) -> Option<String> {
        if made(&now.path).is_ok_and(|made| made == self.made) {
            // The repository may have moved.
            return None;
        }
        if Path::new(&self.repository) != now.repository {
            return Some(format!("it belongs to {}", now.repository.display()));
        }
        // Put back from a backup the same worktree has another inode, but still its branch.
        if Path::new(&self.admin) == now.path && self.branch.as_deref() == branch {
            return None;
        }
        let on = branch.map(|branch| format!(", on branch {branch}")).unwrap_or_default();
        Some(format!("it was added to {} later{on}", now.repository.display()))
    }
}

/// What is remembered of all workspaces.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    turn: Mutex<()>,
}

type All = BTreeMap<WorkspaceId, Known>;

impl Memory {
    /// Names the file in a data folder; it is made when there is something to remember.
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join(FILE_NAME), turn: Mutex::default() }
    }

    /// Returns what is remembered of a workspace whose record has this directory.
    pub fn get(&self, id: &WorkspaceId, directory: &str) -> Option<Known> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.read().ok()?.remove(id).filter(|known| known.directory == directory)
    }

    /// Forgets a workspace that has been ended.
    pub fn forget(&self, id: &WorkspaceId) {
        self.change(|all| all.remove(id).is_some());
    }

    fn learn(&self, id: &WorkspaceId, seen: Known) {
        self.change(|all| {
            let before = all.get(id).filter(|before| before.directory == seen.directory);
            if before.is_some_and(|before| *before == seen || !is_same(before, &seen)) {
                return false;
            }
            all.insert(id.clone(), seen);
            true
        });
    }

    fn change(&self, change: impl FnOnce(&mut All) -> bool) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.read().and_then(|mut all| {
            if change(&mut all) {
                files::replace(&self.path, &serde_json::to_vec(&all)?)
            } else {
                Ok(())
            }
        });
        if let Err(error) = changed {
            tracing::warn!(path = %self.path.display(), %error, "worktrees are not remembered");
        }
    }

    fn read(&self) -> io::Result<All> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(All::new()),
            Err(error) => Err(error),
        }
    }
}

/// Remembers the worktree that a workspace is, if it is one and was not seen before.
pub fn remember(config: &Config, workspace: &Workspace) {
    let Some(directory) = workspace.directory.as_deref() else { return };
    let Some(admin) = admin::of_worktree(Path::new(directory)) else { return };
    let (Some(repository), Some(path)) = (admin.repository.to_str(), admin.path.to_str()) else {
        return;
    };
    let Ok(made) = made(&admin.path) else { return };
    let seen = Known {
        directory: directory.to_owned(),
        repository: repository.to_owned(),
        admin: path.to_owned(),
        made,
        branch: admin::branch(&admin.path),
    };
    config.known.learn(&workspace.id, seen);
}

/// Tells whether a worktree is the one that was seen before, perhaps on another branch.
fn is_same(before: &Known, seen: &Known) -> bool {
    let place = |known: &Known| (known.repository.clone(), known.admin.clone());
    before.made == seen.made || (place(before) == place(seen) && before.branch == seen.branch)
}

fn made(folder: &Path) -> io::Result<(u64, u64, u64)> {
    let found = folder.metadata()?;
    let born = found.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let born = born.map_or(0, |born| u64::try_from(born.as_millis()).unwrap_or(u64::MAX));
    Ok((found.dev(), found.ino(), born))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{replica::record::TeardownAction, teardown::testing::Repository};

    #[test]
    fn a_worktree_is_known_again_and_another_in_its_place_is_not_learnt() {
        let repository = Repository::new();
        let workspace = repository.due("w", TeardownAction::Retry).workspace;
        let directory = workspace.directory.clone().unwrap();
        let get = || repository.config.known.get(&workspace.id, &directory);
        assert_eq!(get(), None);
        remember(&repository.config, &workspace);
        let first = get().unwrap();
        assert_eq!(first.branch.as_deref(), Some("feature"));
        let admin = || admin::of_worktree(&repository.path("w")).unwrap();
        assert_eq!(first.differs(&admin(), Some("feature")), None);

        // The same worktree on another branch is still the same.
        repository.git("w", &["checkout", "-q", "-b", "second"]);
        assert_eq!(first.differs(&admin(), Some("second")), None);
        remember(&repository.config, &workspace);
        let second = get().unwrap();
        assert_eq!(second.branch.as_deref(), Some("second"));

        // Nor is it another one because its repository has moved.
        fs::rename(repository.path("repo"), repository.path("moved")).unwrap();
        repository.git("moved", &["worktree", "repair", "../w"]);
        assert_eq!(second.differs(&admin(), Some("second")), None);
        fs::rename(repository.path("moved"), repository.path("repo")).unwrap();
        repository.git("repo", &["worktree", "repair", "../w"]);

        // One of the same name that was added later is not.
        repository.git("repo", &["worktree", "remove", "../w"]);
        repository.git("repo", &["worktree", "add", "-q", "-b", "third", "../w"]);
        let why = second.differs(&admin(), Some("third")).unwrap();
        assert!(why.contains("added") && why.contains("third"), "{why}");
        remember(&repository.config, &workspace);
        assert_eq!(get(), Some(second));
        assert_eq!(repository.config.known.get(&workspace.id, "/elsewhere"), None);
        repository.config.known.forget(&workspace.id);
        assert_eq!(get(), None);
    }
}
