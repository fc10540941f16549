//! Owns (to be written): cli.
