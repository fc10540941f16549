//! Owns recording what a member says while it is still honest: the valid traffic of which hostile
//! traffic is made.
//!
//! Must not change what it records. Invariant: everything recorded was said by the real core, to a
//! real daemon, which took it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::json;
use sessionmesh::{
    replica::{
        command::{Command, Refusal, Reply, SessionPatch, Target},
        effect::{Effects, Input, Now, RequestId, Startup, Stored, TeardownOutcome},
        ids::{DocumentId, NodeId, StartId},
        invite::Ticket,
        machine::Replica,
    },
    wire::Frame,
};

use super::{
    rogue::{Line, PATIENCE, Rogue},
    seal::Seal,
};

/// How long nothing may have come before the two are taken to have no more to say.
const QUIET: Duration = Duration::from_millis(150);

/// What a member said, and what it held in the end.
#[derive(Debug)]
pub struct Recording {
    /// Whose words they are.
    pub node: NodeId,
    /// In order.
    pub frames: Vec<Frame>,
    /// As automerge saves them.
    pub documents: BTreeMap<DocumentId, Vec<u8>>,
    /// Its key, and the words of others that it was given.
    pub seal: Seal,
}

struct Puppet<'a> {
    replica: Replica,
    peer: NodeId,
    line: &'a mut Line,
    began: Instant,
    frames: Vec<Frame>,
    seal: Seal,
    replies: Vec<(RequestId, Result<Reply, Refusal>)>,
    requests: u64,
}

/// Joins a fleet, works in every document of it for a while, and returns what was said.
pub async fn record(
    rogue: &mut Rogue,
    peer: NodeId,
    ticket: Ticket,
    others: &[NodeId],
) -> Recording {
    let startup = Startup {
        node: rogue.node(),
        name: "rogue".to_owned(),
        start: StartId([9; 8]),
        seed: 9,
        undo_window: Duration::from_millis(1),
        keep_removed: Duration::ZERO,
        start_grace: Duration::ZERO,
        keyring: rogue.key.clone(),
    };
    let now = Now { monotonic: Duration::ZERO, wall_ms: 1_795_379_110_867 };
    let (replica, _) = Replica::open(startup, Stored::default(), now).expect("a first start");
    let mut line = rogue.dial().await;
    rogue.fleet = ticket.fleet;
    let mut puppet = Puppet {
        replica,
        peer,
        line: &mut line,
        began: Instant::now(),
        frames: Vec::new(),
        seal: Seal::new(rogue.key.clone()),
        replies: Vec::new(),
        requests: 0,
    };
    puppet.ask(Command::Join(ticket)).await;
    puppet.input(Input::PeerConnected { peer }).await;
    puppet.until(|puppet| puppet.replies.iter().any(|(_, reply)| reply.is_ok())).await;
    let documents = 1 + others.len();
    puppet.until(|puppet| puppet.replica.document_heads().len() >= documents).await;
    puppet.quiet().await;
    let frames = puppet.work(others).await;
    let held = puppet.replica.document_heads();
    let copy = |id: &DocumentId| puppet.replica.document_copy(id).expect("it is held").save();
    let documents = held.iter().map(|(id, ..)| (*id, copy(id))).collect();
    let seal = puppet.seal;
    Recording { node: rogue.node(), frames, documents, seal }
}

impl Puppet<'_> {
    fn now(&self) -> Now {
        let monotonic = self.began.elapsed();
        let ms = i64::try_from(monotonic.as_millis()).expect("seconds");
        Now { monotonic, wall_ms: 1_795_379_110_867 + ms }
    }

    async fn input(&mut self, input: Input) {
        if let Input::FrameReceived { frame, .. } = &input {
            self.seal.note(frame);
        }
        let effects = self.replica.handle(self.now(), input);
        let Effects { frames, frames_durable, replies, closes, teardowns, .. } = effects;
        assert!(closes.is_empty(), "the puppet found fault with an honest daemon: {closes:?}");
        self.replies.extend(replies);
        for outgoing in frames.into_iter().chain(frames_durable) {
            if outgoing.to.contains(&self.peer) {
                self.line.say(&outgoing.frame).await.expect("an honest member keeps its link");
                self.seal.note(&outgoing.frame);
                self.frames.push(outgoing.frame);
            }
        }
        for due in teardowns {
            let workspace = due.workspace.key();
            let ended = Input::TeardownEnded {
                workspace,
                incarnation: due.incarnation,
                outcome: TeardownOutcome::Gone,
            };
            Box::pin(self.input(ended)).await;
        }
    }

    async fn ask(&mut self, command: Command) {
        self.requests += 1;
        let request = RequestId(self.requests);
        self.input(Input::Requested { request, command }).await;
    }

    /// Takes what comes next, if anything does for a while.
    async fn step(&mut self) -> bool {
        let peer = self.peer;
        let came = tokio::select! {
            frame = self.line.next() => Some(frame),
            () = tokio::time::sleep(QUIET) => None,
        };
        match came {
            Some(frame) => {
                let frame = frame.expect("an honest member keeps its link");
                self.input(Input::FrameReceived { peer, frame }).await;
                true
            }
            None => {
                self.input(Input::TimePassed).await;
                let Some(frame) = self.line.snapshot(QUIET).await else { return false };
                self.input(Input::FrameReceived { peer, frame }).await;
                true
            }
        }
    }

    async fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            self.step().await;
            assert!(self.began.elapsed() < PATIENCE, "it did not come about: {:?}", self.replies);
        }
    }

    async fn quiet(&mut self) {
        while self.step().await {}
    }

    /// Does one of everything, on its own host and on others.
    async fn work(&mut self, others: &[NodeId]) -> Vec<Frame> {
        for number in 0..3 {
            let id = format!("wrk_r{number}");
            let new = json!({ "id": id, "name": id, "kind": "directory", "directory": "/nowhere" });
            let new = serde_json::from_value(new).expect("a workspace");
            self.ask(Command::CreateWorkspace(new)).await;
        }
        let own = self.replica.node();
        for (place, host) in [own].iter().chain(others).enumerate() {
            for number in 0..8 {
                let id = format!("ses_r{place}_{number}");
                let workspace = (*host == own).then(|| format!("wrk_r{}", number % 3));
                let new = json!({
                    "id": id, "host": host.to_string(), "workspace_id": workspace,
                    "title": format!("a session of the rogue, {number}"),
                    "extra": { "colour": "red" },
                });
                let new = serde_json::from_value(new).expect("a session");
                self.ask(Command::CreateSession(new)).await;
            }
            for number in 0..8 {
                let session = Target::new(format!("ses_r{place}_{number}").parse().expect("an id"));
                let title = Some(Some("again".to_owned()));
                let patch = SessionPatch { title, ..SessionPatch::default() };
                self.ask(Command::UpdateSession(session.clone(), patch)).await;
                if number % 2 == 0 {
                    self.ask(Command::DeleteSession { session, dry_run: false }).await;
                }
            }
        }
        self.quiet().await;
        for (request, reply) in &self.replies {
            assert!(reply.is_ok(), "{request:?}: {reply:?}");
        }
        std::mem::take(&mut self.frames)
    }
}
