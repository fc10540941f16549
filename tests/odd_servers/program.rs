//! One random program, and what must hold of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sessionmesh::replica::{
    ids::OperationId,
    record::{DeletionReason, Session, SessionState},
};

use super::{
    fake::{Deletes, Fake, Missing, Mode, session},
    world::{Daemon, UNDO_WINDOW},
};

/// How many ids sessions have, so that they meet.
const IDS: usize = 8;
/// How long a server that has taken a port, or has it back, keeps it at least.
const SWAPS_APART: Duration = Duration::from_millis(100);
/// How long all may take to agree once the servers are well.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the programs met.
#[derive(Debug, Default)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    fn met(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// Tells whether every kind of thing that a program can do, and what is to come of it, was met.
    pub fn met_everything(&self) -> bool {
        EVERYTHING.iter().all(|what| self.0.contains_key(what))
    }
}

const EVERYTHING: [&str; 12] = [
    "put",
    "removed there",
    "back there",
    "hidden",
    "deleted here",
    "restored here",
    "odd answers",
    "another database",
    "restart",
    "odd record",
    "deleted there",
    "purged",
];

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> =
            self.0.iter().map(|(what, count)| format!("{count} {what}")).collect();
        f.write_str(&all.join(", "))
    }
}

struct Program {
    random: fastrand::Rng,
    fake: Fake,
    beside: Option<Fake>,
    dir: tempfile::TempDir,
    daemon: Option<Daemon>,
    /// What the daemon has shown, ever, with its parent.
    shown: BTreeMap<String, Option<String>>,
    /// What a person has deleted, ever.
    by_person: BTreeSet<String>,
    undoable: Vec<OperationId>,
    /// Families that were removed there, to come back.
    removed: Vec<Vec<Value>>,
    /// What stood in the database while another one is there.
    moved: Option<BTreeMap<String, Value>>,
    parents: BTreeMap<String, Option<String>>,
    counts: Counts,
}

/// Runs a program; returns what it met, or what is wrong.
pub async fn run(seed: u64) -> Result<Counts, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let fake = Fake::start().await;
    let beside = match random.u8(..6) {
        0 => Some(fake.beside().await),
        1 => Some(fake.beside_deaf().await),
        _ => None,
    };
    let mut program = Program {
        random,
        fake,
        beside,
        dir: tempfile::tempdir().unwrap(),
        daemon: None,
        shown: BTreeMap::new(),
        by_person: BTreeSet::new(),
        undoable: Vec::new(),
        removed: Vec::new(),
        moved: None,
        parents: BTreeMap::new(),
        counts: Counts::default(),
    };
    (0..4).for_each(|_| program.put());
    program.start(true).await;
    program.agree().await?;
    // Whoever is met for the first time is believed.
    program.daemon().has_met_all().await;
    for _ in 0..program.random.usize(8..24) {
        program.step().await;
        // Mostly too short for anything to come of it, and sometimes long enough.
        let most = [5, 5, 30, 300][program.random.usize(..4)];
        tokio::time::sleep(Duration::from_millis(program.random.u64(0..most))).await;
        program.check()?;
    }
    program.heal().await;
    program.agree().await?;
    program.count();
    if let Some(daemon) = program.daemon.take() {
        daemon.stop().await;
    }
    Ok(program.counts)
}

impl Program {
    async fn start(&mut self, is_bridged: bool) {
        let servers = [Some(&self.fake), self.beside.as_ref()].into_iter().flatten();
        let mut servers: Vec<String> = servers.map(Fake::url).collect();
        if !is_bridged {
            servers.clear();
        }
        self.daemon = Some(Daemon::start(self.dir.path().join("d"), &servers).await);
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    fn some_id(&mut self) -> String {
        format!("ses_{}", self.random.usize(..IDS))
    }

    async fn step(&mut self) {
        match self.random.u8(..100) {
            0..25 => self.put(),
            25..35 => self.remove(),
            35..42 => self.bring_back(),
            42..48 => {
                let hidden: BTreeSet<String> =
                    (0..IDS).map(|n| format!("ses_{n}")).filter(|_| self.random.bool()).collect();
                self.fake.state().hidden = hidden;
                let again = self.fake.state().mode;
                // The streams end, and the list is read.
                self.fake.set(again);
                self.counts.met("hidden");
            }
            48..62 => {
                if let Some(id) = self.some_alive() {
                    // Noted before, since it may be carried out before it is answered.
                    self.by_person.insert(id.clone());
                    self.undoable.extend(self.daemon().delete(&id).await);
                    self.counts.met("deleted here");
                }
            }
            62..67 => {
                if let Some(operation) = self.undoable.pop()
                    && self.daemon().restore(operation).await
                {
                    self.counts.met("restored here");
                }
            }
            67..82 => self.answer_oddly(),
            82..88 => {
                self.swap_database();
                // A port does not change hands twice while one list is read: processes take longer
                // to start.
                tokio::time::sleep(SWAPS_APART).await;
            }
            88..94 => self.tell_oddly(),
            _ => {
                let daemon = self.daemon.take().expect("it runs");
                self.shown.extend(daemon.stop().await);
                let is_bridged = self.random.u8(..3) > 0;
                self.start(is_bridged).await;
                self.counts.met("restart");
            }
        }
    }

    fn some_alive(&mut self) -> Option<String> {
        let sessions = self.daemon().sessions();
        let alive = sessions.iter().filter(|session| session.state != SessionState::Deleted);
        let ids: Vec<String> = alive.map(|session| session.id.to_string()).collect();
        self.random.choice(ids)
    }

    fn put(&mut self) {
        let id = self.some_id();
        if self.moved.is_some() || self.removed.iter().flatten().any(|one| one["id"] == id) {
            return;
        }
        let mut fields = json!({ "title": format!("t{}", self.random.u8(..)) });
        let known = self.fake.state().sessions.get(&id).cloned();
        let parent = match &known {
            Some(known) => known["parentID"].clone(),
            None => {
                let parent = self.some_id();
                let is_there = self.fake.state().sessions.contains_key(&parent);
                // An id keeps its parent for good.
                let kept = self
                    .parents
                    .entry(id.clone())
                    .or_insert_with(|| (is_there && parent < id).then_some(parent));
                match kept {
                    Some(parent) if self.fake.state().sessions.contains_key(parent) => {
                        json!(parent)
                    }
                    Some(_) => return,
                    None => Value::Null,
                }
            }
        };
        fields["parentID"] = parent;
        let odd = [
            json!({ "time": { "created": 1.5, "updated": 1e300 } }),
            json!({ "title": null, "directory": 7 }),
            json!({ "title": "\u{0}", "slug": [] }),
            json!({ "time": { "created": -4, "updated": 3 } }),
        ];
        if self.random.u8(..4) == 0 {
            let odd = &odd[self.random.usize(..odd.len())];
            fields.as_object_mut().unwrap().extend(odd.as_object().unwrap().clone());
        }
        self.fake.put(&id, fields);
        self.counts.met("put");
    }

    fn remove(&mut self) {
        let id = self.some_id();
        if self.moved.is_some() || !self.fake.state().sessions.contains_key(&id) {
            return;
        }
        let is_told = self.random.bool();
        let mut state = self.fake.state();
        let family = state.take_family(&id);
        if is_told {
            family.iter().for_each(|session| state.tell("session.deleted", session));
        }
        drop(state);
        self.removed.push(family);
        self.counts.met("removed there");
    }

    fn bring_back(&mut self) {
        if self.moved.is_some() {
            return;
        }
        let Some(family) = self.removed.pop() else { return };
        let mut state = self.fake.state();
        for session in family {
            let id = session["id"].as_str().unwrap().to_owned();
            state.tell("session.created", &session);
            state.sessions.insert(id, session);
        }
        drop(state);
        self.counts.met("back there");
    }

    fn answer_oddly(&mut self) {
        let modes = [
            Mode::Works,
            Mode::Works,
            Mode::Status(500),
            Mode::Status(401),
            Mode::Garbage,
            Mode::BreaksHalfWay,
            Mode::ListsNothing,
            Mode::CutsOff,
        ];
        let missing =
            [Missing::Works, Missing::Page, Missing::PageNotFound, Missing::Other, Missing::Fails];
        let deletes =
            [Deletes::Works, Deletes::Fails, Deletes::Lies, Deletes::Page, Deletes::PageNotFound];
        match self.random.u8(..3) {
            0 => self.fake.set(modes[self.random.usize(..modes.len())]),
            1 => self.fake.state().on_missing = missing[self.random.usize(..missing.len())],
            _ => self.fake.on_delete(deletes[self.random.usize(..deletes.len())]),
        }
        self.counts.met("odd answers");
    }

    /// Another server takes the port, or the right one is back.
    fn swap_database(&mut self) {
        match self.moved.take() {
            Some(before) => self.move_back(before),
            None => {
                // One that was never met is believed.
                if self.shown.is_empty() {
                    return;
                }
                self.moved = Some(self.fake.state().sessions.clone());
                let first_seen = if self.random.bool() { None } else { Some(99) };
                let taken = self.some_id();
                self.fake.move_to(first_seen, &[&taken, "ses_stranger"]);
                self.counts.met("another database");
            }
        }
    }

    fn move_back(&mut self, before: BTreeMap<String, Value>) {
        self.fake.move_to(Some(7), &[]);
        self.fake.state().sessions = before;
        let again = self.fake.state().mode;
        self.fake.set(again);
    }

    fn tell_oddly(&mut self) {
        let id = self.some_id();
        let is_there = self.fake.state().sessions.contains_key(&id);
        match self.random.u8(..4) {
            0 if is_there => self.fake.tell_deleted(&id),
            1 => self.fake.tell_raw("data: {\"payload\":{\"type\":\"session.updated\"}}\n\n"),
            2 => {
                let mut odd = session("ses_odd");
                odd["time"] = json!("x");
                let state = self.fake.state();
                state.tell("session.created", &odd);
            }
            _ => self.fake.tell_raw("data: {\u{0}\r\r: x\r\ndata\n\n"),
        }
        self.counts.met("odd record");
    }

    /// Notes what the daemon has shown, and returns what it shows now.
    fn note_shown(&mut self) -> Vec<Arc<Session>> {
        let shown = self.daemon().take_shown();
        self.shown.extend(shown);
        let sessions = self.daemon().sessions();
        for session in &sessions {
            let parent = session.parent_id.as_ref().map(ToString::to_string);
            self.shown.insert(session.id.to_string(), parent);
        }
        sessions
    }

    /// What must hold at every moment.
    fn check(&mut self) -> Result<(), String> {
        let sessions = self.note_shown();
        let state = self.fake.state();
        let said_gone = |id: &str| state.said_gone.contains_key(id);
        for session in &sessions {
            if session.id.as_str() == "ses_stranger" {
                return Err("a session of another database was taken in".to_owned());
            }
            let Some(deletion) = &session.deleted else { continue };
            let id = session.id.as_str();
            let is_agents = deletion.reason == Some(DeletionReason::Agent);
            if is_agents && !said_gone(id) {
                return Err(format!("{id} was deleted here, and nobody has said that it is gone"));
            }
            if !is_agents && !self.by_person.contains(id) {
                return Err(format!("{id} was deleted here in a person's name, by nobody"));
            }
        }
        for id in self.shown.keys() {
            if sessions.iter().all(|session| session.id.as_str() != id) && !said_gone(id) {
                return Err(format!("{id} was purged here without its server's word"));
            }
        }
        for id in &state.deletes {
            let mut at = Some(id.clone());
            let mut by_person = false;
            while let Some(one) = at {
                by_person |= self.by_person.contains(&one);
                at = self.parents.get(&one).cloned().flatten();
            }
            if !by_person {
                return Err(format!("{id} was deleted there, and no person has deleted it"));
            }
            if self.by_person.contains(id) && !state.exported.contains(id) {
                return Err(format!("{id} was deleted there and not kept before"));
            }
        }
        Ok(())
    }

    /// Has everything well again.
    async fn heal(&mut self) {
        if let Some(before) = self.moved.take() {
            self.move_back(before);
        }
        self.fake.state().hidden.clear();
        self.fake.state().on_missing = Missing::Works;
        self.fake.on_delete(Deletes::Works);
        self.fake.set(Mode::Works);
        tokio::time::sleep(UNDO_WINDOW).await;
        let daemon = self.daemon.take().expect("it runs");
        self.shown.extend(daemon.stop().await);
        self.start(true).await;
    }

    /// Waits until the daemon shows what the server has, and the server has nothing that is deleted.
    async fn agree(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check()?;
            let wrong = self.disagreement();
            let Some(wrong) = wrong else { return Ok(()) };
            if Instant::now() > deadline {
                let told = self.daemon().told().await;
                return Err(format!("they do not agree: {wrong}; {told}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Counts what came of it all.
    fn count(&mut self) {
        let purged = self.shown.len() - self.daemon().sessions().len();
        (0..purged).for_each(|_| self.counts.met("purged"));
        let deleted = self.fake.deletes().len();
        (0..deleted).for_each(|_| self.counts.met("deleted there"));
    }

    fn disagreement(&self) -> Option<String> {
        let sessions = self.daemon().sessions();
        let here: BTreeMap<&str, SessionState> =
            sessions.iter().map(|session| (session.id.as_str(), session.state)).collect();
        if let Some((id, _)) = here.iter().find(|(_, state)| **state == SessionState::Deleted) {
            return Some(format!("{id} is deleted and not purged"));
        }
        let state = self.fake.state();
        // What was purged here and came back there stays out, and so does what hangs on it.
        let is_spent = |id: &str| self.shown.contains_key(id) && !here.contains_key(id);
        let is_out = |id: &String| {
            let mut at = Some(id.clone());
            while let Some(one) = at {
                if is_spent(&one) {
                    return true;
                }
                at = state
                    .sessions
                    .get(&one)
                    .and_then(|s| s["parentID"].as_str())
                    .map(str::to_owned);
            }
            false
        };
        for id in state.sessions.keys() {
            if !here.contains_key(id.as_str()) && !is_out(id) {
                return Some(format!("{id} is there and not here"));
            }
        }
        here.keys()
            .find(|id| !state.sessions.contains_key(**id))
            .map(|id| format!("{id} is here and not there"))
    }
}
