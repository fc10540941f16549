//! Owns making automerge's bytes as an attacker would: chunks whose checksum is right, whatever is in
//! them.
//!
//! Must not know what the bytes are for. Invariant: what comes out has the outer form of honest
//! bytes, so that it is the inner form that is judged.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;

use sha2::{Digest as _, Sha256};

/// Wraps contents into a chunk with the right checksum.
pub fn chunk(kind: u8, contents: &[u8]) -> Vec<u8> {
    chunk_of(kind, contents, kind, contents)
}

/// Wraps `stored` into a chunk with the checksum of `hashed`.
pub fn chunk_of(kind: u8, stored: &[u8], hashed_kind: u8, hashed: &[u8]) -> Vec<u8> {
    let length = |count: usize| {
        let mut bytes = Vec::new();
        let mut count = count;
        while count >= 0x80 {
            bytes.push(count as u8 | 0x80);
            count >>= 7;
        }
        bytes.push(count as u8);
        bytes
    };
    let hash = Sha256::digest([&[hashed_kind][..], &length(hashed.len()), hashed].concat());
    [&[0x85, 0x6f, 0x4a, 0x83][..], &hash[..4], &[kind], &length(stored.len()), stored].concat()
}

/// Returns the contents of the one chunk that these bytes are, if they have so much as its head.
pub fn contents(bytes: &[u8]) -> Option<&[u8]> {
    let length = 1 + bytes.get(9..)?.iter().position(|byte| byte & 0x80 == 0)?;
    bytes.get(9 + length..)
}

/// Returns the hash by which a change with these contents is named.
pub fn hash_of(change: &[u8]) -> [u8; 32] {
    let mut length = Vec::new();
    unsigned(&mut length, change.len() as u64);
    Sha256::digest([&[1][..], &length, change].concat()).into()
}

/// Compresses as automerge does.
pub fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Changes some bytes, mostly to what lengths, run lengths and ids are made of.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.usize(..bytes.len());
        match random.u8(..6) {
            0 => bytes[at] = random.u8(..),
            1 => bytes[at] ^= 1 << random.u8(..8),
            2 => bytes[at] = bytes[at].wrapping_add(1),
            3 => bytes[at] = *random.choice([0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xff].iter()).unwrap(),
            4 => {
                bytes.remove(at);
            }
            _ => {
                let huge = [0xff, 0xff, 0xff, 0xff, 0x07];
                bytes.splice(at..at + 1, huge.into_iter().take(random.usize(1..6)));
            }
        }
    }
}

/// Appends an unsigned LEB128 number.
pub fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed LEB128 number.
pub fn signed(out: &mut Vec<u8>, mut value: i64) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if (value == 0 && byte & 0x40 == 0) || (value == -1 && byte & 0x40 != 0) {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

/// Makes a column of one run of equal items, or of one literal item.
pub fn run(count: u64, item: &[u8]) -> Vec<u8> {
    let mut column = Vec::new();
    if count > 0 {
        signed(&mut column, if count == 1 { -1 } else { count.cast_signed() });
        column.extend_from_slice(item);
    }
    column
}

/// Makes a column of nothing but nulls.
pub fn nulls(count: u64) -> Vec<u8> {
    let mut column = vec![0];
    unsigned(&mut column, count);
    column
}

/// Makes a document in which everything is a run: `changes` changes of one actor in a row, and
/// `ops` values of one key by the last of them. A few hundred bytes claim any number of both.
///
/// Its heads, of which there may be more to make it longer, are not those of its changes: automerge
/// finds out only when it has built them all.
pub fn bomb(actor: &[u8], changes: u64, ops: u64, heads: u16) -> Vec<u8> {
    Bomb { changes, ops, heads, ..Bomb::default() }.bytes(actor)
}

/// Says what a document claims.
#[derive(Debug, Clone, Copy)]
pub struct Bomb {
    /// Changes of one actor in a row.
    pub changes: u64,
    /// Operations of the last of them.
    pub ops: u64,
    /// Heads that it has not, 32 bytes each.
    pub heads: u16,
    /// How long the key is that all of them write to; 0 for a key each.
    pub key: usize,
    /// How long the message of each change is.
    pub message: usize,
    /// How long the text is that each operation puts.
    pub value: usize,
    /// Whether the texts are deflated, which makes nearly nothing of them.
    pub deflated: bool,
    /// Whether each operation makes a map.
    pub maps: bool,
    /// Whether each operation overwrites the one before it.
    pub chained: bool,
}

impl Default for Bomb {
    fn default() -> Self {
        Self {
            changes: 1,
            ops: 1,
            heads: 1,
            key: 1,
            message: 0,
            value: 0,
            deflated: false,
            maps: false,
            chained: false,
        }
    }
}

impl Bomb {
    /// Makes the document.
    pub fn bytes(self, actor: &[u8]) -> Vec<u8> {
        let Self { changes, ops, heads, .. } = self;
        let number = |value: u64| {
            let mut bytes = Vec::new();
            unsigned(&mut bytes, value);
            bytes
        };
        let delta = |value: i64| {
            let mut bytes = Vec::new();
            signed(&mut bytes, value);
            bytes
        };
        let text = |text: &[u8]| [&number(text.len() as u64)[..], text].concat();
        // The first item alone, and the rest in a run.
        let first_then = |first: Vec<u8>, count: u64, item: &[u8]| match count {
            0 => Vec::new(),
            count => [run(1, &first), run(count - 1, item)].concat(),
        };
        // All but the last in a run.
        let then_last =
            |item: &[u8], count: u64, last: &[u8]| [run(count - 1, item), run(1, last)].concat();
        let max_op = then_last(&delta(0), changes, &delta(ops.cast_signed()));
        let message = match self.message {
            0 => nulls(changes),
            length => run(changes, &text(&vec![b'm'; length])),
        };
        let change_columns: Vec<(u64, Vec<u8>)> = vec![
            (0x01, run(changes, &number(0))),
            (0x03, run(changes, &delta(1))),
            (0x13, max_op),
            (0x23, run(changes, &delta(0))),
            (0x35, message),
            (0x40, first_then(number(0), changes, &number(1))),
            (0x43, first_then(delta(0), changes - 1, &delta(1))),
            (0x56, run(changes, &number(7))),
        ];
        let key = match self.key {
            0 => {
                let mut column = delta(-ops.cast_signed());
                (0..ops).for_each(|op| column.extend(text(format!("{op:08}").as_bytes())));
                column
            }
            length => run(ops, &text(&vec![b'k'; length])),
        };
        let (action, kind) = if self.maps { (0, 0) } else { (1, 6) };
        let value = if self.value == 0 { 0 } else { (self.value as u64) << 4 | kind };
        let mut values = vec![b'v'; self.value * ops as usize];
        if self.deflated {
            values = deflate(&values);
        }
        let mut operation_columns: Vec<(u64, Vec<u8>)> = vec![
            (0x15, key),
            (0x21, run(ops, &number(0))),
            (0x23, run(ops, &delta(1))),
            (0x34, number(ops)),
            (0x42, run(ops, &number(action))),
            (0x56, run(ops, &number(value))),
        ];
        if self.value > 0 {
            operation_columns.push((if self.deflated { 0x5f } else { 0x57 }, values));
        }
        if self.chained {
            operation_columns.extend([
                (0x80, then_last(&number(1), ops, &number(0))),
                (0x81, run(ops - 1, &number(0))),
                (0x83, first_then(delta(2), ops - 1, &delta(1))),
            ]);
        } else {
            operation_columns.push((0x80, run(ops, &number(0))));
        }
        let mut contents = number(1);
        unsigned(&mut contents, actor.len() as u64);
        contents.extend_from_slice(actor);
        contents.extend(number(heads.into()));
        for head in 0..heads {
            contents.extend(head.to_be_bytes());
            contents.extend([7; 30]);
        }
        for columns in [&change_columns, &operation_columns] {
            contents.extend(number(columns.len() as u64));
            for (bits, column) in columns {
                unsigned(&mut contents, *bits);
                unsigned(&mut contents, column.len() as u64);
            }
        }
        for (_, column) in change_columns.iter().chain(&operation_columns) {
            contents.extend_from_slice(column);
        }
        for _ in 0..heads {
            contents.extend(number(changes - 1));
        }
        chunk(0, &contents)
    }
}

/// Names the documents that cost the most of all that a node takes, by what they have much of, and
/// just as many more that cost too much: see *What documents may hold* in `proto/wire.md`.
pub fn dearest() -> Vec<(&'static str, Bomb, Bomb)> {
    const MEMORY: u64 = 144 << 20;
    let plain = Bomb::default();
    // With so many heads as a document may have, it is long enough for all that follows.
    let heads = 4_096;
    let long = Bomb { heads, ..plain };
    // Of these, 419 fill what may be inflated.
    let texts = Bomb { value: 60_000, deflated: true, ..plain };
    let changes = |each: u64, bomb: Bomb| {
        let count = |memory: u64| (memory - (3 << 20)) / each;
        let of = |memory| Bomb { changes: count(memory), ..bomb };
        (of(MEMORY), of(MEMORY + (8 << 20)))
    };
    let ops = |each: u64, bomb: Bomb| {
        let count = |memory: u64| (memory - (3 << 20)) / each;
        let of = |memory| Bomb { ops: count(memory), ..bomb };
        (of(MEMORY), of(MEMORY + (8 << 20)))
    };
    let all = [
        ("changes", (Bomb { changes: 60_000, ..long }, Bomb { changes: 60_001, ..long })),
        ("messages", changes(1_564 + 4 * 1_024, Bomb { message: 1_024, ..long })),
        ("operations", ops(108, Bomb { value: 1, ..plain })),
        ("keys", ops(100 + 4 * 1_024, Bomb { key: 1_024, ..long })),
        ("overwritten", ops(408, Bomb { value: 1, chained: true, ..plain })),
        ("maps", ops(350 + 32 + 36, Bomb { key: 0, maps: true, ..plain })),
        ("texts", (Bomb { ops: 415, ..texts }, Bomb { ops: 425, ..texts })),
    ];
    all.into_iter().map(|(name, (passes, not))| (name, passes, not)).collect()
}
