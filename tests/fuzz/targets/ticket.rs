//! Whatever text comes as a ticket is read or refused, and what was read is the text of exactly that
//! ticket: none has two.
//!
//! The checksum is put right, too, as whoever makes a false ticket would.

#![no_main]

use data_encoding::BASE32_NOPAD;
use libfuzzer_sys::fuzz_target;
use sessionmesh::identity::ticket;
use sha2::{Digest as _, Sha256};

/// What comes before the base32 of a ticket's bytes.
const PREFIX: &str = "smt1";

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(read) = ticket::decode(&text) {
        let plain: String = text.split_whitespace().collect();
        assert_eq!(ticket::encode(&read), plain.to_ascii_lowercase());
    }
    let sum = Sha256::new().chain_update(PREFIX).chain_update(bytes).finalize();
    let body = BASE32_NOPAD.encode(&[bytes, &sum[..4]].concat());
    let text = format!("{PREFIX}{}", body.to_ascii_lowercase());
    if let Ok(read) = ticket::decode(&text) {
        assert_eq!(ticket::encode(&read), text);
    }
});
