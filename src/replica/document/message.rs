//! Owns automerge's sync protocol for one document: its messages, and what they carry.
//!
//! Must not know with whom it is spoken, nor how long. Invariant: the changes in a message are judged
//! and applied like pushed ones; automerge itself is given what is left of it, which has none.

use std::collections::BTreeSet;

use automerge::{
    Change,
    sync::{Capability, ChunkList, State, SyncDoc},
};

use super::{
    super::{guard, ids::DocumentId, trust::Trust, voucher::Voucher},
    Applied, ApplyError, Coverage, Document, actor_in,
};

/// A message that was read.
#[derive(Debug)]
pub struct Message {
    changes: Vec<Change>,
    /// All but the changes.
    rest: automerge::sync::Message,
}

impl Message {
    /// Reads a message as a peer sent it; takes as long as it is large.
    ///
    /// # Errors
    ///
    /// The guard refuses the bytes, or automerge can't read them.
    pub fn read(document: DocumentId, bytes: &[u8]) -> Result<Self, ApplyError> {
        let refused = |source| ApplyError::Refused { document, source };
        guard::check_sync_message(bytes).map_err(refused)?;
        let mut rest = guard::contained(|| automerge::sync::Message::decode(bytes))
            .map_err(ApplyError::panicked(document))?
            .map_err(|e| ApplyError::Unreadable { document, reason: e.to_string() })?;
        let chunks = std::mem::replace(&mut rest.changes, ChunkList::empty());
        let mut changes = Vec::new();
        for chunk in chunks.iter() {
            for part in guard::parts(chunk).map_err(refused)? {
                match part {
                    guard::Part::Change(bytes) => {
                        changes.push(Document::read_change(document, bytes)?);
                    }
                    // It would be loaded, and whoever has that much to say sends a snapshot.
                    guard::Part::Document(_) => {
                        let what = "a document in a sync message";
                        return Err(refused(guard::Refused::Unused { what }));
                    }
                }
            }
        }
        Ok(Self { changes, rest })
    }
}

impl Document {
    /// Starts automerge's sync protocol with a peer, or goes on with it: returns a message, and the
    /// vouchers for the authors of what it carries.
    pub fn next_sync_message(&self, state: &mut State) -> Option<(Vec<u8>, Vec<Voucher>)> {
        // Automerge would say all of a document in place of a third of it, which nobody takes.
        if let Some(theirs) = &mut state.their_capabilities {
            theirs.retain(|it| !matches!(it, Capability::MessageV2));
        }
        let mut message = SyncDoc::generate_sync_message(&self.automerge, state)?;
        // Automerge does not know of what waits: it would ask for that again and again, and never
        // for what it waits for, where the Bloom filter has a gap.
        message.need = self.needs(&message.need);
        let changes = message.changes.iter();
        let changes = changes.flat_map(|chunk| guard::parts(chunk).unwrap_or_default());
        let actors: BTreeSet<_> = changes
            .filter_map(|part| match part {
                guard::Part::Change(bytes) => {
                    Some(actor_in(Change::try_from(bytes).ok()?.actor_id()))
                }
                guard::Part::Document(_) => None,
            })
            .collect();
        let carried = |voucher: &&Voucher| actors.contains(&voucher.actor);
        let vouchers = self.vouchers().filter(carried).copied().collect();
        Some((message.encode(), vouchers))
    }

    /// Applies the changes that a message carries, and leaves it without; errors as
    /// [`Document::apply`].
    ///
    /// All at once: were some of it applied before the rest is refused, nobody would be told.
    pub fn take_changes(
        &mut self,
        message: &mut Message,
        vouchers: &[Voucher],
        trust: &Trust,
    ) -> Result<Applied, ApplyError> {
        let changes = std::mem::take(&mut message.changes);
        self.take_in(changes, vouchers, trust, Coverage::Gaps)
    }

    /// Notes in the state of an exchange what a message says beside its changes.
    ///
    /// # Errors
    ///
    /// Automerge panicked: the document must be thrown away.
    pub fn note_message(&mut self, state: &mut State, message: Message) -> Result<(), ApplyError> {
        let document = self.id;
        let automerge = &mut self.automerge;
        let noted =
            guard::contained(|| SyncDoc::receive_sync_message(automerge, state, message.rest))
                .map_err(ApplyError::broken(document))?;
        if let Err(error) = noted {
            // The message carries no changes any more; only what is known of the peer is in doubt.
            tracing::debug!(%document, %error, "begins the sync protocol anew");
            *state = State::new();
        }
        Ok(())
    }
}
