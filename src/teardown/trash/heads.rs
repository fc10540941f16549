//! Owns what a worktree in the trash has checked out: its commit, its branch, its index.
//!
//! Must not move anything. Invariant: a branch is made only where none of its name is.

use super::{Trash, manifest::Registration, plumbing::Git};
use crate::teardown::admin::Admin;

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

    /// Puts the branch of a worktree back if it is gone.
    pub(in crate::teardown) fn keep_branch(&self, one: &Registration) -> BranchKept {
        let (Some(branch), Some(commit)) = (&one.branch, &one.commit) else {
            return BranchKept::Stayed;
        };
        let git = Git::new(&one.repository);
        let name = format!("refs/heads/{branch}");
        let there = ["rev-parse", "--verify", "--quiet", &name];
        match git.succeeds(&there, Vec::new()) {
            Ok(true) => return BranchKept::Stayed,
            Ok(false) => {}
            Err(problem) => return BranchKept::Lost(problem.to_string()),
        }
        let only_new = "0".repeat(commit.len());
        match git.run(&["update-ref", &name, commit, &only_new], Vec::new()) {
            Ok(_) => BranchKept::PutBack,
            Err(problem) => BranchKept::Lost(problem.to_string()),
        }
    }
}
