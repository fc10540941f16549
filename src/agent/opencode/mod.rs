//! Owns the way to an opencode server: reading its lists and events, turning them into ours, and
//! deleting there.
//!
//! Must not know who asks. Invariant: the same lists give the same import, so that taking them in
//! twice changes nothing.

pub mod client;
pub mod events;
pub mod export;
pub mod import;
pub mod listener;
pub mod listing;
mod mapping;
pub mod model;

pub use client::{Client, Error, Standing};
pub use listing::Listing;
pub use mapping::Places;
