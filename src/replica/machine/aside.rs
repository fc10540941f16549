//! Owns what a replica has done beside the loop of its own accord: about its own epochs, and putting
//! together what peers lack.
//!
//! Must not know where that is. Invariants: it needs nothing of the replica but copies; each thing is
//! given out once, and of answers the next only once the one before is back.

use super::{
    super::{
        effect::{Effects, Now},
        guard,
        sync::Parcel,
    },
    Replica,
    earlier::{EpochDone, EpochWork},
};
use crate::wire::Frame;

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Work {
    /// Something about the node's own epochs.
    Epoch(Box<EpochWork>),
    /// What a peer lacks of a document is to be put together.
    Answer(Box<Parcel>),
}

/// What came of it.
#[derive(Debug)]
pub enum Done {
    /// Something was done about the node's own epochs.
    Epoch(Box<EpochDone>),
    /// What a peer lacked is put together, if it was anything.
    Answer(Option<Frame>),
}

impl Work {
    /// Does it; takes as long as the document is large that it is about.
    pub fn run(self) -> Done {
        match self {
            Self::Epoch(work) => Done::Epoch(Box::new(work.run())),
            Self::Answer(parcel) => {
                // Nobody would be told of a panic, and the next would wait for ever.
                let frame = guard::contained(|| parcel.put_together());
                let frame = frame.unwrap_or_else(|error| {
                    tracing::error!(%error, "can't put together what a peer lacks");
                    None
                });
                Done::Answer(frame)
            }
        }
    }
}

impl Replica {
    /// Returns something that is to be done, to be done anywhere and given back to
    /// [`Replica::handle_done`]; to be asked for until there is nothing.
    pub fn work(&mut self) -> Option<Work> {
        let epoch = self.epoch_work().map(|work| Work::Epoch(Box::new(work)));
        epoch.or_else(|| {
            let parcel = self.exchange.owed(&self.documents)?;
            Some(Work::Answer(Box::new(parcel)))
        })
    }

    /// Takes in what was done.
    pub fn handle_done(&mut self, now: Now, done: Done) -> Effects {
        let mut fx = Effects::default();
        match done {
            Done::Epoch(done) => self.epoch_done(now, *done, &mut fx),
            Done::Answer(frame) => {
                let (at, documents) = (now.monotonic, &self.documents);
                self.exchange.put_together(at, frame, documents, &mut fx.frames);
            }
        }
        self.conclude(now, fx)
    }
}
