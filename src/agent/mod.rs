//! Owns (to be written): agent.
