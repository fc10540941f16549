//! Owns (to be written): api.
