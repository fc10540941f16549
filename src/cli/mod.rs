//! Owns the command line: what can be typed, and which verb is meant by it.
//!
//! Must not know how a daemon works: every verb but `serve` is a client of its API. Invariant:
//! results go to stdout and everything else to stderr, so that results can be piped.

pub mod args;
mod bench;
pub mod client;
mod completions;
mod doctor;
mod explain;
pub mod failure;
mod import;
mod invite;
mod join;
mod leave;
pub mod output;
mod peer;
pub mod printable;
mod progress;
mod receipt;
mod repair;
mod resolve;
mod serve;
mod session;
mod status;
mod step_down;
pub mod table;
mod trash;
mod undo;
mod watch;
mod workspace;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use self::{client::Client, failure::Failure, output::Output};
use crate::config;

/// Keeps every machine's list of coding-agent sessions and workspaces the same.
#[derive(Debug, Parser)]
#[command(name = "sessionmesh", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// The data folder of the daemon
    #[arg(long, global = true, env = config::DATA_DIR_ENV, value_name = "D")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon of this machine
    Serve(serve::Args),
    /// Print a one-time ticket with which another machine joins
    Invite(invite::Args),
    /// Tell the running daemon to join a fleet
    Join(join::Args),
    /// Leave the fleet for a new one of this machine's own
    Leave(leave::Args),
    /// Make this machine an admin no more, for good; it stays a member
    StepDown(step_down::Args),
    /// Show how the daemon stands
    Status(status::Args),
    /// List the other machines of the fleet
    Peers(peer::ListArgs),
    /// List, show and change sessions
    #[command(subcommand)]
    Session(session::Verb),
    /// List, show and change workspaces
    #[command(subcommand)]
    Workspace(workspace::Verb),
    /// List what machines keep of what they have ended, have it back, or delete it for good
    #[command(subcommand)]
    Trash(trash::Verb),
    /// List the other machines of the fleet, pause, resume, promote, revoke and retire them
    #[command(subcommand)]
    Peer(peer::Verb),
    /// Tell which changes made a session or a workspace what it is
    Explain(explain::Args),
    /// Show which machines have applied a delete, and whether the agent has carried it out
    Receipt(receipt::Args),
    /// Show every change as it comes
    Watch(watch::Args),
    /// Take in what a coding agent's server has, once
    #[command(subcommand)]
    Import(import::Verb),
    /// Measure a fleet under load
    Bench(Box<bench::Args>),
    /// Look for what is wrong on this machine, and say what to do about it
    Doctor(doctor::Args),
    /// Bring a damaged store back: keep what can be read, have the rest back from peers
    Repair(repair::Args),
    /// Print a script that completes this command in a shell
    Completions(completions::Args),
}

/// What every client verb needs.
struct Context {
    client: Client,
    out: Output,
}

/// Does what was typed.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let out = Output::stdout();
    if let Verb::Completions(args) = cli.verb {
        return completions::run(&args, out);
    }
    if let Verb::Bench(args) = cli.verb {
        return bench::run(*args, out).await;
    }
    let data_dir = config::data_dir(cli.data_dir.as_deref())?;
    if let Verb::Serve(args) = cli.verb {
        return serve::run(args, data_dir, out).await;
    }
    if let Verb::Repair(args) = cli.verb {
        return repair::run(&args, &data_dir, out);
    }
    if let Verb::Doctor(args) = cli.verb {
        return doctor::run(&args, &data_dir, out).await;
    }
    let context = Context { client: Client::open(&data_dir)?, out };
    match cli.verb {
        // None of them needs a daemon to be there already.
        Verb::Serve(_)
        | Verb::Completions(_)
        | Verb::Bench(_)
        | Verb::Repair(_)
        | Verb::Doctor(_) => Ok(()),
        Verb::Invite(args) => invite::run(args, context).await,
        Verb::Join(args) => join::run(args, context).await,
        Verb::Leave(args) => leave::run(args, context).await,
        Verb::StepDown(args) => step_down::run(args, context).await,
        Verb::Status(args) => status::run(args, context).await,
        Verb::Peers(args) => peer::list(args, context).await,
        Verb::Session(verb) => session::run(verb, context).await,
        Verb::Workspace(verb) => workspace::run(verb, context).await,
        Verb::Trash(verb) => trash::run(verb, context).await,
        Verb::Peer(verb) => peer::run(verb, context).await,
        Verb::Explain(args) => explain::run(args, context).await,
        Verb::Receipt(args) => receipt::run(args, context).await,
        Verb::Watch(args) => watch::run(args, context, &data_dir).await,
        Verb::Import(verb) => import::run(verb, context).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parses(line: &str) -> bool {
        Cli::try_parse_from(line.split_whitespace()).is_ok()
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_on_the_page_can_be_typed() {
        for line in [
            "sessionmesh serve",
            "sessionmesh serve --data-dir /d --listen 0.0.0.0:0 --http 127.0.0.1:0 --name n \
             --join T --undo-window 500ms --log-format json",
            "sessionmesh invite --role admin --expires 5m --json",
            "sessionmesh join TICKET",
            "sessionmesh leave --data-dir /d",
            "sessionmesh --data-dir /d status",
            "sessionmesh peers --json",
            "sessionmesh session list --state live,deleted --workspace w --host h --project p \
             --search x --limit 5 --json",
            "sessionmesh session list --all",
            "sessionmesh session show s",
            "sessionmesh session create --title t --workspace w --parent p --host h --directory d \
             --project p --extra k=v --extra k2=v=2 --id ses_1",
            "sessionmesh session update s --title t --extra k=v --unset-extra k2",
            "sessionmesh session move s w",
            "sessionmesh session move s --out",
            "sessionmesh session archive s --undo",
            "sessionmesh session delete s@host --dry-run --json",
            "sessionmesh session delete s --wait",
            "sessionmesh session delete s --wait=1m",
            "sessionmesh receipt rcp_1 --wait 5s --json",
            "sessionmesh explain ses_1@host --json",
            "sessionmesh session restore op_1",
            "sessionmesh workspace list --state vacated",
            "sessionmesh workspace show w",
            "sessionmesh workspace create --name n --kind worktree --directory d --branch b --keep",
            "sessionmesh workspace update w --name n --branch b",
            "sessionmesh workspace delete w --dry-run",
            "sessionmesh workspace restore w",
            "sessionmesh workspace keep w",
            "sessionmesh workspace unkeep w",
            "sessionmesh workspace retry w --force",
            "sessionmesh serve --keep-removed 0 --trash-max 500M --start-grace 0",
            "sessionmesh trash list --host h --json",
            "sessionmesh trash show wrk_1@host --json",
            "sessionmesh trash restore wrk_1 --to /w --json",
            "sessionmesh trash empty",
            "sessionmesh trash empty wrk_1 --older-than 3d --yes --json",
            "sessionmesh peer list",
            "sessionmesh peer pause p",
            "sessionmesh peer resume p",
            "sessionmesh peer revoke p --yes",
            "sessionmesh peer retire p --yes",
            "sessionmesh peer promote p --role admin --json",
            "sessionmesh step-down --json",
            "sessionmesh watch --json",
            "sessionmesh import opencode http://127.0.0.1:4096 --json",
            "sessionmesh repair --json",
            "sessionmesh doctor --json --listen 0.0.0.0:0 --http 127.0.0.1:0",
            "sessionmesh completions bash",
        ] {
            assert!(parses(line), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_code_of_usage() {
        for line in [
            "sessionmesh",
            "sessionmesh frobnicate",
            "sessionmesh serve --undo-window 10",
            "sessionmesh serve --http localhost",
            "sessionmesh serve --name a@b",
            "sessionmesh serve --log-format xml",
            "sessionmesh serve --keep-removed forever",
            "sessionmesh serve --trash-max 20",
            "sessionmesh trash",
            "sessionmesh trash empty --older-than soon",
            "sessionmesh workspace create --name n --kind k --directory file:///w",
            "sessionmesh invite --role king",
            "sessionmesh invite --expires soon",
            "sessionmesh join",
            "sessionmesh session list --state alive",
            "sessionmesh session list --all --state live",
            "sessionmesh session list --limit 0",
            "sessionmesh session delete s --wait --dry-run",
            "sessionmesh receipt rcp_1 --wait 5",
            "sessionmesh session create --extra novalue",
            "sessionmesh session create --id a/b",
            "sessionmesh session update s",
            "sessionmesh session move s",
            "sessionmesh session move s w --out",
            "sessionmesh workspace create --kind directory",
            "sessionmesh workspace update w",
            "sessionmesh import claude http://x",
        ] {
            let refused = Cli::try_parse_from(line.split_whitespace()).err();
            assert_eq!(refused.map(|error| error.exit_code()), Some(2), "{line}");
        }
    }
}
