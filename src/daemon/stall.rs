//! Owns what waits in the loop while the disk takes no more: jobs for it, and commands that would make more.
//!
//! Must not know what a job or a command does. Invariants: jobs are given to the disk in the order in which
//! they came; no command is taken before one that came earlier; both are bounded, since whoever feeds them
//! stops while they wait.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{
    commit::{Committer, Job},
    handle::{Answer, REQUESTS_MAX},
};
use crate::replica::command::Command;

/// A command, and who asked for it.
pub type Asked = (Command, oneshot::Sender<Answer>);

/// What waits.
#[derive(Debug, Default)]
pub struct Stall {
    jobs: VecDeque<Job>,
    commands: VecDeque<Asked>,
}

impl Stall {
    /// Adds a job for the disk, to be given at the end of the turn.
    pub fn add(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    /// Gives the disk what waits, as far as it takes it.
    pub fn give(&mut self, committer: &Committer) {
        while let Some(job) = self.jobs.pop_front() {
            if let Err(job) = committer.give(job) {
                return self.jobs.push_front(job);
            }
        }
    }

    /// Tells whether the disk took less than it was to be given: nothing is to be begun that makes more.
    pub fn is_behind(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Keeps a command until the disk has caught up.
    pub fn park(&mut self, asked: Asked) {
        self.commands.push_back(asked);
    }

    /// Tells whether one more command may be kept.
    pub fn has_place(&self) -> bool {
        self.commands.len() < REQUESTS_MAX
    }

    /// Tells whether commands wait that may be taken now.
    pub fn may_go_on(&self) -> bool {
        !self.is_behind() && !self.commands.is_empty()
    }

    /// Takes the command out that has waited longest.
    pub fn next(&mut self) -> Option<Asked> {
        self.commands.pop_front()
    }

    /// Takes all jobs out that still wait.
    pub fn into_jobs(self) -> impl Iterator<Item = Job> {
        self.jobs.into_iter()
    }
}
