//! Owns (to be written): config.
