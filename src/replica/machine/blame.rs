//! Owns naming those who have written what this node leaves out.
//!
//! Must not know what a change says. Invariant: a link is closed only for what the peer itself has signed;
//! any other author is named, once for each document.

use std::collections::BTreeMap;

use super::super::{
    document::LeftOut,
    effect::{Effects, Now},
    ids::{DocumentId, NodeId},
};
use super::Replica;

/// How many authors and documents are remembered; of more, those named first are forgotten, and told of
/// again.
const REMEMBERED_MAX: usize = 1_024;

/// What was left out of what nodes wrote.
#[derive(Debug, Clone, Default)]
pub struct Blame {
    named: BTreeMap<(NodeId, DocumentId), Named>,
    next: u64,
    by_code: BTreeMap<&'static str, u64>,
}

/// What was left out of what one node wrote to one document.
#[derive(Debug, Clone)]
struct Named {
    /// Which of all that were named it is.
    number: u64,
    times: u64,
    code: &'static str,
    reason: String,
}

impl Blame {
    /// Notes it; true if it is to be told.
    fn name(
        &mut self,
        author: NodeId,
        document: DocumentId,
        (code, reason): (&'static str, String),
    ) -> bool {
        *self.by_code.entry(code).or_default() += 1;
        if let Some(named) = self.named.get_mut(&(author, document))
            && named.code == code
        {
            named.times = named.times.saturating_add(1);
            return false;
        }
        if self.named.len() >= REMEMBERED_MAX {
            let first = self.named.iter().min_by_key(|(_, named)| named.number);
            if let Some(first) = first.map(|(key, _)| *key) {
                self.named.remove(&first);
            }
        }
        self.next += 1;
        let named = Named { number: self.next, times: 1, code, reason };
        self.named.insert((author, document), named);
        true
    }

    /// Tells what was left out of what a node wrote, if anything was: the last that was new.
    ///
    /// A fork is not named any more once its document is gone: it was mended in the next epoch.
    pub(super) fn of(
        &self,
        author: &NodeId,
        is_held: impl Fn(&DocumentId) -> bool,
    ) -> Option<String> {
        let all = self.named.iter().filter(|((by, document), named)| {
            by == author && (named.code != "forked" || is_held(document))
        });
        let ((_, document), named) = all.max_by_key(|(_, named)| named.number)?;
        let times =
            if named.times > 1 { format!(" ({} times)", named.times) } else { String::new() };
        Some(format!("left out of {document}: {}{times}", named.reason))
    }

    /// Forgets what was left out of a document that is held no more.
    pub(super) fn forget(&mut self) {
        self.named.clear();
    }
}

impl Replica {
    /// Takes note of what was not taken of what a peer sent, and closes the link if it has signed that
    /// itself.
    pub(super) fn left_out(
        &mut self,
        now: Now,
        peer: NodeId,
        document: DocumentId,
        left_out: &LeftOut,
        fx: &mut Effects,
    ) {
        if *left_out == LeftOut::default() {
            return;
        }
        tracing::debug!(%peer, %document, ?left_out, "left out some of what a peer sent");
        let mut own = None;
        for author in left_out.forked.keys() {
            let reason = "it has signed two changes for one place, as a machine resumed from a snapshot does".to_owned();
            self.name_author(*author, document, ("forked", reason.clone()));
            own = own.or((*author == peer).then_some(("forked", reason)));
        }
        for author in &left_out.crowded {
            let reason = "it writes beside itself more often than is taken at once".to_owned();
            self.name_author(*author, document, ("crowded", reason));
        }
        for (author, wrong) in &left_out.refused {
            let Some(author) = author else {
                tracing::warn!(%peer, %document, %wrong, "left out a change of a node that is not known here");
                continue;
            };
            self.name_author(*author, document, (wrong.code(), wrong.to_string()));
            own = own.or((*author == peer).then(|| (wrong.code(), wrong.to_string())));
        }
        if let Some(place) = left_out.forked.get(&peer) {
            self.show_split(peer, document, place, fx);
        }
        if let Some((code, reason)) = own {
            self.offences.count(code);
            tracing::warn!(%peer, %document, code, %reason, "closing the link to a peer for what it wrote");
            self.close_for_offence(now, peer, false, reason, fx);
        }
    }

    /// Names the author of something that is left out.
    pub(super) fn name_author(
        &mut self,
        author: NodeId,
        document: DocumentId,
        why: (&'static str, String),
    ) {
        let (code, reason) = (why.0, why.1.clone());
        if self.blame.name(author, document, why) {
            tracing::warn!(%author, %document, code, reason, "left out what a node has written");
        }
    }

    /// Returns how often something was left out of what nodes wrote, by the reason's name.
    pub fn left_out_total(&self) -> &BTreeMap<&'static str, u64> {
        &self.blame.by_code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_author_is_told_of_once_for_each_document_and_however_many_there_are_few_are_remembered()
    {
        let mut blame = Blame::default();
        let document = |epoch| DocumentId::Host { host: NodeId([9; 32]), epoch };
        let author = NodeId([7; 32]);
        let why = |code| (code, format!("it did {code}"));
        assert!(blame.name(author, document(0), why("that")));
        assert!(!blame.name(author, document(0), why("that")));
        assert!(blame.name(author, document(1), why("that")));
        assert!(blame.name(author, document(0), why("another")));
        let told = blame.of(&author, |_| true).unwrap();
        assert!(
            told.contains("another") && blame.of(&NodeId([8; 32]), |_| true).is_none(),
            "{told}"
        );
        for epoch in 0..2 * REMEMBERED_MAX as u32 {
            blame.name(author, document(epoch), why("that"));
        }
        assert_eq!(blame.named.len(), REMEMBERED_MAX);
        assert_eq!(blame.by_code["another"], 1);
    }
}
