//! Owns (to be written): teardown.
