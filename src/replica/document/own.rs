//! Owns judging what this node itself writes, by the check that its peers will make, and taking back
//! what does not pass.
//!
//! Must not know who asked for it. Invariant: a change of this node's that stands is one that every
//! honest peer takes; one that would not be has left no trace in the document.

use std::collections::BTreeSet;

use automerge::{
    AutomergeError, Change, ObjId, ReadDoc,
    transaction::{CommitOptions, Transactable as _, Transaction},
};

use super::{
    super::{
        guard,
        ids::{Fingerprint, fingerprint},
    },
    Applied, Document, Overreach, actor_in,
    authority::Judge,
    branches,
    saved::Saved,
};

/// Explains why what a node would write does not stand: its peers would refuse it, and all that
/// builds on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWritten {
    /// Where a map belongs, something else stands.
    #[error("{place} holds something else than a map")]
    Blocked {
        /// Where.
        place: String,
        /// Who has put it there.
        by: Fingerprint,
    },
    /// The change would be larger than peers take.
    #[error(transparent)]
    Refused(#[from] guard::Refused),
    /// This node must not write it.
    #[error(transparent)]
    Overreach(#[from] Overreach),
}

/// What writing gives: what is in the way of it, if anything is.
pub(super) type Tried = Result<Option<NotWritten>, AutomergeError>;

/// Says what stands at a key that is no map, if anything does.
pub(super) fn in_the_way(
    automerge: &impl ReadDoc,
    object: &ObjId,
    key: &str,
    place: impl FnOnce() -> String,
) -> Option<NotWritten> {
    let all = automerge.get_all(object, key).unwrap_or_default();
    all.last()
        .and_then(|(_, id)| match id {
            ObjId::Id(_, actor, _) => Some(fingerprint(&actor_in(actor))),
            ObjId::Root => None,
        })
        .map(|by| NotWritten::Blocked { place: place(), by })
}

impl Document {
    /// Writes in one change, if peers will take that; `None` if nothing was written.
    ///
    /// # Panics
    ///
    /// If automerge refuses a write: all paths are this module's own.
    pub(super) fn commit_change(
        &mut self,
        wall_ms: i64,
        write: impl FnOnce(&mut Transaction<'_>) -> Tried,
    ) -> Result<Option<Change>, NotWritten> {
        let heads = self.automerge.get_heads();
        guard::check_counts(heads.len() as u64, 0)?;
        let mut tx = self.automerge.transaction();
        let tried = write(&mut tx).expect("the paths and values written are the schema's own");
        let ops = tx.pending_ops() as u64;
        if let Some(problem) = tried.or_else(|| Some(guard::check_counts(0, ops).err()?.into())) {
            tx.rollback();
            return Err(problem);
        }
        let (hash, _) = tx.commit_with(CommitOptions::default().with_time(wall_ms / 1_000));
        if hash.is_none() {
            return Ok(None);
        }
        let change = self.automerge.get_last_local_change().expect("it was just committed");
        self.check_own(&change, true)?;
        self.saved = Saved::default();
        Ok(Some(change))
    }

    /// Writes what nobody would take, as a node gone bad does.
    #[cfg(test)]
    pub(super) fn commit_unjudged(
        &mut self,
        wall_ms: i64,
        write: impl FnOnce(&mut Transaction<'_>) -> Result<(), AutomergeError>,
    ) -> Option<Change> {
        let mut tx = self.automerge.transaction();
        write(&mut tx).unwrap();
        tx.commit_with(CommitOptions::default().with_time(wall_ms / 1_000)).0?;
        self.saved = Saved::default();
        self.automerge.get_last_local_change()
    }

    /// Ends the branches of a document of which one author has many, by a change that says nothing but that
    /// it knows of all; `None` if there are few.
    ///
    /// # Errors
    ///
    /// As [`Document::write`].
    pub fn end_branches(
        &mut self,
        wall_ms: i64,
        by_host: bool,
    ) -> Result<Option<Applied>, NotWritten> {
        if !branches::are_to_be_ended(&self.automerge, by_host) {
            return Ok(None);
        }
        self.build_on_all(wall_ms).map(Some)
    }

    /// Builds on all that is here, by a change that says nothing: so its author attests to have had it.
    ///
    /// # Errors
    ///
    /// As [`Document::write`].
    pub fn build_on_all(&mut self, wall_ms: i64) -> Result<Applied, NotWritten> {
        guard::check_counts(self.automerge.get_heads().len() as u64, 0)?;
        self.automerge.empty_commit(CommitOptions::default().with_time(wall_ms / 1_000));
        let change = self.automerge.get_last_local_change().expect("it was just committed");
        self.check_own(&change, true)?;
        self.saved = Saved::default();
        Ok(self.describe(&[change], BTreeSet::new()))
    }

    /// Judges a change that this node has just made as each peer will.
    pub(super) fn judge_own(&self, change: &Change) -> Result<(), NotWritten> {
        guard::check_change(change.raw_bytes())?;
        Judge::of_own(self).check(&change.decode())?;
        Ok(())
    }

    /// Judges the last change, and takes it back if peers would refuse it, where it is told to any.
    pub(super) fn check_own(&mut self, change: &Change, is_told: bool) -> Result<(), NotWritten> {
        let judged = if is_told { self.judge_own(change) } else { Ok(()) };
        if judged.is_err() {
            self.take_back(change.deps());
        }
        judged
    }

    /// Takes the last change back; takes as long as the document has changes.
    fn take_back(&mut self, heads: &[automerge::ChangeHash]) {
        let actor = self.automerge.get_actor().clone();
        let before = self.automerge.fork_at(heads).expect("it stood there a moment ago");
        self.automerge = before.with_actor(actor);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use automerge::ROOT;

    use super::*;
    use crate::replica::{
        document::{Applied, HostWriter, Written},
        ids::{DocumentId, NodeId, StartId},
        record::{Ended, Extra, Member, Role, StoredSession, TeardownAction},
        trust::Trust,
        voucher::Trusting,
    };

    const HOST: NodeId = NodeId([1; 32]);
    const MEMBER: NodeId = NodeId([2; 32]);
    const ID: DocumentId = DocumentId::Host { host: HOST, epoch: 0 };

    fn trust() -> Trust {
        let member = |node| Member {
            node,
            name: String::new(),
            role: Role::Member,
            added_by: HOST,
            added_at: 0,
            revoked: None,
            left: false,
        };
        let mut trust = Trust::new(Arc::new(Trusting));
        trust.learn(&[member(HOST), member(MEMBER)]);
        trust
    }

    fn session() -> StoredSession {
        StoredSession {
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
        }
    }

    /// A host's document with a session in it, and a member's copy.
    fn replicas() -> (Document, Document) {
        let actor = |node, start| super::super::actor(&node, StartId([start; 8]));
        let (mut host, genesis) = Document::create_host(HOST, 0, actor(HOST, 1), 0);
        let trust = trust();
        let vouch = |applied: &Applied| {
            let last = applied.changes.last().unwrap();
            trust.vouch(&ID, last.actor, last.seq, last.hash)
        };
        host.vouch(vouch(&genesis));
        let made = host.write(0, |tx| tx.create_session(&"s".parse().unwrap(), &session()));
        host.vouch(vouch(&made.unwrap().unwrap()));
        let vouchers: Vec<_> = host.vouchers().copied().collect();
        let copy = Document::adopt(ID, actor(MEMBER, 1), &host.save(), &vouchers, &trust).unwrap();
        (host, copy)
    }

    /// What is taken back has left nothing, and what is written next is taken by others.
    #[track_caller]
    fn is_taken_back(
        document: &mut Document,
        peer: &mut Document,
        write: impl FnOnce(&mut HostWriter<'_, '_>) -> Written,
    ) -> NotWritten {
        let before = (document.heads(), document.automerge.save());
        let problem = document.write(0, write).unwrap_err();
        assert_eq!((document.heads(), document.automerge.save()), before, "{problem}");
        let written = document.write(0, |tx| tx.create_session(&"t".parse().unwrap(), &session()));
        let applied = written.unwrap().unwrap();
        let last = applied.changes.last().unwrap();
        let voucher = trust().vouch(&ID, last.actor, last.seq, last.hash);
        let bytes: Vec<_> = applied.changes.iter().map(|it| it.bytes.clone()).collect();
        let taken = peer.apply(&bytes, &[voucher], &trust()).unwrap();
        assert_eq!(taken.changes.len(), 1);
        assert_eq!(peer.heads(), document.heads());
        problem
    }

    #[test]
    fn what_a_node_must_not_write_is_taken_back() {
        let (mut host, mut member) = replicas();
        let purge = |tx: &mut HostWriter<'_, '_>| tx.purge_session(&"s".parse().unwrap(), true);
        let problem = is_taken_back(&mut member, &mut host, purge);
        assert!(matches!(problem, NotWritten::Overreach(_)), "{problem}");
        let ended = Ended {
            kept_until: None,
            incarnation: 1,
            at: 0,
            action: TeardownAction::Retry,
            done: String::new(),
        };
        let problem = member.write(0, |tx| tx.remove_workspace(&"w".parse().unwrap(), &ended));
        assert!(matches!(problem, Err(NotWritten::Overreach(_))), "{problem:?}");
    }

    #[test]
    fn a_change_that_is_larger_than_peers_take_is_taken_back() {
        let (mut host, mut member) = replicas();
        let many = |tx: &mut HostWriter<'_, '_>| {
            let made = |number| format!("s{number}").parse().unwrap();
            (0..20_000).try_for_each(|number| tx.create_session(&made(number), &session()))
        };
        let problem = is_taken_back(&mut host, &mut member, many);
        assert!(
            matches!(problem, NotWritten::Refused(guard::Refused::TooMuch { .. })),
            "{problem}"
        );
        let large = |tx: &mut HostWriter<'_, '_>| {
            let title = Some("x".repeat(70_000));
            tx.create_session(&"l".parse().unwrap(), &StoredSession { title, ..session() })
        };
        let (mut host, mut member) = replicas();
        let problem = is_taken_back(&mut host, &mut member, large);
        assert!(
            matches!(problem, NotWritten::Refused(guard::Refused::TooMuch { .. })),
            "{problem}"
        );
    }

    #[test]
    fn who_has_put_something_in_the_way_of_a_map_is_named() {
        let (mut host, mut member) = replicas();
        let put = host.commit_unjudged(0, |tx| {
            let place = "extra";
            let (_, sessions) = tx.get(ROOT, "sessions")?.unwrap();
            let bucket = tx.keys(&sessions).find_map(|key| {
                let (_, bucket) = tx.get(&sessions, key).unwrap()?;
                tx.get(&bucket, "s").unwrap()
            });
            tx.put(&bucket.unwrap().1, place, "in the way")
        });
        member.automerge.apply_changes([put.unwrap()]).unwrap();
        let fields = super::super::SessionFields {
            extra: [("key".to_owned(), None)].into(),
            ..Default::default()
        };
        let heads = member.heads();
        let problem = member.write(0, |tx| tx.update_session(&"s".parse().unwrap(), &fields));
        let place = "`extra` of session s".to_owned();
        assert_eq!(problem, Err(NotWritten::Blocked { place, by: HOST.fingerprint() }));
        assert_eq!(member.heads(), heads);
    }
}
