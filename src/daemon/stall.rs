//! Owns the queues of a loop whose disk is behind: jobs for the disk, and commands that would add more jobs.
//!
//! Must not know what a job or a command does. Invariants: the disk gets the jobs in the order in which they
//! came; a command is never taken before an earlier one. Both queues are bounded: the loop adds no job while
//! one waits, and takes no request once the commands have no place.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{
    commit::{Committer, Job},
    handle::{Answer, REQUESTS_MAX},
};
use crate::replica::command::Command;

/// A command, and who asked for it.
pub type Asked = (Command, oneshot::Sender<Answer>);

/// The jobs and the commands that wait.
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

    /// Gives the disk as many of the jobs as it takes.
    pub fn give(&mut self, committer: &Committer) {
        while let Some(job) = self.jobs.pop_front() {
            if let Err(job) = committer.give(job) {
                return self.jobs.push_front(job);
            }
        }
    }

    /// Returns whether jobs wait that the disk did not take: the caller must begin nothing that adds more.
    pub fn is_behind(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Keeps a command until the disk has caught up.
    pub fn park(&mut self, asked: Asked) {
        self.commands.push_back(asked);
    }

    /// Returns whether there is room for one more command.
    pub fn has_place(&self) -> bool {
        self.commands.len() < REQUESTS_MAX
    }

    /// Returns whether commands wait and the disk has caught up.
    pub fn may_go_on(&self) -> bool {
        !self.is_behind() && !self.commands.is_empty()
    }

    /// Removes the command that has waited longest.
    pub fn next(&mut self) -> Option<Asked> {
        self.commands.pop_front()
    }

    /// Returns the jobs that still wait.
    pub fn into_jobs(self) -> impl Iterator<Item = Job> {
        self.jobs.into_iter()
    }
}
