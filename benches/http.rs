//! Measures how long a delete takes from the one who asks for it to those who look on: an HTTP
//! DELETE at A until the diff arrives on B's event stream, two real daemons on loopback.
//!
//! Beside it, in the same run, what no daemon can do without: the same HTTP round trip to a route
//! that does nothing, so that the figure can be read on another machine.
//!
//! `cargo bench --bench http` prints a table and writes `target/bench/http.json`. It fails only if
//! a delete does not arrive; whether the figures are good is for the reader.
//!
//! Where opencode is installed (`npm i --prefix target/opencode opencode-ai@1.18.33`, or named by
//! `SESSIONMESH_OPENCODE_BIN`), the same is asked of two of its servers, chained as opencode itself
//! does it and with as many sessions: a DELETE at the developer's until the event at the host's, and
//! the other way round, when the developer's relays what it heard.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

#[path = "http/chained.rs"]
mod chained;
#[path = "../tests/harness/mod.rs"]
mod harness;
#[path = "../tests/opencode/real.rs"]
mod real;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use chained::Chained;
use harness::{Daemon, Message};
use serde_json::{Value, json};
use sessionmesh::{api::rate::BURST_MAX, replica::diff::Event};

/// How many sessions the fleet holds besides those that are deleted.
const SESSIONS: usize = 1_000;
/// How many deletes are measured, after a few that are not.
const DELETES: usize = 400;
const WARM_UP: usize = 50;
/// How many deletes are measured of opencode, each way, after a few that are not.
const CHAINED_DELETES: usize = 100;
const CHAINED_WARM_UP: usize = 20;
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
    drop(stream);
    drop(daemons);
    let ours = figures(&mut arrived);
    let mut rows = vec![
        ("DELETE at A -> event at B", ours),
        ("DELETE at A -> answer, durable", figures(&mut answered)),
        ("GET /healthz at A (floor)", figures(&mut pings)),
    ];
    let ratio = ours[0] / rows[2].1[0];
    let mut written = json!({
        "sessions": SESSIONS,
        "deletes": DELETES,
        "delete_to_event_p50_ms": ours[0],
        "delete_to_event_p99_ms": ours[2],
        "delete_to_answer_p50_ms": rows[1].1[0],
        "floor_p50_ms": rows[2].1[0],
        "over_floor_p50": ratio,
    });
    if let Some(program) = real::program() {
        let ([there, back], again) = chained(&program).await;
        for (key, value) in [
            ("opencode_deletes", json!(CHAINED_DELETES)),
            ("opencode_asked_each_way", json!(CHAINED_WARM_UP + CHAINED_DELETES)),
            ("opencode_asked_again", json!(again)),
            ("opencode_delete_to_event_p50_ms", json!(there[0].1[0])),
            ("opencode_delete_to_event_p99_ms", json!(there[0].1[2])),
            ("opencode_delete_to_answer_p50_ms", json!(there[1].1[0])),
            ("opencode_back_to_event_p50_ms", json!(back[0].1[0])),
            ("opencode_back_to_event_p99_ms", json!(back[0].1[2])),
            ("opencode_over_ours", json!(there[0].1[0] / ours[0])),
            ("opencode_back_over_ours", json!(back[0].1[0] / ours[0])),
        ] {
            written[key] = value;
        }
        rows.extend(there);
        rows.extend(back);
    } else {
        println!("opencode is not measured: none is named, nor below target/opencode");
    }
    println!("{:<48} {:>9} {:>9} {:>9}", "milliseconds", "p50", "p90", "p99");
    for (name, [p50, p90, p99]) in &rows {
        println!("{name:<48} {p50:>9.3} {p90:>9.3} {p99:>9.3}");
    }
    println!("event at B over floor, p50: {ratio:.2}; {SESSIONS} sessions, {DELETES} deletes");
    if let Some(over) = written["opencode_over_ours"].as_f64() {
        let back = written["opencode_back_over_ours"].as_f64().unwrap_or_default();
        println!("chained opencode over ours, p50: {over:.1}, the other way round {back:.1}");
        let (asked, again) =
            (&written["opencode_asked_each_way"], &written["opencode_asked_again"]);
        println!(
            "of {asked} deletes each way, opencode was asked again for {}, {}",
            again[0], again[1]
        );
    }
    write(&written);
}

type Row = (&'static str, [f64; 3]);

/// Measures two chained opencode servers: the way from the developer's to the host's, and back; and
/// how often one had to be asked for again, each way.
async fn chained(program: &Path) -> ([[Row; 2]; 2], [usize; 2]) {
    println!("filling two opencode servers with {SESSIONS} sessions");
    let chained = Chained::start(program).await;
    let each = CHAINED_WARM_UP + CHAINED_DELETES;
    let ids = chained.fill(SESSIONS + 2 * each).await;
    let mut there = chained.delete_at_developer(&ids[..each]).await;
    let mut back = chained.delete_at_host(&ids[each..2 * each]).await;
    let again = [there.again, back.again];
    let measured = |taken: &mut Vec<Duration>| figures(&mut taken[CHAINED_WARM_UP..]);
    let rows = [
        [
            ("opencode: DELETE at developer -> event at host", measured(&mut there.arrived)),
            ("opencode: DELETE at developer -> answer", measured(&mut there.answered)),
        ],
        [
            ("opencode: DELETE at host -> event at developer", measured(&mut back.arrived)),
            ("opencode: DELETE at host -> answer", measured(&mut back.answered)),
        ],
    ];
    (rows, again)
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
    let path = Path::new("target/bench/http.json");
    if let Ok(before) = std::fs::read_to_string(path)
        && let Ok(before) = serde_json::from_str::<Value>(&before)
    {
        println!("the run before: over floor {}", before["over_floor_p50"]);
    }
    std::fs::create_dir_all("target/bench").expect("target is ours");
    std::fs::write(path, format!("{figures:#}\n")).expect("target is ours");
}
