//! Owns `sessionmesh workspace …`.
//!
//! Must not know the rules of a workspace's life. Invariant: flags have the names of the API's
//! fields.

use clap::Subcommand;

use super::{
    Context,
    args::{self, ChangeExtra, Json, SetExtra},
    explain,
    failure::Failure,
    printable::{printable, utc},
    resolve::resolve,
    table::Table,
    undo::{self, DeleteArgs, RestoreArgs},
};
use crate::{
    api::body::{TeardownBody, WorkspaceChanges},
    config,
    replica::{
        command::NewWorkspace,
        explain::Kind,
        ids::WorkspaceId,
        record::{TeardownAction, Workspace, WorkspaceState},
    },
};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List workspaces, the newest first
    List(ListArgs),
    /// Show one workspace
    Show(WorkspaceArgs),
    /// Make a workspace on this machine
    Create(CreateArgs),
    /// Change a workspace's name, branch or free fields
    Update(UpdateArgs),
    /// Delete a workspace with the sessions in it
    Delete(DeleteArgs),
    /// Undo a delete, whole
    Restore(RestoreArgs),
    /// Let a workspace stay when it is empty
    Keep(WorkspaceArgs),
    /// Let a workspace go when it is empty
    Unkeep(WorkspaceArgs),
    /// Go on with ending a workspace after that has failed
    Retry(RetryArgs),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only those in these states
    #[arg(long, value_delimiter = ',', value_parser = ["live", "vacated", "sealed", "failed", "all"])]
    state: Vec<String>,
    /// Whatever their state
    #[arg(long, conflicts_with = "state")]
    all: bool,
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
pub struct WorkspaceArgs {
    /// Its id, or a unique beginning of it; ID@HOST where two machines have it
    id: String,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// What a person calls it
    #[arg(long)]
    name: String,
    /// How it is ended: `directory`, `worktree`, `container`, …
    #[arg(long)]
    kind: String,
    /// The agent's name for the project
    #[arg(long)]
    project: Option<String>,
    /// Where it is
    #[arg(long, value_name = "DIR", value_parser = config::parse_directory)]
    directory: Option<String>,
    /// The branch checked out in it
    #[arg(long)]
    branch: Option<String>,
    /// Let it stay when it is empty
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    extra: SetExtra,
    /// Its id; a new one is made if nothing is said
    #[arg(long)]
    id: Option<WorkspaceId>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
#[group(id = "changes", args = ["name", "branch", "set", "unset"], required = true, multiple = true)]
pub struct UpdateArgs {
    /// Its id, or a unique beginning of it
    id: String,
    /// What a person calls it
    #[arg(long)]
    name: Option<String>,
    /// The branch checked out in it; an empty one takes it away
    #[arg(long)]
    branch: Option<String>,
    #[command(flatten)]
    extra: ChangeExtra,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub struct RetryArgs {
    #[command(flatten)]
    workspace: WorkspaceArgs,
    /// Go on although something would be lost
    #[arg(long)]
    force: bool,
}

pub async fn run(verb: Verb, context: Context) -> Result<(), Failure> {
    match verb {
        Verb::List(args) => list(args, context).await,
        Verb::Show(args) => show(args, context).await,
        Verb::Create(args) => create(args, context).await,
        Verb::Update(UpdateArgs { id, name, branch, extra, json }) => {
            let branch = branch.map(args::emptied);
            let extra = extra.changes();
            let changes = WorkspaceChanges { name, branch, extra, ..Default::default() };
            change(&WorkspaceArgs { id, json }, &changes, "updated", context).await
        }
        Verb::Delete(args) => undo::delete_workspace(args, context).await,
        Verb::Restore(args) => undo::restore_workspace(args, context).await,
        Verb::Keep(args) => {
            let changes = WorkspaceChanges { keep: Some(true), ..Default::default() };
            change(&args, &changes, "kept, also when it is empty", context).await
        }
        Verb::Unkeep(args) => {
            let changes = WorkspaceChanges { keep: Some(false), ..Default::default() };
            change(&args, &changes, "no longer kept when it is empty", context).await
        }
        Verb::Retry(args) => retry(args, context).await,
    }
}

async fn list(args: ListArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let state = if args.all { "all".to_owned() } else { args.state.join(",") };
    let query = [
        ("state", Some(state).filter(|state| !state.is_empty())),
        ("host", args.host),
        ("project_id", args.project),
        ("search", args.search),
    ];
    let query: Vec<_> =
        query.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let answer = client.list("workspaces", &query, args.limit.map(|n| n as usize)).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    let page: Page = answer.read()?;
    if page.workspaces.is_empty() && out.is_terminal() {
        return out.line("no workspaces");
    }
    let names = client.names().await?;
    let mut table =
        Table::new(&["ID", "NAME", "KIND", "HOST", "STATE", "SESSIONS", "BRANCH", "DIRECTORY"]);
    for workspace in page.workspaces {
        table.row([
            workspace.id.to_string(),
            workspace.name.clone(),
            workspace.kind.clone(),
            names.of(&workspace.host),
            state_of(&workspace),
            workspace.session_count.to_string(),
            workspace.branch.clone().unwrap_or_default(),
            workspace.directory.clone().unwrap_or_default(),
        ]);
    }
    out.table(&table)
}

async fn show(args: WorkspaceArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let found = match resolve::<Workspace>(&client, &args.id).await {
        Err(missing @ Failure::NotFound { .. }) => {
            return match explain::of(&client, &args.id, Kind::Workspace).await? {
                Some(gone) => explain::show_gone(&client, &gone, args.json.json, &mut out).await,
                None => Err(missing),
            };
        }
        found => found?,
    };
    if args.json.json {
        let answer = client.get(&["v1", "workspaces", &found.name], &[]).await?;
        return out.line(&answer.0);
    }
    let (names, workspace) = (client.names().await?, found.record);
    let state = state_of(&workspace);
    let mut facts = vec![
        ("id", workspace.id.to_string()),
        ("name", workspace.name),
        ("kind", workspace.kind),
        ("state", state),
        ("host", format!("{} ({})", names.of(&workspace.host), workspace.host)),
        ("sessions", workspace.session_count.to_string()),
        ("project", workspace.project_id.unwrap_or_default()),
        ("directory", workspace.directory.unwrap_or_default()),
        ("branch", workspace.branch.unwrap_or_default()),
        ("created", utc(workspace.created_at)),
    ];
    facts.extend(workspace.agent_server.map(|server| ("server", server)));
    if workspace.teardown.is_some() {
        let told = explain::of(&client, &found.name, Kind::Workspace).await?;
        let attempts = told.map(|told| told.teardowns).unwrap_or_default();
        facts.extend(attempts.iter().map(|told| ("attempt", explain::attempt(told))));
    }
    let extra = workspace.extra.into_iter();
    facts.extend(extra.map(|(key, value)| ("extra", format!("{key}={value}"))));
    out.facts(&facts)
}

async fn create(args: CreateArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let workspace = NewWorkspace {
        id: args.id,
        name: args.name,
        kind: args.kind,
        project_id: args.project,
        directory: args.directory,
        branch: args.branch,
        keep: args.keep,
        extra: args.extra.set.into_iter().collect(),
    };
    let answer = client.post(&["v1", "workspaces"], Some(&workspace)).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    out.line(answer.read::<Workspace>()?.id.as_str())
}

async fn change(
    args: &WorkspaceArgs,
    changes: &WorkspaceChanges,
    done: &str,
    context: Context,
) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let name = resolve::<Workspace>(&client, &args.id).await?.name;
    let answer = client.patch(&["v1", "workspaces", &name], changes).await?;
    if args.json.json {
        return out.line(&answer.0);
    }
    out.line(&format!("{} is {done}", answer.read::<Workspace>()?.id))
}

async fn retry(args: RetryArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let RetryArgs { workspace: WorkspaceArgs { id, json }, force } = args;
    let found = resolve::<Workspace>(&client, &id).await?;
    let (name, workspace) = (found.name, found.record);
    if force && !json.json {
        let why = workspace.teardown.as_ref().and_then(|teardown| teardown.error.as_deref());
        out.line(&format!(
            "ending {} by force, although: {}",
            workspace.id,
            printable(why.unwrap_or("nothing stood in its way"))
        ))?;
        if let Some(line) = undo::trash_line(&client, &workspace).await? {
            out.line(&line)?;
        }
    }
    let action = if force { TeardownAction::Force } else { TeardownAction::Retry };
    let path = ["v1", "workspaces", &name, "teardown"];
    let answer = client.post(&path, Some(&TeardownBody { action })).await?;
    if json.json {
        return out.line(&answer.0);
    }
    out.line(&format!("{name} is being ended again; see `sessionmesh workspace show {name}`"))
}

#[derive(serde::Deserialize)]
struct Page {
    workspaces: Vec<Workspace>,
}

fn state_of(workspace: &Workspace) -> String {
    let state = match workspace.state {
        WorkspaceState::Live if workspace.keep => "live, kept",
        WorkspaceState::Live => "live",
        WorkspaceState::Vacated => "vacated",
        WorkspaceState::Sealed => "sealed",
        WorkspaceState::Failed => "failed",
    };
    state.to_owned()
}
