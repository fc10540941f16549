//! Owns the data folder and the file in it: that they exist and that nobody else can read them.
//!
//! Must not know redb. Invariant: `state.redb` appears whole or not at all, for it is made under
//! another name; and nothing with looser permissions than promised is ever opened.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::error::OpenError;

/// The store's file in the data folder.
pub const FILE_NAME: &str = "state.redb";
/// What it is called until it has been set up; holds nothing that anyone was promised.
const NEW_FILE_NAME: &str = "state.redb.new";
/// What follows its name once it was damaged, before a number.
pub const ASIDE: &str = ".damaged-";
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// How long the lock of another process is waited for.
const LOCK_WITHIN: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Permission bits of group and others.
const OTHERS_MODE: u32 = 0o077;

/// Tells whether a process, a daemon as a rule, has the store of a data folder open.
pub fn is_open(data_dir: &Path) -> bool {
    // The lock goes with the file, at once.
    File::open(data_dir.join(FILE_NAME))
        .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The data folder, of which it is known that nobody else can look into it.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Creates the folder where there is none, and refuses one that is open to others.
    ///
    /// An empty one is closed to them instead: it has nothing in it yet that they could have read.
    pub(super) fn prepare(path: &Path) -> Result<Self, OpenError> {
        let refused = |source| OpenError::NotWritable { path: path.to_owned(), source };
        if !path.exists() {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path).map_err(refused)?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                sync_folder(parent).map_err(refused)?;
            }
        }
        let metadata = fs::metadata(path).map_err(refused)?;
        if !metadata.is_dir() {
            return Err(refused(io::ErrorKind::NotADirectory.into()));
        }
        if refuse_loose(path, &metadata, FOLDER_MODE).is_err() {
            if fs::read_dir(path).map_err(refused)?.next().is_none() {
                fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE)).map_err(refused)?;
            }
            // Looked at again: another daemon may have closed it, and put its store in, meanwhile.
            refuse_loose(path, &fs::metadata(path).map_err(refused)?, FOLDER_MODE)?;
        }
        Ok(Self(path.to_owned()))
    }

    /// Takes a folder that is there, and refuses one that is open to others.
    pub(super) fn existing(path: &Path) -> Result<Self, OpenError> {
        let refused = |source| OpenError::NotWritable { path: path.to_owned(), source };
        refuse_loose(path, &fs::metadata(path).map_err(refused)?, FOLDER_MODE)?;
        Ok(Self(path.to_owned()))
    }

    /// Returns where the store is.
    pub(super) fn file_path(&self) -> PathBuf {
        self.0.join(FILE_NAME)
    }

    /// Opens the store's file; `None` if there is none yet.
    pub(super) fn open_file(&self) -> Result<Option<File>, OpenError> {
        let path = self.file_path();
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => {
                forget_cached(&file);
                checked(file, &path).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(OpenError::NotWritable { path, source }),
        }
    }

    /// Locks and empties the file that is to become the store's; `None` if there is a store by now.
    ///
    /// What it empties was left by a first start that did not get to its end. Whoever holds the
    /// lock while there is no store has the only file that will be published: a second one could
    /// only have come to be after the first was renamed.
    pub(super) fn claim_new_file(&self) -> Result<Option<File>, OpenError> {
        let path = self.0.join(NEW_FILE_NAME);
        let refused = |source| OpenError::NotWritable { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = checked(options.open(&path).map_err(refused)?, &path)?;
        self.lock(&file, &path)?;
        if self.file_path().try_exists().map_err(refused)? {
            return Ok(None);
        }
        file.set_len(0).map_err(refused)?;
        Ok(Some(file))
    }

    /// Locks a file of this folder, as whoever has the store open does.
    ///
    /// It waits a moment for the lock: a daemon that was killed while it started a program leaves the
    /// lock to that program's process until the program is loaded.
    pub(super) fn lock(&self, file: &File, path: &Path) -> Result<(), OpenError> {
        let until = Instant::now() + LOCK_WITHIN;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(LOCK_POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(OpenError::InUse { path: self.file_path() });
                }
                Err(TryLockError::Error(source)) => {
                    return Err(OpenError::NotWritable { path: path.to_owned(), source });
                }
            }
        }
    }

    /// Locks and empties the file that is to take the place of a damaged store.
    pub(super) fn replacement_file(&self) -> Result<File, OpenError> {
        let path = self.0.join(NEW_FILE_NAME);
        let refused = |source| OpenError::NotWritable { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let file = checked(options.open(&path).map_err(refused)?, &path)?;
        self.lock(&file, &path)?;
        file.set_len(0).map_err(refused)?;
        Ok(file)
    }

    /// Gives the replacement the store's name, durably; keeps the store that was there, if one was,
    /// under another name, which it returns.
    pub(super) fn replace_file(&self, keep: bool) -> Result<Option<PathBuf>, OpenError> {
        let path = self.file_path();
        let refused = |source| OpenError::NotWritable { path: path.clone(), source };
        let mut aside = None;
        if keep {
            let mut free = (1_u32..).map(|n| self.0.join(format!("{FILE_NAME}{ASIDE}{n}")));
            let kept = free.find(|name| !name.exists()).expect("a folder has a free name");
            // A second name first, so that at no moment there is no store. Some filesystems have
            // no links.
            fs::hard_link(&path, &kept).or_else(|_| copy(&path, &kept)).map_err(refused)?;
            aside = Some(kept);
        }
        fs::rename(self.0.join(NEW_FILE_NAME), &path).map_err(refused)?;
        sync_folder(&self.0).map_err(refused)?;
        Ok(aside)
    }

    /// Gives the claimed file, which is still locked, the store's name, durably.
    pub(super) fn publish_new_file(&self) -> Result<(), OpenError> {
        let refused = |source| OpenError::NotWritable { path: self.file_path(), source };
        fs::rename(self.0.join(NEW_FILE_NAME), self.file_path()).map_err(refused)?;
        sync_folder(&self.0).map_err(refused)
    }
}

/// Has the pages of a file read from the disk again.
///
/// After a sync has failed, the system may keep what it could not write as if it had (seen by
/// PostgreSQL, "fsyncgate", 2018): a store that is opened on that passes every check, is built on,
/// and is damaged once the memory is gone.
fn forget_cached(file: &File) {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    if let Err(error) = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed) {
        tracing::debug!(%error, "the store's file is read as it is cached");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let _ = file;
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}

fn checked(file: File, path: &Path) -> Result<File, OpenError> {
    let metadata = file
        .metadata()
        .map_err(|source| OpenError::NotWritable { path: path.to_owned(), source })?;
    refuse_loose(path, &metadata, FILE_MODE)?;
    Ok(file)
}

fn refuse_loose(path: &Path, metadata: &fs::Metadata, remedy: u32) -> Result<(), OpenError> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS_MODE == 0 {
        return Ok(());
    }
    Err(OpenError::Loose { path: path.to_owned(), mode, remedy })
}

/// Makes the names in a folder durable: syncing a file does not cover its name.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
