//! Follows what the machines tell: each thing once, in order, on every one of them, and how soon.
//!
//! How soon is printed, and asserted only where that is asked for: a slow machine is no fault.
//! `EVENTS_WITHIN_MS=1000 cargo test --test opencode -- --nocapture --test-threads 1` asserts it.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use sessionmesh::replica::diff::Event;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::harness::{Client, PATIENCE, Subscriber};

/// How soon an event may be seen at the latest, in milliseconds, if anything is to be asserted.
const LIMIT: &str = "EVENTS_WITHIN_MS";
/// How long after a daemon's death it is looked for again, unless it is said to be back.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// An event as it came in.
#[derive(Debug, Clone)]
struct Arrived {
    kind: String,
    /// The session or the workspace that it is about.
    id: String,
    at: Instant,
}

/// The event stream of one machine, read all the time, also through the daemon's deaths.
pub struct Machine {
    name: &'static str,
    runs: watch::Sender<Client>,
    arrived: watch::Receiver<Vec<Arrived>>,
    reading: JoinHandle<()>,
    slowest: Slowest,
}

/// The event that took longest from its cause to where it was seen; shared by the machines.
#[derive(Clone, Default)]
pub struct Slowest(Arc<Mutex<(Duration, String)>>);

impl fmt::Display for Slowest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (took, what) = &*self.0.lock().unwrap();
        write!(f, "events: slowest={} ms, {what}", took.as_millis())
    }
}

impl Machine {
    /// Begins to follow a daemon.
    pub async fn follow(name: &'static str, daemon: &Client, slowest: &Slowest) -> Self {
        let mut stream = daemon.follow(None).await;
        let mut subscriber = Subscriber::begin(&mut stream).await;
        let (runs, mut run) = watch::channel(daemon.clone());
        let (tell, arrived) = watch::channel(Vec::new());
        let reading = tokio::spawn(async move {
            loop {
                while let Some(message) = stream.next().await {
                    let known = subscriber.events.len();
                    subscriber.take(message);
                    let at = Instant::now();
                    let new = subscriber.events[known..].iter();
                    let new: Vec<Arrived> = new.map(|event| arrival(event, at)).collect();
                    tell.send_modify(|all| all.extend(new));
                }
                // The daemon was killed: it is gone on from the last cursor, with no new snapshot.
                stream = loop {
                    let client = run.borrow_and_update().clone();
                    match client.try_follow(Some(&subscriber.cursor())).await {
                        Some(again) => break again,
                        None => drop(timeout(AGAIN_AFTER, run.changed()).await),
                    }
                };
            }
        });
        Self { name, runs, arrived, reading, slowest: slowest.clone() }
    }

    /// Says where the daemon is now, after it was killed and started again.
    pub fn is_back(&self, daemon: &Client) {
        self.runs.send_replace(daemon.clone());
    }

    /// Waits until a chain was told of a session or workspace, from its first event on and nothing
    /// else between; notes how long after its cause the last of it came.
    pub async fn tells(&self, id: &str, chain: &[&str], cause: Instant) {
        let told = self.until_told(id, chain.len()).await;
        let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
        assert!(kinds.starts_with(chain), "{} tells {kinds:?} of {id}, not {chain:?}", self.name);
        let last = &told[chain.len() - 1];
        self.note(&last.kind, last.at.saturating_duration_since(cause));
    }

    /// Waits until a chain was told of a session or workspace, and makes sure that nothing else was.
    pub async fn has_told(&self, id: &str, chain: &[&str]) {
        let told = self.until_told(id, chain.len()).await;
        let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, chain, "what {} tells of {id}", self.name);
    }

    /// Waits until so much was told of a session or workspace, or for too long; updates of the
    /// record, of which there may be any, are left out.
    async fn until_told(&self, id: &str, events: usize) -> Vec<Arrived> {
        let mut arrived = self.arrived.clone();
        let of_it = |all: &[Arrived]| {
            let of_it = all.iter().filter(|event| event.id == id);
            of_it.filter(|event| !event.kind.ends_with(".updated")).cloned().collect::<Vec<_>>()
        };
        match timeout(PATIENCE, arrived.wait_for(|all| of_it(all).len() >= events)).await {
            Ok(told) => of_it(&told.expect("the stream is read for as long as the test runs")),
            Err(_) => of_it(&self.arrived.borrow()),
        }
    }

    /// Waits until any of some events was told of a session or workspace, and returns which.
    pub async fn tells_any(&self, id: &str, kinds: &[&str]) -> String {
        let mut arrived = self.arrived.clone();
        let find = |all: &[Arrived]| {
            let mut all = all.iter();
            all.find(|event| event.id == id && kinds.contains(&event.kind.as_str())).cloned()
        };
        let told = timeout(PATIENCE, arrived.wait_for(|all| find(all).is_some())).await;
        let told = told.unwrap_or_else(|_| panic!("{} tells none of {kinds:?}", self.name));
        find(&told.expect("the stream is read for as long as the test runs")).unwrap().kind
    }

    fn note(&self, kind: &str, took: Duration) {
        let what = format!("{kind} on {}", self.name);
        if let Some(limit) = std::env::var(LIMIT).ok().and_then(|limit| limit.parse().ok()) {
            assert!(took <= Duration::from_millis(limit), "{what} came {took:?} after its cause");
        }
        let mut slowest = self.slowest.0.lock().unwrap();
        if slowest.0 < took {
            *slowest = (took, what);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

fn arrival(event: &Event, at: Instant) -> Arrived {
    let event = serde_json::to_value(event).expect("an event is JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("it is text").to_owned();
    let about = event.get("session").or(event.get("workspace")).expect("it is about something");
    Arrived { kind: text(&event["type"]), id: text(&about["id"]), at }
}
