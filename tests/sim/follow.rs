//! A subscriber: it reads diffs at its own pace, keeps a view of its own, and comes back.

use std::{sync::Arc, time::Duration};

use sessionmesh::{
    daemon::hub::stream::{Next, Place, Stream},
    replica::{
        diff::Diff,
        fold::{Fold, Snapshot},
        ids::Cursor,
    },
};

/// One who follows a node's view.
#[derive(Debug, Default)]
pub struct Follower {
    place: Option<Place>,
    /// The view as it was told.
    fold: Option<Fold>,
    /// How long it takes from one diff to the next.
    pub pace: Duration,
    /// Whether the agenda has its next look.
    pub looks: bool,
}

/// What came of reading on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    Nothing,
    Diff,
    Anew,
}

impl Follower {
    pub fn new(pace: Duration) -> Self {
        Self { pace, ..Self::default() }
    }

    /// Reads what is next, and checks that it follows what was read before.
    pub fn read(&mut self, hub: &Stream) -> Read {
        match hub.next(&mut self.place) {
            Next::Nothing => Read::Nothing,
            Next::Diff(cursor, body) => {
                let diff: Diff = serde_json::from_str(&body).expect("a diff reads back");
                assert_eq!(diff.cursor, cursor, "a diff comes under its cursor");
                let fold = self.fold.as_mut().expect("a snapshot came first");
                fold.apply(&diff).unwrap_or_else(|error| panic!("a subscriber: {error}"));
                Read::Diff
            }
            Next::Unknown => {
                let view = hub.view();
                let snapshot = Snapshot {
                    cursor: view.cursor(),
                    digest: view.digest(),
                    sessions: view.sessions().map(Arc::clone).collect(),
                    workspaces: view.workspaces().map(Arc::clone).collect(),
                };
                let fold = Fold::from_snapshot(snapshot);
                self.fold = Some(fold.unwrap_or_else(|error| panic!("a subscriber: {error}")));
                self.place = Some(hub.place());
                Read::Anew
            }
        }
    }

    /// Comes back with the last cursor, after the node was started anew or it was away itself.
    pub fn come_back(&mut self, hub: &Stream) {
        self.place = self.cursor().map(|cursor| hub.after(cursor));
    }

    /// Goes, and forgets all.
    pub fn vanish(&mut self) {
        (self.place, self.fold) = (None, None);
    }

    pub fn cursor(&self) -> Option<Cursor> {
        self.fold.as_ref().map(Fold::cursor)
    }

    /// Returns what it was told, whole.
    pub fn view(&self) -> Option<Snapshot> {
        self.fold.as_ref().map(Fold::snapshot)
    }
}
