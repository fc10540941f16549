//! Owns reading all that an opencode server has.
//!
//! Must not know our records. Invariant: a listing is complete, or there is none.
//!
//! Seen with opencode 1.18.33: `GET /session?scope=project` lists children, archived sessions and
//! those in worktree workspaces, whichever folder of the project is named, but 100 unless `limit`
//! says more; the project is found anew from the folder, so for one whose folder was removed
//! another project's sessions come. `GET /experimental/session?archived=true` lists those of all
//! projects and misses none of these. `GET /experimental/workspace` lists nothing at all without
//! `OPENCODE_EXPERIMENTAL_WORKSPACES`, although sessions go on naming theirs.

use std::collections::BTreeMap;

use super::{
    client::{Client, Error},
    model::{Project, Session, Workspace},
};
use crate::replica::command::Import;

/// Most sessions of a list; the server's own default is 100.
const SESSIONS_MAX: usize = 1_000_000;

/// All that an opencode server has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listing {
    /// How many projects it knows.
    pub projects: usize,
    /// When its database first saw each of them, where it says.
    pub first_seen: BTreeMap<String, i64>,
    /// Its workspaces by id.
    pub workspaces: BTreeMap<String, Workspace>,
    /// Its sessions by id; children and archived ones, too.
    pub sessions: BTreeMap<String, Session>,
}

/// A listing as this node can take it in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapped {
    /// What can be taken in, parents before children.
    pub import: Import,
    /// How many records have ids that are not valid here.
    pub invalid: u64,
}

impl Listing {
    /// Reads everything; tells after each project how many of how many are done.
    pub async fn read(
        client: &Client,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self, Error> {
        let projects = Self::projects(client).await?;
        let mut listing = Self::of_projects(&projects);
        for (done, project) in projects.iter().enumerate() {
            progress(done, projects.len());
            let folder = ("directory", project.worktree.as_str());
            listing.add_sessions(client, "session", &[("scope", "project"), folder]).await?;
            listing.add_workspaces(client, project).await?;
        }
        progress(projects.len(), projects.len());
        listing.add_sessions(client, "experimental/session", &[("archived", "true")]).await?;
        Ok(listing)
    }

    /// Reads the projects alone.
    pub async fn read_projects(client: &Client) -> Result<Self, Error> {
        Ok(Self::of_projects(&Self::projects(client).await?))
    }

    fn of_projects(projects: &[Project]) -> Self {
        let first_seen = projects
            .iter()
            .filter_map(|project| Some((project.id.clone(), project.time.as_ref()?.created?)));
        let first_seen = first_seen.collect();
        Self { projects: projects.len(), first_seen, ..Self::default() }
    }

    /// Lists the workspaces again, beside which sessions may change.
    ///
    /// # Errors
    ///
    /// As [`Listing::read`].
    pub async fn read_workspaces(client: &Client) -> Result<Self, Error> {
        let mut read = Self::default();
        for project in &Self::projects(client).await? {
            read.add_workspaces(client, project).await?;
        }
        Ok(read)
    }

    /// Takes the workspaces of a newer list; tells whether anything differs.
    pub fn take_workspaces(&mut self, newer: Self) -> bool {
        let differ = newer.workspaces != self.workspaces;
        self.workspaces = newer.workspaces;
        differ
    }

    async fn projects(client: &Client) -> Result<Vec<Project>, Error> {
        client.get("project", &[]).await
    }

    async fn add_workspaces(&mut self, client: &Client, project: &Project) -> Result<(), Error> {
        let folder = ("directory", project.worktree.as_str());
        let workspaces: Vec<Workspace> = client.get("experimental/workspace", &[folder]).await?;
        self.workspaces.extend(workspaces.into_iter().map(|w| (w.id.clone(), w)));
        Ok(())
    }

    async fn add_sessions(
        &mut self,
        client: &Client,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<(), Error> {
        let limit = SESSIONS_MAX.to_string();
        let query: Vec<_> = query.iter().copied().chain([("limit", limit.as_str())]).collect();
        let sessions: Vec<Session> = client.get(path, &query).await?;
        if sessions.len() >= SESSIONS_MAX {
            let url = client.address().clone();
            return Err(Error::TooLong { url, max: SESSIONS_MAX, unit: "sessions" });
        }
        self.sessions.extend(sessions.into_iter().map(|session| (session.id.clone(), session)));
        Ok(())
    }
}
