//! Owns what a host says of the things that it keeps after it has ended them, as plain data.
//!
//! Must not know where the kept files lie in detail, nor how an entry is restored: the teardown room
//! does that. Invariant: an entry never makes a deleted session or workspace live again by itself.

use serde::{Deserialize, Serialize};

use super::ids::NodeId;

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
