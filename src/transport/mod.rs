//! Owns (to be written): transport.
