//! Reads opencode servers: ones that are none, ones that break half-way, and a real one where its
//! program is found (`SESSIONMESH_OPENCODE_BIN`, or below `target/opencode` after
//! `npm i --prefix target/opencode opencode-ai@1.18.33`). Where `SESSIONMESH_REQUIRE_OPENCODE` is
//! set, a program that is not found is a failure.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use real::Real;
use serde_json::{Value, json};
use sessionmesh::agent::opencode::{Client, Error, Listing, Places, Standing, import};

mod harness;

#[path = "opencode/bridged.rs"]
mod bridged;

#[path = "opencode/ended.rs"]
mod ended;

#[path = "opencode/killed.rs"]
mod killed;

#[path = "opencode/real.rs"]
mod real;

#[path = "opencode/told.rs"]
mod told;

#[path = "opencode/world.rs"]
mod world;

async fn fake(answer: fn(&Request) -> Response) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(move |request: Request| async move { answer(&request) });
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn client(address: SocketAddr, password: Option<&str>) -> Client {
    Client::new(&format!("http://{address}"), password.map(str::to_owned)).unwrap()
}

fn text(body: &'static str) -> Response {
    Body::from(body).into_response()
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let refused = client(address, None).version().await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_connection_on_which_a_starting_server_never_answers_is_given_up_for_another() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(async || {
        if ASKED.fetch_add(1, Ordering::SeqCst) == 0 {
            std::future::pending::<()>().await;
        }
        text("{\"healthy\":true,\"version\":\"1.18.33\"}")
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    assert_eq!(client(address, None).version().await.unwrap(), "1.18.33");
    assert_eq!(ASKED.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_is_no_opencode_server_is_named_as_such() {
    let page = fake(|_| text("<!doctype html><p>hello")).await;
    let garbage = fake(|_| text("{\"healthy\":")).await;
    let other = fake(|_| text("{\"status\":\"ok\"}")).await;
    let missing = fake(|_| StatusCode::NOT_FOUND.into_response()).await;
    for address in [page, garbage, other, missing] {
        let refused = client(address, None).version().await;
        assert!(matches!(refused, Err(Error::Foreign { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn an_older_opencode_is_refused_by_its_version() {
    let address = fake(|_| text("{\"healthy\":true,\"version\":\"1.2.3\"}")).await;
    let refused = client(address, None).version().await.unwrap_err();
    assert!(refused.to_string().contains("1.2.3"), "{refused}");
}

#[tokio::test]
async fn the_password_is_sent_as_opencode_expects_it() {
    let address = fake(|request| {
        // opencode:s3cret
        let expected = "Basic b3BlbmNvZGU6czNjcmV0";
        match request.headers().get(header::AUTHORIZATION) {
            Some(given) if given == expected => text("{\"healthy\":true,\"version\":\"1.18.33\"}"),
            _ => StatusCode::UNAUTHORIZED.into_response(),
        }
    })
    .await;
    assert_eq!(client(address, Some("s3cret")).version().await.unwrap(), "1.18.33");
    let none = client(address, None).version().await;
    assert!(matches!(none, Err(Error::Password { given: false, .. })), "{none:?}");
    let wrong = client(address, Some("wrong")).version().await;
    assert!(matches!(wrong, Err(Error::Password { given: true, .. })), "{wrong:?}");
}

#[tokio::test]
async fn a_project_that_can_not_be_read_is_named_and_costs_no_other() {
    let address = fake(|request| match request.uri().path() {
        "/project" => text(r#"[{"id":"a","worktree":"/a"},{"id":"b","worktree":"/b"}]"#),
        _ if request.uri().query().is_some_and(|query| query.contains("%2Fb")) => {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        _ => text("[]"),
    })
    .await;
    let read = Listing::read(&client(address, None), |_, _| {}).await.unwrap();
    let told = read.left_out.told().unwrap();
    assert!(told.contains("project /b can't be read"), "{told}");
    assert!(!read.has_all_workspaces, "nothing is missing because those of one are not read");
    assert!(!told.contains("project /a"), "{told}");
}

#[tokio::test]
async fn a_server_of_which_no_list_can_be_read_gives_no_listing() {
    let address = fake(|request| match request.uri().path() {
        "/project" => text(r#"[{"id":"a","worktree":"/a"}]"#),
        "/experimental/workspace" => text("[]"),
        _ => StatusCode::BAD_REQUEST.into_response(),
    })
    .await;
    let refused = Listing::read(&client(address, None), |_, _| {}).await;
    assert!(matches!(refused, Err(Error::Status { status: 400, .. })), "{refused:?}");
}

#[tokio::test]
async fn of_a_conversation_that_is_too_large_the_newest_messages_are_exported() {
    fn message(number: usize) -> Value {
        json!({ "info": { "id": format!("msg_{number}") }, "parts": ["x".repeat(90)] })
    }
    let address = fake(|request| {
        let query = request.uri().query().unwrap_or_default();
        let get = |key: &str| {
            let all = query.split('&').filter_map(|pair| pair.split_once('='));
            all.clone().find(|(name, _)| *name == key).map(|(_, value)| value.parse().unwrap())
        };
        let before: usize = get("before").unwrap_or(50);
        let from = before - get("limit").unwrap_or(50).min(before);
        let body: Value = (from..before).map(message).collect();
        let json = [("content-type", "application/json".to_owned())];
        let next = (from > 0).then(|| ("x-next-cursor", from.to_string()));
        let mut response = (json, body.to_string()).into_response();
        if let Some((name, value)) = next {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    })
    .await;
    let client = client(address, None);
    let info = json!({ "id": "ses_1" });
    for (max, kept) in [(1 << 20, 50), (4_000, 31), (100, 0)] {
        let export = client.export_within("ses_1", &info, max).await.unwrap();
        assert_eq!(export.is_cut, kept < 50);
        let value: Value = serde_json::from_slice(&export.bytes).unwrap();
        let messages = value["messages"].as_array().unwrap();
        assert_eq!(messages.len(), kept, "{max}");
        let newest: Vec<Value> = (50 - messages.len()..50).map(message).collect();
        assert_eq!(*messages, newest, "{max}");
    }
}

#[tokio::test]
async fn a_conversation_that_was_exported_comes_back_as_a_new_session() {
    let Some(program) = program_or_skip() else { return };
    let real = Real::start(&program).await;
    let (client, here) = (real.client(), real.here());
    let id = real.create(&here, json!({ "title": "kept" })).await;
    for text in ["remember this", "and this"] {
        let body = json!({ "noReply": true, "parts": [{ "type": "text", "text": text }] });
        real.send(reqwest::Method::POST, &format!("/session/{id}/message?{here}"), body).await;
    }
    let Ok(Standing::There(info)) = client.session(&id).await else { panic!("{id}") };
    let export = client.export(&id, &info).await.unwrap();
    client.delete_session(&id).await.unwrap();
    assert_eq!(client.session(&id).await.unwrap(), Standing::Gone);

    let file = real.home.path().join("export.json");
    std::fs::write(&file, &export.bytes).unwrap();
    let process = client.process().await;
    if cfg!(target_os = "linux") {
        let data = process.as_ref().and_then(|process| process.data_folder());
        assert_eq!(data, Some(real.home.path().join("d")));
    } else {
        return;
    }
    let (folder, scratch) = (real.repository(), real.home.path().to_owned());
    let given = tokio::task::spawn_blocking(move || {
        import::run(&file, folder.to_str(), &scratch, process.as_ref())
    });
    let new = given.await.unwrap().unwrap();
    assert_ne!(new, id);
    let Ok(Standing::There(back)) = client.session(&new).await else { panic!("{new}") };
    assert_eq!(
        (&back["title"], &back["time"]["created"]),
        (&info["title"], &info["time"]["created"])
    );
    let again = client.export(&new, &back).await.unwrap();
    let texts = |bytes: &[u8]| -> Vec<Value> {
        let export: Value = serde_json::from_slice(bytes).unwrap();
        let messages = export["messages"].as_array().unwrap().iter();
        messages.map(|message| message["parts"][0]["text"].clone()).collect()
    };
    assert_eq!(texts(&export.bytes), ["remember this", "and this"]);
    assert_eq!(texts(&again.bytes), texts(&export.bytes));
    assert_eq!(client.session(&id).await.unwrap(), Standing::Gone, "the old one stays deleted");
}

/// Returns the program to test with, or says that there is none.
fn program_or_skip() -> Option<PathBuf> {
    let found = real::program();
    if found.is_none() {
        let required = std::env::var_os("SESSIONMESH_REQUIRE_OPENCODE").is_some();
        assert!(!required, "there is no opencode, and SESSIONMESH_REQUIRE_OPENCODE wants one");
        use std::io::Write as _;
        let told = "skipped: no opencode (npm i --prefix target/opencode opencode-ai@1.18.33)\n";
        std::io::stderr().write_all(told.as_bytes()).unwrap();
    }
    found
}

#[tokio::test]
async fn everything_that_a_real_server_has_is_listed_and_mapped() {
    let Some(program) = program_or_skip() else { return };
    let real = Real::start(&program).await;
    let here = real.here();
    // More than opencode lists if it isn't told how many.
    for number in 0..101 {
        real.create(&here, json!({ "title": format!("number {number}") })).await;
    }
    let parent = real.create(&here, json!({ "title": "parent" })).await;
    let child = real.create(&here, json!({ "title": "child", "parentID": parent })).await;
    let archived = real.create(&here, json!({ "title": "archived" })).await;
    let path = format!("/session/{archived}?{here}");
    real.send(
        reqwest::Method::PATCH,
        &path,
        json!({ "time": { "archived": 1_790_000_000_000_i64 } }),
    )
    .await;
    let sub = real.create(&format!("{here}/sub"), json!({ "title": "sub" })).await;
    let outside = tempfile::tempdir().unwrap();
    let elsewhere = format!("directory={}", outside.path().display());
    let elsewhere = real.create(&elsewhere, json!({ "title": "elsewhere" })).await;
    let body = json!({ "type": "worktree", "branch": null });
    let path = format!("/experimental/workspace?{here}");
    let workspace = real.send(reqwest::Method::POST, &path, body).await;
    let workspace_id = workspace["id"].as_str().unwrap();
    let inside =
        real.create(&format!("{here}&workspace={workspace_id}"), json!({ "title": "in it" })).await;

    let client = Client::new(&real.base, None).unwrap();
    let listing = Listing::read(&client, |_, _| {}).await.unwrap();
    let mapped = listing.map(&Places::default());
    assert!(mapped.left_out.is_empty());
    assert_eq!(mapped.import.sessions.len(), 107);
    let find = |id: &str| {
        let mut sessions = mapped.import.sessions.iter();
        sessions.find(|session| session.id.as_str() == id).unwrap_or_else(|| panic!("no {id}"))
    };
    assert_eq!(find(&child).parent_id.as_ref().unwrap().as_str(), parent);
    assert_eq!(find(&archived).archived_at, Some(1_790_000_000_000));
    assert!(find(&sub).directory.as_ref().unwrap().ends_with("/sub"));
    assert_eq!(find(&elsewhere).project_id.as_deref(), Some("global"));
    assert_eq!(find(&inside).workspace_id.as_ref().unwrap().as_str(), workspace_id);
    let [mapped_workspace] = &mapped.import.workspaces[..] else { panic!("{mapped:?}") };
    assert_eq!(mapped_workspace.kind, "worktree");
    assert_eq!(Some(mapped_workspace.name.as_str()), workspace["name"].as_str());
    let first_session = listing.sessions.values().map(|s| s.time.created).min().unwrap();
    let now = listing.sessions.values().map(|s| s.time.updated).max().unwrap();
    assert!((first_session..=now).contains(&mapped_workspace.created_at), "{mapped_workspace:?}");

    // Used again, it is mapped the same, so that a second import changes nothing.
    let gone = real.create(&format!("{here}&workspace={workspace_id}"), json!({})).await;
    real.send(reqwest::Method::DELETE, &format!("/session/{gone}?{here}"), Value::Null).await;
    let again = Listing::read(&client, |_, _| {}).await.unwrap().map(&Places::default());
    assert_eq!(again, mapped);

    // Removing it takes its session along, and removing it again changes nothing.
    let repository = real.home.path().join("repository");
    for _ in 0..2 {
        client.remove_workspace(workspace_id, repository.to_str()).await.unwrap();
        let left = Listing::read(&client, |_, _| {}).await.unwrap();
        assert_eq!(left.workspaces.len(), 0);
        assert!(!left.sessions.contains_key(&inside));
    }
    client.delete_session(&inside).await.unwrap();
}
