//! Owns why a verb fails, and what a script and a person are told of it.
//!
//! Must not know verbs. Invariant: a failure is one line, whatever a peer or a title put into it.

use std::{fmt, io, path::PathBuf, time::Duration};

use super::printable::printable;
use crate::{agent::opencode, config, daemon, telemetry};

/// How a process ends, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Not done.
    Failed = 1,
    /// Not understood.
    Usage = 2,
    /// What was named is not there.
    NotFound = 3,
    /// No daemon answers.
    Unreachable = 4,
}

/// A failed request, as far as the daemon said why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Refused {
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// The stable code.
    pub code: String,
    /// What went wrong.
    pub detail: String,
    /// What to do about it.
    #[serde(default)]
    pub hint: String,
    /// What may have been meant.
    #[serde(default)]
    pub candidates: Vec<String>,
    /// When to ask again, where it was refused for being one too many.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

/// Why a verb fails.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments make no sense together.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to type instead.
        hint: &'static str,
    },
    /// Nothing has an id that begins so.
    #[error("{} has an id that begins with `{text}`", nothing(kind))]
    NotFound {
        /// What was looked for.
        kind: &'static str,
        /// What was typed.
        text: String,
    },
    /// Several have.
    #[error("`{text}` may be any of {}{}", candidates.join(", "), more(*left_out))]
    Ambiguous {
        /// What was typed.
        text: String,
        /// Some that it may be.
        candidates: Vec<String>,
        /// How many more there are.
        left_out: usize,
    },
    /// There is no delete to undo.
    #[error("{what}")]
    NothingToRestore {
        /// Which record has none.
        what: String,
    },
    /// A delete was not carried out everywhere within the time.
    #[error("not carried out everywhere yet: {what}")]
    Incomplete {
        /// What it waits for.
        what: String,
        /// Its name.
        receipt: String,
    },
    /// The daemon says no.
    #[error("{}", .0.detail)]
    Refused(Refused),
    /// No daemon answers.
    #[error("no daemon answers for data folder {}: {reason}", data_dir.display())]
    Unreachable {
        /// Whose daemon.
        data_dir: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The connection broke, so that what became of a request is not known.
    #[error("the daemon went away before it answered: {0}")]
    Interrupted(String),
    /// What the daemon says is not understood.
    #[error("the daemon's answer is not understood: {0}")]
    Foreign(String),
    /// The data folder's token can't be read.
    #[error("{} can't be read: {error}", path.display())]
    Token {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A setting can't be used.
    #[error(transparent)]
    Setting(#[from] config::Error),
    /// Logs can't be written.
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    /// An opencode server can't be read.
    #[error(transparent)]
    Opencode(#[from] opencode::Error),
    /// The daemon did not start, or stopped by itself.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// The system has no room for what is needed.
    #[error("{what}: {error}")]
    System {
        /// What can't be had.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// A measured fleet did not do what it must.
    #[error("bench: {0}")]
    Bench(&'static str),
    /// The daemon was told twice to stop.
    #[error("stopped without waiting for what was under way")]
    Aborted,
    /// Something on this machine is not as it has to be.
    #[error("{0} of these are not as they have to be")]
    Unwell(usize),
    /// Another machine was asked to put something back, and has not answered yet.
    #[error("{host} is asked to put {id} back, and has not answered yet")]
    Asked {
        /// What it is to put back.
        id: String,
        /// The machine.
        host: String,
    },
    /// Another machine was asked to put something back, and could not.
    #[error("{host} did not put it back: {why}")]
    NotPutBack {
        /// The machine.
        host: String,
        /// What it said.
        why: String,
    },
    /// Something of what was kept can't be deleted.
    #[error("{id} can't be deleted: {why}")]
    NotDeleted {
        /// What was kept.
        id: String,
        /// What stands in the way.
        why: String,
    },
    /// The person said no.
    #[error("{0} is left as it is")]
    Declined(String),
    /// What was to be shown can't be written.
    #[error("the output can't be written: {0}")]
    Output(io::Error),
    /// Whoever read the output has had enough; nothing to complain of.
    #[error("the output was closed")]
    OutputClosed,
}

impl Failure {
    /// Returns how the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } | Self::Setting(_) | Self::Telemetry(_) => Exit::Usage,
            Self::Opencode(opencode::Error::Address(_)) => Exit::Usage,
            Self::NotFound { .. } => Exit::NotFound,
            Self::Refused(refused) if refused.status == 404 => Exit::NotFound,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::OutputClosed => Exit::Done,
            _ => Exit::Failed,
        }
    }

    /// Returns what to do about it, where there is something to be done.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Usage { hint, .. } => *hint,
            Self::NotFound { kind: "trash", .. } => "see `sessionmesh trash list`",
            Self::NotFound { kind, .. } => {
                return Some(format!("see `sessionmesh {kind} list --all`"));
            }
            Self::Ambiguous { .. } => "type more of the id, or ID@HOST",
            Self::NothingToRestore { .. } => {
                "only what was deleted can be restored, until its host has carried the delete out"
            }
            Self::Incomplete { receipt, .. } => {
                return Some(format!(
                    "it goes on; look with `sessionmesh receipt {receipt} --wait`"
                ));
            }
            Self::Asked { id, .. } => {
                return Some(format!(
                    "it does so once it is connected; look with `sessionmesh trash show {id}`"
                ));
            }
            Self::Refused(refused) => return Some(refused_hint(refused)),
            Self::Unreachable { data_dir, .. } => {
                let default = config::data_dir(None).is_ok_and(|dir| dir == *data_dir);
                if default {
                    "start one with `sessionmesh serve`"
                } else {
                    let dir = data_dir.display();
                    return Some(format!("start one with `sessionmesh serve --data-dir {dir}`"));
                }
            }
            Self::NotDeleted { .. } => "see to that; it is tried again every minute",
            Self::Interrupted(_) => "look with `sessionmesh status` before you try again",
            Self::Foreign(_) => "daemon and command must have the same version",
            Self::Token { .. } => "run this as the user who runs the daemon",
            Self::Opencode(error) => return opencode_hint(error),
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", *self as u8)
    }
}

/// Returns the one line that a person is told.
pub fn line(failure: &Failure) -> String {
    let message = printable(&failure.to_string());
    match failure.hint() {
        Some(hint) if !hint.is_empty() => format!("error: {message} — {}", printable(&hint)),
        _ => format!("error: {message}"),
    }
}

fn nothing(kind: &str) -> String {
    if kind == "trash" { "nothing that is kept".to_owned() } else { format!("no {kind}") }
}

fn more(left_out: usize) -> String {
    if left_out == 0 { String::new() } else { format!(" and {left_out} more") }
}

/// Says in verbs what the API says in routes.
fn refused_hint(refused: &Refused) -> String {
    match refused.code.as_str() {
        "session_not_found" => "see `sessionmesh session list --all`".to_owned(),
        "workspace_not_found" => "see `sessionmesh workspace list --all`".to_owned(),
        "receipt_not_found" => {
            "ask on the machine that was asked to delete; it keeps the last few hundred".to_owned()
        }
        "node_not_found" => "see `sessionmesh peer list`".to_owned(),
        "session_deleted" | "parent_deleted" => {
            "bring it back with `sessionmesh session restore ID`".to_owned()
        }
        "not_alone" => "leave the present fleet first, with `sessionmesh leave`".to_owned(),
        "this_node_revoked" => {
            "leave with `sessionmesh leave`; to come back the machine needs a new key and a ticket"
                .to_owned()
        }
        "is_root" => {
            "let it step down first, with `sessionmesh step-down` on it; if its machine is lost, \
                      `sessionmesh peer revoke` it and then retire it"
                .to_owned()
        }
        "retired" => "the machine may join again, under the same name, with a new key and a ticket"
            .to_owned(),
        "last_admin" => {
            "give another machine the role first: `sessionmesh peer promote NAME --role admin`"
                .to_owned()
        }
        "alone" => "there is nothing to leave; enter a fleet with `sessionmesh join`".to_owned(),
        "bad_ticket" => "make a new one with `sessionmesh invite` on a member".to_owned(),
        "trash_not_found" | "trash_not_kept" => "see `sessionmesh trash list`".to_owned(),
        "not_here" => format!(
            "type it on {}; from here, `sessionmesh trash restore ID` puts it back to where it was",
            refused.candidates.join(", ")
        ),
        "in_the_way" | "unusable_place" => {
            "make room there, or name another place with `--to DIR`".to_owned()
        }
        "teardown_not_failed" => "see its state with `sessionmesh workspace show`".to_owned(),
        "unauthorized" => "the token is that of another daemon: check --data-dir".to_owned(),
        _ if !refused.candidates.is_empty() => {
            format!("{} ({})", refused.hint, refused.candidates.join(", "))
        }
        _ => refused.hint.clone(),
    }
}

fn opencode_hint(error: &opencode::Error) -> Option<String> {
    use opencode::Error;
    let hint = match error {
        Error::Address(_) => "give it as http://HOST:PORT",
        Error::Unreachable { .. } => "start it with `opencode serve --port PORT`",
        Error::AnotherUser { .. } => return None,
        Error::Password { given: false, .. } => "set OPENCODE_SERVER_PASSWORD to the server's",
        Error::Password { given: true, .. } => "OPENCODE_SERVER_PASSWORD must be the server's",
        Error::Foreign { .. } => "give the address that `opencode serve` prints",
        Error::Version { .. } => "opencode 1.18 and later 1.x can be imported",
        Error::Status { .. } => "see the server's log; nothing was imported",
        Error::TooLong { .. } => "nothing was imported",
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str, hint: &str) -> Failure {
        Failure::Refused(Refused {
            status,
            code: code.to_owned(),
            detail: "session x is not known here".to_owned(),
            hint: hint.to_owned(),
            candidates: Vec::new(),
            retry_after: None,
        })
    }

    #[test]
    fn each_failure_ends_with_the_code_that_scripts_rely_on() {
        let unreachable = Failure::Unreachable { data_dir: "/d".into(), reason: "none".to_owned() };
        let not_found = Failure::NotFound { kind: "session", text: "x".to_owned() };
        let usage = Failure::Usage { what: "no".to_owned(), hint: "yes" };
        for (failure, exit) in [
            (refused(404, "session_not_found", ""), 3),
            (refused(409, "ambiguous_id", ""), 1),
            (refused(422, "invalid_field", ""), 1),
            (not_found, 3),
            (unreachable, 4),
            (usage, 2),
            (config::Error::NoFolder.into(), 2),
            (opencode::Error::Address("x".to_owned()).into(), 2),
            (Failure::Foreign("x".to_owned()), 1),
            (Failure::OutputClosed, 0),
        ] {
            assert_eq!(failure.exit() as u8, exit, "{failure}");
        }
    }

    #[test]
    fn an_error_is_one_line_with_its_hint_whatever_it_quotes() {
        let failure = Failure::NotFound { kind: "session", text: "a\n\u{1b}[31mb".to_owned() };
        let line = line(&failure);
        assert!(line.starts_with("error: no session") && line.contains(" — see `"), "{line}");
        assert!(!line.contains(char::is_control), "{line}");
    }

    #[test]
    fn a_hint_of_the_api_is_passed_on_unless_a_verb_says_it_better() {
        assert!(line(&refused(409, "id_taken", "Choose another.")).ends_with("— Choose another."));
        assert!(line(&refused(409, "alone", "POST /v1/join")).contains("sessionmesh join"));
        assert!(!line(&refused(500, "internal", "")).contains('—'));
    }
}
