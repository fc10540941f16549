//! Owns the statements about membership at this node: making them, exchanging them, and taking over
//! what they come to.
//!
//! Must not know who may let whom in. Invariants: a statement of this node's is durable before a peer
//! is told of it, or a crash would have it sign another one in its place; only the node that it shuts out hears
//! of it at once, since that link ends. What a peer sends is held only with its author's signature.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{
    command::Refusal,
    document::Document,
    effect::{Effects, Now, Outgoing, Write},
    ids::{FleetId, NodeId, StatementHash},
    membership::{
        evaluate::{Belonging, Membership, evaluate},
        set::{Offered, STATEMENTS_MAX, STATEMENTS_RESERVED, StatementSet},
        statement::{Act, NAME_BYTES_MAX, Statement, StatementError, is_name},
    },
    record::{Member, Revocation, Role},
    voucher::Keyring,
};
use super::{Origin, Replica};
use crate::wire::{CloseCode, Frame, limits::STATEMENTS_AT_ONCE_MAX};

/// How long after a key was shown that it is shut out it is shown that again at the soonest: it dials on, and
/// a frame may get lost with its link.
const SHOWN_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// How many statements of 256 bytes go into a frame to a peer that may take its sender for a stranger: such a
/// frame has at most 64 KiB.
const ANSWERS_AT_ONCE: usize = 200;
/// How many keys are remembered that were shown it; more have to wait.
const SHOWN_OUT_MAX: usize = 1_024;

impl Replica {
    /// Makes a statement of this node's, and tells peers once it is durable.
    pub(super) fn state(&mut self, now: Now, act: Act, fx: &mut Effects) -> Result<(), Refusal> {
        let lets_in = matches!(act, Act::Admitted { .. } | Act::Promoted { .. });
        let most = STATEMENTS_MAX - if lets_in { STATEMENTS_RESERVED } else { 0 };
        if self.statements.held().len() >= most {
            return Err(Refusal::FleetFull { statements: self.statements.held().len() });
        }
        let is_chained = !matches!(act, Act::Left { .. });
        let previous = if is_chained { self.statements.newest(&self.node) } else { None };
        let (fleet, wall_ms) = (self.fleet, now.wall_ms);
        let statement =
            Statement::sign(self.trust.keyring(), fleet, self.node, previous, wall_ms, act);
        let before = self.statements.held().len();
        let cut_off = self.cut_off_by(&statement.act);
        let offered = self.statements.offer(statement, |_| false);
        debug_assert_eq!(offered, Offered::Held, "a node's own statement follows its last");
        self.keep_statements(before, fx);
        // The link to who is shut out ends now; what it hears it can only bring back.
        fx.frames.extend(self.frames_of(before, cut_off.into_iter().collect()));
        let mut others = self.exchange.to_tell(&[self.node], None);
        others.retain(|peer| Some(*peer) != cut_off);
        fx.frames_durable.extend(self.frames_of(before, others));
        self.members_changed(now, Origin::Here, fx);
        Ok(())
    }

    /// Begins a set of statements with the founding of a fleet by this node.
    pub(super) fn found(&mut self, now: Now, fx: &mut Effects) {
        let mut nonce = [0; 16];
        self.random.fill(&mut nonce);
        let name = self.free_name(&self.name, &self.node);
        let keyring = self.trust.keyring();
        let (fleet, founding) = Statement::found(keyring, self.node, now.wall_ms, nonce, name);
        let mut set = StatementSet::new(fleet);
        let offered = set.offer(founding, |_| false);
        debug_assert_eq!(offered, Offered::Held, "a founding builds on nothing");
        self.adopt_statements(set, fx);
    }

    /// Belongs to the fleet of these statements from now on.
    pub(super) fn adopt_statements(&mut self, set: StatementSet, fx: &mut Effects) {
        self.fleet = set.fleet();
        self.statements = set;
        self.compared.clear();
        fx.writes.push(Write::Fleet(self.fleet));
        self.keep_statements(0, fx);
    }

    /// Reads back what was stored; `None` if the fleet's founding is not among it.
    pub fn statements_of(fleet: FleetId, stored: &[Vec<u8>]) -> Option<StatementSet> {
        let mut set = StatementSet::new(fleet);
        for bytes in stored {
            match Statement::decode_unchecked(bytes, fleet) {
                Ok(statement) => {
                    set.offer(statement, |_| false);
                }
                Err(error) => tracing::error!(%error, "left out a stored statement"),
            }
        }
        set.founder().is_some().then_some(set)
    }

    fn keep_statements(&self, from: usize, fx: &mut Effects) {
        let held = self.statements.held().iter().enumerate().skip(from);
        fx.writes.extend(held.map(|(number, held)| Write::Statement {
            number: number as u64,
            bytes: held.statement.encode(),
        }));
    }

    fn frames_of(&self, from: usize, to: Vec<NodeId>) -> Vec<Outgoing> {
        let new = self.statements.held()[from..].iter().map(|held| &held.statement);
        if to.is_empty() { Vec::new() } else { in_frames(new, &to) }
    }

    /// Returns what a new node is told before it is let in.
    pub(super) fn all_statements(&self, peer: NodeId) -> Vec<Outgoing> {
        self.frames_of(0, vec![peer])
    }

    /// Takes over what the statements now say, and cuts off who no longer belongs.
    pub(super) fn members_changed(&mut self, now: Now, origin: Origin, fx: &mut Effects) {
        self.read_members(fx);
        self.drop_what_strangers_host(fx);
        self.hide_and_show(now, origin, fx);
        let connected: Vec<NodeId> = self.exchange.peers().collect();
        for peer in connected {
            if fx.closes.iter().any(|(closed, ..)| *closed == peer) {
                continue;
            }
            match self.members.get(&peer) {
                Some(member) if member.revoked.is_some() => {
                    fx.closes.push((peer, CloseCode::Revoked, self.shut_out_by(&peer)));
                }
                Some(member) if member.left => {
                    fx.closes.push((peer, CloseCode::Left, "left the fleet".to_owned()));
                }
                // Let in by a statement that does not count any more.
                None if self.exchange.is_greeted(&peer) => {
                    let reason = "this key is not a member of the fleet".to_owned();
                    fx.closes.push((peer, CloseCode::UnknownKey, reason));
                }
                _ => {}
            }
        }
        self.look_for_loose_ends(now);
    }

    pub(super) fn read_members(&mut self, fx: &mut Effects) {
        let before = self.members.get(&self.node).and_then(|own| own.revoked.clone());
        self.membership = evaluate(&self.statements);
        self.members = members_of(&self.membership);
        self.note_own_revocation(before);
        self.hiding.read(self.node, &self.members);
        self.reach_changed = true;
        let knew: BTreeSet<NodeId> = self.trust.nodes().collect();
        self.trust.learn(self.members.values());
        if !knew.is_empty() {
            let known = self.trust.nodes().filter(|node| !knew.contains(node));
            let known = known.map(|node| node.fingerprint()).collect();
            self.check_words_of(&known, fx);
        }
        self.exchange.set_members(self.linkable());
        self.exchange.set_statements(self.statements.digest());
        // What a reader has written before it was one, nobody takes in.
        let own = self.documents.get(&self.own_document());
        let is_taken = self.role() != Role::Reader || own.is_some_and(Document::is_of_reader);
        let unshared = (!is_taken).then_some(self.node);
        // What a reader says of itself nobody can build on, once its own word does not count.
        let revoked = |it: &&Member| it.role == Role::Reader && it.revoked.is_some();
        let revoked = self.members.values().filter(revoked).map(|member| member.node);
        let hidden = self.hiding.hidden();
        self.exchange.unshare(unshared.into_iter().chain(revoked).chain(hidden).collect());
    }

    /// Compares the statements with a peer's, and tells it which are held here if they differ.
    ///
    /// Two that have told each other all and still differ hold what the other one leaves out.
    pub(super) fn statements_told(
        &mut self,
        peer: NodeId,
        theirs: [u8; 32],
        answer: bool,
        fx: &mut Effects,
    ) {
        let digest = self.statements.digest();
        if theirs == digest
            || self.compared.insert(peer, (digest, theirs)) == Some((digest, theirs))
        {
            return;
        }
        let frame = Frame::Known { statements: self.statements.hashes().collect(), answer };
        fx.frames.push(Outgoing { to: vec![peer], frame });
    }

    /// Sends a peer the statements that it lacks.
    pub(super) fn statements_known(
        &mut self,
        peer: NodeId,
        theirs: Vec<StatementHash>,
        answer: bool,
        fx: &mut Effects,
    ) {
        let theirs: BTreeSet<StatementHash> = theirs.into_iter().collect();
        fx.frames.extend(in_frames(self.statements.lacked_by(&theirs), &[peer]));
        if answer {
            let frame =
                Frame::Known { statements: self.statements.hashes().collect(), answer: false };
            fx.frames.push(Outgoing { to: vec![peer], frame });
        }
    }

    /// Sends a key that is no member's what shows that, before its link is closed: its daemon may have slept
    /// through it. It is signed, so nobody is deceived; a key that no statement names is sent nothing.
    pub(super) fn show_out(&mut self, now: Now, peer: NodeId, fx: &mut Effects) {
        let at = now.monotonic;
        self.shown_out.retain(|_, shown| *shown + SHOWN_AGAIN_AFTER > at);
        if self.shown_out.contains_key(&peer) || self.shown_out.len() >= SHOWN_OUT_MAX {
            return;
        }
        let shown = self.statements.shown_out(&peer);
        if shown.is_empty() || shown.len() > STATEMENTS_AT_ONCE_MAX {
            return;
        }
        fx.frames.extend(in_frames(shown.into_iter(), &[peer]));
        self.shown_out.insert(peer, at);
    }

    /// Tells whether this node, which a junior has shut out, may shut that one out.
    pub(super) fn may_answer(&self, junior: &NodeId) -> bool {
        self.membership.may_answer(&self.node, junior)
    }

    /// Shows a peer, before the greeting, what this node has said against its having been shut out: the peer
    /// may still take it for one that was.
    pub(super) fn tell_answers(&self, peer: NodeId, fx: &mut Effects) {
        for some in self.statements.answers(&self.node).chunks(ANSWERS_AT_ONCE) {
            fx.frames.extend(in_frames(some.iter().copied(), &[peer]));
        }
    }

    /// Says in the log, once, that this node was shut out.
    fn note_own_revocation(&self, before: Option<Revocation>) {
        let Some(own) = self.shut_out() else { return };
        if before.is_none_or(|before| before.retired != own.is_retired) {
            let (what, by) = (own.verb(), own.by);
            tracing::warn!(
                fleet = %self.fleet,
                "this node was {what} from its fleet by {by}: no other node exchanges anything with it; leave with \
                 `sessionmesh leave`; to come back it needs a new key and a ticket, or, where a junior admin has done \
                 it, to shut that one out in turn: `sessionmesh peer revoke NAME`"
            );
        }
    }

    /// Takes in the statements that a peer sent, and passes on those that are news.
    pub(super) fn statements_sent(
        &mut self,
        now: Now,
        peer: NodeId,
        sent: &[Vec<u8>],
        fx: &mut Effects,
    ) {
        let before = self.statements.held().len();
        for bytes in sent {
            let statement = match read_statement(&self.statements, bytes, self.trust.keyring()) {
                Ok(Some(statement)) => statement,
                Ok(None) => continue,
                Err(error) => {
                    // No honest peer holds it: each checks what it passes on.
                    let reason = error.to_string();
                    self.close_for_offence(now, peer, false, reason, fx);
                    break;
                }
            };
            let author = statement.author;
            let membership = &self.membership;
            let offered = self.statements.offer(statement, |node| membership.is_closed(node));
            if let Offered::Refused(why) = offered {
                tracing::warn!(%peer, %author, %why, "left out a statement about membership");
            }
        }
        if self.statements.held().len() == before {
            return;
        }
        self.keep_statements(before, fx);
        let new = self.statements.held()[before..].iter().map(|held| &held.statement);
        let authors: Vec<NodeId> = new.clone().map(|statement| statement.author).collect();
        // Who is shut out has lost its link to the author, and hears it from its other peers.
        let cut_off: Vec<NodeId> = new.filter_map(|it| self.cut_off_by(&it.act)).collect();
        let mut to = self.exchange.to_tell(&authors, Some(peer));
        to.extend(cut_off.into_iter().filter(|node| *node != peer));
        to.sort_unstable();
        to.dedup();
        fx.frames.extend(self.frames_of(before, to));
        self.members_changed(now, Origin::Peer(peer), fx);
    }

    /// Returns the peer whose link a statement ends.
    fn cut_off_by(&self, act: &Act) -> Option<NodeId> {
        match act {
            Act::Revoked { node, .. } if self.exchange.is_greeted(node) => Some(*node),
            _ => None,
        }
    }

    /// Returns a name that an admin may let a node in under: the one it has, if that is free.
    pub(super) fn free_name(&self, wanted: &str, node: &NodeId) -> String {
        let key = node.to_string();
        let mut name = wanted.trim().to_owned();
        name.retain(|c| !c.is_control());
        if name.is_empty() {
            name.push_str("node");
        }
        shorten(&mut name, NAME_BYTES_MAX);
        let is_taken = |name: &str| {
            let has = |member: &Member| member.name == name && member.node != *node;
            self.members.values().any(|member| member.is_current() && has(member))
        };
        let (given, mut digits) = (name.clone(), 6);
        while (!is_name(&name) || is_taken(&name)) && digits < 32 {
            let ending = format!("-{}", &key[..digits]);
            name.clone_from(&given);
            shorten(&mut name, NAME_BYTES_MAX - ending.len());
            name.push_str(&ending);
            digits += 1;
        }
        name
    }
}

/// Reads a statement and checks it, unless it is held already.
fn read_statement(
    held: &StatementSet,
    bytes: &[u8],
    keyring: &dyn Keyring,
) -> Result<Option<Statement>, StatementError> {
    let fleet = held.fleet();
    // A signature takes far longer to check than a hash.
    let unchecked = Statement::decode_unchecked(bytes, fleet)?;
    if held.get(&unchecked.hash()).is_some() {
        return Ok(None);
    }
    Statement::decode(bytes, fleet, keyring).map(Some)
}

/// Builds a set from what the node that lets this one in has sent.
pub(super) fn set_of(
    fleet: FleetId,
    sent: &[Vec<u8>],
    keyring: &dyn Keyring,
) -> Result<StatementSet, StatementError> {
    let mut set = StatementSet::new(fleet);
    for bytes in sent {
        if let Some(statement) = read_statement(&set, bytes, keyring)? {
            set.offer(statement, |_| false);
        }
    }
    Ok(set)
}

fn in_frames<'a>(statements: impl Iterator<Item = &'a Statement>, to: &[NodeId]) -> Vec<Outgoing> {
    let statements: Vec<Vec<u8>> = statements.map(Statement::encode).collect();
    let frame = |part: &[Vec<u8>]| Frame::Statements { statements: part.to_vec() };
    let parts = statements.chunks(STATEMENTS_AT_ONCE_MAX);
    parts.map(|part| Outgoing { to: to.to_vec(), frame: frame(part) }).collect()
}

fn shorten(name: &mut String, bytes_max: usize) {
    while name.len() > bytes_max {
        name.pop();
    }
    name.truncate(name.trim_end().len());
}

/// Returns the members as people are told of them, former ones too.
fn members_of(membership: &Membership) -> BTreeMap<NodeId, Member> {
    membership.nodes.iter().map(|(node, it)| (*node, member(*node, it))).collect()
}

fn member(node: NodeId, belonging: &Belonging) -> Member {
    Member {
        node,
        name: belonging.name.clone(),
        role: belonging.role,
        added_by: belonging.added_by,
        added_at: belonging.added_at,
        revoked: belonging.removal.as_ref().map(|it| Revocation {
            by: it.by,
            at: it.at,
            retired: it.retire,
        }),
        left: belonging.admissions.is_empty(),
    }
}
