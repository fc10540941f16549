//! Owns running git: its environment, its limits and its errors.
//!
//! Must not know what is asked. Invariant: git is run with arguments, never through a shell; the
//! daemon's environment does not lead it elsewhere; it asks nobody and fetches nothing.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::repository::Repository;
use crate::teardown::{
    child, environment,
    problem::{Problem, said},
};

/// Longest question: the status of a very large worktree on a cold disk.
const QUERY_TIME_MAX: Duration = Duration::from_secs(120);
/// Most bytes of an answer: the index of a million files.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// Returns the version of the git that this process finds, such as `2.47.3`.
///
/// # Errors
///
/// There is none, or it can't be run.
pub fn version() -> Result<String, Problem> {
    let arguments = ["--version"];
    let output = child::run(base().args(arguments), Vec::new(), QUERY_TIME_MAX);
    let text = said(&answer(Path::new("/"), &arguments, output)?);
    Ok(text.strip_prefix("git version ").unwrap_or(&text).to_owned())
}

/// Asks git about a directory as a person there would, with the repository's own configuration:
/// for commands that run nothing that the configuration names.
pub fn ask_at(at: &Path, arguments: &[&str]) -> Result<Vec<u8>, Problem> {
    let mut command = base();
    command.arg("-C").arg(at);
    finish(at, command, arguments, Vec::new())
}

/// Asks git about a repository, wherever in it `at` is, with the repository's own configuration:
/// for commands that run nothing that the configuration names.
///
/// The repository is named and not searched for, so that `safe.bareRepository` allows it.
pub fn ask_repository(at: &Path, arguments: &[&str]) -> Result<Vec<u8>, Problem> {
    finish(at, in_repository(at), arguments, Vec::new())
}

/// The same of a git folder itself, which may be that of a linked worktree.
pub fn ask_git_dir(git_dir: &Path, arguments: &[&str]) -> Result<Vec<u8>, Problem> {
    let mut command = base();
    command.arg("--git-dir").arg(git_dir);
    finish(git_dir, command, arguments, Vec::new())
}

fn in_repository(at: &Path) -> Command {
    let mut command = base();
    match Repository::at(at) {
        Ok(Some(repository)) => command.arg("--git-dir").arg(repository.git_dir),
        // Git says what is wrong with it.
        _ => command.arg("-C").arg(at),
    };
    command
}

/// Asks git about a private git folder and a work tree.
pub fn ask_private(
    git_dir: &Path,
    environment: &[(&str, PathBuf)],
    at: &Path,
    arguments: &[&str],
    input: Vec<u8>,
) -> Result<Vec<u8>, Problem> {
    let mut command = base();
    command
        .env("GIT_DIR", git_dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        // Git before 2.32 finds the user's configuration by these alone.
        .env("HOME", git_dir)
        .env("XDG_CONFIG_HOME", git_dir)
        .env("GIT_LITERAL_PATHSPECS", "1")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .arg("-C")
        .arg(at);
    finish(at, command, arguments, input)
}

fn base() -> Command {
    let mut command = environment::git();
    command.args(["--no-pager", "--no-optional-locks", "-c", "core.fsmonitor=false"]).args([
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "gc.auto=0",
    ]);
    command
}

fn finish(
    at: &Path,
    mut command: Command,
    arguments: &[&str],
    input: Vec<u8>,
) -> Result<Vec<u8>, Problem> {
    command.args(arguments);
    let output = child::run_up_to(&mut command, input, QUERY_TIME_MAX, ANSWER_BYTES_MAX);
    answer(at, arguments, output)
}

fn answer(
    at: &Path,
    arguments: &[&str],
    output: io::Result<child::Output>,
) -> Result<Vec<u8>, Problem> {
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(failed(at, arguments, environment::NO_GIT.to_owned()));
        }
        Err(error) => return Err(failed(at, arguments, error.to_string())),
    };
    match output.status {
        // What was cut off must not be taken for all that there is.
        Some(status) if status.success() && output.cut => {
            Err(failed(at, arguments, "said more than can be read".to_owned()))
        }
        Some(status) if status.success() => Ok(output.stdout),
        Some(status) => Err(failed(at, arguments, format!("{status}: {}", said(&output.stderr)))),
        None => Err(failed(at, arguments, format!("took longer than {QUERY_TIME_MAX:?}"))),
    }
}

/// Makes the problem of a command that did not do what it was asked for.
pub fn failed(at: &Path, arguments: &[&str], why: String) -> Problem {
    let verb = match arguments {
        ["worktree", verb, ..] => format!("worktree {verb}"),
        [verb, ..] => (*verb).to_owned(),
        [] => String::new(),
    };
    Problem::Git { verb, at: at.into(), why }
}
