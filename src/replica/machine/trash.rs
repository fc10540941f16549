//! Owns what is told of the things that hosts keep after they have ended them, and asking for one to
//! be restored.
//!
//! Must not know where a thing is kept, nor restore it: the daemon's shells do. Invariants: what is
//! told follows from what the host last reported, so that reporting again changes nothing; a request
//! stays until its host reports what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::super::{
    command::{Refusal, Reply, Target},
    diff::Event,
    effect::{Effects, Now},
    ids::{DocumentId, NodeId, OperationId, TrashId},
    record::{Ended, Teardown, TeardownState, Workspace, WorkspaceState},
    trash::{ENTRIES_MAX, SUMMARY_BYTES_MAX, TrashEntry, TrashState, TrashStored},
};
use super::Replica;

/// Most entries that one report writes: each takes some operations and, with its text, up to a
/// kilobyte, and the loop is to go on meanwhile.
const REPORTED_MAX: usize = 64;

/// Longest summary that is read, in bytes: a newer version may tell more, and a bad host much more.
const SUMMARY_BYTES_READ_MAX: usize = 4 * SUMMARY_BYTES_MAX;

/// What is to be written of one entry.
#[derive(Debug, Default)]
struct Differs {
    /// What is to be said of it, where that has changed.
    summary: Option<String>,
    /// The host keeps it no more.
    is_gone: bool,
    answered: BTreeSet<OperationId>,
}

impl Replica {
    /// Lists what hosts keep, as far as it is told: at most so many of each.
    pub fn trash(&self) -> Vec<TrashStored> {
        let hosts: BTreeSet<NodeId> = self.documents.keys().filter_map(DocumentId::host).collect();
        hosts.into_iter().flat_map(|host| self.trash_of(host)).collect()
    }

    fn trash_of(&self, host: NodeId) -> Vec<TrashStored> {
        let ids = self.host_document(host).map(|document| document.kept_ids(ENTRIES_MAX));
        ids.unwrap_or_default().into_iter().filter_map(|id| self.trash_entry(host, id)).collect()
    }

    fn trash_entry(&self, host: NodeId, id: TrashId) -> Option<TrashStored> {
        let kept = self.host_document(host)?.kept(&id)?;
        if kept.summary.len() > SUMMARY_BYTES_READ_MAX {
            return None;
        }
        Some(TrashStored { host, id, summary: kept.summary, requests: kept.requests })
    }

    /// Says of each workspace that is gone until when its host keeps it, to those who learn of its
    /// seal only together with its end.
    pub(super) fn tell_what_is_kept(&self, events: &mut [Event]) {
        for event in events {
            let Event::WorkspaceGone { workspace } = event else { continue };
            if workspace.teardown.as_ref().is_some_and(|it| it.kept_until.is_some()) {
                continue;
            }
            let ended = self.host_document(workspace.host).and_then(|it| it.ended(&workspace.id));
            if let Some(Ended { incarnation, at, kept_until: kept_until @ Some(_), .. }) = ended {
                let state = TeardownState::Sealed;
                let teardown = Teardown { state, incarnation, at, error: None, kept_until };
                let (teardown, state) = (Some(teardown), WorkspaceState::Sealed);
                *workspace = Arc::new(Workspace { teardown, state, ..(**workspace).clone() });
            }
        }
    }

    /// Notes at a start whether restores are asked for that were not answered before it.
    pub(super) fn open_trash(&self, fx: &mut Effects) {
        fx.trash |= self.trash_of(self.node).iter().any(|entry| !entry.requests.is_empty());
    }

    /// Takes over what this node keeps, all of it, and which requests were answered; tells how many
    /// entries are still to be written, by another report.
    pub(super) fn report_trash(
        &mut self,
        now: Now,
        entries: Vec<TrashEntry>,
        answered: &BTreeSet<OperationId>,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        let Some(document) = self.host_document(self.node) else {
            return Err(Refusal::HostNotReady(self.node));
        };
        let mut differs: BTreeMap<TrashId, Differs> = BTreeMap::new();
        let mut wanted = told(entries, self.node);
        for id in document.kept_ids(usize::MAX) {
            let Some(kept) = document.kept(&id) else { continue };
            let summary = wanted.remove(&id);
            let this = Differs {
                is_gone: summary.is_none(),
                summary: summary.filter(|summary| *summary != kept.summary),
                answered: kept.requests.into_keys().filter(|it| answered.contains(it)).collect(),
            };
            if this.is_gone || this.summary.is_some() || !this.answered.is_empty() {
                differs.insert(id, this);
            }
        }
        let new = wanted.into_iter();
        differs.extend(
            new.map(|(id, summary)| (id, Differs { summary: Some(summary), ..Differs::default() })),
        );
        let mut differs: Vec<(TrashId, Differs)> = differs.into_iter().collect();
        // Whoever asked waits for it.
        differs.sort_by_key(|(_, this)| this.answered.is_empty());
        let left = differs.len().saturating_sub(REPORTED_MAX);
        differs.truncate(REPORTED_MAX);
        if !differs.is_empty() {
            self.write_own(now, fx, |tx| {
                differs.iter().try_for_each(|(id, this)| {
                    if this.is_gone {
                        return tx.drop_from_trash(id);
                    }
                    if let Some(summary) = &this.summary {
                        tx.keep_in_trash(id, summary)?;
                    }
                    tx.clear_restores(id, &this.answered)
                })
            });
        }
        Ok(Reply::TrashReported { left })
    }

    /// Asks a host to put back what it keeps.
    pub(super) fn request_restore(
        &mut self,
        now: Now,
        target: &Target<TrashId>,
        fx: &mut Effects,
    ) -> Result<Reply, Refusal> {
        self.may_write()?;
        let host = self.keeper_of(target)?;
        let id = target.id.clone();
        let found = self.trash_entry(host, id.clone());
        let found = found.as_ref().and_then(TrashStored::read);
        let listed = found.ok_or_else(|| Refusal::TrashNotFound(id.clone()))?;
        match listed.entry.state {
            TrashState::Expiring => return Err(Refusal::TrashExpiring(id)),
            TrashState::Restored => return Ok(Reply::Trash(Box::new(listed))),
            TrashState::Kept | TrashState::Stuck => {}
        }
        let by = self.node;
        // Asking again while nothing has come of it says nothing more.
        if !listed.requests.values().any(|asked| *asked == by) {
            let operation = self.new_operation(now.wall_ms);
            self.write_host(now, host, fx, |tx| tx.request_restore(&id, &operation, by))?;
        }
        let listed = self.trash_entry(host, id.clone()).and_then(|it| it.read());
        Ok(Reply::Trash(Box::new(listed.ok_or(Refusal::TrashNotFound(id))?)))
    }

    /// Finds the host that is meant.
    fn keeper_of(&self, target: &Target<TrashId>) -> Result<NodeId, Refusal> {
        let named = target.host.as_ref().map(|host| self.find_node(host)).transpose()?;
        let mut hosts: BTreeSet<NodeId> =
            self.documents.keys().filter_map(DocumentId::host).collect();
        hosts.retain(|host| {
            named.is_none_or(|named| named == *host)
                && self.host_document(*host).is_some_and(|it| it.kept(&target.id).is_some())
        });
        match hosts.len() {
            0 => Err(Refusal::TrashNotFound(target.id.clone())),
            1 => hosts.pop_first().ok_or_else(|| Refusal::TrashNotFound(target.id.clone())),
            _ => Err(Refusal::AmbiguousId {
                id: target.id.to_string(),
                hosts: hosts.iter().map(|host| self.name_of(host)).collect(),
            }),
        }
    }
}

/// Picks what is told of what a host keeps: what can still be restored first, and the newest.
fn told(mut entries: Vec<TrashEntry>, host: NodeId) -> BTreeMap<TrashId, String> {
    entries.retain(|entry| entry.host == host);
    entries.sort_by_cached_key(|entry| {
        let is_over = entry.state == TrashState::Restored;
        (is_over, std::cmp::Reverse(entry.ended_at), entry.id.clone())
    });
    let mut told = BTreeMap::new();
    for entry in entries {
        let Ok(id) = entry.id.parse::<TrashId>() else {
            tracing::warn!(id = entry.id, "other nodes are not told of a thing kept under that id");
            continue;
        };
        if told.len() == ENTRIES_MAX {
            break;
        }
        told.entry(id).or_insert_with(|| entry.summary());
    }
    told
}
