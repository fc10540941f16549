//! Owns reading what is mounted where.
//!
//! Must not decide anything. Invariant: a mount at or below a folder is found, whoever made it, or
//! the question fails.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::OsStringExt as _,
        fs::{DirEntryExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use super::problem::Problem;

/// Where Linux lists the mounts that this process sees.
const OWN: &str = "/proc/self/mountinfo";

/// One mount, as Linux lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The file system: its device numbers, as text.
    pub device: String,
    /// Which folder of the file system is mounted.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
}

/// Returns what is mounted at a canonical path or below it, outermost first.
///
/// Renaming or deleting such a folder would reach data that is not part of it.
///
/// # Errors
///
/// The mounts can't be read.
pub fn mounts_below(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    let listed = match fs::read(OWN) {
        Ok(text) => read(&text).into_iter().map(|mount| mount.point).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => other_devices(path)?,
        Err(source) => return Err(Problem::io(Path::new(OWN))(source)),
    };
    let mut found: Vec<PathBuf> =
        listed.into_iter().filter(|point: &PathBuf| point.starts_with(path)).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Refuses a canonical path at or below which something is mounted.
///
/// # Errors
///
/// Something is, or the mounts can't be read.
pub fn refuse_mounts(path: &Path) -> Result<(), Problem> {
    match mounts_below(path)?.first() {
        None => Ok(()),
        Some(point) => Err(Problem::Mounted { path: path.into(), point: point.clone() }),
    }
}

/// Returns the mounts that this process sees; none where there is no such list.
pub fn own() -> Vec<Mount> {
    fs::read(OWN).map(|text| read(&text)).unwrap_or_default()
}

/// Returns the file system that a canonical path lies on, and where on it.
pub fn place_on_device(mounts: &[Mount], path: &Path) -> Option<(String, PathBuf)> {
    // Of mounts at one place the last one listed covers the others.
    let around = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    let mount = around.max_by_key(|mount| mount.point.components().count())?;
    let rest = path.strip_prefix(&mount.point).ok()?;
    Some((mount.device.clone(), mount.root.join(rest)))
}

/// Reads a list of mounts; lines that make no sense are left out.
pub fn read(text: &[u8]) -> Vec<Mount> {
    let line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
        let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
        Some(Mount { device, root, point })
    };
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Undoes `\040` and the like.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, others @ ..] = rest {
        match others {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                path.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = after;
            }
            _ => {
                path.push(*first);
                rest = others;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

/// Finds the folders below a path that lie on another device than their parent; for systems that
/// have no list of mounts.
fn other_devices(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    let own = path.symlink_metadata().map_err(Problem::io(path))?.dev();
    let mut found = Vec::new();
    let outside = path.parent().and_then(|parent| parent.metadata().ok());
    if outside.is_some_and(|outside| outside.dev() != own) {
        found.push(path.to_owned());
    }
    let mut waiting = vec![path.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).map_err(Problem::io(&folder))? {
            let entry = entry.map_err(Problem::io(&folder))?;
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            let inner = path.symlink_metadata().map_err(Problem::io(&path))?;
            if inner.dev() == own && inner.ino() == entry.ino() {
                waiting.push(path);
            } else {
                found.push(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &[u8] = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        30 22 8:2 /srv/x /w/a\\040b rw,relatime shared:1 - ext4 /dev/sdb rw\nnonsense\n\
        31 22 0:25 / /w/a\\040b/in rw - tmpfs tmpfs rw\n";

    #[test]
    fn the_list_of_mounts_is_read_with_its_escapes() {
        let read = read(LISTED);
        assert_eq!(read.len(), 3);
        assert_eq!(read[1].point, Path::new("/w/a b"));
        assert_eq!((read[1].device.as_str(), read[1].root.as_path()), ("8:2", Path::new("/srv/x")));
    }

    #[test]
    fn a_path_is_placed_by_the_innermost_mount_around_it() {
        let mounts = read(LISTED);
        let place = |path| place_on_device(&mounts, Path::new(path)).unwrap();
        assert_eq!(place("/w/a b/c"), ("8:2".to_owned(), "/srv/x/c".into()));
        assert_eq!(place("/w/a b/in/d"), ("0:25".to_owned(), "/d".into()));
        assert_eq!(place("/w/abc"), ("8:1".to_owned(), "/w/abc".into()));
    }

    #[test]
    fn a_folder_without_mounts_has_none_and_the_root_has_some() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("a/b")).unwrap();
        assert_eq!(mounts_below(&path).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(other_devices(&path).unwrap(), Vec::<PathBuf>::new());
        if Path::new(OWN).exists() {
            let problem = refuse_mounts(Path::new("/")).unwrap_err().to_string();
            assert!(problem.contains("mounted"), "{problem}");
        }
    }
}
