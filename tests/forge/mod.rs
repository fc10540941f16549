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
    // The first item alone, and the rest in a run.
    let first_then = |first: Vec<u8>, count: u64, item: &[u8]| match count {
        0 => Vec::new(),
        count => [run(1, &first), run(count - 1, item)].concat(),
    };
    let max_op = [run(changes - 1, &delta(0)), run(1, &delta(ops.cast_signed()))].concat();
    let change_columns: Vec<(u64, Vec<u8>)> = vec![
        (0x01, run(changes, &number(0))),
        (0x03, run(changes, &delta(1))),
        (0x13, max_op),
        (0x23, run(changes, &delta(0))),
        (0x35, nulls(changes)),
        (0x40, first_then(number(0), changes, &number(1))),
        (0x43, first_then(delta(0), changes - 1, &delta(1))),
        (0x56, run(changes, &number(7))),
    ];
    let key = [&number(1)[..], b"k"].concat();
    let operation_columns: Vec<(u64, Vec<u8>)> = vec![
        (0x15, run(ops, &key)),
        (0x21, run(ops, &number(0))),
        (0x23, run(ops, &delta(1))),
        (0x34, number(ops)),
        (0x42, run(ops, &number(1))),
        (0x56, run(ops, &number(0))),
        (0x80, run(ops, &number(0))),
    ];
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
