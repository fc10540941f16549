//! Owns what opencode's HTTP API says, as far as it matters here.
//!
//! Must not know our records. Source: the OpenAPI document of opencode 1.18.33 and a running one.
//! Invariant: a field that a newer server adds, and a value that is only shown, never make a list
//! unreadable.

use serde::Deserialize;

/// The answer of `GET /global/health`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// Whether it works.
    pub healthy: bool,
    /// The server's version.
    pub version: String,
}

/// An entry of `GET /project`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Project {
    /// The first commit of its repository, or `global` for all folders without one.
    pub id: String,
    /// The folder of the repository; `/` for `global`.
    pub worktree: String,
    /// When what happened.
    #[serde(default)]
    pub time: Option<ProjectTime>,
}

/// The times of a project, milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ProjectTime {
    /// When the server's database first saw it.
    #[serde(default)]
    pub created: Option<i64>,
}

/// An entry of `GET /session`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// `ses_…`
    pub id: String,
    /// A name of two words.
    #[serde(default)]
    pub slug: Option<String>,
    /// The project.
    #[serde(rename = "projectID")]
    pub project_id: String,
    /// The workspace; a server may name one that it does not list.
    #[serde(default, rename = "workspaceID")]
    pub workspace_id: Option<String>,
    /// The session that it was started from.
    #[serde(default, rename = "parentID")]
    pub parent_id: Option<String>,
    /// Where it works.
    pub directory: String,
    /// What a person calls it.
    pub title: String,
    /// The version of the server that made it.
    #[serde(default)]
    pub version: Option<String>,
    /// When what happened.
    pub time: SessionTime,
}

/// The times of a session, milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct SessionTime {
    /// When it was made.
    pub created: i64,
    /// When it was last changed.
    pub updated: i64,
    /// When it was archived; a number of any kind, by the API's document.
    #[serde(default)]
    pub archived: Option<f64>,
}

/// An entry of `GET /experimental/workspace`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workspace {
    /// `wrk_…`
    pub id: String,
    /// `worktree`, or what a plugin calls its own.
    #[serde(rename = "type")]
    pub kind: String,
    /// What a person calls it.
    pub name: String,
    /// The branch checked out in it.
    #[serde(default)]
    pub branch: Option<String>,
    /// Where it is.
    #[serde(default)]
    pub directory: Option<String>,
    /// What a plugin keeps there.
    #[serde(default)]
    pub extra: Option<serde_json::Value>,
    /// The project.
    #[serde(rename = "projectID")]
    pub project_id: String,
    /// When it was last used, milliseconds since the epoch; `"NaN"` and the like are possible.
    #[serde(default)]
    pub time_used: serde_json::Value,
}
