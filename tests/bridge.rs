//! Bridges a daemon to an opencode server that fails in every way that one can.

mod harness;

#[path = "bridge/beside.rs"]
mod beside;
#[path = "bridge/fake.rs"]
mod fake;

use std::time::{Duration, Instant};

use fake::{Deletes, Fake, Missing, Mode};
use harness::{Daemon, Message, PATIENCE, Subscriber};
use serde_json::{Value, json};
use sessionmesh::replica::diff::Event;

/// A daemon that is bridged to a fake server.
struct Bridged {
    daemon: Daemon,
    fake: Fake,
    _dir: tempfile::TempDir,
}

impl Bridged {
    /// Starts both, and waits until the sessions are taken in.
    async fn start(sessions: &[&str]) -> Self {
        Self::start_with(sessions, "0").await
    }

    /// The same with an undo window.
    async fn start_with(sessions: &[&str], undo: &str) -> Self {
        let fake = Fake::start().await;
        for id in sessions {
            fake.put(id, json!({}));
        }
        let dir = tempfile::tempdir().unwrap();
        let url = fake.url();
        let daemon =
            Daemon::start(&dir.path().join("d"), "d", &["--undo-window", undo, "--opencode", &url]);
        let bridged = Self { daemon, fake, _dir: dir };
        bridged.connected().await;
        assert_eq!(bridged.live().await.len(), sessions.len());
        bridged
    }

    async fn connected(&self) {
        self.daemon
            .until("/v1/status", "connected", |status| status["agents"][0]["state"] == "connected")
            .await;
    }

    /// Waits until the bridge tells of a problem, and returns it.
    async fn problem(&self, state: &str, about: &str) {
        self.daemon
            .until("/v1/status", "the problem is told", |status| {
                let agent = &status["agents"][0];
                let told = agent["problem"].as_str().unwrap_or_default();
                agent["state"] == state && told.contains(about)
            })
            .await;
    }

    /// Waits until the bridge tells of something that it leaves out or waits for.
    async fn note(&self, about: &str) {
        self.daemon
            .until("/v1/status", "it is told", |status| {
                let notes = status["agents"][0]["notes"].as_array().unwrap();
                notes.iter().any(|note| note.as_str().unwrap().contains(about))
            })
            .await;
    }

    async fn live(&self) -> Vec<String> {
        let view = self.daemon.get("/v1/sessions?state=live&limit=1000").await;
        ids(&view)
    }

    async fn until_live(&self, what: &str, expected: &[&str]) {
        self.daemon
            .until("/v1/sessions?state=live&limit=1000", what, |seen| ids(seen) == expected)
            .await;
    }

    async fn until_all(&self, what: &str, expected: &[&str]) {
        self.daemon
            .until("/v1/sessions?state=all&limit=1000", what, |seen| ids(seen) == expected)
            .await;
    }

    async fn delete(&self, id: &str) {
        self.daemon.ok("DELETE", &format!("/v1/sessions/{id}"), None).await;
    }
}

fn ids(list: &Value) -> Vec<String> {
    let list = list["sessions"].as_array().expect("it is a list");
    let mut ids: Vec<_> = list.iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn what_the_server_has_and_does_is_followed() {
    let bridged = Bridged::start(&["ses_1"]).await;
    let fake = &bridged.fake;
    fake.put("ses_2", json!({ "parentID": "ses_1", "title": "child" }));
    bridged.until_live("created there", &["ses_1", "ses_2"]).await;
    fake.put("ses_2", json!({ "parentID": "ses_1", "title": "renamed" }));
    bridged.daemon.until("/v1/sessions/ses_2", "renamed", |s| s["title"] == "renamed").await;
    fake.remove("ses_2");
    bridged.until_all("deleted there", &["ses_1"]).await;
    assert_eq!(fake.deletes(), Vec::<String>::new(), "nothing was asked to be deleted");
}

#[tokio::test]
async fn a_server_that_fails_is_told_of_and_deletes_nothing_here() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    for (mode, about) in [
        (Mode::Status(401), "password"),
        (Mode::Status(500), "500"),
        (Mode::Garbage, "not an opencode server"),
        (Mode::ListsNothing, "500"),
        (Mode::CutsOff, "not an opencode server"),
        (Mode::Hangs, "does not answer"),
    ] {
        bridged.fake.set(mode);
        bridged.problem("failed", about).await;
        assert_eq!(bridged.live().await, ["ses_1", "ses_2"], "{mode:?}");
        bridged.fake.set(Mode::Works);
        bridged.connected().await;
        assert_eq!(bridged.live().await, ["ses_1", "ses_2"], "{mode:?}");
    }
}

#[tokio::test]
async fn what_happened_while_the_stream_was_down_is_found_in_the_list() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    let fake = &bridged.fake;
    fake.set(Mode::Status(500));
    bridged.problem("failed", "500").await;
    fake.remove("ses_1");
    fake.put("ses_3", json!({}));
    bridged.delete("ses_2").await;
    fake.set(Mode::Works);
    bridged.until_all("both sides' changes", &["ses_3"]).await;
    assert_eq!(fake.deletes(), ["ses_2"]);
    assert_eq!(fake.sessions(), ["ses_3"]);
}

/// A list has once lacked three of eight sessions, for a second.
#[tokio::test]
async fn what_a_list_lacks_is_deleted_only_once_the_server_has_said_so_of_its_id() {
    let bridged = Bridged::start(&["ses_1", "ses_2", "ses_3"]).await;
    let fake = &bridged.fake;
    for missing in [Missing::Works, Missing::Page, Missing::PageNotFound, Missing::Other] {
        fake.state().on_missing = missing;
        fake.state().hidden = ["ses_1", "ses_2", "ses_3"].map(str::to_owned).into();
        fake.set(Mode::Status(500));
        bridged.problem("failed", "500").await;
        fake.set(Mode::Works);
        bridged.connected().await;
        fake.state().hidden.clear();
        assert_eq!(bridged.live().await, ["ses_1", "ses_2", "ses_3"], "{missing:?}");
    }
    // It is gone, and the server does not say so in a way that only opencode has.
    for (id, missing) in [("ses_1", Missing::PageNotFound), ("ses_2", Missing::Fails)] {
        fake.state().on_missing = missing;
        fake.remove(id);
        bridged.note("not known, 1").await;
        assert_eq!(bridged.live().await.len(), 3 - usize::from(id == "ses_2"));
        fake.state().on_missing = Missing::Works;
        // A new stream asks again.
        fake.set(Mode::Works);
        bridged
            .until_all("believed", if id == "ses_1" { &["ses_2", "ses_3"] } else { &["ses_3"] })
            .await;
    }
}

#[tokio::test]
async fn a_delete_that_the_bridge_made_is_undone_when_the_session_is_listed_again() {
    let bridged = Bridged::start_with(&["ses_1", "ses_2"], "1h").await;
    let fake = &bridged.fake;
    let kept = fake.state().sessions["ses_1"].clone();
    fake.remove("ses_1");
    bridged.until_live("deleted there", &["ses_2"]).await;
    let deleted = bridged.daemon.get("/v1/sessions/ses_1").await;
    assert_eq!(deleted["deleted"]["reason"], "agent");
    bridged.delete("ses_2").await;
    fake.state().sessions.insert("ses_1".to_owned(), kept);
    fake.set(Mode::Works);
    bridged.until_live("there again, and what a person deleted is not", &["ses_1"]).await;
    assert_eq!(fake.deletes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_delete_counts_only_once_the_server_has_it_no_more() {
    for (deletes, about) in [
        (Deletes::Lies, "and has it"),
        (Deletes::Page, "no JSON"),
        (Deletes::PageNotFound, "no JSON"),
    ] {
        let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
        bridged.fake.on_delete(deletes);
        bridged.delete("ses_1").await;
        bridged.problem("connected", about).await;
        bridged.until_all("held back", &["ses_1", "ses_2"]).await;
        bridged.fake.on_delete(Deletes::Works);
        bridged.until_all("purged", &["ses_2"]).await;
        assert_eq!(bridged.fake.deletes(), ["ses_1"]);
        assert!(bridged.fake.state().exported.contains("ses_1"), "it was kept before");
    }
}

#[tokio::test]
async fn odd_records_cost_no_others_and_are_named() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    let fake = &bridged.fake;
    for (id, fields) in [
        ("ses_fraction", json!({ "time": { "created": 1.5, "updated": 2.25 } })),
        ("ses_negative", json!({ "time": { "created": -1, "updated": 1e300 } })),
        ("ses_nulls", json!({ "title": null, "directory": null, "projectID": null })),
        ("ses_number", json!({ "title": 7, "slug": [], "version": {} })),
        ("ses_archived", json!({ "time": { "created": 1, "updated": 1, "archived": "x" } })),
        ("ses_nul", json!({ "title": "a\u{0}b" })),
        ("ses_notime", json!({ "time": null })),
        ("ses_parent", json!({ "parentID": 7 })),
        ("ses/slash", json!({})),
    ] {
        fake.put(id, fields);
    }
    fake.tell_raw("data: {\"payload\":{\"type\":\"session.updated\",\"properties\":{\"info\":{\"id\":\"ses_1\",\"title\":\"\\ud83d\",\"time\":{\"created\":1,\"updated\":1}}}}}\r\n\r\n");
    fake.tell_raw("data: {\ndata: nothing\n\n: a comment\nretry: 1\n\ndata: [\n\n");
    let taken = [
        "ses_1",
        "ses_2",
        "ses_archived",
        "ses_fraction",
        "ses_negative",
        "ses_nul",
        "ses_nulls",
        "ses_number",
    ];
    bridged.until_live("all that can be read", &taken).await;
    // The same as a list.
    fake.set(Mode::Works);
    bridged.note("left out").await;
    bridged.connected().await;
    fake.put("ses_3", json!({}));
    bridged.delete("ses_2").await;
    let taken = [
        "ses_1",
        "ses_3",
        "ses_archived",
        "ses_fraction",
        "ses_negative",
        "ses_nul",
        "ses_nulls",
        "ses_number",
    ];
    bridged.until_live("others come and go", &taken).await;
    let deadline = Instant::now() + PATIENCE;
    while fake.deletes() != ["ses_2"] {
        assert!(Instant::now() < deadline, "due deletes go on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seen = bridged.daemon.get("/v1/sessions/ses_nul").await;
    assert_eq!(seen["title"], "a\u{fffd}b");
}

#[tokio::test]
async fn one_id_at_two_databases_is_left_alone_at_the_second_and_named() {
    let (fake, other) = (Fake::start().await, Fake::start().await);
    other.state().first_seen = Some(8);
    fake.put("ses_1", json!({}));
    let dir = tempfile::tempdir().unwrap();
    let (url, second) = (fake.url(), other.url());
    let more = ["--undo-window", "0", "--opencode", &url, "--opencode", &second];
    let daemon = Daemon::start(&dir.path().join("d"), "d", &more);
    let all = "/v1/sessions?state=all&limit=1000";
    daemon.until(all, "taken in", |seen| ids(seen) == ["ses_1"]).await;
    other.put("ses_1", json!({ "title": "another" }));
    other.put("ses_2", json!({}));
    daemon.until(all, "taken in", |seen| ids(seen) == ["ses_1", "ses_2"]).await;
    let named = |status: &Value| status["agents"].to_string().contains("left alone, 1");
    daemon.until("/v1/status", "it is named", named).await;
    assert_eq!(daemon.get("/v1/sessions/ses_1").await["title"], "ses_1");
    daemon.ok("DELETE", "/v1/sessions/ses_1", None).await;
    daemon.until(all, "deleted where it was", |seen| ids(seen) == ["ses_2"]).await;
    assert_eq!((fake.deletes(), other.deletes()), (vec!["ses_1".to_owned()], vec![]));
    assert_eq!(other.sessions(), ["ses_1", "ses_2"]);
}

#[tokio::test]
async fn a_delete_waits_for_a_server_that_is_not_bridged_and_says_so() {
    let fake = Fake::start().await;
    fake.put("ses_1", json!({}));
    let dir = tempfile::tempdir().unwrap();
    let (path, url) = (dir.path().join("d"), fake.url());
    let bridged = ["--undo-window", "0", "--opencode", &url];
    let daemon = Daemon::start(&path, "d", &bridged);
    let all = "/v1/sessions?state=all&limit=1000";
    daemon.until(all, "taken in", |seen| ids(seen) == ["ses_1"]).await;
    // What is answered is on the disk.
    daemon.ok("PATCH", "/v1/sessions/ses_1", Some(json!({ "extra": { "a": "mark" } }))).await;
    daemon.kill();
    let daemon = Daemon::start(&path, "d", &["--undo-window", "0"]);
    daemon.ok("DELETE", "/v1/sessions/ses_1", None).await;
    let server = format!("{url}/");
    let waits = |status: &Value| status["agents_awaited"][&server] == 1;
    daemon.until("/v1/status", "it waits", waits).await;
    assert_eq!(ids(&daemon.get(all).await), ["ses_1"]);
    daemon.kill();
    let daemon = Daemon::start(&path, "d", &bridged);
    daemon.until(all, "carried out", |seen| ids(seen).is_empty()).await;
    assert_eq!(fake.deletes(), ["ses_1"]);
}

#[tokio::test]
async fn a_session_of_a_server_that_is_gone_for_good_goes_once_a_person_says_so() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    bridged.fake.set(Mode::Status(500));
    bridged.problem("failed", "500").await;
    bridged.delete("ses_1").await;
    bridged.delete("ses_2").await;
    bridged.daemon.ok("DELETE", "/v1/sessions/ses_1?forget_agent=true", None).await;
    bridged.until_all("purged without the server's word", &["ses_2"]).await;
    // It was not gone for good.
    bridged.fake.set(Mode::Works);
    bridged.until_all("purged with it", &[]).await;
    let deadline = Instant::now() + PATIENCE;
    while !bridged.fake.sessions().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", bridged.fake.sessions());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_server_that_does_not_say_what_it_stands_on_is_waited_for() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    bridged.fake.move_to(None, &["ses_2"]);
    bridged.problem("failed", "does not say").await;
    assert_eq!(bridged.live().await, ["ses_1", "ses_2"]);
    bridged.fake.move_to(Some(7), &["ses_2"]);
    bridged.until_all("believed", &["ses_2"]).await;
}

#[tokio::test]
async fn a_session_is_purged_once_the_server_has_deleted_it_children_first() {
    let bridged = Bridged::start(&["ses_9"]).await;
    let fake = &bridged.fake;
    fake.put("ses_1", json!({ "parentID": "ses_9" }));
    fake.put("ses_2", json!({ "parentID": "ses_1" }));
    bridged.until_live("taken in", &["ses_1", "ses_2", "ses_9"]).await;
    fake.on_delete(Deletes::Fails);
    bridged.delete("ses_9").await;
    bridged.problem("connected", "not deleted there").await;
    bridged.until_all("held back", &["ses_1", "ses_2", "ses_9"]).await;
    assert_eq!(bridged.live().await, Vec::<String>::new());
    fake.on_delete(Deletes::Works);
    bridged.until_all("purged", &[]).await;
    assert_eq!(fake.deletes(), ["ses_2", "ses_1", "ses_9"]);
    bridged
        .daemon
        .until("/v1/status", "the problem is over", |s| s["agents"][0]["problem"].is_null())
        .await;
}

#[tokio::test]
async fn a_purged_session_is_not_taken_in_again_whatever_the_server_lists() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    bridged.delete("ses_1").await;
    bridged.until_all("purged", &["ses_2"]).await;
    bridged.fake.put("ses_1", json!({ "title": "back from the dead" }));
    bridged.fake.put("ses_3", json!({}));
    bridged.until_live("others are", &["ses_2", "ses_3"]).await;
    bridged.fake.set(Mode::Status(500));
    bridged.problem("failed", "500").await;
    bridged.fake.set(Mode::Works);
    bridged.connected().await;
    assert_eq!(bridged.live().await, ["ses_2", "ses_3"]);
}

#[tokio::test]
async fn ticks_of_a_busy_session_are_not_written_one_by_one() {
    let bridged = Bridged::start(&["ses_1"]).await;
    let mut stream = bridged.daemon.follow(None).await;
    let mut subscriber = Subscriber::begin(&mut stream).await;
    let begun = Instant::now();
    for tick in 1..50 {
        bridged.fake.put("ses_1", json!({ "time": { "created": 1, "updated": 100 + tick } }));
    }
    bridged.fake.put("ses_2", json!({}));
    until(&mut stream, &mut subscriber, "ses_2").await;
    bridged
        .fake
        .put("ses_1", json!({ "title": "renamed", "time": { "created": 1, "updated": 200 } }));
    until(&mut stream, &mut subscriber, "renamed").await;
    let updates = subscriber.events.iter().filter(|event| {
        matches!(event, Event::SessionUpdated { session, .. } if session.id.as_str() == "ses_1")
    });
    // A rename takes the time along; each full half minute may have written it once.
    let allowed = 1 + begun.elapsed().as_secs() / 30;
    assert!((1..=allowed).contains(&(updates.count() as u64)), "{:?}", subscriber.events);
    let seen = bridged.daemon.get("/v1/sessions/ses_1").await;
    assert_eq!(seen["updated_at"], 200);
}

/// Follows until a session of that id or title is told.
async fn until(stream: &mut harness::Followed, subscriber: &mut Subscriber, name: &str) {
    loop {
        let message: Message = stream.next().await.expect("the stream goes on");
        subscriber.take(message);
        let told = |event: &Event| match event {
            Event::SessionCreated { session } | Event::SessionUpdated { session, .. } => {
                session.id.as_str() == name || session.title.as_deref() == Some(name)
            }
            _ => false,
        };
        if subscriber.events.last().is_some_and(told) {
            return;
        }
    }
}

#[tokio::test]
async fn workspaces_come_and_go_with_the_servers_though_no_event_tells() {
    let bridged = Bridged::start(&["ses_1"]).await;
    let fake = &bridged.fake;
    let workspaces = "/v1/workspaces?state=all";
    let count = |n: usize| move |seen: &Value| seen["workspaces"].as_array().unwrap().len() == n;
    fake.put_workspace("wrk_1");
    bridged.daemon.until(workspaces, "taken in", count(1)).await;
    fake.remove_workspace("wrk_1");
    bridged.daemon.until(workspaces, "removed there, without a session", count(0)).await;
    fake.put_workspace("wrk_2");
    fake.put("ses_2", json!({ "workspaceID": "wrk_2" }));
    bridged.daemon.until(workspaces, "with its session", count(1)).await;
    bridged.until_live("taken in", &["ses_1", "ses_2"]).await;
    fake.remove("ses_2");
    fake.remove_workspace("wrk_2");
    bridged.daemon.until(workspaces, "removed there, with its session", count(0)).await;
    bridged.until_all("its session, too", &["ses_1"]).await;
}

#[tokio::test]
async fn a_daemon_that_dies_before_the_server_has_confirmed_goes_on_when_it_is_back() {
    let fake = Fake::start().await;
    fake.put("ses_1", json!({}));
    fake.put("ses_2", json!({}));
    let dir = tempfile::tempdir().unwrap();
    let (path, url) = (dir.path().join("d"), fake.url());
    let more = ["--undo-window", "0", "--opencode", &url];
    let daemon = Daemon::start(&path, "d", &more);
    let all = "/v1/sessions?state=all&limit=1000";
    daemon.until(all, "taken in", |seen| ids(seen) == ["ses_1", "ses_2"]).await;
    fake.on_delete(Deletes::Fails);
    daemon.ok("DELETE", "/v1/sessions/ses_1", None).await;
    let deadline = Instant::now() + PATIENCE;
    while fake.refused_deletes() == 0 {
        assert!(Instant::now() < deadline, "it is asked to delete");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    daemon.kill();
    fake.on_delete(Deletes::Works);
    let daemon = Daemon::start(&path, "d", &more);
    daemon.until(all, "carried out", |seen| ids(seen) == ["ses_2"]).await;
    assert_eq!(fake.sessions(), ["ses_2"]);
}

#[tokio::test]
async fn an_address_that_is_none_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let output = harness::command(&dir.path().join("d"))
        .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .args(["--opencode", "localhost:4096"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("localhost:4096"), "{told}");
}

#[tokio::test]
async fn another_database_at_the_same_address_deletes_nothing_and_confirms_nothing() {
    let bridged = Bridged::start(&["ses_1", "ses_2"]).await;
    bridged.fake.on_delete(Deletes::Fails);
    bridged.delete("ses_2").await;
    bridged
        .daemon
        .until("/v1/status", "asked to delete", |_| bridged.fake.refused_deletes() > 0)
        .await;
    bridged.fake.on_delete(Deletes::Works);
    bridged.fake.move_to(Some(8), &["ses_other"]);
    bridged.problem("failed", "another database").await;
    assert_eq!(bridged.live().await, ["ses_1"]);
    // It is still to be deleted where it is: no 404 of another database counts.
    bridged.until_all("not purged", &["ses_1", "ses_2"]).await;
    bridged.fake.move_to(Some(7), &["ses_1", "ses_2"]);
    bridged.connected().await;
    bridged.until_all("deleted there, and purged", &["ses_1"]).await;
    assert_eq!(bridged.fake.deletes(), ["ses_2"]);
}

#[tokio::test]
async fn deletes_of_most_sessions_that_are_told_one_by_one_are_looked_up_before_they_are_believed()
{
    let ids = ["ses_1", "ses_2", "ses_3", "ses_4", "ses_5", "ses_6"];
    let bridged = Bridged::start(&ids).await;
    // Told, and not so.
    ids.iter().for_each(|id| bridged.fake.tell_deleted(id));
    bridged.fake.put("ses_7", json!({}));
    let all = ["ses_1", "ses_2", "ses_3", "ses_4", "ses_5", "ses_6", "ses_7"];
    bridged.until_live("all are there", &all).await;
    // Told, and so.
    ids.iter().for_each(|id| bridged.fake.remove(id));
    bridged.until_live("they are gone", &["ses_7"]).await;
}
