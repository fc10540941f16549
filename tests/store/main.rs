//! The store as a stranger would use it.

mod damage;
#[expect(dead_code, reason = "the simulator uses more of it")]
mod disk;
mod faults;
mod kill;
mod workload;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use automerge::{AutoCommit, ROOT, transaction::Transactable};
use sessionmesh::{
    replica::{
        effect::Write,
        ids::{ChangeHash, Cursor, DocumentId, FleetId, NodeId, StartId},
        invite::StoredInvite,
        receipt::StoredReceipt,
        record::Role,
    },
    store::{
        Error, JOURNAL_BYTES_MAX, JOURNAL_ENTRIES_MAX, OpenError, Store,
        compact::{self, Plan},
    },
};
use workload::{Contents, REAL, Step, body, perform, program, receipt, voucher};

const FLEET: DocumentId = DocumentId::Host { host: NodeId([9; 32]), epoch: 0 };

fn change(document: DocumentId, bytes: &[u8]) -> Write {
    Write::Change { document, bytes: bytes.to_vec() }
}

fn entry(sequence: u64, body: &str) -> Write {
    Write::Journal { cursor: cursor(sequence), body: body.into() }
}

fn vouched(document: DocumentId, actor: u8, seq: u64) -> Write {
    Write::Voucher { document, voucher: voucher(actor, seq) }
}

fn cursor(sequence: u64) -> Cursor {
    Cursor { sequence, start: StartId([5; 8]) }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn file(folder: &Path) -> PathBuf {
    folder.join("state.redb")
}

#[test]
fn each_kind_of_write_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (node, other) = (NodeId([1; 32]), NodeId([2; 32]));
    let epoch = |epoch| DocumentId::Host { host: node, epoch };
    let invite = StoredInvite { role: Role::Reader, expires_at: -5, redeemed_by: None };
    let redeemed = StoredInvite { redeemed_by: Some(other), ..invite.clone() };
    let (first, second) = (receipt("rcp_1", node), receipt("rcp_2", other));
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(Contents::of(&store).unwrap(), Contents::default());
    store
        .commit(&[
            Write::Statement { number: 0, bytes: b"of another fleet".to_vec() },
            Write::Fleet(FleetId([3; 16])),
            Write::Statement { number: 0, bytes: b"founded".to_vec() },
            Write::Statement { number: 1, bytes: b"admitted".to_vec() },
            change(FLEET, b"f1"),
            change(epoch(0), b"a1"),
            change(epoch(1), b"b1"),
            change(epoch(0), b"a2"),
            vouched(epoch(1), 1, 1),
            Write::Snapshot { document: epoch(1), bytes: b"whole".to_vec() },
            change(epoch(1), b"b2"),
            vouched(epoch(1), 2, 7),
            vouched(epoch(1), 2, 8),
            vouched(epoch(1), 3, 1),
            change(epoch(2), b"c1"),
            vouched(epoch(2), 1, 1),
            Write::Forget { document: epoch(2) },
            Write::Contact { node, addresses: ["10.0.0.1:7177".to_owned()].into() },
            Write::Contact { node: other, addresses: ["10.0.0.2:7177".to_owned()].into() },
            Write::Contact { node, addresses: Default::default() },
            Write::Hidden { host: node, since: Some(-1) },
            Write::Hidden { host: other, since: Some(7) },
            Write::Hidden { host: node, since: None },
            Write::Paused { node, paused: true },
            Write::Paused { node: other, paused: true },
            Write::Paused { node, paused: false },
            Write::Invite { secret_hash: [1; 32], invite: Some(invite.clone()) },
            Write::Invite { secret_hash: [2; 32], invite: Some(invite) },
            Write::Invite { secret_hash: [1; 32], invite: Some(redeemed.clone()) },
            Write::Invite { secret_hash: [2; 32], invite: None },
            Write::Recovering(true),
            Write::Receipt { id: first.id.clone(), receipt: Some(first.clone()) },
            Write::Receipt { id: second.id.clone(), receipt: Some(second.clone()) },
            Write::Applied { receipt: first.id.clone(), member: other },
            Write::Applied { receipt: second.id.clone(), member: other },
            Write::Receipt { id: second.id.clone(), receipt: None },
            entry(1, &body(1)),
            entry(2, &body(2)),
        ])
        .unwrap();
    let told = StoredReceipt { applied: [node, other].into(), ..first.clone() };
    let expected = Contents {
        archived: Default::default(),
        fleet: Some(FleetId([3; 16])),
        documents: [
            (FLEET, (None, vec![b"f1".to_vec()])),
            (epoch(0), (None, vec![b"a1".to_vec(), b"a2".to_vec()])),
            (epoch(1), (Some(b"whole".to_vec()), vec![b"b2".to_vec()])),
        ]
        .into(),
        vouchers: [voucher(2, 8), voucher(3, 1)]
            .map(|voucher| ((epoch(1), voucher.actor), voucher))
            .into(),
        paused: [other].into(),
        contacts: [(other, ["10.0.0.2:7177".to_owned()].into())].into(),
        hidden: [(other, 7)].into(),
        invites: [([1; 32], redeemed)].into(),
        receipts: [(first.id.clone(), told)].into(),
        cursor: Some(cursor(2)),
        digest: Some(format!("{:032x}", 62)),
        journal: vec![(cursor(1), body(1)), (cursor(2), body(2))],
        recovering: true,
        statements: vec![b"founded".to_vec(), b"admitted".to_vec()],
    };
    assert_eq!(Contents::of(&store).unwrap(), expected);
    let size_bytes = store.size_bytes().unwrap();
    assert_eq!(size_bytes, fs::metadata(file(folder.path())).unwrap().len());
    drop(store);

    let store = Store::open(folder.path()).unwrap();
    assert_eq!(Contents::of(&store).unwrap(), expected);
    store.commit(&[change(epoch(0), b"a3"), Write::Recovering(false)]).unwrap();
    assert!(!Contents::of(&store).unwrap().recovering);
    let changes = &Contents::of(&store).unwrap().documents[&epoch(0)].1;
    assert_eq!(changes, &[b"a1".to_vec(), b"a2".to_vec(), b"a3".to_vec()]);
}

#[test]
fn a_reset_journal_is_empty_and_counts_on_from_its_base() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.commit(&[entry(1, &body(1)), Write::ResetJournal { cursor: cursor(7) }]).unwrap();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    let contents = Contents::of(&store).unwrap();
    assert_eq!((contents.cursor, contents.digest), (Some(cursor(7)), None));
    assert!(contents.journal.is_empty());
    store.commit(&[entry(8, &body(8))]).unwrap();
    let contents = Contents::of(&store).unwrap();
    assert_eq!((contents.cursor, contents.journal.len()), (Some(cursor(8)), 1));
}

#[test]
fn random_programs_leave_what_the_model_says() {
    for seed in 100..110 {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = Contents::default();
        for steps in program(seed, 30).chunks(7) {
            let store = Store::open(folder.path()).unwrap();
            assert_eq!(Contents::of(&store).unwrap(), expected, "seed {seed}");
            for step in steps {
                perform(&store, step).unwrap();
                expected.apply(step);
            }
            assert_eq!(Contents::of(&store).unwrap(), expected, "seed {seed}");
            let held = store.backlogs().unwrap();
            assert_eq!(held.len(), expected.documents.len(), "seed {seed}");
            for backlog in held {
                let (snapshot, changes) = &expected.documents[&backlog.document];
                let bytes: usize = changes.iter().map(Vec::len).sum();
                assert_eq!(backlog.changes, changes.len() as u64, "seed {seed}");
                assert_eq!(backlog.change_bytes, bytes as u64, "seed {seed}");
                let snapshot_bytes = snapshot.as_ref().map_or(0, Vec::len);
                assert_eq!(backlog.snapshot_bytes, snapshot_bytes as u64, "seed {seed}");
            }
        }
    }
}

#[test]
fn a_commit_tells_the_backlog_of_what_it_touched() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.commit(&[change(FLEET, b"12345")]).unwrap();
    let committed = store.commit(&[change(REAL, b"1"), change(REAL, b"23")]).unwrap();
    let [backlog] = committed.backlogs[..] else { panic!("{committed:?}") };
    assert_eq!((backlog.document, backlog.changes, backlog.change_bytes), (REAL, 2, 3));
    assert!(store.commit(&[Write::Forget { document: REAL }]).unwrap().backlogs.is_empty());
    assert!(store.commit(&[]).unwrap().backlogs.is_empty());
}

/// A document whose changes go into a store, one commit each.
struct Writer(AutoCommit);

impl Writer {
    fn new() -> Self {
        Self(AutoCommit::new().with_actor(vec![1; 20].into()))
    }

    fn write(&mut self, store: &Store, values: std::ops::Range<i64>) {
        for value in values {
            self.0.put(ROOT, format!("key{}", value % 10), value).unwrap();
            let bytes = self.0.get_last_local_change().unwrap().raw_bytes().to_vec();
            store.commit(&[change(REAL, &bytes)]).unwrap();
        }
    }

    fn heads(&mut self) -> Vec<ChangeHash> {
        self.0.get_heads().into_iter().map(|head| ChangeHash(head.0)).collect()
    }
}

/// Rebuilds the document that a store holds; returns its heads and how many changes were stored.
fn rebuild(store: &Store) -> (Vec<ChangeHash>, usize) {
    let stored = store.load().unwrap();
    let stored = stored.documents.into_iter().find(|stored| stored.id == REAL).unwrap();
    let mut document = AutoCommit::load(&stored.snapshot.unwrap_or_default()).unwrap();
    for bytes in &stored.changes {
        document.load_incremental(bytes).unwrap();
    }
    let heads = document.get_heads().into_iter().map(|head| ChangeHash(head.0)).collect();
    (heads, stored.changes.len())
}

fn plan(store: &Store) -> Plan {
    store.plan(REAL).unwrap().unwrap()
}

#[test]
fn a_compaction_keeps_the_document_and_what_was_written_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let mut writer = Writer::new();
    assert_eq!(store.plan(REAL).unwrap(), None);
    for round in 0..3 {
        writer.write(&store, round * 100..round * 100 + 40);
        let plan = plan(&store);
        let (snapshot, heads) = (writer.0.save(), writer.heads());
        writer.write(&store, round * 100 + 40..round * 100 + 45);
        let verified = compact::verify(plan, snapshot.clone(), &heads).unwrap();
        writer.write(&store, round * 100 + 45..round * 100 + 47);
        let committed = store.replace(&verified).unwrap();
        assert_eq!((committed.backlogs[0].document, committed.backlogs[0].changes), (REAL, 7));
        assert_eq!(committed.backlogs[0].snapshot_bytes, snapshot.len() as u64);
        assert_eq!(rebuild(&store), (writer.heads(), 7));
        drop(store);
        store = Store::open(folder.path()).unwrap();
        assert_eq!(rebuild(&store), (writer.heads(), 7));
    }
}

#[test]
fn changes_written_by_another_thread_during_compactions_all_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut writer = Writer::new();
    writer.write(&store, 0..1);
    let shared = std::sync::Mutex::new(writer);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for value in 1..200 {
                shared.lock().unwrap().write(&store, value..value + 1);
            }
        });
        loop {
            let last = writing.is_finished();
            if let Some(plan) = store.plan(REAL).unwrap() {
                let (snapshot, heads) = {
                    let mut writer = shared.lock().unwrap();
                    (writer.0.save(), writer.heads())
                };
                store.replace(&compact::verify(plan, snapshot, &heads).unwrap()).unwrap();
                let mut writer = shared.lock().unwrap();
                assert_eq!(rebuild(&store).0, writer.heads());
            }
            if last {
                break;
            }
        }
    });
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(rebuild(&store).0, shared.into_inner().unwrap().heads());
}

#[test]
fn a_snapshot_that_is_not_the_document_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut writer = Writer::new();
    writer.write(&store, 0..5);
    let (older, heads) = (writer.0.save(), writer.heads());
    writer.write(&store, 5..6);
    let newer_heads = writer.heads();
    let refusal =
        |snapshot, heads: &[_]| compact::verify(plan(&store), snapshot, heads).unwrap_err();
    assert!(matches!(refusal(older.clone(), &newer_heads), Error::Differs { .. }));
    let mut broken = older.clone();
    *broken.last_mut().unwrap() ^= 1;
    assert!(matches!(refusal(broken, &heads), Error::Unreadable { .. }));
    assert!(matches!(refusal(older[..40].to_vec(), &heads), Error::Unreadable { .. }));
    assert_eq!(rebuild(&store), (newer_heads, 6));
}

#[test]
fn a_compaction_that_was_overtaken_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut writer = Writer::new();
    writer.write(&store, 0..5);
    let mut verified = || {
        let plan = plan(&store);
        let heads = writer.heads();
        compact::verify(plan, writer.0.save(), &heads).unwrap()
    };
    let refused = |verified| {
        let before = Contents::of(&store).unwrap();
        let error = store.replace(&verified).unwrap_err();
        assert!(matches!(error, Error::Superseded { document: REAL }), "{error}");
        assert_eq!(Contents::of(&store).unwrap(), before);
    };

    let (first, second) = (verified(), verified());
    store.replace(&second).unwrap();
    refused(first);

    store.commit(&[change(REAL, b"x")]).unwrap();
    let overtaken = verified();
    store.commit(&[Write::Snapshot { document: REAL, bytes: b"whole".to_vec() }]).unwrap();
    store.commit(&[change(REAL, b"y")]).unwrap();
    refused(overtaken);

    let overtaken = verified();
    store.commit(&[Write::Forget { document: REAL }]).unwrap();
    store.commit(&[change(REAL, b"z")]).unwrap();
    refused(overtaken);
}

#[test]
fn the_journal_keeps_the_newest_entries_up_to_its_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let last = JOURNAL_ENTRIES_MAX + 25;
    for first in (1..=last).step_by(1_000) {
        let numbers = first..=last.min(first + 999);
        store
            .commit(&numbers.map(|number| entry(number, &body(number))).collect::<Vec<_>>())
            .unwrap();
    }
    let kept: Vec<_> = store.journal().unwrap().iter().map(|entry| entry.cursor.sequence).collect();
    assert_eq!(kept, (26..=last).collect::<Vec<_>>());
    drop(store);

    let store = Store::open(folder.path()).unwrap();
    let wide = |number: u64| body(number).replace("[]", &format!("[\"{}\"]", "x".repeat(1 << 20)));
    let first = last + 1;
    for number in first..first + 12 {
        store.commit(&[entry(number, &wide(number))]).unwrap();
    }
    let kept = store.journal().unwrap();
    let bytes: usize = kept.iter().map(|entry| entry.body.len()).sum();
    assert!(bytes as u64 <= JOURNAL_BYTES_MAX && kept.len() == 3, "{} of {bytes}", kept.len());
    assert_eq!(kept.last().unwrap().cursor, cursor(first + 11));

    let huge = "x".repeat(JOURNAL_BYTES_MAX as usize);
    let huge = body(first + 12).replace("[]", &format!("[\"{huge}\"]"));
    store.commit(&[entry(first + 12, &huge)]).unwrap();
    assert_eq!(store.journal().unwrap().len(), 1);
    assert_eq!(store.load().unwrap().cursor, Some(cursor(first + 12)));
}

#[test]
fn a_second_store_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(matches!(&error, OpenError::InUse { path } if *path == file(folder.path())));
    assert!(error.to_string().contains("is in use by another sessionmesh"), "{error}");
    store.commit(&[change(FLEET, b"1")]).unwrap();
    drop(store);
    assert_eq!(Store::open(folder.path()).unwrap().load().unwrap().documents.len(), 1);
}

#[test]
fn of_many_that_make_the_same_store_at_once_exactly_one_has_it() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let barrier = std::sync::Barrier::new(4);
        let opened: Vec<_> = std::thread::scope(|scope| {
            let open = || {
                barrier.wait();
                let store = Store::open(folder.path())?;
                store.commit(&[change(FLEET, b"1")]).unwrap();
                Ok(store)
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let refused = opened.iter().filter(|opened| matches!(opened, Err(OpenError::InUse { .. })));
        assert_eq!(refused.count(), 3, "{opened:?}");
        drop(opened);
        assert_eq!(Store::open(folder.path()).unwrap().load().unwrap().documents.len(), 1);
    }
}

#[test]
fn a_first_start_that_was_cut_off_does_not_stand_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("state.redb.new");
    fs::write(&new, vec![0; 70_000]).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.commit(&[change(FLEET, b"1")]).unwrap();
    assert!(!new.exists());
    drop(store);
    assert_eq!(Store::open(folder.path()).unwrap().load().unwrap().documents.len(), 1);
}

#[test]
fn folder_and_file_are_made_for_this_user_alone_and_looser_ones_refused() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("a/b");
    drop(Store::open(&folder).unwrap());
    assert_eq!((mode(&folder), mode(&file(&folder))), (0o700, 0o600));

    for (path, loose, remedy) in [
        (file(&folder), 0o640, "600"),
        (file(&folder), 0o604, "600"),
        (folder.clone(), 0o750, "700"),
    ] {
        let kept = mode(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(loose)).unwrap();
        let error = Store::open(&folder).unwrap_err();
        assert!(matches!(&error, OpenError::Loose { mode, .. } if *mode == loose), "{error}");
        let advice = format!("chmod {remedy} '{}'", path.display());
        assert!(error.to_string().contains(&advice), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(kept)).unwrap();
        Store::open(&folder).unwrap();
    }
}

#[test]
fn an_empty_folder_that_is_open_to_others_is_closed_to_them() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    Store::open(folder.path()).unwrap();
    assert_eq!(mode(folder.path()), 0o700);
}

#[test]
fn a_folder_or_file_that_cannot_be_one_is_named() {
    let outer = tempfile::tempdir().unwrap();
    let in_the_way = outer.path().join("file");
    fs::write(&in_the_way, "").unwrap();
    for folder in [in_the_way.clone(), in_the_way.join("below")] {
        let error = Store::open(&folder).unwrap_err();
        assert!(
            matches!(&error, OpenError::NotWritable { path, .. } if *path == folder),
            "{error}"
        );
    }
    let folder = outer.path().join("folder");
    drop(Store::open(&folder).unwrap());
    fs::remove_file(file(&folder)).unwrap();
    fs::create_dir(file(&folder)).unwrap();
    let error = Store::open(&folder).unwrap_err();
    assert!(
        matches!(&error, OpenError::NotWritable { path, .. } if *path == file(&folder)),
        "{error}"
    );
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path()).unwrap());
    let table = redb::TableDefinition::<&str, &[u8]>::new("settings");
    let database = redb::Database::open(file(folder.path())).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(table).unwrap().insert("schema", [0, 0, 0, 9].as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    for _ in 0..2 {
        let error = Store::open(folder.path()).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found: 9, known: 1, .. }), "{error}");
    }
}

#[test]
fn a_damaged_file_is_named_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for step in program(5, 10) {
        let Step::Commit(writes) = step else { continue };
        store.commit(&writes).unwrap();
    }
    drop(store);
    let path = file(folder.path());
    let bytes = fs::read(&path).unwrap();
    let garbage = b"something else".repeat(6_000);
    for damaged in [&bytes[..bytes.len() / 2], &bytes[..100], &garbage] {
        fs::write(&path, damaged).unwrap();
        let error = Store::open(folder.path()).unwrap_err();
        assert!(
            matches!(&error, OpenError::Damaged { path: named, .. } if *named == path),
            "{error}"
        );
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        assert_eq!(fs::read(&path).unwrap(), damaged);
    }
    fs::write(&path, &bytes).unwrap();
    Store::open(folder.path()).unwrap();
}
