//! Owns the threads on which what takes long is done to copies of documents: one that judges what is
//! to be loaded, one that loads, reads and writes, and one that derives what they show.
//!
//! Must not know what that is for. Invariants: one thing at a time on each, in the order in which it
//! was given; always on the same thread, so that the memory which one document took and gave back is
//! there for the next one, and not for each of the threads that the runtime would pick.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;

use super::heap::Heap;
use crate::replica::machine::{self, Bulk, ReadBulk, Work};

/// How long nothing is to be done before what else of memory is free is given back, and from then on
/// how often that is looked at.
const IDLE_EVERY: Duration = Duration::from_secs(1);

/// How many documents wait at most between two threads, beside the one that the first of them is done
/// with: none, so that no more than three are there at once.
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
    let (to_show, read) = mpsc::sync_channel(BETWEEN_MAX);
    let (told, shown) = (done.clone(), done.clone());
    // Each ends with the one before it; a loop that has stopped is told nothing: what was sent comes
    // again.
    tokio::task::spawn_blocking(move || judge(&jobs, &to_read, &told));
    tokio::task::spawn_blocking(move || carry_out(&judged, &to_show, &done));
    tokio::task::spawn_blocking(move || {
        for read in read {
            if shown.send(Done::Shown(ReadBulk::show(read))).is_err() {
                return;
            }
        }
    });
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

fn carry_out(jobs: &Receiver<Job>, to_show: &SyncSender<ReadBulk>, done: &UnboundedSender<Done>) {
    let mut heap = Heap::default();
    loop {
        let end = match jobs.recv_timeout(IDLE_EVERY) {
            Ok(Job::Read(bulk)) => {
                let is_judged = bulk.is_judged();
                let read = bulk.read();
                if !is_judged {
                    Some(Done::Read(read))
                } else if read.is_to_show() {
                    to_show.send(read).err().map(|mpsc::SendError(read)| Done::Shown(read))
                } else {
                    Some(Done::Shown(read))
                }
            }
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
