//! Owns whose changes this node takes, and what it attests to have of those whose word no longer
//! counts.
//!
//! Must not know what a change says. Invariant: what is here of a revoked node, or of a former fleet
//! in this node's own document, is attested, so that every member comes to take it.

use super::super::{
    effect::{Effects, Now, Write},
    ids::{DocumentId, fingerprint},
    record::Role,
    trust::{Attested, Extent, Standing},
};
use super::Replica;

impl Replica {
    /// Writes down what this node has of changes that are only taken as far as someone attests to
    /// have them, where nobody has attested to as much.
    pub(super) fn attest(&mut self, now: Now, fx: &mut Effects) {
        let id = DocumentId::Fleet(self.fleet);
        if self.role() == Role::Reader || !self.documents.contains_key(&id) {
            return;
        }
        let mut attested = Attested::new();
        for (name, document) in &self.documents {
            for voucher in document.vouchers() {
                let extent = Extent { seq: voucher.seq, hash: voucher.hash };
                let is_news = match self.trust.standing(name, &voucher.actor) {
                    Standing::Writer(_, Some(known)) => known.is_none_or(|e| e.seq < extent.seq),
                    Standing::Unknown => name.host() == Some(self.node),
                    Standing::Writer(_, None) | Standing::Attested(_) | Standing::Reader(_) => {
                        false
                    }
                };
                if is_news && self.trust.node(&fingerprint(&voucher.actor)) != Some(self.node) {
                    attested.insert((*name, voucher.actor), extent);
                }
            }
        }
        if attested.is_empty() {
            return;
        }
        let Some(document) = self.documents.get_mut(&id) else { return };
        if let Some(mut applied) = document.attest(now.wall_ms, &self.node, &attested) {
            self.absorb(now, id, &mut applied, None, fx);
        }
    }

    /// Has the vouchers of a document that was taken over become durable.
    pub(super) fn record_vouchers(&self, id: DocumentId, fx: &mut Effects) {
        let vouchers = self.documents.get(&id).into_iter().flat_map(|document| document.vouchers());
        fx.writes
            .extend(vouchers.map(|voucher| Write::Voucher { document: id, voucher: *voucher }));
    }
}
