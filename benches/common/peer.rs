//! Owns what a user would pick in this project's place: samod, automerge-repo in Rust, over TCP.
//!
//! Must not be built unless it is asked for, by the feature `compare`. Invariant: it holds the same
//! records in the same run, each side on a runtime of its own, and what is timed ends where a user
//! interface knows what has changed, as it does with this project's diffs.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use automerge::{Automerge, ObjId, ObjType, ROOT, ReadDoc, transaction::Transactable};
use futures_util::StreamExt as _;
use samod::{BackoffConfig, DocHandle, Repo, Transport, tokio_io::TcpDialer};
use tokio::{net::TcpListener, runtime::Runtime};

use super::{floor::Kind, state::Fleet};

/// Two repos that share documents, of which one is written to.
pub struct Samod {
    written: DocHandle,
    follower: DocHandle,
    seen: mpsc::Receiver<(Instant, Instant)>,
    sessions: ObjId,
    number: usize,
    _repos: [Repo; 2],
    runtimes: [Runtime; 2],
}

/// How long one change took.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Until the other side is told that something has changed.
    pub told: Duration,
    /// Until it also knows what, by automerge's own diff.
    pub known: Duration,
}

/// Puts all sessions into one map of one document, as samod's own examples would.
pub fn one_document(fleet: &Fleet) -> (Automerge, ObjId) {
    let mut document = Automerge::new();
    let mut tx = document.transaction();
    let sessions = tx.put_object(ROOT, "sessions", ObjType::Map).expect("it is empty");
    for host in &fleet.hosts {
        let host = Automerge::load(&host.bytes).expect("it was just saved");
        let buckets = host.get(ROOT, "sessions").ok().flatten().expect("it is there").1;
        for bucket in host.map_range(&buckets, ..) {
            for session in host.map_range(bucket.id(), ..) {
                let record = tx
                    .put_object(&sessions, &*session.key, ObjType::Map)
                    .expect("ids are all different");
                for field in host.map_range(session.id(), ..) {
                    if let automerge::ValueRef::Scalar(value) = &field.value {
                        let value: automerge::ScalarValue = value.to_owned().into();
                        tx.put(&record, &*field.key, value).expect("it is a map");
                    }
                }
            }
        }
    }
    tx.commit();
    (document, sessions)
}

impl Samod {
    /// Lets one repo have the documents and the other ask for them; the first one is written to,
    /// in the map that is named.
    pub fn share(documents: Vec<Automerge>, sessions: ObjId) -> Self {
        let runtimes = [0, 1].map(|_| {
            tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads")
        });
        let repos =
            [0, 1].map(|n: usize| runtimes[n].block_on(async { Repo::build_tokio().load().await }));
        let handles: Vec<DocHandle> = documents
            .into_iter()
            .map(|document| runtimes[0].block_on(repos[0].create(document)).expect("it runs"))
            .collect();
        let listener = runtimes[0].block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let url = reqwest::Url::parse(&format!("tcp://127.0.0.1:{port}")).expect("it is one");
        let acceptor = repos[0].make_acceptor(url).expect("it runs");
        runtimes[0].spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                io.set_nodelay(true).expect("it is a socket");
                acceptor.accept(Transport::from_tokio_io(io)).expect("it runs");
            }
        });
        let dialer = Arc::new(TcpDialer::new_host_port("127.0.0.1".to_owned(), port));
        let dialling =
            runtimes[1].block_on(async { repos[1].dial(BackoffConfig::default(), dialer) });
        let dialling = dialling.expect("it runs");
        runtimes[1].block_on(dialling.established()).expect("they connect");
        let found: Vec<DocHandle> = handles
            .iter()
            .map(|handle| {
                let found = runtimes[1].block_on(repos[1].find(handle.document_id().clone()));
                found.expect("it runs").expect("the other side has it")
            })
            .collect();
        let follower = found[0].clone();
        let mut changes = Box::pin(follower.changes());
        let (sender, seen) = mpsc::channel();
        let mut before = follower.with_document(|document| document.get_heads());
        runtimes[1].spawn(async move {
            while changes.next().await.is_some() {
                let told = Instant::now();
                let fresh = follower.with_document(|document| {
                    let heads = document.get_heads();
                    let fresh = heads != before && !document.diff(&before, &heads).is_empty();
                    before = heads;
                    fresh
                });
                if fresh && sender.send((told, Instant::now())).is_err() {
                    return;
                }
            }
        });
        let written = handles[0].clone();
        let follower = found[0].clone();
        Self { written, follower, seen, sessions, number: 0, _repos: repos, runtimes }
    }

    /// Gives these sessions new titles, over and over, as fast as it goes, and returns how long that
    /// took until the other side held and knew all of it; `None` if it takes longer than `patience`.
    pub fn burst(&self, changes: usize, ids: &[String], patience: Duration) -> Option<Duration> {
        let (written, sessions) = (self.written.clone(), self.sessions.clone());
        let ids = ids.to_vec();
        let begun = Instant::now();
        let writing = self.runtimes[0].spawn(async move {
            for id in ids.iter().cycle().take(changes) {
                written.with_document(|document| {
                    let mut tx = document.transaction();
                    let now = Instant::now();
                    write(&mut tx, Kind::Title, &sessions, id, now).expect("the paths are good");
                    tx.commit();
                });
                tokio::task::yield_now().await;
            }
            written.with_document(|document| document.get_heads())
        });
        let wanted = self.runtimes[0].block_on(writing).expect("nothing panics");
        while self.follower.with_document(|document| document.get_heads()) != wanted {
            if begun.elapsed() > patience {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Some(begun.elapsed())
    }

    /// Changes a session, makes one, or deletes the one that was made last.
    pub fn take(&mut self, kind: Kind, title_of: &str) -> Taken {
        self.number += usize::from(kind == Kind::Create);
        let (written, sessions) = (self.written.clone(), self.sessions.clone());
        let id = match kind {
            Kind::Title => title_of.to_owned(),
            Kind::Create | Kind::Delete => format!("ses_samod_{}", self.number),
        };
        let writing = self.runtimes[0].spawn(async move {
            let begun = Instant::now();
            written.with_document(|document| {
                let mut tx = document.transaction();
                write(&mut tx, kind, &sessions, &id, begun).expect("the paths are good");
                tx.commit();
            });
            begun
        });
        let begun = self.runtimes[0].block_on(writing).expect("nothing panics");
        let (told, known) = self.seen.recv().expect("the stream goes on");
        Taken { told: told - begun, known: known - begun }
    }
}

fn write(
    tx: &mut automerge::transaction::Transaction<'_>,
    kind: Kind,
    sessions: &ObjId,
    id: &str,
    now: Instant,
) -> Result<(), automerge::AutomergeError> {
    let record = tx.get(sessions, id)?.map(|(_, record)| record);
    match (kind, record) {
        (Kind::Create, _) | (_, None) => {
            let record = tx.put_object(sessions, id, ObjType::Map)?;
            tx.put(&record, "workspace_id", "wrk_feature")?;
            tx.put(&record, "directory", "/home/dev/work/feature")?;
            tx.put(&record, "title", format!("session {id}"))?;
            tx.put(&record, "created_at", 1_795_379_110_867_i64)?;
            tx.put(&record, "updated_at", 1_795_379_110_867_i64)
        }
        (Kind::Title, Some(record)) => {
            tx.put(&record, "title", format!("a new title {now:?}"))?;
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
