//! Owns the bytes that a document was read from.
//!
//! Must not read them. Invariants: they are given only for a document that stands where it stood when
//! it was read from them, so that whoever writes to it drops them for their memory alone; they take
//! little beside the document.

use std::sync::Arc;

use automerge::{Automerge, ChangeHash, ReadDoc as _};

/// How many bytes are kept of a document however small it is.
const BYTES_MIN: usize = 16 << 10;
/// How many more for each operation: eight times what records take that are written as usual, and a
/// tenth of what an operation takes in memory. What a peer padded, or holds long texts, is not kept.
const BYTES_PER_OP: u64 = 16;

/// What a document was read from, if it was, whole.
///
/// A new node is given the documents of all hosts, of which most were not written to since they were
/// read: deflating them anew took nearly half of what they cost whoever gave them. They are some twenty
/// bytes a session.
#[derive(Debug, Clone, Default)]
pub struct Saved(Option<(Vec<ChangeHash>, Arc<[u8]>)>);

impl Saved {
    /// Notes what a document was read from just now, unless that is long for what is in it.
    pub fn of(automerge: &Automerge, bytes: &[u8]) -> Self {
        let more = automerge.stats().num_ops.saturating_mul(BYTES_PER_OP);
        let most = BYTES_MIN.saturating_add(usize::try_from(more).unwrap_or(usize::MAX));
        Self((bytes.len() <= most).then(|| (automerge.get_heads(), bytes.into())))
    }

    /// Returns the document as it was read, if nothing came to it since.
    pub fn get(&self, automerge: &Automerge) -> Option<&[u8]> {
        let (heads, bytes) = self.0.as_ref()?;
        (*heads == automerge.get_heads()).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use automerge::{ROOT, transaction::Transactable as _};

    use super::*;

    #[test]
    fn what_is_long_for_what_is_in_it_is_not_kept() {
        let mut automerge = Automerge::new();
        let mut tx = automerge.transaction();
        for number in 0..100 {
            tx.put(ROOT, format!("{number}"), number).unwrap();
        }
        tx.commit();
        let most = BYTES_MIN + 100 * usize::try_from(BYTES_PER_OP).unwrap();
        let kept = |bytes| Saved::of(&automerge, &vec![0; bytes]).get(&automerge).map(<[u8]>::len);
        assert_eq!(kept(most), Some(most));
        assert_eq!(kept(most + 1), None);
    }
}
