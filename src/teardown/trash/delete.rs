//! Owns deleting a folder of the trash with all that is in it.
//!
//! Must not know what it is. Invariant: every folder is entered through the one above it, never
//! through a link or across a mount, whatever is swapped meanwhile.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Stat, fchmod, fstat, openat,
        renameat_with, statat, unlinkat,
    },
    io::Errno,
};

/// How deep folders are entered before what lies deeper is moved up: each takes an open file.
const DEPTH_MAX: usize = 128;
/// What the names of folders begin with that were moved up.
const DEEP: &[u8] = b"deep-";
/// How many things that can't be deleted are named.
const NAMED_MAX: usize = 3;

/// What is being deleted.
struct Deletion {
    /// The folder that holds it, to which too deep folders are moved.
    top: OwnedFd,
    /// What is known of it: all that is deleted is on its file system.
    found: Stat,
    /// The folders that were moved up and wait for their turn.
    waiting: Vec<CString>,
    /// What could not be deleted, and why; only the first few.
    stuck: Vec<String>,
}

/// Deletes a file or folder, with what is in it; what is not there is deleted.
///
/// # Errors
///
/// What can't be deleted, for a person; everything else is gone.
pub fn delete(path: &Path) -> Result<(), String> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let said = |error: Errno| format!("{}: {}", path.display(), io::Error::from(error));
    let top = match openat(CWD, parent, folder_flags(), Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(said(error)),
    };
    let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
    let name = CString::new(name).map_err(|_| said(Errno::INVAL))?;
    let found = fstat(&top).map_err(said)?;
    let mut deletion = Deletion { top, found, waiting: vec![name], stuck: Vec::new() };
    while let Some(name) = deletion.waiting.pop() {
        let top =
            deletion.top.try_clone().map_err(|error| format!("{}: {error}", path.display()))?;
        let shown = parent.join(OsStr::from_bytes(name.as_bytes()));
        deletion.remove(top.as_fd(), &name, &shown, 0);
    }
    if deletion.stuck.is_empty() {
        let synced = rustix::fs::fsync(&deletion.top);
        return synced.map_err(said);
    }
    Err(deletion.stuck.join("; "))
}

/// Deletes what an earlier deletion that was cut off had moved up into a folder.
///
/// # Errors
///
/// As for [`delete`].
pub fn delete_deep(folder: &Path) -> Result<(), String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let names = entries.flatten().filter(|entry| entry.file_name().as_bytes().starts_with(DEEP));
    names.map(|entry| entry.path()).try_for_each(|path| delete(&path))
}

impl Deletion {
    /// Removes one name from a folder; `shown` is where it is, for a person.
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CString, shown: &Path, depth: usize) {
        match unlink(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return,
            // A folder; which error says so differs between systems.
            Err(Errno::ISDIR | Errno::PERM) if is_folder(parent, name) => {}
            Err(error) => return self.stick(shown, error),
        }
        if depth == DEPTH_MAX {
            return self.move_up(parent, name, shown);
        }
        match self.enter(parent, name) {
            Ok(folder) => self.empty(&folder, shown, depth),
            Err(error) => return self.stick(shown, error),
        }
        match unlink(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Something in it is named already, or waits.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => self.stick(shown, error),
        }
    }

    /// Removes everything in a folder.
    fn empty(&mut self, folder: &OwnedFd, shown: &Path, depth: usize) {
        let listed = Dir::read_from(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = match listed {
            Ok(entries) => entries,
            Err(error) => return self.stick(shown, error),
        };
        for entry in entries {
            let name = entry.file_name();
            if name.to_bytes() != b"." && name.to_bytes() != b".." {
                let at = shown.join(OsStr::from_bytes(name.to_bytes()));
                self.remove(folder.as_fd(), &name.to_owned(), &at, depth + 1);
            }
        }
    }

    /// Opens a folder, if need be after making it readable and writable, and stays on this mount.
    fn enter(&self, parent: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd, Errno> {
        let folder = match open_here(parent, name) {
            Err(Errno::ACCESS) => {
                unlock(parent, name)?;
                open_here(parent, name)?
            }
            other => other?,
        };
        let found = fstat(&folder)?;
        if found.st_dev != self.found.st_dev {
            return Err(Errno::XDEV);
        }
        if !Mode::from_raw_mode(found.st_mode).contains(Mode::RWXU) {
            // Not ours to change, perhaps; then what is in it says so.
            let _ = fchmod(&folder, Mode::RWXU);
        }
        Ok(folder)
    }

    /// Moves a folder that lies too deep beside the one that is deleted.
    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &CString, shown: &Path) {
        // Another deletion may move its own up to the same folder.
        static MOVED: AtomicUsize = AtomicUsize::new(0);
        let number = MOVED.fetch_add(1, Ordering::Relaxed);
        let number = format!("{}-{number}", std::process::id());
        let new = CString::new([DEEP, number.as_bytes()].concat());
        let new = new.expect("digits hold no NUL");
        match renameat_with(parent, name, &self.top, &new, RenameFlags::NOREPLACE) {
            Ok(()) => self.waiting.push(new),
            Err(error) => self.stick(shown, error),
        }
    }

    fn stick(&mut self, shown: &Path, error: Errno) {
        if self.stuck.len() < NAMED_MAX {
            let why = match error {
                Errno::XDEV | Errno::BUSY => "something is mounted there".to_owned(),
                error => io::Error::from(error).to_string(),
            };
            self.stuck.push(format!("{}: {why}", shown.display()));
        }
    }
}

/// Removes one name, if need be after making the folder that it is in writable.
fn unlink(parent: BorrowedFd<'_>, name: &CString, flags: AtFlags) -> Result<(), Errno> {
    match unlinkat(parent, name, flags) {
        Err(Errno::ACCESS) => {
            fchmod(parent, Mode::RWXU)?;
            unlinkat(parent, name, flags)
        }
        other => other,
    }
}

fn is_folder(parent: BorrowedFd<'_>, name: &CString) -> bool {
    let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// Opens a folder of another one, but neither a link nor what is mounted there.
fn open_here(parent: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd, Errno> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{ResolveFlags, openat2};
        let stay = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        match openat2(parent, name, folder_flags(), Mode::empty(), stay) {
            // An old kernel, or a sandbox that does not know it.
            Err(Errno::NOSYS | Errno::PERM) => {}
            other => return other,
        }
    }
    openat(parent, name, folder_flags(), Mode::empty())
}

/// Makes a folder that can't be opened readable and writable for its owner.
fn unlock(parent: BorrowedFd<'_>, name: &CString) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd as _;
        // The path of the open file leads to the folder itself, not to what took its name.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(parent, name, flags, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        rustix::fs::chmod(&path, Mode::RWXU)
    }
    #[cfg(not(target_os = "linux"))]
    {
        rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    #[test]
    fn a_folder_goes_with_read_only_ones_and_links_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("gone/a/read-only")).unwrap();
        fs::create_dir_all(path("stays/in")).unwrap();
        fs::write(path("stays/in/file"), "x").unwrap();
        fs::write(path("gone/a/read-only/file"), "x").unwrap();
        symlink(path("stays"), path("gone/link")).unwrap();
        symlink(path("stays/in/file"), path("gone/a/read-only/link")).unwrap();
        for (name, mode) in [("gone/a/read-only", 0o500), ("gone/a", 0o000)] {
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        delete(&path("gone")).unwrap();
        assert!(!path("gone").exists());
        assert_eq!(fs::read(path("stays/in/file")).unwrap(), b"x");
        symlink(path("stays"), path("link")).unwrap();
        delete(&path("link")).unwrap();
        assert!(path("stays/in/file").exists());
        delete(&path("gone")).unwrap();
        delete(&path("no/such/place")).unwrap();
    }

    /// Only the superuser may mount; elsewhere the look at the device is all that there is.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_mounted_in_a_folder_is_not_entered() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("gone/a/mounted")).unwrap();
        fs::create_dir_all(path("stays")).unwrap();
        fs::write(path("stays/file"), "x").unwrap();
        fs::write(path("gone/a/other"), "x").unwrap();
        let run = |program: &str, arguments: &[&Path]| {
            let mut command = std::process::Command::new(program);
            command.args(arguments).output().is_ok_and(|output| output.status.success())
        };
        // On the same device, so that only the mount tells it apart.
        if !run("mount", &[Path::new("--bind"), &path("stays"), &path("gone/a/mounted")]) {
            return;
        }
        let stuck = delete(&path("gone"));
        let unmounted = run("umount", &[&path("gone/a/mounted")]);
        let stuck = stuck.unwrap_err();
        assert!(stuck.contains("a/mounted: something is mounted there"), "{stuck}");
        assert!(path("stays/file").exists() && !path("gone/a/other").exists() && unmounted);
        delete(&path("gone")).unwrap();
        assert!(!path("gone").exists() && path("stays/file").exists());
    }

    #[test]
    fn folders_may_be_deeper_than_files_may_be_open() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("gone");
        fs::create_dir(&top).unwrap();
        let mut at = openat(CWD, &top, folder_flags(), Mode::empty()).unwrap();
        for _ in 0..3 * DEPTH_MAX {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", folder_flags(), Mode::empty()).unwrap();
        }
        delete(&top).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
