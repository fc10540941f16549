//! Owns `sessionmesh step-down`.
//!
//! Must not know how admins are told apart. Invariant: it says what has changed, and what has not.

use super::{Context, args::Json, failure::Failure};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    json: Json,
}

pub async fn run(args: Args, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let answer = client.post(&["v1", "step-down"], None::<&()>).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    out.line("this machine is no admin any more, and can't be one again with this key; it stays a member")
}
