//! Owns finding what is to be explained, and saying from the view why it is as it is.
//!
//! Must not read history: that takes long, and is done on a copy elsewhere. Invariant: what is
//! purged or gone can be explained as long as its document remembers it.

use std::collections::BTreeMap;

use super::super::{
    command::{Refusal, Target},
    document::Touched,
    explain::{Explainable, Explanation, Kind},
    ids::{NodeId, OperationId, SessionId, WorkspaceId},
    record::{Session, SessionState, TeardownState, Workspace, WorkspaceState},
};
use super::{Replica, session_key, workspace_key};

impl Replica {
    /// Finds a session or workspace, also one that is purged or gone, to be explained.
    ///
    /// # Errors
    ///
    /// No document knows it, or several do.
    pub fn explainable(&self, target: &Target<SessionId>) -> Result<Explainable, Refusal> {
        let host = target.host.as_deref().map(|host| self.find_node(host)).transpose()?;
        let found = self.records_called(&target.id, host);
        let present: Vec<_> = found.iter().filter(|(.., here)| *here).cloned().collect();
        let mut found = if present.is_empty() { found } else { present };
        // Of a session and a workspace of the same name, the session is meant.
        if found.iter().any(|(_, record, _)| matches!(record, Touched::Session(_))) {
            found.retain(|(_, record, _)| matches!(record, Touched::Session(_)));
        }
        match found.len() {
            0 => Err(Refusal::SessionNotFound(target.id.clone())),
            1 => {
                let (host, record, _) = found.remove(0);
                self.explain(host, record)
            }
            _ => Err(Refusal::AmbiguousId {
                id: target.id.to_string(),
                hosts: found.iter().map(|(host, ..)| self.name_of(host)).collect(),
            }),
        }
    }

    /// Lists the records with an id, and whether each is still there.
    fn records_called(&self, id: &SessionId, host: Option<NodeId>) -> Vec<(NodeId, Touched, bool)> {
        let workspace: WorkspaceId = id.as_str().parse().expect("ids of both kinds look alike");
        let mut hosts: Vec<NodeId> =
            self.documents.keys().filter_map(super::DocumentId::host).collect();
        hosts.dedup();
        let mut found = Vec::new();
        for at in hosts.into_iter().filter(|at| host.is_none_or(|host| host == *at)) {
            let Some(document) = self.host_document(at) else { continue };
            let here = self.view.session(&session_key(at, id)).is_some();
            if here || document.is_session_spent(id) {
                found.push((at, Touched::Session(id.clone()), here));
            }
            let here = self.view.workspace(&workspace_key(at, &workspace)).is_some();
            if here || document.is_workspace_spent(&workspace) {
                found.push((at, Touched::Workspace(workspace.clone()), here));
            }
        }
        found
    }

    fn explain(&self, host: NodeId, record: Touched) -> Result<Explainable, Refusal> {
        let copy = self.host_document(host).ok_or(Refusal::HostNotReady(host))?.copy();
        let mut explanation = Explanation {
            kind: Kind::Session,
            id: String::new(),
            host,
            host_name: self.name_of(&host),
            state: String::new(),
            because: Vec::new(),
            session: None,
            workspace: None,
            teardowns: Vec::new(),
            changes: Vec::new(),
            omitted: 0,
            ticks: 0,
        };
        match &record {
            Touched::Session(id) => {
                explanation.id = id.to_string();
                let session = self.view.session(&session_key(host, id));
                explanation.session = session.map(|session| (**session).clone());
                (explanation.state, explanation.because) = match &explanation.session {
                    Some(session) => self.why_session(session),
                    None => {
                        let what = "its host carried its delete out, for good".to_owned();
                        ("purged".to_owned(), vec![what])
                    }
                };
            }
            Touched::Workspace(id) => {
                explanation.kind = Kind::Workspace;
                explanation.id = id.to_string();
                let entry = self.view.workspace(&workspace_key(host, id));
                explanation.workspace = entry.map(|entry| (*entry.record).clone());
                let keepers = entry.map(|entry| &entry.stored.keepers);
                (explanation.state, explanation.because) = match &explanation.workspace {
                    Some(workspace) => self.why_workspace(workspace, keepers),
                    None => ("gone".to_owned(), vec!["its host has ended it".to_owned()]),
                };
            }
            Touched::Trash(_) | Touched::Meta | Touched::Description => {
                unreachable!("only sessions and workspaces are found")
            }
        }
        let authors = self.trust.nodes();
        let authors = authors.map(|node| (node.fingerprint(), (node, self.name_of(&node))));
        Ok(Explainable { explanation, record, copy, authors: authors.collect() })
    }

    fn why_session(&self, session: &Session) -> (String, Vec<String>) {
        let mut because = Vec::new();
        let state = match session.state {
            SessionState::Live => {
                because.push("neither it nor a parent is deleted".to_owned());
                "live"
            }
            SessionState::Deleted => {
                self.why_deleted(session, &mut because);
                "deleted"
            }
            SessionState::Stranded => {
                let workspace = session.workspace_id.as_ref();
                let entry =
                    workspace.and_then(|id| self.view.workspace(&workspace_key(session.host, id)));
                let what = match entry.map(|entry| entry.record.state) {
                    None => "is gone".to_owned(),
                    Some(WorkspaceState::Failed) => {
                        "was sealed, and its ending has failed".to_owned()
                    }
                    Some(_) => "is sealed: its host is ending it".to_owned(),
                };
                let id = workspace.map(ToString::to_string).unwrap_or_default();
                because.push(format!("it is not deleted, but its workspace {id} {what}"));
                "stranded"
            }
        };
        (state.to_owned(), because)
    }

    /// Says which delete a session is deleted by: its own, or that of the nearest deleted parent.
    fn why_deleted(&self, session: &Session, because: &mut Vec<String>) {
        let mut at = session.clone();
        let mut walked = std::collections::BTreeSet::new();
        while walked.insert(at.id.clone()) {
            if let Some(deletion) = &at.deleted {
                let whose = if at.id == session.id { "it" } else { "its parent" };
                let name = self.name_of(&deletion.by);
                because.push(format!(
                    "{whose} {} was deleted by {name}, as {}, which can be undone until its host \
                     carries it out",
                    at.id, deletion.operation
                ));
                return;
            }
            let Some(parent) = at.parent_id.clone() else { return };
            match self.view.session(&session_key(at.host, &parent)) {
                Some(parent) => at = (**parent).clone(),
                None => {
                    because.push(format!("its parent {parent} is not there any more"));
                    return;
                }
            }
        }
    }

    fn why_workspace(
        &self,
        workspace: &Workspace,
        keepers: Option<&BTreeMap<OperationId, NodeId>>,
    ) -> (String, Vec<String>) {
        let mut because = Vec::new();
        let count = workspace.session_count;
        if count > 0 {
            let noun = if count == 1 { "session is" } else { "sessions are" };
            because.push(format!("{count} alive {noun} in it"));
        } else if workspace.used {
            because.push("no alive session is in it, and it has been used".to_owned());
        } else {
            because.push("no session has been in it yet".to_owned());
        }
        for (operation, node) in keepers.into_iter().flatten() {
            because.push(format!("{} keeps it, as {operation}", self.name_of(node)));
        }
        let state = match (workspace.state, &workspace.teardown) {
            (WorkspaceState::Live, _) => "live",
            (WorkspaceState::Vacated, _) => {
                because.push("its host seals it once the undo window is over".to_owned());
                "vacated"
            }
            (WorkspaceState::Sealed, _) => {
                because.push("its host has sealed it and is ending it".to_owned());
                "sealed"
            }
            (WorkspaceState::Failed, teardown) => {
                let error = teardown
                    .as_ref()
                    .filter(|teardown| teardown.state == TeardownState::Failed)
                    .and_then(|teardown| teardown.error.clone());
                let why = error.unwrap_or_else(|| "for an unknown reason".to_owned());
                because.push(format!("its host could not end it: {why}"));
                "failed"
            }
        };
        (state.to_owned(), because)
    }
}
