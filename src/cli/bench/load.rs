//! Owns the load: who writes what when, and who sees it when.
//!
//! Must not know how nodes come about. Invariant: a change that is measured can be told from every
//! other by what its event carries.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{figures::Samples, nodes::Node};
use crate::{
    cli::{
        client::{Answer, Client},
        failure::{Failure, Refused},
    },
    replica::diff::{Diff, Event},
    sse,
};

/// How many requests are under way at a node at a time.
const AT_A_TIME: usize = 8;

/// How often each kind of change comes, in proportion to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    pub title: u32,
    pub create: u32,
    pub delete: u32,
}

impl std::str::FromStr for Mix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mix = Self { title: 0, create: 0, delete: 0 };
        for part in text.split(',') {
            let form = "write it as title=8,create=1,delete=1";
            let (name, share) = part.split_once('=').ok_or(form)?;
            let share = share.parse().map_err(|_| form)?;
            match name {
                "title" => mix.title = share,
                "create" => mix.create = share,
                "delete" => mix.delete = share,
                _ => return Err(form),
            }
        }
        let sum =
            [mix.title, mix.create, mix.delete].iter().try_fold(0_u32, |a, b| a.checked_add(*b));
        if sum.is_some_and(|sum| sum > 0) { Ok(mix) } else { Err("nothing would change") }
    }
}

/// What tells a change's event from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Title(String),
    Created(String),
    Deleted(String),
}

/// What all who write and all who look on share.
pub struct Board {
    sent: Mutex<BTreeMap<Mark, (Instant, usize)>>,
    /// Sessions that are not deleted by the load.
    kept: Vec<String>,
    deletable: Mutex<Vec<String>>,
    run: String,
    /// Counts everything that was ever written, so that each mark is new.
    number: AtomicU64,
    answered: AtomicU64,
}

/// What came of some load.
#[derive(Debug, Default)]
pub struct Written {
    pub answered: Samples,
    pub changes: u64,
    /// How often a request was one too many for the API.
    pub held_back: u64,
}

/// What is asked of a node, and by what its event is known.
struct Request {
    mark: Mark,
    id: String,
    body: Option<Value>,
}

/// What was seen at a node.
#[derive(Debug, Default)]
pub struct Seen {
    pub deletes: Samples,
    pub changes: Samples,
    pub resets: u64,
}

impl Board {
    /// Shares sessions out: half are there to be deleted.
    pub fn new(run: String, mut sessions: Vec<String>) -> Self {
        let deletable = sessions.split_off(sessions.len().div_ceil(2));
        Self {
            sent: Mutex::default(),
            kept: sessions,
            deletable: Mutex::new(deletable),
            run,
            number: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    /// Returns how many changes were answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Writes on every node for some time, so many changes a second in all or as many as go.
    pub async fn drive(
        self: &Arc<Self>,
        nodes: &[Node],
        mix: Mix,
        rate: Option<f64>,
        lasting: Duration,
    ) -> Result<Written, Failure> {
        let writers = nodes.len() * AT_A_TIME;
        let every = rate.map(|rate| Duration::from_secs_f64(writers as f64 / rate));
        let begun = Instant::now();
        let until = begun + lasting;
        let mut tasks = JoinSet::new();
        for (n, node) in nodes.iter().enumerate() {
            for m in 0..AT_A_TIME {
                // A pause within a request would be taken for what the request took.
                let (board, client) = (self.clone(), node.client.clone().impatient());
                // What a node that hosts nothing makes is made on the first that does.
                let workspace = node.workspace.clone().or_else(|| nodes[0].workspace.clone());
                // The writers take turns, so that the rate is even.
                let offset =
                    every.unwrap_or_default() * (m * nodes.len() + n) as u32 / writers as u32;
                tasks.spawn(async move {
                    let mut written = Written::default();
                    let mut due = begun + offset;
                    while due < until && Instant::now() < until {
                        if every.is_some() {
                            sleep_until(due).await;
                        }
                        let request = board.pick(workspace.as_deref(), mix);
                        let held_before = written.held_back;
                        board.write(n, &client, request, until, &mut written).await?;
                        due += every.unwrap_or_default();
                        if written.held_back > held_before {
                            // What was asked too fast is not made up for.
                            due = due.max(Instant::now());
                        }
                    }
                    Ok::<_, Failure>(written)
                });
            }
        }
        let mut all = Written::default();
        while let Some(written) = tasks.join_next().await {
            let mut written = written.map_err(|_| Failure::Bench("a writer has panicked"))??;
            all.answered.append(&mut written.answered);
            all.changes += written.changes;
            all.held_back += written.held_back;
        }
        Ok(all)
    }

    /// Chooses what is asked for next.
    fn pick(&self, workspace: Option<&str>, mix: Mix) -> Request {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let pick = fastrand::u32(0..mix.title + mix.create + mix.delete);
        let deletable = || self.deletable.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if pick < mix.delete
            && let Some(id) = deletable()
        {
            return Request { mark: Mark::Deleted(id.clone()), id, body: None };
        }
        if pick < mix.delete + mix.create || self.kept.is_empty() {
            let id = format!("ses_bench_{}_new_{number}", self.run);
            let session = json!({
                "id": id, "workspace_id": workspace, "title": "made by the bench",
            });
            return Request { mark: Mark::Created(id.clone()), id, body: Some(session) };
        }
        let id = self.kept[fastrand::usize(0..self.kept.len())].clone();
        let title = format!("bench {} {number}", self.run);
        let body = Some(json!({ "title": title }));
        Request { mark: Mark::Title(title), id, body }
    }

    /// Asks a node for a change until it is done, as often as there are too many.
    async fn write(
        &self,
        node: usize,
        client: &Client,
        request: Request,
        until: Instant,
        written: &mut Written,
    ) -> Result<(), Failure> {
        let Request { mark, id, body } = request;
        loop {
            let begun = Instant::now();
            self.note(mark.clone(), begun, node);
            let answer = match mark {
                Mark::Deleted(_) => client.delete(&["v1", "sessions", &id], &[]).await,
                Mark::Created(_) => client.post(&["v1", "sessions"], body.as_ref()).await,
                Mark::Title(_) => client.patch(&["v1", "sessions", &id], &body).await,
            };
            match self.pause(answer, begun, until, written)? {
                Some(pause) => sleep(pause).await,
                None => return Ok(()),
            }
        }
    }

    /// Takes note of an answer, and tells for how long to pause before the same is asked again: where
    /// there were too many, unless that would go on beyond the load's end. What is measured is the
    /// request that is let in.
    fn pause(
        &self,
        answer: Result<Answer, Failure>,
        begun: Instant,
        until: Instant,
        written: &mut Written,
    ) -> Result<Option<Duration>, Failure> {
        match answer {
            Ok(_) => {
                written.answered.push(begun.elapsed());
                written.changes += 1;
                self.answered.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
            Err(Failure::Refused(Refused { retry_after: Some(pause), .. })) => {
                written.held_back += 1;
                Ok(Some(pause).filter(|pause| Instant::now() + *pause < until))
            }
            Err(failure) => Err(failure),
        }
    }

    fn note(&self, mark: Mark, at: Instant, node: usize) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.insert(mark, (at, node));
    }

    /// Follows a node's events until told to stop, and notes how old each change is that another
    /// node was asked for.
    ///
    /// `begun` is told once the stream is there.
    pub async fn follow(
        self: Arc<Self>,
        node: usize,
        client: Client,
        begun: tokio::sync::oneshot::Sender<()>,
        stop: CancellationToken,
    ) -> Result<Seen, Failure> {
        let mut response = client.events(None).await?;
        let (mut parser, mut seen) = (sse::Parser::new(sse::SNAPSHOT_BYTES_MAX), Seen::default());
        let (mut begun, mut snapshots) = (Some(begun), 0);
        loop {
            let chunk = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                chunk = response.chunk() => chunk,
            };
            let Ok(Some(chunk)) = chunk else {
                return Err(Failure::Interrupted("its event stream has ended".to_owned()));
            };
            let at = Instant::now();
            for event in parser.push(&chunk).map_err(|e| Failure::Foreign(e.to_string()))? {
                if event.kind == "snapshot" {
                    snapshots += 1;
                    let _ = begun.take().map(|begun| begun.send(()));
                    continue;
                }
                let diff: Diff = serde_json::from_str(&event.data)
                    .map_err(|error| Failure::Foreign(error.to_string()))?;
                diff.events.iter().for_each(|event| self.saw(node, at, event, &mut seen));
            }
        }
        seen.resets = u64::saturating_sub(snapshots, 1);
        Ok(seen)
    }

    fn saw(&self, node: usize, at: Instant, event: &Event, seen: &mut Seen) {
        let mark = match event {
            Event::SessionCreated { session } => Mark::Created(session.id.to_string()),
            Event::SessionDeleted { session, .. } => Mark::Deleted(session.id.to_string()),
            Event::SessionUpdated { session, .. } => {
                Mark::Title(session.title.clone().unwrap_or_default())
            }
            _ => return,
        };
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(&(sent_at, from)) = sent.get(&mark) else { return };
        if from != node {
            let age = at.saturating_duration_since(sent_at);
            seen.changes.push(age);
            if matches!(mark, Mark::Deleted(_)) {
                seen.deletes.push(age);
            }
        }
    }
}

/// Reads a node's events and does nothing about them, as many a user interface would.
pub async fn look_on(client: Client, stop: CancellationToken) {
    let Ok(mut response) = client.events(None).await else { return };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            chunk = response.chunk() => if !matches!(chunk, Ok(Some(_))) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_read_and_one_in_which_nothing_would_change_is_not() {
        let mix: Mix = "title=8,create=1,delete=1".parse().unwrap();
        assert_eq!(mix, Mix { title: 8, create: 1, delete: 1 });
        assert_eq!("delete=1".parse(), Ok(Mix { title: 0, create: 0, delete: 1 }));
        for bad in ["", "title", "title=x", "rename=1", "title=0", "title=4294967295,create=1"] {
            assert!(bad.parse::<Mix>().is_err(), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_is_one_too_many_is_asked_for_again_unless_the_load_ends() {
        let board = Board::new("x".to_owned(), Vec::new());
        let (begun, mut written) = (Instant::now(), Written::default());
        let until = begun + Duration::from_millis(2_500);
        let refused = |status, retry_after| {
            let (code, detail, hint) =
                ("too_many_requests".to_owned(), String::new(), String::new());
            let candidates = Vec::new();
            Err(Failure::Refused(Refused { status, code, detail, hint, candidates, retry_after }))
        };
        let second = Some(Duration::from_secs(1));
        for pause in [second, second, None] {
            let told = board.pause(refused(429, second), Instant::now(), until, &mut written);
            assert_eq!(told.unwrap(), pause);
            sleep(pause.unwrap_or_default()).await;
        }
        assert_eq!((written.changes, written.held_back), (0, 3));
        let other = board.pause(refused(409, None), Instant::now(), until, &mut written);
        assert!(other.is_err(), "whatever else is refused ends the run");

        let let_in = Instant::now();
        sleep(Duration::from_millis(5)).await;
        let told = board.pause(Ok(Answer(String::new())), let_in, until, &mut written);
        assert_eq!(told.unwrap(), None);
        let mut took = Samples::default();
        took.push(Duration::from_millis(5));
        assert_eq!(format!("{:?}", written.answered), format!("{took:?}"), "and not the pauses");
        assert_eq!(written.changes, 1);
    }

    #[test]
    fn only_what_another_node_was_asked_for_is_counted_and_deletes_by_themselves_too() {
        let board = Board::new("x".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(board.kept, ["a"]);
        board.note(Mark::Deleted("b".to_owned()), Instant::now(), 0);
        let session = serde_json::json!({
            "id": "b", "host": "01".repeat(32), "workspace_id": null, "parent_id": null,
            "project_id": null, "directory": null, "title": null, "created_at": 0,
            "updated_at": 0, "archived_at": null, "agent": null,
            "agent_server": null, "state": "deleted", "deleted": null,
            "extra": {},
        });
        let event = json!({ "type": "session.deleted", "session": session, "reason": "deleted" });
        let event: Event = serde_json::from_value(event).unwrap();
        let mut seen = Seen::default();
        board.saw(0, Instant::now(), &event, &mut seen);
        assert_eq!(format!("{seen:?}"), format!("{:?}", Seen::default()));
        board.saw(1, Instant::now(), &event, &mut seen);
        let both = (&seen.deletes, &seen.changes);
        assert_eq!(format!("{:?}", both.0), format!("{:?}", both.1));
        assert_ne!(format!("{seen:?}"), format!("{:?}", Seen::default()));
    }
}
