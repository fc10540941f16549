//! Owns deleting at a server what was deleted here and can't be undone any more.
//!
//! Must not know lists or events. Invariants: the server is asked for each session first, and only
//! what a person has deleted is deleted there; nothing is deleted there that was not kept before;
//! that it is gone there, only a later answer says, of a server that is recognised again after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Error, Timing, compare::Speaker, recognise};
use crate::{
    agent::{
        bridge::Anchors,
        opencode::{self, Client, Standing},
    },
    daemon::handle::{Handle, RequestError},
    replica::{
        command::Command,
        ids::{NodeId, SessionId},
        record::{Deletion, DeletionReason, Session, SessionKey},
    },
};

/// The name of the agent.
const AGENT: &str = "opencode";
/// How many of a session's descendants are kept that nobody here knows of; none has that many.
const UNKNOWN_MAX: usize = 1_000;
/// Longest wait before a session is tried again that could not be deleted.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What is told of a conversation that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The session's id.
    pub id: String,
    /// What people called it.
    pub title: String,
    /// Where it worked.
    pub directory: Option<String>,
    /// The kind of agent.
    pub agent: String,
    /// The agent's server.
    pub server: String,
    /// Whether only its newest messages fit.
    pub is_cut: bool,
}

/// Keeps conversations before they are deleted.
pub trait Keeper: Debug + Send + Sync {
    /// Tells whether anything is kept.
    fn keeps(&self) -> bool;

    /// Keeps one, durably; blocks.
    ///
    /// # Errors
    ///
    /// It is not kept, and must not be deleted.
    fn keep(&self, session: &Kept, export: &[u8]) -> io::Result<()>;
}

/// Deletes at one server.
pub(super) struct Due {
    pub client: Client,
    pub handle: Handle,
    pub node: NodeId,
    pub anchors: Arc<Anchors>,
    pub keeper: Arc<dyn Keeper>,
    pub timing: Timing,
    pub speaker: watch::Receiver<Speaker>,
    /// Sessions that are listed and were purged here without the server's word.
    pub purged: mpsc::UnboundedReceiver<Vec<SessionId>>,
    /// What is wrong, for a person.
    pub problem: watch::Sender<Option<String>>,
}

/// When a session is tried again, and after how long the time after that.
type Retries = BTreeMap<SessionId, (Instant, Duration)>;

/// What a session is found to be.
enum Found {
    /// The server has it no more.
    Gone,
    /// The server has it, and it was deleted in an agent's name.
    Back,
    /// The server has it, and it is not to be deleted there.
    Stays,
}

impl Due {
    /// Deletes what is due, until something fails that is about the server as a whole.
    pub(super) async fn run(mut self) -> Error {
        let mut ticks = interval(self.timing.due_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut retries, mut purged) = (Retries::new(), BTreeSet::new());
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Some(more) = self.purged.recv() => purged.extend(more),
            }
            if let Err(error) = self.act(&mut retries, &mut purged).await {
                return error;
            }
        }
    }

    async fn act(
        &self,
        retries: &mut Retries,
        purged: &mut BTreeSet<SessionId>,
    ) -> Result<(), Error> {
        let speaker = self.speaker.borrow().clone();
        let due = self.handle.agent_due(speaker.own.clone()).await?;
        let due: BTreeSet<(bool, SessionId)> = due.into_iter().map(|id| (true, id)).collect();
        let wanted: Vec<(bool, SessionId)> =
            due.into_iter().chain(purged.iter().map(|id| (false, id.clone()))).collect();
        retries.retain(|id, _| wanted.iter().any(|(_, wanted)| wanted == id));
        let (mut gone, mut back, mut problem) = (Vec::new(), Vec::new(), None);
        let mut asked = false;
        for (is_here, id) in self.children_first(wanted) {
            if let Some((at, _)) = retries.get(&id)
                && Instant::now() < *at
            {
                problem = self.problem.borrow().clone();
                continue;
            }
            asked = true;
            match self.carry_out(&id, is_here, &speaker).await {
                Ok(Found::Gone) => {
                    tracing::info!(session = %id, server = speaker.server, "gone there, too");
                    retries.remove(&id);
                    purged.remove(&id);
                    gone.push(id);
                }
                Ok(Found::Back) => back.push(id),
                Ok(Found::Stays) => {
                    let wait = self.timing.ask_again;
                    retries.insert(id, (Instant::now() + wait, wait));
                }
                Err(Failure::Whole(error)) => return Err(error),
                Err(Failure::One(what)) => {
                    problem =
                        Some(format!("session {id}, deleted here, is not deleted there: {what}"));
                    let wait = retries.get(&id).map_or(self.timing.delete_retry, |(_, wait)| *wait);
                    retries.insert(id, (Instant::now() + wait, (wait * 2).min(RETRY_MAX)));
                }
            }
        }
        if asked && !gone.is_empty() {
            // A server that was restarted on another database meanwhile has none of them.
            recognise(&self.client, &self.anchors).await?;
            let servers = speaker.own.clone();
            self.handle.command(Command::AgentGone { servers, sessions: gone }).await?;
        }
        if !back.is_empty() {
            recognise(&self.client, &self.anchors).await?;
            let servers = speaker.own.clone();
            self.handle.command(Command::AgentHas { servers, sessions: back }).await?;
        }
        self.problem.send_if_modified(|told| {
            let differs = *told != problem;
            if let (true, Some(problem)) = (differs, &problem) {
                tracing::warn!(server = speaker.server, "{problem}");
            }
            *told = problem;
            differs
        });
        Ok(())
    }

    /// Orders sessions so that none comes before a child of it.
    fn children_first(&self, mut wanted: Vec<(bool, SessionId)>) -> Vec<(bool, SessionId)> {
        let view = self.handle.hub().view();
        let depth = |id: &SessionId| {
            let mut walked = BTreeSet::new();
            let mut at = Some(id.clone());
            while let Some(id) = at.filter(|id| walked.insert(id.clone())) {
                let known = view.session(&id).find(|session| session.host == self.node);
                at = known.and_then(|session| session.parent_id.clone());
            }
            walked.len()
        };
        wanted.sort_by_cached_key(|(_, id)| std::cmp::Reverse(depth(id)));
        wanted
    }

    /// Asks for a session, keeps and deletes it there where a person has deleted it, and asks again.
    async fn carry_out(
        &self,
        id: &SessionId,
        is_here: bool,
        speaker: &Speaker,
    ) -> Result<Found, Failure> {
        let Standing::There(info) = self.ask(id).await? else { return Ok(Found::Gone) };
        if is_here {
            let key = SessionKey { host: self.node, id: id.clone() };
            let Some((session, deletion, is_own)) = self.deleted(&key) else {
                // It was restored meanwhile.
                return Ok(Found::Stays);
            };
            if deletion.reason == Some(DeletionReason::Agent) {
                return Ok(if is_own { Found::Back } else { Found::Stays });
            }
            debug_assert!(session.server().is_some_and(|server| speaker.own.contains(server)));
        }
        // What another database has of that id is another session.
        recognise(&self.client, &self.anchors).await.map_err(Failure::Whole)?;
        if self.keeper.keeps() {
            self.keep_family(id.as_str(), info, speaker).await?;
        }
        self.client.delete_session(id.as_str()).await.map_err(Failure::of)?;
        match self.ask(id).await? {
            Standing::Gone => Ok(Found::Gone),
            Standing::There(_) => {
                Err(Failure::One("it says that it has deleted it, and has it".to_owned()))
            }
        }
    }

    async fn ask(&self, id: &SessionId) -> Result<Standing, Failure> {
        self.client.session(id.as_str()).await.map_err(Failure::of)
    }

    /// Returns a session and the delete that counts for it: its own, or that of a parent.
    fn deleted(&self, key: &SessionKey) -> Option<(Arc<Session>, Deletion, bool)> {
        let view = self.handle.hub().view();
        let find = |id: &SessionId| view.session(id).find(|s| s.host == key.host).cloned();
        let session = find(&key.id)?;
        let mut walked = BTreeSet::new();
        let mut at = Some(session.clone());
        while let Some(one) = at.filter(|one| walked.insert(one.id.clone())) {
            if let Some(deletion) = &one.deleted {
                let is_own = one.id == key.id;
                return Some((session, deletion.clone(), is_own));
            }
            at = one.parent_id.as_ref().and_then(find);
        }
        None
    }

    /// Keeps a session, and those of its descendants at the server which nobody here knows of and
    /// which it deletes along with it.
    fn keep_family<'a>(
        &'a self,
        id: &'a str,
        info: Value,
        speaker: &'a Speaker,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        Box::pin(async move {
            let mut family = vec![(id.to_owned(), info)];
            let mut seen = BTreeSet::from([id.to_owned()]);
            while let Some((id, info)) = family.pop() {
                for child in self.client.children(&id).await.map_err(Failure::of)? {
                    let Some(id) = child.get("id").and_then(Value::as_str) else { continue };
                    if seen.len() < UNKNOWN_MAX && seen.insert(id.to_owned()) {
                        family.push((id.to_owned(), child));
                    }
                }
                self.keep(&id, &info, speaker).await?;
            }
            Ok(())
        })
    }

    async fn keep(&self, id: &str, info: &Value, speaker: &Speaker) -> Result<(), Failure> {
        let export = self.client.export(id, info).await.map_err(Failure::of)?;
        let text = |key: &str| info.get(key).and_then(Value::as_str).map(str::to_owned);
        let kept = Kept {
            id: id.to_owned(),
            title: text("title").unwrap_or_default(),
            directory: text("directory"),
            agent: AGENT.to_owned(),
            server: speaker.server.clone(),
            is_cut: export.is_cut,
        };
        let keeper = self.keeper.clone();
        let keep = move || keeper.keep(&kept, &export.bytes);
        let done = tokio::task::spawn_blocking(keep).await;
        let done = done.map_err(io::Error::other).flatten();
        done.map_err(|error| Failure::One(format!("it can't be kept before: {error}")))
    }
}

/// Why a session is not deleted, or nothing is known of it.
pub(super) enum Failure {
    /// It is about this one.
    One(String),
    /// It is about the server, or this node.
    Whole(Error),
}

impl Failure {
    pub(super) fn of(error: opencode::Error) -> Self {
        match error {
            opencode::Error::Status { .. }
            | opencode::Error::Foreign { .. }
            | opencode::Error::TooLong { .. } => Self::One(error.to_string()),
            error => Self::Whole(error.into()),
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::Whole(error.into())
    }
}
