//! Owns `sessionmesh invite`.
//!
//! Must not know what is in a ticket. Invariant: where stdout is no terminal it gets the ticket and
//! nothing else.

use std::time::Duration;

use super::{
    Context,
    args::{self, Json},
    failure::Failure,
    printable::utc,
};
use crate::{
    api::{body::InviteBody, fleet::Invited},
    replica::record::Role,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the new machine may do: write, only receive, or also invite and revoke
    #[arg(long, default_value = "member", value_parser = args::named::<Role>(&["member", "reader", "admin"]))]
    role: Role,
    /// How long the ticket is good for
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = args::parse_positive_duration)]
    expires: Duration,
    #[command(flatten)]
    json: Json,
}

pub async fn run(args: Args, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let body = InviteBody { role: Some(args.role), expires_in_s: Some(args.expires.as_secs()) };
    let answer = client.post(&["v1", "invites"], Some(&body)).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    let invited: Invited = answer.read()?;
    if !out.is_terminal() {
        return out.line(&invited.ticket);
    }
    let until = utc(invited.expires_at);
    out.line(&format!("On the other machine, once, until {until}:\n"))?;
    out.line(&format!("  sessionmesh serve --join {}\n", invited.ticket))?;
    out.line("or, where a daemon runs already, `sessionmesh join` with the same ticket.")
}
