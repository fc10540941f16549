//! Owns two opencode servers as opencode itself joins them: the developer's has a workspace whose
//! sessions are at the host's, asks the host for what is to be done there and takes in its events.
//!
//! Must not change what is asked of ours. Invariant: both servers hold the sessions that are
//! deleted, and those that stay, before the first is measured.

use std::{
    cell::Cell,
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::json;
use sessionmesh::agent::opencode::{
    Client, Error,
    events::{Event, Events},
};

use crate::real::Real;

const WORKSPACE: &str = "wrk_peer0000000000000000000001";
/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a delete may be without an answer before it is asked for again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often one delete may be refused.
const REFUSALS_MAX: usize = 10;

/// What tells the developer's server that a workspace of the kind `peer` is at another one.
const PLUGIN: &str = r#"export const Peer = async ({ experimental_workspace }) => {
  experimental_workspace.register("peer", {
    name: "peer",
    description: "Another server",
    configure: (workspace) => ({ ...workspace, ...workspace.extra }),
    create: async () => {},
    remove: async () => {},
    target: (workspace) => ({ type: "remote", url: workspace.extra.url }),
  })
  return {}
}
"#;

/// The two servers.
pub struct Chained {
    developer: Real,
    host: Real,
}

/// How long deletes took, from when they were last asked for.
///
/// Seen with opencode 1.18.33: of deletes that follow one another at once, the developer's server answers
/// one in fifteen that it passes on with a bare 400, and now and then one not at all; the session stays.
#[derive(Debug, Default)]
pub struct Taken {
    /// Until the event at the other server.
    pub arrived: Vec<Duration>,
    /// Until the answer.
    pub answered: Vec<Duration>,
    /// How often one had to be asked for again.
    pub again: usize,
}

impl Chained {
    /// Starts both and waits until the one follows the other.
    pub async fn start(program: &Path) -> Self {
        let developer = Real::start(program).await;
        let plugins = developer.repository().join(".opencode/plugin");
        std::fs::create_dir_all(&plugins).expect("the repository is ours");
        std::fs::write(plugins.join("peer.js"), PLUGIN).expect("the repository is ours");
        let host = Real::start_host(program, &developer, WORKSPACE).await;
        let extra = json!({ "url": host.base, "name": "host", "directory": host.repository() });
        let body = json!({ "id": WORKSPACE, "type": "peer", "branch": null, "extra": extra });
        let here = developer.here();
        developer.send(Method::POST, &format!("/experimental/workspace?{here}"), body).await;
        let chained = Self { developer, host };
        let deadline = Instant::now() + PATIENCE;
        while !chained.follows().await {
            assert!(Instant::now() < deadline, "the developer's server never follows the host's");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        chained
    }

    async fn follows(&self) -> bool {
        let path = format!("/experimental/workspace/status?{}", self.developer.here());
        let status = self.developer.send(Method::GET, &path, json!(null)).await;
        status[0]["status"] == "connected"
    }

    /// Makes sessions at the host; returns them once the developer's server has heard of all.
    pub async fn fill(&self, sessions: usize) -> Vec<String> {
        let mut heard = events(&self.developer.client()).await;
        let mut made = Vec::new();
        for number in 0..sessions {
            let body = json!({ "title": format!("session {number}") });
            made.push(self.host.create(&self.host.here(), body).await);
        }
        let mut missing: HashSet<&String> = made.iter().collect();
        while !missing.is_empty() {
            if let Event::Changed(session) = next(&mut heard).await {
                missing.remove(&session.id);
            }
        }
        made
    }

    /// Deletes sessions one after the other where the developer works.
    pub async fn delete_at_developer(&self, ids: &[String]) -> Taken {
        delete(&self.developer.client(), &self.host.client(), ids).await
    }

    /// Deletes sessions one after the other where they are.
    pub async fn delete_at_host(&self, ids: &[String]) -> Taken {
        delete(&self.host.client(), &self.developer.client(), ids).await
    }
}

/// Deletes sessions at one server, and looks on at the other.
async fn delete(at: &Client, seen_at: &Client, ids: &[String]) -> Taken {
    let mut seen = events(seen_at).await;
    let mut taken = Taken::default();
    for id in ids {
        let asked = Cell::new(Instant::now());
        let arrival = async {
            while !matches!(next(&mut seen).await, Event::Deleted(deleted) if deleted == *id) {}
            asked.get().elapsed()
        };
        let mut refused = 0;
        let answer = async {
            while !is_deleted(at, id).await {
                refused += 1;
                assert!(refused < REFUSALS_MAX, "{id} is refused again and again");
                asked.set(Instant::now());
            }
            asked.get().elapsed()
        };
        let (arrived, answered) = tokio::join!(arrival, answer);
        taken.arrived.push(arrived);
        taken.answered.push(answered);
        taken.again += refused;
    }
    taken
}

/// Deletes a session; false if it has to be asked once more.
async fn is_deleted(at: &Client, id: &str) -> bool {
    match tokio::time::timeout(ANSWER_WITHIN, at.delete_session(id)).await {
        // Where an answer was waited for in vain, it may be gone by now.
        Ok(Ok(_)) => true,
        Err(_) | Ok(Err(Error::Status { status: 400, .. })) => false,
        Ok(Err(error)) => panic!("{error}"),
    }
}

async fn events(client: &Client) -> Events {
    client.events().await.expect("the stream opens")
}

async fn next(events: &mut Events) -> Event {
    let event = tokio::time::timeout(PATIENCE, events.next()).await;
    event.expect("an event comes in time").expect("the stream goes on")
}
