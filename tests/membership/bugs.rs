//! Owns the proof that a deliberate fault in the evaluation is noticed.
//!
//! Must not know where a fault is planted. Invariant: each is looked for by the same checks that the
//! sound build passes.

use std::panic;

use sessionmesh::seeded::{self, Bug};

use super::explore::{Kinds, explore_all};

#[test]
fn every_seeded_fault_of_the_evaluation_is_noticed() {
    for bug in Bug::MEMBERSHIP {
        seeded::plant(Some(bug));
        let found = panic::catch_unwind(|| {
            super::set::bytes_that_were_changed_cut_or_lengthened_are_no_statement();
            explore_all(Kinds::All, 2);
        });
        seeded::plant(None);
        assert!(found.is_err(), "nothing notices {bug:?}");
    }
}
