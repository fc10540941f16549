//! Owns putting changes, documents and sync messages into frames, as a member does who has a key: with
//! the vouchers of others that it was given, and its own signature for whatever else.
//!
//! Must not know whether what it wraps is any good. Invariant: what the rogue writes in its own name
//! is signed as it should be, whatever it says.

use std::{collections::BTreeMap, io::Read as _, sync::Arc};

use automerge::Automerge;
use sessionmesh::{
    identity::NodeKey,
    replica::{
        ids::{ACTOR_BYTES, ActorBytes, ChangeHash, DocumentId},
        voucher::Voucher,
    },
    wire::Frame,
};

use super::forge::{contents, hash_of};

/// A key, and the words of others.
#[derive(Debug, Clone)]
pub struct Seal {
    key: Arc<NodeKey>,
    known: BTreeMap<(DocumentId, ActorBytes), Voucher>,
}

impl Seal {
    /// Begins with nobody else's word.
    pub fn new(key: Arc<NodeKey>) -> Self {
        Self { key, known: BTreeMap::new() }
    }

    /// Keeps the vouchers that came with a frame.
    pub fn note(&mut self, frame: &Frame) {
        let (document, vouchers) = match frame {
            Frame::Changes { document, vouchers, .. }
            | Frame::Snapshot { document, vouchers, .. }
            | Frame::Sync { document, vouchers, .. } => (*document, vouchers),
            _ => return,
        };
        self.note_all(document, vouchers);
    }

    /// Keeps vouchers.
    pub fn note_all(&mut self, document: DocumentId, vouchers: &[Voucher]) {
        for voucher in vouchers {
            let known = self.known.entry((document, voucher.actor)).or_insert(*voucher);
            if known.seq < voucher.seq {
                *known = *voucher;
            }
        }
    }

    /// Pushes changes, the last of each actor vouched for.
    pub fn changes(&self, document: DocumentId, changes: Vec<Vec<u8>>) -> Frame {
        let mut last: BTreeMap<ActorBytes, (u64, ChangeHash)> = BTreeMap::new();
        for change in &changes {
            if let Some((actor, seq, hash)) = author(change) {
                let last = last.entry(actor).or_insert((seq, hash));
                if last.0 <= seq {
                    *last = (seq, hash);
                }
            }
        }
        let vouchers = last
            .into_iter()
            .map(|(actor, (seq, hash))| match self.known.get(&(document, actor)) {
                Some(known) if known.hash == hash => *known,
                _ => Voucher::sign(&*self.key, &document, actor, seq, hash),
            })
            .collect();
        Frame::Changes { document, changes, vouchers }
    }

    /// Sends a document whole.
    pub fn snapshot(&self, document: DocumentId, bytes: Vec<u8>) -> Frame {
        Frame::Snapshot { document, bytes, vouchers: self.all(document) }
    }

    /// Sends a document whole of which one actor is the rogue's.
    pub fn own(&self, document: DocumentId, automerge: &Automerge) -> Frame {
        let mut vouchers = self.all(document);
        let actor = automerge.get_actor().to_bytes().try_into().expect("it has our form");
        let changes = automerge.get_changes(&[]);
        if let Some(last) =
            changes.iter().rfind(|change| change.actor_id() == automerge.get_actor())
        {
            let hash = ChangeHash(last.hash().0);
            vouchers.retain(|voucher| voucher.actor != actor);
            vouchers.push(Voucher::sign(&*self.key, &document, actor, last.seq(), hash));
            vouchers.sort_by_key(|voucher| voucher.actor);
        }
        Frame::Snapshot { document, bytes: automerge.save(), vouchers }
    }

    /// Says something in automerge's sync protocol.
    pub fn sync(&self, document: DocumentId, message: Vec<u8>) -> Frame {
        Frame::Sync { document, message, vouchers: self.all(document) }
    }

    fn all(&self, document: DocumentId) -> Vec<Voucher> {
        let of = self.known.iter().filter(|((of, _), _)| *of == document);
        of.map(|(_, voucher)| *voucher).collect()
    }
}

/// Reads who says to have written a change, if so much of it can be read.
fn author(change: &[u8]) -> Option<(ActorBytes, u64, ChangeHash)> {
    if change.len() < 12 || !matches!(change[8], 1 | 2) {
        return None;
    }
    let mut inflated = Vec::new();
    let stored = contents(change)?;
    let contents = if change[8] == 2 {
        let mut decoder = flate2::read::DeflateDecoder::new(stored).take(1 << 20);
        decoder.read_to_end(&mut inflated).ok()?;
        &inflated
    } else {
        stored
    };
    let mut rest = contents;
    let dependencies = number(&mut rest)?;
    rest = rest.get(usize::try_from(dependencies).ok()?.checked_mul(32)?..)?;
    if number(&mut rest)? != ACTOR_BYTES as u64 {
        return None;
    }
    let (actor, mut rest) = rest.split_first_chunk()?;
    Some((*actor, number(&mut rest)?, ChangeHash(hash_of(contents))))
}

/// Takes an unsigned LEB128 number.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
