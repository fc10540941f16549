//! Owns judging one repository: its files, what is unfinished in it, and its commits.
//!
//! Must not look for others in it. Invariant: of what stays elsewhere nothing is counted, of what
//! goes along everything that no remote has.

use std::path::{Path, PathBuf};

use crate::teardown::{
    git::{self, COMMITS_COUNTED_MAX, Changed, Listed, Private, Repository},
    problem::Problem,
};

/// Most files that a reason names.
const FILES_NAMED_MAX: usize = 5;

/// What becomes of a repository when the folder in question goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The repository stays elsewhere; only a worktree of it goes.
    Stays,
    /// The repository itself goes along.
    Goes,
}

/// What one repository holds.
#[derive(Debug, Default)]
pub struct Work {
    /// Changed, staged and conflicted files.
    pub uncommitted: u64,
    /// Files that git does not know.
    pub untracked: u64,
    /// Commits that nothing else would name.
    pub unreached: u64,
    /// Whether a merge or the like is unfinished.
    pub unfinished: bool,
    /// What would be lost first, if anything.
    pub refusal: Option<Problem>,
    /// What is ignored, below the top of the worktree.
    pub ignored: Vec<PathBuf>,
    /// Git folders whose files are files of this repository, as fixtures of tests are.
    pub tracked_git_dirs: Vec<PathBuf>,
}

impl Work {
    fn refuse(&mut self, problem: Problem) {
        self.refusal.get_or_insert(problem);
    }
}

/// Judges a repository; `within` is the folder to which the question is limited.
///
/// # Errors
///
/// It can't be looked at.
pub fn judge(
    repository: &Repository,
    fate: Fate,
    within: Option<&Path>,
    data_dir: &Path,
) -> Result<Work, Problem> {
    let mut work = Work::default();
    let path = path_of(repository);
    let mut private = Private::new(repository, data_dir)?;
    if within.is_none()
        && let Some(what) = repository.unfinished()
    {
        work.unfinished = true;
        work.refuse(Problem::Unfinished { path: path.into(), what });
    }
    judge_files(&mut work, &mut private, within)?;
    if within.is_none() {
        judge_commits(&mut work, &private, fate)?;
    }
    if within.is_none()
        && fate == Fate::Goes
        && let Some(other) = worktree_elsewhere(repository)?
    {
        let what = format!("the repository of the worktree {}", other.path.display());
        work.refuse(Problem::Nested { path: path.into(), what });
    }
    Ok(work)
}

fn path_of(repository: &Repository) -> &Path {
    repository.work_tree.as_deref().unwrap_or(&repository.git_dir)
}

fn judge_files(
    work: &mut Work,
    private: &mut Private<'_>,
    within: Option<&Path>,
) -> Result<(), Problem> {
    let repository = private.repository;
    let mut place = "";
    let changed = match &repository.work_tree {
        Some(top) if top.is_dir() => {
            let status = git::status(private, within)?;
            work.ignored = status.ignored;
            let folders = status.heads.iter().filter_map(|head| head.parent());
            work.tracked_git_dirs = folders.map(|folder| top.join(folder)).collect();
            status.changed
        }
        // The files are gone, what was staged is not.
        _ if repository.git_dir.join("index").exists() => {
            place = " in its index";
            git::staged(private, repository.head()?.0.as_deref())?
        }
        _ => Vec::new(),
    };
    for file in &changed {
        *(if file.is_untracked() { &mut work.untracked } else { &mut work.uncommitted }) += 1;
    }
    if let Some(problem) = refusal(path_of(repository), &changed, place) {
        work.refuse(problem);
    }
    Ok(())
}

fn judge_commits(work: &mut Work, private: &Private<'_>, fate: Fate) -> Result<(), Problem> {
    let repository = private.repository;
    let mut add = |count, elsewhere, keeps: Option<&String>| {
        work.unreached += u64::from(count);
        if count > 0 {
            work.refuse(Problem::Unreached {
                path: path_of(repository).into(),
                count: commits(count),
                elsewhere,
                keeps: match keeps {
                    Some(branch) => format!(", which keeps the branch `{}`", branch.escape_debug()),
                    None => " to move them to the trash".to_owned(),
                },
            });
        }
    };
    if fate == Fate::Goes {
        add(git::unpushed(private)?, "no remote-tracking ref", None);
        return Ok(());
    }
    let (commit, branch) = repository.head()?;
    if let Some(commit) = &commit {
        let count = git::unreached(private, commit, branch.as_deref())?;
        add(count, "no other branch, no tag and no remote-tracking ref", branch.as_ref());
    }
    if repository.is_linked() {
        let count = git::anchored(private, commit.as_deref())?;
        add(count, "nothing but its own reflog and refs", None);
    }
    Ok(())
}

/// Finds a worktree of a repository that lies elsewhere, and would lose it.
fn worktree_elsewhere(repository: &Repository) -> Result<Option<Listed>, Problem> {
    let linked = repository.worktrees()?.into_iter().skip(1);
    let around = repository.common_dir.parent().unwrap_or(&repository.common_dir);
    Ok(linked.into_iter().find(|listed| {
        let path = listed.path.canonicalize();
        path.is_ok_and(|path| !path.starts_with(around))
    }))
}

/// Says which files are in no commit, if any are, and where they are.
fn refusal(path: &Path, changed: &[Changed], place: &str) -> Option<Problem> {
    let untracked = changed.iter().filter(|file| file.is_untracked()).count();
    let counts = [(changed.len() - untracked, "changed"), (untracked, "untracked")];
    let counts = counts.map(|(count, what)| match count {
        0 => None,
        1 => Some(format!("1 {what} file")),
        _ => Some(format!("{count} {what} files")),
    });
    let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let names = changed.iter().take(FILES_NAMED_MAX).map(|file| {
        let name = file.path.to_string_lossy().escape_debug().to_string();
        match &file.filter {
            Some(filter) => format!("{name}: its filter `{}` is not run", filter.escape_debug()),
            None => name,
        }
    });
    let mut names = names.collect::<Vec<_>>().join(", ");
    if changed.len() > FILES_NAMED_MAX {
        names.push_str(", …");
    }
    let what = format!("{counts} ({names}){place}");
    (!changed.is_empty()).then(|| Problem::Uncommitted { path: path.into(), what })
}

/// Says how many commits there are, or that there are many.
fn commits(count: u32) -> String {
    match count {
        1 => "1 commit".to_owned(),
        COMMITS_COUNTED_MAX.. => format!("{count} or more commits"),
        _ => format!("{count} commits"),
    }
}
