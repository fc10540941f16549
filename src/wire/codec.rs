//! Owns the bytes of each frame, field by field.
//!
//! Must not know streams nor what documents hold. Invariant: `decode` gives back what `encode` was
//! given, and no bytes make it panic.

use super::{
    Contact, DocumentHeads, Frame, Hello, Join, Links, LinksBase,
    bytes::{Sink, Source},
    limits::{
        ADDRESS_BYTES_MAX, ADDRESSES_MAX, CHANGES_MAX, CONTACTS_MAX, DOCUMENTS_MAX,
        FRAME_BYTES_MAX, HEADS_MAX, LINKS_BITS_MAX, LINKS_MAX, NAME_BYTES_MAX, SNAPSHOT_BYTES_MAX,
        STATEMENT_BYTES_MAX, STATEMENTS_AT_ONCE_MAX, STATEMENTS_MAX, VERSION_BYTES_MAX,
        VOUCHERS_MAX,
    },
    split::{HEADER_BYTES, Lane},
};
use crate::replica::{
    ids::{ChangeHash, DocumentId, FleetId, NodeId, StartId, StatementHash},
    voucher::Voucher,
};

/// Explains why a frame has no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A field holds more than a peer takes.
    #[error("`{field}` is {count} long, more than {limit}")]
    FieldTooLong {
        /// Which field.
        field: &'static str,
        /// Its bytes or items.
        count: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The frame as a whole is longer than a peer takes.
    #[error("a `{kind}` frame is {length} bytes long, more than {limit}")]
    FrameTooLong {
        /// The frame's name.
        kind: &'static str,
        /// Without its header.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A value has no encoding.
    #[error("`{field}` can't be encoded")]
    Invalid {
        /// Which field.
        field: &'static str,
    },
}

/// Explains why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is no frame.
    #[error("a frame without bytes")]
    Empty,
    /// The announced or given length is over the limit.
    #[error("a frame is {length} bytes long, more than {limit}")]
    FrameTooLong {
        /// Without its header.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The bytes end too early.
    #[error("the frame ends within `{field}`")]
    Truncated {
        /// Which field would need more.
        field: &'static str,
    },
    /// A field holds more than is taken.
    #[error("`{field}` is {count} long, more than {limit}")]
    FieldTooLong {
        /// Which field.
        field: &'static str,
        /// Its bytes or items, as announced.
        count: usize,
        /// How many it may have.
        limit: usize,
    },
    /// A text is not UTF-8.
    #[error("`{field}` is not UTF-8")]
    NotText {
        /// Which field.
        field: &'static str,
    },
    /// The bytes stand for no value of the field.
    #[error("`{field}` has no valid value")]
    Invalid {
        /// Which field.
        field: &'static str,
    },
}

/// What a peer said, as far as this version understands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A frame of this version.
    Known(Frame),
    /// A frame of a newer version; to be skipped.
    Unknown {
        /// Its discriminant.
        kind: u32,
    },
}

/// The discriminants, in the order of [`Frame`]'s variants.
mod kind {
    pub(super) const OPEN: u32 = 0;
    pub(super) const HELLO: u32 = 1;
    pub(super) const JOIN: u32 = 2;
    pub(super) const JOINED: u32 = 3;
    pub(super) const LINKS: u32 = 4;
    pub(super) const HEADS: u32 = 5;
    pub(super) const WANT: u32 = 6;
    pub(super) const CHANGES: u32 = 7;
    pub(super) const SNAPSHOT: u32 = 8;
    pub(super) const SYNC: u32 = 9;
    pub(super) const CHECK: u32 = 10;
    pub(super) const KNOWN: u32 = 11;
    pub(super) const STATEMENTS: u32 = 12;
}

/// Returns a frame's bytes, its length before it.
///
/// # Errors
///
/// A field, or the frame as a whole, is longer than a peer takes.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, EncodeError> {
    let mut sink = Sink::after(&[0; HEADER_BYTES], size_hint(frame));
    write(frame, &mut sink)?;
    let mut bytes = sink.into_bytes();
    let length = bytes.len() - HEADER_BYTES;
    let limit = frame.lane().bytes_max();
    if length > limit {
        return Err(EncodeError::FrameTooLong { kind: frame.kind(), length, limit });
    }
    // Both limits are far below 4 GiB, so the length fits.
    bytes[..HEADER_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// Reads a frame from its bytes without the length before it.
///
/// Bytes behind a known frame's last field are ignored: a newer version may append fields.
///
/// # Errors
///
/// The bytes end within a field, a field is over its limit or has no valid value.
pub fn decode(payload: &[u8]) -> Result<Decoded, DecodeError> {
    if payload.is_empty() {
        return Err(DecodeError::Empty);
    }
    let mut source = Source::new(payload);
    let kind = source.u32("kind")?;
    let lane = if kind == kind::SNAPSHOT { Lane::Snapshot } else { Lane::Link };
    if payload.len() > lane.bytes_max() {
        return Err(DecodeError::FrameTooLong { length: payload.len(), limit: lane.bytes_max() });
    }
    Ok(read(kind, &mut source)?.map_or(Decoded::Unknown { kind }, Decoded::Known))
}

/// Returns about how many bytes a frame has, so that a large one is not copied while it grows.
fn size_hint(frame: &Frame) -> usize {
    const FIXED_BYTES: usize = 128;
    const LENGTH_BYTES: usize = 5;
    FIXED_BYTES
        + match frame {
            Frame::Snapshot { bytes, vouchers, .. }
            | Frame::Sync { message: bytes, vouchers, .. } => {
                bytes.len() + vouchers.len() * VOUCHER_BYTES_MAX
            }
            Frame::Changes { changes, vouchers, .. } => {
                let changes: usize = changes.iter().map(|c| c.len() + LENGTH_BYTES).sum();
                changes + vouchers.len() * VOUCHER_BYTES_MAX
            }
            _ => 0,
        }
}

fn write(frame: &Frame, sink: &mut Sink) -> Result<(), EncodeError> {
    match frame {
        Frame::Open { start } => {
            sink.u32(kind::OPEN, "kind")?;
            sink.array(&start.0);
        }
        Frame::Hello(hello) => {
            sink.u32(kind::HELLO, "kind")?;
            sink.u16(hello.protocol_min, "hello.protocol_min")?;
            sink.u16(hello.protocol_max, "hello.protocol_max")?;
            sink.array(&hello.fleet.0);
            sink.blob(hello.name.as_bytes(), NAME_BYTES_MAX, "hello.name")?;
            sink.blob(hello.version.as_bytes(), VERSION_BYTES_MAX, "hello.version")?;
            sink.u64(hello.features, "hello.features")?;
            sink.array(&hello.frontier);
            sink.array(&hello.statements);
        }
        Frame::Join(join) => {
            sink.u32(kind::JOIN, "kind")?;
            sink.u16(join.protocol_min, "join.protocol_min")?;
            sink.u16(join.protocol_max, "join.protocol_max")?;
            sink.array(&join.fleet.0);
            sink.array(&join.secret);
            sink.blob(join.name.as_bytes(), NAME_BYTES_MAX, "join.name")?;
            write_addresses(&join.addresses, sink, "join.addresses")?;
        }
        Frame::Joined { contacts } => {
            sink.u32(kind::JOINED, "kind")?;
            sink.count(contacts.len(), CONTACTS_MAX, "joined.contacts")?;
            if !is_sorted(contacts, |it| &it.node) {
                return Err(EncodeError::Invalid { field: "joined.contacts" });
            }
            for Contact { node, addresses } in contacts {
                sink.array(&node.0);
                write_addresses(addresses, sink, "joined.contacts")?;
            }
        }
        Frame::Links(links) => write_links(links, sink)?,
        Frame::Heads { documents, answer } => {
            sink.u32(kind::HEADS, "kind")?;
            sink.count(documents.len(), DOCUMENTS_MAX, "heads.documents")?;
            if !is_sorted(documents, |it| &it.document) {
                return Err(EncodeError::Invalid { field: "heads.documents" });
            }
            for document in documents {
                write_heads(document, sink, "heads.documents")?;
            }
            sink.bool(*answer, "heads.answer")?;
        }
        Frame::Want(heads) => {
            sink.u32(kind::WANT, "kind")?;
            write_heads(heads, sink, "want")?;
        }
        Frame::Changes { document, changes, vouchers } => {
            sink.u32(kind::CHANGES, "kind")?;
            write_document(document, sink, "changes.document")?;
            sink.count(changes.len(), CHANGES_MAX, "changes.changes")?;
            for change in changes {
                sink.blob(change, FRAME_BYTES_MAX, "changes.changes")?;
            }
            write_vouchers(vouchers, sink, "changes.vouchers")?;
        }
        Frame::Snapshot { document, bytes, vouchers } => {
            sink.u32(kind::SNAPSHOT, "kind")?;
            write_document(document, sink, "snapshot.document")?;
            sink.blob(bytes, SNAPSHOT_BYTES_MAX, "snapshot.bytes")?;
            write_vouchers(vouchers, sink, "snapshot.vouchers")?;
        }
        Frame::Sync { document, message, vouchers } => {
            sink.u32(kind::SYNC, "kind")?;
            write_document(document, sink, "sync.document")?;
            sink.blob(message, FRAME_BYTES_MAX, "sync.message")?;
            write_vouchers(vouchers, sink, "sync.vouchers")?;
        }
        Frame::Check { frontier, statements } => {
            sink.u32(kind::CHECK, "kind")?;
            sink.array(frontier);
            sink.array(statements);
        }
        Frame::Known { statements, answer } => {
            sink.u32(kind::KNOWN, "kind")?;
            sink.count(statements.len(), STATEMENTS_MAX, "known.statements")?;
            if !is_sorted(statements, |hash| hash) {
                return Err(EncodeError::Invalid { field: "known.statements" });
            }
            statements.iter().for_each(|hash| sink.array(&hash.0));
            sink.bool(*answer, "known.answer")?;
        }
        Frame::Statements { statements } => {
            sink.u32(kind::STATEMENTS, "kind")?;
            sink.count(statements.len(), STATEMENTS_AT_ONCE_MAX, "statements.statements")?;
            for statement in statements {
                sink.blob(statement, STATEMENT_BYTES_MAX, "statements.statements")?;
            }
        }
    }
    Ok(())
}

fn read(kind: u32, source: &mut Source<'_>) -> Result<Option<Frame>, DecodeError> {
    let frame = match kind {
        kind::OPEN => Frame::Open { start: StartId(source.array("open.start")?) },
        kind::HELLO => Frame::Hello(Hello {
            protocol_min: source.u16("hello.protocol_min")?,
            protocol_max: source.u16("hello.protocol_max")?,
            fleet: FleetId(source.array("hello.fleet")?),
            name: source.text(NAME_BYTES_MAX, "hello.name")?,
            version: source.text(VERSION_BYTES_MAX, "hello.version")?,
            features: source.u64("hello.features")?,
            frontier: source.array("hello.frontier")?,
            statements: source.array("hello.statements")?,
        }),
        kind::JOIN => Frame::Join(Join {
            protocol_min: source.u16("join.protocol_min")?,
            protocol_max: source.u16("join.protocol_max")?,
            fleet: FleetId(source.array("join.fleet")?),
            secret: source.array("join.secret")?,
            name: source.text(NAME_BYTES_MAX, "join.name")?,
            addresses: read_addresses(source, "join.addresses")?,
        }),
        kind::JOINED => Frame::Joined { contacts: read_contacts(source)? },
        kind::LINKS => Frame::Links(Links {
            base: read_base(source)?,
            linked: read_nodes(source, "links.linked")?,
            unlinked: read_nodes(source, "links.unlinked")?,
            tells: source.bool("links.tells")?,
            again: source.bool("links.again")?,
        }),
        kind::HEADS => {
            let count = source.count(DOCUMENTS_MAX, HEADS_BYTES_MIN, "heads.documents")?;
            let documents = (0..count).map(|_| read_heads(source, "heads.documents"));
            let documents: Vec<_> = documents.collect::<Result<_, _>>()?;
            if !is_sorted(&documents, |it| &it.document) {
                return Err(DecodeError::Invalid { field: "heads.documents" });
            }
            Frame::Heads { documents, answer: source.bool("heads.answer")? }
        }
        kind::WANT => Frame::Want(read_heads(source, "want")?),
        kind::CHANGES => {
            let document = read_document(source, "changes.document")?;
            let count = source.count(CHANGES_MAX, 1, "changes.changes")?;
            let changes = (0..count)
                .map(|_| source.blob(FRAME_BYTES_MAX, "changes.changes").map(<[u8]>::to_vec));
            let changes = changes.collect::<Result<_, _>>()?;
            let vouchers = read_vouchers(source, "changes.vouchers")?;
            Frame::Changes { document, changes, vouchers }
        }
        kind::SNAPSHOT => Frame::Snapshot {
            document: read_document(source, "snapshot.document")?,
            bytes: source.blob(SNAPSHOT_BYTES_MAX, "snapshot.bytes")?.to_vec(),
            vouchers: read_vouchers(source, "snapshot.vouchers")?,
        },
        kind::SYNC => Frame::Sync {
            document: read_document(source, "sync.document")?,
            message: source.blob(FRAME_BYTES_MAX, "sync.message")?.to_vec(),
            vouchers: read_vouchers(source, "sync.vouchers")?,
        },
        kind::CHECK => Frame::Check {
            frontier: source.array("check.frontier")?,
            statements: source.array("check.statements")?,
        },
        kind::KNOWN => read_known(source)?,
        kind::STATEMENTS => read_statements(source)?,
        _ => return Ok(None),
    };
    Ok(Some(frame))
}

fn read_known(source: &mut Source<'_>) -> Result<Frame, DecodeError> {
    const FIELD: &str = "known.statements";
    let count = source.count(STATEMENTS_MAX, 32, FIELD)?;
    let statements = (0..count).map(|_| source.array(FIELD).map(StatementHash));
    let statements: Vec<_> = statements.collect::<Result<_, _>>()?;
    if !is_sorted(&statements, |hash| hash) {
        return Err(DecodeError::Invalid { field: FIELD });
    }
    Ok(Frame::Known { statements, answer: source.bool("known.answer")? })
}

fn read_statements(source: &mut Source<'_>) -> Result<Frame, DecodeError> {
    const FIELD: &str = "statements.statements";
    let count = source.count(STATEMENTS_AT_ONCE_MAX, 1, FIELD)?;
    let statements =
        (0..count).map(|_| source.blob(STATEMENT_BYTES_MAX, FIELD).map(<[u8]>::to_vec));
    Ok(Frame::Statements { statements: statements.collect::<Result<_, _>>()? })
}

/// Fewest bytes of a document with its heads: a fleet's without any.
const HEADS_BYTES_MIN: usize = 18;

fn write_heads(
    heads: &DocumentHeads,
    sink: &mut Sink,
    field: &'static str,
) -> Result<(), EncodeError> {
    write_document(&heads.document, sink, field)?;
    sink.count(heads.heads.len(), HEADS_MAX, field)?;
    if !is_sorted(&heads.heads, |head| head) {
        return Err(EncodeError::Invalid { field });
    }
    for head in &heads.heads {
        sink.array(&head.0);
    }
    Ok(())
}

fn read_heads(source: &mut Source<'_>, field: &'static str) -> Result<DocumentHeads, DecodeError> {
    let document = read_document(source, field)?;
    let count = source.count(HEADS_MAX, 32, field)?;
    let heads = (0..count).map(|_| source.array(field).map(ChangeHash));
    let heads: Vec<_> = heads.collect::<Result<_, _>>()?;
    if !is_sorted(&heads, |head| head) {
        return Err(DecodeError::Invalid { field });
    }
    Ok(DocumentHeads { document, heads })
}

/// Tells whether each item is greater than the one before it: then none is there twice.
fn is_sorted<T, K: Ord>(items: &[T], key: impl Fn(&T) -> &K) -> bool {
    items.windows(2).all(|pair| key(&pair[0]) < key(&pair[1]))
}

fn write_addresses(
    addresses: &[String],
    sink: &mut Sink,
    field: &'static str,
) -> Result<(), EncodeError> {
    sink.count(addresses.len(), ADDRESSES_MAX, field)?;
    addresses.iter().try_for_each(|it| sink.blob(it.as_bytes(), ADDRESS_BYTES_MAX, field))
}

fn read_addresses(
    source: &mut Source<'_>,
    field: &'static str,
) -> Result<Vec<String>, DecodeError> {
    let count = source.count(ADDRESSES_MAX, 1, field)?;
    (0..count).map(|_| source.text(ADDRESS_BYTES_MAX, field)).collect()
}

fn read_contacts(source: &mut Source<'_>) -> Result<Vec<Contact>, DecodeError> {
    let field = "joined.contacts";
    let count = source.count(CONTACTS_MAX, size_of::<NodeId>() + 1, field)?;
    let contacts = (0..count).map(|_| {
        let node = NodeId(source.array(field)?);
        Ok(Contact { node, addresses: read_addresses(source, field)? })
    });
    let contacts: Vec<_> = contacts.collect::<Result<_, _>>()?;
    if !is_sorted(&contacts, |it| &it.node) {
        return Err(DecodeError::Invalid { field });
    }
    Ok(contacts)
}

fn write_links(links: &Links, sink: &mut Sink) -> Result<(), EncodeError> {
    sink.u32(kind::LINKS, "kind")?;
    match &links.base {
        LinksBase::Told => sink.u32(0, "links.base")?,
        LinksBase::Nothing => sink.u32(1, "links.base")?,
        LinksBase::Members { digest, bits } => {
            sink.u32(2, "links.base")?;
            sink.array(digest);
            sink.blob(bits, LINKS_BITS_MAX, "links.bits")?;
        }
    }
    for (nodes, field) in [(&links.linked, "links.linked"), (&links.unlinked, "links.unlinked")] {
        sink.count(nodes.len(), LINKS_MAX, field)?;
        if !is_sorted(nodes, |node| node) {
            return Err(EncodeError::Invalid { field });
        }
        nodes.iter().for_each(|node| sink.array(&node.0));
    }
    sink.bool(links.tells, "links.tells")?;
    sink.bool(links.again, "links.again")
}

fn read_base(source: &mut Source<'_>) -> Result<LinksBase, DecodeError> {
    match source.u32("links.base")? {
        0 => Ok(LinksBase::Told),
        1 => Ok(LinksBase::Nothing),
        2 => Ok(LinksBase::Members {
            digest: source.array("links.base")?,
            bits: source.blob(LINKS_BITS_MAX, "links.bits")?.to_vec(),
        }),
        _ => Err(DecodeError::Invalid { field: "links.base" }),
    }
}

fn read_nodes(source: &mut Source<'_>, field: &'static str) -> Result<Vec<NodeId>, DecodeError> {
    let count = source.count(LINKS_MAX, 32, field)?;
    let nodes = (0..count).map(|_| source.array(field).map(NodeId));
    let nodes: Vec<_> = nodes.collect::<Result<_, _>>()?;
    if !is_sorted(&nodes, |node| node) {
        return Err(DecodeError::Invalid { field });
    }
    Ok(nodes)
}

/// Fewest and most bytes of a voucher: its number takes 1 to 9.
const VOUCHER_BYTES_MIN: usize = 20 + 1 + 32 + 64;
const VOUCHER_BYTES_MAX: usize = VOUCHER_BYTES_MIN + 8;

fn write_vouchers(
    vouchers: &[Voucher],
    sink: &mut Sink,
    field: &'static str,
) -> Result<(), EncodeError> {
    sink.count(vouchers.len(), VOUCHERS_MAX, field)?;
    for voucher in vouchers {
        sink.array(&voucher.actor);
        sink.u64(voucher.seq, field)?;
        sink.array(&voucher.hash.0);
        sink.array(&voucher.signature);
    }
    Ok(())
}

fn read_vouchers(
    source: &mut Source<'_>,
    field: &'static str,
) -> Result<Vec<Voucher>, DecodeError> {
    let count = source.count(VOUCHERS_MAX, VOUCHER_BYTES_MIN, field)?;
    let vouchers = (0..count).map(|_| {
        Ok(Voucher {
            actor: source.array(field)?,
            seq: source.u64(field)?,
            hash: ChangeHash(source.array(field)?),
            signature: source.array(field)?,
        })
    });
    vouchers.collect()
}

fn write_document(
    document: &DocumentId,
    sink: &mut Sink,
    field: &'static str,
) -> Result<(), EncodeError> {
    match document {
        DocumentId::Fleet(fleet) => {
            sink.u32(0, field)?;
            sink.array(&fleet.0);
        }
        DocumentId::Host { host, epoch } => {
            sink.u32(1, field)?;
            sink.array(&host.0);
            sink.u32(*epoch, field)?;
        }
    }
    Ok(())
}

fn read_document(source: &mut Source<'_>, field: &'static str) -> Result<DocumentId, DecodeError> {
    match source.u32(field)? {
        0 => Ok(DocumentId::Fleet(FleetId(source.array(field)?))),
        1 => Ok(DocumentId::Host { host: NodeId(source.array(field)?), epoch: source.u32(field)? }),
        _ => Err(DecodeError::Invalid { field }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_never_sends_what_its_peer_would_refuse() {
        let hello = |name: String| {
            Frame::Hello(Hello {
                protocol_min: 1,
                protocol_max: 1,
                fleet: FleetId([0; 16]),
                name,
                version: String::new(),
                features: 0,
                frontier: [0; 32],
                statements: [0; 32],
            })
        };
        let longest = encode(&hello("n".repeat(NAME_BYTES_MAX))).unwrap();
        assert!(matches!(decode(&longest[HEADER_BYTES..]), Ok(Decoded::Known(_))));
        assert_eq!(
            encode(&hello("n".repeat(NAME_BYTES_MAX + 1))).unwrap_err().to_string(),
            "`hello.name` is 257 long, more than 256"
        );
    }

    #[test]
    fn only_a_snapshot_may_be_longer_than_a_links_frame() {
        let document = DocumentId::Fleet(FleetId([1; 16]));
        let bytes = vec![7; FRAME_BYTES_MAX];
        let sync = Frame::Sync { document, message: bytes.clone(), vouchers: Vec::new() };
        assert!(matches!(encode(&sync), Err(EncodeError::FrameTooLong { kind: "sync", .. })));
        let snapshot = Frame::Snapshot { document, bytes, vouchers: Vec::new() };
        let mut encoded = encode(&snapshot).unwrap();
        assert_eq!(decode(&encoded[HEADER_BYTES..]), Ok(Decoded::Known(snapshot)));
        // The same bytes as a sync message are over the limit.
        encoded[HEADER_BYTES] = kind::SYNC as u8;
        let refused = decode(&encoded[HEADER_BYTES..]);
        assert!(matches!(refused, Err(DecodeError::FrameTooLong { limit: FRAME_BYTES_MAX, .. })));
    }
}
