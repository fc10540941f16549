//! Whatever is asked of the local API with the token in hand is answered: by the daemon's router and
//! its replica, without a socket. What is refused has a problem that says so and changes nothing; what
//! is done is taken by every other member, and told by the stream as it is.
//!
//! An input is one request or a few: a line with method and target, the body below it, and `---` on a
//! line between two.

#![no_main]

#[path = "../credulous.rs"]
mod credulous;

use std::{cell::RefCell, collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, Uri, header},
};
use libfuzzer_sys::fuzz_target;
use sessionmesh::{
    api::Api,
    daemon::{
        handle::{self, Answer, Handle, Status},
        hub::{Hub, Published},
    },
    identity::Token,
    replica::{
        command::{Command, NewSession, NewWorkspace, Target},
        document::{self, Document},
        effect::{Effects, Input, Now, RequestId, Startup, Stored, Write},
        guard,
        ids::{DocumentId, NodeId, StartId},
        machine::Replica,
        trust::Trust,
    },
};
use tokio::{runtime::Runtime, select, sync::mpsc};
use tower::ServiceExt as _;

const TOKEN: &str = "aaaqeayeaudaocajbifqydiob4ibceqtcqkrmfyydenbwha5dypq";
const HOST: NodeId = NodeId([1; 32]);
/// Most requests of one input: what the second finds of the first is enough.
const REQUESTS_MAX: usize = 4;
/// How long between two requests, by a clock that does not wait: as many pass as are let in.
const PAUSE: Duration = Duration::from_millis(1);

/// A node of which each input has one of its own.
#[derive(Clone)]
struct Node {
    now: Now,
    replica: Replica,
    /// Its document as another member holds it.
    elsewhere: Document,
}

impl Node {
    /// Takes what a node knows after its start; it hosts a workspace with a session, and one that is
    /// deleted.
    fn new(trust: &Trust) -> Self {
        let startup = Startup {
            node: HOST,
            name: "desk".to_owned(),
            start: StartId([1; 8]),
            seed: 1,
            // Nothing becomes due while one who joins waits.
            undo_window: Duration::from_secs(86_400),
            keep_removed: Duration::ZERO,
            start_grace: Duration::ZERO,
            keyring: Arc::new(credulous::Credulous),
        };
        let now = Now { monotonic: Duration::from_secs(1), wall_ms: 1_795_379_110_867 };
        let opened = Replica::open(startup, Stored::default(), now);
        let (replica, _) = opened.expect("nothing was stored");
        let own = DocumentId::Host { host: HOST, epoch: 0 };
        let bytes = replica.document_copy(&own).expect("it hosts").save();
        let vouchers = replica.document_vouchers(&own);
        let actor = document::actor(&NodeId([2; 32]), StartId([2; 8]));
        let elsewhere = Document::load(own, actor, Some(&bytes), &[], &vouchers);
        let elsewhere = elsewhere.expect("it was just saved");
        let mut node = Self { now, replica, elsewhere };
        let id = |text: &str| Some(text.parse().expect("it is an id"));
        let session = |name: &str| {
            Command::CreateSession(NewSession {
                id: id(name),
                workspace_id: Some("wrk_1".to_owned()),
                ..NewSession::default()
            })
        };
        for command in [
            Command::CreateWorkspace(NewWorkspace {
                id: Some("wrk_1".parse().expect("it is an id")),
                name: "main".to_owned(),
                kind: "directory".to_owned(),
                project_id: None,
                directory: None,
                branch: None,
                keep: false,
                extra: [].into(),
            }),
            session("ses_1"),
            session("ses_2"),
            Command::DeleteSession {
                session: Target::new("ses_2".parse().expect("it is an id")),
                dry_run: false,
            },
        ] {
            node.carry_out(command, trust, None).expect("it is valid");
        }
        node
    }

    /// Carries a command out until it is answered, and has others take what was written.
    fn carry_out(&mut self, command: Command, trust: &Trust, hub: Option<&Hub>) -> Answer {
        let request = RequestId(7);
        let mut fx = self.replica.handle(self.now, Input::Requested { request, command });
        loop {
            let replies = std::mem::take(&mut fx.replies);
            self.look_at(fx, trust, hub);
            if let Some((_, answer)) = replies.into_iter().find(|(to, _)| *to == request) {
                return answer;
            }
            // Who joins waits for a node that is not there.
            self.now.monotonic = self.replica.due().expect("an answer is owed").max(self.now.monotonic);
            fx = self.replica.handle(self.now, Input::TimePassed);
        }
    }

    fn look_at(&mut self, fx: Effects, trust: &Trust, hub: Option<&Hub>) {
        for publication in &fx.diffs {
            if let Some(hub) = hub {
                hub.publish(&publication.diff, publication.body.clone());
            }
        }
        if let Some(hub) = hub.filter(|_| fx.reset) {
            hub.reset(published(&self.replica));
        }
        let id = self.elsewhere.id();
        let (mut changes, mut vouchers) = (Vec::new(), Vec::new());
        for write in fx.writes {
            match write {
                Write::Change { document, bytes } if document == id => changes.push(bytes),
                Write::Voucher { document, voucher } if document == id => vouchers.push(voucher),
                Write::Change { bytes, .. } => {
                    guard::check_change(&bytes).expect("others take what is written here");
                }
                _ => {}
            }
        }
        let taken = self.elsewhere.apply(&changes, &vouchers, trust);
        let taken = taken.expect("others take what is written here");
        assert_eq!(taken.changes.len(), changes.len(), "{:?}", taken.left_out);
    }

    fn status(&self) -> Status {
        Status {
            node: HOST,
            name: self.replica.name().to_owned(),
            fleet: self.replica.fleet(),
            role: self.replica.role(),
            admins: self.replica.admin_count(),
            version: String::new(),
            uptime_ms: 0,
            documents: Vec::new(),
            digest: self.replica.digest(),
            links: 0,
            store_bytes: 0,
            sent_bytes: 0,
            received_bytes: 0,
            sync_repairs_total: 0,
            refusals: Default::default(),
            left_out: Default::default(),
            limits_used: Default::default(),
            kept_off: 0,
            recovering: false,
            agents_awaited: Default::default(),
            holding: None,
            agents: Vec::new(),
        }
    }
}

fn published(replica: &Replica) -> Published {
    let (sessions, workspaces) = replica.records();
    let (cursor, digest) = (replica.cursor(), replica.digest());
    Published { cursor, digest, sessions, workspaces }
}

/// The API, and what stands behind it.
struct Desk {
    runtime: Runtime,
    router: Router,
    requests: mpsc::Receiver<handle::Request>,
    hub: Arc<Hub>,
    trust: Trust,
    first: Node,
}

impl Desk {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without threads");
        let trust = credulous::trust(&[HOST]);
        let first = Node::new(&trust);
        let hub = Arc::new(Hub::new(published(&first.replica), Vec::new()));
        let (handle, requests) = Handle::new(hub.clone());
        let token = Token::parse(TOKEN).expect("it is a token");
        let router = Api::new(handle, HOST, "desk".to_owned(), token).router();
        Self { runtime, router, requests, hub, trust, first }
    }

    /// Asks for all that an input asks for, one after the other.
    fn ask(&mut self, input: &[u8]) {
        self.hub.reset(published(&self.first.replica));
        let mut node = self.first.clone();
        let mut rest = Some(input);
        for _ in 0..REQUESTS_MAX {
            let Some(all) = rest else { return };
            let end = all.windows(5).position(|five| five == b"\n---\n");
            let one = end.map_or(all, |end| &all[..end]);
            rest = end.map(|end| &all[end + 5..]);
            if let Some(request) = request(one) {
                self.one(&mut node, request);
            }
        }
    }

    fn one(&mut self, node: &mut Node, request: Request<Body>) {
        let before = node.replica.digest();
        let Self { runtime, router, requests, hub, trust, .. } = self;
        let (status, body) = runtime.block_on(async {
            tokio::time::sleep(PAUSE).await;
            let mut answer = pin!(router.clone().oneshot(request));
            let response = loop {
                select! {
                    biased;
                    Some(request) = requests.recv() => serve(node, request, trust, hub),
                    Ok(response) = &mut answer => break response,
                }
            };
            let (parts, body) = response.into_parts();
            // A stream of events does not end.
            let kind = parts.headers.get(header::CONTENT_TYPE);
            if kind.is_some_and(|kind| kind == "text/event-stream") {
                return (parts.status, Vec::new());
            }
            let body = axum::body::to_bytes(body, usize::MAX).await.expect("it is in memory");
            (parts.status, body.to_vec())
        });
        let digest = node.replica.digest();
        assert_eq!(digest, node.replica.reread().digest(), "the view is what the documents say");
        assert_eq!(digest, hub.view().digest(), "the stream tells what there is");
        if status.is_success() {
            return;
        }
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{}", String::from_utf8_lossy(&body));
        assert_eq!(before, digest, "who was refused has changed something");
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("a problem is JSON");
        assert_eq!(problem["status"], status.as_u16());
        assert!(problem["code"].is_string() && problem["detail"].is_string(), "{problem}");
    }
}

/// Answers what the API asks of the loop.
fn serve(node: &mut Node, request: handle::Request, trust: &Trust, hub: &Hub) {
    match request {
        handle::Request::Command(command, answer) => {
            drop(answer.send(node.carry_out(command, trust, Some(hub))));
        }
        handle::Request::Status(answer) => drop(answer.send(node.status())),
        handle::Request::Peers(answer) => drop(answer.send(Vec::new())),
        handle::Request::Explain(target, answer) => {
            drop(answer.send(node.replica.explainable(&target).map(Box::new)));
        }
        handle::Request::Trash(answer) => drop(answer.send(node.replica.trash())),
        handle::Request::AgentDue(servers, answer) => {
            drop(answer.send(node.replica.agent_due(&servers)));
        }
    }
}

/// Reads a request that comes with the token; `None` where no HTTP would carry it.
fn request(bytes: &[u8]) -> Option<Request<Body>> {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (head, body) = bytes.split_at(end);
    let space = head.iter().position(|byte| *byte == b' ')?;
    let method = Method::from_bytes(&head[..space]).ok()?;
    let uri = Uri::try_from(&head[space + 1..]).ok()?;
    let body = body.get(1..).unwrap_or_default().to_vec();
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header(header::HOST, "localhost:7178")
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
        .header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(body)).ok()
}

thread_local! {
    static DESK: RefCell<Desk> = RefCell::new(Desk::new());
}

fuzz_target!(|bytes: &[u8]| {
    DESK.with_borrow_mut(|desk| desk.ask(bytes));
});
