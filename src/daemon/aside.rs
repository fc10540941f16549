//! Owns the one thread on which what takes long is done to copies of documents.
//!
//! Must not know what that is for. Invariants: one thing at a time, in the order in which it was
//! given; always on the same thread, so that the memory which one document took and gave back is
//! there for the next one, and not for each of the threads that the runtime would pick.

use std::sync::mpsc;

use crate::replica::machine::{Bulk, EpochDone, EpochWork, ReadBulk};

/// What is to be done.
pub enum Job {
    /// What a peer sent is to be read.
    Read(Bulk),
    /// Something about the node's own epochs.
    Epoch(EpochWork),
}

/// What came of it.
pub enum Done {
    /// What a peer sent was read.
    Read(ReadBulk),
    /// Something was done about the node's own epochs.
    Epoch(EpochDone),
}

/// Starts the thread; it ends when nobody is left who could give it anything.
pub fn start(done: tokio::sync::mpsc::UnboundedSender<Done>) -> mpsc::Sender<Job> {
    let (sender, jobs) = mpsc::channel();
    tokio::task::spawn_blocking(move || {
        for job in jobs {
            let end = match job {
                Job::Read(bulk) => Done::Read(bulk.read()),
                Job::Epoch(work) => Done::Epoch(work.run()),
            };
            if done.send(end).is_err() {
                // A loop that has stopped is told nothing: what was sent comes again.
                return;
            }
        }
    });
    sender
}
