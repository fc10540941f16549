//! What the transport promises, between endpoints that speak real QUIC: over the loopback
//! interface, and over a simulated network in virtual time; there with the replicas on top, too.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "each test uses its own part of the world")]
mod common;
mod daemon;
mod lives;
mod loopback;
mod network;
mod node;
mod raw;
mod strangers;
mod virtual_time;
