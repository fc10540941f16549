//! Owns a simulated disk: what was written but not synced can be lost, whole or in sectors.
//!
//! Must not know redb's format. Invariant: what was synced stays.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use fastrand::Rng;
use redb::StorageBackend;

/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// When a disk fails, counted in operations that change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Never.
    None,
    /// One operation fails, the next ones work again.
    Once(u64),
    /// This operation and all after it fail.
    From(u64),
    /// The next sync fails, what was written before it goes through.
    NextSync,
}

#[derive(Debug)]
enum Operation {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

impl Operation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::SetLen(length) => bytes.resize(*length, 0),
            Self::Write { offset, data } => {
                let end = offset + data.len();
                // Beyond the end only where a change of the length was lost.
                bytes.resize(bytes.len().max(end), 0);
                bytes[*offset..end].copy_from_slice(data);
            }
        }
    }
}

#[derive(Debug)]
struct Platter {
    /// What a reader sees.
    current: Vec<u8>,
    /// What survives a power cut for certain.
    synced: Vec<u8>,
    /// What lies between the two, in order.
    pending: Vec<Operation>,
    operations: u64,
    fault: Fault,
    rng: Rng,
    /// How many faults have struck.
    struck: u64,
    /// Backends of earlier boots do nothing any more.
    boot: u64,
}

/// A disk with one file on it.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    /// Makes a disk that holds `bytes`.
    pub fn new(bytes: Vec<u8>, fault: Fault, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            synced: bytes.clone(),
            current: bytes,
            pending: Vec::new(),
            operations: 0,
            fault,
            rng: Rng::with_seed(seed),
            struck: 0,
            boot: 0,
        })))
    }

    /// Returns what redb is to be opened on.
    pub fn backend(&self) -> Backend {
        Backend { disk: self.clone(), boot: self.platter().boot }
    }

    /// Returns what a reader sees.
    pub fn bytes(&self) -> Vec<u8> {
        self.platter().current.clone()
    }

    /// Returns how many operations have changed something, or failed to.
    pub fn operations(&self) -> u64 {
        self.platter().operations
    }

    /// Returns what survives a power cut for certain.
    pub fn synced_bytes(&self) -> Vec<u8> {
        self.platter().synced.clone()
    }

    /// Puts other bytes on the disk, as whoever restores a backup does.
    pub fn restore(&self, bytes: &[u8]) {
        let mut platter = self.platter();
        platter.boot += 1;
        platter.fault = Fault::None;
        platter.pending.clear();
        platter.current = bytes.to_vec();
        platter.synced = bytes.to_vec();
    }

    /// Fails from now on as told; operations are counted from here.
    pub fn fail(&self, fault: Fault) {
        let mut platter = self.platter();
        let now = platter.operations;
        platter.fault = match fault {
            Fault::None | Fault::NextSync => fault,
            Fault::Once(after) => Fault::Once(now + after),
            Fault::From(after) => Fault::From(now + after),
        };
    }

    /// Returns how many operations have failed as was asked for.
    pub fn struck(&self) -> u64 {
        self.platter().struck
    }

    /// Ends the process: its later writes don't happen, its earlier ones all do, but for those that
    /// a failed sync has lost. Whoever opens the file next has what is cached of it dropped first
    /// (see `store::folder`), and so sees what is there.
    pub fn kill(&self) {
        let mut platter = self.platter();
        platter.boot += 1;
        platter.fault = Fault::None;
        let Platter { synced, pending, current, .. } = &mut *platter;
        current.clone_from(synced);
        pending.iter().for_each(|operation| operation.apply(current));
    }

    /// Cuts the power: of what was not synced, any sector may be there or not.
    pub fn cut_power(&self) {
        let mut platter = self.platter();
        platter.boot += 1;
        platter.fault = Fault::None;
        let pending = std::mem::take(&mut platter.pending);
        let kept_share = platter.rng.f64();
        let mut bytes = std::mem::take(&mut platter.synced);
        for operation in pending {
            match operation {
                Operation::SetLen(length) => {
                    if platter.rng.f64() < kept_share {
                        bytes.resize(length, 0);
                    }
                }
                Operation::Write { offset, data } => {
                    for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                        let from = offset + index * SECTOR_BYTES;
                        if platter.rng.f64() < kept_share && from + sector.len() <= bytes.len() {
                            bytes[from..from + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        platter.current = bytes.clone();
        platter.synced = bytes;
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().expect("no test panics while it holds the platter")
    }
}

impl Platter {
    fn perform(&mut self, operation: Operation) {
        operation.apply(&mut self.current);
        self.pending.push(operation);
    }

    /// Counts an operation and tells whether it is to fail.
    fn fails(&mut self) -> bool {
        let number = self.operations;
        self.operations += 1;
        let fails = match self.fault {
            Fault::None | Fault::NextSync => false,
            Fault::Once(at) => number == at,
            Fault::From(first) => number >= first,
        };
        self.struck += u64::from(fails);
        fails
    }

    fn sync_fails(&mut self) -> bool {
        let next_sync = self.fault == Fault::NextSync;
        if next_sync {
            self.fault = Fault::None;
            self.struck += 1;
        }
        self.fails() || next_sync
    }
}

/// One boot's view of a [`Disk`].
#[derive(Debug)]
pub struct Backend {
    disk: Disk,
    boot: u64,
}

impl Backend {
    fn platter(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let platter = self.disk.platter();
        if platter.boot == self.boot { Ok(platter) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platter()?.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.platter()?;
        let from = offset as usize;
        let bytes = platter.current.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut platter = self.platter()?;
        if platter.fails() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        platter.perform(Operation::SetLen(length as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.platter()?;
        if platter.sync_fails() {
            // What a kernel could not write it may mark clean and never write again.
            let mut rng = platter.rng.fork();
            platter.pending.retain(|_| rng.bool());
            return Err(io::Error::other("injected sync failure"));
        }
        let Platter { synced, pending, .. } = &mut *platter;
        pending.drain(..).for_each(|operation| operation.apply(synced));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.platter()?;
        let offset = offset as usize;
        if platter.fails() {
            // A full disk takes the beginning.
            let taken = platter.rng.usize(0..=data.len());
            platter.perform(Operation::Write { offset, data: data[..taken].to_vec() });
            return Err(io::ErrorKind::StorageFull.into());
        }
        platter.perform(Operation::Write { offset, data: data.to_vec() });
        Ok(())
    }
}
