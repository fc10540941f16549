//! Owns what of an input can wait until the frames that tell peers of it have left: the own view, the
//! diff and the answer.
//!
//! Must not know how frames travel. Invariant: nothing waits but between [`Replica::begin`] and
//! [`Replica::finish`], and what waits is shown in the order in which it was gained.

use std::collections::BTreeSet;

use super::super::{
    command::Reply,
    document::Touched,
    effect::{Effects, Input, Now, Outgoing, RequestId},
    ids::{DocumentId, Fingerprint},
    record::SessionKey,
    view::Change,
};
use super::{Origin, Replica, deleting::Deleting, goes_together};
use crate::wire::Frame;

/// An input that was taken in as far as peers are to be told of it.
#[derive(Debug)]
#[must_use = "an input has to be finished before the next one"]
pub struct Begun(Effects);

impl Begun {
    /// Takes out the frames that are to be sent at once, in order.
    pub fn take_frames(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.0.frames)
    }
}

/// What a document has gained and is not shown yet.
#[derive(Debug, Clone)]
pub(super) struct Gained {
    pub id: DocumentId,
    pub touched: BTreeSet<Touched>,
    pub origin: Origin,
    pub authors: BTreeSet<Fingerprint>,
}

/// An answer that tells how a session stands once it is shown.
#[derive(Debug, Clone)]
pub(super) enum Unanswered {
    Session(SessionKey),
    Deleted(Box<Deleting>),
}

/// What waits.
#[derive(Debug, Clone, Default)]
pub(super) struct Later {
    is_open: bool,
    gained: Option<Gained>,
    answer: Option<(RequestId, Unanswered)>,
}

impl Later {
    /// Has an answer wait.
    pub fn answer(&mut self, request: RequestId, unanswered: Unanswered) {
        self.answer = Some((request, unanswered));
    }
}

/// Tells whether an input does nothing after its one write that looks at the view.
fn can_wait(input: &Input) -> bool {
    match input {
        Input::Requested { command, .. } => goes_together(command),
        Input::FrameReceived { frame: Frame::Changes { document, .. }, .. } => {
            document.host().is_some()
        }
        _ => false,
    }
}

impl Replica {
    /// Takes one input in and tells what is to be done about it.
    pub fn handle(&mut self, now: Now, input: Input) -> Effects {
        let mut begun = self.begin(now, input);
        let frames = begun.take_frames();
        let mut fx = self.finish(now, begun);
        fx.frames.splice(..0, frames);
        fx
    }

    /// Takes one input in as far as peers are to be told of it; [`Replica::finish`] does the rest.
    ///
    /// What a change looks like here takes longer to find than the change took to make, and peers
    /// need not wait for it.
    pub fn begin(&mut self, now: Now, input: Input) -> Begun {
        let mut fx = Effects::default();
        self.later.is_open = can_wait(&input);
        self.take(now, input, &mut fx);
        Begun(fx)
    }

    /// Does the rest of an input, and tells what is to be done about it.
    pub fn finish(&mut self, now: Now, begun: Begun) -> Effects {
        let Begun(mut fx) = begun;
        let Later { gained, answer, .. } = std::mem::take(&mut self.later);
        let shown = gained.map(|gained| self.show(now, gained, &mut fx)).unwrap_or_default();
        if let Some((request, unanswered)) = answer {
            let reply = match unanswered {
                Unanswered::Session(key) => Reply::Session(self.session_record(&key)),
                Unanswered::Deleted(deleting) => {
                    let deleted = self.session_deleted(now, *deleting, shown, &mut fx);
                    Reply::SessionDeleted(Box::new(deleted))
                }
            };
            fx.replies.push((request, Ok(reply)));
        }
        self.conclude(now, fx)
    }

    /// Shows what a document has gained, or has it wait for the end of the input.
    pub(super) fn show_later(&mut self, now: Now, gained: Gained, fx: &mut Effects) {
        if let Some(earlier) = self.later.gained.take() {
            self.show(now, earlier, fx);
            self.later.is_open = false;
        }
        if self.later.is_open {
            self.later.gained = Some(gained);
        } else {
            self.show(now, gained, fx);
        }
    }

    fn show(&mut self, now: Now, gained: Gained, fx: &mut Effects) -> Vec<Change> {
        let Gained { id, touched, origin, authors } = gained;
        match id {
            DocumentId::Fleet(_) => Vec::new(),
            DocumentId::Host { host, .. } => {
                if touched.contains(&Touched::Description) {
                    self.read_description(host, fx);
                }
                let records = self.layers_changed(host, id, touched, fx);
                let is_trash = |record: &Touched| matches!(record, Touched::Trash(_));
                fx.trash |= host == self.node && records.iter().any(is_trash);
                let touched = self.read_touched(host, &records);
                self.publish(now, touched, origin, authors, fx)
            }
        }
    }
}
