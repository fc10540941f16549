//! Owns the input that a hook is given, and with it knowing whether one from before still runs.
//!
//! Must not know what a hook does. A daemon that is killed leaves its hook running, and the next
//! start would run a second one beside it. The input is a file that is locked, and the lock lasts as
//! long as anyone holds the open file: the hook, or what it has started, as its standard input.
//! Invariant: of one workspace one hook runs at a time, whatever became of the daemon.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Config, problem::Problem};
use crate::replica::ids::WorkspaceId;

/// The folder in the data folder.
const FOLDER: &str = "hooks.running";
/// How often it is seen whether the one before has ended.
const POLL: Duration = Duration::from_millis(50);

/// A hook's input, locked; removed with it.
#[derive(Debug)]
pub struct Input {
    /// What the hook reads.
    pub file: File,
    path: PathBuf,
}

impl Input {
    /// Waits until no hook of a workspace runs any more, and makes the input of the next one.
    ///
    /// # Errors
    ///
    /// One still runs after `time_max`, the daemon stops meanwhile, or the file can't be made.
    pub fn claim(
        config: &Config,
        id: &WorkspaceId,
        record: &[u8],
        time_max: Duration,
    ) -> Result<Self, Problem> {
        let folder = config.data_dir.join(FOLDER);
        fs::create_dir_all(&folder).map_err(Problem::io(&folder))?;
        let path = folder.join(id.as_str());
        let until = Instant::now() + time_max;
        let mut is_told = false;
        loop {
            let mut open = OpenOptions::new();
            let mut file = open
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(Problem::io(&path))?;
            match file.try_lock() {
                Ok(()) => {
                    config.left.forget(id);
                    let written = file.set_len(0).and_then(|()| file.write_all(record));
                    written.and_then(|()| file.rewind()).map_err(Problem::io(&path))?;
                    return Ok(Self { file, path });
                }
                Err(TryLockError::WouldBlock) if config.is_stopping() => {
                    return Err(Problem::Stopped);
                }
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(workspace = %id, "waiting for a hook that still runs");
                    }
                    thread::sleep(POLL);
                }
                Err(TryLockError::WouldBlock) => return Err(Problem::StillRuns { path }),
                Err(TryLockError::Error(source)) => return Err(Problem::Io { path, source }),
            }
        }
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // What stays is overwritten by the next run.
        let _ = fs::remove_file(&self.path);
    }
}

/// The workspaces that a hook was ending already when the daemon started.
#[derive(Debug, Default)]
pub struct Left(Mutex<BTreeSet<WorkspaceId>>);

impl Left {
    /// Finds the hooks that an earlier run has left running.
    pub fn find(data_dir: &Path) -> Self {
        let folder = data_dir.join(FOLDER);
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let left: BTreeSet<WorkspaceId> =
            ids.filter(|id: &WorkspaceId| is_locked(&folder.join(id.as_str()))).collect();
        for id in &left {
            tracing::warn!(workspace = %id, "a hook that was started before still runs");
        }
        Self(Mutex::new(left))
    }

    /// Tells which of them still run.
    pub fn look(&self, data_dir: &Path) -> Vec<WorkspaceId> {
        let mut left = self.lock();
        left.retain(|id| is_locked(&data_dir.join(FOLDER).join(id.as_str())));
        left.iter().cloned().collect()
    }

    /// Takes note that the hook of a workspace has ended.
    fn forget(&self, id: &WorkspaceId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<WorkspaceId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whether a hook holds its input.
fn is_locked(path: &Path) -> bool {
    // One that has waited for the lock meanwhile tries again: it is given back with the file.
    File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}
