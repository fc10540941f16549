//! Owns what a worktree in the trash has checked out: its commit, its branch, its index.
//!
//! Must not move anything. Invariant: a branch is made only where none of its name is.

use super::{Trash, manifest::Registration, pin, plumbing::Git};
use crate::teardown::{admin::Admin, problem::Problem};

/// What became of a branch while an agent forgot its worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BranchKept {
    /// It is there.
    Stayed,
    /// It was gone, and is there again, at the commit that was checked out.
    PutBack,
    /// It is gone, for this reason.
    Lost(String),
}

impl Trash {
    /// Returns the branch and the commit that are checked out in a worktree.
    pub(in crate::teardown) fn head(&self, admin: &Admin) -> (Option<String>, Option<String>) {
        let git = Git::new(&admin.path);
        let branch = git.line(&["symbolic-ref", "--quiet", "HEAD"], Vec::new()).ok();
        let branch = branch.and_then(|name| Some(name.strip_prefix("refs/heads/")?.to_owned()));
        let commit = ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"];
        (branch, git.line(&commit, Vec::new()).ok())
    }

    /// Pins a branch that an agent may delete with a worktree although another, or none, is checked
    /// out there. One that is gone by now stays pinned where it was.
    ///
    /// # Errors
    ///
    /// git can't write to the repository.
    pub(in crate::teardown) fn pin_branch(
        &self,
        one: &Registration,
        branch: &str,
    ) -> Result<(), Problem> {
        let git = Git::new(&one.repository);
        let there =
            ["rev-parse", "--verify", "--quiet", &format!("refs/heads/{branch}^{{commit}}")];
        let Ok(commit) = git.line(&there, Vec::new()) else { return Ok(()) };
        pin::unlock(&one.repository, &one.pins)?;
        git.run(&["update-ref", &pin_of_branch(one), &commit], Vec::new())?;
        pin::sync_folders(&one.repository, &one.pins)?;
        git.sync()
    }

    /// Returns where the branch pointed that [`Self::pin_branch`] pinned.
    pub(in crate::teardown) fn pinned_branch(&self, one: &Registration) -> Option<String> {
        let there = ["rev-parse", "--verify", "--quiet", &pin_of_branch(one)];
        Git::new(&one.repository).line(&there, Vec::new()).ok()
    }

    /// Puts a branch of a worktree's repository back, at a commit, if it is gone.
    pub(in crate::teardown) fn keep_branch(
        &self,
        one: &Registration,
        branch: &str,
        commit: &str,
    ) -> BranchKept {
        let git = Git::new(&one.repository);
        let name = format!("refs/heads/{branch}");
        let there = ["rev-parse", "--verify", "--quiet", &name];
        match git.succeeds(&there, Vec::new()) {
            Ok(true) => return BranchKept::Stayed,
            Ok(false) => {}
            Err(problem) => return BranchKept::Lost(problem.to_string()),
        }
        let only_new = "0".repeat(commit.len());
        // Durable before it is noted that the agent has forgotten the worktree: it is not asked again.
        let made = git
            .run(&["update-ref", &name, commit, &only_new], Vec::new())
            .and_then(|_| pin::sync_folders(&one.repository, &name))
            .and_then(|()| git.sync());
        match made {
            Ok(()) => BranchKept::PutBack,
            Err(problem) => BranchKept::Lost(problem.to_string()),
        }
    }
}

fn pin_of_branch(one: &Registration) -> String {
    format!("{}/branch", one.pins)
}
