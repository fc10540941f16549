//! Owns `sessionmesh receipt`, and waiting for a delete to be carried out.
//!
//! Must not know how members tell what they hold. Invariant: what is not known to be done is not
//! called done: a wait that ends before the delete is complete fails.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Context,
    args::Json,
    client::{Answer, Client},
    failure::Failure,
    output::Output,
    printable::{count, printable},
};
use crate::{
    config,
    replica::receipt::{Applying, CarryingOut, Ending, Receipt},
};

/// How long a delete is waited for if nothing else is said: the undo window, and time to spare.
pub const WAIT_DEFAULT: &str = "30s";
/// Longest that the daemon is asked to wait at a time.
const WAIT_AT_ONCE: Duration = Duration::from_secs(30);
/// How many sessions are named, one a line.
const SESSIONS_SHOWN_MAX: usize = 10;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The receipt that the delete printed, on the machine that was asked to delete
    receipt: String,
    /// Wait so long until every machine has applied the delete and the agent has carried it out
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        default_missing_value = WAIT_DEFAULT,
        value_parser = config::parse_duration
    )]
    wait: Option<Duration>,
    #[command(flatten)]
    json: Json,
}

pub async fn run(args: Args, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let Args { receipt, wait, json } = args;
    match wait {
        Some(wait) => await_receipt(&client, &receipt, wait, json, &mut out).await,
        None => show(&ask(&client, &receipt, Duration::ZERO).await?, json, &mut out).map(drop),
    }
}

/// Waits until a delete is complete, and shows how far it then is.
pub async fn await_receipt(
    client: &Client,
    receipt: &str,
    wait: Duration,
    json: Json,
    out: &mut Output,
) -> Result<(), Failure> {
    let until = Instant::now() + wait;
    let answer = loop {
        let left = until.saturating_duration_since(Instant::now());
        let answer = ask(client, receipt, left.min(WAIT_AT_ONCE)).await?;
        let told: Receipt = answer.read()?;
        if told.complete || Instant::now() >= until {
            break answer;
        }
    };
    let told = show(&answer, json, out)?;
    if told.complete {
        Ok(())
    } else {
        let (what, receipt) = (outstanding(&told), receipt.to_owned());
        Err(Failure::Incomplete { what, receipt })
    }
}

async fn ask(client: &Client, receipt: &str, wait: Duration) -> Result<Answer, Failure> {
    let wait = format!("{}ms", wait.as_millis());
    client.get(&["v1", "receipts", receipt], &[("wait", &wait)]).await
}

fn show(answer: &Answer, json: Json, out: &mut Output) -> Result<Receipt, Failure> {
    let told: Receipt = answer.read()?;
    if json.json {
        out.line(&answer.0)?;
        return Ok(told);
    }
    let state = |state: Applying| match state {
        Applying::Applied => "applied",
        Applying::Pending => "pending",
        Applying::Unreachable => "unreachable",
    };
    for member in &told.members {
        out.line(&format!("{}: {}", printable(&member.name), state(member.state)))?;
    }
    for session in told.sessions.iter().take(SESSIONS_SHOWN_MAX) {
        let ending = match session.state {
            Ending::Deleted => "deleted, can be undone until its host carries that out",
            Ending::Restored => "restored",
            Ending::Purged => "deleted for good",
            Ending::Hidden => "hidden: its host was retired",
        };
        let server = session.agent_server.as_deref().map(printable).unwrap_or_default();
        let agent = match session.agent {
            None => String::new(),
            Some(CarryingOut::Pending) => format!("; {server} is still to delete it"),
            Some(CarryingOut::Done) => format!("; {server} has it no more"),
            Some(CarryingOut::Unasked) => format!("; {server} was not asked by its host"),
        };
        out.line(&format!("session {}: {ending}{agent}", session.id))?;
    }
    match told.sessions.len().saturating_sub(SESSIONS_SHOWN_MAX) {
        0 => {}
        more => out.line(&format!("and {more} more"))?,
    }
    Ok(told)
}

/// Says in one line what a delete still waits for.
fn outstanding(told: &Receipt) -> String {
    let of = |state: Applying| {
        let members = told.members.iter().filter(move |member| member.state == state);
        members.map(|member| member.name.clone()).collect::<Vec<_>>().join(", ")
    };
    let left = told.sessions.iter().filter(|s| s.agent == Some(CarryingOut::Pending)).count();
    let parts = [
        (of(Applying::Pending), "not yet applied by "),
        (of(Applying::Unreachable), "no link to "),
        (if left > 0 { count(left, "session") } else { String::new() }, "the agent still has "),
    ];
    let said = parts.iter().filter(|(who, _)| !who.is_empty());
    said.map(|(who, what)| format!("{what}{who}")).collect::<Vec<_>>().join("; ")
}
