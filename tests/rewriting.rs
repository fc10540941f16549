//! A host's document is written anew by itself: the daemon's own engine, with a store, is driven as
//! the daemon drives it, and nobody asks for it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use sessionmesh::{
    daemon::{
        compact::Limits,
        durable::{self, Desk, Job, Told},
        engine::{Engine, Hands, Opened},
        handle::Answer,
        hub::Published,
    },
    identity::NodeKey,
    replica::{
        command::{Command, SessionPatch, Target},
        document::{self, Copied, Document, SessionFields},
        effect::{DialTarget, Now, Outgoing, Publication, Startup, TeardownDue, Write},
        ids::{DocumentId, FleetId, NodeId, SessionId, StartId},
        record::{Extra, Member, Role, SessionKey, StoredSession},
        voucher::Voucher,
    },
    store::{InMemoryBackend, Store, compact::Plan},
    teardown::Occupant,
    wire::CloseCode,
};

/// How many changes the document has before the last one: one less than it takes.
const CHANGES: u64 = 9_999;
const NOW: Now = Now { monotonic: Duration::from_secs(1), wall_ms: 1_795_379_110_867 };

/// What waits for the disk, and what was published.
#[derive(Default)]
struct House {
    jobs: VecDeque<Job<()>>,
    told: VecDeque<Told>,
    answers: Vec<Answer>,
    published: Vec<Publication>,
}

impl Hands for House {
    type Asker = ();

    fn send(&mut self, _: &Outgoing) {}

    fn publish(&mut self, publication: Publication) {
        self.published.push(publication);
    }

    fn reset(&mut self, _: Published) {
        panic!("nothing is shown that a diff does not tell");
    }

    fn close(&mut self, peer: NodeId, _: CloseCode, reason: String) {
        panic!("there is no link to {peer}: {reason}");
    }

    fn dial(&mut self, _: Vec<DialTarget>) {}

    fn store(&mut self, job: Job<()>) {
        self.jobs.push_back(job);
    }

    fn save(&mut self, _: Plan, _: Copied) {}

    fn tear_down(&mut self, due: TeardownDue, _: Vec<Occupant>) {
        panic!("{} is not to be ended", due.workspace.id);
    }
}

impl Desk for House {
    type Asker = ();

    fn answer(&mut self, (): (), answer: Answer) {
        self.answers.push(answer);
    }

    fn send(&mut self, _: &Outgoing) {}

    fn tell(&mut self, told: Told) {
        self.told.push_back(told);
    }
}

impl House {
    /// Lets the disk and the loop take turns until nothing waits.
    fn settle(&mut self, store: &Store, engine: &mut Engine<()>) {
        loop {
            if let Some(told) = self.told.pop_front() {
                engine.told(NOW, told, self).expect("the disk works");
            } else if let Some(job) = self.jobs.pop_front() {
                let left = durable::turn(store, job, || None, self).expect("the disk works");
                assert!(left.is_none(), "one job is done at a time");
            } else {
                return;
            }
        }
    }
}

fn session() -> SessionId {
    "ses_busy".parse().expect("it is an id")
}

#[test]
fn a_host_writes_its_document_anew_by_itself_once_history_outweighs_state() {
    let key = Arc::new(NodeKey::generate());
    let host = key.node();
    let store = Store::with_backend(InMemoryBackend::new()).expect("it is empty");
    store.commit(&history(&key)).expect("there is room");
    let startup = |start| Startup {
        node: host,
        name: "busy".to_owned(),
        start: StartId([start; 8]),
        seed: u64::from(start),
        undo_window: Duration::from_secs(3_600),
        servers: BTreeSet::new(),
        keyring: key.clone(),
    };
    let own = |engine: &Engine<()>| {
        let documents = engine.replica().document_heads().into_iter();
        let own: Vec<(u32, u64)> = documents
            .filter_map(|(id, _, changes)| match id {
                DocumentId::Host { host: of, epoch } if of == host => Some((epoch, changes)),
                _ => None,
            })
            .collect();
        assert_eq!(own.len(), 1, "one epoch is held");
        own[0]
    };
    let title = |engine: &Engine<()>| {
        let session = engine.replica().view().session(&SessionKey { host, id: session() });
        session.expect("it is shown").title.clone()
    };

    let mut house = House::default();
    let Opened { mut engine, effects, .. } =
        Engine::open(&store, startup(2), NOW, Limits::default()).expect("it was just written");
    engine.carry_out(effects, &mut house);
    house.settle(&store, &mut engine);
    assert_eq!(own(&engine), (0, CHANGES), "it is not long enough yet");

    let patch =
        SessionPatch { title: Some(Some("the last".to_owned())), ..SessionPatch::default() };
    engine.ask(NOW, Command::UpdateSession(Target::new(session()), patch), (), &mut house);
    house.settle(&store, &mut engine);
    assert!(matches!(house.answers[..], [Ok(_)]), "{:?}", house.answers);
    let (epoch, changes) = own(&engine);
    assert!(epoch > 0, "nobody had to ask");
    assert!(changes < 10, "{changes} changes are left");
    assert_eq!(title(&engine).as_deref(), Some("the last"));
    assert_eq!(house.published.len(), 1, "only the title is told");
    assert_eq!(engine.replica().digest(), engine.replica().reread().digest());

    // It is durable, and is not done again.
    let digest = engine.replica().digest();
    drop(engine);
    let mut house = House::default();
    let Opened { mut engine, effects, .. } =
        Engine::open(&store, startup(3), NOW, Limits::default()).expect("it was just written");
    engine.carry_out(effects, &mut house);
    house.settle(&store, &mut engine);
    assert_eq!(own(&engine), (epoch, changes));
    assert_eq!(engine.replica().digest(), digest);
}

/// The state of a host that has one session, and has written it over and over.
fn history(key: &NodeKey) -> Vec<Write> {
    let host = key.node();
    let fleet = FleetId([7; 16]);
    let actor = || document::actor(&host, StartId([1; 8]));
    let (mut members, _) = Document::create_fleet(fleet, actor(), 0);
    let member = Member {
        node: host,
        name: "busy".to_owned(),
        role: Role::Admin,
        addresses: [].into(),
        added_by: host,
        added_at: 0,
        revoked: None,
        left: false,
    };
    let joined = members.put_member(0, &member).expect("it is new");
    let (mut own, _) = Document::create_host(host, 0, actor(), 0);
    let record = StoredSession {
        workspace_id: None,
        parent_id: None,
        project_id: None,
        directory: None,
        title: None,
        created_at: 0,
        updated_at: 0,
        archived_at: None,
        extra: Extra::new(),
        deleted: None,
    };
    let mut last = own.write(0, |tx| tx.create_session(&session(), &record));
    while own.change_count() < CHANGES {
        let title = Some(Some(format!("title {}", own.change_count())));
        let fields = SessionFields { title, ..SessionFields::default() };
        last = own.write(0, |tx| tx.update_session(&session(), &fields));
    }
    let last = last.expect("each title is new");
    let mut writes = vec![Write::Fleet(fleet)];
    for (document, applied) in [(&members, &joined), (&own, &last)] {
        let id = document.id();
        let change = applied.changes.last().expect("something was written");
        let voucher = Voucher::sign(key, &id, change.actor, change.seq, change.hash);
        writes.push(Write::Snapshot { document: id, bytes: document.save() });
        writes.push(Write::Voucher { document: id, voucher });
    }
    writes
}
