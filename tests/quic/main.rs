//! What the transport promises, between endpoints that speak real QUIC: over the loopback
//! interface, and over a simulated network in virtual time.

mod loopback;
mod network;
mod node;
mod virtual_time;
