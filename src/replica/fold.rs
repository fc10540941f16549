//! Owns what a subscriber does: begin with a snapshot and apply one diff after the other.
//!
//! Must not know the rule: a record is taken as it is told. Invariant: folding a diff that follows
//! gives exactly the next view, digest included; a diff that is refused leaves everything as it
//! was.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    diff::{Diff, Event},
    digest::Digest,
    ids::Cursor,
    record::{Session, SessionKey, Workspace, WorkspaceKey},
};

/// All that there is to see, at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Names the instant.
    pub cursor: Cursor,
    /// The digest of the records.
    pub digest: Digest,
    /// Every session, whatever its state, in key order.
    pub sessions: Vec<Arc<Session>>,
    /// Every workspace, whatever its state, in key order.
    pub workspaces: Vec<Arc<Workspace>>,
}

/// Explains why what was told can't be right here; begin again with a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The diff follows another view than the one here.
    #[error("the diff follows cursor {previous}, and this view stands at {cursor}")]
    Gap {
        /// Where the diff begins.
        previous: Cursor,
        /// Where the view stands.
        cursor: Cursor,
    },
    /// The records do not add up to the digest that came with them.
    #[error("the records at cursor {cursor} have digest {actual} and should have {told}")]
    Digest {
        /// Where the snapshot or the diff ends.
        cursor: Cursor,
        /// What came with them.
        told: Digest,
        /// What they add up to.
        actual: Digest,
    },
}

/// A view as a subscriber keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    sessions: BTreeMap<SessionKey, Arc<Session>>,
    workspaces: BTreeMap<WorkspaceKey, Arc<Workspace>>,
    cursor: Cursor,
    digest: Digest,
}

impl Fold {
    /// Begins with a snapshot; refuses one whose digest is not that of its records.
    pub fn from_snapshot(snapshot: Snapshot) -> Result<Self, FoldError> {
        let sessions = snapshot.sessions.into_iter().map(|session| (session.key(), session));
        let workspaces = snapshot.workspaces.into_iter().map(|record| (record.key(), record));
        let fold = Self {
            sessions: sessions.collect(),
            workspaces: workspaces.collect(),
            cursor: snapshot.cursor,
            digest: snapshot.digest,
        };
        let sessions = fold.sessions.values().map(|session| Digest::of_session(session));
        let workspaces = fold.workspaces.values().map(|record| Digest::of_workspace(record));
        check(snapshot.cursor, snapshot.digest, sessions.chain(workspaces).sum())?;
        Ok(fold)
    }

    /// Takes the view to the end of a diff; refuses one that does not follow, or whose digest the
    /// view would not have, and then stays as it was.
    pub fn apply(&mut self, diff: &Diff) -> Result<(), FoldError> {
        if diff.previous != self.cursor {
            return Err(FoldError::Gap { previous: diff.previous, cursor: self.cursor });
        }
        check(diff.cursor, diff.digest, self.digest_after(&diff.events))?;
        for event in &diff.events {
            match target(event) {
                Target::Session(session, true) => {
                    self.sessions.insert(session.key(), session.clone());
                }
                Target::Session(session, false) => {
                    self.sessions.remove(&session.key());
                }
                Target::Workspace(workspace, true) => {
                    self.workspaces.insert(workspace.key(), workspace.clone());
                }
                Target::Workspace(workspace, false) => {
                    self.workspaces.remove(&workspace.key());
                }
            }
        }
        self.cursor = diff.cursor;
        self.digest = diff.digest;
        Ok(())
    }

    /// Returns the whole as a snapshot; its records are shared, not copied.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            cursor: self.cursor,
            digest: self.digest,
            sessions: self.sessions.values().cloned().collect(),
            workspaces: self.workspaces.values().cloned().collect(),
        }
    }

    /// Returns all sessions by key.
    pub fn sessions(&self) -> &BTreeMap<SessionKey, Arc<Session>> {
        &self.sessions
    }

    /// Returns all workspaces by key.
    pub fn workspaces(&self) -> &BTreeMap<WorkspaceKey, Arc<Workspace>> {
        &self.workspaces
    }

    /// Returns where the view stands.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Returns the digest of the records.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns what the digest will be; right as long as no record has two events.
    fn digest_after(&self, events: &[Event]) -> Digest {
        let mut digest = self.digest;
        for event in events {
            let (before, after) = match target(event) {
                Target::Session(session, stays) => (
                    self.sessions.get(&session.key()).map(|known| Digest::of_session(known)),
                    stays.then(|| Digest::of_session(session)),
                ),
                Target::Workspace(workspace, stays) => (
                    self.workspaces.get(&workspace.key()).map(|known| Digest::of_workspace(known)),
                    stays.then(|| Digest::of_workspace(workspace)),
                ),
            };
            digest -= before.unwrap_or_default();
            digest += after.unwrap_or_default();
        }
        digest
    }
}

/// The record of an event, and whether it is there afterwards.
enum Target<'a> {
    Session(&'a Arc<Session>, bool),
    Workspace(&'a Arc<Workspace>, bool),
}

fn target(event: &Event) -> Target<'_> {
    match event {
        Event::SessionCreated { session }
        | Event::SessionUpdated { session, .. }
        | Event::SessionDeleted { session, .. }
        | Event::SessionRestored { session }
        | Event::SessionStranded { session } => Target::Session(session, true),
        Event::SessionPurged { session } => Target::Session(session, false),
        Event::WorkspaceCreated { workspace }
        | Event::WorkspaceUpdated { workspace, .. }
        | Event::WorkspaceRemoved { workspace, .. }
        | Event::WorkspaceRestored { workspace }
        | Event::WorkspaceSealed { workspace }
        | Event::WorkspaceFailed { workspace } => Target::Workspace(workspace, true),
        Event::WorkspaceGone { workspace } => Target::Workspace(workspace, false),
    }
}

fn check(cursor: Cursor, told: Digest, actual: Digest) -> Result<(), FoldError> {
    if told == actual { Ok(()) } else { Err(FoldError::Digest { cursor, told, actual }) }
}
