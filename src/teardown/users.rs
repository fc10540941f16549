//! Owns finding the processes that are in a folder.
//!
//! Must not know why it is asked. Invariant: a process is found by what it really has open, also if
//! it sees the folder at another place, as in a container.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::mounts::{self, Mount};

/// How far up a working directory is followed to see whether it lies in the folder.
#[cfg(target_os = "linux")]
const ANCESTORS_MAX: usize = 64;

/// Returns the processes whose working directory, root, program, open files or mapped files lie in
/// a canonical directory, and those whose container has a part of it mounted, as far as this user
/// may see them. Only where there is `/proc`: elsewhere none are found.
pub fn processes_in(path: &Path) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut folder = Folder::new(path);
    let own = std::process::id();
    let mut found = Vec::new();
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let process = process.path();
        if pid == own || is_own_git(&process, own) || !folder.is_used_by(&process) {
            continue;
        }
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        found.push(format!("process {pid} ({})", name.trim().escape_debug()));
    }
    found
}

/// Tells whether a process is a git that this daemon has started to look at something.
fn is_own_git(process: &Path, own: u32) -> bool {
    let Ok(stat) = fs::read_to_string(process.join("stat")) else { return false };
    // `PID (name) state parent …`; a name may hold anything.
    let Some((head, rest)) = stat.rsplit_once(") ") else { return false };
    let parent = rest.split(' ').nth(1).and_then(|parent| parent.parse::<u32>().ok());
    parent == Some(own) && head.ends_with("(git")
}

/// The folder, as each process may see it.
struct Folder<'a> {
    path: &'a Path,
    /// Its file system and its place there, where that is known.
    place: Option<(String, PathBuf)>,
    /// What this process sees mounted.
    mounts: Vec<Mount>,
    /// What was found out about the mounts of a namespace.
    namespaces: HashMap<PathBuf, View>,
}

/// How a mount namespace shows the folder.
#[derive(Debug, Clone, Default)]
struct View {
    /// Where the folder, or a part of it, is seen.
    aliases: Vec<PathBuf>,
    /// Whether the folder or a part of it is mounted there by itself.
    is_mounted: bool,
}

impl<'a> Folder<'a> {
    fn new(path: &'a Path) -> Self {
        let mounts = mounts::own();
        let place = mounts::place_on_device(&mounts, path);
        let own_namespace = fs::read_link("/proc/self/ns/mnt").ok();
        // A folder that is bind mounted elsewhere on this machine is not yet in use.
        let mut view = view(&mounts, place.as_ref(), &mounts);
        view.aliases.push(path.to_owned());
        let namespaces = own_namespace.iter().map(|name| (name.clone(), view.clone())).collect();
        Self { path, place, mounts, namespaces }
    }

    fn is_used_by(&mut self, process: &Path) -> bool {
        let Ok(namespace) = fs::read_link(process.join("ns/mnt")) else {
            // Another user's: its mounts are all that is seen of it.
            return self.view_of(process).is_mounted;
        };
        if !self.namespaces.contains_key(&namespace) {
            let view = self.view_of(process);
            self.namespaces.insert(namespace.clone(), view);
        }
        let view = &self.namespaces[&namespace];
        let aliases = view.aliases.as_slice();
        let is_in = |to: &Path| {
            to.starts_with(self.path) || aliases.iter().any(|alias| to.starts_with(alias))
        };
        let leads_here =
            |link: PathBuf| fs::read_link(link).is_ok_and(|to| is_in(without_mark(&to)));
        let opened = || fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        view.is_mounted
            || ["cwd", "root", "exe"].iter().any(|link| leads_here(process.join(link)))
            || opened().any(|file| leads_here(file.path()))
            || ["cwd", "root"].iter().any(|link| self.is_around(&process.join(link)))
            || maps(process, is_in)
    }

    fn view_of(&self, process: &Path) -> View {
        let mounts = fs::read(process.join("mountinfo")).unwrap_or_default();
        view(&mounts::read(&mounts), self.place.as_ref(), &self.mounts)
    }

    /// Tells whether a directory is the folder or lies below it, by device and inode.
    #[cfg(target_os = "linux")]
    fn is_around(&self, directory: &Path) -> bool {
        let Some(wanted) = identity(self.path) else { return false };
        let mut at = directory.to_owned();
        let mut last = None;
        for _ in 0..ANCESTORS_MAX {
            let found = identity(&at);
            if found == Some(wanted) {
                return true;
            }
            // Above the root there is the root again.
            if found.is_none() || found == last {
                return false;
            }
            last = found;
            at.push("..");
        }
        false
    }

    #[cfg(not(target_os = "linux"))]
    fn is_around(&self, _directory: &Path) -> bool {
        false
    }
}

/// Returns the device and inode of what a path leads to, without asking a file server, which might
/// never answer.
#[cfg(target_os = "linux")]
fn identity(path: &Path) -> Option<(u32, u32, u64)> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
    Some((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}

/// Takes off what Linux puts behind the name of a file that was deleted.
fn without_mark(to: &Path) -> &Path {
    let bytes = to.as_os_str().as_bytes();
    bytes.strip_suffix(b" (deleted)").map_or(to, |name| Path::new(OsStr::from_bytes(name)))
}

/// Tells whether a process has mapped a file that lies in the folder.
fn maps(process: &Path, is_in: impl Fn(&Path) -> bool) -> bool {
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    maps.split(|byte| *byte == b'\n').any(|line| {
        let path = line.iter().position(|byte| *byte == b'/');
        path.is_some_and(|at| is_in(without_mark(Path::new(OsStr::from_bytes(&line[at..])))))
    })
}

/// Finds out how a list of mounts shows a place on a file system. What this process sees mounted at
/// the same place says nothing about who uses it: services often have a copy of all mounts.
fn view(mounts: &[Mount], place: Option<&(String, PathBuf)>, own: &[Mount]) -> View {
    let mut view = View::default();
    let Some((device, place)) = place else { return view };
    for mount in mounts.iter().filter(|mount| mount.device == *device) {
        if mount.root.starts_with(place) {
            view.aliases.push(mount.point.clone());
            view.is_mounted |= !own.contains(mount);
        } else if let Ok(rest) = place.strip_prefix(&mount.root) {
            view.aliases.push(mount.point.join(rest));
        }
    }
    view
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_has_a_part_of_the_folder_mounted_uses_it() {
        let place = Some(("8:1".to_owned(), PathBuf::from("/srv/w")));
        let mount = |device: &str, root: &str, point: &str| Mount {
            device: device.to_owned(),
            root: root.into(),
            point: point.into(),
        };
        for (mounts, is_mounted, aliases) in [
            (vec![mount("8:1", "/srv/w", "/workspace")], true, vec!["/workspace"]),
            (vec![mount("8:1", "/srv/w/sub", "/s")], true, vec!["/s"]),
            (vec![mount("8:1", "/", "/"), mount("8:2", "/srv/w", "/x")], false, vec!["/srv/w"]),
            (vec![mount("8:1", "/srv", "/data")], false, vec!["/data/w"]),
            (vec![mount("8:1", "/srv/wx", "/x")], false, vec![]),
        ] {
            let copy = view(&mounts, place.as_ref(), &mounts);
            assert!(!copy.is_mounted);
            let view = view(&mounts, place.as_ref(), &[]);
            assert_eq!(view.is_mounted, is_mounted, "{mounts:?}");
            assert_eq!(view.aliases, aliases.into_iter().map(PathBuf::from).collect::<Vec<_>>());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_is_found_by_its_directory_whatever_it_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("w/sub")).unwrap();
        let wanted = path.join("w");
        let looking = Folder::new(&wanted);
        assert!(looking.is_around(&path.join("w/sub")) && looking.is_around(&wanted));
        assert!(!looking.is_around(&path) && !looking.is_around(Path::new("/proc")));
    }
}
