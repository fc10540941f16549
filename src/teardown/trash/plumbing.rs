//! Owns running git's plumbing on a repository that is named by its own folder.
//!
//! Must not know why. Invariants: nothing that the repository's configuration, attributes or hooks
//! name is run, nothing is fetched, and no work tree is looked at; what is written is on the disk
//! when the command has ended.

use std::{
    io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use crate::teardown::{
    child, environment,
    problem::{Problem, said},
};

/// Longest command: the index or the history of a very large repository on a cold disk.
const TIME_MAX: Duration = Duration::from_secs(300);
/// Most bytes that a command may print: the index of some million files.
const OUTPUT_BYTES_MAX: usize = 1 << 30;
/// What is set for every command.
const SETTINGS: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    // Both would write beside the index of the worktree.
    "core.splitIndex=false",
    "core.untrackedCache=false",
    "core.logAllRefUpdates=false",
    // What it says may be older than the objects.
    "core.commitGraph=false",
    "core.fsync=all",
    // Another git that writes the same ref is waited for; a lock that stays is one that died.
    "core.filesRefLockTimeout=2000",
    "gc.auto=0",
    "protocol.allow=never",
];
/// From this version on git makes durable what it writes when it is told to.
const SYNCING_VERSION: (u32, u32) = (2, 36);

/// A repository, or one worktree of it, by its administrative folder.
#[derive(Debug, Clone, Copy)]
pub struct Git<'a> {
    /// What `--git-dir` says.
    pub dir: &'a Path,
    /// The index to use in place of its own.
    pub index: Option<&'a Path>,
}

impl<'a> Git<'a> {
    /// Names a repository.
    pub fn new(dir: &'a Path) -> Self {
        Self { dir, index: None }
    }

    /// Runs a command with this input and returns what it printed.
    pub fn run(&self, arguments: &[&str], input: Vec<u8>) -> Result<Vec<u8>, Problem> {
        let output = self.output(arguments, input)?;
        match output.status {
            Some(status) if status.success() && !output.cut => Ok(output.stdout),
            Some(status) if status.success() => {
                Err(self.failed(arguments, "printed more than can be read".to_owned()))
            }
            Some(status) => {
                let why = format!("{status}: {}", said(&output.stderr));
                Err(self.failed(arguments, why))
            }
            None => Err(self.failed(arguments, format!("took longer than {TIME_MAX:?}"))),
        }
    }

    /// Runs a command and returns the one line that it printed.
    pub fn line(&self, arguments: &[&str], input: Vec<u8>) -> Result<String, Problem> {
        let output = self.run(arguments, input)?;
        Ok(String::from_utf8_lossy(output.trim_ascii_end()).into_owned())
    }

    /// Tells whether a command succeeds; one that can't be run at all is an error.
    pub fn succeeds(&self, arguments: &[&str], input: Vec<u8>) -> Result<bool, Problem> {
        Ok(self.output(arguments, input)?.status.is_some_and(|status| status.success()))
    }

    /// Makes durable what older versions of git leave to the operating system.
    pub fn sync(&self) -> Result<(), Problem> {
        if version() >= SYNCING_VERSION {
            return Ok(());
        }
        let folder = std::fs::File::open(self.dir).map_err(Problem::io(self.dir))?;
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(&folder).map_err(|error| Problem::io(self.dir)(error.into()))?;
        #[cfg(not(target_os = "linux"))]
        rustix::fs::sync();
        drop(folder);
        Ok(())
    }

    fn output(&self, arguments: &[&str], input: Vec<u8>) -> Result<child::Output, Problem> {
        let mut command = environment::git();
        if let Some(index) = self.index {
            command.env("GIT_INDEX_FILE", index);
        }
        command.arg("--no-optional-locks").arg("--git-dir").arg(self.dir);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.args(arguments);
        child::run_up_to(&mut command, input, TIME_MAX, OUTPUT_BYTES_MAX).map_err(|error| {
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            let why = if is_missing { environment::NO_GIT.to_owned() } else { error.to_string() };
            self.failed(arguments, why)
        })
    }

    fn failed(&self, arguments: &[&str], why: String) -> Problem {
        let verb = arguments.first().copied().unwrap_or_default().to_owned();
        Problem::Git { verb, at: PathBuf::from(self.dir), why }
    }
}

/// Returns git's version; zero if it can't be told, so that everything is made durable by hand.
fn version() -> (u32, u32) {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let output = child::run(environment::git().arg("version"), Vec::new(), TIME_MAX);
        let text = output.map(|output| output.stdout).unwrap_or_default();
        read_version(&String::from_utf8_lossy(&text)).unwrap_or_default()
    })
}

fn read_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("git version ")?.split(['.', ' ']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_every_build_of_git() {
        assert_eq!(read_version("git version 2.30.2\n"), Some((2, 30)));
        assert_eq!(read_version("git version 2.39.5 (Apple Git-154)"), Some((2, 39)));
        assert_eq!(read_version("git version 2.47.3.windows.1"), Some((2, 47)));
        assert_eq!(read_version("something else"), None);
        assert!(version() >= (2, 30), "{:?}", version());
    }

    #[test]
    fn what_git_says_of_a_failure_is_in_the_problem() {
        let folder = tempfile::tempdir().unwrap();
        let git = Git::new(folder.path());
        let problem = git.run(&["rev-parse", "HEAD"], Vec::new()).unwrap_err().to_string();
        assert!(problem.contains("not a git repository"), "{problem}");
        assert!(!git.succeeds(&["rev-parse", "HEAD"], Vec::new()).unwrap());
    }
}
