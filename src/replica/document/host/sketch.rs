//! Owns the records of a host document as they are seen while it is judged.
//!
//! Must not know automerge, nor judge. Invariant: what it gives is what [`Document::records`] reads in
//! the document that was made of the same bytes. It reads what is plain; whatever is not, a delete, a
//! conflict, an end, is left to the document, and so is everything where there is a lot of it.
//!
//! It takes a fraction of a walk over the document: the bytes are gone through anyway, and nothing has
//! to be found out about an operation that is not in the way.

use super::{
    super::super::{
        guard::{self, Ahead, Item, OpId, Value, Witness},
        ids::{SessionId, WorkspaceId},
        record::{StoredSession, StoredWorkspace},
    },
    BUCKETS, Document, Records, bucket_key, bucket_of,
    read::{
        empty_session, empty_workspace, node, note, set_session_field, set_workspace_field, text,
    },
};

/// How much a sketch keeps at most, in bytes, more than most documents have: what a document may cost
/// is counted without.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// What a record takes, and what is noted of where it is.
const RECORD_BYTES: usize = 512;
/// What anything else takes beside its texts.
const ENTRY_BYTES: usize = 192;

/// What a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Root,
    Buckets,
    Bucket(usize),
    Workspaces,
    /// The record of the how-manieth session.
    Session(usize),
    /// What that record holds for newer versions.
    SessionExtra(usize),
    /// The record of the how-manieth workspace.
    Workspace(usize),
    /// What that record holds for newer versions.
    WorkspaceExtra(usize),
    /// Who keeps that workspace.
    Keepers(usize),
    Elsewhere,
}

/// The records of a document, as far as they are plain.
#[derive(Debug, Clone)]
pub struct Sketch {
    /// What the maps are that have been come by and not yet been gone through.
    ahead: Ahead<Place>,
    here: (Option<OpId>, Place),
    /// Those with `None` are to be read in the document.
    sessions: Vec<(SessionId, Option<StoredSession>)>,
    workspaces: Vec<(WorkspaceId, Option<StoredWorkspace>)>,
    /// How much it keeps.
    kept_bytes: usize,
    /// Whether all is to be read in the document.
    is_given_up: bool,
}

impl Default for Sketch {
    /// Has seen nothing.
    fn default() -> Self {
        Self {
            ahead: Ahead::default(),
            here: (None, Place::Root),
            sessions: Vec::new(),
            workspaces: Vec::new(),
            kept_bytes: 0,
            is_given_up: false,
        }
    }
}

impl Witness for Sketch {
    fn see(&mut self, item: &Item<'_>) {
        if self.is_given_up {
            return;
        }
        if self.here.0 != item.map {
            let place = item.map.and_then(|map| self.ahead.reach(map));
            self.here = (item.map, place.unwrap_or(Place::Elsewhere));
        }
        self.keep(item);
        if self.is_given_up {
            return;
        }
        let is_map = item.value == Value::Map && !item.is_contested;
        match self.here.1 {
            Place::Root => match item.key {
                "sessions" => self.expect(item, is_map, Place::Buckets),
                "workspaces" => self.expect(item, is_map, Place::Workspaces),
                _ => {}
            },
            Place::Buckets => {
                let number = usize::from_str_radix(item.key, 16).unwrap_or(BUCKETS);
                if number < BUCKETS && item.key == bucket_key(number) {
                    self.expect(item, is_map, Place::Bucket(number));
                }
            }
            Place::Bucket(number) => {
                let Ok(id) = item.key.parse::<SessionId>() else { return };
                let is_plain = is_map && bucket_of(&id) == number;
                let place = Place::Session(self.sessions.len());
                self.expect_record(item, is_plain, place);
                self.sessions.push((id, is_plain.then(empty_session)));
            }
            Place::Workspaces => {
                let Ok(id) = item.key.parse::<WorkspaceId>() else { return };
                self.expect_record(item, is_map, Place::Workspace(self.workspaces.len()));
                self.workspaces.push((id, is_map.then(empty_workspace)));
            }
            Place::Session(index) => {
                let session = &mut self.sessions[index].1;
                match item.key {
                    "extra" if is_map => {
                        self.ahead.expect(item.id, Place::SessionExtra(index));
                    }
                    "extra" | "deleted" => *session = None,
                    _ if item.is_contested => *session = None,
                    key => {
                        if let Some(session) = session {
                            set_session_field(session, key, item.value);
                        }
                    }
                }
            }
            Place::SessionExtra(index) => {
                if let Some(session) = &mut self.sessions[index].1 {
                    session.extra.extend(entry(item));
                }
            }
            Place::Workspace(index) => {
                let workspace = &mut self.workspaces[index].1;
                match item.key {
                    "extra" if is_map => {
                        self.ahead.expect(item.id, Place::WorkspaceExtra(index));
                    }
                    // Each workspace is made with it, and few are kept.
                    "keepers" if is_map => {
                        self.ahead.expect(item.id, Place::Keepers(index));
                    }
                    "extra" | "teardown" | "keepers" | "requests" | "dismissals" => {
                        *workspace = None;
                    }
                    _ if item.is_contested => *workspace = None,
                    key => {
                        if let Some(workspace) = workspace {
                            set_workspace_field(workspace, key, item.value);
                        }
                    }
                }
            }
            Place::WorkspaceExtra(index) => {
                if let Some(workspace) = &mut self.workspaces[index].1 {
                    workspace.extra.extend(entry(item));
                }
            }
            Place::Keepers(index) => {
                if let Some(workspace) = &mut self.workspaces[index].1 {
                    workspace.keepers.extend(note(item.key, item.value, node));
                }
            }
            Place::Elsewhere => {}
        }
    }
}

impl Sketch {
    /// Sketches a saved document, unless it is one that a peer would be refused.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut sketch = Self::default();
        let limits = guard::DocumentLimits::SNAPSHOT;
        let judged =
            guard::contained(|| guard::check_document_before(bytes, limits, &mut sketch)).ok()?;
        judged.ok()?.appended.is_empty().then_some(sketch)
    }

    /// Counts what is kept of an item, and gives up where that is too much.
    fn keep(&mut self, item: &Item<'_>) {
        let text = text(item.value).map_or(0, str::len);
        self.kept_bytes += match self.here.1 {
            Place::Elsewhere => 0,
            Place::Bucket(_) | Place::Workspaces => RECORD_BYTES + item.key.len(),
            // Of fields only what they hold is kept.
            Place::Session(_) | Place::Workspace(_) if !matches!(item.key, "extra" | "keepers") => {
                text
            }
            _ => ENTRY_BYTES + item.key.len() + text,
        };
        if self.kept_bytes > KEPT_BYTES_MAX {
            *self = Self { is_given_up: true, ..Self::default() };
        }
    }

    /// Notes a map without which nothing can be read.
    fn expect(&mut self, item: &Item<'_>, is_map: bool, place: Place) {
        if is_map {
            self.ahead.expect(item.id, place);
        } else {
            self.is_given_up = true;
        }
    }

    fn expect_record(&mut self, item: &Item<'_>, is_plain: bool, place: Place) {
        if is_plain {
            self.ahead.expect(item.id, place);
        }
    }

    /// Returns all records of the document that was made of what was seen.
    pub fn records(self, document: &Document) -> Records {
        let places = document.host_places();
        if self.is_given_up || planted!(PurgeUndone) {
            return document.records();
        }
        let sessions = self.sessions.into_iter().map(|(id, seen)| {
            let seen = seen.filter(|_| !places.graves.sessions.has(id.as_str()));
            let session = seen.or_else(|| document.session(&id));
            (id, session)
        });
        let workspaces = self.workspaces.into_iter().map(|(id, seen)| {
            let seen = seen.filter(|_| !places.graves.workspaces.has(id.as_str()));
            let workspace = seen.or_else(|| document.workspace(&id));
            (id, workspace)
        });
        Records { sessions: sessions.collect(), workspaces: workspaces.collect() }
    }
}

fn entry(item: &Item<'_>) -> Option<(String, String)> {
    Some((item.key.to_owned(), text(item.value)?.to_owned()))
}

#[cfg(test)]
mod tests {
    use automerge::{ObjType, ROOT, transaction::Transactable as _};

    use super::{
        super::{
            GRAVE, GRAVES,
            graves::{Graves, write_row},
            map_at,
        },
        *,
    };
    use crate::replica::{
        ids::{NodeId, StartId},
        record::{Deletion, Ended, Teardown, TeardownAction, TeardownState},
    };

    const HOST: NodeId = NodeId([1; 32]);

    /// Writes something to a few records, as writers do and as nobody should.
    fn write(document: &mut Document, random: &mut fastrand::Rng) {
        let session: SessionId = format!("s{}", random.u8(..6)).parse().unwrap();
        let workspace: WorkspaceId = format!("w{}", random.u8(..4)).parse().unwrap();
        let places = document.host_places().clone();
        let (bucket, elsewhere) = (places.bucket(&session), &places.buckets[random.usize(..256)]);
        let operation = format!("op{}", random.u8(..3)).parse().unwrap();
        let text = format!("text {}", random.u8(..));
        let number = random.i64(..);
        let kind = random.u8(..20);
        document.commit_unjudged(0, |tx| match kind {
            // Fields of every type, at keys that are known and at others.
            0..=3 => {
                let records =
                    [(bucket, session.as_str()), (&places.workspaces, workspace.as_str())];
                let (map, id) = records[usize::from(kind % 2)];
                let record = tx.put_object(map, id, ObjType::Map)?;
                for key in ["title", "name", "created_at", "used", "agent_server", "unknown"] {
                    match random.u8(..6) {
                        0 => tx.put(&record, key, number)?,
                        1 => tx.put(&record, key, number % 2 == 0)?,
                        2 => drop(tx.put_object(&record, key, ObjType::Map)?),
                        3 => {}
                        _ => tx.put(&record, key, text.as_str())?,
                    }
                }
                match random.u8(..4) {
                    0 | 1 => {
                        let extra = tx.put_object(&record, "extra", ObjType::Map)?;
                        tx.put(&extra, "key", text.as_str())?;
                        tx.put(&extra, "number", number)?;
                        tx.put_object(&extra, "map", ObjType::Map)?;
                    }
                    2 => tx.put(&record, "extra", number)?,
                    _ => {}
                }
                match random.u8(..4) {
                    0 | 1 => {
                        let keepers = tx.put_object(&record, "keepers", ObjType::Map)?;
                        tx.put(&keepers, format!("op{}", random.u8(..3)), HOST.to_string())?;
                        tx.put(&keepers, format!("op{}", random.u8(..3)), text.as_str())?;
                        tx.put(&keepers, format!("op{}", random.u8(..3)), number)?;
                    }
                    2 => tx.put(&record, "keepers", number)?,
                    _ => {}
                }
                Ok(())
            }
            4 => tx.put_object(elsewhere, session.as_str(), ObjType::Map).map(drop),
            5 => tx.put(bucket, "not an id", number),
            _ => {
                let mut writer = super::super::Writer::new(tx, &places, None);
                let teardown = |state| Teardown {
                    state,
                    incarnation: 1,
                    at: number,
                    error: None,
                    kept_until: (number % 2 == 0).then_some(number),
                };
                match kind {
                    6 | 7 => writer.delete_session(
                        &session,
                        &Deletion { by: HOST, at: 1, operation, reason: None },
                    ),
                    8 => writer.restore_session(&session),
                    9 => writer.purge_session(&session, number % 2 == 0),
                    10 => writer.keep(
                        &workspace,
                        &operation,
                        [HOST, NodeId([2; 32])][random.usize(..2)],
                    ),
                    15 => writer.unkeep(&workspace),
                    11 => writer.dismiss(&workspace, &operation, true),
                    12 => writer.set_teardown(&workspace, &teardown(TeardownState::Failed)),
                    13 => writer.request_teardown(&workspace, &operation, TeardownAction::Retry),
                    14 => writer.use_workspace(&workspace),
                    17 => writer.keep_in_trash(&workspace.as_str().parse().unwrap(), &text),
                    18 => writer.drop_from_trash(&workspace.as_str().parse().unwrap()),
                    19 => {
                        let id = workspace.as_str().parse().unwrap();
                        writer.request_restore(&id, &operation, HOST)
                    }
                    _ => writer.remove_workspace(
                        &workspace,
                        &Ended {
                            incarnation: 1,
                            at: 0,
                            action: TeardownAction::Retry,
                            done: String::new(),
                            kept_until: None,
                        },
                    ),
                }
            }
        });
    }

    /// Leaves graves as an epoch before would have.
    fn dig(document: &mut Document) {
        document.commit_unjudged(0, |tx| {
            let meta = map_at(tx, &ROOT, "meta").unwrap();
            let all = tx.put_object(&meta, GRAVES, ObjType::Map)?;
            for (kind, id) in [("sessions", "s0"), ("workspaces", "w0")] {
                let map = tx.put_object(&all, kind, ObjType::Map)?;
                let mut graves = Graves::default();
                graves.insert(id, GRAVE);
                for row in graves.rows() {
                    write_row(tx, &map, &row)?;
                }
            }
            Ok(())
        });
    }

    #[test]
    fn what_is_seen_in_the_bytes_is_what_a_walk_over_the_document_reads() {
        let (mut plain, mut kept, mut left) = (0, 0, 0);
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let actor = |start| super::super::super::actor(&HOST, StartId([start; 8]));
            let (mut one, _) = Document::create_host(HOST, 0, actor(1), 0);
            let id = one.id();
            if random.bool() {
                dig(&mut one);
                one = Document::load(id, actor(3), Some(&one.save()), &[], &[]).unwrap();
            }
            let mut other = Document::load(id, actor(2), Some(&one.save()), &[], &[]).unwrap();
            for _ in 0..random.usize(1..40) {
                match random.u8(..8) {
                    0 => drop(one.automerge.merge(&mut other.automerge).unwrap()),
                    1 => drop(other.automerge.merge(&mut one.automerge).unwrap()),
                    2..=4 => write(&mut other, &mut random),
                    _ => write(&mut one, &mut random),
                }
            }
            one.automerge.merge(&mut other.automerge).unwrap();
            let sketch = Sketch::of(&one.save()).expect("a peer would take it");
            assert!(!sketch.is_given_up, "seed {seed}");
            plain += sketch.sessions.iter().filter(|(_, seen)| seen.is_some()).count();
            plain += sketch.workspaces.iter().filter(|(_, seen)| seen.is_some()).count();
            let seen = sketch.workspaces.iter().filter_map(|(_, seen)| seen.as_ref());
            kept += seen.filter(|seen| !seen.keepers.is_empty()).count();
            left += sketch.sessions.iter().filter(|(_, seen)| seen.is_none()).count();
            left += sketch.workspaces.iter().filter(|(_, seen)| seen.is_none()).count();
            assert_eq!(sketch.records(&one).by_id(), one.records().by_id(), "seed {seed}");
        }
        assert!(plain > 200 && left > 200, "{plain} were plain, {left} were not");
        assert!(kept > 20, "{kept} of the plain had keepers");
    }

    #[test]
    fn where_there_is_a_lot_everything_is_read_in_the_document() {
        let actor = super::super::super::actor(&HOST, StartId([1; 8]));
        let (plain, _) = Document::create_host(HOST, 0, actor.clone(), 0);
        let places = plain.host_places().clone();
        let full = KEPT_BYTES_MAX / RECORD_BYTES + 1;
        for (records, extras) in [(full, 0), (1, KEPT_BYTES_MAX / ENTRY_BYTES + 1)] {
            let bytes = plain.save();
            let mut document =
                Document::load(plain.id(), actor.clone(), Some(&bytes), &[], &[]).unwrap();
            document.commit_unjudged(0, |tx| {
                for number in 0..records {
                    let key = format!("w{number}");
                    let record = tx.put_object(&places.workspaces, key, ObjType::Map)?;
                    let extra = tx.put_object(&record, "extra", ObjType::Map)?;
                    for number in 0..extras {
                        tx.put(&extra, format!("{number}"), "")?;
                    }
                }
                Ok(())
            });
            let sketch = Sketch::of(&document.save()).expect("a peer would take it");
            assert!(sketch.is_given_up && sketch.workspaces.is_empty() && sketch.kept_bytes == 0);
            assert_eq!(sketch.records(&document).workspaces.len(), records);
        }
    }
}
