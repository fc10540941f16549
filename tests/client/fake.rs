//! Owns a daemon that only looks like one: it answers on the socket of a data folder as it is told
//! to, and remembers what it was asked.

use std::{
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};
use tokio::net::UnixListener;

/// What a fake daemon was asked: method, path with query, body.
pub type Asked = (String, String, Value);

/// A fake daemon in a data folder of its own.
pub struct Fake {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Starts one that answers by `answer`, given method, path and query.
    pub async fn start(
        answer: impl Fn(&str, &str, &str) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "t0ken").unwrap();
        let socket = sessionmesh::api::socket_path(&folder.path().canonicalize().unwrap());
        let listener = UnixListener::bind(socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = asked.clone();
        let router = Router::new().fallback(move |request: Request| {
            let (answer, told) = (answer.clone(), told.clone());
            async move {
                let (parts, body) = request.into_parts();
                if parts.headers.get(header::AUTHORIZATION).is_none_or(|v| v != "Bearer t0ken") {
                    return problem(401, "unauthorized", "no token");
                }
                let body = to_bytes(body, 1 << 20).await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let path = parts.uri.path_and_query().unwrap().to_string();
                let last = parts.headers.get("last-event-id");
                let path = match last.and_then(|id| id.to_str().ok()) {
                    Some(id) => format!("{path}#{id}"),
                    None => path,
                };
                let method = parts.method.to_string();
                told.lock().unwrap().push((method.clone(), path, body));
                answer(&method, parts.uri.path(), parts.uri.query().unwrap_or_default())
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { folder, asked }
    }

    /// Runs the command as a person would, and waits for its end.
    pub async fn run(&self, args: &[&str]) -> Output {
        run(self.folder.path(), args).await
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns what was asked so far, but for what only serves to name nodes.
    pub fn asked(&self) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap().clone();
        let names = ["/v1/status", "/v1/peers"];
        asked.into_iter().filter(|(_, path, _)| !names.contains(&path.as_str())).collect()
    }
}

/// Runs the command for a data folder, and waits for its end.
pub async fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = command(folder);
    command.args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Begins a command for a data folder.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sessionmesh"));
    command.env("SESSIONMESH_DATA_DIR", folder).env_remove("SESSIONMESH_LOG");
    command.env_remove("OPENCODE_SERVER_PASSWORD");
    command
}

/// Returns the exit code, stdout and stderr of a command that has ended.
pub fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The key of the only node.
pub const NODE: &str = "0101010101010101010101010101010101010101010101010101010101010101";

/// Answers what every verb may ask in order to name nodes.
pub fn names(path: &str) -> Option<Response> {
    match path {
        "/v1/status" => Some(ok(json!({
            "node": NODE, "name": "laptop", "fleet": "02".repeat(16), "role": "admin", "admins": 1,
            "version": "0.1.0", "uptime_ms": 61_000, "documents": [], "digest": "0".repeat(32),
            "links": 0, "store_bytes": 2_048, "sync_repairs_total": 0
        }))),
        "/v1/peers" => Some(ok(json!([]))),
        _ => None,
    }
}

/// Answers with JSON.
pub fn ok(value: Value) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, Body::from(value.to_string())).into_response()
}

/// Answers with a problem.
pub fn problem(status: u16, code: &str, detail: &str) -> Response {
    let body = json!({
        "type": format!("urn:sessionmesh:problem:{code}"), "title": "t", "status": status,
        "detail": detail, "code": code, "hint": "Do otherwise."
    });
    let json = [(header::CONTENT_TYPE, "application/problem+json")];
    (StatusCode::from_u16(status).unwrap(), json, Body::from(body.to_string())).into_response()
}

/// A session as the API shows it.
pub fn session(id: &str) -> Value {
    json!({
        "id": id, "host": NODE, "workspace_id": null, "parent_id": null, "project_id": null,
        "directory": null, "title": format!("about {id}"), "created_at": 1, "updated_at": 2,
        "archived_at": null, "agent": null,
            "agent_server": null, "state": "live", "deleted": null, "extra": {}
    })
}

/// A workspace as the API shows it.
pub fn workspace(id: &str) -> Value {
    json!({
        "id": id, "host": NODE, "name": "place", "kind": "directory", "project_id": null,
        "directory": "/w", "branch": null, "keep": false, "used": true, "created_at": 1, "agent_server": null,
        "state": "live", "session_count": 1, "teardown": null, "extra": {}
    })
}
