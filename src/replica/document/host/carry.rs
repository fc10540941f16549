//! Owns carrying over what was written to an epoch that the host has left behind: into the present
//! one, with the same meaning.
//!
//! Must not know who wrote it, nor whether it was carried over before. Invariants: a purge is final
//! in whichever epoch; a restore takes back only the marks that it has seen; what the earlier epoch
//! makes of writes that conflict is what is carried over.

use std::collections::BTreeSet;

use automerge::{
    ObjId, ObjType, ReadDoc,
    transaction::{CommitOptions, Transactable, Transaction},
};

use super::{
    super::super::ids::DocumentId,
    Applied, Document, Done, GRAVE, Places, Standing,
    carried::{self, Epoch},
    map_at,
    rewrite::{ORIGINS, Origins, marks, origins, origins_node, parts},
    trash,
    tree::{self, DELETED, Node, REASON, TEARDOWN, Tree, are_agents},
};
use crate::replica::document::Touched;

/// What stands at a record's key in an earlier epoch, as data.
#[derive(Debug, Default)]
struct Stand {
    /// What stands there, where that is a grave.
    grave: Option<String>,
    record: Option<Tree>,
    /// The names of the marks that delete it.
    marks: BTreeSet<String>,
}

/// A record that was written to in an earlier epoch, before and after.
struct Step<'a> {
    touched: &'a Touched,
    /// Whether `was` is how it was when this document went on from there.
    is_gained: bool,
    was: Stand,
    is: Stand,
}

impl Document {
    /// Makes a copy that writes under another actor.
    pub fn fork(&self, actor: automerge::ActorId) -> Self {
        let mut automerge = self.automerge.clone();
        automerge.set_actor(actor);
        Self {
            id: self.id,
            name: self.name.clone(),
            automerge,
            saved: self.saved.clone(),
            orphans: Default::default(),
            refused: self.refused.clone(),
            vouchers: self.vouchers.clone(),
            places: self.places.clone(),
            counted_as: self.counted_as.clone(),
        }
    }

    /// Writes under another actor from now on.
    pub fn write_as(&mut self, actor: automerge::ActorId) {
        self.automerge.set_actor(actor);
    }

    /// Writes into this document, the host's present one, what an earlier epoch has gained, and that
    /// it is held now: `before` and `after` are that epoch's, `touched` the records that differ.
    ///
    /// What peers would not take is not written, nor what follows, and the earlier epoch is not said to be
    /// held.
    ///
    /// # Panics
    ///
    /// If automerge refuses a write: all paths are this module's own.
    pub fn carry_over(
        &mut self,
        before: &Self,
        after: &Self,
        touched: &BTreeSet<Touched>,
        wall_ms: i64,
    ) -> Applied {
        self.carry(before, after, touched, (wall_ms, true))
    }

    /// Shows in this copy of the host's present document what an earlier epoch has gained, as
    /// [`Document::carry_over`] would write it: nobody else is ever given the copy.
    pub fn show_carried(&mut self, before: &Self, after: &Self, touched: &BTreeSet<Touched>) {
        self.carry(before, after, touched, (0, false));
    }

    fn carry(
        &mut self,
        before: &Self,
        after: &Self,
        touched: &BTreeSet<Touched>,
        (wall_ms, is_told): (i64, bool),
    ) -> Applied {
        let DocumentId::Host { epoch, .. } = after.id else { return Applied::default() };
        let is_gained = self.follows(epoch);
        let steps: Vec<Step<'_>> = touched
            .iter()
            .map(|touched| {
                let (was, is) = (before.stand(touched), after.stand(touched));
                Step { touched, is_gained, was, is }
            })
            .collect();
        let mut held = after.all_carried();
        held.insert(
            epoch,
            Epoch { seqs: after.vector(), heads: after.heads().into_iter().collect() },
        );
        let places = self.host_places().clone();
        let parts = parts(&steps, |step| step.is.record.as_ref().map_or((8, 0), tree::weight));
        let last = parts.len() - 1;
        let mut changes = Vec::new();
        for (at, part) in parts.into_iter().enumerate() {
            let mut tx = self.automerge.transaction();
            let written = part.iter().try_for_each(|step| step.write(&mut tx, &places, epoch));
            // Only then: whoever sees it forgets the earlier epoch.
            let written = written.and_then(|()| match at == last {
                // What it had taken over itself came along.
                true => held.iter().try_for_each(|(of, held)| carried::write(&mut tx, *of, held)),
                false => Ok(()),
            });
            written.expect("the paths and values written are the schema's own");
            let time = CommitOptions::default().with_time(wall_ms / 1_000);
            if tx.commit_with(time).0.is_none() {
                continue;
            }
            let change = self.automerge.get_last_local_change().expect("it was just committed");
            if let Err(problem) = self.check_own(&change, is_told) {
                tracing::error!(document = %self.id, %problem, "can't carry over what an earlier epoch has gained");
                break;
            }
            changes.push(change);
        }
        self.describe_own(&changes)
    }

    fn stand(&self, touched: &Touched) -> Stand {
        let (places, automerge) = (self.host_places(), &self.automerge);
        let (standing, map, id) = match touched {
            Touched::Session(id) => (places.session(automerge, id), places.bucket(id), id.as_str()),
            Touched::Workspace(id) => {
                (places.workspace(automerge, id), &places.workspaces, id.as_str())
            }
            Touched::Trash(id) => {
                return Stand { record: Some(self.requests_tree(id)), ..Stand::default() };
            }
            Touched::Meta | Touched::Description => return Stand::default(),
        };
        match standing {
            Standing::Nothing => Stand::default(),
            Standing::Grave => {
                let all = automerge.get_all(map, id).unwrap_or_default();
                let text = all.iter().find_map(|(value, _)| value.as_str());
                Stand { grave: Some(text.unwrap_or(GRAVE).to_owned()), ..Stand::default() }
            }
            Standing::Records(copies) => Stand {
                grave: None,
                record: tree::read_record(automerge, &copies),
                marks: marks(automerge, &copies).iter().map(ToString::to_string).collect(),
            },
        }
    }
}

impl Step<'_> {
    fn write(&self, tx: &mut Transaction<'_>, places: &Places, epoch: u32) -> Done {
        let (standing, map, id) = match self.touched {
            Touched::Session(id) => (places.session(tx, id), places.bucket(id), id.as_str()),
            Touched::Workspace(id) => (places.workspace(tx, id), &places.workspaces, id.as_str()),
            Touched::Trash(id) => {
                // What is kept, its host knows and has written here; what it was asked for it may not.
                let (Some(was), Some(is)) = (&self.was.record, &self.is.record) else {
                    return Ok(());
                };
                return trash::carry_requests(tx, places, id, (was, is));
            }
            Touched::Meta | Touched::Description => return Ok(()),
        };
        if self.was.grave.is_some() || matches!(standing, Standing::Grave) {
            return Ok(());
        }
        if let Some(grave) = &self.is.grave {
            return tx.put(map, id, grave.as_str());
        }
        let Some(is) = &self.is.record else { return Ok(()) };
        match (&self.was.record, standing) {
            (None, Standing::Nothing) => {
                let mut record = is.clone();
                if let Some(deletion) = record.get_mut(DELETED) {
                    *deletion = deletion_from(deletion, Some((epoch, self.is.marks.clone())));
                }
                let object = tx.put_object(map, id, ObjType::Map)?;
                tree::write(tx, &object, &record)
            }
            // It was there when the epoch began: only a newer version can have taken it away.
            (Some(_), Standing::Nothing) | (_, Standing::Grave) => Ok(()),
            // Created here as well: this one is shown, and what either says of deleting, keeping and
            // ending counts.
            (None, Standing::Records(copies)) => {
                if matches!(self.touched, Touched::Workspace(_)) {
                    tree::join(tx, &copies, is, self.is_gained)?;
                }
                self.mark(tx, &copies, epoch)
            }
            (Some(was), Standing::Records(copies)) => {
                let plain = |tree: &Tree| {
                    let mut tree = tree.clone();
                    tree.remove(DELETED);
                    tree.remove(TEARDOWN);
                    tree
                };
                tree::patch(tx, &copies, &plain(was), &plain(is))?;
                Self::end(tx, &copies, was, is)?;
                self.mark(tx, &copies, epoch)
            }
        }
    }

    /// Goes on with the ending of a workspace that the host knew of before a crash, unless it has
    /// gone another way since.
    fn end(tx: &mut Transaction<'_>, copies: &[ObjId], was: &Tree, is: &Tree) -> Done {
        let Some(node) = is.get(TEARDOWN).filter(|node| was.get(TEARDOWN) != Some(*node)) else {
            return Ok(());
        };
        for copy in copies {
            let here = map_at(tx, copy, TEARDOWN).is_some();
            if here == was.contains_key(TEARDOWN) {
                tree::write_node(tx, copy, TEARDOWN, node)?;
            }
        }
        Ok(())
    }

    /// Deletes or restores a session, as was done in the earlier epoch.
    fn mark(&self, tx: &mut Transaction<'_>, copies: &[ObjId], epoch: u32) -> Done {
        let here = marks(tx, copies);
        // Whether all of them were seen by whoever has restored it in that epoch.
        let seen = here.iter().all(|mark| origins(tx, mark).contains_key(&epoch));
        let deletion = self.is.record.as_ref().and_then(|record| record.get(DELETED));
        let Some(deletion) = deletion else {
            if seen && !self.was.marks.is_empty() {
                for copy in copies {
                    if tx.get(copy, DELETED)?.is_some() {
                        tx.delete(copy, DELETED)?;
                    }
                }
            }
            return Ok(());
        };
        if self.is.marks.iter().any(|mark| !self.was.marks.contains(mark)) {
            let origins = if seen { Some((epoch, self.is.marks.clone())) } else { None };
            let mut deletion = deletion_from(deletion, origins);
            if let Node::Map(fields) = &mut deletion
                && !are_agents(tx, here.iter().cloned())
            {
                fields.remove(REASON);
            }
            for copy in copies {
                tree::write_node(tx, copy, DELETED, &deletion)?;
            }
        } else if self.was.marks != self.is.marks && seen {
            // Of several deletes one was restored, and another one is shown from now on. No new
            // mark: a restore of them all, here and at once, would not have seen it.
            let was = self.was.record.as_ref().and_then(|record| record.get(DELETED));
            let (was, is) = (fields_of(was), fields_of(Some(deletion)));
            let here: Vec<ObjId> = here.into_iter().collect();
            tree::patch(tx, &here, &was, &is)?;
        }
        Ok(())
    }
}

/// Returns what a deletion says, without which marks of earlier epochs it stands for.
fn fields_of(deletion: Option<&Node>) -> Tree {
    let mut fields = match deletion {
        Some(Node::Map(fields)) => fields.clone(),
        Some(Node::Scalar(_)) | None => Tree::new(),
    };
    fields.remove(ORIGINS);
    fields
}

/// Returns a deletion that stands for marks of an earlier epoch.
fn deletion_from(deletion: &Node, origins: Option<(u32, BTreeSet<String>)>) -> Node {
    let mut fields = fields_of(Some(deletion));
    if let Some(origins) = origins {
        fields.insert(ORIGINS.to_owned(), origins_node(&Origins::from([origins])));
    }
    Node::Map(fields)
}
