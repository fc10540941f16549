//! Owns the present view and the last diffs that led to it: what a follower is given next.
//!
//! Must not know locks or who waits; a simulation follows it as a subscription does. Invariant: a
//! follower is given every diff once and in order, or is told that it needs the view; never a gap.

use std::sync::Arc;

use super::{
    Published,
    ring::{Limits, Ring},
    view::View,
};
use crate::replica::{diff::Diff, ids::Cursor};

pub use super::ring::Next;

/// The view and the diffs before it.
#[derive(Debug)]
pub struct Stream {
    view: View,
    ring: Ring,
    /// Counts the resets: a place from before the last one leads nowhere, whatever its cursor.
    generation: u64,
}

/// A place in the stream; the order is that of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    generation: u64,
    cursor: Cursor,
}

impl Place {
    /// Returns the cursor, by which the place is named to those outside.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }
}

impl Stream {
    /// Starts with a view and the diffs that led to it, oldest first.
    ///
    /// What of the journal does not lead up to the view's cursor without a break is not used.
    pub fn new(published: Published, journal: Vec<(Cursor, Arc<str>)>, limits: Limits) -> Self {
        let ring = Ring::from_journal(published.cursor, journal, limits);
        Self { view: View::new(published), ring, generation: 0 }
    }

    /// Folds a diff into the view and keeps it for those who follow.
    pub fn publish(&mut self, diff: &Diff, body: Arc<str>) {
        self.view.fold(diff);
        if !self.ring.push(diff.previous, diff.cursor, body) {
            tracing::error!(cursor = %diff.cursor, previous = %diff.previous,
                "a diff does not follow the one before it; subscribers begin anew");
            self.generation += 1;
        }
    }

    /// Replaces the view without a diff that tells how.
    pub fn reset(&mut self, view: View) {
        self.ring.clear(view.cursor());
        self.view = view;
        self.generation += 1;
    }

    /// Returns the present view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Returns the place of the present view.
    pub fn place(&self) -> Place {
        self.after(self.view.cursor())
    }

    /// Returns the place that a cursor names, if it names one at all.
    pub fn after(&self, cursor: Cursor) -> Place {
        Place { generation: self.generation, cursor }
    }

    /// Returns what follows a place, and moves on if that is a diff; [`Next::Unknown`] asks for the
    /// view and its [`place`](Self::place).
    pub fn next(&self, place: &mut Option<Place>) -> Next {
        let Some(at) = place.as_mut().filter(|at| at.generation == self.generation) else {
            return Next::Unknown;
        };
        let next = self.ring.after(at.cursor);
        if let Next::Diff(cursor, _) = &next {
            at.cursor = *cursor;
        }
        next
    }
}
