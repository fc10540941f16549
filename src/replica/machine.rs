//! Owns (to be written): machine.
