//! Owns reading all that an opencode server has.
//!
//! Must not know our records. Invariants: what a list lacks is only not listed, and nobody may take
//! it for deleted; a project or a record that can't be read costs no other, and is named.
//!
//! Seen with opencode 1.18.33: `GET /session?scope=project` lists children, archived sessions and
//! those in worktree workspaces, whichever folder of the project is named, but 100 unless `limit`
//! says more; the project is looked up again from the folder, so for one whose folder was removed
//! another project's sessions come. `GET /experimental/session?archived=true` lists those of all
//! projects and misses none of these. Either answers 400 if one row of its is odd. `GET
//! /experimental/workspace` lists nothing at all without `OPENCODE_EXPERIMENTAL_WORKSPACES`, although
//! sessions go on naming theirs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    client::{Client, Error},
    model::{LeftOut, Project, Session, Workspace},
};
use crate::replica::{command::Import, ids::WorkspaceId};

/// Most sessions of a list; the server's own default is 100.
const SESSIONS_MAX: usize = 1_000_000;

/// All that an opencode server lists.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listing {
    /// How many projects it knows.
    pub projects: usize,
    /// When its database first saw each of them, where it says.
    pub first_seen: BTreeMap<String, i64>,
    /// Its workspaces by id.
    pub workspaces: BTreeMap<String, Workspace>,
    /// Whether all workspaces could be listed.
    pub has_all_workspaces: bool,
    /// Its sessions by id; children and archived ones, too.
    pub sessions: BTreeMap<String, Session>,
    /// What could not be read.
    pub left_out: LeftOut,
}

/// A listing as this node can take it in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapped {
    /// What can be taken in, parents before children.
    pub import: Import,
    /// The workspaces that were only made of what sessions say.
    pub unlisted: BTreeSet<WorkspaceId>,
    /// The records that are not valid here.
    pub left_out: LeftOut,
}

impl Listing {
    /// Reads everything; tells after each project how many of how many are done.
    ///
    /// # Errors
    ///
    /// The projects can't be listed, the server does not answer, or none of its lists can be read.
    pub async fn read(
        client: &Client,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self, Error> {
        let mut listing = Self::read_projects(client).await?;
        let projects = std::mem::take(&mut listing.1);
        let mut listing = listing.0;
        let (mut has_read, mut failed) = (false, None);
        for (done, project) in projects.iter().enumerate() {
            progress(done, projects.len());
            let folder = ("directory", project.worktree.as_str());
            let read =
                listing.add_sessions(client, "session", &[("scope", "project"), folder]).await;
            let name = format!("project {}", project.worktree);
            match listing.settle(name, read)? {
                None => has_read = true,
                Some(error) => failed = Some(error),
            }
        }
        listing.add_all_workspaces(client, &projects).await?;
        progress(projects.len(), projects.len());
        let all = listing.add_sessions(client, "experimental/session", &[("archived", "true")]);
        let read = all.await;
        match listing.settle("the list of all projects".to_owned(), read)? {
            None => has_read = true,
            Some(error) => failed = Some(error),
        }
        match failed {
            Some(error) if !has_read => Err(error),
            _ => listing.of_one_server(client).await,
        }
    }

    /// Reads the projects again, behind all that was listed: a server that has taken the place of
    /// another one meanwhile must not be known by the projects of that one.
    async fn of_one_server(mut self, client: &Client) -> Result<Self, Error> {
        let (later, _) = Self::read_projects(client).await?;
        let agrees = |(project, at): (&String, &i64)| self.first_seen.get(project) == Some(at);
        let tells = !self.first_seen.is_empty() || !later.first_seen.is_empty();
        if self.projects > 0 && tells && !later.first_seen.iter().any(agrees) {
            let reason = "it does not name the same projects twice".to_owned();
            return Err(Error::Foreign { url: client.address().clone(), reason });
        }
        (self.projects, self.first_seen) = (later.projects, later.first_seen);
        Ok(self)
    }

    /// Reads the projects alone.
    ///
    /// # Errors
    ///
    /// They can't be listed.
    pub async fn read_projects(client: &Client) -> Result<(Self, Vec<Project>), Error> {
        let mut listing = Self { has_all_workspaces: true, ..Self::default() };
        let mut projects = Vec::new();
        for record in client.get_list("project", &[]).await? {
            listing.projects += 1;
            match Project::read(&record) {
                Ok(project) => {
                    let created = project.created.map(|at| (project.id.clone(), at));
                    listing.first_seen.extend(created);
                    projects.push(project);
                }
                Err(why) => listing.left_out.note("project", &record, why),
            }
        }
        Ok((listing, projects))
    }

    /// Lists the workspaces again, beside which sessions may change.
    ///
    /// # Errors
    ///
    /// As [`Listing::read_projects`].
    pub async fn read_workspaces(client: &Client) -> Result<Self, Error> {
        let (mut listing, projects) = Self::read_projects(client).await?;
        listing.add_all_workspaces(client, &projects).await?;
        listing.of_one_server(client).await
    }

    /// Takes the workspaces of a newer list; tells whether anything differs.
    pub fn take_workspaces(&mut self, newer: Self) -> bool {
        let differ = newer.workspaces != self.workspaces
            || newer.has_all_workspaces != self.has_all_workspaces;
        (self.projects, self.first_seen) = (newer.projects, newer.first_seen);
        (self.workspaces, self.has_all_workspaces) = (newer.workspaces, newer.has_all_workspaces);
        differ
    }

    /// Notes what answered with a failure; anything else fails the whole.
    fn settle(&mut self, what: String, read: Result<(), Error>) -> Result<Option<Error>, Error> {
        match read {
            Ok(()) => Ok(None),
            Err(error @ (Error::Status { .. } | Error::Foreign { .. } | Error::TooLong { .. })) => {
                self.left_out.add(what, format!("can't be read: {error}"));
                Ok(Some(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn add_all_workspaces(
        &mut self,
        client: &Client,
        projects: &[Project],
    ) -> Result<(), Error> {
        for project in projects {
            let folder = ("directory", project.worktree.as_str());
            let read = client.get_list("experimental/workspace", &[folder]).await;
            let name = format!("the workspaces of {}", project.worktree);
            match read {
                Ok(records) => self.add_workspaces(records).await,
                Err(error) => {
                    self.has_all_workspaces = false;
                    self.settle(name, Err(error))?;
                }
            }
        }
        Ok(())
    }

    async fn add_workspaces(&mut self, records: Vec<Value>) {
        let read = read_each("workspace", records, |record| {
            Workspace::read(record).map(|workspace| (workspace.id.clone(), workspace))
        });
        let (workspaces, left_out) = read.await;
        self.has_all_workspaces &= left_out.is_empty();
        self.workspaces.extend(workspaces);
        self.left_out.extend(left_out);
    }

    async fn add_sessions(
        &mut self,
        client: &Client,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<(), Error> {
        let limit = SESSIONS_MAX.to_string();
        let query: Vec<_> = query.iter().copied().chain([("limit", limit.as_str())]).collect();
        let records = client.get_list(path, &query).await?;
        if records.len() >= SESSIONS_MAX {
            let url = client.address().clone();
            return Err(Error::TooLong { url, max: SESSIONS_MAX, unit: "sessions" });
        }
        let read = read_each("session", records, |record| {
            Session::read(record).map(|session| (session.id.clone(), session))
        });
        let (mut sessions, left_out) = read.await;
        self.left_out.extend(left_out);
        if self.sessions.is_empty() {
            self.sessions = sessions;
        } else {
            let mut known = std::mem::take(&mut self.sessions);
            let both = tokio::task::spawn_blocking(move || {
                known.append(&mut sessions);
                known
            });
            self.sessions = both.await.unwrap_or_default();
        }
        Ok(())
    }
}

/// Reads records and frees them, beside the loop: there may be tens of thousands, and each may be large.
async fn read_each<T: Send + 'static>(
    kind: &'static str,
    records: Vec<Value>,
    read: impl Fn(&Value) -> Result<(String, T), String> + Send + 'static,
) -> (BTreeMap<String, T>, LeftOut) {
    let work = tokio::task::spawn_blocking(move || {
        let (mut found, mut left_out) = (BTreeMap::new(), LeftOut::default());
        for record in &records {
            match read(record) {
                Ok((id, one)) => drop(found.insert(id, one)),
                Err(why) => left_out.note(kind, record, why),
            }
        }
        (found, left_out)
    });
    work.await.unwrap_or_else(|error| {
        let mut left_out = LeftOut::default();
        left_out.add(format!("each {kind}"), format!("can't be read: {error}"));
        (BTreeMap::new(), left_out)
    })
}
