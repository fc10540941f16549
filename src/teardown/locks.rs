//! Owns letting one teardown at a time work on a repository.
//!
//! Must not know what is done there. Invariant: a task that holds several repositories got all of them
//! at once, so that no two wait for each other.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, PoisonError},
};

use super::admin;

/// A repository by its device and inode: it may have several paths.
type Key = (u64, u64);

/// The repositories that somebody works on.
#[derive(Debug, Default)]
pub struct Locks {
    held: Mutex<BTreeSet<Key>>,
    freed: Condvar,
}

/// Some repositories that nobody else works on, until it is dropped.
#[derive(Debug)]
pub struct Held<'a> {
    locks: &'a Locks,
    keys: BTreeSet<Key>,
}

impl Locks {
    /// Waits until nobody works on any of these repositories, and keeps it so.
    pub fn lock<'p>(&self, repositories: impl Iterator<Item = &'p Path>) -> Held<'_> {
        let keys: BTreeSet<Key> = repositories.filter_map(key).collect();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while !held.is_disjoint(&keys) {
            held = self.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.extend(&keys);
        Held { locks: self, keys }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|key| !self.keys.contains(key));
        drop(held);
        self.locks.freed.notify_all();
    }
}

/// What can't be read is nobody's: the teardown fails by itself.
fn key(path: &Path) -> Option<Key> {
    admin::identity(&path.canonicalize().unwrap_or_else(|_| PathBuf::from(path))).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_repository_is_one_tasks_alone_by_whatever_path_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b, link) =
            (folder.path().join("a"), folder.path().join("b"), folder.path().join("link"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        std::os::unix::fs::symlink(&a, &link).unwrap();
        let locks = Locks::default();
        let is_free = AtomicBool::new(false);
        let held = locks.lock([a.as_path()].into_iter());
        drop(locks.lock([b.as_path()].into_iter()));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let _held = locks.lock([b.as_path(), link.as_path()].into_iter());
                is_free.load(Ordering::SeqCst)
            });
            is_free.store(true, Ordering::SeqCst);
            drop(held);
            assert!(waiting.join().unwrap(), "it waited until the other was done");
        });
    }
}
