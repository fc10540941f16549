//! Owns judging where a workspace lies: what may never be removed, and who is in it.
//!
//! Must not know git. Invariant: a path that it has approved is canonical, lies below an allowed
//! root, and removing it takes neither the home folder nor the daemon's data along.

use std::{
    io::ErrorKind::{NotADirectory, NotFound},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use super::{Config, Occupant, problem::Problem, users};

/// Most processes that a reason names.
const PROCESSES_NAMED_MAX: usize = 3;

/// Refuses a text that could be taken for something else as a path or an argument.
pub fn judge_name(what: &'static str, value: &str) -> Result<(), Problem> {
    let why = if value.contains('\0') {
        "contains NUL"
    } else if value.contains("..") {
        "contains `..`"
    } else if value.starts_with('-') {
        "begins with `-`"
    } else {
        return Ok(());
    };
    Err(Problem::Name { what, value: value.to_owned(), why })
}

/// Refuses a directory that is not absolute or climbs.
pub fn judge_directory(directory: &str) -> Result<&Path, Problem> {
    let path = Path::new(directory);
    let problem = |why| Err(Problem::Name { what: "directory", value: directory.to_owned(), why });
    if directory.contains('\0') {
        problem("contains NUL")
    } else if !path.is_absolute() {
        problem("is not an absolute path")
    } else if path.components().any(|component| component == Component::ParentDir) {
        problem("contains `..`")
    } else {
        Ok(path)
    }
}

/// Returns where a directory really is, if it may be removed; `None` if there is none.
pub fn approve(directory: &str, config: &Config) -> Result<Option<PathBuf>, Problem> {
    let named = judge_directory(directory)?;
    let path = match named.canonicalize() {
        Ok(path) => path,
        // Where a parent has become a file there is no directory either.
        Err(error) if [NotFound, NotADirectory].contains(&error.kind()) => return Ok(None),
        Err(source) => return Err(Problem::io(named)(source)),
    };
    if !path.is_dir() {
        let why = " but a file".to_owned();
        return Err(Problem::NotWorktree { path, why });
    }
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let protected = |what: &str| Problem::Protected { path: path.clone(), what: what.to_owned() };
    if path.parent().is_none() {
        return Err(protected("the root of the file system"));
    }
    if config.home.as_deref().map(real).is_some_and(|home| home.starts_with(&path)) {
        return Err(protected("the home folder"));
    }
    let data_dir = real(&config.data_dir);
    if data_dir.starts_with(&path) || path.starts_with(&data_dir) {
        return Err(protected("(or is part of) the daemon's data folder"));
    }
    let below = |root: &PathBuf| {
        let root = root.canonicalize();
        root.is_ok_and(|root| path.starts_with(&root) && path != root)
    };
    if !config.roots.is_empty() && !config.roots.iter().any(below) {
        return Err(Problem::Outside(path));
    }
    Ok(Some(path))
}

/// Refuses a canonical directory in which a process, a session or another workspace is.
pub fn refuse_used(path: &Path, occupants: &[Occupant]) -> Result<(), Problem> {
    let in_it = |occupant: &&Occupant| is_in(Path::new(&occupant.directory), path);
    if let Some(occupant) = occupants.iter().find(in_it) {
        return Err(Problem::InUse { path: path.into(), by: occupant.what.clone() });
    }
    let running = users::processes_in(path);
    if running.is_empty() {
        return Ok(());
    }
    let mut by = running.iter().take(PROCESSES_NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if running.len() > PROCESSES_NAMED_MAX {
        by.push_str(&format!(" and {} more", running.len() - PROCESSES_NAMED_MAX));
    }
    Err(Problem::InUse { path: path.into(), by })
}

/// Tells whether a directory, however it is spelled and whether or not it is there, lies in another
/// one: by its names, by where it really is, and by device and inode, because a file system may take
/// no notice of case, and a folder may be mounted twice.
fn is_in(directory: &Path, path: &Path) -> bool {
    if !directory.is_absolute() {
        return false;
    }
    let climbs = directory.components().any(|component| component == Component::ParentDir);
    let is_named = directory.starts_with(path) && !climbs;
    let directory = real(directory);
    if is_named || directory.starts_with(path) {
        return true;
    }
    let identity = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    let Some(wanted) = identity(path) else { return false };
    directory.ancestors().any(|ancestor| identity(ancestor) == Some(wanted))
}

/// Returns where a directory really is, or would be.
fn real(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|ancestor| {
        let rest = path.strip_prefix(ancestor).ok()?;
        Some(ancestor.canonicalize().ok()?.join(rest))
    });
    found.unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(folder: &Path, roots: &[&str]) -> Config {
        for name in ["home/me", "data", "trees/w", "trees/data"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let mut config = crate::teardown::testing::config(folder.join("data"));
        config.home = Some(folder.join("home/me"));
        config.roots = roots.iter().map(|root| folder.join(root)).collect();
        config
    }

    fn approved(config: &Config, path: &Path) -> Result<Option<PathBuf>, String> {
        approve(path.to_str().unwrap(), config).map_err(|problem| problem.to_string())
    }

    #[test]
    fn the_root_the_home_and_the_data_folder_are_never_approved() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), &[]);
        fs::create_dir(folder.path().join("data/inner")).unwrap();
        for (name, why) in [
            ("/", "root of the file system"),
            ("home/me", "home folder"),
            ("home", "home folder"),
            ("data", "data folder"),
            ("data/inner", "data folder"),
        ] {
            let problem = approved(&config, &folder.path().join(name)).unwrap_err();
            assert!(problem.contains(why), "{name}: {problem}");
        }
        let fine = folder.path().join("trees/w").canonicalize().unwrap();
        assert_eq!(approved(&config, &fine), Ok(Some(fine.clone())));
    }

    #[test]
    fn only_what_really_lies_below_an_allowed_root_is_approved() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), &["trees", "absent"]);
        let path = |name| folder.path().join(name);
        assert!(approved(&config, &path("trees/w")).unwrap().is_some());
        fs::create_dir(path("other")).unwrap();
        std::os::unix::fs::symlink(path("other"), path("trees/link")).unwrap();
        for name in ["other", "trees", "trees/link"] {
            let problem = approved(&config, &path(name)).unwrap_err();
            assert!(problem.contains("--teardown-root"), "{name}: {problem}");
        }
        assert_eq!(approved(&config, &path("trees/absent")), Ok(None));
    }

    #[test]
    fn a_path_that_climbs_or_is_relative_and_a_name_that_looks_like_a_flag_are_refused() {
        for directory in ["relative", "-flag", "/a/../etc", "/a\0b", ""] {
            let problem = judge_directory(directory).unwrap_err();
            assert!(matches!(problem, Problem::Name { .. }), "{problem}");
        }
        for name in ["-rf", "a\0b", "../x"] {
            assert!(matches!(judge_name("name", name), Err(Problem::Name { .. })), "{name:?}");
        }
        assert!(judge_name("name", "fix-it").is_ok());
    }

    #[test]
    fn a_directory_in_which_a_session_is_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        fs::create_dir(path.join("sub")).unwrap();
        let occupant = |directory: PathBuf| Occupant {
            what: "session ses_1".to_owned(),
            directory: directory.to_str().unwrap().to_owned(),
        };
        let problem = refuse_used(&path, &[occupant(path.join("sub"))]).unwrap_err();
        assert!(problem.to_string().contains("in use by session ses_1"), "{problem}");
        assert!(refuse_used(&path, &[occupant("/".into()), occupant("gone".into())]).is_ok());
    }

    #[test]
    fn a_session_is_in_a_directory_however_it_spells_it() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("w/sub")).unwrap();
        fs::create_dir_all(top.join("other")).unwrap();
        std::os::unix::fs::symlink(top.join("w"), top.join("link")).unwrap();
        std::os::unix::fs::symlink(top.join("w/sub"), top.join("other/inner")).unwrap();
        let path = top.join("w");
        for name in ["w/", "link", "link/sub/", "other/inner", "link/gone/deeper", "w/gone"] {
            assert!(is_in(&top.join(name), &path), "{name}");
        }
        for name in ["other", "wx", "", "link/../other"] {
            assert!(!is_in(&top.join(name), &path), "{name}");
        }
        // Another name of the same folder, as a second mount or a spelling in other case is.
        assert!(is_in(&path, &top.join("link")));
    }

    #[test]
    fn a_directory_below_what_has_become_a_file_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), &[]);
        fs::write(folder.path().join("parent"), "").unwrap();
        assert_eq!(approved(&config, &folder.path().join("parent/w")), Ok(None));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_directory_in_which_a_process_runs_is_in_use_until_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        // It ends when its input does, should the test end first.
        let mut waiting = std::process::Command::new("cat")
            .current_dir(&path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let problem = refuse_used(&path, &[]).unwrap_err().to_string();
        assert!(problem.contains(&format!("process {} (cat)", waiting.id())), "{problem}");
        waiting.kill().unwrap();
        waiting.wait().unwrap();
        assert!(refuse_used(&path, &[]).is_ok());
    }
}
