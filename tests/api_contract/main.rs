//! Owns the proof that the local API keeps its contract: who gets in, what is answered, and that
//! `proto/openapi.json` and `proto/diff.schema.json` say the same as the code.
//!
//! The loop behind the API is a fake that answers as it is told and remembers what it was asked.

mod answers;
mod events;
mod fake;
mod gate;
mod listeners;
mod lists;
mod schemas;
mod sockets;
