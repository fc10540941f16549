//! Owns the passing of one thing at a time from one thread to several.
//!
//! Must not know what is passed. Invariant: what is given waits until somebody takes it who takes such
//! as it, and whoever gives it waits as long, so that nothing piles up.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Where things are given and taken.
#[derive(Debug)]
pub struct Hatch<T> {
    inside: Mutex<Inside<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inside<T> {
    next: Option<T>,
    is_closed: bool,
}

/// What there was to take.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// This.
    Next(T),
    /// Nothing at all for so long.
    Nothing,
    /// Nothing, and nothing will come.
    Closed,
}

/// A thread's part in it: once one of them has ended, also by a panic, nothing is passed any more.
#[derive(Debug)]
pub struct End<T>(Arc<Hatch<T>>);

impl<T> Hatch<T> {
    /// Returns so many parts in it.
    pub fn ends<const N: usize>() -> [End<T>; N] {
        let inside = Mutex::new(Inside { next: None, is_closed: false });
        let hatch = Arc::new(Self { inside, changed: Condvar::new() });
        std::array::from_fn(|_| End(hatch.clone()))
    }

    // Nothing is half done where `takes` may panic, the only thing that is not in here.
    fn lock(&self) -> MutexGuard<'_, Inside<T>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> End<T> {
    /// Gives something, and waits until it is taken; false if nothing is taken any more.
    pub fn give(&self, it: T) -> bool {
        let Hatch { changed, .. } = &*self.0;
        let mut inside = self.0.lock();
        inside.next = Some(it);
        changed.notify_all();
        while inside.next.is_some() && !inside.is_closed {
            inside = changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
        inside.next.take().is_none()
    }

    /// Waits for something that one takes, so long if there is nothing at all.
    pub fn take(&self, takes: impl Fn(&T) -> bool, at_most: Duration) -> Taken<T> {
        let Hatch { changed, .. } = &*self.0;
        let mut inside = self.0.lock();
        loop {
            if inside.is_closed {
                return Taken::Closed;
            }
            if let Some(it) = inside.next.take_if(|it| takes(it)) {
                changed.notify_all();
                return Taken::Next(it);
            }
            let waited = changed.wait_timeout(inside, at_most);
            let (rest, time) = waited.unwrap_or_else(PoisonError::into_inner);
            inside = rest;
            if time.timed_out() && inside.next.is_none() && !inside.is_closed {
                return Taken::Nothing;
            }
        }
    }
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{scope, spawn};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_one_does_not_take_waits_for_the_other() {
        let [giver, all, small] = Hatch::ends();
        let is_small = |number: &u32| *number < 10;
        scope(|scope| {
            let given = scope.spawn(|| [3, 30, 4].map(|number| giver.give(number)));
            assert_eq!(small.take(is_small, LONG), Taken::Next(3));
            let waits = scope.spawn(|| small.take(is_small, LONG));
            assert_eq!(all.take(|number| *number >= 10, LONG), Taken::Next(30));
            assert_eq!(waits.join().unwrap(), Taken::Next(4));
            assert_eq!(given.join().unwrap(), [true; 3]);
        });
        assert_eq!(all.take(|_| true, Duration::from_millis(1)), Taken::Nothing);
    }

    #[test]
    fn whoever_ends_ends_it_for_all() {
        let [giver, taker, other] = Hatch::<u32>::ends();
        let waits = spawn(move || taker.take(|_| false, LONG));
        let gives = spawn(move || giver.give(1));
        let panicked = spawn(move || {
            let _other = other;
            panic!("as a thread may");
        });
        assert!(panicked.join().is_err());
        assert_eq!(waits.join().unwrap(), Taken::Closed);
        assert!(!gives.join().unwrap(), "nobody took it");
    }
}
