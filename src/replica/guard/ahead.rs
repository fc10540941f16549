//! Owns what is known of maps that are still to be gone through.
//!
//! Must not know what that is. Invariant: maps are gone through in the order of their ids, and each is
//! made in one before it, so whatever is behind the present one is of no use any more.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::operation::OpId;

/// Maps that are still to be gone through, with what is known of each.
///
/// A heap, since nothing is asked of it but the next one: it takes half as long as a sorted map.
#[derive(Debug, Clone)]
pub struct Ahead<T> {
    maps: BinaryHeap<Reverse<(OpId, T)>>,
}

impl<T: Ord> Default for Ahead<T> {
    /// Knows of none.
    fn default() -> Self {
        Self { maps: BinaryHeap::new() }
    }
}

impl<T: Ord> Ahead<T> {
    /// Notes a map that was made in the present one.
    pub fn expect(&mut self, map: OpId, known: T) {
        self.maps.push(Reverse((map, known)));
    }

    /// Goes on to a map, which comes behind all that were gone through; `None` if it was not expected.
    pub fn reach(&mut self, map: OpId) -> Option<T> {
        while let Some(Reverse((next, known))) = self.maps.pop() {
            if next == map {
                return Some(known);
            }
            if next > map {
                self.expect(next, known);
                return None;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_reached_in_its_order_and_what_was_passed_by_is_gone() {
        let id = |counter| OpId { counter, actor: 0 };
        let mut ahead = Ahead::default();
        for counter in [9, 3, 5, 7] {
            ahead.expect(id(counter), counter);
        }
        assert_eq!(ahead.reach(id(3)), Some(3));
        ahead.expect(id(6), 6);
        assert_eq!(ahead.reach(id(4)), None);
        assert_eq!(
            ahead.reach(id(6)),
            Some(6),
            "5 was passed by, and what was not expected is no loss"
        );
        assert_eq!(ahead.reach(OpId { counter: 7, actor: 1 }), None);
        assert_eq!(ahead.reach(id(9)), Some(9));
        assert_eq!(ahead.reach(id(10)), None);
    }
}
