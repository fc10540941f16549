//! Owns the threads on which what takes long is done to copies of documents: one that judges what is
//! to be loaded, one that loads, reads and writes, and one that, beside it, loads what takes little memory
//! and derives what the rest shows.
//!
//! Must not know what that is for. Invariants: one thing at a time on each; what may take much memory is
//! always done on the same thread, so that the memory which one document took and gave back is there for
//! the next one, and not for each of the threads that the runtime would pick.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;

use super::heap::Heap;
use crate::replica::machine::{self, Bulk, ReadBulk, Work};

/// How long nothing is to be read or written before what else of memory is free is given back, and from
/// then on how often that is looked at.
const IDLE_EVERY: Duration = Duration::from_secs(1);

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

/// What is done beside that.
enum Beside {
    /// What was judged to take little memory is to be read, and what it shows is to be derived.
    Read(Bulk),
    /// What it shows is to be derived.
    Show(ReadBulk),
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
    let (beside, light) = mpsc::sync_channel(BETWEEN_MAX);
    let (told, shown, to_show) = (done.clone(), done.clone(), beside.clone());
    // Each ends with the one before it; a loop that has stopped is told nothing: what was sent comes
    // again.
    tokio::task::spawn_blocking(move || judge(&jobs, &to_read, &beside, &told));
    tokio::task::spawn_blocking(move || carry_out(&judged, &to_show, &done));
    tokio::task::spawn_blocking(move || {
        let mut heap = Heap::default();
        for job in light {
            let read = match job {
                Beside::Read(bulk) => bulk.read(),
                Beside::Show(read) => read,
            };
            if shown.send(Done::Shown(read.show())).is_err() {
                return;
            }
            heap.look();
        }
    });
    sender
}

/// Judges what is to be loaded while others are, and passes all else on as it is.
///
/// What can't be read beside at once waits like all else, also behind what takes long.
fn judge(
    jobs: &Receiver<Job>,
    to_read: &SyncSender<Job>,
    beside: &SyncSender<Beside>,
    done: &UnboundedSender<Done>,
) {
    for job in jobs {
        let bulk = match job {
            Job::Read(bulk) => bulk.judge(),
            work @ Job::Work(_) => match to_read.send(work) {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let is_judged = bulk.is_judged();
        let left = match bulk.is_light() {
            true => not_taken(beside, Beside::Read(bulk)),
            false => Some(Beside::Read(bulk)),
        };
        if let Some(Beside::Read(bulk)) = left
            && to_read.send(Job::Read(bulk)).is_err()
        {
            return;
        }
        if is_judged && done.send(Done::Judged).is_err() {
            return;
        }
    }
}

fn carry_out(jobs: &Receiver<Job>, beside: &SyncSender<Beside>, done: &UnboundedSender<Done>) {
    let mut heap = Heap::default();
    loop {
        let end = match jobs.recv_timeout(IDLE_EVERY) {
            Ok(Job::Read(bulk)) if bulk.is_judged() => {
                match not_taken(beside, Beside::Show(bulk.read())) {
                    Some(Beside::Show(read)) => Some(Done::Shown(read.show())),
                    _ => None,
                }
            }
            Ok(Job::Read(bulk)) => Some(Done::Read(bulk.read())),
            Ok(Job::Work(work)) => Some(Done::Work(work.run())),
            Err(RecvTimeoutError::Timeout) => {
                heap.look_idle();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if end.is_some_and(|end| done.send(end).is_err()) {
            return;
        }
        heap.look();
    }
}

/// Gives something to be done beside, and returns it where something else is being done there.
fn not_taken(beside: &SyncSender<Beside>, job: Beside) -> Option<Beside> {
    match beside.try_send(job) {
        Ok(()) => None,
        Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Some(job),
    }
}
