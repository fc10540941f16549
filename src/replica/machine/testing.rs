//! Owns what the tests of this room share: how a replica of their own starts.
//!
//! Must not know what is tested. Invariant: the same start each time.

use std::{sync::Arc, time::Duration};

use super::super::{
    effect::Startup,
    ids::{NodeId, StartId},
    voucher::Trusting,
};

/// Returns the start of a node that is alone; a delete can be undone for ten seconds.
pub fn startup() -> Startup {
    Startup {
        node: NodeId([1; 32]),
        name: "a".to_owned(),
        start: StartId([0; 8]),
        seed: 0,
        undo_window: Duration::from_secs(10),
        keep_removed: Duration::ZERO,
        start_grace: Duration::ZERO,
        keyring: Arc::new(Trusting),
    }
}
