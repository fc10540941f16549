//! Owns what a node does that finds its own key to have written two histories: it was resumed from a
//! snapshot of its memory, or its memory was copied.
//!
//! Must not know how two histories come together. Invariants: a node goes on under another actor as soon as it
//! sees that it has been elsewhere; of its own document its own history goes on in the next epoch, and what
//! others have of the other one is carried over to it; what others host is taken as they have it.

use super::super::{
    document::{self, Applied, Document, Place},
    effect::{Effects, Now, Outgoing, Write},
    ids::{ActorBytes, DocumentId, NodeId, StartId},
};
use super::Replica;
use crate::wire::Frame;

/// Most bytes of changes by which a peer is shown that its key has written others in their place.
const SHOWN_BYTES_MAX: usize = 1 << 20;
/// So many changes no actor has: whatever it has written counts as taken over.
const ALL: u64 = i64::MAX as u64;

/// Where this node's own document has two histories.
#[derive(Debug, Clone)]
pub struct Split {
    document: DocumentId,
    actor: ActorBytes,
    /// How many changes of the actor both have.
    common: u64,
}

impl Replica {
    /// Sends a peer what it has written before in the place of what it has sent, before its link is closed: it
    /// may not know.
    pub(super) fn show_split(&self, peer: NodeId, id: DocumentId, place: &Place, fx: &mut Effects) {
        let Some(document) = self.documents.get(&id) else { return };
        let changes = document.written_since(&place.actor, place.seq);
        let voucher = document.vouchers().find(|voucher| voucher.actor == place.actor).copied();
        let bytes: usize = changes.iter().map(Vec::len).sum();
        let Some(voucher) = voucher.filter(|_| bytes <= SHOWN_BYTES_MAX) else { return };
        let frame = Frame::Changes { document: id, changes, vouchers: vec![voucher] };
        fx.frames.push(Outgoing { to: vec![peer], frame });
    }

    /// Notices in what came that this node has written elsewhere what it does not have itself.
    pub(super) fn notice_split(
        &mut self,
        now: Now,
        id: DocumentId,
        applied: &Applied,
        fx: &mut Effects,
    ) {
        let own = self.actor.to_bytes();
        let is_ahead = applied.changes.iter().any(|change| change.actor[..] == *own);
        let split = applied.left_out.forked.get(&self.node).copied();
        if is_ahead || split.is_some_and(|place| place.actor[..] == *own) {
            tracing::warn!(
                document = %id,
                "this node has written elsewhere what it does not know of: it was resumed from a snapshot, or \
                 runs twice; it goes on as another author"
            );
            self.become_another_author(now, fx);
        }
        let Some(Place { actor, seq }) = split else { return };
        if id == self.own_document() {
            if self.epochs.split.as_ref().is_none_or(|split| split.document != id) {
                tracing::warn!(document = %id, "writes the own document anew, of which peers have another history");
                self.epochs.split = Some(Split { document: id, actor, common: seq - 1 });
                self.ask_for_rewrite();
            }
        } else if id.host() != Some(self.node) && self.refetched.insert(id) {
            tracing::warn!(document = %id, "takes a document as its peers have it: what this node wrote beside that is lost");
            self.drop_documents(|other| *other == id, fx);
        }
    }

    /// Writes under an actor that nobody has written under.
    fn become_another_author(&mut self, now: Now, fx: &mut Effects) {
        self.stand_for_written(now, fx);
        let start = StartId(self.random.u64(..).to_le_bytes());
        self.actor = document::actor(&self.node, start);
        for document in self.documents.values_mut() {
            document.write_as(self.actor.clone());
        }
    }

    /// Returns a copy of the own document to be written anew: of the actor that has two histories in it, it
    /// counts as having what both have.
    pub(super) fn unsplit(&self, own: &Document) -> Document {
        match &self.epochs.split {
            Some(split) if split.document == own.id() => own.counted_as(&split.actor, split.common),
            _ => own.clone(),
        }
    }

    /// Drops the epoch that has two histories, so that what peers have of it is read by itself.
    pub(super) fn forget_split_epoch(&mut self, fx: &mut Effects) {
        let own = self.own_document();
        if self.epochs.split.as_ref().is_some_and(|split| split.document == own) {
            self.documents.remove(&own);
            self.exchange.forget(&own);
            fx.writes.push(Write::Forget { document: own });
        }
    }

    /// Counts all that an actor has written as taken over, where it has two histories: one of them was.
    pub(super) fn settled(&self, earlier: Document) -> Document {
        match &self.epochs.split {
            Some(split) if split.document == earlier.id() => earlier.counted_as(&split.actor, ALL),
            _ => earlier,
        }
    }
}
