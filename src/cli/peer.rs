//! Owns `sessionmesh peer …` and `sessionmesh peers`.
//!
//! Must not know how nodes find each other. Invariant: on a terminal nobody is shut out for good
//! without a second word.

use std::io::{IsTerminal as _, Write as _};

use clap::Subcommand;

use super::{
    Context, args::Json, failure::Failure, output::remark, printable::printable, table::Table,
};
use crate::{
    api::{body::PromoteBody, fleet::PeerChanged},
    daemon::handle::Peer,
    replica::record::Role,
};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the other machines of the fleet
    List(ListArgs),
    /// Stop syncing with a machine, until it is resumed
    Pause(PeerArgs),
    /// Go on syncing with a machine
    Resume(PeerArgs),
    /// Give a machine a greater role
    Promote(PromoteArgs),
    /// Shut a machine out of the fleet for good
    Revoke(RevokeArgs),
    /// Shut a machine out for good and hide all that is on it
    Retire(RevokeArgs),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub struct PeerArgs {
    /// The machine's name, its key, or a unique beginning of its key
    peer: String,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    peer: PeerArgs,
    /// What the machine may do from now on: write, or also invite and revoke
    #[arg(long)]
    role: Greater,
}

/// The roles that can be given to a machine that is in the fleet.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Greater {
    Member,
    Admin,
}

#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    #[command(flatten)]
    peer: PeerArgs,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(verb: Verb, context: Context) -> Result<(), Failure> {
    match verb {
        Verb::List(args) => list(args, context).await,
        Verb::Pause(args) => {
            let path = ["v1", "peers", &args.peer, "pause"];
            let answer = context.client.post(&path, None::<&()>).await?;
            say(context, &args, &answer, "paused; go on with `sessionmesh peer resume`")
        }
        Verb::Resume(args) => {
            let path = ["v1", "peers", &args.peer, "resume"];
            let answer = context.client.post(&path, None::<&()>).await?;
            say(context, &args, &answer, "resumed")
        }
        Verb::Promote(PromoteArgs { peer: args, role }) => {
            let (role, said) = match role {
                Greater::Member => (Role::Member, "a member now"),
                Greater::Admin => (Role::Admin, "an admin now"),
            };
            let path = ["v1", "peers", &args.peer, "promote"];
            let answer = context.client.post(&path, Some(&PromoteBody { role })).await?;
            say(context, &args, &answer, said)
        }
        Verb::Revoke(RevokeArgs { peer: args, yes }) => {
            if !yes && !confirmed(&args.peer, "Revoke", "its links close").await {
                return Err(Failure::Declined(args.peer));
            }
            let answer = context.client.delete(&["v1", "peers", &args.peer], &[]).await?;
            say(context, &args, &answer, "revoked")
        }
        Verb::Retire(RevokeArgs { peer: args, yes }) => {
            let what = "its sessions and workspaces are hidden on every machine";
            if !yes && !confirmed(&args.peer, "Retire", what).await {
                return Err(Failure::Declined(args.peer));
            }
            let path = ["v1", "peers", &args.peer, "retire"];
            let answer = context.client.post(&path, None::<&()>).await?;
            say(context, &args, &answer, "retired; its name is free")
        }
    }
}

pub async fn list(args: ListArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let answer = client.get(&["v1", "peers"], &[]).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    let peers: Vec<Peer> = answer.read()?;
    if peers.is_empty() && out.is_terminal() {
        return out.line("no other machine yet; `sessionmesh invite` prints a ticket for one");
    }
    let mut table = Table::new(&["NAME", "NODE", "ROLE", "STATE", "RTT", "ADDRESSES"]);
    for peer in peers {
        let role = serde_json::to_value(peer.role).unwrap_or_default();
        let addresses: Vec<_> = peer.addresses.iter().map(String::as_str).collect();
        table.row([
            called(&peer),
            peer.node.short(),
            role.as_str().unwrap_or_default().to_owned(),
            state(&peer),
            peer.rtt_ms.map(|ms| format!("{ms:.1} ms")).unwrap_or_default(),
            addresses.join(" "),
        ]);
    }
    out.table(&table)
}

/// Returns what a peer calls itself, and the name that commands take where that is another one.
fn called(peer: &Peer) -> String {
    if peer.name == peer.admitted_as {
        return peer.name.clone();
    }
    format!("{} (admitted as {})", peer.name, peer.admitted_as)
}

fn say(
    context: Context,
    args: &PeerArgs,
    answer: &super::client::Answer,
    done: &str,
) -> Result<(), Failure> {
    let mut out = context.out;
    if args.json.json {
        return out.line(&answer.0);
    }
    let PeerChanged { node } = answer.read()?;
    out.line(&format!("{} ({}) is {done}", printable(&args.peer), node.short()))
}

fn state(peer: &Peer) -> String {
    let state = if peer.revoked {
        "revoked"
    } else if peer.paused {
        "paused"
    } else if peer.connected && peer.in_sync {
        "in sync"
    } else if peer.connected {
        "syncing"
    } else {
        "away"
    };
    let state = match &peer.problem {
        Some(problem) => format!("{state}: {problem}"),
        None => state.to_owned(),
    };
    match &peer.left_out {
        Some(left_out) => format!("{state}; {left_out}"),
        None => state,
    }
}

/// Asks on a terminal; where nobody can be asked, what was typed was meant.
async fn confirmed(peer: &str, verb: &str, what: &str) -> bool {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return true;
    }
    remark(&format!(
        "{} will never be let in again with its present key, and {what}.",
        printable(peer)
    ));
    let mut stderr = std::io::stderr();
    let asked = write!(stderr, "{verb} it? [y/N] ").and_then(|()| stderr.flush());
    let read = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = read.await.map_or(String::new(), Result::unwrap_or_default);
    asked.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::ids::NodeId;

    #[test]
    fn a_peer_has_one_state_and_what_is_wrong_with_it() {
        let peer = Peer {
            node: NodeId([1; 32]),
            name: "linux".to_owned(),
            admitted_as: "linux".to_owned(),
            role: Role::Member,
            connected: true,
            paused: false,
            in_sync: true,
            left_out: None,
            addresses: Default::default(),
            rtt_ms: None,
            revoked: false,
            problem: None,
        };
        assert_eq!(state(&peer), "in sync");
        let twins = Some("two daemons with its key".to_owned());
        assert_eq!(
            state(&Peer { problem: twins, ..peer.clone() }),
            "in sync: two daemons with its key"
        );
        assert_eq!(state(&Peer { in_sync: false, ..peer.clone() }), "syncing");
        let problem = Some("no route".to_owned());
        assert_eq!(state(&Peer { connected: false, problem, ..peer.clone() }), "away: no route");
        assert_eq!(state(&Peer { paused: true, ..peer.clone() }), "paused");
        assert_eq!(state(&Peer { revoked: true, ..peer }), "revoked");
    }
}
