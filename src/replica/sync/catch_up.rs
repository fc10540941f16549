//! Owns bringing two replicas of a document together: what exactly is missing if one side knows
//! the other's heads, the whole document for who has none, automerge's sync protocol else.
//!
//! Must not decide which documents belong to the fleet: its caller does. Invariant: an answer is
//! not given twice to the same question while it may still be on its way.

use std::{collections::VecDeque, time::Duration};

use super::{
    super::{
        document::{Applied, ApplyError, Document, Message},
        guard,
        ids::{ChangeHash, DocumentId, NodeId},
        trust::Trust,
        voucher::Voucher,
    },
    ANSWER_WITHIN, Documents, Exchange, FETCHES_MAX, Out, REFETCH_AFTER, UNFETCHABLE_MAX, push,
    tell_heads, to,
};
use crate::wire::{DocumentHeads, Frame};

/// Most changes that are sent to a peer from the loop, and how many operations they may be: what is
/// more takes milliseconds to put together, and is put together beside it.
const AT_ONCE_CHANGES_MAX: usize = 16;
const AT_ONCE_OPS_MAX: u64 = 1_024;

/// How many messages of automerge's sync protocol may bring nothing, one after the other: an exchange
/// begins with one or two, and one asks for what the Bloom filter left out.
const IDLE_MAX: u8 = 6;

/// Tells whether the same was said so lately that its effect may be on its way.
fn is_recent(
    said: Option<&(Vec<ChangeHash>, Duration)>,
    heads: &[ChangeHash],
    now: Duration,
) -> bool {
    said.is_some_and(|(said, at)| said == heads && *at + ANSWER_WITHIN > now)
}

/// Returns what a peer with these heads lacks of a document, whole if it is much, or if it has
/// nothing; `None` if it lacks nothing.
fn missing(document: &Document, heads: &[ChangeHash]) -> Option<Frame> {
    // Decoding more than go into a frame would be for nothing.
    if heads.is_empty() || document.lag(heads).changes > push::CHANGES_MAX {
        return whole(document);
    }
    let (changes, vouchers) = document.changes_since(heads);
    let frame = |changes| push::frame(document.id(), changes, vouchers);
    if changes.is_empty() { None } else { frame(changes).or_else(|| whole(document)) }
}

/// Returns a message of automerge's sync protocol, or the document whole if it is much.
fn message(document: &Document, state: &mut automerge::sync::State) -> Option<Frame> {
    let (message, vouchers) = document.next_sync_message(state)?;
    let fits =
        message.len() <= push::CHANGES_BYTES_MAX && guard::check_sync_message(&message).is_ok();
    let sync = || Frame::Sync { document: document.id(), message, vouchers };
    if fits { Some(sync()) } else { whole(document) }
}

/// Returns a document whole, if peers take it: what they would refuse closes the link to them.
fn whole(document: &Document) -> Option<Frame> {
    let bytes = document.save();
    if let Err(error) = guard::check_document(&bytes, guard::DocumentLimits::SNAPSHOT) {
        tracing::warn!(document = %document.id(), %error, "can't send a document whole: peers would refuse it");
        return None;
    }
    let vouchers = document.vouchers().copied().collect();
    Some(Frame::Snapshot { document: document.id(), bytes, vouchers })
}

impl Exchange {
    /// Compares where a peer's documents stand with ours.
    ///
    /// After a greeting, what the peer lacks is sent at once; later, each side only notes what it
    /// lacks itself, since the rest may be on its way.
    pub fn heads_told(
        &mut self,
        now: Duration,
        peer: &NodeId,
        theirs: Vec<DocumentHeads>,
        answer: bool,
        documents: &Documents,
        out: &mut Out,
    ) {
        let Some(link) = self.links.get_mut(peer).filter(|link| link.greeted) else { return };
        let greeting = std::mem::take(&mut link.awaits_heads);
        for DocumentHeads { document: id, heads } in theirs {
            let Some(document) = documents.get(&id) else {
                if self.unfetchable.get(&(*peer, id)).is_none_or(|until| *until <= now) {
                    link.lacking.insert(id);
                }
                continue;
            };
            let progress = link.documents.entry(id).or_default();
            let ours = document.heads();
            if ours == heads {
                link.suspects.remove(&id);
            } else if !document.accounts_for(&heads) {
                if greeting {
                    if id.host() == Some(self.node) {
                        let heads = heads.clone();
                        link.greeted_ahead.push(DocumentHeads { document: id, heads });
                    }
                    progress.wanted = Some((ours.clone(), now));
                    out.push(to(peer, Frame::Want(DocumentHeads { document: id, heads: ours })));
                } else {
                    // While what was suspected before is still not here, its time runs on: a peer
                    // that writes on and on would else put the repair off for ever.
                    let since = link
                        .suspects
                        .remove(&id)
                        .filter(|(known, _)| !document.accounts_for(known));
                    link.suspects.insert(id, (heads, since.map_or(now, |(_, since)| since)));
                }
            } else if greeting {
                link.suspects.remove(&id);
                progress.answered = Some((heads.clone(), now));
                link.traffic_at = Some(now);
                self.owed.give(*peer, document, heads, out);
            }
        }
        if answer {
            tell_heads(&[*peer], documents, &self.unshared, false, out);
        }
        self.fetch(now, out);
    }

    /// Asks for documents that this node has nothing of, a few at a time, each of one peer.
    pub fn fetch(&mut self, now: Duration, out: &mut Out) {
        for (peer, link) in &self.links {
            for id in &link.lacking {
                if self.fetching.len() >= FETCHES_MAX {
                    return;
                }
                if !self.fetching.contains_key(id) {
                    self.fetching.insert(*id, (*peer, now));
                    tracing::debug!(%peer, document = %id, "asks for a document whole");
                    let nothing = DocumentHeads { document: *id, heads: Vec::new() };
                    out.push(to(peer, Frame::Want(nothing)));
                }
            }
        }
    }

    /// Asks for what a peer has gained since it saved the document that was just taken over.
    pub fn catch_up_with(
        &mut self,
        now: Duration,
        peer: &NodeId,
        id: &DocumentId,
        documents: &Documents,
        out: &mut Out,
    ) {
        let (Some(link), Some(document)) = (self.links.get_mut(peer), documents.get(id)) else {
            return;
        };
        let ours = document.heads();
        link.documents.entry(*id).or_default().wanted = Some((ours.clone(), now));
        out.push(to(peer, Frame::Want(DocumentHeads { document: *id, heads: ours })));
    }

    /// Tells the others that a document is here now which they may lack.
    pub fn adopted(&mut self, now: Duration, from: &NodeId, documents: &Documents, out: &mut Out) {
        let others: Vec<NodeId> = self.greeted().into_iter().filter(|peer| peer != from).collect();
        for link in self.links.values_mut() {
            link.traffic_at = Some(now);
        }
        if !others.is_empty() {
            tell_heads(&others, documents, &self.unshared, false, out);
        }
    }

    /// Notes that a document which was lacking is here, or will never be.
    pub fn fetched(&mut self, now: Duration, id: &DocumentId, out: &mut Out) {
        self.fetching.remove(id);
        self.links.values_mut().for_each(|link| {
            link.lacking.remove(id);
        });
        self.fetch(now, out);
    }

    /// Notes that a document could not be taken as a peer has it: others are asked, and that one not for
    /// a while.
    pub fn could_not_fetch(
        &mut self,
        now: Duration,
        peer: &NodeId,
        id: &DocumentId,
        out: &mut Out,
    ) {
        self.unfetchable.retain(|_, until| *until > now);
        if self.unfetchable.len() < UNFETCHABLE_MAX {
            self.unfetchable.insert((*peer, *id), now + REFETCH_AFTER);
        }
        if self.fetching.get(id).is_some_and(|(of, _)| of == peer) {
            self.fetching.remove(id);
        }
        if let Some(link) = self.links.get_mut(peer) {
            link.lacking.remove(id);
        }
        self.fetch(now, out);
    }

    /// Answers a peer that lacks something of a document.
    pub fn wanted(
        &mut self,
        now: Duration,
        peer: &NodeId,
        want: DocumentHeads,
        documents: &Documents,
        out: &mut Out,
    ) {
        let DocumentHeads { document: id, heads } = want;
        let Some(link) = self.links.get_mut(peer).filter(|link| link.greeted) else { return };
        let Some(document) = documents.get(&id) else { return };
        let progress = link.documents.entry(id).or_default();
        if document.has_all(&heads) {
            if !is_recent(progress.answered.as_ref(), &heads, now) {
                progress.answered = Some((heads.clone(), now));
                self.owed.give(*peer, document, heads, out);
            }
        } else if self.node < *peer {
            let begun = progress.repair.as_ref().map(|(_, at)| *at).max(progress.answering);
            let under_way = begun.is_some_and(|at| at + ANSWER_WITHIN > now);
            if !under_way {
                let mut state = automerge::sync::State::new();
                out.extend(message(document, &mut state).map(|frame| to(peer, frame)));
                progress.repair = Some((state, now));
            }
        } else {
            let ours = document.heads();
            if !is_recent(progress.wanted.as_ref(), &ours, now) {
                progress.wanted = Some((ours.clone(), now));
                out.push(to(peer, Frame::Want(DocumentHeads { document: id, heads: ours })));
            }
        }
        link.traffic_at = Some(now);
    }

    /// Returns what a peer lacks that is to be put together next, beside the loop, for
    /// [`Exchange::put_together`]; one at a time, since each takes a copy of a document.
    pub fn owed(&mut self, documents: &Documents) -> Option<Parcel> {
        self.owed.next(documents)
    }

    /// Tells whether there is anything to be put together.
    pub fn owes(&self) -> bool {
        self.owed.under_way.is_none() && !self.owed.waiting.is_empty()
    }

    /// Sends what was put together, if its peer is still there, and so is the document.
    pub fn put_together(
        &mut self,
        now: Duration,
        frame: Option<Frame>,
        documents: &Documents,
        out: &mut Out,
    ) {
        let Some((peer, id, heads)) = self.owed.under_way.take() else { return };
        tracing::debug!(%peer, document = %id, frame = frame.as_ref().map(Frame::kind), "put together what a peer lacks");
        let link = self.links.get_mut(&peer).filter(|link| link.greeted);
        if let Some(link) = link.filter(|_| documents.contains_key(&id)) {
            link.traffic_at = Some(now);
            // From now on it may be on its way.
            link.documents.entry(id).or_default().answered = Some((heads, now));
            out.extend(frame.map(|frame| to(&peer, frame)));
        }
    }

    /// Takes in changes that a peer sent.
    ///
    /// Errors as [`Document::apply`](super::super::document::Document::apply).
    pub fn changes_sent(
        &mut self,
        now: Duration,
        peer: &NodeId,
        id: DocumentId,
        (changes, vouchers): (&[Vec<u8>], &[Voucher]),
        (documents, trust): (&mut Documents, &Trust),
        out: &mut Out,
    ) -> Result<Applied, ApplyError> {
        let Some(link) = self.links.get_mut(peer).filter(|link| link.greeted) else {
            return Ok(Applied::default());
        };
        let Some(document) = documents.get_mut(&id) else {
            if self.unfetchable.get(&(*peer, id)).is_none_or(|until| *until <= now) {
                link.lacking.insert(id);
            }
            self.fetch(now, out);
            return Ok(Applied::default());
        };
        link.heard_at = Some(now);
        let applied = document.apply(changes, vouchers, trust)?;
        self.changes_taken(now, peer, documents, &id);
        Ok(applied)
    }

    /// Notes, after changes that a peer sent were taken in, what some of them wait for.
    pub fn changes_taken(
        &mut self,
        now: Duration,
        peer: &NodeId,
        documents: &Documents,
        id: &DocumentId,
    ) {
        let (Some(link), Some(document)) = (self.links.get_mut(peer), documents.get(id)) else {
            return;
        };
        let missing = document.missing();
        if !missing.is_empty() {
            link.suspects.entry(*id).or_insert((missing, now));
        }
    }

    /// Takes in what a message of automerge's sync protocol says, of which the changes were taken in;
    /// returns the answer that is due, to be [said](Answer::say) and [sent](Self::answered).
    ///
    /// Errors as [`Document::note_message`].
    pub fn message_noted(
        &mut self,
        now: Duration,
        peer: &NodeId,
        document: &mut Document,
        (message, has_gained): (Message, bool),
    ) -> Result<Option<Answer>, ApplyError> {
        let Some(link) = self.links.get_mut(peer).filter(|link| link.greeted) else {
            return Ok(None);
        };
        let progress = link.documents.entry(document.id()).or_default();
        let begins = progress.repair.is_none();
        if begins {
            progress.idle = 0;
        }
        let repair = progress.repair.take();
        let (mut state, _) = repair.unwrap_or_else(|| (automerge::sync::State::new(), now));
        document.note_message(&mut state, message)?;
        let theirs = state.their_heads.as_deref().unwrap_or_default();
        let done = theirs.len() == document.heads().len()
            && theirs.iter().zip(document.heads()).all(|(theirs, ours)| theirs.0 == ours.0);
        progress.idle = if has_gained { 0 } else { progress.idle + 1 };
        // What is not taken may be offered without end; the comparison begins anew, later.
        let in_vain = progress.idle > IDLE_MAX;
        link.traffic_at = Some(now);
        // The last word of an exchange that has ended here would begin another one, without end.
        let is_due = !(begins && done || in_vain);
        progress.answering = is_due.then_some(now);
        Ok(is_due.then_some(Answer { state, is_last: done }))
    }

    /// Sends an answer, unless the exchange that it belongs to has ended meanwhile.
    pub fn answered(
        &mut self,
        now: Duration,
        peer: &NodeId,
        id: DocumentId,
        answer: Answer,
        frame: Option<Frame>,
        out: &mut Out,
    ) {
        let Some(link) = self.links.get_mut(peer) else { return };
        let progress = link.documents.entry(id).or_default();
        if progress.answering.take().is_some() {
            out.extend(frame.map(|frame| to(peer, frame)));
            progress.repair = (!answer.is_last).then_some((answer.state, now));
            link.traffic_at = Some(now);
        }
    }
}

/// What there is to say in an exchange of automerge's sync protocol.
#[derive(Debug)]
pub struct Answer {
    state: automerge::sync::State,
    /// Whether both sides have the same.
    is_last: bool,
}

impl Answer {
    /// Says it; takes as long as the document has changes.
    pub fn say(&mut self, document: &Document) -> Option<Frame> {
        message(document, &mut self.state)
    }
}

/// What peers lack that takes long to put together: of each document at most one thing waits for each
/// peer, whatever it asks, beside the one that is under way; and the first that asked is first.
#[derive(Debug, Clone, Default)]
pub struct Owed {
    waiting: VecDeque<Owing>,
    under_way: Option<Owing>,
}

/// To whom what is owed of which document, and with which heads.
type Owing = (NodeId, DocumentId, Vec<ChangeHash>);

impl Owed {
    /// Sends what a peer with these heads lacks, if that is little; else it waits to be put together.
    fn give(&mut self, peer: NodeId, document: &Document, heads: Vec<ChangeHash>, out: &mut Out) {
        let id = document.id();
        let few = |changes, ops| changes <= AT_ONCE_CHANGES_MAX && ops <= AT_ONCE_OPS_MAX;
        if heads.is_empty() {
            let changes = usize::try_from(document.change_count()).unwrap_or(usize::MAX);
            if few(changes, document.op_count()) {
                return out.extend(whole(document).map(|frame| to(&peer, frame)));
            }
        } else {
            let lag = document.lag(&heads);
            if lag.changes == 0 {
                return;
            }
            if few(lag.changes, lag.ops) {
                let (changes, vouchers) = document.changes_since(&heads);
                if let Some(frame) = push::frame(id, changes, vouchers) {
                    return out.push(to(&peer, frame));
                }
            }
        }
        let owing = (peer, id, heads);
        if self.under_way.as_ref() == Some(&owing) {
            return;
        }
        match self.waiting.iter_mut().find(|(by, of, _)| (*by, *of) == (peer, id)) {
            Some(before) => *before = owing,
            None => self.waiting.push_back(owing),
        }
    }

    fn next(&mut self, documents: &Documents) -> Option<Parcel> {
        while self.under_way.is_none() {
            let owing = self.waiting.pop_front()?;
            // It may have been given up meanwhile.
            if let Some(document) = documents.get(&owing.1) {
                let parcel = Parcel { heads: owing.2.clone(), copy: document.clone() };
                self.under_way = Some(owing);
                return Some(parcel);
            }
        }
        None
    }

    /// Drops what is owed to a peer whose link is lost.
    pub fn lost(&mut self, peer: &NodeId) {
        self.waiting.retain(|(to, ..)| to != peer);
    }
}

/// What a peer lacks of a document, to be put together.
#[derive(Debug, Clone)]
pub struct Parcel {
    heads: Vec<ChangeHash>,
    copy: Document,
}

impl Parcel {
    /// Puts it together; takes as long as the document has changes.
    pub fn put_together(&self) -> Option<Frame> {
        missing(&self.copy, &self.heads)
    }
}
