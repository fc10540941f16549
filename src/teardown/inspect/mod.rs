//! Owns judging what a worktree holds, and whether it may be ended without force.
//!
//! Must not change anything. Invariant: what can't be looked at is an error and never taken for
//! empty.

use std::path::PathBuf;

use super::{Config, Occupant, git, git::Listed, mounts, place, problem::Problem, worktree};
use crate::replica::trash::Held;

/// A linked worktree that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it is; canonical.
    pub path: PathBuf,
    /// The folder that its repository's worktrees share.
    pub repository: PathBuf,
    /// What its repository says of it.
    pub listed: Listed,
}

/// Ignored files of a worktree, by the file or folder that is ignored as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Below the top of the worktree.
    pub name: String,
    /// How large it is, with all that is in it.
    pub bytes: u64,
}

/// What a worktree holds.
#[derive(Debug, Default)]
pub struct Inspection {
    /// What is in no commit, or reached by nothing else.
    pub held: Held,
    /// Why it is not ended without force, if it isn't.
    pub refusal: Option<Problem>,
    /// The largest ignored files and folders, the largest first.
    pub ignored: Vec<Ignored>,
}

/// Looks at a worktree that is to be ended. The caller holds whatever lock keeps other worktrees
/// of the repository from being ended meanwhile.
///
/// `leaving` names branches, without `refs/heads/`, that don't count as reaching a commit, because
/// the worktrees that they are checked out in are being ended, too.
///
/// # Errors
///
/// It can't be looked at.
pub fn inspect(
    found: &Found,
    occupants: &[Occupant],
    leaving: &[String],
    config: &Config,
) -> Result<Inspection, Problem> {
    let _ = (leaving, config);
    let mut inspection = Inspection::default();
    let mut judge = |judged: Result<(), Problem>| match judged {
        Ok(()) => Ok(()),
        Err(problem @ (Problem::Git { .. } | Problem::Io { .. })) => Err(problem),
        Err(problem) => {
            inspection.refusal.get_or_insert(problem);
            Ok(())
        }
    };
    judge(mounts::refuse_mounts(&found.path))?;
    judge(worktree::refuse_unfinished(&found.path))?;
    judge(worktree::refuse_changed(&found.path, false).map(drop))?;
    judge(place::refuse_used(&found.path, occupants))?;
    let unreached = match &found.listed.commit {
        Some(commit) => git::unreached(&found.repository, commit, found.listed.branch.as_deref())?,
        None => 0,
    };
    inspection.held.unreached = u64::from(unreached);
    tracing::debug!(path = %found.path.display(), ignored = ?inspection.ignored, "looked at");
    Ok(inspection)
}
