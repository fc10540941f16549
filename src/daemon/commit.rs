//! Owns the thread that makes writes durable.
//!
//! Must not decide what is written, nor what waits for it. Invariant: jobs are done in the order in
//! which they were given; after one failure none is done any more.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
};

use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::{
    durable::{self, Desk, JOBS_MAX, Told},
    handle::Answer,
};
use crate::{
    replica::effect::Outgoing,
    store::{self, Store},
    transport::Transport,
};

/// What the thread is asked for.
pub type Job = durable::Job<oneshot::Sender<Answer>>;

/// Hands jobs to the thread.
#[derive(Debug)]
pub struct Committer {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

/// Where the thread carries out what had to wait.
struct Window {
    transport: Arc<Transport>,
    told: mpsc::UnboundedSender<Told>,
}

impl Desk for Window {
    type Asker = oneshot::Sender<Answer>;

    fn answer(&mut self, asker: Self::Asker, answer: Answer) {
        // Whoever asked may have hung up; what was written stays.
        let _ = asker.send(answer);
    }

    fn send(&mut self, outgoing: &Outgoing) {
        send(&self.transport, outgoing);
    }

    fn tell(&mut self, told: Told) {
        // A loop that has stopped wants to know nothing.
        let _ = self.told.send(told);
    }
}

/// Sends a frame.
pub fn send(transport: &Transport, outgoing: &Outgoing) {
    if let Err(error) = transport.send(&outgoing.to, &outgoing.frame) {
        tracing::error!(%error, "a frame is too large to be sent");
    }
}

impl Committer {
    /// Starts the thread.
    pub fn start(
        store: Arc<Store>,
        transport: Arc<Transport>,
        told: mpsc::UnboundedSender<Told>,
    ) -> Self {
        let (jobs, mut receiver) = mpsc::channel(JOBS_MAX);
        let mut window = Window { transport, told };
        let thread = std::thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || {
                let done =
                    catch_unwind(AssertUnwindSafe(|| run(&store, &mut receiver, &mut window)));
                let failed = done.unwrap_or_else(|_| {
                    // redb asserts what a damaged file may violate; nobody may wait for ever.
                    Err(store::Error::Stopped { path: store.path().to_owned() })
                });
                if let Err(error) = failed {
                    window.tell(Told::Failed(error));
                }
            })
            .expect("the operating system has a thread for the store");
        Self { jobs, thread }
    }

    /// Gives the thread something to do, after all that it was given before.
    ///
    /// # Errors
    ///
    /// Returns the job if too many wait already. The caller gives it again once there is [room](Committer::room).
    pub fn give(&self, job: Job) -> Result<(), Job> {
        match self.jobs.try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job)) => Err(job),
            Err(TrySendError::Closed(_)) => {
                // The thread ends before the loop only after it has told why.
                tracing::debug!("the store has stopped");
                Ok(())
            }
        }
    }

    /// Waits until the thread takes another job, or has ended. So a disk that is slower than the peers slows
    /// the node down instead of filling its memory.
    pub fn room(&self) -> impl Future<Output = ()> + use<> {
        let jobs = self.jobs.clone();
        async move { drop(jobs.reserve().await) }
    }

    /// Gives the thread its last jobs and waits until everything is durable; takes what it has told
    /// meanwhile. Blocks.
    ///
    /// # Errors
    ///
    /// One of the last jobs has failed, whatever went well before it.
    pub fn finish(
        self,
        last: impl IntoIterator<Item = Job>,
        told: &mut mpsc::UnboundedReceiver<Told>,
    ) -> Result<(), store::Error> {
        let Self { jobs, thread } = self;
        // If the thread has ended, the reason is among the events that are read below.
        let _ = last.into_iter().try_for_each(|job| jobs.blocking_send(job));
        drop(jobs);
        if thread.join().is_err() {
            tracing::error!("the thread that writes the store has panicked");
        }
        while let Ok(what) = told.try_recv() {
            if let Told::Failed(error) = what {
                return Err(error);
            }
        }
        Ok(())
    }
}

fn run(
    store: &Store,
    jobs: &mut mpsc::Receiver<Job>,
    window: &mut Window,
) -> Result<(), store::Error> {
    let mut next = jobs.blocking_recv();
    while let Some(job) = next.take() {
        let left = durable::turn(store, job, || jobs.try_recv().ok(), window)?;
        next = left.or_else(|| jobs.blocking_recv());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::{
        identity::NodeKey,
        replica::{
            effect::Write,
            ids::{DocumentId, FleetId, StartId},
        },
        store::testing::BeforeSync,
        transport::{Config, Timing},
    };

    /// Starts a thread that writes to a disk, and returns the flag that breaks the disk.
    fn started() -> (Committer, mpsc::UnboundedReceiver<Told>, Arc<AtomicBool>) {
        let broken = Arc::new(AtomicBool::new(false));
        let is_broken = broken.clone();
        // Once it is broken, redb finds what it never wrote.
        let disk = BeforeSync::new(move || {
            assert!(!is_broken.load(Ordering::Relaxed), "an assertion of the database");
        });
        let store = Store::with_backend(disk).unwrap();
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
        let (sender, told) = mpsc::unbounded_channel();
        (Committer::start(Arc::new(store), Arc::new(transport), sender), told, broken)
    }

    fn batch() -> Job {
        let writes = vec![Write::Fleet(FleetId([1; 16]))];
        let (frames, replies, teardowns, reloads) = Default::default();
        Job::Batch(durable::Batch { writes, frames, replies, teardowns, reloads })
    }

    #[tokio::test]
    async fn the_last_job_of_several_that_fails_is_a_failure_of_the_whole_stop() {
        let (committer, mut told, broken) = started();
        broken.store(true, Ordering::Relaxed);
        committer.give(Job::Plan(DocumentId::Fleet(FleetId([1; 16])))).unwrap();
        let finish = move || committer.finish([batch()], &mut told);
        let ended = tokio::task::spawn_blocking(finish).await.unwrap();
        assert!(matches!(ended, Err(store::Error::Stopped { .. })), "{ended:?}");
    }

    #[tokio::test]
    async fn a_database_that_panics_is_a_store_that_has_failed() {
        let (committer, mut told, broken) = started();
        broken.store(true, Ordering::Relaxed);
        committer.give(batch()).unwrap();
        let what = told.recv().await;
        assert!(matches!(what, Some(Told::Failed(store::Error::Stopped { .. }))), "{what:?}");
    }
}
