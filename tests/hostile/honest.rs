//! Owns the honest work that goes on meanwhile: two daemons that create, rename and delete sessions
//! over HTTP, on their own hosts and on the attacked one.
//!
//! Must not know of the attack. Invariant: what was acknowledged is what all must show in the end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use super::harness::{Client, PATIENCE};

/// How long a worker rests between two acts.
const REST: Duration = Duration::from_millis(40);
/// How many sessions a worker makes: then it goes on with those that live, so that the memory which a
/// long attack takes is not that of the honest.
const SESSIONS_MAX: u64 = 1_000;

/// Works until it is told to stop.
pub struct Worker {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<BTreeMap<String, &'static str>>,
}

impl Worker {
    /// Begins; `host` is the key of the node whose document is written to.
    pub fn start(client: Client, name: &'static str, host: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut expected = BTreeMap::new();
            let mut number = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                tokio::time::sleep(REST).await;
                if number >= SESSIONS_MAX {
                    let path = format!("/v1/sessions/ses_{name}{}", number % SESSIONS_MAX / 3 * 3);
                    let title = json!({ "title": format!("renamed again, {number}") });
                    client.ok("PATCH", &path, Some(title)).await;
                    number += 1;
                    continue;
                }
                let id = format!("ses_{name}{number}");
                let body = json!({ "id": id, "host": host, "title": "honest work" });
                client.ok("POST", "/v1/sessions", Some(body)).await;
                let path = format!("/v1/sessions/{id}");
                client.ok("PATCH", &path, Some(json!({ "title": "renamed" }))).await;
                let state = if number.is_multiple_of(3) { "live" } else { "deleted" };
                if state == "deleted" {
                    client.ok("DELETE", &path, None).await;
                }
                expected.insert(id, state);
                number += 1;
            }
            expected
        });
        Self { stop, task }
    }

    /// Stops; returns what every daemon must show of its sessions.
    pub async fn end(self) -> BTreeMap<String, &'static str> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("every daemon does what it is asked")
    }
}

/// Waits until all daemons show the same, and checks that it is what was done.
pub async fn converged(daemons: &[Client], expected: &BTreeMap<String, &'static str>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut views = Vec::new();
        for daemon in daemons {
            views.push(daemon.view().await);
        }
        let same = views.windows(2).all(|pair| pair[0].digest == pair[1].digest);
        let shown: BTreeMap<&str, String> = views[0]
            .sessions
            .iter()
            .map(|session| {
                let state = serde_json::to_value(session.state).expect("a word");
                (session.id.as_str(), state.as_str().unwrap_or_default().to_owned())
            })
            .collect();
        let missing: Vec<_> = expected
            .iter()
            .filter(|(id, state)| shown.get(id.as_str()).is_none_or(|it| it != *state))
            .collect();
        if same && missing.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "the honest daemons do not agree: the same {same}, missing {missing:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
