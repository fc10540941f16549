//! Owns the claim that no route can be reached past the gate, walked from the route table.

use std::{collections::BTreeSet, time::Duration};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Request, StatusCode, header},
};
use sessionmesh::api::{
    Problem, Via,
    rate::{BURST_MAX, REQUESTS_PER_SECOND},
    routes::{OPEN, ROUTES},
};

use tower::ServiceExt as _;

use crate::fake::{World, json_type, proper, session};

/// Methods that a client may try, one of them of nobody's.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"];

fn filled(path: &str) -> String {
    let path = path.replace("{id}", "ses_1").replace("{operation}", "op_1");
    path.replace("{node}", "lap").replace("{receipt}", "rcp_1")
}

/// Every route.
fn routes() -> Vec<(String, String)> {
    ROUTES.iter().map(|route| (route.method.to_owned(), filled(route.path))).collect()
}

/// Every method that a path of the table does not take.
fn wrong_methods() -> Vec<(String, String)> {
    let takes = |path: &str, method: &str| {
        // Whoever may get may ask for the head alone.
        let method = if method == "HEAD" { "GET" } else { method };
        ROUTES.iter().any(|route| route.path == path && route.method == method)
    };
    let paths: BTreeSet<_> = ROUTES.iter().map(|route| route.path).collect();
    let all = paths.iter().flat_map(|path| METHODS.map(|method| (method, *path)));
    let wrong = all.filter(|(method, path)| !takes(path, method));
    wrong.map(|(method, path)| (method.to_owned(), filled(path))).collect()
}

/// Every route, by every method, and what is not one.
fn doors() -> Vec<(String, String)> {
    let nowhere = [("GET", "/"), ("POST", "/v2/sessions"), ("DELETE", "/v1/sessions/ses_1/x")];
    let nowhere = nowhere.map(|(method, path)| (method.to_owned(), path.to_owned()));
    [routes(), wrong_methods(), nowhere.to_vec()].concat()
}

fn is_open(path: &str) -> bool {
    OPEN.contains(&path)
}

/// Sends the request through every door and asserts how each is refused.
async fn all_refuse(
    doors: impl IntoIterator<Item = (String, String)>,
    status: StatusCode,
    code: &str,
    spoil: impl Fn(&mut Request<Body>),
) {
    let world = World::new(vec![], vec![]);
    let mut count = 0;
    for (method, path) in doors {
        let mut request = proper(&method, &path);
        spoil(&mut request);
        let (parts, body) = world.send(request).await;
        assert_eq!(parts.status, status, "{method} {path}");
        assert_eq!(parts.headers[header::CONTENT_TYPE], "application/problem+json");
        if method != "HEAD" {
            let problem: Problem = serde_json::from_slice(&body).unwrap();
            assert_eq!((problem.code.as_str(), problem.status), (code, status.as_u16()));
            assert!(!problem.hint.is_empty());
        }
        count += 1;
    }
    assert!(count > 0);
    assert_eq!(world.asked(), Vec::<String>::new(), "a refused request reached the loop");
    assert_eq!(world.hub.subscribers(), 0);
}

fn closed() -> impl Iterator<Item = (String, String)> {
    doors().into_iter().filter(|(_, path)| !is_open(path))
}

#[tokio::test]
async fn every_door_but_the_two_open_ones_asks_for_the_token() {
    all_refuse(closed(), StatusCode::UNAUTHORIZED, "unauthorized", |request| {
        request.headers_mut().remove(header::AUTHORIZATION);
    })
    .await;
    let head =
        closed().filter(|(method, _)| method == "GET").map(|(_, path)| ("HEAD".into(), path));
    all_refuse(head, StatusCode::UNAUTHORIZED, "unauthorized", |request| {
        request.headers_mut().remove(header::AUTHORIZATION);
    })
    .await;
}

#[tokio::test]
async fn every_door_but_the_two_open_ones_refuses_a_wrong_token() {
    for wrong in [
        "Bearer wrong",
        "Bearer aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dyaa",
        "Basic c2Vzc2lvbm1lc2g6d3Jvbmc=",
    ] {
        all_refuse(closed(), StatusCode::UNAUTHORIZED, "unauthorized", |request| {
            let value = HeaderValue::from_static(wrong);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        })
        .await;
    }
}

#[tokio::test]
async fn every_door_refuses_a_foreign_host() {
    for foreign in ["evil.example", "evil.example:7178", "localhost.evil.example", "192.0.2.1"] {
        all_refuse(doors(), StatusCode::FORBIDDEN, "foreign_host", |request| {
            request.headers_mut().insert(header::HOST, HeaderValue::from_static(foreign));
        })
        .await;
    }
    all_refuse(doors(), StatusCode::FORBIDDEN, "foreign_host", |request| {
        request.headers_mut().remove(header::HOST);
    })
    .await;
    all_refuse(doors(), StatusCode::FORBIDDEN, "foreign_host", |request| {
        request.headers_mut().append(header::HOST, HeaderValue::from_static("evil.example"));
    })
    .await;
    all_refuse(doors(), StatusCode::FORBIDDEN, "foreign_host", |request| {
        let uri = format!("http://evil.example{}", request.uri());
        *request.uri_mut() = uri.parse().unwrap();
    })
    .await;
}

#[tokio::test]
async fn every_door_refuses_a_page_of_another_origin() {
    for foreign in
        ["http://evil.example", "null", "http://localhost:3000", "https://localhost:7178"]
    {
        all_refuse(doors(), StatusCode::FORBIDDEN, "foreign_origin", |request| {
            request.headers_mut().insert(header::ORIGIN, HeaderValue::from_static(foreign));
        })
        .await;
    }
}

#[tokio::test]
async fn every_write_refuses_what_is_not_declared_as_json() {
    let reads = ["GET", "HEAD", "OPTIONS"];
    let writes = || closed().filter(move |(method, _)| !reads.contains(&method.as_str()));
    let types = ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"];
    for foreign in types {
        all_refuse(writes(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", |r| {
            r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(foreign));
            *r.body_mut() = Body::from("{}");
        })
        .await;
    }
    // A body without any type, and a type without any body.
    all_refuse(writes(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", |request| {
        *request.body_mut() = Body::from("{}");
    })
    .await;
    all_refuse(writes(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", |request| {
        let form = HeaderValue::from_static("multipart/form-data");
        request.headers_mut().insert(header::CONTENT_TYPE, form);
    })
    .await;
}

#[tokio::test]
async fn a_proper_request_passes_and_so_does_the_page_that_the_daemon_itself_serves() {
    let world = World::new(vec![], vec![]);
    let basic = HeaderValue::from_static(
        "Basic c2Vzc2lvbm1lc2g6YWFhcWVheWVhdWRhb2NhamJpZnF5ZGlvYjRpYmNlcXRjcWtybWZ5eWRlbmJ3aGE1ZHlwcQ==",
    );
    let own: [(HeaderName, HeaderValue); 4] = [
        (header::ORIGIN, HeaderValue::from_static("http://localhost:7178")),
        (header::HOST, HeaderValue::from_static("[::1]:9000")),
        (header::CONTENT_TYPE, json_type()),
        (header::AUTHORIZATION, basic),
    ];
    for (name, value) in own {
        let mut request = proper("GET", "/v1/view");
        request.headers_mut().insert(name, value);
        let (parts, _) = world.send(request).await;
        assert_eq!(parts.status, StatusCode::OK);
        assert_eq!(parts.headers[header::CACHE_CONTROL], "no-store");
    }
    for (path, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let mut request = proper("GET", path);
        request.headers_mut().remove(header::AUTHORIZATION);
        let (parts, body) = world.send(request).await;
        assert_eq!((parts.status, body.as_slice()), (StatusCode::OK, text.as_bytes()));
    }
}

#[tokio::test]
async fn every_route_takes_its_methods_and_no_other() {
    let world = World::new(vec![session("ses_1")], vec![]);
    let wrong = wrong_methods();
    assert!(wrong.len() > 5 * ROUTES.len(), "only {} were found", wrong.len());
    for (method, path) in wrong {
        let (parts, body) = world.send(proper(&method, &path)).await;
        assert_eq!(parts.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        let takes: BTreeSet<_> =
            parts.headers[header::ALLOW].to_str().unwrap().split(',').collect();
        for route in ROUTES {
            let is_here = filled(route.path) == path;
            assert!(!is_here || takes.contains(route.method), "{takes:?} lacks {}", route.method);
        }
        assert!(!takes.contains(method.as_str()), "{method} {path}: {takes:?}");
        if method != "HEAD" {
            let problem: Problem = serde_json::from_slice(&body).unwrap();
            assert_eq!(problem.code, "method_not_allowed", "{method} {path}");
        }
    }
    assert_eq!(world.asked(), Vec::<String>::new(), "a wrong method reached the loop");
    for (method, path) in routes() {
        let response = world.router.clone().oneshot(proper(&method, &path)).await.unwrap();
        assert_ne!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
    }
}

#[tokio::test]
async fn every_door_of_the_unix_socket_asks_for_all_but_the_host() {
    let unix = |request: &mut Request<Body>| {
        request.extensions_mut().insert(Via::Unix);
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("evil.example"));
    };
    all_refuse(closed(), StatusCode::UNAUTHORIZED, "unauthorized", |request| {
        unix(request);
        request.headers_mut().remove(header::AUTHORIZATION);
    })
    .await;
    all_refuse(doors(), StatusCode::FORBIDDEN, "foreign_origin", |request| {
        unix(request);
        let foreign = HeaderValue::from_static("http://evil.example");
        request.headers_mut().insert(header::ORIGIN, foreign);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_door_but_the_two_open_ones_refuses_who_asks_without_a_pause() {
    let world = World::new(vec![], vec![]);
    for number in 0..BURST_MAX {
        let (parts, _) = world.send(proper("GET", "/v1/nothing")).await;
        assert_eq!(parts.status, StatusCode::NOT_FOUND, "request {number} of a burst");
    }
    for (method, path) in doors() {
        let (parts, body) = world.send(proper(&method, &path)).await;
        if is_open(&path) {
            assert_ne!(parts.status, StatusCode::TOO_MANY_REQUESTS, "{method} {path}");
            continue;
        }
        assert_eq!(parts.status, StatusCode::TOO_MANY_REQUESTS, "{method} {path}");
        assert_eq!(parts.headers[header::RETRY_AFTER], "1");
        if method != "HEAD" {
            let problem: Problem = serde_json::from_slice(&body).unwrap();
            assert_eq!((problem.code.as_str(), problem.status), ("too_many_requests", 429));
            assert!(problem.hint.ends_with('.'));
        }
    }
    assert_eq!(world.asked(), Vec::<String>::new(), "a request too many reached the loop");
    // Who may not come in at all is told so as ever, and takes nothing from who may.
    let mut stranger = proper("GET", "/v1/view");
    stranger.headers_mut().remove(header::AUTHORIZATION);
    assert_eq!(world.send(stranger).await.0.status, StatusCode::UNAUTHORIZED);
    tokio::time::advance(Duration::from_secs(1)).await;
    for number in 0..=REQUESTS_PER_SECOND {
        let (parts, _) = world.send(proper("GET", "/v1/view")).await;
        let due = if number < REQUESTS_PER_SECOND { 200 } else { 429 };
        assert_eq!(parts.status, due, "request {number} after the pause that was asked for");
    }
}

#[tokio::test]
async fn the_unix_socket_asks_for_the_token_but_not_for_a_host() {
    let world = World::new(vec![], vec![]);
    for host in [None, Some("sessionmesh")] {
        for (token, status) in [(true, StatusCode::OK), (false, StatusCode::UNAUTHORIZED)] {
            let mut request = proper("GET", "/v1/view");
            request.extensions_mut().insert(Via::Unix);
            request.headers_mut().remove(header::HOST);
            if let Some(host) = host {
                request.headers_mut().insert(header::HOST, HeaderValue::from_static(host));
            }
            if !token {
                request.headers_mut().remove(header::AUTHORIZATION);
            }
            assert_eq!(world.send(request).await.0.status, status);
        }
    }
}
