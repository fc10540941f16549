//! Owns taking in what a peer sends that is much: what can be done elsewhere than on the loop, and
//! what is made of it there.
//!
//! Must not know where it is read. Invariants: reading needs nothing of the replica but copies; what
//! was read is judged by what the replica knows when it comes back, else it is read again; on the
//! loop nothing is done whose time grows with what was sent, but to tell of it.

use std::collections::BTreeMap;

use super::super::{
    document::{ApplyError, Document, Foreign, Judged, Merged, Message, Part, Sketch},
    effect::{Effects, Now},
    guard,
    ids::{DocumentId, NodeId},
    sync::Answer,
    trust::Trust,
    voucher::Voucher,
};
use super::{Replica, loaded::Shown, offence::Sent};
use crate::wire::Frame;

/// Most changes of a frame that are taken in on the loop.
pub const AT_ONCE_CHANGES_MAX: usize = 64;
/// Most bytes of a frame that are taken in on the loop: however well they were deflated, they inflate
/// to less than what one frame may bring.
pub const AT_ONCE_BYTES_MAX: usize = 8 << 10;
/// Most bytes of memory that loading a document takes which is loaded beside another one: a host's of 1,000
/// sessions with a history of 10,000 changes.
const LIGHT_BYTES_MAX: u64 = 40 << 20;
/// How many changes a document may gain while a copy of it is merged, for the rest to be done on the
/// loop.
const LAG_MAX: usize = 64;

/// Returns how many bytes of a document a frame brings, if it takes so much that it is better read
/// elsewhere.
pub fn bulk_bytes(frame: &Frame) -> Option<usize> {
    match frame {
        Frame::Snapshot { bytes, .. } => Some(bytes.len()),
        // However short: the answer takes as long as the document has changes.
        Frame::Sync { message, .. } => Some(message.len()),
        Frame::Changes { changes, .. } => {
            let bytes = changes.iter().map(Vec::len).sum();
            (changes.len() > AT_ONCE_CHANGES_MAX || bytes > AT_ONCE_BYTES_MAX).then_some(bytes)
        }
        _ => None,
    }
}

/// What a peer sent, to be read.
#[derive(Debug)]
pub struct Bulk {
    peer: NodeId,
    id: DocumentId,
    payload: Payload,
    vouchers: Vec<Voucher>,
    trust: Trust,
    step: Step,
    /// What the guard says, where it was asked before.
    judged: Option<Result<Judged, ApplyError>>,
}

/// In which form it came.
#[derive(Debug)]
enum Payload {
    Whole(Vec<u8>),
    Changes(Vec<Vec<u8>>),
    Message(Vec<u8>),
}

impl Payload {
    fn sent(&self) -> Sent<'_> {
        match self {
            Self::Whole(bytes) => Sent::Whole(bytes),
            Self::Changes(changes) => Sent::Changes(changes),
            Self::Message(bytes) => Sent::Message(bytes),
        }
    }
}

/// What is to be done.
#[derive(Debug)]
enum Step {
    /// The replica has nothing of the document; these are copies of the other epochs of its host,
    /// unless the replica is its host and has left it behind.
    Adopt(automerge::ActorId, Option<Vec<Document>>),
    /// This is a copy of what it has.
    Merge(Box<Document>),
    /// It was merged, and this is a copy of what the replica has since.
    CatchUp(Box<Came>, Box<Document>),
    /// It was taken in, and is to be answered from this copy.
    Answer(Box<Answer>, Box<Document>),
}

/// What was read.
#[derive(Debug)]
pub struct ReadBulk {
    peer: NodeId,
    id: DocumentId,
    payload: Payload,
    vouchers: Vec<Voucher>,
    /// As it was when it was judged.
    trust: Trust,
    read: Result<Read, ApplyError>,
}

/// What came of reading.
#[derive(Debug)]
enum Read {
    /// The replica has all of it.
    Known,
    /// To be held: its authors stand for it.
    Adopted(Box<Adopted>),
    /// To take the place of what is held.
    Merged(Box<Came>),
    /// To be sent.
    Answered(Box<Answer>, Option<Frame>),
}

/// A document of which nothing is held.
#[derive(Debug)]
struct Adopted {
    document: Document,
    /// What all but the newest epoch of its host are parted into.
    parts: BTreeMap<DocumentId, Part>,
    /// Whether it is the only epoch of its host.
    is_alone: bool,
    /// What was seen of it on the way, where what it shows is to be derived.
    sketch: Option<Sketch>,
    /// What it shows, once that is derived.
    shown: Option<Shown>,
}

/// What is to be done once it is in.
enum Next {
    Nothing,
    /// It may bring more now.
    Again,
    Answer(Answer),
}

/// A copy of what is held with what came in it, and the message that it came in.
#[derive(Debug)]
struct Came {
    merged: Merged,
    message: Option<Message>,
}

impl Bulk {
    /// Does what of reading can be done while another is read: judges what is to be held where nothing
    /// is. What else there is stays as it is.
    #[must_use]
    pub fn judge(mut self) -> Self {
        if let (Step::Adopt(_, Some(others)), Payload::Whole(bytes)) = (&self.step, &self.payload)
            // The next one may be parted by what is in this one, once it is in.
            && others.is_empty()
        {
            self.judged = Some(Judged::of(self.id, bytes));
        }
        self
    }

    /// Tells whether there was something to [judge](Bulk::judge).
    pub fn is_judged(&self) -> bool {
        self.judged.is_some()
    }

    /// Tells whether it was [judged](Bulk::judge) to take little memory to load, so that another may be
    /// read meanwhile.
    pub fn is_light(&self) -> bool {
        let judged = self.judged.as_ref().and_then(|judged| judged.as_ref().ok());
        judged.is_some_and(|judged| judged.memory_bytes() <= LIGHT_BYTES_MAX)
    }

    /// Reads it; takes as long as it is large.
    pub fn read(self) -> ReadBulk {
        let Self { peer, id, payload, vouchers, trust, step, judged } = self;
        // Nobody would be told of a panic, and the next would wait for ever.
        let read = guard::contained(|| match step {
            Step::Adopt(actor, others) => {
                adopt((id, actor), others, &payload, judged, &vouchers, &trust)
            }
            Step::Merge(copy) => merge(*copy, &payload, &vouchers, &trust),
            Step::CatchUp(mut came, held) => {
                came.merged.follow(&held)?;
                Ok(Read::Merged(came))
            }
            Step::Answer(mut answer, copy) => {
                let frame = answer.say(&copy);
                Ok(Read::Answered(answer, frame))
            }
        });
        let read = read.unwrap_or_else(|guard::Panicked { message }| {
            Err(ApplyError::Panicked { document: id, message })
        });
        ReadBulk { peer, id, payload, vouchers, trust, read }
    }
}

fn adopt(
    (id, actor): (DocumentId, automerge::ActorId),
    others: Option<Vec<Document>>,
    payload: &Payload,
    before: Option<Result<Judged, ApplyError>>,
    vouchers: &[Voucher],
    trust: &Trust,
) -> Result<Read, ApplyError> {
    // Only whole documents are of use where nothing is held.
    let Payload::Whole(bytes) = payload else { return Ok(Read::Known) };
    let judged = before.unwrap_or_else(|| Judged::of(id, bytes))?;
    let (document, sketch) = Document::adopt_judged(judged, actor, bytes, vouchers, trust)?;
    let (mut parts, mut is_alone) = (BTreeMap::new(), false);
    if let Some(others) = others {
        is_alone = others.is_empty();
        let mut all: Vec<&Document> = others.iter().chain([&document]).collect();
        all.sort_by_key(|document| document.id());
        let newest = all.pop().into_iter();
        parts.extend(newest.flat_map(|newest| {
            all.iter().filter_map(|older| Some((older.id(), newest.part_carried(older)?)))
        }));
    }
    Ok(Read::Adopted(Box::new(Adopted {
        document,
        parts,
        is_alone,
        sketch: is_alone.then_some(sketch),
        shown: None,
    })))
}

fn merge(
    copy: Document,
    payload: &Payload,
    vouchers: &[Voucher],
    trust: &Trust,
) -> Result<Read, ApplyError> {
    let id = copy.id();
    let mut message = None;
    let merged = match payload {
        Payload::Whole(bytes) => {
            let Some(foreign) = Foreign::read(id, bytes, Some(&copy.heads()))? else {
                return Ok(Read::Known);
            };
            Merged::new(copy, |copy| copy.merge_read(foreign, vouchers, trust))
        }
        Payload::Changes(changes) => Merged::new(copy, |copy| copy.apply(changes, vouchers, trust)),
        Payload::Message(bytes) => {
            let message = message.insert(Message::read(id, bytes)?);
            Merged::new(copy, |copy| copy.take_changes(message, vouchers, trust))
        }
    };
    Ok(Read::Merged(Box::new(Came { merged: merged?, message })))
}

impl ReadBulk {
    /// Derives what it shows, if that can be done here, for the loop not to do it; takes as long as it is
    /// large.
    #[must_use]
    pub fn show(mut self) -> Self {
        if let Ok(Read::Adopted(adopted)) = &mut self.read
            && adopted.is_alone
        {
            let sketch = adopted.sketch.take();
            let document = &adopted.document;
            // Not contained: it would be derived once more on the loop, and nobody would know.
            debug_assert!(
                sketch.clone().is_none_or(|sketch| {
                    let seen = guard::contained(|| sketch.records(document)).ok();
                    let read = guard::contained(|| document.records()).ok();
                    seen.zip(read).is_none_or(|(seen, read)| seen.same_as(&read))
                }),
                "what was seen in the bytes is what the document says"
            );
            let records = || match sketch {
                Some(sketch) => sketch.records(document),
                None => document.records(),
            };
            adopted.shown = guard::contained(|| Shown::by(document, records)).ok();
        }
        self
    }
}

impl Replica {
    /// Takes a frame that is of use here, to be read anywhere and given back to
    /// [`Replica::handle_read`]; any other is given back, for [`Replica::handle`].
    ///
    /// # Errors
    ///
    /// The frame, where it does not bring anything of a document, or nothing is taken in of that from
    /// this peer.
    #[expect(clippy::result_large_err, reason = "the frame goes on to where it is read")]
    pub fn to_read(&self, peer: &NodeId, frame: Frame) -> Result<Bulk, Frame> {
        let (document, is_whole) = match &frame {
            Frame::Snapshot { document, .. } => (*document, true),
            Frame::Sync { document, .. } | Frame::Changes { document, .. } => (*document, false),
            _ => return Err(frame),
        };
        let is_of_use = self.exchange.is_greeted(peer)
            && self.may_write_to(peer, &document)
            && (is_whole || self.documents.contains_key(&document));
        if !is_of_use {
            return Err(frame);
        }
        let (payload, vouchers) = match frame {
            Frame::Snapshot { bytes, vouchers, .. } => (Payload::Whole(bytes), vouchers),
            Frame::Sync { message, vouchers, .. } => (Payload::Message(message), vouchers),
            Frame::Changes { changes, vouchers, .. } => (Payload::Changes(changes), vouchers),
            frame => return Err(frame),
        };
        Ok(self.bulk(*peer, document, payload, vouchers))
    }

    fn bulk(&self, peer: NodeId, id: DocumentId, payload: Payload, vouchers: Vec<Voucher>) -> Bulk {
        let step = match self.documents.get(&id) {
            None => {
                let host = id.host();
                let is_behind = host == Some(self.node)
                    && id < self.own_document()
                    && self.documents.contains_key(&self.own_document());
                let others = host.map(|host| self.held_of(host)).unwrap_or_default();
                let others = others.iter().filter_map(|id| self.documents.get(id)).cloned();
                Step::Adopt(self.actor.clone(), (!is_behind).then(|| others.collect()))
            }
            Some(held) => Step::Merge(Box::new(held.clone())),
        };
        Bulk { peer, id, payload, vouchers, trust: self.trust.clone(), step, judged: None }
    }

    /// Takes in what was read.
    ///
    /// Returns, beside the effects, what is to be read again, by what is known now: the replica has
    /// gone on meanwhile.
    pub fn handle_read(&mut self, now: Now, read: ReadBulk) -> (Effects, Option<Bulk>) {
        let mut fx = Effects::default();
        // Whoever was cut off meanwhile is heard no more.
        let again = if self.exchange.is_greeted(&read.peer) {
            self.bulk_read(now, read, &mut fx)
        } else {
            self.exchange.fetched(now.monotonic, &read.id, &mut fx.frames);
            None
        };
        (self.conclude(now, fx), again)
    }

    /// Reads a whole document, or a message of automerge's sync protocol, here and now, and takes it
    /// in.
    pub(super) fn read_here(&mut self, now: Now, peer: &NodeId, frame: Frame, fx: &mut Effects) {
        match self.to_read(peer, frame) {
            Ok(bulk) => {
                let mut next = Some(bulk);
                while let Some(bulk) = next.take() {
                    next = self.bulk_read(now, bulk.read(), fx);
                }
            }
            Err(Frame::Snapshot { document, .. }) => {
                self.exchange.fetched(now.monotonic, &document, &mut fx.frames);
            }
            Err(_) => {}
        }
    }

    fn bulk_read(&mut self, now: Now, read: ReadBulk, fx: &mut Effects) -> Option<Bulk> {
        let ReadBulk { peer, id, payload, vouchers, trust, read } = read;
        let at = now.monotonic;
        if !self.may_write_to(&peer, &id) {
            self.exchange.fetched(at, &id, &mut fx.frames);
            return None;
        }
        let is_stale = !trust.judges_like(&self.trust);
        let is_whole = matches!(payload, Payload::Whole(_));
        match (self.documents.contains_key(&id), read) {
            (_, Ok(Read::Known)) => {}
            (false, Ok(Read::Adopted(adopted))) if !is_stale => {
                let Payload::Whole(bytes) = payload else { return None };
                let Adopted { document, parts, shown, .. } = *adopted;
                self.parted = parts;
                let is_held = self.take_over(now, peer, (document, shown), bytes, fx);
                self.parted.clear();
                if is_held {
                    self.exchange.adopted(at, &peer, &self.documents, &mut fx.frames);
                }
            }
            (true, Ok(Read::Merged(came))) if !is_stale => {
                match self.came(now, peer, id, came, &payload, fx) {
                    Ok(Next::Nothing) => {}
                    Ok(Next::Again) => return Some(self.bulk(peer, id, payload, vouchers)),
                    Ok(Next::Answer(answer)) => {
                        let copy = Box::new(self.documents.get(&id)?.clone());
                        let step = Step::Answer(Box::new(answer), copy);
                        return Some(Bulk {
                            peer,
                            id,
                            payload,
                            vouchers,
                            trust,
                            step,
                            judged: None,
                        });
                    }
                    Err(came) => {
                        let held = Box::new(self.documents.get(&id)?.clone());
                        let step = Step::CatchUp(came, held);
                        return Some(Bulk {
                            peer,
                            id,
                            payload,
                            vouchers,
                            trust,
                            step,
                            judged: None,
                        });
                    }
                }
            }
            (_, Ok(Read::Answered(answer, frame))) => {
                self.exchange.answered(at, &peer, id, *answer, frame, &mut fx.frames);
            }
            // What it was judged by, or what it was to be put beside, is no longer so.
            (_, Ok(Read::Adopted(..) | Read::Merged(_))) => {
                return Some(self.bulk(peer, id, payload, vouchers));
            }
            (_, Err(ApplyError::NotYet { .. } | ApplyError::Untrusted { .. })) if is_stale => {
                return Some(self.bulk(peer, id, payload, vouchers));
            }
            // Closing the link frees the place: another peer is asked.
            (_, Err(error)) => {
                self.contain(now, peer, id, &error, payload.sent(), fx);
                return None;
            }
        }
        if is_whole {
            self.exchange.fetched(at, &id, &mut fx.frames);
            if self.documents.contains_key(&id) {
                self.exchange.catch_up_with(at, &peer, &id, &self.documents, &mut fx.frames);
            }
        }
        None
    }

    /// Puts a copy with what came in it in the place of what is held, and says what is to be done
    /// then; the copy is given back if what is held has gained too much meanwhile.
    fn came(
        &mut self,
        now: Now,
        peer: NodeId,
        id: DocumentId,
        mut came: Box<Came>,
        payload: &Payload,
        fx: &mut Effects,
    ) -> Result<Next, Box<Came>> {
        let Some(held) = self.documents.get_mut(&id) else { return Ok(Next::Nothing) };
        if !came.merged.is_of(held) {
            return Ok(Next::Again);
        }
        match came.merged.follow_closely(held, LAG_MAX) {
            Ok(true) => {}
            Ok(false) => return Err(came),
            Err(error) => {
                tracing::warn!(%peer, document = %id, %error, "reads again what can't be put beside what came meanwhile");
                return Ok(Next::Again);
            }
        }
        let Came { merged, message } = *came;
        let taken = merged.take_place(held, &self.trust);
        let mut answer = None;
        let applied = taken.and_then(|applied| {
            match message {
                Some(message) => {
                    let Some(document) = self.documents.get_mut(&id) else { return Ok(applied) };
                    let message = (message, !applied.changes.is_empty());
                    answer =
                        self.exchange.message_noted(now.monotonic, &peer, document, message)?;
                }
                None => self.exchange.changes_taken(now.monotonic, &peer, &self.documents, &id),
            }
            Ok(applied)
        });
        self.merged(now, peer, id, applied, payload.sent(), fx);
        Ok(match answer {
            Some(answer) => Next::Answer(answer),
            None => Next::Nothing,
        })
    }
}
