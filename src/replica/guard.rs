//! Owns (to be written): guard.
