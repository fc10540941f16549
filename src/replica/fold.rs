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
    sessions: BTreeMap<SessionKey, Held<Session>>,
    workspaces: BTreeMap<WorkspaceKey, Held<Workspace>>,
    cursor: Cursor,
    digest: Digest,
}

/// A record and its part of the digest, which costs more to find out than all else here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held<T> {
    record: Arc<T>,
    part: Digest,
}

impl Fold {
    /// Begins with a snapshot; refuses one whose digest is not that of its records.
    pub fn from_snapshot(snapshot: Snapshot) -> Result<Self, FoldError> {
        let Snapshot { cursor, digest: told, sessions, workspaces } = snapshot;
        let sessions = sessions.into_iter().map(|record| (record.key(), hold_session(&record)));
        let workspaces =
            workspaces.into_iter().map(|record| (record.key(), hold_workspace(&record)));
        let fold = Self {
            sessions: sessions.collect(),
            workspaces: workspaces.collect(),
            cursor,
            digest: told,
        };
        let sessions = fold.sessions.values().map(|held| held.part);
        let workspaces = fold.workspaces.values().map(|held| held.part);
        let actual = sessions.chain(workspaces).sum();
        if actual != told {
            return Err(FoldError::Digest { cursor, told, actual });
        }
        Ok(fold)
    }

    /// Takes the view to the end of a diff; refuses one that does not follow, or whose digest the
    /// view would not have, and then stays as it was.
    pub fn apply(&mut self, diff: &Diff) -> Result<(), FoldError> {
        if diff.previous != self.cursor {
            return Err(FoldError::Gap { previous: diff.previous, cursor: self.cursor });
        }
        let mut actual = self.digest;
        let (mut sessions, mut workspaces) = (BTreeMap::new(), BTreeMap::new());
        for event in &diff.events {
            match target(event) {
                Target::Session(record, stays) => {
                    let held = stays.then(|| hold_session(record));
                    stage(&self.sessions, &mut sessions, record.key(), held, &mut actual);
                }
                Target::Workspace(record, stays) => {
                    let held = stays.then(|| hold_workspace(record));
                    stage(&self.workspaces, &mut workspaces, record.key(), held, &mut actual);
                }
            }
        }
        if actual != diff.digest {
            return Err(FoldError::Digest { cursor: diff.cursor, told: diff.digest, actual });
        }
        put(&mut self.sessions, sessions);
        put(&mut self.workspaces, workspaces);
        self.cursor = diff.cursor;
        self.digest = diff.digest;
        Ok(())
    }

    /// Returns the whole as a snapshot; its records are shared, not copied.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            cursor: self.cursor,
            digest: self.digest,
            sessions: self.sessions().cloned().collect(),
            workspaces: self.workspaces().cloned().collect(),
        }
    }

    /// Returns all sessions in key order.
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.values().map(|held| &held.record)
    }

    /// Returns all workspaces in key order.
    pub fn workspaces(&self) -> impl Iterator<Item = &Arc<Workspace>> {
        self.workspaces.values().map(|held| &held.record)
    }

    /// Returns a session.
    pub fn session(&self, key: &SessionKey) -> Option<&Arc<Session>> {
        self.sessions.get(key).map(|held| &held.record)
    }

    /// Returns a workspace.
    pub fn workspace(&self, key: &WorkspaceKey) -> Option<&Arc<Workspace>> {
        self.workspaces.get(key).map(|held| &held.record)
    }

    /// Returns where the view stands.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Returns the digest of the records.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

fn hold_session(record: &Arc<Session>) -> Held<Session> {
    Held { record: record.clone(), part: Digest::of_session(record) }
}

fn hold_workspace(record: &Arc<Workspace>) -> Held<Workspace> {
    Held { record: record.clone(), part: Digest::of_workspace(record) }
}

/// Notes what a record becomes, and brings the digest up to it.
fn stage<K: Ord, T>(
    records: &BTreeMap<K, Held<T>>,
    staged: &mut BTreeMap<K, Option<Held<T>>>,
    key: K,
    held: Option<Held<T>>,
    digest: &mut Digest,
) {
    let part = |held: Option<&Held<T>>| held.map(|held| held.part).unwrap_or_default();
    *digest -= part(staged.get(&key).map_or_else(|| records.get(&key), Option::as_ref));
    *digest += part(held.as_ref());
    staged.insert(key, held);
}

/// Carries out what was staged.
fn put<K: Ord, T>(records: &mut BTreeMap<K, Held<T>>, staged: BTreeMap<K, Option<Held<T>>>) {
    for (key, held) in staged {
        match held {
            Some(held) => records.insert(key, held),
            None => records.remove(&key),
        };
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
        Event::SessionPurged { session } | Event::SessionHidden { session } => {
            Target::Session(session, false)
        }
        Event::WorkspaceCreated { workspace }
        | Event::WorkspaceUpdated { workspace, .. }
        | Event::WorkspaceRemoved { workspace, .. }
        | Event::WorkspaceRestored { workspace }
        | Event::WorkspaceSealed { workspace }
        | Event::WorkspaceFailed { workspace } => Target::Workspace(workspace, true),
        Event::WorkspaceGone { workspace } | Event::WorkspaceHidden { workspace } => {
            Target::Workspace(workspace, false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{
        diff::{Cause, CauseKind},
        ids::{NodeId, StartId},
        record::SessionState,
    };

    fn cursor(sequence: u64) -> Cursor {
        Cursor { sequence, start: StartId([1; 8]) }
    }

    fn session(id: &str, title: &str) -> Arc<Session> {
        Arc::new(Session {
            id: id.parse().unwrap(),
            host: NodeId([7; 32]),
            workspace_id: None,
            parent_id: None,
            project_id: None,
            directory: None,
            title: Some(title.into()),
            created_at: 1,
            updated_at: 2,
            archived_at: None,
            agent: None,
            agent_server: None,
            state: SessionState::Live,
            deleted: None,
            extra: [].into(),
        })
    }

    fn digest(sessions: &[&Arc<Session>]) -> Digest {
        sessions.iter().map(|session| Digest::of_session(session)).sum()
    }

    fn fold(sessions: &[&Arc<Session>]) -> Fold {
        Fold::from_snapshot(Snapshot {
            cursor: cursor(1),
            digest: digest(sessions),
            sessions: sessions.iter().map(|&session| session.clone()).collect(),
            workspaces: Vec::new(),
        })
        .unwrap()
    }

    fn diff(digest: Digest, events: Vec<Event>) -> Diff {
        let cause = Cause { kind: CauseKind::Local, peer: None, authors: Vec::new(), at: 0 };
        Diff { cursor: cursor(2), previous: cursor(1), digest, cause, events }
    }

    #[test]
    fn a_diff_that_follows_puts_and_removes_records() {
        let (old, new, other) = (session("a", "old"), session("a", "new"), session("b", "b"));
        let mut fold = fold(&[&old, &other]);
        let events = vec![
            Event::SessionUpdated { session: new.clone(), changed: vec!["title".into()] },
            Event::SessionPurged { session: other },
        ];
        fold.apply(&diff(digest(&[&new]), events)).unwrap();
        assert_eq!(fold.sessions().collect::<Vec<_>>(), [&new]);
        assert_eq!((fold.cursor(), fold.digest()), (cursor(2), digest(&[&new])));
    }

    #[test]
    fn a_diff_that_does_not_follow_is_refused_and_changes_nothing() {
        let mut fold = fold(&[]);
        let before = fold.clone();
        let stray = Diff { previous: cursor(9), ..diff(Digest(0), Vec::new()) };
        let gap = FoldError::Gap { previous: cursor(9), cursor: cursor(1) };
        assert_eq!(fold.apply(&stray), Err(gap));
        assert_eq!(fold, before);
    }

    #[test]
    fn a_diff_that_does_not_add_up_is_refused_and_changes_nothing() {
        let (a, b) = (session("a", "a"), session("b", "b"));
        let mut fold = fold(&[&a]);
        let before = fold.clone();
        let events = vec![Event::SessionCreated { session: b.clone() }];
        let told = digest(&[&b]);
        let wrong = FoldError::Digest { cursor: cursor(2), told, actual: digest(&[&a, &b]) };
        assert_eq!(fold.apply(&diff(told, events)), Err(wrong));
        assert_eq!(fold, before);
        // A record told to go that was never here can't explain a digest either.
        let events = vec![Event::SessionPurged { session: b }];
        assert!(fold.apply(&diff(Digest(0), events)).is_err());
        assert_eq!(fold, before);
    }

    #[test]
    fn a_snapshot_that_does_not_add_up_is_refused() {
        let snapshot = Snapshot { digest: Digest(1), ..fold(&[&session("a", "a")]).snapshot() };
        assert!(matches!(Fold::from_snapshot(snapshot), Err(FoldError::Digest { .. })));
    }

    #[test]
    fn a_snapshot_reads_back_what_it_wrote() {
        let snapshot = fold(&[&session("a", "a"), &session("b", "b")]).snapshot();
        let json = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), snapshot);
    }
}
