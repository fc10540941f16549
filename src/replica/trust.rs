//! Owns whose changes are taken: by whom a change must be signed, and up to where.
//!
//! Must not know what a change says, nor automerge. Invariant: it is derived from the fleet document
//! alone, so that nodes that hold the same of it judge alike; what it lets in only grows, so that
//! what one node has taken no other refuses for ever.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ids::{ActorBytes, ChangeHash, DocumentId, Fingerprint, NodeId, fingerprint},
    record::{Member, Role},
    voucher::{Keyring, Voucher},
};

/// Up to where a member has the changes of an actor whose own word no longer counts, or never did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// The how-manieth change of the actor is the last.
    pub seq: u64,
    /// Its name.
    pub hash: ChangeHash,
}

/// What members attest to have: of each document, for each actor, up to where.
pub type Attested = BTreeMap<(DocumentId, ActorBytes), Extent>;

/// How an actor's changes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A member that may write: its signature counts, up to an extent if it was revoked.
    Writer(NodeId, Option<Option<Extent>>),
    /// Nobody that is known here, but the document's host attests to what it has of it.
    Attested(Extent),
    /// A member that may only read, but for what it says of itself in its own document.
    Reader(NodeId),
    /// Nobody that is known here; the fleet document may know more later.
    Unknown,
}

/// A node as far as it matters to what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Author {
    node: NodeId,
    writes: bool,
    revoked: bool,
}

/// Who is who in the fleet, and the keys by which it shows.
#[derive(Debug, Clone)]
pub struct Trust {
    keyring: Arc<dyn Keyring>,
    authors: BTreeMap<Fingerprint, Author>,
    /// By members that may write, the greatest of each: of the actors of revoked nodes.
    attested: Attested,
    /// By hosts, of what is in their own documents.
    attested_by_host: Attested,
}

impl Trust {
    /// Knows nobody yet.
    pub fn new(keyring: Arc<dyn Keyring>) -> Self {
        Self {
            keyring,
            authors: BTreeMap::new(),
            attested: Attested::new(),
            attested_by_host: Attested::new(),
        }
    }

    /// Tells whether another would judge every change alike.
    pub fn judges_like(&self, other: &Self) -> bool {
        self.authors == other.authors
            && self.attested == other.attested
            && self.attested_by_host == other.attested_by_host
    }

    /// Takes over what a fleet document says of its members, and what they attest to.
    pub fn learn<'a>(
        &mut self,
        members: impl IntoIterator<Item = &'a Member>,
        attested: impl IntoIterator<Item = (NodeId, Attested)>,
    ) {
        self.authors.clear();
        for member in members {
            let author = Author {
                node: member.node,
                writes: member.role > Role::Reader,
                revoked: member.revoked.is_some(),
            };
            self.authors.insert(member.node.fingerprint(), author);
        }
        self.attested.clear();
        self.attested_by_host.clear();
        for (by, attested) in attested {
            let writes = self.authors.get(&by.fingerprint()).is_some_and(|author| author.writes);
            if !writes {
                continue;
            }
            for ((document, actor), extent) in attested {
                let key = (document, actor);
                if document.host() == Some(by) {
                    grow(&mut self.attested_by_host, key, extent);
                }
                // What a revoked node says of itself is what its revocation is to end.
                if self.node(&fingerprint(&actor)) != Some(by) {
                    grow(&mut self.attested, key, extent);
                }
            }
        }
    }

    /// Returns the node of a fingerprint, if it is or was a member.
    pub fn node(&self, fingerprint: &Fingerprint) -> Option<NodeId> {
        self.authors.get(fingerprint).map(|author| author.node)
    }

    /// Tells whether a document is that of a member that may only read.
    pub fn is_readers(&self, document: &DocumentId) -> bool {
        let host = document.host().and_then(|host| self.authors.get(&host.fingerprint()));
        host.is_some_and(|author| !author.writes)
    }

    /// Lists the nodes that are or were members.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.authors.values().map(|author| author.node)
    }

    /// Tells how an actor's changes to a document stand.
    pub fn standing(&self, document: &DocumentId, actor: &ActorBytes) -> Standing {
        match self.authors.get(&fingerprint(actor)) {
            Some(author) if !author.writes => Standing::Reader(author.node),
            Some(author) => {
                let extent = || self.attested.get(&(*document, *actor)).copied();
                // Of admins that revoke each other, not knowing of each other, both count: so what
                // a revoked node writes of members is taken, or the fleet would fall in two.
                let is_bounded = author.revoked && document.host().is_some();
                Standing::Writer(author.node, is_bounded.then(extent))
            }
            None => match self.attested_by_host.get(&(*document, *actor)) {
                Some(extent) => Standing::Attested(*extent),
                None => Standing::Unknown,
            },
        }
    }

    /// Has this node's key stand for a change that it has made.
    pub fn vouch(
        &self,
        document: &DocumentId,
        actor: ActorBytes,
        seq: u64,
        hash: ChangeHash,
    ) -> Voucher {
        Voucher::sign(&*self.keyring, document, actor, seq, hash)
    }

    /// Tells whether a voucher is that node's, for this document.
    pub fn is_by(&self, voucher: &Voucher, document: &DocumentId, node: &NodeId) -> bool {
        voucher.is_by(&*self.keyring, document, node)
    }
}

fn grow(attested: &mut Attested, key: (DocumentId, ActorBytes), extent: Extent) {
    let greatest = attested.entry(key).or_insert(extent);
    *greatest = (*greatest).max(extent);
}
