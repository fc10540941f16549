//! Whatever bytes come as a document, or in automerge's sync protocol, are judged; what passes does
//! not end the process in automerge.
//!
//! The checksum is put right first, as an attacker would.

#![no_main]

#[path = "../chunks.rs"]
mod chunks;

use libfuzzer_sys::fuzz_target;
use sessionmesh::replica::{
    document::Foreign,
    guard::{self, DocumentLimits},
    ids::{DocumentId, FleetId},
};

fuzz_target!(|bytes: &[u8]| {
    chunks::tell_no_contained_panic();
    let _ = guard::check_sync_message(bytes);
    let bytes = chunks::with_right_checksum(bytes);
    // What is dear is let pass, and would be taken for slow here.
    let limits = DocumentLimits { memory_bytes: 16 << 20, ..DocumentLimits::SNAPSHOT };
    if guard::check_document(&bytes, limits).is_ok() {
        let _ = Foreign::read(DocumentId::Fleet(FleetId([1; 16])), &bytes, None);
    }
});
