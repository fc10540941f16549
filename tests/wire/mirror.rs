//! Owns the frames once more, laid out by the derives of bincode and wincode instead of by hand.

#![allow(clippy::mem_forget, reason = "the code that wincode derives forgets its drop guards")]

use bincode::{Decode, Encode};
use wincode::{SchemaRead, SchemaWrite};

use sessionmesh::{
    replica::{ids::DocumentId, voucher::Voucher},
    wire::{DocumentHeads, Frame, Links, LinksBase},
};

#[derive(Debug, Clone, PartialEq, Encode, Decode, SchemaRead, SchemaWrite)]
pub enum Document {
    Fleet([u8; 16]),
    Host { host: [u8; 32], epoch: u32 },
}

#[derive(Debug, Clone, PartialEq, Encode, Decode, SchemaRead, SchemaWrite)]
pub struct Heads {
    document: Document,
    heads: Vec<[u8; 32]>,
}

#[derive(Debug, Clone, PartialEq, Encode, Decode, SchemaRead, SchemaWrite)]
pub struct Greeting {
    protocol_min: u16,
    protocol_max: u16,
    fleet: [u8; 16],
    name: String,
    version: String,
    features: u64,
    frontier: [u8; 32],
    statements: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Encode, Decode, SchemaRead, SchemaWrite)]
pub struct Request {
    protocol_min: u16,
    protocol_max: u16,
    fleet: [u8; 16],
    secret: [u8; 32],
    name: String,
    addresses: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Encode, Decode, SchemaRead, SchemaWrite)]
pub enum Base {
    Told,
    Nothing,
    Members { digest: [u8; 8], bits: Vec<u8> },
}

#[derive(Debug, Clone, PartialEq, Encode, Decode, SchemaRead, SchemaWrite)]
pub enum Mirror {
    Open { start: [u8; 8] },
    Hello(Greeting),
    Join(Request),
    Joined { contacts: Vec<([u8; 32], Vec<String>)> },
    Links { base: Base, linked: Vec<[u8; 32]>, unlinked: Vec<[u8; 32]>, tells: bool, again: bool },
    Heads { documents: Vec<Heads>, answer: bool },
    Want(Heads),
    Changes { document: Document, changes: Vec<Vec<u8>>, vouchers: Vec<Word> },
    Snapshot { document: Document, bytes: Vec<u8>, vouchers: Vec<Word> },
    Sync { document: Document, message: Vec<u8>, vouchers: Vec<Word> },
    Check { frontier: [u8; 32], statements: [u8; 32] },
    Known { statements: Vec<[u8; 32]>, answer: bool },
    Statements { statements: Vec<Vec<u8>> },
}

#[derive(Debug, Clone, PartialEq, Encode, Decode, SchemaRead, SchemaWrite)]
pub struct Word {
    actor: [u8; 20],
    seq: u64,
    hash: [u8; 32],
    signature: [u8; 64],
}

fn to_words(vouchers: Vec<Voucher>) -> Vec<Word> {
    let word = |Voucher { actor, seq, hash, signature }: Voucher| Word {
        actor,
        seq,
        hash: hash.0,
        signature,
    };
    vouchers.into_iter().map(word).collect()
}

fn to_document(id: DocumentId) -> Document {
    match id {
        DocumentId::Fleet(fleet) => Document::Fleet(fleet.0),
        DocumentId::Host { host, epoch } => Document::Host { host: host.0, epoch },
    }
}

fn to_heads(of: DocumentHeads) -> Heads {
    Heads {
        document: to_document(of.document),
        heads: of.heads.into_iter().map(|head| head.0).collect(),
    }
}

impl From<Frame> for Mirror {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Open { start } => Self::Open { start: start.0 },
            Frame::Hello(hello) => Self::Hello(Greeting {
                protocol_min: hello.protocol_min,
                protocol_max: hello.protocol_max,
                fleet: hello.fleet.0,
                name: hello.name,
                version: hello.version,
                features: hello.features,
                frontier: hello.frontier,
                statements: hello.statements,
            }),
            Frame::Join(join) => Self::Join(Request {
                protocol_min: join.protocol_min,
                protocol_max: join.protocol_max,
                fleet: join.fleet.0,
                secret: join.secret,
                name: join.name,
                addresses: join.addresses,
            }),
            Frame::Joined { contacts } => Self::Joined {
                contacts: contacts.into_iter().map(|it| (it.node.0, it.addresses)).collect(),
            },
            Frame::Links(Links { base, linked, unlinked, tells, again }) => Self::Links {
                base: match base {
                    LinksBase::Told => Base::Told,
                    LinksBase::Nothing => Base::Nothing,
                    LinksBase::Members { digest, bits } => Base::Members { digest, bits },
                },
                linked: linked.into_iter().map(|node| node.0).collect(),
                unlinked: unlinked.into_iter().map(|node| node.0).collect(),
                tells,
                again,
            },
            Frame::Heads { documents, answer } => {
                Self::Heads { documents: documents.into_iter().map(to_heads).collect(), answer }
            }
            Frame::Want(of) => Self::Want(to_heads(of)),
            Frame::Changes { document: of, changes, vouchers } => {
                Self::Changes { document: to_document(of), changes, vouchers: to_words(vouchers) }
            }
            Frame::Snapshot { document: of, bytes, vouchers } => {
                Self::Snapshot { document: to_document(of), bytes, vouchers: to_words(vouchers) }
            }
            Frame::Sync { document: of, message, vouchers } => {
                Self::Sync { document: to_document(of), message, vouchers: to_words(vouchers) }
            }
            Frame::Check { frontier, statements } => Self::Check { frontier, statements },
            Frame::Known { statements, answer } => Self::Known {
                statements: statements.into_iter().map(|hash| hash.0).collect(),
                answer,
            },
            Frame::Statements { statements } => Self::Statements { statements },
        }
    }
}
