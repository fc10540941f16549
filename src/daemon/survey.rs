//! Owns reporting how the worktrees of this host stand, so that every node can say what a delete
//! would meet.
//!
//! Must not look by itself, nor write what has not changed. Invariant: a report is one word, written
//! when it changes and at most so often, so that work in a worktree does not fill the document.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::handle::{Handle, RequestError};
use crate::{
    replica::{
        command::{Command, Target, WorkspacePatch},
        ids::{NodeId, WorkspaceId},
        record::{EXTRA_GIT, EXTRA_GIT_IGNORED, Workspace, WorkspaceState},
    },
    teardown,
};

/// How often it is seen whether there is something to look at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long what was seen of a worktree is good for while nothing is known to have happened to it.
const STALE_AFTER: Duration = Duration::from_secs(60);
/// How much longer than looking took a worktree is left alone: so looking takes no more than a
/// twentieth of one core, however large the worktrees are.
const REST_FACTOR: u32 = 20;
/// How long after a report of a worktree the next one is written at the soonest.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// What was seen of a worktree.
struct Seen {
    /// What the record said then: another one is a reason to look again.
    record: Arc<Workspace>,
    next: Instant,
    reported: Option<Instant>,
}

/// Reports until it is told to stop.
pub async fn run(
    handle: Handle,
    node: NodeId,
    config: Arc<teardown::Config>,
    stop: CancellationToken,
) {
    let mut seen = BTreeMap::new();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = look_around(&handle, node, &config, &mut seen) => looked,
        };
        if matches!(looked, Err(RequestError::Stopping)) {
            return;
        }
    }
}

/// Looks at the worktrees that are due, and reports those that stand otherwise than was reported.
async fn look_around(
    handle: &Handle,
    node: NodeId,
    config: &Arc<teardown::Config>,
    seen: &mut BTreeMap<WorkspaceId, Seen>,
) -> Result<(), RequestError> {
    let view = handle.hub().view();
    let open = |w: &&Arc<Workspace>| {
        w.host == node && matches!(w.state, WorkspaceState::Live | WorkspaceState::Vacated)
    };
    let own: Vec<Arc<Workspace>> = view.workspaces().filter(open).cloned().collect();
    let open: BTreeSet<&WorkspaceId> = own.iter().map(|workspace| &workspace.id).collect();
    seen.retain(|id, _| open.contains(id));
    for workspace in own {
        let before = seen.get(&workspace.id);
        let reported = before.and_then(|seen| seen.reported);
        let began = Instant::now();
        let is_due = before.is_none_or(|seen| {
            let rested = reported.is_none_or(|at| at + REPORT_EVERY <= began);
            (seen.record != workspace && rested) || seen.next <= began
        });
        if !is_due {
            continue;
        }
        let (record, config) = (workspace.clone(), config.clone());
        let look = move || teardown::survey::look(&record, &config);
        let looked = tokio::task::spawn_blocking(look).await;
        let Ok(Some(now_seen)) = looked else { continue };
        let now = Instant::now();
        let next = now + STALE_AFTER.max((now - began) * REST_FACTOR);
        let said = |key| workspace.extra.get(key).map(String::as_str);
        let differs = said(EXTRA_GIT) != Some(now_seen.state.as_str())
            || said(EXTRA_GIT_IGNORED) != now_seen.ignored.as_deref();
        let reported = if differs {
            report(handle, &workspace, &now_seen).await?;
            Some(now)
        } else {
            reported
        };
        let record = workspace.clone();
        seen.insert(workspace.id.clone(), Seen { record, next, reported });
    }
    Ok(())
}

async fn report(
    handle: &Handle,
    workspace: &Workspace,
    seen: &teardown::survey::Seen,
) -> Result<(), RequestError> {
    let target = Target { id: workspace.id.clone(), host: Some(workspace.host.to_string()) };
    let extra = BTreeMap::from([
        (EXTRA_GIT.to_owned(), Some(seen.state.as_str().to_owned())),
        (EXTRA_GIT_IGNORED.to_owned(), seen.ignored.clone()),
    ]);
    let patch = WorkspacePatch { extra, ..WorkspacePatch::default() };
    match handle.command(Command::UpdateWorkspace(target, patch)).await {
        Err(RequestError::Refused(refusal)) => {
            // It was sealed meanwhile, or its free fields are used up.
            tracing::debug!(workspace = %workspace.id, %refusal, "not reported");
            Ok(())
        }
        other => other.map(drop),
    }
}
