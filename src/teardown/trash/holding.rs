//! Owns choosing where a folder is kept: on its own file system, where nobody else can reach it.
//!
//! Must not know what is kept. Invariant: a holding folder is ours, private, a real folder, and lies
//! in no work tree, no workspace and no folder that others may write to.

use std::{
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, fchmod, fstat, mkdirat, openat, unlinkat},
    io::Errno,
};

use super::{mounted, scan::is_repository};
use crate::{files, teardown::problem::Problem};

/// The holding folder on a file system that the data folder is not on.
const FOLDER: &str = ".sessionmesh-trash";
/// The bits of a mode that let others write.
const OTHERS_WRITE: u32 = 0o022;

/// Returns the folder that is to hold the entry of a canonical folder: `usual` if that is on the
/// same file system, else one in the nearest ancestor that will do.
///
/// # Errors
///
/// There is no such place: nothing is copied to another file system.
pub fn choose(usual: &Path, folder: &Path, avoid: &[PathBuf]) -> Result<PathBuf, Problem> {
    let parent = folder.parent().unwrap_or(folder);
    files::make_folder(usual).map_err(Problem::io(usual))?;
    if mounted::is_same(parent, usual) {
        return Ok(usual.to_owned());
    }
    let mut why = None;
    for ancestor in parent.ancestors() {
        if !mounted::is_same(parent, ancestor) {
            break;
        }
        match judge(ancestor, avoid).and_then(|()| make(ancestor)) {
            Ok(()) => return Ok(ancestor.join(FOLDER)),
            Err(not) => why = Some(format!("; {} {not}", ancestor.display())),
        }
    }
    Err(Problem::NoPlace { path: folder.into(), why: why.unwrap_or_default() })
}

/// Makes an entry's folder in a holding folder, or finds it there, and opens it.
///
/// # Errors
///
/// It can't be made, or is no folder.
pub fn open(root: &Path, entry: &str) -> io::Result<OwnedFd> {
    let root = openat(CWD, root, folder_flags(), Mode::empty())?;
    make_in(&root, entry)
}

/// Removes an entry's folder from a holding folder, and the holding folder with its last one.
///
/// # Errors
///
/// It is not empty.
pub fn close(root: &Path, entry: &str) -> io::Result<()> {
    let holding = match openat(CWD, root, folder_flags(), Mode::empty()) {
        Ok(holding) => holding,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match unlinkat(&holding, entry, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    if root.ends_with(FOLDER) {
        // Another entry may lie in it.
        let _ = std::fs::remove_dir(root);
    }
    Ok(())
}

/// Says why no holding folder may be made in a folder.
fn judge(folder: &Path, avoid: &[PathBuf]) -> Result<(), String> {
    let found = folder.symlink_metadata().map_err(|error| error.to_string())?;
    let own = rustix::process::geteuid().as_raw();
    if folder.ancestors().any(|path| path.join(".git").symlink_metadata().is_ok()) {
        return Err("is in a git work tree".to_owned());
    }
    if folder.ancestors().any(is_repository) {
        return Err("is in a git repository".to_owned());
    }
    if let Some(other) = avoid.iter().find(|other| folder.starts_with(other)) {
        return Err(format!("is in {}, which is a workspace's or an agent's", other.display()));
    }
    if found.mode() & OTHERS_WRITE != 0 {
        return Err("can be written by others".to_owned());
    }
    if found.uid() != own && found.uid() != 0 {
        return Err("belongs to somebody else".to_owned());
    }
    Ok(())
}

/// Makes the holding folder in a folder, or finds it there.
fn make(folder: &Path) -> Result<(), String> {
    let made = openat(CWD, folder, folder_flags(), Mode::empty()).map_err(io::Error::from);
    made.and_then(|parent| make_in(&parent, FOLDER)).map(drop).map_err(|error| error.to_string())
}

fn make_in(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => rustix::fs::fsync(parent)?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let made = openat(parent, name, folder_flags(), Mode::empty())?;
    let found = fstat(&made)?;
    if found.st_uid != rustix::process::geteuid().as_raw() {
        let why = format!("`{name}` in it belongs to somebody else");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if Mode::from_raw_mode(found.st_mode) != Mode::RWXU {
        fchmod(&made, Mode::RWXU)?;
    }
    Ok(made)
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn the_data_folder_is_taken_where_it_is_on_the_same_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let (usual, w) = (folder.path().join("data/trash"), folder.path().join("w"));
        fs::create_dir(&w).unwrap();
        assert_eq!(choose(&usual, &w, &[]).unwrap(), usual);
    }

    /// Needs a second file system; every Linux has one there.
    #[cfg(target_os = "linux")]
    #[test]
    fn elsewhere_the_nearest_ancestor_that_nobody_else_can_write_to_is_taken() {
        let data = tempfile::tempdir().unwrap();
        let usual = data.path().join("trash");
        let other = tempfile::tempdir_in("/dev/shm").unwrap();
        let top = other.path().canonicalize().unwrap();
        assert!(!mounted::is_same(data.path(), &top), "/dev/shm is a file system of its own");
        let w = top.join("agent/open/repo/w");
        fs::create_dir_all(&w).unwrap();
        fs::create_dir(top.join("agent/open/repo/.git")).unwrap();
        let anyone = fs::Permissions::from_mode(0o777);
        fs::set_permissions(top.join("agent/open"), anyone).unwrap();
        let chosen = choose(&usual, &w, &[top.join("agent")]).unwrap();
        assert_eq!(chosen, top.join(FOLDER));
        let mode = fs::metadata(&chosen).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        open(&chosen, "wrk_1.1").unwrap();
        open(&chosen, "wrk_2.1").unwrap();
        close(&chosen, "wrk_1.1").unwrap();
        close(&chosen, "wrk_1.1").unwrap();
        assert!(chosen.exists(), "another entry is in it");
        close(&chosen, "wrk_2.1").unwrap();
        assert!(!chosen.exists());

        // A link in its place is not followed, and a place that others can write to is not taken.
        fs::create_dir(top.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(top.join("elsewhere"), top.join(FOLDER)).unwrap();
        let refused = choose(&usual, &w, &[top.join("agent")]).unwrap_err().to_string();
        assert!(refused.contains("file system") && refused.contains(w.to_str().unwrap()));
        assert!(fs::read_dir(top.join("elsewhere")).unwrap().next().is_none());
    }
}
