//! Owns what goes into a replica and what comes out of it.
//!
//! Must not know who carries an effect out. Invariant of order, kept by whoever does: frames and
//! diffs leave at once; replies and teardowns wait until the writes beside them are durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    command::{Command, Refusal, Reply},
    diff::Diff,
    ids::{Cursor, DocumentId, FleetId, NodeId, ReceiptId, StartId},
    invite::StoredInvite,
    receipt::StoredReceipt,
    record::{TeardownAction, Workspace, WorkspaceKey},
    voucher::{Keyring, Voucher},
};
use crate::wire::{CloseCode, Frame};

/// The time, as it is given to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Since an arbitrary moment; never goes back. Everything that waits is counted by it.
    pub monotonic: Duration,
    /// Milliseconds since the epoch; may jump. Shown to people, decides nothing.
    pub wall_ms: i64,
}

/// Names a command until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// How an attempt to tear a workspace down ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TeardownOutcome {
    /// Nothing is left of it.
    Gone,
    /// Nothing is left of it, and this was done, for a person.
    Done(String),
    /// It is still there, for the reason given.
    Failed(String),
    /// It was not begun: a session came into the workspace before the first step.
    PutOff,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// Someone asked for something.
    Requested {
        /// Comes back with the answer.
        request: RequestId,
        /// What was asked for.
        command: Command,
    },
    /// A link to an authenticated peer is up; nothing was said on it yet.
    PeerConnected {
        /// The peer's key, proven.
        peer: NodeId,
    },
    /// The link is down.
    PeerLost {
        /// Whose.
        peer: NodeId,
        /// The code with which the other side closed it, if it did.
        code: Option<CloseCode>,
        /// What the other side, or the network, said.
        reason: String,
    },
    /// A dial failed at every address.
    DialFailed {
        /// Whom it was to reach.
        peer: NodeId,
        /// Why.
        reason: String,
    },
    /// A peer said something.
    FrameReceived {
        /// Who.
        peer: NodeId,
        /// What.
        frame: Frame,
    },
    /// A link's send queue had overflowed, frames were dropped, and it has drained.
    PeerDrained {
        /// Whose.
        peer: NodeId,
    },
    /// An attempt to tear a workspace down has ended.
    TeardownEnded {
        /// Which workspace.
        workspace: WorkspaceKey,
        /// Which attempt.
        incarnation: u32,
        /// How.
        outcome: TeardownOutcome,
    },
    /// A document that was thrown away, as the store has it.
    DocumentReloaded(StoredDocument),
    /// [`Replica::due`](super::machine::Replica::due) has come, or time has simply passed.
    TimePassed,
}

impl Input {
    /// Returns the input's name, for logs: of a frame, that of the frame.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Requested { .. } => "request",
            Self::PeerConnected { .. } => "connected",
            Self::PeerLost { .. } => "lost",
            Self::DialFailed { .. } => "dial failed",
            Self::FrameReceived { frame, .. } => frame.kind(),
            Self::PeerDrained { .. } => "drained",
            Self::TeardownEnded { .. } => "teardown ended",
            Self::DocumentReloaded(_) => "reloaded",
            Self::TimePassed => "time passed",
        }
    }

    /// Returns how many records it imports, if it is an import.
    pub fn imported(&self) -> Option<usize> {
        match self {
            Self::Requested { command: Command::Import(import), .. } => {
                Some(import.workspaces.len() + import.sessions.len())
            }
            _ => None,
        }
    }
}

/// A frame and those who are to get it; it is encoded once.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Connected peers.
    pub to: Vec<NodeId>,
    /// What to say.
    pub frame: Frame,
}

/// What is to become durable; all writes of one [`Effects`] in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A change was applied.
    Change {
        /// To what.
        document: DocumentId,
        /// The change as automerge encodes it.
        bytes: Vec<u8>,
    },
    /// The last change of an actor is vouched for; in place of its voucher before.
    Voucher {
        /// In what.
        document: DocumentId,
        /// By whom.
        voucher: Voucher,
    },
    /// A document was taken over whole, in place of all that was stored of it, vouchers too.
    Snapshot {
        /// Which.
        document: DocumentId,
        /// As automerge saves it.
        bytes: Vec<u8>,
    },
    /// A document is no longer held.
    Forget {
        /// Which.
        document: DocumentId,
    },
    /// A document is no longer held in memory, nor found at the next start; it, and what is still
    /// written to it, can be reloaded.
    Archive {
        /// Which.
        document: DocumentId,
    },
    /// A diff was published.
    Journal {
        /// Its cursor.
        cursor: Cursor,
        /// Its JSON.
        body: Arc<str>,
    },
    /// The cursors given out so far lead nowhere any more.
    ResetJournal {
        /// The cursor of the present view.
        cursor: Cursor,
    },
    /// The node now belongs to this fleet; the statements about the one before it go.
    Fleet(FleetId),
    /// A statement about membership is held.
    Statement {
        /// Its place: each comes after those that it builds on.
        number: u64,
        /// As it was signed.
        bytes: Vec<u8>,
    },
    /// Where a member can be dialled that has not said so itself yet.
    Contact {
        /// Who.
        node: NodeId,
        /// `IP:PORT`; none once it has.
        addresses: BTreeSet<String>,
    },
    /// The documents of a retired host are kept unseen, or no longer.
    Hidden {
        /// The host.
        host: NodeId,
        /// Since when, in milliseconds since the epoch by this node's clock; `None` once they are
        /// freed or shown again.
        since: Option<i64>,
    },
    /// A member is paused, or no longer.
    Paused {
        /// Who.
        node: NodeId,
        /// Which.
        paused: bool,
    },
    /// An invite was made, redeemed or is past its time.
    Invite {
        /// SHA-256 of its secret.
        secret_hash: [u8; 32],
        /// `None` removes it.
        invite: Option<StoredInvite>,
    },
    /// What was stored was damaged and is to be had back from peers, or is back; see
    /// [`Stored::recovering`].
    Recovering(bool),
    /// A delete was asked for here, or it is long ago. What [`Self::Applied`] noted of it is removed.
    Receipt {
        /// Its name.
        id: ReceiptId,
        /// `None` removes it.
        receipt: Option<StoredReceipt>,
    },
    /// A member has told that it holds a delete that was asked for here.
    Applied {
        /// The delete's receipt.
        receipt: ReceiptId,
        /// Who has told so.
        member: NodeId,
    },
}

/// What a node is to be dialled for as long as it is not connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialTarget {
    /// Whom to reach; a peer with another key is not it.
    pub node: NodeId,
    /// Where, `IP:PORT`.
    pub addresses: BTreeSet<String>,
}

/// A teardown that may start once the writes beside it are durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeardownDue {
    /// The sealed workspace.
    pub workspace: Workspace,
    /// Which attempt.
    pub incarnation: u32,
    /// `Force` where a person has asked to go on although something would be lost.
    pub action: TeardownAction,
    /// Until when the host keeps what it ends, as the seal says; milliseconds since the epoch.
    pub kept_until: Option<i64>,
}

/// A diff and its JSON, made once for the journal and all subscribers.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// What changed.
    pub diff: Diff,
    /// The same as JSON.
    pub body: Arc<str>,
}

/// What the bytes are that automerge panicked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvidenceKind {
    /// A document, whole.
    Document,
    /// Changes, one behind the other.
    Changes,
    /// A message of automerge's sync protocol.
    Message,
}

/// What a peer sent on which automerge panicked: to be kept for whoever mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Who sent it.
    pub peer: NodeId,
    /// For which document.
    pub document: DocumentId,
    /// What it is.
    pub kind: EvidenceKind,
    /// As it came.
    pub bytes: Vec<u8>,
    /// What the panic said.
    pub message: String,
}

/// What is to be done about an input.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be sent at once, in order.
    pub frames: Vec<Outgoing>,
    /// Links to be closed at once, after the frames.
    pub closes: Vec<(NodeId, CloseCode, String)>,
    /// Peers that may say all that a link is for from now on: they have greeted as members, were let
    /// in, or are those that this node asks to be let in by.
    pub accepted: Vec<NodeId>,
    /// The nodes to be dialled, where that has changed; replaces the list before it.
    pub dials: Option<Vec<DialTarget>>,
    /// Whose keys may have a link, where that has changed; replaces the list before it.
    pub members: Option<BTreeSet<NodeId>>,
    /// To be published at once, in order.
    pub diffs: Vec<Publication>,
    /// Whether subscribers get the whole view again, because no diff tells what changed; there are no diffs
    /// beside it.
    pub reset: bool,
    /// To be made durable together.
    pub writes: Vec<Write>,
    /// To be sent once the writes are durable.
    pub frames_durable: Vec<Outgoing>,
    /// Documents to be loaded from the store, once the writes are durable, and given back.
    pub reloads: Vec<DocumentId>,
    /// Whether something is to be done elsewhere; see
    /// [`Replica::work`](super::machine::Replica::work).
    pub work: bool,
    /// What automerge panicked on, to be kept.
    pub evidence: Vec<Evidence>,
    /// Why the node can't go on: the store can't give back a document that it can't do without.
    pub unreadable: Option<String>,
    /// To be given once the writes are durable.
    pub replies: Vec<(RequestId, Result<Reply, Refusal>)>,
    /// To be started once the writes are durable.
    pub teardowns: Vec<TeardownDue>,
    /// Whether what is told of a receipt may have changed: whoever waits for it looks again.
    pub receipts: bool,
    /// Whether restores of what this node keeps may be asked for: whoever carries them out looks.
    pub trash: bool,
}

impl Effects {
    /// Adds what is to be done about the input right after this one.
    pub fn extend(&mut self, next: Self) {
        let Self {
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
            teardowns,
            receipts,
            trash,
        } = next;
        self.frames.extend(frames);
        self.closes.extend(closes);
        self.accepted.extend(accepted);
        self.dials = dials.or(self.dials.take());
        self.members = members.or(self.members.take());
        self.diffs.extend(diffs);
        self.reset |= reset;
        self.writes.extend(writes);
        self.frames_durable.extend(frames_durable);
        self.reloads.extend(reloads);
        self.work |= work;
        self.evidence.extend(evidence);
        self.unreadable = self.unreadable.take().or(unreadable);
        self.replies.extend(replies);
        self.teardowns.extend(teardowns);
        self.receipts |= receipts;
        self.trash |= trash;
        self.publish_whole();
    }

    /// Leaves out the diffs where subscribers get the whole view again: it is the view after all of them, and no
    /// diff leads to it from the view that subscribers have. The journal begins at that view.
    pub fn publish_whole(&mut self) {
        if !self.reset {
            return;
        }
        self.diffs.clear();
        let mut last = None;
        self.writes.retain(|write| match write {
            Write::Journal { cursor, .. } | Write::ResetJournal { cursor } => {
                last = Some(*cursor);
                false
            }
            _ => true,
        });
        self.writes.extend(last.map(|cursor| Write::ResetJournal { cursor }));
    }
}

/// A document as the store gives it back.
#[derive(Debug, Clone)]
pub struct StoredDocument {
    /// Which.
    pub id: DocumentId,
    /// The last verified snapshot.
    pub snapshot: Option<Vec<u8>>,
    /// The changes since, in the order in which they were applied.
    pub changes: Vec<Vec<u8>>,
    /// For the last change of each actor.
    pub vouchers: Vec<Voucher>,
}

impl StoredDocument {
    /// Tells of a document that there is nothing.
    pub fn nothing(id: DocumentId) -> Self {
        Self { id, snapshot: None, changes: Vec::new(), vouchers: Vec::new() }
    }
}

/// All that a node knew when it was last stopped; empty on a first start.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// The fleet that the node belongs to.
    pub fleet: Option<FleetId>,
    /// The statements about membership, each after those that it builds on.
    pub statements: Vec<Vec<u8>>,
    /// In any order.
    pub documents: Vec<StoredDocument>,
    /// Members with which syncing is paused.
    pub paused: BTreeSet<NodeId>,
    /// Where members can be dialled that have not said so themselves yet.
    pub contacts: BTreeMap<NodeId, BTreeSet<String>>,
    /// The retired hosts whose documents are kept unseen, and since when: milliseconds since the epoch.
    pub hidden: BTreeMap<NodeId, i64>,
    /// Invites that are open or were redeemed, by the hash of their secret.
    pub invites: Vec<([u8; 32], StoredInvite)>,
    /// The deletes that were asked for here, in any order.
    pub receipts: Vec<StoredReceipt>,
    /// The cursor of the last diff that became durable.
    pub cursor: Option<Cursor>,
    /// The digest that that diff ended with.
    pub digest: Option<super::diff::Digest>,
    /// Whether the store was damaged, and what it lost is still to be had back from peers: the node
    /// begins no host document of its own, for its peers hold another, and carries nothing out, for
    /// it may not know what was restored.
    pub recovering: bool,
}

impl Stored {
    /// Notes that a member has told that it holds a delete; nothing if there is no such receipt.
    ///
    /// Receipts are to be in the order of their names.
    pub fn applied(&mut self, receipt: &str, member: NodeId) {
        let found = self.receipts.binary_search_by(|kept| kept.id.as_str().cmp(receipt));
        if let Ok(at) = found {
            self.receipts[at].applied.insert(member);
        }
    }
}

/// What a replica is given when it starts.
#[derive(Debug, Clone)]
pub struct Startup {
    /// This node's key.
    pub node: NodeId,
    /// What people call this machine.
    pub name: String,
    /// Random; names this start and seeds every id that it makes.
    pub start: StartId,
    /// Random.
    pub seed: u64,
    /// How long a delete can be undone before it is carried out.
    pub undo_window: Duration,
    /// How long what a teardown removes is kept; zero if it is not.
    pub keep_removed: Duration,
    /// How long what was pending before the start waits at most for a peer that may know better.
    pub start_grace: Duration,
    /// The agents' servers that are bridged, as their sessions are marked: what is deleted of them
    /// is purged only once they have confirmed it.
    /// This node's key, and the checking of others'.
    pub keyring: Arc<dyn Keyring>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{
        diff::{Cause, CauseKind},
        ids::StartId,
    };

    fn cursor(sequence: u64) -> Cursor {
        Cursor { sequence, start: StartId([1; 8]) }
    }

    fn published(sequence: u64) -> Effects {
        let cause = Cause { kind: CauseKind::Merge, peer: None, authors: Vec::new(), at: 0 };
        let (cursor, previous) = (cursor(sequence), cursor(sequence - 1));
        let diff = Diff { cursor, previous, digest: Default::default(), cause, events: Vec::new() };
        let body = diff.to_json();
        Effects {
            writes: vec![Write::Journal { cursor, body: body.clone() }],
            diffs: vec![Publication { diff, body }],
            ..Effects::default()
        }
    }

    #[test]
    fn a_view_that_is_published_whole_leaves_no_diff_before_it_or_after_it() {
        let mut fx = published(5);
        let whole = Write::ResetJournal { cursor: cursor(6) };
        fx.extend(Effects { reset: true, writes: vec![whole], ..Effects::default() });
        fx.extend(published(7));
        assert!(fx.diffs.is_empty() && fx.reset);
        assert_eq!(fx.writes, [Write::ResetJournal { cursor: cursor(7) }]);
        let mut plain = published(5);
        plain.extend(published(6));
        assert_eq!((plain.diffs.len(), plain.writes.len()), (2, 2));
    }
}
