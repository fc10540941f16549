//! Owns looking at what a daemon needs on its machine, whether it runs or not.
//!
//! Must not change anything, nor know how it is shown. Invariant: what is not as it has to be comes
//! with what to do about it.

use std::{
    fs,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use serde::Serialize;

use super::{Error, evidence, machine::Git, repair};
use crate::{
    clock,
    identity::{key, token},
    store::{self, OpenError},
    teardown,
};

/// Free space below which a store soon can't be written, in bytes.
const SPACE_BYTES_MIN: u64 = 16 << 20;
/// The first of January 2025, in milliseconds since the epoch: no clock is right that is before.
const WALL_MS_MIN: i64 = 1_735_689_600_000;
/// The oldest git that worktrees are ended with.
const GIT_MIN: (u32, u32) = (2, 30);
/// The same, for people.
const GIT_MIN_TEXT: &str = "2.30";
/// The files that nobody else may read.
const PRIVATE: [&str; 4] = [store::FILE_NAME, key::FILE, token::FILE, teardown::HOOKS_FILE_NAME];

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it has to be.
    Ok,
    /// Good enough to run.
    Warning,
    /// Not as it has to be.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Check {
    /// Says that something is as it has to be.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), remedy: None }
    }

    /// Says that something could be better.
    pub fn warning(name: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        let (state, remedy) = (State::Warning, Some(remedy.to_owned()));
        Self { name, state, found: found.into(), remedy }
    }

    /// Says that something is not as it has to be.
    pub fn failed(name: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        let (state, remedy) = (State::Failed, Some(remedy.to_owned()));
        Self { name, state, found: found.into(), remedy }
    }
}

/// Looks at the folder and what is in it, at the machine, and, where no daemon has the store open,
/// at the store and the ports.
pub fn look(data_dir: &Path, listen: SocketAddr, http: SocketAddr) -> Vec<Check> {
    let mut checks = vec![folder(data_dir)];
    let in_use = if data_dir.join(key::FILE).exists() {
        let (check, in_use) = store(data_dir);
        checks.push(check);
        in_use
    } else {
        false
    };
    if !in_use {
        checks.push(port("peers' port", listen, "udp", UdpSocket::bind(listen).err()));
        checks.push(port("API's port", http, "tcp", TcpListener::bind(http).err()));
    }
    checks.push(panics(data_dir));
    checks.extend(space(data_dir));
    checks.push(wall_clock());
    checks
}

fn folder(data_dir: &Path) -> Check {
    const NAME: &str = "data folder";
    let shown = data_dir.display();
    let mode = |path: &Path| fs::metadata(path).map(|it| it.permissions().mode() & 0o7777);
    let Ok(folder) = mode(data_dir) else {
        let remedy = "start a daemon with `sessionmesh serve`, which makes it";
        return Check::warning(NAME, format!("{shown} is not there yet"), remedy);
    };
    if folder & 0o077 != 0 {
        let found = format!("{shown} has mode {folder:04o}: others on this machine can open it");
        return Check::failed(NAME, found, &format!("chmod 700 '{shown}'"));
    }
    for name in PRIVATE {
        let path = data_dir.join(name);
        if let Ok(mode) = mode(&path)
            && mode & 0o077 != 0
        {
            let shown = path.display();
            let found = format!("{shown} has mode {mode:04o}: others on this machine can open it");
            return Check::failed(NAME, found, &format!("chmod 600 '{shown}'"));
        }
    }
    let mut aside: Vec<_> = fs::read_dir(data_dir).into_iter().flatten().flatten().collect();
    let is_aside = format!("{}{}", store::FILE_NAME, store::ASIDE);
    aside.retain(|entry| entry.file_name().to_string_lossy().starts_with(&is_aside));
    match aside.len() {
        0 => Check::ok(NAME, format!("{shown}, closed to others")),
        kept => Check::warning(
            NAME,
            format!("{shown} still holds {kept} damaged stores that were repaired"),
            &format!("once nothing is missed: rm '{shown}'/{is_aside}*"),
        ),
    }
}

/// Looks at the store; tells whether a daemon has it open.
fn store(data_dir: &Path) -> (Check, bool) {
    const NAME: &str = "store";
    match repair::look(data_dir) {
        Ok(report) if report.damaged => {
            let found = format!("damaged: {}", report.lost.join("; "));
            (Check::failed(NAME, found, "sessionmesh repair"), false)
        }
        Ok(report) => (Check::ok(NAME, format!("sound: {}", report.kept.join("; "))), false),
        Err(Error::Open(OpenError::InUse { .. })) => {
            (Check::ok(NAME, "open in a daemon, which has verified it at its start"), true)
        }
        Err(error) => {
            (Check::failed(NAME, error.to_string(), "do what the line before says"), false)
        }
    }
}

/// Names what peers sent that made automerge panic.
fn panics(data_dir: &Path) -> Check {
    const NAME: &str = "contained panics";
    let kept = evidence::look(data_dir);
    let Some(newest) = kept.last() else {
        return Check::ok(NAME, "none");
    };
    let found = format!(
        "{} inputs of peers made automerge panic and are kept, the newest in {}",
        kept.len(),
        newest.display()
    );
    let remedy = "report them as proto/security.md says, and look whose they are: the names hold \
                  the beginnings of the peers' keys; then remove them";
    Check::warning(NAME, found, remedy)
}

fn port(name: &'static str, at: SocketAddr, kind: &str, error: Option<std::io::Error>) -> Check {
    match error {
        None => Check::ok(name, format!("{at}/{kind} is free")),
        Some(error) => Check::failed(
            name,
            format!("{at}/{kind} can't be had: {error}"),
            "stop the program that has it, or start the daemon with another --listen or --http",
        ),
    }
}

fn space(data_dir: &Path) -> Option<Check> {
    const NAME: &str = "space";
    let found = rustix::fs::statvfs(data_dir).ok()?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let told = format!("{} MiB free", free >> 20);
    Some(if free < SPACE_BYTES_MIN {
        Check::failed(NAME, told, "make room: a daemon that can't write stops")
    } else {
        Check::ok(NAME, told)
    })
}

/// Says how git stands for whoever has looked for it; `whose` names the process.
pub fn git(found: &Git, whose: &str) -> Check {
    const NAME: &str = "git";
    let path = found.path.as_ref().map(|path| path.display().to_string());
    match (&found.version, path) {
        (Some(version), _) if is_old(version) => Check::warning(
            NAME,
            format!("{version}, as {whose} finds it, is older than {GIT_MIN_TEXT}"),
            "install a newer one: with this, worktrees may not be ended",
        ),
        (Some(version), path) => {
            let path = path.map(|path| format!(" at {path}")).unwrap_or_default();
            Check::ok(NAME, format!("{version}{path}, as {whose} finds it"))
        }
        (None, Some(path)) => Check::warning(
            NAME,
            format!("{path} can't be run by {whose}: no workspace of kind `worktree` can be ended"),
            "install git again, or put the right one before it in the PATH of the daemon",
        ),
        (None, None) => Check::warning(
            NAME,
            format!("{whose} finds none: no workspace of kind `worktree` can be ended here"),
            "install git where the PATH of the daemon finds it, and restart the daemon if its PATH \
             has to change",
        ),
    }
}

/// Tells whether git says of itself that it is older than what is needed.
fn is_old(version: &str) -> bool {
    let numbers = version.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let mut numbers = numbers.map_while(|digits| digits.parse::<u32>().ok());
    // What says nothing of itself is taken as it is.
    numbers.next().zip(numbers.next()).is_some_and(|version| version < GIT_MIN)
}

fn wall_clock() -> Check {
    const NAME: &str = "clock";
    if clock::wall_ms() < WALL_MS_MIN {
        let found = "this machine's clock is years behind: times that are shown are wrong";
        return Check::warning(NAME, found, "set it; nothing else depends on it");
    }
    Check::ok(NAME, "plausible; nothing but what is shown of time depends on it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_that_is_too_old_or_not_there_is_told_from_one_that_will_do() {
        let found = |version: Option<&str>| {
            let path = version.map(|_| "/usr/bin/git".into());
            git(&Git { path, version: version.map(str::to_owned) }, "the daemon").state
        };
        for version in ["git version 2.47.3", "git version 2.30.2 (Apple Git-130)", "3.0", "odd"] {
            assert_eq!(found(Some(version)), State::Ok, "{version}");
        }
        for version in [Some("git version 2.29.3"), Some("git version 1.8.3.1"), None] {
            assert_eq!(found(version), State::Warning, "{version:?}");
        }
    }

    #[test]
    fn whatever_is_wrong_comes_with_what_to_do_about_it() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("data");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        let looked = look(&dir, free, taken.local_addr().unwrap());
        let state = |name| looked.iter().find(|check| check.name == name).unwrap().state;
        assert_eq!(state("data folder"), State::Warning);
        assert_eq!(state("peers' port"), State::Ok);
        assert_eq!(state("API's port"), State::Failed);
        assert_eq!(state("contained panics"), State::Ok);
        let kept = dir.join(evidence::FOLDER);
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join("00000000000001-00-0707070707-t0.bin"), [0]).unwrap();
        assert_eq!(panics(&dir).state, State::Warning);
        assert!(panics(&dir).found.contains("0707070707"), "{:?}", panics(&dir));
        for check in &looked {
            assert_eq!(check.remedy.is_none(), check.state == State::Ok, "{check:?}");
        }
    }
}
