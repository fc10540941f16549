//! Owns one step of bringing this host's records to what a server is known to have.
//!
//! Must not follow events. Invariants: what is only missing from a list is asked for, one by one,
//! before it is deleted here; records are compared beside the loop.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Bridge, Error,
    anchor::spoken_for,
    compare::{Here, Plan, Speaker, mark},
    drop_beside, recognise,
    verify::{ASKED_MAX, Asked, Compared, ask_each},
};
use crate::{
    daemon::handle::RequestError,
    replica::{
        command::{Command, Import, Reply, Target},
        ids::SessionId,
    },
};

/// Most records in one import: it is one change in the document, and one turn of the loop.
const BATCH_RECORDS_MAX: usize = 16;
/// How many records the first import has: nobody knows yet how long this machine takes for one.
const BATCH_RECORDS_FIRST: usize = 4;
/// The time that one import should take on the loop. Its size is chosen by the time that the one before took.
/// The limit is five milliseconds (`benches/beside.rs`), and some imports take several times as long as others.
const BATCH_TAKES: Duration = Duration::from_micros(1_200);

/// What came of asking for sessions one by one.
#[derive(Debug, Default)]
struct Answers {
    gone: Vec<SessionId>,
    there: Vec<SessionId>,
    /// Those of which nothing can be told, and why not, of one.
    unknown: usize,
    why: Option<String>,
    /// How many are left for the next step.
    left: usize,
}

impl Bridge {
    /// Brings this host's records to what the server is known to have.
    pub(super) async fn reconcile(&mut self) -> Result<(), Error> {
        self.speaker = self.find_speaker().await?;
        self.compare_at = None;
        let mut compared = self.compare().await?;
        if self.is_beside_another() {
            compared = self.verify(compared).await?;
        }
        let Compared { left_out, here, mut plan, at } = compared;
        let mut notes: Vec<String> = left_out.told().into_iter().collect();
        notes.extend(self.unverified());
        let missing = self.ask(&plan.missing).await?;
        if !missing.gone.is_empty() {
            tracing::info!(sessions = missing.gone.len(), server = self.server, "deleted there");
            self.say(|servers| Command::AgentGone { servers, sessions: missing.gone }).await?;
        }
        if missing.unknown > 0 {
            let why = missing.why.unwrap_or_default();
            notes.push(format!(
                "not known, {}: sessions that are not listed any more, and can't be asked for: {why}",
                missing.unknown
            ));
        }
        if missing.left > 0 || !missing.there.is_empty() {
            // They are in the list from now on.
            self.compare_at = Some(Instant::now());
        }
        self.remove_missing_workspaces(&here, &plan).await?;
        drop_beside(here);
        self.take_in(std::mem::take(&mut plan.import), &plan.ticked).await?;
        // What was written meanwhile, here or elsewhere, was not compared.
        self.seen = Some(at);
        let back = self.ask(&plan.back).await?;
        if !back.there.is_empty() {
            tracing::info!(sessions = back.there.len(), server = self.server, "there again");
            self.say(|servers| Command::AgentHas { servers, sessions: back.there }).await?;
        }
        for id in &back.gone {
            Arc::make_mut(&mut self.listing).sessions.remove(id.as_str());
        }
        if let Some((id, server)) = plan.foreign.first_key_value() {
            notes.push(format!(
                "left alone, {}: sessions that are also at another server, on another database: {id} \
                 is that of {server}",
                plan.foreign.len()
            ));
        }
        if !self.refused.is_empty() {
            notes.push(format!(
                "left out, {}: records that were deleted here for good, and are listed there: {}",
                self.refused.len(),
                self.refused.first().map(String::as_str).unwrap_or_default()
            ));
        }
        if notes != self.notes {
            notes.iter().for_each(|note| tracing::warn!(server = self.server, "{note}"));
            self.notes = notes;
        }
        Ok(())
    }

    async fn say(
        &self,
        command: impl FnOnce(BTreeSet<String>) -> Command,
    ) -> Result<Option<Reply>, Error> {
        match self.handle.command(command(self.speaker.own.clone())).await {
            Ok(reply) => Ok(Some(reply)),
            Err(RequestError::Refused(refusal)) => {
                tracing::warn!(%refusal, "what an agent has done is not taken over");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Finds out whose records the server may speak for.
    async fn find_speaker(&self) -> Result<Speaker, Error> {
        let (anchors, server) = (self.shared.anchors.clone(), self.server.clone());
        let path = anchors.path().to_owned();
        let found = tokio::task::spawn_blocking(move || anchors.relatives(&server)).await?;
        let relatives = found.map_err(|source| Error::Anchors { path, source })?;
        let own = spoken_for(&self.server, &relatives);
        let others = relatives.keys().chain(&self.shared.bridged);
        let others = others.filter(|server| !own.contains(*server)).cloned().collect();
        Ok(Speaker { server: self.server.clone(), own, others })
    }

    /// Compares the list with this host's records, beside the loop.
    pub(super) async fn compare(&self) -> Result<Compared, Error> {
        let (listing, places) = (self.listing.clone(), self.places.clone());
        let (view, node, speaker) = (self.handle.hub().view(), self.node, self.speaker.clone());
        let compared = tokio::task::spawn_blocking(move || {
            let mut mapped = listing.map(&places);
            mark(&mut mapped.import, &speaker.server);
            let sessions = view.sessions().filter(|session| session.host == node);
            let workspaces = view.workspaces().filter(|workspace| workspace.host == node);
            let here = Here {
                sessions: sessions.map(|session| (session.id.clone(), session.clone())).collect(),
                workspaces: workspaces.map(|w| (w.id.clone(), w.clone())).collect(),
            };
            let mut plan = here.compare(&mapped.import, &mapped.unlisted, &speaker);
            if !listing.has_all_workspaces {
                plan.missing_workspaces.clear();
            }
            Compared { left_out: mapped.left_out, here, plan, at: view.cursor() }
        });
        Ok(compared.await?)
    }

    /// Asks for sessions by their ids; what is there is in the list from then on.
    async fn ask(&mut self, wanted: &BTreeSet<SessionId>) -> Result<Answers, Error> {
        let (now, again) = (Instant::now(), self.shared.timing.ask_again);
        self.asked.retain(|_, at| now.duration_since(*at) < again);
        let open = wanted.iter().filter(|id| !self.asked.contains_key(*id));
        let mut answers = Answers { left: open.clone().count(), ..Answers::default() };
        let open: Vec<SessionId> = open.take(ASKED_MAX).cloned().collect();
        answers.left -= open.len();
        let mut there = Vec::new();
        for (id, answer) in ask_each(&self.client, open).await? {
            match answer {
                Ok(Asked::Gone) => answers.gone.push(id),
                Ok(Asked::There(session)) => there.push((id, session)),
                Err(why) => {
                    self.asked.insert(id, now);
                    answers.why = Some(why);
                }
            }
        }
        if !there.is_empty() || !answers.gone.is_empty() {
            // A server that was restarted on another database meanwhile has none of them, or others.
            recognise(&self.client, &self.shared.anchors).await?;
        }
        for (id, session) in there {
            self.asked.insert(id.clone(), now);
            if let Some(session) = session {
                Arc::make_mut(&mut self.listing).sessions.insert(session.id.clone(), *session);
                answers.there.push(id);
            }
        }
        answers.unknown = wanted.iter().filter(|id| self.asked.contains_key(*id)).count();
        answers.unknown -= answers.there.len();
        Ok(answers)
    }

    /// Takes in what is new or differs, a part at a time: others have their turn in between.
    async fn take_in(&mut self, import: Import, ticked: &[SessionId]) -> Result<(), Error> {
        let now = Instant::now();
        let tick_every = self.shared.timing.tick_every;
        self.written.retain(|_, at| now.duration_since(*at) < tick_every);
        let mut waiting = BTreeSet::new();
        for id in ticked {
            if let Some(at) = self.written.get(id) {
                waiting.insert(id.clone());
                let at = *at + tick_every;
                self.compare_at = Some(self.compare_at.map_or(at, |other| other.min(at)));
            }
        }
        let (mut workspaces, mut sessions) =
            (import.workspaces.into_iter(), import.sessions.into_iter());
        let mut spent = Vec::new();
        loop {
            let records = self.handle.pace().importable(BATCH_TAKES);
            let records = records.unwrap_or(BATCH_RECORDS_FIRST).clamp(1, BATCH_RECORDS_MAX);
            let refused = &self.refused;
            let some = workspaces.by_ref().filter(|one| !refused.contains(one.id.as_str()));
            let mut part =
                Import { workspaces: some.take(records).collect(), sessions: Vec::new() };
            if part.workspaces.is_empty() {
                // Sessions come behind the workspaces that they are in.
                let some = sessions.by_ref().filter(|session| {
                    !waiting.contains(&session.id) && !refused.contains(session.id.as_str())
                });
                part.sessions.extend(some.take(records));
            }
            if part == Import::default() {
                break;
            }
            spent.extend(self.give(part, now).await?);
        }
        if spent.is_empty() {
            return Ok(());
        }
        let told = self.say(|servers| Command::AgentHas { servers, sessions: spent }).await?;
        if let Some(Reply::AgentPurged(purged)) = told
            && !purged.is_empty()
        {
            // The task has ended where the server can't be reached: all is found again then.
            let _ = self.purged.send(purged);
        }
        Ok(())
    }

    /// Imports some records; returns the sessions that the replica did not accept.
    async fn give(&mut self, part: Import, now: Instant) -> Result<Vec<SessionId>, Error> {
        let sessions: Vec<_> = part.sessions.iter().map(|session| session.id.clone()).collect();
        let workspaces: Vec<_> = part.workspaces.iter().map(|one| one.id.clone()).collect();
        self.handle.command(Command::Import(part)).await?;
        let view = self.handle.hub().view();
        let mut spent = Vec::new();
        for id in sessions {
            if !view.session(&id).any(|known| known.host == self.node) {
                self.refused.insert(id.to_string());
                spent.push(id.clone());
            }
            self.written.insert(id, now);
        }
        for id in workspaces {
            if !view.workspace(&id).any(|known| known.host == self.node) {
                self.refused.insert(id.to_string());
            }
        }
        Ok(spent)
    }

    async fn remove_missing_workspaces(&mut self, here: &Here, plan: &Plan) -> Result<(), Error> {
        let host = Some(self.node.to_string());
        let mut missing = Vec::new();
        for id in &plan.missing_workspaces {
            // A server that was started without workspaces lists none, and has removed none.
            let directory = here.workspaces.get(id).and_then(|known| known.directory.as_ref());
            if let Some(directory) = directory
                && tokio::fs::try_exists(directory).await.unwrap_or(true)
            {
                tracing::debug!(workspace = %id, "not listed any more, but its folder is there");
                continue;
            }
            missing.push(id);
        }
        if !missing.is_empty() && self.is_beside_another() {
            // The other one may have listed it since this list was read.
            self.read_workspaces().await?;
            let listing = &self.listing;
            missing.retain(|id| {
                listing.has_all_workspaces && !listing.workspaces.contains_key(id.as_str())
            });
        }
        for id in missing {
            tracing::info!(workspace = %id, server = self.server, "removed there");
            let workspace = Target { id: id.clone(), host: host.clone() };
            self.say(|_| Command::DeleteWorkspace { workspace, dry_run: false }).await?;
        }
        Ok(())
    }
}
