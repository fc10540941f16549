//! Owns walking a folder that is to be moved: its size, and the repositories and worktrees in it.
//!
//! Must not decide anything, nor follow a link. Invariant: each folder is looked into once; one that
//! may not be read is passed over, as it moves untouched.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::teardown::admin::{self, Admin};

/// What is in a folder.
#[derive(Debug, Default)]
pub struct Scan {
    /// The disk space that it takes, in bytes.
    pub bytes: u64,
    /// The linked worktrees below it whose repositories lie outside, relative to it.
    pub worktrees: Vec<(PathBuf, Admin)>,
    /// The linked worktrees outside whose repositories lie in it.
    pub dependents: Vec<PathBuf>,
}

/// Walks a canonical folder. A link to `own`, its administrative folder, counts as lying inside.
pub fn scan(folder: &Path, own: Option<&Path>) -> Scan {
    let mut scan = Scan::default();
    let inside =
        |path: &Path| path.starts_with(folder) || own.is_some_and(|own| path.starts_with(own));
    // The repositories of its submodules lie in its administrative folder.
    let modules = own.map(|own| own.join("modules"));
    let mut waiting: Vec<PathBuf> = modules.into_iter().chain([folder.to_owned()]).collect();
    while let Some(path) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&path) else { continue };
        for entry in entries.flatten() {
            let (Ok(found), at) = (entry.metadata(), entry.path()) else { continue };
            // A file with several names takes its space once, and goes only with the last one.
            scan.bytes += found.blocks() * 512 / found.nlink().max(1);
            if found.is_dir() {
                waiting.push(at);
            } else if entry.file_name() == ".git"
                && let Ok(below) = path.strip_prefix(folder)
                && below != Path::new("")
            {
                let below = below.to_owned();
                let admin = admin::of_worktree(&path).filter(|admin| !inside(&admin.repository));
                scan.worktrees.extend(admin.map(|admin| (below, admin)));
            }
        }
        if is_repository(&path) {
            let admins = admin::all(&path).unwrap_or_default();
            let places = admins.iter().filter_map(|admin| admin::worktree_of(&admin.path));
            let outside = |place: &PathBuf| place.join(".git").exists() && !inside(place);
            scan.dependents.extend(places.filter(outside));
        }
    }
    scan.worktrees.sort();
    scan
}

/// Tells whether a folder is a repository: a bare one, or the `.git` of another.
pub fn is_repository(path: &Path) -> bool {
    path.join("HEAD").symlink_metadata().is_ok()
        && path.join("objects").is_dir()
        && path.join("refs").exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teardown::testing::Repository;

    #[test]
    fn worktrees_and_repositories_are_found_at_any_depth() {
        let repository = Repository::new();
        let w = repository.path("w");
        repository.git("w", &["init", "-q", "ignored/deep/own"]);
        repository.git("w/ignored/deep/own", &["commit", "-q", "--allow-empty", "-m", "x"]);
        repository.git("repo", &["worktree", "add", "-q", "../w/ignored/second"]);
        let own = admin::of_worktree(&w).unwrap();
        let found = scan(&w, Some(&own.path));
        let below: Vec<_> = found.worktrees.iter().map(|(below, _)| below.as_path()).collect();
        assert_eq!(below, [Path::new("ignored/second")]);
        assert_eq!(found.worktrees[0].1.repository, repository.path("repo/.git"));
        assert!(found.dependents.is_empty() && found.bytes > 0);
        repository.git("w/ignored/deep/own", &["worktree", "add", "-q", "inner"]);
        assert!(scan(&w, Some(&own.path)).dependents.is_empty());
        repository.git("w/ignored/deep/own", &["worktree", "add", "-q", "../../../../outer"]);
        assert_eq!(scan(&w, Some(&own.path)).dependents, [repository.path("outer")]);

        let repository = Repository::new();
        let own = admin::of_worktree(&repository.path("w")).unwrap();
        let allow = ["-c", "protocol.file.allow=always"];
        let add = [&allow[..], &["submodule", "add", "-q", "../repo", "lib"]].concat();
        repository.git("w", &add);
        repository.git("w/lib", &["worktree", "add", "-q", "../../far"]);
        let found = scan(&repository.path("w"), Some(&own.path));
        assert_eq!(found.dependents, [repository.path("far")], "of a submodule's repository");
        assert_eq!(found.worktrees, []);
    }
}
