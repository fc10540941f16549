//! Owns writing a host document anew, without its history: the host's next epoch.
//!
//! Must not know when that is worth it. Invariants: the new document reads as the old one does, what
//! a newer version has put there goes along, and what was purged or gone stays so; each change keeps
//! to the limits by which peers judge it.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{
    Automerge, ObjId, ObjType, ROOT, ReadDoc,
    transaction::{CommitOptions, Transactable, Transaction},
};

use super::{
    super::{
        super::ids::{DocumentId, SessionId, TrashId, WorkspaceId},
        Vouchers,
    },
    AllGraves, Applied, Document, Done, GRAVES, Standing,
    carried::{self, Epoch},
    description::{SELF, Said},
    graves::{self, Row},
    map_at, trash,
    tree::{self, DELETED, Node, Tree},
};

/// In a deletion that was carried into this document: the marks that it stands for, by epoch.
pub(super) const ORIGINS: &str = "carried";
/// Most operations that one change of a rewritten document has: a quarter of what peers take.
pub(super) const OPS_MAX: usize = 16_384;
/// Most bytes of text that it has: peers refuse a change of more than 4 MiB.
pub(super) const BYTES_MAX: usize = 1 << 20;

/// One thing to be written into the new document.
enum Step<'a> {
    Beside(Option<&'static str>, String, Node),
    Session(SessionId, Tree),
    Workspace(WorkspaceId, Tree),
    Trash(TrashId, String, Tree),
    Grave(&'static str, Row<'a>),
    Carried(u32, &'a Epoch),
    Said(Said),
}

impl Step<'_> {
    fn weight(&self) -> (usize, usize) {
        match self {
            Self::Beside(_, _, Node::Map(tree))
            | Self::Session(_, tree)
            | Self::Workspace(_, tree) => tree::weight(tree),
            Self::Beside(..) => (1, 0),
            Self::Trash(_, summary, requests) => {
                let (ops, bytes) = tree::weight(requests);
                (ops + 3, bytes + summary.len())
            }
            Self::Grave(_, row) => (2, row.bytes()),
            Self::Said(said) => said.weight(),
            Self::Carried(_, epoch) => {
                /// An actor or a head, in hexadecimal.
                const KEY_BYTES: usize = 64;
                let entries = epoch.seqs.len() + epoch.heads.len();
                (entries, entries * KEY_BYTES)
            }
        }
    }

    fn write(&self, tx: &mut Transaction<'_>, places: &super::Places, meta: &ObjId) -> Done {
        match self {
            Self::Beside(place, key, node) => {
                let object = place.map_or(&ROOT, |_| meta);
                tree::write_node(tx, object, key, node)
            }
            Self::Session(id, record) => {
                let object = tx.put_object(places.bucket(id), id.as_str(), ObjType::Map)?;
                tree::write(tx, &object, record)
            }
            Self::Workspace(id, record) => {
                let object = tx.put_object(&places.workspaces, id.as_str(), ObjType::Map)?;
                tree::write(tx, &object, record)
            }
            Self::Trash(id, summary, requests) => {
                trash::write_new(tx, places, id, summary, requests)
            }
            Self::Grave(kind, row) => {
                let graves = match map_at(tx, meta, GRAVES) {
                    Some(graves) => graves,
                    None => tx.put_object(meta, GRAVES, ObjType::Map)?,
                };
                let map = match map_at(tx, &graves, kind) {
                    Some(map) => map,
                    None => tx.put_object(&graves, *kind, ObjType::Map)?,
                };
                graves::write_row(tx, &map, row)
            }
            Self::Carried(epoch, held) => carried::write(tx, *epoch, held),
            Self::Said(said) => said.write(tx),
        }
    }
}

impl Document {
    /// Writes what is left of this host document into the one of a later epoch; returns it, and its
    /// last change.
    ///
    /// # Panics
    ///
    /// If automerge refuses a write: all paths are this module's own.
    pub fn rewritten(&self, next: u32, actor: automerge::ActorId, wall_ms: i64) -> (Self, Applied) {
        let DocumentId::Host { host, epoch } = self.id else {
            unreachable!("only hosts write their documents anew")
        };
        let id = DocumentId::Host { host, epoch: next };
        let mut automerge = Automerge::new().with_actor(actor);
        let time = || CommitOptions::default().with_time(wall_ms / 1_000);
        let mut tx = automerge.transaction();
        super::genesis(&mut tx, host, next).expect("an empty document takes any key");
        tx.commit_with(time());

        let mut carried = self.all_carried();
        let held = Epoch { seqs: self.vector(), heads: self.heads().into_iter().collect() };
        carried.insert(epoch, held);
        let graves = self.all_graves();
        let steps = self.steps(&graves, &carried);
        let meta = map_at(&automerge, &ROOT, "meta").expect("the genesis has it");
        let places = super::Places::find(&automerge, host, next);
        let places = places.expect("the genesis is complete");
        for part in parts(&steps, Step::weight) {
            let mut tx = automerge.transaction();
            let written = part.iter().try_for_each(|step| step.write(&mut tx, &places, &meta));
            written.expect("the paths and values written are the schema's own");
            tx.commit_with(time());
        }
        let last = automerge.get_last_local_change().expect("it was just written");
        let document = Self::place(id, automerge, Vouchers::default());
        let document = document.expect("the genesis is complete");
        let written = document.describe_own(&[last]);
        (document, written)
    }

    /// Lists all that is to be written, in an order in which it can be.
    fn steps<'a>(&self, graves: &'a AllGraves, carried: &'a BTreeMap<u32, Epoch>) -> Vec<Step<'a>> {
        let automerge = &self.automerge;
        let mut steps = Vec::new();
        let own = ["meta", "sessions", "workspaces", SELF];
        let beside = tree::read(automerge, &ROOT).into_iter();
        let beside = beside.filter(|(key, _)| !own.contains(&key.as_str()));
        steps.extend(beside.map(|(key, node)| Step::Beside(None, key, node)));
        let own = ["schema", "host", "epoch", GRAVES, carried::CARRIED];
        let meta = map_at(automerge, &ROOT, "meta").map(|meta| tree::read(automerge, &meta));
        let meta = meta.into_iter().flatten().filter(|(key, _)| !own.contains(&key.as_str()));
        steps.extend(meta.map(|(key, node)| Step::Beside(Some("meta"), key, node)));
        steps.extend(self.said().into_iter().map(Step::Said));
        steps.extend(carried.iter().map(|(epoch, held)| Step::Carried(*epoch, held)));
        let rows = graves.sessions.rows().into_iter();
        steps.extend(rows.map(|row| Step::Grave("sessions", row)));
        let rows = graves.workspaces.rows().into_iter();
        steps.extend(rows.map(|row| Step::Grave("workspaces", row)));
        for id in self.workspace_ids() {
            let standing = self.host_places().workspace(automerge, &id);
            if let Standing::Records(copies) = standing
                && let Some(record) = tree::read_record(automerge, &copies)
            {
                steps.push(Step::Workspace(id, record));
            }
        }
        for id in self.kept_ids(usize::MAX) {
            if let Some(kept) = self.kept(&id) {
                let requests = self.requests_tree(&id);
                steps.push(Step::Trash(id, kept.summary, requests));
            }
        }
        for id in self.session_ids() {
            let standing = self.host_places().session(automerge, &id);
            if let Standing::Records(copies) = standing
                && let Some(mut record) = tree::read_record(automerge, &copies)
            {
                self.carry_mark(&copies, &mut record);
                steps.push(Step::Session(id, record));
            }
        }
        steps
    }

    /// Notes in a session's deletion which marks of this and earlier epochs it stands for.
    fn carry_mark(&self, copies: &[ObjId], record: &mut Tree) {
        let Some(deleted) = record.get_mut(DELETED) else { return };
        let DocumentId::Host { epoch, .. } = self.id else { return };
        let marks = marks(&self.automerge, copies);
        let mut origins = common_origins(&self.automerge, &marks);
        origins.insert(epoch, marks.iter().map(ToString::to_string).collect());
        let mut fields = match std::mem::replace(deleted, Node::Map(Tree::new())) {
            Node::Map(fields) => fields,
            Node::Scalar(_) => Tree::new(),
        };
        fields.insert(ORIGINS.to_owned(), origins_node(&origins));
        *deleted = Node::Map(fields);
    }

    /// Collects all graves, those of earlier epochs too.
    fn all_graves(&self) -> AllGraves {
        let places = self.host_places();
        let mut sessions = places.graves.sessions.clone();
        for bucket in places.buckets.iter() {
            self.bury(bucket, &mut sessions);
        }
        let mut workspaces = places.graves.workspaces.clone();
        self.bury(&places.workspaces, &mut workspaces);
        AllGraves { sessions, workspaces }
    }

    fn bury(&self, map: &ObjId, graves: &mut graves::Graves) {
        for id in self.automerge.keys(map) {
            if !matches!(super::standing(&self.automerge, map, &id), Standing::Grave) {
                continue;
            }
            let all = self.automerge.get_all(map, &id).unwrap_or_default();
            for (value, _) in all.iter().filter(|(value, _)| !value.is_object()) {
                // What was done to end a workspace is history.
                let is_confirmed = value.as_str() == Some(super::GRAVE_CONFIRMED);
                graves
                    .insert(&id, if is_confirmed { super::GRAVE_CONFIRMED } else { super::GRAVE });
            }
        }
    }
}

/// Splits steps so that none of the parts breaks the limits of a change, unless one step does.
pub(super) fn parts<T>(steps: &[T], weight: impl Fn(&T) -> (usize, usize)) -> Vec<&[T]> {
    let mut parts = Vec::new();
    let (mut begin, mut ops, mut bytes) = (0, 0, 0);
    for (at, step) in steps.iter().enumerate() {
        let (more_ops, more_bytes) = weight(step);
        if at > begin && (ops + more_ops > OPS_MAX || bytes + more_bytes > BYTES_MAX) {
            parts.push(&steps[begin..at]);
            (begin, ops, bytes) = (at, 0, 0);
        }
        ops += more_ops;
        bytes += more_bytes;
    }
    parts.push(&steps[begin..]);
    parts
}

/// Returns the names of the marks that delete a session, in whichever of its copies.
pub(super) fn marks(automerge: &impl ReadDoc, copies: &[ObjId]) -> BTreeSet<ObjId> {
    let of = |copy| automerge.get_all(copy, DELETED).unwrap_or_default();
    copies.iter().flat_map(|copy| of(copy).into_iter().map(|(_, id)| id)).collect()
}

/// Marks of earlier epochs, by epoch.
pub(super) type Origins = BTreeMap<u32, BTreeSet<String>>;

/// Reads which marks of earlier epochs a mark stands for.
pub(super) fn origins(automerge: &impl ReadDoc, mark: &ObjId) -> Origins {
    let Some(origins) = map_at(automerge, mark, ORIGINS) else { return Origins::new() };
    let epochs = automerge.keys(&origins).collect::<Vec<_>>().into_iter();
    let epochs = epochs.filter_map(|key| {
        let marks = map_at(automerge, &origins, &key)?;
        Some((key.parse().ok()?, automerge.keys(&marks).collect()))
    });
    epochs.collect()
}

/// Returns what marks stand for together: only the epochs that each of them is carried from. Who
/// restores in such an epoch has seen all of them, and in any other one not.
fn common_origins(automerge: &Automerge, marks: &BTreeSet<ObjId>) -> Origins {
    let all: Vec<Origins> = marks.iter().map(|mark| origins(automerge, mark)).collect();
    let mut common = Origins::new();
    for epoch in all.first().into_iter().flat_map(|origins| origins.keys()) {
        let of_each = all.iter().map(|origins| origins.get(epoch));
        if let Some(of_each) = of_each.collect::<Option<Vec<_>>>() {
            common.insert(*epoch, of_each.into_iter().flatten().cloned().collect());
        }
    }
    common
}

pub(super) fn origins_node(origins: &Origins) -> Node {
    let epochs = origins.iter().map(|(epoch, marks)| {
        let marks = marks.iter().map(|mark| (mark.clone(), Node::Scalar(true.into())));
        (epoch.to_string(), Node::Map(marks.collect()))
    });
    Node::Map(epochs.collect())
}
