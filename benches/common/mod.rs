//! Owns what the benches share: the fleet that is measured, daemons within the process, the floors,
//! and how figures are told.
//!
//! Must not time anything that it does not also name. Invariant: a floor is measured in the same
//! run as what stands on it, on the same state.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub mod floor;
pub mod node;
#[cfg(feature = "compare")]
pub mod peer;
pub mod report;
pub mod state;
