//! Owns vouchers: by its key, a node stands for all that it has written under one actor.
//!
//! Must not know signatures, only who makes and checks them. A change names the one before it of
//! the same actor by its hash, so that one signature, over the last, stands for the whole chain.
//! Invariant: what is signed names the document, so that a change can't be carried to another one.

use std::fmt;

use super::ids::{ActorBytes, ChangeHash, DocumentId, NodeId};

/// How many bytes an Ed25519 signature has.
pub const SIGNATURE_BYTES: usize = 64;

/// Begins everything that is signed as a voucher, so that no other signature of the same key is
/// taken for one.
const DOMAIN: &[u8] = b"sessionmesh voucher 1\0";

/// A node's word that it made a change, and by it all that the same actor made before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Voucher {
    /// Under which it wrote.
    pub actor: ActorBytes,
    /// The how-manieth change of the actor it is, from 1.
    pub seq: u64,
    /// Its name.
    pub hash: ChangeHash,
    /// By the node's key.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl fmt::Debug for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Voucher({:02x?} {} {:?})", &self.actor[..4], self.seq, self.hash)
    }
}

impl Voucher {
    /// Makes what stands in a voucher's place where a change counts by what was built on it, and its
    /// author's own word, which no longer counts, may not be at hand.
    pub fn marker(actor: ActorBytes, seq: u64, hash: ChangeHash) -> Self {
        Self { actor, seq, hash, signature: [0; SIGNATURE_BYTES] }
    }

    /// Tells whether it only marks a place, and nobody has signed it.
    pub fn is_marker(&self) -> bool {
        self.signature == [0; SIGNATURE_BYTES]
    }

    /// Has a key stand for a change.
    pub fn sign(
        keyring: &dyn Keyring,
        document: &DocumentId,
        actor: ActorBytes,
        seq: u64,
        hash: ChangeHash,
    ) -> Self {
        let signature = keyring.sign(&signed(document, &actor, seq, &hash));
        Self { actor, seq, hash, signature }
    }

    /// Tells whether this node's key has signed it, for this document.
    pub fn is_by(&self, keyring: &dyn Keyring, document: &DocumentId, node: &NodeId) -> bool {
        let signed = signed(document, &self.actor, self.seq, &self.hash);
        keyring.verify(node, &signed, &self.signature)
    }
}

/// Returns what is signed: the domain, the change, its actor and number, and the document's name,
/// which alone varies in length and so comes last.
fn signed(document: &DocumentId, actor: &ActorBytes, seq: u64, hash: &ChangeHash) -> Vec<u8> {
    let name = document.to_string();
    [DOMAIN, &hash.0, actor, &seq.to_le_bytes(), name.as_bytes()].concat()
}

/// Signs with this node's key, and checks what others have signed.
pub trait Keyring: fmt::Debug + Send + Sync {
    /// Returns this node's signature.
    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES];

    /// Tells whether a node's key made a signature.
    fn verify(&self, node: &NodeId, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool;
}

/// Stands in for keys where a test is about something else: whatever is signed is right.
#[cfg(test)]
#[derive(Debug)]
pub struct Trusting;

#[cfg(test)]
impl Keyring for Trusting {
    fn sign(&self, _: &[u8]) -> [u8; SIGNATURE_BYTES] {
        [7; SIGNATURE_BYTES]
    }

    fn verify(&self, _: &NodeId, _: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        *signature == [7; SIGNATURE_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::replica::ids::FleetId;

    #[test]
    fn whatever_differs_something_else_is_signed() {
        let host = |epoch| DocumentId::Host { host: NodeId([7; 32]), epoch };
        let documents = [host(0), host(1), DocumentId::Fleet(FleetId([7; 16]))];
        let hashes = [ChangeHash([1; 32]), ChangeHash([2; 32])];
        let mut all = BTreeSet::new();
        for document in &documents {
            for hash in &hashes {
                for seq in [1, 2] {
                    all.insert(signed(document, &[3; 20], seq, hash));
                    all.insert(signed(document, &[4; 20], seq, hash));
                }
            }
        }
        assert_eq!(all.len(), 3 * 2 * 2 * 2);
    }
}
