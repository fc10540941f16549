//! Owns judging who wrote what a peer sent, and letting it into the document.
//!
//! Must not know what a change says. Invariants: of each actor whose changes are here, the last one
//! is vouched for, so that all of the document can be passed on to anyone; a change is let in only
//! right behind the one that its actor made before, and with the counters that automerge gave it.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{Change, ChangeHash};

use super::{
    super::{
        guard,
        ids::{self, ActorBytes},
        trust::{Standing, Trust},
        voucher::Voucher,
    },
    Applied, ApplyError, Document, LeftOut, Place, Touched, Untrusted, actor_in, apply_all,
    authority, branches, hash_in,
    orphans::ORPHANS_MAX,
    saved::Saved,
};

/// What a peer promises of what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// The last change of each actor is vouched for.
    Whole,
    /// As `Whole`, but what automerge's sync protocol picked may have gaps.
    Gaps,
}

/// Which records changes touch, by their names.
type TouchedBy = BTreeMap<ChangeHash, BTreeSet<Touched>>;

/// What is to become of changes that could be applied.
#[derive(Debug, Default)]
struct Verdict {
    /// Must never be applied, whatever is learnt.
    refused: BTreeSet<ChangeHash>,
    /// Does not count, as far as is known here, and may once more is.
    not_now: BTreeSet<ChangeHash>,
    /// What the others touch.
    touched: TouchedBy,
}

/// What there is in the document of a member that may only read.
pub(super) fn is_of_reader(touched: &Touched) -> bool {
    matches!(touched, Touched::Meta | Touched::Description)
}

impl Document {
    /// Returns the voucher for each actor's last change.
    pub fn vouchers(&self) -> impl Iterator<Item = &Voucher> {
        self.vouchers.newest.values()
    }

    /// Takes a voucher for the last change of an actor.
    pub fn vouch(&mut self, voucher: Voucher) {
        self.vouchers.newest.insert(voucher.actor, voucher);
    }

    /// Returns the vouchers for the actors of these changes.
    pub fn vouchers_for(&self, changes: &[Change]) -> Vec<Voucher> {
        let actors: BTreeSet<_> =
            changes.iter().map(|change| actor_in(change.actor_id())).collect();
        actors.iter().filter_map(|actor| self.vouchers.newest.get(actor).copied()).collect()
    }

    /// Returns the greatest counter of what a change depends on.
    pub(super) fn max_op(&self, change: &Change, batch: &BTreeMap<ChangeHash, u64>) -> u64 {
        let before = change.deps().iter().filter_map(|dep| {
            let here = || self.automerge.get_change_meta_by_hash(dep).map(|meta| meta.max_op);
            batch.get(dep).copied().or_else(here)
        });
        before.max().unwrap_or(0)
    }

    /// Applies what a peer sent, as far as its authors stand for it and what it depends on is here;
    /// the rest waits, or is left out.
    pub(super) fn take_in(
        &mut self,
        mut changes: Vec<Change>,
        vouchers: &[Voucher],
        trust: &Trust,
        coverage: Coverage,
    ) -> Result<Applied, ApplyError> {
        let document = self.id;
        let untrusted = |source| ApplyError::Untrusted { document, source };
        let mut left_out = LeftOut::default();
        changes.retain(|change| !self.has(&hash_in(&change.hash())));
        let (reached, checked) =
            self.reached(&changes, vouchers, trust, coverage, &mut left_out).map_err(untrusted)?;
        let counted = self.counted(&changes, &reached, trust, &mut left_out);
        let words = self.words_for_counted(&changes, &counted, vouchers, trust);
        let is_taken = |hash: &ChangeHash| reached.contains(hash) || counted.contains(hash);
        changes.retain(|change| is_taken(&change.hash()));
        left_out.based_on_refused += self.refused.drop_based_on(&mut changes);
        // Most changes build on the heads; to look any other up, automerge reads all that it knows of
        // it.
        let heads = self.automerge.get_heads();
        let has = |hash: &ChangeHash| {
            heads.contains(hash) || self.automerge.get_change_meta_by_hash(hash).is_some()
        };
        let admitted = self.orphans.admit(changes, has);
        self.vouchers.pending.extend(
            checked.into_iter().chain(words).map(|voucher| ((voucher.actor, voucher.seq), voucher)),
        );
        let Ok(ready) = admitted else {
            self.vouchers.pending.clear();
            return Err(ApplyError::TooManyOrphans { document });
        };
        let judged = guard::contained(|| {
            let judged = self.judge(&ready, &counted, trust, &mut left_out);
            let out = judged.refused.union(&judged.not_now).copied().collect();
            let crowded = branches::crowded(&self.automerge, &ready, &out);
            (judged, crowded)
        });
        let (judged, crowded) = judged.map_err(ApplyError::panicked(document))?;
        let Verdict { mut refused, not_now, touched } = judged;
        // What is only too much at once comes again, and so does what may count once more is known.
        self.refused.extend(refused.iter().copied());
        refused.extend(not_now);
        left_out.crowded.extend(crowded.values().filter_map(|author| trust.node(author)));
        refused.extend(crowded.into_keys());
        let ready = self.complete(ready, refused, &counted);
        let applied = self.apply_ready(&ready, touched, &counted)?;
        Ok(Applied { left_out, ..applied })
    }

    /// Applies those changes that have waited in another copy of this document and need not wait here.
    ///
    /// # Errors
    ///
    /// Only [`ApplyError::Broken`]: what can't be applied is dropped, and comes again with the repair.
    pub(super) fn take_waiting(
        &mut self,
        waiting: Vec<Change>,
        trust: &Trust,
    ) -> Result<Applied, ApplyError> {
        let words: Vec<Voucher> = self.vouchers.pending.values().copied().collect();
        match self.take_in(waiting, &words, trust, Coverage::Gaps) {
            Err(error) if !matches!(error, ApplyError::Broken { .. }) => {
                tracing::debug!(document = %self.id, %error, "dropped what had waited");
                self.orphans.clear();
                self.vouchers.pending.clear();
                Ok(Applied::default())
            }
            taken => taken,
        }
    }

    /// Returns the change of an actor that waits at a place.
    fn waiting(&self, actor: &ActorBytes, seq: u64) -> Option<&Change> {
        self.orphans
            .iter()
            .find(|change| change.seq() == seq && actor_in(change.actor_id()) == *actor)
    }

    /// Lists what the sync protocol is to ask for by name: what is missing, and not what waits for it.
    pub(super) fn needs(&self, heads: &[ChangeHash]) -> Vec<ChangeHash> {
        let waits: BTreeSet<_> = self.orphans.iter().map(Change::hash).collect();
        let missing: BTreeSet<_> = heads
            .iter()
            .chain(self.orphans.missing())
            .copied()
            .filter(|hash| !waits.contains(hash))
            .collect();
        missing.into_iter().collect()
    }

    /// Finds which changes a voucher reaches, and checks the vouchers; one for each actor.
    fn reached(
        &self,
        changes: &[Change],
        vouchers: &[Voucher],
        trust: &Trust,
        coverage: Coverage,
        left_out: &mut LeftOut,
    ) -> Result<(BTreeSet<ChangeHash>, Vec<Voucher>), Untrusted> {
        let mut by_actor: BTreeMap<ActorBytes, BTreeMap<u64, &Change>> = BTreeMap::new();
        for change in changes {
            let of_actor = by_actor.entry(actor_in(change.actor_id())).or_default();
            let other = of_actor.insert(change.seq(), change);
            if other.is_some_and(|other| other.hash() != change.hash()) {
                return Err(Untrusted::Unlinked { by: None });
            }
        }
        let mut given: BTreeMap<ActorBytes, Vec<&Voucher>> = BTreeMap::new();
        for voucher in vouchers {
            given.entry(voucher.actor).or_default().push(voucher);
        }
        let (mut reached, mut checked) = (BTreeSet::new(), Vec::new());
        for (actor, of_actor) in by_actor {
            let Some((&seq, _)) = of_actor.last_key_value() else { continue };
            let count = of_actor.len() as u64;
            let by = match trust.standing(&actor) {
                // Their own word is not asked for.
                Standing::Former(_) | Standing::Unknown => continue,
                Standing::Reader(node) if self.id.host() == Some(node) => node,
                Standing::Reader(_) => {
                    left_out.reader += count;
                    continue;
                }
                Standing::Writer(_) if trust.is_readers(&self.id) => {
                    left_out.reader += count;
                    continue;
                }
                Standing::Writer(node) => node,
            };
            let of_this = given.get(&actor).into_iter().flatten().copied();
            let names = |voucher: &&Voucher| {
                let change = of_actor.get(&voucher.seq);
                change.is_some_and(|change| hash_in(&change.hash()) == voucher.hash)
            };
            let mut words: BTreeMap<u64, &Voucher> = BTreeMap::new();
            let mut is_marked = false;
            // Each is checked, which takes long, but for those that the last one covers anyway.
            let counts = |voucher: &&Voucher| coverage == Coverage::Gaps || voucher.seq == seq;
            for voucher in of_this.filter(names).filter(counts) {
                if voucher.is_marker() {
                    // The peer knows its author as a former member, as this node soon will.
                    is_marked = true;
                    continue;
                }
                if !self.vouchers.is_known(voucher) && !trust.is_by(voucher, &self.id, &by) {
                    return Err(Untrusted::Forged);
                }
                words.insert(voucher.seq, voucher);
            }
            if is_marked && !words.contains_key(&seq) {
                left_out.unvouched += count;
                continue;
            }
            if coverage == Coverage::Whole && !words.contains_key(&seq) {
                return Err(Untrusted::Unvouched);
            }
            let waiting = |seq: u64| match coverage {
                Coverage::Whole => None,
                Coverage::Gaps => self.waiting(&actor, seq),
            };
            let here = follow(&of_actor, &words, waiting);
            if (here.len() as u64) < count {
                if coverage == Coverage::Whole {
                    return Err(Untrusted::Unlinked { by: None });
                }
                left_out.unvouched += count - here.len() as u64;
            }
            checked.extend(words.into_values().copied());
            reached.extend(here);
        }
        Ok((reached, checked))
    }

    /// Judges changes that can be applied one after the other.
    fn judge(
        &self,
        ready: &[Change],
        counted: &BTreeSet<ChangeHash>,
        trust: &Trust,
        left_out: &mut LeftOut,
    ) -> Verdict {
        let Verdict { mut refused, mut not_now, mut touched } = Verdict::default();
        let mut judge = authority::Judge::new(self);
        let mut last: BTreeMap<ActorBytes, (u64, Option<ChangeHash>)> = BTreeMap::new();
        let mut max_ops: BTreeMap<ChangeHash, u64> = BTreeMap::new();
        for change in ready {
            let actor = actor_in(change.actor_id());
            if change.deps().iter().any(|dep| refused.contains(dep)) {
                left_out.based_on_refused += 1;
                refused.insert(change.hash());
                continue;
            }
            if change.deps().iter().any(|dep| not_now.contains(dep)) {
                not_now.insert(change.hash());
                continue;
            }
            let (seq, hash) = *last.entry(actor).or_insert_with(|| {
                let newest = self.vouchers.newest.get(&actor);
                newest.map_or((0, None), |v| (v.seq, Some(super::hash_out(&v.hash))))
            });
            let may_stand = match trust.standing(&actor) {
                Standing::Reader(node) => self.id.host() == Some(node),
                _ if trust.is_readers(&self.id) => false,
                Standing::Writer(_) => true,
                Standing::Former(_) | Standing::Unknown => counted.contains(&change.hash()),
            };
            if !may_stand {
                // Its author may no longer write, and has waited since it could.
                left_out.revoked += 1;
                not_now.insert(change.hash());
                continue;
            }
            if change.seq() <= seq {
                // Its author has signed both; the sender may not know.
                let place = Place { actor, seq: change.seq() };
                if let Some(author) = trust.node(&ids::fingerprint(&actor)) {
                    left_out.forked.entry(author).or_insert(place);
                }
                refused.insert(change.hash());
                continue;
            }
            let is_next =
                change.seq() == seq + 1 && hash.is_none_or(|hash| change.deps().contains(&hash));
            let by = || trust.node(&ids::fingerprint(&actor));
            let wrong = if !is_next {
                Some(Untrusted::Unlinked { by: by() })
            } else if change.start_op().get() != self.max_op(change, &max_ops) + 1 {
                Some(Untrusted::Counter { by: by() })
            } else {
                let judged = judge.check(&change.decode());
                match judged {
                    // Whoever passes it on may know its author as more than a reader.
                    Ok(touches)
                        if trust.is_readers(&self.id) && !touches.iter().all(is_of_reader) =>
                    {
                        left_out.reader += 1;
                        not_now.insert(change.hash());
                        continue;
                    }
                    Ok(touches) => {
                        touched.insert(change.hash(), touches);
                        None
                    }
                    Err(did) => Some(Untrusted::Overreach { by: by(), did }),
                }
            };
            match wrong {
                Some(wrong) => {
                    left_out.refused.entry(by()).or_insert(wrong);
                    refused.insert(change.hash());
                }
                None => {
                    last.insert(actor, (change.seq(), Some(change.hash())));
                    max_ops.insert(change.hash(), change.max_op());
                }
            }
        }
        Verdict { refused, not_now, touched }
    }

    /// Returns those of the changes after which the last of each actor is vouched for; has the
    /// others wait, but for what depends on refused ones.
    fn complete(
        &mut self,
        ready: Vec<Change>,
        mut refused: BTreeSet<ChangeHash>,
        counted: &BTreeSet<ChangeHash>,
    ) -> Vec<Change> {
        let mut held = BTreeSet::new();
        loop {
            let before = (refused.len(), held.len());
            let mut vouched: BTreeSet<ActorBytes> = BTreeSet::new();
            for change in &ready {
                if change.deps().iter().any(|dep| refused.contains(dep)) {
                    refused.insert(change.hash());
                } else if change.deps().iter().any(|dep| held.contains(dep)) {
                    held.insert(change.hash());
                }
            }
            let mut built_on: BTreeSet<ChangeHash> = BTreeSet::new();
            let mut held_on: BTreeSet<ChangeHash> = BTreeSet::new();
            for change in ready.iter().rev() {
                let hash = change.hash();
                if held.contains(&hash) {
                    held_on.extend(change.deps());
                    continue;
                }
                if refused.contains(&hash) {
                    continue;
                }
                let actor = actor_in(change.actor_id());
                if counted.contains(&hash) {
                    // It counts only with what was built on it, and waits if that does.
                    if !built_on.contains(&hash) {
                        if held_on.contains(&hash) {
                            held_on.extend(change.deps());
                            held.insert(hash);
                        } else {
                            refused.insert(hash);
                        }
                        continue;
                    }
                } else if !vouched.contains(&actor) {
                    if self.vouchers.reaches(change) {
                        vouched.insert(actor);
                    } else {
                        held_on.extend(change.deps());
                        held.insert(hash);
                        continue;
                    }
                }
                built_on.extend(change.deps());
            }
            if before == (refused.len(), held.len()) {
                break;
            }
        }
        let is_out =
            |change: &Change| refused.contains(&change.hash()) || held.contains(&change.hash());
        let (out, ready): (Vec<_>, Vec<_>) = ready.into_iter().partition(is_out);
        self.orphans.hold(out.into_iter().filter(|change| !refused.contains(&change.hash())));
        ready
    }

    fn apply_ready(
        &mut self,
        ready: &[Change],
        mut touched: TouchedBy,
        counted: &BTreeSet<ChangeHash>,
    ) -> Result<Applied, ApplyError> {
        let document = self.id;
        if !ready.is_empty() {
            self.saved = Saved::default();
        }
        let automerge = &mut self.automerge;
        let before = automerge.get_heads();
        let applied = guard::contained(|| apply_all(automerge, ready))
            .map_err(ApplyError::broken(document))?;
        match applied {
            Ok(()) => {}
            Err(error) if self.automerge.get_heads() == before => {
                return Err(ApplyError::Unreadable { document, reason: error.to_string() });
            }
            // Some of it is in, and nobody was told.
            Err(error) => {
                return Err(ApplyError::Broken { document, message: error.to_string() });
            }
        }
        let mut vouchers = BTreeMap::new();
        for change in ready {
            let key = (actor_in(change.actor_id()), change.seq());
            let hash = change.hash();
            let marker = || Voucher::marker(key.0, key.1, hash_in(&hash));
            let word = self.vouchers.pending.remove(&key);
            if let Some(voucher) = word.or_else(|| counted.contains(&hash).then(marker)) {
                vouchers.insert(key.0, voucher);
                self.vouchers.newest.insert(key.0, voucher);
            }
        }
        let crowded = self.vouchers.pending.len() > 2 * ORPHANS_MAX;
        if crowded {
            self.orphans.clear();
        }
        if self.orphans.is_empty() {
            self.vouchers.pending.clear();
        }
        let touched = ready.iter().filter_map(|change| touched.remove(&change.hash()));
        let mut applied = self.describe(ready, touched.flatten().collect());
        applied.vouchers = vouchers.into_values().collect();
        Ok(applied)
    }
}

/// Follows an actor's changes back from those that are vouched for, by themselves or since one that
/// waits names them, for as long as each names the one before it.
fn follow<'a>(
    of_actor: &BTreeMap<u64, &'a Change>,
    words: &BTreeMap<u64, &Voucher>,
    waiting: impl Fn(u64) -> Option<&'a Change>,
) -> BTreeSet<ChangeHash> {
    let mut reached = BTreeSet::new();
    for (seq, change) in of_actor.iter().rev() {
        let names = |next: &Change| next.deps().contains(&change.hash());
        let next = of_actor.get(&(seq + 1)).filter(|next| reached.contains(&next.hash()));
        let is_reached = words.contains_key(seq)
            || next.is_some_and(|next| names(next))
            || waiting(seq + 1).is_some_and(names);
        if is_reached {
            reached.insert(change.hash());
        }
    }
    reached
}
