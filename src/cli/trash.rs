//! Owns `sessionmesh trash …`: what machines keep of what they have ended.
//!
//! Must not know where an entry lies nor how it is put back. Invariant: nothing is deleted for good
//! that was not named or agreed to.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use clap::Subcommand;

use super::{
    Context,
    args::Json,
    client::{Answer, Client},
    failure::{Failure, Refused},
    output::{Output, remark},
    printable::{ago, count, printable, size, until, utc},
    progress::Progress,
    table::Table,
};
use crate::{
    api::trash::{RestoreBody, TrashList, TrashRestored},
    clock::wall_ms,
    config,
    replica::{
        ids::{NodeId, TrashId},
        trash::{Held, TrashEntry, TrashKind, TrashListed, TrashState},
    },
};

/// How many entries an ambiguous prefix is said to fit.
const CANDIDATES_MAX: usize = 8;
/// How long to wait for another machine to put something back: it takes a moment if it is connected.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const ELSEWHERE_POLL: Duration = Duration::from_millis(200);

/// How often it is looked whether a large folder is deleted.
const DELETE_POLL: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List what every machine keeps of what it has ended, the newest first
    List(ListArgs),
    /// Show one thing that is kept
    Show(ShowArgs),
    /// Put a folder back to where it was, or a conversation into its agent
    Restore(RestoreArgs),
    /// Delete what this machine keeps for good, all of it or one thing
    Empty(EmptyArgs),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only what this machine keeps
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The id that it had, or a unique beginning of it; ID@HOST where two machines keep it
    id: String,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// The id that it had, or a unique beginning of it; ID@HOST where two machines keep it
    id: String,
    /// Where to, on this machine; a conversation is written there as a file [default: where it was]
    #[arg(long, value_name = "DIR", value_parser = config::parse_directory)]
    to: Option<String>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub struct EmptyArgs {
    /// Only this: the id that it had, or a unique beginning of it
    id: Option<String>,
    /// Only what was ended so long ago
    #[arg(long, value_name = "TIME", value_parser = config::parse_duration)]
    older_than: Option<Duration>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    json: Json,
}

pub async fn run(verb: Verb, context: Context) -> Result<(), Failure> {
    match verb {
        Verb::List(args) => list(args, context).await,
        Verb::Show(args) => show(args, context).await,
        Verb::Restore(args) => restore(args, context).await,
        Verb::Empty(args) => empty(args, context).await,
    }
}

async fn list(args: ListArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let query: Vec<_> = args.host.iter().map(|host| ("host", host.as_str())).collect();
    let answer = client.get(&["v1", "trash"], &query).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    let list: TrashList = answer.read()?;
    if list.entries.is_empty() && out.is_terminal() {
        return out.line("nothing is kept");
    }
    let (names, now) = (client.names().await?, wall_ms());
    let mut table = Table::new(&[
        "ID", "KIND", "NAME", "HOST", "ENDED", "UNTIL", "SIZE", "STATE", "WHY", "HELD", "FROM",
    ]);
    for listed in list.entries {
        let entry = listed.entry;
        table.row([
            entry.id,
            kind(entry.kind).to_owned(),
            entry.name,
            names.of(&entry.host),
            ago(now, entry.ended_at),
            until(now, entry.expires_at),
            size(entry.bytes),
            state(entry.state).to_owned(),
            entry.reason.unwrap_or_default(),
            entry.held.as_ref().map(held).unwrap_or_default(),
            entry.directory.unwrap_or_default(),
        ]);
    }
    out.table(&table)
}

async fn show(args: ShowArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let (answer, listed) = find(&client, &args.id).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    let (names, now) = (client.names().await?, wall_ms());
    let TrashListed { entry, requests } = listed;
    let expires = format!("{} ({})", utc(entry.expires_at), until(now, entry.expires_at));
    let mut facts = vec![
        ("id", entry.id),
        ("kind", kind(entry.kind).to_owned()),
        ("name", entry.name),
        ("state", state(entry.state).to_owned()),
        ("host", format!("{} ({})", names.of(&entry.host), entry.host)),
        ("from", entry.directory.unwrap_or_default()),
        ("ended", utc(entry.ended_at)),
        ("kept until", expires),
        ("size", size(entry.bytes)),
    ];
    facts.extend(entry.branch.map(|branch| ("branch", branch)));
    facts.extend(entry.commit.map(|commit| ("commit", commit)));
    facts.extend(entry.reason.map(|reason| ("why", reason)));
    facts.extend(entry.held.as_ref().map(|it| ("held", held(it))));
    let nested = entry.held.map(|held| held.nested).unwrap_or_default();
    facts.extend(nested.into_iter().map(|path| ("repository", path)));
    facts.extend(entry.place.map(|place| ("place", place)));
    facts.extend(entry.restored_as.map(|place| ("restored as", place)));
    facts.extend(entry.problem.map(|problem| ("problem", problem)));
    let mut asked: Vec<_> = requests.values().map(|node| names.of(node)).collect();
    asked.dedup();
    facts.extend(asked.into_iter().map(|name| ("asked for by", name)));
    out.facts(&facts)
}

async fn restore(args: RestoreArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let (_, TrashListed { entry, .. }) = find(&client, &args.id).await?;
    let name = format!("{}@{}", entry.id, entry.host);
    let path = ["v1", "trash", &name, "restore"];
    let answer = client.post(&path, Some(&RestoreBody { directory: args.to })).await?;
    let restored: TrashRestored = answer.read()?;
    if restored.restored_as.is_some() {
        return say(&answer, &restored, args.json, &mut out);
    }
    let listed = await_host(&client, &name, entry.host).await?;
    if args.json.json {
        return out.json(&TrashRestored {
            restored_as: listed.entry.restored_as.clone(),
            entry: listed,
            notes: Vec::new(),
        });
    }
    out.line(&restored_line(&listed))
}

/// Says what came of a restore on this machine.
fn say(
    answer: &Answer,
    restored: &TrashRestored,
    json: Json,
    out: &mut Output,
) -> Result<(), Failure> {
    if json.json {
        return out.line(&answer.0);
    }
    let mut listed = restored.entry.clone();
    listed.entry.restored_as.clone_from(&restored.restored_as);
    out.line(&restored_line(&listed))?;
    restored.notes.iter().try_for_each(|note| out.line(&format!("  {}", printable(note))))
}

fn restored_line(listed: &TrashListed) -> String {
    let entry = &listed.entry;
    let place = entry.restored_as.as_deref().unwrap_or_default();
    let (kind, name) = (kind(entry.kind), printable(&entry.name));
    format!("restored {kind} {} \"{name}\" as {}", entry.id, printable(place))
}

/// Waits until another machine has put something back, or says why it has not.
async fn await_host(client: &Client, name: &str, host: NodeId) -> Result<TrashListed, Failure> {
    let names = client.names().await?;
    let called = printable(&names.of(&host));
    let peers = client.peers().await?;
    let is_connected = peers.iter().any(|peer| peer.node == host && peer.connected);
    let _progress = Progress::start(format!("waiting for {called}"));
    let client = client.clone().quiet();
    let until = Instant::now() + ELSEWHERE_WITHIN;
    loop {
        let listed: TrashListed = client.get(&["v1", "trash", name], &[]).await?.read()?;
        let is_answered = listed.requests.is_empty();
        if listed.entry.state == TrashState::Restored {
            return Ok(listed);
        }
        if is_answered && let Some(why) = listed.entry.problem {
            return Err(Failure::NotPutBack { host: called, why });
        }
        if !is_connected || Instant::now() >= until {
            let id = listed.entry.id;
            return Err(Failure::Asked { id, host: called });
        }
        tokio::time::sleep(ELSEWHERE_POLL).await;
    }
}

async fn empty(args: EmptyArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let due = to_delete(&client, &args).await?;
    if due.is_empty() {
        return if args.json.json {
            out.line("{\"deleted\":[]}")
        } else {
            out.line("nothing to delete")
        };
    }
    let bytes = due.iter().map(|listed| listed.entry.bytes).sum();
    let what = format!("{} ({})", count(due.len(), "item"), size(bytes));
    if !args.yes && !confirmed(&due, &what).await? {
        return Err(Failure::Declined(what));
    }
    let progress = Progress::start("deleting");
    let client = client.quiet();
    let (mut deleted, mut failed) = (Vec::new(), None);
    for (number, TrashListed { entry, .. }) in due.iter().enumerate() {
        progress.say(format!("deleting {} of {}: {}", number + 1, due.len(), entry.id));
        let name = format!("{}@{}", entry.id, entry.host);
        match client.delete(&["v1", "trash", &name], &[]).await {
            Ok(_) => deleted.push(entry.id.clone()),
            Err(Failure::Interrupted(_)) => match await_end(&client, &name).await {
                Ok(()) => deleted.push(entry.id.clone()),
                Err(failure) => failed = failed.or(Some(failure)),
            },
            // Its time may have come meanwhile.
            Err(Failure::Refused(Refused { status: 404, .. })) if args.id.is_none() => {}
            Err(failure) => failed = failed.or(Some(failure)),
        }
    }
    drop(progress);
    if args.json.json {
        out.json(&serde_json::json!({ "deleted": deleted }))?;
    } else if !deleted.is_empty() {
        out.line(&format!("deleted {} for good", count(deleted.len(), "item")))?;
    }
    failed.map_or(Ok(()), Err)
}

/// Waits for the end of a delete that takes longer than a request may: the daemon goes on with it.
async fn await_end(client: &Client, name: &str) -> Result<(), Failure> {
    loop {
        match client.get(&["v1", "trash", name], &[]).await {
            Err(Failure::Refused(Refused { status: 404, .. })) => return Ok(()),
            Err(failure) => return Err(failure),
            Ok(answer) => {
                let entry = answer.read::<TrashListed>()?.entry;
                if entry.state == TrashState::Stuck {
                    let why = entry.problem.unwrap_or_else(|| "it is not said why".to_owned());
                    return Err(Failure::NotDeleted { id: entry.id, why });
                }
            }
        }
        tokio::time::sleep(DELETE_POLL).await;
    }
}

/// Finds what is meant: of this machine only, unless another machine's is named, which then refuses.
async fn to_delete(client: &Client, args: &EmptyArgs) -> Result<Vec<TrashListed>, Failure> {
    let mut due = match &args.id {
        Some(id) => vec![find(client, id).await?.1],
        None => {
            let own = client.status().await?.node.to_string();
            client.get(&["v1", "trash"], &[("host", &own)]).await?.read::<TrashList>()?.entries
        }
    };
    if let Some(age) = args.older_than {
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let before = wall_ms().saturating_sub(age_ms);
        due.retain(|listed| listed.entry.ended_at <= before);
    }
    Ok(due)
}

/// Asks on a terminal; where nobody can be asked, it must have been said before.
async fn confirmed(due: &[TrashListed], what: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let what = format!("{what} would be deleted for good, and there is nobody to ask");
        return Err(Failure::Usage { what, hint: "say --yes" });
    }
    for TrashListed { entry, .. } in due.iter().take(CANDIDATES_MAX) {
        let held = entry.held.as_ref().map(held).unwrap_or_default();
        let name = printable(&entry.name);
        remark(&format!("  {} \"{name}\"  {}  {held}", entry.id, size(entry.bytes)));
    }
    if due.len() > CANDIDATES_MAX {
        remark(&format!("  and {} more", due.len() - CANDIDATES_MAX));
    }
    let mut stderr = std::io::stderr();
    let asked = write!(stderr, "Delete {what} for good? [y/N] ").and_then(|()| stderr.flush());
    let read = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = read.await.map_or(String::new(), Result::unwrap_or_default);
    Ok(asked.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Finds the entry of an id, of a unique prefix of one, or of either with `@HOST`.
pub async fn find(client: &Client, text: &str) -> Result<(Answer, TrashListed), Failure> {
    let id = text.split('@').next().unwrap_or_default();
    if id.parse::<TrashId>().is_err() {
        let what = format!("`{text}` is no id of anything that is kept");
        return Err(Failure::Usage { what, hint: "ids are 1 to 64 of A-Z a-z 0-9 _ -" });
    }
    match client.get(&["v1", "trash", text], &[]).await {
        Ok(answer) => {
            let listed = answer.read()?;
            return Ok((answer, listed));
        }
        Err(Failure::Refused(Refused { status: 404, code, .. })) if code != "node_not_found" => {}
        Err(failure) => return Err(failure),
    }
    let host = text.split_once('@').map(|(_, host)| host).filter(|host| !host.is_empty());
    let query: Vec<_> = host.map(|host| ("host", host)).into_iter().collect();
    let list: TrashList = client.get(&["v1", "trash"], &query).await?.read()?;
    let fits = list.entries.into_iter().filter(|listed| listed.entry.id.starts_with(id));
    let mut names: Vec<_> =
        fits.map(|listed| format!("{}@{}", listed.entry.id, listed.entry.host)).collect();
    names.dedup();
    match names.as_slice() {
        [] => Err(Failure::NotFound { kind: "trash", text: text.to_owned() }),
        [name] => {
            let answer = client.get(&["v1", "trash", name], &[]).await?;
            let listed = answer.read()?;
            Ok((answer, listed))
        }
        many => Err(Failure::Ambiguous {
            text: text.to_owned(),
            candidates: many.iter().take(CANDIDATES_MAX).cloned().collect(),
            left_out: many.len().saturating_sub(CANDIDATES_MAX),
        }),
    }
}

/// Finds what a host keeps of something that is gone.
pub async fn kept(client: &Client, id: &str, host: NodeId) -> Result<Option<TrashListed>, Failure> {
    match client.get(&["v1", "trash", &format!("{id}@{host}")], &[]).await {
        Ok(answer) => answer.read().map(Some),
        Err(Failure::Refused(Refused { status: 404, .. })) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Says where something that is gone is kept, and how it comes back.
pub fn told(entry: &TrashEntry) -> String {
    match entry.state {
        TrashState::Kept => format!(
            "kept until {}; `sessionmesh trash restore {}` brings it back",
            utc(entry.expires_at),
            entry.id
        ),
        TrashState::Restored => {
            format!("was put back as {}", entry.restored_as.as_deref().unwrap_or_default())
        }
        TrashState::Expiring | TrashState::Stuck => {
            "its time in the trash is over; it is being deleted".to_owned()
        }
    }
}

fn kind(kind: TrashKind) -> &'static str {
    match kind {
        TrashKind::Workspace => "workspace",
        TrashKind::Session => "session",
    }
}

fn state(state: TrashState) -> &'static str {
    match state {
        TrashState::Kept => "kept",
        TrashState::Restored => "restored",
        TrashState::Expiring => "expiring",
        TrashState::Stuck => "stuck",
    }
}

/// Says what a folder held that was nowhere else, and how much that git ignores.
fn held(held: &Held) -> String {
    let counts = [
        (held.uncommitted, "uncommitted"),
        (held.untracked, "untracked"),
        (held.unreached, "unreached"),
        (held.nested.len() as u64, "nested"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let mut parts: Vec<_> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    if held.ignored > 0 {
        parts.push(format!("{} ignored", size(held.ignored)));
    }
    if parts.is_empty() { "nothing else".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_is_said_in_few_words() {
        assert_eq!(held(&Held::default()), "nothing else");
        let nested = vec!["a".to_owned(), "b".to_owned()];
        let full = Held { uncommitted: 3, untracked: 0, unreached: 1, ignored: 5 << 20, nested };
        assert_eq!(held(&full), "3 uncommitted, 1 unreached, 2 nested, 5.0 MiB ignored");
    }
}
