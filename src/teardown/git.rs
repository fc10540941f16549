//! Owns asking git, and reading what it answers.
//!
//! Must not decide anything. Invariant: git is run with arguments, never through a shell, and
//! neither the daemon's environment nor a repository's configuration makes it run another program
//! or ask a person.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    child,
    problem::{Problem, said},
};

/// Longest question: the status of a very large worktree on a cold disk.
const QUERY_TIME_MAX: Duration = Duration::from_secs(120);
/// As many commits are counted; more are as bad.
pub const COMMITS_COUNTED_MAX: u32 = 1_000;
/// What git leaves in its folder while something is unfinished, and what that is.
const UNFINISHED: &[(&str, &str)] = &[
    ("rebase-merge", "rebase"),
    ("rebase-apply", "rebase"),
    ("MERGE_HEAD", "merge"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("BISECT_LOG", "bisection"),
];

/// A worktree as its repository lists it; the first of a list is the main one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Where it is, or was.
    pub path: PathBuf,
    /// What is checked out in it; `None` before the first commit.
    pub commit: Option<String>,
    /// The branch that is checked out in it, without `refs/heads/`; `None` if it is detached.
    pub branch: Option<String>,
    /// Why it is locked, if it is.
    pub locked: Option<String>,
}

/// A file that is not as it is in the commit that is checked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The two letters of `git status --porcelain=v1`.
    pub code: [u8; 2],
    /// Below the top of the worktree.
    pub path: String,
}

/// Returns the folder that a repository's worktrees share.
pub fn common_dir(at: &Path) -> Result<PathBuf, Problem> {
    rev_parse(at, "--git-common-dir")
}

/// Returns the top of the worktree that a directory is in.
pub fn top_level(at: &Path) -> Result<PathBuf, Problem> {
    rev_parse(at, "--show-toplevel")
}

fn rev_parse(at: &Path, what: &str) -> Result<PathBuf, Problem> {
    let mut output = ask(at, &["rev-parse", "--path-format=absolute", what])?;
    output.truncate(output.trim_ascii_end().len());
    Ok(PathBuf::from(OsString::from_vec(output)))
}

/// Returns the worktrees of the repository that `at` is part of, the main one first.
pub fn worktrees(at: &Path) -> Result<Vec<Listed>, Problem> {
    Ok(read_worktrees(&ask(at, &["worktree", "list", "--porcelain", "-z"])?))
}

fn read_worktrees(output: &[u8]) -> Vec<Listed> {
    let mut found: Vec<Listed> = Vec::new();
    for line in output.split(|byte| *byte == 0) {
        let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let (label, value) = (&line[..end], line.get(end + 1..).unwrap_or_default());
        let text = || String::from_utf8_lossy(value).into_owned();
        if label == b"worktree" {
            found.push(Listed { path: OsStr::from_bytes(value).into(), ..Listed::default() });
        }
        let Some(last) = found.last_mut() else { continue };
        match label {
            b"HEAD" => last.commit = Some(text()).filter(|id| id.bytes().any(|c| c != b'0')),
            b"branch" => {
                let name = text();
                last.branch = Some(name.strip_prefix("refs/heads/").unwrap_or(&name).to_owned());
            }
            b"locked" => last.locked = Some(text()),
            _ => {}
        }
    }
    found
}

/// Returns what in a directory of a worktree is in no commit: changed, staged and untracked files,
/// not those that are ignored.
pub fn changed(directory: &Path) -> Result<Vec<Changed>, Problem> {
    let arguments = [
        "status",
        "--porcelain=v1",
        "-z",
        "--untracked-files=all",
        "--ignore-submodules=none",
        "--no-renames",
        "--",
        ".",
    ];
    Ok(read_status(&run(directory, &arguments, QUERY_TIME_MAX)?.stdout))
}

fn read_status(output: &[u8]) -> Vec<Changed> {
    let lines = output.split(|byte| *byte == 0);
    let read = |line: &[u8]| match line {
        [first, second, b' ', path @ ..] => Some(Changed {
            code: [*first, *second],
            path: String::from_utf8_lossy(path).into_owned(),
        }),
        _ => None,
    };
    lines.filter_map(read).collect()
}

/// Counts the commits of a worktree that neither a branch other than its own nor a remote-tracking
/// ref reaches, up to [`COMMITS_COUNTED_MAX`].
pub fn unreached(at: &Path, commit: &str, own_branch: Option<&str>) -> Result<u32, Problem> {
    let exclude = own_branch.map(|branch| format!("--exclude={branch}"));
    let mut arguments = vec![commit, "--not"];
    arguments.extend(exclude.as_deref());
    arguments.extend(["--branches", "--remotes"]);
    count(at, &arguments)
}

/// Counts the commits of a repository that no remote-tracking ref reaches, stashes included, up to
/// [`COMMITS_COUNTED_MAX`].
pub fn unpushed(at: &Path, commit: Option<&str>) -> Result<u32, Problem> {
    let mut arguments = vec!["--branches", "--glob=refs/stash*"];
    arguments.extend(commit);
    arguments.extend(["--not", "--remotes"]);
    count(at, &arguments)
}

fn count(at: &Path, revisions: &[&str]) -> Result<u32, Problem> {
    let max = format!("--max-count={COMMITS_COUNTED_MAX}");
    let arguments = [&["rev-list", "--count", &max], revisions, &["--"]].concat();
    let output = ask(at, &arguments)?;
    let text = String::from_utf8_lossy(&output);
    text.trim().parse().map_err(|_| failed(at, &arguments, format!("said `{}`", said(&output))))
}

/// Returns what is unfinished in a worktree.
pub fn unfinished(worktree: &Path) -> Result<Option<&'static str>, Problem> {
    Ok(unfinished_in(&rev_parse(worktree, "--git-dir")?))
}

/// Returns what is unfinished in the worktree of an administrative folder.
pub fn unfinished_in(admin: &Path) -> Option<&'static str> {
    UNFINISHED.iter().find(|(name, _)| admin.join(name).exists()).map(|(_, what)| *what)
}

fn ask(at: &Path, arguments: &[&str]) -> Result<Vec<u8>, Problem> {
    let output = run(at, arguments, QUERY_TIME_MAX)?;
    if output.cut {
        return Err(failed(at, arguments, "said more than can be read".to_owned()));
    }
    Ok(output.stdout)
}

fn run(at: &Path, arguments: &[&str], time_max: Duration) -> Result<child::Output, Problem> {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if name.as_bytes().starts_with(b"GIT_") {
            command.env_remove(name);
        }
    }
    command
        .env("LC_ALL", "C")
        .env("GIT_TERMINAL_PROMPT", "0")
        .current_dir("/")
        .args(["--no-optional-locks", "-c", "core.fsmonitor=false"])
        .args(["-c", "core.hooksPath=/dev/null", "-C"])
        .arg(at)
        .args(arguments);
    let output = match child::run(&mut command, Vec::new(), time_max) {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(failed(at, arguments, "git is not installed".to_owned()));
        }
        Err(error) => return Err(failed(at, arguments, error.to_string())),
    };
    match output.status {
        Some(status) if status.success() => Ok(output),
        Some(status) => Err(failed(at, arguments, format!("{status}: {}", said(&output.stderr)))),
        None => Err(failed(at, arguments, format!("took longer than {time_max:?}"))),
    }
}

fn failed(at: &Path, arguments: &[&str], why: String) -> Problem {
    let verb = match arguments {
        ["worktree", verb, ..] => format!("worktree {verb}"),
        [verb, ..] => (*verb).to_owned(),
        [] => String::new(),
    };
    Problem::Git { verb, at: at.into(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_worktrees_is_read_with_all_that_it_says() {
        let output = b"worktree /r\0bare\0\0worktree /a b\nc\0HEAD 12ab\0branch refs/heads/f/x\0\
                       locked on a stick\0\0worktree /d\0HEAD 0000\0detached\0locked\0prunable x\0\0";
        let listed = read_worktrees(output);
        let plain = Listed { path: "/r".into(), ..Listed::default() };
        let branch = Listed {
            path: "/a b\nc".into(),
            commit: Some("12ab".to_owned()),
            branch: Some("f/x".to_owned()),
            locked: Some("on a stick".to_owned()),
        };
        let locked = Some(String::new());
        let detached = Listed { path: "/d".into(), locked, ..Listed::default() };
        assert_eq!(listed, [plain, branch, detached]);
        assert_eq!(read_worktrees(b"\0HEAD 1\0"), []);
    }

    #[test]
    fn the_status_is_read_whatever_the_names_are() {
        let changed = read_status(b" D gone\0?? new file\nx\0M  staged\0D  removed\0bad\0");
        let codes: Vec<_> = changed.iter().map(|c| (&c.code, c.path.as_str())).collect();
        assert_eq!(
            codes,
            [(b" D", "gone"), (b"??", "new file\nx"), (b"M ", "staged"), (b"D ", "removed")]
        );
    }

    #[test]
    fn a_question_about_what_is_no_repository_says_what_git_said() {
        let folder = tempfile::tempdir().unwrap();
        let problem = worktrees(folder.path()).unwrap_err().to_string();
        assert!(
            problem.contains("git worktree list") && problem.contains("not a git"),
            "{problem}"
        );
    }
}
