//! A damaged file is named as such, or gives all that was acknowledged; never a part of it.
//!
//! `FLIP_EVERY=1 cargo test --release --test store damage` flips every byte, and cuts the file off at
//! each; by default one in so many.

use sessionmesh::store::{OpenError, Store};

use crate::{
    disk::{Disk, Fault},
    workload::{Contents, perform, program},
};

/// Where redb 4 keeps flags; one of them says that the file was not closed.
const GOD_BYTE: usize = 9;
const RECOVERY_REQUIRED: u8 = 2;
/// The header of redb 4: flags, layout and two commit slots.
const HEADER_BYTES: usize = 320;

/// Of how many bytes one is flipped, and the file cut off there, where `FLIP_EVERY` says nothing.
const FLIP_EVERY: usize = 61;
const CUT_EVERY: usize = 509;

/// How the store that is then damaged was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Closed,
    Killed,
}

/// Makes a small store; returns its bytes, what it holds, and what it held one commit before.
fn store(left: Left) -> (Vec<u8>, Contents, Contents) {
    let disk = Disk::new(Vec::new(), Fault::None, 0);
    let store = Store::with_backend(disk.backend()).unwrap();
    let (mut before, mut contents) = (Contents::default(), Contents::default());
    for step in program(11, 5) {
        perform(&store, &step).unwrap();
        before = contents.clone();
        contents.apply(&step);
    }
    match left {
        Left::Closed => drop(store),
        Left::Killed => disk.kill(),
    }
    (disk.bytes(), contents, before)
}

/// Opens damaged bytes; tells whether the damage was named.
///
/// Then nothing was written to it, but for the header, which redb brings up to date before it
/// looks further where a crash has left the file.
fn open(bytes: &[u8], allowed: &[&Contents], context: &str) -> bool {
    let disk = Disk::new(bytes.to_vec(), Fault::None, 0);
    match Store::with_backend(disk.backend()) {
        Ok(store) => {
            let found = Contents::of(&store).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(allowed.contains(&&found), "{context}: opened with something else");
            false
        }
        Err(OpenError::Damaged { .. }) => {
            let found = disk.bytes();
            let crashed = bytes.get(GOD_BYTE).is_some_and(|flags| flags & RECOVERY_REQUIRED != 0);
            let kept = if crashed { HEADER_BYTES.min(bytes.len()) } else { 0 };
            assert!(found.len() == bytes.len(), "{context}: the damaged file changed its length");
            assert!(found[kept..] == bytes[kept..], "{context}: the damaged file was written to");
            true
        }
        Err(other) => panic!("{context}: {other}"),
    }
}

/// Every byte of the header, where one bit decides much, and a sample of all others.
fn offsets(length: usize) -> impl Iterator<Item = usize> {
    (0..HEADER_BYTES).chain((HEADER_BYTES..length).step_by(every(FLIP_EVERY)))
}

fn every(default: usize) -> usize {
    let Ok(text) = std::env::var("FLIP_EVERY") else { return default };
    text.parse().unwrap_or_else(|_| panic!("FLIP_EVERY={text} is not a number"))
}

fn flip_everywhere(left: Left) {
    let (bytes, contents, before) = store(left);
    // redb can't tell a damaged last commit from one that a crash has torn.
    let allowed = if left == Left::Closed { vec![&contents] } else { vec![&contents, &before] };
    assert!(!open(&bytes, &[&contents], "undamaged"));
    let mut named = 0;
    for offset in offsets(bytes.len()) {
        for mask in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[offset] ^= mask;
            let context = format!("{left:?}, byte {offset} of {} ^ {mask:#x}", bytes.len());
            named += usize::from(open(&damaged, &allowed, &context));
        }
    }
    assert!(named > 100, "only {named} flips were named");
}

#[test]
fn a_flipped_byte_in_a_closed_store_is_named_or_does_not_matter() {
    flip_everywhere(Left::Closed);
}

#[test]
fn a_flipped_byte_in_a_killed_store_costs_at_most_the_last_commit() {
    flip_everywhere(Left::Killed);
}

#[test]
fn a_truncated_store_is_named_as_damaged() {
    for left in [Left::Closed, Left::Killed] {
        let (bytes, contents, before) = store(left);
        let allowed = if left == Left::Closed { vec![&contents] } else { vec![&contents, &before] };
        let mut named = 0;
        let lengths: Vec<_> = (1..bytes.len())
            .step_by(every(CUT_EVERY))
            .chain((4096..bytes.len()).step_by(4096))
            .collect();
        for &length in &lengths {
            let context = format!("{left:?}, {length} of {} bytes", bytes.len());
            named += usize::from(open(&bytes[..length], &allowed, &context));
        }
        assert!(named * 10 > lengths.len() * 9, "only {named} of {} were named", lengths.len());
    }
}

#[test]
fn what_is_no_store_is_left_alone() {
    let page = vec![0; 1 << 17];
    let text = b"not a database\n".repeat(5_000);
    for bytes in [page, text, b"redb".to_vec(), vec![0xff; 4096]] {
        assert!(open(&bytes, &[], "garbage"));
    }
}
