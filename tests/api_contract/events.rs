//! Owns the claims about the event stream: its form, and that it goes on exactly where it was left.

use std::time::Duration;

use axum::{body::BodyDataStream, http::header};
use futures_util::StreamExt as _;
use serde_json::Value;
use sessionmesh::{
    api::events::{PING_INTERVAL, SUBSCRIBERS_MAX},
    replica::diff::Event,
};
use tower::ServiceExt as _;

use crate::fake::{World, cursor, proper, session};

/// A client that reads events as they come.
struct Stream {
    body: BodyDataStream,
    text: String,
}

impl Stream {
    async fn open(world: &World, uri: &str, last: Option<&str>) -> Self {
        let mut request = proper("GET", uri);
        if let Some(last) = last {
            request.headers_mut().insert("last-event-id", last.parse().unwrap());
        }
        let response = world.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// Returns what comes until the next empty line, or `None` at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            let chunk = self.body.next().await?.unwrap();
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Returns the next event as its name, its sequence and its data.
    async fn event(&mut self) -> Option<(String, u64, Value)> {
        let block = self.block().await?;
        let lines: Vec<_> = block.lines().collect();
        let [event, id, data] = lines[..] else { panic!("not an event of three lines: {block}") };
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        let id = id.strip_prefix("id: ").unwrap();
        assert_eq!(data["cursor"], id);
        let sequence = id.split_once('-').unwrap().1.parse().unwrap();
        Some((event.strip_prefix("event: ").unwrap().to_owned(), sequence, data))
    }

    async fn heads(&mut self, count: usize) -> String {
        let mut heads = Vec::new();
        for _ in 0..count {
            let (name, sequence, _) = self.event().await.unwrap();
            heads.push(format!("{name} {sequence}"));
        }
        heads.join(", ")
    }
}

fn create(world: &World, id: &str) {
    world.publish(vec![Event::SessionCreated { session: session(id).into() }]);
}

#[tokio::test]
async fn a_stream_begins_with_the_view_and_goes_on_with_each_diff() {
    let world = World::new(vec![session("ses_1")], vec![]);
    let mut stream = Stream::open(&world, "/v1/events", None).await;
    let (name, sequence, snapshot) = stream.event().await.unwrap();
    assert_eq!((name.as_str(), sequence), ("snapshot", 0));
    let (_, view) = world.call("GET", "/v1/view", None).await;
    assert_eq!(snapshot, view);
    create(&world, "ses_2");
    let (name, sequence, diff) = stream.event().await.unwrap();
    assert_eq!((name.as_str(), sequence), ("diff", 1));
    assert_eq!(diff["previous"], snapshot["cursor"]);
    assert_eq!(diff["events"][0]["type"], "session.created");
    assert_eq!(diff["events"][0]["session"]["id"], "ses_2");
}

#[tokio::test]
async fn a_stream_goes_on_exactly_after_the_cursor_that_it_is_given() {
    let world = World::new(vec![], vec![]);
    (1..=4).for_each(|n| create(&world, &format!("ses_{n}")));
    let at = |sequence| cursor(sequence).to_string();
    let rows: [(String, Option<String>, &str); 9] = [
        (format!("/v1/events?after={}", at(2)), None, "diff 3, diff 4"),
        ("/v1/events".to_owned(), Some(at(1)), "diff 2, diff 3, diff 4"),
        (format!("/v1/events?after={}", at(0)), Some(at(3)), "diff 4"),
        ("/v1/events?after=nonsense".to_owned(), None, "snapshot 4"),
        (format!("/v1/events?lastEventId={}", at(2)), None, "diff 3, diff 4"),
        (format!("/v1/events?after={}&lastEventId={}&_=17", at(0), at(3)), None, "diff 4"),
        (format!("/v1/events?lastEventId={}&lastEventId={}", at(1), at(3)), None, "diff 4"),
        ("/v1/events".to_owned(), Some("0808080808080808-2".to_owned()), "snapshot 4"),
        (format!("/v1/events?after={}", at(9)), None, "snapshot 4"),
    ];
    for (uri, last, expected) in rows {
        let mut stream = Stream::open(&world, &uri, last.as_deref()).await;
        assert_eq!(stream.heads(expected.split(", ").count()).await, expected, "{uri} {last:?}");
    }
    let mut stream = Stream::open(&world, "/v1/events", Some(&at(4))).await;
    create(&world, "ses_5");
    assert_eq!(stream.heads(1).await, "diff 5");
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_says_every_ten_seconds_that_it_is_there() {
    let world = World::new(vec![], vec![]);
    let uri = format!("/v1/events?after={}", cursor(0));
    let mut stream = Stream::open(&world, &uri, None).await;
    let begun = tokio::time::Instant::now();
    for n in 1..=3 {
        assert_eq!(stream.block().await.unwrap(), ": ping");
        let waited = begun.elapsed();
        assert!(waited.abs_diff(n * PING_INTERVAL) < Duration::from_millis(10), "{waited:?}");
    }
    assert_eq!(PING_INTERVAL, Duration::from_secs(10));
    create(&world, "ses_1");
    assert_eq!(stream.heads(1).await, "diff 1");
}

#[tokio::test]
async fn a_stream_ends_when_the_daemon_stops_and_frees_its_place_when_it_is_dropped() {
    let world = World::new(vec![], vec![]);
    let mut streams = Vec::new();
    for _ in 0..SUBSCRIBERS_MAX {
        streams.push(Stream::open(&world, "/v1/events", None).await);
    }
    let (status, problem) = world.call("GET", "/v1/events", None).await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &"too_many_subscribers".into()));
    assert_eq!(world.hub.subscribers(), SUBSCRIBERS_MAX);
    streams.truncate(1);
    assert_eq!(world.hub.subscribers(), 1);
    assert_eq!(streams[0].heads(1).await, "snapshot 0");
    create(&world, "ses_1");
    world.hub.close();
    assert_eq!(streams[0].heads(1).await, "diff 1");
    assert!(streams[0].event().await.is_none());
    drop(streams);
    assert_eq!(world.hub.subscribers(), 0);
}
