//! A server that answers as opencode 1.18.33 does, as far as a bridge asks, or fails on demand.

#![allow(dead_code, reason = "the bridge's tests and the odd servers each use a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State as Extract},
    http::{Method, StatusCode, header},
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
    /// Fails at all lists of sessions.
    ListsNothing,
    /// Answers lists, and ends in the middle of them.
    CutsOff,
}

/// How it answers a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletes {
    /// Deletes, children too.
    Works,
    /// Fails with 500.
    Fails,
    /// Says that it has deleted it, and keeps it.
    Lies,
    /// Answers 200 with a page, as a server in front of it may.
    Page,
    /// Says 404 as a page, and keeps it.
    PageNotFound,
}

/// How it answers for a single session that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// As opencode does.
    Works,
    /// 200 with a page.
    Page,
    /// 404 with a page.
    PageNotFound,
    /// 404 with some other JSON.
    Other,
    /// 500.
    Fails,
}

/// A database, on which one or several servers stand.
#[derive(Debug)]
pub struct State {
    pub mode: Mode,
    pub sessions: BTreeMap<String, Value>,
    workspaces: BTreeMap<String, Value>,
    /// What the lists lack although it is there.
    pub hidden: BTreeSet<String>,
    /// What was asked to be deleted, and was, in order.
    pub deletes: Vec<String>,
    pub on_delete: Deletes,
    pub on_missing: Missing,
    /// When its database first saw its project; `None` where it does not say.
    pub first_seen: Option<i64>,
    refused: usize,
    /// How often it has said that it has none of that id.
    pub said_gone: BTreeMap<String, usize>,
    /// The ids of which the messages were asked for.
    pub exported: BTreeSet<String>,
    /// How often each session was asked for by its id at a server that is told of nothing.
    pub asked_deaf: BTreeMap<String, usize>,
    /// How often such a server has listed the workspaces.
    pub workspaces_listed_deaf: usize,
    /// Replaced where the streams are to end.
    events: broadcast::Sender<String>,
}

type Shared = Arc<Mutex<State>>;

/// A running server.
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    state: Shared,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Fake {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State {
            mode: Mode::Works,
            sessions: BTreeMap::new(),
            workspaces: BTreeMap::new(),
            hidden: BTreeSet::new(),
            deletes: Vec::new(),
            on_delete: Deletes::Works,
            on_missing: Missing::Works,
            first_seen: Some(7),
            refused: 0,
            said_gone: BTreeMap::new(),
            exported: BTreeSet::new(),
            asked_deaf: BTreeMap::new(),
            workspaces_listed_deaf: 0,
            events: broadcast::channel(1_024).0,
        }));
        Self::serve("127.0.0.1:0".parse().unwrap(), state, false).await
    }

    async fn serve(at: SocketAddr, state: Shared, is_deaf: bool) -> Self {
        let listener = tokio::net::TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state((state.clone(), is_deaf));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state, serving }
    }

    /// Starts another server on the same database.
    pub async fn beside(&self) -> Self {
        Self::serve("127.0.0.1:0".parse().unwrap(), self.state.clone(), false).await
    }

    /// Starts another server on the same database, which is told nothing of what happens in it, as a
    /// second process of opencode is not.
    pub async fn beside_deaf(&self) -> Self {
        Self::serve("127.0.0.1:0".parse().unwrap(), self.state.clone(), true).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
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
        for session in state.take_family(id) {
            state.tell("session.deleted", &session);
        }
    }

    /// Tells that a session was deleted, which is there.
    pub fn tell_deleted(&self, id: &str) {
        let state = self.state();
        let session = state.sessions[id].clone();
        state.tell("session.deleted", &session);
    }

    /// Sends something on the streams of events, as it is.
    pub fn tell_raw(&self, bytes: &str) {
        // Nobody may be listening.
        let _ = self.state().events.send(bytes.to_owned());
    }

    pub fn put_workspace(&self, id: &str) {
        let workspace = json!({
            "id": id, "type": "worktree", "name": id, "branch": null,
            "directory": format!("/no/such/opencode/worktree/p/{id}"), "extra": null,
            "projectID": "p", "timeUsed": 1
        });
        self.state().workspaces.insert(id.to_owned(), workspace);
    }

    pub fn remove_workspace(&self, id: &str) {
        self.state().workspaces.remove(id).unwrap();
    }

    /// Stands on another database from now on, with these sessions and first seen then.
    pub fn move_to(&self, first_seen: Option<i64>, sessions: &[&str]) {
        let mut state = self.state();
        let kept = std::mem::take(&mut state.sessions);
        state.sessions = sessions
            .iter()
            .map(|id| ((*id).to_owned(), kept.get(*id).cloned().unwrap_or_else(|| session(id))))
            .collect();
        state.first_seen = first_seen;
        state.events = broadcast::channel(1_024).0;
    }

    pub fn on_delete(&self, deletes: Deletes) {
        self.state().on_delete = deletes;
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

pub fn session(id: &str) -> Value {
    json!({
        "id": id, "slug": "s", "projectID": "p", "directory": "/p", "title": id,
        "version": "1.18.33", "time": { "created": 1, "updated": 1 }
    })
}

impl State {
    pub fn tell(&self, kind: &str, session: &Value) {
        let properties = json!({ "sessionID": session["id"], "info": session });
        let event = json!({ "directory": "/p", "payload": {
            "id": "evt_1", "type": kind, "properties": properties } });
        // Nobody may be listening.
        let _ = self.events.send(format!("data: {event}\n\n"));
    }

    /// Takes a session and its descendants away, children first.
    pub fn take_family(&mut self, id: &str) -> Vec<Value> {
        let children: Vec<String> = self.children(id);
        let mut taken: Vec<Value> =
            children.iter().flat_map(|child| self.take_family(child)).collect();
        taken.extend(self.sessions.remove(id));
        taken
    }

    fn children(&self, id: &str) -> Vec<String> {
        let of = |(_, session): &(&String, &Value)| session["parentID"] == id;
        self.sessions.iter().filter(of).map(|(id, _)| id.clone()).collect()
    }

    fn listed(&self) -> Value {
        let shown = self.sessions.iter().filter(|(id, _)| !self.hidden.contains(*id));
        shown.map(|(_, session)| session.clone()).collect()
    }
}

async fn answer(Extract((shared, is_deaf)): Extract<(Shared, bool)>, request: Request) -> Response {
    let mode = shared.lock().unwrap().mode;
    match mode {
        Mode::Hangs => std::future::pending().await,
        Mode::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Mode::Garbage => page(StatusCode::OK),
        Mode::Works | Mode::BreaksHalfWay | Mode::ListsNothing | Mode::CutsOff => {
            works(&shared, is_deaf, &request)
        }
    }
}

fn works(shared: &Shared, is_deaf: bool, request: &Request) -> Response {
    let mut state = shared.lock().unwrap();
    let path = request.uri().path();
    if let Some(rest) = path.strip_prefix("/session/") {
        let (id, what) = rest.split_once('/').unwrap_or((rest, ""));
        return match (request.method(), what) {
            (&Method::DELETE, "") => delete(&mut state, id),
            (_, "") => {
                if is_deaf {
                    *state.asked_deaf.entry(id.to_owned()).or_default() += 1;
                }
                one(&mut state, id)
            }
            (_, "children") => {
                let children = state.children(id).into_iter();
                json(&children.map(|child| state.sessions[&child].clone()).collect::<Value>())
            }
            (_, "message") => {
                state.exported.insert(id.to_owned());
                json(&json!([{ "info": { "id": format!("msg_{id}") }, "parts": [] }]))
            }
            _ => not_found(id),
        };
    }
    let breaks = StatusCode::INTERNAL_SERVER_ERROR.into_response();
    match (path, state.mode) {
        ("/global/health", _) => json(&json!({ "healthy": true, "version": "1.18.33" })),
        ("/global/event", _) => {
            let connected = r#"data: {"payload":{"type":"server.connected","properties":{}}}"#;
            let first = tokio_stream::once(Ok(format!("{connected}\n\n")));
            let rest = BroadcastStream::new(state.events.subscribe());
            // One that is told of nothing is silent; its stream ends with the others all the same.
            let rest = rest.filter(move |_| !is_deaf);
            let stream = first.chain(rest).map(|event| event.unwrap_or_default());
            Body::from_stream(stream.map(Ok::<String, Infallible>)).into_response()
        }
        ("/project", _) => json(
            &json!([{ "id": "p", "worktree": "/p", "time": state.first_seen.map(|at| json!({ "created": at })) }]),
        ),
        ("/experimental/workspace", _) => {
            state.workspaces_listed_deaf += usize::from(is_deaf);
            json(&list(&state.workspaces))
        }
        ("/session" | "/experimental/session", Mode::ListsNothing) => breaks,
        ("/session" | "/experimental/session", Mode::CutsOff) => {
            let whole = state.listed().to_string();
            typed(StatusCode::OK, "application/json", whole[..whole.len() / 2].to_owned())
        }
        ("/experimental/session", Mode::BreaksHalfWay) => breaks,
        ("/session" | "/experimental/session", _) => json(&state.listed()),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn one(state: &mut State, id: &str) -> Response {
    if let Some(session) = state.sessions.get(id) {
        return json(session);
    }
    match state.on_missing {
        Missing::Works => {
            *state.said_gone.entry(id.to_owned()).or_default() += 1;
            not_found(id)
        }
        Missing::Page => page(StatusCode::OK),
        Missing::PageNotFound => page(StatusCode::NOT_FOUND),
        Missing::Other => {
            typed(StatusCode::NOT_FOUND, "application/json", r#"{"error":"no route"}"#.to_owned())
        }
        Missing::Fails => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn delete(state: &mut State, id: &str) -> Response {
    match state.on_delete {
        Deletes::Works => {}
        Deletes::Lies => return json(&json!(true)),
        Deletes::Page => return page(StatusCode::OK),
        Deletes::PageNotFound => return page(StatusCode::NOT_FOUND),
        Deletes::Fails => {
            state.refused += 1;
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    }
    if !state.sessions.contains_key(id) {
        return not_found(id);
    }
    for session in state.take_family(id) {
        state.deletes.push(session["id"].as_str().unwrap().to_owned());
        state.tell("session.deleted", &session);
    }
    json(&json!(true))
}

fn not_found(id: &str) -> Response {
    let message = format!("Session not found: {id}");
    let body = json!({ "name": "NotFoundError", "data": { "message": message } });
    typed(StatusCode::NOT_FOUND, "application/json", body.to_string())
}

fn page(status: StatusCode) -> Response {
    typed(status, "text/html", "<!doctype html><p>hello".to_owned())
}

fn json(value: &Value) -> Response {
    typed(StatusCode::OK, "application/json", value.to_string())
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}

fn list(records: &BTreeMap<String, Value>) -> Value {
    records.values().cloned().collect()
}
