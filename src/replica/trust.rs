//! Owns whose changes are taken: by whom a change must be signed.
//!
//! Must not know what a change says, nor automerge. Invariant: it is derived from the statements about
//! membership alone, so that nodes that hold the same of them judge alike.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ids::{ActorBytes, ChangeHash, DocumentId, Fingerprint, NodeId, fingerprint},
    record::{Member, Role},
    voucher::{Keyring, Voucher},
};

/// How an actor's changes to a document stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A member that may write: its own word counts.
    Writer(NodeId),
    /// A member that may only read, but for what it says of itself in its own document.
    Reader(NodeId),
    /// A member that was revoked: what counts of it is what present members have built on.
    Former(NodeId),
    /// Nobody that is known here; the same counts of it.
    Unknown,
}

impl Standing {
    /// Tells whether its author's own word counts for nothing.
    pub fn is_former(self) -> bool {
        matches!(self, Self::Former(_) | Self::Unknown)
    }
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
}

impl Trust {
    /// Knows nobody yet.
    pub fn new(keyring: Arc<dyn Keyring>) -> Self {
        Self { keyring, authors: BTreeMap::new() }
    }

    /// Returns this node's key, and the checking of others'.
    pub fn keyring(&self) -> &dyn Keyring {
        &*self.keyring
    }

    /// Tells whether another would judge every change alike.
    pub fn judges_like(&self, other: &Self) -> bool {
        self.authors == other.authors
    }

    /// Takes over who belongs to the fleet, former members too.
    pub fn learn<'a>(&mut self, members: impl IntoIterator<Item = &'a Member>) {
        self.authors.clear();
        for member in members {
            let author = Author {
                node: member.node,
                writes: member.role > Role::Reader,
                revoked: member.revoked.is_some(),
            };
            self.authors.insert(member.node.fingerprint(), author);
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
    pub fn standing(&self, actor: &ActorBytes) -> Standing {
        match self.authors.get(&fingerprint(actor)) {
            None => Standing::Unknown,
            Some(author) if author.revoked => Standing::Former(author.node),
            Some(author) if !author.writes => Standing::Reader(author.node),
            Some(author) => Standing::Writer(author.node),
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
