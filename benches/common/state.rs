//! Owns the fleets that are measured: host documents with sessions in workspaces, each session a
//! change of its own as hosts write them, and data folders that hold them.
//!
//! Must not measure. Invariant: the same sizes give the same records, whatever the keys.

use std::path::Path;

use sessionmesh::{
    identity::NodeKey,
    replica::{
        document::Document,
        effect::{Stored, StoredDocument, Write},
        ids::{DocumentId, FleetId, NodeId, StartId},
        record::{Extra, Member, Role, StoredSession, StoredWorkspace},
    },
    store::Store,
};

/// How many hosts a fleet has, however many sessions.
pub const HOSTS: usize = 100;
/// How many sessions share a workspace.
const SESSIONS_PER_WORKSPACE: usize = 20;
/// When it all began, milliseconds since the epoch.
const WALL_MS: i64 = 1_795_379_110_867;

/// A fleet as it lies in a store.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub id: FleetId,
    /// Its hosts' documents, saved, in no order that means anything.
    pub hosts: Vec<(DocumentId, Vec<u8>)>,
    /// How many sessions there are in all.
    pub sessions: usize,
}

impl Fleet {
    /// Makes a fleet of so many hosts, of which the first are these nodes.
    pub fn make(nodes: &[NodeId], hosts: usize, sessions: usize) -> Self {
        let per_host = sessions / hosts;
        let ids: Vec<NodeId> = (0..hosts)
            .map(|n| nodes.get(n).copied().unwrap_or_else(|| NodeId([n as u8 + 100; 32])))
            .collect();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let hosts = std::thread::scope(|scope| {
            let parts: Vec<_> = ids
                .chunks(hosts.div_ceil(workers))
                .map(|part| {
                    let host = |host: &NodeId| {
                        let document = host_document(*host, per_host);
                        (document.id(), document.save())
                    };
                    scope.spawn(move || part.iter().map(host).collect::<Vec<_>>())
                })
                .collect();
            parts.into_iter().flat_map(|part| part.join().expect("nothing panics")).collect()
        });
        Self { id: FleetId([7; 16]), hosts, sessions: per_host * ids.len() }
    }

    /// Returns how many bytes the host documents have, saved.
    pub fn saved_bytes(&self) -> usize {
        self.hosts.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Returns the fleet's own document: all hosts are members, these with an address.
    fn members(&self, addresses: &[(NodeId, String)]) -> (DocumentId, Vec<u8>) {
        let actor = sessionmesh::replica::document::actor(&NodeId([9; 32]), StartId([9; 8]));
        let (mut document, _) = Document::create_fleet(self.id, actor, WALL_MS);
        let extra = addresses.iter().map(|(node, _)| *node);
        let hosts = self.hosts.iter().filter_map(|(id, _)| id.host());
        for node in hosts.chain(extra).collect::<std::collections::BTreeSet<_>>() {
            // One with an empty address is a member that nobody dials.
            let addresses = addresses.iter().filter(|(other, at)| *other == node && !at.is_empty());
            document.put_member(
                WALL_MS,
                &Member {
                    node,
                    name: format!("host-{}", node.short()),
                    role: Role::Admin,
                    addresses: addresses.map(|(_, address)| address.clone()).collect(),
                    added_by: node,
                    added_at: WALL_MS,
                    revoked: None,
                    left: false,
                },
            );
        }
        (document.id(), document.save())
    }

    /// Returns everything as a replica starts from it.
    pub fn stored(&self, addresses: &[(NodeId, String)]) -> Stored {
        let (id, snapshot) = self.members(addresses);
        let members = StoredDocument { id, snapshot: Some(snapshot), changes: Vec::new() };
        let hosts = self.hosts.iter().map(|(id, bytes)| StoredDocument {
            id: *id,
            snapshot: Some(bytes.clone()),
            changes: Vec::new(),
        });
        let documents = [members].into_iter().chain(hosts).collect();
        Stored { fleet: Some(self.id), documents, ..Stored::default() }
    }

    /// Writes it to a data folder that has a key already.
    pub fn write(&self, folder: &Path, addresses: &[(NodeId, String)]) {
        let store = Store::open(folder).expect("the folder is new");
        let mut writes = vec![Write::Fleet(self.id)];
        for StoredDocument { id, snapshot, .. } in self.stored(addresses).documents {
            writes.extend(snapshot.map(|bytes| Write::Snapshot { document: id, bytes }));
        }
        store.commit(&writes).expect("there is room");
    }
}

/// Makes the key of a data folder.
pub fn key(folder: &Path) -> NodeKey {
    NodeKey::load_or_create(folder).expect("the folder is new")
}

/// Names the n-th session of a host.
pub fn session_id(host: &NodeId, n: usize) -> String {
    format!("ses_{}{n:014}", host.short())
}

/// Makes a host's document: each workspace and each session in a change of its own.
pub fn host_document(host: NodeId, sessions: usize) -> Document {
    let actor = sessionmesh::replica::document::actor(&host, StartId([1; 8]));
    let (mut document, _) = Document::create_host(host, 0, actor, WALL_MS);
    for n in 0..sessions {
        let room = n / SESSIONS_PER_WORKSPACE;
        let workspace = format!("wrk_{}{room:014}", host.short()).parse().expect("it is an id");
        if n % SESSIONS_PER_WORKSPACE == 0 {
            let record = StoredWorkspace {
                name: format!("feature {room}"),
                kind: "directory".to_owned(),
                project_id: Some(format!("project {}", room % 7)),
                directory: Some(format!("/home/dev/work/feature-{room}")),
                branch: Some(format!("feature-{room}")),
                created_at: WALL_MS,
                keepers: [].into(),
                used: true,
                extra: Extra::new(),
                teardown: None,
                requests: [].into(),
                dismissals: [].into(),
            };
            document.write(WALL_MS, |tx| tx.create_workspace(&workspace, &record));
        }
        let at = WALL_MS + n as i64 * 61_000;
        let record = StoredSession {
            workspace_id: Some(workspace),
            parent_id: None,
            project_id: Some(format!("project {}", room % 7)),
            directory: Some(format!("/home/dev/work/feature-{room}")),
            title: Some(format!("Look into why check {n} of the build is red")),
            created_at: at,
            updated_at: at,
            archived_at: None,
            extra: Extra::new(),
            deleted: None,
        };
        let id = session_id(&host, n).parse().expect("it is an id");
        document.write(at, |tx| tx.create_session(&id, &record));
    }
    document
}
