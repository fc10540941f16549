//! Owns judging what a folder holds, and whether it may be ended without force.
//!
//! Must not change anything. Invariant: what can't be looked at is an error or a refusal, and never
//! taken for empty.

mod below;
mod judge;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use below::{Below, walk};
use judge::{Fate, Work, judge};

use super::{
    Config, Occupant,
    git::{Listed, Repository},
    mounts, place,
    problem::Problem,
};
use crate::replica::trash::Held;

/// How long a walk through a folder that is only looked at is good for.
const WALK_STALE_AFTER: Duration = Duration::from_secs(600);
/// How much longer than a walk took it is not repeated: it takes at most 0.5 % of a core.
const WALK_REST_FACTOR: u32 = 200;
/// Most walks that are remembered.
const WALKS_MAX: usize = 1_024;
/// Most ignored files and folders that a line names.
const IGNORED_NAMED_MAX: usize = 3;

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

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Inspection {
    /// What is in no commit, or reached by nothing else.
    pub held: Held,
    /// Whether a merge or the like is unfinished, in it or in a repository below.
    pub unfinished: bool,
    /// Why it is not ended without force, if it isn't.
    pub refusal: Option<Problem>,
    /// The largest ignored files and folders, the largest first.
    pub ignored: Vec<Ignored>,
}

/// What was seen of folders that are looked at again and again.
#[derive(Debug, Default)]
pub struct Walks(Mutex<BTreeMap<PathBuf, Walked>>);

#[derive(Debug)]
struct Walked {
    next: Instant,
    below: Below,
}

impl Found {
    fn repository(&self) -> Repository {
        Repository {
            git_dir: self.listed.git_dir.clone(),
            common_dir: self.repository.clone(),
            work_tree: Some(self.path.clone()),
        }
    }
}

impl Inspection {
    /// Says in a few words how much is ignored, and where; `None` if nothing is. Only the first digit
    /// of the size is told, so that a report of it seldom changes.
    pub fn ignored_in_words(&self) -> Option<String> {
        let names: Vec<String> = self
            .ignored
            .iter()
            .take(IGNORED_NAMED_MAX)
            .map(|ignored| ignored.name.escape_debug().to_string())
            .collect();
        let more = if self.ignored.len() > names.len() { " and others" } else { "" };
        let size = in_words(self.held.ignored);
        (!names.is_empty()).then(|| format!("{size} in {}{more}", names.join(", ")))
    }

    fn refuse(&mut self, problem: Problem) {
        self.refusal.get_or_insert(problem);
    }

    fn add(&mut self, work: Work) {
        self.held.uncommitted += work.uncommitted;
        self.held.untracked += work.untracked;
        self.held.unreached += work.unreached;
        self.unfinished |= work.unfinished;
        if let Some(problem) = work.refusal {
            self.refuse(problem);
        }
    }
}

/// Looks at a worktree that is to be ended. The caller holds whatever lock keeps other worktrees
/// of the repository from being ended meanwhile. The branches of those that were ended before count
/// as reaching a commit, because they stay: what deletes them puts them back.
///
/// A folder that is missing is judged by what its repository still keeps of it: what was staged,
/// what is unfinished, its commits and its submodules' repositories.
///
/// # Errors
///
/// It can't be looked at.
pub fn inspect(
    found: &Found,
    occupants: &[Occupant],
    config: &Config,
) -> Result<Inspection, Problem> {
    let path = &found.path;
    let mut inspection = Inspection::default();
    if let Some(point) = mounts::mounts_below(path)?.into_iter().next() {
        inspection.refuse(Problem::Mounted { path: path.clone(), point });
    }
    if let Some(why) = &found.listed.locked {
        inspection.refuse(locked(path, why));
    }
    look_at(&mut inspection, found, config, walk)?;
    // Whoever was in a folder that is gone has nothing there any more.
    if path.exists()
        && let Err(problem) = place::refuse_used(path, occupants)
    {
        inspection.refuse(problem);
    }
    if let Some(ignored) = inspection.ignored_in_words()
        && let Some(problem) = inspection.refusal.take()
    {
        inspection.refusal = Some(Problem::WithIgnored { problem: Box::new(problem), ignored });
    }
    Ok(inspection)
}

/// Looks at a worktree that nobody wants to end yet; walks through it only now and then.
///
/// # Errors
///
/// It can't be looked at.
pub fn survey(found: &Found, config: &Config) -> Result<Inspection, Problem> {
    let mut inspection = Inspection::default();
    look_at(&mut inspection, found, config, |path, ignored| config.walks.walk(path, ignored))?;
    Ok(inspection)
}

/// Refuses a folder that somebody else removes, with all repositories at and below it.
///
/// # Errors
///
/// Something would be lost, or it can't be looked at.
pub fn refuse_loss(path: &Path, config: &Config) -> Result<(), Problem> {
    let mut inspection = Inspection::default();
    let at = Repository::at(path)?;
    let around = path.ancestors().skip(1).find(|folder| folder.join(".git").exists());
    let mut ignored = Vec::new();
    if let Some(repository) = &at {
        let work = judge(repository, fate(repository, &[path]), None, &config.data_dir)?;
        ignored.clone_from(&work.ignored);
        inspection.add(work);
    } else if let Some(around) = around
        && let Some(repository) = Repository::at(around)?
    {
        let work = judge(&repository, Fate::Stays, Some(path), &config.data_dir)?;
        inspection.add(work);
    }
    let below = walk(path, &ignored)?;
    let nested = Nested { top: path, going: &[path], allows_worktrees: true, config };
    nested.judge_all(&below, Vec::new(), &mut inspection, at.as_ref())?;
    inspection.refusal.map_or(Ok(()), Err)
}

fn look_at(
    inspection: &mut Inspection,
    found: &Found,
    config: &Config,
    walk_through: impl FnOnce(&Path, &[PathBuf]) -> Result<Below, Problem>,
) -> Result<(), Problem> {
    let Found { path, listed, .. } = found;
    let repository = found.repository();
    let work = judge(&repository, Fate::Stays, None, &config.data_dir)?;
    let (ignored, tracked) = (work.ignored.clone(), work.tracked_git_dirs.clone());
    inspection.add(work);
    let mut below = walk_through(path, &ignored)?;
    inspection.held.ignored = below.ignored_bytes;
    inspection.ignored = std::mem::take(&mut below.ignored);
    // Repositories of submodules lie in the worktree's folder in the repository, also those whose
    // files are gone.
    let own = walk(&listed.git_dir.join("modules"), &[])?;
    below.git_dirs.extend(own.git_dirs);
    let going = [path.as_path(), &listed.git_dir];
    let nested = Nested { top: path, going: &going, allows_worktrees: false, config };
    nested.judge_all(&below, tracked, inspection, Some(&repository))
}

/// Says that a worktree was locked.
fn locked(path: &Path, why: &str) -> Problem {
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.escape_debug()) };
    Problem::Locked { path: path.into(), why }
}

fn fate(repository: &Repository, going: &[&Path]) -> Fate {
    let goes = going.iter().any(|folder| repository.common_dir.starts_with(folder));
    if goes { Fate::Goes } else { Fate::Stays }
}

/// The repositories below a folder.
struct Nested<'a> {
    top: &'a Path,
    /// The folders that go.
    going: &'a [&'a Path],
    /// Whether worktrees of repositories elsewhere may go, too.
    allows_worktrees: bool,
    config: &'a Config,
}

impl Nested<'_> {
    fn judge_all(
        &self,
        below: &Below,
        mut tracked: Vec<PathBuf>,
        inspection: &mut Inspection,
        own: Option<&Repository>,
    ) -> Result<(), Problem> {
        let mut judged: BTreeSet<PathBuf> =
            own.map(|repository| repository.git_dir.clone()).into_iter().collect();
        for folder in &below.work_trees {
            let name = self.name(folder);
            let repository = match Repository::at(folder) {
                Ok(Some(repository)) => repository,
                Ok(None) => continue,
                Err(problem) => {
                    // Nobody can say what it holds.
                    inspection.held.nested.push(name);
                    inspection.held.uncommitted += 1;
                    inspection.refuse(problem);
                    continue;
                }
            };
            if !judged.insert(repository.git_dir.clone()) {
                continue;
            }
            inspection.held.nested.push(name);
            let fate = fate(&repository, self.going);
            let work = judge(&repository, fate, None, &self.config.data_dir)?;
            tracked.extend(work.tracked_git_dirs.iter().cloned());
            inspection.add(work);
            if fate == Fate::Stays && !self.allows_worktrees {
                let of = repository.common_dir.display();
                let what = format!("a worktree of {of}");
                inspection.refuse(Problem::Nested { path: folder.clone(), what });
            }
        }
        for folder in &below.git_dirs {
            let Some(repository) = Repository::from_git_dir(folder, None)? else { continue };
            if tracked.contains(folder) || !judged.insert(repository.git_dir.clone()) {
                continue;
            }
            inspection.held.nested.push(self.name(folder));
            let work = judge(&repository, Fate::Goes, None, &self.config.data_dir)?;
            inspection.add(work);
        }
        Ok(())
    }

    /// Names a folder, relative to what goes if it lies in it.
    fn name(&self, folder: &Path) -> String {
        folder.strip_prefix(self.top).unwrap_or(folder).to_string_lossy().into_owned()
    }
}

impl Walks {
    /// Walks through a folder, unless that was done not long ago.
    fn walk(&self, path: &Path, ignored: &[PathBuf]) -> Result<Below, Problem> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        if let Some(walked) = lock().get(path)
            && began < walked.next
        {
            return Ok(walked.below.clone());
        }
        let below = walk(path, ignored)?;
        let next = Instant::now() + WALK_STALE_AFTER.max(began.elapsed() * WALK_REST_FACTOR);
        let mut walks = lock();
        if walks.len() >= WALKS_MAX {
            walks.retain(|path, _| path.exists());
        }
        if walks.len() < WALKS_MAX {
            walks.insert(path.to_owned(), Walked { next, below: below.clone() });
        }
        Ok(below)
    }
}

/// Says a size as people do, with one digit that counts.
fn in_words(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let (mut size, mut unit, mut digit) = (bytes, 0, 1);
    while size / digit >= 10 {
        digit *= 10;
    }
    size = (size + digit / 2) / digit * digit;
    while size >= 1_000 && unit + 1 < UNITS.len() {
        size /= 1_000;
        unit += 1;
    }
    format!("{size} {}", UNITS[unit])
}
