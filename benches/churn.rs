//! Measures a year of a busy host: what its document costs after all that was written to it, and
//! what is left of that once the host has written it anew.
//!
//! The agent's server tells of each step; the bridge gathers what comes within a tenth of a second,
//! and writes the time of a session's last step at most every 30 seconds while nothing else changes.
//! So of a million steps far fewer changes are left: both are told. Sessions come and go: each lives
//! for some hundred steps, is deleted, and purged when its undo window is over.
//!
//! Size is what automerge saves; load time and memory are those of a process that does nothing else
//! than load it. The document is written by the core's own writer, without a daemon around it, which
//! would write it anew long before the year is over.
//!
//! `cargo bench --bench churn [-- --quick | --full]` prints a table and writes
//! `target/bench/churn.json`: a tenth of a year unless it is `--full`, which takes minutes.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod common;

use std::{
    collections::VecDeque,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use common::report::{Report, is_quick, memory_mb, ms, rounded, say};
use sessionmesh::replica::{
    document::{self, Applied, Document, NotWritten, SessionFields},
    ids::{NodeId, OperationId, SessionId, StartId, WorkspaceId},
    record::{Deletion, Extra, StoredSession, StoredWorkspace},
};

/// How many steps of its agents a busy host sees in a year: one every ten seconds, in the eight
/// hours of each day in which someone works.
const STEPS_A_YEAR: u64 = 1_000_000;
/// How many sessions are worked on at a time.
const AT_WORK: usize = 8;
/// How many steps a session has before it is deleted.
const STEPS_A_SESSION: u64 = 400;
/// How many deleted sessions wait for the end of their undo window.
const UNDOABLE: usize = 32;
/// How many live sessions are left to themselves beside those at work.
const AT_REST: usize = 200;
/// How many milliseconds lie between two steps while someone works.
const STEP_MS: i64 = 10_000;
/// How often the time of a session's last step is written while nothing else changes, as the bridge
/// does.
const TICK_MS: i64 = 30_000;
/// How often a step gives its session another title.
const TITLE_EVERY: u64 = 20;
/// When it all began, milliseconds since the epoch.
const WALL_MS: i64 = 1_795_379_110_867;
/// The argument after which the name of a file follows that is to be loaded.
const LOAD: &str = "--load";

/// Counts the changes that were written.
fn written_changes(written: Result<Option<Applied>, NotWritten>) -> u64 {
    written.expect("peers take it").map_or(0, |applied| applied.changes.len() as u64)
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != LOAD);
    if let Some(path) = arguments.nth(1) {
        return load(Path::new(&path));
    }
    let full = std::env::args().any(|argument| argument == "--full");
    let steps = match (is_quick(), full) {
        (true, _) => STEPS_A_YEAR / 500,
        (_, true) => STEPS_A_YEAR,
        _ => STEPS_A_YEAR / 10,
    };
    let mut report = Report::new("churn");
    say(&format!("{steps} steps of a host's agents"));
    let mut host = Host::new();
    let begun = Instant::now();
    for step in 0..steps {
        host.step(step);
        if step > 0 && step % 100_000 == 0 {
            say(&format!("{step} steps, {} changes", host.changes));
        }
    }
    let took = begun.elapsed();
    report.note("steps", steps);
    report.note("changes", host.changes);
    report.note("write_us_a_change", rounded(took.as_secs_f64() * 1e6 / host.changes as f64));
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let actor = document::actor(&host.node, StartId([3; 8]));
    let begun = Instant::now();
    let (rewritten, _) = host.document.rewritten(1, actor, host.wall_ms);
    report.note("rewrite_ms", ms(begun.elapsed()));
    assert_eq!(shown(&rewritten), shown(&host.document), "what is shown stays");
    println!(
        "{:<8} {:>10} {:>10} {:>12} {:>10} {:>12}",
        "", "ops", "bytes", "load ms", "MB", "changes"
    );
    let mut costs = Vec::new();
    for (name, document) in [("before", &host.document), ("after", &rewritten)] {
        let path = folder.path().join(name);
        let bytes = document.save();
        std::fs::write(&path, &bytes).expect("there is room");
        let (load_ms, memory) = loaded_elsewhere(&path);
        let (ops, changes) = (document.op_count(), document.change_count());
        println!(
            "{name:<8} {ops:>10} {:>10} {load_ms:>12} {memory:>10} {changes:>12}",
            bytes.len()
        );
        report.note(format!("{name}_ops"), ops);
        report.note(format!("{name}_changes"), changes);
        report.note(format!("{name}_bytes"), bytes.len());
        report.note(format!("{name}_load_ms"), load_ms);
        report.note(format!("{name}_memory_mb"), memory);
        costs.push((bytes.len() as f64, load_ms, memory));
    }
    let [before, after] = costs[..] else { unreachable!("there are two") };
    report.note("bytes_before_over_after", rounded(before.0 / after.0));
    report.note("load_before_over_after", rounded(before.1 / after.1.max(0.001)));
    report.note("memory_before_over_after", rounded(before.2 / after.2.max(0.01)));
    report.finish();
}

/// A host whose agents work.
struct Host {
    node: NodeId,
    document: Document,
    workspace: WorkspaceId,
    /// The sessions at work: their steps so far, and when one was last written.
    at_work: Vec<(SessionId, u64, i64)>,
    deleted: VecDeque<SessionId>,
    made: u64,
    wall_ms: i64,
    changes: u64,
}

impl Host {
    fn new() -> Self {
        let node = NodeId([7; 32]);
        let actor = document::actor(&node, StartId([1; 8]));
        let (document, _) = Document::create_host(node, 0, actor, WALL_MS);
        let workspace: WorkspaceId = "wrk_busy".parse().expect("it is an id");
        let mut host = Self {
            node,
            document,
            workspace: workspace.clone(),
            at_work: Vec::new(),
            deleted: VecDeque::new(),
            made: 0,
            wall_ms: WALL_MS,
            changes: 1,
        };
        let record = StoredWorkspace {
            name: "main".to_owned(),
            kind: "directory".to_owned(),
            project_id: Some("project".to_owned()),
            directory: Some("/home/dev/work/main".to_owned()),
            branch: Some("main".to_owned()),
            created_at: WALL_MS,
            agent_server: None,
            keepers: [].into(),
            used: true,
            extra: Extra::new(),
            teardown: None,
            requests: [].into(),
            dismissals: [].into(),
        };
        let written = host.document.write(WALL_MS, |tx| tx.create_workspace(&workspace, &record));
        host.changes += written_changes(written);
        for _ in 0..AT_REST {
            host.create();
        }
        for _ in 0..AT_WORK {
            let id = host.create();
            host.at_work.push((id, 0, WALL_MS));
        }
        host
    }

    fn create(&mut self) -> SessionId {
        let id: SessionId = format!("ses_{:026}", self.made).parse().expect("it is an id");
        let record = StoredSession {
            workspace_id: Some(self.workspace.clone()),
            parent_id: None,
            project_id: Some("project".to_owned()),
            directory: Some("/home/dev/work/main".to_owned()),
            title: Some(format!("Look into why check {} of the build is red", self.made)),
            created_at: self.wall_ms,
            updated_at: self.wall_ms,
            archived_at: None,
            agent: None,
            agent_server: None,
            extra: [("agent".to_owned(), "opencode".to_owned())].into(),
            deleted: None,
        };
        self.made += 1;
        let written = self.document.write(self.wall_ms, |tx| tx.create_session(&id, &record));
        self.changes += written_changes(written);
        id
    }

    /// One step of one session, as far as the bridge writes it.
    fn step(&mut self, number: u64) {
        self.wall_ms += STEP_MS / AT_WORK as i64;
        let at = (number % AT_WORK as u64) as usize;
        let (id, steps, written_at) = self.at_work[at].clone();
        let title = steps % TITLE_EVERY == TITLE_EVERY - 1;
        let due = title || self.wall_ms >= written_at + TICK_MS;
        self.at_work[at].1 += 1;
        if due {
            self.at_work[at].2 = self.wall_ms;
            let title = title.then(|| Some(format!("Step {steps} of looking into it")));
            let updated_at = Some(self.wall_ms);
            let fields = SessionFields { title, updated_at, ..SessionFields::default() };
            let written = self.document.write(self.wall_ms, |tx| tx.update_session(&id, &fields));
            self.changes += written_changes(written);
        }
        if steps + 1 >= STEPS_A_SESSION {
            self.replace(at, &id);
        }
    }

    /// Deletes a session that is done, purges one whose window is over, and begins another.
    fn replace(&mut self, at: usize, done: &SessionId) {
        let operation: OperationId = format!("op_{}", self.made).parse().expect("it is an id");
        let deletion = Deletion { by: self.node, at: self.wall_ms, operation, reason: None };
        let written = self.document.write(self.wall_ms, |tx| tx.delete_session(done, &deletion));
        self.changes += written_changes(written);
        self.deleted.push_back(done.clone());
        if self.deleted.len() > UNDOABLE
            && let Some(over) = self.deleted.pop_front()
        {
            let written = self.document.write(self.wall_ms, |tx| tx.purge_session(&over, false));
            self.changes += written_changes(written);
        }
        let id = self.create();
        self.at_work[at] = (id, 0, self.wall_ms);
    }
}

/// Returns all that a document shows, in the order of the ids.
fn shown(document: &Document) -> Vec<(SessionId, StoredSession)> {
    let ids = document.session_ids().into_iter();
    let mut all: Vec<_> = ids.filter_map(|id| Some((id.clone(), document.session(&id)?))).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

/// Loads a saved document in a process of its own, and tells how long that took and how much memory
/// it added.
fn load(path: &Path) {
    let bytes = std::fs::read(path).expect("the file is there");
    let pid = std::process::id();
    let before = memory_mb(pid, "VmRSS").unwrap_or_default();
    let begun = Instant::now();
    let document = automerge::Automerge::load(&bytes).expect("it was just saved");
    let took: Duration = begun.elapsed();
    let after = memory_mb(pid, "VmRSS").unwrap_or_default();
    println!("{} {}", ms(took), rounded(after - before));
    drop(document);
}

fn loaded_elsewhere(path: &Path) -> (f64, f64) {
    let program = std::env::current_exe().expect("it runs");
    let loaded = Command::new(program).arg(LOAD).arg(path).output().expect("it can be run");
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    let text = String::from_utf8_lossy(&loaded.stdout);
    let mut figures = text.split_whitespace().map(|figure| figure.parse().expect("a number"));
    let mut next = || figures.next().expect("two figures");
    (next(), next())
}
