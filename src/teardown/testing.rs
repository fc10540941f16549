//! Owns what the tests of this room share: a record to end, and real repositories.
//!
//! Must not know what is tested. Invariant: nothing outside its temporary folder is touched.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::{
    Config,
    trash::{self, Trash},
};
use crate::replica::{
    effect::TeardownDue,
    record::{TeardownAction, Workspace, WorkspaceState},
};

/// Makes an attempt to end a workspace.
pub fn due(kind: &str, directory: Option<&str>, action: TeardownAction) -> TeardownDue {
    let workspace = Workspace {
        id: "wrk_1".parse().unwrap(),
        host: crate::replica::ids::NodeId([1; 32]),
        name: "w".to_owned(),
        kind: kind.to_owned(),
        project_id: None,
        directory: directory.map(str::to_owned),
        branch: None,
        keep: false,
        used: true,
        created_at: 0,
        agent_server: None,
        state: WorkspaceState::Sealed,
        session_count: 0,
        teardown: None,
        extra: std::collections::BTreeMap::new(),
    };
    TeardownDue { workspace, incarnation: 1, action, kept_until: None }
}

/// Makes the configuration of a host with this data folder and the usual trash in it.
pub fn config(data_dir: PathBuf) -> Config {
    let host = crate::replica::ids::NodeId([1; 32]);
    let trash = Trash::new(&data_dir, host, trash::Settings::default());
    Config::new(data_dir, Arc::new(trash))
}

/// A repository with one commit, a worktree `w` of it on branch `feature`, and a data folder.
pub struct Repository {
    folder: tempfile::TempDir,
    pub config: Config,
}

impl Repository {
    pub fn new() -> Self {
        Self::init(&[])
    }

    /// Makes one with these arguments of `git init`.
    pub fn init(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["repo", "data", "home"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut config = config(folder.path().join("data"));
        config.home = Some(folder.path().join("home"));
        let repository = Self { folder, config };
        repository.git("repo", &[&["init", "-q", "-b", "main"], arguments].concat());
        repository.write("repo/file", "first");
        repository.write("repo/.gitignore", "ignored\n");
        repository.git("repo", &["add", "."]);
        repository.commit("repo");
        repository.git("repo", &["worktree", "add", "-q", "-b", "feature", "../w"]);
        repository
    }

    /// Opens what is on the disk again, as the next start of the daemon does.
    pub fn reopen(&mut self) {
        let home = self.config.home.take();
        self.config = config(self.path("data"));
        self.config.home = home;
    }

    /// Forgets what was ended, so that the same attempt is one again.
    pub fn reset(&self) {
        let _ = std::fs::remove_file(self.path("data/teardowns.jsonl"));
        let _ = self.config.trash.empty("wrk_1");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn commit(&self, at: &str) {
        self.git(at, &["commit", "-q", "--allow-empty", "-a", "-m", "a change"]);
    }

    /// Runs git, which must succeed, and returns what it printed.
    pub fn git(&self, at: &str, arguments: &[&str]) -> String {
        git(&self.path(at), arguments)
    }

    pub fn due(&self, name: &str, action: TeardownAction) -> TeardownDue {
        due("worktree", Some(self.path(name).to_str().unwrap()), action)
    }

    /// Tells whether the repository still knows the worktree.
    pub fn lists(&self, name: &str) -> bool {
        let listed = self.git("repo", &["worktree", "list", "--porcelain"]);
        listed.contains(&format!("worktree {}\n", self.path(name).display()))
    }

    pub fn has_branch(&self, name: &str) -> bool {
        !self.git("repo", &["branch", "--list", name]).is_empty()
    }
}

fn git(at: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=test", "-c", "user.email=test@localhost"])
        .args(["-c", "commit.gpgsign=false", "-C"])
        .arg(at)
        .args(arguments)
        .env_remove("GIT_DIR")
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
