//! Owns random programs of writes, and the plain model of what each must leave behind.
//!
//! Must not know redb. Invariant: the model is the store's contract, without a disk.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{AutoCommit, ROOT, transaction::Transactable};
use fastrand::Rng;
use sessionmesh::{
    replica::{
        effect::{Stored, StoredDocument, Write},
        ids::{ActorBytes, ChangeHash, Cursor, DocumentId, FleetId, NodeId, ReceiptId, StartId},
        invite::StoredInvite,
        receipt::StoredReceipt,
        record::Role,
        voucher::Voucher,
    },
    store::{Error, Store, compact},
};

/// The document whose changes are real, so that it can be compacted.
pub const REAL: DocumentId = DocumentId::Host { host: NodeId([7; 32]), epoch: 3 };

/// The documents of a random program.
const NAMES: [DocumentId; 5] = [
    REAL,
    DocumentId::Host { host: NodeId([9; 32]), epoch: 0 },
    DocumentId::Host { host: NodeId([8; 32]), epoch: 1 },
    DocumentId::Host { host: NodeId([8; 32]), epoch: 2 },
    DocumentId::Host { host: NodeId([8; 32]), epoch: 3 },
];

/// One thing that is asked of a store.
#[derive(Debug, Clone)]
pub enum Step {
    /// To be made durable together.
    Commit(Vec<Write>),
    /// [`REAL`], saved as it is at this point of the program.
    Compact { snapshot: Vec<u8>, heads: Vec<ChangeHash> },
}

/// A document's snapshot and the changes since.
type Document = (Option<Vec<u8>>, Vec<Vec<u8>>);

/// All that a store holds, in a form that can be compared.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    pub fleet: Option<FleetId>,
    /// Archived ones too.
    pub documents: BTreeMap<DocumentId, Document>,
    pub archived: BTreeSet<DocumentId>,
    pub vouchers: BTreeMap<(DocumentId, ActorBytes), Voucher>,
    pub paused: BTreeSet<NodeId>,
    pub contacts: BTreeMap<NodeId, BTreeSet<String>>,
    pub hidden: BTreeMap<NodeId, i64>,
    pub invites: BTreeMap<[u8; 32], StoredInvite>,
    pub receipts: BTreeMap<ReceiptId, StoredReceipt>,
    pub cursor: Option<Cursor>,
    pub digest: Option<String>,
    pub journal: Vec<(Cursor, String)>,
    pub recovering: bool,
    pub statements: Vec<Vec<u8>>,
}

impl Contents {
    /// Reads everything.
    pub fn of(store: &Store) -> Result<Self, Error> {
        let Stored {
            fleet,
            documents,
            paused,
            contacts,
            hidden,
            invites,
            receipts,
            cursor,
            digest,
            recovering,
            statements,
        } = store.load()?;
        let journal = store.journal()?;
        let loaded: BTreeSet<DocumentId> = documents.iter().map(|stored| stored.id).collect();
        let all = NAMES.map(|name| store.reload(&[name]));
        let all = all.into_iter().collect::<Result<Vec<_>, _>>()?;
        // Of what is not there, nothing is told.
        let is_there = |it: &StoredDocument| it.snapshot.is_some() || !it.changes.is_empty();
        let all = all.into_iter().flatten().filter(is_there).chain(documents);
        let all: Vec<_> = all.collect();
        let vouchers = all.iter().flat_map(|stored| {
            stored.vouchers.iter().map(|voucher| ((stored.id, voucher.actor), *voucher))
        });
        let vouchers = vouchers.collect();
        let documents: BTreeMap<DocumentId, Document> =
            all.into_iter().map(|stored| (stored.id, (stored.snapshot, stored.changes))).collect();
        Ok(Self {
            fleet,
            vouchers,
            archived: documents.keys().filter(|id| !loaded.contains(id)).copied().collect(),
            documents,
            paused,
            contacts,
            hidden,
            invites: invites.into_iter().collect(),
            receipts: receipts.into_iter().map(|receipt| (receipt.id.clone(), receipt)).collect(),
            cursor,
            digest: digest.map(|digest| digest.to_string()),
            recovering,
            statements,
            journal: journal
                .into_iter()
                .map(|entry| (entry.cursor, entry.body.to_string()))
                .collect(),
        })
    }

    /// Does to the model what `step` does to a store.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Commit(writes) => writes.iter().for_each(|write| self.write(write)),
            Step::Compact { snapshot, .. } => {
                self.documents.insert(REAL, (Some(snapshot.clone()), Vec::new()));
            }
        }
    }

    fn write(&mut self, write: &Write) {
        match write {
            Write::Change { document, bytes } => {
                self.documents.entry(*document).or_default().1.push(bytes.clone());
            }
            Write::Voucher { document, voucher } => {
                self.vouchers.insert((*document, voucher.actor), *voucher);
            }
            Write::Snapshot { document, bytes } => {
                self.documents.insert(*document, (Some(bytes.clone()), Vec::new()));
                self.vouchers.retain(|(of, _), _| of != document);
            }
            Write::Forget { document } => {
                self.documents.remove(document);
                self.archived.remove(document);
                self.vouchers.retain(|(of, _), _| of != document);
            }
            Write::Archive { document } => {
                if self.documents.contains_key(document) {
                    self.archived.insert(*document);
                }
            }
            Write::Journal { cursor, body } => {
                self.journal.push((*cursor, body.to_string()));
                self.cursor = Some(*cursor);
                let body: serde_json::Value = serde_json::from_str(body).expect("a body is JSON");
                self.digest = body["digest"].as_str().map(str::to_owned);
            }
            Write::ResetJournal { cursor } => {
                self.journal.clear();
                self.cursor = Some(*cursor);
                self.digest = None;
            }
            Write::Fleet(fleet) => {
                self.fleet = Some(*fleet);
                self.statements.clear();
            }
            Write::Statement { number, bytes } => {
                assert_eq!(*number, self.statements.len() as u64);
                self.statements.push(bytes.clone());
            }
            Write::Contact { node, addresses } if addresses.is_empty() => {
                self.contacts.remove(node);
            }
            Write::Contact { node, addresses } => {
                self.contacts.insert(*node, addresses.clone());
            }
            Write::Hidden { host, since: Some(since) } => {
                self.hidden.insert(*host, *since);
            }
            Write::Hidden { host, since: None } => {
                self.hidden.remove(host);
            }
            Write::Paused { node, paused: true } => {
                self.paused.insert(*node);
            }
            Write::Paused { node, paused: false } => {
                self.paused.remove(node);
            }
            Write::Invite { secret_hash, invite: Some(invite) } => {
                self.invites.insert(*secret_hash, invite.clone());
            }
            Write::Invite { secret_hash, invite: None } => {
                self.invites.remove(secret_hash);
            }
            Write::Recovering(recovering) => self.recovering = *recovering,
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

/// Asks a store for one step.
pub fn perform(store: &Store, step: &Step) -> Result<(), Error> {
    match step {
        Step::Commit(writes) => store.commit(writes).map(drop),
        Step::Compact { snapshot, heads } => {
            let plan = store.plan(REAL)?.expect("a step adds a change before each compaction");
            store.replace(&compact::verify(plan, snapshot.clone(), heads)?).map(drop)
        }
    }
}

/// A journal entry's JSON, as far as the store looks into it.
pub fn body(number: u64) -> String {
    format!("{{\"cursor\":\"{number}\",\"digest\":\"{:032x}\",\"events\":[]}}", number * 31)
}

/// Makes a random program; the same for the same seed.
pub fn program(seed: u64, steps: usize) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let mut real = AutoCommit::new().with_actor(vec![1; 20].into());
    let mut sequence = 0;
    let mut program = Vec::new();
    while program.len() < steps {
        let mut writes = vec![real_change(&mut real, &mut rng)];
        writes.push(Write::Voucher { document: REAL, voucher: voucher(rng.u8(..3), rng.u64(..)) });
        for _ in 0..rng.usize(0..4) {
            writes.push(random_write(&mut rng, &mut sequence));
        }
        program.push(Step::Commit(writes));
        if rng.u8(..4) == 0 {
            let heads = real.get_heads().into_iter().map(|head| ChangeHash(head.0)).collect();
            program.push(Step::Compact { snapshot: real.save(), heads });
        }
    }
    program
}

/// A voucher whose signature the store has no need to understand.
pub fn voucher(actor: u8, seq: u64) -> Voucher {
    let bytes = [seq as u8; 32];
    Voucher { actor: [actor; 20], seq, hash: ChangeHash(bytes), signature: [actor; 64] }
}

fn real_change(real: &mut AutoCommit, rng: &mut Rng) -> Write {
    real.put(ROOT, format!("key{}", rng.u8(..8)), rng.i64(..)).expect("a put into a map works");
    let bytes = real.get_last_local_change().expect("there was a put").raw_bytes().to_vec();
    Write::Change { document: REAL, bytes }
}

fn random_write(rng: &mut Rng, sequence: &mut u64) -> Write {
    let document = NAMES[rng.usize(1..NAMES.len())];
    let length = rng.usize(1..6_000);
    let bytes = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
    let node = NodeId([rng.u8(..3); 32]);
    match rng.u8(..12) {
        0..3 => Write::Change { document, bytes },
        3 => Write::Snapshot { document, bytes },
        4 if rng.bool() => Write::Archive { document },
        4 => Write::Forget { document },
        5 | 6 => {
            *sequence += 1;
            let cursor = Cursor { sequence: *sequence, start: StartId([1; 8]) };
            Write::Journal { cursor, body: body(*sequence).into() }
        }
        7 if rng.bool() => Write::Paused { node, paused: rng.bool() },
        7 if rng.bool() => Write::Hidden { host: node, since: rng.bool().then(|| rng.i64(..)) },
        7 => {
            let addresses = (0..rng.u8(..3)).map(|last| format!("10.0.0.{last}:7177")).collect();
            Write::Contact { node, addresses }
        }
        8 => {
            let invite = StoredInvite {
                role: Role::Member,
                expires_at: rng.i64(..),
                redeemed_by: Some(node),
            };
            Write::Invite { secret_hash: node.0, invite: rng.bool().then_some(invite) }
        }
        9 => {
            let receipt = receipt(&format!("rcp_{}", rng.u8(..3)), node);
            Write::Receipt { id: receipt.id.clone(), receipt: rng.bool().then_some(receipt) }
        }
        10 => Write::Applied {
            receipt: receipt(&format!("rcp_{}", rng.u8(..3)), node).id,
            member: node,
        },
        _ if rng.bool() => {
            *sequence += 1;
            Write::ResetJournal { cursor: Cursor { sequence: *sequence, start: StartId([2; 8]) } }
        }
        _ => Write::Fleet(FleetId([rng.u8(..); 16])),
    }
}

/// Makes a receipt that a member has told of.
pub fn receipt(id: &str, applied: NodeId) -> StoredReceipt {
    StoredReceipt {
        id: id.parse().expect("an id"),
        operation: "op_1".parse().expect("an id"),
        at: -7,
        document: REAL,
        change: ChangeHash([4; 32]),
        sessions: vec![("ses_1".parse().expect("an id"), Some("http://localhost/".to_owned()))],
        applied: [applied].into(),
    }
}
