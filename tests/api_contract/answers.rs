//! Owns the claims about what each route asks the loop for and how it answers, errors included.

use axum::{
    body::Body,
    http::{StatusCode, header},
};
use serde_json::{Value, json};
use sessionmesh::{
    api::{
        Problem,
        body::{BODY_BYTES_MAX, IMPORT_BYTES_MAX},
    },
    identity::ticket::encode,
    replica::{command::Refusal, diff::Event, ids::NodeId, record::Session},
};

use crate::{
    fake::{DESK, FLEET, LAP, World, json_type, proper, session, status, ticket, workspace},
    schemas::{every_refusal, openapi_schema},
};

async fn problem(world: &World, method: &str, uri: &str, body: Option<Value>) -> Problem {
    let (status, json) = world.call(method, uri, body).await;
    let problem: Problem = serde_json::from_value(json).unwrap();
    assert_eq!(problem.status, status.as_u16());
    problem
}

#[tokio::test]
async fn each_write_asks_the_loop_for_exactly_one_command_and_gives_its_answer() {
    let world = World::new(vec![], vec![]);
    let rows: [(&str, &str, Option<Value>, &str, &str); 20] = [
        ("PATCH", "/v1/sessions/ses_1@lap", Some(json!({"title": null})), "UpdateSession", "/id"),
        ("DELETE", "/v1/sessions/ses_1", None, "dry_run: false", "/operation"),
        ("DELETE", "/v1/sessions/ses_1?dry_run=true", None, "dry_run: true", "/session/id"),
        ("PATCH", "/v1/workspaces/wrk_1", Some(json!({"keep": true})), "keep: Some(true)", "/id"),
        ("DELETE", "/v1/workspaces/wrk_1", None, "DeleteWorkspace", "/workspace/id"),
        ("DELETE", "/v1/workspaces/wrk_1?dry_run=true", None, "dry_run: true", "/workspace/id"),
        ("POST", "/v1/workspaces/wrk_1/teardown", Some(json!({"action": "force"})), "Force", "/id"),
        ("POST", "/v1/operations/op_1/restore", None, "Restore(op_1)", "/sessions/0/id"),
        ("GET", "/v1/receipts/rcp_1?wait=5s", None, "Receipt(rcp_1)", "/members/1/state"),
        ("POST", "/v1/import", Some(json!({"sessions": []})), "Import", "/created"),
        ("DELETE", "/v1/peers/lap", None, r#"Revoke("lap")"#, "/node"),
        ("POST", "/v1/peers/lap/retire", None, r#"Retire("lap")"#, "/node"),
        ("POST", "/v1/peers/my%20lap/pause", None, r#"Pause("my lap")"#, "/node"),
        ("POST", "/v1/peers/lap/resume", None, r#"Resume("lap")"#, "/node"),
        (
            "POST",
            "/v1/peers/lap/promote",
            Some(json!({"role": "admin"})),
            r#"Promote { node: "lap", role: Admin }"#,
            "/node",
        ),
        ("POST", "/v1/step-down", None, "StepDown", "/node"),
        ("POST", "/v1/invites", None, "role: Member, expires_in: 3600s", "/ticket"),
        (
            "POST",
            "/v1/invites",
            Some(json!({"role": "reader", "expires_in_s": 60})),
            "role: Reader, expires_in: 60s",
            "/expires_at",
        ),
        (
            "POST",
            "/v1/join",
            Some(json!({"ticket": format!(" {}\n", encode(&ticket()))})),
            "Join",
            "/fleet",
        ),
        ("POST", "/v1/leave", None, "Leave", "/fleet"),
    ];
    for (method, uri, body, asked, pointer) in rows {
        let (status, answer) = world.call(method, uri, body).await;
        assert_eq!(status, StatusCode::OK, "{method} {uri}: {answer}");
        assert!(!answer.pointer(pointer).unwrap_or(&Value::Null).is_null(), "{answer}");
        let requests = world.asked();
        assert!(requests[0].contains(asked), "{method} {uri}: {requests:?}");
        assert!(requests[1..].iter().all(|request| request == "Status"), "{requests:?}");
    }
}

#[tokio::test]
async fn a_created_record_is_answered_with_its_address_and_can_be_read_at_once() {
    let world = World::new(vec![], vec![]);
    let mut request = proper("POST", "/v1/sessions");
    request.headers_mut().insert(header::CONTENT_TYPE, json_type());
    *request.body_mut() = Body::from(r#"{"id":"ses_9","title":"x"}"#);
    let (parts, body) = world.send(request).await;
    assert_eq!(parts.status, StatusCode::CREATED);
    let created: Session = serde_json::from_slice(&body).unwrap();
    let location = parts.headers[header::LOCATION].to_str().unwrap();
    assert_eq!(location, format!("/v1/sessions/ses_9@{DESK}"));
    let (status, shown) = world.call("GET", location, None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(serde_json::from_value::<Session>(shown).unwrap(), created);

    let body = json!({"name": "n", "kind": "directory", "keep": true});
    let (status, made) = world.call("POST", "/v1/workspaces", Some(body)).await;
    assert_eq!((status, &made["id"]), (StatusCode::CREATED, &json!("wrk_new")));
}

#[tokio::test]
async fn the_view_the_status_and_the_peers_are_told_as_they_are() {
    let world = World::new(vec![session("ses_1")], vec![workspace("wrk_1")]);
    let (_, view) = world.call("GET", "/v1/view", None).await;
    assert_eq!(view["cursor"], "0707070707070707-0");
    assert_eq!(view["digest"], "0".repeat(32));
    assert_eq!(view["sessions"][0]["id"], "ses_1");
    assert_eq!(view["workspaces"][0]["id"], "wrk_1");
    let (_, told) = world.call("GET", "/v1/status", None).await;
    assert_eq!(told, serde_json::to_value(status()).unwrap());
    let (_, peers) = world.call("GET", "/v1/peers", None).await;
    assert_eq!((peers[0]["node"].clone(), peers[0]["name"].clone()), (json!(LAP), json!("lap")));
    let (_, contract) = world.call("GET", "/v1/openapi.json", None).await;
    assert_eq!(contract["openapi"], "3.1.0");
}

#[tokio::test]
async fn an_id_on_two_hosts_is_refused_with_their_names_until_one_is_named() {
    let there = Session { host: LAP, ..session("ses_1") };
    let world = World::new(vec![session("ses_1"), there, session("ses_2")], vec![]);
    let refused = problem(&world, "GET", "/v1/sessions/ses_1", None).await;
    assert_eq!((refused.status, refused.code.as_str()), (409, "ambiguous_id"));
    assert_eq!(refused.candidates, ["desk", "lap"]);
    for (host, node) in [("lap", LAP), ("desk", DESK), ("e0e0", LAP), (&DESK.to_string(), DESK)] {
        let (status, shown) = world.call("GET", &format!("/v1/sessions/ses_1@{host}"), None).await;
        assert_eq!((status, &shown["host"]), (StatusCode::OK, &json!(node)), "{host}");
    }
    for (uri, code) in [
        ("/v1/sessions/ses_1@nobody", "node_not_found"),
        ("/v1/sessions/ses_2@lap", "session_not_found"),
        ("/v1/sessions/ses_3", "session_not_found"),
        ("/v1/workspaces/wrk_3", "workspace_not_found"),
    ] {
        let refused = problem(&world, "GET", uri, None).await;
        assert_eq!((refused.status, refused.code.as_str()), (404, code), "{uri}");
    }
}

#[tokio::test]
async fn a_purged_record_is_not_found() {
    let world = World::new(vec![session("ses_1")], vec![]);
    world.publish(vec![Event::SessionPurged { session: session("ses_1").into() }]);
    assert_eq!(problem(&world, "GET", "/v1/sessions/ses_1", None).await.status, 404);
}

#[tokio::test]
async fn every_refusal_is_a_problem_with_its_own_code_a_hint_and_a_fitting_status() {
    let world = World::new(vec![], vec![]);
    let schema = openapi_schema("Problem");
    for refusal in every_refusal() {
        let (code, detail) = (refusal.code(), refusal.to_string());
        let expected = match code {
            code if code.ends_with("_not_found") => 404,
            "workspace_on_other_host" | "invalid_field" | "bad_ticket" => 422,
            "read_only" | "reader_host" | "not_admin" | "this_node_revoked" | "join_refused" => 403,
            "host_not_ready" => 503,
            "join_unreachable" => 504,
            _ => 409,
        };
        world.refuse(refusal);
        let mut request = proper("POST", "/v1/leave");
        request.headers_mut().insert(header::CONTENT_TYPE, json_type());
        let (parts, body) = world.send(request).await;
        let json: Value = serde_json::from_slice(&body).unwrap();
        assert!(schema.is_valid(&json), "{json}");
        let problem: Problem = serde_json::from_value(json).unwrap();
        assert_eq!((problem.code.as_str(), problem.status), (code, expected));
        assert_eq!((problem.detail.as_str(), parts.status.as_u16()), (detail.as_str(), expected));
        assert_eq!(parts.headers.contains_key(header::RETRY_AFTER), expected == 503);
        assert!(problem.hint.ends_with('.'), "{code} has no remedy in a sentence");
    }
}

#[tokio::test]
async fn what_is_malformed_is_refused_by_name_and_never_reaches_the_loop() {
    let world = World::new(vec![], vec![]);
    let rows: [(&str, &str, &str, u16, &str, &str); 24] = [
        ("GET", "/nothing", "", 404, "route_not_found", "/nothing"),
        ("GET", "/v1/sessions/", "", 404, "route_not_found", "/v1/sessions/"),
        ("PUT", "/v1/sessions", "", 405, "method_not_allowed", "PUT"),
        ("POST", "/v1/sessions", "{", 400, "malformed_json", "line 1"),
        ("POST", "/v1/sessions", "", 400, "malformed_json", "EOF"),
        ("POST", "/v1/sessions", " []", 422, "invalid_field", "object"),
        ("POST", "/v1/sessions", r#"{"titel":"x"}"#, 422, "invalid_field", "`titel`"),
        ("POST", "/v1/sessions", r#"{"id":"a b"}"#, 422, "invalid_field", "`a b`"),
        ("POST", "/v1/sessions", r#"{"extra":{"a":1}}"#, 422, "invalid_field", "string"),
        ("PATCH", "/v1/sessions/s", r#"{"host":"x"}"#, 422, "invalid_field", "`host`"),
        ("PATCH", "/v1/workspaces/w", r#"{"used":true}"#, 422, "invalid_field", "`used`"),
        ("POST", "/v1/workspaces", r#"{"name":"x"}"#, 422, "invalid_field", "`kind`"),
        ("POST", "/v1/workspaces/w/teardown", r#"{"action":"no"}"#, 422, "invalid_field", "`no`"),
        ("POST", "/v1/import", r#"{"session":[]}"#, 422, "invalid_field", "`session`"),
        ("POST", "/v1/invites", r#"{"expires_in_s":0}"#, 422, "invalid_field", "expires_in_s"),
        ("POST", "/v1/join", r#"{"ticket":"x"}"#, 422, "bad_ticket", "not a ticket"),
        ("GET", "/v1/sessions/a%20b", "", 422, "invalid_id", "`a b`"),
        ("GET", "/v1/sessions/%ff", "", 422, "invalid_id", "UTF-8"),
        ("POST", "/v1/operations/a%2Fb/restore", "", 422, "invalid_id", "`a/b`"),
        ("DELETE", "/v1/sessions/s?dryrun=true", "", 400, "invalid_query", "`dryrun`"),
        ("DELETE", "/v1/workspaces/w?dry_run=yes", "", 400, "invalid_query", "dry_run"),
        ("GET", "/v1/receipts/a%20b", "", 422, "invalid_id", "`a b`"),
        ("GET", "/v1/receipts/r?wait=5", "", 400, "invalid_query", "`wait`"),
        ("GET", "/v1/receipts/r?wait=61s", "", 400, "invalid_query", "60 s"),
    ];
    for (method, uri, body, status, code, named) in rows {
        let mut request = proper(method, uri);
        request.headers_mut().insert(header::CONTENT_TYPE, json_type());
        *request.body_mut() = Body::from(body);
        let (parts, body) = world.send(request).await;
        assert_eq!(parts.headers[header::CONTENT_TYPE], "application/problem+json", "{uri}");
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!((problem.status, problem.code.as_str()), (status, code), "{method} {uri}");
        assert!(problem.detail.contains(named), "{method} {uri}: {}", problem.detail);
        assert!(problem.hint.ends_with('.'));
        assert_eq!(parts.headers.contains_key(header::ALLOW), status == 405);
    }
    assert_eq!(world.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_an_import_may_be_larger() {
    let world = World::new(vec![], vec![]);
    let padded = |bytes: usize| format!("{{{}}}", " ".repeat(bytes - 2));
    for (uri, bytes, status) in [
        ("/v1/sessions", BODY_BYTES_MAX, StatusCode::CREATED),
        ("/v1/sessions", BODY_BYTES_MAX + 1, StatusCode::PAYLOAD_TOO_LARGE),
        ("/v1/import", IMPORT_BYTES_MAX, StatusCode::OK),
        ("/v1/import", IMPORT_BYTES_MAX + 1, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let mut request = proper("POST", uri);
        request.headers_mut().insert(header::CONTENT_TYPE, json_type());
        *request.body_mut() = Body::from(padded(bytes));
        let (parts, body) = world.send(request).await;
        assert_eq!(parts.status, status, "{uri} {bytes}");
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            let problem: Problem = serde_json::from_slice(&body).unwrap();
            assert_eq!(problem.code, "body_too_large");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive_is_given_up() {
    let world = World::new(vec![], vec![]);
    let mut request = proper("POST", "/v1/sessions");
    request.headers_mut().insert(header::CONTENT_TYPE, json_type());
    let silent = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    *request.body_mut() = Body::from_stream(silent);
    let (parts, body) = world.send(request).await;
    let problem: Problem = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (parts.status, problem.code.as_str()),
        (StatusCode::REQUEST_TIMEOUT, "request_timeout")
    );
}

#[tokio::test]
async fn a_stopping_daemon_says_so() {
    let world = World::new(vec![], vec![]);
    world.hub.close();
    let (parts, _) = world.send(proper("GET", "/readyz")).await;
    assert_eq!(parts.status, StatusCode::SERVICE_UNAVAILABLE);
    let (parts, _) = world.send(proper("GET", "/healthz")).await;
    assert_eq!(parts.status, StatusCode::OK);
}

#[tokio::test]
async fn the_metrics_count_records_by_state_and_requests_by_route_and_status() {
    let stranger = Session { host: NodeId([9; 32]), ..crate::fake::deleted_session("ses_2") };
    let world = World::new(vec![session("ses_1"), stranger], vec![workspace("wrk_1")]);
    world.call("GET", "/v1/sessions/ses_1", None).await;
    world.call("GET", "/v1/sessions/ses_7", None).await;
    world.call("GET", "/no/such/route", None).await;
    let (parts, body) = world.send(proper("GET", "/metrics")).await;
    assert_eq!(parts.status, StatusCode::OK);
    let text = String::from_utf8(body).unwrap();
    for line in [
        r#"sessionmesh_sessions{state="live"} 1"#,
        r#"sessionmesh_sessions{state="deleted"} 1"#,
        r#"sessionmesh_sessions{state="stranded"} 0"#,
        r#"sessionmesh_workspaces{state="live"} 1"#,
        "sessionmesh_links 1",
        "sessionmesh_diffs_published_total 0",
        "sessionmesh_subscribers 0",
        "sessionmesh_sync_repairs_total 2",
        "sessionmesh_store_bytes 4096",
        "sessionmesh_sent_bytes_total 512",
        "sessionmesh_received_bytes_total 256",
        "sessionmesh_uptime_milliseconds 5",
        r#"sessionmesh_http_requests_total{route="/v1/sessions/{id}",method="GET",status="200"} 1"#,
        r#"sessionmesh_http_requests_total{route="/v1/sessions/{id}",method="GET",status="404"} 1"#,
        r#"sessionmesh_http_requests_total{route="none",method="GET",status="404"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn what_was_left_and_joined_is_told_as_the_fleet() {
    let world = World::new(vec![], vec![]);
    let text = encode(&ticket());
    let (_, joined) = world.call("POST", "/v1/join", Some(json!({"ticket": text}))).await;
    assert_eq!(joined, json!({"fleet": FLEET}));
    let (_, invited) = world.call("POST", "/v1/invites", None).await;
    assert_eq!(invited, json!({"ticket": text, "role": "reader", "expires_at": 6_000}));
    world.refuse(Refusal::Alone);
    assert_eq!(problem(&world, "POST", "/v1/leave", None).await.code, "alone");
}
