//! Whatever bytes come as a frame are read or refused, and what was read is written as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sessionmesh::wire::{self, Decoded, HEADER_BYTES};

fuzz_target!(|payload: &[u8]| {
    let Ok(Decoded::Known(frame)) = wire::decode(payload) else { return };
    let again = wire::encode(&frame).expect("what was read is within the limits");
    let read = wire::decode(&again[HEADER_BYTES..]).expect("what was written is read");
    assert_eq!(read, Decoded::Known(frame));
});
