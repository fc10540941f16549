//! Owns the claims that code and contract are the same, both ways.

use std::{collections::BTreeSet, sync::Arc};

use jsonschema::Validator;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sessionmesh::{
    api::{
        DIFF_SCHEMA, OPENAPI,
        body::{InviteBody, JoinBody, PromoteBody, SessionChanges, TeardownBody, WorkspaceChanges},
        fleet::{InFleet, Invited, PeerChanged},
        problem::Error,
        routes::{OPEN, ROUTES},
        trash::{RestoreBody, TrashAhead, TrashList, TrashRestored, WithTrash},
    },
    replica::{
        command::{
            Import, Imported, ImportedSession, ImportedWorkspace, NewSession, NewWorkspace,
            Refusal, WorkspaceDeleted,
        },
        diff::{DeletedReason, Event, RemovedReason},
        record::{Extra, Role, Session, TeardownAction, Workspace},
        trash::{TrashKind, TrashListed},
    },
};

use crate::fake::{
    DESK, FLEET, World, deleted_session, diff, explanation, failed_workspace, peer, proper,
    receipt, restored, sealed_teardown, session, session_deleted, status, trash_stored, workspace,
    workspace_deleted,
};

fn openapi() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

/// Returns the validator of one of the contract's schemas.
pub fn openapi_schema(name: &str) -> Validator {
    let document = openapi();
    assert!(document["components"]["schemas"][name].is_object(), "there is no schema {name}");
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": format!("#/components/schemas/{name}"),
        "components": document["components"],
    });
    jsonschema::validator_for(&schema).unwrap()
}

/// One of each refusal; the match fails to compile when there is a new one.
pub fn every_refusal() -> Vec<Refusal> {
    let (ses, wrk) = (|| "ses_1".parse().unwrap(), || "wrk_1".parse().unwrap());
    let text = || "x".to_owned();
    let all = vec![
        Refusal::SessionNotFound(ses()),
        Refusal::WorkspaceNotFound(wrk()),
        Refusal::OperationNotFound("op_1".parse().unwrap()),
        Refusal::ReceiptNotFound("rcp_1".parse().unwrap()),
        Refusal::AmbiguousId { id: text(), hosts: vec![text()] },
        Refusal::IdTaken { id: text(), host: text() },
        Refusal::IdSpent { id: text(), host: text() },
        Refusal::ParentNotFound(ses()),
        Refusal::ParentDeleted(ses()),
        Refusal::WorkspaceElsewhere { workspace: wrk() },
        Refusal::WorkspaceSealed(wrk()),
        Refusal::SessionDeleted(ses()),
        Refusal::NotFailed(wrk()),
        Refusal::InvalidField { field: text(), problem: text() },
        Refusal::NodeNotFound(text()),
        Refusal::AmbiguousNode { name: text(), nodes: vec![text()] },
        Refusal::HostNotReady(DESK),
        Refusal::HostFull { host: text(), percent: 81, limit: 80 },
        Refusal::Blocked { place: text(), by: Some(text()) },
        Refusal::Unwritable { host: text(), why: text() },
        Refusal::ReadOnly,
        Refusal::ReaderHost(DESK),
        Refusal::NotAdmin,
        Refusal::ThisNodeRevoked { what: "retired", by: text() },
        Refusal::SteppedDown(text()),
        Refusal::RoleShrinks { name: text(), role: "member" },
        Refusal::FleetFull { statements: 61_440 },
        Refusal::LastAdmin(text()),
        Refusal::Revoked(text()),
        Refusal::Retired(text()),
        Refusal::IsRoot(text()),
        Refusal::Oneself(text()),
        Refusal::NotAlone,
        Refusal::Alone,
        Refusal::JoinUnderWay,
        Refusal::JoinRefused { code: text(), reason: text() },
        Refusal::JoinUnreachable(text()),
        Refusal::BadTicket(text()),
    ];
    let codes: BTreeSet<_> = all.iter().map(Refusal::code).collect();
    assert_eq!(codes.len(), all.len(), "two refusals share a code");
    all
}

#[test]
fn the_contract_lists_exactly_the_routes_of_the_table() {
    let document = openapi();
    let mut listed = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            listed.insert((method.to_uppercase(), path.clone()));
            let open = operation["security"] == json!([]);
            assert_eq!(open, OPEN.contains(&path.as_str()), "{method} {path}");
            let problem = &operation["responses"]["default"]["$ref"];
            assert_eq!(problem, "#/components/responses/Problem", "{method} {path}");
            let in_path: BTreeSet<_> = path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .collect();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let declared = parameters.iter().filter(|parameter| parameter["in"] == "path");
            let declared: BTreeSet<_> = declared.filter_map(|p| p["name"].as_str()).collect();
            assert_eq!(declared, in_path, "{method} {path}");
        }
    }
    let table: BTreeSet<_> =
        ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    assert_eq!(table.len(), ROUTES.len(), "the table has a route twice");
    assert_eq!(listed, table);
}

#[tokio::test]
async fn every_parameter_of_the_contract_is_taken_and_its_default_is_valid() {
    let world = World::new(vec![session("ses_1")], vec![workspace("wrk_1")]);
    let document = openapi();
    let mut taken = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] != "query" || parameter["name"] == "cursor" {
                    continue;
                }
                let name = parameter["name"].as_str().unwrap();
                let default = match &parameter["schema"]["default"] {
                    Value::Null => if name == "host" { "desk" } else { "x" }.to_owned(),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let id = if path.contains("sessions") { "ses_1" } else { "wrk_1" };
                let uri = format!(
                    "{}?{name}={default}",
                    path.replace("{id}", id).replace("{receipt}", "rcp_1")
                );
                let request = proper(&method.to_uppercase(), &uri);
                let router = world.router.clone();
                let answer = tower::ServiceExt::oneshot(router, request).await.unwrap();
                assert_eq!(answer.status(), 200, "{method} {uri}");
                taken += 1;
            }
        }
    }
    assert!(taken >= 14, "only {taken} parameters were found");
}

/// Returns every schema's name with samples of what the code writes; together the samples of one
/// schema have each of its fields, none of them empty.
fn samples() -> Vec<(&'static str, Vec<Value>)> {
    fn values<T: Serialize>(samples: Vec<T>) -> Vec<Value> {
        samples.into_iter().map(|sample| serde_json::to_value(sample).unwrap()).collect()
    }
    let sessions = || vec![session("ses_1"), child("ses_2"), deleted_session("ses_3")];
    let workspaces = || vec![workspace("wrk_1"), failed_workspace("wrk_2"), located("wrk_3")];
    let view = json!({
        "cursor": crate::fake::cursor(3), "digest": "0".repeat(32),
        "sessions": sessions(), "workspaces": workspaces(),
    });
    let invalid = Refusal::InvalidField { field: "title".into(), problem: "is long".into() };
    let ambiguous = Refusal::AmbiguousId { id: "s".into(), hosts: vec!["desk".into()] };
    let mut problems = vec![Error::from(invalid).problem(), Error::from(ambiguous).problem()];
    problems.extend([Error::ForeignHost, Error::Unauthorized, Error::NotJson].map(|e| e.problem()));
    let mut unreachable = peer();
    (unreachable.problem, unreachable.rtt_ms) = (Some("no answer".to_owned()), None);
    let imported = Imported { created: 1, updated: 2, unchanged: 3, skipped: 4 };
    let invited = Invited { ticket: "tkt".to_owned(), role: Role::Admin, expires_at: 1 };
    vec![
        ("Session", values(sessions())),
        ("Workspace", values(workspaces())),
        ("View", vec![view]),
        ("Deletion", values(vec![deleted_session("s").deleted.unwrap()])),
        ("Teardown", values(vec![failed_workspace("w").teardown.unwrap(), sealed_teardown()])),
        ("SessionDeleted", with_trash(vec![session_deleted(false), session_deleted(true)])),
        ("WorkspaceDeleted", with_trash(vec![full_workspace_deleted(), workspace_deleted(true)])),
        ("TrashAhead", values(vec![ahead()])),
        ("Restored", values(vec![restored()])),
        ("Receipt", values(vec![receipt()])),
        ("ReceiptMember", values(receipt().members)),
        ("ReceiptSession", values(receipt().sessions)),
        ("Explanation", values(vec![explanation()])),
        ("TeardownTold", values(explanation().teardowns)),
        ("ExplainedChange", values(explanation().changes)),
        ("ExplainedWrite", values(explanation().changes.remove(0).writes)),
        ("Imported", values(vec![imported])),
        ("HoldingStatus", values(status().holding.into_iter().collect())),
        ("AgentStatus", values(status().agents)),
        ("Status", values(vec![status()])),
        ("DocumentStatus", values(status().documents)),
        ("Peer", values(vec![peer(), unreachable])),
        ("PeerChanged", values(vec![PeerChanged { node: DESK }])),
        ("Invited", values(vec![invited])),
        ("InFleet", values(vec![InFleet { fleet: FLEET }])),
        ("Problem", values(problems)),
        ("NewSession", values(vec![new_session()])),
        ("NewWorkspace", values(vec![new_workspace()])),
        ("SessionChanges", values(vec![session_changes()])),
        ("WorkspaceChanges", values(vec![workspace_changes()])),
        ("TrashHeld", values(vec![kept().entry.held.unwrap()])),
        ("TrashEntry", values(vec![kept().entry])),
        ("TrashListed", values(vec![kept()])),
        ("TrashList", values(vec![TrashList { entries: vec![kept()] }])),
        ("TrashRestoreBody", values(vec![RestoreBody { directory: Some("/w".to_owned()) }])),
        ("TrashRestored", values(vec![given_back()])),
        ("TrashStatus", values(vec![status().trash])),
        ("TeardownBody", values(vec![TeardownBody { action: TeardownAction::Retry }])),
        ("InviteBody", values(vec![invite_body()])),
        ("PromoteBody", values(vec![PromoteBody { role: Role::Admin }])),
        ("JoinBody", values(vec![JoinBody { ticket: "tkt".to_owned() }])),
        ("Import", values(vec![import()])),
        ("ImportedSession", values(import().sessions)),
        ("ImportedWorkspace", values(import().workspaces)),
    ]
}

fn kept() -> TrashListed {
    let mut listed = trash_stored("wrk_gone").read().unwrap();
    listed.entry.held.as_mut().unwrap().nested = vec!["vendor/lib".to_owned()];
    listed.entry.problem = Some("/work/login is in the way".to_owned());
    listed.entry.restored_as = Some("/work/login".to_owned());
    listed
}

fn given_back() -> TrashRestored {
    let notes = vec!["the branch is checked out elsewhere".to_owned()];
    TrashRestored { entry: kept(), restored_as: Some("/work/login".to_owned()), notes }
}

fn child(id: &str) -> Session {
    Session { parent_id: Some("ses_1".parse().unwrap()), ..session(id) }
}

fn located(id: &str) -> Workspace {
    let extra = Extra::from([("a".to_owned(), "b".to_owned())]);
    Workspace { directory: Some("/src".to_owned()), extra, ..workspace(id) }
}

fn full_workspace_deleted() -> WorkspaceDeleted {
    let mut deleted = workspace_deleted(false);
    deleted.receipt = Some("rcp_1".parse().unwrap());
    deleted
}

fn ahead() -> TrashAhead {
    let (id, kind) = ("wrk_1".to_owned(), TrashKind::Workspace);
    TrashAhead { id, kind, host: DESK, keep_removed_s: Some(86_400) }
}

fn with_trash<T: Serialize>(deleted: Vec<T>) -> Vec<Value> {
    let with = |deleted| json!(WithTrash { deleted, trash: vec![ahead()] });
    deleted.into_iter().map(with).collect()
}

fn new_session() -> NewSession {
    NewSession {
        id: Some("ses_1".parse().unwrap()),
        host: Some("desk".to_owned()),
        workspace_id: Some("wrk_1@desk".to_owned()),
        parent_id: Some("ses_0".parse().unwrap()),
        project_id: Some("prj".to_owned()),
        directory: Some("/src".to_owned()),
        title: Some("a title".to_owned()),
        extra: Extra::from([("a".to_owned(), "b".to_owned())]),
    }
}

fn new_workspace() -> NewWorkspace {
    NewWorkspace {
        id: Some("wrk_1".parse().unwrap()),
        name: "main".to_owned(),
        kind: "worktree".to_owned(),
        project_id: Some("prj".to_owned()),
        directory: Some("/src".to_owned()),
        branch: Some("main".to_owned()),
        keep: true,
        extra: Extra::from([("a".to_owned(), "b".to_owned())]),
    }
}

fn session_changes() -> SessionChanges {
    SessionChanges {
        title: Some(Some("t".to_owned())),
        workspace_id: Some(Some("wrk_1".parse().unwrap())),
        archived_at: Some(Some(5)),
        extra: [("a".to_owned(), Some("b".to_owned())), ("c".to_owned(), None)].into(),
    }
}

fn workspace_changes() -> WorkspaceChanges {
    WorkspaceChanges {
        name: Some("n".to_owned()),
        branch: Some(Some("b".to_owned())),
        keep: Some(false),
        extra: [("a".to_owned(), None)].into(),
    }
}

fn invite_body() -> InviteBody {
    InviteBody { role: Some(Role::Reader), expires_in_s: Some(60) }
}

fn import() -> Import {
    let Session { project_id, directory, title, archived_at, extra, .. } = session("ses_1");
    let session = ImportedSession {
        id: "ses_1".parse().unwrap(),
        workspace_id: Some("wrk_1".parse().unwrap()),
        parent_id: Some("ses_0".parse().unwrap()),
        project_id: project_id.clone(),
        directory: directory.clone(),
        title,
        created_at: 1,
        updated_at: 2,
        archived_at,
        agent: Some("opencode".to_owned()),
        agent_server: Some("http://localhost:4096/".to_owned()),
        extra: extra.clone(),
    };
    let workspace = ImportedWorkspace {
        id: "wrk_1".parse().unwrap(),
        name: "main".to_owned(),
        kind: "worktree".to_owned(),
        project_id,
        directory,
        branch: Some("main".to_owned()),
        created_at: 1,
        agent_server: Some("http://localhost:4096/".to_owned()),
        extra,
    };
    Import { workspaces: vec![workspace], sessions: vec![session] }
}

/// Asserts that samples fit their schema, that no field of either is missing in the other, and
/// that the schema notices when one is.
fn agree(name: &str, validator: &Validator, schema: &Value, samples: &[Value]) {
    let mut seen = BTreeSet::new();
    for sample in samples {
        let problems: Vec<_> = validator.iter_errors(sample).map(|e| e.to_string()).collect();
        assert!(problems.is_empty(), "{name}: {problems:?} in {sample}");
        let fields = sample.as_object().unwrap();
        seen.extend(fields.iter().filter(|(_, v)| !v.is_null()).map(|(name, _)| name.clone()));

        let mut more = fields.clone();
        more.insert("new_field".to_owned(), json!(1));
        assert!(!validator.is_valid(&Value::Object(more)), "{name} takes a field it doesn't list");
        for required in schema["required"].as_array().unwrap() {
            let mut less: Map<_, _> = fields.clone();
            assert!(less.remove(required.as_str().unwrap()).is_some());
            assert!(!validator.is_valid(&Value::Object(less)), "{name} does without {required}");
        }
    }
    let listed: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(seen, listed, "{name}: the samples and the schema differ in fields");
}

#[test]
fn every_schema_of_the_contract_fits_what_the_code_writes_and_nothing_more() {
    let document = openapi();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let samples = samples();
    for (name, samples) in &samples {
        agree(name, &openapi_schema(name), &schemas[*name], samples);
    }
    let sampled: BTreeSet<_> = samples.iter().map(|(name, _)| *name).collect();
    // Pages are validated as the routes write them, in the test below.
    let elsewhere = ["SessionPage", "WorkspacePage"];
    for (name, schema) in schemas {
        if schema["type"] == "object" && schema.get("properties").is_some() {
            let known = sampled.contains(name.as_str()) || elsewhere.contains(&name.as_str());
            assert!(known, "nothing shows that {name} is what the code writes");
            assert_eq!(schema["additionalProperties"], json!(false), "{name}");
        }
    }
}

#[tokio::test]
async fn what_the_reading_routes_answer_fits_the_schema_that_the_contract_names() {
    let world = World::new(
        vec![session("ses_1"), child("ses_2"), deleted_session("ses_3")],
        vec![workspace("wrk_1"), failed_workspace("wrk_2")],
    );
    let document = openapi();
    let rows = [
        ("/v1/status", "/v1/status"),
        ("/v1/view", "/v1/view"),
        ("/v1/sessions", "/v1/sessions?limit=1"),
        ("/v1/sessions", "/v1/sessions?state=all"),
        ("/v1/sessions/{id}", "/v1/sessions/ses_3"),
        ("/v1/workspaces", "/v1/workspaces?limit=1"),
        ("/v1/workspaces/{id}", "/v1/workspaces/wrk_2"),
        ("/v1/explain/{id}", "/v1/explain/ses_9"),
        ("/v1/receipts/{receipt}", "/v1/receipts/rcp_1?wait=5s"),
        ("/v1/trash", "/v1/trash?host=desk"),
        ("/v1/trash/{id}", "/v1/trash/wrk_gone@desk"),
        ("/v1/peers", "/v1/peers"),
    ];
    for (path, uri) in rows {
        let content = &document["paths"][path]["get"]["responses"]["200"]["content"];
        let mut schema = content["application/json"]["schema"].clone();
        schema["components"] = document["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let (status, answer) = world.call("GET", uri, None).await;
        let problems: Vec<_> = validator.iter_errors(&answer).map(|e| e.to_string()).collect();
        assert!(status == 200 && problems.is_empty(), "{uri}: {problems:?}");
        if let Value::Object(mut fields) = answer {
            fields.insert("new_field".to_owned(), json!(1));
            assert!(!validator.is_valid(&Value::Object(fields)), "{uri}");
        }
    }
}

#[test]
fn every_event_fits_the_schema_of_the_stream_and_every_schema_is_an_event() {
    let document: Value = serde_json::from_str(DIFF_SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&document).unwrap();
    let (ses, wrk) = (|| Arc::new(session("ses_1")), || Arc::new(workspace("wrk_1")));
    let changed = || vec!["title".to_owned(), "extra".to_owned()];
    let events = vec![
        Event::SessionCreated { session: ses() },
        Event::SessionUpdated { session: ses(), changed: changed() },
        Event::SessionDeleted {
            session: Arc::new(deleted_session("s")),
            reason: DeletedReason::Deleted,
        },
        Event::SessionDeleted { session: ses(), reason: DeletedReason::ParentDeleted },
        Event::SessionRestored { session: ses() },
        Event::SessionStranded { session: ses() },
        Event::SessionPurged { session: ses() },
        Event::SessionHidden { session: ses() },
        Event::WorkspaceCreated { workspace: wrk() },
        Event::WorkspaceUpdated { workspace: wrk(), changed: changed() },
        Event::WorkspaceRemoved { workspace: wrk(), reason: RemovedReason::LastSession },
        Event::WorkspaceRemoved { workspace: wrk(), reason: RemovedReason::Dismissed },
        Event::WorkspaceRestored { workspace: wrk() },
        Event::WorkspaceSealed { workspace: wrk() },
        Event::WorkspaceFailed { workspace: Arc::new(failed_workspace("w")) },
        Event::WorkspaceGone { workspace: wrk() },
        Event::WorkspaceHidden { workspace: wrk() },
    ];
    let mut written = BTreeSet::new();
    for event in &events {
        let whole = json!(diff(4, vec![event.clone()]));
        let problems: Vec<_> = validator.iter_errors(&whole).map(|e| e.to_string()).collect();
        assert!(problems.is_empty(), "{problems:?} in {whole}");
        let body = &whole["events"][0];
        written.insert(body["type"].as_str().unwrap().to_owned());
        // Each field of the event and of its record is required, and there are no others.
        for pointer in ["/events/0", "/events/0/session", "/events/0/workspace", "", "/cause"] {
            let Some(fields) = whole.pointer(pointer).and_then(Value::as_object) else { continue };
            for name in fields.keys() {
                let mut less = whole.clone();
                less.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(name);
                assert!(!validator.is_valid(&less), "{pointer} does without {name}: {body}");
            }
            let mut more = whole.clone();
            more.pointer_mut(pointer).unwrap()["new_field"] = json!(1);
            assert!(!validator.is_valid(&more), "{pointer} takes a field it doesn't list");
        }
    }
    let described = document["$defs"]["Event"]["oneOf"].as_array().unwrap().iter();
    let described: BTreeSet<_> =
        described.map(|e| e["properties"]["type"]["const"].as_str().unwrap().to_owned()).collect();
    assert_eq!(written, described);
    assert!(validator.is_valid(&json!({
        "cursor": crate::fake::cursor(3), "digest": "0".repeat(32),
        "sessions": [session("ses_1")], "workspaces": [workspace("wrk_1")],
    })));
    assert!(!validator.is_valid(&json!({"cursor": "3", "digest": "", "sessions": []})));
}

#[test]
fn records_are_described_alike_in_both_contracts() {
    let stream: Value = serde_json::from_str(DIFF_SCHEMA).unwrap();
    let text = serde_json::to_string(&openapi()["components"]["schemas"]).unwrap();
    let schemas: Value =
        serde_json::from_str(&text.replace("#/components/schemas/", "#/$defs/")).unwrap();
    for (here, there) in [
        ("Session", "Session"),
        ("Workspace", "Workspace"),
        ("Deletion", "Deletion"),
        ("Teardown", "Teardown"),
        ("Extra", "Extra"),
        ("View", "Snapshot"),
        ("Cursor", "Cursor"),
        ("Digest", "Digest"),
    ] {
        assert_eq!(schemas[here], stream["$defs"][there], "{here}");
    }
}
