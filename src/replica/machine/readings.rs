//! Owns what is read off a replica: how it stands, and copies of what it holds.
//!
//! Must not change anything. Invariant: it is read off what the replica knows at that moment.

use super::super::{
    document::{Copied, Document},
    ids::{ChangeHash, DocumentId},
    membership::{evaluate::Membership, set::StatementSet},
    record::Role,
    view::{self, View},
    voucher::Voucher,
};
use super::Replica;

impl Replica {
    /// Tells whether what a damaged store had lost is still to be had back from peers.
    pub fn is_recovering(&self) -> bool {
        self.recovering
    }

    /// Tells whether this start could not read who the members were, so that the node is alone in a new
    /// fleet.
    pub fn is_left_alone(&self) -> bool {
        self.left_alone
    }

    /// Returns how many peers have greeted.
    pub fn link_count(&self) -> u64 {
        self.exchange.greeted().len() as u64
    }

    /// Returns a digest of the statements about membership: equal on nodes that hold the same.
    pub fn statements_digest(&self) -> [u8; 32] {
        self.statements.digest()
    }

    /// Returns how many statements about membership are held.
    pub fn statement_count(&self) -> u64 {
        self.statements.held().len() as u64
    }

    /// Returns the statements about membership.
    pub fn statements(&self) -> &StatementSet {
        &self.statements
    }

    /// Returns what the statements about membership come to.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Returns what this node may do in its fleet.
    pub fn role(&self) -> Role {
        self.members.get(&self.node).map_or(Role::Reader, |member| member.role)
    }

    /// Returns how many admins the fleet has; with none, nobody can be let in or shut out any more.
    pub fn admin_count(&self) -> u64 {
        self.membership.admins.len() as u64
    }

    /// Lists the documents with their heads and how many changes each is made of.
    pub fn document_heads(&self) -> Vec<(DocumentId, Vec<ChangeHash>, u64)> {
        self.documents
            .iter()
            .map(|(id, document)| (*id, document.heads(), document.change_count()))
            .collect()
    }

    /// Returns SHA-256 over the sorted `(document, heads)` list of what all are to hold: equal on
    /// replicas that hold the same.
    pub fn frontier(&self) -> [u8; 32] {
        self.exchange.frontier(&self.documents)
    }

    /// Returns a copy of a document to be saved, and verified, elsewhere than on the loop.
    pub fn document_copy(&self, id: &DocumentId) -> Option<Copied> {
        self.documents.get(id).map(Document::copy)
    }

    /// Returns the vouchers for the authors of a document.
    pub fn document_vouchers(&self, id: &DocumentId) -> Vec<Voucher> {
        self.documents.get(id).into_iter().flat_map(Document::vouchers).copied().collect()
    }

    /// Reads every record of every document anew: what the view must equal.
    pub fn reread(&self) -> View {
        let mut touched = view::Touched::default();
        self.read_anew(&mut touched);
        let mut view = View::new();
        view.apply(touched);
        view
    }

    /// Returns how often two replicas were found to differ with nothing on the way.
    pub fn sync_repairs_total(&self) -> u64 {
        self.exchange.repairs_total()
    }
}
