//! Owns `sessionmesh doctor`.
//!
//! Must not know how the machine is looked at. Invariant: it changes nothing, and fails exactly if
//! something is not as it has to be.

use std::{net::SocketAddr, path::Path};

use super::{
    args::Json,
    client::Client,
    failure::Failure,
    output::Output,
    printable::{lasting, printable, size},
    status::shut_out_by,
};
use crate::{
    api::trash::TrashList,
    clock, config,
    daemon::{
        doctor::{self, Check, State},
        handle::{AgentState, HoldingStatus, Peer, RootStatus, Status},
        machine::Git,
        trash::TrashStatus,
    },
    replica::{
        fold::Snapshot,
        ids::NodeId,
        trash::{TrashListed, TrashState},
    },
};

/// How far ahead a time may be before a clock is wrong, in milliseconds: five minutes.
const AHEAD_MS_MAX: i64 = 5 * 60 * 1_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the daemon is to be reached by other machines
    #[arg(long, value_name = "IP:PORT", default_value = config::LISTEN_DEFAULT)]
    listen: SocketAddr,
    /// Where the daemon is to offer its API
    #[arg(long, value_name = "IP:PORT", default_value = config::HTTP_DEFAULT)]
    http: SocketAddr,
    #[command(flatten)]
    json: Json,
}

pub async fn run(args: &Args, data_dir: &Path, mut out: Output) -> Result<(), Failure> {
    let mut checks = doctor::look(data_dir, args.listen, args.http);
    checks.extend(asked(data_dir).await);
    if args.json.json {
        out.json(&checks)?;
    } else {
        out.write(&text(&checks))?;
    }
    match checks.iter().filter(|check| check.state == State::Failed).count() {
        0 => Ok(()),
        failed => Err(Failure::Unwell(failed)),
    }
}

/// Asks the daemon, if one answers, about what only it knows.
async fn asked(data_dir: &Path) -> Vec<Check> {
    let answer = async {
        let client = Client::open(data_dir)?;
        let status: Status = client.get(&["v1", "status"], &[]).await?.read()?;
        let peers: Vec<Peer> = client.get(&["v1", "peers"], &[]).await?.read()?;
        let view: Snapshot = client.get(&["v1", "view"], &[]).await?.read()?;
        let own = status.node.to_string();
        let kept = client.get(&["v1", "trash"], &[("host", &own)]).await?;
        let kept: TrashList = kept.read()?;
        Ok::<_, Failure>((status, peers, view, kept.entries))
    };
    match answer.await {
        Ok((status, peers, view, kept)) => {
            let mut checks = daemon(&status);
            checks.extend(trash(&status.trash, &kept));
            checks.extend(peers.iter().filter(|peer| !peer.revoked).map(peer_check));
            checks.extend(membership(&status, &peers));
            checks.push(clocks(&view, clock::wall_ms()));
            checks
        }
        Err(failure) => {
            let (found, hint) = (failure.to_string(), failure.hint());
            let daemon = match failure {
                Failure::Unreachable { .. } => {
                    Check::warning("daemon", found, &hint.unwrap_or_default())
                }
                _ => Check::failed("daemon", found, hint.as_deref().unwrap_or("see its log")),
            };
            // The daemon's own PATH may be another one.
            vec![daemon, doctor::git(&Git::look(), "this command, as no daemon could be asked")]
        }
    }
}

fn daemon(status: &Status) -> Vec<Check> {
    let (theirs, ours) = (&status.version, env!("CARGO_PKG_VERSION"));
    let mut checks = vec![if theirs == ours {
        Check::ok("daemon", format!("version {theirs}, {} links", status.links))
    } else {
        let found = format!("it is of version {theirs}, this command of {ours}");
        Check::warning("daemon", found, "restart it with the same program as this one")
    }];
    checks.extend(status.git.as_ref().map(|git| doctor::git(git, "the daemon")));
    checks.extend(status.hooks_left_running.iter().map(|workspace| {
        let found = format!("a hook from before the daemon's last start still ends {workspace}");
        Check::warning("hooks", found, "wait for it, or end it: the daemon runs it again then")
    }));
    if status.recovering {
        checks.push(Check::warning(
            "recovery",
            "what a damaged store had lost is not back yet; nothing is purged or ended here",
            "start a peer that has been in the fleet for long, and let both connect",
        ));
    }
    if let Some(HoldingStatus { sessions, workspaces, until }) = &status.holding {
        let found = format!(
            "{sessions} sessions and {workspaces} workspaces that were deleted before the start wait, at \
             most until {}, for another machine that may know of a restore",
            clock::utc(*until)
        );
        let remedy =
            "start a peer that may write, and let both connect; or wait, see serve --start-grace";
        checks.push(Check::warning("start", found, remedy));
    }
    checks.extend(status.agents.iter().map(|agent| match agent.state {
        AgentState::Connected => Check::ok("agent", format!("{} is followed", agent.url)),
        AgentState::Connecting => {
            Check::warning("agent", format!("{} is being reached", agent.url), "look again")
        }
        AgentState::Failed => {
            let why = agent.problem.as_deref().unwrap_or("it can't be read");
            let found = format!("{}: {why}", agent.url);
            Check::warning("agent", found, "start it at that address, or restart without it")
        }
    }));
    checks
}

/// Looks at who can let machines in and shut them out.
fn membership(status: &Status, peers: &[Peer]) -> Vec<Check> {
    if let Some(shut_out) = &status.shut_out {
        let remedy = "`sessionmesh leave` makes it the admin of a fleet of its own; to come back it needs a new \
                      key, in an empty --data-dir, and a ticket; where a junior admin has done it, `sessionmesh peer \
                      revoke NAME` shuts that one out in turn";
        return vec![Check::failed("membership", shut_out_by(shut_out), remedy)];
    }
    let mut checks = Vec::new();
    if peers.iter().all(|peer| peer.revoked) {
        return checks;
    }
    if status.admins < 2 {
        checks.push(Check::warning(
            "admins",
            format!("the fleet has {}", status.admins),
            "give another machine the role with `sessionmesh peer promote NAME --role admin`: if the only \
             admin loses its disk, nobody can let it in again",
        ));
    }
    checks.extend(status.root.as_ref().map(|root| root_check(root, status.node, peers)));
    checks
}

/// Says which machine is the root of the fleet, and what it should be.
fn root_check(root: &RootStatus, own: NodeId, peers: &[Peer]) -> Check {
    const NAME: &str = "root";
    let is_away = peers.iter().any(|peer| peer.node == root.node && !peer.connected);
    let whose = match root.node == own {
        true => "this machine".to_owned(),
        false => root.name.clone(),
    };
    let found =
        format!("{whose} is the most senior admin, which no other one can shut out for good");
    let advice = format!(
        "it should be always on and well kept; to move the root to one that is: `sessionmesh peer promote NAME \
         --role admin`, then `sessionmesh step-down` on {whose}"
    );
    match is_away {
        true => Check::warning(NAME, format!("{found}, and it is not connected"), &advice),
        false => Check::ok(NAME, format!("{found}: {advice}")),
    }
}

/// Looks at what this machine keeps: whether it is kept at all, what can't be deleted, and what takes
/// the space.
fn trash(status: &TrashStatus, kept: &[TrashListed]) -> Vec<Check> {
    const NAME: &str = "trash";
    let mut checks = Vec::new();
    for TrashListed { entry, .. } in kept.iter().filter(|it| it.entry.state == TrashState::Stuck) {
        let why = entry.problem.as_deref().unwrap_or("it is not said why");
        let place = entry.place.as_deref().unwrap_or("the trash");
        let found = format!("{} in {place} can't be deleted: {why}", entry.id);
        checks.push(Check::warning(NAME, found, "see to that; it is tried again every minute"));
    }
    if status.keep_removed_s == 0 {
        let found = "what is ended is deleted at once, and can't be had back";
        checks.push(Check::warning(NAME, found, "start the daemon without --keep-removed 0"));
    }
    if status.irreplaceable_bytes > status.max_bytes {
        let mut large: Vec<_> = kept.iter().map(|listed| &listed.entry).collect();
        large.sort_by_key(|entry| std::cmp::Reverse(entry.bytes));
        let large: Vec<_> =
            large.iter().take(3).map(|it| format!("{} {}", it.id, size(it.bytes))).collect();
        let found = format!(
            "{} of work that is nowhere else is kept, more than --trash-max ({}), and none of it is \
             deleted early; the most is in {}",
            size(status.irreplaceable_bytes),
            size(status.max_bytes),
            large.join(", ")
        );
        let remedy = "look with `sessionmesh trash list`, and delete what nobody misses with \
                      `sessionmesh trash empty ID`";
        checks.push(Check::warning(NAME, found, remedy));
    }
    if checks.is_empty() {
        let keep = lasting(status.keep_removed_s.saturating_mul(1_000));
        let found = format!("{} kept, {}, each for {keep}", status.entries, size(status.bytes));
        checks.push(Check::ok(NAME, found));
    }
    checks
}

fn peer_check(peer: &Peer) -> Check {
    let name = &peer.name;
    if peer.paused {
        let remedy = format!("sessionmesh peer resume {name}");
        return Check::warning("peer", format!("{name} is paused"), &remedy);
    }
    if !peer.connected {
        let why = peer.problem.as_deref().unwrap_or("it has not been reached");
        let found = format!("{name} is not connected: {why}");
        let remedy = "start its daemon, and let one of the two reach the other's UDP port";
        return Check::warning("peer", found, remedy);
    }
    if let Some(problem) = &peer.problem {
        let remedy = "on the machine that is to be another one, `sessionmesh serve --data-dir` with an empty \
                      folder and a new ticket";
        return Check::warning("peer", format!("{name}: {problem}"), remedy);
    }
    if let Some(left_out) = &peer.left_out {
        let remedy = format!("if it goes on, shut it out: sessionmesh peer revoke {name}");
        let found = format!("{name} writes what no node takes: {left_out}");
        return Check::warning("peer", found, &remedy);
    }
    if !peer.in_sync {
        let remedy = "look again; if it lasts, see both logs";
        return Check::warning("peer", format!("{name} does not hold the same yet"), remedy);
    }
    Check::ok("peer", format!("{name} is connected and holds the same"))
}

/// Looks for records from the future: this clock, or that of who wrote them, is wrong.
fn clocks(view: &Snapshot, now_ms: i64) -> Check {
    let sessions = view.sessions.iter().map(|it| it.created_at.max(it.updated_at));
    let times = sessions.chain(view.workspaces.iter().map(|it| it.created_at));
    let ahead_ms = times.max().unwrap_or(0).saturating_sub(now_ms);
    if ahead_ms > AHEAD_MS_MAX {
        let found = format!("a record is {} s ahead of this machine's clock", ahead_ms / 1_000);
        return Check::warning("clocks", found, "set the clocks; only what is shown is wrong");
    }
    Check::ok("clocks", "no record is from the future")
}

fn text(checks: &[Check]) -> String {
    let mut text = String::new();
    for Check { name, state, found, remedy } in checks {
        let state = match state {
            State::Ok => "ok     ",
            State::Warning => "warning",
            State::Failed => "FAILED ",
        };
        text += &format!("{state}  {name}: {}\n", printable(found));
        if let Some(remedy) = remedy {
            text += &format!("         → {}\n", printable(remedy));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_below_what_it_is_for() {
        let checks = [Check::ok("git", "2.0"), Check::failed("store", "damaged", "repair it")];
        assert_eq!(
            text(&checks),
            "ok       git: 2.0\nFAILED   store: damaged\n         → repair it\n"
        );
    }
}
