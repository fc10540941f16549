//! Owns the replica as one state machine: inputs go in, effects come out.
//!
//! Must not do any of what it asks for. Invariants: a local commit and a remote merge take the
//! same path once the document has changed, so there is one place that publishes; work that is
//! due is found again from the view, never kept in a queue that can be lost.

mod agents;
mod aside;
mod batch;
mod blame;
mod bridge;
mod bulk;
mod carry_out;
mod deleting;
mod descriptions;
mod earlier;
mod epoch;
mod execute;
mod explain;
mod fleet;
mod holding;
mod later;
mod layers;
mod limits;
mod links;
mod loaded;
mod names;
mod offence;
mod peers;
mod publishing;
mod reach;
mod readings;
mod receipts;
mod retired;
mod split;
mod standing;
mod statements;
#[cfg(test)]
mod testing;
mod together;
mod trash;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use automerge::ActorId;

use super::{
    digest::Digest,
    document::{self, Applied, AppliedChange, ApplyError, Document, Part},
    effect::{Effects, Input, Now, Startup, Stored, StoredDocument, Write},
    ids::{Cursor, DocumentId, Fingerprint, FleetId, NodeId, StartId},
    invite::StoredInvite,
    membership::{evaluate::Membership, set::StatementSet},
    record::{Description, Member, Role, Session, Workspace},
    sync::{Documents, Exchange},
    trust::Trust,
    view::{self, View},
};
pub use aside::{Done, Work};
use blame::Blame;
pub use bulk::{AT_ONCE_BYTES_MAX, AT_ONCE_CHANGES_MAX, Bulk, ReadBulk, bulk_bytes};
use carry_out::HostWork;
pub use carry_out::TeardownStands;
use epoch::Epochs;
use fleet::Joining;
pub use holding::Holding;
pub use later::Begun;
use later::{Gained, Later};
use layers::Layers;
pub use loaded::Loaded;
use offence::Offences;
pub use peers::{PeerView, ShutOut};
use publishing::{Origin, read_all};
use receipts::Receipts;
use retired::Hiding;
use standing::LooseEnds;
pub use together::{TOGETHER_MAX, goes_together};
use together::{Together, vouch_for};

/// How many peers have to hold the same as a node whose store was damaged, where there are so many.
const RECOVERED_BY: usize = 2;

/// Explains why a replica can't start from what was stored.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A document can't be read back.
    #[error(transparent)]
    Document(#[from] ApplyError),
}

/// One node's copy of everything the fleet agrees on.
///
/// [`Replica::open`] starts it, [`Replica::handle`], in two steps [`Replica::begin`] and
/// [`Replica::finish`], for several at once [`Replica::handle_together`], and, for what was read or
/// done elsewhere, [`Replica::handle_read`] and [`Replica::handle_done`] are its only ways in,
/// [`Replica::due`] tells when to call again; the rest only reads. Of a copy and its original only one
/// may go on among the same peers: both write under the same actor.
#[derive(Debug, Clone)]
pub struct Replica {
    node: NodeId,
    name: String,
    addresses: BTreeSet<String>,
    /// Whether both were announced since the start.
    is_announced: bool,
    /// What each host says of itself.
    descriptions: BTreeMap<NodeId, Description>,
    /// Where members can be dialled that have not said so themselves yet.
    contacts: BTreeMap<NodeId, BTreeSet<String>>,
    start: StartId,
    actor: ActorId,
    /// Makes ids; the same seed gives the same ids.
    random: fastrand::Rng,
    fleet: FleetId,
    documents: Documents,
    view: View,
    /// Who belongs to the fleet, as signed.
    statements: StatementSet,
    /// What the statements come to.
    membership: Membership,
    /// Of each peer, the digests of both sides' statements when they were last compared.
    compared: BTreeMap<NodeId, ([u8; 32], [u8; 32])>,
    /// When keys that are no member's were last sent the statements that show that.
    shown_out: BTreeMap<NodeId, Duration>,
    /// Whether this start found members in the form of an earlier version, and founded a fleet instead.
    left_alone: bool,
    /// The same as people are told of it.
    members: BTreeMap<NodeId, Member>,
    /// The retired hosts, and which of them still have documents here.
    hiding: Hiding,
    trust: Trust,
    paused: BTreeSet<NodeId>,
    invites: BTreeMap<[u8; 32], StoredInvite>,
    cursor: Cursor,
    exchange: Exchange,
    host_work: HostWork,
    epochs: Epochs,
    /// What is shown of the hosts of which several epochs are held.
    layers: BTreeMap<NodeId, Layers>,
    /// Epochs that were parted beside the loop, until they are layered.
    parted: BTreeMap<DocumentId, Part>,
    joining: Option<Joining>,
    receipts: Receipts,
    /// What waits for the end of the input that is being taken in.
    later: Later,
    together: Together,
    /// Documents that were thrown away and are awaited from the store; nothing is said of them.
    reloading: BTreeSet<DocumentId>,
    /// Whether whom to dial, or who is a member, may have changed since it was last told.
    reach_changed: bool,
    offences: Offences,
    blame: Blame,
    loose_ends: LooseEnds,
    /// Documents of other hosts that were dropped to be fetched again, because this node's key has forked them.
    refetched: BTreeSet<DocumentId>,
    /// Why there is no link to a peer, where that is known.
    problems: BTreeMap<NodeId, String>,
    /// See [`Stored::recovering`].
    recovering: bool,
    /// The peers that were seen to hold the same as this node while it was recovering.
    equal_to: BTreeSet<NodeId>,
}

impl Replica {
    /// Starts a replica from what was stored; on a first start, with a fleet of its own.
    pub fn open(
        startup: Startup,
        mut stored: Stored,
        now: Now,
    ) -> Result<(Self, Effects), OpenError> {
        let documents = std::mem::take(&mut stored.documents);
        let loaded = Loaded::read_in_turn(&startup, documents)?;
        Ok(Self::open_loaded(startup, stored, loaded, now))
    }

    /// Starts a replica from what was stored, of which the documents were read already, each by
    /// [`Loaded::read`].
    ///
    /// # Panics
    ///
    /// If `stored` has documents left.
    pub fn open_loaded(
        startup: Startup,
        stored: Stored,
        loaded: Vec<Loaded>,
        now: Now,
    ) -> (Self, Effects) {
        assert!(stored.documents.is_empty(), "each document is read before");
        let (actor, host_work) = (actor_of(&startup), HostWork::new(&startup));
        let cursor = stored.cursor.unwrap_or(Cursor { sequence: 0, start: startup.start });
        let mut replica = Self {
            node: startup.node,
            name: startup.name,
            addresses: BTreeSet::new(),
            is_announced: false,
            descriptions: BTreeMap::new(),
            contacts: stored.contacts,
            start: startup.start,
            actor,
            random: fastrand::Rng::with_seed(startup.seed),
            fleet: FleetId([0; 16]),
            documents: Documents::new(),
            view: View::new(),
            statements: StatementSet::new(FleetId([0; 16])),
            membership: Membership::default(),
            compared: BTreeMap::new(),
            shown_out: BTreeMap::new(),
            left_alone: false,
            members: BTreeMap::new(),
            hiding: Hiding::new(stored.hidden),
            trust: Trust::new(startup.keyring),
            paused: stored.paused,
            invites: stored.invites.into_iter().collect(),
            cursor,
            exchange: Exchange::new(startup.node),
            host_work,
            epochs: Epochs::new(),
            layers: BTreeMap::new(),
            parted: BTreeMap::new(),
            joining: None,
            receipts: Receipts::new(stored.receipts),
            later: Later::default(),
            together: Together::default(),
            reloading: BTreeSet::new(),
            reach_changed: true,
            offences: Offences::default(),
            blame: Blame::default(),
            loose_ends: LooseEnds::default(),
            refetched: BTreeSet::new(),
            problems: BTreeMap::new(),
            recovering: stored.recovering,
            equal_to: BTreeSet::new(),
        };
        let mut fx = Effects::default();
        let mut views = Vec::new();
        for Loaded { document, shown } in loaded {
            views.push((document.id(), shown));
            replica.documents.insert(document.id(), document);
        }
        replica.open_epochs(&mut fx);
        replica.open_views(now, views);
        let statements = &stored.statements;
        match stored.fleet.map(|fleet| (fleet, Self::statements_of(fleet, statements))) {
            Some((fleet, Some(set))) => (replica.fleet, replica.statements) = (fleet, set),
            Some((fleet, None)) => replica.stand_alone(now, fleet, &mut fx),
            None => replica.found_fleet(now, &mut fx),
        }
        if !replica.documents.contains_key(&replica.own_document()) && !replica.recovering {
            let (document, mut applied) = Document::create_host(
                replica.node,
                replica.epochs.own(),
                replica.actor.clone(),
                now.wall_ms,
            );
            replica.documents.insert(document.id(), document);
            replica.vouch(replica.own_document(), &mut applied);
            replica.record(replica.own_document(), &applied, &mut fx);
        }
        replica.read_descriptions(&mut fx);
        replica.read_members(&mut fx);
        replica.hide_at_start(now, &mut fx);
        if stored.cursor.is_none() || stored.digest.is_some_and(|d| d != replica.view.digest()) {
            // What the cursors given out before lead to is not this view: none of them may stay.
            replica.cursor.sequence += u64::from(stored.cursor.is_some());
            replica.cursor.start = replica.start;
            fx.writes.push(Write::ResetJournal { cursor: replica.cursor });
        }
        replica.look_for_loose_ends(now);
        replica.open_trash(&mut fx);
        replica.hold(now);
        replica.settle(now, &mut fx);
        (replica, fx)
    }

    fn load(&mut self, stored: StoredDocument) -> Result<(), ApplyError> {
        let StoredDocument { id, snapshot, changes, vouchers } = stored;
        let actor = self.actor.clone();
        let document = Document::load(id, actor, snapshot.as_deref(), &changes, &vouchers)?;
        self.documents.insert(id, document);
        Ok(())
    }

    fn take(&mut self, now: Now, input: Input, fx: &mut Effects) {
        match input {
            Input::Requested { request, command } => self.execute(now, request, command, fx),
            Input::PeerConnected { peer } => self.peer_connected(now, peer, fx),
            Input::PeerLost { peer, code, reason } => {
                self.peer_lost(now, peer, code, reason, fx);
            }
            Input::DialFailed { peer, reason } => self.dial_failed(peer, reason),
            Input::FrameReceived { peer, frame } => self.frame_received(now, peer, frame, fx),
            Input::PeerDrained { peer } => {
                self.exchange.drained(now.monotonic, &peer, &self.documents, &mut fx.frames);
            }
            Input::TeardownEnded { workspace, incarnation, outcome } => {
                self.teardown_ended(now, workspace, incarnation, outcome, fx);
            }
            Input::DocumentReloaded(stored) => self.document_reloaded(now, stored, fx),
            Input::TimePassed => {}
        }
    }

    /// Ends what one input has set in motion.
    fn conclude(&mut self, now: Now, mut fx: Effects) -> Effects {
        self.settle(now, &mut fx);
        fx.work |= self.exchange.owes();
        fx.receipts |= self.receipts.are_kept() && (fx.reset || !fx.diffs.is_empty());
        fx.publish_whole();
        fx
    }

    /// Does everything that has become due; cheap when nothing has.
    fn settle(&mut self, now: Now, fx: &mut Effects) {
        self.recover(fx);
        if self.may_carry_out() {
            self.stop_holding(now);
            self.carry_out(now, fx);
        }
        self.go_on_with_epochs(now, fx);
        self.describe_this_node(now, fx);
        self.attest(now, fx);
        self.join_timed_out(now, fx);
        self.close_silent(now, fx);
        self.forgive(now);
        self.free_hidden(now, fx);
        // Whoever is being cut off is told nothing more, and nothing more is taken from it.
        for (peer, ..) in &fx.closes {
            self.exchange.lost(now.monotonic, peer, &mut fx.frames);
        }
        self.exchange.time_passed(now.monotonic, &self.documents, &mut fx.frames);
        if std::mem::take(&mut self.reach_changed) {
            fx.dials = Some(self.dialled());
            fx.members = Some(self.linkable());
        }
    }

    /// Returns when [`Input::TimePassed`] has something to do next, by the monotonic clock.
    pub fn due(&self) -> Option<Duration> {
        let joining = self.joining.as_ref().map(|joining| joining.until);
        let host_work = self.host_work.due().filter(|_| self.may_carry_out());
        let epochs = self.epochs.due().filter(|_| self.may_carry_out());
        let due = [
            self.exchange.due(),
            host_work,
            epochs,
            joining,
            self.offences.due(),
            self.loose_ends.due(),
            self.hiding.due(),
        ];
        due.into_iter().flatten().min()
    }

    /// Tells whether this node knows enough to purge and to seal what it hosts.
    fn may_carry_out(&self) -> bool {
        self.documents.contains_key(&self.own_document()) && !self.recovering
    }

    /// Ends the recovery from a damaged store once two peers are known to hold no more than this node, or
    /// the only one there is: one alone may say so whatever it holds.
    fn recover(&mut self, fx: &mut Effects) {
        if !self.recovering || !self.documents.contains_key(&self.own_document()) {
            return;
        }
        let frontier = self.frontier();
        let writes = |peer: &NodeId| self.members.get(peer).is_some_and(|m| m.role != Role::Reader);
        let peers = self.exchange.greeted().into_iter().filter(writes);
        self.equal_to.extend(peers.filter(|peer| self.exchange.is_in_sync(peer, &frontier)));
        let others = self.members.values().filter(|member| {
            let is_writer = member.role != Role::Reader && member.is_current();
            is_writer && member.node != self.node
        });
        let needed = others.count().min(RECOVERED_BY);
        if needed > 0 && self.equal_to.len() >= needed {
            tracing::info!(peers = ?self.equal_to, "has back what a damaged store had lost");
            self.equal_to.clear();
            self.recovering = false;
            fx.writes.push(Write::Recovering(false));
            self.host_work.look_again();
        }
    }

    /// Takes what a document has gained through the view to the subscribers, the store and the
    /// peers: the one path of every commit and every merge.
    fn absorb(
        &mut self,
        now: Now,
        id: DocumentId,
        applied: &mut Applied,
        from: Option<NodeId>,
        fx: &mut Effects,
    ) {
        if applied.changes.is_empty() {
            return;
        }
        let authors = applied.changes.iter().map(AppliedChange::author).collect();
        let origin = from.map_or(Origin::Here, Origin::Peer);
        if from.is_none() {
            if self.keep_written(now, id, applied, fx) {
                let touched = applied.touched.clone();
                return self.show_later(now, Gained { id, touched, origin, authors }, fx);
            }
            self.vouch(id, applied);
        }
        self.record(id, applied, fx);
        self.spread(now, id, applied, from, origin, authors, fx);
    }

    /// Takes what a document has gained to the peers and the subscribers.
    #[expect(clippy::too_many_arguments, reason = "each is a part of what happened")]
    fn spread(
        &mut self,
        now: Now,
        id: DocumentId,
        applied: &Applied,
        from: Option<NodeId>,
        origin: Origin,
        authors: BTreeSet<Fingerprint>,
        fx: &mut Effects,
    ) {
        self.push(now, id, applied, from, fx);
        let touched = applied.touched.clone();
        self.show_later(now, Gained { id, touched, origin, authors }, fx);
    }

    /// Sends what a document has gained on to the peers that may lack it.
    fn push(
        &mut self,
        now: Now,
        id: DocumentId,
        applied: &Applied,
        from: Option<NodeId>,
        fx: &mut Effects,
    ) {
        if self.exchange.is_shared(&id) {
            let out = &mut fx.frames;
            self.exchange.push(now.monotonic, id, applied, from, &self.trust, out);
        }
    }

    /// Stands, by this node's key, for what it has just written.
    fn vouch(&mut self, id: DocumentId, applied: &mut Applied) {
        if let Some(document) = self.documents.get_mut(&id) {
            vouch_for(&self.trust, document, applied);
        }
    }

    fn record(&self, document: DocumentId, applied: &Applied, fx: &mut Effects) {
        fx.writes.extend(
            applied
                .changes
                .iter()
                .map(|change| Write::Change { document, bytes: change.bytes.clone() }),
        );
        let vouchers = applied.vouchers.iter();
        fx.writes.extend(vouchers.map(|voucher| Write::Voucher { document, voucher: *voucher }));
    }

    /// Returns the cursor of the present view.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Returns the digest of the present view.
    pub fn digest(&self) -> Digest {
        self.view.digest()
    }

    /// Returns the present view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Returns all sessions and workspaces, to be published whole.
    pub fn records(&self) -> (Vec<Arc<Session>>, Vec<Arc<Workspace>>) {
        let workspaces = self.view.workspaces().map(|entry| entry.record.clone());
        (self.view.sessions().cloned().collect(), workspaces.collect())
    }

    /// Returns this node's key.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Returns the fleet that this node belongs to.
    pub fn fleet(&self) -> FleetId {
        self.fleet
    }

    /// Returns what people call this machine.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Returns under whom this start of the node writes.
fn actor_of(startup: &Startup) -> ActorId {
    let start = if planted!(ActorReused) { StartId([0; 8]) } else { startup.start };
    document::actor(&startup.node, start)
}

fn session_key(host: NodeId, id: &super::ids::SessionId) -> super::record::SessionKey {
    super::record::SessionKey { host, id: id.clone() }
}

fn workspace_key(host: NodeId, id: &super::ids::WorkspaceId) -> super::record::WorkspaceKey {
    super::record::WorkspaceKey { host, id: id.clone() }
}
