//! Owns why a workspace is not ended, in words that say how to go on.
//!
//! Must not know how it was found out. Invariant: every message names what it is about and a
//! remedy, and is short enough for a record.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Longest reason in a record, in characters: it travels to every node, and is read by people.
pub const REASON_CHARS_MAX: usize = 2_048;

/// Why a workspace is not ended.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A session came into the workspace before the first step; nobody is told, it is tried again.
    #[error("a session has come into the workspace")]
    Occupied,
    /// A name that must not become an argument, or a path.
    #[error("the {what} `{}` {why}, so nothing is done with it", value.escape_debug())]
    Name {
        /// The field.
        what: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It lies where nothing may be removed.
    #[error(
        "{} is outside every --teardown-root of its host and is never removed; remove or move it by \
         hand and retry",
        .0.display()
    )]
    Outside(PathBuf),
    /// Removing it would take something else along.
    #[error(
        "{} is, or holds, {what} and is never removed; move the one out of the other and retry",
        path.display()
    )]
    Protected {
        /// The directory.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// Other file systems are mounted in it; never ended, not by force either.
    #[error(
        "{} has something mounted at or below it ({}), which must not be moved or deleted; unmount it \
         and retry",
        path.display(),
        point.display()
    )]
    Mounted {
        /// The directory.
        path: PathBuf,
        /// The outermost mount.
        point: PathBuf,
    },
    /// It is not what git made.
    #[error(
        "{} is not a linked git worktree{why} and is never removed as one; remove or move it by hand \
         and retry",
        path.display()
    )]
    NotWorktree {
        /// The directory.
        path: PathBuf,
        /// What it is instead, where that is known.
        why: String,
    },
    /// A repository below it that others need.
    #[error(
        "{} is {what}; remove it with `git worktree remove`, or move it, and retry, or force",
        path.display()
    )]
    Nested {
        /// The repository or worktree.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// It is not ended, and if it were, ignored files would go, too.
    #[error("{problem}; its ignored files would go along: {ignored}")]
    WithIgnored {
        /// Why it is not ended.
        problem: Box<Problem>,
        /// How much is ignored, and where.
        ignored: String,
    },
    /// Work in it is in no commit.
    #[error(
        "{} holds {what} that are in no commit; commit, move or discard them and retry, or force to \
         move them to the trash",
        path.display()
    )]
    Uncommitted {
        /// The directory.
        path: PathBuf,
        /// How many files, and some of their names.
        what: String,
    },
    /// An unfinished rebase, merge or the like.
    #[error(
        "{} is in the middle of a {what}; finish or abort it and retry, or force to move it to the \
         trash",
        path.display()
    )]
    Unfinished {
        /// The directory.
        path: PathBuf,
        /// Of what.
        what: &'static str,
    },
    /// Commits that are nowhere else.
    #[error("{} has {count} that {elsewhere} reaches; push or merge them and retry, or force{keeps}", path.display())]
    Unreached {
        /// The directory.
        path: PathBuf,
        /// How many.
        count: String,
        /// Where they were looked for.
        elsewhere: &'static str,
        /// What becomes of them with force.
        keeps: String,
    },
    /// Someone has said that it is to stay.
    #[error("{} is locked in git{why}; `git worktree unlock` it and retry, or force", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What they said.
        why: String,
    },
    /// Someone works in it.
    #[error("{} is in use by {by}; end that and retry, or force", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// By whom.
        by: String,
    },
    /// git did not do what it was asked for.
    #[error("git {verb} in {}: {why}; see to that and retry", at.display())]
    Git {
        /// What it was asked for.
        verb: String,
        /// Where.
        at: PathBuf,
        /// What it said.
        why: String,
    },
    /// The hook of an earlier start has not ended.
    #[error(
        "a hook that was started before has not ended (it holds {} open); see to that on the \
         workspace's host and retry",
        path.display()
    )]
    StillRuns {
        /// What it reads.
        path: PathBuf,
    },
    /// The daemon stops; it goes on at its next start.
    #[error("the daemon was stopped meanwhile; it goes on at its next start")]
    Stopped,
    /// The operating system refused something.
    #[error("{}: {source}; see to that and retry", path.display())]
    Io {
        /// What it was about.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file of hooks can't be used.
    #[error("{}: {why}; see to that on the workspace's host and retry", path.display())]
    Hooks {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody knows how to end it.
    #[error(
        "no hook is configured for workspaces of kind `{}`: name one in {} on its host and retry, or \
         force to forget the workspace and leave its files",
        kind.escape_debug(),
        path.display()
    )]
    NoHook {
        /// The workspace's kind.
        kind: String,
        /// Where hooks are configured.
        path: PathBuf,
    },
    /// The hook did not do it.
    #[error("the hook {program} {why}; see to that and retry")]
    Hook {
        /// The program.
        program: String,
        /// How it ended and what it said.
        why: String,
    },
    /// It can't be kept anywhere on its own file system.
    #[error(
        "no folder on the file system of {} can hold it{why}; nothing is copied to another one, so \
         make a private folder above it or move it by hand, and retry",
        path.display()
    )]
    NoPlace {
        /// The directory.
        path: PathBuf,
        /// What is wrong with the last place that was looked at.
        why: String,
    },
    /// What is there is not what was to be ended.
    #[error(
        "{} is not the worktree that this workspace was made with ({why}), so it is left as it is; \
         force to forget the workspace",
        path.display()
    )]
    Another {
        /// The directory.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// Neither the folder nor a repository that knows it was found.
    #[error(
        "{} is not there and {why}, so nothing was found that could be ended; put it back and retry, \
         or force to forget the workspace",
        path.display()
    )]
    Missing {
        /// The directory.
        path: PathBuf,
        /// What is known of its repository.
        why: String,
    },
    /// The agent did not forget a workspace whose files may lie in the trash by now.
    #[error("{why}; {}", remedy_of_agent(place.as_deref()))]
    Remover {
        /// What it said.
        why: String,
        /// Where the files are, if they were moved.
        place: Option<PathBuf>,
    },
    /// An entry of the trash is in other hands.
    #[error("{0}; wait for that and retry")]
    Held(String),
    /// The agent has deleted a branch, and it can't be made again.
    #[error(
        "its agent has deleted branch {branch} of {}, and it can't be put back at {commit}: {why}; its          files lie in the trash, see to that (a lock that no git holds any more may be removed) and          retry, or force to do without the branch",
        repository.display()
    )]
    BranchLost {
        /// The branch.
        branch: String,
        /// Where it pointed.
        commit: String,
        /// Its repository.
        repository: PathBuf,
        /// Why not.
        why: String,
    },
}

impl Problem {
    /// Makes the error of a system call about a path.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
    }

    /// Returns the reason that goes into the record.
    pub fn reason(&self) -> String {
        shortened(&self.to_string(), REASON_CHARS_MAX)
    }
}

fn remedy_of_agent(place: Option<&Path>) -> String {
    match place {
        Some(place) => format!(
            "its files lie in the trash already ({}) and are kept there; start the agent's server and \
             retry, so that it forgets the workspace",
            place.display()
        ),
        None => "start the agent's server and retry".to_owned(),
    }
}

/// Cuts a text out in its middle: what is wrong is at its beginning, how to go on at its end.
pub fn shortened(text: &str, chars_max: usize) -> String {
    let count = text.chars().count();
    if count <= chars_max {
        return text.to_owned();
    }
    let half = (chars_max - 1) / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(count - half).collect();
    format!("{head}…{tail}")
}

/// Makes one line of what a program has said, to be part of a reason.
pub fn said(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_keeps_what_is_wrong_and_how_to_go_on() {
        let path = PathBuf::from(format!("/{}", "long/".repeat(2_000)));
        let reason = Problem::Uncommitted { path, what: "3 files".to_owned() }.reason();
        assert_eq!(reason.chars().count(), REASON_CHARS_MAX - 1);
        assert!(
            reason.starts_with("/long/") && reason.ends_with("or force to move them to the trash")
        );
    }

    #[test]
    fn what_a_program_said_becomes_one_line_without_control_characters() {
        assert_eq!(said(b"\x1b[31mfatal: no\r\n\n  \xff hint\n"), "[31mfatal: no; \u{fffd} hint");
    }
}
