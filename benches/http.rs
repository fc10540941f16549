//! Measures how long a delete takes from the one who asks for it to those who look on: an HTTP
//! DELETE at A until the diff arrives on B's event stream, two real daemons on loopback.
//!
//! Beside it, in the same run, what no daemon can do without: the same HTTP round trip to a route
//! that does nothing, and a commit's fsync, so that the figure can be read on another machine.
//!
//! `cargo bench --bench http` prints a table and writes `target/bench/http.json`. It fails only if
//! a delete does not arrive; whether the figures are good is for the reader.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::time::{Duration, Instant};

use harness::{Daemon, Message};
use serde_json::{Value, json};
use sessionmesh::{api::rate::BURST_MAX, replica::diff::Event};

/// How many sessions the fleet holds besides those that are deleted.
const SESSIONS: usize = 1_000;
/// How many deletes are measured, after a few that are not.
const DELETES: usize = 400;
const WARM_UP: usize = 50;
// The API takes no more than so many at once: what is asked for here is never held back.
const _: () = assert!(SESSIONS + 2 * (DELETES + WARM_UP) < BURST_MAX as usize);

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let daemons = harness::fleet(folder.path(), &["a", "b"], &["--undo-window", "1h"]).await;
    let [a, b] = &daemons[..] else { unreachable!("two were started") };
    fill(b, SESSIONS).await;
    let ids: Vec<String> = (0..DELETES + WARM_UP).map(|n| format!("ses_delete_{n}")).collect();
    for chunk in ids.chunks(500) {
        import(b, chunk).await;
    }
    harness::linked(&daemons).await;

    let mut stream = b.follow(None).await;
    assert!(matches!(stream.next().await, Some(Message::Snapshot(_))), "a stream begins so");
    let (mut arrived, mut answered, mut pings) = (Vec::new(), Vec::new(), Vec::new());
    for (n, id) in ids.iter().enumerate() {
        let asked = Instant::now();
        a.get("/healthz").await;
        let ping = asked.elapsed();
        let path = format!("/v1/sessions/{id}");
        let asked = Instant::now();
        let arrival = async {
            loop {
                let Some(Message::Diff(diff)) = stream.next().await else {
                    panic!("the stream ended or began again");
                };
                let told = diff.events.iter().any(|event| {
                    matches!(event, Event::SessionDeleted { session, .. } if session.id.as_str() == id)
                });
                if told {
                    return asked.elapsed();
                }
            }
        };
        let answer = async {
            a.ok("DELETE", &path, None).await;
            asked.elapsed()
        };
        let (arrival, answer) = tokio::join!(arrival, answer);
        if n >= WARM_UP {
            pings.push(ping);
            arrived.push(arrival);
            answered.push(answer);
        }
    }
    let rows = [
        ("DELETE at A -> event at B", figures(&mut arrived)),
        ("DELETE at A -> answer, durable", figures(&mut answered)),
        ("GET /healthz at A (floor)", figures(&mut pings)),
    ];
    println!("{:<34} {:>9} {:>9} {:>9}", "milliseconds", "p50", "p90", "p99");
    for (name, [p50, p90, p99]) in &rows {
        println!("{name:<34} {p50:>9.3} {p90:>9.3} {p99:>9.3}");
    }
    let ratio = rows[0].1[0] / rows[2].1[0];
    println!("event at B over floor, p50: {ratio:.2}; {SESSIONS} sessions, {DELETES} deletes");
    write(&json!({
        "sessions": SESSIONS,
        "deletes": DELETES,
        "delete_to_event_p50_ms": rows[0].1[0],
        "delete_to_event_p99_ms": rows[0].1[2],
        "delete_to_answer_p50_ms": rows[1].1[0],
        "floor_p50_ms": rows[2].1[0],
        "over_floor_p50": ratio,
    }));
}

async fn fill(daemon: &Daemon, sessions: usize) {
    let ids: Vec<String> = (0..sessions).map(|n| format!("ses_stays_{n}")).collect();
    for chunk in ids.chunks(500) {
        import(daemon, chunk).await;
    }
}

async fn import(daemon: &Daemon, ids: &[String]) {
    let sessions: Vec<Value> = ids
        .iter()
        .map(|id| {
            json!({
                "id": id, "title": format!("session {id}"), "directory": "/home/dev/project",
                "created_at": 1_795_379_110_867_i64, "updated_at": 1_795_379_110_867_i64,
            })
        })
        .collect();
    daemon.ok("POST", "/v1/import", Some(json!({ "sessions": sessions }))).await;
}

/// Returns the 50th, 90th and 99th percentile in milliseconds.
fn figures(samples: &mut [Duration]) -> [f64; 3] {
    samples.sort_unstable();
    [50, 90, 99].map(|percent| samples[samples.len() * percent / 100].as_secs_f64() * 1e3)
}

/// Writes what was measured, and prints how it compares with the run before.
fn write(figures: &Value) {
    let path = std::path::Path::new("target/bench/http.json");
    if let Ok(before) = std::fs::read_to_string(path)
        && let Ok(before) = serde_json::from_str::<Value>(&before)
    {
        println!("the run before: over floor {}", before["over_floor_p50"]);
    }
    std::fs::create_dir_all("target/bench").expect("target is ours");
    std::fs::write(path, format!("{figures:#}\n")).expect("target is ours");
}
