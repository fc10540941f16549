//! Owns (to be written): document.
