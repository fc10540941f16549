//! Owns everything that replicas must agree on: documents, the rule, diffs and sync, as one
//! sans-IO state machine.
//!
//! Must not know tokio, files, sockets or clocks: time and randomness are arguments, inputs go in,
//! effects come out. Invariant: the same inputs give the same effects.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod command;
pub mod diff;
pub mod digest;
pub mod document;
pub mod effect;
pub mod explain;
pub mod fold;
pub mod guard;
pub mod ids;
pub mod invite;
pub mod lifecycle;
pub mod machine;
pub mod membership;
pub mod receipt;
pub mod record;
pub mod sync;
pub mod trash;
pub mod trust;
pub mod view;
pub mod voucher;
