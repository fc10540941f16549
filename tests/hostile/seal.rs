//! Owns putting changes, documents and sync messages into frames, as a member does who has a key.
//!
//! Must not know whether what it wraps is any good. Invariant: the one place that knows which fields
//! a frame has beside its bytes.

use sessionmesh::{replica::ids::DocumentId, wire::Frame};

/// Pushes changes.
pub fn changes(document: DocumentId, changes: Vec<Vec<u8>>) -> Frame {
    Frame::Changes { document, changes }
}

/// Sends a document whole.
pub fn snapshot(document: DocumentId, bytes: Vec<u8>) -> Frame {
    Frame::Snapshot { document, bytes }
}

/// Says something in automerge's sync protocol.
pub fn sync(document: DocumentId, message: Vec<u8>) -> Frame {
    Frame::Sync { document, message }
}
