//! Lives that did not end well once, by what was wrong.

use std::time::Duration;

use super::{
    chaos::{Act, Kind},
    life::{CALM, Scenario},
    play,
};

/// Plays what happens to the first of two nodes, half a second apart.
fn happens(kinds: &[Kind]) {
    let after = Duration::from_millis(700);
    let act = |(salt, kind): (u64, &Kind)| Act { after, kind: *kind, node: Some(0), salt };
    let acts: Vec<Act> = (0..).zip(kinds).map(act).collect();
    let only = (0..acts.len()).collect();
    let (weather, calm, skews_ms) = (CALM, false, [0; 5]);
    play(&Scenario { seed: 1, nodes: 2, acts, only, weather, calm, skews_ms });
}

/// A sync failed, the daemon ended and was started again, and found its store sound: it read what
/// the system had cached and never written. It built on that, acknowledged, and with the next power
/// cut the store was damaged. The file is no longer read as it is cached (`store::folder`).
#[test]
fn what_a_failed_sync_has_lost_is_not_built_on() {
    use Kind::{CreateSession, CreateWorkspace, PowerCut, SyncFails, TornCommit};
    for last in [PowerCut, TornCommit] {
        let mut kinds = vec![CreateWorkspace, CreateSession, SyncFails, CreateSession];
        kinds.extend([CreateSession, CreateSession, last, CreateSession, CreateSession]);
        happens(&kinds);
    }
}
