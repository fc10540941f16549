//! Owns what has to wait for the disk, and in which order it is then let go.
//!
//! Must not know threads, sockets or what is written: a simulation takes the same turns as the
//! daemon's thread. Invariants: batches become durable in the order in which they were given;
//! replies, frames and teardowns of a batch leave only after it is durable, and never after a
//! failure.

use super::handle::Answer;
use crate::{
    replica::{
        effect::{Outgoing, StoredDocument, TeardownDue, Write},
        ids::DocumentId,
    },
    store::{self, Backlog, Store, compact},
};

/// How many jobs may wait for the disk; the loop waits when there are more.
pub const JOBS_MAX: usize = 256;
/// How many batches become durable with one fsync at most.
pub const GROUP_MAX: usize = 64;

/// What one turn of the loop wants durable, and what may happen then.
#[derive(Debug)]
pub struct Batch<A> {
    /// In one transaction.
    pub writes: Vec<Write>,
    /// To be sent then.
    pub frames: Vec<Outgoing>,
    /// To be given then.
    pub replies: Vec<(A, Answer)>,
    /// To be started then.
    pub teardowns: Vec<TeardownDue>,
    /// To be read back then.
    pub reloads: Vec<DocumentId>,
}

impl<A> Batch<A> {
    /// Tells whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.frames.is_empty()
            && self.replies.is_empty()
            && self.teardowns.is_empty()
            && self.reloads.is_empty()
    }
}

/// What the disk is asked for.
#[derive(Debug)]
pub enum Job<A> {
    /// To make a batch durable, after all those before it.
    Batch(Batch<A>),
    /// To say what a compaction of a document would replace, after all batches before.
    Plan(DocumentId),
    /// To put a verified snapshot in place of the changes that it holds.
    Replace(Box<compact::Verified>),
}

/// What the loop is told.
#[derive(Debug)]
pub enum Told {
    /// Documents were written to; how much of each is not yet in its snapshot.
    Backlogs(Vec<Backlog>),
    /// A teardown may start.
    Teardown(TeardownDue),
    /// A document, as the store has it.
    Reloaded(StoredDocument),
    /// What a compaction of a document would replace, and what is stored of the document.
    Planned(compact::Plan, StoredDocument),
    /// A document has nothing to compact.
    NothingToPlan(DocumentId),
    /// The store can't be written or read; memory is ahead of disk.
    Failed(store::Error),
}

/// Carries out what had to wait.
pub trait Desk {
    /// Names who waits for an answer.
    type Asker;
    /// Gives an answer.
    fn answer(&mut self, asker: Self::Asker, answer: Answer);
    /// Sends a frame.
    fn send(&mut self, outgoing: &Outgoing);
    /// Tells the loop.
    fn tell(&mut self, told: Told);
}

/// Does a job; batches that wait behind a batch, `next` takes them, become durable with it.
///
/// Returns a job that was taken and not done.
///
/// # Errors
///
/// The store has failed; nothing may be acknowledged any more.
pub fn turn<D: Desk>(
    store: &Store,
    job: Job<D::Asker>,
    mut next: impl FnMut() -> Option<Job<D::Asker>>,
    desk: &mut D,
) -> Result<Option<Job<D::Asker>>, store::Error> {
    match job {
        Job::Batch(batch) => {
            let mut group = vec![batch];
            let mut left = None;
            while group.len() < GROUP_MAX && left.is_none() {
                match next() {
                    Some(Job::Batch(batch)) => group.push(batch),
                    Some(other) => left = Some(other),
                    None => break,
                }
            }
            commit(store, group, desk)?;
            Ok(left)
        }
        Job::Plan(document) => {
            let plan = store.plan(document)?;
            let told = match plan {
                Some(plan) => {
                    let stored = store.reload(&[document])?.pop();
                    let stored = stored.unwrap_or_else(|| StoredDocument::nothing(document));
                    Told::Planned(plan, stored)
                }
                None => Told::NothingToPlan(document),
            };
            desk.tell(told);
            Ok(None)
        }
        Job::Replace(verified) => match store.replace(&verified) {
            Ok(committed) => {
                desk.tell(Told::Backlogs(committed.backlogs));
                Ok(None)
            }
            Err(store::Error::Superseded { document }) => {
                tracing::debug!(%document, "a snapshot came too late");
                Ok(None)
            }
            Err(error) => Err(error),
        },
    }
}

fn commit<D: Desk>(
    store: &Store,
    group: Vec<Batch<D::Asker>>,
    desk: &mut D,
) -> Result<(), store::Error> {
    let mut writes = Vec::new();
    let mut rest = Vec::with_capacity(group.len());
    for mut batch in group {
        writes.append(&mut batch.writes);
        rest.push(batch);
    }
    if planted!(ReplyBeforeCommit) {
        for (asker, answer) in rest.iter_mut().flat_map(|batch| batch.replies.drain(..)) {
            desk.answer(asker, answer);
        }
    }
    if !writes.is_empty() {
        let committed = store.commit(&writes)?;
        desk.tell(Told::Backlogs(committed.backlogs));
    }
    for batch in rest {
        for (asker, answer) in batch.replies {
            desk.answer(asker, answer);
        }
        for outgoing in &batch.frames {
            desk.send(outgoing);
        }
        for due in batch.teardowns {
            desk.tell(Told::Teardown(due));
        }
        if !batch.reloads.is_empty() {
            for document in store.reload(&batch.reloads)? {
                desk.tell(Told::Reloaded(document));
            }
        }
    }
    Ok(())
}
