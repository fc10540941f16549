//! Owns the judging of a peer's bytes before automerge sees them.
//!
//! Must not know what a document means, only what automerge would do with its bytes. Automerge 0.12
//! trusts what it decodes: some inputs make it abort on an allocation, loop, or inflate without
//! bound, which no `catch_unwind` contains. So what passes here has its lengths, counts and run
//! lengths checked, is not deeper than the schema, and holds nothing but maps and scalars, the only
//! things that a document of ours is made of. Invariant: nothing here panics or allocates more than
//! its limits, whatever the bytes.
//!
//! The format is that of <https://automerge.org/automerge-binary-format-spec/>.

mod ahead;
mod change;
mod chunk;
mod column;
mod document;
mod message;
mod operation;
mod reader;
mod witness;

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

pub use ahead::Ahead;
pub use change::{ChangeHeader, check_change, check_changes, memory_of_changes};
pub use document::{DocumentHeader, DocumentLimits, check_document, check_document_before};
pub use message::{Part, check_sync_message, parts};
pub use operation::{OpId, Value};
pub use witness::{Item, Witness};

/// Most bytes of a change, inflated: the greatest honest one deletes a workspace with thousands of
/// sessions, at under 100 bytes each.
pub const CHANGE_BYTES_MAX: usize = 4 << 20;

/// Most operations of a change: as above, at four each.
pub const CHANGE_OPS_MAX: u64 = 65_536;

/// How many operations a change may have however short it is: twice the buckets of a host document.
pub const CHANGE_OPS_FREE: u64 = 512;

/// How many operations may come with each byte beyond: honest ones, which bring a key, an id or a
/// value, take three bytes each at the least, saved and deflated.
pub const OPS_PER_BYTE_MAX: u64 = 2;

/// Most values that all operations of a change overwrite: were one key written to in every change that a
/// document may have, its host could still purge it with one operation.
pub const CHANGE_OVERWRITES_MAX: u64 = 4 * CHANGE_OPS_MAX;

/// Most dependencies of a change: the heads that its author had. Were it less than a document may
/// have, a node that writes side by side with itself could have whoever writes next be refused by all.
pub const DEPENDENCIES_MAX: u64 = HEADS_MAX;

/// Most actors that a change names: the authors of what it overwrites, who may be all of a document's.
pub const CHANGE_ACTORS_MAX: u64 = DocumentLimits::SNAPSHOT.actors;

/// Furthest a change's time may be from the epoch, whichever way: automerge subtracts times from each
/// other in 64 bits, and JSON readers take no greater numbers.
pub const TIME_MAX: u64 = 1 << 53;

/// Longest message of a change, in bytes: ours have none.
pub const MESSAGE_BYTES_MAX: u64 = 1024;

/// Longest key of a map, in bytes: ids have 64, keys of free fields are bounded by the commands.
pub const KEY_BYTES_MAX: usize = 1024;

/// Longest text or byte string, in bytes.
pub const VALUE_BYTES_MAX: u64 = 64 << 10;

/// Deepest nesting of maps: the schema needs five, the rest is for newer versions. Automerge
/// recurses into what it reads.
pub const DEPTH_MAX: u8 = 16;

/// Most bytes that are inflated for one frame: the frame itself has at most 8 MiB.
pub const FRAME_INFLATED_BYTES_MAX: usize = 16 << 20;

/// Most operations in one frame: run lengths make them nearly free to claim, and each is walked.
pub const FRAME_OPS_MAX: u64 = 1 << 20;

/// What automerge may take, by the costs below, for what came in one frame: while a document is read,
/// its bytes and those that other peers send are beside it, one that is judged meanwhile, inflated,
/// and one that takes less, the allocator keeps some of what was read before, and all of it is to stay
/// within 256 MiB.
/// A host document of 1,000 sessions with a history of 10,000 changes takes a quarter of it.
pub const MEMORY_BYTES_MAX: u64 = 144 << 20;

/// What parts of what a peer sends take in automerge and around it, in bytes. All of these were measured
/// with automerge 0.12, and rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Costs {
    /// Of a change: each is built whole, with names and columns of its own, before any is known to be
    /// of use.
    change: u64,
    /// Of an operation.
    op: u64,
    /// Of an operation that makes a map, beside that.
    map: u64,
    /// Of an operation for each one that it overwrites, or is overwritten by.
    related: u64,
    /// Of each byte of what is inflated, and of each key and message, which a run repeats for a byte or
    /// two: it is held in the columns, in the change that is built, and in the document.
    byte: u64,
}

/// What a saved document takes that is loaded.
const LOADED: Costs = Costs { change: 1_500, op: 100, map: 250, related: 300, byte: 4 };

/// What changes take that are applied: beside what automerge makes of them, they are judged by what they
/// do, told to the store and passed on (`tests/frames.rs`).
const APPLIED: Costs = Costs { change: 4_000, op: 700, map: 300, related: 300, byte: 6 };

/// What each dependency of a change of a saved document takes.
const DEPENDENCY_COST: u64 = 64;
/// What an actor takes.
const ACTOR_COST: u64 = 256;
/// Most heads of a document, as on the wire: far more than all members of a fleet may leave beside each
/// other, so that no number of changes, each of which is taken, makes one that is not.
pub const HEADS_MAX: u64 = 65_536;

/// Explains why a peer's bytes are not given to automerge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The bytes end too early.
    #[error("{what}: the bytes end too early")]
    Truncated {
        /// What they were read as.
        what: &'static str,
    },
    /// The bytes go on.
    #[error("{what}: {count} bytes are left over")]
    LeftOver {
        /// Behind what.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// The bytes stand for nothing that may be there.
    #[error("{what}: not valid")]
    Invalid {
        /// What they were read as.
        what: &'static str,
    },
    /// There is more of something than is taken.
    #[error("{what}: {count}, more than {limit}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much, as far as it was counted.
        count: u64,
        /// How much is taken.
        limit: u64,
    },
    /// The checksum is not that of the contents.
    #[error("the checksum is not that of the contents")]
    Checksum,
    /// The deflate stream is broken.
    #[error("{what}: can't be inflated")]
    Deflate {
        /// What was deflated.
        what: &'static str,
    },
    /// Automerge knows it, but no document of ours holds it.
    #[error("{what}: not used by this software")]
    Unused {
        /// What is held.
        what: &'static str,
    },
    /// An id refers to nothing that was there before it.
    #[error("{what}: refers to nothing")]
    Dangling {
        /// What refers.
        what: &'static str,
    },
    /// A change does not build on the one that its author made before it.
    #[error("a change does not build on its author's previous one")]
    Unlinked,
    /// Things come in another order than automerge keeps them.
    #[error("{what}: out of order")]
    Order {
        /// Which things.
        what: &'static str,
    },
}

impl Refused {
    /// Returns the error's name for logs and metrics; it never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Truncated { .. } => "truncated",
            Self::LeftOver { .. } => "left_over",
            Self::Invalid { .. } => "invalid",
            Self::TooMuch { .. } => "too_much",
            Self::Checksum => "checksum",
            Self::Deflate { .. } => "deflate",
            Self::Unused { .. } => "unused",
            Self::Dangling { .. } => "dangling",
            Self::Order { .. } => "order",
            Self::Unlinked => "unlinked",
        }
    }
}

/// Refuses what is more than a limit.
fn at_most(what: &'static str, count: u64, limit: u64) -> Result<(), Refused> {
    if count > limit { Err(Refused::TooMuch { what, count, limit }) } else { Ok(()) }
}

/// Refuses a change that is to be written on so many heads, or with so many operations.
///
/// # Errors
///
/// It is more than is taken of one change.
pub fn check_counts(heads: u64, ops: u64) -> Result<(), Refused> {
    at_most("dependencies", heads, DEPENDENCIES_MAX)?;
    at_most("operations of a change", ops, CHANGE_OPS_MAX)
}

/// What may still be spent on a frame or a document.
#[derive(Debug)]
struct Budget {
    inflated_bytes: usize,
    ops: u64,
    memory_bytes: u64,
}

impl Budget {
    /// Returns what one frame may cost.
    fn frame() -> Self {
        Self {
            inflated_bytes: FRAME_INFLATED_BYTES_MAX,
            ops: FRAME_OPS_MAX,
            memory_bytes: MEMORY_BYTES_MAX,
        }
    }

    fn spend_ops(&mut self, ops: u64) -> Result<(), Refused> {
        at_most("operations in one frame", ops, self.ops)?;
        self.ops -= ops;
        Ok(())
    }

    /// Counts memory that automerge would take; none of the products that are given is near the end
    /// of 64 bits, since all counts are bounded.
    fn spend_memory(&mut self, bytes: u64) -> Result<(), Refused> {
        at_most("bytes of memory for one frame", bytes, self.memory_bytes)?;
        self.memory_bytes -= bytes;
        Ok(())
    }
}

/// Says that automerge panicked, and with what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("automerge panicked: {message}")]
pub struct Panicked {
    /// What the panic said.
    pub message: String,
}

thread_local! {
    /// How many [`contained`] are under way on this thread, one within the other.
    static CONTAINING: Cell<u32> = const { Cell::new(0) };
}

/// Tells whether what panics now, on this thread, is [`contained`]: whoever reports panics need not
/// say where it came from at length, which takes a peer's victim a fifth of a second and 170 MiB.
pub fn is_containing() -> bool {
    CONTAINING.get() > 0
}

/// Runs something that may panic on a peer's bytes.
///
/// What it has changed by then is in an unknown state: a document is to be thrown away and built
/// anew from the store.
///
/// # Errors
///
/// It panicked.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    CONTAINING.set(CONTAINING.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(work));
    CONTAINING.set(CONTAINING.get() - 1);
    done.map_err(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "without a message".to_owned());
        Panicked { message }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contained_panic_is_an_error_that_says_what_the_panic_said() {
        assert_eq!(contained(|| 7), Ok(7));
        assert_eq!(contained(|| contained(is_containing)), Ok(Ok(true)));
        assert!(!is_containing());
        let count = 3;
        let panicked = contained(|| assert_eq!(count, 4, "three of four")).unwrap_err();
        assert!(panicked.to_string().contains("three of four"), "{panicked}");
        assert!(!is_containing(), "also after a panic");
    }
}
