//! Owns the threads on which what takes long is done to copies of documents: one that reads and
//! writes them, and one that derives what they show meanwhile.
//!
//! Must not know what that is for. Invariants: one thing at a time on each, in the order in which it
//! was given; always on the same thread, so that the memory which one document took and gave back is
//! there for the next one, and not for each of the threads that the runtime would pick.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use super::heap::Heap;
use crate::replica::machine::{self, Bulk, ReadBulk, Work};

/// How long nothing is to be done before what else of memory is free is given back, and from then on
/// how often that is looked at.
const IDLE_EVERY: Duration = Duration::from_secs(1);

/// How many documents wait at most for what they show to be derived, beside the one of which it is.
const TO_SHOW_MAX: usize = 1;

/// What is to be done.
pub enum Job {
    /// What a peer sent is to be read.
    Read(Bulk),
    /// What the replica asks for of its own accord.
    Work(Work),
}

/// What came of it.
pub enum Done {
    /// What a peer sent was read; it is told again once what it shows is derived. The next can be
    /// read.
    Showing,
    /// What it shows is derived.
    Shown(ReadBulk),
    /// What a peer sent was read. The next can be.
    Read(ReadBulk),
    /// What the replica asked for was done.
    Work(machine::Done),
}

/// Starts the threads; they end when nobody is left who could give them anything.
pub fn start(done: tokio::sync::mpsc::UnboundedSender<Done>) -> mpsc::Sender<Job> {
    let (sender, jobs) = mpsc::channel();
    let (to_show, read) = mpsc::sync_channel::<ReadBulk>(TO_SHOW_MAX);
    let shown = done.clone();
    tokio::task::spawn_blocking(move || {
        for read in read {
            if shown.send(Done::Shown(read.show())).is_err() {
                return;
            }
        }
    });
    tokio::task::spawn_blocking(move || {
        let mut heap = Heap::default();
        loop {
            let end = match jobs.recv_timeout(IDLE_EVERY) {
                Ok(Job::Read(bulk)) => {
                    let read = bulk.read();
                    if read.is_to_show() {
                        to_show.send(read).map_or_else(
                            |mpsc::SendError(read)| Done::Read(read),
                            |()| Done::Showing,
                        )
                    } else {
                        Done::Read(read)
                    }
                }
                Ok(Job::Work(work)) => Done::Work(work.run()),
                Err(RecvTimeoutError::Timeout) => {
                    heap.look_idle();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if done.send(end).is_err() {
                // A loop that has stopped is told nothing: what was sent comes again.
                return;
            }
            heap.look();
        }
    });
    sender
}
