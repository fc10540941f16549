//! A scene: repositories, the worktrees of one of them that are to be ended, and what stands
//! around them. Whatever runs or is mounted for it is gone when the scene is.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sessionmesh::{
    replica::{
        effect::{TeardownDue, TeardownOutcome},
        ids::NodeId,
        record::{GitState, TeardownAction, Workspace, WorkspaceState},
    },
    teardown::{
        self, Config, Occupant, Remover, survey,
        trash::{self, Trash},
    },
};

use crate::{
    git::{self, git},
    template::Flavour,
};

/// One worktree that is to be ended.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The workspace's id.
    pub id: String,
    /// The workspace's name; an agent claims those that begin with `agent`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What the record says of where it is.
    pub spelled: String,
    /// The branch that was made for it.
    pub branch: Option<String>,
    /// Its administrative folder.
    pub admin: PathBuf,
    /// The administrative folders of worktrees inside it.
    pub inner: Vec<PathBuf>,
    /// The folders in and below it that are asked for their status before and after.
    pub probes: Vec<PathBuf>,
    /// Where its folder was moved to by hand, or deleted, if it was.
    pub missing: Option<Missing>,
}

/// How a folder came to be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Moved there by hand.
    Moved(PathBuf),
    /// Deleted by hand.
    Deleted,
}

/// What has to be undone when a scene is over.
#[derive(Debug)]
enum Around {
    Process(Child),
    Mount(PathBuf),
}

/// Everything that one drawn case consists of.
#[derive(Debug)]
pub struct Scene {
    folder: tempfile::TempDir,
    /// The real path of its folder.
    pub root: PathBuf,
    pub flavour: Flavour,
    pub config: Config,
    pub trees: Vec<Tree>,
    pub occupants: Vec<Occupant>,
    /// Repositories, apart from the main one, whose worktrees lie in a tree that is ended.
    pub others: Vec<PathBuf>,
    /// What was drawn, for a failure.
    pub story: String,
    around: Vec<Around>,
    /// Numbers whatever needs a name of its own.
    names: u32,
}

impl Scene {
    /// Copies the repositories of a flavour.
    pub fn new(flavour: Flavour) -> Self {
        Self::new_in(flavour, &std::env::temp_dir())
    }

    /// Copies the repositories of a flavour to a filesystem.
    pub fn new_in(flavour: Flavour, parent: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("endings").tempdir_in(parent);
        let folder = folder.expect("a folder");
        let root = folder.path().canonicalize().expect("it was just made");
        flavour.copy_into(&root);
        fs::create_dir(root.join("back")).expect("a folder");
        let config = configure(&root, trash::Settings::default());
        Self {
            folder,
            root,
            flavour,
            config,
            trees: Vec::new(),
            occupants: Vec::new(),
            others: Vec::new(),
            story: String::new(),
            around: Vec::new(),
            names: 0,
        }
    }

    /// Forgets everything but what is on the disk, as a daemon that is started again does.
    pub fn restart(&mut self, settings: trash::Settings) {
        let removers = std::mem::take(&mut self.config.removers);
        self.config = configure(&self.root, settings);
        self.config.removers = removers;
        self.config.trash.recover();
    }

    /// Returns the repositories that know worktrees which are ended, the main one first.
    pub fn repositories(&self) -> Vec<PathBuf> {
        [&[self.repo()], self.others.as_slice()].concat()
    }

    /// Returns the folders that the worktrees of those share.
    pub fn commons(&self) -> Vec<PathBuf> {
        let others = self.others.iter().map(|other| other.join(".git"));
        std::iter::once(self.common()).chain(others).collect()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns the main repository.
    pub fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    /// Returns the folder that all worktrees of the main repository share.
    pub fn common(&self) -> PathBuf {
        if self.flavour == Flavour::Bare { self.repo() } else { self.repo().join(".git") }
    }

    /// Returns a name that nothing else in the scene has.
    pub fn fresh(&mut self, stem: &str) -> String {
        self.names += 1;
        format!("{stem}{}", self.names)
    }

    /// Notes what was done.
    pub fn tell(&mut self, what: &str) {
        let _ = write!(self.story, "{}{what}", if self.story.is_empty() { "" } else { ", " });
    }

    /// Returns the name of a ref of the template, as this flavour has it.
    pub fn upstream(&self, name: &str) -> String {
        if self.flavour.has_remote() { format!("origin/{name}") } else { name.to_owned() }
    }

    /// Makes a worktree at a place below the scene's folder, on a new branch.
    pub fn add_tree(&mut self, place: &str, start: &str) -> usize {
        let number = self.trees.len();
        let branch = format!("feature{number}");
        let path = self.path(place);
        fs::create_dir_all(path.parent().expect("below the scene")).expect("a folder");
        let text = path.to_str().expect("drawn as text").to_owned();
        let add = ["worktree", "add", "-q", "--no-track", "-b", &branch, "--", &text, start];
        git(&self.repo(), &add);
        let admin = git::rev_parse(&path, "--git-dir");
        self.trees.push(Tree {
            id: format!("wrk_{number}"),
            name: format!("w{number}"),
            spelled: text,
            branch: Some(branch),
            admin,
            inner: Vec::new(),
            probes: vec![path.clone()],
            path,
            missing: None,
        });
        number
    }

    /// Has a ref elsewhere reach a commit of a worktree.
    pub fn publish(&mut self, tree: usize, revision: &str) {
        let name = self.fresh("published");
        let name = if self.flavour.has_remote() {
            format!("refs/remotes/origin/{name}")
        } else {
            format!("refs/heads/{name}")
        };
        git(&self.trees[tree].path, &["update-ref", &name, revision]);
    }

    /// Commits a new file in a directory, and returns the commit.
    pub fn commit(&mut self, at: &Path) -> String {
        let name = self.fresh("work");
        fs::write(at.join(&name), format!("{name}\n")).expect("a file");
        git(at, &["add", "--", &name]);
        git(at, &["commit", "-q", "-m", &name]);
        git(at, &["rev-parse", "HEAD"])
    }

    /// Starts a process that stands in a directory until the scene is over.
    pub fn stand_in(&mut self, directory: &Path) {
        let child = Command::new("sleep")
            .arg("600")
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sleep is installed");
        self.around.push(Around::Process(child));
    }

    /// Mounts something, which takes root.
    pub fn mount(&mut self, arguments: &[&str], what: &Path, at: &Path) {
        fs::create_dir_all(at).expect("a folder");
        let mut mount = Command::new("mount");
        let output = mount.args(arguments).arg(what).arg(at).output().expect("mount is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.around.push(Around::Mount(at.to_owned()));
    }

    /// Takes a mount away again.
    pub fn unmount(&mut self, at: &Path) {
        let output = Command::new("umount").arg(at).output().expect("umount is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.around.retain(|around| !matches!(around, Around::Mount(mounted) if mounted == at));
    }

    /// Makes the attempt to end a tree.
    pub fn due(&self, tree: usize, action: TeardownAction, incarnation: u32) -> TeardownDue {
        let Tree { id, name, spelled, branch, .. } = &self.trees[tree];
        let workspace = Workspace {
            id: id.parse().expect("an id"),
            host: NodeId([1; 32]),
            name: name.clone(),
            kind: "worktree".to_owned(),
            project_id: None,
            directory: Some(spelled.clone()),
            branch: branch.clone(),
            keep: false,
            used: true,
            created_at: 0,
            agent_server: None,
            state: WorkspaceState::Sealed,
            session_count: 0,
            teardown: None,
            extra: std::collections::BTreeMap::new(),
        };
        TeardownDue { workspace, incarnation, action, kept_until: None }
    }

    /// Looks at a tree, as the host does every few seconds; `None` while another is judged.
    pub fn look(&self, tree: usize) -> Option<GitState> {
        let workspace = self.due(tree, TeardownAction::Retry, 1).workspace;
        survey::look(&workspace, &self.config).map(|seen| seen.state)
    }

    /// Ends a tree, or says why not.
    pub fn end(
        &self,
        tree: usize,
        action: TeardownAction,
        incarnation: u32,
    ) -> Result<String, String> {
        let due = self.due(tree, action, incarnation);
        match teardown::end(&due, &self.occupants, &self.config) {
            TeardownOutcome::Done(done) => Ok(done),
            TeardownOutcome::Gone => Ok(String::new()),
            TeardownOutcome::Failed(reason) => Err(reason),
            TeardownOutcome::PutOff => Err("put off".to_owned()),
        }
    }

    /// Has an agent claim the workspaces whose names begin with `agent`.
    pub fn employ(&mut self, agent: Agent) {
        self.config.removers.push(Arc::new(agent));
    }
}

/// Makes the configuration of a host whose data folder is in the scene.
pub fn configure(root: &Path, settings: trash::Settings) -> Config {
    let data = root.join("data");
    let trash = Trash::new(&data, NodeId([1; 32]), settings);
    let mut config = Config::new(data, Arc::new(trash));
    config.home = Some(root.join("home"));
    config
}

impl Drop for Scene {
    fn drop(&mut self) {
        for around in self.around.drain(..).rev() {
            match around {
                Around::Process(mut child) => {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                Around::Mount(at) => {
                    let _ = Command::new("umount").args(["-l"]).arg(at).output();
                }
            }
        }
        make_writable(self.folder.path());
    }
}

/// Gives back the permission to delete what is below a folder; nothing to do for root.
pub fn make_writable(folder: &Path) {
    if is_root() {
        return;
    }
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}

/// Returns the folder in which most scenes are drawn: in memory, where there is room for them and
/// programs can be run from it. A disk takes twice the time for that many files.
pub fn quick() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let fits = rustix::fs::statvfs(memory).is_ok_and(|found| {
        found.f_bavail.saturating_mul(found.f_frsize) >= MEMORY_BYTES_MIN
            && !found.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC)
    });
    if fits { memory.to_owned() } else { std::env::temp_dir() }
}

/// Tells whether this process may mount.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Tells whether this run can't do what takes root, and says so.
pub fn without_root() -> bool {
    let missing = !is_root() || !cfg!(target_os = "linux");
    if missing {
        skipped("this takes root and Linux");
    }
    missing
}

/// Says that a test, or the rest of it, is skipped, and why.
#[expect(clippy::print_stdout, reason = "a test that did not run must not look like one that did")]
pub fn skipped(why: &str) {
    println!("skipped: {why}");
}

/// As much memory has to be free for scenes to be drawn there: far more than they take.
const MEMORY_BYTES_MIN: u64 = 1 << 30;

/// What an agent that is not there says.
pub const NOT_THERE: &str = "the agent is not there";

/// Does as opencode does: removes the worktree if it is still there, and deletes its branch.
#[derive(Debug)]
pub struct Agent {
    repository: PathBuf,
    deletes_branch: bool,
    /// Whether it is not there when it is asked next.
    refuses: AtomicBool,
}

impl Agent {
    pub fn new(repository: PathBuf, deletes_branch: bool, refuses: bool) -> Self {
        Self { repository, deletes_branch, refuses: AtomicBool::new(refuses) }
    }
}

impl Remover for Agent {
    fn claims(&self, workspace: &Workspace) -> bool {
        workspace.name.starts_with("agent")
    }

    fn remove(&self, workspace: &Workspace) -> Result<(), String> {
        if self.refuses.swap(false, Ordering::Relaxed) {
            return Err(NOT_THERE.to_owned());
        }
        let directory = workspace.directory.as_deref().expect("it has one");
        if Path::new(directory).exists() {
            let remove = ["worktree", "remove", "--force", "--force", "--", directory];
            git::attempt(&self.repository, &remove);
            let _ = fs::remove_dir_all(directory);
        }
        if let Some(branch) = workspace.branch.as_deref().filter(|_| self.deletes_branch) {
            git::attempt(&self.repository, &["branch", "-D", "--", branch]);
        }
        Ok(())
    }
}
