//! Watches one node from outside: folds its diffs as a subscriber does, and holds what it does
//! against the invariants of the contract that one node can break alone.

use std::collections::{BTreeMap, BTreeSet};

use sessionmesh::replica::{
    command::{Refusal, Reply},
    diff::{CauseKind, Diff, Event},
    effect::{Effects, Publication, RequestId, Startup, Stored, TeardownDue, Write},
    fold::{Fold, Snapshot},
    ids::{ChangeHash, DocumentId, NodeId, SessionId, StartId},
    machine::Replica,
    record::{
        Session, SessionKey, SessionState, TeardownState, Workspace, WorkspaceKey, WorkspaceState,
    },
};

/// A change, by its name and by its author's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Acknowledged {
    pub document: DocumentId,
    pub change: ChangeHash,
    pub actor: [u8; 20],
    pub seq: u64,
}

impl Acknowledged {
    /// Names a change by its bytes.
    pub fn of(document: DocumentId, bytes: &[u8]) -> Self {
        let change = automerge::Change::try_from(bytes).expect("a change");
        Self {
            document,
            change: ChangeHash(change.hash().0),
            actor: change.actor_id().to_bytes().try_into().expect("an actor of ours"),
            seq: change.seq(),
        }
    }
}

/// What is known of a node from outside.
#[derive(Debug, Clone)]
pub struct Watch {
    node: NodeId,
    fold: Fold,
    /// How often each event was published, by type and id.
    pub events: BTreeMap<(&'static str, String), u64>,
    /// The changes beside which something was acknowledged.
    pub acknowledged: BTreeSet<Acknowledged>,
    purged: BTreeSet<SessionKey>,
    gone: BTreeSet<WorkspaceKey>,
    /// The sessions that were seen deleted, and not seen restored.
    pub deleted: BTreeSet<SessionKey>,
    /// The sessions that came back by what this node was asked.
    pub restored: BTreeSet<SessionKey>,
    /// The sessions that came back by what a peer sent.
    pub restored_by_merge: BTreeSet<SessionKey>,
    /// The parents that all sessions were ever shown with: several only where nodes created the
    /// same id at once, and one of the records won.
    pub parents: BTreeMap<SessionKey, BTreeSet<Option<SessionId>>>,
    /// Where the documents stood when the view was last compared with them.
    compared_at: Option<[u8; 32]>,
}

impl Watch {
    pub fn new(replica: &Replica) -> Self {
        Self {
            node: replica.node(),
            fold: fold(snapshot(replica)),
            events: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            purged: BTreeSet::new(),
            gone: BTreeSet::new(),
            deleted: BTreeSet::new(),
            restored: BTreeSet::new(),
            restored_by_merge: BTreeSet::new(),
            parents: BTreeMap::new(),
            compared_at: None,
        }
    }

    /// Takes note of what a replica wants done.
    pub fn effects(&mut self, replica: &Replica, fx: &Effects) {
        let journalled = fx.writes.iter().filter(|write| matches!(write, Write::Journal { .. }));
        assert_eq!(journalled.count(), fx.diffs.len(), "every diff is in the journal");
        fx.diffs.iter().for_each(|publication| self.published(publication));
        if fx.reset {
            self.reset(snapshot(replica));
        }
        self.stands_at(replica);
        fx.teardowns.iter().for_each(|due| self.teardown_asked_for(replica, due));
    }

    /// Takes note of a diff that is published.
    pub fn published(&mut self, publication: &Publication) {
        let told: Diff = serde_json::from_str(&publication.body).expect("a diff reads back");
        assert_eq!(told, publication.diff, "the body is the diff");
        self.diff(&publication.diff);
    }

    /// Takes note that the view is published whole, no diff telling what changed.
    pub fn reset(&mut self, snapshot: Snapshot) {
        self.purged.clear();
        self.gone.clear();
        self.begin_anew(snapshot);
    }

    /// Checks that all that was published leads to where the replica stands.
    pub fn stands_at(&self, replica: &Replica) {
        assert_eq!(self.fold.cursor(), replica.cursor(), "no diff is missing");
        assert_eq!(self.fold.digest(), replica.digest(), "the diffs fold to the view");
    }

    /// Checks that a teardown may be asked for.
    pub fn teardown_asked_for(&self, replica: &Replica, due: &TeardownDue) {
        let entry = replica.view().workspace(&due.workspace.key()).expect("it is shown");
        let teardown = entry.stored.teardown.as_ref().expect("sealed");
        assert_eq!(teardown.state, TeardownState::Sealed);
        assert_eq!(teardown.incarnation, due.incarnation);
        assert_eq!(entry.record.host, self.node, "only the host tears down");
        assert_eq!(entry.record.session_count, 0, "nobody is in what is torn down");
    }

    /// Checks that a teardown may take its first step: its host sees nobody in the workspace.
    pub fn teardown_begins(&self, replica: &Replica, due: &TeardownDue) {
        let entry = replica.view().workspace(&due.workspace.key()).expect("it is not gone");
        assert_eq!(entry.record.session_count, 0, "nobody is in what is torn down");
        let teardown = entry.stored.teardown.as_ref().expect("sealed");
        assert_eq!(
            (teardown.state, teardown.incarnation),
            (TeardownState::Sealed, due.incarnation)
        );
    }

    fn diff(&mut self, diff: &Diff) {
        assert!(!diff.events.is_empty(), "a diff tells something");
        assert_ne!(
            diff.cause.kind,
            CauseKind::Load,
            "nothing was reloaded in this world: {diff:?}"
        );
        for event in &diff.events {
            self.event(diff, event);
        }
        self.fold.apply(diff).unwrap_or_else(|error| panic!("{error}: {diff:#?}"));
    }

    /// Checks that an event tells of a change, and once: the record was not so before.
    fn event(&mut self, diff: &Diff, event: &Event) {
        let by_host = |host: &NodeId| {
            let local = diff.cause.kind == CauseKind::Local && *host == self.node;
            assert!(
                local || diff.cause.authors.contains(host),
                "only the host does this: {diff:?}"
            );
        };
        if let Event::SessionCreated { session }
        | Event::SessionUpdated { session, .. }
        | Event::SessionDeleted { session, .. }
        | Event::SessionRestored { session }
        | Event::SessionStranded { session } = event
        {
            self.parents.entry(session.key()).or_default().insert(session.parent_id.clone());
        }
        let session = |key: &SessionKey| self.fold.session(key).map(|record| record.state);
        let workspace = |key: &WorkspaceKey| self.fold.workspace(key).map(|record| record.state);
        use SessionState::{Deleted, Live, Stranded};
        use WorkspaceState::{Failed, Sealed, Vacated};
        let (name, id) = match event {
            Event::SessionCreated { session: after } => {
                assert_eq!(session(&after.key()), None, "created once");
                assert!(!self.purged.contains(&after.key()), "a purged id never comes back");
                if after.state == Deleted {
                    self.deleted.insert(after.key());
                }
                ("session.created", after.id.to_string())
            }
            Event::SessionUpdated { session: after, changed } => {
                let before = self.fold.session(&after.key()).expect("it is there");
                assert!(before != after && !changed.is_empty(), "an update changes something");
                let moved_out = (before.state, after.state) == (Stranded, Live);
                assert!(before.state == after.state || moved_out, "{before:?} {after:?}");
                ("session.updated", after.id.to_string())
            }
            Event::SessionDeleted { session: after, .. } => {
                assert!(matches!(session(&after.key()), Some(Live | Stranded)), "deleted once");
                self.deleted.insert(after.key());
                ("session.deleted", after.id.to_string())
            }
            Event::SessionRestored { session: after } => {
                assert_eq!(session(&after.key()), Some(Deleted), "restored once");
                self.came_back(diff, after);
                ("session.restored", after.id.to_string())
            }
            Event::SessionStranded { session: after } => {
                let before = session(&after.key());
                assert!(matches!(before, Some(Live | Deleted)), "stranded once");
                if before == Some(Deleted) {
                    self.came_back(diff, after);
                }
                ("session.stranded", after.id.to_string())
            }
            Event::SessionPurged { session: before } => {
                assert_eq!(self.fold.session(&before.key()), Some(before), "as last known");
                by_host(&before.host);
                self.purged.insert(before.key());
                ("session.purged", before.id.to_string())
            }
            // Its host counts for nothing here; it may come back if that ceases to be so.
            Event::SessionHidden { session: before } => {
                assert_eq!(self.fold.session(&before.key()), Some(before), "as last known");
                assert_ne!(before.host, self.node, "what a node hosts stays shown to it");
                self.deleted.remove(&before.key());
                ("session.hidden", before.id.to_string())
            }
            Event::WorkspaceHidden { workspace: before } => {
                assert_eq!(self.fold.workspace(&before.key()), Some(before), "as last known");
                assert_ne!(before.host, self.node, "what a node hosts stays shown to it");
                ("workspace.hidden", before.id.to_string())
            }
            Event::WorkspaceCreated { workspace: after } => {
                assert_eq!(workspace(&after.key()), None, "created once");
                assert!(!self.gone.contains(&after.key()), "a workspace that is gone stays so");
                ("workspace.created", after.id.to_string())
            }
            Event::WorkspaceUpdated { workspace: after, changed } => {
                let before = self.fold.workspace(&after.key()).expect("it is there");
                assert!(before != after && !changed.is_empty(), "an update changes something");
                assert_eq!(before.state, after.state);
                ("workspace.updated", after.id.to_string())
            }
            Event::WorkspaceRemoved { workspace: after, .. } => {
                assert_eq!(workspace(&after.key()), Some(WorkspaceState::Live), "removed once");
                ("workspace.removed", after.id.to_string())
            }
            Event::WorkspaceRestored { workspace: after } => {
                assert_eq!(workspace(&after.key()), Some(Vacated), "restored once: {diff:?}");
                ("workspace.restored", after.id.to_string())
            }
            Event::WorkspaceSealed { workspace: after } => {
                assert_ne!(workspace(&after.key()), Some(Sealed), "sealed once");
                by_host(&after.host);
                ("workspace.sealed", after.id.to_string())
            }
            Event::WorkspaceFailed { workspace: after } => {
                assert_ne!(workspace(&after.key()), Some(Failed), "failed once");
                by_host(&after.host);
                ("workspace.failed", after.id.to_string())
            }
            Event::WorkspaceGone { workspace: before } => {
                let known = self.fold.workspace(&before.key()).expect("it was there");
                let kept_until = before.teardown.as_ref().and_then(|it| it.kept_until);
                let (teardown, state) = (known.teardown.clone(), known.state);
                let as_known = Workspace { teardown, state, ..(**before).clone() };
                assert_eq!(**known, as_known, "as last known");
                assert!(known == before || kept_until.is_some(), "but for what is kept");
                by_host(&before.host);
                self.gone.insert(before.key());
                ("workspace.gone", before.id.to_string())
            }
        };
        *self.events.entry((name, id)).or_default() += 1;
    }

    fn came_back(&mut self, diff: &Diff, session: &Session) {
        self.deleted.remove(&session.key());
        let local = diff.cause.kind == CauseKind::Local;
        let came_back = if local { &mut self.restored } else { &mut self.restored_by_merge };
        came_back.insert(session.key());
    }

    /// Takes note of what is durable now.
    pub fn durable(&mut self, writes: &[Write], replies: &[(RequestId, Result<Reply, Refusal>)]) {
        if !replies.iter().any(|(_, answer)| answer.is_ok()) {
            return;
        }
        for write in writes {
            let Write::Change { document, bytes } = write else { continue };
            self.acknowledged.insert(Acknowledged::of(*document, bytes));
        }
    }

    /// Checks that the seal is on the disk before a teardown starts.
    pub fn teardown_started(&self, stored: Stored, due: &TeardownDue) {
        let startup = Startup {
            node: self.node,
            name: String::new(),
            start: StartId([0xff; 8]),
            seed: 0,
            undo_window: std::time::Duration::MAX,
            keep_removed: std::time::Duration::ZERO,
            start_grace: std::time::Duration::ZERO,
            keyring: super::keys::key_of(self.node),
        };
        let now = sessionmesh::replica::effect::Now { monotonic: Default::default(), wall_ms: 0 };
        let (after_crash, _) = Replica::open(startup, stored, now).expect("it can be read");
        let entry = after_crash.view().workspace(&due.workspace.key()).expect("it is on the disk");
        let teardown = entry.stored.teardown.as_ref().expect("the seal is durable");
        assert!(teardown.incarnation >= due.incarnation, "this seal is durable");
    }

    /// Begins anew with a node that was started again.
    pub fn restarted(&mut self, replica: &Replica, journal: &[Diff]) {
        // Whoever held the last durable diff's cursor goes on from there without a gap.
        let mut last = None;
        for diff in journal {
            assert!(last.is_none_or(|last| last == diff.previous), "the journal has no gap");
            last = Some(diff.cursor);
        }
        if let Some(last) = journal.last() {
            assert_eq!(replica.cursor(), last.cursor, "a cursor survives a restart");
            assert_eq!(replica.digest(), last.digest, "and so does the view at it");
        }
        // What a crash has undone may come to be again, in another way.
        let events = || journal.iter().flat_map(|diff| &diff.events);
        self.purged = events()
            .filter_map(|event| match event {
                Event::SessionPurged { session } => Some(session.key()),
                _ => None,
            })
            .collect();
        self.gone = events()
            .filter_map(|event| match event {
                Event::WorkspaceGone { workspace } => Some(workspace.key()),
                _ => None,
            })
            .collect();
        self.begin_anew(snapshot(replica));
    }

    fn begin_anew(&mut self, snapshot: Snapshot) {
        let shown = snapshot.sessions.iter();
        let deleted = shown.filter(|session| session.state == SessionState::Deleted);
        self.deleted = deleted.map(|session| session.key()).collect();
        self.fold = fold(snapshot);
        self.compared_at = None;
    }

    /// Checks what holds at any moment.
    pub fn check(&mut self, replica: &Replica) {
        assert_eq!(replica.stale_deadlines_total(), 0, "deadlines are of what the view shows");
        let frontier = replica.frontier();
        if self.compared_at.replace(frontier) == Some(frontier) {
            return;
        }
        assert_eq!(*replica.view(), replica.reread(), "the view is what the documents say");
        let (sessions, workspaces) = replica.records();
        let snapshot = self.fold.snapshot();
        assert_eq!(snapshot.sessions, sessions, "the diffs fold to the view");
        assert_eq!(snapshot.workspaces, workspaces, "the diffs fold to the view");
        for key in &self.deleted {
            let state = replica.view().session(key).map(|session| session.state);
            assert!(matches!(state, None | Some(SessionState::Deleted)), "{key:?} is {state:?}");
        }
    }
}

fn snapshot(replica: &Replica) -> Snapshot {
    let (sessions, workspaces) = replica.records();
    Snapshot { cursor: replica.cursor(), digest: replica.digest(), sessions, workspaces }
}

fn fold(snapshot: Snapshot) -> Fold {
    Fold::from_snapshot(snapshot).expect("a view has its digest")
}
