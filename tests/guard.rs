//! The guard against what peers could send: honest traffic passes, and what passes doesn't end the
//! process.

mod confined;
mod forge;

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use automerge::{
    ActorId, Automerge, Change, ObjType, ROOT, ReadDoc as _, ScalarValue,
    sync::{Message, State, SyncDoc as _},
    transaction::{CommitOptions, Transactable as _},
};
use sessionmesh::replica::guard::{
    CHANGE_BYTES_MAX, DEPTH_MAX, DocumentLimits, KEY_BYTES_MAX, MEMORY_BYTES_MAX, Panicked, Part,
    Refused, check_change, check_changes, check_document, check_sync_message, contained, parts,
};
use sessionmesh::replica::ids::ACTOR_BYTES;

use forge::{bomb, chunk, chunk_of, contents, dearest, deflate, mutate};

/// What a process that judges and applies hostile input may map: far less than what the inputs ask
/// for, far more than what it needs.
const MEMORY_KIB_MAX: u64 = 768 << 10;

const DEADLINE: Duration = Duration::from_secs(120);

fn document(actor: u8) -> Automerge {
    Automerge::new().with_actor(ActorId::from([actor; ACTOR_BYTES]))
}

/// Makes one change and returns it.
fn change(doc: &mut Automerge, key: &str, value: impl Into<ScalarValue>) -> Change {
    let mut tx = doc.transaction();
    tx.put(ROOT, key, value).unwrap();
    tx.commit();
    doc.get_last_local_change().unwrap()
}

/// Does a random thing to a document that looks like ours: maps in maps, scalars, deletes.
fn act(doc: &mut Automerge, random: &mut fastrand::Rng) {
    let mut tx = doc.transaction();
    for _ in 0..random.usize(1..12) {
        let mut object = ROOT;
        for _ in 0..random.usize(..4) {
            let key = format!("map{}", random.u8(..6));
            object = match tx.get(&object, &key).unwrap() {
                Some((automerge::Value::Object(ObjType::Map), inner)) => inner,
                _ => tx.put_object(&object, &key, ObjType::Map).unwrap(),
            };
        }
        let key = format!("key{}", random.u8(..20));
        let value: ScalarValue = match random.u8(..9) {
            0 => ScalarValue::Null,
            1 => random.bool().into(),
            2 => random.i64(..).into(),
            3 => random.u64(..).into(),
            4 => ScalarValue::F64(random.f64()),
            5 => ScalarValue::Timestamp(random.i64(..)),
            6 => ScalarValue::Bytes(vec![random.u8(..); random.usize(..300)]),
            7 => "long, and the same again; ".repeat(random.usize(..40)).into(),
            _ => ScalarValue::Str(format!("é{}", random.u32(..)).into()),
        };
        if random.u8(..4) == 0 {
            tx.delete(&object, key.as_str()).unwrap();
        } else {
            tx.put(&object, key.as_str(), value).unwrap();
        }
    }
    tx.commit_with(CommitOptions::default().with_time(random.i64(..4_000_000_000) >> 11));
}

/// Returns everything that a session of three replicas puts on the wire: changes, saved documents
/// and sync messages.
fn traffic(seed: u64) -> (Vec<Change>, Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut docs: Vec<Automerge> = (1..=3).map(document).collect();
    let (mut saved, mut messages) = (Vec::new(), Vec::new());
    for _ in 0..random.usize(3..25) {
        let at = random.usize(..docs.len());
        match random.u8(..8) {
            0 => {
                let mut other = docs[random.usize(..3)].clone();
                docs[at].merge(&mut other).unwrap();
            }
            1 => {
                docs[at].empty_commit(CommitOptions::default());
            }
            2 => {
                let actor = [random.u8(..); ACTOR_BYTES];
                docs[at].set_actor(ActorId::from(actor));
            }
            3 => {
                let mut other = docs.remove(at);
                let peer = docs.last_mut().unwrap();
                let (mut ours, mut theirs) = (State::new(), State::new());
                loop {
                    let one = other.generate_sync_message(&mut ours);
                    let back = peer.generate_sync_message(&mut theirs);
                    if one.is_none() && back.is_none() {
                        break;
                    }
                    for (message, doc, state) in
                        [(one, &mut *peer, &mut theirs), (back, &mut other, &mut ours)]
                    {
                        let Some(message) = message else { continue };
                        let bytes = message.encode();
                        doc.receive_sync_message(state, Message::decode(&bytes).unwrap()).unwrap();
                        messages.push(bytes);
                    }
                }
                docs.push(other);
            }
            _ => act(&mut docs[at], &mut random),
        }
    }
    let mut changes = Vec::new();
    for doc in &docs {
        changes.extend(doc.get_changes(&[]));
        saved.push(doc.save());
        saved.push(doc.save_nocompress());
        let halfway = doc.get_changes(&[]).len() / 2;
        let mut appended = Automerge::new();
        appended.apply_changes(doc.get_changes(&[]).into_iter().take(halfway)).unwrap();
        let mut bytes = appended.save();
        for later in doc.get_changes(&appended.get_heads()) {
            bytes.extend_from_slice(later.raw_bytes());
        }
        saved.push(bytes);
    }
    (changes, saved, messages)
}

#[test]
fn honest_traffic_passes() {
    let (mut deflated, mut with_changes) = (0, 0);
    for seed in 0..150 {
        let (mut changes, saved, messages) = traffic(seed);
        let raw: Vec<Vec<u8>> = changes.iter().map(|change| change.raw_bytes().to_vec()).collect();
        let headers =
            check_changes(&raw).unwrap_or_else(|refused| panic!("seed {seed}: {refused}"));
        for (change, header) in changes.iter_mut().zip(headers) {
            assert_eq!(header.hash.0, change.hash().0);
            assert_eq!(header.actor, change.actor_id().to_bytes());
            assert_eq!(header.fingerprint(), change.actor_id().to_bytes()[..12]);
            assert_eq!(header.seq, change.seq());
            assert_eq!(header.start_op, change.start_op().get());
            assert_eq!(header.max_op(), change.max_op());
            assert_eq!(header.time, change.timestamp());
            let dependencies: Vec<_> = header.dependencies.iter().map(|hash| hash.0).collect();
            assert_eq!(dependencies, change.deps().iter().map(|hash| hash.0).collect::<Vec<_>>());
            let bytes = change.bytes().into_owned();
            deflated += usize::from(bytes[8] == 2);
            assert!(matches!(parts(&bytes).unwrap()[..], [Part::Change(_)]));
            assert_eq!(check_change(&bytes), Ok(header), "seed {seed}");
        }
        for bytes in saved {
            let loaded = Automerge::load(&bytes).unwrap();
            let header = check_document(&bytes, DocumentLimits::SNAPSHOT)
                .unwrap_or_else(|refused| panic!("seed {seed}: {refused}"));
            assert!(matches!(parts(&bytes).unwrap()[..], [Part::Document(_)]));
            let count = header.changes + header.appended.len() as u64;
            assert_eq!(count, loaded.get_changes(&[]).len() as u64);
        }
        for bytes in messages {
            let headers = check_sync_message(&bytes)
                .unwrap_or_else(|refused| panic!("seed {seed}: {refused}"));
            with_changes += usize::from(!headers.is_empty());
        }
    }
    assert!(deflated > 100, "only {deflated} deflated changes were seen");
    assert!(with_changes > 10, "only {with_changes} sync messages with changes were seen");
}

#[test]
fn a_large_honest_document_passes() {
    let mut doc = document(1);
    let mut tx = doc.transaction();
    for bucket in 0..256 {
        tx.put_object(ROOT, format!("{bucket:02x}"), ObjType::Map).unwrap();
    }
    tx.commit();
    for batch in 0..20 {
        let mut tx = doc.transaction();
        for item in 0..250 {
            let (_, bucket) = tx.get(ROOT, format!("{item:02x}")).unwrap().unwrap();
            let session = format!("ses_{batch:04}{item:06}");
            let session = tx.put_object(&bucket, session, ObjType::Map).unwrap();
            for (key, value) in [("title", "Fix the thing"), ("directory", "/home/me/project")] {
                tx.put(&session, key, value).unwrap();
            }
            tx.put(&session, "created_at", 1_795_379_110_867_i64 + batch).unwrap();
        }
        tx.commit();
    }
    let saved = doc.save();
    let header = check_document(&saved, DocumentLimits::SNAPSHOT).unwrap();
    assert_eq!(header.changes, 21);
    assert!(header.ops > 20_000, "{} operations", header.ops);
    assert_eq!(header.heads.len(), 1);
    assert!(header.appended.is_empty());
}

#[test]
fn a_change_that_inflates_without_end_is_refused_on_the_way() {
    let bomb = vec![0; 64 << 20];
    let deflated = deflate(&bomb);
    assert!(deflated.len() < 128 << 10);
    let refused = check_change(&chunk(2, &deflated)).unwrap_err();
    let limit = CHANGE_BYTES_MAX as u64;
    assert!(
        matches!(refused, Refused::TooMuch { limit: at, count, .. }
            if at == limit && count < limit + (64 << 10)),
        "{refused}"
    );
    assert_eq!(refused.code(), "too_much");
}

#[test]
fn the_changes_of_a_frame_share_one_inflate_budget() {
    let mut doc = document(1);
    let mut parts = Vec::new();
    for number in 0..10 {
        let mut tx = doc.transaction();
        for key in 0..50 {
            tx.put(ROOT, format!("{number} {key}"), "x".repeat(60 << 10)).unwrap();
        }
        tx.commit();
        parts.push(doc.get_last_local_change().unwrap().bytes().into_owned());
    }
    assert!(parts.iter().map(Vec::len).sum::<usize>() < 1 << 20, "they are small when deflated");
    assert!(check_changes(&parts[..5]).is_ok());
    assert!(matches!(check_changes(&parts), Err(Refused::TooMuch { .. })));
}

#[test]
fn a_few_bytes_cannot_claim_many_changes_or_operations() {
    let actor = [1; ACTOR_BYTES];
    let judge = |changes, ops, heads| {
        let bytes = bomb(&actor, changes, ops, heads);
        (bytes.len() as u64, check_document(&bytes, DocumentLimits::SNAPSHOT))
    };
    // What these ask automerge for is over a gigabyte, and seconds.
    for (changes, ops) in [(1_000_000, 1), (1, 1_000_000), (2_000, 1), (1, 20_000)] {
        let (bytes, judged) = judge(changes, ops, 1);
        assert!(bytes < 200, "{bytes} bytes");
        assert_eq!(judged.unwrap_err().code(), "too_much", "{changes} changes, {ops} operations");
    }
    // What is longer may hold more, and not without end.
    assert!(judge(1_000, 8_000, 1).1.is_ok());
    assert!(judge(10_000, 30_000, 400).1.is_ok());
    assert_eq!(judge(20_000, 1, 400).1.unwrap_err().code(), "too_much");

    let mut doc = document(1);
    let mut tx = doc.transaction();
    for number in 0..20_000 {
        // The same again and again: a conflict that was made to order.
        tx.put(ROOT, "k", number % 2).unwrap();
    }
    tx.commit();
    let change = doc.get_last_local_change().unwrap().bytes().into_owned();
    assert!(change.len() < 2_000, "{} bytes", change.len());
    assert_eq!(check_change(&change).unwrap_err().code(), "too_much");
}

/// Takes the mark of the most memory down to what there is now, where the system lets one.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Returns how much memory this process has had at most, in bytes.
fn peak() -> u64 {
    status("VmHWM:")
}

/// Returns how much memory this process has, in bytes.
fn resident() -> u64 {
    status("VmRSS:")
}

fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// What a document costs that passes, at the very edge of what does: so much for each of its bytes,
/// and no more however they are chosen.
#[test]
fn what_passes_is_loaded_in_a_bounded_multiple_of_its_bytes() {
    let name = "what_passes_is_loaded_in_a_bounded_multiple_of_its_bytes";
    confined::confined(name, MEMORY_KIB_MAX, DEADLINE, || {
        for heads in [1, 100, 1_000] {
            let length = bomb(&[1; ACTOR_BYTES], 10, 10, heads).len() as u64;
            let bytes = bomb(&[1; ACTOR_BYTES], 1_000 + length, 8_000 + 2 * length, heads);
            check_document(&bytes, DocumentLimits::SNAPSHOT).unwrap();
            let (before, began) = (peak(), std::time::Instant::now());
            assert_eq!(load(&bytes), Ok(false), "its heads are not those of its changes");
            let (memory, took) = (peak() - before, began.elapsed());
            announce(&format!("{} bytes take {} KiB, {took:?}", bytes.len(), memory >> 10));
            assert!(memory < (8 << 20) + 2_048 * bytes.len() as u64, "{memory} bytes");
        }
    });
}

/// Makes a test for each of the dearest documents, so that each has memory of its own.
macro_rules! dearest {
    ($($test:ident: $name:literal),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                confined::confined(stringify!($test), MEMORY_KIB_MAX, DEADLINE, || {
                    is_loaded_within_its_memory($name);
                });
            }
        )+

        #[test]
        fn each_of_the_dearest_documents_is_loaded() {
            let tested = [$($name),+];
            assert!(dearest().iter().map(|(name, ..)| *name).eq(tested));
        }
    };
}

dearest! {
    dear_changes_are_loaded_within_the_memory_that_was_counted: "changes",
    dear_messages_are_loaded_within_the_memory_that_was_counted: "messages",
    dear_operations_are_loaded_within_the_memory_that_was_counted: "operations",
    dear_keys_are_loaded_within_the_memory_that_was_counted: "keys",
    dear_overwritings_are_loaded_within_the_memory_that_was_counted: "overwritten",
    dear_maps_are_loaded_within_the_memory_that_was_counted: "maps",
    dear_texts_are_loaded_within_the_memory_that_was_counted: "texts",
}

/// However few bytes it has: what is dearer is refused, and what is not takes no more memory than was
/// counted.
fn is_loaded_within_its_memory(name: &str) {
    let all = dearest();
    let (_, passes, not) = all.iter().find(|(other, ..)| *other == name).unwrap();
    let dear = not.bytes(&[1; ACTOR_BYTES]);
    let refused = check_document(&dear, DocumentLimits::SNAPSHOT).unwrap_err();
    assert_eq!(refused.code(), "too_much");
    drop(dear);
    let bytes = passes.bytes(&[1; ACTOR_BYTES]);
    let before = resident();
    forget_peak();
    let header = check_document(&bytes, DocumentLimits::SNAPSHOT);
    let counted = header.unwrap_or_else(|refused| panic!("{name}: {refused}")).memory_bytes;
    let judged = peak() - before;
    assert_eq!(load(&bytes), Ok(false), "its heads are not those of its changes");
    let loaded = peak() - before;
    let ([judged, loaded, counted], bytes) =
        ([judged, loaded, counted].map(|bytes| bytes >> 20), bytes.len());
    let told =
        format!("{name}: {bytes} bytes: {counted} MiB, judged in {judged}, loaded in {loaded}");
    announce(&told);
    assert!(loaded <= MEMORY_BYTES_MAX >> 20 && loaded < 2 * counted, "{told}");
}

/// What hosts write is far from what is refused.
#[test]
fn a_long_history_of_many_sessions_passes() {
    let mut doc = document(1);
    for number in 0..10_000_u64 {
        let mut tx = doc.transaction();
        for key in 0..4 {
            tx.put(ROOT, format!("key {}", (number * 4 + key) % 4_000), number).unwrap();
        }
        tx.commit();
    }
    // A quarter of what is let pass, for as large a part of the 36,000 that are to pass.
    let limits = DocumentLimits { memory_bytes: MEMORY_BYTES_MAX / 4, ..DocumentLimits::SNAPSHOT };
    let header = check_document(&doc.save(), limits).unwrap();
    assert_eq!(header.changes, 10_000);
}

#[test]
fn a_document_deeper_than_any_schema_is_refused() {
    let mut doc = document(1);
    let mut tx = doc.transaction();
    let mut object = ROOT;
    for _ in 0..DEPTH_MAX {
        object = tx.put_object(&object, "inner", ObjType::Map).unwrap();
    }
    tx.commit();
    let deepest = doc.get_last_local_change().unwrap();
    assert!(check_change(deepest.raw_bytes()).is_ok());
    assert!(check_document(&doc.save(), DocumentLimits::SNAPSHOT).is_ok());

    let mut tx = doc.transaction();
    tx.put_object(&object, "inner", ObjType::Map).unwrap();
    tx.commit();
    let refused = check_document(&doc.save(), DocumentLimits::SNAPSHOT).unwrap_err();
    assert!(matches!(refused, Refused::TooMuch { what: "depth of maps", .. }), "{refused}");
}

#[test]
fn what_is_not_a_map_nor_a_scalar_is_refused() {
    for kind in [ObjType::List, ObjType::Text] {
        let mut doc = document(1);
        let mut tx = doc.transaction();
        let list = tx.put_object(ROOT, "list", kind).unwrap();
        tx.insert(&list, 0, "x").unwrap();
        tx.commit();
        let made = doc.get_last_local_change().unwrap();
        let code = check_change(made.raw_bytes()).unwrap_err().code();
        assert_eq!(code, "unused");
        let code = check_document(&doc.save(), DocumentLimits::SNAPSHOT).unwrap_err().code();
        assert_eq!(code, "unused");
    }
    let counter = change(&mut document(1), "counter", ScalarValue::counter(1));
    assert_eq!(check_change(counter.raw_bytes()), Err(Refused::Unused { what: "a counter" }));
}

#[test]
fn an_actor_that_is_not_of_our_form_is_refused() {
    for length in [1, 16, 19, 21, 32] {
        let actor = ActorId::from(vec![1; length]);
        let mut doc = Automerge::new().with_actor(actor);
        let foreign = change(&mut doc, "key", 1);
        let refused = Err(Refused::Invalid { what: "actor" });
        assert_eq!(check_change(foreign.raw_bytes()), refused);
        let refused = check_document(&doc.save(), DocumentLimits::SNAPSHOT).unwrap_err();
        assert!(
            matches!(refused, Refused::Invalid { what: "actors" } | Refused::Truncated { .. }),
            "{refused}"
        );
    }
}

#[test]
fn lengths_over_their_limit_are_refused() {
    let long = change(&mut document(1), &"k".repeat(KEY_BYTES_MAX + 1), 1);
    assert_eq!(check_change(long.raw_bytes()).unwrap_err().code(), "too_much");
    let large = change(&mut document(1), "key", "v".repeat((64 << 10) + 1));
    assert_eq!(check_change(large.raw_bytes()).unwrap_err().code(), "too_much");
    let mut doc = document(1);
    change(&mut doc, "key", 1);
    change(&mut doc, "key", 2);
    let few = DocumentLimits { changes: 1, ..DocumentLimits::SNAPSHOT };
    assert_eq!(check_document(&doc.save(), few).unwrap_err().code(), "too_much");
    let short = DocumentLimits { bytes: 10, ..DocumentLimits::SNAPSHOT };
    assert_eq!(check_document(&doc.save(), short).unwrap_err().code(), "too_much");
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let mut doc = document(1);
    let bytes = change(&mut doc, "key", "value").raw_bytes().to_vec();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(check_change(&flipped).is_err(), "bit {bit} of byte {at}");
        }
        assert!(check_change(&bytes[..at]).is_err(), "cut at {at}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(check_change(&longer), Err(Refused::LeftOver { what: "a change", count: 1 }));
}

/// Says that a file or mutation is up, so that an abort names it.
fn announce(what: &str) {
    writeln!(std::io::stderr(), "{what}").expect("stderr is there");
}

/// Gives a document that passed the guard to automerge, and saves what came of it.
fn load(bytes: &[u8]) -> Result<bool, Panicked> {
    contained(|| Automerge::load(bytes).is_ok_and(|doc| Automerge::load(&doc.save()).is_ok()))
}

/// Gives changes that passed the guard to automerge, and saves what came of it.
fn apply(doc: &Automerge, bytes: &[&[u8]]) -> Result<bool, Panicked> {
    let mut doc = doc.clone();
    contained(move || {
        let changes = bytes.iter().map(|bytes| Change::from_bytes(bytes.to_vec()));
        let Ok(changes) = changes.collect::<Result<Vec<_>, _>>() else { return false };
        doc.apply_changes(changes).is_ok() && Automerge::load(&doc.save()).is_ok()
    })
}

/// Gives a message that passed the guard to automerge, and lets it answer.
fn receive(doc: &Automerge, bytes: &[u8]) -> Result<bool, Panicked> {
    let mut doc = doc.clone();
    contained(move || {
        let mut state = State::new();
        let Ok(message) = Message::decode(bytes) else { return false };
        if doc.receive_sync_message(&mut state, message).is_err() {
            return false;
        }
        doc.generate_sync_message(&mut state);
        Automerge::load(&doc.save()).is_ok()
    })
}

/// Silences the panics that are expected and contained.
fn hush() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// The hostile suite found them: automerge panicked, which was contained.
#[test]
fn a_document_in_which_two_operations_have_one_id_is_refused() {
    for number in 1..=4 {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/hostile");
        let bytes = std::fs::read(format!("{folder}/twice-t0-{number}.bin")).unwrap();
        let refused = check_document(&bytes, DocumentLimits::SNAPSHOT).unwrap_err();
        assert_eq!(refused, Refused::Invalid { what: "an operation whose id another has" });
    }
}

#[test]
fn no_hostile_fixture_ends_the_process() {
    confined::confined("no_hostile_fixture_ends_the_process", MEMORY_KIB_MAX, DEADLINE, || {
        let mut doc = document(1);
        change(&mut doc, "key", "value");
        let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/hostile");
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "bin"));
        assert!(files.len() > 60, "only {} fixtures", files.len());
        for file in files {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            announce(&name);
            let bytes = std::fs::read(&file).unwrap();
            let outcome = if name.contains("-t0-") || name.contains("-t1-") {
                match (check_document(&bytes, DocumentLimits::SNAPSHOT), check_change(&bytes)) {
                    (Ok(_), _) => format!("load {:?}", load(&bytes).is_ok()),
                    (_, Ok(_)) => format!("apply {:?}", apply(&doc, &[&bytes]).is_ok()),
                    (Err(refused), _) => refused.code().to_owned(),
                }
            } else {
                match check_sync_message(&bytes) {
                    Ok(_) => format!("receive {:?}", receive(&doc, &bytes).is_ok()),
                    Err(refused) => refused.code().to_owned(),
                }
            };
            *outcomes.entry(outcome).or_default() += 1;
        }
        announce(&format!("{outcomes:?}"));
        assert!(!outcomes.is_empty());
    });
}

#[test]
fn no_mutation_with_a_right_checksum_ends_the_process() {
    let name = "no_mutation_with_a_right_checksum_ends_the_process";
    confined::confined(name, MEMORY_KIB_MAX, DEADLINE, || {
        hush();
        let mut random = fastrand::Rng::with_seed(12);
        let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
        let mut count = |what: &str, judged: Result<Result<bool, Panicked>, Refused>| {
            let outcome = match judged {
                Err(_) => "refused",
                Ok(Err(_)) => "contained",
                Ok(Ok(false)) => "an error",
                Ok(Ok(true)) => "taken",
            };
            *outcomes.entry(format!("{what} {outcome}")).or_default() += 1;
        };
        for seed in 0..60 {
            let (changes, _, messages) = traffic(seed);
            let mut base = Automerge::new();
            base.apply_changes(changes.iter().cloned()).unwrap();
            let earlier = Automerge::new();
            let saved = base.save_nocompress();
            for round in 0..60 {
                let at = random.usize(..changes.len());
                let mut mutated = contents(changes[at].raw_bytes()).unwrap().to_vec();
                mutate(&mut mutated, &mut random);
                let bytes = if round % 4 == 0 {
                    chunk_of(2, &deflate(&mutated), 1, &mutated)
                } else {
                    chunk(1, &mutated)
                };
                count("change", check_change(&bytes).map(|_| apply(&base, &[&bytes])));

                let mut mutated = contents(&saved).unwrap().to_vec();
                mutate(&mut mutated, &mut random);
                let bytes = chunk(0, &mutated);
                let judged = check_document(&bytes, DocumentLimits::SNAPSHOT);
                count("document", judged.map(|_| load(&bytes)));

                if let Some(message) = random.choice(&messages) {
                    let mut bytes = message.clone();
                    mutate(&mut bytes, &mut random);
                    count("message", check_sync_message(&bytes).map(|_| receive(&earlier, &bytes)));
                }
            }
        }
        announce(&format!("{outcomes:?}"));
        for what in ["change", "document", "message"] {
            let refused = outcomes.get(&format!("{what} refused")).copied().unwrap_or_default();
            assert!(refused > 100, "{what}: {refused} refused");
        }
    });
}
