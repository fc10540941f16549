//! Owns publishing: changed records go from the documents through the view to the subscribers.
//!
//! Must not know how subscribers are told. Invariants: every change of the view is published, as one diff
//! with one cursor; nothing is read of a hidden host.

use std::collections::BTreeSet;

use super::super::{
    diff::{self, Cause, CauseKind, Diff, Event},
    document::{Document, Records, Touched},
    effect::{Effects, Now, Publication, Write},
    ids::{Cursor, Fingerprint, NodeId},
    view,
};
use super::{Replica, session_key, workspace_key};

/// Where what is published came from.
#[derive(Debug, Clone, Copy)]
pub enum Origin {
    Here,
    Peer(NodeId),
    Store,
}

impl Origin {
    fn kind(self) -> CauseKind {
        match self {
            Self::Here => CauseKind::Local,
            Self::Peer(_) => CauseKind::Merge,
            Self::Store => CauseKind::Load,
        }
    }

    fn peer(self) -> Option<NodeId> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Here | Self::Store => None,
        }
    }
}

impl Replica {
    /// Derives what follows from what the documents now say, and publishes the difference; returns
    /// what differs.
    pub(super) fn publish(
        &mut self,
        now: Now,
        touched: view::Touched,
        origin: Origin,
        authors: BTreeSet<Fingerprint>,
        fx: &mut Effects,
    ) -> Vec<view::Change> {
        if touched.workspaces.keys().any(|key| key.host == self.node) {
            // What people ask for after a failed teardown does not show in the record.
            self.host_work.look_again();
        }
        let changes = self.view.apply(touched);
        self.tell(now, &changes, origin, authors, fx);
        changes
    }

    /// Publishes by what the view differs from before.
    pub(super) fn tell(
        &mut self,
        now: Now,
        changes: &[view::Change],
        origin: Origin,
        authors: BTreeSet<Fingerprint>,
        fx: &mut Effects,
    ) {
        if !planted!(RuleAtDelete) || matches!(origin, Origin::Here) {
            self.host_work.note(now.monotonic, &self.node, changes);
        }
        let mut events = diff::between(changes);
        self.tell_what_is_kept(&mut events);
        self.tell_events(now, events, origin, authors, fx);
    }

    /// Publishes events, if there are any, as one diff.
    pub(super) fn tell_events(
        &mut self,
        now: Now,
        events: Vec<Event>,
        origin: Origin,
        authors: BTreeSet<Fingerprint>,
        fx: &mut Effects,
    ) {
        if events.is_empty() {
            return;
        }
        let authors = authors.iter().filter_map(|author| self.trust.node(author));
        let previous = self.cursor;
        self.cursor = Cursor { sequence: previous.sequence + 1, start: self.start };
        let diff = Diff {
            cursor: self.cursor,
            previous,
            digest: self.view.digest(),
            cause: Cause {
                kind: origin.kind(),
                peer: origin.peer(),
                authors: authors.collect(),
                at: now.wall_ms,
            },
            events,
        };
        let body = diff.to_json();
        fx.writes.push(Write::Journal { cursor: self.cursor, body: body.clone() });
        fx.diffs.push(Publication { diff, body });
    }

    pub(super) fn read_touched(&self, host: NodeId, touched: &BTreeSet<Touched>) -> view::Touched {
        let mut read = view::Touched::default();
        let Some(document) = self.host_document(host) else { return read };
        for record in touched {
            match record {
                Touched::Session(id) => {
                    read.sessions.insert(session_key(host, id), document.session(id));
                }
                Touched::Workspace(id) => {
                    read.workspaces.insert(workspace_key(host, id), document.workspace(id));
                }
                Touched::Trash(_) | Touched::Meta | Touched::Description => {}
            }
        }
        read
    }
}

pub(super) fn read_all(document: &Document, host: NodeId, touched: &mut view::Touched) {
    let Records { sessions, workspaces } = document.records();
    for (id, session) in sessions {
        touched.sessions.insert(session_key(host, &id), session);
    }
    for (id, workspace) in workspaces {
        touched.workspaces.insert(workspace_key(host, &id), workspace);
    }
}
