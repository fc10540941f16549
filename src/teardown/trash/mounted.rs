//! Owns telling whether a folder can be renamed from one place to another.
//!
//! Must not decide anything. Invariant: what can't be told is not called the same file system.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::teardown::mounts;

/// Where Linux lists the mounts that this process sees.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Tells whether something can be renamed from one existing folder into another: both on the same
/// file system, and in the same mount of it.
pub fn is_same(a: &Path, b: &Path) -> bool {
    let device = |path: &Path| path.metadata().ok().map(|found| found.dev());
    match (device(a), device(b)) {
        (Some(of_a), Some(of_b)) if of_a == of_b => {}
        _ => return false,
    }
    let Ok(listed) = fs::read(MOUNTS) else { return true };
    let points = points(&listed);
    let of = |path: &Path| {
        let path = path.canonicalize().ok()?;
        points
            .iter()
            .filter(|point| path.starts_with(point))
            .max_by_key(|point| point.as_os_str().len())
            .cloned()
    };
    of(a) == of(b)
}

/// Reads where something is mounted; lines that make no sense are left out.
fn points(listed: &[u8]) -> Vec<PathBuf> {
    mounts::read(listed).into_iter().map(|mount| mount.point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_on_the_same_mount_as_what_is_in_it_and_on_no_other() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        assert!(is_same(folder.path(), &folder.path().join("in")));
        assert!(!is_same(folder.path(), &folder.path().join("absent")));
        if Path::new(MOUNTS).exists() {
            assert!(!is_same(folder.path(), Path::new("/proc")));
        }
    }

    #[test]
    fn the_places_of_mounts_are_read_with_their_escapes() {
        let listed = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            30 22 8:2 /srv /w/a\\040b rw shared:1 - ext4 /dev/sdb rw\nnonsense\n";
        assert_eq!(points(listed), [Path::new("/"), Path::new("/w/a b")]);
    }
}
