//! How much memory a node takes for changes that a peer sends: of each kind that is dear, in a process of
//! its own, no more than the guard counts, by which it refuses what would be too much.

mod confined;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use automerge::{
    ActorId, Automerge, Change, ObjId, ObjType, ROOT, ReadDoc as _,
    transaction::{CommitOptions, Transactable as _},
};
use sessionmesh::{
    replica::{
        document::{self, Document},
        guard::{check_changes, memory_of_changes},
        ids::{ActorBytes, ChangeHash, DocumentId, NodeId, StartId},
        record::{Extra, Member, Role, StoredSession},
        trust::Trust,
        voucher::{Keyring, SIGNATURE_BYTES, Voucher},
    },
    wire::{self, Decoded, Frame, HEADER_BYTES},
};

/// What a process may map that takes one in: far more than what it may take, to see how much it was.
const MEMORY_KIB_MAX: u64 = 4 << 20;
/// What a frame takes that holds next to nothing, and what of the pages of the allocator is left over.
const BASE_MIB: u64 = 4;
const DEADLINE: Duration = Duration::from_secs(300);
/// The host that has gone bad; in its own document it may write whatever has the right form.
const HOST: NodeId = NodeId([1; 32]);

/// Takes every signature for good.
#[derive(Debug)]
struct Credulous;

impl Keyring for Credulous {
    fn sign(&self, _: &[u8]) -> [u8; SIGNATURE_BYTES] {
        [0; SIGNATURE_BYTES]
    }

    fn verify(&self, _: &NodeId, _: &[u8], _: &[u8; SIGNATURE_BYTES]) -> bool {
        true
    }
}

fn trust() -> Trust {
    let member = Member {
        node: HOST,
        name: "host".to_owned(),
        role: Role::Member,
        added_by: HOST,
        added_at: 0,
        revoked: None,
        left: false,
    };
    let mut trust = Trust::new(Arc::new(Credulous));
    trust.learn(&[member]);
    trust
}

fn actor(start: u32) -> ActorId {
    let mut id = [0; 8];
    id[..4].copy_from_slice(&start.to_be_bytes());
    document::actor(&HOST, StartId(id))
}

/// The host's document, in which there is one session, and where that is.
fn base() -> (DocumentId, Automerge, ObjId) {
    let (mut document, _) = Document::create_host(HOST, 0, actor(1), 0);
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
    let id = "ses_1".parse().expect("it is an id");
    document
        .write(0, |tx| tx.create_session(&id, &record))
        .expect("it is new")
        .expect("it is written");
    let doc = Automerge::load(&document.save()).expect("it was just saved").with_actor(actor(2));
    let child = |object: &ObjId, key: &str| doc.get(object, key).ok().flatten().map(|(_, id)| id);
    let buckets = child(&ROOT, "sessions").expect("it is there");
    let session = doc.keys(&buckets).find_map(|key| child(&child(&buckets, &key)?, "ses_1"));
    let session = session.expect("it was just made");
    (document.id(), doc, session)
}

/// Makes changes that have much of one thing.
type Make = fn(&mut Automerge, &ObjId) -> Vec<Change>;

const DEAR: [(&str, Make); 7] = [
    ("changes", |doc, session| {
        (0..8_000_i64).map(|number| one(doc, |tx| tx.put(session, "n", number))).collect()
    }),
    ("operations", |doc, session| {
        batches(doc, 2, 30_000, |tx, number| tx.put(session, key(number), 1))
    }),
    ("overwritings", |doc, session| {
        let first = batches(doc, 1, 1_000, |tx, number| tx.put(session, key(number), 1));
        let again = |tx: &mut Tx<'_>, number| tx.put(session, key(number % 1_000), 2 + number);
        [first, batches(doc, 4, 8_000, again)].concat()
    }),
    ("maps", |doc, session| {
        batches(doc, 2, 20_000, |tx, number| {
            tx.put_object(session, key(number), ObjType::Map).map(drop)
        })
    }),
    ("deep maps", |doc, session| {
        let mut object = session.clone();
        let mut changes = vec![one(doc, |tx| {
            for level in 0..10 {
                object = tx.put_object(&object, format!("{level}").repeat(1_000), ObjType::Map)?;
            }
            Ok(())
        })];
        changes.extend(batches(doc, 1, 4_000, |tx, number| {
            let map = tx.put_object(&object, key(number), ObjType::Map)?;
            tx.put(&map, "k", 1)
        }));
        changes
    }),
    ("texts", |doc, session| {
        batches(doc, 4, 60, |tx, number| tx.put(session, key(number), "v".repeat(60_000)))
    }),
    ("many heads", |doc, session| {
        let beside: Vec<Change> = (0..500)
            .map(|number| {
                let mut other = doc.clone().with_actor(actor(100 + number));
                one(&mut other, |tx| tx.put(session, "m", i64::from(number)))
            })
            .collect();
        doc.apply_changes(beside.iter().cloned()).expect("each is valid");
        let more = (0..4_000_i64).map(|number| one(doc, |tx| tx.put(session, "n", number)));
        let more: Vec<Change> = more.collect();
        [beside, more].concat()
    }),
];

type Tx<'a> = automerge::transaction::Transaction<'a>;
type Done = Result<(), automerge::AutomergeError>;

fn one(doc: &mut Automerge, write: impl FnOnce(&mut Tx<'_>) -> Done) -> Change {
    let mut tx = doc.transaction();
    write(&mut tx).expect("it is valid");
    tx.commit_with(CommitOptions::default().with_time(0));
    doc.get_last_local_change().expect("it was just made")
}

/// Writes so often in each of so many changes.
fn batches(
    doc: &mut Automerge,
    count: u32,
    each: u32,
    write: impl Fn(&mut Tx<'_>, u32) -> Done,
) -> Vec<Change> {
    let of = |batch: u32| each * batch..each * (batch + 1);
    let mut batch = |n| one(doc, |tx| of(n).try_for_each(|number| write(tx, number)));
    (0..count).map(&mut batch).collect()
}

/// Returns a short key of its own for each number.
fn key(number: u32) -> String {
    const DIGITS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-";
    let digit = |place: u32| char::from(DIGITS[(number >> (6 * place)) as usize & 63]);
    (0..4).map(digit).collect()
}

/// Makes the frame, with the word of whoever wrote it.
fn make(name: &str) -> Frame {
    let (document, mut doc, session) = base();
    let (_, make) = DEAR.iter().find(|(other, _)| *other == name).expect("it is one of them");
    let mut changes = make(&mut doc, &session);
    let changes: Vec<Vec<u8>> = changes.iter_mut().map(|it| it.bytes().into_owned()).collect();
    let mut last: BTreeMap<ActorBytes, (u64, ChangeHash)> = BTreeMap::new();
    for header in check_changes(&changes).expect("they pass") {
        last.insert(header.actor, (header.seq, header.hash));
    }
    let vouch = |(actor, (seq, hash))| Voucher::sign(&Credulous, &document, actor, seq, hash);
    let vouchers = last.into_iter().map(vouch).collect();
    Frame::Changes { document, changes, vouchers }
}

fn status(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Takes a frame in as a node does, and looks at how much memory that took.
fn take(name: &str, frame: &[u8]) {
    let Ok(Decoded::Known(Frame::Changes { document, changes, vouchers })) =
        wire::decode(&frame[HEADER_BYTES..])
    else {
        panic!("{name}: it was just written");
    };
    let (id, doc, _) = base();
    assert_eq!(id, document);
    let mut document = Document::load(id, actor(3), Some(&doc.save()), &[], &[]);
    let document = document.as_mut().expect("it was just saved");
    let (trust, counted) = (trust(), memory_of_changes(&changes).expect("they pass"));
    let before = status("VmRSS:");
    // Takes the mark of the most memory down to what there is now, where the system lets one.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let began = Instant::now();
    let taken = document.apply(&changes, &vouchers, &trust);
    let (memory, took) = ((status("VmHWM:") - before) >> 20, began.elapsed());
    let count = changes.len();
    let told = match taken {
        Ok(taken) => format!("{} taken", taken.changes.len()),
        Err(error) => error.to_string(),
    };
    let (counted, bytes) = (counted >> 20, frame.len());
    let told = format!(
        "{name}: {count} changes, {bytes} bytes: {memory} MiB of {counted} counted, {took:?}, {told}"
    );
    writeln!(std::io::stderr(), "{told}").expect("stderr is there");
    assert!(memory <= counted + BASE_MIB, "{told}");
}

/// Makes a test for each of the dearest frames, so that each has memory of its own.
macro_rules! dear {
    ($($test:ident: $name:literal),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(stringify!($test));
                if !confined::is_inside() {
                    let frame = wire::encode(&make($name)).expect("it fits a frame");
                    fs::write(&file, frame).expect("there is room");
                }
                confined::confined(stringify!($test), MEMORY_KIB_MAX, DEADLINE, || {
                    take($name, &fs::read(&file).expect("it was just written"));
                });
            }
        )+

        #[test]
        fn each_of_the_dearest_frames_is_taken_in() {
            assert!(DEAR.iter().map(|(name, _)| *name).eq([$($name),+]));
        }
    };
}

dear! {
    many_changes_are_taken_in_within_the_memory_that_was_counted: "changes",
    many_operations_are_taken_in_within_the_memory_that_was_counted: "operations",
    many_overwritings_are_taken_in_within_the_memory_that_was_counted: "overwritings",
    many_maps_are_taken_in_within_the_memory_that_was_counted: "maps",
    deep_maps_are_taken_in_within_the_memory_that_was_counted: "deep maps",
    long_texts_are_taken_in_within_the_memory_that_was_counted: "texts",
    changes_on_many_heads_are_taken_in_within_the_memory_that_was_counted: "many heads",
}
