//! Owns the floors: what a change costs where nothing is done that nobody can do without. The bare
//! commit and the bare applying in automerge, one way over bare QUIC, the own diff by itself.
//!
//! Must not go through a replica or a daemon. Invariant: each floor works on the same state as what
//! is measured against it, and writes the same operations.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use automerge::{Automerge, Change, ObjId, ObjType, ROOT, ReadDoc, transaction::Transactable};
use quinn::{ClientConfig, Endpoint, ServerConfig};
use sessionmesh::{
    identity::{NodeKey, tls},
    replica::{
        diff,
        document::{self, Document, Touched},
        ids::{ChangeHash, DocumentId, NodeId, SessionId, StartId, WorkspaceId},
        record::{Member, Role, SessionKey, WorkspaceKey},
        trust::Trust,
        view::{self, View},
        voucher::Voucher,
    },
};
use sha2::{Digest as _, Sha256};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

use super::state::{Fleet, Host};

/// What one change took, bare.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    pub commit: Duration,
    pub apply: Duration,
    pub diff: Duration,
    /// Its author's signature, and the checking of it; no part of the floor.
    pub sign: Duration,
    pub verify: Duration,
    /// How long the change is.
    pub bytes: usize,
}

/// The kinds of change that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Title,
    Create,
    Delete,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Title, Self::Create, Self::Delete];

    pub fn name(self) -> &'static str {
        match self {
            Self::Title => "title",
            Self::Create => "create",
            Self::Delete => "delete",
        }
    }
}

/// One host's document at its author and at a reader, and the reader's view of the whole fleet.
pub struct Core {
    host: NodeId,
    id: DocumentId,
    key: Arc<NodeKey>,
    trust: Trust,
    author: Automerge,
    reader: Automerge,
    /// The reader's document once more, with the ways to read records.
    mirror: Document,
    view: View,
    buckets: BTreeMap<String, ObjId>,
    written: usize,
}

impl Core {
    /// Reads the whole fleet; the changes are to be the first host's.
    pub fn of(fleet: &Fleet) -> Self {
        let first = &fleet.hosts[0];
        let (host, bytes) = (first.key.node(), &first.bytes);
        let actor = |start| document::actor(&host, StartId([start; 8]));
        let load = |of: &Host| {
            let loaded = Document::load(of.id, actor(21), Some(&of.bytes), &[], &[of.voucher]);
            loaded.expect("it was just saved")
        };
        let mut view = View::new();
        for of in &fleet.hosts {
            let (document, host) = (load(of), of.key.node());
            let mut touched = view::Touched::default();
            for id in document.session_ids() {
                let read = document.session(&id);
                touched.sessions.insert(SessionKey { host, id }, read);
            }
            for id in document.workspace_ids() {
                let read = document.workspace(&id);
                touched.workspaces.insert(WorkspaceKey { host, id }, read);
            }
            view.apply(touched);
        }
        let mut trust = Trust::new(first.key.clone());
        let member = Member {
            node: host,
            name: String::new(),
            role: Role::Admin,
            added_by: host,
            added_at: 0,
            revoked: None,
            left: false,
        };
        trust.learn([&member]);
        let author = Automerge::load(bytes).expect("it was just saved").with_actor(actor(20));
        let sessions = author.get(ROOT, "sessions").ok().flatten().expect("it is there").1;
        let buckets =
            author.map_range(&sessions, ..).map(|item| (item.key.to_string(), item.id())).collect();
        Self {
            host,
            reader: author.clone().with_actor(actor(22)),
            author,
            mirror: load(first),
            id: first.id,
            key: first.key.clone(),
            trust,
            view,
            buckets,
            written: 0,
        }
    }

    /// Writes one change, applies it at the reader, and finds what differs there; rests before the applying
    /// and before the diff for as long as is said.
    pub fn take(
        &mut self,
        kind: Kind,
        session: &SessionId,
        workspace: &WorkspaceId,
        rest: Duration,
    ) -> Taken {
        self.written += 1;
        let bucket = &self.buckets[&format!("{:02x}", Sha256::digest(session.as_str())[0])];
        let title = format!("bare title number {}", self.written);
        let record = self.author.get(bucket, session.as_str()).ok().flatten().map(|(_, id)| id);
        let begun = Instant::now();
        let mut tx = self.author.transaction();
        write(&mut tx, kind, bucket, record, session, workspace, &title)
            .expect("the paths are good");
        tx.commit();
        let change = self.author.get_last_local_change().expect("it was just made");
        let raw = change.raw_bytes().to_vec();
        let commit = begun.elapsed();

        std::thread::sleep(rest);
        let begun = Instant::now();
        let change = Change::try_from(&raw[..]).expect("it was just made");
        self.reader.apply_changes([change]).expect("it was just made");
        let apply = begun.elapsed();

        let bytes = raw.len();
        let made = self.author.get_last_local_change().expect("it was just made");
        let actor = made.actor_id().to_bytes().try_into().expect("it has our form");
        let begun = Instant::now();
        let hash = ChangeHash(made.hash().0);
        let voucher = Voucher::sign(&*self.key, &self.id, actor, made.seq(), hash);
        let sign = begun.elapsed();
        let begun = Instant::now();
        assert!(voucher.is_by(&*self.key, &self.id, &self.host), "it was just signed");
        let verify = begun.elapsed();
        let applied = self.mirror.apply(&[raw], &[voucher], &self.trust);
        let applied = applied.expect("it was just made");
        std::thread::sleep(rest);
        let begun = Instant::now();
        let mut touched = view::Touched::default();
        let host = self.host;
        for record in applied.touched {
            match record {
                Touched::Session(id) => {
                    let read = self.mirror.session(&id);
                    touched.sessions.insert(SessionKey { host, id }, read);
                }
                Touched::Workspace(id) => {
                    let read = self.mirror.workspace(&id);
                    touched.workspaces.insert(WorkspaceKey { host, id }, read);
                }
                Touched::Trash(_) | Touched::Meta | Touched::Description => {}
            }
        }
        let events = diff::between(&self.view.apply(touched));
        let diff = begun.elapsed();
        assert!(!events.is_empty(), "a change shows");
        Taken { commit, apply, diff, sign, verify, bytes }
    }
}

fn write(
    tx: &mut automerge::transaction::Transaction<'_>,
    kind: Kind,
    bucket: &ObjId,
    record: Option<ObjId>,
    session: &SessionId,
    workspace: &WorkspaceId,
    title: &str,
) -> Result<(), automerge::AutomergeError> {
    match (kind, record) {
        (Kind::Create, _) | (_, None) => {
            let record = tx.put_object(bucket, session.as_str(), ObjType::Map)?;
            tx.put(&record, "workspace_id", workspace.as_str())?;
            tx.put(&record, "directory", "/home/dev/work/feature")?;
            tx.put(&record, "title", title)?;
            tx.put(&record, "created_at", 1_795_379_110_867_i64)?;
            tx.put(&record, "updated_at", 1_795_379_110_867_i64)
        }
        (Kind::Title, Some(record)) => {
            tx.put(&record, "title", title)?;
            tx.put(&record, "updated_at", 1_795_379_110_867_i64)
        }
        (Kind::Delete, Some(record)) => {
            let deleted = tx.put_object(&record, "deleted", ObjType::Map)?;
            tx.put(&deleted, "by", "00".repeat(32))?;
            tx.put(&deleted, "at", 1_795_379_110_867_i64)?;
            tx.put(&deleted, "operation", "op_0VbkSHbyr80wcxpUaDrn")
        }
    }
}

/// Two bare QUIC endpoints with the nodes' own TLS, each on a runtime of its own, that send a
/// message forth and back on one stream.
pub struct Quic {
    asks: mpsc::UnboundedSender<(usize, oneshot::Sender<Duration>)>,
    _runtimes: [Runtime; 2],
}

impl Quic {
    /// Connects them.
    pub fn connect() -> Self {
        let runtimes = [0, 1].map(|_| {
            tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads")
        });
        let (server_key, client_key) = (NodeKey::generate(), NodeKey::generate());
        let config = ServerConfig::with_crypto(Arc::new(tls::server(&server_key)));
        let listen = "127.0.0.1:0".parse().expect("it is an address");
        let server = runtimes[0].block_on(async { Endpoint::server(config, listen) });
        let server = server.expect("a port is free");
        let address = server.local_addr().expect("it is bound");
        runtimes[0].spawn(async move {
            let connection = server.accept().await.expect("it lives").await.expect("it connects");
            let (mut send, mut receive) = connection.accept_bi().await.expect("it opens a stream");
            let mut length = [0; 4];
            while receive.read_exact(&mut length).await.is_ok() {
                let mut message = vec![0; u32::from_le_bytes(length) as usize];
                receive.read_exact(&mut message).await.expect("it is whole");
                message.splice(0..0, length);
                send.write_chunk(message.into()).await.expect("it lives");
            }
        });
        let client_tls = Arc::new(tls::client(&client_key, server_key.node()));
        let (asks, mut asked) = mpsc::unbounded_channel::<(usize, oneshot::Sender<Duration>)>();
        runtimes[1].spawn(async move {
            let client = Endpoint::client(listen).expect("a port is free");
            let connecting =
                client.connect_with(ClientConfig::new(client_tls), address, tls::SERVER_NAME);
            let connection = connecting.expect("it is an address").await.expect("it connects");
            let (mut send, mut receive) = connection.open_bi().await.expect("it lives");
            while let Some((bytes, answer)) = asked.recv().await {
                let mut message = (bytes as u32).to_le_bytes().to_vec();
                message.resize(bytes + 4, 7);
                let mut back = vec![0; bytes + 4];
                let begun = Instant::now();
                send.write_chunk(message.into()).await.expect("it lives");
                receive.read_exact(&mut back).await.expect("it comes back");
                let _ = answer.send(begun.elapsed() / 2);
            }
        });
        Self { asks, _runtimes: runtimes }
    }

    /// Returns how long a message of so many bytes takes one way: half of forth and back.
    pub fn one_way(&self, bytes: usize) -> Duration {
        let (sender, receiver) = oneshot::channel();
        self.asks.send((bytes, sender)).expect("it lives");
        receiver.blocking_recv().expect("it lives")
    }
}
