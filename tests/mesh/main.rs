//! Owns proving that real daemons agree: each in a process of its own, linked over QUIC, driven
//! over HTTP, cut off, stopped and killed.
//!
//! Must not look into a daemon. Invariant: nothing waits for luck; a test waits for a condition and
//! gives up long after it should have come about.

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../common/power_disk.rs"]
mod power_disk;

mod cursors;
mod endings;
mod kills;
mod links;
mod members;
mod power;
mod repair;
mod story;
mod takeover;
mod tickets;
mod upgrade;

use harness::{Client, Daemon};
use serde_json::{Value, json};

/// Makes a session through a daemon.
async fn create(daemon: &Client, body: Value) -> Value {
    daemon.ok("POST", "/v1/sessions", Some(body)).await
}

/// Pauses, or resumes, syncing with a peer.
async fn peer(daemon: &Client, other: &Daemon, what: &str) {
    daemon.ok("POST", &format!("/v1/peers/{}/{what}", other.node()), None).await;
}

/// Cuts two daemons off from each other, from both sides.
async fn cut(one: &Daemon, other: &Daemon) {
    peer(one, other, "pause").await;
    peer(other, one, "pause").await;
    for (daemon, other) in [(one, other), (other, one)] {
        until_peer(daemon, other, "paused and not linked", |it| {
            it["paused"] == true && it["connected"] == false
        })
        .await;
    }
}

/// Joins two daemons again that were cut off from each other.
async fn mend(one: &Daemon, other: &Daemon) {
    peer(one, other, "resume").await;
    peer(other, one, "resume").await;
}

/// Waits until a daemon says of a peer what it should.
async fn until_peer(
    daemon: &Daemon,
    other: &Daemon,
    what: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let node = other.node();
    let find = |peers: &Value| {
        let peers = peers.as_array().expect("it is a list");
        peers.iter().find(|peer| peer["node"] == node.as_str()).cloned()
    };
    let peers =
        daemon.until("/v1/peers", what, |peers| find(peers).is_some_and(|it| holds(&it))).await;
    find(&peers).expect("it was just there")
}

/// Waits until a daemon has a link to another and both hold the same.
async fn until_linked(daemon: &Daemon, other: &Daemon) -> Value {
    let linked = |it: &Value| it["connected"] == true && it["in_sync"] == true;
    until_peer(daemon, other, "linked and in sync", linked).await
}

/// Waits until a session is shown in a state.
async fn until_session(daemon: &Client, id: &str, state: &str) {
    let path = "/v1/sessions?state=all&limit=1000";
    let is_it = |session: &Value| session["id"] == id && session["state"] == state;
    daemon
        .until(path, &format!("session {id} is {state}"), |page| {
            page["sessions"].as_array().is_some_and(|all| all.iter().any(is_it))
        })
        .await;
}

/// Waits until all daemons have the same digest, and returns it.
async fn until_equal(daemons: &[&Client]) -> String {
    let deadline = std::time::Instant::now() + harness::PATIENCE;
    loop {
        let mut digests = Vec::new();
        for daemon in daemons {
            let status = daemon.get("/v1/status").await;
            digests.push(status["digest"].as_str().expect("there is one").to_owned());
        }
        if digests.windows(2).all(|pair| pair[0] == pair[1]) {
            return digests.remove(0);
        }
        assert!(std::time::Instant::now() < deadline, "the digests stay different: {digests:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Names a session in a body.
fn session(id: &str) -> Value {
    json!({ "id": id, "title": format!("the session {id}") })
}
