//! Owns writing small files so that they are whole after a crash or a power cut.
//!
//! Must not know what is in them. Invariants: a reader sees the old file or the new one, never a
//! part; once a call has returned, the file and the name that leads to it are on the disk.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// The mode of files that only the daemon's user may read.
const PRIVATE_FILE: u32 = 0o600;
/// The mode of folders that only the daemon's user may enter.
const PRIVATE_FOLDER: u32 = 0o700;
/// What is added to a file's name while it is written.
const UNFINISHED: &str = "new";

/// Replaces a file by one with these bytes, readable for its owner alone.
///
/// Two threads that write the same file at once must take turns by themselves: they would share the
/// unfinished copy beside it.
///
/// # Errors
///
/// The disk is full, or the folder can't be written; the old file is still there then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".");
    name.push(UNFINISHED);
    let beside = path.with_file_name(name);
    let mut open = OpenOptions::new();
    let mut file = open.write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_parent(path)
}

/// Adds bytes at the end of a file, which is made if it is not there.
///
/// # Errors
///
/// As for [`replace`]; a part of the bytes may be in the file then.
pub fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let is_new = !path.try_exists()?;
    let mut file = OpenOptions::new().append(true).create(true).mode(PRIVATE_FILE).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    if is_new { sync_parent(path) } else { Ok(()) }
}

/// Makes a folder that only its owner may enter, and the folders above it.
///
/// # Errors
///
/// One of them can't be made.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    match DirBuilder::new().mode(PRIVATE_FOLDER).create(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the names in a folder durable: what was made, renamed or removed there.
///
/// # Errors
///
/// The folder can't be opened or written.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the name of a file or folder durable, or its absence.
///
/// # Errors
///
/// As for [`sync_folder`].
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent != Path::new("") => sync_folder(parent),
        Some(_) => sync_folder(Path::new(".")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file.json");
        assert!(replace(&path, b"x").is_err(), "its folder is not there");
        make_folder(path.parent().unwrap()).unwrap();
        make_folder(path.parent().unwrap()).unwrap();
        replace(&path, b"a longer text").unwrap();
        replace(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_added_stands_behind_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        append(&path, b"one\n").unwrap();
        append(&path, b"two\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        assert!(append(&folder.path().join("no/file"), b"").is_err());
    }
}
