//! Owns walking a folder: which repositories lie in it, and how large what is ignored is.
//!
//! Must not judge what it finds. Invariant: symbolic links are not followed; a folder that can't be
//! read is an error, because work could be in it.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use super::Ignored;
use crate::teardown::{git::is_missing, problem::Problem};

/// Most ignored files and folders that are named; the size counts all.
const IGNORED_NAMED_MAX: usize = 16;

/// What lies in a folder.
#[derive(Debug, Clone, Default)]
pub struct Below {
    /// The folders that have a `.git`, not the outermost folder itself.
    pub work_trees: Vec<PathBuf>,
    /// The folders that are git folders, by what is in them: bare repositories and those of
    /// submodules.
    pub git_dirs: Vec<PathBuf>,
    /// The largest ignored files and folders, the largest first.
    pub ignored: Vec<Ignored>,
    /// How large all that is ignored is.
    pub ignored_bytes: u64,
}

/// Walks a folder; `ignored` is what git ignores in it, relative to `top`.
///
/// # Errors
///
/// A folder can't be read.
pub fn walk(top: &Path, ignored: &[PathBuf]) -> Result<Below, Problem> {
    let mut below = Below::default();
    let mut sizes = vec![0; ignored.len()];
    // A path ends with a slash if it is a folder; components don't.
    let numbers: HashMap<PathBuf, usize> = ignored
        .iter()
        .enumerate()
        .map(|(at, path)| (top.join(path).components().collect(), at))
        .collect();
    let mut waiting = vec![(top.to_owned(), None)];
    while let Some((folder, inside)) = waiting.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // It was deleted meanwhile.
            Err(error) if is_missing(&error) => continue,
            Err(source) => return Err(Problem::io(&folder)(source)),
        };
        let mut seen = [false; 3];
        for entry in entries {
            let entry = entry.map_err(Problem::io(&folder))?;
            let (path, name) = (entry.path(), entry.file_name());
            for (seen, part) in seen.iter_mut().zip(["HEAD", "objects", "refs"]) {
                *seen |= name == part;
            }
            if name == ".git" && folder != top {
                below.work_trees.push(folder.clone());
            }
            let number = inside.or_else(|| numbers.get(&path).copied());
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                waiting.push((path, number));
            } else if let Some(number) = number {
                sizes[number] += entry.metadata().map_or(0, |found| found.len());
            }
        }
        if seen == [true; 3] && !folder.ends_with(".git") {
            below.git_dirs.push(folder);
        }
    }
    below.ignored_bytes = sizes.iter().sum();
    let largest = sizes.into_iter().zip(ignored).filter(|(bytes, _)| *bytes > 0);
    let mut largest: Vec<(u64, &PathBuf)> = largest.collect();
    largest.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    largest.truncate(IGNORED_NAMED_MAX);
    let name = |path: &Path| path.to_string_lossy().trim_end_matches('/').to_owned();
    below.ignored =
        largest.into_iter().map(|(bytes, path)| Ignored { name: name(path), bytes }).collect();
    below.work_trees.sort();
    below.git_dirs.sort();
    Ok(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_found_at_any_depth_and_what_is_ignored_is_weighed() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        for name in ["a/b/c/.git", "bare/refs", "bare/objects", "out/x", ".git/refs", "half/refs"] {
            fs::create_dir_all(top.join(name)).unwrap();
        }
        for (name, text) in [("bare/HEAD", ""), ("out/x/y", "12345"), ("one.o", "1"), ("two", "2")]
        {
            fs::write(top.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("/", top.join("out/root")).unwrap();
        let below = walk(&top, &["out/".into(), "one.o".into()]).unwrap();
        assert_eq!(below.work_trees, [top.join("a/b/c")]);
        assert_eq!(below.git_dirs, [top.join("bare")]);
        let names: Vec<_> = below.ignored.iter().map(|it| (it.name.as_str(), it.bytes)).collect();
        assert_eq!(names, [("out", 6), ("one.o", 1)]);
        assert_eq!(below.ignored_bytes, 7);
    }

    #[test]
    fn a_folder_that_can_not_be_read_is_an_error() {
        if rustix::process::geteuid().is_root() {
            // Root reads every folder.
            return;
        }
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o000)).unwrap();
        let walked = walk(folder.path(), &[]);
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(walked.unwrap_err().to_string().contains("inner"));
    }
}
