//! A disk: what a node finds again when it is started anew.

use std::collections::{BTreeMap, BTreeSet};

use sessionmesh::replica::{
    diff::Diff,
    effect::{Stored, StoredDocument, Write},
    ids::DocumentId,
    receipt::StoredReceipt,
};

/// What is durable of a node, as the real store would give it back.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    stored: Stored,
    documents: BTreeMap<DocumentId, StoredDocument>,
    archived: BTreeSet<DocumentId>,
    invites: BTreeMap<[u8; 32], sessionmesh::replica::invite::StoredInvite>,
    receipts: BTreeMap<sessionmesh::replica::ids::ReceiptId, StoredReceipt>,
    /// The published diffs, oldest first, since the journal was last begun anew.
    pub journal: Vec<Diff>,
}

impl Disk {
    pub fn commit(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Change { document, bytes } => {
                    self.entry(*document).changes.push(bytes.clone());
                }
                Write::Voucher { document, voucher } => {
                    let entry = self.entry(*document);
                    entry.vouchers.retain(|other| other.actor != voucher.actor);
                    entry.vouchers.push(*voucher);
                }
                Write::Snapshot { document, bytes } => {
                    let entry = self.entry(*document);
                    entry.snapshot = Some(bytes.clone());
                    entry.changes.clear();
                    entry.vouchers.clear();
                }
                Write::Forget { document } => {
                    self.documents.remove(document);
                    self.archived.remove(document);
                }
                Write::Archive { document } => {
                    assert!(self.documents.contains_key(document), "what is archived is there");
                    self.archived.insert(*document);
                }
                Write::Journal { cursor, body } => {
                    let diff: Diff = serde_json::from_str(body).expect("a diff reads back");
                    assert_eq!(diff.cursor, *cursor, "a journal entry has its diff's cursor");
                    if let Some(last) = self.stored.cursor {
                        assert_eq!(diff.previous, last, "the journal has no gap");
                    }
                    self.stored.cursor = Some(*cursor);
                    self.stored.digest = Some(diff.digest);
                    self.journal.push(diff);
                }
                Write::ResetJournal { cursor } => {
                    self.stored.cursor = Some(*cursor);
                    self.stored.digest = None;
                    self.journal.clear();
                }
                Write::Fleet(fleet) => {
                    self.stored.fleet = Some(*fleet);
                    self.stored.statements.clear();
                }
                Write::Statement { number, bytes } => {
                    assert_eq!(*number, self.stored.statements.len() as u64, "none is left out");
                    self.stored.statements.push(bytes.clone());
                }
                Write::Contact { node, addresses } if addresses.is_empty() => {
                    self.stored.contacts.remove(node);
                }
                Write::Contact { node, addresses } => {
                    self.stored.contacts.insert(*node, addresses.clone());
                }
                Write::Hidden { host, since: Some(since) } => {
                    self.stored.hidden.insert(*host, *since);
                }
                Write::Hidden { host, since: None } => {
                    self.stored.hidden.remove(host);
                }
                Write::Paused { node, paused: true } => {
                    self.stored.paused.insert(*node);
                }
                Write::Paused { node, paused: false } => {
                    self.stored.paused.remove(node);
                }
                Write::Invite { secret_hash, invite: Some(invite) } => {
                    self.invites.insert(*secret_hash, invite.clone());
                }
                Write::Invite { secret_hash, invite: None } => {
                    self.invites.remove(secret_hash);
                }
                Write::Recovering(recovering) => self.stored.recovering = *recovering,
                Write::Receipt { id, receipt: Some(receipt) } => {
                    self.receipts.insert(id.clone(), receipt.clone());
                }
                Write::Receipt { id, receipt: None } => {
                    self.receipts.remove(id);
                }
                Write::Applied { receipt, member } => {
                    if let Some(receipt) = self.receipts.get_mut(receipt) {
                        receipt.applied.insert(*member);
                    }
                }
            }
        }
    }

    fn entry(&mut self, id: DocumentId) -> &mut StoredDocument {
        self.documents.entry(id).or_insert_with(|| StoredDocument::nothing(id))
    }

    pub fn stored(&self) -> Stored {
        let is_archived = |document: &&StoredDocument| self.archived.contains(&document.id);
        let documents = self.documents.values().filter(|document| !is_archived(document));
        Stored {
            documents: documents.cloned().collect(),
            invites: self.invites.iter().map(|(hash, invite)| (*hash, invite.clone())).collect(),
            receipts: self.receipts.values().cloned().collect(),
            ..self.stored.clone()
        }
    }

    pub fn document(&self, id: DocumentId) -> StoredDocument {
        self.documents.get(&id).cloned().unwrap_or_else(|| StoredDocument::nothing(id))
    }
}
