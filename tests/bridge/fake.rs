//! A server that answers as opencode 1.18.33 does, as far as a bridge asks, or fails on demand.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State as Extract},
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::{StreamExt as _, wrappers::BroadcastStream};

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Works,
    /// Answers everything with that status.
    Status(u16),
    /// Answers everything with something else.
    Garbage,
    /// Answers nothing.
    Hangs,
    /// Fails at the last of its lists.
    BreaksHalfWay,
    /// Its sessions are missing when they are listed the next time, and then there again.
    EmptyOnce,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    sessions: BTreeMap<String, Value>,
    workspaces: BTreeMap<String, Value>,
    deletes: Vec<String>,
    fail_deletes: bool,
    /// When its database first saw its project.
    first_seen: i64,
    refused: usize,
    /// Replaced where the streams are to end.
    events: broadcast::Sender<String>,
}

type Shared = Arc<Mutex<State>>;

/// A running server.
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    state: Shared,
}

impl Fake {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State {
            mode: Mode::Works,
            sessions: BTreeMap::new(),
            workspaces: BTreeMap::new(),
            deletes: Vec::new(),
            fail_deletes: false,
            first_seen: 7,
            refused: 0,
            events: broadcast::channel(1_024).0,
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Behaves so from now on; the streams of events end.
    pub fn set(&self, mode: Mode) {
        let mut state = self.state();
        state.mode = mode;
        state.events = broadcast::channel(1_024).0;
    }

    /// Makes a session or replaces it, and tells.
    pub fn put(&self, id: &str, fields: Value) {
        let mut session = session(id);
        for (key, value) in fields.as_object().unwrap() {
            session[key] = value.clone();
        }
        let mut state = self.state();
        let before = state.sessions.insert(id.to_owned(), session.clone());
        let kind = if before.is_none() { "session.created" } else { "session.updated" };
        state.tell(kind, &session);
    }

    /// Deletes a session as a user of the server does, and tells.
    pub fn remove(&self, id: &str) {
        let mut state = self.state();
        let session = state.sessions.remove(id).unwrap();
        state.tell("session.deleted", &session);
    }

    /// Tells that a session was deleted, which is there.
    pub fn tell_deleted(&self, id: &str) {
        let state = self.state();
        let session = state.sessions[id].clone();
        state.tell("session.deleted", &session);
    }

    pub fn put_workspace(&self, id: &str) {
        let workspace = json!({
            "id": id, "type": "worktree", "name": id, "branch": null,
            "directory": format!("/no/such/folder/{id}"), "extra": null, "projectID": "p",
            "timeUsed": 1
        });
        self.state().workspaces.insert(id.to_owned(), workspace);
    }

    pub fn remove_workspace(&self, id: &str) {
        self.state().workspaces.remove(id).unwrap();
    }

    /// Stands on another database from now on, with these sessions and first seen then.
    pub fn move_to(&self, first_seen: i64, sessions: &[&str]) {
        let mut state = self.state();
        let kept = std::mem::take(&mut state.sessions);
        state.sessions = sessions
            .iter()
            .map(|id| ((*id).to_owned(), kept.get(*id).cloned().unwrap_or_else(|| session(id))))
            .collect();
        state.first_seen = first_seen;
        state.events = broadcast::channel(1_024).0;
    }

    pub fn fail_deletes(&self, fail: bool) {
        self.state().fail_deletes = fail;
    }

    /// The sessions that it was asked to delete, and has, in order.
    pub fn deletes(&self) -> Vec<String> {
        self.state().deletes.clone()
    }

    /// How many deletes it has failed to carry out.
    pub fn refused_deletes(&self) -> usize {
        self.state().refused
    }

    pub fn sessions(&self) -> Vec<String> {
        self.state().sessions.keys().cloned().collect()
    }
}

fn session(id: &str) -> Value {
    json!({
        "id": id, "slug": "s", "projectID": "p", "directory": "/p", "title": id,
        "version": "1.18.33", "time": { "created": 1, "updated": 1 }
    })
}

impl State {
    fn tell(&self, kind: &str, session: &Value) {
        let properties = json!({ "sessionID": session["id"], "info": session });
        let event = json!({ "directory": "/p", "payload": {
            "id": "evt_1", "type": kind, "properties": properties } });
        // Nobody may be listening.
        let _ = self.events.send(format!("data: {event}\n\n"));
    }
}

async fn answer(Extract(shared): Extract<Shared>, request: Request) -> Response {
    let mode = shared.lock().unwrap().mode;
    match mode {
        Mode::Hangs => std::future::pending().await,
        Mode::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Mode::Garbage => Body::from("<!doctype html><p>hello").into_response(),
        Mode::Works | Mode::BreaksHalfWay | Mode::EmptyOnce => works(&shared, &request),
    }
}

fn works(shared: &Shared, request: &Request) -> Response {
    let mut state = shared.lock().unwrap();
    let path = request.uri().path();
    if let (&Method::DELETE, Some(id)) = (request.method(), path.strip_prefix("/session/")) {
        return delete(&mut state, id);
    }
    match path {
        "/global/health" => json(&json!({ "healthy": true, "version": "1.18.33" })),
        "/global/event" => {
            let connected = r#"data: {"payload":{"type":"server.connected","properties":{}}}"#;
            let first = tokio_stream::once(Ok(format!("{connected}\n\n")));
            let rest = BroadcastStream::new(state.events.subscribe());
            let stream = first.chain(rest).map(|event| event.unwrap_or_default());
            Body::from_stream(stream.map(Ok::<String, Infallible>)).into_response()
        }
        "/project" => {
            json(&json!([{ "id": "p", "worktree": "/p", "time": { "created": state.first_seen } }]))
        }
        "/experimental/workspace" => json(&list(&state.workspaces)),
        "/session" => match state.mode {
            Mode::EmptyOnce => json(&json!([])),
            _ => json(&list(&state.sessions)),
        },
        "/experimental/session" => match state.mode {
            Mode::BreaksHalfWay => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Mode::EmptyOnce => {
                state.mode = Mode::Works;
                json(&json!([]))
            }
            _ => json(&list(&state.sessions)),
        },
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn delete(state: &mut State, id: &str) -> Response {
    if state.fail_deletes {
        state.refused += 1;
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let Some(session) = state.sessions.remove(id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    state.deletes.push(id.to_owned());
    state.tell("session.deleted", &session);
    json(&json!(true))
}

fn json(value: &Value) -> Response {
    Body::from(value.to_string()).into_response()
}

fn list(records: &BTreeMap<String, Value>) -> Value {
    records.values().cloned().collect()
}
