//! sessionmesh keeps every machine's list of coding-agent sessions and workspaces the same.
//!
//! The crate is a pure core, [`replica`], that does no I/O and decides everything that replicas
//! must agree on, with what nodes say to each other, [`wire`]; and, under the default feature
//! `daemon`, the shells that carry its effects out.

/// Tells whether a deliberate fault is planted: never, but in the tests' own build.
#[cfg(feature = "seeded-bugs")]
macro_rules! planted {
    ($bug:ident) => {
        $crate::seeded::is_planted($crate::seeded::Bug::$bug)
    };
}
/// Nothing is planted.
#[cfg(not(feature = "seeded-bugs"))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

pub mod replica;
#[cfg(feature = "seeded-bugs")]
pub mod seeded;
pub mod wire;

#[cfg(feature = "daemon")]
pub mod agent;
#[cfg(feature = "daemon")]
pub mod api;
#[cfg(feature = "daemon")]
pub mod cli;
#[cfg(feature = "daemon")]
pub mod clock;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod daemon;
#[cfg(feature = "daemon")]
pub mod files;
#[cfg(feature = "daemon")]
pub mod identity;
#[cfg(feature = "daemon")]
pub mod sse;
#[cfg(feature = "daemon")]
pub mod store;
#[cfg(feature = "daemon")]
pub mod teardown;
#[cfg(feature = "daemon")]
pub mod telemetry;
#[cfg(feature = "daemon")]
pub mod transport;
