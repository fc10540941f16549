//! Owns the last diffs, from which a follower goes on after a cursor.
//!
//! Must not know followers or records. Invariant: the kept diffs are an unbroken run that ends at
//! the present view, so whatever follows a known cursor is here, whole.

use std::{collections::VecDeque, sync::Arc};

use serde::Deserialize;

use crate::replica::ids::Cursor;

/// Most diffs kept: a follower that was away for a burst of changes comes back without a snapshot.
pub const DIFFS_MAX: usize = 10_000;
/// Most bytes kept, whatever the number of diffs: of ordinary ones some 4,500.
pub const BYTES_MAX: usize = 3 << 20;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most diffs.
    pub diffs_max: usize,
    /// Most bytes of them.
    pub bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { diffs_max: DIFFS_MAX, bytes_max: BYTES_MAX }
    }
}

/// What follows a cursor.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// This diff, whose cursor it is.
    Diff(Cursor, Arc<str>),
    /// Nothing yet.
    Nothing,
    /// The cursor is too old, or of a start whose diff was forgotten.
    Unknown,
}

/// The last diffs.
#[derive(Debug)]
pub(super) struct Ring {
    /// The cursor before the oldest diff that is kept.
    base: Cursor,
    diffs: VecDeque<(Cursor, Arc<str>)>,
    bytes: usize,
    limits: Limits,
}

impl Ring {
    /// Starts at the present view, with nothing before it.
    pub(super) fn new(present: Cursor, limits: Limits) -> Self {
        Self { base: present, diffs: VecDeque::new(), bytes: 0, limits }
    }

    /// Forgets everything and starts at the present view.
    pub(super) fn clear(&mut self, present: Cursor) {
        *self = Self::new(present, self.limits);
    }

    /// Takes over a journal, oldest first, as far as it is an unbroken run up to the present view.
    pub(super) fn from_journal(
        present: Cursor,
        journal: Vec<(Cursor, Arc<str>)>,
        limits: Limits,
    ) -> Self {
        #[derive(Deserialize)]
        struct Link {
            previous: Cursor,
        }
        let mut ring = Self::new(present, limits);
        for (cursor, body) in journal.into_iter().rev() {
            let previous = serde_json::from_str::<Link>(&body).map(|link| link.previous);
            let fits =
                ring.diffs.len() < limits.diffs_max && ring.bytes + body.len() <= limits.bytes_max;
            match previous {
                Ok(previous)
                    if fits && cursor == ring.base && previous.sequence < cursor.sequence =>
                {
                    ring.base = previous;
                    ring.bytes += body.len();
                    ring.diffs.push_front((cursor, body));
                }
                _ => break,
            }
        }
        ring
    }

    /// Returns the cursor of the present view.
    fn present(&self) -> Cursor {
        self.diffs.back().map_or(self.base, |(cursor, _)| *cursor)
    }

    /// Adds a diff; one that does not follow the last breaks the run, and nothing before it stays.
    ///
    /// Returns whether the run is unbroken.
    pub(super) fn push(&mut self, previous: Cursor, cursor: Cursor, body: Arc<str>) -> bool {
        let follows = previous == self.present() && previous.sequence < cursor.sequence;
        if !follows {
            self.clear(cursor);
            return false;
        }
        self.bytes += body.len();
        self.diffs.push_back((cursor, body));
        while self.diffs.len() > self.limits.diffs_max || self.bytes > self.limits.bytes_max {
            let Some((cursor, body)) = self.diffs.pop_front() else { break };
            self.bytes -= body.len();
            self.base = cursor;
        }
        true
    }

    /// Returns what follows a cursor.
    pub(super) fn after(&self, cursor: Cursor) -> Next {
        let index = if cursor == self.base {
            0
        } else {
            match self.diffs.binary_search_by_key(&cursor.sequence, |(other, _)| other.sequence) {
                Ok(at) if self.diffs[at].0 == cursor => at + 1,
                _ => return Next::Unknown,
            }
        };
        let skipped = usize::from(planted!(CursorSkips) && index + 1 < self.diffs.len());
        self.diffs
            .get(index + skipped)
            .map_or(Next::Nothing, |(cursor, body)| Next::Diff(*cursor, body.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::ids::StartId;

    fn cursor(start: u8, sequence: u64) -> Cursor {
        Cursor { sequence, start: StartId([start; 8]) }
    }

    fn body(previous: Cursor) -> Arc<str> {
        format!(r#"{{"previous":"{previous}"}}"#).into()
    }

    #[test]
    fn the_cursor_of_the_present_view_is_known_although_no_diff_is_kept() {
        let ring = Ring::new(cursor(1, 7), Limits::default());
        assert_eq!(ring.after(cursor(1, 7)), Next::Nothing);
        assert_eq!(ring.after(cursor(2, 7)), Next::Unknown);
        assert_eq!(ring.after(cursor(1, 6)), Next::Unknown);
        assert_eq!(ring.after(cursor(1, 8)), Next::Unknown);
    }

    #[test]
    fn the_same_sequence_of_another_start_is_foreign() {
        let mut ring = Ring::new(cursor(1, 0), Limits::default());
        assert!(ring.push(cursor(1, 0), cursor(1, 1), "a".into()));
        assert!(ring.push(cursor(1, 1), cursor(2, 2), "b".into()));
        assert_eq!(ring.after(cursor(1, 1)), Next::Diff(cursor(2, 2), "b".into()));
        assert_eq!(ring.after(cursor(2, 1)), Next::Unknown);
        assert_eq!(ring.after(cursor(1, 2)), Next::Unknown);
    }

    #[test]
    fn the_oldest_diffs_go_when_there_are_too_many_or_too_large_ones() {
        let mut ring = Ring::new(cursor(1, 0), Limits::default());
        let last = DIFFS_MAX as u64 + 5;
        for sequence in 1..=last {
            assert!(ring.push(cursor(1, sequence - 1), cursor(1, sequence), "x".into()));
        }
        assert_eq!(ring.diffs.len(), DIFFS_MAX);
        assert_eq!(ring.after(cursor(1, 4)), Next::Unknown);
        assert_eq!(ring.after(cursor(1, 5)), Next::Diff(cursor(1, 6), "x".into()));

        let large: Arc<str> = "x".repeat(BYTES_MAX).into();
        assert!(ring.push(cursor(1, last), cursor(1, last + 1), large));
        assert_eq!(ring.diffs.len(), 1);
        assert_eq!(ring.bytes, BYTES_MAX);
        let larger: Arc<str> = "x".repeat(BYTES_MAX + 1).into();
        assert!(ring.push(cursor(1, last + 1), cursor(1, last + 2), larger));
        assert_eq!((ring.diffs.len(), ring.bytes), (0, 0));
        assert_eq!(ring.after(cursor(1, last + 2)), Next::Nothing);
        assert_eq!(ring.after(cursor(1, last + 1)), Next::Unknown);
    }

    #[test]
    fn a_diff_that_does_not_follow_makes_everything_before_it_unknown() {
        let mut ring = Ring::new(cursor(1, 0), Limits::default());
        assert!(ring.push(cursor(1, 0), cursor(1, 1), "a".into()));
        assert!(!ring.push(cursor(1, 2), cursor(1, 3), "c".into()));
        assert_eq!(ring.after(cursor(1, 1)), Next::Unknown);
        assert_eq!(ring.after(cursor(1, 3)), Next::Nothing);
    }

    #[test]
    fn a_journal_is_taken_over_from_its_last_break_on() {
        let link = |previous: u64, own: u64| (cursor(1, own), body(cursor(1, previous)));
        let journal = vec![link(0, 1), link(1, 2), link(3, 4), link(4, 5)];
        let ring = Ring::from_journal(cursor(1, 5), journal.clone(), Limits::default());
        assert_eq!(ring.after(cursor(1, 2)), Next::Unknown);
        assert_eq!(ring.after(cursor(1, 3)), Next::Diff(cursor(1, 4), body(cursor(1, 3))));
        assert_eq!(ring.after(cursor(1, 5)), Next::Nothing);

        let ahead = Ring::from_journal(cursor(1, 9), journal, Limits::default());
        assert_eq!(ahead.after(cursor(1, 5)), Next::Unknown);
        assert_eq!(ahead.after(cursor(1, 9)), Next::Nothing);
        let torn =
            Ring::from_journal(cursor(1, 1), vec![(cursor(1, 1), "{".into())], Limits::default());
        assert_eq!(torn.after(cursor(1, 1)), Next::Nothing);
        assert_eq!(torn.after(cursor(1, 0)), Next::Unknown);
    }
}
