//! Owns `sessionmesh session …`.
//!
//! Must not know the rules of a session's life. Invariant: flags have the names of the API's
//! fields.

use clap::Subcommand;

use super::{
    Context,
    args::{self, ChangeExtra, Json, SetExtra},
    explain,
    failure::Failure,
    printable::{ago, utc},
    resolve::resolve,
    table::Table,
    undo::{self, RestoreArgs, SessionDeleteArgs},
};
use crate::{
    api::body::SessionChanges,
    clock::wall_ms,
    config,
    replica::{
        command::NewSession,
        explain::Kind,
        ids::SessionId,
        record::{Session, Workspace},
    },
};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List sessions, the newest first; live and stranded ones if nothing else is said
    List(ListArgs),
    /// Show one session
    Show(ShowArgs),
    /// Make a session
    Create(CreateArgs),
    /// Change a session's title or free fields
    Update(UpdateArgs),
    /// Put a session into another workspace of its machine, or into none
    Move(MoveArgs),
    /// Put a session aside; it goes on living
    Archive(ArchiveArgs),
    /// Delete a session with its children, and its workspace if it is the last one there
    Delete(SessionDeleteArgs),
    /// Undo a delete, whole
    Restore(RestoreArgs),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only those in these states
    #[arg(long, value_delimiter = ',', value_parser = ["live", "stranded", "deleted", "all"])]
    state: Vec<String>,
    /// Whatever their state
    #[arg(long, conflicts_with = "state")]
    all: bool,
    /// Only those in this workspace
    #[arg(long, value_name = "WORKSPACE")]
    workspace: Option<String>,
    /// Only those on this machine
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only those of this project
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
    /// Only those with this in their texts
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Its id, or a unique beginning of it; ID@HOST where two machines have it
    id: String,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// What a person calls it
    #[arg(long)]
    title: Option<String>,
    /// The workspace to put it into
    #[arg(long)]
    workspace: Option<String>,
    /// The session that it is started from
    #[arg(long)]
    parent: Option<String>,
    /// The machine; the workspace's or the parent's, else this one, if nothing is said
    #[arg(long)]
    host: Option<String>,
    /// Where it works on its machine
    #[arg(long, value_name = "DIR", value_parser = config::parse_directory)]
    directory: Option<String>,
    /// The agent's name for the project
    #[arg(long)]
    project: Option<String>,
    #[command(flatten)]
    extra: SetExtra,
    /// Its id; a new one is made if nothing is said
    #[arg(long)]
    id: Option<SessionId>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
#[group(id = "changes", args = ["title", "set", "unset"], required = true, multiple = true)]
pub struct UpdateArgs {
    /// Its id, or a unique beginning of it
    id: String,
    /// What a person calls it; an empty one takes the title away
    #[arg(long)]
    title: Option<String>,
    #[command(flatten)]
    extra: ChangeExtra,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
#[group(id = "where", args = ["workspace", "out"], required = true, multiple = false)]
pub struct MoveArgs {
    /// Its id, or a unique beginning of it
    id: String,
    /// The workspace, on the same machine
    workspace: Option<String>,
    /// Into no workspace
    #[arg(long)]
    out: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub struct ArchiveArgs {
    /// Its id, or a unique beginning of it
    id: String,
    /// Take it up again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    json: Json,
}

pub async fn run(verb: Verb, context: Context) -> Result<(), Failure> {
    match verb {
        Verb::List(args) => list(args, context).await,
        Verb::Show(args) => show(args, context).await,
        Verb::Create(args) => create(args, context).await,
        Verb::Update(UpdateArgs { id, title, extra, json }) => {
            let title = title.map(args::emptied);
            let changes = SessionChanges { title, extra: extra.changes(), ..Default::default() };
            change(&id, &changes, json, "updated", context).await
        }
        Verb::Move(MoveArgs { id, workspace, out: _, json }) => {
            let workspace = match workspace {
                Some(text) => Some(resolve::<Workspace>(&context.client, &text).await?.record.id),
                None => None,
            };
            let changes = SessionChanges { workspace_id: Some(workspace), ..Default::default() };
            change(&id, &changes, json, "moved", context).await
        }
        Verb::Archive(ArchiveArgs { id, undo, json }) => {
            let archived_at = Some((!undo).then(wall_ms));
            let changes = SessionChanges { archived_at, ..Default::default() };
            let done = if undo { "taken up again" } else { "archived" };
            change(&id, &changes, json, done, context).await
        }
        Verb::Delete(args) => undo::delete_session(args, context).await,
        Verb::Restore(args) => undo::restore_session(args, context).await,
    }
}

async fn list(args: ListArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let state = if args.all { "all".to_owned() } else { args.state.join(",") };
    let (mut workspace, mut host) = (None, args.host);
    if let Some(text) = &args.workspace {
        let found = resolve::<Workspace>(&client, text).await?.record;
        // Its id alone may be that of another machine's, too.
        host.get_or_insert_with(|| found.host.to_string());
        workspace = Some(found.id.to_string());
    }
    let query = [
        ("state", Some(state).filter(|state| !state.is_empty())),
        ("workspace_id", workspace),
        ("host", host),
        ("project_id", args.project),
        ("search", args.search),
    ];
    let query: Vec<_> =
        query.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let answer = client.list("sessions", &query, args.limit.map(|n| n as usize)).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    let page: Page = answer.read()?;
    if page.sessions.is_empty() && out.is_terminal() {
        return out.line("no sessions");
    }
    let (names, now) = (client.names().await?, wall_ms());
    let mut table = Table::new(&["ID", "TITLE", "HOST", "STATE", "WORKSPACE", "UPDATED"]);
    for session in page.sessions {
        table.row([
            session.id.to_string(),
            session.title.clone().unwrap_or_default(),
            names.of(&session.host),
            state_of(&session),
            session.workspace_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            if out.is_terminal() { ago(now, session.updated_at) } else { utc(session.updated_at) },
        ]);
    }
    out.table(&table)
}

async fn show(args: ShowArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let found = match resolve::<Session>(&client, &args.id).await {
        Err(missing @ Failure::NotFound { .. }) => {
            return match explain::of(&client, &args.id, Kind::Session).await? {
                Some(gone) => explain::show_gone(&client, &gone, args.json.json, &mut out).await,
                None => Err(missing),
            };
        }
        found => found?,
    };
    if args.json.json {
        let answer = client.get(&["v1", "sessions", &found.name], &[]).await?;
        return out.line(&answer.0);
    }
    let (names, session) = (client.names().await?, found.record);
    let state = state_of(&session);
    let mut facts = vec![
        ("id", session.id.to_string()),
        ("title", session.title.unwrap_or_default()),
        ("state", state),
        ("host", format!("{} ({})", names.of(&session.host), session.host)),
        ("workspace", session.workspace_id.map(|id| id.to_string()).unwrap_or_default()),
        ("parent", session.parent_id.map(|id| id.to_string()).unwrap_or_default()),
        ("project", session.project_id.unwrap_or_default()),
        ("directory", session.directory.unwrap_or_default()),
        ("created", utc(session.created_at)),
        ("updated", utc(session.updated_at)),
    ];
    facts.extend(session.archived_at.map(|at| ("archived", utc(at))));
    facts.extend(session.agent.map(|agent| ("agent", agent)));
    facts.extend(session.agent_server.map(|server| ("server", server)));
    if let Some(deleted) = session.deleted {
        facts.push(("deleted", format!("{} by {}", utc(deleted.at), names.of(&deleted.by))));
        facts.push(("operation", deleted.operation.to_string()));
    }
    facts.extend(session.extra.into_iter().map(|(key, value)| ("extra", format!("{key}={value}"))));
    out.facts(&facts)
}

async fn create(args: CreateArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let workspace_id = match &args.workspace {
        Some(text) => {
            let found = resolve::<Workspace>(&client, text).await?.record;
            Some(format!("{}@{}", found.id, found.host))
        }
        None => None,
    };
    let parent_id = match &args.parent {
        Some(text) => Some(resolve::<Session>(&client, text).await?.record.id),
        None => None,
    };
    let session = NewSession {
        id: args.id,
        host: args.host,
        workspace_id,
        parent_id,
        project_id: args.project,
        directory: args.directory,
        title: args.title,
        extra: args.extra.set.into_iter().collect(),
    };
    let answer = client.post(&["v1", "sessions"], Some(&session)).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    out.line(answer.read::<Session>()?.id.as_str())
}

async fn change(
    id: &str,
    changes: &SessionChanges,
    json: Json,
    done: &str,
    context: Context,
) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let name = resolve::<Session>(&client, id).await?.name;
    let answer = client.patch(&["v1", "sessions", &name], changes).await?;
    if json.json {
        return out.line(&answer.0);
    }
    out.line(&format!("{} is {done}", answer.read::<Session>()?.id))
}

#[derive(serde::Deserialize)]
struct Page {
    sessions: Vec<Session>,
}

fn state_of(session: &Session) -> String {
    let state = serde_json::to_value(session.state).unwrap_or_default();
    let state = state.as_str().unwrap_or_default();
    let archived = if session.archived_at.is_some() { ", archived" } else { "" };
    format!("{state}{archived}")
}
