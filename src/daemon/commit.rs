//! Owns the thread that makes writes durable, and what waits for it.
//!
//! Must not decide what is written. Invariants: batches become durable in the order in which they
//! were given; replies, frames and teardowns of a batch leave only after it is durable; after one
//! failure nothing is acknowledged any more.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc as blocking},
    thread::JoinHandle,
};

use tokio::sync::{mpsc, oneshot};

use super::handle::Answer;
use crate::{
    replica::{
        effect::{Outgoing, StoredDocument, TeardownDue, Write},
        ids::DocumentId,
    },
    store::{self, Backlog, Store, compact},
    transport::Transport,
};

/// How many batches may wait for the disk; the loop waits when there are more.
const BATCHES_MAX: usize = 256;
/// How many batches become durable with one fsync at most.
const GROUP_MAX: usize = 64;

/// What one turn of the loop wants durable, and what may happen then.
#[derive(Debug, Default)]
pub struct Batch {
    /// In one transaction.
    pub writes: Vec<Write>,
    /// To be sent then.
    pub frames: Vec<Outgoing>,
    /// To be given then.
    pub replies: Vec<(oneshot::Sender<Answer>, Answer)>,
    /// To be started then.
    pub teardowns: Vec<TeardownDue>,
    /// To be read back then.
    pub reloads: Vec<DocumentId>,
}

impl Batch {
    /// Tells whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.frames.is_empty()
            && self.replies.is_empty()
            && self.teardowns.is_empty()
            && self.reloads.is_empty()
    }
}

/// What the thread is asked for.
enum Job {
    Batch(Batch),
    Replace(Box<compact::Verified>),
    Plan(DocumentId),
}

/// What the thread tells the loop.
#[derive(Debug)]
pub enum Told {
    /// Documents were written to; how much of each is not yet in its snapshot.
    Backlogs(Vec<Backlog>),
    /// A teardown may start.
    Teardown(TeardownDue),
    /// A document, as the store has it.
    Reloaded(StoredDocument),
    /// What a compaction of a document would replace; a copy taken now holds all of it.
    Planned(compact::Plan),
    /// A document has nothing to compact.
    NothingToPlan(DocumentId),
    /// The store can't be written or read; memory is ahead of disk.
    Failed(store::Error),
}

/// Hands batches to the thread.
#[derive(Debug)]
pub struct Committer {
    jobs: Option<blocking::SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread.
    pub fn start(
        store: Arc<Store>,
        transport: Arc<Transport>,
        told: mpsc::UnboundedSender<Told>,
    ) -> Self {
        let (jobs, receiver) = blocking::sync_channel(BATCHES_MAX);
        let thread = std::thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || {
                let done = catch_unwind(AssertUnwindSafe(|| {
                    run(&store, &transport, &receiver, &told);
                }));
                if done.is_err() {
                    // redb asserts what a damaged file may violate; nobody may wait for ever.
                    let path = store.path().to_owned();
                    tell(&told, Told::Failed(store::Error::Stopped { path }));
                }
            })
            .expect("the operating system has a thread for the store");
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    /// Makes a batch durable, after all those before it.
    ///
    /// Blocks while too many wait: a disk that is slower than the peers slows the node down, and
    /// not its memory up.
    pub fn commit(&self, batch: Batch) {
        self.send(Job::Batch(batch));
    }

    /// Asks what a compaction of a document would replace, after all batches before.
    pub fn plan(&self, document: DocumentId) {
        self.send(Job::Plan(document));
    }

    /// Puts a verified snapshot in place of the changes that it holds.
    pub fn replace(&self, verified: compact::Verified) {
        self.send(Job::Replace(Box::new(verified)));
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs
            && jobs.send(job).is_err()
        {
            // The thread ends before the loop only after it has told why.
            tracing::debug!("the store has stopped");
        }
    }

    /// Waits until everything that was given is durable.
    pub fn finish(mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the store has panicked");
        }
    }
}

fn run(
    store: &Store,
    transport: &Transport,
    jobs: &blocking::Receiver<Job>,
    told: &mpsc::UnboundedSender<Told>,
) {
    let mut next = jobs.recv().ok();
    while let Some(job) = next.take() {
        let done = match job {
            Job::Batch(batch) => {
                let mut group = vec![batch];
                while group.len() < GROUP_MAX {
                    match jobs.try_recv() {
                        Ok(Job::Batch(batch)) => group.push(batch),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                commit(store, transport, group, told)
            }
            Job::Plan(document) => store.plan(document).map(|plan| {
                tell(told, plan.map_or(Told::NothingToPlan(document), Told::Planned));
            }),
            Job::Replace(verified) => match store.replace(&verified) {
                Ok(committed) => {
                    tell(told, Told::Backlogs(committed.backlogs));
                    Ok(())
                }
                Err(store::Error::Superseded { document }) => {
                    tracing::debug!(%document, "a snapshot came too late");
                    Ok(())
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = done {
            tell(told, Told::Failed(error));
            return;
        }
        if next.is_none() {
            next = jobs.recv().ok();
        }
    }
}

fn tell(told: &mpsc::UnboundedSender<Told>, what: Told) {
    // A loop that has stopped wants to know nothing.
    let _ = told.send(what);
}

fn commit(
    store: &Store,
    transport: &Transport,
    group: Vec<Batch>,
    told: &mpsc::UnboundedSender<Told>,
) -> Result<(), store::Error> {
    let mut writes = Vec::new();
    let mut rest = Vec::with_capacity(group.len());
    for mut batch in group {
        writes.append(&mut batch.writes);
        rest.push(batch);
    }
    if !writes.is_empty() {
        let committed = store.commit(&writes)?;
        tell(told, Told::Backlogs(committed.backlogs));
    }
    for batch in rest {
        for (sender, reply) in batch.replies {
            // Whoever asked may have hung up; what was written stays.
            let _ = sender.send(reply);
        }
        for Outgoing { to, frame } in batch.frames {
            if let Err(error) = transport.send(&to, &frame) {
                tracing::error!(%error, "a frame is too large to be sent");
            }
        }
        for due in batch.teardowns {
            tell(told, Told::Teardown(due));
        }
        if !batch.reloads.is_empty() {
            for document in store.reload(&batch.reloads)? {
                tell(told, Told::Reloaded(document));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::{
        identity::NodeKey,
        replica::ids::{FleetId, StartId},
        store::{InMemoryBackend, StorageBackend},
        transport::{Config, Timing},
    };

    /// A disk on which, once it is broken, redb finds what it never wrote.
    #[derive(Debug)]
    struct Broken(InMemoryBackend, Arc<AtomicBool>);

    impl StorageBackend for Broken {
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.0.set_len(len)
        }

        fn sync_data(&self) -> std::io::Result<()> {
            assert!(!self.1.load(Ordering::Relaxed), "an assertion of the database");
            self.0.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.0.write(offset, data)
        }
    }

    #[tokio::test]
    async fn a_database_that_panics_is_a_store_that_has_failed() {
        let broken = Arc::new(AtomicBool::new(false));
        let store = Store::with_backend(Broken(InMemoryBackend::new(), broken.clone())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            key: Arc::new(NodeKey::load_or_create(&folder.path().join("data")).unwrap()),
            start: StartId([1; 8]),
            seed: 1,
            wall_ms: None,
            timing: Timing::default(),
        };
        let (transport, _events) = Transport::bind(config).unwrap();
        let (sender, mut told) = mpsc::unbounded_channel();
        let committer = Committer::start(Arc::new(store), Arc::new(transport), sender);
        broken.store(true, Ordering::Relaxed);
        let writes = vec![Write::Fleet(FleetId([1; 16]))];
        committer.commit(Batch { writes, ..Batch::default() });
        let what = told.recv().await;
        assert!(matches!(what, Some(Told::Failed(store::Error::Stopped { .. }))), "{what:?}");
    }
}
