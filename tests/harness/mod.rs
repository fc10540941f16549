//! Owns driving real daemons as a stranger would: a process each, the command's ready line, HTTP
//! and the event stream.
//!
//! Must not look into a daemon. Invariant: a daemon that is dropped is dead, and its folder gone
//! with whoever made it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    borrow::Borrow,
    io::{BufRead as _, BufReader},
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use sessionmesh::replica::{
    diff::{Diff, Event},
    fold::{Fold, Snapshot},
};

/// How long anything may take before a test gives up: far longer than it does.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon in a process of its own.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// What it said once it was ready.
    pub ready: Value,
    client: Client,
}

impl Deref for Daemon {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// Asks one run of a daemon; cheap to clone, and of no use once that run has ended.
#[derive(Debug, Clone)]
pub struct Client {
    dir: PathBuf,
    http: String,
    token: String,
    client: reqwest::Client,
}

impl Daemon {
    /// Starts a daemon on free ports and waits until it is ready.
    pub fn start(dir: &Path, name: &str, more: &[&str]) -> Self {
        Self::start_at(dir, name, "127.0.0.1:0", more)
    }

    /// Starts a daemon on a given QUIC address and waits until it is ready.
    pub fn start_at(dir: &Path, name: &str, listen: &str, more: &[&str]) -> Self {
        let mut serve = serve(dir, name, listen, more);
        serve.stderr(log_of(dir));
        Self::started(serve, dir)
    }

    /// Starts a daemon by a command that [`serve`] made, and waits until it is ready.
    pub fn started(mut serve: Command, dir: &Path) -> Self {
        let mut child = serve.spawn().expect("the command starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("stdout is text");
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("no ready line but {line:?}; see {}", log(dir)));
        let token = std::fs::read_to_string(dir.join("token")).expect("there is a token");
        let client = Client {
            dir: dir.to_owned(),
            http: ready["http"].as_str().expect("the ready line names it").to_owned(),
            token: token.trim().to_owned(),
            client: client(),
        };
        Self { child, ready, client }
    }

    /// Returns what asks this run of the daemon.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Kills it as a power cut would, as far as a process can be: no code of it runs any more.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it can be waited for");
    }

    /// Asks it to stop, and returns how it ended.
    pub fn stop(mut self) -> std::process::ExitStatus {
        self.signal("-TERM");
        self.child.wait().expect("it can be waited for")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Returns the number of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_some()
    }

    /// Waits until it ends by itself, and returns how.
    pub async fn ended(mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "it runs on; {}", log(&self.dir));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns the key of the node.
    pub fn node(&self) -> String {
        self.ready["node"].as_str().expect("the ready line names it").to_owned()
    }

    /// Returns where it listens for peers.
    pub fn quic(&self) -> String {
        self.ready["quic"].as_str().expect("the ready line names it").to_owned()
    }

    /// Returns what it has logged, in this run and before.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }
}

impl Client {
    /// Returns the data folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sends a request; returns the status and the JSON of the answer.
    pub async fn send(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap_or_else(|e| panic!("{path}: {e:?}"));
        let status = response.status().as_u16();
        let text = response.text().await.expect("the answer is text");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Sends a request that may be cut off by the daemon's death.
    pub async fn try_send(&self, method: &str, path: &str, body: Value) -> Option<(u16, Value)> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let response = self.request(method, path).json(&body).send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.ok()?))
    }

    /// Begins a request, with the token.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.http)).bearer_auth(&self.token)
    }

    /// Sends a request that must succeed.
    pub async fn ok(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.send(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Reads something.
    pub async fn get(&self, path: &str) -> Value {
        self.ok("GET", path, None).await
    }

    /// Reads the view.
    pub async fn view(&self) -> Snapshot {
        serde_json::from_value(self.get("/v1/view").await).expect("it is a view")
    }

    /// Follows the event stream, from a cursor on if one is given.
    pub async fn follow(&self, after: Option<&str>) -> Followed {
        self.try_follow(after).await.expect("the stream opens")
    }

    /// Follows the event stream of a daemon that may be dead.
    pub async fn try_follow(&self, after: Option<&str>) -> Option<Followed> {
        let mut request = self.request(reqwest::Method::GET, "/v1/events");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let response = request.send().await.ok()?;
        assert_eq!(response.status(), 200);
        Some(Followed { response, buffer: Vec::new() })
    }

    /// Makes a ticket.
    pub async fn invite(&self) -> String {
        let invited = self.ok("POST", "/v1/invites", Some(serde_json::json!({}))).await;
        invited["ticket"].as_str().expect("an invite has a ticket").to_owned()
    }

    /// Waits until a look at the daemon is as it should be.
    pub async fn until(&self, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.get(path).await;
            if holds(&seen) {
                return seen;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {path} still says {seen}; {}",
                log(&self.dir)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a fleet of daemons that all have links to one another.
pub async fn fleet(dir: &Path, names: &[&str], more: &[&str]) -> Vec<Daemon> {
    let mut daemons: Vec<Daemon> = Vec::new();
    for name in names {
        let ticket = match daemons.first() {
            Some(first) => Some(first.invite().await),
            None => None,
        };
        let mut arguments = more.to_vec();
        if let Some(ticket) = &ticket {
            arguments.extend(["--join", ticket]);
        }
        daemons.push(Daemon::start(&dir.join(name), name, &arguments));
    }
    linked(&daemons).await;
    daemons
}

/// Waits until every daemon has a link to every other and they hold the same.
pub async fn linked(daemons: &[impl Borrow<Daemon>]) {
    for daemon in daemons {
        daemon
            .borrow()
            .until("/v1/peers", "all linked and in sync", |peers| {
                let peers = peers.as_array().expect("it is a list");
                peers.len() + 1 == daemons.len()
                    && peers.iter().all(|peer| peer["connected"] == true && peer["in_sync"] == true)
            })
            .await;
    }
}

/// Returns the command, told where its data is.
pub fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionmesh"));
    command.env("SESSIONMESH_DATA_DIR", dir).env_remove("SESSIONMESH_LOG");
    command
}

/// Returns the command that starts a daemon, whose log goes nowhere yet.
pub fn serve(dir: &Path, name: &str, listen: &str, more: &[&str]) -> Command {
    let mut command = command(dir);
    command
        .args(["serve", "--listen", listen, "--http", "127.0.0.1:0", "--name", name])
        .args(["--log-format", "json"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// Makes an HTTP client; none of its requests leaves the machine.
pub fn client() -> reqwest::Client {
    // A provider that another test has installed is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("no TLS roots are needed")
}

fn log(dir: &Path) -> String {
    let log = dir.with_extension("log");
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let tail: Vec<&str> = text.lines().rev().take(20).collect();
    format!(
        "the end of {}:\n{}",
        log.display(),
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    )
}

fn log_of(dir: &Path) -> Stdio {
    let path = dir.with_extension("log");
    std::fs::create_dir_all(dir.parent().expect("it is in a folder")).unwrap();
    std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap().into()
}

/// One message of an event stream.
#[derive(Debug)]
pub enum Message {
    /// The view, whole.
    Snapshot(Snapshot),
    /// What changed.
    Diff(Box<Diff>),
}

/// An event stream that is being read.
pub struct Followed {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Followed {
    /// Takes the next message; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Message> {
        let mut searched = 0;
        loop {
            let rest = self.buffer[searched..].windows(2);
            if let Some(end) = rest.clone().position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..searched + end + 2).collect();
                searched = 0;
                if let Some(message) = message(std::str::from_utf8(&block).expect("it is text")) {
                    return Some(message);
                }
                continue;
            }
            searched = self.buffer.len().saturating_sub(1);
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("there is a ping every ten seconds").ok()??;
            self.buffer.extend_from_slice(&chunk);
        }
    }
}

/// Reads one event; `None` for a comment.
fn message(block: &str) -> Option<Message> {
    let (mut event, mut id, mut data) = ("", "", "");
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("event", value)) => event = value,
            Some(("id", value)) => id = value,
            Some(("data", value)) => data = value,
            _ => {}
        }
    }
    let message = match event {
        "snapshot" => Message::Snapshot(serde_json::from_str(data).expect("it is a view")),
        "diff" => Message::Diff(serde_json::from_str(data).expect("it is a diff")),
        "" => return None,
        other => panic!("unknown event {other}"),
    };
    let cursor = match &message {
        Message::Snapshot(snapshot) => snapshot.cursor,
        Message::Diff(diff) => diff.cursor,
    };
    assert_eq!(cursor.to_string(), id, "the id of a message is its cursor");
    Some(message)
}

/// A subscriber that folds what it is told, and checks every step.
#[derive(Debug)]
pub struct Subscriber {
    /// What it would show.
    pub fold: Fold,
    /// All events so far, in order.
    pub events: Vec<Event>,
    /// How often it had to begin again.
    pub snapshots: u64,
}

impl Subscriber {
    /// Begins with the snapshot that a new stream begins with.
    pub async fn begin(stream: &mut Followed) -> Self {
        let Some(Message::Snapshot(snapshot)) = stream.next().await else {
            panic!("a new stream begins with a snapshot");
        };
        let fold = Fold::from_snapshot(snapshot).expect("the digest is the view's");
        Self { fold, events: Vec::new(), snapshots: 1 }
    }

    /// Takes one message in.
    pub fn take(&mut self, message: Message) {
        match message {
            Message::Snapshot(snapshot) => {
                self.fold = Fold::from_snapshot(snapshot).expect("the digest is the view's");
                self.snapshots += 1;
            }
            Message::Diff(diff) => {
                self.fold.apply(&diff).expect("no gap, and the digest is the view's");
                self.events.extend(diff.events.iter().cloned());
            }
        }
    }

    /// Takes messages until what it would show is as it should be.
    pub async fn until(&mut self, stream: &mut Followed, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds(self) {
            let message = tokio::time::timeout_at(deadline, stream.next()).await;
            let message =
                message.unwrap_or_else(|_| panic!("the stream never came to it: {self:#?}"));
            self.take(message.expect("the daemon lives"));
        }
    }

    /// Takes messages until it is where the daemon's view is, and checks that both are the same.
    pub async fn catch_up(&mut self, stream: &mut Followed, daemon: &Client) {
        let view = daemon.view().await;
        self.until(stream, |it| it.fold.cursor().sequence >= view.cursor.sequence).await;
        let view = Fold::from_snapshot(view).expect("the digest is the view's");
        assert_eq!(self.fold, view, "the fold is the view");
    }

    /// Returns the cursor to go on from.
    pub fn cursor(&self) -> String {
        self.fold.cursor().to_string()
    }
}
