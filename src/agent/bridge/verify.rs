//! Owns asking a server again about records that another server on its database may have changed.
//!
//! Must not write anything here. A server tells nobody what another process does to its database, so
//! what a bridge remembers of it may be old, and two bridges would each undo what the other one wrote.
//! Invariant: beside another server, a known record is changed only as its server says at that moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::{
    Bridge, Error,
    compare::{Here, Plan},
    drop_beside,
    due::Failure,
    identify, recognise,
};
use crate::{
    agent::opencode::{
        Client, Listing, Standing,
        model::{LeftOut, Session},
    },
    replica::ids::{Cursor, SessionId},
};

/// How many sessions are asked for at a time.
const ASKED_AT_ONCE: usize = 8;
/// How many are asked for in one step; the others wait for the next one.
pub(super) const ASKED_MAX: usize = 256;

/// This host's records, and what is to be done about them.
pub(super) struct Compared {
    /// The records of the list that are not valid here.
    pub left_out: LeftOut,
    /// The records.
    pub here: Here,
    /// What is to be done.
    pub plan: Plan,
    /// The view of which the records are.
    pub at: Cursor,
}

/// When a session was last asked for, and why nothing was learnt of it.
pub(super) type Verified = BTreeMap<SessionId, (Instant, Option<String>)>;

impl Bridge {
    /// Tells whether another server that is bridged stands on the same database.
    pub(super) fn is_beside_another(&self) -> bool {
        let mut own = self.speaker.own.iter();
        own.any(|server| *server != self.server && self.shared.bridged.contains(server))
    }

    /// Asks the server again for what it would change here, and compares with what it says now.
    pub(super) async fn verify(&mut self, mut compared: Compared) -> Result<Compared, Error> {
        let again = self.shared.timing.ask_again;
        self.verified.retain(|_, (at, _)| at.elapsed() < again);
        let doubtful = compared.doubtful();
        let mut workspaces = compared.plan.import.workspaces.iter();
        let with_workspaces = workspaces.any(|workspace| {
            compared.here.workspaces.contains_key(&workspace.id)
                && !self.refused.contains(workspace.id.as_str())
        });
        let mut fresh = BTreeSet::new();
        if with_workspaces {
            self.read_workspaces().await?;
        }
        if !doubtful.is_empty() {
            fresh = self.ask_doubtful(doubtful).await?;
        }
        if with_workspaces || !fresh.is_empty() {
            drop_beside(std::mem::replace(&mut compared, self.compare().await?));
        }
        // Another one may differ by now, and not all could be asked for.
        let mut unasked = compared.doubtful();
        unasked.retain(|id| !fresh.contains(id));
        for id in &unasked {
            let failed = self.verified.get(id).filter(|(_, why)| why.is_some());
            let at = failed.map_or_else(Instant::now, |(at, _)| *at + again);
            self.compare_at = Some(self.compare_at.map_or(at, |other| other.min(at)));
        }
        compared.keep_back(&unasked.into_iter().collect(), with_workspaces);
        Ok(compared)
    }

    /// Says which sessions can't be asked for.
    pub(super) fn unverified(&self) -> Option<String> {
        let mut failed =
            self.verified.iter().filter_map(|(id, (_, why))| Some((id, why.as_ref()?)));
        let (id, why) = failed.next()?;
        Some(format!(
            "not written, {}: changes of which another server on the same database may know more: \
             {id}: {why}",
            failed.count() + 1
        ))
    }

    /// Reads the workspaces as they are now.
    pub(super) async fn read_workspaces(&mut self) -> Result<(), Error> {
        let found = Listing::read_workspaces(&self.client).await?;
        identify(&self.client, &self.shared.anchors, &found).await?;
        Arc::make_mut(&mut self.listing).take_workspaces(found);
        Ok(())
    }

    /// Asks for sessions, those first that were not asked for lately; returns those of which the list
    /// now holds what the server says.
    async fn ask_doubtful(
        &mut self,
        mut doubtful: Vec<SessionId>,
    ) -> Result<BTreeSet<SessionId>, Error> {
        doubtful.retain(|id| !matches!(self.verified.get(id), Some((_, Some(_)))));
        doubtful.sort_by_key(|id| self.verified.get(id).map(|(at, _)| *at));
        doubtful.truncate(ASKED_MAX);
        let answers = ask_each(&self.client, doubtful).await?;
        if answers.iter().any(|(_, answer)| answer.is_ok()) {
            // A server that was restarted on another database meanwhile has others.
            recognise(&self.client, &self.shared.anchors).await?;
        }
        let (now, mut fresh) = (Instant::now(), BTreeSet::new());
        let sessions = &mut Arc::make_mut(&mut self.listing).sessions;
        for (id, answer) in answers {
            let mut why = None;
            match answer {
                // It is missing from the list now, and is asked for as any that is.
                Ok(Asked::Gone) => drop(sessions.remove(id.as_str())),
                Ok(Asked::There(session)) => match session {
                    Some(session) => drop(sessions.insert(session.id.clone(), *session)),
                    None => why = Some("what it says of it can't be read".to_owned()),
                },
                Err(problem) => why = Some(problem),
            }
            if why.is_none() {
                fresh.insert(id.clone());
            }
            self.verified.insert(id, (now, why));
        }
        Ok(fresh)
    }
}

impl Compared {
    /// Returns the known sessions in which more than the time of the last change would be written.
    fn doubtful(&self) -> Vec<SessionId> {
        let ticked: BTreeSet<&SessionId> = self.plan.ticked.iter().collect();
        let sessions = self.plan.import.sessions.iter().map(|session| &session.id);
        let known = sessions.filter(|id| self.here.sessions.contains_key(*id));
        known.filter(|id| !ticked.contains(id)).cloned().collect()
    }

    /// Leaves out what was not asked for, and times that lie before those that are known.
    fn keep_back(&mut self, unasked: &BTreeSet<SessionId>, with_workspaces: bool) {
        let (here, import) = (&self.here, &mut self.plan.import);
        let ticked: BTreeSet<&SessionId> = self.plan.ticked.iter().collect();
        import.sessions.retain(|session| match here.sessions.get(&session.id) {
            // Each of two that are told of parts of what a session does would set the other's back.
            Some(known) if ticked.contains(&session.id) => session.updated_at > known.updated_at,
            _ => !unasked.contains(&session.id),
        });
        import.workspaces.retain(|one| with_workspaces || !here.workspaces.contains_key(&one.id));
    }
}

/// What a server says of a session that it was asked for.
#[derive(Debug)]
pub(super) enum Asked {
    /// It has it; `None` if what it says of it can't be read.
    There(Option<Box<Session>>),
    /// It has none of that id.
    Gone,
}

/// Reads an answer, and frees it, beside the loop: it may be large.
async fn read_beside(standing: Standing) -> Asked {
    let Standing::There(value) = standing else { return Asked::Gone };
    let read = tokio::task::spawn_blocking(move || Session::read(&value).ok().map(Box::new));
    Asked::There(read.await.unwrap_or_default())
}

/// Asks for each session by its id, several at a time; what fails for one is no answer of that one.
///
/// # Errors
///
/// The server as a whole can't be asked.
pub(super) async fn ask_each(
    client: &Client,
    sessions: Vec<SessionId>,
) -> Result<Vec<(SessionId, Result<Asked, String>)>, Error> {
    let ask = |id: SessionId| async move {
        let asked = match client.session(id.as_str()).await {
            Ok(standing) => Ok(read_beside(standing).await),
            Err(error) => Err(error),
        };
        (id, asked)
    };
    let mut asked = stream::iter(sessions).map(ask).buffer_unordered(ASKED_AT_ONCE);
    let mut answers = Vec::new();
    while let Some((id, answer)) = asked.next().await {
        answers.push((
            id,
            match answer.map_err(Failure::of) {
                Ok(answer) => Ok(answer),
                Err(Failure::One(why)) => Err(why),
                Err(Failure::Whole(error)) => return Err(error),
            },
        ));
    }
    Ok(answers)
}
