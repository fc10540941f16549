//! Owns the lists: which records a query asks for, in which order, and page by page.
//!
//! Must not know HTTP beyond a query's text. Invariant: following `next_cursor` to the end gives
//! every record that matched all along exactly once, but for one whose time changed meanwhile.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, de::DeserializeOwned};

use super::{Context, body, names::Names, problem::Error};
use crate::{
    daemon::handle::RequestError,
    replica::{
        command::Target,
        ids::{NodeId, WorkspaceId},
        record::{Session, SessionState, Workspace, WorkspaceState},
    },
};

/// How many records a page has if the query doesn't say: what a person can look through.
pub const LIMIT_DEFAULT: usize = 100;
/// Most records on a page: about half a megabyte.
pub const LIMIT_MAX: usize = 1_000;

/// A kind of record that can be listed.
pub(super) trait Listed: Sized + Send + Sync {
    /// The derived state that the `state` parameter names.
    type State: DeserializeOwned + Ord + Copy + Send + Sync + 'static;
    /// The states that are listed if the query doesn't say.
    const STATES_DEFAULT: &'static [Self::State];

    fn state(&self) -> Self::State;
    fn host(&self) -> NodeId;
    fn id(&self) -> &str;
    /// The newest by this come first.
    fn time(&self) -> i64;
    fn project_id(&self) -> Option<&str>;
    fn workspace_id(&self) -> Option<&WorkspaceId>;
    /// What `search` looks through.
    fn texts(&self) -> impl Iterator<Item = &str>;
}

impl Listed for Session {
    type State = SessionState;
    const STATES_DEFAULT: &'static [SessionState] = &[SessionState::Live, SessionState::Stranded];

    fn state(&self) -> SessionState {
        self.state
    }

    fn host(&self) -> NodeId {
        self.host
    }

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn time(&self) -> i64 {
        self.updated_at
    }

    fn project_id(&self) -> Option<&str> {
        self.project_id.as_deref()
    }

    fn workspace_id(&self) -> Option<&WorkspaceId> {
        self.workspace_id.as_ref()
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        [Some(self.id.as_str()), self.title.as_deref(), self.directory.as_deref()]
            .into_iter()
            .flatten()
    }
}

impl Listed for Workspace {
    type State = WorkspaceState;
    // What is vacated or sealed is on its way out; what failed waits for a person.
    const STATES_DEFAULT: &'static [WorkspaceState] =
        &[WorkspaceState::Live, WorkspaceState::Failed];

    fn state(&self) -> WorkspaceState {
        self.state
    }

    fn host(&self) -> NodeId {
        self.host
    }

    fn id(&self) -> &str {
        self.id.as_str()
    }

    fn time(&self) -> i64 {
        self.created_at
    }

    fn project_id(&self) -> Option<&str> {
        self.project_id.as_deref()
    }

    fn workspace_id(&self) -> Option<&WorkspaceId> {
        Some(&self.id)
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let optional = [self.directory.as_deref(), self.branch.as_deref()];
        [self.id.as_str(), &self.name].into_iter().chain(optional.into_iter().flatten())
    }
}

/// The parameters of `GET /v1/sessions`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SessionsQuery {
    state: Option<String>,
    workspace_id: Option<String>,
    host: Option<String>,
    project_id: Option<String>,
    search: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// The parameters of `GET /v1/workspaces`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WorkspacesQuery {
    state: Option<String>,
    host: Option<String>,
    project_id: Option<String>,
    search: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

impl From<WorkspacesQuery> for SessionsQuery {
    fn from(query: WorkspacesQuery) -> Self {
        let WorkspacesQuery { state, host, project_id, search, limit, cursor } = query;
        Self { state, workspace_id: None, host, project_id, search, limit, cursor }
    }
}

/// What a record's place in the order is made of: newest first, then by id and host.
type Key<'a> = (Reverse<i64>, &'a str, NodeId);

/// A place in the order, kept between two pages.
type Place = (i64, String, NodeId);

/// A query that has been read.
#[derive(Debug)]
pub(super) struct Filter<S> {
    states: BTreeSet<S>,
    every_state: bool,
    host: Option<NodeId>,
    workspace: Option<(WorkspaceId, Option<NodeId>)>,
    project_id: Option<String>,
    search: Option<String>,
    limit: usize,
    after: Option<Place>,
}

impl<S: DeserializeOwned + Ord + Copy> Filter<S> {
    /// Reads a query; asks the loop for names only where it names a host.
    pub(super) async fn read<R: Listed<State = S>>(
        context: &Context,
        query: SessionsQuery,
    ) -> Result<Self, Error> {
        let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            let problem = format!("`limit` is {limit}, but must be from 1 to {LIMIT_MAX}");
            return Err(Error::InvalidQuery(problem));
        }
        let workspace = query.workspace_id.as_deref().map(body::target::<WorkspaceId>);
        let workspace: Option<Target<_>> = workspace.transpose().map_err(Error::InvalidId)?;
        let workspace_host = workspace.as_ref().and_then(|workspace| workspace.host.as_deref());
        let names = match (&query.host, workspace_host) {
            (None, None) => None,
            _ => {
                let view = context.handle.hub().view();
                let hosts = beside(move || {
                    let sessions = view.sessions().map(|session| session.host);
                    let hosts = sessions.chain(view.workspaces().map(|workspace| workspace.host));
                    hosts.collect::<BTreeSet<_>>()
                });
                Some(Names::load(context, hosts.await?).await?)
            }
        };
        let find = |text: Option<&str>| {
            text.zip(names.as_ref()).map(|(text, names)| names.find(text)).transpose()
        };
        let (host, workspace_host) = (find(query.host.as_deref())?, find(workspace_host)?);
        let (states, every_state) = match query.state.as_deref() {
            None => (R::STATES_DEFAULT.iter().copied().collect(), false),
            Some("all") => (BTreeSet::new(), true),
            Some(text) => (states(text)?, false),
        };
        let after = query.cursor.as_deref().map(|text| {
            place(text).ok_or_else(|| {
                Error::InvalidQuery("`cursor` is not a `next_cursor` of this list".to_owned())
            })
        });
        Ok(Self {
            states,
            every_state,
            host,
            workspace: workspace.map(|workspace| (workspace.id, workspace_host)),
            project_id: query.project_id,
            search: query.search.map(|text| text.to_lowercase()),
            limit,
            after: after.transpose()?,
        })
    }

    /// Returns the page and the text that leads to the next one.
    pub(super) fn page<'a, R: Listed<State = S> + 'a>(
        &self,
        records: impl Iterator<Item = &'a Arc<R>>,
    ) -> (Vec<&'a R>, Option<String>) {
        let after =
            self.after.as_ref().map(|(time, id, host)| (Reverse(*time), id.as_str(), *host));
        let mut page: Vec<&R> = records
            .map(|record| &**record)
            .filter(|record| after.as_ref().is_none_or(|after| key(*record) > *after))
            .filter(|record| self.matches(*record))
            .collect();
        let more = page.len() > self.limit;
        if more {
            // Only the page is sorted, not all that match.
            page.select_nth_unstable_by(self.limit - 1, |a, b| key(*a).cmp(&key(*b)));
            page.truncate(self.limit);
        }
        page.sort_unstable_by(|a, b| key(*a).cmp(&key(*b)));
        let last = page.last().filter(|_| more);
        let next = last.map(|last| {
            let text = format!("{} {} {}", last.time(), last.id(), last.host());
            BASE64URL_NOPAD.encode(text.as_bytes())
        });
        (page, next)
    }

    fn matches<R: Listed<State = S>>(&self, record: &R) -> bool {
        let in_workspace = |(id, host): &(WorkspaceId, Option<NodeId>)| {
            record.workspace_id() == Some(id) && host.is_none_or(|host| host == record.host())
        };
        (self.every_state || self.states.contains(&record.state()))
            && self.host.is_none_or(|host| host == record.host())
            && self.workspace.as_ref().is_none_or(in_workspace)
            && self.project_id.as_deref().is_none_or(|id| record.project_id() == Some(id))
            && self.search.as_deref().is_none_or(|sought| {
                record.texts().any(|text| text.to_lowercase().contains(sought))
            })
    }
}

/// Runs work whose time grows with the number of records on another thread than the loop's.
pub(super) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        // The runtime ends.
        Err(_) => Err(RequestError::Stopping.into()),
    }
}

fn key<R: Listed>(record: &R) -> Key<'_> {
    (Reverse(record.time()), record.id(), record.host())
}

fn place(text: &str) -> Option<Place> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let mut parts = text.split(' ');
    let place =
        (parts.next()?.parse().ok()?, parts.next()?.to_owned(), parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(place)
}

/// Reads states separated by commas.
fn states<S: DeserializeOwned + Ord>(text: &str) -> Result<BTreeSet<S>, Error> {
    let read = |name: &str| {
        serde_json::from_value(serde_json::Value::String(name.to_owned()))
            .map_err(|error| Error::InvalidQuery(format!("`state`: {error}, or `all`")))
    };
    text.split(',').map(read).collect()
}
