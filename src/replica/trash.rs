//! Owns what a host says of the things that it keeps after it has ended them, as plain data.
//!
//! Must not know where the kept files lie in detail, nor how an entry is restored: the teardown room
//! does that. Invariant: an entry never makes a deleted session or workspace live again by itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids::{NodeId, OperationId, TrashId};

/// Most entries of one host that other nodes are told of: a list that a person can still read, and
/// with [`SUMMARY_BYTES_MAX`] a megabyte on every node of the fleet.
pub const ENTRIES_MAX: usize = 1_000;
/// Longest summary of an entry that other nodes are told, in bytes.
pub const SUMMARY_BYTES_MAX: usize = 1_000;
/// How much of a text is left at least when a summary is made shorter, in characters.
const TEXT_CHARS_MIN: usize = 8;

/// What an entry of the trash was before it was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrashKind {
    /// A folder with its files, and for a git worktree what its repository knew of it.
    Workspace,
    /// A conversation, as its agent exported it.
    Session,
}

/// Where an entry of the trash stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrashState {
    /// It lies in the trash, whole.
    Kept,
    /// It was put back; the entry only tells where.
    Restored,
    /// Its deletion has begun: it can't be restored any more.
    Expiring,
    /// Its deletion has failed and is tried again; `problem` says why.
    Stuck,
}

/// What a folder held that was in no commit, or that no other ref reached, when it was ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Tracked files that differ from the commit, staged or not.
    pub uncommitted: u64,
    /// Files that git does not track and does not ignore.
    pub untracked: u64,
    /// Commits that no other branch, tag or remote-tracking ref reached.
    pub unreached: u64,
    /// Ignored files, in bytes.
    pub ignored: u64,
    /// Repositories and linked worktrees below the folder, relative to it.
    pub nested: Vec<String>,
}

impl Held {
    /// Tells whether the folder held only committed, reached work and ignored files: the one kind
    /// of entry that may be deleted early when space is short.
    pub fn is_replaceable(&self) -> bool {
        let Self { uncommitted, untracked, unreached, ignored: _, nested } = self;
        *uncommitted == 0 && *untracked == 0 && *unreached == 0 && nested.is_empty()
    }
}

/// One entry of a host's trash, as every node lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashEntry {
    /// The id of the workspace or session that was ended.
    pub id: String,
    /// What it was.
    pub kind: TrashKind,
    /// What people called it: a workspace's name, a session's title.
    pub name: String,
    /// Where it was on its host.
    pub directory: Option<String>,
    /// The branch that was checked out.
    pub branch: Option<String>,
    /// The commit that was checked out.
    pub commit: Option<String>,
    /// The node that keeps it.
    pub host: NodeId,
    /// When it was moved here, milliseconds since the epoch by the host's clock.
    pub ended_at: i64,
    /// When it is deleted for good, milliseconds since the epoch by the host's clock.
    pub expires_at: i64,
    /// How much space it takes.
    pub bytes: u64,
    /// What it held; `None` where that could not be read, and for sessions.
    pub held: Option<Held>,
    /// The folder or file that it lies in on its host.
    pub place: Option<String>,
    /// Where it stands.
    pub state: TrashState,
    /// Why it was ended: `last_session`, `dismissed`, `forced`, …
    pub reason: Option<String>,
    /// What is wrong with it, or what the agent said when it was given back, for a person.
    pub problem: Option<String>,
    /// The directory, or the id of the new session, that it was restored as.
    pub restored_as: Option<String>,
}

/// An entry of a host's trash, and the restores that were asked for and not yet answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashListed {
    /// What its host says of it.
    #[serde(flatten)]
    pub entry: TrashEntry,
    /// Who has asked to have it restored, by operation.
    pub requests: BTreeMap<OperationId, NodeId>,
}

/// An entry as a host's document holds it, its summary not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashStored {
    /// The node that keeps it.
    pub host: NodeId,
    /// What it is called there.
    pub id: TrashId,
    /// What its host says of it.
    pub summary: String,
    /// Who has asked to have it restored, by operation.
    pub requests: BTreeMap<OperationId, NodeId>,
}

impl TrashStored {
    /// Reads the summary; `None` if this version can't.
    pub fn read(&self) -> Option<TrashListed> {
        let entry: TrashEntry = serde_json::from_str(&self.summary).ok()?;
        // Under whose name, and under which id, it stands is not the summary's to say.
        let entry = TrashEntry { id: self.id.to_string(), host: self.host, ..entry };
        Some(TrashListed { entry, requests: self.requests.clone() })
    }
}

impl TrashEntry {
    /// Writes it as other nodes are told of it: as JSON of at most [`SUMMARY_BYTES_MAX`] bytes. What
    /// is longer is made shorter: first the list of repositories below it, then what is wrong with
    /// it, then the longest of the other texts.
    pub fn summary(&self) -> String {
        let mut entry = self.clone();
        let mut left_out = 0_usize;
        loop {
            let json = serde_json::to_string(&entry).expect("it has only text keys");
            if json.len() <= SUMMARY_BYTES_MAX || !entry.shorten(&mut left_out) {
                return json;
            }
        }
    }

    /// Leaves a little out; false if there is nothing left that could be.
    fn shorten(&mut self, left_out: &mut usize) -> bool {
        if let Some(held) = &mut self.held {
            // The last line says how many are not named.
            let lines = usize::from(*left_out > 0);
            if held.nested.len() > lines {
                held.nested.truncate(held.nested.len() - lines - 1);
                *left_out += 1;
                held.nested.push(format!("… and {left_out} more"));
                return true;
            }
        }
        let Self { id: _, kind: _, name, directory, branch, commit, host: _, .. } = self;
        let texts = [
            Some(name),
            directory.as_mut(),
            branch.as_mut(),
            commit.as_mut(),
            self.place.as_mut(),
            self.reason.as_mut(),
            self.restored_as.as_mut(),
        ];
        let mut texts: Vec<&mut String> = texts.into_iter().flatten().collect();
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let first = self.problem.as_mut().into_iter();
        first.chain(texts).any(halve)
    }
}

/// Leaves out the middle half of a text; false if it is short already.
fn halve(text: &mut String) -> bool {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= TEXT_CHARS_MIN {
        return false;
    }
    let (begin, end) = (&chars[..chars.len() / 4], &chars[chars.len() - chars.len() / 4..]);
    *text = begin.iter().chain(&['…']).chain(end).collect();
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> TrashEntry {
        TrashEntry {
            id: "wrk_1".to_owned(),
            kind: TrashKind::Workspace,
            name: "fix the login".to_owned(),
            directory: Some("/home/me/work/login".to_owned()),
            branch: Some("login".to_owned()),
            commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            host: NodeId([7; 32]),
            ended_at: 1_795_000_000_000,
            expires_at: 1_796_209_600_000,
            bytes: 1 << 40,
            held: Some(Held { uncommitted: 3, ..Held::default() }),
            place: Some("/home/me/.sessionmesh/trash/wrk_1.1".to_owned()),
            state: TrashState::Kept,
            reason: Some("last_session".to_owned()),
            problem: None,
            restored_as: None,
        }
    }

    fn read(summary: String) -> TrashEntry {
        let stored = TrashStored {
            host: NodeId([7; 32]),
            id: "wrk_1".parse().unwrap(),
            summary,
            requests: BTreeMap::new(),
        };
        stored.read().expect("it reads back").entry
    }

    #[test]
    fn an_entry_that_fits_is_told_whole() {
        assert_eq!(read(entry().summary()), entry());
    }

    #[test]
    fn of_a_long_entry_the_lists_go_first_and_what_is_needed_to_find_it_last() {
        let nested = (0..500).map(|n| format!("vendor/library-{n}")).collect();
        let held = Some(Held { uncommitted: 3, nested, ..Held::default() });
        let problem = Some("the agent said: ".to_owned() + &"no, ".repeat(1_000));
        let long = TrashEntry { held, problem, ..entry() };
        let told = read(long.summary());
        assert_eq!(TrashEntry { held: None, problem: None, ..told.clone() }, {
            TrashEntry { held: None, problem: None, ..entry() }
        });
        let nested = told.held.expect("it is told").nested;
        assert_eq!(nested.last().map(String::as_str), Some("… and 500 more"));
        let problem = told.problem.expect("it is told");
        assert!(problem.starts_with("the agent") && problem.ends_with("no, "), "{problem}");
    }

    #[test]
    fn a_summary_says_nothing_of_another_host_or_id() {
        let other = TrashEntry { id: "other".to_owned(), host: NodeId([8; 32]), ..entry() };
        assert_eq!(read(other.summary()), entry());
    }

    proptest! {
        #[test]
        fn a_summary_is_never_too_long(
            name in ".{0,2000}",
            directory in proptest::option::of(".{0,4096}"),
            problem in proptest::option::of(".{0,4096}"),
            branch in proptest::option::of("[\u{0}-\u{1f}]{0,400}"),
            nested in proptest::collection::vec(".{0,300}", 0..40),
        ) {
            let held = Some(Held { nested, ..Held::default() });
            let place = directory.clone();
            let long = TrashEntry { name, directory, branch, problem, held, place, ..entry() };
            let summary = long.summary();
            prop_assert!(summary.len() <= SUMMARY_BYTES_MAX, "{} bytes", summary.len());
            read(summary);
        }
    }
}
