//! Whatever bytes come as a change are judged; what passes, and is said to be in a document, is taken
//! by the document or refused, and does not end the process.
//!
//! The checksum is put right first, as an attacker would.

#![no_main]

#[path = "../chunks.rs"]
mod chunks;

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use sessionmesh::replica::{
    document::{self, Document},
    guard,
    ids::{NodeId, StartId},
    record::{Member, Role},
    trust::Trust,
    voucher::{Keyring, Voucher},
};

/// Takes every signature for good: what a change may do is tried, not who signs it.
#[derive(Debug)]
struct Credulous;

impl Keyring for Credulous {
    fn sign(&self, _: &[u8]) -> [u8; 64] {
        [0; 64]
    }

    fn verify(&self, _: &NodeId, _: &[u8], _: &[u8; 64]) -> bool {
        true
    }
}

fuzz_target!(|bytes: &[u8]| {
    chunks::tell_no_contained_panic();
    let bytes = chunks::with_right_checksum(bytes);
    let Ok(header) = guard::check_change(&bytes) else { return };
    let [host, other] = [NodeId([1; 32]), NodeId([2; 32])];
    let actor = document::actor(&host, StartId([1; 8]));
    let (mut document, _) = Document::create_host(host, 0, actor, 0);
    let member = |node| Member {
        node,
        name: String::new(),
        role: Role::Member,
        addresses: Default::default(),
        added_by: host,
        added_at: 0,
        revoked: None,
        left: false,
    };
    let mut trust = Trust::new(Arc::new(Credulous));
    trust.learn(&[member(host), member(other)], []);
    let (id, seq) = (document.id(), header.seq);
    let voucher = Voucher::sign(&Credulous, &id, header.actor, seq, header.hash);
    let _ = document.apply(&[bytes], &[voucher], &trust);
});
