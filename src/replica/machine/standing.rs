//! Owns attesting to changes of former members.
//!
//! Must not know what a change says. Invariants: every change of a former member that is here gets built on, so
//! that all members come to take it; one member does so for all, and another only for what is then still missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{
    effect::{Effects, Now, Write},
    ids::{DocumentId, Fingerprint, NodeId},
    record::Role,
    trust::Standing,
    voucher::Voucher,
};
use super::Replica;

/// How long the second node waits for the first one to attest: far longer than a network takes.
const ATTEST_AFTER: Duration = Duration::from_secs(3);
/// How much longer each one waits than the one before it.
const ATTEST_STEP: Duration = Duration::from_millis(500);
/// How many of them wait longer than the one before.
const ATTEST_STEPS_MAX: u32 = 60;
/// To how many documents a node attests in one turn of the loop: each takes a signature.
const ATTEST_AT_ONCE: usize = 64;

/// The documents with changes of former members that no present member has built on, and when this node is to.
#[derive(Debug, Clone, Default)]
pub(super) struct LooseEnds(BTreeMap<DocumentId, Duration>);

impl LooseEnds {
    /// Returns when the first is due.
    pub fn due(&self) -> Option<Duration> {
        self.0.values().min().copied()
    }
}

impl Replica {
    /// Finds the documents to attest to. It looks at all of them each time: the members may have changed,
    /// and documents come back from the store.
    pub(super) fn look_for_loose_ends(&mut self, now: Now) {
        let known = std::mem::take(&mut self.loose_ends.0);
        if self.role() == Role::Reader {
            return;
        }
        let is_loose = |id: &DocumentId| {
            self.exchange.is_shared(id) && self.documents[id].has_loose_ends(&self.trust)
        };
        let loose: Vec<DocumentId> =
            self.documents.keys().filter(|id| is_loose(id)).copied().collect();
        if loose.is_empty() {
            return;
        }
        let others = now.monotonic + self.attests_after();
        let due = |id: DocumentId| {
            // Nobody else here has met those with whom this node was in another fleet.
            let is_strange =
                |voucher: &Voucher| self.trust.standing(&voucher.actor) == Standing::Unknown;
            let is_own = id.host() == Some(self.node);
            let due = if is_own && self.documents[&id].vouchers().any(is_strange) {
                now.monotonic
            } else {
                others
            };
            (id, known.get(&id).copied().unwrap_or(due).min(due))
        };
        self.loose_ends = LooseEnds(loose.into_iter().map(due).collect());
    }

    /// Returns how long this node waits for others to attest. A node that has revoked goes first, then the
    /// linked ones in the order of their keys.
    fn attests_after(&self) -> Duration {
        let revoked = |member: &super::Member| member.revoked.as_ref().map(|revoked| revoked.by);
        let revokers: BTreeSet<NodeId> = self.members.values().filter_map(revoked).collect();
        let rank = |node: &NodeId| (!revokers.contains(node), *node);
        let writes = |node: &NodeId| {
            let member = self.members.get(node);
            member.is_some_and(|it| it.is_current() && it.role > Role::Reader)
        };
        let linked = self.exchange.greeted().into_iter().filter(writes);
        let before = linked.filter(|node| rank(node) < rank(&self.node)).count();
        match u32::try_from(before).unwrap_or(u32::MAX).min(ATTEST_STEPS_MAX) {
            0 => Duration::ZERO,
            steps => ATTEST_AFTER + ATTEST_STEP * steps,
        }
    }

    /// Attests to the documents that are due, unless another node has by now.
    pub(super) fn attest(&mut self, now: Now, fx: &mut Effects) {
        if self.loose_ends.due().is_none_or(|due| due > now.monotonic) {
            return;
        }
        let due = self.loose_ends.0.iter().filter(|(_, due)| **due <= now.monotonic);
        let due: Vec<DocumentId> = due.map(|(id, _)| *id).take(ATTEST_AT_ONCE).collect();
        for id in due {
            self.loose_ends.0.remove(&id);
            let Some(document) = self.documents.get_mut(&id) else { continue };
            if document.has_loose_ends(&self.trust) {
                match document.build_on_all(now.wall_ms) {
                    Ok(mut applied) => self.absorb(now, id, &mut applied, None, fx),
                    Err(problem) => tracing::error!(document = %id, %problem, "can't attest"),
                }
            }
        }
    }

    /// Checks the vouchers that came in the names of nodes that were not known then: peers would blame this
    /// node for a false one. A host rewrites its document to be rid of changes without a good voucher.
    pub(super) fn check_words_of(&mut self, known: &BTreeSet<Fingerprint>, fx: &mut Effects) {
        if known.is_empty() {
            return;
        }
        let own = self.own_document();
        let mut is_own_marked = false;
        for (id, document) in &mut self.documents {
            let markers = document.check_words_of(known, &self.trust);
            is_own_marked |= *id == own && !markers.is_empty();
            let document = *id;
            let writes = markers.into_iter().map(|voucher| Write::Voucher { document, voucher });
            fx.writes.extend(writes);
        }
        if is_own_marked {
            self.ask_for_rewrite();
        }
    }

    /// Stores the vouchers of a document that was taken over.
    pub(super) fn record_vouchers(&self, id: DocumentId, fx: &mut Effects) {
        let vouchers = self.documents.get(&id).into_iter().flat_map(|document| document.vouchers());
        fx.writes
            .extend(vouchers.map(|voucher| Write::Voucher { document: id, voucher: *voucher }));
    }
}
