//! Owns what a session, a workspace and a member are, as plain data.
//!
//! Must not know how they are stored (automerge) or how their state follows from one another (the
//! view). `Stored…` is what a document says; `Session` and `Workspace` are what a person is shown:
//! the same with the derived parts added.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ids::{NodeId, OperationId, SessionId, WorkspaceId};

/// Largest time that JSON readers keep exact; what a peer writes beyond it is brought back.
pub const TIME_MS_MAX: i64 = 1 << 53;
/// Longest title or name, in characters.
pub const TITLE_CHARS_MAX: usize = 1_024;
/// Longest kind, project id, branch or name of an agent, in characters.
pub const WORD_CHARS_MAX: usize = 256;
/// Longest directory, in characters (Linux's `PATH_MAX`).
pub const DIRECTORY_CHARS_MAX: usize = 4_096;
/// Most entries in `extra`.
pub const EXTRA_ENTRIES_MAX: usize = 32;
/// Longest key in `extra`, in characters.
pub const EXTRA_KEY_CHARS_MAX: usize = 64;
/// Longest value in `extra`, in characters; 32 of them stay under the guard's 64 KiB a string.
pub const EXTRA_VALUE_CHARS_MAX: usize = 4_096;

/// The key in `extra` under which earlier versions marked the server that a session came from.
pub const EXTRA_SERVER: &str = "agent_server";

/// The key in `extra` under which a host reports how the git worktree of a workspace stands.
pub const EXTRA_GIT: &str = "git_state";
/// The free field in which the host of a worktree reports how much git ignores in it, and where, as
/// a line for a person.
pub const EXTRA_GIT_IGNORED: &str = "git_ignored";

/// The kind of workspaces that are git worktrees.
pub const KIND_WORKTREE: &str = "worktree";

/// A record's own, free fields.
pub type Extra = BTreeMap<String, String>;

/// Names a record: ids are only unique on their host, since a copied home folder brings the same
/// ids to two hosts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    /// Where the session lives.
    pub host: NodeId,
    /// Its name there.
    pub id: SessionId,
}

/// Names a workspace in a fleet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceKey {
    /// Where the workspace lives.
    pub host: NodeId,
    /// Its name there.
    pub id: WorkspaceId,
}

/// Says who deleted a session, when, and together with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// The node on which the delete was asked for.
    pub by: NodeId,
    /// Milliseconds since the epoch by that node's clock; for people only.
    pub at: i64,
    /// The act that this delete was part of.
    pub operation: OperationId,
    /// Why it was deleted, unless a person asked for it; written by the host alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<DeletionReason>,
}

/// Why a session was deleted that no person asked to delete here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeletionReason {
    /// Its agent's server had it no more.
    Agent,
}

impl DeletionReason {
    /// Returns the word under which it is written down.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
        }
    }
}

/// Where the ending of a workspace stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeardownState {
    /// The host has begun; the workspace can't come back.
    Sealed,
    /// The host could not finish; `retry` or `force` goes on.
    Failed,
}

/// The ending of a workspace, written by its host alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Teardown {
    /// Where it stands.
    pub state: TeardownState,
    /// Counts the attempts that were asked for, from 1.
    pub incarnation: u32,
    /// Milliseconds since the epoch by the host's clock; for people only.
    pub at: i64,
    /// Why it failed.
    pub error: Option<String>,
    /// Until when the host keeps what this attempt removes, milliseconds since the epoch by the
    /// host's clock; `None` where it keeps nothing.
    pub kept_until: Option<i64>,
}

/// What is left of a workspace that its host has ended: it stands in the document where the
/// workspace was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The attempt that succeeded.
    pub incarnation: u32,
    /// Milliseconds since the epoch by the host's clock; for people only.
    pub at: i64,
    /// Whether a person insisted.
    pub action: TeardownAction,
    /// What was done, for a person.
    pub done: String,
    /// Until when the host keeps what it removed, as the seal said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<i64>,
}

impl Ended {
    /// Writes it as the scalar that stands where the workspace was, after `mark`.
    pub fn grave(&self, mark: &str) -> String {
        let json = serde_json::to_string(self).expect("it has only string keys");
        format!("{mark} {json}")
    }

    /// Reads what [`Ended::grave`] wrote; `None` of a grave that tells nothing.
    pub fn parse(grave: &str) -> Option<Self> {
        serde_json::from_str(grave.split_once(' ')?.1).ok()
    }
}

/// What a person asks for after a teardown failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeardownAction {
    /// Try the same again.
    Retry,
    /// Go on although something would be lost.
    Force,
}

/// A session as its host's document holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// The workspace that it is in, on the same host.
    pub workspace_id: Option<WorkspaceId>,
    /// The session that it was started from; never changes.
    pub parent_id: Option<SessionId>,
    /// The agent's name for the project.
    pub project_id: Option<String>,
    /// Where it works, on its host.
    pub directory: Option<String>,
    /// What a person calls it.
    pub title: Option<String>,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Milliseconds since the epoch.
    pub updated_at: i64,
    /// Milliseconds since the epoch.
    pub archived_at: Option<i64>,
    /// The agent that has it; written by the host alone, as is the next one.
    pub agent: Option<String>,
    /// The agent's server that has it, by its address.
    pub agent_server: Option<String>,
    /// Free fields.
    pub extra: Extra,
    /// Present from its delete to its restore or purge.
    pub deleted: Option<Deletion>,
}

/// A workspace as its host's document holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWorkspace {
    /// What a person calls it.
    pub name: String,
    /// `worktree`, `directory`, `container`, …: how its host ends it.
    pub kind: String,
    /// The agent's name for the project.
    pub project_id: Option<String>,
    /// Where it is, on its host.
    pub directory: Option<String>,
    /// The branch checked out in it.
    pub branch: Option<String>,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// The agent's server that has it, by its address; written by the host alone.
    pub agent_server: Option<String>,
    /// The keeps that no unkeep has seen; the workspace is kept while there is one.
    pub keepers: BTreeMap<OperationId, NodeId>,
    /// Whether it has ever held a session or been dismissed; never turns back.
    pub used: bool,
    /// Free fields.
    pub extra: Extra,
    /// Present from the seal on.
    pub teardown: Option<Teardown>,
    /// What people asked for after a failed teardown, and the host has not yet taken up.
    pub requests: BTreeMap<OperationId, TeardownAction>,
    /// The deletes of the workspace as a whole, and whether each cleared a keep: what undoing one
    /// must bring back.
    pub dismissals: BTreeMap<OperationId, bool>,
}

/// What became of a session, derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Neither it nor a parent is deleted.
    Live,
    /// It or a parent is deleted.
    Deleted,
    /// Alive, but its workspace is sealed or gone: move it or delete it.
    Stranded,
}

/// What became of a workspace, derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceState {
    /// Occupied, kept, or not yet used.
    Live,
    /// Its last session went; it comes back if a session enters or is restored.
    Vacated,
    /// Its host is ending it.
    Sealed,
    /// Its host could not end it.
    Failed,
}

/// A session as a person is shown it: all keys always present, `null` where empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `StoredSession`")]
pub struct Session {
    pub id: SessionId,
    pub host: NodeId,
    pub workspace_id: Option<WorkspaceId>,
    pub parent_id: Option<SessionId>,
    pub project_id: Option<String>,
    pub directory: Option<String>,
    pub title: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
    pub archived_at: Option<i64>,
    pub agent: Option<String>,
    pub agent_server: Option<String>,
    /// Derived from the merged state on each replica.
    pub state: SessionState,
    pub deleted: Option<Deletion>,
    pub extra: Extra,
}

impl Session {
    /// Returns the session's name in the fleet.
    pub fn key(&self) -> SessionKey {
        SessionKey { host: self.host, id: self.id.clone() }
    }

    /// Returns the agent's server that may have it.
    ///
    /// Earlier versions noted the server in `extra` alone. Such a record is taken at its word until
    /// its server is listed: to wait for a server that is not there loses nothing, to purge does.
    pub fn server(&self) -> Option<&str> {
        self.agent_server.as_ref().or_else(|| self.extra.get(EXTRA_SERVER)).map(String::as_str)
    }
}

/// A workspace as a person is shown it: all keys always present, `null` where empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `StoredWorkspace`")]
pub struct Workspace {
    pub id: WorkspaceId,
    pub host: NodeId,
    pub name: String,
    pub kind: String,
    pub project_id: Option<String>,
    pub directory: Option<String>,
    pub branch: Option<String>,
    /// Whether an empty workspace stays.
    pub keep: bool,
    pub used: bool,
    pub created_at: i64,
    pub agent_server: Option<String>,
    /// Derived from the merged state on each replica.
    pub state: WorkspaceState,
    /// How many alive sessions are in it.
    pub session_count: u64,
    pub teardown: Option<Teardown>,
    pub extra: Extra,
}

/// How a git worktree stands, as its host last saw it: what its removal would lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GitState {
    /// Nothing would be lost.
    Clean,
    /// It holds uncommitted or untracked files, ignored ones aside, or something is unfinished.
    Uncommitted,
    /// It holds commits that no other branch and no remote-tracking ref reaches.
    Unreached,
    /// It holds both.
    UncommittedAndUnreached,
    /// Its host has not reported, or could not look.
    Unknown,
}

impl GitState {
    /// Returns the word under which it is reported.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Uncommitted => "uncommitted",
            Self::Unreached => "unreached",
            Self::UncommittedAndUnreached => "uncommitted_and_unreached",
            Self::Unknown => "unknown",
        }
    }

    fn parse(word: &str) -> Self {
        let all = [Self::Clean, Self::Uncommitted, Self::Unreached, Self::UncommittedAndUnreached];
        all.into_iter().find(|state| state.as_str() == word).unwrap_or(Self::Unknown)
    }
}

impl Workspace {
    /// Returns how its git worktree stands, as its host last reported; `None` if it is none.
    pub fn git_state(&self) -> Option<GitState> {
        let reported = self.extra.get(EXTRA_GIT).map(|word| GitState::parse(word));
        reported.or_else(|| (self.kind == KIND_WORKTREE).then_some(GitState::Unknown))
    }

    /// Returns what git ignores in its worktree, as a line for a person, as its host last reported.
    pub fn git_ignored(&self) -> Option<String> {
        self.extra.get(EXTRA_GIT_IGNORED).cloned()
    }

    /// Returns the workspace's name in the fleet.
    pub fn key(&self) -> WorkspaceKey {
        WorkspaceKey { host: self.host, id: self.id.clone() }
    }
}

/// What a member may do in its fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Receives only.
    Reader,
    /// Writes sessions and workspaces.
    Member,
    /// Invites and revokes, too.
    Admin,
}

impl Role {
    /// Returns the word under which it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }
}

/// Most addresses of a member that count: one a network interface and family.
pub const ADDRESSES_MAX: usize = 32;

/// A node that belongs, or has belonged, to the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its key.
    pub node: NodeId,
    /// The name under which it was admitted: the one that commands take.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Who let it in.
    pub added_by: NodeId,
    /// Milliseconds since the epoch by that node's clock; for people only.
    pub added_at: i64,
    /// Set when an admin has shut it out; never cleared.
    pub revoked: Option<Revocation>,
    /// Whether it has left of its own accord; cleared when it is invited again.
    pub left: bool,
}

impl Member {
    /// Tells whether the node may exchange anything with the fleet now.
    pub fn is_current(&self) -> bool {
        self.revoked.is_none() && !self.left
    }

    /// Tells whether an admin has shut it out and hidden what it hosts.
    pub fn is_retired(&self) -> bool {
        self.revoked.as_ref().is_some_and(|revocation| revocation.retired)
    }
}

/// What a node says of itself, in its own host document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// What people call the machine; `None` until it has said so.
    pub name: Option<String>,
    /// Where it can be dialled, `IP:PORT`, at most [`ADDRESSES_MAX`].
    pub addresses: BTreeSet<String>,
}

/// Says who shut a member out, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The admin.
    pub by: NodeId,
    /// Milliseconds since the epoch by the admin's clock; for people only.
    pub at: i64,
    /// Whether what it hosts is hidden.
    pub retired: bool,
}

impl Revocation {
    /// Returns what was done to the member, in one word.
    pub fn verb(&self) -> &'static str {
        if self.retired { "retired" } else { "revoked" }
    }
}
