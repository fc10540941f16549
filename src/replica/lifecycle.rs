//! Owns (to be written): lifecycle.
