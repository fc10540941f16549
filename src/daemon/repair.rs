//! Owns bringing a data folder whose store is damaged back to a state from which a daemon starts.
//!
//! Must not know the store's file. Invariants: nothing is deleted, the damaged store least of all;
//! the node stays the node that it was; a host document of its own that is lost is never begun
//! anew where a peer may hold it, but had back from there.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::Error;
use crate::{
    identity::NodeKey,
    replica::{
        document::{Document, Salvaged},
        effect::{Stored, StoredDocument, Write},
        ids::{self, ActorBytes, DocumentId, NodeId},
        machine::Replica,
        membership::{evaluate::evaluate, set::StatementSet, statement::fleet_founded},
        voucher::Voucher,
    },
    store::salvage::{Left, SalvageError, Suspect},
};

/// What was found, and what was done about it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether anything was wrong; if not, nothing was changed.
    pub damaged: bool,
    /// What could be read and is in the new store.
    pub kept: Vec<String>,
    /// What could not be saved here.
    pub lost: Vec<String>,
    /// Where the damaged store is now.
    pub aside: Option<PathBuf>,
    /// Whether the rest is to be had back from peers.
    pub from_peers: bool,
    /// What a person is to do next.
    pub next: Vec<String>,
}

/// Looks at a store that no daemon has open, and replaces it if it is damaged.
///
/// # Errors
///
/// A daemon has it open, the key is missing, or the new store can't be written.
pub fn repair(data_dir: &Path) -> Result<Report, Error> {
    let key = NodeKey::load(data_dir)?;
    let suspect = Suspect::take(data_dir)?;
    let found = Found::judge(&key, suspect.look()?);
    let mut report = found.report();
    if report.damaged {
        report.aside = suspect.replace(&found.writes()).map_err(|error| match error {
            SalvageError::Open(error) => Error::Open(error),
            SalvageError::Write(error) => Error::Store(error),
        })?;
    }
    Ok(report)
}

/// Looks at a store that no daemon has open, and changes nothing.
///
/// # Errors
///
/// As [`repair`], but for writing.
pub fn look(data_dir: &Path) -> Result<Report, Error> {
    let key = NodeKey::load(data_dir)?;
    Ok(Found::judge(&key, Suspect::take(data_dir)?.look()?).report())
}

/// What is left of a store.
struct Found {
    node: NodeId,
    stored: Stored,
    documents: Vec<Salvaged>,
    /// Earlier epochs of its own document, beside the present one.
    archived: BTreeSet<DocumentId>,
    lost: Vec<String>,
    /// Whether it is known here who belongs to the fleet.
    fleet_known: bool,
    /// Whether no other node can hold anything of this one's.
    alone: bool,
}

impl Found {
    fn judge(key: &NodeKey, left: Left) -> Self {
        let Left { mut stored, mut archived, problems: mut lost } = left;
        let node = key.node();
        let mut documents = Vec::new();
        // A version before statements kept the members in a document of the fleet.
        stored.documents.retain(|document| document.id.host().is_some());
        for document in std::mem::take(&mut stored.documents) {
            let name = told(&document.id, node);
            let id = document.id;
            let own = node.fingerprint();
            let vouch = |actor: ActorBytes, seq, hash| {
                let is_own = ids::fingerprint(&actor) == own;
                is_own.then(|| Voucher::sign(key, &id, actor, seq, hash))
            };
            let StoredDocument { snapshot, changes, vouchers, .. } = document;
            match Document::salvage(id, snapshot, changes, &vouchers, vouch) {
                Some(salvaged) => {
                    if salvaged.lost > 0 {
                        let (lacks, has) = (salvaged.lost, salvaged.document.change_count());
                        lost.push(format!("{name}: {lacks} of {} changes", has + lacks as u64));
                    }
                    documents.push(salvaged);
                }
                None => lost.push(format!("{name}: all of it")),
            }
        }
        let begun = !documents.is_empty() || stored.fleet.is_some() || !lost.is_empty();
        // Where the setting is lost the founding still names the fleet.
        let named = || stored.statements.iter().find_map(|bytes| fleet_founded(bytes));
        stored.fleet = stored.fleet.or_else(named);
        let set = stored.fleet.map(|fleet| Replica::statements_of(fleet, &stored.statements));
        let set = set.flatten();
        let alone = set.as_ref().is_some_and(|set| {
            let nodes = evaluate(set).nodes;
            lost.is_empty() && nodes.iter().all(|(other, it)| *other == node || !it.is_current())
        });
        let fleet_known = set.is_some();
        stored.fleet = stored.fleet.filter(|_| fleet_known);
        stored.statements = set.iter().flat_map(StatementSet::encoded).collect();
        let own = documents.iter().any(|salvaged| salvaged.document.id().host() == Some(node));
        if begun && !fleet_known && lost.is_empty() {
            lost.push("who belongs to the fleet: all of it".to_owned());
        }
        if begun && !own && !stored.recovering && !lost.iter().any(|line| line.starts_with(OWN)) {
            lost.push(format!("{OWN}: all of it"));
        }
        // Without the newest one the one before is what is left.
        let epochs = documents.iter().map(|salvaged| salvaged.document.id());
        let newest = epochs.filter(|id| id.host() == Some(node)).max();
        archived.retain(|id| Some(*id) < newest);
        Self { node, stored, documents, archived, lost, fleet_known, alone }
    }

    /// Tells whether a document goes into the new store: what other hosts hold is nobody's as long
    /// as it is not known who they are.
    fn keeps(&self, salvaged: &Salvaged) -> bool {
        self.fleet_known || salvaged.document.id().host() == Some(self.node)
    }

    fn writes(&self) -> Vec<Write> {
        let mut writes = Vec::new();
        for salvaged in self.documents.iter().filter(|salvaged| self.keeps(salvaged)) {
            let document = salvaged.document.id();
            let snapshot = salvaged.snapshot.iter().cloned();
            writes.extend(snapshot.map(|bytes| Write::Snapshot { document, bytes }));
            let changes = salvaged.changes.iter().cloned();
            writes.extend(changes.map(|bytes| Write::Change { document, bytes }));
            let vouchers = salvaged.document.vouchers();
            writes.extend(vouchers.map(|voucher| Write::Voucher { document, voucher: *voucher }));
            if self.archived.contains(&document) {
                writes.push(Write::Archive { document });
            }
        }
        if let Some(fleet) = self.stored.fleet {
            writes.push(Write::Fleet(fleet));
            let statements = self.stored.statements.iter().enumerate();
            writes.extend(statements.map(|(number, bytes)| Write::Statement {
                number: number as u64,
                bytes: bytes.clone(),
            }));
            let invites = self.stored.invites.iter().cloned();
            writes.extend(
                invites.map(|(secret_hash, invite)| Write::Invite {
                    secret_hash,
                    invite: Some(invite),
                }),
            );
            let contacts = self.stored.contacts.iter();
            writes.extend(contacts.map(|(node, addresses)| Write::Contact {
                node: *node,
                addresses: addresses.clone(),
            }));
            let hidden = self.stored.hidden.iter();
            writes.extend(
                hidden.map(|(host, since)| Write::Hidden { host: *host, since: Some(*since) }),
            );
            let receipts = self.stored.receipts.iter().cloned();
            writes
                .extend(receipts.map(|it| Write::Receipt { id: it.id.clone(), receipt: Some(it) }));
        }
        let paused = self.stored.paused.iter();
        writes.extend(paused.map(|node| Write::Paused { node: *node, paused: true }));
        writes.push(Write::Recovering(!self.alone));
        writes
    }

    fn report(&self) -> Report {
        let damaged = !self.lost.is_empty();
        let mut kept = vec![format!("the key of node {}", self.node)];
        kept.extend(self.documents.iter().filter(|salvaged| self.keeps(salvaged)).map(
            |salvaged| {
                let name = told(&salvaged.document.id(), self.node);
                format!("{name}: {} changes", salvaged.document.change_count())
            },
        ));
        if self.fleet_known {
            let statements = self.stored.statements.len();
            kept.push(format!("who belongs to the fleet: {statements} statements"));
        }
        if self.fleet_known && !self.stored.invites.is_empty() {
            kept.push(format!("{} tickets", self.stored.invites.len()));
        }
        let mut lost = self.lost.clone();
        let mut next = Vec::new();
        if damaged {
            let dropped = self.documents.iter().filter(|salvaged| !self.keeps(salvaged)).count();
            if dropped > 0 {
                lost.push(format!("{dropped} documents of other hosts, which its peers hold"));
            }
            lost.push("the journal: whoever follows the events begins with a snapshot".to_owned());
            if !self.fleet_known {
                next.push(
                    "ask an admin of the fleet for a ticket (`sessionmesh invite`), and start with \
                     `sessionmesh serve --join TICKET`"
                        .to_owned(),
                );
            } else {
                next.push("start the daemon with `sessionmesh serve`".to_owned());
            }
            if !self.alone {
                next.push(
                    "it has back from its peers what they hold of this node; until it holds what one \
                     of them holds, nothing is purged and no workspace is ended here"
                        .to_owned(),
                );
                next.push(
                    "what had reached no peer before the damage, and can't be read, is gone"
                        .to_owned(),
                );
            } else {
                next.push(
                    "no other node belongs to the fleet: what can't be read is gone".to_owned(),
                );
            }
        }
        let from_peers = damaged && !self.alone;
        Report { damaged, kept, lost, aside: None, from_peers, next }
    }
}

const OWN: &str = "this node's own host document";

fn told(id: &DocumentId, node: NodeId) -> String {
    match id {
        DocumentId::Fleet(_) => "the fleet document".to_owned(),
        DocumentId::Host { host, epoch: 0 } if *host == node => OWN.to_owned(),
        DocumentId::Host { host, epoch } if *host == node => format!("{OWN}, epoch {epoch}"),
        DocumentId::Host { host, .. } => format!("the document of host {}", host.short()),
    }
}
