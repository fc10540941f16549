//! Owns mending a fork by this node's own key: a virtual machine was resumed from a snapshot of its memory, or
//! copied, so that two histories were written under one actor.
//!
//! Must not know how two histories are merged. Invariants: a node takes a new actor as soon as it sees changes of
//! its actor that it has not made itself. In its own document its own history goes on, in a new epoch, and the
//! other history is merged into that epoch from what peers hold. A document of another host is fetched again.

use super::super::{
    document::{self, Applied, Document, Place},
    effect::{Effects, Now, Outgoing, Write},
    ids::{ActorBytes, DocumentId, NodeId, StartId},
};
use super::Replica;
use crate::wire::Frame;

/// Most bytes of changes that are sent to a peer to show it that its key has forked.
const SHOWN_BYTES_MAX: usize = 1 << 20;
/// More changes than any actor can have: all that it has written counts as merged.
const ALL: u64 = i64::MAX as u64;

/// A fork of this node's own document.
#[derive(Debug, Clone)]
pub struct Split {
    document: DocumentId,
    actor: ActorBytes,
    /// How many changes of the actor are in both histories.
    common: u64,
}

impl Replica {
    /// Sends a peer the changes that its key has signed in the place of those that it has just sent, before its
    /// link is closed: it may not know of them.
    pub(super) fn show_split(&self, peer: NodeId, id: DocumentId, place: &Place, fx: &mut Effects) {
        let Some(document) = self.documents.get(&id) else { return };
        let changes = document.written_since(&place.actor, place.seq);
        let voucher = document.vouchers().find(|voucher| voucher.actor == place.actor).copied();
        let bytes: usize = changes.iter().map(Vec::len).sum();
        let Some(voucher) = voucher.filter(|_| bytes <= SHOWN_BYTES_MAX) else { return };
        let frame = Frame::Changes { document: id, changes, vouchers: vec![voucher] };
        fx.frames.push(Outgoing { to: vec![peer], frame });
    }

    /// Looks in the changes that a peer sent for a fork by this node's own key, and begins to mend it.
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
                tracing::warn!(document = %id, "peers have another history of this node's own document: it is written into a new epoch");
                self.epochs.split = Some(Split { document: id, actor, common: seq - 1 });
                self.ask_for_rewrite();
            }
        } else if id.host() != Some(self.node) && self.refetched.insert(id) {
            tracing::warn!(document = %id, "this node has forked another host's document: it is fetched again, without what only this node wrote there");
            self.drop_documents(|other| *other == id, fx);
        }
    }

    /// Takes a new actor for all documents.
    fn become_another_author(&mut self, now: Now, fx: &mut Effects) {
        self.stand_for_written(now, fx);
        let start = StartId(self.random.u64(..).to_le_bytes());
        self.actor = document::actor(&self.node, start);
        for document in self.documents.values_mut() {
            document.write_as(self.actor.clone());
        }
    }

    /// Returns a copy of the own document for the next epoch. Of the actor that has forked it claims only the
    /// changes that both histories share, so that the rest is merged from what peers hold.
    pub(super) fn unsplit(&self, own: &Document) -> Document {
        match &self.epochs.split {
            Some(split) if split.document == own.id() => own.counted_as(&split.actor, split.common),
            _ => own.clone(),
        }
    }

    /// Drops the epoch that has forked, so that the copies of peers are read by themselves.
    pub(super) fn forget_split_epoch(&mut self, fx: &mut Effects) {
        let own = self.own_document();
        if self.epochs.split.as_ref().is_some_and(|split| split.document == own) {
            self.documents.remove(&own);
            self.exchange.forget(&own);
            fx.writes.push(Write::Forget { document: own });
        }
    }

    /// Marks a forked epoch as merged whole: its other history was merged just now.
    pub(super) fn settled(&self, earlier: Document) -> Document {
        match &self.epochs.split {
            Some(split) if split.document == earlier.id() => earlier.counted_as(&split.actor, ALL),
            _ => earlier,
        }
    }
}
