//! Owns what requests carry: bodies, queries and path segments, and the reading of them.
//!
//! Must not know what is done with them. Invariant: nothing of a body is kept beyond the route's
//! limit, and a name that the contract doesn't have is refused rather than ignored.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequestParts, Path, Query},
    http::{Uri, header, request::Parts},
};
use futures_util::StreamExt as _;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use super::problem::Error;
use crate::replica::{
    command::{Patch, SessionPatch, Target, WorkspacePatch},
    ids::{ParseIdError, WorkspaceId},
    record::{Role, TeardownAction},
};

/// Largest body, bytes: the largest valid record is about 1 MiB when each character is escaped.
pub const BODY_BYTES_MAX: usize = 2 << 20;
/// Largest body of an import, bytes: about 30,000 sessions.
pub const IMPORT_BYTES_MAX: usize = 16 << 20;
/// How long a body may take to arrive; a client on the same machine needs milliseconds.
pub const BODY_SECONDS_MAX: u64 = 30;

/// The body of `PATCH /v1/sessions/{id}`: an absent field stays, `null` empties it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionChanges {
    /// Its title.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub title: Patch<String>,
    /// Its workspace, on the same host.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub workspace_id: Patch<WorkspaceId>,
    /// When it was archived, milliseconds since the epoch.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub archived_at: Patch<i64>,
    /// Free fields to set, or with `null` to remove; those not named stay.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Option<String>>,
}

impl From<SessionChanges> for SessionPatch {
    fn from(changes: SessionChanges) -> Self {
        let SessionChanges { title, workspace_id, archived_at, extra } = changes;
        Self { title, workspace_id, archived_at, extra }
    }
}

/// The body of `PATCH /v1/workspaces/{id}`: an absent field stays, `null` empties it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkspaceChanges {
    /// Its name, which can't be emptied.
    #[serde(deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its branch.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub branch: Patch<String>,
    /// Whether it stays when it is empty.
    #[serde(deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub keep: Option<bool>,
    /// Free fields to set, or with `null` to remove; those not named stay.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Option<String>>,
}

impl From<WorkspaceChanges> for WorkspacePatch {
    fn from(changes: WorkspaceChanges) -> Self {
        let WorkspaceChanges { name, branch, keep, extra } = changes;
        Self { name, branch, keep, extra }
    }
}

/// The body of `POST /v1/workspaces/{id}/teardown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeardownBody {
    /// How to go on.
    pub action: TeardownAction,
}

/// The body of `POST /v1/invites`; it may be left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InviteBody {
    /// What the new member may do; `member` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// How long the ticket is good for, seconds; an hour if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
}

/// The body of `POST /v1/peers/{node}/promote`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteBody {
    /// What the member may do from now on: no less than before.
    pub role: Role,
}

/// The body of `POST /v1/join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinBody {
    /// What `sessionmesh invite` printed.
    pub ticket: String,
}

/// The query of a DELETE.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeleteQuery {
    /// Only answer, change nothing.
    pub dry_run: bool,
}

/// The query of a session's `DELETE`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionDeleteQuery {
    /// Only answer, change nothing.
    pub dry_run: bool,
    /// Do not wait for the word of the agent's server.
    pub forget_agent: bool,
}

/// A record that a path names as `ID` or `ID@HOST`.
#[derive(Debug, Clone)]
pub struct Named<Id>(pub Target<Id>);

impl<Id, S> FromRequestParts<S> for Named<Id>
where
    Id: std::str::FromStr<Err = ParseIdError>,
    S: Send + Sync,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let Segment(text) = Segment::from_request_parts(parts, state).await?;
        target(&text).map(Self).map_err(Error::InvalidId)
    }
}

/// The one part of a path that is not fixed, decoded.
#[derive(Debug, Clone)]
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let segment = Path::<String>::from_request_parts(parts, state).await;
        segment.map(|Path(text)| Self(text)).map_err(|_| Error::InvalidPath)
    }
}

/// Reads `ID` or `ID@HOST`; ids have no `@`, names of hosts may.
pub fn target<Id: std::str::FromStr<Err = ParseIdError>>(
    text: &str,
) -> Result<Target<Id>, ParseIdError> {
    match text.split_once('@') {
        Some((id, host)) if !host.is_empty() => {
            Ok(Target { id: id.parse()?, host: Some(host.to_owned()) })
        }
        _ => Ok(Target { id: text.parse()?, host: None }),
    }
}

/// Reads a query; a parameter that the route doesn't have is refused, since a mistyped `dry_run`
/// must not delete anything.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Error> {
    let parsed = Query::<T>::try_from_uri(uri);
    parsed.map(|Query(query)| query).map_err(|refused| Error::InvalidQuery(refused.body_text()))
}

/// Reads a body of JSON.
pub async fn json<T: DeserializeOwned>(body: Body, bytes_max: usize) -> Result<T, Error> {
    parse(&collect(body, bytes_max).await?)
}

/// Reads a body of JSON that may be left out.
pub async fn json_or_default<T: DeserializeOwned + Default>(
    body: Body,
    bytes_max: usize,
) -> Result<T, Error> {
    let bytes = collect(body, bytes_max).await?;
    if bytes.is_empty() { Ok(T::default()) } else { parse(&bytes) }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    // serde takes an array for a struct, field by field; the contract has objects only.
    if bytes.trim_ascii_start().starts_with(b"[") {
        let error = serde::de::Error::custom("expected an object, not an array");
        return Err(Error::UnfitJson(error));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        if error.is_data() { Error::UnfitJson(error) } else { Error::MalformedJson(error) }
    })
}

async fn collect(body: Body, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let mut stream = body.into_data_stream();
    let all = async {
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| Error::BodyBroken)?;
            if chunk.len() > bytes_max - bytes.len() {
                return Err(Error::TooLarge { bytes_max });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    let timeout = Duration::from_secs(BODY_SECONDS_MAX);
    let late = |_| Error::BodyTimeout { seconds_max: BODY_SECONDS_MAX };
    tokio::time::timeout(timeout, all).await.map_err(late)?
}

/// Tells whether a request declares its body as JSON; `None` where it declares nothing.
pub(super) fn declares_json(parts: &Parts) -> Option<bool> {
    let mut declared = parts.headers.get_all(header::CONTENT_TYPE).iter();
    let first = declared.next()?;
    let text = first.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    Some(declared.next().is_none() && essence.eq_ignore_ascii_case("application/json"))
}

/// Reads a field that is there, so that `null` can be told from its absence.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Reads a field that is there and must not be `null`.
fn some<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_tells_an_absent_field_from_an_emptied_one() {
        let changes: SessionChanges =
            serde_json::from_str(r#"{"title":null,"extra":{"a":null,"b":"c"}}"#).unwrap();
        assert_eq!((changes.title, changes.archived_at), (Some(None), None));
        assert_eq!(changes.extra["a"], None);
        assert_eq!(changes.extra["b"].as_deref(), Some("c"));
        let text = r#"{"workspace_id":null,"archived_at":5}"#;
        let again = serde_json::to_string(&serde_json::from_str::<SessionChanges>(text).unwrap());
        assert_eq!(again.unwrap(), text);
    }

    #[test]
    fn what_can_not_be_emptied_and_what_is_unknown_is_refused_by_name() {
        for (text, named) in [(r#"{"nam":"x"}"#, "`nam`"), (r#"{"name":null}"#, "null")] {
            let error = parse::<WorkspaceChanges>(text.as_bytes()).unwrap_err();
            assert_eq!(error.problem().code, "invalid_field");
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn a_target_is_an_id_and_perhaps_a_host_whose_name_may_hold_anything() {
        let named: Target<WorkspaceId> = target("wrk_1@dev@home").unwrap();
        assert_eq!((named.id.as_str(), named.host.as_deref()), ("wrk_1", Some("dev@home")));
        assert_eq!(target::<WorkspaceId>("wrk_1").unwrap().host, None);
        assert!(target::<WorkspaceId>("@host").is_err());
        assert!(target::<WorkspaceId>("wrk_1@").is_err());
    }
}
