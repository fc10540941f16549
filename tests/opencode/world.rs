//! A real opencode server beside the host B, with a developer's machine A in the same fleet.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    program_or_skip,
    real::Real,
    told::{Machine, Slowest},
};
use crate::harness::{Daemon, PATIENCE, linked};

/// How long a delete can be undone here: long enough to do something within it.
pub const UNDO_WINDOW: Duration = Duration::from_secs(4);

/// What is told of a session that is made, deleted and carried out.
pub const ENDED: [&str; 3] = ["session.created", "session.deleted", "session.purged"];
/// What is told of a workspace that is made, left by its last session and ended.
pub const GONE: [&str; 4] =
    ["workspace.created", "workspace.removed", "workspace.sealed", "workspace.gone"];

/// Everything, and who follows it.
pub struct World {
    /// What A tells.
    pub on_a: Machine,
    /// What B tells, in all its runs.
    pub on_b: Machine,
    pub a: Daemon,
    b: Option<Daemon>,
    pub real: Real,
    pub slowest: Slowest,
    pub dir: tempfile::TempDir,
    undo: String,
    /// Where B listens, in all its runs.
    listen: String,
}

impl World {
    /// Starts everything; `None` where there is no opencode to test with.
    pub async fn start() -> Option<Self> {
        Self::start_with(UNDO_WINDOW).await
    }

    /// Starts everything with another undo window.
    pub async fn start_with(undo: Duration) -> Option<Self> {
        let real = Real::start(&program_or_skip()?).await;
        let dir = tempfile::tempdir().unwrap();
        let undo = format!("{}s", undo.as_secs());
        let a = Daemon::start(&dir.path().join("a"), "a", &["--undo-window", &undo]);
        let ticket = a.invite().await;
        let more = ["--undo-window", &undo, "--opencode", &real.base, "--join", &ticket];
        let b = Daemon::start(&dir.path().join("b"), "b", &more);
        let holds = |status: &Value| status["agents"][0]["state"] == "connected";
        b.until("/v1/status", "bridged", holds).await;
        linked(&[&a, &b]).await;
        let slowest = Slowest::default();
        let on_a = Machine::follow("A", &a, &slowest).await;
        let on_b = Machine::follow("B", &b, &slowest).await;
        let listen = b.quic();
        Some(Self { on_a, on_b, a, b: Some(b), real, slowest, dir, undo, listen })
    }

    /// Adds one more developer's machine to the fleet.
    pub async fn add(&self, name: &'static str) -> (Daemon, Machine) {
        let ticket = self.a.invite().await;
        let more = ["--undo-window", &self.undo, "--join", &ticket];
        let daemon = Daemon::start(&self.dir.path().join(name), name, &more);
        linked(&[&self.a, self.b(), &daemon]).await;
        let machine = Machine::follow(name, &daemon, &self.slowest).await;
        (daemon, machine)
    }

    pub fn b(&self) -> &Daemon {
        self.b.as_ref().expect("it runs")
    }

    /// Kills B, as a power cut would.
    pub fn kill_b(&mut self) {
        self.b.take().expect("it runs").kill();
    }

    /// Makes sure that what B has told so far is on its disk: an answer is given only after it.
    pub async fn is_durable_on_b(&self) {
        self.b().ok("POST", "/v1/sessions", Some(json!({ "title": "a mark" }))).await;
    }

    /// Starts B again where it was, after it was killed.
    pub fn start_b(&mut self) {
        let more = ["--undo-window", &self.undo, "--opencode", &self.real.base];
        let b = Daemon::start_at(&self.dir.path().join("b"), "b", &self.listen, &more);
        self.on_b.is_back(&b);
        self.b = Some(b);
    }

    /// Waits until both machines have told this of a session or workspace.
    pub async fn tell(&self, id: &str, chain: &[&str], cause: Instant) {
        self.on_a.tells(id, chain, cause).await;
        self.on_b.tells(id, chain, cause).await;
    }

    /// Waits until both machines have told this of a session or workspace, and nothing else.
    pub async fn have_told(&self, id: &str, chain: &[&str]) {
        self.on_a.has_told(id, chain).await;
        self.on_b.has_told(id, chain).await;
    }

    /// Makes a session in opencode, and waits until both machines have told of it.
    pub async fn create(&self, title: &str) -> String {
        let id = self.create_there(title).await;
        self.tell(&id, &["session.created"], Instant::now()).await;
        id
    }

    /// Makes a session in opencode.
    pub async fn create_there(&self, title: &str) -> String {
        self.real.create(&self.real.here(), json!({ "title": title })).await
    }

    pub async fn delete_there(&self, id: &str) {
        self.real.send(Method::DELETE, &format!("/session/{id}"), Value::Null).await;
    }

    /// Whether opencode has the session.
    pub async fn is_there(&self, id: &str) -> bool {
        let url = format!("{}/session/{id}", self.real.base);
        reqwest::get(url).await.unwrap().status().is_success()
    }
}

impl Drop for World {
    #[expect(clippy::print_stdout, reason = "how soon events came belongs to the result")]
    fn drop(&mut self) {
        let thread = std::thread::current();
        println!("{} ({})", self.slowest, thread.name().unwrap_or_default());
    }
}

/// Waits until a daemon shows a session in a state, or not at all.
pub async fn until(daemon: &Daemon, id: &str, state: Option<&str>) {
    daemon
        .until("/v1/sessions?state=all&limit=1000", &format!("{id} is {state:?}"), |seen| {
            let mut sessions = seen["sessions"].as_array().unwrap().iter();
            let found = sessions.find(|session| session["id"] == id);
            found.map(|session| session["state"].as_str().unwrap()) == state
        })
        .await;
}

/// Deletes a session; returns what was answered, and when.
pub async fn delete(daemon: &Daemon, id: &str) -> (Value, Instant) {
    let answer = daemon.ok("DELETE", &format!("/v1/sessions/{id}"), None).await;
    (answer, Instant::now())
}

/// A worktree workspace that opencode made, with a session in it, as both machines tell of it.
pub struct Place {
    pub workspace: String,
    pub folder: PathBuf,
    pub session: String,
}

impl Place {
    /// Has opencode make it; `files` are left in it before anyone looks.
    pub async fn make(world: &World, files: &[&str]) -> Self {
        let path = format!("/experimental/workspace?{}", world.real.here());
        let body = json!({ "type": "worktree", "branch": null });
        let made = world.real.send(Method::POST, &path, body).await;
        let cause = Instant::now();
        let workspace = made["id"].as_str().unwrap().to_owned();
        let folder = PathBuf::from(made["directory"].as_str().unwrap());
        files.iter().for_each(|file| std::fs::write(folder.join(file), "precious").unwrap());
        let session = Self::enter(world, &workspace, "first").await;
        let entered = Instant::now();
        world.tell(&workspace, &["workspace.created"], cause).await;
        world.tell(&session, &["session.created"], entered).await;
        Self { workspace, folder, session }
    }

    /// Makes a session in it.
    pub async fn enter(world: &World, workspace: &str, title: &str) -> String {
        let inside = format!("{}&workspace={workspace}", world.real.here());
        world.real.create(&inside, json!({ "title": title })).await
    }

    /// Lists what opencode has of workspaces.
    pub async fn listed(world: &World) -> Value {
        let listed = format!("{}/experimental/workspace?{}", world.real.base, world.real.here());
        reqwest::get(&listed).await.unwrap().json().await.unwrap()
    }

    /// Asks a machine to go on with ending it; returns when that was answered.
    pub async fn go_on(&self, daemon: &Daemon, action: &str) -> Instant {
        let path = format!("/v1/workspaces/{}/teardown", self.workspace);
        daemon.ok("POST", &path, Some(json!({ "action": action }))).await;
        Instant::now()
    }

    /// Returns why it could not be ended, as a daemon tells it.
    pub async fn error(&self, daemon: &Daemon) -> String {
        let failed = daemon.get(&format!("/v1/workspaces/{}", self.workspace)).await;
        failed["teardown"]["error"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns what each attempt to end it came to, as a daemon tells it.
    pub async fn attempts(&self, daemon: &Daemon) -> Vec<(u64, String)> {
        let told = daemon.get(&format!("/v1/explain/{}", self.workspace)).await;
        let attempts = told["teardowns"].as_array().unwrap().iter();
        let attempts = attempts
            .map(|one| (one["incarnation"].as_u64().unwrap(), one["state"].as_str().unwrap()));
        attempts.map(|(incarnation, state)| (incarnation, state.to_owned())).collect()
    }

    /// Waits until nothing of it is left on the host, and returns when that was seen.
    pub async fn until_removed(&self, world: &World) -> Instant {
        let deadline = Instant::now() + PATIENCE;
        while self.folder.exists() || Self::listed(world).await != json!([]) {
            assert!(Instant::now() < deadline, "{} is still there", self.folder.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Instant::now()
    }

    /// Makes sure that git knows nothing more of it either.
    pub fn is_forgotten_by_git(&self, world: &World) -> bool {
        let repository = world.real.home.path().join("repository");
        let mut git = std::process::Command::new("git");
        let listed = git.arg("-C").arg(repository).args(["worktree", "list", "--porcelain"]);
        let listed = String::from_utf8(listed.output().unwrap().stdout).unwrap();
        assert!(listed.contains("repository"), "{listed}");
        !listed.contains(self.folder.file_name().unwrap().to_str().unwrap())
    }
}
