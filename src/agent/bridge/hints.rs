//! Owns noticing that something happens in the folders in which a server makes worktrees.
//!
//! Must not read them. A server tells nobody when a workspace comes or goes, and asking for them all
//! the time costs it a tenth of a core. Invariant: a hint is no fact: it only makes the bridge ask
//! sooner, and where there are none it asks all the same, later.

use std::{collections::BTreeSet, path::PathBuf};

#[cfg(target_os = "linux")]
pub use self::linux::Hints;
#[cfg(not(target_os = "linux"))]
pub use self::without::Hints;

/// Most folders that are watched of a server: one a project, and the one that holds them.
const FOLDERS_MAX: usize = 256;

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io::{PipeReader, PipeWriter, pipe},
        os::fd::OwnedFd,
        sync::Arc,
        thread,
    };

    use rustix::{
        event::{PollFd, PollFlags, poll},
        fs::inotify::{self, CreateFlags, WatchFlags},
    };
    use tokio::sync::Notify;

    use super::{BTreeSet, FOLDERS_MAX, PathBuf};

    /// How many bytes of events are taken at a time; more only make the next look come at once.
    const BYTES: usize = 4_096;

    /// The folders that are watched.
    #[derive(Debug)]
    pub struct Hints {
        /// `None` where the system gives no watches.
        watch: Option<Arc<OwnedFd>>,
        folders: BTreeSet<PathBuf>,
        noticed: Arc<Notify>,
        /// The thread ends when it is closed.
        _end: Option<PipeWriter>,
    }

    impl Hints {
        /// Watches nothing yet.
        pub fn new() -> Self {
            let (folders, noticed) = (BTreeSet::new(), Arc::new(Notify::new()));
            let (watch, end) = match start(noticed.clone()) {
                Some((watch, end)) => (Some(watch), Some(end)),
                None => (None, None),
            };
            Self { watch, folders, noticed, _end: end }
        }

        /// Watches these folders, too; one that is not there is tried again when it is named again.
        pub fn watch(&mut self, folders: BTreeSet<PathBuf>) {
            let Some(watch) = &self.watch else { return };
            for folder in folders {
                if self.folders.len() >= FOLDERS_MAX || self.folders.contains(&folder) {
                    continue;
                }
                let what = WatchFlags::CREATE
                    | WatchFlags::DELETE
                    | WatchFlags::MOVED_FROM
                    | WatchFlags::MOVED_TO
                    | WatchFlags::ONLYDIR;
                if inotify::add_watch(watch, &folder, what).is_ok() {
                    self.folders.insert(folder);
                }
            }
        }

        /// Waits until something is made or removed in one of them. Dropping the future loses nothing.
        pub async fn next(&mut self) {
            self.noticed.notified().await;
            // One that was removed is no longer watched; naming it again watches it again.
            self.folders.retain(|folder| folder.is_dir());
        }
    }

    /// Starts a thread that tells of what is noticed.
    fn start(noticed: Arc<Notify>) -> Option<(Arc<OwnedFd>, PipeWriter)> {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
        let watch = Arc::new(watch);
        let (ended, end) = pipe().ok()?;
        let follow = {
            let watch = watch.clone();
            move || follow(&watch, &ended, &noticed)
        };
        thread::Builder::new().name("agent-hints".to_owned()).spawn(follow).ok()?;
        Some((watch, end))
    }

    fn follow(watch: &OwnedFd, ended: &PipeReader, noticed: &Notify) {
        let mut buffer = [0; BYTES];
        loop {
            let mut both = [PollFd::new(watch, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
            match poll(&mut both, None) {
                Ok(_) if !both[1].revents().is_empty() => return,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            }
            while rustix::io::read(watch, &mut buffer).is_ok_and(|read| read > 0) {}
            noticed.notify_one();
        }
    }

    impl Default for Hints {
        fn default() -> Self {
            Self::new()
        }
    }

    #[cfg(test)]
    mod tests {
        use std::fs;

        use super::*;

        #[tokio::test]
        async fn what_is_made_or_removed_in_a_folder_that_is_watched_is_noticed() {
            let folder = tempfile::tempdir().unwrap();
            let mut hints = Hints::new();
            hints.watch([folder.path().to_owned(), "/no/such/folder".into()].into());
            let inside = folder.path().join("tree");
            fs::create_dir(&inside).unwrap();
            hints.next().await;
            fs::remove_dir(&inside).unwrap();
            hints.next().await;
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod without {
    use super::{BTreeSet, PathBuf};

    /// Gives no hints: elsewhere the bridge asks in its own time.
    #[derive(Debug, Default)]
    pub struct Hints;

    impl Hints {
        /// Watches nothing.
        pub fn new() -> Self {
            Self
        }

        /// Watches nothing.
        pub fn watch(&mut self, folders: BTreeSet<PathBuf>) {
            debug_assert!(folders.len() <= super::FOLDERS_MAX);
        }

        /// Waits for ever.
        pub async fn next(&mut self) {
            std::future::pending().await
        }
    }
}
