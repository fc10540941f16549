//! Owns the story that the project is about: two deletes that never met.

use serde_json::json;
use sessionmesh::replica::diff::{Event, RemovedReason};

use crate::{
    create, cut,
    harness::{Daemon, Followed, Subscriber, fleet, linked},
    mend, until_equal,
};

/// What an event says, without the updates of a workspace's count.
fn told(events: &[Event]) -> Vec<String> {
    let one = |event: &Event| {
        Some(match event {
            Event::SessionDeleted { session, .. } => format!("{} deleted", session.id),
            Event::SessionPurged { session } => format!("{} purged", session.id),
            Event::WorkspaceRemoved { workspace, reason } => {
                assert_eq!(*reason, RemovedReason::LastSession);
                format!("{} removed", workspace.id)
            }
            Event::WorkspaceSealed { workspace } => format!("{} sealed", workspace.id),
            Event::WorkspaceGone { workspace } => format!("{} gone", workspace.id),
            Event::WorkspaceUpdated { changed, .. } if *changed == ["session_count"] => {
                return None;
            }
            other => panic!("nobody did this: {other:?}"),
        })
    };
    events.iter().filter_map(one).collect()
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

async fn state(daemon: &Daemon, id: &str) -> (String, u64) {
    let workspace = daemon.get(&format!("/v1/workspaces/{id}")).await;
    let state = workspace["state"].as_str().unwrap().to_owned();
    (state, workspace["session_count"].as_u64().unwrap())
}

#[tokio::test]
async fn two_deletes_that_never_met_vacate_the_workspace_and_every_subscriber_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemons = fleet(folder.path(), &["A", "B", "C"], &["--undo-window", "3600s"]).await;
    let host = &daemons[1];
    let workspace = json!({ "id": "wrk", "name": "w", "kind": "directory" });
    host.ok("POST", "/v1/workspaces", Some(workspace)).await;
    for id in ["one", "two"] {
        create(host, json!({ "id": id, "workspace_id": "wrk" })).await;
    }
    linked(&daemons).await;
    until_equal(&[&daemons[0], &daemons[1], &daemons[2]]).await;

    let mut followers: Vec<(Followed, Subscriber)> = Vec::new();
    for daemon in &daemons {
        let mut stream = daemon.follow(None).await;
        let subscriber = Subscriber::begin(&mut stream).await;
        followers.push((stream, subscriber));
    }
    let [a, b, c] = &daemons[..] else { unreachable!("there are three") };
    for (one, other) in [(a, c), (a, b), (c, b)] {
        cut(one, other).await;
    }
    let deleted_one = a.ok("DELETE", "/v1/sessions/one", None).await;
    let deleted_two = c.ok("DELETE", "/v1/sessions/two", None).await;
    for (daemon, left) in [(a, 1), (c, 1), (b, 2)] {
        assert_eq!(state(daemon, "wrk").await, ("live".to_owned(), left));
    }
    for answer in [deleted_one, deleted_two] {
        assert_eq!(answer["workspace_vacated"], false, "neither saw itself delete the last");
    }

    for (one, other) in [(a, c), (a, b), (c, b)] {
        mend(one, other).await;
    }
    let all = ["one deleted", "two deleted", "wrk removed"];
    let orders = [["one", "two"], ["two", "one"]].map(|[first, last]| {
        vec![format!("{first} deleted"), format!("{last} deleted"), all[2].into()]
    });
    for (daemon, (stream, subscriber)) in daemons.iter().zip(&mut followers) {
        subscriber.until(stream, |it| told(&it.events).len() >= all.len()).await;
        subscriber.catch_up(stream, daemon).await;
        let said = told(&subscriber.events);
        assert!(orders.contains(&said), "{said:?}");
        assert_eq!(subscriber.snapshots, 1);
        assert_eq!(state(daemon, "wrk").await, ("vacated".to_owned(), 0));
    }
    linked(&daemons).await;

    // The host carries it out once the undo window is over; it began to count at its start.
    let (listen, dir) = (daemons[1].quic(), daemons[1].dir().to_owned());
    assert!(daemons.remove(1).stop().success());
    daemons.insert(1, Daemon::start_at(&dir, "B", &listen, &["--undo-window", "10ms"]));
    let cursor = followers[1].1.cursor();
    followers[1].0 = daemons[1].follow(Some(&cursor)).await;
    // A replica that merges the seal together with what followed tells only what came of it.
    let carried_out = ["one purged", "two purged", "wrk gone"];
    let all = sorted([&all[..], &carried_out].concat().iter().map(|it| (*it).to_owned()).collect());
    for (daemon, (stream, subscriber)) in daemons.iter().zip(&mut followers) {
        let is_end = |it: &String| carried_out.contains(&it.as_str());
        let ended = |it: &Subscriber| told(&it.events).iter().filter(|line| is_end(line)).count();
        subscriber.until(stream, |it| ended(it) >= carried_out.len()).await;
        subscriber.catch_up(stream, daemon).await;
        let mut said = told(&subscriber.events);
        let sealed = said.iter().filter(|line| *line == "wrk sealed").count();
        assert!(sealed <= 1, "{said:?}");
        said.retain(|line| line != "wrk sealed");
        assert_eq!(sorted(said), all);
        assert_eq!(subscriber.snapshots, 1, "the cursor led on, also across the restart");
        let view = daemon.view().await;
        assert!(view.sessions.is_empty() && view.workspaces.is_empty());
        for path in ["/v1/sessions/one", "/v1/workspaces/wrk"] {
            assert_eq!(daemon.send("GET", path, None).await.0, 404);
        }
    }
    linked(&daemons).await;
}
