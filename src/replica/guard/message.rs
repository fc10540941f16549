//! Owns the judging of messages of automerge's sync protocol.
//!
//! Must not know which peer sent one. Invariant: answering a message that passed takes automerge
//! neither more memory nor more steps than the message's length allows for.

use super::{
    Budget, ChangeHeader, DocumentLimits, HEADS_MAX, Refused, at_most, change, chunk, document,
    reader::Reader,
};

/// Most changes that a peer may ask for by their hashes in one message.
const NEEDS_MAX: u64 = 65_536;

/// Most states of knowledge in one message: automerge sends one.
const HAVES_MAX: u64 = 4;

/// Most changes, or documents, in one message.
const CHANGES_MAX: u64 = 65_536;

/// Most entries of a Bloom filter: as many changes as a document has, where nothing was in common.
const BLOOM_ENTRIES_MAX: u64 = 4 << 20;

/// Most bits an entry of a Bloom filter: automerge uses 10.
const BLOOM_BITS_MAX: u64 = 64;

/// Most probes of a Bloom filter: automerge uses 7, and makes a list of them for each change.
const BLOOM_PROBES_MAX: u64 = 32;

/// Most flags, in bytes: automerge sends two.
const FLAGS_BYTES_MAX: u64 = 16;

/// Judges a message of automerge's sync protocol as a peer sent it, and returns the headers of the
/// changes in it; those within a document in it are not among them.
///
/// # Errors
///
/// Automerge must not be given these bytes.
pub fn check_sync_message(bytes: &[u8]) -> Result<Vec<ChangeHeader>, Refused> {
    let mut reader = Reader::new(bytes);
    match reader.byte("message type")? {
        0x42 | 0x43 => {}
        _ => return Err(Refused::Invalid { what: "message type" }),
    }
    reader.hashes(HEADS_MAX, "heads")?;
    reader.hashes(NEEDS_MAX, "needs")?;
    for _ in 0..reader.count(HAVES_MAX, 2, "haves")? {
        reader.hashes(HEADS_MAX, "last sync")?;
        let length = reader.unsigned("bloom filter")?;
        check_bloom(reader.take(length, "bloom filter")?)?;
    }
    let mut budget = Budget::frame();
    let mut headers = Vec::new();
    for _ in 0..reader.count(CHANGES_MAX, 1, "changes")? {
        let length = reader.unsigned("changes")?;
        check_stored(reader.take(length, "changes")?, &mut budget, &mut headers)?;
    }
    if !reader.is_empty() {
        let length = reader.count(FLAGS_BYTES_MAX, 1, "flags")?;
        reader.take(length, "flags")?;
    }
    reader.end("a sync message")?;
    Ok(headers)
}

/// Judges what a message carries: changes, or a document with changes behind it.
fn check_stored(
    bytes: &[u8],
    budget: &mut Budget,
    headers: &mut Vec<ChangeHeader>,
) -> Result<(), Refused> {
    let mut reader = Reader::new(bytes);
    let mut is_first = true;
    while !reader.is_empty() {
        let next = chunk::Chunk::take(&mut reader)?;
        if is_first && next.kind == chunk::Kind::Document {
            let document = document::check_in(bytes, DocumentLimits::FRAME, budget, &mut ())?;
            headers.extend(document.appended);
            return Ok(());
        }
        headers.push(change::check_chunk(&next, budget)?);
        is_first = false;
    }
    Ok(())
}

/// One of the things that a sync message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// A change.
    Change(&'a [u8]),
    /// A saved document, and changes appended to it.
    Document(&'a [u8]),
}

/// Splits what a message carries into changes, or finds that it is a document.
///
/// # Errors
///
/// It is not made of chunks.
pub fn parts(bytes: &[u8]) -> Result<Vec<Part<'_>>, Refused> {
    let mut reader = Reader::new(bytes);
    let mut parts = Vec::new();
    let mut rest = bytes;
    while !reader.is_empty() {
        let next = chunk::Chunk::take(&mut reader)?;
        if parts.is_empty() && next.kind == chunk::Kind::Document {
            return Ok(vec![Part::Document(bytes)]);
        }
        let (change, after) = rest.split_at(rest.len() - reader.left());
        parts.push(Part::Change(change));
        rest = after;
    }
    Ok(parts)
}

/// Judges a Bloom filter: how many bits it has must be what it says, and not none.
fn check_bloom(bytes: &[u8]) -> Result<(), Refused> {
    const WHAT: &str = "bloom filter";
    if bytes.is_empty() {
        return Ok(());
    }
    let mut reader = Reader::new(bytes);
    let entries = reader.unsigned(WHAT)?;
    let bits = reader.unsigned(WHAT)?;
    let probes = reader.unsigned(WHAT)?;
    at_most("entries of a bloom filter", entries, BLOOM_ENTRIES_MAX)?;
    at_most("bits an entry of a bloom filter", bits, BLOOM_BITS_MAX)?;
    at_most("probes of a bloom filter", probes, BLOOM_PROBES_MAX)?;
    if entries == 0 || bits == 0 || probes == 0 {
        return Err(Refused::Invalid { what: WHAT });
    }
    // Automerge divides by the number of bits, and rounds the bytes up.
    reader.take((entries * bits).div_ceil(8), WHAT)?;
    reader.end(WHAT)
}
