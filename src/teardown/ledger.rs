//! Owns the daemon's own record of what was torn down: `teardowns.jsonl` in the data folder.
//!
//! Must not decide anything. Invariants: each step is on the disk, file and folder, before the next
//! one; the lines of an attempt that is still open are never dropped.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    clock, files,
    replica::{effect::TeardownDue, ids::WorkspaceId, record::TeardownAction},
};

/// The file in the data folder.
pub const FILE_NAME: &str = "teardowns.jsonl";
/// Longest file, in bytes, before its older half is dropped: some thousand teardowns.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How far an attempt has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It was judged, and is about to be moved to the trash, or to be ended by a hook.
    Begun,
    /// Its repositories keep what only it reached.
    Pinned,
    /// Its folder lies in the trash.
    Moved,
    /// What its repositories knew of it lies in the trash.
    Unregistered,
    /// The agent that made it has forgotten it.
    Forgotten,
    /// Nothing is left of it where it was.
    Gone,
    /// It was deleted from the trash for good.
    Expired,
    /// It is still there.
    Failed,
}

/// One line: what was done to a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the epoch by this machine's clock.
    pub at: i64,
    /// Which workspace.
    pub workspace: WorkspaceId,
    /// What people called it.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Which attempt.
    pub incarnation: u32,
    /// Whether someone insisted.
    pub action: TeardownAction,
    /// How far it came.
    pub step: Step,
    /// Where it was.
    pub directory: Option<String>,
    /// The git repository that it was a worktree of.
    pub repository: Option<PathBuf>,
    /// The branch that was checked out in it, and is kept.
    pub branch: Option<String>,
    /// The commit that was checked out in it.
    pub commit: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Its entry in the trash; none was made for what a version without a trash began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// What was done, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<String>,
}

impl Entry {
    /// Makes the line of an attempt, with nothing known but what was asked for.
    pub fn new(due: &TeardownDue, step: Step) -> Self {
        Self {
            at: clock::wall_ms(),
            workspace: due.workspace.id.clone(),
            name: due.workspace.name.clone(),
            kind: due.workspace.kind.clone(),
            incarnation: due.incarnation,
            action: due.action,
            step,
            directory: due.workspace.directory.clone(),
            repository: None,
            branch: None,
            commit: None,
            reason: None,
            entry: None,
            done: None,
        }
    }
}

/// The file and who writes to it.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    turn: Mutex<()>,
}

impl Ledger {
    /// Names the file in a data folder; it is made when there is something to write.
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join(FILE_NAME), turn: Mutex::default() }
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line, durably.
    pub fn add(&self, entry: &Entry) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.shorten()?;
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if !ends_with_line(&self.path)? {
            // A crash has cut the last line off; it must not spoil this one.
            line.insert(0, b'\n');
        }
        files::append(&self.path, &line)
    }

    /// Returns what a version without a trash began to remove of a workspace and did not finish:
    /// parts of it may be missing.
    pub fn half_removed(&self, workspace: &WorkspaceId) -> io::Result<Option<Entry>> {
        let mut found = None;
        for entry in self.entries()?.into_iter().filter(|entry| entry.workspace == *workspace) {
            match entry.step {
                Step::Begun if entry.entry.is_none() => found = Some(entry),
                Step::Gone => found = None,
                _ => {}
            }
        }
        Ok(found)
    }

    /// Returns how an attempt ended, if it ended well.
    pub fn ended(&self, workspace: &WorkspaceId, incarnation: u32) -> io::Result<Option<Entry>> {
        let mut entries = self.entries()?.into_iter();
        Ok(entries.rfind(|entry| {
            let is_attempt = entry.workspace == *workspace && entry.incarnation == incarnation;
            is_attempt && entry.step == Step::Gone
        }))
    }

    /// Returns all lines that can be read, the oldest first.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let lines = bytes.split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    /// Drops the older half of a file that has become too long, but for what is still open.
    fn shorten(&self) -> io::Result<()> {
        if fs::metadata(&self.path).map_or(0, |found| found.len()) < FILE_BYTES_MAX {
            return Ok(());
        }
        let entries = self.entries()?;
        let mut ended = BTreeSet::new();
        let mut kept = Vec::new();
        for (at, entry) in entries.iter().enumerate().rev() {
            if entry.step == Step::Gone {
                ended.insert(&entry.workspace);
            }
            // A failure tells nothing that the next attempt needs.
            let is_open = entry.step != Step::Failed && !ended.contains(&entry.workspace);
            if at >= entries.len() / 2 || is_open {
                kept.push(entry);
            }
        }
        let mut bytes = Vec::new();
        for entry in kept.into_iter().rev() {
            serde_json::to_writer(&mut bytes, entry)?;
            bytes.push(b'\n');
        }
        files::replace(&self.path, &bytes)
    }
}

fn ends_with_line(path: &Path) -> io::Result<bool> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::teardown::testing::due;

    fn entry(step: Step, incarnation: u32) -> Entry {
        let due = TeardownDue { incarnation, ..due("worktree", Some("/w"), TeardownAction::Retry) };
        Entry::new(&due, step)
    }

    #[test]
    fn what_a_version_without_a_trash_began_is_known_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path());
        let id = entry(Step::Begun, 1).workspace;
        assert_eq!(ledger.half_removed(&id).unwrap(), None);
        let named = Some("wrk_1.1".to_owned());
        ledger.add(&Entry { entry: named, ..entry(Step::Begun, 1) }).unwrap();
        assert_eq!(ledger.half_removed(&id).unwrap(), None, "that one moved, or did not");
        ledger.add(&entry(Step::Begun, 1)).unwrap();
        ledger.add(&entry(Step::Failed, 1)).unwrap();
        assert_eq!(ledger.half_removed(&id).unwrap().unwrap().incarnation, 1);
        assert_eq!(ledger.half_removed(&"wrk_other".parse().unwrap()).unwrap(), None);
        assert_eq!(ledger.ended(&id, 2).unwrap(), None);
        ledger.add(&entry(Step::Gone, 2)).unwrap();
        assert_eq!(ledger.half_removed(&id).unwrap(), None);
        assert_eq!(ledger.ended(&id, 1).unwrap(), None);
        assert_eq!(ledger.ended(&id, 2).unwrap().unwrap().step, Step::Gone);
        let mode = fs::metadata(ledger.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_open_outlasts_the_shortening_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path());
        ledger.add(&entry(Step::Begun, 1)).unwrap();
        let other = || Entry { workspace: "wrk_2".parse().unwrap(), ..entry(Step::Failed, 9) };
        let reason = Some("x".repeat(100_000));
        for _ in 0..30 {
            ledger.add(&Entry { reason: reason.clone(), ..other() }).unwrap();
        }
        assert!(fs::metadata(ledger.path()).unwrap().len() < 2 * FILE_BYTES_MAX);
        let id = entry(Step::Begun, 1).workspace;
        assert_eq!(ledger.half_removed(&id).unwrap().unwrap().incarnation, 1);
    }

    #[test]
    fn a_line_that_a_crash_has_cut_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path());
        let (first, second) = (entry(Step::Begun, 1), entry(Step::Failed, 2));
        ledger.add(&first).unwrap();
        files::append(ledger.path(), b"{\"at\":1,\"works").unwrap();
        ledger.add(&second).unwrap();
        assert_eq!(ledger.entries().unwrap(), [first, second]);
    }

    #[test]
    fn the_file_stays_bounded_and_keeps_what_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path());
        let reason = Some("x".repeat(100_000));
        for incarnation in 1..30 {
            let reason = reason.clone();
            ledger.add(&Entry { reason, ..entry(Step::Failed, incarnation) }).unwrap();
        }
        assert!(fs::metadata(ledger.path()).unwrap().len() < 2 * FILE_BYTES_MAX);
        assert_eq!(ledger.entries().unwrap().last().unwrap().incarnation, 29);
    }
}
