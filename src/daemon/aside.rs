//! Owns the threads on which what takes long is done to copies of documents: one that judges what is
//! to be loaded, and two that load, read and write, and derive what is shown.
//!
//! Must not know what that is for. Invariants: while something is done that may take much memory, nothing
//! else is begun; always on the same threads, so that the memory which one document took and gave back is
//! there for the next one, and not for each of the threads that the runtime would pick.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;

use super::heap::Heap;
use crate::replica::machine::{self, Bulk, ReadBulk, Work};

/// How long nothing is to be done before what else of memory is free is given back, and from then on
/// how often that is looked at.
const IDLE_EVERY: Duration = Duration::from_secs(1);

/// How many documents are read at once: of more, each would leave the memory that it took behind.
const READERS: usize = 2;

/// How many documents wait at most to be read, beside the one that was judged last: none, so that no more
/// than three are there at once.
const BETWEEN_MAX: usize = 0;

/// What is to be done.
pub enum Job {
    /// What a peer sent is to be read.
    Read(Bulk),
    /// What the replica asks for of its own accord.
    Work(Work),
}

/// What came of it.
pub enum Done {
    /// What a peer sent is judged, and being loaded; it is told again once that has come to an end, and
    /// what it shows, if that can be done here, is derived. The next can be read.
    Judged,
    /// What was judged is read, or refused.
    Shown(ReadBulk),
    /// What a peer sent was read. The next can be.
    Read(ReadBulk),
    /// What the replica asked for was done.
    Work(machine::Done),
}

/// Starts the threads; they end when nobody is left who could give them anything.
pub fn start(done: UnboundedSender<Done>) -> mpsc::Sender<Job> {
    let (sender, jobs) = mpsc::channel();
    let (to_read, judged) = mpsc::sync_channel(BETWEEN_MAX);
    let judged = Arc::new(Judged { jobs: Mutex::new(judged), heap: Mutex::default() });
    // Each ends with the one before it; a loop that has stopped is told nothing: what was sent comes
    // again.
    for _ in 0..READERS {
        let (judged, done) = (judged.clone(), done.clone());
        tokio::task::spawn_blocking(move || judged.carry_out(&done));
    }
    tokio::task::spawn_blocking(move || judge(&jobs, &to_read, &done));
    sender
}

/// Judges what is to be loaded while the one before is, and passes all else on as it is.
fn judge(jobs: &Receiver<Job>, to_read: &SyncSender<Job>, done: &UnboundedSender<Done>) {
    for job in jobs {
        let job = match job {
            Job::Read(bulk) => Job::Read(bulk.judge()),
            work @ Job::Work(_) => work,
        };
        let is_judged = matches!(&job, Job::Read(bulk) if bulk.is_judged());
        if to_read.send(job).is_err() || (is_judged && done.send(Done::Judged).is_err()) {
            return;
        }
    }
}

/// What the threads that read take from.
struct Judged {
    jobs: Mutex<Receiver<Job>>,
    heap: Mutex<Heap>,
}

impl Judged {
    fn carry_out(&self, done: &UnboundedSender<Done>) {
        loop {
            let jobs = lock(&self.jobs);
            let job = match jobs.recv_timeout(IDLE_EVERY) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    lock(&self.heap).look_idle();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // Nobody takes anything meanwhile, unless it takes little.
            let is_light = matches!(&job, Job::Read(bulk) if bulk.is_light());
            let alone = (!is_light).then_some(jobs);
            let end = match job {
                Job::Read(bulk) if bulk.is_judged() => Done::Shown(bulk.read().show()),
                Job::Read(bulk) => Done::Read(bulk.read()),
                Job::Work(work) => Done::Work(work.run()),
            };
            if done.send(end).is_err() {
                return;
            }
            lock(&self.heap).look();
            drop(alone);
        }
    }
}

/// Locks what a thread that panicked leaves as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
