//! Owns documents: the only place that knows automerge's paths, reads them and writes them.
//!
//! Must not know the view, nor peers. Invariants: only changes whose dependencies are all here are
//! handed to automerge, so that what was applied is exactly what is reported; every write of this
//! node is made under an actor that no other start of it has used.

mod authority;
mod branches;
mod foreign;
mod former;
mod history;
mod host;
mod intake;
mod left_out;
mod merged;
mod message;
mod orphans;
mod own;
mod rewriting;
mod salvage;
mod saved;
mod touched;
mod untrusted;
mod vouchers;
mod whole;

use std::collections::BTreeSet;

pub use authority::Overreach;
use automerge::{
    ActorId, Automerge, AutomergeError, Change, ExpandedChange, transaction::CommitOptions,
};
pub use branches::BRANCHES_MAX;
pub use foreign::{Foreign, Judged};
pub use history::{History, Outcome, Step as HistoryStep, Wrote};
pub use host::{
    CLEARED_MAX, Done as Written, Kept, Limits, Part, Records, Scope, SessionFields, Sketch,
    Vector, Writer as HostWriter,
};
pub use intake::Coverage;
pub use left_out::{LeftOut, Place};
pub use merged::Merged;
pub use message::Message;
pub use own::NotWritten;
pub use rewriting::{NotRewritten, Rewrite, Rewritten};
pub use salvage::Salvaged;
pub use touched::Touched;
pub use untrusted::Untrusted;

use self::{left_out::Refused, orphans::Orphans, saved::Saved, vouchers::Vouchers};
use super::{
    guard,
    ids::{self, ActorBytes, ChangeHash, DocumentId, Fingerprint, NodeId, StartId},
    trust::Trust,
    voucher::Voucher,
};

/// How many changes are applied at once: few.
///
/// Applying hundreds in one batch to a large, freshly loaded automerge 0.12 document copies a
/// column again for each operation.
const FEW_CHANGES: usize = 64;
/// How many changes are applied at once where there are thousands.
///
/// However few they are, applying some takes the longer the more the document holds: 50,000 changes
/// take ten times as long by 64 as by thousands.
const MANY_CHANGES: usize = 4_096;

/// Applies changes that are in an order in which they can be.
fn apply_all(automerge: &mut Automerge, changes: &[Change]) -> Result<(), AutomergeError> {
    let at_once = if changes.len() < MANY_CHANGES { FEW_CHANGES } else { MANY_CHANGES };
    let mut batches = changes.chunks(at_once);
    batches.try_for_each(|batch| automerge.apply_changes(batch.iter().cloned()))
}

/// Reads what the store has of a document: a snapshot, and the changes since in their order.
fn read_stored(
    id: DocumentId,
    snapshot: Option<&[u8]>,
    changes: &[Vec<u8>],
) -> Result<Automerge, ApplyError> {
    let unreadable = |reason: String| ApplyError::Unreadable { document: id, reason };
    let mut automerge = match snapshot {
        Some(bytes) => Automerge::load(bytes).map_err(|e| unreadable(e.to_string()))?,
        None => Automerge::new(),
    };
    let changes = changes.iter().map(|bytes| sound_change(bytes));
    let changes = changes.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    apply_all(&mut automerge, &changes).map_err(|e| unreadable(e.to_string()))?;
    Ok(automerge)
}

/// Explains why bytes did not become part of a document.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The guard turned the bytes down.
    #[error("document {document}: {source}")]
    Refused {
        /// Which document they were for.
        document: DocumentId,
        /// What is wrong with them.
        source: guard::Refused,
    },
    /// Automerge can't read or apply them.
    #[error("document {document}: automerge: {reason}")]
    Unreadable {
        /// Which document they were for.
        document: DocumentId,
        /// What automerge says.
        reason: String,
    },
    /// Automerge panicked on them, before it touched the document.
    #[error("document {document}: automerge panicked on what a peer sent")]
    Panicked {
        /// Which document they were for.
        document: DocumentId,
        /// What the panic said.
        message: String,
    },
    /// Automerge panicked, or stopped half way, while it changed the document: what is in memory
    /// can't be trusted any more.
    #[error("document {document}: automerge panicked while it took in what a peer sent")]
    Broken {
        /// Which document they were for.
        document: DocumentId,
        /// What the panic, or the error, said.
        message: String,
    },
    /// More changes wait for what they depend on than may.
    #[error("document {document}: too many changes wait for others")]
    TooManyOrphans {
        /// Which document they were for.
        document: DocumentId,
    },
    /// What they hold is not its authors' work.
    #[error("document {document}: {source}")]
    Untrusted {
        /// Which document they were for.
        document: DocumentId,
        /// What is wrong with them.
        source: Untrusted,
    },
    /// A whole document holds changes of authors that are not known here, or not yet.
    #[error("document {document}: holds changes of nodes that are not known here as members")]
    NotYet {
        /// Which document it is.
        document: DocumentId,
    },
    /// The bytes are another document than they were said to be.
    #[error("document {document}: the bytes are those of another document")]
    Misnamed {
        /// What they were said to be.
        document: DocumentId,
    },
}

impl ApplyError {
    /// Returns the error's name for logs and metrics; it never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { source, .. } => source.code(),
            Self::Unreadable { .. } => "unreadable",
            Self::Panicked { .. } => "panicked",
            Self::Broken { .. } => "broken",
            Self::TooManyOrphans { .. } => "too_many_orphans",
            Self::Untrusted { source, .. } => source.code(),
            Self::NotYet { .. } => "not_yet",
            Self::Misnamed { .. } => "misnamed",
        }
    }

    /// Says that automerge panicked before it touched a document.
    fn panicked(document: DocumentId) -> impl Fn(guard::Panicked) -> Self {
        move |guard::Panicked { message }| Self::Panicked { document, message }
    }

    /// Says that automerge panicked while it changed a document.
    fn broken(document: DocumentId) -> impl Fn(guard::Panicked) -> Self {
        move |guard::Panicked { message }| Self::Broken { document, message }
    }
}

/// A change that has become part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedChange {
    /// As automerge encodes it.
    pub bytes: Vec<u8>,
    /// Its name.
    pub hash: ChangeHash,
    /// Under which it was written.
    pub actor: ActorBytes,
    /// The how-manieth change of its actor it is.
    pub seq: u64,
}

impl AppliedChange {
    /// Returns the fingerprint of the node that wrote it.
    pub fn author(&self) -> Fingerprint {
        ids::fingerprint(&self.actor)
    }
}

/// What has become part of a document, and which records it touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// In an order in which they can be applied elsewhere.
    pub changes: Vec<AppliedChange>,
    /// For the last change of each actor in them; none for what this node has just written.
    pub vouchers: Vec<Voucher>,
    /// The records that are to be read again.
    pub touched: BTreeSet<Touched>,
    /// What was not taken.
    pub left_out: LeftOut,
}

impl Applied {
    /// Adds what has become part of the document right after this.
    pub fn extend(&mut self, next: Self) {
        let Self { changes, vouchers, touched, left_out } = next;
        self.vouchers.retain(|voucher| vouchers.iter().all(|next| next.actor != voucher.actor));
        self.vouchers.extend(vouchers);
        self.changes.extend(changes);
        self.touched.extend(touched);
        self.left_out.extend(left_out);
    }
}

/// A document that every node of the fleet holds.
#[derive(Debug, Clone)]
pub struct Document {
    id: DocumentId,
    /// The same as text, which goes into every frontier.
    name: Box<str>,
    automerge: Automerge,
    saved: Saved,
    orphans: Orphans,
    refused: Refused,
    vouchers: Vouchers,
    places: Places,
    /// An actor that has forked, and how many of its changes this document claims to have.
    counted_as: Option<(ActorId, u64)>,
}

/// How much a replica lacks of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// How many changes.
    pub changes: usize,
    /// Of how many operations.
    pub ops: u64,
}

/// A copy of a document, to be saved.
#[derive(Debug)]
pub struct Copied(Automerge);

impl Copied {
    /// Reads a document from what the store has of it; takes as long as the document is large.
    ///
    /// # Errors
    ///
    /// The bytes are damaged.
    pub fn read(
        id: DocumentId,
        snapshot: Option<&[u8]>,
        changes: &[Vec<u8>],
    ) -> Result<Self, ApplyError> {
        read_stored(id, snapshot, changes).map(Self)
    }

    /// Returns the heads, sorted.
    pub fn heads(&self) -> Vec<ChangeHash> {
        self.0.get_heads().iter().map(hash_in).collect()
    }

    /// Tells whether a change is part of the copy.
    pub fn has(&self, hash: &ChangeHash) -> bool {
        self.0.get_change_meta_by_hash(&hash_out(hash)).is_some()
    }

    /// Returns the copy whole, as automerge saves it; takes as long as the document is large.
    pub fn save(&self) -> Vec<u8> {
        self.0.save()
    }
}

/// Where in the document the records are; found once, since they never move.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Places {
    Host(host::Places),
}

impl Places {
    /// Tells whether these are the places of that copy of the document, too.
    fn are_in(&self, id: DocumentId, other: &Automerge) -> bool {
        Self::find(id, other).as_ref() == Some(self)
    }

    /// Returns where one of the maps is that are in every such document.
    fn path_of(&self, object: &automerge::ObjId) -> Option<Vec<String>> {
        match self {
            Self::Host(places) => places.path_of(object),
        }
    }

    fn find(id: DocumentId, automerge: &Automerge) -> Option<Self> {
        Some(match id {
            DocumentId::Fleet(_) => return None,
            DocumentId::Host { host, epoch } => {
                Self::Host(host::Places::find(automerge, host, epoch)?)
            }
        })
    }
}

/// Makes the actor id under which a node writes from one start to the next.
///
/// What reached a peer but not the disk comes back from the peer; were the actor used again, its
/// sequence numbers would name two different changes.
pub fn actor(node: &NodeId, start: StartId) -> ActorId {
    let mut bytes = node.fingerprint().to_vec();
    bytes.extend(start.0);
    ActorId::from(bytes)
}

/// Returns an actor id as bytes, zeroes if it has not the form of ours.
fn actor_in(actor: &ActorId) -> ActorBytes {
    actor.to_bytes().try_into().unwrap_or_default()
}

fn hash_in(hash: &automerge::ChangeHash) -> ChangeHash {
    ChangeHash(hash.0)
}

fn hash_out(hash: &ChangeHash) -> automerge::ChangeHash {
    automerge::ChangeHash(hash.0)
}

/// Reads a change and compares its hash with the checksum in its bytes.
///
/// `Change::try_from` of automerge 0.12 does not: a flipped bit may leave a change that parses and
/// applies, and automerge panics once it is to give the change back.
fn sound_change(bytes: &[u8]) -> Result<Change, String> {
    let change = Change::try_from(bytes).map_err(|error| error.to_string())?;
    // A chunk begins with four bytes that say what it is and the first four of its hash.
    if bytes.get(4..8) == change.hash().0.get(..4) {
        Ok(change)
    } else {
        Err(format!("the checksum of change {} is wrong", change.hash()))
    }
}

impl Document {
    /// Makes the host document of a node that has none, with its empty buckets.
    pub fn create_host(host: NodeId, epoch: u32, actor: ActorId, wall_ms: i64) -> (Self, Applied) {
        let id = DocumentId::Host { host, epoch };
        Self::create(id, actor, wall_ms, |tx| host::genesis(tx, host, epoch))
    }

    fn create(
        id: DocumentId,
        actor: ActorId,
        wall_ms: i64,
        genesis: impl FnOnce(&mut automerge::transaction::Transaction<'_>) -> host::Done,
    ) -> (Self, Applied) {
        let mut automerge = Automerge::new().with_actor(actor);
        let mut tx = automerge.transaction();
        genesis(&mut tx).expect("an empty document takes any key");
        tx.commit_with(CommitOptions::default().with_time(wall_ms / 1_000));
        let change = automerge.get_last_local_change().expect("the genesis has operations");
        let document =
            Self::place(id, automerge, Vouchers::default()).expect("the genesis is complete");
        let applied = document.describe_own(std::slice::from_ref(&change));
        (document, applied)
    }

    /// Loads what the store has of a document.
    pub fn load(
        id: DocumentId,
        actor: ActorId,
        snapshot: Option<&[u8]>,
        changes: &[Vec<u8>],
        vouchers: &[Voucher],
    ) -> Result<Self, ApplyError> {
        let mut automerge = read_stored(id, snapshot, changes)?;
        automerge.set_actor(actor);
        let saved = snapshot.filter(|_| changes.is_empty());
        let saved = saved.map(|bytes| Saved::of(&automerge, bytes)).unwrap_or_default();
        let vouchers = Vouchers::stored(vouchers);
        let document = Self::place(id, automerge, vouchers);
        let document = document.ok_or(ApplyError::Misnamed { document: id })?;
        Ok(Self { saved, ..document })
    }

    fn place(id: DocumentId, automerge: Automerge, vouchers: Vouchers) -> Option<Self> {
        let places = Places::find(id, &automerge)?;
        let name = id.to_string().into();
        let (orphans, refused) = (Orphans::default(), Refused::default());
        Some(Self {
            id,
            name,
            automerge,
            saved: Saved::default(),
            orphans,
            refused,
            vouchers,
            places,
            counted_as: None,
        })
    }

    /// Returns the document's name.
    pub fn id(&self) -> DocumentId {
        self.id
    }

    /// Returns the document's name as text.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the heads, sorted.
    pub fn heads(&self) -> Vec<ChangeHash> {
        self.automerge.get_heads().iter().map(hash_in).collect()
    }

    /// Tells whether a change is part of the document.
    pub fn has(&self, hash: &ChangeHash) -> bool {
        self.automerge.get_change_meta_by_hash(&hash_out(hash)).is_some()
    }

    /// Tells whether all of a peer's heads are part of the document.
    pub fn has_all(&self, heads: &[ChangeHash]) -> bool {
        heads.iter().all(|hash| self.has(hash))
    }

    /// Tells whether each of a peer's heads is part of the document, or was refused for good.
    pub fn accounts_for(&self, heads: &[ChangeHash]) -> bool {
        heads.iter().all(|hash| self.has(hash) || self.refused.has(&hash_out(hash)))
    }

    /// Returns how many changes there are that nothing builds on.
    pub fn head_count(&self) -> usize {
        self.automerge.get_heads().len()
    }

    /// Returns the changes that a replica with these heads lacks, in an order in which it can
    /// apply them, and the vouchers for their authors.
    pub fn changes_since(&self, heads: &[ChangeHash]) -> (Vec<Vec<u8>>, Vec<Voucher>) {
        let heads: Vec<_> = heads.iter().map(hash_out).collect();
        let changes = self.automerge.get_changes(&heads);
        let vouchers = self.vouchers_for(&changes);
        (changes.iter().map(|change| change.raw_bytes().to_vec()).collect(), vouchers)
    }

    /// Returns how much a replica with these heads lacks; takes a fraction of finding what.
    pub fn lag(&self, heads: &[ChangeHash]) -> Lag {
        let heads: Vec<_> = heads.iter().map(hash_out).collect();
        let lacked = self.automerge.get_changes_meta(&heads);
        let ops = lacked.iter().map(|change| change.max_op + 1 - change.start_op).sum();
        Lag { changes: lacked.len(), ops }
    }

    /// Returns the names of the changes that a replica with these heads lacks.
    pub fn hashes_since(&self, heads: &[ChangeHash]) -> Vec<ChangeHash> {
        let heads: Vec<_> = heads.iter().map(hash_out).collect();
        // Reading the changes whole would take as long as the document is large.
        self.automerge.get_changes_meta(&heads).iter().map(|change| hash_in(&change.hash)).collect()
    }

    /// Returns how many changes the document is made of.
    pub fn change_count(&self) -> u64 {
        automerge::ReadDoc::stats(&self.automerge).num_changes
    }

    /// Returns how many operations the document is made of, without deletes.
    pub fn op_count(&self) -> u64 {
        automerge::ReadDoc::stats(&self.automerge).num_ops
    }

    /// Returns the document whole, as automerge saves it, or as it was read.
    pub fn save(&self) -> Vec<u8> {
        let saved = self.saved.get(&self.automerge);
        saved.map_or_else(|| self.automerge.save(), <[u8]>::to_vec)
    }

    /// Returns a copy to be saved elsewhere than on the loop.
    pub fn copy(&self) -> Copied {
        Copied(self.automerge.clone())
    }

    /// Applies what a peer sent, as far as what it depends on is here; the rest waits.
    ///
    /// On an error nothing was applied, but for [`ApplyError::Broken`]: then the document must
    /// be thrown away.
    pub fn apply(
        &mut self,
        raw: &[Vec<u8>],
        vouchers: &[Voucher],
        trust: &Trust,
    ) -> Result<Applied, ApplyError> {
        guard::check_changes(raw)
            .map_err(|source| ApplyError::Refused { document: self.id, source })?;
        let changes: Result<_, _> =
            raw.iter().map(|bytes| Self::read_change(self.id, bytes)).collect();
        self.take_in(changes?, vouchers, trust, Coverage::Whole)
    }

    /// Applies what another copy of the same document, already judged, has and this one lacks.
    ///
    /// Errors as [`Document::apply`].
    pub fn merge_copy(&mut self, copy: &Self, trust: &Trust) -> Result<Applied, ApplyError> {
        let document = self.id;
        if self.places != copy.places {
            return Err(ApplyError::Misnamed { document });
        }
        let added = guard::contained(|| self.automerge.get_changes_added(&copy.automerge));
        let added = added.map_err(ApplyError::panicked(document))?;
        let vouchers: Vec<Voucher> = copy.vouchers().copied().collect();
        self.take_in(added, &vouchers, trust, Coverage::Whole)
    }

    fn read_change(document: DocumentId, bytes: &[u8]) -> Result<Change, ApplyError> {
        guard::contained(|| sound_change(bytes))
            .map_err(ApplyError::panicked(document))?
            .map_err(|reason| ApplyError::Unreadable { document, reason })
    }

    /// Lists the changes that are not here and that others wait for.
    pub fn missing(&self) -> Vec<ChangeHash> {
        self.orphans.missing().map(hash_in).collect()
    }

    /// Describes changes that were written without noting which records they touch.
    fn describe_own(&self, changes: &[Change]) -> Applied {
        self.describe(changes, self.touched_by(changes))
    }

    fn touched_by(&self, changes: &[Change]) -> BTreeSet<Touched> {
        let decoded: Vec<ExpandedChange> = changes.iter().map(Change::decode).collect();
        touched::by(&self.automerge, &decoded)
    }

    fn describe(&self, changes: &[Change], touched: BTreeSet<Touched>) -> Applied {
        debug_assert!(
            // One by one: a change decoded takes many times its bytes.
            changes
                .iter()
                .all(|one| self.touched_by(std::slice::from_ref(one)).is_subset(&touched)),
            "a touched record is not noted"
        );
        Applied {
            touched,
            changes: changes
                .iter()
                .map(|change| AppliedChange {
                    bytes: change.raw_bytes().to_vec(),
                    hash: hash_in(&change.hash()),
                    actor: actor_in(change.actor_id()),
                    seq: change.seq(),
                })
                .collect(),
            ..Applied::default()
        }
    }

    /// Writes to the document in one change; `None` if nothing was written, or peers would not take it.
    ///
    /// # Panics
    ///
    /// If automerge refuses a write: all paths are this module's own.
    fn commit(
        &mut self,
        wall_ms: i64,
        write: impl FnOnce(&mut automerge::transaction::Transaction<'_>) -> host::Done,
    ) -> Option<Applied> {
        match self.commit_change(wall_ms, |tx| write(tx).map(|()| None)) {
            Ok(change) => Some(self.describe_own(&[change?])),
            Err(problem) => {
                tracing::error!(document = %self.id, %problem, "took back a change that peers would refuse");
                None
            }
        }
    }
}
