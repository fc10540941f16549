//! Owns telling how far the deletes have come that were asked for here.
//!
//! Must not guess: a member counts once it has told heads or a frontier that hold the delete, or
//! once its own writing shows it. Invariants: what a member has told stays told, also after a
//! restart; how many receipts are kept is bounded, and the oldest go first.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{
    command::{Refusal, Reply},
    effect::{Effects, Now, Outgoing, Write},
    ids::{ChangeHash, NodeId, ReceiptId, SessionId},
    receipt::{
        Applying, CarryingOut, Ending, Receipt, ReceiptMember, ReceiptSession, StoredReceipt,
    },
    record::{Deletion, Session, SessionState},
};
use super::{Replica, session_key};
use crate::wire::{DocumentHeads, Frame};

/// Most receipts that are kept: more than a person looks back, and each costs a row on disk.
pub(super) const RECEIPTS_MAX: usize = 512;
/// Most sessions in all receipts together, so that a few deletes of thousands don't add up; the
/// last receipt is kept however many it has.
const SESSIONS_MAX: usize = 20_000;
/// How long after members were asked for their heads they are asked again at the soonest.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// The deletes that were asked for on this node.
#[derive(Debug, Clone, Default)]
pub struct Receipts {
    /// By name; names sort by time.
    kept: BTreeMap<ReceiptId, StoredReceipt>,
    /// How many sessions they name.
    sessions: usize,
    /// When the members that had not told were last asked, by receipt.
    asked: BTreeMap<ReceiptId, Duration>,
}

impl Receipts {
    /// Starts with what was stored.
    pub fn new(stored: Vec<StoredReceipt>) -> Self {
        let sessions = stored.iter().map(|receipt| receipt.sessions.len()).sum();
        let kept = stored.into_iter().map(|receipt| (receipt.id.clone(), receipt)).collect();
        Self { kept, sessions, asked: BTreeMap::new() }
    }

    /// Counts them.
    pub fn count(&self) -> usize {
        self.kept.len()
    }

    /// Tells whether there is one that somebody may wait for.
    pub fn are_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Notes that a link is up or down: whom it leads to may be reachable or not any more.
    pub fn link_changed(&self, fx: &mut Effects) {
        fx.receipts |= self.are_kept();
    }

    /// Drops them all: what they are of is held no more.
    pub fn forget(&mut self, fx: &mut Effects) {
        let removed = std::mem::take(&mut self.kept).into_keys();
        fx.writes.extend(removed.map(|id| Write::Receipt { id, receipt: None }));
        *self = Self::default();
        fx.receipts = true;
    }

    fn keep(&mut self, receipt: StoredReceipt, fx: &mut Effects) {
        self.sessions += receipt.sessions.len();
        let (id, stored) = (receipt.id.clone(), Some(receipt.clone()));
        fx.writes.push(Write::Receipt { id, receipt: stored });
        self.kept.insert(receipt.id.clone(), receipt);
        while self.kept.len() > 1
            && (self.kept.len() > RECEIPTS_MAX || self.sessions > SESSIONS_MAX)
        {
            let Some((id, oldest)) = self.kept.pop_first() else { break };
            self.sessions -= oldest.sessions.len();
            self.asked.remove(&id);
            fx.writes.push(Write::Receipt { id, receipt: None });
        }
    }

    /// Notes which of the receipts that a member has not told of yet it holds.
    fn told(&mut self, peer: NodeId, fx: &mut Effects, holds: impl Fn(&StoredReceipt) -> bool) {
        for (id, receipt) in &mut self.kept {
            if receipt.applied.contains(&peer) || !holds(receipt) {
                continue;
            }
            receipt.applied.insert(peer);
            fx.writes.push(Write::Applied { receipt: id.clone(), member: peer });
            fx.receipts = true;
        }
    }

    fn has_untold(&self, peer: &NodeId) -> bool {
        self.kept.values().any(|receipt| !receipt.applied.contains(peer))
    }
}

impl Replica {
    /// Keeps the receipt of a delete whose last change has this hash; `None` if nothing was
    /// written.
    pub(super) fn keep_receipt(
        &mut self,
        now: Now,
        host: NodeId,
        change: Option<ChangeHash>,
        deletion: &Deletion,
        sessions: &[Session],
        fx: &mut Effects,
    ) -> Option<ReceiptId> {
        let (change, document) = (change?, self.host_document_id(host)?);
        let id = self.new_receipt(now.wall_ms);
        let marked = |s: &Session| (s.id.clone(), s.server().map(str::to_owned));
        let receipt = StoredReceipt {
            id: id.clone(),
            operation: deletion.operation.clone(),
            at: now.wall_ms,
            document,
            change,
            sessions: sessions.iter().map(marked).collect(),
            applied: BTreeSet::new(),
        };
        self.receipts.keep(receipt, fx);
        Some(id)
    }

    /// Takes in where a peer's documents stand: it holds whatever its heads follow from.
    pub(super) fn heads_told(&mut self, peer: NodeId, theirs: &[DocumentHeads], fx: &mut Effects) {
        if !self.receipts.has_untold(&peer) {
            return;
        }
        for DocumentHeads { document: id, heads } in theirs {
            let Some(document) = self.documents.get(id) else { continue };
            let open = self.receipts.kept.values();
            if !open.clone().any(|r| r.document == *id && !r.applied.contains(&peer)) {
                continue;
            }
            if !document.has_all(heads) {
                // What follows from a head that is not here is not known; the peer tells again.
                continue;
            }
            let missing: BTreeSet<ChangeHash> = document.hashes_since(heads).into_iter().collect();
            let holds = |r: &StoredReceipt| {
                r.document == *id && document.has(&r.change) && !missing.contains(&r.change)
            };
            self.receipts.told(peer, fx, holds);
        }
    }

    /// Takes in a peer's frontier: with the same as ours, it holds all that we do.
    pub(super) fn frontier_told(&mut self, peer: NodeId, theirs: &[u8; 32], fx: &mut Effects) {
        if !self.receipts.has_untold(&peer) || *theirs != self.frontier() {
            return;
        }
        let (documents, exchange) = (&self.documents, &self.exchange);
        self.receipts.told(peer, fx, |receipt| {
            // A rewritten document holds what the one before it did, under other names.
            let newer = receipt.document.host().and_then(|host| {
                documents.keys().rev().find(|id| id.host() == Some(host) && **id > receipt.document)
            });
            let here = documents.get(&receipt.document);
            let holds = here.is_some_and(|document| document.has(&receipt.change));
            exchange.is_shared(&receipt.document) && (holds || newer.is_some())
        });
    }

    /// Tells how far a delete has come, and asks those who have not told what they hold.
    pub(super) fn tell_receipt(
        &mut self,
        now: Now,
        id: &ReceiptId,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        let not_found = || Refusal::ReceiptNotFound(id.clone());
        let receipt = self.receipts.kept.get(id).ok_or_else(not_found)?.clone();
        let host = receipt.document.host().ok_or_else(not_found)?;
        let sessions: Vec<ReceiptSession> =
            receipt.sessions.iter().map(|(id, server)| self.ended(host, id, server)).collect();
        // Nobody but the host purges, and not before it has the delete.
        let purged = sessions.iter().any(|session| session.state == Ending::Purged);
        let members: Vec<ReceiptMember> = self
            .members
            .values()
            .filter(|member| member.is_current())
            .map(|member| {
                let node = member.node;
                let applied = node == self.node
                    || receipt.applied.contains(&node)
                    || (purged && node == host);
                let state = if applied {
                    Applying::Applied
                } else if self.exchange.is_greeted(&node) {
                    Applying::Pending
                } else {
                    Applying::Unreachable
                };
                ReceiptMember { node, name: member.name.clone(), state }
            })
            .collect();
        self.ask_pending(now, &receipt, &members, fx);
        let is_hidden = self.hiding.hides(&host);
        let applied = is_hidden || members.iter().all(|member| member.state == Applying::Applied);
        let carried_out = sessions.iter().all(|s| s.agent != Some(CarryingOut::Pending));
        Ok(Reply::Receipt(Box::new(Receipt {
            receipt: receipt.id,
            operation: receipt.operation,
            at: receipt.at,
            host,
            complete: applied && carried_out,
            members,
            sessions,
        })))
    }

    /// Asks the members that have not told for the heads of the document in question.
    fn ask_pending(
        &mut self,
        now: Now,
        receipt: &StoredReceipt,
        members: &[ReceiptMember],
        fx: &mut Effects,
    ) {
        let pending = members.iter().filter(|member| member.state == Applying::Pending);
        let to: Vec<NodeId> = pending.map(|member| member.node).collect();
        let asked = self.receipts.asked.get(&receipt.id);
        if to.is_empty() || asked.is_some_and(|at| *at + ASK_EVERY > now.monotonic) {
            return;
        }
        let Some(document) = self.documents.get(&receipt.document) else { return };
        self.receipts.asked.insert(receipt.id.clone(), now.monotonic);
        let stand = DocumentHeads { document: receipt.document, heads: document.heads() };
        let frame = Frame::Heads { documents: vec![stand], answer: true };
        fx.frames.push(Outgoing { to, frame });
    }

    fn ended(&self, host: NodeId, id: &SessionId, server: &Option<String>) -> ReceiptSession {
        if self.hiding.hides(&host) {
            let (state, agent_server) = (Ending::Hidden, server.clone());
            return ReceiptSession { id: id.clone(), state, agent_server, agent: None };
        }
        let state = match self.view.session(&session_key(host, id)).map(|session| session.state) {
            Some(SessionState::Deleted) => Ending::Deleted,
            Some(SessionState::Live | SessionState::Stranded) => Ending::Restored,
            None => Ending::Purged,
        };
        let confirmed = || self.host_document(host).is_some_and(|d| d.is_confirmed(id));
        let agent = server.as_ref().and_then(|_| match state {
            Ending::Deleted => Some(CarryingOut::Pending),
            Ending::Restored | Ending::Hidden => None,
            Ending::Purged if confirmed() => Some(CarryingOut::Done),
            Ending::Purged => Some(CarryingOut::Unasked),
        });
        ReceiptSession { id: id.clone(), state, agent_server: server.clone(), agent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::ids::DocumentId;

    #[test]
    fn a_members_word_is_written_by_itself_and_once() {
        let (host, peer) = (NodeId([1; 32]), NodeId([2; 32]));
        let id: ReceiptId = "rcp_1".parse().unwrap();
        let receipt = StoredReceipt {
            id: id.clone(),
            operation: "op_1".parse().unwrap(),
            at: 0,
            document: DocumentId::Host { host, epoch: 0 },
            change: ChangeHash([4; 32]),
            sessions: (0..1_000).map(|n| (format!("s{n}").parse().unwrap(), None)).collect(),
            applied: BTreeSet::new(),
        };
        let mut receipts = Receipts::new(vec![receipt]);
        let mut fx = Effects::default();
        receipts.told(peer, &mut fx, |_| true);
        receipts.told(peer, &mut fx, |_| true);
        assert_eq!(fx.writes, [Write::Applied { receipt: id, member: peer }]);
        assert!(!receipts.has_untold(&peer));
    }
}
