//! Owns the order in which a replica's effects are carried out, and what the loop remembers
//! between them.
//!
//! Must not know tasks, threads, sockets or clocks: whoever drives it lends it [`Hands`], the
//! daemon those of its shells and a simulation its own. Invariants: frames and diffs of an input
//! leave at once; everything else of it waits for the disk; one document at a time is compacted.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use super::{
    compact::{self, Compaction},
    durable::{Batch, Job, Told},
    hub::Published,
};
use crate::{
    replica::{
        command::Command,
        document::ApplyError,
        effect::{
            DialTarget, Effects, Evidence, Input, Now, Outgoing, Publication, RequestId, Startup,
            StoredDocument, TeardownDue, TeardownOutcome,
        },
        ids::{Cursor, NodeId},
        machine::{
            AT_ONCE_BYTES_MAX, AT_ONCE_CHANGES_MAX, Begun, Bulk, Done, Loaded,
            OpenError as ReplicaError, ReadBulk, Replica, TeardownStands, Work, bulk_bytes,
        },
        record::SessionState,
    },
    store::{self, Store},
    teardown::Occupant,
    transport::Event,
    wire::{CloseCode, Frame},
};

/// Carries single effects out.
pub trait Hands {
    /// Names who waits for an answer.
    type Asker;
    /// Sends a frame to those who have a link.
    fn send(&mut self, outgoing: &Outgoing);
    /// Publishes a diff.
    fn publish(&mut self, publication: Publication);
    /// Publishes the view whole: what changed is not told by a diff.
    fn reset(&mut self, published: Published);
    /// Closes the link to a peer, after what was sent.
    fn close(&mut self, peer: NodeId, code: CloseCode, reason: String);
    /// Lets a peer say all that a link is for, where it may not from the start.
    fn accept(&mut self, _peer: NodeId) {}
    /// Turns none of these keys away for others that dial.
    fn members(&mut self, _members: BTreeSet<NodeId>) {}
    /// Dials these nodes from now on, and no others.
    fn dial(&mut self, targets: Vec<DialTarget>);
    /// Tells those who wait for a receipt, if anyone can, to look again.
    fn receipts(&mut self) {}
    /// Tells whoever carries restores out that some may be asked for.
    fn restores_asked(&mut self) {}
    /// Keeps what automerge panicked on, where there is a place for it.
    fn keep(&mut self, _evidence: Evidence) {}
    /// Gives the disk something to do, after all that it was given before.
    fn store(&mut self, job: Job<Self::Asker>);
    /// Saves a document as it is stored and verifies what was saved, elsewhere; see [`compact::saved`].
    fn save(&mut self, plan: store::compact::Plan, stored: StoredDocument);
    /// Does something elsewhere, for [`Engine::take_done`].
    fn work(&mut self, work: Work);
    /// Ends a workspace, elsewhere, beside which are these.
    fn tear_down(&mut self, due: TeardownDue, occupants: Vec<Occupant>);
}

/// Explains why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What is stored can't be understood.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

/// A node that was started.
pub struct Opened<A> {
    /// Goes on from here.
    pub engine: Engine<A>,
    /// To be carried out first.
    pub effects: Effects,
    /// The published diffs that are still kept, oldest first.
    pub journal: Vec<(Cursor, Arc<str>)>,
}

/// Turns what happened on the links into an input.
pub fn heard(event: Event) -> Input {
    match event {
        Event::Connected { peer, .. } => Input::PeerConnected { peer },
        Event::Lost { peer, code, reason } => Input::PeerLost { peer, code, reason },
        Event::Frame { peer, frame } => Input::FrameReceived { peer, frame },
        Event::Drained { peer } => Input::PeerDrained { peer },
        Event::DialFailed { peer, reason } => Input::DialFailed { peer, reason },
    }
}

/// How many inputs of one source are taken before the others get their turn.
pub const TURN_MAX: usize = 64;
/// How many frames of changes are looked at to be taken in together.
const GATHERED_MAX: usize = 64;

/// Takes the frames of changes that wait behind one, as far as `next` gives them, and of each peer
/// together what can be taken in as one: what is between its frames came from others. Any
/// other event is returned alone.
///
/// Peers that write fast are heard in fewer turns: one signature is checked for all that an author
/// did, and one diff is told of it.
pub fn gathered(
    first: Event,
    mut next: impl FnMut(fn(&Event) -> bool) -> Option<Event>,
) -> Vec<Event> {
    let mut turn: Vec<Event> = Vec::new();
    let mut last: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut event = first;
    for _ in 0..GATHERED_MAX {
        let is_few = has_few_changes(&event);
        let peer = event.peer();
        match last.get(&peer).map(|at| &mut turn[*at]) {
            Some(before) if can_gather(before, &event) => gather(before, event),
            _ => {
                last.insert(peer, turn.len());
                turn.push(event);
            }
        }
        if !is_few || turn.len() == TURN_MAX {
            break;
        }
        let Some(more) = next(has_few_changes) else { break };
        event = more;
    }
    turn
}

/// Tells whether an event brings changes, and no more of them than are taken in on the loop.
fn has_few_changes(event: &Event) -> bool {
    matches!(event, Event::Frame { frame: frame @ Frame::Changes { .. }, .. } if bulk_bytes(frame).is_none())
}

/// Tells whether two frames of changes, one behind the other, can be taken in as one: of one peer, for
/// one document, and together no more than is taken in at once, so that nothing is refused together
/// that would be taken one by one.
fn can_gather(event: &Event, next: &Event) -> bool {
    let (
        Event::Frame { peer, frame: Frame::Changes { document, changes, .. } },
        Event::Frame { peer: by, frame: Frame::Changes { document: of, changes: more, .. } },
    ) = (event, next)
    else {
        return false;
    };
    let bytes = |changes: &[Vec<u8>]| changes.iter().map(Vec::len).sum::<usize>();
    (peer, document) == (by, of)
        && document.host().is_some()
        && changes.len() + more.len() <= AT_ONCE_CHANGES_MAX
        && bytes(changes) + bytes(more) <= AT_ONCE_BYTES_MAX
}

/// Adds to a frame of changes the next one, with which it [can be gathered](can_gather).
fn gather(event: &mut Event, next: Event) {
    if let Event::Frame { frame: Frame::Changes { changes, vouchers, .. }, .. } = event
        && let Event::Frame { frame: Frame::Changes { changes: more, vouchers: words, .. }, .. } =
            next
    {
        changes.extend(more);
        vouchers.extend(words);
    }
}

/// A replica, and those who wait for it to be durable.
pub struct Engine<A> {
    replica: Replica,
    compaction: Compaction,
    waiting: BTreeMap<RequestId, A>,
    next_request: u64,
    /// Where the store is, to be named.
    path: PathBuf,
    /// Why nothing may go on, where the store is damaged.
    unreadable: Option<String>,
}

impl<A> Engine<A> {
    /// Starts a node from what its store holds.
    ///
    /// # Errors
    ///
    /// The store can't be read, or holds what can't be understood.
    pub fn open(
        store: &Store,
        startup: Startup,
        now: Now,
        limits: compact::Limits,
    ) -> Result<Opened<A>, OpenError> {
        Self::open_with(store, startup, now, limits, Loaded::read_in_turn)
    }

    /// Starts a node as [`Engine::open`] does, with another way to read its documents.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open_with(
        store: &Store,
        startup: Startup,
        now: Now,
        limits: compact::Limits,
        read: fn(&Startup, Vec<StoredDocument>) -> Result<Vec<Loaded>, ApplyError>,
    ) -> Result<Opened<A>, OpenError> {
        let mut stored = store.load()?;
        let documents = std::mem::take(&mut stored.documents);
        let loaded = read(&startup, documents).map_err(ReplicaError::from)?;
        let journal = store.journal()?.into_iter().map(|entry| (entry.cursor, entry.body));
        let journal = journal.collect();
        let mut compaction = Compaction::new(limits);
        compaction.note(store.backlogs()?);
        let (replica, effects) = Replica::open_loaded(startup, stored, loaded, now);
        let (waiting, next_request) = (BTreeMap::new(), 0);
        let path = store.path().to_owned();
        let engine = Self { replica, compaction, waiting, next_request, path, unreadable: None };
        Ok(Opened { engine, effects, journal })
    }

    /// Returns the replica, to be read.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Takes a request in; the answer goes to `asker`.
    pub fn ask(&mut self, now: Now, command: Command, asker: A, hands: &mut impl Hands<Asker = A>) {
        let input = self.asked(command, asker);
        self.take(now, input, hands);
    }

    /// Takes requests in together that [may be](crate::replica::machine::goes_together); the answers go
    /// to their askers.
    pub fn ask_together(
        &mut self,
        now: Now,
        commands: impl IntoIterator<Item = (Command, A)>,
        hands: &mut impl Hands<Asker = A>,
    ) {
        let inputs = commands.into_iter().map(|(command, asker)| self.asked(command, asker));
        let inputs = inputs.collect();
        let effects = self.replica.handle_together(now, inputs);
        self.carry_out(effects, hands);
    }

    /// Turns a request into an input; the answer goes to `asker`.
    pub fn asked(&mut self, command: Command, asker: A) -> Input {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting.insert(request, asker);
        Input::Requested { request, command }
    }

    /// Takes in what happened on the links.
    pub fn hear(&mut self, now: Now, event: Event, hands: &mut impl Hands<Asker = A>) {
        self.take(now, heard(event), hands);
    }

    /// Takes an input in and carries its effects out.
    pub fn take(&mut self, now: Now, input: Input, hands: &mut impl Hands<Asker = A>) {
        let begun = self.begin(now, input, hands);
        self.finish(now, begun, hands);
    }

    /// Takes an input in as far as peers are to be told of it, and tells them.
    pub fn begin(&mut self, now: Now, input: Input, hands: &mut impl Hands<Asker = A>) -> Begun {
        let mut begun = self.replica.begin(now, input);
        begun.take_frames().iter().for_each(|outgoing| hands.send(outgoing));
        begun
    }

    /// Does the rest of an input and carries its effects out.
    pub fn finish(&mut self, now: Now, begun: Begun, hands: &mut impl Hands<Asker = A>) {
        let effects = self.replica.finish(now, begun);
        self.carry_out(effects, hands);
    }

    /// Takes in what a peer sent and what was read elsewhere; returns what is to be read again.
    pub fn take_read(
        &mut self,
        now: Now,
        read: ReadBulk,
        hands: &mut impl Hands<Asker = A>,
    ) -> Option<Bulk> {
        let (effects, again) = self.replica.handle_read(now, read);
        self.carry_out(effects, hands);
        again
    }

    /// Takes in what was done elsewhere.
    pub fn take_done(&mut self, now: Now, done: Done, hands: &mut impl Hands<Asker = A>) {
        let effects = self.replica.handle_done(now, done);
        self.carry_out(effects, hands);
    }

    /// Carries effects out, in the order that [`Effects`] asks for.
    pub fn carry_out(&mut self, effects: Effects, hands: &mut impl Hands<Asker = A>) {
        let Effects {
            frames,
            closes,
            accepted,
            dials,
            members,
            diffs,
            reset,
            writes,
            frames_durable,
            reloads,
            work,
            evidence,
            unreadable,
            replies,
            mut teardowns,
            receipts,
            trash,
        } = effects;
        if planted!(SealNotDurable) {
            for due in teardowns.drain(..) {
                let occupants = self.occupants(&due);
                hands.tear_down(due, occupants);
            }
        }
        self.unreadable = self.unreadable.take().or(unreadable);
        for outgoing in &frames {
            hands.send(outgoing);
        }
        for publication in diffs {
            if planted!(DiffTwice) {
                hands.publish(publication.clone());
            }
            hands.publish(publication);
        }
        if reset {
            hands.reset(self.published());
        }
        accepted.into_iter().for_each(|peer| hands.accept(peer));
        for (peer, code, reason) in closes {
            hands.close(peer, code, reason);
        }
        if let Some(members) = members {
            hands.members(members);
        }
        if let Some(targets) = dials {
            hands.dial(targets);
        }
        if receipts {
            hands.receipts();
        }
        if trash {
            hands.restores_asked();
        }
        evidence.into_iter().for_each(|it| hands.keep(it));
        if work {
            std::iter::from_fn(|| self.replica.work()).for_each(|work| hands.work(work));
        }
        let replies = replies
            .into_iter()
            .filter_map(|(request, reply)| Some((self.waiting.remove(&request)?, reply)))
            .collect();
        let batch = Batch { writes, frames: frames_durable, replies, teardowns, reloads };
        if !batch.is_empty() {
            hands.store(Job::Batch(batch));
        }
    }

    /// Takes in what the disk tells.
    ///
    /// # Errors
    ///
    /// The disk has failed, or what it gives back is damaged: nothing may go on.
    pub fn told(
        &mut self,
        now: Now,
        told: Told,
        hands: &mut impl Hands<Asker = A>,
    ) -> Result<(), store::Error> {
        match told {
            Told::Backlogs(backlogs) => {
                self.compaction.note(backlogs);
                self.compact(hands);
            }
            Told::Teardown(due) => self.begin_teardown(now, due, hands),
            Told::Reloaded(document) => {
                self.take(now, Input::DocumentReloaded(document), hands);
                if let Some(reason) = self.unreadable.take() {
                    return Err(store::Error::Document { path: self.path.clone(), reason });
                }
            }
            Told::Planned(plan, stored) => hands.save(plan, stored),
            Told::NothingToPlan(document) => {
                self.compaction.ended(document);
                self.compaction.rested();
            }
            Told::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes in a snapshot that was saved, if it was verified.
    pub fn saved(
        &mut self,
        (document, verified): compact::Ended,
        hands: &mut impl Hands<Asker = A>,
    ) {
        self.compaction.ended(document);
        match verified {
            Ok(verified) => hands.store(Job::Replace(Box::new(verified))),
            Err(error) => tracing::error!(%document, %error, "a snapshot was not verified"),
        }
    }

    /// Goes on with the next document after a rest.
    pub fn rested(&mut self, hands: &mut impl Hands<Asker = A>) {
        self.compaction.rested();
        self.compact(hands);
    }

    fn compact(&mut self, hands: &mut impl Hands<Asker = A>) {
        if let Some(document) = self.compaction.pick() {
            hands.store(Job::Plan(document));
        }
    }

    /// Returns the present view, to be published whole.
    pub fn published(&self) -> Published {
        let (sessions, workspaces) = self.replica.records();
        let (cursor, digest) = (self.replica.cursor(), self.replica.digest());
        Published { cursor, digest, sessions, workspaces }
    }

    /// Has a teardown begin whose seal is durable, unless something has come between.
    fn begin_teardown(&mut self, now: Now, due: TeardownDue, hands: &mut impl Hands<Asker = A>) {
        let outcome = match self.replica.teardown_stands(&due) {
            TeardownStands::Awaited => {
                let occupants = self.occupants(&due);
                return hands.tear_down(due, occupants);
            }
            TeardownStands::Occupied => TeardownOutcome::PutOff,
            TeardownStands::Over => TeardownOutcome::Gone,
        };
        let (workspace, incarnation) = (due.workspace.key(), due.incarnation);
        self.take(now, Input::TeardownEnded { workspace, incarnation, outcome }, hands);
    }

    /// Returns who else is on this host, and where.
    fn occupants(&self, due: &TeardownDue) -> Vec<Occupant> {
        let (view, host) = (self.replica.view(), due.workspace.host);
        let sessions =
            view.sessions_of(&host).filter(|session| session.state != SessionState::Deleted);
        let sessions =
            sessions.map(|session| (format!("session {}", session.id), &session.directory));
        let workspaces = view.workspaces_of(&host).map(|entry| &entry.record);
        let workspaces = workspaces
            .filter(|other| other.id != due.workspace.id && other.teardown.is_none())
            .map(|other| (format!("workspace {}", other.id), &other.directory));
        let found = sessions
            .chain(workspaces)
            .filter_map(|(what, directory)| Some(Occupant { what, directory: directory.clone()? }));
        found.collect()
    }
}
