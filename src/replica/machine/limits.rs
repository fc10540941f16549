//! Owns how much of each limit is used, and refusing what would grow a document beyond what peers take.
//!
//! Must not know who asks. Invariant: what this node writes stays well below what a reader refuses, so that
//! a peer that comes later can still be given all of it.

use super::super::{
    command::Refusal,
    document::Document,
    guard,
    ids::{DocumentId, NodeId},
    membership::set::STATEMENTS_MAX,
};
use super::{Replica, layers::EPOCHS_HELD_MAX, receipts::RECEIPTS_MAX};
use crate::wire::limits::DOCUMENTS_MAX;

/// About how much memory a peer counts for a change of a saved document, and for an operation with its key
/// and value, bytes: a session of ours takes some 11 operations, 3.7 KB.
const CHANGE_BYTES: u64 = 1_500;
const OP_BYTES: u64 = 340;
/// How much of what peers take of a document it may weigh for more to be created in it, percent: the rest is
/// for what has to be written in any case, deletes, seals and ends.
const CREATED_UP_TO_PERCENT: u64 = 80;

impl Replica {
    /// Returns how much of what peers take of a host's document it weighs, percent.
    fn weight_percent(&self, host: NodeId) -> u64 {
        let Some(document) = self.newest(host) else { return 0 };
        100 * weight(document) / guard::MEMORY_BYTES_MAX
    }

    /// Refuses to create anything more on a host that is full.
    pub(super) fn may_grow(&self, host: NodeId) -> Result<(), Refusal> {
        let percent = self.weight_percent(host);
        if percent < CREATED_UP_TO_PERCENT {
            return Ok(());
        }
        let host = self.name_of(&host);
        Err(Refusal::HostFull { host, percent, limit: CREATED_UP_TO_PERCENT })
    }

    /// Returns whether this node's own document has to be rewritten because of its weight.
    pub(super) fn is_heavy(&self) -> bool {
        self.weight_percent(self.node) >= CREATED_UP_TO_PERCENT / 2
    }

    /// Lists how much of each limit is used, percent, by the limit's name.
    pub fn limits_used(&self) -> Vec<(&'static str, u64)> {
        let percent = |count: usize, most: usize| (100 * count / most) as u64;
        // They are sorted by host.
        let hosts: Vec<NodeId> = self.documents.keys().filter_map(DocumentId::host).collect();
        let of_one = hosts.chunk_by(|one, next| one == next).map(<[NodeId]>::len).max();
        let own = self.newest(self.node);
        let graves = own.map_or(0, Document::grave_bytes);
        let heads = self.documents.values().map(|document| document.heads().len()).max();
        vec![
            ("graves", percent(graves, guard::DocumentLimits::SNAPSHOT.bytes)),
            ("heads_of_a_document", percent(heads.unwrap_or(0), guard::HEADS_MAX as usize)),
            ("own_document", self.weight_percent(self.node)),
            ("documents", percent(hosts.len(), DOCUMENTS_MAX)),
            ("epochs_of_a_host", percent(of_one.unwrap_or(0), EPOCHS_HELD_MAX)),
            ("statements", percent(self.statements.held().len(), STATEMENTS_MAX)),
            ("receipts", percent(self.receipts.count(), RECEIPTS_MAX)),
        ]
    }
}

/// Estimates how much memory a peer counts for a document.
fn weight(document: &Document) -> u64 {
    CHANGE_BYTES * document.change_count() + OP_BYTES * document.op_count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{
        document::actor,
        ids::StartId,
        record::{Extra, StoredSession},
    };

    /// What a peer counts decides; the estimate, which takes no time, must not be below it by much.
    #[test]
    fn what_a_document_is_estimated_to_weigh_is_about_what_peers_count() {
        let host = NodeId([1; 32]);
        let (mut document, _) = Document::create_host(host, 0, actor(&host, StartId([1; 8])), 0);
        for number in 0..400 {
            let session = StoredSession {
                workspace_id: Some(format!("wrk_0VbkSHLXMqttXu7Zf2{number:02}").parse().unwrap()),
                parent_id: None,
                project_id: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
                directory: Some(format!("/home/someone/projects/some-project-{number}")),
                title: Some(format!("Find out why the nightly build of {number} fails on arm64")),
                created_at: 1_795_000_000_000 + number,
                updated_at: 1_795_000_000_000 + number,
                archived_at: None,
                agent: Some("opencode".to_owned()),
                agent_server: Some("http://127.0.0.1:4096/".to_owned()),
                extra: Extra::new(),
                deleted: None,
            };
            let id = format!("ses_0VbkSHLXMqttXu7Z{number:03}").parse().unwrap();
            document.write(0, |tx| tx.create_session(&id, &session)).unwrap().unwrap();
        }
        let limits = guard::DocumentLimits::SNAPSHOT;
        let counted = guard::check_document(&document.save(), limits).unwrap().memory_bytes;
        let estimated = weight(&document);
        assert!(estimated * 5 > counted * 4, "{estimated} is below {counted}");
        assert!(estimated < counted * 2, "{estimated} is far above {counted}");
    }
}
