//! Owns what a real daemon says to bad input over HTTP.
//!
//! Must not look into a daemon. Invariant: each refusal is a problem with a stable code and a hint,
//! and whatever is refused has changed nothing, here or at a peer.

mod harness;

use harness::{Client, Daemon, fleet};
use serde_json::{Value, json};

/// Two linked daemons with a few records, and what their views were before anything was refused.
struct Stage {
    _folder: tempfile::TempDir,
    daemons: Vec<Daemon>,
    before: String,
}

impl Stage {
    async fn new(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let daemons = fleet(folder.path(), &["A", "B"], more).await;
        Self { _folder: folder, daemons, before: String::new() }
    }

    fn a(&self) -> &Daemon {
        &self.daemons[0]
    }

    fn b(&self) -> &Daemon {
        &self.daemons[1]
    }

    /// Waits until both show the same, and takes that for what must stay.
    async fn settle(&mut self) {
        harness::linked(&self.daemons).await;
        self.before = self.a().view().await.digest.to_string();
        assert_eq!(self.b().view().await.digest.to_string(), self.before);
    }

    /// Checks that nothing has changed since.
    async fn nothing_changed(&self) {
        for daemon in &self.daemons {
            assert_eq!(daemon.view().await.digest.to_string(), self.before);
        }
    }
}

/// Sends a body as it is, and returns the problem that comes back.
async fn refused(daemon: &Client, method: &str, path: &str, body: &str) -> (u16, String, Value) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = daemon.request(method.clone(), path);
    if !body.is_empty() {
        request = request.header("Content-Type", "application/json").body(body.to_owned());
    }
    let response = request.send().await.unwrap();
    let status = response.status();
    let kind = response.headers().get("Content-Type").cloned();
    let text = response.text().await.unwrap();
    let shown: String = body.chars().take(200).collect();
    let shown = format!("{method} {path} {shown}: {status} {text}");
    assert!(status.is_client_error(), "{shown}");
    assert_eq!(kind.unwrap(), "application/problem+json", "{shown}");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["status"], status.as_u16(), "{shown}");
    for field in ["type", "title", "detail", "code", "hint"] {
        assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {shown}");
    }
    let code = problem["code"].as_str().unwrap().to_owned();
    assert_eq!(problem["type"], format!("urn:sessionmesh:problem:{code}"), "{shown}");
    (status.as_u16(), code, problem)
}

async fn refuses(daemon: &Client, method: &str, path: &str, body: &str, expected: (u16, &str)) {
    let (status, code, problem) = refused(daemon, method, path, body).await;
    assert_eq!((status, code.as_str()), expected, "{method} {path}: {problem}");
}

async fn post(daemon: &Client, path: &str, body: Value) -> Value {
    daemon.ok("POST", path, Some(body)).await
}

#[tokio::test]
async fn what_is_not_json_or_not_the_right_json_is_refused() {
    let mut stage = Stage::new(&[]).await;
    post(stage.a(), "/v1/sessions", json!({ "id": "s" })).await;
    stage.settle().await;
    let a = stage.a();
    for body in ["{", "}", "nonsense", "{\"title\":\"x\"", "\u{feff}{}", "{\"title\":\"\\ud800\"}"]
    {
        for (method, path) in [("POST", "/v1/sessions"), ("PATCH", "/v1/sessions/s")] {
            refuses(a, method, path, body, (400, "malformed_json")).await;
        }
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let (status, code, _) = refused(a, "POST", "/v1/sessions", &deep).await;
    assert!(matches!((status, code.as_str()), (400, "malformed_json") | (422, "invalid_field")));
    for body in [
        "[]",
        "null",
        "3",
        "\"x\"",
        r#"{"title":3}"#,
        r#"{"titel":"x"}"#,
        r#"{"state":"live"}"#,
        r#"{"extra":{"a":{"b":"c"}}}"#,
        r#"{"extra":["a"]}"#,
        r#"{"title":"x","title":"y"}"#,
    ] {
        refuses(a, "POST", "/v1/sessions", body, (422, "invalid_field")).await;
        refuses(a, "PATCH", "/v1/sessions/s", body, (422, "invalid_field")).await;
    }
    for body in ["{}", r#"{"name":"x"}"#, r#"{"kind":"x"}"#, r#"{"name":"x","kind":"x","keep":1}"#]
    {
        refuses(a, "POST", "/v1/workspaces", body, (422, "invalid_field")).await;
    }
    refuses(a, "POST", "/v1/sessions", "", (400, "malformed_json")).await;
    for (query, expected) in [
        ("/v1/sessions/s?dryrun=true", (400, "invalid_query")),
        ("/v1/sessions/s?dry_run=maybe", (400, "invalid_query")),
        ("/v1/sessions/s?dry_run", (400, "invalid_query")),
    ] {
        refuses(a, "DELETE", query, "", expected).await;
    }
    for query in ["limit=x", "limit=-1", "state=gone", "cursor=!", "unknown=1"] {
        let path = format!("/v1/sessions?{query}");
        let (status, code, problem) = refused(a, "GET", &path, "").await;
        assert_eq!((status, code.as_str()), (400, "invalid_query"), "{query}: {problem}");
    }
    refuses(a, "GET", "/v1/nothing", "", (404, "route_not_found")).await;
    refuses(a, "PUT", "/v1/sessions/s", "{}", (405, "method_not_allowed")).await;
    stage.nothing_changed().await;
}

#[tokio::test]
async fn ids_and_fields_that_are_too_long_or_hold_what_they_must_not_are_refused() {
    let mut stage = Stage::new(&[]).await;
    post(stage.a(), "/v1/sessions", json!({ "id": "s" })).await;
    post(stage.a(), "/v1/workspaces", json!({ "id": "w", "name": "w", "kind": "x" })).await;
    stage.settle().await;
    let a = stage.a();
    for id in ["", "a b", "../x", "a/b", "é", "a\n", "a@b", &"x".repeat(65)] {
        let sessions = json!({ "id": id }).to_string();
        let workspaces = json!({ "id": id, "name": "x", "kind": "x" }).to_string();
        refuses(a, "POST", "/v1/sessions", &sessions, (422, "invalid_field")).await;
        refuses(a, "POST", "/v1/workspaces", &workspaces, (422, "invalid_field")).await;
    }
    let long = "x".repeat(65);
    for id in ["a%20b", "%2e%2e%2fx", "a%00", "s@", "@A", &long] {
        for (method, body) in [("GET", ""), ("PATCH", "{}"), ("DELETE", "")] {
            let path = format!("/v1/sessions/{id}");
            refuses(a, method, &path, body, (422, "invalid_id")).await;
        }
        let path = format!("/v1/workspaces/{id}/teardown");
        refuses(a, "POST", &path, r#"{"action":"retry"}"#, (422, "invalid_id")).await;
    }
    refuses(a, "GET", "/v1/sessions/%ff", "", (422, "invalid_id")).await;
    refuses(a, "POST", "/v1/operations/a%20b/restore", "", (422, "invalid_id")).await;

    let many: serde_json::Map<String, Value> =
        (0..33).map(|key| (format!("key-{key}"), json!("x"))).collect();
    for (field, value) in [
        ("title", json!("x".repeat(1_025))),
        ("title", json!("a\0b")),
        ("extra", Value::Object(many)),
        ("extra", json!({ "": "x" })),
        ("extra", json!({ "x".repeat(10_000): "x" })),
        ("extra", json!({ "key": "x".repeat(100_000) })),
    ] {
        let body = json!({ field: value }).to_string();
        for (method, path) in [("POST", "/v1/sessions"), ("PATCH", "/v1/sessions/s")] {
            let (status, code, problem) = refused(a, method, path, &body).await;
            assert_eq!((status, code.as_str()), (422, "invalid_field"), "{problem}");
            let named = problem["field"].as_str().unwrap_or_default();
            assert!(named.starts_with(field), "{field} is at fault: {problem}");
        }
    }
    for (field, value) in [
        ("directory", json!("/".repeat(4_097))),
        ("project_id", json!("x".repeat(100_000))),
        ("directory", json!("/a\0b")),
        ("directory", json!("")),
        ("directory", json!(".")),
        ("directory", json!("../w")),
        ("directory", json!("~/w")),
        ("directory", json!("file:///w")),
    ] {
        let session = json!({ field: value }).to_string();
        let workspace = json!({ "name": "x", "kind": "x", field: value }).to_string();
        refuses(a, "POST", "/v1/sessions", &session, (422, "invalid_field")).await;
        refuses(a, "POST", "/v1/workspaces", &workspace, (422, "invalid_field")).await;
    }
    for body in [
        json!({ "name": "", "kind": "x" }),
        json!({ "name": "x", "kind": "" }),
        json!({ "name": "x".repeat(1_025), "kind": "x" }),
        json!({ "name": "x", "kind": "x", "branch": "x".repeat(10_000) }),
    ] {
        refuses(a, "POST", "/v1/workspaces", &body.to_string(), (422, "invalid_field")).await;
    }
    for body in [r#"{"name":""}"#, r#"{"name":null}"#, r#"{"keep":null}"#] {
        refuses(a, "PATCH", "/v1/workspaces/w", body, (422, "invalid_field")).await;
    }
    for at in ["-1", "9007199254740993", "1e300", "\"now\""] {
        let body = format!(r#"{{"archived_at":{at}}}"#);
        refuses(a, "PATCH", "/v1/sessions/s", &body, (422, "invalid_field")).await;
    }
    let huge = json!({ "title": "x".repeat(3 << 20) }).to_string();
    refuses(a, "POST", "/v1/sessions", &huge, (413, "body_too_large")).await;
    // The longest that are allowed are taken: characters count, not bytes.
    let fits = json!({ "title": "é".repeat(1_024), "directory": "/".repeat(4_096) });
    let path = "/v1/sessions?state=all";
    stage.nothing_changed().await;
    post(a, "/v1/sessions", fits).await;
    assert_eq!(a.get(path).await["sessions"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_not_there_or_on_another_host_is_refused() {
    let mut stage = Stage::new(&["--undo-window", "1h"]).await;
    let directory = |id: &str| json!({ "id": id, "name": id, "kind": "directory" });
    post(stage.a(), "/v1/workspaces", directory("of-a")).await;
    post(stage.b(), "/v1/workspaces", directory("of-b")).await;
    for daemon in [stage.a(), stage.b()] {
        post(daemon, "/v1/workspaces", directory("twin")).await;
        post(daemon, "/v1/sessions", json!({ "id": "twin", "title": "a twin" })).await;
    }
    post(stage.a(), "/v1/sessions", json!({ "id": "s" })).await;
    post(stage.b(), "/v1/sessions", json!({ "id": "on-b" })).await;
    post(stage.a(), "/v1/sessions", json!({ "id": "deleted" })).await;
    stage.a().ok("DELETE", "/v1/sessions/deleted", None).await;
    stage.settle().await;
    let a = stage.a();
    for (method, path, body, expected) in [
        ("GET", "/v1/sessions/none", "", (404, "session_not_found")),
        ("PATCH", "/v1/sessions/none", r#"{"title":"x"}"#, (404, "session_not_found")),
        ("DELETE", "/v1/sessions/none", "", (404, "session_not_found")),
        ("DELETE", "/v1/sessions/none?dry_run=true", "", (404, "session_not_found")),
        ("GET", "/v1/workspaces/none", "", (404, "workspace_not_found")),
        ("PATCH", "/v1/workspaces/none", r#"{"keep":true}"#, (404, "workspace_not_found")),
        ("DELETE", "/v1/workspaces/none", "", (404, "workspace_not_found")),
        ("POST", "/v1/operations/none/restore", "", (404, "operation_not_found")),
        (
            "POST",
            "/v1/workspaces/of-a/teardown",
            r#"{"action":"force"}"#,
            (409, "teardown_not_failed"),
        ),
        ("GET", "/v1/sessions/s@nobody", "", (404, "node_not_found")),
        ("GET", "/v1/sessions/s@B", "", (404, "session_not_found")),
        ("DELETE", "/v1/sessions/s@B", "", (404, "session_not_found")),
        ("PATCH", "/v1/sessions/deleted", r#"{"title":"x"}"#, (409, "session_deleted")),
    ] {
        refuses(a, method, path, body, expected).await;
    }
    for (body, expected) in [
        (json!({ "id": "s" }), (409, "id_taken")),
        (json!({ "id": "deleted" }), (409, "id_taken")),
        (json!({ "parent_id": "none" }), (404, "parent_not_found")),
        (json!({ "parent_id": "on-b", "host": "A" }), (404, "parent_not_found")),
        (json!({ "parent_id": "deleted" }), (409, "parent_deleted")),
        (json!({ "parent_id": "twin" }), (409, "ambiguous_id")),
        (json!({ "workspace_id": "none" }), (404, "workspace_not_found")),
        (json!({ "workspace_id": "of-b", "host": "A" }), (422, "workspace_on_other_host")),
        (json!({ "workspace_id": "of-a@B" }), (404, "workspace_not_found")),
        (json!({ "workspace_id": "twin" }), (409, "ambiguous_id")),
        (json!({ "workspace_id": "of-a", "parent_id": "on-b" }), (404, "parent_not_found")),
        (json!({ "host": "nobody" }), (404, "node_not_found")),
        (json!({ "workspace_id": "of a" }), (422, "invalid_field")),
    ] {
        refuses(a, "POST", "/v1/sessions", &body.to_string(), expected).await;
    }
    refuses(a, "POST", "/v1/workspaces", &directory("of-a").to_string(), (409, "id_taken")).await;
    for (session, workspace, expected) in [
        ("s", "none", (404, "workspace_not_found")),
        ("s", "of-b", (422, "workspace_on_other_host")),
        ("on-b", "of-a", (422, "workspace_on_other_host")),
    ] {
        let body = json!({ "workspace_id": workspace, "title": "not written either" });
        let path = format!("/v1/sessions/{session}");
        refuses(a, "PATCH", &path, &body.to_string(), expected).await;
    }
    for kind in ["sessions", "workspaces"] {
        for (method, body) in [("GET", ""), ("PATCH", "{}"), ("DELETE", "")] {
            let (status, code, problem) =
                refused(a, method, &format!("/v1/{kind}/twin"), body).await;
            assert_eq!((status, code.as_str()), (409, "ambiguous_id"), "{method} {kind}");
            let mut hosts: Vec<&str> = problem["candidates"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(Value::as_str)
                .collect();
            hosts.sort_unstable();
            assert_eq!(hosts, ["A", "B"], "the problem names both hosts");
        }
    }
    stage.nothing_changed().await;
    // With its host's name, or the beginning of its key, each of them is one.
    let of_b = &stage.b().node()[..16];
    let answer = a.ok("PATCH", "/v1/sessions/twin@B", Some(json!({ "title": "that of B" }))).await;
    assert_eq!(answer["host"], stage.b().node());
    assert_eq!(a.get(&format!("/v1/sessions/twin@{of_b}")).await["title"], "that of B");
    assert_eq!(a.get("/v1/sessions/twin@A").await["title"], "a twin");
    let put = json!({ "id": "into-twin", "workspace_id": "twin@B" });
    assert_eq!(post(a, "/v1/sessions", put).await["host"], stage.b().node());
}

/// Makes a clean git worktree.
fn make_worktree(folder: &std::path::Path, name: &str) {
    let git = |at: &str, arguments: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.args(["-c", "user.name=test", "-c", "user.email=test@localhost"]);
        git.args(["-c", "commit.gpgsign=false", "-C"]).arg(folder.join(at)).args(arguments);
        let said = git.output().expect("git is installed");
        assert!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said.stderr));
    };
    git(".", &["init", "-q", "repository"]);
    git("repository", &["commit", "-q", "--allow-empty", "-m", "a change"]);
    git("repository", &["worktree", "add", "-q", &format!("../{name}")]);
}

#[tokio::test]
async fn a_workspace_that_could_not_be_ended_takes_nothing_in_until_someone_decides() {
    let files = tempfile::tempdir().unwrap();
    let mut stage = Stage::new(&["--undo-window", "20ms"]).await;
    // No git worktree, and of a kind for which there is no hook.
    for (id, kind) in [("retried", "worktree"), ("forced", "forced")] {
        let directory = files.path().join(id);
        std::fs::create_dir(&directory).unwrap();
        let body = json!({ "id": id, "name": id, "kind": kind, "directory": directory.to_str() });
        post(stage.b(), "/v1/workspaces", body).await;
        let session = format!("in-{id}");
        post(stage.b(), "/v1/sessions", json!({ "id": session, "workspace_id": id })).await;
        stage.b().ok("DELETE", &format!("/v1/sessions/{session}"), None).await;
    }
    post(stage.b(), "/v1/sessions", json!({ "id": "outside" })).await;
    for id in ["retried", "forced"] {
        for daemon in [stage.a(), stage.b()] {
            let failed = daemon
                .until(&format!("/v1/workspaces/{id}"), "failed", |it| it["state"] == "failed")
                .await;
            let why = failed["teardown"]["error"].as_str().unwrap();
            assert!(why.contains(id) && why.contains("retry"), "{why}");
            daemon
                .until("/v1/sessions?state=deleted", "purged", |page| {
                    page["sessions"].as_array().is_some_and(Vec::is_empty)
                })
                .await;
        }
    }
    stage.settle().await;
    let a = stage.a();
    let sealed = (409, "workspace_sealed");
    let entering = json!({ "workspace_id": "forced" }).to_string();
    refuses(a, "POST", "/v1/sessions", &entering, sealed).await;
    refuses(a, "PATCH", "/v1/sessions/outside", &entering, sealed).await;
    refuses(a, "PATCH", "/v1/workspaces/forced", r#"{"keep":true}"#, sealed).await;
    refuses(a, "PATCH", "/v1/workspaces/forced", r#"{"name":"x"}"#, sealed).await;
    for id in ["in-forced", "in-retried"] {
        let again = json!({ "id": id, "host": "B" }).to_string();
        refuses(a, "POST", "/v1/sessions", &again, (409, "id_spent")).await;
        let path = format!("/v1/sessions/{id}");
        refuses(a, "DELETE", &path, "", (404, "session_not_found")).await;
    }
    for body in ["{}", r#"{"action":"later"}"#, r#"{"action":"retry","now":true}"#] {
        let path = "/v1/workspaces/forced/teardown";
        refuses(a, "POST", path, body, (422, "invalid_field")).await;
    }
    stage.nothing_changed().await;

    // A retry without a remedy fails again, one with it succeeds; force leaves the files alone.
    let teardown = |id: &str| format!("/v1/workspaces/{id}/teardown");
    post(a, &teardown("retried"), json!({ "action": "retry" })).await;
    a.until("/v1/workspaces/retried", "failed again", |it| {
        it["state"] == "failed" && it["teardown"]["incarnation"] == 2
    })
    .await;
    std::fs::remove_dir(files.path().join("retried")).unwrap();
    make_worktree(files.path(), "retried");
    post(a, &teardown("retried"), json!({ "action": "retry" })).await;
    post(a, &teardown("forced"), json!({ "action": "force" })).await;
    for daemon in [stage.a(), stage.b()] {
        daemon
            .until("/v1/workspaces?state=all", "both gone", |page| {
                page["workspaces"].as_array().is_some_and(Vec::is_empty)
            })
            .await;
    }
    assert!(files.path().join("forced").exists(), "what is forced is forgotten, not removed");
    stage.settle().await;
    let b = stage.b();
    let again = json!({ "id": "forced", "name": "x", "kind": "x" }).to_string();
    refuses(b, "POST", "/v1/workspaces", &again, (409, "id_spent")).await;
    refuses(b, "GET", "/v1/workspaces/forced", "", (404, "workspace_not_found")).await;
    stage.nothing_changed().await;
}

#[tokio::test]
async fn who_has_no_token_or_comes_from_elsewhere_gets_nothing() {
    let mut stage = Stage::new(&[]).await;
    post(stage.a(), "/v1/sessions", json!({ "id": "s" })).await;
    stage.settle().await;
    let base = stage.a().ready["http"].as_str().unwrap().to_owned();
    let stranger = harness::client();
    for path in ["/v1/view", "/v1/events", "/v1/status", "/metrics", "/v1/openapi.json", "/v1/none"]
    {
        let response = stranger.get(format!("{base}{path}")).send().await.unwrap();
        assert_eq!(response.status(), 401, "{path}");
        let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(problem["code"], "unauthorized");
    }
    let wrong = stranger.delete(format!("{base}/v1/sessions/s")).bearer_auth("wrong");
    assert_eq!(wrong.send().await.unwrap().status(), 401);
    for (header, value, code) in [
        ("Host", "evil.example", "foreign_host"),
        ("Origin", "http://evil.example", "foreign_origin"),
        ("Origin", "null", "foreign_origin"),
    ] {
        let request = stage.a().request(reqwest::Method::DELETE, "/v1/sessions/s");
        let response = request.header(header, value).send().await.unwrap();
        assert_eq!(response.status(), 403, "{header}: {value}");
        let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(problem["code"], code);
    }
    let form = stage.a().request(reqwest::Method::POST, "/v1/sessions").body("{}");
    let form = form.header("Content-Type", "text/plain").send().await.unwrap();
    assert_eq!(form.status(), 415);
    stage.nothing_changed().await;
}
