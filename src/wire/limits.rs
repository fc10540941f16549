//! Owns how much a frame may hold.
//!
//! Must not know how a frame is read. Invariant: encoding and decoding keep the same limits, so
//! that no node sends what its peer refuses.

/// Most bytes of a frame on a link: a batch of changes fits, and a peer that sends nothing but
/// greatest frames can't hold more of this node's memory than this.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// Most bytes of a snapshot frame: a host document of as many sessions and changes as are taken of a
/// peer has a third of it, and what a peer sends is held whole before it is judged.
pub const SNAPSHOT_BYTES_MAX: usize = 16 << 20;

/// Longest name of a machine, in bytes: a DNS name has at most 253.
pub const NAME_BYTES_MAX: usize = 256;

/// Longest software version, in bytes: semantic versions with a build tag are far shorter.
pub const VERSION_BYTES_MAX: usize = 64;

/// Most addresses under which a node can be dialled: one a network interface and family.
pub const ADDRESSES_MAX: usize = 32;

/// Longest address, in bytes: an IPv6 address with a zone, brackets and a port has at most 63.
pub const ADDRESS_BYTES_MAX: usize = 64;

/// Most members of which a new node is told where they can be dialled: the first of them that it reaches
/// tells it of the others.
pub const CONTACTS_MAX: usize = 1_024;

/// Most nodes with which a node tells that it has links: more than a full mesh ever has.
pub const LINKS_MAX: usize = 4096;

/// Most bytes in which a node tells of each member whether it has a link to it.
pub const LINKS_BITS_MAX: usize = LINKS_MAX / 8;

/// Most documents of a fleet: one a host and epoch still held, and the fleet's own.
pub const DOCUMENTS_MAX: usize = 8192;

/// Most heads of a document: one a start of a node that wrote without having seen another's write.
pub const HEADS_MAX: usize = 65_536;

/// Most changes in a frame: an encoded change has over 60 bytes, so a full frame of the smallest
/// holds hardly more.
pub const CHANGES_MAX: usize = 65_536;

/// Most vouchers in a frame: one for each start of a node that wrote to a document.
pub const VOUCHERS_MAX: usize = 65_536;

/// Most statements about membership that a node names: as many as a fleet has.
pub const STATEMENTS_MAX: usize = 65_536;

/// Most statements about membership in a frame: 4 MiB of the longest.
pub const STATEMENTS_AT_ONCE_MAX: usize = 16_384;

/// Longest statement about membership, in bytes.
pub const STATEMENT_BYTES_MAX: usize = 256;
