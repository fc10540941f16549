//! Owns ending a workspace on its host.
//!
//! Must not know documents or peers. Invariants: what holds work that is nowhere else is left as it
//! is and reported as failed, with the reason and the remedy, until a person insists; even then it
//! is moved to the trash, not deleted; what was never the workspace's to move is left even then.

pub mod known;
pub mod ledger;

mod admin;
mod child;
mod conclude;
mod environment;
mod git;
mod hook;
mod inspect;
mod locks;
mod mounts;
mod place;
mod problem;
mod running;
pub mod survey;
#[cfg(test)]
pub(crate) mod testing;
pub mod trash;
mod users;
mod worktree;

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

pub use git::version as git_version;
pub use hook::FILE_NAME as HOOKS_FILE_NAME;
use ledger::{Entry, Ledger, Step};
use problem::Problem;
use trash::Trash;

use crate::replica::{
    effect::{TeardownDue, TeardownOutcome},
    ids::WorkspaceId,
    record::{KIND_WORKTREE, Workspace},
};

/// How long the daemon's stop waits for hooks: the grace that a program has, and a little.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// How often it is seen whether they have ended.
const STOP_POLL: Duration = Duration::from_millis(10);
/// How many folders above an agent's worktree are its own: opencode has one for its data, one for all
/// worktrees and one for each project.
const AGENT_LEVELS: usize = 3;
/// The kind of workspaces that are folders somebody else looks after.
const KIND_DIRECTORY: &str = "directory";

/// Someone else who removes some workspaces, and must be asked to: the agent that made them.
pub trait Remover: Debug + Send + Sync {
    /// Tells whether a workspace is its to remove.
    fn claims(&self, workspace: &Workspace) -> bool;

    /// Forgets a workspace; blocks. It is called once the workspace's files and what git knew of them
    /// lie in the trash, perhaps again after a crash; a branch that it deletes is put back.
    ///
    /// # Errors
    ///
    /// Why it did not, for a person.
    fn remove(&self, workspace: &Workspace) -> Result<(), String>;

    /// Returns the folders in which it looks for its own: nothing else may be put there.
    fn folders(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// Looks once more whether a workspace may be ended: a session may have come into it while its
/// teardown waited for its turn.
pub trait Gate: Debug + Send + Sync {
    /// Tells whether a teardown may begin; blocks.
    fn may_begin(&self, due: &TeardownDue) -> bool;
}

/// What this host allows, and who helps.
#[derive(Debug)]
pub struct Config {
    /// Where hooks are configured and the record of teardowns is kept; never removed.
    pub data_dir: PathBuf,
    /// Below these alone anything is removed; below any folder if there are none.
    pub roots: Vec<PathBuf>,
    /// Never removed, nor what it lies in.
    pub home: Option<PathBuf>,
    /// Asked in order; the first that claims a worktree removes it.
    pub removers: Vec<Arc<dyn Remover>>,
    /// Asked directly before the first step of each teardown, where there is one.
    pub gate: Option<Box<dyn Gate>>,
    /// Where what is ended is kept.
    pub trash: Arc<Trash>,
    ledger: Arc<Ledger>,
    /// Which worktrees the workspaces were when they were first seen.
    known: known::Memory,
    /// One teardown at a time works on a repository, from judging to moving.
    locks: locks::Locks,
    /// Held while it is judged whether one may be ended, and alone while one is only looked at:
    /// git's own process in a worktree must not be taken for somebody who works there.
    looking: RwLock<()>,
    walks: inspect::Walks,
    stopping: AtomicBool,
    /// Whether hooks that are told to stop get no time to do so.
    insisting: AtomicBool,
    /// How many hooks run.
    hooks: AtomicUsize,
    /// The hooks that ran before this start.
    left: running::Left,
}

impl Config {
    /// Makes the configuration of a host with this data folder and its trash, on which every root
    /// is allowed.
    pub fn new(data_dir: PathBuf, trash: Arc<Trash>) -> Self {
        let (ledger, known) = (trash.ledger(), known::Memory::new(&data_dir));
        let left = running::Left::find(&data_dir);
        Self {
            data_dir,
            roots: Vec::new(),
            home: std::env::home_dir().filter(|home| home.is_absolute()),
            removers: Vec::new(),
            gate: None,
            trash,
            ledger,
            known,
            locks: locks::Locks::default(),
            looking: RwLock::default(),
            walks: inspect::Walks::default(),
            stopping: AtomicBool::new(false),
            insisting: AtomicBool::new(false),
            hooks: AtomicUsize::new(0),
            left,
        }
    }

    /// Ends the hooks that run: what they were to end is ended at the next start. Blocks for as
    /// long as a program may take that is told to stop, no longer.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let until = Instant::now() + STOP_WITHIN;
        while self.hooks.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(STOP_POLL);
        }
    }

    /// Ends the hooks that run as [`Config::stop`] does, and gives them no time.
    pub fn stop_at_once(&self) {
        self.insisting.store(true, Ordering::SeqCst);
        self.stop();
    }

    /// Tells which workspaces a hook is ending that an earlier run of the daemon has started: a
    /// daemon that is killed leaves it running.
    pub fn left_running(&self) -> Vec<WorkspaceId> {
        self.left.look(&self.data_dir)
    }

    /// Waits until nobody looks at a worktree, and keeps it so.
    fn judging(&self) -> RwLockReadGuard<'_, ()> {
        self.looking.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks once more whether a teardown may begin: to be called directly before its first step
    /// that can't be taken back.
    fn look_again(&self, due: &TeardownDue) -> Result<(), Problem> {
        let may = self.gate.as_ref().is_none_or(|gate| gate.may_begin(due));
        if may { Ok(()) } else { Err(Problem::Occupied) }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Returns the folders in which nothing of a workspace at `path` may be kept: those of other
    /// workspaces, and of agents. One that the home folder lies in says nothing.
    fn avoid(&self, workspace: &Workspace, path: &Path, occupants: &[Occupant]) -> Vec<PathBuf> {
        let home = self.home.as_deref().unwrap_or(Path::new("/"));
        let others = occupants.iter().map(|occupant| PathBuf::from(&occupant.directory));
        let others = others.filter_map(|other| other.canonicalize().ok());
        let agents = self.removers.iter().flat_map(|remover| remover.folders());
        // An agent may look into the folders around those that it has made, and say nothing of them.
        let levels = if self.remover(workspace).is_some() { AGENT_LEVELS } else { 0 };
        let around = path.ancestors().skip(1).take(levels).map(Path::to_owned);
        others.chain(agents).chain(around).filter(|folder| !home.starts_with(folder)).collect()
    }

    fn may_go_on(&self) -> child::Go {
        match (self.is_stopping(), self.insisting.load(Ordering::SeqCst)) {
            (false, _) => child::Go::On,
            (true, false) => child::Go::Stop,
            (true, true) => child::Go::StopAtOnce,
        }
    }

    fn remover(&self, workspace: &Workspace) -> Option<&dyn Remover> {
        let mut removers = self.removers.iter();
        removers.find(|remover| remover.claims(workspace)).map(AsRef::as_ref)
    }
}

/// What else this host's list says to be somewhere: an alive session or another workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// What it is, in words.
    pub what: String,
    /// Where it is.
    pub directory: String,
}

/// Ends a workspace, or says why not; blocks on the file system and on programs.
pub fn end(due: &TeardownDue, occupants: &[Occupant], config: &Config) -> TeardownOutcome {
    let workspace = &due.workspace;
    let (id, incarnation) = (&workspace.id, due.incarnation);
    if let Some(done) = ended_before(due, config) {
        return TeardownOutcome::Done(done);
    }
    let ended = match &workspace.directory {
        _ if workspace.kind == KIND_DIRECTORY => {
            config.look_again(due).map(|()| Entry::new(due, Step::Gone))
        }
        Some(directory) if worktree::is_worktree(workspace) => {
            worktree::end(due, directory, occupants, config)
        }
        None if worktree::is_worktree(workspace) => {
            config.look_again(due).map(|()| Entry::new(due, Step::Gone))
        }
        _ => hook::end(due, occupants, config),
    };
    let (entry, outcome) = match ended {
        Ok(entry) => {
            let Entry { directory, branch, commit, .. } = &entry;
            tracing::info!(
                workspace = %id, incarnation, action = ?due.action, kind = ?workspace.kind,
                ?directory, ?branch, ?commit, "workspace was ended",
            );
            let done = done(&entry);
            (entry, TeardownOutcome::Done(done))
        }
        Err(Problem::Occupied) => return TeardownOutcome::PutOff,
        Err(problem) => {
            let reason = problem.reason();
            let entry = Entry { reason: Some(reason.clone()), ..Entry::new(due, Step::Failed) };
            (entry, TeardownOutcome::Failed(reason))
        }
    };
    match config.ledger.add(&entry) {
        Ok(()) if entry.step == Step::Gone => {
            config.known.forget(id);
            conclude::expire(&entry, config);
        }
        Ok(()) => {}
        Err(error) => {
            // The outcome is what it is, whether or not it could be noted.
            let path: &Path = config.ledger.path();
            tracing::error!(workspace = %id, incarnation, path = %path.display(), %error, "not noted");
        }
    }
    outcome
}

/// Says what an attempt did whose outcome the daemon never saw: a worktree that stands at the place by
/// now is another one.
fn ended_before(due: &TeardownDue, config: &Config) -> Option<String> {
    if !worktree::is_worktree(&due.workspace) {
        return None;
    }
    let entry = config.ledger.ended(&due.workspace.id, due.incarnation).ok()??;
    conclude::expire(&entry, config);
    Some(done(&entry))
}

/// Says what was done, to those who look at it from elsewhere.
fn done(entry: &Entry) -> String {
    if let Some(done) = &entry.done {
        return problem::shortened(done, problem::REASON_CHARS_MAX);
    }
    let Some(directory) = &entry.directory else { return "there was nothing to move".to_owned() };
    match entry.kind.as_str() {
        KIND_DIRECTORY => format!("forgot it; the files in {directory} stay"),
        kind => format!("the hook for {kind} has ended {directory}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{
        replica::record::TeardownAction,
        teardown::testing::{Repository, due},
    };

    #[test]
    fn a_directory_is_only_forgotten() {
        let repository = Repository::new();
        let directory = repository.path("w");
        let due = due(KIND_DIRECTORY, directory.to_str(), TeardownAction::Force);
        let outcome = end(&due, &[], &repository.config);
        let TeardownOutcome::Done(done) = outcome else { panic!("{outcome:?}") };
        assert!(done.starts_with("forgot it"), "{done}");
        assert!(directory.join("file").exists() && repository.lists("w"));
    }

    #[test]
    fn a_worktree_that_is_nowhere_is_gone() {
        let repository = Repository::new();
        let due = due(KIND_WORKTREE, None, TeardownAction::Retry);
        let done = "there was nothing to move".to_owned();
        assert_eq!(end(&due, &[], &repository.config), TeardownOutcome::Done(done));
    }

    /// Lets nothing begin.
    #[derive(Debug)]
    struct Shut;

    impl Gate for Shut {
        fn may_begin(&self, _: &TeardownDue) -> bool {
            false
        }
    }

    #[test]
    fn what_a_session_came_into_at_the_last_moment_is_left_as_it_is() {
        let mut repository = Repository::new();
        repository.config.gate = Some(Box::new(Shut));
        let directory = repository.path("w");
        let hooks = repository.config.data_dir.join(HOOKS_FILE_NAME);
        std::fs::write(&hooks, r#"{ "box": { "argv": ["/bin/false"] } }"#).unwrap();
        std::fs::set_permissions(&hooks, std::fs::Permissions::from_mode(0o600)).unwrap();
        for action in [TeardownAction::Retry, TeardownAction::Force] {
            for kind in [KIND_DIRECTORY, KIND_WORKTREE, "box"] {
                let due = due(kind, directory.to_str(), action);
                assert_eq!(end(&due, &[], &repository.config), TeardownOutcome::PutOff, "{kind}");
            }
        }
        assert!(directory.join("file").exists() && repository.lists("w"));
        assert!(repository.config.ledger.entries().unwrap().is_empty(), "nothing was begun");
        assert!(repository.config.trash.list().is_empty());
    }

    #[test]
    fn what_can_not_be_noted_before_it_is_removed_stays() {
        let mut repository = Repository::new();
        let absent = repository.path("absent");
        repository.config.ledger = Arc::new(Ledger::new(&absent));
        let due = repository.due("w", TeardownAction::Retry);
        let outcome = end(&due, &[], &repository.config);
        let TeardownOutcome::Failed(reason) = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains(ledger::FILE_NAME), "{reason}");
        assert!(repository.path("w/file").exists());
    }
}
