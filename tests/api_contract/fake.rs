//! Owns the fake loop, and samples of every kind of record.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header, response::Parts},
};
use serde_json::Value;
use sessionmesh::{
    api::Api,
    daemon::{
        handle::{self, DocumentStatus, Handle, Peer, Status},
        hub::{Hub, Published},
        machine, trash,
    },
    identity::Token,
    replica::{
        command::{Command, Imported, Refusal, Reply, Restored, SessionDeleted, WorkspaceDeleted},
        diff::{Cause, CauseKind, Diff, Digest, Event},
        document::{self, Document, Touched},
        explain::{
            Explainable, ExplainedChange, ExplainedWrite, Explanation, Kind, Outcome, TeardownTold,
        },
        ids::{ChangeHash, Cursor, DocumentId, FleetId, NodeId, SessionId, StartId},
        invite::Ticket,
        receipt::{Applying, CarryingOut, Ending, Receipt, ReceiptMember, ReceiptSession},
        record::{
            Deletion, DeletionReason, Extra, GitState, Role, Session, SessionState, StoredSession,
            Teardown, TeardownAction, TeardownState, Workspace, WorkspaceState,
        },
        trash::{Held, TrashEntry, TrashKind, TrashState, TrashStored},
    },
};
use tokio::sync::mpsc;
use tower::ServiceExt as _;

pub const TOKEN: &str = "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq";
/// The node that the API belongs to; its name is `desk`.
pub const DESK: NodeId = NodeId([0xd0; 32]);
/// Another member, whose name is `lap`.
pub const LAP: NodeId = NodeId([0xe0; 32]);
pub const FLEET: FleetId = FleetId([0xf1; 16]);

pub fn cursor(sequence: u64) -> Cursor {
    Cursor { sequence, start: StartId([7; 8]) }
}

pub fn session(id: &str) -> Session {
    Session {
        id: id.parse().unwrap(),
        host: DESK,
        workspace_id: Some("wrk_1".parse().unwrap()),
        parent_id: None,
        project_id: Some("prj".to_owned()),
        directory: Some("/src".to_owned()),
        title: Some("a title".to_owned()),
        created_at: 1_000,
        updated_at: 2_000,
        archived_at: Some(3_000),
        agent: Some("opencode".to_owned()),
        agent_server: Some("http://localhost:4096/".to_owned()),
        state: SessionState::Live,
        deleted: None,
        extra: Extra::from([("colour".to_owned(), "green".to_owned())]),
    }
}

pub fn deleted_session(id: &str) -> Session {
    let operation = "op_1".parse().unwrap();
    let deleted =
        Some(Deletion { by: LAP, at: 4_000, operation, reason: Some(DeletionReason::Agent) });
    Session { state: SessionState::Deleted, deleted, workspace_id: None, ..session(id) }
}

pub fn workspace(id: &str) -> Workspace {
    Workspace {
        id: id.parse().unwrap(),
        host: DESK,
        name: "main".to_owned(),
        kind: "worktree".to_owned(),
        project_id: Some("prj".to_owned()),
        directory: None,
        branch: Some("main".to_owned()),
        keep: false,
        used: true,
        created_at: 1_000,
        agent_server: Some("http://localhost:4096/".to_owned()),
        state: WorkspaceState::Live,
        session_count: 1,
        teardown: None,
        extra: Extra::new(),
    }
}

pub fn failed_workspace(id: &str) -> Workspace {
    let error = Some("uncommitted files".to_owned());
    let teardown = Some(Teardown {
        state: TeardownState::Failed,
        incarnation: 2,
        at: 5_000,
        error,
        kept_until: None,
    });
    Workspace { state: WorkspaceState::Failed, teardown, session_count: 0, ..workspace(id) }
}

pub fn sealed_teardown() -> Teardown {
    let (state, kept_until) = (TeardownState::Sealed, Some(1_209_605_000));
    Teardown { state, incarnation: 1, at: 5_000, error: None, kept_until }
}

pub fn status() -> Status {
    let host = DocumentId::Host { host: DESK, epoch: 0 };
    let heads = vec![ChangeHash([1; 32])];
    Status {
        node: DESK,
        name: "desk".to_owned(),
        fleet: FLEET,
        role: Role::Admin,
        admins: 1,
        root: Some(handle::RootStatus { node: DESK, name: "desk".to_owned() }),
        shut_out: Some(handle::ShutOutStatus { by: "lap".to_owned(), at: 5, retired: true }),
        version: "0.1.0".to_owned(),
        uptime_ms: 5,
        documents: vec![
            DocumentStatus { document: DocumentId::Fleet(FLEET), heads: vec![], changes: 0 },
            DocumentStatus { document: host, heads, changes: 3 },
        ],
        digest: Digest(9),
        links: 1,
        store_bytes: 4_096,
        sent_bytes: 512,
        received_bytes: 256,
        sync_repairs_total: 2,
        refusals: [("panicked".to_owned(), 1), ("checksum".to_owned(), 3)].into(),
        left_out: [("overreach".to_owned(), 2)].into(),
        limits_used: [("own_document".to_owned(), 7)].into(),
        kept_off: 1,
        recovering: false,
        agents_awaited: [("http://127.0.0.1:4096/".to_owned(), 2)].into(),
        holding: Some(handle::HoldingStatus { sessions: 2, workspaces: 1, until: 3_600_000 }),
        agents: vec![handle::AgentStatus {
            url: "http://127.0.0.1:4096/".to_owned(),
            state: handle::AgentState::Failed,
            problem: Some("no opencode server answers".to_owned()),
            last_read_at: Some(7),
            notes: vec!["left out, 1: session ses_1 has no time".to_owned()],
        }],
        git: Some(machine::Git {
            path: Some("/usr/bin/git".into()),
            version: Some("git version 2.47.3".to_owned()),
        }),
        hooks_left_running: vec!["wrk_1".parse().unwrap()],
        trash: trash::TrashStatus {
            entries: 2,
            bytes: 300,
            irreplaceable_bytes: 200,
            stuck: 1,
            keep_removed_s: 86_400,
            max_bytes: 1 << 30,
        },
    }
}

pub fn peer() -> Peer {
    Peer {
        node: LAP,
        name: "lap".to_owned(),
        admitted_as: "lap".to_owned(),
        role: Role::Member,
        connected: true,
        paused: false,
        in_sync: true,
        left_out: Some("left out of a document".to_owned()),
        addresses: BTreeSet::from(["192.0.2.1:7177".to_owned()]),
        rtt_ms: Some(0.5),
        revoked: false,
        problem: None,
    }
}

pub fn session_deleted(dry_run: bool) -> SessionDeleted {
    let session = deleted_session("ses_1");
    SessionDeleted {
        operation: (!dry_run).then(|| "op_1".parse().unwrap()),
        receipt: (!dry_run).then(|| "rcp_1".parse().unwrap()),
        sessions_deleted: vec![session.clone()],
        session,
        workspace_vacated: true,
        workspace: Some(workspace("wrk_1")),
        git_state: Some(GitState::Uncommitted),
        git_ignored: Some("2 MB in target".to_owned()),
        already_deleted: false,
        dry_run,
    }
}

pub fn workspace_deleted(dry_run: bool) -> WorkspaceDeleted {
    WorkspaceDeleted {
        operation: (!dry_run).then(|| "op_1".parse().unwrap()),
        receipt: None,
        workspace: workspace("wrk_1"),
        git_state: Some(GitState::Unknown),
        git_ignored: Some("2 MB in target".to_owned()),
        sessions_deleted: vec![deleted_session("ses_1")],
        already_deleted: false,
        dry_run,
    }
}

pub fn receipt() -> Receipt {
    let member = |node, name: &str, state| ReceiptMember { node, name: name.to_owned(), state };
    let server = Some("http://127.0.0.1:4096/".to_owned());
    Receipt {
        receipt: "rcp_1".parse().unwrap(),
        operation: "op_1".parse().unwrap(),
        at: 4_000,
        host: DESK,
        complete: true,
        members: vec![
            member(DESK, "desk", Applying::Applied),
            member(LAP, "lap", Applying::Unreachable),
        ],
        sessions: vec![ReceiptSession {
            id: "ses_1".parse().unwrap(),
            state: Ending::Purged,
            agent_server: server,
            agent: Some(CarryingOut::Done),
        }],
    }
}

/// What is left to explain of a session that was created and deleted, and purged.
fn explainable(id: &str) -> Explainable {
    let actor = document::actor(&DESK, StartId([7; 8]));
    let (mut document, _) = Document::create_host(DESK, 0, actor, 1_000);
    let id: SessionId = id.parse().unwrap();
    let stored = StoredSession {
        workspace_id: None,
        parent_id: None,
        project_id: None,
        directory: None,
        title: Some("a title".to_owned()),
        created_at: 1_000,
        updated_at: 1_000,
        archived_at: None,
        agent: None,
        agent_server: None,
        extra: Extra::new(),
        deleted: None,
    };
    document.write(2_000, |tx| tx.create_session(&id, &stored)).unwrap();
    document.write(3_000, |tx| tx.purge_session(&id, false)).unwrap();
    let explanation = Explanation {
        id: id.to_string(),
        state: "purged".to_owned(),
        session: None,
        workspace: None,
        changes: Vec::new(),
        ..explanation()
    };
    let authors = [(DESK.fingerprint(), (DESK, "desk".to_owned()))].into();
    Explainable { explanation, record: Touched::Session(id), copy: document.copy(), authors }
}

pub fn explanation() -> Explanation {
    let hash = ChangeHash([5; 32]);
    let write = ExplainedWrite {
        kind: Kind::Session,
        id: "ses_1".to_owned(),
        field: Some("title".to_owned()),
        value: "a title".into(),
        outcome: Outcome::Lost,
        rivals: vec![hash],
    };
    Explanation {
        kind: Kind::Session,
        id: "ses_1".to_owned(),
        host: DESK,
        host_name: "desk".to_owned(),
        state: "live".to_owned(),
        because: vec!["neither it nor a parent is deleted".to_owned()],
        session: Some(session("ses_1")),
        workspace: Some(workspace("wrk_1")),
        teardowns: vec![TeardownTold {
            incarnation: 1,
            state: "gone".to_owned(),
            at: 5_000,
            action: Some(TeardownAction::Force),
            done: Some("removed the worktree".to_owned()),
            error: Some("uncommitted files".to_owned()),
            kept_until: Some(1_209_605_000),
        }],
        changes: vec![ExplainedChange {
            change: hash,
            node: Some(DESK),
            name: "desk".to_owned(),
            at: 4_000,
            writes: vec![write],
        }],
        omitted: 1,
        ticks: 2,
    }
}

pub fn restored() -> Restored {
    Restored {
        operation: "op_1".parse().unwrap(),
        sessions: vec![session("ses_1")],
        workspaces: vec![workspace("wrk_1")],
    }
}

pub fn ticket() -> Ticket {
    Ticket {
        fleet: FLEET,
        inviter: DESK,
        addresses: BTreeSet::new(),
        secret: [3; 32],
        role: Role::Reader,
        expires_at: 6_000,
    }
}

pub fn diff(sequence: u64, events: Vec<Event>) -> Diff {
    let cause = Cause { kind: CauseKind::Merge, peer: Some(LAP), authors: vec![LAP, DESK], at: 1 };
    let (cursor, previous) = (cursor(sequence), cursor(sequence - 1));
    Diff { cursor, previous, digest: Digest(u128::from(sequence)), cause, events }
}

/// An API in front of a fake loop.
pub struct World {
    pub api: Api,
    pub router: Router,
    pub hub: Arc<Hub>,
    asked: Arc<Mutex<Vec<String>>>,
    refusal: Arc<Mutex<Option<Refusal>>>,
}

impl World {
    /// Starts with these records published at `cursor(0)`.
    pub fn new(sessions: Vec<Session>, workspaces: Vec<Workspace>) -> Self {
        let published = Published {
            cursor: cursor(0),
            digest: Digest(0),
            sessions: sessions.into_iter().map(Arc::new).collect(),
            workspaces: workspaces.into_iter().map(Arc::new).collect(),
        };
        let hub = Arc::new(Hub::new(published, Vec::new()));
        let (handle, requests) = Handle::new(hub.clone());
        let (asked, refusal) = (Arc::default(), Arc::default());
        let token = Token::parse(TOKEN).expect("a token");
        let api = Api::new(handle, DESK, "desk".to_owned(), token);
        let world = Self { router: api.router(), api, hub, asked, refusal };
        tokio::spawn(answer(
            requests,
            world.hub.clone(),
            world.asked.clone(),
            world.refusal.clone(),
        ));
        world
    }

    /// Has the next command refused.
    pub fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap() = Some(refusal);
    }

    /// Returns what the loop was asked since the last call.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    pub fn publish(&self, events: Vec<Event>) {
        publish(&self.hub, events);
    }

    /// Sends a request as it is.
    pub async fn send(&self, request: Request<Body>) -> (Parts, Vec<u8>) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts, axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec())
    }

    /// Sends a proper request and returns the status and the JSON of the answer.
    pub async fn call(&self, method: &str, uri: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = proper(method, uri);
        if let Some(body) = body {
            request.headers_mut().insert(header::CONTENT_TYPE, json_type());
            *request.body_mut() = Body::from(body.to_string());
        }
        let (parts, body) = self.send(request).await;
        let json = serde_json::from_slice(&body).unwrap_or_else(|error| {
            panic!("{method} {uri}: {error}: {}", String::from_utf8_lossy(&body))
        });
        (parts.status, json)
    }
}

pub fn json_type() -> axum::http::HeaderValue {
    axum::http::HeaderValue::from_static("application/json")
}

/// A request that the gate lets through.
pub fn proper(method: &str, uri: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(uri)
        .header(header::HOST, "localhost:7178")
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
        .body(Body::empty())
        .unwrap()
}

/// What is told of a workspace that is kept, of which a restore is asked for.
pub fn trash_stored(id: &str) -> TrashStored {
    let entry = TrashEntry {
        id: id.to_owned(),
        kind: TrashKind::Workspace,
        name: "login".to_owned(),
        directory: Some("/work/login".to_owned()),
        branch: Some("login".to_owned()),
        commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
        host: DESK,
        ended_at: 5_000,
        expires_at: 1_209_605_000,
        bytes: 4_096,
        held: Some(Held { uncommitted: 1, ..Held::default() }),
        place: Some(format!("/data/trash/{id}.1")),
        state: TrashState::Kept,
        reason: Some("last_session".to_owned()),
        problem: None,
        restored_as: None,
    };
    let id = id.parse().expect("an id");
    let requests = [("op_asked".parse().expect("an id"), LAP)].into();
    TrashStored { host: DESK, id, summary: entry.summary(), requests }
}

fn publish(hub: &Hub, events: Vec<Event>) {
    let diff = diff(hub.cursor().sequence + 1, events);
    let body = serde_json::to_string(&diff).unwrap().into();
    hub.publish(&diff, body);
}

async fn answer(
    mut requests: mpsc::Receiver<handle::Request>,
    hub: Arc<Hub>,
    asked: Arc<Mutex<Vec<String>>>,
    refusal: Arc<Mutex<Option<Refusal>>>,
) {
    while let Some(request) = requests.recv().await {
        let (asked_for, given) = match request {
            handle::Request::Command(command, reply) => {
                let text = format!("{command:?}");
                let refusal = refusal.lock().unwrap().take();
                let answer = refusal.map_or_else(|| Ok(carry_out(&hub, command)), Err);
                (text, reply.send(answer).is_ok())
            }
            handle::Request::Status(reply) => ("Status".to_owned(), reply.send(status()).is_ok()),
            handle::Request::Peers(reply) => ("Peers".to_owned(), reply.send(vec![peer()]).is_ok()),
            handle::Request::Trash(reply) => {
                ("Trash".to_owned(), reply.send(vec![trash_stored("wrk_gone")]).is_ok())
            }
            handle::Request::AgentDue(servers, reply) => {
                (format!("{servers:?}"), reply.send(vec![]).is_ok())
            }
            handle::Request::Explain(target, reply) => {
                let answer = Ok(Box::new(explainable(target.id.as_str())));
                (format!("Explain({target:?})"), reply.send(answer).is_ok())
            }
        };
        assert!(given, "{asked_for}: the handler did not wait for its answer");
        asked.lock().unwrap().push(asked_for);
    }
}

fn carry_out(hub: &Hub, command: Command) -> Reply {
    match command {
        Command::CreateSession(new) => {
            let id = new.id.map_or("ses_new".to_owned(), |id| id.to_string());
            let session = Session { title: new.title, ..session(&id) };
            let event = Event::SessionCreated { session: Arc::new(session.clone()) };
            publish(hub, vec![event]);
            Reply::Session(session)
        }
        Command::UpdateSession(target, _) => Reply::Session(session(target.id.as_str())),
        Command::DeleteSession { dry_run, .. } => {
            Reply::SessionDeleted(Box::new(session_deleted(dry_run)))
        }
        Command::CreateWorkspace(_) => Reply::Workspace(workspace("wrk_new")),
        Command::UpdateWorkspace(target, _) | Command::Teardown(target, _) => {
            Reply::Workspace(workspace(target.id.as_str()))
        }
        Command::DeleteWorkspace { dry_run, .. } => {
            Reply::WorkspaceDeleted(Box::new(workspace_deleted(dry_run)))
        }
        Command::Restore(_) => Reply::Restored(restored()),
        Command::Import(import) => Reply::Imported(Imported {
            created: import.sessions.len() as u64,
            ..Imported::default()
        }),
        Command::Invite { .. } => Reply::Invited(ticket()),
        Command::Join(_) => Reply::Joined(FLEET),
        Command::Leave | Command::Announce { .. } => Reply::Done,
        Command::Pause(_)
        | Command::Resume(_)
        | Command::Revoke(_)
        | Command::Retire(_)
        | Command::Promote { .. }
        | Command::StepDown => Reply::Peer(LAP),
        Command::AgentGone { .. } | Command::ForgetAgent(_) | Command::Rewrite => Reply::Done,
        Command::AgentHas { .. } => Reply::AgentPurged(vec![]),
        Command::ReportTrash { .. } => Reply::TrashReported { left: 0 },
        Command::RestoreTrashed(target) => {
            let listed = trash_stored(target.id.as_str()).read().expect("it is whole");
            Reply::Trash(Box::new(listed))
        }
        Command::Receipt(_) => Reply::Receipt(Box::new(receipt())),
    }
}
