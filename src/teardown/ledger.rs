//! Owns the daemon's own record of what was torn down: `teardowns.jsonl` in the data folder.
//!
//! Must not decide anything. Invariant: what was begun is on the disk before anything is removed,
//! so that a start after a crash knows what is half gone and to which repository it belonged.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    clock,
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
    /// It is about to be removed.
    Begun,
    /// Nothing is left of it.
    Gone,
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
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if !ends_with_line(&mut file)? {
            // A crash has cut the last line off; it must not spoil this one.
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Returns what was begun with a workspace, whatever attempt it was, and has not ended well.
    pub fn begun(&self, workspace: &WorkspaceId) -> io::Result<Option<Entry>> {
        let mut found = None;
        for entry in self.entries()?.into_iter().filter(|entry| entry.workspace == *workspace) {
            match entry.step {
                Step::Begun => found = Some(entry),
                Step::Gone => found = None,
                Step::Failed => {}
            }
        }
        Ok(found)
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

    /// Drops the older half of a file that has become too long.
    fn shorten(&self) -> io::Result<()> {
        if fs::metadata(&self.path).map_or(0, |found| found.len()) < FILE_BYTES_MAX {
            return Ok(());
        }
        let entries = self.entries()?;
        let new = self.path.with_extension("jsonl.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        for entry in &entries[entries.len() / 2..] {
            serde_json::to_writer(&mut file, entry)?;
            file.write_all(b"\n")?;
        }
        file.sync_data()?;
        fs::rename(new, &self.path)
    }
}

fn ends_with_line(file: &mut fs::File) -> io::Result<bool> {
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
    fn what_was_begun_is_known_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path());
        let id = entry(Step::Begun, 1).workspace;
        assert_eq!(ledger.begun(&id).unwrap(), None);
        ledger.add(&entry(Step::Begun, 1)).unwrap();
        ledger.add(&entry(Step::Failed, 1)).unwrap();
        assert_eq!(ledger.begun(&id).unwrap().unwrap().incarnation, 1);
        assert_eq!(ledger.begun(&"wrk_other".parse().unwrap()).unwrap(), None);
        ledger.add(&entry(Step::Gone, 2)).unwrap();
        assert_eq!(ledger.begun(&id).unwrap(), None);
        let mode = fs::metadata(ledger.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_line_that_a_crash_has_cut_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(folder.path());
        let (first, second) = (entry(Step::Begun, 1), entry(Step::Failed, 2));
        ledger.add(&first).unwrap();
        let mut file = OpenOptions::new().append(true).open(ledger.path()).unwrap();
        file.write_all(b"{\"at\":1,\"works").unwrap();
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
