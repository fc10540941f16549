//! A second, slow reading of the contract: what must be shown follows from what was done and who
//! knew of what.
//!
//! It knows no document, no order of arrival and no clock: only events, each with the set of
//! changes that its author knew. Where the contract leaves a choice open (two moves, or two creations of one id, at once), it
//! says which choices there are.

use std::{collections::BTreeSet, sync::Arc};

use sessionmesh::replica::{
    machine::Replica,
    record::{SessionState, WorkspaceState},
};

/// What one change says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Founded(String),
    Created { session: String, workspace: Option<String>, parent: Option<String> },
    Deleted(String),
    Restored(String),
    Moved { session: String, workspace: Option<String> },
    Used(String),
    Kept(String),
    Unkept(String),
    Purged(String),
    Sealed(String),
    Failed(String),
    Gone(String),
}

/// A change and all that its author knew, itself included, as bits.
#[derive(Debug)]
pub struct Change {
    pub bytes: Vec<u8>,
    /// Its author's word for it.
    pub voucher: sessionmesh::replica::voucher::Voucher,
    pub author: usize,
    pub knew: u64,
    pub events: Vec<Event>,
}

/// What follows from the changes that a replica knows.
pub struct Model<'a> {
    changes: &'a [Arc<Change>],
    known: u64,
    replica: &'a Replica,
}

impl<'a> Model<'a> {
    pub fn new(changes: &'a [Arc<Change>], known: u64, replica: &'a Replica) -> Self {
        Self { changes, known, replica }
    }

    fn events(&self) -> impl Iterator<Item = (usize, &'a Event)> + '_ {
        let known = self.changes.iter().enumerate().filter(|(at, _)| self.known >> at & 1 == 1);
        known.flat_map(|(at, change)| change.events.iter().map(move |event| (at, event)))
    }

    fn any(&self, wanted: &Event) -> bool {
        self.events().any(|(_, event)| event == wanted)
    }

    /// Tells whether something stands that was put and that nobody who knew of it took back.
    fn stands(&self, put: &Event, taken: &Event) -> bool {
        self.events().filter(|(_, event)| *event == put).any(|(put, _)| {
            !self.events().any(|(at, event)| {
                event == taken && at != put && self.changes[at].knew >> put & 1 == 1
            })
        })
    }

    pub fn sessions(&self) -> BTreeSet<&'a str> {
        let created = self.events().filter_map(|(_, event)| match event {
            Event::Created { session, .. } => Some(session.as_str()),
            _ => None,
        });
        created.filter(|session| !self.any(&Event::Purged((*session).to_owned()))).collect()
    }

    pub fn workspaces(&self) -> BTreeSet<&'a str> {
        let founded = self.events().filter_map(|(_, event)| match event {
            Event::Founded(workspace) => Some(workspace.as_str()),
            _ => None,
        });
        founded.filter(|workspace| !self.any(&Event::Gone((*workspace).to_owned()))).collect()
    }

    pub fn alive(&self, session: &str) -> bool {
        let (put, taken) =
            (Event::Deleted(session.to_owned()), Event::Restored(session.to_owned()));
        self.sessions().contains(session)
            && !self.stands(&put, &taken)
            && self.parent(session).is_none_or(|parent| self.alive(parent))
    }

    /// Returns a session's parent: the one that is shown, if who created the session named it.
    fn parent(&self, session: &str) -> Option<&'a str> {
        let named: BTreeSet<Option<&str>> = self
            .events()
            .filter_map(|(_, event)| match event {
                Event::Created { session: of, parent, .. } if of == session => {
                    Some(parent.as_deref())
                }
                _ => None,
            })
            .collect();
        let mut shown = self.replica.view().sessions().filter(|s| s.id.as_str() == session);
        let shown = shown.next().and_then(|s| s.parent_id.as_ref().map(|parent| parent.as_str()));
        assert!(named.contains(&shown), "the parent of {session} is {shown:?}, not of {named:?}");
        shown
    }

    /// Returns the workspaces in which a session may be: where those put it who knew the most.
    pub fn homes(&self, session: &str) -> BTreeSet<Option<&'a str>> {
        let put: Vec<(usize, Option<&str>)> = self
            .events()
            .filter_map(|(at, event)| match event {
                Event::Created { session: of, workspace, .. }
                | Event::Moved { session: of, workspace }
                    if of == session =>
                {
                    Some((at, workspace.as_deref()))
                }
                _ => None,
            })
            .collect();
        let outdone = |at: usize| {
            put.iter().any(|(later, _)| *later != at && self.changes[*later].knew >> at & 1 == 1)
        };
        put.iter().filter(|(at, _)| !outdone(*at)).map(|(_, home)| *home).collect()
    }

    /// Returns how far the end of a workspace has come: its host's last word.
    fn ending(&self, workspace: &str) -> Option<WorkspaceState> {
        let words = self.events().filter_map(|(_, event)| match event {
            Event::Sealed(of) if of == workspace => Some(WorkspaceState::Sealed),
            Event::Failed(of) if of == workspace => Some(WorkspaceState::Failed),
            _ => None,
        });
        words.last()
    }

    pub fn kept(&self, workspace: &str) -> bool {
        self.stands(&Event::Kept(workspace.to_owned()), &Event::Unkept(workspace.to_owned()))
    }

    /// Returns a workspace's state, given how many alive sessions are shown in it.
    pub fn state(&self, workspace: &str, occupants: usize) -> WorkspaceState {
        let used = self.any(&Event::Used(workspace.to_owned()));
        match self.ending(workspace) {
            Some(ending) => ending,
            None if occupants > 0 || self.kept(workspace) || !used => WorkspaceState::Live,
            None => WorkspaceState::Vacated,
        }
    }

    /// Checks what the replica shows.
    pub fn check(&self) {
        let view = self.replica.view();
        let shown: BTreeSet<&str> = view.sessions().map(|session| session.id.as_str()).collect();
        assert_eq!(shown, self.sessions(), "these sessions are there");
        let there = self.workspaces();
        let shown: BTreeSet<&str> =
            view.workspaces().map(|entry| entry.record.id.as_str()).collect();
        assert_eq!(shown, there, "these workspaces are there");
        for session in view.sessions() {
            let id = session.id.as_str();
            let home = session.workspace_id.as_ref().map(|home| home.as_str());
            let homes = self.homes(id);
            assert!(homes.contains(&home), "{id} is in {home:?} and may be in {homes:?}");
            let ended =
                home.is_some_and(|home| !there.contains(home) || self.ending(home).is_some());
            let state = match (self.alive(id), ended) {
                (false, _) => SessionState::Deleted,
                (true, true) => SessionState::Stranded,
                (true, false) => SessionState::Live,
            };
            assert_eq!(session.state, state, "the state of session {id}");
        }
        for entry in view.workspaces() {
            let id = entry.record.id.as_str();
            let inside = |home: Option<&str>| home == Some(id);
            let occupants = view.sessions().filter(|session| {
                inside(session.workspace_id.as_ref().map(|home| home.as_str()))
                    && self.alive(session.id.as_str())
            });
            let occupants = occupants.count();
            assert_eq!(entry.record.session_count, occupants as u64, "who is in workspace {id}");
            assert_eq!(entry.record.keep, self.kept(id), "whether workspace {id} is kept");
            assert_eq!(
                entry.record.state,
                self.state(id, occupants),
                "the state of workspace {id}"
            );
        }
    }
}
