//! A host's document is written anew by itself: the daemon's own engine, with a store, is driven as
//! the daemon drives it, and nobody asks for it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

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
        document::{self, Document, SessionFields},
        effect::{
            DialTarget, Now, Outgoing, Publication, Startup, StoredDocument, TeardownDue, Write,
        },
        guard::{DocumentLimits, check_document},
        ids::{DocumentId, NodeId, SessionId, StartId},
        machine::Work,
        membership::statement::Statement,
        record::{Extra, SessionKey, StoredSession},
        voucher::Voucher,
    },
    store::{InMemoryBackend, Store, compact::Plan},
    teardown::Occupant,
    wire::CloseCode,
};

/// How many changes the document has before the last one: one less than it takes.
const CHANGES: u64 = 9_999;
/// How many it takes where history is little beside what there is.
const CHANGES_MOST: u64 = 30_000;
/// How many changes lie between two looks.
const LOOK_EVERY: u64 = 256;
const NOW: Now = Now { monotonic: Duration::from_secs(1), wall_ms: 1_795_379_110_867 };

/// What waits for the disk, and what was published.
#[derive(Default)]
struct House {
    jobs: VecDeque<Job<()>>,
    told: VecDeque<Told>,
    answers: Vec<Answer>,
    published: Vec<Publication>,
    works: VecDeque<Work>,
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

    fn save(&mut self, _: Plan, _: StoredDocument) {}

    fn work(&mut self, work: Work) {
        self.works.push_back(work);
    }

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
            } else if let Some(work) = self.works.pop_front() {
                engine.take_done(NOW, work.run(), self);
            } else {
                return;
            }
        }
    }
}

/// A host, what it has stored, and the daemon that runs on it.
struct Busy {
    key: Arc<NodeKey>,
    store: Store,
    house: House,
    engine: Engine<()>,
}

impl Busy {
    /// Starts a daemon where so many sessions were written over and over.
    fn start(changes: u64, sessions: u64) -> Self {
        let key = Arc::new(NodeKey::generate());
        let store = Store::with_backend(InMemoryBackend::new()).expect("it is empty");
        store.commit(&history(&key, changes, sessions)).expect("there is room");
        let (house, engine) = open(&key, &store, 2);
        Self { key, store, house, engine }
    }

    fn start_again(self) -> Self {
        let Self { key, store, engine, .. } = self;
        drop(engine);
        let (house, engine) = open(&key, &store, 3);
        Self { key, store, house, engine }
    }

    /// Returns the epoch of its document and how many changes that has.
    fn own(&self) -> (u32, u64) {
        let documents = self.engine.replica().document_heads().into_iter();
        let own: Vec<(u32, u64)> = documents
            .filter_map(|(id, _, changes)| match id {
                DocumentId::Host { host, epoch } if host == self.key.node() => {
                    Some((epoch, changes))
                }
                _ => None,
            })
            .collect();
        assert_eq!(own.len(), 1, "one epoch is held");
        own[0]
    }

    fn title(&self) -> Option<String> {
        let key = SessionKey { host: self.key.node(), id: session(0) };
        self.engine.replica().view().session(&key).expect("it is shown").title.clone()
    }

    /// Writes once.
    fn rename(&mut self, title: &str) {
        let patch = SessionPatch { title: Some(Some(title.to_owned())), ..SessionPatch::default() };
        let command = Command::UpdateSession(Target::new(session(0)), patch);
        self.engine.ask(NOW, command, (), &mut self.house);
        self.house.settle(&self.store, &mut self.engine);
        let answers = std::mem::take(&mut self.house.answers);
        assert!(matches!(answers[..], [Ok(_)]), "{answers:?}");
    }

    /// Checks that the document was just written anew, for good, and shows what it did.
    fn check_rewritten(self, title: &str, changes_max: u64) {
        let (epoch, changes) = self.own();
        assert!(epoch > 0, "nobody had to ask");
        assert!(changes < changes_max, "{changes} changes are left");
        assert_eq!(self.title().as_deref(), Some(title));
        let digest = self.engine.replica().digest();
        assert_eq!(digest, self.engine.replica().reread().digest());

        // It is durable, and is not done again.
        let again = self.start_again();
        assert_eq!(again.own(), (epoch, changes));
        assert_eq!(again.engine.replica().digest(), digest);
    }
}

fn open(key: &Arc<NodeKey>, store: &Store, start: u8) -> (House, Engine<()>) {
    let startup = Startup {
        node: key.node(),
        name: "busy".to_owned(),
        start: StartId([start; 8]),
        seed: u64::from(start),
        undo_window: Duration::from_secs(3_600),
        keep_removed: Duration::ZERO,
        start_grace: Duration::ZERO,
        keyring: key.clone(),
    };
    let mut house = House::default();
    let opened = Engine::open(store, startup, NOW, Limits::default());
    let Opened { mut engine, effects, .. } = opened.expect("it was just written");
    engine.carry_out(effects, &mut house);
    house.settle(store, &mut engine);
    (house, engine)
}

fn session(number: u64) -> SessionId {
    format!("ses_busy_{number}").parse().expect("it is an id")
}

#[test]
fn a_host_writes_its_document_anew_by_itself_once_history_outweighs_state() {
    let mut busy = Busy::start(CHANGES, 1);
    assert_eq!(busy.own(), (0, CHANGES), "it is not long enough yet");
    busy.rename("the last");
    assert_eq!(busy.house.published.len(), 1, "only the title is told");
    busy.check_rewritten("the last", 10);
}

/// The state is most of what there is, and grows so all the same: peers take a document of twice as
/// many changes, and no more.
#[test]
fn a_host_writes_its_document_anew_by_itself_at_30_000_changes_whatever_they_hold() {
    let before = CHANGES_MOST - LOOK_EVERY;
    let mut busy = Busy::start(before, 3_000);
    for more in 1..LOOK_EVERY {
        busy.rename(&format!("number {more}"));
        assert_eq!(busy.own(), (0, before + more), "it is not long enough yet");
    }
    let own = DocumentId::Host { host: busy.key.node(), epoch: 0 };
    let bytes = busy.engine.replica().document_copy(&own).expect("it is held").save();
    let all = DocumentLimits::SNAPSHOT;
    let half = DocumentLimits {
        bytes: all.bytes / 2,
        inflated_bytes: all.inflated_bytes / 2,
        changes: all.changes / 2,
        ops: all.ops / 2,
        actors: all.actors / 2,
        memory_bytes: all.memory_bytes / 2,
    };
    let header = check_document(&bytes, half).expect("peers take twice as much");
    assert_eq!(header.changes, CHANGES_MOST - 1);
    assert_eq!(all.changes, 2 * CHANGES_MOST, "there is room for as much again");

    busy.rename("the last");
    busy.check_rewritten("the last", 100);
}

/// The state of a host that has written so many sessions over and over.
fn history(key: &NodeKey, changes: u64, sessions: u64) -> Vec<Write> {
    let host = key.node();
    let (fleet, founding) = Statement::found(key, host, 0, [7; 16], "busy".to_owned());
    let actor = || document::actor(&host, StartId([1; 8]));
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
        agent: None,
        agent_server: None,
        extra: Extra::new(),
        deleted: None,
    };
    let mut last = own.write(0, |tx| {
        (0..sessions).try_for_each(|number| tx.create_session(&session(number), &record))
    });
    while own.change_count() < changes {
        let title = Some(Some(format!("title {}", own.change_count())));
        let fields = SessionFields { title, ..SessionFields::default() };
        let written = session(own.change_count() % sessions);
        last = own.write(0, |tx| tx.update_session(&written, &fields));
    }
    let last = last.expect("peers take it").expect("each title is new");
    let mut writes = vec![Write::Fleet(fleet)];
    writes.push(Write::Statement { number: 0, bytes: founding.encode() });
    let id = own.id();
    let change = last.changes.last().expect("something was written");
    let voucher = Voucher::sign(key, &id, change.actor, change.seq, change.hash);
    writes.push(Write::Snapshot { document: id, bytes: own.save() });
    writes.push(Write::Voucher { document: id, voucher });
    writes
}
