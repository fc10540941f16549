//! Owns a bounded number of places that strangers share, by address.
//!
//! Must not know what is done in a place. Invariant: there are never more places taken than there
//! are, nor more from one address than it may have; and who comes from an address with few places
//! finds one although another address has taken all that it could.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

/// How many places there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub all: usize,
    pub per_address: usize,
    /// How long a place is kept by whoever has it; after that, a newcomer may have it.
    pub kept_for: Duration,
}

/// Gives out places.
pub(super) struct Places {
    limits: Limits,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// By address, in the order in which they were taken.
    by_address: BTreeMap<IpAddr, BTreeMap<u64, Holder>>,
    count: usize,
    next: u64,
}

/// Who has a place.
struct Holder {
    since: Instant,
    /// Takes away what is done in the place.
    evict: Box<dyn FnOnce() + Send>,
}

/// Is one place that is taken; it is free again once this is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
    number: u64,
}

impl Places {
    /// Makes places of which none is taken.
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    /// Takes a place; `None` if there is none. Where none is free, the one is taken away that was
    /// taken first by the address that has most.
    ///
    /// `evict` is called if it is this place that is taken away.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        evict: impl FnOnce() + Send + 'static,
    ) -> Option<Place> {
        let address = group(address);
        let now = Instant::now();
        let mut taken = self.taken();
        let evicted = match taken.crowded(&self.limits, &address) {
            Some(crowded) => Some(taken.make_room(&self.limits, &crowded, now)?),
            None => None,
        };
        let number = taken.next;
        taken.next += 1;
        taken.count += 1;
        let holder = Holder { since: now, evict: Box::new(evict) };
        taken.by_address.entry(address).or_default().insert(number, holder);
        drop(taken);
        if let Some(Holder { evict, .. }) = evicted {
            evict();
        }
        Some(Place { places: self.clone(), address, number })
    }

    /// Returns how many places are taken.
    pub(super) fn count(&self) -> usize {
        self.taken().count
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("nothing panics while it holds this lock")
    }
}

impl Taken {
    /// Returns the address that has to give up a place for one more from `address`, if one has to.
    fn crowded(&self, limits: &Limits, address: &IpAddr) -> Option<IpAddr> {
        let count = |address: &IpAddr| self.by_address.get(address).map_or(0, BTreeMap::len);
        if count(address) >= limits.per_address {
            return Some(*address);
        }
        if self.count < limits.all {
            return None;
        }
        let most = self.by_address.iter().max_by_key(|(_, holders)| holders.len());
        // Of addresses that have as many as this one, the newcomer's own gives way first.
        let most = most.map_or(*address, |(most, _)| *most);
        Some(if count(&most) > count(address).max(1) { most } else { self.oldest() })
    }

    /// Returns the address of the place that was taken first.
    fn oldest(&self) -> IpAddr {
        let first = |holders: &BTreeMap<u64, Holder>| holders.keys().next().copied();
        let oldest = self.by_address.iter().min_by_key(|(_, holders)| first(holders));
        *oldest.expect("all places are taken").0
    }

    fn make_room(&mut self, limits: &Limits, address: &IpAddr, now: Instant) -> Option<Holder> {
        let holders = self.by_address.get(address)?;
        let (number, holder) = holders.iter().next()?;
        if now - holder.since < limits.kept_for {
            return None;
        }
        let number = *number;
        self.remove(address, number)
    }

    fn remove(&mut self, address: &IpAddr, number: u64) -> Option<Holder> {
        let holders = self.by_address.get_mut(address)?;
        let holder = holders.remove(&number)?;
        if holders.is_empty() {
            self.by_address.remove(address);
        }
        self.count -= 1;
        Some(holder)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().remove(&self.address, self.number);
    }
}

/// Returns what counts as one address: whoever has one of IPv6 has all that begin with its first
/// 64 bits.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LIMITS: Limits = Limits { all: 8, per_address: 4, kept_for: Duration::ZERO };

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Takes places, and counts how many of them were taken away again.
    struct Crowd {
        places: Arc<Places>,
        evicted: BTreeMap<u8, Arc<AtomicUsize>>,
        kept: Vec<Place>,
    }

    impl Crowd {
        fn new(limits: Limits) -> Self {
            Self { places: Places::new(limits), evicted: BTreeMap::new(), kept: Vec::new() }
        }

        fn enter(&mut self, from: u8) -> bool {
            let evicted = self.evicted.entry(from).or_default().clone();
            let place = self.places.enter(address(from), move || {
                evicted.fetch_add(1, Ordering::Relaxed);
            });
            let is_in = place.is_some();
            self.kept.extend(place);
            is_in
        }

        fn evicted(&self, from: u8) -> usize {
            self.evicted.get(&from).map_or(0, |count| count.load(Ordering::Relaxed))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_cannot_take_all_places_and_only_crowds_itself_out() {
        let mut crowd = Crowd::new(LIMITS);
        for _ in 0..100 {
            assert!(crowd.enter(1));
        }
        assert_eq!((crowd.places.count(), crowd.evicted(1)), (4, 96));
        assert!(crowd.enter(2) && crowd.enter(3));
        assert_eq!((crowd.evicted(2), crowd.evicted(3)), (0, 0));
        assert_eq!(crowd.evicted(1), 96, "there was room beside it");
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_is_taken_the_address_with_most_places_gives_way() {
        let mut crowd = Crowd::new(LIMITS);
        (0..4).for_each(|_| assert!(crowd.enter(1)));
        (0..4).for_each(|_| assert!(crowd.enter(2)));
        for from in 3..7 {
            assert!(crowd.enter(from));
        }
        assert_eq!(crowd.places.count(), 8);
        assert_eq!(crowd.evicted(1) + crowd.evicted(2), 4);
        assert!((3..7).all(|from| crowd.evicted(from) == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn among_addresses_with_one_place_each_the_oldest_gives_way() {
        let mut crowd = Crowd::new(LIMITS);
        (0..8).for_each(|from| assert!(crowd.enter(from)));
        assert!(crowd.enter(100));
        assert_eq!((0..8).map(|from| crowd.evicted(from)).collect::<Vec<_>>()[..2], [1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_kept_for_a_while_and_is_free_once_it_is_given_back() {
        let mut crowd = Crowd::new(Limits { kept_for: Duration::from_secs(1), ..LIMITS });
        (0..4).for_each(|_| assert!(crowd.enter(1)));
        assert!(!crowd.enter(1), "the others have just come");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(crowd.enter(1));
        assert_eq!(crowd.evicted(1), 1);
        crowd.kept.clear();
        assert_eq!(crowd.places.count(), 0);
        assert!(crowd.places.taken().by_address.is_empty(), "no address is remembered");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let group = |text: &str| group(text.parse().unwrap());
        assert_eq!(group("2001:db8::1"), group("2001:db8::ffff:1"));
        assert_ne!(group("2001:db8::1"), group("2001:db8:0:1::1"));
        assert_eq!(group("::ffff:10.0.0.1"), group("10.0.0.1"));
        assert_ne!(group("10.0.0.1"), group("10.0.0.2"));
    }
}
