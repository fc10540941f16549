//! Owns what this node knows of the coding-agent servers beside it.
//!
//! Must not know how what they say is replicated or kept: it is turned into commands. Invariant:
//! an agent's list is read whole or not at all, so that nothing looks deleted that is only unread.

pub mod bridge;
pub mod opencode;
