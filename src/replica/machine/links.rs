//! Owns what a replica does about its peers: who is greeted, and what each frame leads to.
//!
//! Must not know how frames travel. Invariant: nothing but a greeting or a join is taken from a
//! peer that has not greeted; whatever a peer sends, the worst that happens is that its link is
//! closed.

use std::collections::BTreeSet;

use super::super::{
    document::{Applied, ApplyError},
    effect::{Effects, Now, Outgoing, StoredDocument},
    ids::{DocumentId, NodeId},
    record::Role,
    sync::HEADS_AT_ONCE,
    view,
    voucher::Voucher,
};
use super::{Origin, Replica, offence::Sent, read_all};
use crate::wire::{CloseCode, DocumentHeads, Frame, Hello, PROTOCOL, PROTOCOL_MIN, ProtocolRange};

impl Replica {
    pub(super) fn peer_connected(&mut self, now: Now, peer: NodeId, fx: &mut Effects) {
        self.exchange.connected(now.monotonic, peer);
        self.receipts.link_changed(fx);
        if self.ask_to_join(peer, fx) {
            return;
        }
        // A node that is not a member, or no longer, speaks first: it may have a ticket.
        match self.judge(now, &peer) {
            Ok(()) => self.greet(peer, fx),
            Err((CloseCode::UnknownKey | CloseCode::Left, _)) => {}
            // It was shut out by a junior admin alone, and may have revoked that one since.
            Err((CloseCode::Revoked, _)) if self.membership.may_return(&peer) => {}
            Err((code, reason)) => self.refuse(now, peer, code, reason, fx),
        }
    }

    /// Closes the links on which nobody has greeted in time.
    pub(super) fn close_silent(&mut self, now: Now, fx: &mut Effects) {
        for peer in self.exchange.silent(now.monotonic) {
            let reason = "the peer has not greeted in time".to_owned();
            fx.closes.push((peer, CloseCode::Timeout, reason));
        }
    }

    pub(super) fn peer_lost(
        &mut self,
        now: Now,
        peer: NodeId,
        code: Option<CloseCode>,
        reason: String,
        fx: &mut Effects,
    ) {
        self.exchange.lost(now.monotonic, &peer, &mut fx.frames);
        self.receipts.link_changed(fx);
        self.join_failed(peer, code, &reason, fx);
        if let Some(code) = code.filter(|code| code.is_refusal()) {
            tracing::warn!(%peer, code = code.name(), %reason, "the peer refused the link");
            if code == CloseCode::Hostile {
                // It will not be of another mind soon.
                self.keep_off(now, peer, false, &reason);
            }
        }
        self.note_problem(peer, reason);
    }

    /// Remembers why there is no link, of members only: strangers may come with any number of keys.
    fn note_problem(&mut self, peer: NodeId, reason: String) {
        // Why it is kept off stays to be seen for as long as it is.
        if self.members.contains_key(&peer) && !self.offences.is_kept_off(&peer) {
            self.problems.insert(peer, reason);
        }
    }

    pub(super) fn dial_failed(&mut self, peer: NodeId, reason: String) {
        if let Some(joining) = &mut self.joining
            && joining.ticket.inviter == peer
        {
            joining.problem.clone_from(&reason);
        }
        self.note_problem(peer, reason);
    }

    pub(super) fn greet(&mut self, peer: NodeId, fx: &mut Effects) {
        self.tell_answers(peer, fx);
        let frontier = self.frontier();
        self.exchange.greet(&peer, frontier);
        let hello = Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            fleet: self.fleet,
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: 0,
            frontier,
            statements: self.statements.digest(),
        };
        fx.frames.push(Outgoing { to: vec![peer], frame: Frame::Hello(hello) });
    }

    /// Tells whether a key may have a link.
    fn judge(&self, now: Now, peer: &NodeId) -> Result<(), (CloseCode, String)> {
        let refuse = |code, reason: &str| Err((code, reason.to_owned()));
        match self.members.get(peer) {
            None => refuse(CloseCode::UnknownKey, "this key is not a member of the fleet"),
            Some(member) if member.revoked.is_some() => {
                Err((CloseCode::Revoked, self.shut_out_by(peer)))
            }
            Some(member) if member.left => {
                refuse(CloseCode::Left, "this node has left the fleet; it needs a new ticket")
            }
            Some(_) if self.paused.contains(peer) => {
                Err((CloseCode::Paused, format!("{} paused syncing", self.name)))
            }
            Some(_) => match self.shut_out_for(now, peer) {
                Some(wait) => {
                    let wait = wait.as_secs() + 1;
                    let reason = format!("kept off for {wait} s more: automerge panicked");
                    Err((CloseCode::Hostile, reason))
                }
                None => Ok(()),
            },
        }
    }

    fn refuse(
        &mut self,
        now: Now,
        peer: NodeId,
        code: CloseCode,
        reason: String,
        fx: &mut Effects,
    ) {
        let is_expected = matches!(code, CloseCode::Paused | CloseCode::Hostile)
            || self.membership.may_return(&peer);
        if is_expected {
            // This side has said so before, and one of the two dials on.
            tracing::debug!(%peer, code = code.name(), %reason, "refused a peer");
        } else {
            tracing::warn!(%peer, code = code.name(), %reason, "refused a peer");
        }
        if matches!(code, CloseCode::Revoked | CloseCode::UnknownKey) {
            self.show_out(now, peer, fx);
        }
        fx.closes.push((peer, code, reason));
    }

    fn hello_said(&mut self, now: Now, peer: NodeId, hello: Hello, fx: &mut Effects) {
        let theirs = ProtocolRange { min: hello.protocol_min, max: hello.protocol_max };
        let judged = if let Err(error) = ProtocolRange::OURS.agree(theirs) {
            Err((CloseCode::Protocol, error.to_string()))
        } else if hello.fleet != self.fleet {
            let reason =
                format!("the peer is of fleet {}, this node of {}", hello.fleet, self.fleet);
            Err((CloseCode::WrongFleet, reason))
        } else {
            self.judge(now, &peer)
        };
        if let Err((code, reason)) = judged {
            self.refuse(now, peer, code, reason, fx);
            return;
        }
        if !self.exchange.has_greeted(&peer) {
            self.greet(peer, fx);
        }
        self.problems.remove(&peer);
        fx.accepted.push(peer);
        tracing::info!(%peer, name = ?hello.name, version = ?hello.version, "peer greeted");
        self.compared.remove(&peer);
        self.statements_told(peer, hello.statements, false, fx);
        self.frontier_told(peer, &hello.frontier, fx);
        let documents = &self.documents;
        self.exchange.accept(now.monotonic, &peer, hello.frontier, documents, &mut fx.frames);
    }

    pub(super) fn frame_received(
        &mut self,
        now: Now,
        peer: NodeId,
        frame: Frame,
        fx: &mut Effects,
    ) {
        if !self.exchange.is_connected(&peer) {
            return;
        }
        let at = now.monotonic;
        if self.is_joining_by(&peer) && !matches!(frame, Frame::Joined { .. }) {
            // An inviter that has let this node in before, unheard, greets it as a member.
            if let Frame::Statements { statements } = frame {
                self.note_statements(statements);
            }
            return;
        }
        let frame = match frame {
            Frame::Hello(hello) => return self.hello_said(now, peer, hello, fx),
            Frame::Join(join) => return self.join_asked(now, peer, join, fx),
            Frame::Joined { contacts } => return self.joined(now, peer, contacts, fx),
            // Statements may come before a greeting: a peer that refuses this node shows first that it was shut
            // out, and a senior admin that a junior has shut out shows first that it has revoked the junior.
            Frame::Statements { statements }
                if self.judge(now, &peer).is_ok() || self.membership.may_return(&peer) =>
            {
                return self.statements_sent(now, peer, &statements, fx);
            }
            frame => frame,
        };
        if !self.exchange.is_greeted(&peer) {
            let reason = "the peer has not greeted".to_owned();
            fx.closes.push((peer, CloseCode::Unexpected, reason));
            return;
        }
        match frame {
            Frame::Links(links) => self.exchange.links_told(at, &peer, links, &mut fx.frames),
            Frame::Heads { documents, answer } if is_more_than_one_tells(&documents) => {
                let reason = "it told more heads in one frame than goes into one".to_owned();
                tracing::warn!(%peer, documents = documents.len(), answer, reason);
                self.close_for_offence(now, peer, false, reason, fx);
            }
            Frame::Heads { documents, answer } => {
                let known = |document: &DocumentId| self.is_of_fleet(document);
                let theirs: Vec<_> = documents.into_iter().filter(|d| known(&d.document)).collect();
                self.heads_told(peer, &theirs, fx);
                let theirs = self.useful(&peer, theirs);
                self.exchange.heads_told(
                    at,
                    &peer,
                    theirs,
                    answer,
                    &self.documents,
                    &mut fx.frames,
                );
            }
            Frame::Want(want) => {
                self.exchange.wanted(at, &peer, want, &self.documents, &mut fx.frames);
            }
            Frame::Known { statements, answer } => {
                self.statements_known(peer, statements, answer, fx);
            }
            Frame::Check { frontier, statements } => {
                self.statements_told(peer, statements, true, fx);
                self.frontier_told(peer, &frontier, fx);
                self.exchange.checked(&peer, frontier, &self.documents, &mut fx.frames);
            }
            Frame::Changes { document, changes, vouchers } => {
                self.changes_sent(now, peer, document, (&changes, &vouchers), fx);
            }
            frame @ (Frame::Sync { .. } | Frame::Snapshot { .. }) => {
                self.read_here(now, &peer, frame, fx);
            }
            Frame::Open { .. }
            | Frame::Hello(_)
            | Frame::Join(_)
            | Frame::Joined { .. }
            | Frame::Statements { .. } => {
                let reason = "a frame came out of turn".to_owned();
                fx.closes.push((peer, CloseCode::Unexpected, reason));
            }
        }
    }

    /// Tells whether a document belongs to this fleet, as far as its members are known here.
    ///
    /// One that is awaited from the store is left alone: what a peer has of it may be less.
    fn is_of_fleet(&self, document: &DocumentId) -> bool {
        if self.reloading.contains(document) {
            return false;
        }
        match document {
            DocumentId::Fleet(_) => false,
            DocumentId::Host { host, epoch } => {
                self.is_epoch(*host, *epoch)
                    && self.members.contains_key(host)
                    && self.exchange.is_shared(document)
            }
        }
    }

    /// Tells whether what the peer sends of a document is taken in at all.
    pub(super) fn may_write_to(&self, peer: &NodeId, document: &DocumentId) -> bool {
        let is_own = document.host() == Some(*peer);
        let reads_only = self.members.get(peer).is_none_or(|it| it.role == Role::Reader && !is_own);
        if reads_only {
            tracing::debug!(%peer, %document, "ignored what a reader sent");
        }
        !reads_only && self.is_of_fleet(document)
    }

    fn changes_sent(
        &mut self,
        now: Now,
        peer: NodeId,
        document: DocumentId,
        sent: (&[Vec<u8>], &[Voucher]),
        fx: &mut Effects,
    ) {
        if !self.may_write_to(&peer, &document) || self.changes_elsewhere(now, peer, document, sent)
        {
            return;
        }
        let applied = self.exchange.changes_sent(
            now.monotonic,
            &peer,
            document,
            sent,
            (&mut self.documents, &self.trust),
            &mut fx.frames,
        );
        self.merged(now, peer, document, applied, Sent::Changes(sent.0), fx);
    }

    pub(super) fn merged(
        &mut self,
        now: Now,
        peer: NodeId,
        document: DocumentId,
        applied: Result<Applied, ApplyError>,
        sent: Sent<'_>,
        fx: &mut Effects,
    ) {
        match applied {
            Ok(mut applied) => {
                self.left_out(now, peer, document, &applied.left_out, fx);
                self.absorb(now, document, &mut applied, Some(peer), fx);
                self.end_branches(now, document, fx);
                self.notice_split(now, document, &applied, fx);
            }
            Err(error) => self.contain(now, peer, document, &error, sent, fx),
        }
    }

    /// Ends the branches of a document, if there are many: what others hold of a node that writes beside
    /// itself and this one does not, they take from each other from then on.
    fn end_branches(&mut self, now: Now, id: DocumentId, fx: &mut Effects) {
        let (writes, by_host) = (self.may_write().is_ok(), id.host() == Some(self.node));
        let document = self.documents.get_mut(&id).filter(|_| writes && id.host().is_some());
        let Some(document) = document else { return };
        match document.end_branches(now.wall_ms, by_host) {
            Ok(Some(mut applied)) => self.absorb(now, id, &mut applied, None, fx),
            Ok(None) => {}
            Err(problem) => tracing::error!(document = %id, %problem, "can't end branches"),
        }
    }

    /// Takes back a document that was thrown away, as the store has it.
    pub(super) fn document_reloaded(&mut self, now: Now, stored: StoredDocument, fx: &mut Effects) {
        let Some(stored) = self.epoch_reloaded(now, stored, fx) else { return };
        let id = stored.id;
        if !self.reloading.remove(&id) {
            // The fleet that it belonged to was left meanwhile.
            return;
        }
        let loaded = self.load(stored);
        let mut touched = view::Touched::default();
        if let Some(host) = id.host() {
            // What is shown and not stored was never acknowledged, and goes.
            self.clear_shown(host, &mut touched);
            self.relayer(host, None);
            if let Some(document) = self.host_document(host) {
                read_all(document, host, &mut touched);
            }
        }
        match loaded {
            Ok(()) => {
                tracing::info!(document = %id, "rebuilt the document from the store");
                self.read_descriptions(fx);
                self.members_changed(now, Origin::Store, fx);
                self.publish(now, touched, Origin::Store, BTreeSet::new(), fx);
                self.host_work.look_again();
            }
            Err(error) => {
                tracing::error!(document = %id, %error, "can't rebuild the document");
                // A peer's copy takes its place; until then nothing of it is shown, or what that
                // copy lacks would stay for ever.
                self.publish(now, touched, Origin::Store, BTreeSet::new(), fx);
                if id == self.own_document() {
                    // Nothing can be written any more, and no peer is asked for what is one's own.
                    fx.unreadable = Some(error.to_string());
                }
            }
        }
    }
}

/// Tells whether heads were told that no honest node puts into one frame: each is looked up.
fn is_more_than_one_tells(documents: &[DocumentHeads]) -> bool {
    let heads: usize = documents.iter().map(|told| told.heads.len()).sum();
    documents.len() > 1 && documents.len() + heads > HEADS_AT_ONCE
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::replica::{
        command::{Command, NewSession, Refusal, Reply, Target},
        diff::{CauseKind, Event},
        effect::{Input, RequestId, Stored, Write},
        machine::testing::startup,
    };

    fn at(seconds: u64) -> Now {
        Now { monotonic: Duration::from_secs(seconds), wall_ms: 0 }
    }

    fn ask(replica: &mut Replica, command: Command) -> (Result<Reply, Refusal>, Effects) {
        let request = RequestId(1);
        let mut fx = replica.handle(at(1), Input::Requested { request, command });
        (fx.replies.remove(0).1, fx)
    }

    fn create(replica: &mut Replica, id: &str) -> Effects {
        let id = Some(id.parse().unwrap());
        let (reply, fx) =
            ask(replica, Command::CreateSession(NewSession { id, ..NewSession::default() }));
        assert!(reply.is_ok());
        fx
    }

    fn changes_of(document: DocumentId, fx: &Effects) -> Vec<Vec<u8>> {
        let of = |write: &Write| match write {
            Write::Change { document: of, bytes } if *of == document => Some(bytes.clone()),
            _ => None,
        };
        fx.writes.iter().filter_map(of).collect()
    }

    #[test]
    fn a_document_that_was_thrown_away_is_left_alone_until_the_store_has_given_it_back() {
        let (mut replica, fx) = Replica::open(startup(), Stored::default(), at(0)).unwrap();
        let id = replica.own_document();
        let mut changes = changes_of(id, &fx);
        changes.extend(changes_of(id, &create(&mut replica, "kept")));
        let session = Target::new("kept".parse().unwrap());
        let delete = Command::DeleteSession { session, dry_run: false };
        changes.extend(changes_of(id, &ask(&mut replica, delete).1));
        create(&mut replica, "not_stored");

        let mut fx = Effects::default();
        let message = || "an assertion".to_owned();
        let (panicked, broken) = (
            ApplyError::Panicked { document: id, message: message() },
            ApplyError::Broken { document: id, message: message() },
        );
        let sent = Sent::Message(b"a message");
        replica.contain(at(2), NodeId([2; 32]), id, &panicked, sent, &mut fx);
        assert!(fx.reloads.is_empty(), "what was not touched is not thrown away");
        replica.contain(at(2), NodeId([2; 32]), id, &broken, sent, &mut fx);
        replica.contain(at(2), NodeId([3; 32]), id, &broken, sent, &mut fx);
        assert_eq!(fx.reloads, [id], "it is asked for once");
        assert_eq!(fx.evidence.len(), 3);
        assert!(fx.evidence.iter().all(|it| it.bytes == b"a message"));
        // What a peer has of it may be less than the store has.
        assert!(!replica.is_of_fleet(&id));
        let (refused, _) = ask(&mut replica, Command::CreateSession(NewSession::default()));
        assert_eq!(refused, Err(Refusal::HostNotReady(replica.node)));
        // The undo window is over, and nothing can be purged yet: no busy wait.
        let fx = replica.handle(at(60), Input::TimePassed);
        assert!(fx.writes.is_empty());
        assert_eq!(replica.due(), None);

        let stored = StoredDocument { id, snapshot: None, changes, vouchers: Vec::new() };
        let fx = replica.handle(at(61), Input::DocumentReloaded(stored));
        let [reloaded, purged] = &fx.diffs[..] else { panic!("{:?}", fx.diffs) };
        assert_eq!(reloaded.diff.cause.kind, CauseKind::Load);
        let gone = |event: &Event| match event {
            Event::SessionPurged { session } => session.id.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(reloaded.diff.events.iter().map(gone).collect::<Vec<_>>(), ["not_stored"]);
        assert_eq!(purged.diff.events.iter().map(gone).collect::<Vec<_>>(), ["kept"]);
        assert_eq!(*replica.view(), replica.reread());
        assert!(replica.is_of_fleet(&id));
        create(&mut replica, "after");
    }

    const NOW: Now = Now { monotonic: Duration::ZERO, wall_ms: 0 };

    fn replica() -> Replica {
        Replica::open(startup(), Stored::default(), NOW).unwrap().0
    }

    #[test]
    fn strangers_that_come_and_go_leave_nothing_behind() {
        let mut replica = replica();
        for byte in 2..100 {
            let peer = NodeId([byte; 32]);
            let reason = "gone".to_owned();
            replica.handle(NOW, Input::PeerConnected { peer });
            replica.handle(NOW, Input::PeerLost { peer, code: None, reason: reason.clone() });
            replica.handle(NOW, Input::DialFailed { peer, reason });
        }
        assert!(replica.problems.is_empty());
    }

    #[test]
    fn what_a_document_showed_that_cannot_be_rebuilt_is_shown_no_more() {
        let mut replica = replica();
        let command = Command::CreateSession(NewSession::default());
        replica.handle(NOW, Input::Requested { request: RequestId(0), command });
        assert_eq!(replica.view().sessions().count(), 1);
        let id = replica.own_document();
        replica.documents.remove(&id);
        replica.reloading.insert(id);
        let stored = StoredDocument {
            id,
            snapshot: Some(vec![1, 2, 3]),
            changes: Vec::new(),
            vouchers: Vec::new(),
        };
        let fx = replica.handle(NOW, Input::DocumentReloaded(stored));
        assert_eq!(fx.diffs.len(), 1);
        assert_eq!(replica.view().sessions().count(), 0);
        assert!(fx.unreadable.is_some(), "a node can't go on without its own document");
    }
}
