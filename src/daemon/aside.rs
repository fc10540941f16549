//! Owns the threads on which what takes long is done to copies of documents: one that judges what is
//! to be loaded, and two that load it and derive what it shows; one of these reads and writes all else.
//!
//! Must not know what that is for. Invariants: one thing at a time on each; what may take much memory is
//! always done on the same thread, so that the memory which one document took and gave back is there for
//! the next one, and not for each of the threads that the runtime would pick.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;

use super::{
    hatch::{End, Hatch, Taken},
    heap::Heap,
};
use crate::replica::machine::{self, Bulk, ReadBulk, Work};

/// How long nothing is to be done before what else of memory is free is given back, and from then on
/// how often that is looked at.
const IDLE_EVERY: Duration = Duration::from_secs(1);

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
    let [judged, all, light] = Hatch::ends();
    let heap = Arc::new(Mutex::default());
    let (of_all, of_light) = ((heap.clone(), done.clone()), (heap, done.clone()));
    tokio::task::spawn_blocking(move || judge(&jobs, &judged, &done));
    tokio::task::spawn_blocking(move || carry_out(&all, |_| true, &of_all.0, &of_all.1));
    tokio::task::spawn_blocking(move || carry_out(&light, is_light, &of_light.0, &of_light.1));
    sender
}

/// Judges what is to be loaded while others are, and passes all else on as it is.
fn judge(jobs: &Receiver<Job>, judged: &End<Job>, done: &UnboundedSender<Done>) {
    for job in jobs {
        let job = match job {
            Job::Read(bulk) => Job::Read(bulk.judge()),
            work @ Job::Work(_) => work,
        };
        let is_judged = matches!(&job, Job::Read(bulk) if bulk.is_judged());
        // A loop that has stopped is told nothing: what was sent comes again.
        if !judged.give(job) || (is_judged && done.send(Done::Judged).is_err()) {
            return;
        }
    }
}

fn carry_out(
    judged: &End<Job>,
    takes: impl Fn(&Job) -> bool,
    heap: &Mutex<Heap>,
    done: &UnboundedSender<Done>,
) {
    loop {
        let end = match judged.take(&takes, IDLE_EVERY) {
            Taken::Next(Job::Read(bulk)) if bulk.is_judged() => Done::Shown(bulk.read().show()),
            Taken::Next(Job::Read(bulk)) => Done::Read(bulk.read()),
            Taken::Next(Job::Work(work)) => Done::Work(work.run()),
            Taken::Nothing => {
                lock(heap).look_idle();
                continue;
            }
            Taken::Closed => return,
        };
        if done.send(end).is_err() {
            return;
        }
        lock(heap).look();
    }
}

fn is_light(job: &Job) -> bool {
    matches!(job, Job::Read(bulk) if bulk.is_light())
}

/// Locks what a thread that panicked leaves as good as it was.
fn lock(heap: &Mutex<Heap>) -> MutexGuard<'_, Heap> {
    heap.lock().unwrap_or_else(PoisonError::into_inner)
}
