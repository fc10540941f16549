//! Owns the links between worktrees, submodules and repositories after some of them have moved.
//!
//! Must not move anything, nor follow a symbolic link. Invariants: a link that was relative stays
//! so; doing it again changes nothing.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
};

use super::{plumbing::Git, scan::is_repository};
use crate::{files, teardown::admin};

/// A folder that has moved: where it was, and where it is.
pub type Move = (PathBuf, PathBuf);

/// Rewrites every link in some folders that leads to where something was before it moved.
///
/// # Errors
///
/// One can't be written.
pub fn relink(folders: &[&Path], moves: &[Move]) -> io::Result<()> {
    let mut waiting: Vec<PathBuf> = folders.iter().map(|folder| (*folder).to_owned()).collect();
    while let Some(folder) = waiting.pop() {
        // One that may not be read holds nothing that git could read.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let (name, path) = (entry.file_name(), entry.path());
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() && name == ".git" {
                rewrite_link(&path, &folder, b"gitdir: ", moves)?;
            } else if kind.is_file() && name == "gitdir" && folder.join("commondir").exists() {
                rewrite_link(&path, &folder, b"", moves)?;
            }
        }
        if is_repository(&folder) {
            rewrite_work_tree(&folder, moves)?;
        }
    }
    Ok(())
}

/// Returns where a link leads to now, if that is elsewhere than it says.
fn moved(base: &Path, link: &Path, moves: &[Move]) -> Option<PathBuf> {
    let here = admin::lexical(&base.join(link));
    let is_new = moves.iter().any(|(_, new)| here.starts_with(new));
    if is_new && here.symlink_metadata().is_ok() {
        return None;
    }
    let old_base = mapped(base, moves.iter().map(|(old, new)| (new, old)));
    let old = admin::lexical(&old_base.join(link));
    let new = mapped(&old, moves.iter().map(|(old, new)| (old, new)));
    let says = if link.is_relative() { admin::relative(base, &new) } else { new };
    (says != link).then_some(says)
}

/// Replaces the beginning of a path; the longest one that fits decides.
fn mapped<'a>(path: &Path, moves: impl Iterator<Item = (&'a PathBuf, &'a PathBuf)>) -> PathBuf {
    let fits = moves.filter(|(from, _)| path.starts_with(from));
    match fits.max_by_key(|(from, _)| from.components().count()) {
        Some((from, to)) => {
            let rest = path.strip_prefix(from).unwrap_or(Path::new(""));
            // Joining nothing would add a slash.
            if rest == Path::new("") { to.clone() } else { to.join(rest) }
        }
        None => path.to_owned(),
    }
}

fn rewrite_link(file: &Path, base: &Path, label: &[u8], moves: &[Move]) -> io::Result<()> {
    let Some(link) = admin::read_path(file, label) else { return Ok(()) };
    let Some(says) = moved(base, &link, moves) else { return Ok(()) };
    let before = file.metadata()?;
    files::replace(file, &[label, says.as_os_str().as_bytes(), b"\n"].concat())?;
    // Git turns down what belongs to another user; the daemon's may not be the owner.
    let _ = chown(file, Some(before.uid()), Some(before.gid()));
    fs::set_permissions(file, fs::Permissions::from_mode(before.mode()))
}

/// Rewrites where a submodule's repository says that its files are.
fn rewrite_work_tree(repository: &Path, moves: &[Move]) -> io::Result<()> {
    let config = repository.join("config");
    let Some(config) = config.to_str().filter(|_| config.is_file()) else { return Ok(()) };
    // Not in the repository itself: git would go to the work tree that it is about to be told of.
    let git = Git::new(Path::new("/dev/null"));
    let read = ["config", "--file", config, "-z", "--get", "core.worktree"];
    let Ok(link) = git.run(&read, Vec::new()) else { return Ok(()) };
    let link = Path::new(OsStr::from_bytes(link.strip_suffix(b"\0").unwrap_or(&link)));
    let Some(says) = moved(repository, link, moves) else { return Ok(()) };
    let Some(says) = says.to_str() else { return Ok(()) };
    let written = git.run(&["config", "--file", config, "core.worktree", says], Vec::new());
    written.map(drop).map_err(|problem| io::Error::other(problem.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_keep_their_form_and_are_rewritten_once() {
        let moves = vec![
            (PathBuf::from("/a/w"), PathBuf::from("/b/c/d/w")),
            (PathBuf::from("/r/.git/worktrees/w"), PathBuf::from("/r/.git/worktrees/w1")),
        ];
        for (base, link, says) in [
            ("/b/c/d/w", "/r/.git/worktrees/w", Some("/r/.git/worktrees/w1")),
            ("/b/c/d/w", "../../r/.git/worktrees/w", Some("../../../../r/.git/worktrees/w1")),
            (
                "/b/c/d/w/sub",
                "../../../r/.git/worktrees/w/modules/sub",
                Some("../../../../../r/.git/worktrees/w1/modules/sub"),
            ),
            ("/r/.git/worktrees/w1", "/a/w/.git", Some("/b/c/d/w/.git")),
            ("/b/c/d/w/in", "/elsewhere/.git/worktrees/in", None),
        ] {
            let found = moved(Path::new(base), Path::new(link), &moves);
            assert_eq!(found.as_deref(), says.map(Path::new), "{base} {link}");
        }
    }
}
