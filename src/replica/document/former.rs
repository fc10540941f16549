//! Owns which changes count that nobody's own word stands for any more: those of former members.
//!
//! Must not know who is one. Invariants: what one honest node has taken, no other refuses for ever;
//! what counts follows from what is held, not from the order in which it came.
//!
//! A revoked node can still sign, so that its signature tells nothing of when it wrote. A change of
//! its counts if a present member has signed a change that builds on it: whoever signs a change stands
//! for all that it builds on. So nothing goes that honest nodes went on from, and a node that holds,
//! beside that, changes of a former member that nothing was built on (then one of them is a head, for
//! what they lead to is by former members, too) signs an empty change on all heads: it attests to have
//! had them before it learnt of the revocation, for from then on it takes no such change that nobody
//! has built on. That change is a part of the document: whoever is given the document can judge it by
//! itself, and it goes with the epoch.
//!
//! Of a batch it can be told at once what counts. A document holds, with a change, all that this
//! builds on; so what a former member's change in the batch is built on by is in the batch, or waits.
//! Who sends what another lacks sends all of it in one frame, or the document whole, with the changes
//! built on it; by automerge's protocol, which may leave some out, what a waiting change builds on is
//! asked for by name. What does not count is dropped, never kept waiting, and comes again once
//! somebody has built on it, for then the heads differ. A change that counts is taken only together
//! with one that is built on it: else it would be a head.
//!
//! Of nobody that is known here, as of those with whom a host was in another fleet, only what the
//! host itself has built on counts: others could else write under any number of names.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{Automerge, Change, ChangeHash, transaction::CommitOptions};

use super::{
    super::{
        ids::{ActorBytes, DocumentId, fingerprint},
        trust::{Standing, Trust},
    },
    Applied, Document, LeftOut, actor_in,
    saved::Saved,
};

/// Tells whether all of a document counts that is by former members.
pub(super) fn all_count(
    automerge: &Automerge,
    id: &DocumentId,
    actors: &[ActorBytes],
    trust: &Trust,
) -> bool {
    let standing = |actor: &ActorBytes| trust.standing(id, actor);
    if id.host().is_none() || !actors.iter().any(|actor| standing(actor).is_former()) {
        return true;
    }
    let by_former = |hash: &ChangeHash| {
        let meta = automerge.get_change_meta_by_hash(hash);
        meta.is_none_or(|meta| standing(&actor_in(&meta.actor)).is_former())
    };
    if automerge.get_heads().iter().any(by_former) {
        return false;
    }
    let is_unknown = |actor: &ActorBytes| standing(actor) == Standing::Unknown;
    !actors.iter().any(is_unknown) || host_has_built_on(automerge, id, is_unknown)
}

/// Tells whether the host of a document has built on each change of these actors.
fn host_has_built_on(
    automerge: &Automerge,
    id: &DocumentId,
    is_one: impl Fn(&ActorBytes) -> bool,
) -> bool {
    let host = id.host().map(|host| host.fingerprint());
    let (mut deps, mut left, mut all) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    for change in automerge.get_changes_meta(&[]) {
        let actor = actor_in(&change.actor);
        if Some(fingerprint(&actor)) == host {
            left.push(change.hash);
        } else if is_one(&actor) {
            all.insert(change.hash);
        }
        deps.insert(change.hash, change.deps);
    }
    let mut seen: BTreeSet<ChangeHash> = left.iter().copied().collect();
    while let Some(hash) = left.pop() {
        let deps = deps.get(&hash).into_iter().flatten().copied();
        left.extend(deps.filter(|dep| seen.insert(*dep)));
    }
    all.is_subset(&seen)
}

/// Lists what changes build on, as far as it can be followed through these.
fn below<'a>(
    mut left: Vec<&'a Change>,
    by_hash: &BTreeMap<ChangeHash, &'a Change>,
) -> BTreeSet<ChangeHash> {
    let mut seen = BTreeSet::new();
    while let Some(change) = left.pop() {
        for dep in change.deps().iter().filter(|dep| seen.insert(**dep)) {
            if let Some(change) = by_hash.get(dep) {
                left.push(change);
            }
        }
    }
    seen
}

impl Document {
    /// Finds those of the changes, and of those that wait, that count though they are by former
    /// members; `reached` are the others that are taken.
    pub(super) fn counted(
        &self,
        changes: &[Change],
        reached: &BTreeSet<ChangeHash>,
        trust: &Trust,
        left_out: &mut LeftOut,
    ) -> BTreeSet<ChangeHash> {
        let standing = |change: &Change| trust.standing(&self.id, &actor_in(change.actor_id()));
        let all = || changes.iter().chain(self.orphans.iter());
        if self.id.host().is_none() || !all().any(|change| standing(change).is_former()) {
            return BTreeSet::new();
        }
        let by_hash: BTreeMap<ChangeHash, &Change> =
            all().map(|change| (change.hash(), change)).collect();
        let is_present = |change: &Change| matches!(standing(change), Standing::Writer(_));
        let signed = changes.iter().filter(|change| reached.contains(&change.hash()));
        let signed = signed.chain(self.orphans.iter()).filter(|change| is_present(change));
        let signed: Vec<&Change> = signed.collect();
        let of_members = below(signed.clone(), &by_hash);
        let host = self.id.host().map(|host| host.fingerprint());
        let by_host = |change: &&Change| Some(fingerprint(&actor_in(change.actor_id()))) == host;
        let counts = |change: &&Change| of_members.contains(&change.hash());
        let of_host = signed.into_iter().chain(all().filter(counts)).filter(by_host);
        let of_host = below(of_host.collect(), &by_hash);
        let mut counted = BTreeSet::new();
        for change in all() {
            let hash = change.hash();
            let counts = match standing(change) {
                Standing::Former(_) => of_members.contains(&hash),
                Standing::Unknown => of_host.contains(&hash),
                Standing::Writer(_) | Standing::Reader(_) => continue,
            };
            if counts {
                counted.insert(hash);
            }
        }
        for change in changes.iter().filter(|change| !counted.contains(&change.hash())) {
            match standing(change) {
                Standing::Former(_) => left_out.revoked += 1,
                Standing::Unknown => left_out.unknown += 1,
                Standing::Writer(_) | Standing::Reader(_) => {}
            }
        }
        counted
    }

    /// Tells whether it holds changes of former members that nobody has built on whose word counts.
    pub fn has_loose_ends(&self, trust: &Trust) -> bool {
        if trust.is_readers(&self.id) {
            return false;
        }
        let actors: Vec<ActorBytes> = self.vouchers.newest.keys().copied().collect();
        !all_count(&self.automerge, &self.id, &actors, trust)
    }

    /// Builds on all that is here with an empty change: so its author attests to have had it.
    pub fn build_on_all(&mut self, wall_ms: i64) -> Applied {
        let time = CommitOptions::default().with_time(wall_ms / 1_000);
        self.automerge.empty_commit(time);
        self.saved = Saved::default();
        let change = self.automerge.get_last_local_change().expect("it was just committed");
        self.describe_own(&[change])
    }
}
