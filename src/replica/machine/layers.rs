//! Owns which of a host's epochs this node holds, and what it shows of several: the newest, with
//! what its host has yet to carry over from the others, as the host will.
//!
//! Must not know how a host writes its document anew. Invariants: what is shown follows from the
//! documents held, so that nodes which hold the same show the same; an epoch is given up once the
//! newest holds all of it, and not before; what is written goes into the newest, where that can be.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{
    document::{self, Document, HostWriter, Limits, NotWritten, Part, Scope, Touched, Written},
    effect::{Effects, Now, Write},
    ids::{ChangeHash, DocumentId, Fingerprint, NodeId, StartId},
    record::StoredSession,
    view,
    voucher::Voucher,
};
use super::{Origin, Replica, epoch::Arrived, loaded::Shown, read_all};
use crate::wire::DocumentHeads;

/// How many epochs of a host are held; it signs what makes one, so that more show that it is bad.
pub(super) const EPOCHS_HELD_MAX: usize = 16;

/// What is shown of a host of which several epochs are held.
#[derive(Debug, Clone)]
pub struct Layers {
    /// The newest, with all that is to be carried over.
    shown: Document,
    /// The others, and what of them the newest does not hold.
    older: BTreeMap<DocumentId, Part>,
}

impl Layers {
    fn touched(&self) -> impl Iterator<Item = &Touched> {
        self.older.values().flat_map(|part| &part.touched)
    }

    fn has_touched(&self, older: &DocumentId, record: &Touched) -> bool {
        self.older.get(older).is_some_and(|part| part.touched.contains(record))
    }
}

/// What is done with a copy of a host document that was fetched whole.
enum Verdict {
    /// It is the newest.
    Newest,
    /// It holds what its host has yet to carry over.
    Older,
    /// This node, its host, is to carry over what it holds.
    CarryOver,
    /// Everything in it is here already.
    Known,
    /// Of its host as many epochs are held as may be, and it covers too few of them.
    OneTooMany,
}

fn epochs_of(host: NodeId) -> std::ops::RangeInclusive<DocumentId> {
    DocumentId::Host { host, epoch: 0 }..=DocumentId::Host { host, epoch: u32::MAX }
}

impl Replica {
    /// Returns the newest epoch of a host that this node has.
    fn newest_epoch(&self, host: NodeId) -> Option<u32> {
        if host == self.node {
            return Some(self.epochs.own());
        }
        let held = self.documents.range(epochs_of(host)).next_back().map(|(id, _)| *id);
        let awaited = self.reloading.range(epochs_of(host)).next_back().copied();
        match held.max(awaited)? {
            DocumentId::Host { epoch, .. } => Some(epoch),
            DocumentId::Fleet(_) => None,
        }
    }

    /// Returns the newest epoch of a host's document, if it is here and not awaited.
    pub(super) fn host_document_id(&self, host: NodeId) -> Option<DocumentId> {
        let epoch = self.newest_epoch(host)?;
        Some(DocumentId::Host { host, epoch }).filter(|id| self.documents.contains_key(id))
    }

    /// Returns the newest epoch of a host's document.
    pub(super) fn newest(&self, host: NodeId) -> Option<&Document> {
        self.documents.get(&self.host_document_id(host)?)
    }

    /// Returns what is shown of a host; nothing, if it is retired.
    pub(super) fn host_document(&self, host: NodeId) -> Option<&Document> {
        if self.hiding.hides(&host) {
            return None;
        }
        let layers = self.layers.get(&host).map(|layers| &layers.shown);
        layers.or_else(|| self.newest(host))
    }

    /// Lists the epochs of a host that are held, the newest first.
    pub(super) fn held_of(&self, host: NodeId) -> Vec<DocumentId> {
        self.documents.range(epochs_of(host)).rev().map(|(id, _)| *id).collect()
    }

    /// Tells whether several epochs of a host are held, or were until just now.
    pub(super) fn has_layers(&self, host: NodeId) -> bool {
        self.documents.range(epochs_of(host)).nth(1).is_some() || self.layers.contains_key(&host)
    }

    /// Tells whether anything is taken in of an epoch of a host: a newer one than is known here, or
    /// what its host has yet to carry over.
    pub(super) fn is_epoch(&self, host: NodeId, epoch: u32) -> bool {
        let Some(newest) = self.newest_epoch(host) else { return true };
        let id = DocumentId::Host { host, epoch };
        epoch >= newest
            || self.documents.contains_key(&id)
            || self.held_of(host).len() < EPOCHS_HELD_MAX
    }

    /// Picks from what a peer has the documents that are of use here.
    pub(super) fn useful(&self, peer: &NodeId, theirs: Vec<DocumentHeads>) -> Vec<DocumentHeads> {
        let mut newest: BTreeMap<NodeId, u32> = BTreeMap::new();
        let mut strange: BTreeMap<NodeId, u32> = BTreeMap::new();
        for told in &theirs {
            let DocumentId::Host { host, epoch } = told.document else { continue };
            let known = newest.entry(host).or_default();
            *known = epoch.max(*known);
            if !self.newest(host).is_some_and(|document| document.follows(epoch))
                && self.newest_epoch(host).is_some_and(|known| epoch < known)
            {
                let known = strange.entry(host).or_default();
                *known = epoch.max(*known);
            }
        }
        let is_useful = |told: &DocumentHeads| {
            let DocumentId::Host { host, epoch } = told.document else { return true };
            if self.documents.contains_key(&told.document) {
                return true;
            }
            match self.newest_epoch(host) {
                Some(known) if epoch < known => {
                    let is_known = self.epochs.has_seen(&told.document, &told.heads)
                        || self.newest(host).is_none_or(|d| d.covers_heads(epoch, &told.heads));
                    // Once it has seen the newer one, the peer itself knows whether it still
                    // needs the older one.
                    !is_known
                        && !self.exchange.is_greeting(peer)
                        && self.is_way_to_host(peer, host)
                        && strange.get(&host).is_none_or(|strange| epoch >= *strange)
                }
                // One more of each host, however many a peer claims.
                _ => {
                    newest.get(&host) == Some(&epoch)
                        && !self.epochs.has_seen(&told.document, &told.heads)
                }
            }
        };
        theirs.into_iter().filter(is_useful).collect()
    }

    /// Tells whether what a peer has of an earlier epoch reaches its host only through this node.
    fn is_way_to_host(&self, peer: &NodeId, host: NodeId) -> bool {
        host == self.node || (*peer != host && !self.exchange.is_linked(peer, &host))
    }

    /// Takes changes of an epoch that is not held; true if that is all there is to do.
    pub(super) fn changes_elsewhere(
        &mut self,
        now: Now,
        peer: NodeId,
        id: DocumentId,
        (changes, vouchers): (&[Vec<u8>], &[Voucher]),
    ) -> bool {
        let DocumentId::Host { host, epoch } = id else { return false };
        let older = self.newest_epoch(host).is_some_and(|newest| epoch < newest);
        if !older || self.documents.contains_key(&id) {
            return false;
        }
        let follows = self.newest(host).is_some_and(|document| document.follows(epoch));
        if host == self.node && follows {
            self.epochs.arrived(peer, id, Arrived::Changes(changes.to_vec(), vouchers.to_vec()));
        } else if host != self.node && self.is_way_to_host(&peer, host) {
            return false;
        } else {
            self.exchange.note_traffic(now.monotonic, &peer);
        }
        true
    }

    fn verdict(&self, copy: &Document) -> Verdict {
        let DocumentId::Host { host, epoch } = copy.id() else { return Verdict::Newest };
        match (self.newest_epoch(host), self.newest(host)) {
            (Some(known), Some(newest)) if epoch < known => match newest.covers(copy) {
                true => Verdict::Known,
                false if host == self.node => Verdict::CarryOver,
                false => Verdict::Older,
            },
            (Some(known), None) if epoch < known => Verdict::Known,
            _ if host != self.node && self.left_by(host, copy) >= EPOCHS_HELD_MAX => {
                Verdict::OneTooMany
            }
            _ => Verdict::Newest,
        }
    }

    /// Counts the epochs of a host that would still be held beside a newer one.
    fn left_by(&self, host: NodeId, newer: &Document) -> usize {
        let held = self.documents.range(epochs_of(host)).map(|(_, document)| document);
        held.filter(|held| !newer.covers(held)).count()
    }

    /// Takes a document over that this node had nothing of; false if it is not held.
    pub(super) fn take_over(
        &mut self,
        now: Now,
        peer: NodeId,
        (document, shown): (Document, Option<Shown>),
        bytes: Vec<u8>,
        fx: &mut Effects,
    ) -> bool {
        let (id, heads) = (document.id(), document.heads());
        match self.verdict(&document) {
            Verdict::Newest => {
                fx.writes.push(Write::Snapshot { document: id, bytes });
                self.go_over_to(now, Origin::Peer(peer), document, shown, fx);
                self.record_vouchers(id, fx);
                true
            }
            Verdict::Older => {
                tracing::info!(document = %id, "holding what its host has yet to carry over");
                fx.writes.push(Write::Snapshot { document: id, bytes });
                let document = self.as_new_author(document);
                self.documents.insert(id, document);
                self.record_vouchers(id, fx);
                let Some(host) = id.host() else { return true };
                let records = self.layers_changed(host, id, BTreeSet::new(), fx);
                let authors = self.layers.get(&host).and_then(|layers| layers.older.get(&id));
                let authors = authors.map(|part| part.authors.clone()).unwrap_or_default();
                let touched = self.read_touched(host, &records);
                self.publish(now, touched, Origin::Peer(peer), authors, fx);
                true
            }
            Verdict::CarryOver => {
                self.epochs.arrived(peer, id, Arrived::Whole(Box::new(document)));
                self.epochs.remember(id, heads);
                false
            }
            Verdict::Known => {
                self.epochs.remember(id, heads);
                false
            }
            Verdict::OneTooMany => {
                self.epochs.remember(id, heads);
                let reason = "its host begins epochs that go on from none of those that are held";
                if let Some(host) = id.host() {
                    self.name_author(host, id, ("epochs", reason.to_owned()));
                }
                false
            }
        }
    }

    /// Has this node write to an earlier epoch that it takes in as who it has not been there before, if
    /// what it wrote there, and gave up once that was carried over, is not in this copy: it would use
    /// the same places again.
    fn as_new_author(&mut self, document: Document) -> Document {
        let DocumentId::Host { host, epoch } = document.id() else { return document };
        let written = document.vector().get(&self.actor).copied().unwrap_or(0);
        let newest = self.newest(host);
        if !newest.is_some_and(|it| it.covers_change(epoch, self.actor.to_bytes(), written + 1)) {
            return document;
        }
        let start = StartId(self.random.u64(..).to_le_bytes());
        document.fork(document::actor(&self.node, start))
    }

    /// Goes over to a document that is the newest of its host, and gives up the epochs that it
    /// holds all of; `shown` is what it shows, if that was derived elsewhere.
    pub(super) fn go_over_to(
        &mut self,
        now: Now,
        origin: Origin,
        document: Document,
        shown: Option<Shown>,
        fx: &mut Effects,
    ) {
        let id = document.id();
        let DocumentId::Host { host, epoch } = id else { return };
        let mut touched = view::Touched::default();
        self.clear_shown(host, &mut touched);
        self.documents.insert(id, document);
        if host == self.node {
            self.epochs.begun(epoch);
            fx.trash = true;
        }
        self.read_description(host, fx);
        self.give_up_epochs(host, fx);
        self.relayer(host, None);
        let mut authors = BTreeSet::from([host.fingerprint()]);
        authors.extend(self.authors_to_carry(host));
        let is_first = touched.is_empty() && !self.layers.contains_key(&host);
        let is_shown = !self.hiding.hides(&host);
        if let Some(Shown { view, changes }) = shown.filter(|_| is_first && is_shown) {
            self.view.join(view);
            if host == self.node {
                self.host_work.look_again();
            }
            self.tell(now, &changes, origin, authors, fx);
            return;
        }
        if let Some(document) = self.host_document(host) {
            read_all(document, host, &mut touched);
        }
        self.publish(now, touched, origin, authors, fx);
    }

    fn authors_to_carry(&self, host: NodeId) -> impl Iterator<Item = Fingerprint> + '_ {
        let layers = self.layers.get(&host).into_iter();
        layers.flat_map(|layers| layers.older.values()).flat_map(|part| part.authors.clone())
    }

    /// Gives up the earlier epochs of a host that the newest holds all of; this node's own go to
    /// its store, where late writes are compared with them.
    pub(super) fn give_up_epochs(&mut self, host: NodeId, fx: &mut Effects) {
        let Some(newest) = self.host_document_id(host) else { return };
        for id in self.held_of(host).into_iter().filter(|id| *id != newest) {
            let covered = self.documents[&newest].covers(&self.documents[&id]);
            if !covered {
                continue;
            }
            fx.writes.push(match host == self.node {
                true => Write::Archive { document: id },
                false => Write::Forget { document: id },
            });
            self.documents.remove(&id);
            self.exchange.forget(&id);
            tracing::info!(document = %id, %newest, "gave an epoch up");
        }
    }

    /// Brings what is shown of a host up to one of its documents that has changed, and returns the
    /// records that are to be read again.
    pub(super) fn layers_changed(
        &mut self,
        host: NodeId,
        changed: DocumentId,
        touched: BTreeSet<Touched>,
        fx: &mut Effects,
    ) -> BTreeSet<Touched> {
        let mut records = touched;
        if !self.has_layers(host) {
            return records;
        }
        let is_meta = records.contains(&Touched::Meta);
        let before = self.layers.get(&host);
        records.extend(before.into_iter().flat_map(Layers::touched).cloned());
        let newest = self.host_document_id(host);
        let carried = newest == Some(changed) && is_meta;
        if carried {
            self.give_up_epochs(host, fx);
        }
        let keep = newest.filter(|newest| *newest == changed && !carried);
        self.relayer(host, keep);
        let after = self.layers.get(&host);
        records.extend(after.into_iter().flat_map(Layers::touched).cloned());
        records
    }

    /// Derives anew what is shown of a host of which several epochs are held; how each is parted
    /// stays as it was, if nothing but records of the newest has changed.
    pub(super) fn relayer(&mut self, host: NodeId, keep_parts: Option<DocumentId>) {
        let known = self.layers.remove(&host);
        let mut known = known.map(|layers| layers.older).unwrap_or_default();
        known.append(&mut self.parted);
        if let Some(layers) = self.layer(host, known, keep_parts.is_some()) {
            self.layers.insert(host, layers);
        }
    }

    fn layer(
        &self,
        host: NodeId,
        mut known: BTreeMap<DocumentId, Part>,
        keep_parts: bool,
    ) -> Option<Layers> {
        let id = self.host_document_id(host)?;
        let newest = self.documents.get(&id)?;
        let older = self.documents.range(epochs_of(host)).filter(|(other, _)| **other != id);
        let older: BTreeMap<_, _> = older
            .filter_map(|(id, older)| {
                let part = match known.remove(id) {
                    Some(part) if keep_parts => Some(part),
                    Some(part) => newest.part_again(older, part),
                    None => None,
                };
                Some((*id, part.or_else(|| newest.part_carried(older))?))
            })
            .collect();
        if older.is_empty() {
            return None;
        }
        let mut shown = newest.fork(self.actor.clone());
        for (id, part) in &older {
            if let Some(document) = self.documents.get(id) {
                shown.show_carried(&part.before, document, &part.touched);
            }
        }
        Some(Layers { shown, older })
    }

    /// Notes that nothing that is shown of a host is there any more, unless it is read after this.
    pub(super) fn clear_shown(&self, host: NodeId, touched: &mut view::Touched) {
        let sessions = self.view.sessions_of(&host).map(|session| (session.key(), None));
        touched.sessions.extend(sessions);
        let workspaces = self.view.workspaces_of(&host);
        touched.workspaces.extend(workspaces.map(|entry| (entry.record.key(), None)));
    }

    /// Takes over the views that documents give each by itself; where several epochs of a host are
    /// held, what it shows is derived from all of them instead.
    pub(super) fn open_views(&mut self, now: Now, views: Vec<(DocumentId, Shown)>) {
        let mut several = BTreeSet::new();
        for (id, Shown { view, changes }) in views {
            match id.host() {
                // Given up a moment ago.
                Some(_) if !self.documents.contains_key(&id) => {}
                Some(host) if self.has_layers(host) => drop(several.insert(host)),
                _ => {
                    self.view.join(view);
                    self.host_work.note(now.monotonic, &self.node, &changes);
                }
            }
        }
        let mut touched = view::Touched::default();
        for host in several {
            self.relayer(host, None);
            if let Some(document) = self.host_document(host) {
                read_all(document, host, &mut touched);
            }
        }
        let changes = self.view.apply(touched);
        self.host_work.note(now.monotonic, &self.node, &changes);
    }

    /// Derives from the documents what is to be shown of all hosts, without what was derived before.
    pub(super) fn read_anew(&self, touched: &mut view::Touched) {
        let mut hosts: BTreeSet<NodeId> =
            self.documents.keys().filter_map(DocumentId::host).collect();
        hosts.retain(|host| !self.hiding.hides(host));
        for host in hosts {
            let layers = self.layer(host, BTreeMap::new(), false);
            let shown = layers.as_ref().map(|layers| &layers.shown).or_else(|| self.newest(host));
            if let Some(document) = shown {
                read_all(document, host, touched);
            }
        }
    }

    /// Writes an act to a host's document: into each of the epochs that are held, the newest first,
    /// what of it belongs there.
    ///
    /// # Errors
    ///
    /// Peers would not take it, and nothing was written to any.
    pub(super) fn write_layers(
        &mut self,
        now: Now,
        host: NodeId,
        fx: &mut Effects,
        write: impl Fn(&mut HostWriter<'_, '_>) -> Written,
    ) -> Result<Option<ChangeHash>, NotWritten> {
        // What was written together before comes before.
        self.stand_for_written(now, fx);
        let held = self.held_of(host);
        let (mut documents, mut written) = (Vec::new(), Vec::new());
        for (at, id) in held.iter().enumerate() {
            let known = &self.documents[id];
            let newer = |record: &Touched| {
                held[..at].iter().any(|id| self.documents[id].has_record(record))
            };
            let scope = |record: &Touched| {
                let touched =
                    self.layers.get(&host).is_some_and(|layers| layers.has_touched(id, record));
                match newer(record) {
                    false => Scope::All,
                    // Were the newest to have the value of before again, this one would be shown.
                    true if touched => Scope::Fields,
                    true => Scope::Nothing,
                }
            };
            let is_home = |record: &Touched| match at {
                // Only an older one has it: what is put into it goes there as well.
                0 => {
                    known.has_record(record)
                        || !held[1..].iter().any(|id| self.documents[id].has_record(record))
                }
                _ => known.has_record(record) && !newer(record),
            };
            let creates = |session: &StoredSession| {
                let parent = session.parent_id.clone().map(Touched::Session);
                let workspace = session.workspace_id.clone().map(Touched::Workspace);
                let mut named = parent.into_iter().chain(workspace);
                match at {
                    0 => named.all(|record| is_home(&record)),
                    _ => named.any(|record| is_home(&record)),
                }
            };
            let limits = Limits { scope: &scope, creates: &creates };
            let mut document = known.clone();
            if let Some(applied) = document.write_within(now.wall_ms, &limits, &write)? {
                documents.push((*id, document));
                written.push((*id, applied));
            }
        }
        self.documents.extend(documents);
        // All at once for whoever is shown it: it is one act.
        let mut records = BTreeSet::new();
        for (id, applied) in &mut written {
            self.vouch(*id, applied);
            self.record(*id, applied, fx);
            self.push(now, *id, applied, None, fx);
            records.extend(self.layers_changed(host, *id, applied.touched.clone(), fx));
        }
        let touched = self.read_touched(host, &records);
        let authors = BTreeSet::from([self.node.fingerprint()]);
        self.publish(now, touched, Origin::Here, authors, fx);
        let first = written.first().and_then(|(_, applied)| applied.changes.first());
        Ok(first.map(|change| change.hash))
    }
}
