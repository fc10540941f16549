//! Owns what nodes say to each other: frames, their limits and their bytes.
//!
//! Must not know documents: changes, snapshots and sync messages are bytes here. Invariant: the
//! bytes of a frame are those of `proto/wire.md`, and nothing is allocated before its length is
//! checked.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod bytes;
mod close;
mod codec;
pub mod limits;
mod split;
mod version;

pub use close::CloseCode;
pub use codec::{DecodeError, Decoded, EncodeError, decode, encode};
pub use split::{HEADER_BYTES, Lane, Splitter, frame_length};
pub use version::{NoCommonProtocol, PROTOCOL, PROTOCOL_MIN, ProtocolRange};

use crate::replica::{
    ids::{ChangeHash, DocumentId, FleetId, NodeId, StartId, StatementHash},
    voucher::Voucher,
};

/// The first thing that members say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol that the sender speaks.
    pub protocol_min: u16,
    /// The newest protocol that the sender speaks.
    pub protocol_max: u16,
    /// The fleet that the sender belongs to.
    pub fleet: FleetId,
    /// What people call the sender's machine.
    pub name: String,
    /// The sender's software version; shown, never compared.
    pub version: String,
    /// What the sender can do beyond the protocol; unknown bits are ignored.
    pub features: u64,
    /// SHA-256 over the sorted `(document, heads)` list.
    pub frontier: [u8; 32],
    /// SHA-256 over the sorted hashes of the statements about membership.
    pub statements: [u8; 32],
}

/// The first thing that a new node says to the node that invited it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// The oldest protocol that the sender speaks.
    pub protocol_min: u16,
    /// The newest protocol that the sender speaks.
    pub protocol_max: u16,
    /// The fleet to join.
    pub fleet: FleetId,
    /// The ticket's secret.
    pub secret: [u8; 32],
    /// What people call the sender's machine.
    pub name: String,
    /// Where the sender can be dialled, `IP:PORT`.
    pub addresses: Vec<String>,
}

/// Where a member can be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Who.
    pub node: NodeId,
    /// `IP:PORT`.
    pub addresses: Vec<String>,
}

/// What the nodes of a [`Links`] are added to, and taken from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LinksBase {
    /// What the sender has told before on this link.
    #[default]
    Told,
    /// Nothing.
    Nothing,
    /// Some of the members, for a receiver that knows the same ones.
    Members {
        /// The first bytes of SHA-256 over the sorted ids of all members, one after the other.
        digest: [u8; 8],
        /// A bit for each of them in order, the lowest of a byte first: whether the sender has a link to
        /// it.
        bits: Vec<u8>,
    },
}

/// With whom the sender has links.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Links {
    /// Where it begins.
    pub base: LinksBase,
    /// With whom beside those; sorted.
    pub linked: Vec<NodeId>,
    /// With whom of those not; sorted.
    pub unlinked: Vec<NodeId>,
    /// Whether the sender tells those with whom it has links of the link to the receiver, who then need
    /// not tell them.
    pub tells: bool,
    /// Whether the sender lacks what the receiver's last words were based on, and is to be told all.
    pub again: bool,
}

/// A document and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentHeads {
    /// Which document.
    pub document: DocumentId,
    /// Its heads, sorted.
    pub heads: Vec<ChangeHash>,
}

/// What nodes say to each other. The order of the variants is part of the wire format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a link: names the sender's start, so that a peer that was restarted is told apart
    /// from a second dial. The transport's own; never reaches a replica.
    Open {
        /// The sender's start.
        start: StartId,
    },
    /// Greets a member.
    Hello(Hello),
    /// Asks to be let in.
    Join(Join),
    /// Lets a new node in, after the statements about membership; both then greet.
    Joined {
        /// Where members can be dialled, as far as the sender knows: the new node may have to find them
        /// before their own documents, which tell it, have come; sorted by node.
        contacts: Vec<Contact>,
    },
    /// Tells with whom the sender has links, so that nobody relays what they get anyway.
    Links(Links),
    /// Tells where all of the sender's documents stand.
    Heads {
        /// Sorted by document.
        documents: Vec<DocumentHeads>,
        /// Whether the receiver is to tell its own in turn.
        answer: bool,
    },
    /// Asks for what the sender lacks of a document, telling what it has.
    Want(DocumentHeads),
    /// Carries changes, in an order in which they can be applied.
    Changes {
        /// Whose.
        document: DocumentId,
        /// As automerge encodes them.
        changes: Vec<Vec<u8>>,
        /// For the last change of each actor among them.
        vouchers: Vec<Voucher>,
    },
    /// Carries a document whole, on a stream of its own.
    Snapshot {
        /// Which.
        document: DocumentId,
        /// As automerge saves it.
        bytes: Vec<u8>,
        /// For the last change of each actor in it.
        vouchers: Vec<Voucher>,
    },
    /// Carries a message of automerge's sync protocol.
    Sync {
        /// About which document.
        document: DocumentId,
        /// As automerge encodes it.
        message: Vec<u8>,
        /// For the last change of each actor of which it carries one.
        vouchers: Vec<Voucher>,
    },
    /// Tells the sender's frontier digest, to be compared.
    Check {
        /// SHA-256 over the sorted `(document, heads)` list.
        frontier: [u8; 32],
        /// SHA-256 over the sorted hashes of the statements about membership.
        statements: [u8; 32],
    },
    /// Names the statements about membership that the sender holds; it is sent what it lacks.
    Known {
        /// Sorted.
        statements: Vec<StatementHash>,
        /// Whether the receiver is to name its own in turn.
        answer: bool,
    },
    /// Carries statements about membership, each after those that it builds on.
    Statements {
        /// As they are signed.
        statements: Vec<Vec<u8>>,
    },
}

impl Frame {
    /// Returns the frame's name, for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Hello(_) => "hello",
            Self::Join(_) => "join",
            Self::Joined { .. } => "joined",
            Self::Links(_) => "links",
            Self::Heads { .. } => "heads",
            Self::Want(_) => "want",
            Self::Changes { .. } => "changes",
            Self::Snapshot { .. } => "snapshot",
            Self::Sync { .. } => "sync",
            Self::Check { .. } => "check",
            Self::Known { .. } => "known",
            Self::Statements { .. } => "statements",
        }
    }

    /// Returns the stream on which the frame travels.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Snapshot { .. } => Lane::Snapshot,
            _ => Lane::Link,
        }
    }
}
