//! Owns what is asked of the allocator: to give back what is free.
//!
//! Must not know who takes memory, or what for. Invariant: nothing depends on it but how much memory
//! the system counts; where the allocator is another than glibc's, nothing is asked.

/// How much more memory than after the last look the process may have for the time being, in bytes,
/// before what is free is given back: little beside what reading one large document takes, and more
/// than reading an ordinary one.
const GROWN_BUSY_BYTES: u64 = 16 << 20;
/// The same where nothing is to be done meanwhile.
const GROWN_IDLE_BYTES: u64 = 2 << 20;

/// How many heaps the threads have between them, whatever the processors. Glibc takes eight for each
/// processor: on two, a daemon that had taken 10,000 updates came to rest at 62 MB, with six at 57. With
/// one or two, threads that read documents wait for each other, and a start takes half as long again;
/// with four, those of a first sync do, for a twentieth of its samples.
const HEAPS_MIN: usize = 6;
/// The same on a machine with many processors, as many as read documents at once.
const HEAPS_MAX: usize = 8;

/// Bounds the number of heaps; to be called before there are threads.
pub fn bound() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    system::bound(processors.clamp(HEAPS_MIN, HEAPS_MAX));
}

/// How much memory the process had when free memory was last given back.
///
/// Glibc keeps what is freed below something that is still used, and uses it again badly: under
/// attack a daemon that used 45 MB kept 150 more, and came to 295 with what it read next.
#[derive(Debug, Default)]
pub struct Heap {
    rest_bytes: u64,
}

impl Heap {
    /// Looks whether much was freed, and gives it back, right after something that takes much.
    pub fn look(&mut self) {
        self.give_back(GROWN_BUSY_BYTES);
    }

    /// Looks whether anything worth it was freed, and gives it back, while nothing is to be done.
    pub fn look_idle(&mut self) {
        self.give_back(GROWN_IDLE_BYTES);
    }

    fn give_back(&mut self, grown_bytes: u64) {
        let Some(present) = system::resident_bytes() else { return };
        if self.has_grown(present, grown_bytes) {
            system::trim();
            self.rest_bytes = system::resident_bytes().unwrap_or(present);
        }
    }

    /// Tells whether the process has so much more than at the last look, or than it came down to since.
    fn has_grown(&mut self, present: u64, grown_bytes: u64) -> bool {
        self.rest_bytes = self.rest_bytes.min(present);
        present >= self.rest_bytes + grown_bytes
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod system {
    #[expect(unsafe_code, reason = "no safe crate does it")]
    pub fn bound(heaps: usize) {
        let heaps = heaps.try_into().unwrap_or(libc::c_int::MAX);
        // SAFETY: it takes the allocator's own lock, and touches nothing that is in use.
        let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) };
    }

    #[expect(unsafe_code, reason = "no safe crate does it")]
    pub fn trim() {
        // SAFETY: it takes the allocator's own lock, and touches nothing that is in use.
        let _ = unsafe { libc::malloc_trim(0) };
    }

    /// Returns how much memory the process has that is no file's, in bytes.
    pub fn resident_bytes() -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let figure = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        let kib: u64 = figure.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod system {
    pub fn bound(_: usize) {}

    pub fn trim() {}

    pub fn resident_bytes() -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_has_grown_is_counted_from_the_least_that_was_seen_since() {
        let mut heap = Heap { rest_bytes: 100 * MIB };
        assert!(!heap.has_grown(115 * MIB, GROWN_BUSY_BYTES));
        assert!(heap.has_grown(116 * MIB, GROWN_BUSY_BYTES));
        assert!(heap.has_grown(102 * MIB, GROWN_IDLE_BYTES));
        assert!(!heap.has_grown(40 * MIB, GROWN_BUSY_BYTES), "it has come down by itself");
        assert!(heap.has_grown(56 * MIB, GROWN_BUSY_BYTES));
    }

    /// Free blocks between some that are used are what glibc keeps.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn what_is_free_between_what_is_used_is_given_back() {
        const BLOCKS: usize = 32_768;
        let resident = || system::resident_bytes().expect("this system tells it");
        let mut blocks: Vec<Option<Box<[u8]>>> =
            (0..BLOCKS).map(|_| Some(vec![1; 4 << 10].into_boxed_slice())).collect();
        let full = resident();
        assert!(full >= 96 * MIB, "{full}");
        for (at, block) in blocks.iter_mut().enumerate() {
            if at % 64 > 0 {
                *block = None;
            }
        }
        Heap::default().look();
        // Other tests take memory meanwhile, but not as much as half of it.
        let rest = resident();
        assert!(rest + 64 * MIB <= full, "{full} before, {rest} after");
        assert_eq!(blocks.iter().flatten().map(|block| usize::from(block[0])).sum::<usize>(), 512);
    }
}
