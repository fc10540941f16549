//! Owns (to be written): sync.
