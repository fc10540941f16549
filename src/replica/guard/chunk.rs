//! Owns chunks, the envelopes in which automerge stores changes and documents, and inflating.
//!
//! Must not know what is in a chunk. Invariant: no more is inflated than the budget allows.

use flate2::{Decompress, FlushDecompress, Status};
use sha2::{Digest as _, Sha256};

use super::{Budget, Refused, reader::Reader};
use crate::replica::ids::ChangeHash;

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];

/// What is in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Document,
    Change,
    DeflatedChange,
}

/// An envelope, whose checksum is not checked yet.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    pub(super) kind: Kind,
    pub(super) contents: &'a [u8],
    checksum: [u8; 4],
}

impl<'a> Chunk<'a> {
    /// Takes the next chunk.
    pub(super) fn take(reader: &mut Reader<'a>) -> Result<Self, Refused> {
        if reader.array("magic bytes")? != MAGIC {
            return Err(Refused::Invalid { what: "magic bytes" });
        }
        let checksum = reader.array("checksum")?;
        let kind = match reader.byte("chunk type")? {
            0 => Kind::Document,
            1 => Kind::Change,
            2 => Kind::DeflatedChange,
            3 => return Err(Refused::Unused { what: "a bundle" }),
            _ => return Err(Refused::Invalid { what: "chunk type" }),
        };
        let length = reader.unsigned("chunk length")?;
        let contents = reader.take(length, "chunk")?;
        Ok(Self { kind, contents, checksum })
    }

    /// Checks the checksum against contents, which may have been inflated, and returns the hash.
    pub(super) fn verify(&self, contents: &[u8]) -> Result<ChangeHash, Refused> {
        let kind = match self.kind {
            Kind::Document => 0,
            // The checksum of a deflated change is that of the change.
            Kind::Change | Kind::DeflatedChange => 1,
        };
        let mut hasher = Sha256::new();
        hasher.update([kind]);
        hasher.update(unsigned_bytes(contents.len() as u64));
        hasher.update(contents);
        let hash: [u8; 32] = hasher.finalize().into();
        if hash[..4] == self.checksum { Ok(ChangeHash(hash)) } else { Err(Refused::Checksum) }
    }
}

/// Returns a number as unsigned LEB128.
fn unsigned_bytes(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(10);
    loop {
        let bits = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(bits);
            return bytes;
        }
        bytes.push(bits | 0x80);
    }
}

/// Inflates a raw deflate stream that must be all of `deflated`, into at most `limit` bytes.
pub(super) fn inflate(
    deflated: &[u8],
    limit: usize,
    budget: &mut Budget,
    what: &'static str,
) -> Result<Vec<u8>, Refused> {
    const STEP_BYTES: usize = 32 << 10;
    let limit = limit.min(budget.inflated_bytes);
    let mut inflater = Decompress::new(false);
    let mut inflated = Vec::new();
    let mut step = vec![0; STEP_BYTES];
    loop {
        // Neither total is more than a length that was a `usize`.
        let (read, written) = (inflater.total_in() as usize, inflater.total_out() as usize);
        let status = inflater
            .decompress(&deflated[read..], &mut step, FlushDecompress::None)
            .map_err(|_| Refused::Deflate { what })?;
        let fresh = inflater.total_out() as usize - written;
        inflated.extend_from_slice(&step[..fresh]);
        if inflated.len() > limit {
            let count = inflated.len() as u64;
            return Err(Refused::TooMuch { what: "inflated bytes", count, limit: limit as u64 });
        }
        if status == Status::StreamEnd {
            break;
        }
        if fresh == 0 && inflater.total_in() as usize == read {
            return Err(Refused::Deflate { what });
        }
    }
    let left = deflated.len() - inflater.total_in() as usize;
    if left > 0 {
        return Err(Refused::LeftOver { what, count: left });
    }
    budget.inflated_bytes -= inflated.len();
    Ok(inflated)
}
