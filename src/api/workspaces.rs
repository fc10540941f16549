//! Owns the routes that read and change workspaces.
//!
//! Must not know the rules of a workspace's life. Invariant: reads come from the published view,
//! changes go through the loop and are answered once they are durable.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{
    Shared,
    body::{self, BODY_BYTES_MAX, DeleteQuery, Named, TeardownBody, WorkspaceChanges},
    list::{Filter, WorkspacesQuery, beside},
    names,
    problem::Error,
    trash::{WithTrash, with_trash},
};
use crate::replica::{
    command::{Command, NewWorkspace, Refusal, Reply, WorkspaceDeleted},
    ids::WorkspaceId,
    record::Workspace,
};

/// The answer of `GET /v1/workspaces`.
#[derive(Debug, Serialize)]
struct Page<'a> {
    workspaces: Vec<&'a Workspace>,
    next_cursor: Option<String>,
}

pub(super) async fn list(State(shared): State<Shared>, uri: Uri) -> Result<Response, Error> {
    let query: WorkspacesQuery = body::query(&uri)?;
    let filter = Filter::read::<Workspace>(&shared, query.into()).await?;
    let view = shared.handle.hub().view();
    let answered = beside(move || {
        let (workspaces, next_cursor) = filter.page(view.workspaces());
        Json(Page { workspaces, next_cursor }).into_response()
    });
    answered.await
}

pub(super) async fn create(State(shared): State<Shared>, body: Body) -> Result<Response, Error> {
    let new: NewWorkspace = body::json(body, BODY_BYTES_MAX).await?;
    let reply = shared.handle.command(Command::CreateWorkspace(new)).await?;
    let Reply::Workspace(workspace) = reply else { return Err(Error::ForeignReply) };
    // With the host, so that it stays true when another host brings the same id.
    let location = format!("/v1/workspaces/{}@{}", workspace.id, workspace.host);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(workspace)).into_response())
}

pub(super) async fn show(
    State(shared): State<Shared>,
    Named(target): Named<WorkspaceId>,
) -> Result<Response, Error> {
    let view = shared.handle.hub().view();
    let absent = Refusal::WorkspaceNotFound(target.id.clone());
    let (id, host) = (target.id.as_str(), target.host.as_deref());
    let named: Vec<_> = view.workspace(&target.id).cloned().collect();
    let workspace = names::choose(&shared, id, host, &named, absent).await?;
    Ok(Json(workspace).into_response())
}

pub(super) async fn update(
    State(shared): State<Shared>,
    Named(target): Named<WorkspaceId>,
    body: Body,
) -> Result<Json<Workspace>, Error> {
    let changes: WorkspaceChanges = body::json(body, BODY_BYTES_MAX).await?;
    workspace(&shared, Command::UpdateWorkspace(target, changes.into())).await
}

pub(super) async fn delete(
    State(shared): State<Shared>,
    Named(workspace): Named<WorkspaceId>,
    uri: Uri,
) -> Result<Json<WithTrash<WorkspaceDeleted>>, Error> {
    let DeleteQuery { dry_run } = body::query(&uri)?;
    match shared.handle.command(Command::DeleteWorkspace { workspace, dry_run }).await? {
        Reply::WorkspaceDeleted(deleted) => {
            Ok(with_trash(&shared, *deleted, |it| (Some(&it.workspace), &it.sessions_deleted)))
        }
        _ => Err(Error::ForeignReply),
    }
}

pub(super) async fn teardown(
    State(shared): State<Shared>,
    Named(target): Named<WorkspaceId>,
    body: Body,
) -> Result<Json<Workspace>, Error> {
    let TeardownBody { action } = body::json(body, BODY_BYTES_MAX).await?;
    workspace(&shared, Command::Teardown(target, action)).await
}

async fn workspace(shared: &Shared, command: Command) -> Result<Json<Workspace>, Error> {
    match shared.handle.command(command).await? {
        Reply::Workspace(workspace) => Ok(Json(workspace)),
        _ => Err(Error::ForeignReply),
    }
}
