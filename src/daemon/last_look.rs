//! Owns asking the loop, right before a teardown's first step, whether the teardown may still begin.
//!
//! Must not know what the loop looks at. Invariant: without an answer nothing begins.

use tokio::sync::{mpsc, oneshot};

use crate::{replica::effect::TeardownDue, teardown};

/// Asks the loop, from another thread, whether a teardown may still begin.
#[derive(Debug)]
pub struct LastLook(mpsc::UnboundedSender<Question>);

/// The teardown, and where the answer goes.
pub type Question = (TeardownDue, oneshot::Sender<bool>);

impl LastLook {
    /// Returns one, and the receiver from which the loop reads the questions.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Question>) {
        // Bounded by what feeds it: one question for each teardown under way.
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }
}

impl teardown::Gate for LastLook {
    fn may_begin(&self, due: &TeardownDue) -> bool {
        let (sender, receiver) = oneshot::channel();
        // A loop that has stopped does it again at the next start.
        self.0.send((due.clone(), sender)).is_ok() && receiver.blocking_recv().unwrap_or(false)
    }
}
