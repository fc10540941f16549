//! Owns `sessionmesh leave`.
//!
//! Must not know what becomes of the documents. Invariant: it says which fleet is this node's now.

use super::{Context, args::Json, failure::Failure};
use crate::api::fleet::InFleet;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    json: Json,
}

pub async fn run(args: Args, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let answer = client.post(&["v1", "leave"], None::<&()>).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    let InFleet { fleet } = answer.read()?;
    out.line(&format!("left; this machine is now alone in fleet {fleet}"))
}
