//! Owns the routes of the trash: what hosts keep of what they have ended, and having it back.
//!
//! Must not know where an entry lies nor how it is put back. Invariant: what only the host of an
//! entry can do is done on no other, and is refused there with the host's name.

use std::{cmp::Reverse, collections::BTreeMap, path::PathBuf};

use axum::{Json, body::Body, extract::State, http::StatusCode, http::Uri};
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    body::{self, BODY_BYTES_MAX, Named},
    names::Names,
    problem::Error,
};
use crate::{
    daemon::handle::RequestError,
    replica::{
        command::{Command, Refusal, Reply, Target},
        ids::{NodeId, TrashId},
        record::{KIND_WORKTREE, Session, Workspace},
        trash::{TrashEntry, TrashKind, TrashListed, TrashState},
    },
};

/// The query of `GET /v1/trash`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TrashQuery {
    host: Option<String>,
}

/// The body of `POST /v1/trash/{id}/restore`; it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreBody {
    /// Where to; to where it was if absent. A session is written there as a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
}

/// The answer of `GET /v1/trash`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashList {
    /// The newest first.
    pub entries: Vec<TrashListed>,
}

/// The answer of `POST /v1/trash/{id}/restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashRestored {
    /// The entry as it is now.
    pub entry: TrashListed,
    /// The directory, the file or the id of the new session; `None` where its host is yet to do it.
    pub restored_as: Option<String>,
    /// What is not as it was, and what is left to do, a line each.
    pub notes: Vec<String>,
}

/// What will lie in a trash once a delete is carried out, and can be restored from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashAhead {
    /// The id that the entry will have.
    pub id: String,
    /// What it is.
    pub kind: TrashKind,
    /// The node that will keep it.
    pub host: NodeId,
    /// For how long, in seconds; `None` where only another node knows that.
    pub keep_removed_s: Option<u64>,
}

/// The answer of a delete, with what can be had back later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WithTrash<T> {
    /// What the loop answered.
    #[serde(flatten)]
    pub deleted: T,
    /// What will lie in a trash, unless the delete is undone before.
    pub trash: Vec<TrashAhead>,
}

/// Adds to the answer of a delete what will lie in a trash: the worktree of a workspace, and the
/// conversations of sessions that an agent can export.
pub(super) fn with_trash<T>(
    shared: &Shared,
    deleted: T,
    look: impl FnOnce(&T) -> (Option<&Workspace>, &[Session]),
) -> Json<WithTrash<T>> {
    let (workspace, sessions) = look(&deleted);
    let worktree = workspace.filter(|it| it.kind == KIND_WORKTREE && it.directory.is_some());
    let worktree = worktree.map(|it| (it.id.to_string(), TrashKind::Workspace, it.host));
    let sessions = sessions.iter().filter(|session| session.agent.is_some());
    let sessions = sessions.map(|it| (it.id.to_string(), TrashKind::Session, it.host));
    let own = shared.handle.host_trash().map(|trash| trash.status().keep_removed_s);
    let ahead = worktree.into_iter().chain(sessions).map(|(id, kind, host)| TrashAhead {
        id,
        kind,
        host,
        keep_removed_s: own.filter(|_| host == shared.node),
    });
    let trash = ahead.filter(|ahead| ahead.keep_removed_s != Some(0)).collect();
    Json(WithTrash { deleted, trash })
}

pub(super) async fn list(State(shared): State<Shared>, uri: Uri) -> Result<Json<TrashList>, Error> {
    let query: TrashQuery = body::query(&uri)?;
    let mut entries = all(&shared).await?;
    if let Some(host) = query.host {
        let hosts = entries.iter().map(|listed| listed.entry.host);
        let host = Names::load(&shared, hosts).await?.find(&host)?;
        entries.retain(|listed| listed.entry.host == host);
    }
    Ok(Json(TrashList { entries }))
}

pub(super) async fn show(
    State(shared): State<Shared>,
    Named(target): Named<TrashId>,
) -> Result<Json<TrashListed>, Error> {
    find(&shared, &target).await.map(Json)
}

pub(super) async fn delete(
    State(shared): State<Shared>,
    Named(target): Named<TrashId>,
) -> Result<Json<TrashEntry>, Error> {
    let entry = find(&shared, &target).await?.entry;
    let trash = shared.handle.host_trash().filter(|_| entry.host == shared.node);
    let Some(trash) = trash else { return Err(not_here(&shared, entry.host).await?) };
    trash.empty(&entry.id).await?;
    Ok(Json(entry))
}

pub(super) async fn restore(
    State(shared): State<Shared>,
    Named(target): Named<TrashId>,
    body: Body,
) -> Result<(StatusCode, Json<TrashRestored>), Error> {
    let RestoreBody { directory } = body::json_or_default(body, BODY_BYTES_MAX).await?;
    let directory = directory.map(absolute).transpose()?;
    let TrashListed { entry, requests } = find(&shared, &target).await?;
    let trash = shared.handle.host_trash().filter(|_| entry.host == shared.node);
    if let Some(trash) = trash {
        let restored = trash.restore(&entry.id, directory).await?;
        let entry = TrashListed { entry: restored.entry, requests };
        let restored_as = Some(restored.restored_as);
        let answer = TrashRestored { entry, restored_as, notes: restored.notes };
        return Ok((StatusCode::OK, Json(answer)));
    }
    if directory.is_some() {
        return Err(not_here(&shared, entry.host).await?);
    }
    let target = Target { host: Some(entry.host.to_string()), ..target };
    let Reply::Trash(entry) = shared.handle.command(Command::RestoreTrashed(target)).await? else {
        return Err(Error::ForeignReply);
    };
    let restored_as = entry.entry.restored_as.clone();
    let is_done = entry.entry.state == TrashState::Restored;
    let (status, note) = if is_done {
        (StatusCode::OK, "it was put back before; nothing was done")
    } else {
        (StatusCode::ACCEPTED, "its host is asked, and puts it back once it hears of that")
    };
    let notes = vec![note.to_owned()];
    Ok((status, Json(TrashRestored { entry: *entry, restored_as, notes })))
}

/// Lists what every host keeps, the newest first. Of this one the disk knows better than what the
/// fleet was told.
async fn all(shared: &Shared) -> Result<Vec<TrashListed>, RequestError> {
    let mut entries = shared.handle.trash().await?;
    if let Some(trash) = shared.handle.host_trash() {
        let own = trash.list().await;
        let (told, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|listed| listed.entry.host == shared.node);
        let mut requests: BTreeMap<_, _> =
            told.into_iter().map(|listed| (listed.entry.id, listed.requests)).collect();
        let own = own.into_iter().map(|entry| {
            let requests = requests.remove(&entry.id).unwrap_or_default();
            TrashListed { entry, requests }
        });
        entries = own.chain(others).collect();
    }
    entries.sort_by_key(|listed| Reverse(listed.entry.ended_at));
    Ok(entries)
}

/// Finds the entry that is meant: the newest of its id, on the only host that has one.
async fn find(shared: &Shared, target: &Target<TrashId>) -> Result<TrashListed, Error> {
    let mut entries = all(shared).await?;
    entries.retain(|listed| listed.entry.id == target.id.as_str());
    let hosts = || entries.iter().map(|listed| listed.entry.host);
    let host = match &target.host {
        Some(named) => Some(Names::load(shared, hosts()).await?.find(named)?),
        None => hosts().next(),
    };
    if target.host.is_none() && hosts().any(|other| Some(other) != host) {
        let names = Names::load(shared, hosts()).await?;
        let mut hosts: Vec<_> = hosts().map(|host| names.name(host)).collect();
        hosts.dedup();
        return Err(Refusal::AmbiguousId { id: target.id.to_string(), hosts }.into());
    }
    let found = entries.into_iter().find(|listed| Some(listed.entry.host) == host);
    found.ok_or_else(|| Refusal::TrashNotFound(target.id.clone()).into())
}

/// Says that something can only be done on another machine.
async fn not_here(shared: &Shared, host: NodeId) -> Result<Error, RequestError> {
    let host = Names::load(shared, [host]).await?.name(host);
    Ok(Error::NotHere { host })
}

/// Refuses a place that means nothing to the daemon.
fn absolute(directory: String) -> Result<PathBuf, Refusal> {
    let problem = if !directory.starts_with('/') {
        "is not an absolute path"
    } else if directory.contains('\0') {
        "holds a NUL character"
    } else {
        return Ok(PathBuf::from(directory));
    };
    Err(Refusal::InvalidField { field: "directory".to_owned(), problem: problem.to_owned() })
}
