//! Owns the proof that a follower of the hub never meets a gap or a repetition.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;
use crate::replica::{
    diff::{Cause, CauseKind, Event},
    ids::{NodeId, StartId},
    record::{Extra, SessionState, WorkspaceState},
};

const HOST: NodeId = NodeId([1; 32]);

fn session(id: &str, title: &str) -> Arc<Session> {
    Arc::new(Session {
        id: id.parse().unwrap(),
        host: HOST,
        workspace_id: None,
        parent_id: None,
        project_id: None,
        directory: None,
        title: Some(title.to_owned()),
        created_at: 1,
        updated_at: 2,
        archived_at: None,
        agent: None,
        agent_server: None,
        state: SessionState::Live,
        deleted: None,
        extra: Extra::new(),
    })
}

fn workspace(id: &str, session_count: u64) -> Arc<Workspace> {
    Arc::new(Workspace {
        id: id.parse().unwrap(),
        host: HOST,
        name: id.to_owned(),
        kind: "directory".to_owned(),
        project_id: None,
        directory: None,
        branch: None,
        keep: false,
        used: true,
        created_at: 1,
        agent_server: None,
        state: WorkspaceState::Live,
        session_count,
        teardown: None,
        extra: Extra::new(),
    })
}

fn cursor(sequence: u64) -> Cursor {
    Cursor { sequence, start: StartId([7; 8]) }
}

/// What a client keeps: it folds what it is sent, and checks itself by the digest.
#[derive(Debug, Clone, Default, PartialEq)]
struct Folded {
    cursor: Option<Cursor>,
    sessions: BTreeMap<String, Session>,
    workspaces: BTreeMap<String, Workspace>,
    /// The digest of both, kept up record by record.
    digest: Digest,
}

#[derive(Deserialize)]
struct SnapshotBody {
    cursor: Cursor,
    digest: Digest,
    sessions: Vec<Session>,
    workspaces: Vec<Workspace>,
}

impl Folded {
    fn put_session(&mut self, session: Session) {
        self.digest += Digest::of_session(&session);
        if let Some(before) = self.sessions.insert(session.id.to_string(), session) {
            self.digest -= Digest::of_session(&before);
        }
    }

    fn put_workspace(&mut self, workspace: Workspace) {
        self.digest += Digest::of_workspace(&workspace);
        if let Some(before) = self.workspaces.insert(workspace.id.to_string(), workspace) {
            self.digest -= Digest::of_workspace(&before);
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::SessionPurged { session } => {
                let before = self.sessions.remove(session.id.as_str()).unwrap();
                self.digest -= Digest::of_session(&before);
            }
            Event::WorkspaceGone { workspace } => {
                let before = self.workspaces.remove(workspace.id.as_str()).unwrap();
                self.digest -= Digest::of_workspace(&before);
            }
            Event::SessionCreated { session } | Event::SessionUpdated { session, .. } => {
                self.put_session(Session::clone(session));
            }
            Event::WorkspaceCreated { workspace } | Event::WorkspaceUpdated { workspace, .. } => {
                self.put_workspace(Workspace::clone(workspace));
            }
            other => panic!("the test makes no {other:?}"),
        }
    }

    /// Takes an item in; fails on a gap, a repetition or a digest that doesn't fit.
    fn take(&mut self, item: &Item) {
        match item {
            Item::Snapshot(Snapshot { cursor, body }) => {
                let body: SnapshotBody = serde_json::from_str(body).unwrap();
                assert_eq!(body.cursor, *cursor);
                assert!(self.cursor.is_none_or(|seen| seen <= *cursor), "a snapshot of the past");
                *self = Self { cursor: Some(*cursor), ..Self::default() };
                body.sessions.into_iter().for_each(|session| self.put_session(session));
                body.workspaces.into_iter().for_each(|workspace| self.put_workspace(workspace));
                assert_eq!(self.digest, body.digest);
            }
            Item::Diff { cursor, body } => {
                let diff: Diff = serde_json::from_str(body).unwrap();
                assert_eq!(diff.cursor, *cursor);
                assert_eq!(Some(diff.previous), self.cursor, "a gap or a repetition");
                self.cursor = Some(*cursor);
                diff.events.iter().for_each(|event| self.apply(event));
                assert_eq!(self.digest, diff.digest);
            }
        }
    }
}

/// Makes diffs as the loop would, and knows what must be visible after them.
struct Publisher {
    hub: Arc<Hub>,
    truth: Folded,
}

impl Publisher {
    fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        let truth = Folded { cursor: Some(cursor(0)), ..Folded::default() };
        let empty = Published {
            cursor: cursor(0),
            digest: truth.digest,
            sessions: Vec::new(),
            workspaces: Vec::new(),
        };
        Self { hub: Arc::new(Hub::with_limits(empty, Vec::new(), limits)), truth }
    }

    fn next_diff(&mut self, events: Vec<Event>) -> (Diff, Arc<str>) {
        events.iter().for_each(|event| self.truth.apply(event));
        let previous = self.truth.cursor.unwrap();
        let next = cursor(previous.sequence + 1);
        self.truth.cursor = Some(next);
        let cause = Cause { kind: CauseKind::Local, peer: None, authors: vec![HOST], at: 0 };
        let digest = self.truth.digest;
        let diff = Diff { cursor: next, previous, digest, cause, events };
        let body = serde_json::to_string(&diff).unwrap().into();
        (diff, body)
    }

    fn publish(&mut self, events: Vec<Event>) {
        let (diff, body) = self.next_diff(events);
        self.hub.publish(&diff, body);
    }

    fn create(&mut self, id: &str) {
        let session = session(id, id);
        self.publish(vec![Event::SessionCreated { session }]);
    }

    fn published(&self) -> Published {
        Published {
            cursor: self.truth.cursor.unwrap(),
            digest: self.truth.digest,
            sessions: self.truth.sessions.values().cloned().map(Arc::new).collect(),
            workspaces: self.truth.workspaces.values().cloned().map(Arc::new).collect(),
        }
    }
}

fn sequence_of(item: &Item) -> (bool, u64) {
    match item {
        Item::Snapshot(snapshot) => (true, snapshot.cursor.sequence),
        Item::Diff { cursor, .. } => (false, cursor.sequence),
    }
}

#[tokio::test]
async fn a_known_cursor_continues_with_exactly_what_follows_it() {
    let mut publisher = Publisher::new();
    (0..4).for_each(|n| publisher.create(&format!("ses_{n}")));
    let mut following = publisher.hub.subscribe(Some(cursor(2)));
    assert_eq!(sequence_of(&following.next().await.unwrap()), (false, 3));
    assert_eq!(sequence_of(&following.next().await.unwrap()), (false, 4));

    let mut present = publisher.hub.subscribe(Some(cursor(4)));
    publisher.create("ses_5");
    assert_eq!(sequence_of(&present.next().await.unwrap()), (false, 5));
    assert_eq!(sequence_of(&following.next().await.unwrap()), (false, 5));
}

#[tokio::test]
async fn no_cursor_or_a_foreign_one_begins_with_a_snapshot_and_goes_on_from_there() {
    let mut publisher = Publisher::new();
    publisher.create("ses_1");
    let foreign = Cursor { sequence: 1, start: StartId([8; 8]) };
    for after in [None, Some(foreign), Some(cursor(9))] {
        let mut subscription = publisher.hub.subscribe(after);
        let mut folded = Folded::default();
        let first = subscription.next().await.unwrap();
        assert!(matches!(first, Item::Snapshot(_)), "{after:?} was taken for a known cursor");
        folded.take(&first);
        publisher.create("ses_2");
        let second = subscription.next().await.unwrap();
        assert!(matches!(second, Item::Diff { .. }));
        folded.take(&second);
        assert_eq!(folded, publisher.truth);
    }
}

#[tokio::test]
async fn a_subscriber_that_fell_behind_the_ring_gets_a_snapshot_and_then_diffs() {
    let mut publisher = Publisher::with_limits(Limits { diffs_max: 4, bytes_max: usize::MAX });
    let mut subscription = publisher.hub.subscribe(Some(cursor(0)));
    let mut folded = Folded { cursor: Some(cursor(0)), ..Folded::default() };
    publisher.create("ses_1");
    folded.take(&subscription.next().await.unwrap());
    (2..8).for_each(|n| publisher.create(&format!("ses_{n}")));
    let late = subscription.next().await.unwrap();
    assert!(matches!(late, Item::Snapshot(_)));
    folded.take(&late);
    assert_eq!(folded, publisher.truth);
    publisher.create("ses_9");
    folded.take(&subscription.next().await.unwrap());
    assert_eq!(folded, publisher.truth);
}

#[tokio::test]
async fn a_cursor_survives_a_restart_through_the_journal() {
    let mut publisher = Publisher::new();
    let mut journal = Vec::new();
    for n in 0..5 {
        let session = session(&format!("ses_{n}"), "");
        let (diff, body) = publisher.next_diff(vec![Event::SessionCreated { session }]);
        journal.push((diff.cursor, body));
    }
    let hub = Arc::new(Hub::new(publisher.published(), journal.split_off(2)));
    for after in 2..5 {
        let mut subscription = hub.subscribe(Some(cursor(after)));
        assert_eq!(sequence_of(&subscription.next().await.unwrap()), (false, after + 1));
    }
    assert_eq!(sequence_of(&hub.subscribe(Some(cursor(1))).next().await.unwrap()), (true, 5));
}

#[tokio::test]
async fn after_a_reset_every_subscriber_gets_a_snapshot() {
    let mut publisher = Publisher::new();
    publisher.create("ses_1");
    let mut waiting = publisher.hub.subscribe(Some(cursor(1)));
    let mut behind = publisher.hub.subscribe(Some(cursor(0)));
    // Even if the cursor were the same, what it stands for is not.
    publisher.truth = Folded { cursor: Some(cursor(1)), ..Folded::default() };
    publisher.hub.reset(publisher.published());
    for subscription in [&mut waiting, &mut behind] {
        let item = subscription.next().await.unwrap();
        let Item::Snapshot(Snapshot { body, .. }) = item else { panic!("{item:?}") };
        assert!(!body.contains("ses_1"));
    }
    assert!(publisher.hub.view().is_empty());
}

#[tokio::test]
async fn simultaneous_subscribers_share_one_snapshot_and_a_later_one_is_made_anew() {
    let mut publisher = Publisher::new();
    publisher.create("ses_1");
    let body = |item: Option<Item>| match item {
        Some(Item::Snapshot(snapshot)) => snapshot.body,
        other => panic!("{other:?}"),
    };
    let (mut a, mut b) = (publisher.hub.subscribe(None), publisher.hub.subscribe(None));
    let (first, second) = tokio::join!(a.next(), b.next());
    let (first, second) = (body(first), body(second));
    assert!(Arc::ptr_eq(&first, &second));
    assert!(Arc::ptr_eq(&first, &publisher.hub.snapshot().await.unwrap().body));
    publisher.create("ses_2");
    let third = publisher.hub.snapshot().await.unwrap();
    assert_eq!(third.cursor, cursor(2));
    assert!(third.body.contains("ses_2"));
}

#[tokio::test]
async fn closing_delivers_what_was_published_and_then_ends() {
    let mut publisher = Publisher::new();
    let mut subscription = publisher.hub.subscribe(Some(cursor(0)));
    let mut idle = publisher.hub.subscribe(Some(cursor(1)));
    assert_eq!(publisher.hub.subscribers(), 2);
    publisher.create("ses_1");
    let waiting = tokio::spawn(async move { idle.next().await });
    publisher.hub.close();
    assert_eq!(sequence_of(&subscription.next().await.unwrap()), (false, 1));
    assert_eq!(subscription.next().await, None);
    assert_eq!(waiting.await.unwrap(), None);
    assert_eq!(publisher.hub.subscribe(None).next().await, None);
    drop(subscription);
    assert_eq!(publisher.hub.subscribers(), 0);
}

#[test]
fn a_view_that_was_taken_does_not_change_and_finds_records_by_id_on_every_host() {
    let mut publisher = Publisher::new();
    (0..1_000).for_each(|n| publisher.create(&format!("ses_{n}")));
    let before = publisher.hub.view();
    let elsewhere =
        Arc::new(Session { host: NodeId([2; 32]), ..Session::clone(&session("ses_7", "")) });
    let created = Event::SessionCreated { session: elsewhere.clone() };
    let purged = Event::SessionPurged { session: session("ses_8", "") };
    let cause = Cause { kind: CauseKind::Local, peer: None, authors: vec![], at: 0 };
    let digest = Digest(5);
    let (cursor, previous) = (cursor(1_001), cursor(1_000));
    let diff = Diff { cursor, previous, digest, cause, events: vec![created, purged] };
    publisher.hub.publish(&diff, "{}".into());
    let after = publisher.hub.view();
    let (seven, eight) = ("ses_7".parse().unwrap(), "ses_8".parse().unwrap());
    assert_eq!((before.session(&seven).count(), before.session(&eight).count()), (1, 1));
    assert_eq!((after.session(&seven).count(), after.session(&eight).count()), (2, 0));
    assert_eq!(after.session(&seven).nth(1), Some(&elsewhere));
    assert_eq!((before.len(), after.len()), (1_000, 1_000));
    assert_eq!((after.sessions().count(), after.digest()), (1_000, Digest(5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn subscribers_of_any_pace_fold_an_unbroken_chain_to_the_present_view() {
    const SUBSCRIBERS: u64 = 32;
    const DIFFS: u64 = 1_200;
    let mut publisher = Publisher::with_limits(Limits { diffs_max: 40, bytes_max: 16 << 10 });
    let followers: Vec<_> = (0..SUBSCRIBERS)
        .map(|seed| {
            let hub = publisher.hub.clone();
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                let slowness = random.usize(0..40);
                let mut folded = Folded::default();
                let mut subscription = hub.subscribe(None);
                let (mut snapshots, mut resumes) = (0_u64, 0_u64);
                while let Some(item) = subscription.next().await {
                    snapshots += u64::from(matches!(item, Item::Snapshot(_)));
                    folded.take(&item);
                    for _ in 0..random.usize(0..=slowness) {
                        tokio::task::yield_now().await;
                    }
                    if random.u32(0..10) == 0 {
                        resumes += 1;
                        subscription = hub.subscribe(folded.cursor);
                    }
                    if folded.cursor.is_some_and(|cursor| cursor.sequence == DIFFS) {
                        break;
                    }
                }
                (folded, snapshots, resumes)
            })
        })
        .collect();
    let mut sleeper = publisher.hub.subscribe(Some(cursor(0)));
    let mut random = fastrand::Rng::with_seed(99);
    while publisher.truth.cursor.unwrap().sequence < DIFFS {
        let id = random.u32(0..30).to_string();
        let there = publisher.truth.sessions.contains_key(&id);
        let session = session(&id, &"x".repeat(random.usize(0..800)));
        let changed = vec!["title".to_owned()];
        let first = match (there, random.bool()) {
            (true, true) => Event::SessionPurged { session },
            (true, false) => Event::SessionUpdated { session, changed },
            (false, _) => Event::SessionCreated { session },
        };
        let workspace = workspace("wrk_1", random.u64(0..100));
        let second = match publisher.truth.workspaces.contains_key("wrk_1") {
            true if random.u32(0..5) == 0 => Event::WorkspaceGone { workspace },
            true => Event::WorkspaceUpdated { workspace, changed: Vec::new() },
            false => Event::WorkspaceCreated { workspace },
        };
        publisher.publish(vec![first, second]);
        if random.u32(0..20) == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut resumes = 0;
    for follower in followers {
        let (folded, its_snapshots, its_resumes) = follower.await.unwrap();
        assert_eq!(folded, publisher.truth);
        assert!(its_snapshots >= 1);
        resumes += its_resumes;
    }
    let mut folded = Folded::default();
    folded.take(&sleeper.next().await.unwrap());
    assert_eq!(folded, publisher.truth, "who slept all the time gets one snapshot");
    assert!(resumes > 0, "nobody resumed: the test shows less than it claims");
}
