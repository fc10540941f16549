//! Owns who a node is: its key, the secret files beside it, and how the key proves itself.
//!
//! Must not know links, documents or who is a member. Invariant: a `NodeId` that leaves this room
//! was proven by a signature, and a secret is never read from, nor written to, a file that others
//! on the machine can open.

pub mod key;
pub mod secret;
pub mod ticket;
pub mod tls;
pub mod token;

pub use key::NodeKey;
pub use token::Token;

/// Returns random bytes from the operating system.
///
/// # Panics
///
/// If the operating system gives none.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    filled.expect("the operating system gives randomness");
    bytes
}
