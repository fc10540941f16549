//! Owns judging who wrote what is in a document that came whole.
//!
//! Must not know what a change says. Invariant: a document is taken over only if each of its changes
//! would be taken by itself.

use std::collections::BTreeMap;

use super::{
    super::{
        guard,
        ids::{self, ActorBytes, DocumentId},
        trust::{Standing, Trust},
        voucher::Voucher,
    },
    ApplyError, Document, Untrusted, actor_in, authority, former, hash_out,
    intake::is_of_reader,
    touched,
    vouchers::Vouchers,
};

impl Document {
    /// Checks that each actor of a whole document is vouched for, and returns the vouchers.
    pub(super) fn check_whole(
        document: &automerge::Automerge,
        id: DocumentId,
        header: &guard::DocumentHeader,
        vouchers: &[Voucher],
        trust: &Trust,
    ) -> Result<Vouchers, ApplyError> {
        let untrusted = |source| ApplyError::Untrusted { document: id, source };
        let given: BTreeMap<_, _> =
            vouchers.iter().map(|voucher| ((voucher.actor, voucher.seq), voucher)).collect();
        let mut newest = Vouchers::default();
        for (actor, seq) in header.actors.iter().zip(&header.seqs).filter(|(_, seq)| **seq > 0) {
            let seq = u64::from(*seq);
            let voucher = given.get(&(*actor, seq)).ok_or(untrusted(Untrusted::Unvouched))?;
            let named = document.get_change_meta_by_hash(&hash_out(&voucher.hash));
            if !named.is_some_and(|meta| actor_in(&meta.actor) == *actor && meta.seq == seq) {
                return Err(untrusted(Untrusted::Unvouched));
            }
            let by = match trust.standing(actor) {
                // Of a reader only what it says of itself.
                Standing::Reader(node) if id.host() == Some(node) => Some(node),
                _ if trust.is_readers(&id) => return Err(ApplyError::NotYet { document: id }),
                Standing::Writer(node) => Some(node),
                Standing::Former(_) | Standing::Unknown => None,
                Standing::Reader(_) => return Err(ApplyError::NotYet { document: id }),
            };
            if let Some(node) = by {
                if voucher.is_marker() {
                    return Err(ApplyError::NotYet { document: id });
                }
                if !trust.is_by(voucher, &id, &node) {
                    return Err(untrusted(Untrusted::Forged));
                }
            }
            let is_false = match trust.standing(actor) {
                // Who still takes it for a member would take that for this node's fault.
                Standing::Former(node) => !trust.is_by(voucher, &id, &node),
                _ => false,
            };
            let marker = || Voucher::marker(*actor, seq, voucher.hash);
            newest.newest.insert(*actor, if is_false { marker() } else { **voucher });
        }
        if !former::all_count(document, &header.actors, trust) {
            return Err(ApplyError::NotYet { document: id });
        }
        Ok(newest)
    }

    /// Checks that all that is in a whole document may be there, of authors that stand for it.
    pub(super) fn check_authority(
        &self,
        header: &guard::DocumentHeader,
        trust: &Trust,
    ) -> Result<(), ApplyError> {
        let document = self.id;
        // A host may do anything in its document but change how that is laid out, which would show.
        let host = document.host().map(|host| host.fingerprint());
        let is_host = |actor: &ActorBytes| Some(ids::fingerprint(actor)) == host;
        if trust.is_readers(&document) && !self.is_of_reader() {
            return Err(ApplyError::NotYet { document });
        }
        if header.actors.iter().all(is_host) {
            return Ok(());
        }
        let judged = guard::contained(|| {
            let mut judge = authority::Judge::of_whole(self);
            let (mut max_ops, mut last) = (BTreeMap::new(), BTreeMap::new());
            for change in self.automerge.get_changes(&[]) {
                let is_by_host = is_host(&actor_in(change.actor_id()));
                if is_by_host {
                    judge.note(&change.decode());
                } else {
                    let by = || trust.node(&ids::fingerprint(&actor_in(change.actor_id())));
                    let before = last.insert(change.actor_id().clone(), change.hash());
                    if before.is_some_and(|before| !change.deps().contains(&before)) {
                        return Err(Untrusted::Unlinked { by: by() });
                    }
                    if change.start_op().get() != self.max_op(&change, &max_ops) + 1 {
                        return Err(Untrusted::Counter { by: by() });
                    }
                    let judged = judge.check(&change.decode());
                    judged.map_err(|did| Untrusted::Overreach { by: by(), did })?;
                }
                max_ops.insert(change.hash(), change.max_op());
            }
            Ok(())
        });
        let judged = judged.map_err(ApplyError::panicked(document))?;
        judged.map_err(|source| ApplyError::Untrusted { document, source })
    }

    /// Tells whether nothing was ever written to this document but by its host, of itself: so much is
    /// taken of a member that may only read.
    pub fn is_of_reader(&self) -> bool {
        let Some(host) = self.id.host().map(|host| host.fingerprint()) else { return false };
        self.automerge.get_changes(&[]).iter().all(|change| {
            ids::fingerprint(&actor_in(change.actor_id())) == host
                && touched::by(&self.automerge, [&change.decode()]).iter().all(is_of_reader)
        })
    }
}
