//! What must hold once all is healed, nothing is on its way, and every undo window is over.

use std::collections::BTreeSet;

use sessionmesh::replica::{
    ids::{ChangeHash, DocumentId, NodeId},
    machine::Replica,
    record::{SessionKey, SessionState, WorkspaceState},
    view::View,
};

use super::watch::{Acknowledged, Watch};

/// Checks that nothing is left to be done by the hosts that are still there.
pub fn nothing_is_due(view: &View, is_here: impl Fn(&NodeId) -> bool) {
    for session in view.sessions().filter(|session| is_here(&session.host)) {
        assert_ne!(session.state, SessionState::Deleted, "{session:?} was to be purged");
    }
    for entry in view.workspaces().filter(|entry| is_here(&entry.record.host)) {
        let empty = entry.record.session_count == 0 && entry.record.used;
        let may_stay = match entry.record.state {
            WorkspaceState::Live => !empty || entry.record.keep,
            WorkspaceState::Sealed => !empty,
            WorkspaceState::Failed => true,
            WorkspaceState::Vacated => false,
        };
        assert!(may_stay, "nothing is done about {:?}", entry.record);
    }
}

/// Checks that what came back by a merge was restored by someone, itself or one of its parents.
pub fn nothing_came_back_by_itself(watches: &[&Watch]) {
    let restored: BTreeSet<&SessionKey> =
        watches.iter().flat_map(|watch| &watch.restored).collect();
    for key in watches.iter().flat_map(|watch| &watch.restored_by_merge) {
        let (mut family, mut waiting) = (BTreeSet::new(), vec![key.clone()]);
        let mut of_two_records = false;
        while let Some(key) = waiting.pop() {
            let parents = watches.iter().filter_map(|watch| watch.parents.get(&key));
            let parents: BTreeSet<_> = parents.flatten().cloned().collect();
            of_two_records |= parents.len() > 1;
            if family.insert(key.clone()) {
                let host = key.host;
                waiting.extend(parents.into_iter().flatten().map(|id| SessionKey { host, id }));
            }
        }
        let by_someone = family.iter().any(|key| restored.contains(key));
        assert!(by_someone || of_two_records, "nobody restored {key:?}");
    }
}

/// Checks that a replica holds every change beside which something was acknowledged.
pub fn nothing_acknowledged_is_lost(
    replica: &Replica,
    acknowledged: &BTreeSet<(DocumentId, ChangeHash)>,
) {
    for (id, _, _) in replica.document_heads() {
        let document = replica.document_copy(&id).expect("it was listed");
        for (_, hash) in acknowledged.iter().filter(|(of, _)| *of == id) {
            assert!(document.has(hash), "an acknowledged change of {id} is lost: {hash}");
        }
    }
}

/// Checks that a replica holds every change beside which something was acknowledged, or what it says.
pub fn nothing_acknowledged_is_lost_in_any_epoch(
    replica: &Replica,
    acknowledged: &BTreeSet<Acknowledged>,
) {
    for Acknowledged { document, change, actor, seq } in acknowledged {
        let held = replica.holds(document, change, actor, *seq);
        assert!(held, "an acknowledged change of {document} is lost: {change}");
    }
}
