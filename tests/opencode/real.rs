//! Owns a real opencode server in a process of its own, with a home and a repository of its own.
//!
//! Must not know what it is used for. Invariant: a server that is dropped is dead, its home gone.

#![allow(dead_code, reason = "the tests and the bench each use a part of it")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use sessionmesh::agent::opencode::Client;

/// A real opencode server with a home of its own.
pub struct Real {
    child: Child,
    program: PathBuf,
    pub base: String,
    pub home: tempfile::TempDir,
    /// The workspace of another server that this one is the host of.
    workspace: Option<String>,
}

impl Drop for Real {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the opencode to run: the one that is named, or the one below `target/`.
pub fn program() -> Option<PathBuf> {
    let named = std::env::var_os("SESSIONMESH_OPENCODE_BIN").map(PathBuf::from);
    let installed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/opencode/node_modules/opencode-linux-x64/bin/opencode");
    named.or(Some(installed)).filter(|path| path.is_file())
}

impl Real {
    /// Starts a server in a new repository, `repository` below its home.
    pub async fn start(program: &Path) -> Self {
        let home = tempfile::tempdir().unwrap();
        let repository = home.path().join("repository");
        std::fs::create_dir_all(repository.join("sub")).unwrap();
        git(&repository, &["init", "-q"]);
        git(&repository, &["commit", "-q", "--allow-empty", "-m", "first"]);
        Self::start_at(program, home, None).await
    }

    /// Starts a server in a clone of another's repository, as the host of a workspace of that one.
    pub async fn start_host(program: &Path, of: &Self, workspace: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let repository = of.repository();
        git(home.path(), &["clone", "-q", repository.to_str().unwrap(), "repository"]);
        Self::start_at(program, home, Some(workspace.to_owned())).await
    }

    async fn start_at(program: &Path, home: tempfile::TempDir, workspace: Option<String>) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = spawn(program, home.path(), port, workspace.as_deref());
        let base = format!("http://127.0.0.1:{port}");
        let real = Self { child, program: program.to_owned(), base, home, workspace };
        real.ready().await;
        real
    }

    async fn ready(&self) {
        let client = self.client();
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = client.version().await {
            assert!(Instant::now() < deadline, "opencode does not start: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Returns what reaches it.
    pub fn client(&self) -> Client {
        Client::new(&self.base, None).unwrap()
    }

    /// Kills the server, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends the server a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Starts the killed server again, where it was and with what it had.
    pub async fn start_again(&mut self) {
        let port = self.base.rsplit(':').next().unwrap().parse().unwrap();
        self.child = spawn(&self.program, self.home.path(), port, self.workspace.as_deref());
        self.ready().await;
    }

    /// Returns where it works.
    pub fn repository(&self) -> PathBuf {
        self.home.path().join("repository")
    }

    /// Names the repository in a query.
    pub fn here(&self) -> String {
        format!("directory={}", self.repository().display())
    }

    pub async fn send(&self, method: reqwest::Method, path: &str, body: Value) -> Value {
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.base));
        let response = request.json(&body).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        response.json().await.unwrap()
    }

    pub async fn create(&self, query: &str, body: Value) -> String {
        let made = self.send(reqwest::Method::POST, &format!("/session?{query}"), body).await;
        made["id"].as_str().unwrap().to_owned()
    }
}

fn git(folder: &Path, args: &[&str]) {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"];
    let done = Command::new("git").arg("-C").arg(folder).args(identity).args(args).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn spawn(program: &Path, home: &Path, port: u16, workspace: Option<&str>) -> Child {
    let mut command = Command::new(program);
    command.args(["serve", "--hostname", "127.0.0.1", "--port", &port.to_string()]);
    command.current_dir(home.join("repository")).env("HOME", home);
    command.env("OPENCODE_TEST_HOME", home);
    for (name, folder) in [("CONFIG", "c"), ("DATA", "d"), ("STATE", "s"), ("CACHE", "k")] {
        command.env(format!("XDG_{name}_HOME"), home.join(folder));
    }
    for name in [
        "AUTOUPDATE",
        "MODELS_FETCH",
        "LSP_DOWNLOAD",
        "DEFAULT_PLUGINS",
        "SHARE",
        "EMBEDDED_WEB_UI",
    ] {
        command.env(format!("OPENCODE_DISABLE_{name}"), "1");
    }
    command.env("OPENCODE_EXPERIMENTAL_WORKSPACES", "true");
    if let Some(workspace) = workspace {
        command.env("OPENCODE_WORKSPACE_ID", workspace);
    }
    command.env_remove("OPENCODE_SERVER_PASSWORD");
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
