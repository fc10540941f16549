//! Owns taking in a document that a peer sent whole: what can be done elsewhere than on the loop,
//! and what is made of it there.
//!
//! Must not know where it is read. Invariant: reading needs nothing of the replica but copies of
//! small things, and what was read is judged by what the replica knows when it comes back.

use super::super::{
    document::{ApplyError, Document, Foreign},
    effect::{Effects, Now},
    guard,
    ids::{ChangeHash, DocumentId, NodeId},
    trust::Trust,
    voucher::Voucher,
};
use super::{Replica, offence::Sent};
use crate::wire::Frame;

/// A document that a peer sent whole, to be read.
#[derive(Debug)]
pub struct Snapshot {
    peer: NodeId,
    id: DocumentId,
    bytes: Vec<u8>,
    vouchers: Vec<Voucher>,
    trust: Trust,
    actor: automerge::ActorId,
    /// Where the replica's own copy stands, if it has one.
    heads: Option<Vec<ChangeHash>>,
}

/// A document that was read.
#[derive(Debug)]
pub struct ReadSnapshot {
    peer: NodeId,
    id: DocumentId,
    bytes: Vec<u8>,
    vouchers: Vec<Voucher>,
    /// As it was when the document was judged.
    trust: Trust,
    read: Result<Whole, ApplyError>,
}

/// What came of reading.
#[derive(Debug)]
enum Whole {
    /// The replica has all of it.
    Known,
    /// To be merged into the replica's own.
    Copy(Box<Foreign>),
    /// To be held: its authors stand for it.
    Adopted(Box<Document>),
}

impl Snapshot {
    /// Returns how many bytes it has.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Reads it; takes as long as it is large.
    pub fn read(self) -> ReadSnapshot {
        let Self { peer, id, bytes, vouchers, trust, actor, heads } = self;
        let is_held = heads.is_some();
        let foreign = || Foreign::read(id, &bytes, heads.as_deref());
        // Nobody would be told of a panic, and the next would wait for ever.
        let read = guard::contained(|| {
            foreign()?.map_or(Ok(Whole::Known), |foreign| {
                if is_held {
                    return Ok(Whole::Copy(Box::new(foreign)));
                }
                let adopted = Document::adopt_read(foreign, actor, &vouchers, &trust);
                adopted.map(|document| Whole::Adopted(Box::new(document)))
            })
        });
        let read = read.unwrap_or_else(|guard::Panicked { message }| {
            Err(ApplyError::Panicked { document: id, message })
        });
        ReadSnapshot { peer, id, bytes, vouchers, trust, read }
    }
}

impl Replica {
    /// Takes a frame that is a whole document of use here, to be read anywhere and given back to
    /// [`Replica::handle_read`]; any other is given back, for [`Replica::handle`].
    ///
    /// # Errors
    ///
    /// The frame, where it is anything else.
    pub fn to_read(&self, peer: &NodeId, frame: Frame) -> Result<Snapshot, Frame> {
        match frame {
            Frame::Snapshot { document, bytes, vouchers }
                if self.exchange.is_greeted(peer) && self.may_write_to(peer, &document) =>
            {
                Ok(self.snapshot(*peer, document, bytes, vouchers))
            }
            frame => Err(frame),
        }
    }

    fn snapshot(
        &self,
        peer: NodeId,
        id: DocumentId,
        bytes: Vec<u8>,
        vouchers: Vec<Voucher>,
    ) -> Snapshot {
        let heads = self.documents.get(&id).map(Document::heads);
        let (trust, actor) = (self.trust.clone(), self.actor.clone());
        Snapshot { peer, id, bytes, vouchers, trust, actor, heads }
    }

    /// Takes in a document that was read.
    pub fn handle_read(&mut self, now: Now, read: ReadSnapshot) -> Effects {
        let mut fx = Effects::default();
        // Whoever was cut off meanwhile is heard no more.
        if self.exchange.is_greeted(&read.peer) {
            self.snapshot_read(now, read, &mut fx);
        } else {
            self.exchange.fetched(now.monotonic, &read.id, &mut fx.frames);
        }
        self.conclude(now, fx)
    }

    /// Reads a document here and now, and takes it in.
    pub(super) fn snapshot_sent(
        &mut self,
        now: Now,
        peer: NodeId,
        id: DocumentId,
        bytes: Vec<u8>,
        vouchers: Vec<Voucher>,
        fx: &mut Effects,
    ) {
        if self.may_write_to(&peer, &id) {
            let read = self.snapshot(peer, id, bytes, vouchers).read();
            self.snapshot_read(now, read, fx);
        } else {
            self.exchange.fetched(now.monotonic, &id, &mut fx.frames);
        }
    }

    fn snapshot_read(&mut self, now: Now, read: ReadSnapshot, fx: &mut Effects) {
        let ReadSnapshot { peer, id, bytes, vouchers, trust, read } = read;
        let at = now.monotonic;
        if !self.may_write_to(&peer, &id) {
            self.exchange.fetched(at, &id, &mut fx.frames);
            return;
        }
        let is_stale = !trust.judges_like(&self.trust);
        let adopt = |replica: &Self| {
            let actor = replica.actor.clone();
            Document::adopt(id, actor, &bytes, &vouchers, &replica.trust)
        };
        let adopted = match (self.documents.get_mut(&id), read) {
            (Some(_), Ok(Whole::Known)) => None,
            (Some(document), Ok(Whole::Copy(copy))) => {
                let merged = document.merge_read(&copy, &vouchers, &self.trust);
                self.merged(now, peer, id, merged, Sent::Whole(&bytes), fx);
                None
            }
            (Some(document), Ok(Whole::Adopted(copy))) => {
                let merged = document.merge_copy(&copy, &self.trust);
                self.merged(now, peer, id, merged, Sent::Whole(&bytes), fx);
                None
            }
            (None, Ok(Whole::Adopted(document))) if !is_stale => Some(Ok(*document)),
            // What it was judged by has changed, or it was given up meanwhile: that is rare.
            (None, Ok(_)) => Some(adopt(self)),
            (None, Err(ApplyError::NotYet { .. })) if is_stale => Some(adopt(self)),
            (_, Err(error)) => Some(Err(error)),
        };
        match adopted {
            None => {}
            Some(Ok(document)) => {
                let is_held = self.take_over(now, peer, document, bytes, fx);
                if is_held {
                    self.exchange.adopted(at, &peer, &self.documents, &mut fx.frames);
                }
            }
            // Closing the link frees the place: another peer is asked.
            Some(Err(error)) => {
                return self.contain(now, peer, id, &error, Sent::Whole(&bytes), fx);
            }
        }
        self.exchange.fetched(at, &id, &mut fx.frames);
        if !self.documents.contains_key(&id) {
            return;
        }
        self.exchange.catch_up_with(at, &peer, &id, &self.documents, &mut fx.frames);
    }
}
