//! What the tests of the core share: a small deterministic world of replicas.

pub mod asks;
pub mod disk;
pub mod ends;
pub mod keys;
pub mod network;
pub mod program;
pub mod scene;
pub mod watch;
pub mod world;
