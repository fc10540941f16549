//! Owns keeping one opencode server and this host's records in step.
//!
//! Must not know documents: it asks the loop as any client does. Invariants: nothing is deleted
//! here because a list could not be read whole; nothing is deleted there before its undo window is
//! over; what is yet to be done is found again from the two lists, never from a queue.

pub mod anchor;
pub mod compare;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::pending,
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::anchor::Anchors;
use self::compare::{Here, Plan, mark};
use super::opencode::{self, Client, Listing, events::Event, listing::Mapped};
use crate::{
    daemon::handle::{AgentState, Handle, RequestError},
    replica::{
        command::{Command, Target},
        ids::{Cursor, NodeId, SessionId},
    },
};

/// Waits between attempts to reach a server: the first, and the longest. It is on this machine, so
/// asking costs little, and what it has when it is back is to be seen everywhere within a second.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(750));
/// How long events are gathered before they are acted upon.
const GATHER: Duration = Duration::from_millis(100);
/// How often the workspaces are listed: no event tells of them, and one that is made or removed is
/// to be seen everywhere within a second.
const WORKSPACES_EVERY: Duration = Duration::from_millis(500);
/// How long the server is left alone for each question that listing them takes, one a project and
/// one more. Such a question takes opencode 1.18.33 some milliseconds (measured), so that this costs
/// it some hundredths of a core, however many projects it has.
const REST_PER_QUESTION: Duration = Duration::from_millis(100);
/// How often the loop is asked what is to be deleted there.
const DUE_EVERY: Duration = Duration::from_millis(200);
/// How long the server is left alone after it failed to delete something.
const DELETE_RETRY: Duration = Duration::from_secs(2);
/// How often the time of a session's last change is written while nothing else changes.
const TICK_EVERY: Duration = Duration::from_secs(30);
/// How long after a suspicious list the server is asked again.
const CONFIRM_AFTER: Duration = Duration::from_secs(3);
/// Most records in one import: it is one change in the document, and a quarter of a megabyte.
const BATCH_RECORDS: usize = 500;

/// Why the bridge has to begin anew.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The server can't be read.
    #[error(transparent)]
    Server(#[from] opencode::Error),
    /// Another server listens there, or it stands on another database.
    #[error(
        "the server at {server} stands on another database than before: it first saw its projects \
         at other times; nothing is taken over in either direction. If that is meant, stop the \
         daemon, remove {} and start it again", path.display()
    )]
    AnotherDatabase {
        /// Its address.
        server: String,
        /// Where it is written down what database it stood on.
        path: PathBuf,
    },
    /// What is remembered of the server can't be read or written.
    #[error("{}: {source}", path.display())]
    Anchors {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The loop doesn't take what is told to it.
    #[error(transparent)]
    Here(#[from] RequestError),
}

/// Keeps a server and this host's records in step until it is told to stop.
pub async fn run(
    client: Client,
    handle: Handle,
    node: NodeId,
    anchors: Arc<Anchors>,
    stop: CancellationToken,
) {
    let server = client.address().to_string();
    let mut bridge = Bridge {
        client,
        handle,
        node,
        anchors,
        server,
        listing: Listing::default(),
        written: BTreeMap::new(),
        refused: BTreeSet::new(),
        seen: None,
        lagging: false,
        delete_at: Instant::now(),
        retry: RETRY.0,
        problem: None,
    };
    loop {
        bridge.stands(AgentState::Connecting, bridge.problem.clone(), false);
        let failed = tokio::select! {
            () = stop.cancelled() => return,
            Err(error) = bridge.follow() => error,
        };
        if matches!(failed, Error::Here(RequestError::Stopping)) {
            return;
        }
        let problem = failed.to_string();
        if bridge.problem.as_ref() != Some(&problem) {
            tracing::warn!(server = bridge.server, %problem, "the bridge has failed and retries");
        }
        bridge.stands(AgentState::Failed, Some(problem.clone()), false);
        bridge.problem = Some(problem);
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(bridge.retry) => {}
        }
        bridge.retry = (bridge.retry * 2).min(RETRY.1);
    }
}

/// The workspaces, on their way.
type Looking = Pin<Box<dyn Future<Output = Result<Listing, opencode::Error>> + Send>>;

struct Bridge {
    client: Client,
    handle: Handle,
    node: NodeId,
    anchors: Arc<Anchors>,
    /// The address, with which the server's records are marked.
    server: String,
    /// What the server has, as far as it has told.
    listing: Listing,
    /// When each session was last written here.
    written: BTreeMap<SessionId, Instant>,
    /// What was told to the loop and not taken in, by id: it was purged here.
    refused: BTreeSet<String>,
    /// The view that was last compared.
    seen: Option<Cursor>,
    /// Whether something that is known was not written yet.
    lagging: bool,
    /// When the server may be asked to delete again.
    delete_at: Instant,
    retry: Duration,
    problem: Option<String>,
}

impl Bridge {
    fn stands(&self, state: AgentState, problem: Option<String>, read: bool) {
        self.handle.agent_stands(&self.server, state, problem, read);
    }

    /// Reads everything, then follows what happens, until something fails.
    async fn follow(&mut self) -> Result<Infallible, Error> {
        self.client.version().await?;
        // Opened before the list is read: what happens meanwhile is told afterwards.
        let mut events = self.client.events().await?;
        self.listing = self.read().await?;
        self.refused.clear();
        self.reconcile().await?;
        tracing::info!(server = self.server, sessions = self.listing.sessions.len(), "bridged");
        self.stands(AgentState::Connected, None, true);
        (self.problem, self.retry) = (None, RETRY.0);

        // Asked beside the events: a server that hangs is to be known by the end of their stream.
        let (mut look_at, mut looking) = (Instant::now(), None::<Looking>);
        let mut due = interval(DUE_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut act_at: Option<Instant> = None;
        // Whether what is asked is asked for what was told: it is acted upon in any case.
        let mut acts = false;
        loop {
            tokio::select! {
                event = events.next() => {
                    if self.take(event?) {
                        act_at.get_or_insert_with(|| Instant::now() + GATHER);
                    }
                }
                () = sleep_until(act_at.unwrap_or_else(Instant::now)), if act_at.is_some() && !acts => {
                    // What was asked before would be older than what was told.
                    (act_at, acts, looking) = (None, true, Some(self.look()));
                }
                () = sleep_until(look_at), if looking.is_none() => looking = Some(self.look()),
                found = answer(&mut looking) => {
                    looking = None;
                    let differ = self.listing.take_workspaces(found?);
                    let moved = self.seen != Some(self.handle.hub().cursor());
                    if std::mem::take(&mut acts) {
                        if self.suspicion(&self.listing).is_some() {
                            // What was told piece by piece is believed no sooner than a list.
                            self.listing = self.read().await?;
                        }
                        self.reconcile().await?;
                    } else if differ || moved || self.lagging {
                        self.refused.clear();
                        self.reconcile().await?;
                    }
                    look_at = Instant::now() + workspaces_every(self.listing.projects);
                }
                _ = due.tick() => self.delete_due().await?,
            }
        }
    }

    /// Asks which workspaces there are.
    fn look(&self) -> Looking {
        let client = self.client.clone();
        Box::pin(async move { Listing::read_workspaces(&client).await })
    }

    /// Takes an event into the list; tells whether to act upon it soon.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Deleted(id) => self.listing.sessions.remove(&id).is_some(),
            Event::Changed(session) => {
                let before = self.listing.sessions.insert(session.id.clone(), session.clone());
                let Some(mut before) = before else { return true };
                before.time.updated = session.time.updated;
                self.lagging = true;
                before != session
            }
        }
    }

    /// Reads the whole list; one that lacks most of what is known only if it still does when it
    /// is read again.
    async fn read(&self) -> Result<Listing, Error> {
        let listing = self.read_once().await?;
        let Some(lacks) = self.suspicion(&listing) else { return Ok(listing) };
        tracing::warn!(server = self.server, "{lacks}; asking again before any of them is deleted");
        self.stands(AgentState::Connecting, Some(format!("{lacks}; asking again")), false);
        sleep(CONFIRM_AFTER).await;
        let listing = self.read_once().await?;
        if let Some(lacks) = self.suspicion(&listing) {
            tracing::warn!(server = self.server, "{lacks}, twice; they are deleted here, too");
        }
        Ok(listing)
    }

    async fn read_once(&self) -> Result<Listing, Error> {
        let listing = Listing::read(&self.client, |_, _| {}).await?;
        self.recognise(&listing)?;
        Ok(listing)
    }

    /// Refuses a server that stands on another database than before.
    fn recognise(&self, listing: &Listing) -> Result<(), Error> {
        let path = || self.anchors.path().to_owned();
        match self.anchors.holds(&self.server, listing.projects, &listing.first_seen) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::AnotherDatabase { server: self.server.clone(), path: path() }),
            Err(source) => Err(Error::Anchors { path: path(), source }),
        }
    }

    fn suspicion(&self, listing: &Listing) -> Option<String> {
        let (here, list) = (self.here(), self.mapped(listing).import);
        let plan = here.compare(&list, &self.server);
        here.is_suspicious(&list, &plan, &self.server).then(|| {
            let (missing, listed) = (plan.missing.len(), list.sessions.len());
            format!("the server lists {listed} sessions and lacks {missing} that it had")
        })
    }

    fn mapped(&self, listing: &Listing) -> Mapped {
        let mut mapped = listing.map();
        mark(&mut mapped.import, &self.server);
        mapped
    }

    fn here(&self) -> Here {
        let view = self.handle.hub().view();
        let sessions = view.sessions().filter(|session| session.host == self.node);
        let workspaces = view.workspaces().filter(|workspace| workspace.host == self.node);
        Here {
            sessions: sessions.map(|session| (session.id.clone(), session.clone())).collect(),
            workspaces: workspaces.map(|w| (w.id.clone(), w.clone())).collect(),
        }
    }

    /// Brings this host's records to what the server is known to have.
    async fn reconcile(&mut self) -> Result<(), Error> {
        let mut mapped = self.mapped(&self.listing);
        let here = self.here();
        let plan = here.compare(&mapped.import, &self.server);
        self.delete_missing(&here, &plan).await?;
        self.lagging = false;
        let now = Instant::now();
        let written = &self.written;
        let recent = |id: &&SessionId| {
            written.get(*id).is_some_and(|at| now.duration_since(*at) < TICK_EVERY)
        };
        let waiting: BTreeSet<SessionId> = plan.ticked.iter().filter(recent).cloned().collect();
        self.lagging = !waiting.is_empty();
        mapped.import = plan.import;
        mapped.import.sessions.retain(|session| {
            !waiting.contains(&session.id) && !self.refused.contains(session.id.as_str())
        });
        mapped.import.workspaces.retain(|w| !self.refused.contains(w.id.as_str()));
        for batch in mapped.batches(BATCH_RECORDS) {
            self.handle.command(Command::Import(batch)).await?;
        }
        let view = self.handle.hub().view();
        for session in &mapped.import.sessions {
            self.written.insert(session.id.clone(), now);
            if !view.session(&session.id).any(|known| known.host == self.node) {
                self.refused.insert(session.id.to_string());
            }
        }
        for workspace in &mapped.import.workspaces {
            if !view.workspace(&workspace.id).any(|known| known.host == self.node) {
                self.refused.insert(workspace.id.to_string());
            }
        }
        self.written.retain(|_, at| now.duration_since(*at) < TICK_EVERY);
        self.seen = Some(view.cursor());
        Ok(())
    }

    /// Deletes here what the server has no more.
    async fn delete_missing(&self, here: &Here, plan: &Plan) -> Result<(), Error> {
        let host = Some(self.node.to_string());
        for id in here.roots(&plan.missing) {
            tracing::info!(session = %id, server = self.server, "deleted there");
            let session = Target { id, host: host.clone() };
            let delete = Command::DeleteSession { session, dry_run: false };
            settled(self.handle.command(delete).await)?;
        }
        if !plan.missing.is_empty() {
            let gone = plan.missing.iter().cloned().collect();
            self.handle.command(Command::AgentGone(gone)).await?;
        }
        for id in &plan.missing_workspaces {
            // A server that was started without workspaces lists none, and has removed none.
            let directory = here.workspaces.get(id).and_then(|known| known.directory.as_ref());
            if let Some(directory) = directory
                && tokio::fs::try_exists(directory).await.unwrap_or(true)
            {
                tracing::debug!(workspace = %id, "not listed any more, but its folder is there");
                continue;
            }
            tracing::info!(workspace = %id, server = self.server, "removed there");
            let workspace = Target { id: id.clone(), host: host.clone() };
            let delete = Command::DeleteWorkspace { workspace, dry_run: false };
            settled(self.handle.command(delete).await)?;
        }
        Ok(())
    }

    /// Deletes there what was deleted here and can't be undone any more.
    async fn delete_due(&mut self) -> Result<(), Error> {
        if Instant::now() < self.delete_at {
            return Ok(());
        }
        let mut gone = Vec::new();
        let mut unknown = false;
        let mut failed = None;
        for id in self.handle.agent_due(&self.server).await? {
            match self.client.delete_session(id.as_str()).await {
                Ok(was_there) => {
                    tracing::info!(session = %id, server = self.server, was_there, "gone there, too");
                    unknown |= !was_there;
                    self.listing.sessions.remove(id.as_str());
                    gone.push(id);
                }
                Err(error) => {
                    let of_all = !matches!(error, opencode::Error::Status { .. });
                    failed = Some(error);
                    if of_all {
                        break;
                    }
                }
            }
        }
        if unknown {
            // A server that was restarted on another database meanwhile has none of them.
            self.recognise(&Listing::read_projects(&self.client).await?)?;
        }
        if !gone.is_empty() {
            self.handle.command(Command::AgentGone(gone)).await?;
        }
        let problem = match failed {
            None => None,
            Some(error @ opencode::Error::Status { .. }) => {
                self.delete_at = Instant::now() + DELETE_RETRY;
                Some(format!("a session that was deleted here is not deleted there: {error}"))
            }
            Some(error) => return Err(error.into()),
        };
        if problem != self.problem {
            if let Some(problem) = &problem {
                tracing::warn!(server = self.server, "{problem}");
            }
            self.stands(AgentState::Connected, problem.clone(), false);
            self.problem = problem;
        }
        Ok(())
    }
}

/// Waits for the answer to a question, for ever if none was asked.
async fn answer(looking: &mut Option<Looking>) -> Result<Listing, opencode::Error> {
    match looking {
        Some(looking) => looking.await,
        None => pending().await,
    }
}

/// Returns how often the workspaces of so many projects are listed.
fn workspaces_every(projects: usize) -> Duration {
    let questions = u32::try_from(projects).unwrap_or(u32::MAX).saturating_add(1);
    WORKSPACES_EVERY.max(REST_PER_QUESTION.saturating_mul(questions))
}

/// Takes a refusal as done: what was to be deleted has gone, or can't go, for reasons of its own.
fn settled<T>(answer: Result<T, RequestError>) -> Result<(), RequestError> {
    match answer {
        Ok(_) => Ok(()),
        Err(RequestError::Refused(refusal)) => {
            tracing::warn!(%refusal, "a delete that an agent has made is not taken over");
            Ok(())
        }
        Err(error) => Err(error),
    }
}
