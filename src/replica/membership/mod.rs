//! Owns who belongs to a fleet: signed statements by admins, and the pure function that reads them.
//!
//! Must not know automerge, files or the network. Invariant: nodes that hold the same statements
//! name the same members in the same roles, in whatever order the statements came.

pub mod evaluate;
mod grants;
pub mod set;
pub mod statement;
