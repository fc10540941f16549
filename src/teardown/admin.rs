//! Owns the links between a linked worktree and its repository, as git keeps them in files.
//!
//! Must not run git nor decide anything. Invariant: what is returned was read from both ends, and
//! the two name each other.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
};

/// Longest file that holds a path, in bytes.
const LINK_BYTES_MAX: u64 = 64 << 10;

/// The administrative folder of a linked worktree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Admin {
    /// Where it is; canonical.
    pub path: PathBuf,
    /// The folder that its repository's worktrees share; canonical.
    pub repository: PathBuf,
}

/// Returns where the `.git` file of a worktree or submodule leads; `None` if there is no such file.
pub fn link_of(folder: &Path) -> Option<PathBuf> {
    let link = read_path(&folder.join(".git"), b"gitdir: ")?;
    Some(folder.join(link))
}

/// Returns the administrative folder of a linked worktree, if each names the other.
pub fn of_worktree(folder: &Path) -> Option<Admin> {
    let admin = read(&link_of(folder)?)?;
    let named = worktree_of(&admin.path)?;
    (named.canonicalize().ok()? == folder.canonicalize().ok()?).then_some(admin)
}

/// Reads an administrative folder of a linked worktree, whether or not its worktree is there.
pub fn read(path: &Path) -> Option<Admin> {
    let path = path.canonicalize().ok()?;
    let shared = read_path(&path.join("commondir"), b"")?;
    let repository = path.join(shared).canonicalize().ok()?;
    (path.parent()? == repository.join("worktrees")).then_some(Admin { path, repository })
}

/// Returns where the worktree of an administrative folder is, or was.
pub fn worktree_of(admin: &Path) -> Option<PathBuf> {
    let link = read_path(&admin.join("gitdir"), b"")?;
    admin.join(link).parent().map(lexical)
}

/// Returns the branch that an administrative folder says to be checked out.
pub fn branch(admin: &Path) -> Option<String> {
    let name = read_path(&admin.join("HEAD"), b"ref: ")?;
    let branch = name.to_str()?.strip_prefix("refs/heads/")?;
    // What stands there where the refs are kept in tables.
    (branch != ".invalid").then(|| branch.to_owned())
}

/// Returns the administrative folders of a repository's linked worktrees.
///
/// # Errors
///
/// The repository can't be read.
pub fn all(repository: &Path) -> io::Result<Vec<Admin>> {
    let names = match fs::read_dir(repository.join("worktrees")) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Without this one, a repository that is gone would have no worktrees.
            fs::metadata(repository.join("objects"))?;
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for name in names {
        found.extend(read(&name?.path()));
    }
    found.sort();
    Ok(found)
}

/// Reads a file that holds a path after a label; `None` if it is no such file.
pub fn read_path(file: &Path, label: &[u8]) -> Option<PathBuf> {
    let found = file.symlink_metadata().ok()?;
    if !found.is_file() || found.len() > LINK_BYTES_MAX {
        return None;
    }
    let text = fs::read(file).ok()?;
    let path = text.strip_prefix(label)?;
    let end = path.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r'))?;
    Some(OsStr::from_bytes(&path[..=end]).into())
}

/// Returns a path without `.` and `..`, by its text alone: what it leads to need not be there.
pub fn lexical(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

/// Returns how to get from a folder to a path, both absolute, by their text alone.
pub fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to) = (lexical(from), lexical(to));
    let same = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(same).map(|_| Component::ParentDir);
    up.chain(to.components().skip(same)).collect()
}

/// Returns the device and inode of a file or folder itself.
pub fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teardown::testing::Repository;

    #[test]
    fn a_linked_worktree_is_known_from_both_ends_alone() {
        let repository = Repository::new();
        let admin = of_worktree(&repository.path("w")).unwrap();
        assert_eq!(admin.repository, repository.path("repo/.git"));
        assert_eq!(admin.path, repository.path("repo/.git/worktrees/w"));
        assert_eq!(worktree_of(&admin.path), Some(repository.path("w")));
        assert_eq!(all(&admin.repository).unwrap(), [admin]);
        assert_eq!(of_worktree(&repository.path("repo")), None);
        // A copy says to be a worktree, but its repository does not know it.
        fs::create_dir(repository.path("copy")).unwrap();
        fs::copy(repository.path("w/.git"), repository.path("copy/.git")).unwrap();
        assert_eq!(of_worktree(&repository.path("copy")), None);
        assert!(all(&repository.path("nowhere")).is_err());
    }

    #[test]
    fn the_way_between_two_places_is_found_by_their_names() {
        for (from, to, way) in [
            ("/a/b", "/a/c/d", "../c/d"),
            ("/a", "/a/b", "b"),
            ("/a/b/../c", "/x", "../../x"),
            ("/a", "/a", ""),
        ] {
            assert_eq!(relative(Path::new(from), Path::new(to)), Path::new(way), "{from} {to}");
        }
    }
}
