//! Owns the routes that read and change sessions, undo a delete, and take an agent's list in.
//!
//! Must not know the rules of a session's life. Invariant: reads come from the published view,
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
    body::{
        self, BODY_BYTES_MAX, IMPORT_BYTES_MAX, Named, Segment, SessionChanges, SessionDeleteQuery,
    },
    list::{Filter, SessionsQuery, beside},
    names,
    problem::Error,
    trash::{WithTrash, with_trash},
};
use crate::replica::{
    command::{Command, Imported, NewSession, Refusal, Reply, Restored, SessionDeleted},
    ids::SessionId,
    record::Session,
};

/// The answer of `GET /v1/sessions`.
#[derive(Debug, Serialize)]
struct Page<'a> {
    sessions: Vec<&'a Session>,
    next_cursor: Option<String>,
}

pub(super) async fn list(State(shared): State<Shared>, uri: Uri) -> Result<Response, Error> {
    let query: SessionsQuery = body::query(&uri)?;
    let filter = Filter::read::<Session>(&shared, query).await?;
    let view = shared.handle.hub().view();
    let answered = beside(move || {
        let (sessions, next_cursor) = filter.page(view.sessions());
        Json(Page { sessions, next_cursor }).into_response()
    });
    answered.await
}

pub(super) async fn create(State(shared): State<Shared>, body: Body) -> Result<Response, Error> {
    let new: NewSession = body::json(body, BODY_BYTES_MAX).await?;
    let reply = shared.handle.command(Command::CreateSession(new)).await?;
    let Reply::Session(session) = reply else { return Err(Error::ForeignReply) };
    // With the host, so that it stays true when another host brings the same id.
    let location = format!("/v1/sessions/{}@{}", session.id, session.host);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(session)).into_response())
}

pub(super) async fn show(
    State(shared): State<Shared>,
    Named(target): Named<SessionId>,
) -> Result<Response, Error> {
    let view = shared.handle.hub().view();
    let absent = Refusal::SessionNotFound(target.id.clone());
    let (id, host) = (target.id.as_str(), target.host.as_deref());
    let named: Vec<_> = view.session(&target.id).cloned().collect();
    let session = names::choose(&shared, id, host, &named, absent).await?;
    Ok(Json(session).into_response())
}

pub(super) async fn update(
    State(shared): State<Shared>,
    Named(target): Named<SessionId>,
    body: Body,
) -> Result<Json<Session>, Error> {
    let changes: SessionChanges = body::json(body, BODY_BYTES_MAX).await?;
    let command = Command::UpdateSession(target, changes.into());
    match shared.handle.command(command).await? {
        Reply::Session(session) => Ok(Json(session)),
        _ => Err(Error::ForeignReply),
    }
}

pub(super) async fn delete(
    State(shared): State<Shared>,
    Named(session): Named<SessionId>,
    uri: Uri,
) -> Result<Json<WithTrash<SessionDeleted>>, Error> {
    let SessionDeleteQuery { dry_run, forget_agent } = body::query(&uri)?;
    let delete = Command::DeleteSession { session: session.clone(), dry_run };
    let Reply::SessionDeleted(deleted) = shared.handle.command(delete).await? else {
        return Err(Error::ForeignReply);
    };
    if forget_agent && !dry_run {
        shared.handle.command(Command::ForgetAgent(session)).await?;
    }
    Ok(with_trash(&shared, *deleted, |it| {
        // What an agent is not asked for is not kept either.
        let kept = if forget_agent { &[][..] } else { &it.sessions_deleted };
        (it.workspace.as_ref(), kept)
    }))
}

pub(super) async fn restore(
    State(shared): State<Shared>,
    Segment(operation): Segment,
) -> Result<Json<Restored>, Error> {
    let operation = operation.parse().map_err(Error::InvalidId)?;
    match shared.handle.command(Command::Restore(operation)).await? {
        Reply::Restored(restored) => Ok(Json(restored)),
        _ => Err(Error::ForeignReply),
    }
}

pub(super) async fn import(
    State(shared): State<Shared>,
    body: Body,
) -> Result<Json<Imported>, Error> {
    let import = body::json(body, IMPORT_BYTES_MAX).await?;
    match shared.handle.command(Command::Import(import)).await? {
        Reply::Imported(imported) => Ok(Json(imported)),
        _ => Err(Error::ForeignReply),
    }
}
