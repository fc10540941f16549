//! Owns the links to other nodes: a QUIC endpoint, who dials whom and when, and the frames on the
//! way.
//!
//! Must not know what frames mean, who is a member, or how things are stored. Invariant: whoever
//! takes the [`Events`] one by one is shown at most one link per peer; each `Connected` is followed
//! by that link's frames and then by exactly one `Lost`; and a frame that is sent goes to the link
//! that was shown, never to one that has taken its place unseen.

mod accept;
pub mod addresses;
pub mod backoff;
mod budget;
pub mod conflict;
mod dial;
mod endpoint;
mod event;
mod link;
mod open;
pub mod outbox;
mod places;
mod read;
mod shared;
mod twins;
pub mod wake;

pub use endpoint::{BindError, Config, LinkStatus, Timing, Transport};
#[cfg(test)]
pub(crate) use event::Telling;
pub use event::{Event, Events};
pub use shared::Traffic;
