//! Owns (to be written): identity.
