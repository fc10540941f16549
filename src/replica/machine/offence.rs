//! Owns what follows when a peer's bytes do not become part of a document: the link is closed, what
//! they were is counted, and the peer is kept off for a while.
//!
//! Must not know how bytes are judged. Invariant: a peer that has sent what can't be taken is left
//! alone for longer than one whose link was lost, and for longer each time, but never for good:
//! whoever is at fault may be mended.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{
    document::ApplyError,
    effect::{Effects, Evidence, EvidenceKind, Now},
    ids::{DocumentId, NodeId},
};
use super::Replica;
use crate::wire::CloseCode;

/// How long a peer is kept off after its first offence: twice the longest wait after a lost link.
pub const KEPT_OFF_MIN: Duration = Duration::from_secs(60);
/// How long at most, however often it has offended: a peer that was mended is back within the hour.
pub const KEPT_OFF_MAX: Duration = Duration::from_secs(3_600);
/// How long after its time a peer has to be without offence for the next to count as its first.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
/// How many peers are remembered; beyond, those whose time is over first are forgotten.
const REMEMBERED_MAX: usize = 1_024;

/// What a peer sent, as it came.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sent<'a> {
    Changes(&'a [Vec<u8>]),
    Message(&'a [u8]),
    Whole(&'a [u8]),
}

impl Sent<'_> {
    fn evidence(self) -> (EvidenceKind, Vec<u8>) {
        match self {
            Self::Changes(changes) => (EvidenceKind::Changes, changes.concat()),
            Self::Message(bytes) => (EvidenceKind::Message, bytes.to_vec()),
            Self::Whole(bytes) => (EvidenceKind::Document, bytes.to_vec()),
        }
    }
}

/// Until when a peer is left alone.
#[derive(Debug, Clone, Copy)]
struct KeptOff {
    until: Duration,
    times: u32,
    /// Whether its own dials are turned down too: what panics here costs more than it costs there.
    shut_out: bool,
}

/// What peers have sent that could not be taken.
#[derive(Debug, Clone, Default)]
pub struct Offences {
    kept_off: BTreeMap<NodeId, KeptOff>,
    /// Those of them whose time is not over.
    present: BTreeSet<NodeId>,
    by_code: BTreeMap<&'static str, u64>,
}

impl Offences {
    /// Returns how often what peers sent was refused, by the reason's name.
    pub fn by_code(&self) -> &BTreeMap<&'static str, u64> {
        &self.by_code
    }

    pub(super) fn count(&mut self, code: &'static str) {
        *self.by_code.entry(code).or_default() += 1;
    }

    /// Keeps a peer off; returns for how long.
    fn keep_off(&mut self, now: Duration, peer: NodeId, shut_out: bool) -> Duration {
        if self.kept_off.len() >= REMEMBERED_MAX && !self.kept_off.contains_key(&peer) {
            let first = self.kept_off.iter().min_by_key(|(_, it)| it.until).map(|(peer, _)| *peer);
            if let Some(first) = first {
                self.kept_off.remove(&first);
                self.present.remove(&first);
            }
        }
        let before = self.kept_off.get(&peer).filter(|it| it.until + FORGIVEN_AFTER > now);
        let times = before.map_or(0, |it| it.times);
        let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
        let wait = KEPT_OFF_MIN.saturating_mul(factor).min(KEPT_OFF_MAX);
        let shut_out = shut_out || before.is_some_and(|it| it.shut_out && it.until > now);
        let kept = KeptOff { until: now + wait, times: times.saturating_add(1), shut_out };
        self.kept_off.insert(peer, kept);
        self.present.insert(peer);
        wait
    }

    /// Lets those go whose time is over, and returns them.
    fn time_passed(&mut self, now: Duration) -> Vec<NodeId> {
        let is_over = |peer: &NodeId| self.kept_off.get(peer).is_none_or(|it| it.until <= now);
        let over: Vec<_> = self.present.iter().filter(|peer| is_over(peer)).copied().collect();
        over.iter().for_each(|peer| {
            self.present.remove(peer);
        });
        over
    }

    /// Tells whether a peer is not dialled.
    pub fn is_kept_off(&self, peer: &NodeId) -> bool {
        self.present.contains(peer)
    }

    /// Tells for how long a peer's own dials are turned down.
    fn shut_out_for(&self, now: Duration, peer: &NodeId) -> Option<Duration> {
        let kept = self.kept_off.get(peer).filter(|it| it.shut_out && it.until > now)?;
        Some(kept.until.saturating_sub(now))
    }

    /// Returns when the next peer may be dialled again.
    pub fn due(&self) -> Option<Duration> {
        self.present.iter().filter_map(|peer| Some(self.kept_off.get(peer)?.until)).min()
    }
}

impl Replica {
    /// Cuts off a peer whose bytes did not become part of a document, if it is at fault itself.
    pub(super) fn contain(
        &mut self,
        now: Now,
        peer: NodeId,
        document: DocumentId,
        error: &ApplyError,
        sent: Sent<'_>,
        fx: &mut Effects,
    ) {
        let code = error.code();
        self.offences.count(code);
        let panic = match error {
            // The peer is far ahead; the comparison of frontiers asks for what is missing.
            ApplyError::TooManyOrphans { .. } => return,
            // It may know more members than this node: it is asked again.
            ApplyError::NotYet { .. } => {
                tracing::debug!(%peer, %document, %error, "did not take what a peer sent");
                return;
            }
            // Whoever passed it on took it in when its author alone had written there, or knew less.
            ApplyError::Untrusted { source, .. }
                if source.author().is_some_and(|author| author != peer) =>
            {
                if let Some(author) = source.author() {
                    self.name_author(author, document, (code, source.to_string()));
                }
                self.exchange.could_not_fetch(now.monotonic, &peer, &document, &mut fx.frames);
                return;
            }
            ApplyError::Panicked { message, .. } => Some(message),
            ApplyError::Broken { message, .. } => {
                if self.documents.remove(&document).is_some() {
                    self.reloading.insert(document);
                    fx.reloads.push(document);
                }
                Some(message)
            }
            ApplyError::Refused { .. }
            | ApplyError::Untrusted { .. }
            | ApplyError::Unreadable { .. }
            | ApplyError::Misnamed { .. } => None,
        };
        tracing::warn!(%peer, %document, code, %error, "closing the link to a peer for what it sent");
        if let Some(message) = panic {
            let (kind, bytes) = sent.evidence();
            let message = message.clone();
            fx.evidence.push(Evidence { peer, document, kind, bytes, message });
        }
        self.close_for_offence(now, peer, panic.is_some(), error.to_string(), fx);
    }

    /// Closes the link to a peer for what it sent, and keeps it off.
    pub(super) fn close_for_offence(
        &mut self,
        now: Now,
        peer: NodeId,
        shut_out: bool,
        reason: String,
        fx: &mut Effects,
    ) {
        self.keep_off(now, peer, shut_out, &reason);
        fx.closes.push((peer, CloseCode::Hostile, reason));
    }

    /// Does not dial a peer for a while, which one of the two holds to be hostile.
    pub(super) fn keep_off(&mut self, now: Now, peer: NodeId, shut_out: bool, reason: &str) {
        if !self.members.contains_key(&peer) {
            return;
        }
        let wait = self.offences.keep_off(now.monotonic, peer, shut_out).as_secs();
        self.reach_changed = true;
        tracing::warn!(%peer, wait_s = wait, shut_out, "keeping off a peer");
        self.problems.insert(peer, format!("kept off for {wait} s: {reason}"));
    }

    /// Tells for how long a peer's own dials are turned down.
    pub(super) fn shut_out_for(&self, now: Now, peer: &NodeId) -> Option<Duration> {
        self.offences.shut_out_for(now.monotonic, peer)
    }

    /// Lets the peers go whose time is over.
    pub(super) fn forgive(&mut self, now: Now) {
        for peer in self.offences.time_passed(now.monotonic) {
            self.problems.remove(&peer);
            self.reach_changed = true;
        }
    }

    /// Returns how often what peers sent was refused, by the reason's name.
    pub fn refusals(&self) -> &BTreeMap<&'static str, u64> {
        self.offences.by_code()
    }

    /// Counts the peers that are kept off.
    pub fn kept_off_count(&self) -> u64 {
        self.offences.present.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([7; 32]);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_peer_is_kept_off_twice_as_long_each_time_and_never_for_more_than_an_hour() {
        let mut offences = Offences::default();
        let mut now = Duration::ZERO;
        let waits: Vec<u64> = (0..8)
            .map(|_| {
                let wait = offences.keep_off(now, PEER, false);
                assert!(offences.time_passed(now).is_empty() && offences.is_kept_off(&PEER));
                now += wait;
                assert_eq!(offences.time_passed(now), [PEER], "its time is over");
                assert!(!offences.is_kept_off(&PEER));
                wait.as_secs()
            })
            .collect();
        assert_eq!(waits, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
        now += FORGIVEN_AFTER;
        assert_eq!(offences.keep_off(now, PEER, false), KEPT_OFF_MIN, "it was good for long");
    }

    #[test]
    fn only_who_made_automerge_panic_is_not_let_in_and_stays_out_for_all_of_its_time() {
        let mut offences = Offences::default();
        offences.keep_off(s(0), PEER, false);
        assert_eq!(offences.shut_out_for(s(0), &PEER), None);
        offences.keep_off(s(1), PEER, true);
        assert_eq!(offences.shut_out_for(s(1), &PEER), Some(s(120)));
        offences.keep_off(s(2), PEER, false);
        assert_eq!(offences.shut_out_for(s(2), &PEER), Some(s(240)));
        assert_eq!(offences.shut_out_for(s(242), &PEER), None);
        assert_eq!(offences.due(), Some(s(242)));
        assert_eq!(offences.time_passed(s(242)), [PEER]);
        assert_eq!(offences.due(), None, "nothing is left to wait for");
    }

    #[test]
    fn however_many_keys_offend_few_are_remembered() {
        let mut offences = Offences::default();
        for number in 0..2 * REMEMBERED_MAX as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            offences.keep_off(s(number), NodeId(key), true);
        }
        assert_eq!(offences.kept_off.len(), REMEMBERED_MAX);
        assert_eq!(offences.present.len(), REMEMBERED_MAX);
    }
}
