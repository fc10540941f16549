//! Runs the command against a daemon that answers as each test tells it to, to see what a real one
//! seldom does: pages, ambiguity, refusals, streams that break; and once against a real one.

#[path = "client/fake.rs"]
mod fake;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, http::header, response::IntoResponse as _};
use fake::{Fake, command, names, ok, problem, run, said, session, workspace};
use serde_json::{Value, json};
use sessionmesh::replica::{digest::Digest, record::Session};

/// Has three sessions, two of which begin alike, and lists them one a page.
async fn three_sessions() -> Fake {
    const IDS: [&str; 3] = ["ses_aa1", "ses_aa2", "ses_b"];
    Fake::start(|_, path, query| {
        if let Some(answer) = names(path) {
            return answer;
        }
        if path == "/v1/sessions" {
            let at = IDS.iter().position(|id| query.contains(&format!("cursor={id}")));
            let at = at.unwrap_or(0);
            return ok(json!({ "sessions": [session(IDS[at])], "next_cursor": IDS.get(at + 1) }));
        }
        match IDS.iter().find(|id| path == format!("/v1/sessions/{id}")) {
            Some(id) => ok(session(id)),
            None => problem(404, "session_not_found", "session is not known here"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_prefix_names_a_session_on_any_page() {
    let fake = three_sessions().await;
    let (exit, out, err) = said(&fake.run(&["session", "show", "ses_b", "--json"]).await);
    assert_eq!((exit, err.as_str()), (0, ""), "an id");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), session("ses_b"));
    let (exit, out, _) = said(&fake.run(&["session", "show", "ses_aa2"]).await);
    assert!(exit == 0 && out.contains("about ses_aa2") && out.contains("laptop"), "{out}");
    let (exit, out, _) = said(&fake.run(&["session", "show", "ses_"]).await);
    assert_eq!((exit, out.as_str()), (1, ""), "three begin so");
    let (exit, out, _) = said(&fake.run(&["session", "show", "ses_b@lap"]).await);
    assert_eq!((exit, out.contains("about ses_b")), (0, true), "a prefix with a host");
    let asked: Vec<_> = fake.asked().into_iter().map(|(_, path, _)| path).collect();
    assert!(asked.iter().any(|path| path.contains("state=all") && path.contains("host=lap")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_prefix_changes_nothing_and_lists_what_it_may_be() {
    let fake = three_sessions().await;
    let (exit, out, err) = said(&fake.run(&["session", "delete", "ses_a"]).await);
    assert_eq!((exit, out.as_str()), (1, ""));
    assert!(err.contains("ses_aa1, ses_aa2") && !err.contains("ses_b"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(fake.asked().iter().all(|(method, ..)| method == "GET"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_ends_with_3_and_what_is_no_id_with_2() {
    let fake = three_sessions().await;
    let (exit, _, err) = said(&fake.run(&["session", "show", "ses_c"]).await);
    assert!(exit == 3 && err.starts_with("error: ") && err.contains(" — "), "{err}");
    assert_eq!(said(&fake.run(&["session", "show", "ses/c"]).await).0, 2);
    assert_eq!(said(&fake.run(&["session", "frobnicate"]).await).0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_followed_to_its_end_or_its_limit() {
    let fake = three_sessions().await;
    let (exit, out, _) = said(&fake.run(&["session", "list", "--json"]).await);
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(exit, 0);
    assert_eq!(list["sessions"].as_array().unwrap().len(), 3);
    assert_eq!(list["next_cursor"], Value::Null);
    let (_, out, _) = said(&fake.run(&["session", "list", "--limit", "2", "--json"]).await);
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(list["next_cursor"], "ses_b");
    let (_, out, _) = said(&fake.run(&["session", "list"]).await);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[1].starts_with("ses_aa1\tabout ses_aa1\tlaptop\tlive\t"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_one_line_with_the_hint_of_the_daemon() {
    let fake =
        Fake::start(|_, _, _| problem(422, "invalid_field", "field `title`\nis wrong")).await;
    let (exit, out, err) = said(&fake.run(&["session", "create", "--title", "x"]).await);
    assert_eq!((exit, out.as_str()), (1, ""));
    assert_eq!(err, "error: field `title`\\nis wrong — Do otherwise.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_asked_too_much_is_asked_again_after_a_pause() {
    let times = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start(move |_, path, _| {
        names(path).unwrap_or_else(|| match times.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => problem(429, "too_many_requests", "there are more than some"),
            _ => ok(session("ses_new")),
        })
    })
    .await;
    let (exit, out, err) = said(&fake.run(&["session", "create", "--title", "x"]).await);
    assert_eq!((exit, out.as_str()), (0, "ses_new\n"), "{err}");
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_every_client_verb_ends_with_4() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["status"][..],
        &["session", "list"],
        &["workspace", "keep", "w"],
        &["watch"],
        &["import", "opencode", "http://127.0.0.1:1"],
    ] {
        let (exit, out, err) = said(&run(folder.path(), args).await);
        assert_eq!((exit, out.as_str()), (4, ""), "{args:?}");
        assert!(err.contains("sessionmesh serve"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_says_what_goes_along_before_it_is_done_and_how_to_undo_it() {
    let fake = Fake::start(|method, path, query| {
        let mut deleted = session("ses_1");
        deleted["workspace_id"] = json!("wrk_1");
        match (method, path) {
            ("GET", "/v1/sessions/ses_1") => ok(session("ses_1")),
            ("DELETE", "/v1/sessions/ses_1") => {
                let dry = query.contains("dry_run=true");
                ok(json!({
                    "operation": if dry { Value::Null } else { json!("op_1") }, "receipt": null,
                    "session": deleted, "sessions_deleted": [deleted, session("ses_child")],
                    "workspace_vacated": true, "workspace": workspace("wrk_1"),
                    "git_state": "uncommitted",
                    "git_ignored": "2 MB in target", "already_deleted": false, "dry_run": dry
                }))
            }
            (_, path) => names(path).unwrap_or_else(|| problem(404, "unknown", path)),
        }
    })
    .await;
    let deletes = |fake: &Fake| {
        let asked = fake.asked().into_iter().filter(|(method, ..)| method == "DELETE");
        asked.map(|(_, path, _)| path).collect::<Vec<_>>()
    };
    let (exit, out, _) = said(&fake.run(&["session", "delete", "ses_1", "--dry-run"]).await);
    assert!(exit == 0 && out.starts_with("would delete session ses_1"), "{out}");
    assert!(!out.contains("undo:"), "{out}");
    assert_eq!(deletes(&fake), ["/v1/sessions/ses_1?dry_run=true"]);
    let (exit, out, _) = said(&fake.run(&["session", "delete", "ses_1"]).await);
    assert_eq!(exit, 0);
    let with = ["on laptop", "1 child session", "ses_child", "wrk_1 \"place\" (/w) on laptop"];
    for part in
        with.into_iter().chain(["untracked files", "its host last reported", "2 MB in target"])
    {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    assert!(out.ends_with("undo: sessionmesh session restore op_1\n"), "{out}");
    assert_eq!(deletes(&fake).last().unwrap(), "/v1/sessions/ses_1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_restored_by_the_operation_of_the_parent_that_took_it_along() {
    let fake = Fake::start(|_, path, _| {
        let mut child = session("ses_c");
        child["parent_id"] = json!("ses_p");
        let mut parent = session("ses_p");
        parent["deleted"] = json!({ "by": fake::NODE, "at": 1, "operation": "op_7" });
        match path {
            "/v1/sessions/ses_c" => ok(child),
            path if path.starts_with("/v1/sessions/ses_p@") => ok(parent),
            "/v1/sessions/ses_live" => ok(session("ses_live")),
            "/v1/operations/op_7/restore" => ok(json!({
                "operation": "op_7", "sessions": [session("ses_p")], "workspaces": []
            })),
            path => names(path).unwrap_or_else(|| problem(404, "unknown", path)),
        }
    })
    .await;
    let (exit, out, _) = said(&fake.run(&["session", "restore", "ses_c"]).await);
    assert!(exit == 0 && out.contains("restored session ses_p"), "{out}");
    let (exit, _, err) = said(&fake.run(&["session", "restore", "ses_live"]).await);
    assert!(exit == 1 && err.contains("is not deleted"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_become_the_fields_of_the_api() {
    let fake = Fake::start(|method, path, _| match (method, path) {
        ("GET", "/v1/workspaces/wrk_1") => ok(workspace("wrk_1")),
        (_, path) if path.starts_with("/v1/sessions") => ok(session("ses_1")),
        _ => problem(404, "unknown", path),
    })
    .await;
    let create = [
        "session",
        "create",
        "--title",
        "t",
        "--workspace",
        "wrk_1",
        "--parent",
        "ses_1",
        "--directory",
        "/d",
        "--project",
        "p",
        "--extra",
        "k=v=w",
        "--id",
        "ses_2",
    ];
    assert_eq!(said(&fake.run(&create).await), (0, "ses_1\n".to_owned(), String::new()));
    fake.run(&["session", "update", "ses_1", "--title", "", "--unset-extra", "k"]).await;
    fake.run(&["session", "move", "ses_1", "--out"]).await;
    fake.run(&["session", "archive", "ses_1", "--undo"]).await;
    let bodies = fake.asked().into_iter().filter(|(method, ..)| method != "GET");
    let bodies: Vec<_> = bodies.map(|(_, _, body)| body).collect();
    assert_eq!(
        bodies,
        [
            json!({
                "id": "ses_2", "host": null, "workspace_id": format!("wrk_1@{}", fake::NODE),
                "parent_id": "ses_1", "project_id": "p", "directory": "/d", "title": "t",
                "extra": { "k": "v=w" }
            }),
            json!({ "title": null, "extra": { "k": null } }),
            json!({ "workspace_id": null }),
            json!({ "archived_at": null }),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_closed_early_is_no_error() {
    let fake = three_sessions().await;
    let mut command = command(fake.folder());
    let child = tokio::task::spawn_blocking(move || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let command = command.args(["session", "list"]).stdout(writer).stderr(Stdio::piped());
        command.spawn().unwrap().wait_with_output().unwrap()
    });
    let (exit, _, err) = said(&child.await.unwrap());
    assert_eq!((exit, err.as_str()), (0, ""));
}

/// Returns the digest of views in which the session is the only record.
fn digest(session: &Value) -> String {
    Digest::of_session(&serde_json::from_value::<Session>(session.clone()).unwrap()).to_string()
}

fn cursor(sequence: usize) -> String {
    format!("00000000000000aa-{sequence}")
}

fn sse(kind: &str, id: &str, data: &Value) -> String {
    format!("event: {kind}\nid: {id}\ndata: {data}\n\n")
}

/// A diff that renames the only session.
fn rename(sequence: usize, title: &str, told: Option<&str>) -> String {
    let mut session = session("ses_1");
    session["title"] = json!(title);
    let digest = told.map_or_else(|| digest(&session), str::to_owned);
    let diff = json!({
        "cursor": cursor(sequence), "previous": cursor(sequence - 1), "digest": digest,
        "cause": { "kind": "local", "peer": null, "authors": [fake::NODE], "at": 0 },
        "events": [{ "type": "session.updated", "session": session, "changed": ["title"] }]
    });
    sse("diff", &cursor(sequence), &diff)
}

fn snapshot(sequence: usize) -> String {
    let session = session("ses_1");
    let view = json!({
        "cursor": cursor(sequence), "digest": digest(&session), "sessions": [session],
        "workspaces": []
    });
    sse("snapshot", &cursor(sequence), &view)
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_goes_on_where_a_stream_broke_and_begins_again_where_it_does_not_add_up() {
    let times = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start(move |_, path, _| {
        if path != "/v1/events" {
            return names(path).unwrap_or_else(|| problem(404, "unknown", path));
        }
        let text = match times.fetch_add(1, Ordering::SeqCst) {
            0 => snapshot(5) + &rename(6, "first", None),
            1 => rename(7, "second", None) + &rename(8, "lie", Some(&"f".repeat(32))),
            _ => snapshot(20) + &rename(21, "third", None),
        };
        ([(header::CONTENT_TYPE, "text/event-stream")], Body::from(text)).into_response()
    })
    .await;
    let mut command = command(fake.folder());
    let watching = tokio::task::spawn_blocking(move || {
        let command = command.arg("watch").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let lines: Vec<_> = lines.take(5).collect();
        child.kill().unwrap();
        let mut remarks = String::new();
        child.stderr.take().unwrap().read_to_string(&mut remarks).unwrap();
        child.wait().unwrap();
        (lines, remarks)
    });
    let limit = Duration::from_secs(60);
    let (lines, remarks) = tokio::time::timeout(limit, watching).await.unwrap().unwrap();
    assert!(lines[0].starts_with("1 session (1 live,"), "{lines:?}");
    assert!(lines[1].ends_with("laptop  session.updated  ses_1  \"first\"  title"), "{lines:?}");
    assert!(lines[2].contains("\"second\""), "{lines:?}");
    assert!(lines[3].starts_with("1 session"), "a lie ends in a new snapshot: {lines:?}");
    assert!(lines[4].contains("\"third\""), "{lines:?}");
    assert!(remarks.contains("should have ffff"), "{remarks}");
    let streams = fake.asked().into_iter().filter(|(_, path, _)| path.starts_with("/v1/events"));
    let streams: Vec<_> = streams.map(|(_, path, _)| path).take(3).collect();
    let resumed = format!("/v1/events#{}", cursor(6));
    assert_eq!(streams, ["/v1/events", &resumed, "/v1/events"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_says_that_it_is_ready_answers_and_ends_well_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path());
    command.args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--name", "n1"]);
    command.args(["--log-format", "json"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut daemon = command.spawn().unwrap();
    let mut stdout = BufReader::new(daemon.stdout.take().unwrap());
    let ready = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        (line, stdout)
    });
    let (line, mut stdout) = ready.await.unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["data_dir"], json!(folder.path().canonicalize().unwrap()));
    assert_ne!(ready["quic"], "127.0.0.1:0");
    let (exit, out, err) = said(&run(folder.path(), &["session", "create", "--title", "t"]).await);
    assert_eq!((exit, err.as_str()), (0, ""));
    let id = out.trim().to_owned();
    let (exit, out, _) = said(&run(folder.path(), &["session", "delete", &id]).await);
    let operation = out.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
    assert!(exit == 0 && operation.starts_with("op_"), "{out}");
    let (exit, out, _) = said(&run(folder.path(), &["session", "restore", &operation]).await);
    assert!(exit == 0 && out.contains(&id), "{out}");
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        (daemon.wait().unwrap(), rest)
    });
    let (status, rest) =
        tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap().unwrap();
    assert_eq!((status.code(), rest.as_str()), (Some(0), ""));
    assert_eq!(said(&run(folder.path(), &["status"]).await).0, 4);
}
