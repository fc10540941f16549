//! Owns taking in what several ask for as one: what they write is stood for, told and stored together.
//!
//! Must not change what any of it does or is answered. Invariants: nothing that was written leaves
//! this node before it stands for it; nobody is answered before what was written is stored.

use std::collections::BTreeMap;

use super::super::{
    command::Command,
    document::{Applied, Document},
    effect::{Effects, Input, Now},
    ids::DocumentId,
    trust::Trust,
};
use super::{AT_ONCE_BYTES_MAX, Replica};

/// How many commands are taken in together at most: they are told of and answered when the last of
/// them is, and each takes some hundred microseconds.
pub const TOGETHER_MAX: usize = 8;

/// What was written since the commands began that are being taken in together; `None` if none are.
#[derive(Debug, Clone, Default)]
pub(super) struct Together(Option<BTreeMap<DocumentId, Applied>>);

/// Tells whether a command can be taken in together with others: it does nothing but write to
/// sessions.
pub fn goes_together(command: &Command) -> bool {
    matches!(
        command,
        Command::CreateSession(_) | Command::UpdateSession(..) | Command::DeleteSession { .. }
    )
}

impl Replica {
    /// Takes inputs in, one after the other, and tells what is to be done about all of them: for what
    /// they wrote to one document there is one signature and one frame.
    ///
    /// To be asked only for commands that [go together](goes_together).
    pub fn handle_together(&mut self, now: Now, inputs: Vec<Input>) -> Effects {
        self.together = Together(Some(BTreeMap::new()));
        let mut all = Effects::default();
        for input in inputs {
            let fx = self.handle(now, input);
            all.extend(fx);
        }
        self.stand_for_written(now, &mut all);
        self.together = Together(None);
        all
    }

    /// Keeps what this node wrote until it is stood for, if that is awaited; false if it is not.
    pub(super) fn keep_written(
        &mut self,
        now: Now,
        id: DocumentId,
        applied: &Applied,
        fx: &mut Effects,
    ) -> bool {
        let Some(written) = self.together.0.as_mut().filter(|_| id.host().is_some()) else {
            return false;
        };
        // No more in one frame than peers take in at once.
        let bytes =
            |it: &Applied| it.changes.iter().map(|change| change.bytes.len()).sum::<usize>();
        let kept = written.get(&id).map_or(0, bytes);
        if kept > 0 && kept + bytes(applied) > AT_ONCE_BYTES_MAX {
            self.stand_for_written(now, fx);
        }
        if let Some(written) = &mut self.together.0 {
            written.entry(id).or_default().extend(applied.clone());
        }
        true
    }

    /// Stands for what was written together so far, and has it stored and told.
    pub(super) fn stand_for_written(&mut self, now: Now, fx: &mut Effects) {
        let written = self.together.0.as_mut().map(std::mem::take).unwrap_or_default();
        for (id, mut applied) in written {
            self.vouch(id, &mut applied);
            self.record(id, &applied, fx);
            self.push(now, id, &applied, None, fx);
        }
    }
}

/// Stands, by this node's key, for what it has written to a document.
pub fn vouch_for(trust: &Trust, document: &mut Document, applied: &mut Applied) {
    let Some(last) = applied.changes.last() else { return };
    let voucher = trust.vouch(&document.id(), last.actor, last.seq, last.hash);
    document.vouch(voucher);
    applied.vouchers.push(voucher);
}
