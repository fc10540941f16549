//! Owns keeping one opencode server and this host's records in step.
//!
//! Must not know documents: it asks the loop as any client does. Invariants: nothing is deleted here
//! but what the server, asked for it by its id, has no more; nothing is deleted there before its undo
//! window is over; what is yet to be done is found again from the two lists, never from a queue;
//! nothing that takes longer the more sessions there are is done on the loop's thread.

pub mod anchor;
pub mod compare;
mod due;
mod hints;
mod step;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt::Debug,
    future::pending,
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    anchor::{Anchors, Identity},
    due::{Keeper, Kept},
};
use self::{compare::Speaker, due::Due, hints::Hints, verify::Verified};
use super::opencode::{
    self, Client, Listing, Places, events::Event, listener::Process, model::LeftOut,
};
use crate::{
    daemon::handle::{AgentState, Handle, RequestError, Task},
    replica::ids::{Cursor, NodeId, SessionId},
};

/// How long what waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Waits between attempts to reach a server: the first, and the longest. It is on this machine,
    /// so asking costs little, and what it has when it is back is to be seen everywhere within a
    /// second.
    pub retry: (Duration, Duration),
    /// How long events are gathered before they are acted upon.
    pub gather: Duration,
    /// How often the workspaces are listed while nothing hints at a change: no event tells of them.
    /// opencode 1.18.33 works some milliseconds for each project that is asked for.
    pub look_every: Duration,
    /// How soon, and how soon again, they are listed after something hinted at a change: the folder
    /// of a worktree is there before the server knows of it.
    pub look_soon: [Duration; 3],
    /// How often it is seen whether this host's records have changed.
    pub compare_every: Duration,
    /// How often the loop is asked what is to be deleted there.
    pub due_every: Duration,
    /// How long a session is left alone after the server failed to delete it, the first time.
    pub delete_retry: Duration,
    /// How often the time of a session's last change is written while nothing else changes.
    pub tick_every: Duration,
    /// How long a session that was not listed, and is there, is not asked for again.
    pub ask_again: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry: (Duration::from_millis(250), Duration::from_millis(750)),
            gather: Duration::from_millis(100),
            look_every: Duration::from_secs(8),
            look_soon: [50, 250, 800].map(Duration::from_millis),
            compare_every: Duration::from_secs(1),
            due_every: Duration::from_millis(250),
            delete_retry: Duration::from_secs(2),
            tick_every: Duration::from_secs(30),
            ask_again: Duration::from_secs(30),
        }
    }
}

/// What all bridges of a node share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What is remembered of the servers.
    pub anchors: Arc<Anchors>,
    /// Where conversations are kept before they are deleted.
    pub keeper: Arc<dyn Keeper>,
    /// The servers that are bridged.
    pub bridged: BTreeSet<String>,
    /// Folders that a person has named, below which workspaces may be removed.
    pub roots: Vec<PathBuf>,
    /// How long what waits.
    pub timing: Timing,
}

/// Why the bridge has to begin again.
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
    /// It can't be told whether it is the same server.
    #[error(
        "the server at {0} does not say when it first saw its projects, so that nobody can tell \
         whether it is the one that it was; nothing is taken over until it does"
    )]
    Untold(String),
    /// Its stream ended while its list was read.
    #[error("the server at {0} has ended its stream of events while it was read")]
    Interrupted(String),
    /// What is remembered of the server can't be read or written.
    #[error("{}: {source}", path.display())]
    Anchors {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something that was done beside the loop has panicked.
    #[error("a part of the bridge has failed: {0}")]
    Part(#[from] tokio::task::JoinError),
    /// The loop doesn't take what is told to it.
    #[error(transparent)]
    Here(#[from] RequestError),
}

/// Keeps a server and this host's records in step until it is told to stop. A notification of
/// `relist` has it list everything again.
pub async fn run(
    client: Client,
    handle: Handle,
    node: NodeId,
    shared: Shared,
    relist: Arc<Notify>,
    stop: CancellationToken,
) {
    let timing = shared.timing;
    let server = client.address().to_string();
    let mut bridge = Bridge {
        client,
        handle,
        node,
        places: Places { roots: shared.roots.clone(), worktrees: None },
        speaker: Speaker::alone(&server),
        shared,
        server,
        listing: Arc::default(),
        odd: LeftOut::default(),
        written: BTreeMap::new(),
        refused: BTreeSet::new(),
        asked: BTreeMap::new(),
        verified: Verified::new(),
        seen: None,
        compare_at: None,
        notes: Vec::new(),
        retry: timing.retry.0,
        problem: None,
        purged: mpsc::unbounded_channel().0,
    };
    loop {
        bridge.stands(AgentState::Connecting, bridge.problem.clone(), false);
        let failed = tokio::select! {
            () = stop.cancelled() => return,
            Err(error) = bridge.follow(&relist) => error,
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
        bridge.retry = (bridge.retry * 2).min(timing.retry.1);
    }
}

/// The workspaces, on their way.
type Looking = Pin<Box<dyn Future<Output = Result<Listing, opencode::Error>> + Send>>;

struct Bridge {
    client: Client,
    handle: Handle,
    node: NodeId,
    shared: Shared,
    places: Places,
    /// The address, with which the server's records are marked.
    server: String,
    /// Whose records the server may speak for.
    speaker: Speaker,
    /// What the server has, as far as it has told.
    listing: Arc<Listing>,
    /// What was told of sessions that can't be read.
    odd: LeftOut,
    /// When each session was last written here.
    written: BTreeMap<SessionId, Instant>,
    /// What was told to the loop and not taken in, by id: it was purged here.
    refused: BTreeSet<String>,
    /// The sessions that were asked for by their ids and are still there, or can't be told, and when.
    asked: BTreeMap<SessionId, Instant>,
    /// The sessions that were asked for since another server on the database may have changed them.
    verified: Verified,
    /// The view that was last compared.
    seen: Option<Cursor>,
    /// When to compare again although nothing has changed.
    compare_at: Option<Instant>,
    /// What is left out or waits.
    notes: Vec<String>,
    retry: Duration,
    problem: Option<String>,
    /// Tells which sessions are to be deleted there although nothing is left of them here.
    purged: mpsc::UnboundedSender<Vec<SessionId>>,
}

/// Ends a task that nobody waits for any more.
struct Aborting(JoinHandle<Error>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Bridge {
    fn stands(&self, state: AgentState, problem: Option<String>, read: bool) {
        self.handle.agent_stands(&self.server, state, problem, read);
    }

    fn timing(&self) -> Timing {
        self.shared.timing
    }

    /// Reads everything, then follows what happens, until something fails.
    async fn follow(&mut self, relist: &Notify) -> Result<Infallible, Error> {
        self.client.version().await?;
        let process = self.client.process().await;
        let data = process.as_ref().and_then(Process::data_folder);
        self.places.worktrees = data.map(|data| data.join("opencode/worktree"));
        // Opened before the list is read: what happens meanwhile is told afterwards.
        let mut events = self.client.events().await?;
        self.read().await?;
        if events.has_ended() {
            return Err(Error::Interrupted(self.server.clone()));
        }
        let (speakers, speaker) = watch::channel(self.speaker.clone());
        let (problems, mut problem) = watch::channel(None);
        let mut due = self.delete_due(speaker, problems);
        self.reconcile().await?;
        tracing::info!(server = self.server, sessions = self.listing.sessions.len(), "bridged");
        self.stands(AgentState::Connected, None, true);
        self.tell_notes();
        (self.problem, self.retry) = (None, self.timing().retry.0);

        let mut hints = Hints::new();
        hints.watch(self.folders());
        // Asked beside the events: a server that hangs is to be known by the end of their stream.
        let (mut look_at, mut looking) = (Instant::now(), None::<Looking>);
        // How often to look soon, yet.
        let mut soon = 0..0;
        let mut act_at: Option<Instant> = None;
        let mut compare = tokio::time::interval(self.timing().compare_every);
        compare.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.next() => {
                    if self.take(event?) {
                        act_at.get_or_insert_with(|| Instant::now() + self.timing().gather);
                    }
                }
                () = sleep_until(act_at.unwrap_or_else(Instant::now)), if act_at.is_some() => {
                    act_at = None;
                    if self.names_unknown_workspace() {
                        let found = Listing::read_workspaces(&self.client).await?;
                        identify(&self.client, &self.shared.anchors, &found).await?;
                        Arc::make_mut(&mut self.listing).take_workspaces(found);
                        hints.watch(self.folders());
                    }
                    self.reconcile().await?;
                }
                () = hints.next() => {
                    soon = 0..self.timing().look_soon.len();
                    look_at = Instant::now() + self.timing().look_soon[0];
                    // What was asked before may be older than what was noticed.
                    looking = None;
                }
                () = sleep_until(look_at), if looking.is_none() => looking = Some(self.look()),
                found = answer(&mut looking) => {
                    looking = None;
                    let found = found?;
                    identify(&self.client, &self.shared.anchors, &found).await?;
                    if Arc::make_mut(&mut self.listing).take_workspaces(found) {
                        self.refused.clear();
                        self.reconcile().await?;
                    }
                    hints.watch(self.folders());
                    soon.next();
                    let wait = soon.clone().next().map(|at| self.timing().look_soon[at]);
                    look_at = Instant::now() + wait.unwrap_or(self.timing().look_every);
                }
                _ = compare.tick() => {
                    let moved = self.seen != Some(self.handle.hub().cursor());
                    let is_time = self.compare_at.is_some_and(|at| at <= Instant::now());
                    if moved || is_time {
                        self.reconcile().await?;
                        speakers.send_if_modified(|told| {
                            let differs = *told != self.speaker;
                            told.clone_from(&self.speaker);
                            differs
                        });
                    }
                }
                () = relist.notified() => {
                    self.read().await?;
                    if events.has_ended() {
                        return Err(Error::Interrupted(self.server.clone()));
                    }
                    self.reconcile().await?;
                    self.stands(AgentState::Connected, self.problem.clone(), true);
                }
                Ok(()) = problem.changed() => {
                    self.problem = problem.borrow_and_update().clone();
                    self.stands(AgentState::Connected, self.problem.clone(), false);
                }
                ended = &mut due.0 => return Err(ended?),
            }
            self.tell_notes();
        }
    }

    /// Deletes there, beside everything else, what is due.
    fn delete_due(
        &mut self,
        speaker: watch::Receiver<Speaker>,
        problem: watch::Sender<Option<String>>,
    ) -> Aborting {
        let (sender, purged) = mpsc::unbounded_channel();
        self.purged = sender;
        let due = Due {
            client: self.client.clone(),
            handle: self.handle.clone(),
            node: self.node,
            anchors: self.shared.anchors.clone(),
            keeper: self.shared.keeper.clone(),
            timing: self.timing(),
            speaker,
            purged,
            problem,
        };
        let run = self.handle.pace().watch(Task::Bridge, due.run());
        Aborting(tokio::spawn(run))
    }

    /// Asks which workspaces there are.
    fn look(&self) -> Looking {
        let client = self.client.clone();
        Box::pin(async move { Listing::read_workspaces(&client).await })
    }

    /// Returns the folders in which the server makes worktrees, as far as they are known.
    fn folders(&self) -> BTreeSet<PathBuf> {
        let known = self.listing.workspaces.values().filter_map(|one| one.directory.as_ref());
        let known = known.filter_map(|directory| {
            let folder = PathBuf::from(directory).parent()?.to_owned();
            Some([folder.parent()?.to_owned(), folder])
        });
        let mut folders: BTreeSet<PathBuf> = known.flatten().collect();
        if let Some(worktrees) = &self.places.worktrees {
            folders.extend(self.listing.first_seen.keys().map(|project| worktrees.join(project)));
            folders.extend(worktrees.parent().map(std::path::Path::to_owned));
            folders.insert(worktrees.clone());
        }
        folders
    }

    /// Tells whether a session is in a workspace that was not listed.
    fn names_unknown_workspace(&self) -> bool {
        let mut sessions = self.listing.sessions.values();
        sessions.any(|session| {
            let named = session.workspace_id.as_ref();
            named.is_some_and(|id| !self.listing.workspaces.contains_key(id))
        })
    }

    /// Takes an event into the list; tells whether to act upon it soon.
    fn take(&mut self, event: Event) -> bool {
        let listing = Arc::make_mut(&mut self.listing);
        match event {
            Event::Odd(odd) => {
                self.odd.extend(odd);
                false
            }
            Event::Deleted(id) => {
                let listed = listing.sessions.remove(&id).is_some();
                if let Ok(id) = id.parse::<SessionId>() {
                    self.asked.remove(&id);
                }
                listed
            }
            Event::Changed(session) => {
                let before = listing.sessions.insert(session.id.clone(), session.clone());
                let Some(mut before) = before else { return true };
                before.time.updated = session.time.updated;
                let at = Instant::now() + self.shared.timing.compare_every;
                self.compare_at.get_or_insert(at);
                before != session
            }
        }
    }

    /// Reads the whole list of a server that is recognised by it.
    async fn read(&mut self) -> Result<(), Error> {
        let listing = Listing::read(&self.client, |_, _| {}).await?;
        identify(&self.client, &self.shared.anchors, &listing).await?;
        drop_beside(std::mem::replace(&mut self.listing, Arc::new(listing)));
        self.odd = LeftOut::default();
        self.refused.clear();
        self.asked.clear();
        self.verified.clear();
        Ok(())
    }

    /// Tells what is left out or waits, where that has changed.
    fn tell_notes(&mut self) {
        let mut notes: Vec<String> = self.odd.told().into_iter().collect();
        notes.extend(self.notes.iter().cloned());
        self.handle.agent_notes(&self.server, notes);
    }
}

/// Refuses a server that stands on another database than before, by the projects that it lists now.
async fn recognise(client: &Client, anchors: &Arc<Anchors>) -> Result<(), Error> {
    let (listing, _) = Listing::read_projects(client).await?;
    identify(client, anchors, &listing).await
}

async fn identify(client: &Client, anchors: &Arc<Anchors>, listing: &Listing) -> Result<(), Error> {
    let server = client.address().to_string();
    let (path, (name, projects)) = (anchors.path().to_owned(), (server.clone(), listing.projects));
    let (anchors, first_seen) = (anchors.clone(), listing.first_seen.clone());
    let found = move || anchors.recognise(&name, projects, &first_seen);
    match tokio::task::spawn_blocking(found).await? {
        Ok(Identity::Same) => Ok(()),
        Ok(Identity::Another) => Err(Error::AnotherDatabase { server, path }),
        Ok(Identity::Untold) => Err(Error::Untold(server)),
        Err(source) => Err(Error::Anchors { path, source }),
    }
}

/// Drops something beside the loop: to free tens of thousands of records takes milliseconds.
fn drop_beside(value: impl Send + 'static) {
    tokio::task::spawn_blocking(move || drop(value));
}

/// Waits for the answer to a question, for ever if none was asked.
async fn answer(looking: &mut Option<Looking>) -> Result<Listing, opencode::Error> {
    match looking {
        Some(looking) => looking.await,
        None => pending().await,
    }
}
