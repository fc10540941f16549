//! Owns `sessionmesh status`.
//!
//! Must not know how any of it is found out. Invariant: it shows what the daemon says.

use super::{
    Context,
    args::Json,
    failure::Failure,
    printable::{count, lasting, printable, size, utc},
};
use crate::{
    daemon::{
        handle::{AgentState, AgentStatus, HoldingStatus, RootStatus, ShutOutStatus, Status},
        trash::TrashStatus,
    },
    replica::ids::NodeId,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    json: Json,
}

pub async fn run(args: Args, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let answer = client.get(&["v1", "status"], &[]).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    let status: Status = answer.read()?;
    let changes: u64 = status.documents.iter().map(|document| document.changes).sum();
    let agents = status.agents.iter().map(|agent| ("agent", told(agent)));
    let mut agents: Vec<_> = agents.collect();
    let notes = status.agents.iter().flat_map(|agent| &agent.notes);
    agents.extend(notes.map(|note| ("agent", printable(note))));
    let bridged = |server: &String| status.agents.iter().any(|agent| agent.url == *server);
    let awaited = status.agents_awaited.iter().filter(|(server, _)| !bridged(server));
    agents.extend(awaited.map(|(server, count)| ("agent", waits(server, *count))));
    let role = serde_json::to_value(status.role).unwrap_or_default();
    let mut facts = vec![
        ("name", status.name),
        ("node", status.node.to_string()),
        ("fleet", status.fleet.to_string()),
        ("role", role.as_str().unwrap_or_default().to_owned()),
        ("admins", admins(status.admins, status.root.as_ref(), status.node)),
        ("version", status.version),
        ("up for", lasting(status.uptime_ms)),
        ("links", status.links.to_string()),
        ("documents", format!("{} of {changes} changes", status.documents.len())),
        ("store", format!("{} KiB", status.store_bytes.div_ceil(1_024))),
        ("digest", status.digest.to_string()),
        (
            "repairs",
            count(usize::try_from(status.sync_repairs_total).unwrap_or(usize::MAX), "time"),
        ),
    ];
    if let Some(shut_out) = &status.shut_out {
        facts.insert(4, ("shut out", shut_out_by(shut_out)));
    }
    let refused: u64 = status.refusals.values().sum();
    if refused > 0 {
        let by_code: Vec<_> =
            status.refusals.iter().map(|(code, n)| format!("{code} {n}")).collect();
        let kept_off = count(usize::try_from(status.kept_off).unwrap_or(usize::MAX), "peer");
        let all = format!("{refused} ({}); {kept_off} kept off now", by_code.join(", "));
        facts.push(("refused", all));
    }
    if status.recovering {
        let what = "what a damaged store had lost is not back yet; nothing is purged or ended here";
        facts.push(("recovery", what.to_owned()));
    }
    if let Some(holding) = &status.holding {
        facts.push(("waiting", waiting(holding)));
    }
    facts.push(("trash", trash(&status.trash)));
    facts.extend(agents);
    facts.extend(status.hooks_left_running.iter().map(|workspace| {
        ("hook", format!("one from before the last start still ends {workspace}"))
    }));
    out.facts(&facts)
}

/// Says how many admins there are, and which one no other can shut out.
fn admins(count: u64, root: Option<&RootStatus>, own: NodeId) -> String {
    match root {
        Some(root) if root.node == own => format!("{count}; this machine is the most senior"),
        Some(root) => format!("{count}; the most senior is {}", root.name),
        None => count.to_string(),
    }
}

/// Says by whom this machine was shut out, and what helps.
pub(super) fn shut_out_by(ShutOutStatus { by, at, retired }: &ShutOutStatus) -> String {
    let what = if *retired { "retired" } else { "revoked" };
    format!(
        "this machine was {what} from its fleet by {by} ({}); no other one exchanges anything with it",
        utc(*at)
    )
}

/// Says what waits for another machine after a start.
fn waiting(holding: &HoldingStatus) -> String {
    let HoldingStatus { sessions, workspaces, until } = holding;
    let of = |number: u64, what| count(usize::try_from(number).unwrap_or(usize::MAX), what);
    format!(
        "{} and {} that were deleted before the start, for another machine of the fleet that may \
         know of a restore, until {}",
        of(*sessions, "session"),
        of(*workspaces, "workspace"),
        utc(*until)
    )
}

fn trash(trash: &TrashStatus) -> String {
    let items = count(usize::try_from(trash.entries).unwrap_or(usize::MAX), "item");
    let kept = match trash.keep_removed_s {
        0 => {
            "what is ended is deleted at once, and can't be had back (--keep-removed 0)".to_owned()
        }
        s => format!("what is ended is kept for {}", lasting(s.saturating_mul(1_000))),
    };
    let stuck = match trash.stuck {
        0 => String::new(),
        stuck => format!("; {stuck} can't be deleted, see `sessionmesh trash list`"),
    };
    format!("{items}, {}; {kept}{stuck}", size(trash.bytes))
}

/// Says of a server that is not bridged that deletes wait for it.
fn waits(server: &str, sessions: u64) -> String {
    let sessions = count(usize::try_from(sessions).unwrap_or(usize::MAX), "deleted session");
    format!(
        "{sessions} wait for {}, which is not bridged: start with --opencode {0}, or, if it is gone for \
         good, `sessionmesh session delete ID --forget-agent`",
        printable(server)
    )
}

fn told(agent: &AgentStatus) -> String {
    let state = match agent.state {
        AgentState::Connecting => "connecting",
        AgentState::Connected => "connected",
        AgentState::Failed => "failed",
    };
    match &agent.problem {
        Some(problem) => format!("{} {state}: {problem}", agent.url),
        None => format!("{} {state}", agent.url),
    }
}
