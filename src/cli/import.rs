//! Owns `sessionmesh import`.
//!
//! Must not know an agent's API. Invariant: nothing is taken in before everything is read.

use clap::Subcommand;

use super::{Context, args::Json, failure::Failure, printable::count, progress::Progress};
use crate::{
    agent::opencode::{self, Listing, Places},
    replica::command::Imported,
};

/// The password of an opencode server, as opencode itself reads it.
const PASSWORD_ENV: &str = "OPENCODE_SERVER_PASSWORD";
/// Most records in one request: it is one change in the document, and a quarter of a megabyte.
const BATCH_RECORDS: usize = 500;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Take in the projects, sessions and workspaces of an opencode server
    #[command(after_help = "A password is read from OPENCODE_SERVER_PASSWORD.")]
    Opencode(OpencodeArgs),
}

#[derive(Debug, clap::Args)]
pub struct OpencodeArgs {
    /// Where it is, as `opencode serve` prints it: http://HOST:PORT
    url: String,
    #[command(flatten)]
    json: Json,
}

/// Reads the password of opencode servers, if one is set.
pub fn password() -> Option<String> {
    std::env::var(PASSWORD_ENV).ok().filter(|password| !password.is_empty())
}

pub async fn run(verb: Verb, context: Context) -> Result<(), Failure> {
    let Verb::Opencode(args) = verb;
    let Context { client, mut out } = context;
    // Who forgot to start the daemon learns it before the long part.
    client.status().await?;
    let opencode = opencode::Client::new(&args.url, password())?;
    let progress = Progress::start("waiting for opencode");
    let version = opencode.version().await?;
    let listing = Listing::read(&opencode, |done, of| {
        progress.say(format!("reading opencode's project {done} of {of}"));
    })
    .await?;
    let mapped = listing.map(&Places::default());
    let batches = mapped.batches(BATCH_RECORDS);
    let mut total = Imported { skipped: mapped.left_out.len() as u64, ..Imported::default() };
    for (done, batch) in batches.iter().enumerate() {
        progress.say(format!("taking in part {} of {}", done + 1, batches.len()));
        let imported: Imported = client.post(&["v1", "import"], Some(batch)).await?.read()?;
        total.created += imported.created;
        total.updated += imported.updated;
        total.unchanged += imported.unchanged;
        total.skipped += imported.skipped;
    }
    drop(progress);
    if args.json.json {
        return out.json(&total);
    }
    if let Some(left_out) = mapped.left_out.told() {
        out.line(&super::printable::printable(&left_out))?;
    }
    let Imported { created, updated, unchanged, skipped } = total;
    out.line(&format!(
        "read {}, {} and {} from opencode {version}",
        count(listing.projects, "project"),
        count(mapped.import.sessions.len(), "session"),
        count(mapped.import.workspaces.len(), "workspace"),
        version = super::printable::printable(&version),
    ))?;
    out.line(&format!(
        "created {created}, updated {updated}, unchanged {unchanged}, skipped {skipped}"
    ))
}
