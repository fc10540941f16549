//! Owns the published view and the stream of its diffs.
//!
//! Must not know HTTP or the loop. Invariant: a subscriber gets every diff exactly once and in
//! order, or is told to begin again with a snapshot; never a gap.

/// The published view and those who follow it.
#[derive(Debug)]
pub struct Hub {}
