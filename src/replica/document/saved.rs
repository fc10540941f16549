//! Owns the bytes that a document was read from.
//!
//! Must not read them. Invariant: they are given only for a document that stands where it stood when
//! it was read from them.

use std::sync::Arc;

use automerge::{Automerge, ChangeHash};

/// What a document was read from, if it was, whole.
///
/// A new node is given the documents of all hosts, of which most were not written to since they were
/// read: deflating them anew took two thirds of what they cost whoever gave them. They are a few dozen
/// bytes a session.
#[derive(Debug, Clone, Default)]
pub struct Saved(Option<(Vec<ChangeHash>, Arc<[u8]>)>);

impl Saved {
    /// Notes what a document was read from just now.
    pub fn of(automerge: &Automerge, bytes: &[u8]) -> Self {
        Self(Some((automerge.get_heads(), bytes.into())))
    }

    /// Returns the document as it was read, if nothing came to it since.
    pub fn get(&self, automerge: &Automerge) -> Option<&[u8]> {
        let (heads, bytes) = self.0.as_ref()?;
        (*heads == automerge.get_heads()).then_some(bytes)
    }
}
