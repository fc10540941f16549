//! Owns (to be written): store.
