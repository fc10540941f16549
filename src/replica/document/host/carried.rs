//! Owns how much of its earlier epochs a host document holds: `meta.carried`.
//!
//! Must not know how it came in. Invariants: only what the host itself has written there counts, or
//! a peer could make others forget what was never carried over; it only ever grows.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{
    ActorId, Automerge, Change, ObjId, ReadDoc,
    transaction::{Transactable, Transaction},
};

use super::{
    super::{
        super::ids::{
            ActorBytes, ChangeHash, DocumentId, Fingerprint, NodeId, WorkspaceId, fingerprint,
        },
        Touched, Vouchers, actor_in, touched,
    },
    Document, Done, is_by, map_at, maps_at,
    tree::map_or_new,
};

/// Where in `meta` it stands.
pub const CARRIED: &str = "carried";
/// How many changes of each actor, counted from its first.
const SEQS: &str = "seqs";
/// The heads up to which it was, each time: whoever stands there has nothing more.
const HEADS: &str = "heads";

/// How many changes are looked up one by one to part an epoch again; of more, all are read at once.
const REST_MAX: usize = 4_096;

/// How many changes of each actor there are.
pub type Vector = BTreeMap<ActorId, u64>;

/// How much of one earlier epoch is held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Epoch {
    pub(super) seqs: Vector,
    pub(super) heads: BTreeSet<ChangeHash>,
}

/// An earlier epoch, parted by how much of it is held.
#[derive(Debug, Clone)]
pub struct Part {
    /// As it was when it was last taken over.
    pub before: Document,
    /// The records that were written to since.
    pub touched: BTreeSet<Touched>,
    /// By whom.
    pub authors: BTreeSet<Fingerprint>,
    /// The document that it was parted by, and how much of it that one held.
    by: (DocumentId, Epoch),
    /// How far it was read.
    read: Vector,
}

impl Part {
    /// Notes what was written since it was last taken over.
    fn note(&mut self, earlier: &Document, since: &[Change]) {
        let expanded: Vec<_> = since.iter().map(Change::decode).collect();
        self.touched.extend(touched::by(&earlier.automerge, &expanded));
        let authors = since.iter().map(|change| fingerprint(&actor_in(change.actor_id())));
        self.authors.extend(authors);
    }
}

impl Epoch {
    fn has(&self, change: &Change) -> bool {
        self.seqs.get(change.actor_id()).is_some_and(|seq| *seq >= change.seq())
    }

    fn covers(&self, vector: &Vector) -> bool {
        vector.iter().all(|(actor, seq)| self.seqs.get(actor).is_some_and(|held| held >= seq))
    }
}

impl Document {
    /// Tells how many changes of each actor the document is made of.
    pub fn vector(&self) -> Vector {
        let mut vector = Vector::new();
        for change in self.automerge.get_changes_meta(&[]) {
            let seq = vector.entry(change.actor.into_owned()).or_default();
            *seq = change.seq.max(*seq);
        }
        vector.extend(self.counted_as.clone());
        vector
    }

    /// Returns a copy that claims to have only so many changes of an actor that has forked.
    #[must_use]
    pub fn counted_as(&self, actor: &ActorBytes, seq: u64) -> Self {
        let counted_as = Some((ActorId::from(&actor[..]), seq));
        Self { counted_as, ..self.clone() }
    }

    /// Tells whether an earlier epoch is one of those that this document goes on from.
    pub fn follows(&self, epoch: u32) -> bool {
        epoch_map(&self.automerge, self.host(), epoch).is_some()
    }

    /// Tells whether all of an earlier epoch's document has been taken over into this one.
    pub fn covers(&self, earlier: &Self) -> bool {
        let DocumentId::Host { epoch, .. } = earlier.id else { return false };
        self.carried(epoch).is_some_and(|held| held.covers(&earlier.vector()))
    }

    /// Tells whether these were heads of an earlier epoch when it was last taken over.
    pub fn covers_heads(&self, epoch: u32, heads: &[ChangeHash]) -> bool {
        let held = self.carried(epoch);
        held.is_some_and(|held| heads.iter().all(|head| held.heads.contains(head)))
    }

    /// Tells whether a change of an earlier epoch has been taken over.
    pub fn covers_change(&self, epoch: u32, actor: &[u8], seq: u64) -> bool {
        let held =
            self.carried(epoch).and_then(|held| held.seqs.get(&ActorId::from(actor)).copied());
        held.is_some_and(|held| held >= seq)
    }

    /// Parts an earlier epoch: how it was when it was last taken over into this document, and which
    /// records it has touched since. `None` if it does not begin as that one did.
    ///
    /// One from which this document does not go on was begun by its host in a life that it does not
    /// know of any more, since an old copy of its store was put in place: all of it counts.
    pub fn part_carried(&self, earlier: &Self) -> Option<Part> {
        let DocumentId::Host { epoch, .. } = earlier.id else { return None };
        let Some(held) = self.carried(epoch) else { return self.part_unknown(earlier) };
        let read = earlier.vector();
        if held.covers(&read) {
            let (touched, authors) = Default::default();
            let (before, by) = (earlier.clone(), (self.id, held));
            return Some(Part { before, touched, authors, by, read });
        }
        let changes = earlier.automerge.get_changes(&[]);
        let (carried, since): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| held.has(change));
        let mut automerge = Automerge::new();
        automerge.apply_changes(carried).ok()?;
        let before = Self::place(earlier.id, automerge, Vouchers::default())?;
        let (touched, authors) = Default::default();
        let mut part = Part { before, touched, authors, by: (self.id, held), read };
        part.note(earlier, &since);
        Some(part)
    }

    /// Parts an earlier epoch as [`Self::part_carried`] does, from how it was parted before: takes as
    /// long as what it has gained since, and what was not held then. `None` if it was parted by
    /// another document.
    pub fn part_again(&self, earlier: &Self, part: Part) -> Option<Part> {
        let DocumentId::Host { epoch, .. } = earlier.id else { return None };
        let (by, before) = &part.by;
        if *by != self.id || part.before.id != earlier.id {
            return None;
        }
        let held = self.carried(epoch)?;
        if held == *before {
            self.part_gained(earlier, part)
        } else if held.covers(&before.seqs) {
            self.part_held(earlier, part, held)
        } else {
            None
        }
    }

    /// Parts it again, now that more of it is held.
    fn part_held(&self, earlier: &Self, mut part: Part, held: Epoch) -> Option<Part> {
        let is_before = |hash: &automerge::ChangeHash| {
            part.before.automerge.get_change_meta_by_hash(hash).is_some()
        };
        let rest = earlier.newest(is_before, REST_MAX)?;
        for change in &rest {
            let seq = part.read.entry(change.actor_id().clone()).or_default();
            *seq = change.seq().max(*seq);
        }
        let (carried, since): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|change| held.has(change));
        part.before.automerge.apply_changes(carried).ok()?;
        (part.touched, part.authors) = Default::default();
        part.note(earlier, &since);
        part.by = (self.id, held);
        Some(part)
    }

    /// Parts it again, now that it has gained more.
    fn part_gained(&self, earlier: &Self, mut part: Part) -> Option<Part> {
        let (_, held) = &part.by;
        let is_read = |hash: &automerge::ChangeHash| {
            let meta = earlier.automerge.get_change_meta_by_hash(hash);
            meta.is_none_or(|meta| part.read.get(&*meta.actor).is_some_and(|seq| *seq >= meta.seq))
        };
        let gained = earlier.newest(is_read, usize::MAX)?;
        for change in &gained {
            let seq = part.read.entry(change.actor_id().clone()).or_default();
            *seq = change.seq().max(*seq);
        }
        let (carried, since): (Vec<_>, Vec<_>) =
            gained.into_iter().partition(|change| held.has(change));
        part.before.automerge.apply_changes(carried).ok()?;
        part.note(earlier, &since);
        Some(part)
    }

    fn part_unknown(&self, earlier: &Self) -> Option<Part> {
        let begun = earlier.automerge.get_changes(&[]).into_iter().next()?;
        let mut automerge = Automerge::new();
        automerge.apply_changes([begun]).ok()?;
        let before = Self::place(earlier.id, automerge, Vouchers::default())?;
        let sessions = earlier.session_ids().into_iter();
        let mut touched: BTreeSet<Touched> = sessions.map(Touched::Session).collect();
        touched.extend(earlier.workspace_ids().into_iter().map(Touched::Workspace));
        touched.extend(earlier.kept_ids(usize::MAX).into_iter().map(Touched::Trash));
        // An id that is spent there may be known by its hash alone.
        let sessions = self.session_ids().into_iter().filter(|id| earlier.is_session_spent(id));
        touched.extend(sessions.map(Touched::Session));
        let spent = |id: &WorkspaceId| earlier.is_workspace_spent(id);
        let workspaces = self.workspace_ids().into_iter().filter(spent);
        touched.extend(workspaces.map(Touched::Workspace));
        let read = earlier.vector();
        let authors = read.keys().map(|actor| fingerprint(&actor_in(actor))).collect();
        Some(Part { before, touched, authors, by: (self.id, Epoch::default()), read })
    }

    pub(super) fn host(&self) -> &NodeId {
        match &self.id {
            DocumentId::Host { host, .. } => host,
            DocumentId::Fleet(_) => unreachable!("the fleet document has no host"),
        }
    }

    fn carried(&self, epoch: u32) -> Option<Epoch> {
        let map = epoch_map(&self.automerge, self.host(), epoch)?;
        Some(read(&self.automerge, &map, self.host()))
    }

    /// Lists the earlier epochs that this document goes on from, and how much of each it holds.
    pub(super) fn all_carried(&self) -> BTreeMap<u32, Epoch> {
        let map = carried_map(&self.automerge, self.host());
        let epochs = map.into_iter().flat_map(|map| self.automerge.keys(&map).collect::<Vec<_>>());
        let epochs = epochs.filter_map(|epoch| epoch.parse().ok());
        epochs.filter_map(|epoch| Some((epoch, self.carried(epoch)?))).collect()
    }
}

fn meta(automerge: &impl ReadDoc) -> Option<ObjId> {
    map_at(automerge, &automerge::ROOT, "meta")
}

/// Returns the map at a key that the host has made, whatever others have put beside it.
fn own_map(automerge: &Automerge, object: &ObjId, key: &str, host: &NodeId) -> Option<ObjId> {
    maps_at(automerge, object, key).into_iter().rfind(|map| is_by(map, host))
}

fn carried_map(automerge: &Automerge, host: &NodeId) -> Option<ObjId> {
    own_map(automerge, &meta(automerge)?, CARRIED, host)
}

fn epoch_map(automerge: &Automerge, host: &NodeId, epoch: u32) -> Option<ObjId> {
    own_map(automerge, &carried_map(automerge, host)?, &epoch.to_string(), host)
}

fn read(automerge: &Automerge, map: &ObjId, host: &NodeId) -> Epoch {
    let mut epoch = Epoch::default();
    if let Some(seqs) = own_map(automerge, map, SEQS, host) {
        for actor in automerge.keys(&seqs) {
            let all = automerge.get_all(&seqs, &actor).unwrap_or_default();
            let told = all.iter().filter(|(_, id)| is_by(id, host));
            let seq = told.filter_map(|(value, _)| value.as_i64()).max();
            let (Some(seq), Ok(actor)) = (seq, ActorId::try_from(actor.as_str())) else { continue };
            epoch.seqs.insert(actor, u64::try_from(seq).unwrap_or(0));
        }
    }
    if let Some(heads) = own_map(automerge, map, HEADS, host) {
        for head in automerge.keys(&heads) {
            let all = automerge.get_all(&heads, &head).unwrap_or_default();
            if all.iter().any(|(_, id)| is_by(id, host)) {
                epoch.heads.extend(head.parse::<ChangeHash>());
            }
        }
    }
    epoch
}

/// Writes that an earlier epoch is held up to there.
pub(super) fn write(tx: &mut Transaction<'_>, epoch: u32, held: &Epoch) -> Done {
    let Some(meta) = meta(tx) else { return Ok(()) };
    let carried = map_or_new(tx, &meta, CARRIED)?;
    let map = map_or_new(tx, &carried, &epoch.to_string())?;
    let seqs = map_or_new(tx, &map, SEQS)?;
    for (actor, seq) in &held.seqs {
        let seq = i64::try_from(*seq).unwrap_or(i64::MAX);
        // A store that an old copy was put in place of has less than was once taken over.
        if super::int_at(tx, &seqs, &actor.to_hex_string()).is_none_or(|held| held < seq) {
            tx.put(&seqs, actor.to_hex_string(), seq)?;
        }
    }
    let at = map_or_new(tx, &map, HEADS)?;
    for head in held.heads.iter().map(ToString::to_string) {
        if tx.get(&at, &head)?.is_none() {
            tx.put(&at, head, true)?;
        }
    }
    Ok(())
}
