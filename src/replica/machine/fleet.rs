//! Owns who belongs to the fleet: founding it, letting nodes in, leaving, pausing, shutting out.
//!
//! Must not know how a node is reached. Invariants: of all who redeem one invite exactly one node
//! gets in; a revoked key never comes back; a node is told that it is in only when that is durable.

use std::{collections::BTreeSet, time::Duration};

use super::super::{
    command::{Refusal, Reply},
    effect::{Effects, Now, Outgoing, RequestId, Write},
    ids::{Cursor, DocumentId, FleetId, NodeId},
    invite::{StoredInvite, Ticket, secret_hash},
    membership::{
        evaluate::evaluate,
        set::{STATEMENTS_MAX, StatementSet},
        statement::{Act, StatementError},
    },
    record::{ADDRESSES_MAX, Member, Role},
};
use super::{Replica, names::check_title, reach::is_address, statements::set_of};
use crate::wire::{CloseCode, Contact, Frame, Join, PROTOCOL, PROTOCOL_MIN, ProtocolRange};

/// How long a join may take: several dials at every address of the ticket.
const JOIN_WITHIN: Duration = Duration::from_secs(20);
/// How many invites may be open at once; the oldest make room.
const INVITES_MAX: usize = 1_024;
/// Longest an invite may be good for.
const INVITE_WITHIN_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

/// A join that this node has asked for and that is not yet answered.
#[derive(Debug, Clone)]
pub struct Joining {
    pub(super) ticket: Ticket,
    request: RequestId,
    pub(super) until: Duration,
    /// Whether it was asked on the link that is up: an older one may still be about to end.
    asked: bool,
    /// What last stood in the way.
    pub(super) problem: String,
    /// The statements that the inviting node has sent.
    statements: Vec<Vec<u8>>,
}

impl Replica {
    /// Begins a fleet of which this node is the only member, and admin.
    pub(super) fn found_fleet(&mut self, now: Now, fx: &mut Effects) {
        self.found(now, fx);
        self.read_members(fx);
        self.look_for_loose_ends(now);
    }

    /// Begins a fleet of its own in place of one whose members were known in another way: by a version
    /// before statements, or by a store that has lost them.
    pub(super) fn stand_alone(&mut self, now: Now, before: FleetId, fx: &mut Effects) {
        self.drop_what_others_host(fx);
        self.forget_invites(fx);
        fx.writes.push(Write::Forget { document: DocumentId::Fleet(before) });
        self.found_fleet(now, fx);
        self.left_alone = true;
        tracing::warn!(
            %before,
            fleet = %self.fleet,
            "this node's members were stored by an earlier version: it stands alone in a new fleet, with \
             its own sessions and workspaces; invite the others again with `sessionmesh invite`"
        );
    }

    fn may_admit(&self) -> Result<(), Refusal> {
        if let Some(own) = self.shut_out() {
            return Err(Refusal::ThisNodeRevoked { what: own.verb(), by: own.by });
        }
        if self.role() == Role::Admin { Ok(()) } else { Err(Refusal::NotAdmin) }
    }

    pub(super) fn invite(
        &mut self,
        now: Now,
        role: Role,
        expires_in: Duration,
        secret: [u8; 32],
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_admit()?;
        let expires_in = expires_in.min(INVITE_WITHIN_MAX);
        let expires_in_ms = i64::try_from(expires_in.as_millis()).unwrap_or(i64::MAX);
        let invite = StoredInvite {
            role,
            expires_at: now.wall_ms.saturating_add(expires_in_ms),
            redeemed_by: None,
        };
        self.forget_old_invites(now, fx);
        let hash = secret_hash(&secret);
        let expires_at = invite.expires_at;
        fx.writes.push(Write::Invite { secret_hash: hash, invite: Some(invite.clone()) });
        self.invites.insert(hash, invite);
        Ok(Reply::Invited(Ticket {
            fleet: self.fleet,
            inviter: self.node,
            addresses: self.addresses.clone(),
            secret,
            role,
            expires_at,
        }))
    }

    /// Makes room for one more invite: those past their time go first, then those next to expire.
    fn forget_old_invites(&mut self, now: Now, fx: &mut Effects) {
        let mut by_expiry: Vec<(i64, [u8; 32])> =
            self.invites.iter().map(|(hash, invite)| (invite.expires_at, *hash)).collect();
        by_expiry.sort_unstable();
        let crowded = (by_expiry.len() + 1).saturating_sub(INVITES_MAX);
        // A redeemed invite is remembered for a while, so that its node may ask again.
        let day_ms = 24 * 3_600 * 1_000;
        for (index, (expires_at, hash)) in by_expiry.into_iter().enumerate() {
            if index < crowded || expires_at.saturating_add(day_ms) < now.wall_ms {
                self.invites.remove(&hash);
                fx.writes.push(Write::Invite { secret_hash: hash, invite: None });
            }
        }
    }

    /// Starts to join another fleet; answered when the other side has.
    pub(super) fn join(
        &mut self,
        now: Now,
        request: RequestId,
        ticket: Ticket,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        if ticket.inviter == self.node {
            return Err(Refusal::Oneself(self.name.clone()));
        }
        if self.joining.is_some() {
            return Err(Refusal::JoinUnderWay);
        }
        if !self.is_alone() {
            return Err(Refusal::NotAlone);
        }
        let inviter = ticket.inviter;
        self.reach_changed = true;
        self.joining = Some(Joining {
            ticket,
            request,
            until: now.monotonic + JOIN_WITHIN,
            asked: false,
            problem: "no answer".to_owned(),
            statements: Vec::new(),
        });
        if self.exchange.is_connected(&inviter) {
            self.ask_to_join(inviter, fx);
        }
        Ok(())
    }

    fn is_alone(&self) -> bool {
        let others = |member: &&Member| member.node != self.node && member.is_current();
        self.members.values().find(others).is_none()
    }

    pub(super) fn ask_to_join(&mut self, peer: NodeId, fx: &mut Effects) -> bool {
        let Some(Joining { ticket, asked, .. }) = &mut self.joining else { return false };
        if ticket.inviter != peer {
            return false;
        }
        *asked = true;
        fx.accepted.push(peer);
        let frame = Frame::Join(Join {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL,
            fleet: ticket.fleet,
            secret: ticket.secret,
            name: self.name.clone(),
            addresses: self.addresses.iter().take(ADDRESSES_MAX).cloned().collect(),
        });
        fx.frames.push(Outgoing { to: vec![peer], frame });
        true
    }

    /// Tells whether this node awaits an answer of that one to being let in.
    pub(super) fn is_joining_by(&self, peer: &NodeId) -> bool {
        self.joining.as_ref().is_some_and(|joining| joining.ticket.inviter == *peer)
    }

    pub(super) fn join_timed_out(&mut self, now: Now, fx: &mut Effects) {
        if self.joining.as_ref().is_some_and(|joining| joining.until <= now.monotonic)
            && let Some(Joining { request, problem, .. }) = self.joining.take()
        {
            self.reach_changed = true;
            fx.replies.push((request, Err(Refusal::JoinUnreachable(problem))));
        }
    }

    /// Takes note of why the inviting node was not reached, or ends the join if it refused.
    pub(super) fn join_failed(
        &mut self,
        peer: NodeId,
        code: Option<CloseCode>,
        reason: &str,
        fx: &mut Effects,
    ) {
        let Some(joining) = &mut self.joining else { return };
        if joining.ticket.inviter != peer || !std::mem::take(&mut joining.asked) {
            return;
        }
        let Some(code) = code.filter(|code| code.is_refusal()) else {
            joining.problem = reason.to_owned();
            return;
        };
        let refusal =
            Refusal::JoinRefused { code: code.name().to_owned(), reason: reason.to_owned() };
        if let Some(Joining { request, .. }) = self.joining.take() {
            self.reach_changed = true;
            fx.replies.push((request, Err(refusal)));
        }
    }

    /// Judges a new node that asks to be let in.
    pub(super) fn join_asked(&mut self, now: Now, peer: NodeId, join: Join, fx: &mut Effects) {
        match self.admit(now, peer, join, fx) {
            Ok(()) => {}
            Err((code, reason)) => {
                tracing::warn!(%peer, code = code.name(), %reason, "refused a join");
                fx.closes.push((peer, code, reason));
            }
        }
    }

    fn admit(
        &mut self,
        now: Now,
        peer: NodeId,
        join: Join,
        fx: &mut Effects,
    ) -> Result<(), (CloseCode, String)> {
        if join.fleet != self.fleet {
            return Err((
                CloseCode::WrongFleet,
                format!("the ticket is for fleet {}, this is {}", join.fleet, self.fleet),
            ));
        }
        if self.joining.is_some() {
            // Whoever is let in now would be left behind; it asks again until this is decided.
            let reason = "this node is about to join another fleet itself".to_owned();
            return Err((CloseCode::Unexpected, reason));
        }
        let theirs = ProtocolRange { min: join.protocol_min, max: join.protocol_max };
        ProtocolRange::OURS.agree(theirs).map_err(|e| (CloseCode::Protocol, e.to_string()))?;
        let hash = secret_hash(&join.secret);
        let Some(invite) = self.invites.get(&hash).cloned() else {
            return Err((CloseCode::TicketUnknown, "the ticket is not known here".to_owned()));
        };
        let known = self.members.get(&peer);
        if known.is_some_and(|member| member.revoked.is_some()) {
            return Err((CloseCode::Revoked, self.shut_out_by(&peer)));
        }
        match invite.redeemed_by {
            Some(node) if node != peer => {
                return Err((CloseCode::TicketUsed, "the ticket was already used".to_owned()));
            }
            // It may ask again because the answer was lost, but not to come back.
            Some(_) if !known.is_some_and(Member::is_current) => {
                let reason = "the ticket was already used, and this node has left since".to_owned();
                return Err((CloseCode::TicketUsed, reason));
            }
            Some(_) => {}
            None if invite.expires_at < now.wall_ms => {
                return Err((CloseCode::TicketExpired, "the ticket has expired".to_owned()));
            }
            None => {}
        }
        let name = self.free_name(&join.name, &peer);
        if check_title("name", Some(&name)).is_err() {
            return Err((CloseCode::Malformed, "the node has no usable name".to_owned()));
        }
        if invite.role == Role::Admin && self.has_stepped_down(&peer) {
            let reason = "this key has stepped down as an admin; a new key is needed".to_owned();
            return Err((CloseCode::TicketUnknown, reason));
        }
        let addresses: BTreeSet<String> = join
            .addresses
            .into_iter()
            .filter(|address| is_address(address))
            .take(ADDRESSES_MAX)
            .collect();
        if !known.is_some_and(Member::is_current) {
            let act = Act::Admitted { node: peer, role: invite.role, name };
            self.state(now, act, fx)
                .map_err(|refusal| (CloseCode::Internal, refusal.to_string()))?;
        }
        self.note_contact(peer, addresses, fx);
        let redeemed = StoredInvite { redeemed_by: Some(peer), ..invite };
        fx.writes.push(Write::Invite { secret_hash: hash, invite: Some(redeemed.clone()) });
        self.invites.insert(hash, redeemed);
        tracing::info!(%peer, "let a new node in");
        fx.accepted.push(peer);
        // Whatever was said on the link before, both greet from here on.
        self.exchange.connected(now.monotonic, peer);
        fx.frames_durable.extend(self.all_statements(peer));
        let frame = Frame::Joined { contacts: self.contacts_for(peer) };
        fx.frames_durable.push(Outgoing { to: vec![peer], frame });
        Ok(())
    }

    /// Moves over to the fleet that let this node in.
    pub(super) fn joined(
        &mut self,
        now: Now,
        peer: NodeId,
        contacts: Vec<Contact>,
        fx: &mut Effects,
    ) {
        let Some(joining) = self.joining.take_if(|joining| joining.ticket.inviter == peer) else {
            let reason = "nobody asked to join".to_owned();
            fx.closes.push((peer, CloseCode::Unexpected, reason));
            return;
        };
        self.reach_changed = true;
        let judged = self.judge_statements(joining.ticket.fleet, &joining.statements);
        let set = match judged {
            Ok(Some(set)) => set,
            Ok(None) => {
                let reason = "the inviting node did not list this node".to_owned();
                fx.replies.push((joining.request, Err(Refusal::JoinUnreachable(reason))));
                return;
            }
            Err(error) => {
                let reason = error.to_string();
                fx.replies.push((joining.request, Err(Refusal::JoinUnreachable(reason.clone()))));
                fx.closes.push((peer, CloseCode::Hostile, reason));
                return;
            }
        };
        // What former members of the old fleet host is no part of the new one.
        self.drop_what_others_host(fx);
        self.adopt_statements(set, fx);
        self.forget_invites(fx);
        self.read_members(fx);
        for Contact { node, addresses } in contacts {
            if node != self.node && self.members.contains_key(&node) {
                self.note_contact(node, addresses.into_iter().collect(), fx);
            }
        }
        self.look_for_loose_ends(now);
        tracing::info!(fleet = %self.fleet, inviter = %peer, "joined the fleet");
        fx.replies.push((joining.request, Ok(Reply::Joined(self.fleet))));
        self.greet(peer, fx);
    }

    /// Reads the statements of the fleet that this node joins; `None` if they do not let it in.
    fn judge_statements(
        &self,
        fleet: FleetId,
        sent: &[Vec<u8>],
    ) -> Result<Option<StatementSet>, StatementError> {
        let set = set_of(fleet, sent, self.trust.keyring())?;
        let membership = evaluate(&set);
        let is_in = membership.nodes.get(&self.node).is_some_and(|it| it.is_current());
        Ok(is_in.then_some(set))
    }

    /// Keeps what the inviting node sends before it lets this node in.
    pub(super) fn note_statements(&mut self, statements: Vec<Vec<u8>>) {
        if let Some(joining) = &mut self.joining {
            joining.statements.extend(statements);
            joining.statements.truncate(STATEMENTS_MAX);
        }
    }

    fn forget_invites(&mut self, fx: &mut Effects) {
        for hash in std::mem::take(&mut self.invites).into_keys() {
            fx.writes.push(Write::Invite { secret_hash: hash, invite: None });
        }
    }

    /// Leaves for a new fleet of its own; keeps this node's document, drops the others.
    pub(super) fn leave(&mut self, now: Now, fx: &mut Effects) -> Result<Reply, Refusal> {
        if self.is_alone() {
            return Err(Refusal::Alone);
        }
        self.keep_an_admin()?;
        self.say_to_leave(now, fx);
        let connected: Vec<NodeId> = self.exchange.peers().collect();
        for peer in connected {
            fx.closes.push((peer, CloseCode::Left, "left the fleet".to_owned()));
        }
        // Their ends are still to be told; until then nobody is to ask anything on them.
        self.exchange.disconnect_all();
        self.drop_what_others_host(fx);
        self.reach_changed = true;
        for node in std::mem::take(&mut self.paused) {
            fx.writes.push(Write::Paused { node, paused: false });
        }
        self.forget_invites(fx);
        self.receipts.forget(fx);
        self.problems.clear();
        self.blame.forget();
        self.found_fleet(now, fx);
        tracing::info!(fleet = %self.fleet, "left the fleet; this node is alone in a new one");
        Ok(Reply::Done)
    }

    /// Drops all documents but this node's own, and what they showed.
    fn drop_what_others_host(&mut self, fx: &mut Effects) {
        let own = self.own_document();
        self.drop_documents(|id| *id != own, fx);
        self.forget_descriptions(fx);
        self.epochs.forget_peers();
    }

    /// Drops the documents of nodes that were let in by what does not count any more: no other node
    /// holds them, and what they show is nobody's.
    pub(super) fn drop_what_strangers_host(&mut self, fx: &mut Effects) {
        let known: BTreeSet<NodeId> = self.members.keys().copied().chain([self.node]).collect();
        self.drop_documents(|id| id.host().is_none_or(|host| !known.contains(&host)), fx);
    }

    pub(super) fn drop_documents(&mut self, goes: impl Fn(&DocumentId) -> bool, fx: &mut Effects) {
        let mut shown_no_more = Vec::new();
        for id in self.documents.keys().copied().filter(&goes).collect::<Vec<_>>() {
            self.documents.remove(&id);
            self.exchange.forget(&id);
            fx.writes.push(Write::Forget { document: id });
            if let Some(host) = id.host() {
                self.keep_hidden_no_more(host, fx);
                self.layers.remove(&host);
                shown_no_more.push(self.view.remove_host(host));
            }
        }
        self.reloading.retain(|id| !goes(id));
        if shown_no_more.iter().any(|changes| !changes.is_empty()) {
            self.cursor = Cursor { sequence: self.cursor.sequence + 1, start: self.start };
            fx.writes.push(Write::ResetJournal { cursor: self.cursor });
            fx.reset = true;
        }
    }

    /// States that this node leaves, and before that that it is an admin no more.
    fn say_to_leave(&mut self, now: Now, fx: &mut Effects) {
        let Some(own) = self.membership.nodes.get(&self.node).cloned() else { return };
        if own.removal.is_some() {
            return;
        }
        let steps_down = self.membership.admins.contains(&self.node).then_some(Act::SteppedDown);
        let ends = own.admissions.into_iter().map(|admitted| Act::Left { admitted });
        for act in steps_down.into_iter().chain(ends) {
            if let Err(refusal) = self.state(now, act, fx) {
                tracing::warn!(%refusal, "leaves without a word");
            }
        }
        // The links end now, and this node makes no other statement in this fleet.
        let said = std::mem::take(&mut fx.frames_durable);
        fx.frames.extend(said);
    }

    /// Refuses to take the last admin from a fleet.
    fn keep_an_admin(&self) -> Result<(), Refusal> {
        if self.membership.admins == [self.node] {
            return Err(Refusal::LastAdmin(self.name.clone()));
        }
        Ok(())
    }

    fn has_stepped_down(&self, node: &NodeId) -> bool {
        self.membership.nodes.get(node).is_some_and(|it| it.stepped_down)
    }

    fn find_peer(&self, name: &str) -> Result<Member, Refusal> {
        let node = self.find_node(name)?;
        if node == self.node {
            return Err(Refusal::Oneself(name.to_owned()));
        }
        self.members.get(&node).cloned().ok_or_else(|| Refusal::NodeNotFound(name.to_owned()))
    }

    /// Refuses one that was shut out.
    fn refuse_former(&self, member: &Member) -> Result<(), Refusal> {
        self.refuse_retired(member.node)?;
        match member.revoked {
            Some(_) => Err(Refusal::Revoked(member.name.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn pause(&mut self, name: &str, fx: &mut Effects) -> Result<Reply, Refusal> {
        let member = self.find_peer(name)?;
        if self.paused.insert(member.node) {
            self.reach_changed = true;
            fx.writes.push(Write::Paused { node: member.node, paused: true });
        }
        if self.exchange.is_connected(&member.node) {
            let reason = format!("{} paused syncing", self.name);
            fx.closes.push((member.node, CloseCode::Paused, reason));
        }
        Ok(Reply::Peer(member.node))
    }

    pub(super) fn resume(&mut self, name: &str, fx: &mut Effects) -> Result<Reply, Refusal> {
        let member = self.find_peer(name)?;
        self.refuse_former(&member)?;
        if self.paused.remove(&member.node) {
            self.reach_changed = true;
            fx.writes.push(Write::Paused { node: member.node, paused: false });
        }
        self.problems.remove(&member.node);
        Ok(Reply::Peer(member.node))
    }

    pub(super) fn revoke(
        &mut self,
        now: Now,
        name: &str,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        let answered = self.find_peer(name).is_ok_and(|junior| self.may_answer(&junior.node));
        if !answered {
            self.may_admit()?;
        }
        let member = self.find_peer(name)?;
        if member.revoked.is_none() || answered {
            let mut last = self.membership.nodes.get(&member.node).and_then(|it| it.newest);
            if answered {
                // Or what it has signed against this node would still count.
                last = self.statements.before_removal(last, &self.node);
            }
            let act = Act::Revoked { node: member.node, last, documents: None, retire: false };
            self.state(now, act, fx)?;
        }
        Ok(Reply::Peer(member.node))
    }

    /// Shuts a node out, if it is not yet, and hides what it hosts.
    pub(super) fn retire(
        &mut self,
        now: Now,
        name: &str,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_admit()?;
        let member = match self.find_former(name)? {
            Some(former) => former,
            None => self.find_peer(name)?,
        };
        if self.membership.root() == Some(member.node) {
            return Err(Refusal::IsRoot(member.name));
        }
        if !member.is_retired() {
            let last = self.membership.nodes.get(&member.node).and_then(|it| it.newest);
            let act = Act::Revoked { node: member.node, last, documents: None, retire: true };
            self.state(now, act, fx)?;
        }
        Ok(Reply::Peer(member.node))
    }

    /// Gives a member a greater role.
    pub(super) fn promote(
        &mut self,
        now: Now,
        name: &str,
        role: Role,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_admit()?;
        let member = self.find_peer(name)?;
        self.refuse_former(&member)?;
        if role == Role::Admin && self.has_stepped_down(&member.node) {
            return Err(Refusal::SteppedDown(member.name));
        }
        if role < member.role {
            return Err(Refusal::RoleShrinks { name: member.name, role: member.role.as_str() });
        }
        if role > member.role {
            self.state(now, Act::Promoted { node: member.node, role }, fx)?;
        }
        Ok(Reply::Peer(member.node))
    }

    /// Makes this node an admin no more; it stays a member.
    pub(super) fn step_down(&mut self, now: Now, fx: &mut Effects) -> Result<Reply, Refusal> {
        self.may_admit()?;
        self.keep_an_admin()?;
        self.state(now, Act::SteppedDown, fx)?;
        Ok(Reply::Peer(self.node))
    }
}
