//! Owns (to be written): view.
