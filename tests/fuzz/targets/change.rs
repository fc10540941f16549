//! Whatever bytes come as a change are judged; what passes, and is said to be in a document, is taken
//! by the document or refused, and does not end the process.
//!
//! The checksum is put right first, as an attacker would.

#![no_main]

#[path = "../chunks.rs"]
mod chunks;
#[path = "../credulous.rs"]
mod credulous;

use libfuzzer_sys::fuzz_target;
use sessionmesh::replica::{
    document::{self, Document},
    guard,
    ids::{NodeId, StartId},
    voucher::Voucher,
};

fuzz_target!(|bytes: &[u8]| {
    chunks::tell_no_contained_panic();
    let bytes = chunks::with_right_checksum(bytes);
    let Ok(header) = guard::check_change(&bytes) else { return };
    let [host, other] = [NodeId([1; 32]), NodeId([2; 32])];
    let actor = document::actor(&host, StartId([1; 8]));
    let (mut document, _) = Document::create_host(host, 0, actor, 0);
    let trust = credulous::trust(&[host, other]);
    let (id, seq) = (document.id(), header.seq);
    let voucher = Voucher::sign(&credulous::Credulous, &id, header.actor, seq, header.hash);
    let _ = document.apply(&[bytes], &[voucher], &trust);
});
