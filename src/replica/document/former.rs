//! Owns which changes of former members count.
//!
//! Must not know who is a former member. Invariants: what one honest node has taken, no other refuses for
//! ever; which changes count follows from the changes that are held, not from the order of their arrival.
//!
//! A revoked node can still sign, so its signature does not tell when it wrote a change. Its change counts if
//! a present member has signed a change that builds on it: the signer of a change stands for everything that
//! the change builds on. So nothing is lost that honest nodes went on from.
//!
//! A node may also hold changes of a former member that nobody has built on. Then one of the heads is by a
//! former member. The node attests to them: it signs an empty change that builds on all heads. By that it says
//! that it had them before it learnt of the revocation; from then on it takes no such change that nobody has built
//! on. The attestation is a part of the document: a node that receives the document can judge it without
//! anything else, and it goes with the epoch.
//!
//! For each batch of changes it is known at once which of them count. A document that holds a change holds all
//! that the change builds on. So if somebody has built on a former member's change in the batch, that later
//! change is in the batch too, or waits here already. A change that does not count is dropped, and comes
//! again once somebody has built on it, because the heads differ then. A change that counts is applied only together
//! with a change that builds on it: else it would be a head.
//!
//! The same holds for authors that are not known here: those with whom a host was in another fleet, and those
//! whose admission does not count. A key that nobody knows costs nothing to make, but a document holds only a
//! limited number of changes.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{Automerge, Change, ChangeHash};

use super::{
    super::{
        ids::{self, ActorBytes, Fingerprint, fingerprint},
        trust::{Standing, Trust},
        voucher::Voucher,
    },
    Document, LeftOut, actor_in, hash_in,
};

/// Returns whether all changes of former members in a document count.
pub(super) fn all_count(automerge: &Automerge, actors: &[ActorBytes], trust: &Trust) -> bool {
    let standing = |actor: &ActorBytes| trust.standing(actor);
    if !actors.iter().any(|actor| standing(actor).is_former()) {
        return true;
    }
    let by_former = |hash: &ChangeHash| {
        let meta = automerge.get_change_meta_by_hash(hash);
        meta.is_none_or(|meta| standing(&actor_in(&meta.actor)).is_former())
    };
    !automerge.get_heads().iter().any(by_former)
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
        let standing = |change: &Change| trust.standing(&actor_in(change.actor_id()));
        let all = || changes.iter().chain(self.orphans.iter());
        if !all().any(|change| standing(change).is_former()) {
            return BTreeSet::new();
        }
        let by_hash: BTreeMap<ChangeHash, &Change> =
            all().map(|change| (change.hash(), change)).collect();
        let is_present = |change: &Change| matches!(standing(change), Standing::Writer(_));
        let signed = changes.iter().filter(|change| reached.contains(&change.hash()));
        let signed = signed.chain(self.orphans.iter()).filter(|change| is_present(change));
        let of_members = below(signed.collect(), &by_hash);
        let counted: BTreeSet<ChangeHash> = all()
            .filter(|change| standing(change).is_former())
            .map(Change::hash)
            .filter(|hash| of_members.contains(hash))
            .collect();
        for change in changes.iter().filter(|change| !counted.contains(&change.hash())) {
            match standing(change) {
                Standing::Former(_) => left_out.revoked += 1,
                Standing::Unknown => left_out.unknown += 1,
                Standing::Writer(_) | Standing::Reader(_) => {}
            }
        }
        counted
    }

    /// Returns the vouchers that came with changes that count without them. A peer that takes the author for a
    /// present member asks for them.
    pub(super) fn words_for_counted(
        &self,
        changes: &[Change],
        counted: &BTreeSet<ChangeHash>,
        vouchers: &[Voucher],
        trust: &Trust,
    ) -> Vec<Voucher> {
        if counted.is_empty() {
            return Vec::new();
        }
        let counted = changes.iter().filter(|change| counted.contains(&change.hash()));
        let places: BTreeSet<(ActorBytes, u64, ids::ChangeHash)> =
            counted.map(|it| (actor_in(it.actor_id()), it.seq(), hash_in(&it.hash()))).collect();
        let is_for_one = |it: &&Voucher| places.contains(&(it.actor, it.seq, it.hash));
        let is_good = |it: &&Voucher| match trust.standing(&it.actor) {
            Standing::Former(node) => trust.is_by(it, &self.id, &node),
            // The author's key is not known, so nobody can check it yet.
            standing => standing == Standing::Unknown,
        };
        vouchers.iter().filter(is_for_one).filter(is_good).copied().collect()
    }

    /// Checks the vouchers of authors that have become known since the vouchers came. Puts a marker in the place
    /// of each one that is false, and returns the markers.
    pub fn check_words_of(&mut self, known: &BTreeSet<Fingerprint>, trust: &Trust) -> Vec<Voucher> {
        let mut markers = Vec::new();
        for voucher in self.vouchers.newest.values_mut() {
            if !known.contains(&fingerprint(&voucher.actor)) {
                continue;
            }
            let is_good = match trust.standing(&voucher.actor) {
                Standing::Writer(node) => trust.is_by(voucher, &self.id, &node),
                _ => true,
            };
            if !is_good {
                *voucher = Voucher::marker(voucher.actor, voucher.seq, voucher.hash);
                markers.push(*voucher);
            }
        }
        markers
    }

    /// Returns whether it holds changes of former members that no present member has built on.
    pub fn has_loose_ends(&self, trust: &Trust) -> bool {
        if trust.is_readers(&self.id) {
            return false;
        }
        let actors: Vec<ActorBytes> = self.vouchers.newest.keys().copied().collect();
        !all_count(&self.automerge, &actors, trust)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::replica::{
        document::Coverage,
        ids::{DocumentId, NodeId, StartId},
        record::{Extra, Member, Revocation, Role, StoredSession},
        voucher::Trusting,
    };

    const HOST: NodeId = NodeId([1; 32]);
    const MEMBER: NodeId = NodeId([2; 32]);
    const FORMER: NodeId = NodeId([3; 32]);
    /// Of another fleet.
    const UNKNOWN: NodeId = NodeId([4; 32]);
    const AUTHORS: [NodeId; 6] = [HOST, MEMBER, FORMER, FORMER, UNKNOWN, UNKNOWN];
    const ID: DocumentId = DocumentId::Host { host: HOST, epoch: 0 };

    fn trust() -> Trust {
        let member = |node: NodeId| Member {
            node,
            name: node.short(),
            role: Role::Member,
            added_by: HOST,
            added_at: 0,
            revoked: (node == FORMER).then_some(Revocation { by: HOST, at: 0, retired: false }),
            left: false,
        };
        let mut trust = Trust::new(Arc::new(Trusting));
        trust.learn(&[member(HOST), member(MEMBER), member(FORMER)]);
        trust
    }

    fn session(title: String) -> StoredSession {
        StoredSession {
            workspace_id: None,
            parent_id: None,
            project_id: None,
            directory: None,
            title: Some(title),
            created_at: 0,
            updated_at: 0,
            archived_at: None,
            agent: None,
            agent_server: None,
            extra: Extra::new(),
            deleted: None,
        }
    }

    /// Replicas of one document on which several authors have written and which have met now and then.
    fn replicas(random: &mut fastrand::Rng) -> (Document, Vec<Document>) {
        let actor =
            |node: &NodeId, start: usize| super::super::actor(node, StartId([start as u8; 8]));
        let (mut first, laid_out) = Document::create_host(HOST, 0, actor(&HOST, 9), 0);
        let last = &laid_out.changes[0];
        first.vouch(trust().vouch(&ID, last.actor, last.seq, last.hash));
        let mut all: Vec<Document> =
            AUTHORS.iter().enumerate().map(|(at, node)| first.fork(actor(node, at))).collect();
        for number in 0..random.usize(4..16) {
            let at = random.usize(..all.len());
            match random.u8(..5) {
                0 | 1 => {
                    let mut met = all[random.usize(..all.len())].automerge.clone();
                    met.merge(&mut all[at].automerge).unwrap();
                    all[at].automerge.merge(&mut met).unwrap();
                }
                2 => drop(all[at].build_on_all(0).unwrap()),
                _ => {
                    let id = format!("s{number}").parse().unwrap();
                    let record = session(format!("{number}"));
                    all[at].write(0, |tx| tx.create_session(&id, &record)).unwrap();
                }
            }
        }
        (first, all)
    }

    /// Returns which of these changes count: the most of which each has all that it builds on, and
    /// something built on it by one whose word counts, if its author's does not.
    fn model(changes: &[Change]) -> BTreeSet<ChangeHash> {
        let author = |change: &Change| {
            let actor = actor_in(change.actor_id());
            AUTHORS.into_iter().find(|node| node.fingerprint() == fingerprint(&actor)).unwrap()
        };
        let mut counts: BTreeSet<ChangeHash> = changes.iter().map(Change::hash).collect();
        loop {
            let kept = || changes.iter().filter(|change| counts.contains(&change.hash()));
            let under = |by: &dyn Fn(NodeId) -> bool| {
                let by_hash = kept().map(|change| (change.hash(), change)).collect();
                below(kept().filter(|change| by(author(change))).collect(), &by_hash)
            };
            let of_members = under(&|node| node == HOST || node == MEMBER);
            let stays = |change: &&Change| {
                change.deps().iter().all(|dep| counts.contains(dep))
                    && match author(change) {
                        FORMER | UNKNOWN => of_members.contains(&change.hash()),
                        _ => true,
                    }
            };
            let next: BTreeSet<ChangeHash> = kept().filter(stays).map(Change::hash).collect();
            if next.len() == counts.len() {
                return next;
            }
            counts = next;
        }
    }

    /// Returns the word for the last change of each actor; where it may be no more, only its place.
    fn words(changes: &[Change], random: &mut fastrand::Rng) -> Vec<Voucher> {
        let mut last: BTreeMap<ActorBytes, Voucher> = BTreeMap::new();
        for change in changes {
            let (actor, hash) = (actor_in(change.actor_id()), hash_in(&change.hash()));
            let standing = trust().standing(&actor);
            let voucher = match standing.is_former() && random.bool() {
                true => Voucher::marker(actor, change.seq(), hash),
                false => trust().vouch(&ID, actor, change.seq(), hash),
            };
            let known = last.entry(actor).or_insert(voucher);
            if known.seq < voucher.seq {
                *known = voucher;
            }
        }
        last.into_values().collect()
    }

    fn held(document: &Document) -> BTreeSet<ChangeHash> {
        document.automerge.get_changes(&[]).iter().map(Change::hash).collect()
    }

    #[test]
    fn what_counts_follows_from_what_there_is_whatever_came_first() {
        for seed in 0..100 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (first, mut all) = replicas(&mut random);
            let mut union = first.automerge.clone();
            all.iter_mut().for_each(|it| drop(union.merge(&mut it.automerge).unwrap()));
            let everything = union.get_changes(&[]);
            let expected = model(&everything);
            for coverage in [Coverage::Whole, Coverage::Gaps] {
                let mut reader = first.fork(super::super::actor(&NodeId([8; 32]), StartId([8; 8])));
                for turn in 0..24 {
                    let of_one = all[random.usize(..all.len())].automerge.get_changes(&[]);
                    let sent = if turn < 12 { of_one } else { everything.clone() };
                    let mut sent: Vec<Change> =
                        sent.into_iter().filter(|it| !held(&reader).contains(&it.hash())).collect();
                    let words = words(&sent, &mut random);
                    if coverage == Coverage::Gaps && turn < 18 {
                        sent.retain(|_| random.u8(..4) > 0);
                    }
                    reader.take_in(sent, &words, &trust(), coverage).unwrap();
                    let so_far = held(&reader);
                    assert!(so_far.is_subset(&expected), "seed {seed}");
                    assert!(!reader.has_loose_ends(&trust()), "seed {seed}: it can be passed on");
                }
                assert_eq!(held(&reader), expected, "seed {seed}");
            }
        }
    }

    #[test]
    fn a_whole_document_is_taken_if_all_of_it_counts_and_when_its_ends_are_built_on() {
        let (mut taken, mut built_on) = (0, 0);
        for seed in 0..60 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (_, all) = replicas(&mut random);
            for mut document in all {
                let changes = document.automerge.get_changes(&[]);
                let actor = || super::super::actor(&NodeId([8; 32]), StartId([8; 8]));
                let words = words(&changes, &mut random);
                let adopted =
                    Document::adopt(ID, actor(), &document.automerge.save(), &words, &trust());
                let all_counts = model(&changes).len() == changes.len();
                assert_eq!(adopted.is_ok(), all_counts, "seed {seed}: {adopted:?}");
                taken += u32::from(all_counts);
                words.iter().for_each(|word| document.vouch(*word));
                assert_eq!(document.has_loose_ends(&trust()), !all_counts, "seed {seed}");
                if all_counts {
                    continue;
                }
                built_on += 1;
                let mut by_host = document.fork(super::super::actor(&HOST, StartId([7; 8])));
                let applied = by_host.build_on_all(0).unwrap();
                assert_eq!(applied.changes.len(), 1);
                let changes = by_host.automerge.get_changes(&[]);
                let words = self::words(&changes, &mut random);
                let adopted =
                    Document::adopt(ID, actor(), &by_host.automerge.save(), &words, &trust());
                assert_eq!(adopted.unwrap().heads(), by_host.heads(), "seed {seed}");
            }
        }
        assert!(taken > 30 && built_on > 30, "{taken} taken, {built_on} built on");
    }

    #[test]
    fn what_was_gained_with_empty_changes_in_it_comes_in_an_order_in_which_it_can_be_applied() {
        for seed in 0..30 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (first, mut all) = replicas(&mut random);
            let mut union = first.fork(super::super::actor(&HOST, StartId([7; 8])));
            all.iter_mut().for_each(|it| drop(union.automerge.merge(&mut it.automerge).unwrap()));
            let gained = union.newest(|hash| held(&first).contains(hash), usize::MAX).unwrap();
            let mut here = held(&first);
            for change in gained {
                assert!(change.deps().iter().all(|dep| here.contains(dep)), "seed {seed}");
                here.insert(change.hash());
            }
            assert_eq!(here, held(&union));
        }
    }
}
