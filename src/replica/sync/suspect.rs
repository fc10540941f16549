//! Owns when what a peer has of a document, and this node lacks, is asked for.
//!
//! Must not know how it is asked for. Invariant: what is lacked is asked for after a while, whatever else
//! comes meanwhile.

use std::time::Duration;

use super::super::{document::Document, ids::ChangeHash};

/// How long a change of a peer may be unknown here before it is asked for: it may be on its way
/// from its author.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(800);
/// The same while its document gains others: where others write faster than this node takes in, it is
/// behind those, and asked for it would come twice, with all that is on its way before it. Of several
/// authors one may be missing, though.
pub const SUSPECT_AT_LATEST: Duration = Duration::from_secs(5);

/// What a peer has of a document and this node does not.
#[derive(Debug, Clone)]
pub struct Suspect {
    heads: Vec<ChangeHash>,
    /// Since when it is known, or was last asked for.
    since: Duration,
    /// Since when nothing has come to the document, and how many changes it had then.
    still_since: Duration,
    changes: u64,
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// Nothing any more: it is here.
    Here,
    /// It is to be asked for.
    Ask,
}

impl Suspect {
    /// Begins to suspect that something will not come by itself.
    pub fn new(now: Duration, heads: Vec<ChangeHash>, document: &Document) -> Self {
        Self { heads, since: now, still_since: now, changes: document.change_count() }
    }

    /// Takes note that the peer has told of more. While what was suspected before is still not here, its
    /// time runs on: a peer that writes on and on would else put the repair off for ever.
    #[must_use]
    pub fn or_later(self, now: Duration, heads: Vec<ChangeHash>, document: &Document) -> Self {
        if document.has_all(&self.heads) {
            Self::new(now, heads, document)
        } else {
            Self { heads, ..self }
        }
    }

    /// Returns when to [judge](Self::judge) it.
    pub fn due(&self) -> Duration {
        (self.still_since + SUSPECT_AFTER).min(self.since + SUSPECT_AT_LATEST)
    }

    /// Tells what is to be done about it now.
    pub fn judge(&mut self, now: Duration, document: Option<&Document>) -> Verdict {
        if self.due() > now {
            return Verdict::Wait;
        }
        let Some(document) = document.filter(|document| !document.has_all(&self.heads)) else {
            return Verdict::Here;
        };
        let changes = document.change_count();
        let has_gained = std::mem::replace(&mut self.changes, changes) < changes;
        self.still_since = now;
        if has_gained && self.since + SUSPECT_AT_LATEST > now {
            return Verdict::Wait;
        }
        self.since = now;
        Verdict::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{
        document,
        ids::{NodeId, StartId},
    };

    const STEP: Duration = Duration::from_millis(500);

    fn document() -> Document {
        let host = NodeId([1; 32]);
        Document::create_host(host, 0, document::actor(&host, StartId([1; 8])), 0).0
    }

    fn gain(document: &mut Document, id: &str) {
        let id = id.parse().unwrap();
        document.write(0, |writer| writer.purge_session(&id, false)).expect("it is written");
    }

    /// What a peer has gained that this node has not.
    fn lacked(document: &Document) -> Vec<ChangeHash> {
        let mut ahead = document.clone();
        gain(&mut ahead, "lacked");
        ahead.heads()
    }

    #[test]
    fn what_does_not_come_is_asked_for_again_and_again_and_what_has_come_no_more() {
        let mut held = document();
        let mut suspect = Suspect::new(Duration::ZERO, lacked(&held), &held);
        assert_eq!(suspect.judge(STEP, Some(&held)), Verdict::Wait);
        assert_eq!(suspect.judge(2 * STEP, Some(&held)), Verdict::Ask);
        assert_eq!(suspect.judge(3 * STEP, Some(&held)), Verdict::Wait);
        assert_eq!(suspect.due(), 2 * STEP + SUSPECT_AFTER);
        assert_eq!(suspect.judge(4 * STEP, Some(&held)), Verdict::Ask);
        gain(&mut held, "lacked");
        assert_eq!(suspect.judge(6 * STEP, Some(&held)), Verdict::Here);
        assert_eq!(suspect.judge(8 * STEP, None), Verdict::Here, "the document is gone");
    }

    /// Eight nodes wrote at once, faster than they took in; each asked the others for what was on its
    /// way, and took it in twice.
    #[test]
    fn while_its_document_gains_others_it_is_awaited_but_not_for_ever() {
        // It has gained until so many steps were over, the last of it seen by the next look.
        for (gaining, asked_at) in [(0, 2), (2, 4), (3, 6), (8, 10), (100, 10)] {
            let mut held = document();
            let mut suspect = Suspect::new(Duration::ZERO, lacked(&held), &held);
            let is_asked = |at: &u32| {
                if *at <= gaining {
                    gain(&mut held, &format!("s{at}"));
                }
                suspect.judge(STEP * *at, Some(&held)) == Verdict::Ask
            };
            assert_eq!((1..20).find(is_asked), Some(asked_at), "of {gaining} steps");
        }
        assert_eq!(10 * STEP, SUSPECT_AT_LATEST);
    }
}
