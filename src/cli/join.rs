//! Owns `sessionmesh join`.
//!
//! Must not know what is in a ticket. Invariant: it says done only when this node is a member.

use super::{Context, args::Json, failure::Failure, progress::Progress};
use crate::api::{body::JoinBody, fleet::InFleet};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What `sessionmesh invite` printed on a machine of the fleet
    ticket: String,
    #[command(flatten)]
    json: Json,
}

pub async fn run(args: Args, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let progress = Progress::start("waiting for the machine that wrote the ticket");
    let body = JoinBody { ticket: args.ticket };
    let answer = client.post(&["v1", "join"], Some(&body)).await;
    drop(progress);
    let answer = answer?;
    if args.json.json {
        return out.line(&answer.0);
    }
    let InFleet { fleet } = answer.read()?;
    out.line(&format!("joined fleet {fleet}; see `sessionmesh peers`"))
}
