//! Owns the one loop that carries a replica's effects out.
//!
//! Must not know the rules of the domain. Invariant: frames and diffs leave at once; replies and
//! teardowns wait until the writes beside them are durable.

mod aside;
mod commit;
pub mod compact;
pub mod doctor;
pub mod durable;
mod ending;
pub mod engine;
pub mod evidence;
pub mod handle;
mod hatch;
pub mod heap;
pub mod hub;
mod keeper;
mod last_look;
pub mod loading;
mod looping;
pub mod machine;
pub mod pace;
mod reading;
mod removal;
pub mod repair;
mod run;
mod stall;
mod survey;
pub mod trash;

pub use run::{Error, Ready, Settings, run};

pub use crate::store::is_open as is_running;
