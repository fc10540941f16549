//! Owns a disk for tests on which something happens before each write becomes durable.
//!
//! Must not know what happens. Invariant: everything else is as on a disk in memory.

use std::{fmt, io};

use super::{InMemoryBackend, StorageBackend};

/// A disk in memory that calls a function before each sync.
pub struct BeforeSync<F> {
    disk: InMemoryBackend,
    act: F,
}

impl<F: Fn()> BeforeSync<F> {
    /// Makes an empty one.
    pub fn new(act: F) -> Self {
        Self { disk: InMemoryBackend::new(), act }
    }
}

impl<F> fmt::Debug for BeforeSync<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeforeSync").finish_non_exhaustive()
    }
}

impl<F: Fn() + Send + Sync + 'static> StorageBackend for BeforeSync<F> {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.act)();
        self.disk.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write(offset, data)
    }
}
