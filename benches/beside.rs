//! Measures for how long an agent's server can keep the loop's thread: by lines of 10 and 40 MB in its
//! stream of events, by an event that is one of a session and 10 MB long, and by a list of 20,000
//! sessions that is read at the start, read again, and changed in one place.
//!
//! The node is a real daemon that is bridged to a scripted server in this process. What is told is the
//! most processor time that one turn of the loop or of a bridge has taken, as the daemon's own
//! metrics say, and that over the same of a run in which the server has a few sessions and is silent.
//!
//! `cargo bench --bench beside [-- --quick]` prints a table and writes `target/bench/beside.json`.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;
#[path = "../tests/bridge/fake.rs"]
mod fake;

use std::time::{Duration, Instant};

use common::{
    node::{Node, PATIENCE, free_address},
    report::{Report, Samples, is_quick, rounded, say},
};
use fake::{Fake, Mode};
use serde_json::json;
use sessionmesh::{agent::opencode::Client, daemon::pace::Task};
use tokio::{runtime::Runtime, sync::oneshot::error::TryRecvError};

/// How many sessions a server has where they are few, and where they are many.
const FEW: usize = 20;
const MANY: usize = 20_000;
/// How long the server is silent where nothing happens.
const IDLE: Duration = Duration::from_secs(3);
/// What one turn may take, in milliseconds.
const GOAL_MS: f64 = 5.0;

fn main() {
    let mut report = Report::new("beside");
    let (many, mb) = if is_quick() { (500, 1 << 16) } else { (MANY, 1 << 20) };
    let line = |bytes: usize| {
        let text = "x".repeat(bytes);
        format!(r#"data: {{"payload":{{"type":"message.part.updated","properties":"{text}"}}}}"#)
            + "\n\n"
    };
    let idle = measure(FEW, |_, _| std::thread::sleep(IDLE));
    let cases = [
        ("a line of 10 MB", measure(FEW, |fake, _| fake.tell_raw(&line(10 * mb)))),
        ("a line of 40 MB", measure(FEW, |fake, _| fake.tell_raw(&line(40 * mb)))),
        (
            "an event of a session of 10 MB",
            measure(FEW, |fake, _| fake.put("ses_0", json!({ "slug": "x".repeat(10 * mb) }))),
        ),
        ("many sessions at the start", measure(many, |_, _| {})),
        (
            "many sessions, one changes",
            measure(many, |fake, node| {
                for n in 0..10 {
                    rename(fake, node, &format!("renamed {n}"));
                }
            }),
        ),
        ("many sessions, read again", measure(many, |fake, _| fake.set(Mode::Works))),
    ];
    println!(
        "{:<34} {:>12} {:>12} {:>11} {:>14}",
        "", "loop us", "bridge us", "over idle", "answer p99 us"
    );
    let show = |name: &str, of: &Measured| {
        let over = rounded(of.longest_us() / idle.longest_us());
        println!(
            "{name:<34} {:>12} {:>12} {over:>11} {:>14}",
            of.loop_us,
            of.bridge_us,
            of.answers.us(99)
        );
        over
    };
    show("idle", &idle);
    report.note("idle_us", idle.longest_us());
    for (name, measured) in &cases {
        let over = show(name, measured);
        let key = name.replace([' ', ','], "_");
        report.note(format!("{key}_over_idle"), over);
        report.at_most(format!("{key}_ms"), measured.longest_us() / 1e3, GOAL_MS);
    }
    report.finish();
}

struct Measured {
    loop_us: u64,
    bridge_us: u64,
    /// How long it took to ask the loop something, all the time.
    answers: Samples,
}

impl Measured {
    fn longest_us(&self) -> f64 {
        self.loop_us.max(self.bridge_us) as f64
    }
}

/// Starts a daemon beside a server with so many sessions, lets something happen there, and waits until
/// a change behind it is shown here.
fn measure(sessions: usize, happens: impl Fn(&Fake, &Node)) -> Measured {
    say(&format!("{sessions} sessions"));
    let runtime = Runtime::new().expect("there are threads");
    let fake = runtime.block_on(Fake::start());
    {
        let mut state = fake.state();
        for n in 0..sessions {
            let id = format!("ses_{n}");
            let session = fake::session(&id);
            state.sessions.insert(id, session);
        }
    }
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let client = Client::new(&fake.url(), None).expect("it is an address");
    let node = Node::start_beside(&folder.path().join("d"), &free_address(), vec![client]);
    let handle = node.handle.clone();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let asking = runtime.spawn(async move {
        let mut answers = Samples::default();
        while matches!(stopped.try_recv(), Err(TryRecvError::Empty)) {
            let begun = Instant::now();
            let _ = handle.trash().await;
            answers.push(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        answers
    });
    until(&node, |node| node.handle.hub().view().sessions().count() == sessions);
    happens(&fake, &node);
    rename(&fake, &node, "the last one");
    drop(stop);
    let answers = runtime.block_on(asking).expect("it does not panic");
    let pace = node.handle.pace();
    Measured {
        loop_us: pace.longest_turn_us(Task::Loop),
        bridge_us: pace.longest_turn_us(Task::Bridge),
        answers,
    }
}

/// Renames a session there and waits until that is shown here.
fn rename(fake: &Fake, node: &Node, title: &str) {
    fake.put("ses_1", json!({ "title": title }));
    until(node, |node| {
        let id = "ses_1".parse().expect("it is an id");
        let view = node.handle.hub().view();
        view.session(&id).any(|session| session.title.as_deref() == Some(title))
    });
}

fn until(node: &Node, done: impl Fn(&Node) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done(node) {
        assert!(Instant::now() < deadline, "it is shown in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}
