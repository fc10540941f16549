//! Owns the figures that a Prometheus server reads.
//!
//! Must not know why they matter. Invariant: the number of series is bounded, since no label holds
//! anything that a client chose.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{Mutex, PoisonError},
};

use axum::{
    extract::State,
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use super::{Shared, list::beside, problem::Error};
use crate::{
    daemon::{
        handle::{Status, Task},
        hub::View,
    },
    replica::record::{SessionState, WorkspaceState},
};

/// How a request that met no route is counted.
const NO_ROUTE: &str = "none";

/// The requests since the start, by route, method and status.
#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: Mutex<BTreeMap<(String, &'static str, u16), u64>>,
}

impl Counters {
    pub(super) fn request(&self, method: &Method, route: Option<&str>, status: StatusCode) {
        let known = [Method::GET, Method::POST, Method::PATCH, Method::DELETE, Method::HEAD];
        let names = ["GET", "POST", "PATCH", "DELETE", "HEAD"];
        let place = known.iter().position(|known| known == method);
        let method = place.map_or("other", |place| names[place]);
        let key = (route.unwrap_or(NO_ROUTE).to_owned(), method, status.as_u16());
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry(key).or_default() += 1;
    }
}

pub(super) async fn show(State(shared): State<Shared>) -> Result<Response, Error> {
    let status = shared.handle.status().await?;
    let view = shared.handle.hub().view();
    let records = beside(move || Records::of(&view)).await?;
    let mut text = String::new();
    // Writing into a string can't fail.
    let written = write(&mut text, &shared, &records, &status);
    debug_assert!(written.is_ok());
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

fn write(out: &mut String, shared: &Shared, records: &Records, status: &Status) -> fmt::Result {
    let hub = shared.handle.hub();
    records.write(out)?;
    single(out, "links", "gauge", "Links to members that are up.", status.links)?;
    let (published, subscribers) = (hub.diffs_published(), hub.subscribers() as u64);
    single(out, "diffs_published_total", "counter", "Diffs since the start.", published)?;
    single(out, "subscribers", "gauge", "Event streams that are open.", subscribers)?;
    let repairs = status.sync_repairs_total;
    single(out, "sync_repairs_total", "counter", "Replicas that differed for long.", repairs)?;
    header_of(out, "refusals_total", "counter", "What peers sent and was refused, by reason.")?;
    for (code, count) in &status.refusals {
        writeln!(out, r#"sessionmesh_refusals_total{{code="{code}"}} {count}"#)?;
    }
    let help = "Changes that were left out because of what their author did, by reason.";
    header_of(out, "left_out_total", "counter", help)?;
    for (code, count) in &status.left_out {
        writeln!(out, r#"sessionmesh_left_out_total{{code="{code}"}} {count}"#)?;
    }
    let help = "How much of each limit is used, percent.";
    header_of(out, "limit_used_percent", "gauge", help)?;
    for (limit, percent) in &status.limits_used {
        writeln!(out, r#"sessionmesh_limit_used_percent{{limit="{limit}"}} {percent}"#)?;
    }
    let contained = ["panicked", "broken"].map(|code| status.refusals.get(code).unwrap_or(&0));
    let help = "Inputs of peers on which automerge panicked.";
    single(out, "contained_panics_total", "counter", help, contained.into_iter().sum())?;
    let help = "Members that are kept off for a while for what one of the two has sent.";
    single(out, "peers_kept_off", "gauge", help, status.kept_off)?;
    single(out, "store_bytes", "gauge", "Bytes of the store on disk.", status.store_bytes)?;
    let help = "What this machine keeps of what it has ended.";
    single(out, "trash_entries", "gauge", help, status.trash.entries)?;
    single(out, "trash_bytes", "gauge", "Bytes that this takes.", status.trash.bytes)?;
    let help = "Bytes sent over links, with all that QUIC adds.";
    single(out, "sent_bytes_total", "counter", help, status.sent_bytes)?;
    let help = "Bytes received over links, with all that QUIC adds.";
    single(out, "received_bytes_total", "counter", help, status.received_bytes)?;
    let pace = shared.handle.pace();
    let help = "The most processor time that one input has taken the loop.";
    single(out, "longest_input_microseconds", "gauge", help, pace.longest_us())?;
    let help =
        "Inputs that took the loop more than 250 ms of processor time (1 s in a debug build).";
    single(out, "slow_inputs_total", "counter", help, pace.slow())?;
    let help = "The most processor time for which a task has kept the loop's thread in one turn.";
    header_of(out, "longest_turn_microseconds", "gauge", help)?;
    for task in Task::ALL {
        let (name, us) = (task.name(), pace.longest_turn_us(task));
        writeln!(out, r#"sessionmesh_longest_turn_microseconds{{task="{name}"}} {us}"#)?;
    }
    let help = "Milliseconds since the start.";
    single(out, "uptime_milliseconds", "gauge", help, status.uptime_ms)?;
    if let Some(bytes) = resident_bytes() {
        // Named as every Prometheus client names it.
        writeln!(out, "# TYPE process_resident_memory_bytes gauge")?;
        writeln!(out, "process_resident_memory_bytes {bytes}")?;
    }
    header_of(out, "http_requests_total", "counter", "Requests by route and status.")?;
    let requests = shared.counters.requests.lock().unwrap_or_else(PoisonError::into_inner);
    for ((route, method, status), count) in &*requests {
        let labels = format!(r#"route="{route}",method="{method}",status="{status}""#);
        writeln!(out, "sessionmesh_http_requests_total{{{labels}}} {count}")?;
    }
    Ok(())
}

/// How many records there are, by state.
struct Records {
    sessions: BTreeMap<SessionState, u64>,
    workspaces: BTreeMap<WorkspaceState, u64>,
}

impl Records {
    /// Counts them in one pass.
    fn of(view: &View) -> Self {
        let (mut sessions, mut workspaces) = (BTreeMap::new(), BTreeMap::new());
        for session in view.sessions() {
            *sessions.entry(session.state).or_default() += 1;
        }
        for workspace in view.workspaces() {
            *workspaces.entry(workspace.state).or_default() += 1;
        }
        Self { sessions, workspaces }
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let states = [
            (SessionState::Live, "live"),
            (SessionState::Deleted, "deleted"),
            (SessionState::Stranded, "stranded"),
        ];
        header_of(out, "sessions", "gauge", "Sessions by state.")?;
        for (state, name) in states {
            let count = self.sessions.get(&state).unwrap_or(&0);
            writeln!(out, r#"sessionmesh_sessions{{state="{name}"}} {count}"#)?;
        }
        let states = [
            (WorkspaceState::Live, "live"),
            (WorkspaceState::Vacated, "vacated"),
            (WorkspaceState::Sealed, "sealed"),
            (WorkspaceState::Failed, "failed"),
        ];
        header_of(out, "workspaces", "gauge", "Workspaces by state.")?;
        for (state, name) in states {
            let count = self.workspaces.get(&state).unwrap_or(&0);
            writeln!(out, r#"sessionmesh_workspaces{{state="{name}"}} {count}"#)?;
        }
        Ok(())
    }
}

/// Returns how much memory the process has, where the system tells it as Linux does.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix(" kB"))?;
    Some(kib.trim().parse::<u64>().ok()? * 1_024)
}

fn single(out: &mut String, name: &str, kind: &str, help: &str, value: u64) -> fmt::Result {
    header_of(out, name, kind, help)?;
    writeln!(out, "sessionmesh_{name} {value}")
}

fn header_of(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP sessionmesh_{name} {help}\n# TYPE sessionmesh_{name} {kind}")
}
