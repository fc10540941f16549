//! Owns the fleets that are measured: host documents with sessions in workspaces, each session a
//! change of its own as hosts write them, and data folders that hold them.
//!
//! Must not measure. Invariant: the same sizes give the same records, whatever the keys.

use std::{path::Path, sync::Arc};

use sessionmesh::{
    identity::NodeKey,
    replica::{
        document::{Applied, Document},
        effect::{Stored, StoredDocument, Write},
        ids::{DocumentId, FleetId, NodeId, StartId},
        membership::statement::{Act, Statement},
        record::{Extra, Role, StoredSession, StoredWorkspace},
        voucher::Voucher,
    },
    store::Store,
};

/// How many hosts a fleet has, however many sessions.
pub const HOSTS: usize = 100;
/// How many sessions share a workspace.
const SESSIONS_PER_WORKSPACE: usize = 20;
/// When it all began, milliseconds since the epoch.
const WALL_MS: i64 = 1_795_379_110_867;

/// A host with its document, saved, and its word for what is in it.
#[derive(Debug, Clone)]
pub struct Host {
    pub key: Arc<NodeKey>,
    pub id: DocumentId,
    pub bytes: Vec<u8>,
    pub voucher: Voucher,
}

/// A fleet as it lies in a store.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub id: FleetId,
    pub hosts: Vec<Host>,
    /// How many sessions there are in all.
    pub sessions: usize,
}

impl Fleet {
    /// Makes a fleet of so many hosts, of which the first have these keys.
    pub fn make(keys: &[Arc<NodeKey>], hosts: usize, sessions: usize) -> Self {
        let per_host = sessions / hosts;
        let keys: Vec<Arc<NodeKey>> = (0..hosts)
            .map(|n| keys.get(n).cloned().unwrap_or_else(|| Arc::new(NodeKey::generate())))
            .collect();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let hosts = std::thread::scope(|scope| {
            let parts: Vec<_> = keys
                .chunks(hosts.div_ceil(workers))
                .map(|part| {
                    let host = |key: &Arc<NodeKey>| {
                        let (document, last) = host_document(key.node(), per_host);
                        let (id, bytes) = (document.id(), document.save());
                        let voucher = vouch(key, id, &last);
                        Host { key: key.clone(), id, bytes, voucher }
                    };
                    scope.spawn(move || part.iter().map(host).collect::<Vec<_>>())
                })
                .collect();
            parts.into_iter().flat_map(|part| part.join().expect("nothing panics")).collect()
        });
        Self { id: founding(&keys[0]).0, hosts, sessions: per_host * keys.len() }
    }

    /// Returns how many bytes the host documents have, saved.
    pub fn saved_bytes(&self) -> usize {
        self.hosts.iter().map(|host| host.bytes.len()).sum()
    }

    /// Returns the statements by which all hosts are admins, and so are these.
    fn statements(&self, addresses: &[(NodeId, String)]) -> Vec<Vec<u8>> {
        let founder = &self.hosts[0].key;
        let (fleet, founding) = founding(founder);
        let mut all = vec![founding];
        let hosts = self.hosts.iter().map(|host| host.key.node());
        let members = hosts.chain(addresses.iter().map(|(node, _)| *node));
        let members: std::collections::BTreeSet<_> = members.collect();
        for node in members.into_iter().filter(|node| *node != founder.node()) {
            let name = format!("host-{}", node.short());
            let act = Act::Admitted { node, role: Role::Admin, name };
            let previous = all.last().map(Statement::hash);
            all.push(Statement::sign(&**founder, fleet, founder.node(), previous, WALL_MS, act));
        }
        all.iter().map(Statement::encode).collect()
    }

    /// Returns everything as a replica starts from it.
    pub fn stored(&self, addresses: &[(NodeId, String)]) -> Stored {
        let hosts = self.hosts.iter().map(|host| StoredDocument {
            id: host.id,
            snapshot: Some(host.bytes.clone()),
            changes: Vec::new(),
            vouchers: vec![host.voucher],
        });
        let documents = hosts.collect();
        let contacts = addresses.iter().filter(|(_, address)| !address.is_empty());
        let contacts = contacts.map(|(node, address)| (*node, [address.clone()].into())).collect();
        let statements = self.statements(addresses);
        Stored { fleet: Some(self.id), statements, documents, contacts, ..Stored::default() }
    }

    /// Writes it to a data folder that has a key already.
    pub fn write(&self, folder: &Path, addresses: &[(NodeId, String)]) {
        let store = Store::open(folder).expect("the folder is new");
        let mut writes = vec![Write::Fleet(self.id)];
        let Stored { documents, contacts, statements, .. } = self.stored(addresses);
        let statements = (0..).zip(statements);
        writes.extend(statements.map(|(number, bytes)| Write::Statement { number, bytes }));
        let contacts = contacts.into_iter();
        writes.extend(contacts.map(|(node, addresses)| Write::Contact { node, addresses }));
        for StoredDocument { id: document, snapshot, vouchers, .. } in documents {
            writes.extend(snapshot.map(|bytes| Write::Snapshot { document, bytes }));
            writes.extend(vouchers.into_iter().map(|voucher| Write::Voucher { document, voucher }));
        }
        store.commit(&writes).expect("there is room");
    }
}

/// Returns the statement by which a host founds the fleet, and the fleet's name.
fn founding(founder: &NodeKey) -> (FleetId, Statement) {
    Statement::found(founder, founder.node(), WALL_MS, [7; 16], "host".to_owned())
}

/// Has a key stand for the last of some changes.
fn vouch(key: &NodeKey, document: DocumentId, applied: &Applied) -> Voucher {
    let last = applied.changes.last().expect("something was written");
    Voucher::sign(key, &document, last.actor, last.seq, last.hash)
}

/// Makes the key of a data folder.
pub fn key(folder: &Path) -> Arc<NodeKey> {
    Arc::new(NodeKey::load_or_create(folder).expect("the folder is new"))
}

/// Names the n-th session of a host.
pub fn session_id(host: &NodeId, n: usize) -> String {
    format!("ses_{}{n:014}", host.short())
}

/// Makes a host's document, each workspace and each session in a change of its own; returns the last
/// change, too.
pub fn host_document(host: NodeId, sessions: usize) -> (Document, Applied) {
    let actor = sessionmesh::replica::document::actor(&host, StartId([1; 8]));
    let (mut document, mut last) = Document::create_host(host, 0, actor, WALL_MS);
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
                agent_server: None,
                keepers: [].into(),
                used: true,
                extra: Extra::new(),
                teardown: None,
                requests: [].into(),
                dismissals: [].into(),
            };
            document
                .write(WALL_MS, |tx| tx.create_workspace(&workspace, &record))
                .expect("peers take it");
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
            agent: None,
            agent_server: None,
            extra: Extra::new(),
            deleted: None,
        };
        let id = session_id(&host, n).parse().expect("it is an id");
        let written = document.write(at, |tx| tx.create_session(&id, &record));
        last = written.expect("peers take it").expect("the session is new");
    }
    (document, last)
}
