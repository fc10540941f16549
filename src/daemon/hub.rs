//! Owns the published view and the stream of its diffs.
//!
//! Must not know HTTP or the loop. Invariant: a subscriber gets every diff exactly once and in
//! order, or is told to begin again with a snapshot; never a gap.

mod ring;
pub mod stream;
mod view;

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::{Mutex, watch};

use self::stream::{Next, Place, Stream};
pub use self::{
    ring::{BYTES_MAX, DIFFS_MAX, Limits},
    view::View,
};
use crate::replica::{
    diff::{Diff, Digest},
    ids::Cursor,
    record::{Session, Workspace},
};

/// All that is to be shown at one instant.
#[derive(Debug, Clone)]
pub struct Published {
    /// The place in the stream of diffs.
    pub cursor: Cursor,
    /// The digest of all records.
    pub digest: Digest,
    /// Every session, in any order.
    pub sessions: Vec<Arc<Session>>,
    /// Every workspace, in any order.
    pub workspaces: Vec<Arc<Workspace>>,
}

/// The published view and those who follow it.
///
/// Followers read the kept diffs at their own pace and are only told that there are more: no
/// follower has a queue, so a slow one costs nothing and delays nobody.
pub struct Hub {
    state: RwLock<Stream>,
    signal: watch::Sender<Signal>,
    /// The last snapshot, for as long as someone is still sending it.
    snapshot: Mutex<Option<HeldSnapshot>>,
    diffs_published: AtomicU64,
    subscribers: AtomicUsize,
}

/// A snapshot's text, shared by all who are being sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The place in the stream of diffs.
    pub cursor: Cursor,
    /// The body of `GET /v1/view`, one line.
    pub body: Arc<String>,
}

/// What a subscriber gets next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Everything; what was known before is void.
    Snapshot(Snapshot),
    /// What has changed since the item before.
    Diff {
        /// The place in the stream of diffs after it.
        cursor: Cursor,
        /// The diff's JSON, one line.
        body: Arc<str>,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Signal {
    version: u64,
    closed: bool,
}

#[derive(Debug)]
struct HeldSnapshot {
    place: Place,
    body: Weak<String>,
}

impl Hub {
    /// Starts with a view and the diffs that led to it, oldest first.
    ///
    /// What of the journal does not lead up to the view's cursor without a break is not used.
    pub fn new(published: Published, journal: Vec<(Cursor, Arc<str>)>) -> Self {
        Self::with_limits(published, journal, Limits::default())
    }

    fn with_limits(published: Published, journal: Vec<(Cursor, Arc<str>)>, limits: Limits) -> Self {
        Self {
            state: RwLock::new(Stream::new(published, journal, limits)),
            signal: watch::Sender::default(),
            snapshot: Mutex::default(),
            diffs_published: AtomicU64::new(0),
            subscribers: AtomicUsize::new(0),
        }
    }

    /// Publishes a diff: folds it into the view and tells every subscriber. O(what changed).
    ///
    /// `body` is the diff's JSON on one line, made once for the journal and all subscribers.
    pub fn publish(&self, diff: &Diff, body: Arc<str>) {
        self.write().publish(diff, body);
        self.diffs_published.fetch_add(1, Ordering::Relaxed);
        self.signal.send_modify(|signal| signal.version += 1);
    }

    /// Replaces the view without a diff that tells how; every subscriber gets a snapshot.
    pub fn reset(&self, published: Published) {
        // Made before the lock is taken, because it walks every record.
        let view = View::new(published);
        self.write().reset(view);
        self.signal.send_modify(|signal| signal.version += 1);
    }

    /// Ends every subscription once it has delivered what was published until now.
    pub fn close(&self) {
        self.signal.send_modify(|signal| signal.closed = true);
    }

    /// Tells whether the hub was closed.
    pub fn is_closed(&self) -> bool {
        self.signal.borrow().closed
    }

    /// Returns the present view, one consistent instant. O(1).
    pub fn view(&self) -> View {
        self.read().view().clone()
    }

    /// Returns the cursor of the present view.
    pub fn cursor(&self) -> Cursor {
        self.read().view().cursor()
    }

    /// Returns how many diffs were published since the start.
    pub fn diffs_published(&self) -> u64 {
        self.diffs_published.load(Ordering::Relaxed)
    }

    /// Returns how many subscriptions there are now.
    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Follows the view: exactly on from a cursor if that is known, otherwise from a snapshot.
    pub fn subscribe(self: &Arc<Self>, after: Option<Cursor>) -> Subscription {
        let signal = self.signal.subscribe();
        let place = after.map(|cursor| self.read().after(cursor));
        self.subscribers.fetch_add(1, Ordering::Relaxed);
        Subscription { hub: self.clone(), signal, place }
    }

    /// Returns the view's text, not older than this call. All who ask at a time share the work.
    ///
    /// Returns `None` when the runtime is shutting down.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        self.snapshot_placed().await.map(|(_, snapshot)| snapshot)
    }

    async fn snapshot_placed(&self) -> Option<(Place, Snapshot)> {
        let wanted = self.read().place();
        let mut held = self.snapshot.lock().await;
        if let Some(HeldSnapshot { place, body }) = &*held
            && *place >= wanted
            && let Some(body) = body.upgrade()
        {
            return Some((*place, Snapshot { cursor: place.cursor(), body }));
        }
        let (place, view) = {
            let state = self.read();
            (state.place(), state.view().clone())
        };
        // Off the runtime's threads: 100,000 records take a good part of a second.
        let text = tokio::task::spawn_blocking(move || {
            serde_json::to_string(&view).expect("records have text keys and no failing serializer")
        });
        let body = Arc::new(text.await.ok()?);
        *held = Some(HeldSnapshot { place, body: Arc::downgrade(&body) });
        Some((place, Snapshot { cursor: place.cursor(), body }))
    }

    // A panic while the lock is held leaves either the old or the new view in place of each shelf;
    // the loop that publishes is gone by then, and readers may as well see what there is.
    fn read(&self) -> RwLockReadGuard<'_, Stream> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Stream> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("cursor", &self.cursor()).finish_non_exhaustive()
    }
}

/// One follower of the view.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    signal: watch::Receiver<Signal>,
    /// `None` until the first snapshot is delivered.
    place: Option<Place>,
}

impl Subscription {
    /// Returns what follows, as soon as there is something; `None` once the hub is closed.
    ///
    /// Dropping the future loses nothing but the work of a snapshot.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            // Seen before the state is read: what is published after that wakes `changed`.
            let closed = self.signal.borrow_and_update().closed;
            let next = self.hub.read().next(&mut self.place);
            match next {
                Next::Diff(cursor, body) => return Some(Item::Diff { cursor, body }),
                _ if closed => return None,
                Next::Nothing => self.signal.changed().await.ok()?,
                Next::Unknown => {
                    let (place, snapshot) = self.hub.snapshot_placed().await?;
                    self.place = Some(place);
                    return Some(Item::Snapshot(snapshot));
                }
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
