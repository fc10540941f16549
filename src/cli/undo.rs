//! Owns saying what a delete takes along, and undoing one.
//!
//! Must not know which verb asks. Invariant: whoever deletes is told how to undo it.

use std::time::Duration;

use serde_json::Value;

use super::{
    Context,
    args::Json,
    client::Client,
    failure::Failure,
    output::Output,
    printable::{Names, count, lasting, printable},
    receipt,
    resolve::{Kind as _, resolve},
};
use crate::{
    config,
    replica::{
        command::{Restored, SessionDeleted, WorkspaceDeleted},
        ids::ReceiptId,
        record::{GitState, KIND_WORKTREE, Session, Workspace},
    },
};

/// How ids of operations begin.
const OPERATION_PREFIX: &str = "op_";
/// How many sessions that go along are named, one a line.
const SESSIONS_SHOWN_MAX: usize = 10;

/// A record to delete.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Its id, or a unique beginning of it; ID@HOST where two machines have it
    id: String,
    /// Only say what it would take along
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until every machine has applied it and the agent has carried it out, so long at most
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = receipt::WAIT_DEFAULT,
        value_parser = config::parse_duration
    )]
    wait: Option<Duration>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub struct SessionDeleteArgs {
    #[command(flatten)]
    delete: DeleteArgs,
    /// On its own machine: purge it although its agent's server, which is gone for good, has not said
    /// that it has it no more
    #[arg(long, conflicts_with_all = ["dry_run", "wait"])]
    forget_agent: bool,
}

/// A delete to undo.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// The operation that the delete printed, or the id of what was deleted
    id: String,
    #[command(flatten)]
    json: Json,
}

/// Deletes a session, having said what that takes along.
pub async fn delete_session(args: SessionDeleteArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let SessionDeleteArgs { delete: args, forget_agent } = args;
    let name = resolve::<Session>(&client, &args.id).await?.name;
    let path = ["v1", "sessions", name.as_str()];
    if forget_agent {
        let answer = client.delete(&path, &[("forget_agent", "true")]).await?;
        if args.json.json {
            return out.line(&answer.0);
        }
        let deleted: SessionDeleted = answer.read()?;
        let what = describe(&deleted.session, &client.names().await?);
        return out.line(&format!(
            "{what} is purged once it can't be undone any more, whatever its agent's server has"
        ));
    }
    if args.json.json {
        return delete_silently(&client, &path, &args, &mut out).await;
    }
    let before: SessionDeleted = client.delete(&path, &DRY_RUN).await?.read()?;
    let names = client.names().await?;
    if before.already_deleted {
        out.line(&format!("{} was deleted already", describe(&before.session, &names)))?;
        return match before.session.deleted.filter(|_| !args.dry_run) {
            Some(deleted) => undo_line(&mut out, "session", deleted.operation.as_str()),
            None => Ok(()),
        };
    }
    out.line(&format!("{} {}", going(args.dry_run), describe(&before.session, &names)))?;
    let children = before.sessions_deleted.iter().filter(|s| s.key() != before.session.key());
    list_sessions(&mut out, "child session", &children.collect::<Vec<_>>())?;
    if let Some(workspace) = &before.workspace {
        out.line(&format!("  with its workspace {}", describe_workspace(workspace, &names)))?;
        git_lines(&mut out, before.git_state, before.git_ignored.as_deref())?;
        say_trash(&client, workspace, &mut out).await?;
    }
    if args.dry_run {
        return Ok(());
    }
    let done: SessionDeleted = client.delete(&path, &[]).await?.read()?;
    if let Some(operation) = done.operation {
        undo_line(&mut out, "session", operation.as_str())?;
    }
    wait(&client, done.receipt, args.wait, args.json, &mut out).await
}

/// Deletes a workspace with its sessions, having said which.
pub async fn delete_workspace(args: DeleteArgs, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let name = resolve::<Workspace>(&client, &args.id).await?.name;
    let path = ["v1", "workspaces", name.as_str()];
    if args.json.json {
        return delete_silently(&client, &path, &args, &mut out).await;
    }
    let before: WorkspaceDeleted = client.delete(&path, &DRY_RUN).await?.read()?;
    let names = client.names().await?;
    let what = describe_workspace(&before.workspace, &names);
    if before.already_deleted {
        out.line(&format!("workspace {what} was deleted already"))?;
        return Ok(());
    }
    out.line(&format!("{} workspace {what}", going(args.dry_run)))?;
    git_lines(&mut out, before.git_state, before.git_ignored.as_deref())?;
    say_trash(&client, &before.workspace, &mut out).await?;
    list_sessions(&mut out, "session", &before.sessions_deleted.iter().collect::<Vec<_>>())?;
    if args.dry_run {
        return Ok(());
    }
    let done: WorkspaceDeleted = client.delete(&path, &[]).await?.read()?;
    if let Some(operation) = done.operation {
        undo_line(&mut out, "workspace", operation.as_str())?;
    }
    wait(&client, done.receipt, args.wait, args.json, &mut out).await
}

/// Waits for a delete to be carried out everywhere, if that was asked for.
async fn wait(
    client: &Client,
    receipt: Option<ReceiptId>,
    wait: Option<Duration>,
    json: Json,
    out: &mut Output,
) -> Result<(), Failure> {
    match receipt.zip(wait) {
        Some((receipt, wait)) => {
            receipt::await_receipt(client, receipt.as_str(), wait, json, out).await
        }
        None => Ok(()),
    }
}

/// Undoes a delete, given its operation or a session that it deleted.
pub async fn restore_session(args: RestoreArgs, context: Context) -> Result<(), Failure> {
    let operation = if args.id.starts_with(OPERATION_PREFIX) {
        args.id.clone()
    } else {
        operation_of(&context.client, &args.id).await?
    };
    restore(&operation, args.json, context).await
}

/// Undoes a delete, given its operation or the workspace from which it took the last session.
pub async fn restore_workspace(args: RestoreArgs, context: Context) -> Result<(), Failure> {
    let operation = if args.id.starts_with(OPERATION_PREFIX) {
        args.id.clone()
    } else {
        last_operation_in(&context.client, &args.id).await?
    };
    restore(&operation, args.json, context).await
}

const DRY_RUN: [(&str, &str); 1] = [("dry_run", "true")];

async fn delete_silently(
    client: &Client,
    path: &[&str],
    args: &DeleteArgs,
    out: &mut Output,
) -> Result<(), Failure> {
    let query: &[_] = if args.dry_run { &DRY_RUN } else { &[] };
    let answer = client.delete(path, query).await?;
    out.line(&answer.0)?;
    let Deleted { receipt } = answer.read()?;
    wait(client, receipt, args.wait, args.json, out).await
}

/// What both deletes answer of how to ask about them later.
#[derive(serde::Deserialize)]
struct Deleted {
    receipt: Option<ReceiptId>,
}

/// Finds the delete that took a session, perhaps with a parent.
async fn operation_of(client: &Client, id: &str) -> Result<String, Failure> {
    let mut session = resolve::<Session>(client, id).await?.record;
    let what = format!("session {} is not deleted", session.id);
    // A parent's delete takes its children along; no chain of parents can be longer than this.
    const PARENTS_MAX: usize = 1_000;
    for _ in 0..PARENTS_MAX {
        if let Some(deleted) = &session.deleted {
            return Ok(deleted.operation.to_string());
        }
        let Some(parent) = &session.parent_id else { break };
        let name = format!("{parent}@{}", session.host);
        session = client.get(&["v1", "sessions", &name], &[]).await?.read()?;
    }
    Err(Failure::NothingToRestore { what })
}

/// Finds the last delete of a session in a workspace.
async fn last_operation_in(client: &Client, id: &str) -> Result<String, Failure> {
    let workspace = resolve::<Workspace>(client, id).await?.record;
    let host = workspace.host.to_string();
    let query = [("state", "deleted"), ("workspace_id", workspace.id()), ("host", host.as_str())];
    let mut answer: Value = client.list("sessions", &query, None).await?.read()?;
    let sessions: Vec<Session> = serde_json::from_value(answer["sessions"].take())
        .map_err(|error| Failure::Foreign(error.to_string()))?;
    let deletions = sessions.into_iter().filter_map(|session| session.deleted);
    match deletions.max_by_key(|deletion| deletion.at) {
        Some(deletion) => Ok(deletion.operation.to_string()),
        None => {
            let what = format!("workspace {} holds no deleted session", workspace.id);
            Err(Failure::NothingToRestore { what })
        }
    }
}

async fn restore(operation: &str, json: Json, context: Context) -> Result<(), Failure> {
    let Context { client, mut out } = context;
    let answer = client.post(&["v1", "operations", operation, "restore"], None::<&()>).await?;
    if json.json {
        return out.line(&answer.0);
    }
    let restored: Restored = answer.read()?;
    let names = client.names().await?;
    if restored.sessions.is_empty() && restored.workspaces.is_empty() {
        return out.line("nothing came back: it is all there already");
    }
    for session in &restored.sessions {
        out.line(&format!("restored {}", describe(session, &names)))?;
    }
    for workspace in &restored.workspaces {
        out.line(&format!("restored workspace {}", describe_workspace(workspace, &names)))?;
    }
    Ok(())
}

fn going(dry_run: bool) -> &'static str {
    if dry_run { "would delete" } else { "deleting" }
}

fn undo_line(out: &mut Output, verb: &str, operation: &str) -> Result<(), Failure> {
    out.line(&format!("undo: sessionmesh {verb} restore {operation}"))
}

/// Says what removing a git worktree would meet, and which ignored files would go along.
fn git_lines(
    out: &mut Output,
    state: Option<GitState>,
    ignored: Option<&str>,
) -> Result<(), Failure> {
    let what = match state {
        None => return Ok(()),
        Some(GitState::Clean) => "that is clean, as its host last reported",
        Some(GitState::Uncommitted) => {
            "that holds uncommitted or untracked files, as its host last reported: it will stay until \
             it is forced"
        }
        Some(GitState::Unreached) => {
            "that holds commits that are on no other branch, as its host last reported: it will stay \
             until it is forced"
        }
        Some(GitState::UncommittedAndUnreached) => {
            "that holds uncommitted files and commits that are on no other branch, as its host last \
             reported: it will stay until it is forced"
        }
        Some(GitState::Unknown) => "of unknown state: its host has not reported",
    };
    out.line(&format!("    a git worktree {what}"))?;
    ignored.map_or(Ok(()), |ignored| {
        out.line(&format!("    its ignored files go along: {}", printable(ignored)))
    })
}

async fn say_trash(
    client: &Client,
    workspace: &Workspace,
    out: &mut Output,
) -> Result<(), Failure> {
    trash_line(client, workspace).await?.map_or(Ok(()), |line| out.line(&line))
}

/// Says where the files of a workspace will lie once it has ended, and until when, as far as this
/// machine knows; `None` where they stay where they are, or are a hook's.
pub async fn trash_line(client: &Client, workspace: &Workspace) -> Result<Option<String>, Failure> {
    let Workspace { id, host, .. } = workspace;
    let Some(place) = workspace.directory.as_deref().filter(|_| workspace.kind == KIND_WORKTREE)
    else {
        return Ok(None);
    };
    let (place, status) = (printable(place), client.status().await?);
    let keep = match status.trash.keep_removed_s {
        _ if status.node != *host => "for as long as its host keeps what it ends".to_owned(),
        0 => {
            let line = format!("    {place} is deleted at once: this machine keeps nothing");
            return Ok(Some(line));
        }
        s => format!("for {}", lasting(s.saturating_mul(1_000))),
    };
    Ok(Some(format!(
        "    {place} moves to the trash, {keep}: `sessionmesh trash restore {id}` brings it back"
    )))
}

fn list_sessions(out: &mut Output, noun: &str, sessions: &[&Session]) -> Result<(), Failure> {
    if sessions.is_empty() {
        return Ok(());
    }
    out.line(&format!("  with {}:", count(sessions.len(), noun)))?;
    for session in sessions.iter().take(SESSIONS_SHOWN_MAX) {
        out.line(&format!("    {} {}", session.id, titled(session)))?;
    }
    match sessions.len().saturating_sub(SESSIONS_SHOWN_MAX) {
        0 => Ok(()),
        more => out.line(&format!("    and {more} more")),
    }
}

fn describe(session: &Session, names: &Names) -> String {
    let host = printable(&names.of(&session.host));
    format!("session {} {} on {host}", session.id, titled(session))
}

fn titled(session: &Session) -> String {
    match &session.title {
        Some(title) => format!("\"{}\"", printable(title)),
        None => "(no title)".to_owned(),
    }
}

fn describe_workspace(workspace: &Workspace, names: &Names) -> String {
    let place = workspace.directory.as_ref().map(|path| format!(" ({})", printable(path)));
    let (name, host) = (printable(&workspace.name), printable(&names.of(&workspace.host)));
    format!("{} \"{name}\"{} on {host}", workspace.id, place.unwrap_or_default())
}
