//! Owns the node's Ed25519 key and the file `node.key` that it is kept in.
//!
//! Must not know TLS. Invariant: the id of a key is its public half, and the private half is never
//! shown.

use std::{fmt, path::Path};

use ring::{
    rand::SystemRandom,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};

use super::secret::{self, SecretError};
use crate::replica::{
    ids::NodeId,
    voucher::{Keyring, SIGNATURE_BYTES},
};

/// The name of the key file in the data folder; PKCS#8, DER.
pub const FILE: &str = "node.key";

/// What an Ed25519 public key begins with as a `SubjectPublicKeyInfo` in DER (RFC 8410, section
/// 10.1); the 32 bytes of the key follow.
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Is the private key that a node proves its name with.
pub struct NodeKey {
    pkcs8: Vec<u8>,
    pair: Ed25519KeyPair,
    node: NodeId,
}

impl NodeKey {
    /// Makes a key that is kept nowhere.
    pub fn generate() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .expect("the operating system gives randomness");
        Self::from_pkcs8(pkcs8.as_ref()).expect("a key that was just made is one")
    }

    /// Reads the key file of a data folder that must have one.
    ///
    /// # Errors
    ///
    /// It is missing, can't be read, is open to others, or is not a key.
    pub fn load(dir: &Path) -> Result<Self, SecretError> {
        let path = dir.join(FILE);
        match path.try_exists() {
            Ok(false) => Err(SecretError::Missing { path }),
            _ => Self::load_or_create(dir),
        }
    }

    /// Reads the key file of a data folder; makes folder and file if they are missing.
    pub fn load_or_create(dir: &Path) -> Result<Self, SecretError> {
        let pkcs8 = secret::load_or_create(dir, FILE, || Self::generate().pkcs8)?;
        Self::from_pkcs8(&pkcs8).ok_or_else(|| SecretError::Damaged {
            path: dir.join(FILE),
            what: "an Ed25519 key in PKCS#8",
        })
    }

    /// Returns the name of the node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Returns the private key in PKCS#8, DER.
    pub(super) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
        let node = NodeId(pair.public_key().as_ref().try_into().ok()?);
        Some(Self { pkcs8: pkcs8.into(), pair, node })
    }
}

impl Keyring for NodeKey {
    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = self.pair.sign(message);
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }

    fn verify(&self, node: &NodeId, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
        UnparsedPublicKey::new(&ED25519, node.0).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({:?})", self.node)
    }
}

/// Returns a node's public key as a `SubjectPublicKeyInfo` in DER.
pub(super) fn spki(node: NodeId) -> Vec<u8> {
    [&SPKI_PREFIX[..], &node.0].concat()
}

/// Returns the node that a `SubjectPublicKeyInfo` names; `None` if it is no Ed25519 key.
pub(super) fn node_of_spki(spki: &[u8]) -> Option<NodeId> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_name_from_start_to_start() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("data");
        let first = NodeKey::load_or_create(&dir).unwrap().node();
        assert_eq!(NodeKey::load_or_create(&dir).unwrap().node(), first);
        assert_ne!(NodeKey::generate().node(), first);
    }

    #[test]
    fn a_damaged_key_file_is_refused_by_name() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("data");
        secret::load_or_create(&dir, FILE, || NodeKey::generate().pkcs8[..40].to_vec()).unwrap();
        let text = NodeKey::load_or_create(&dir).unwrap_err().to_string();
        assert!(text.contains("node.key is not an Ed25519 key"), "{text}");
    }

    #[test]
    fn a_public_key_survives_its_der_form_and_nothing_else_passes_for_one() {
        let node = NodeKey::generate().node();
        let der = spki(node);
        assert_eq!(node_of_spki(&der), Some(node));
        assert_eq!(node_of_spki(&der[..43]), None);
        assert_eq!(node_of_spki(&[&der[..], &[0]].concat()), None);
        assert_eq!(node_of_spki(&[0; 44]), None);
    }

    #[test]
    fn what_a_key_has_signed_is_its_own_and_whole() {
        let (key, other) = (NodeKey::generate(), NodeKey::generate());
        let signature = key.sign(b"a message");
        assert!(other.verify(&key.node(), b"a message", &signature));
        assert!(!other.verify(&key.node(), b"a massage", &signature));
        assert!(!other.verify(&other.node(), b"a message", &signature));
        let mut forged = signature;
        forged[63] ^= 1;
        assert!(!other.verify(&key.node(), b"a message", &forged));
        assert!(!other.verify(&NodeId([0xff; 32]), b"a message", &signature));
    }

    #[test]
    fn a_key_does_not_show_its_private_half() {
        let key = NodeKey::generate();
        assert_eq!(format!("{key:?}"), format!("NodeKey({:?})", key.node()));
    }
}
