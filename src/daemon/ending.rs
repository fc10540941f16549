//! Owns how many workspaces are ended at a time, and from when on.
//!
//! Must not know how one is ended. Invariant: threads that others need are never all taken by
//! programs that are slow to end a workspace, and slow programs keep no worktree waiting.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use crate::replica::record::KIND_WORKTREE;

/// How many worktrees and directories are ended at a time: each is a few runs of git.
const FOLDERS_MAX: usize = 4;
/// How many hooks run at a time: each may take an hour and is another program's work.
const HOOKS_MAX: usize = 8;

/// Lets teardowns begin; cheap to clone.
#[derive(Debug, Clone)]
pub struct Ending {
    folders: Arc<Semaphore>,
    hooks: Arc<Semaphore>,
    may_begin: watch::Receiver<bool>,
}

impl Ending {
    /// Lets teardowns begin from when `may_begin` is true.
    pub fn new(may_begin: watch::Receiver<bool>) -> Self {
        let (folders, hooks) = (Semaphore::new(FOLDERS_MAX), Semaphore::new(HOOKS_MAX));
        Self { folders: Arc::new(folders), hooks: Arc::new(hooks), may_begin }
    }

    /// Does something that blocks to end a workspace of a kind, once there is a place for it. What
    /// still waits when the daemon stops is not done.
    pub fn begin(&self, kind: &str, end: impl FnOnce() + Send + 'static) {
        let is_folder = [KIND_WORKTREE, "directory"].contains(&kind);
        let places = if is_folder { &self.folders } else { &self.hooks };
        let (places, mut may_begin) = (places.clone(), self.may_begin.clone());
        tokio::spawn(async move {
            if may_begin.wait_for(|may| *may).await.is_err() {
                return;
            }
            // The places are never closed.
            let Ok(_place) = places.acquire_owned().await else { return };
            if let Err(error) = tokio::task::spawn_blocking(end).await {
                tracing::error!(%error, "ending a workspace has panicked");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test]
    async fn hooks_that_take_long_are_few_at_a_time_and_hold_no_worktree_up() {
        let may_begin = watch::Sender::new(false);
        let ending = Ending::new(may_begin.subscribe());
        let running = Arc::new(AtomicUsize::new(0));
        let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
        let mut ends = Vec::new();
        for _ in 0..HOOKS_MAX * 2 {
            let (end, may_end) = mpsc::channel::<()>();
            let (begun, running) = (begun.clone(), running.clone());
            ends.push(end);
            ending.begin("container", move || {
                assert!(running.fetch_add(1, Ordering::SeqCst) < HOOKS_MAX);
                begun.send("container").unwrap();
                // It ends once its sender is dropped.
                assert!(may_end.recv().is_err());
                running.fetch_sub(1, Ordering::SeqCst);
            });
        }
        tokio::task::yield_now().await;
        assert!(has_begun.is_empty(), "nothing begins before it may");
        may_begin.send_replace(true);
        for _ in 0..HOOKS_MAX {
            assert_eq!(has_begun.recv().await, Some("container"));
        }
        let worktree = begun.clone();
        ending.begin(KIND_WORKTREE, move || worktree.send("worktree").unwrap());
        assert_eq!(has_begun.recv().await, Some("worktree"));
        drop(ends);
        for _ in 0..HOOKS_MAX {
            assert_eq!(has_begun.recv().await, Some("container"));
        }
    }
}
