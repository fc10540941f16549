//! What is acknowledged survives disks that fail and power that goes, at any moment.

use sessionmesh::store::{Error, OpenError, Store};

use crate::{
    disk::{Disk, Fault},
    workload::{Contents, Step, perform, program},
};

/// How the process that saw the disk fail comes to its end.
#[derive(Debug, Clone, Copy)]
enum End {
    Kill,
    PowerCut,
}

/// Runs a program until something fails; returns how many steps were acknowledged, and whether
/// the store had opened.
fn run(disk: &Disk, program: &[Step], context: &str) -> (usize, bool) {
    let store = match Store::with_backend(disk.backend()) {
        Ok(store) => store,
        Err(error) => {
            assert!(matches!(error, OpenError::Io { .. }), "{context}: {error}");
            return (0, false);
        }
    };
    for (acknowledged, step) in program.iter().enumerate() {
        let Err(error) = perform(&store, step) else { continue };
        assert!(matches!(error, Error::Io { .. }), "{context}: {error}");
        // The one after may not be acknowledged either, whether the disk works again or not.
        let again = perform(&store, step).expect_err(context);
        assert!(matches!(again, Error::Stopped { .. }), "{context}: {again}");
        return (acknowledged, true);
    }
    (program.len(), true)
}

/// Reopens the disk and compares; then goes on writing, and compares again.
fn check(disk: &Disk, program: &[Step], acknowledged: usize, opened: bool, context: &str) {
    let mut contents = vec![Contents::default()];
    for step in program {
        let mut next = contents[contents.len() - 1].clone();
        next.apply(step);
        contents.push(next);
    }
    let store = match Store::with_backend(disk.backend()) {
        // The store had not come into being; in a folder it would have had another name.
        Err(OpenError::Damaged { .. }) if !opened => return,
        other => other.unwrap_or_else(|error| panic!("{context}: {error}")),
    };
    let found = Contents::of(&store).unwrap_or_else(|error| panic!("{context}: {error}"));
    let in_flight = (acknowledged + 1).min(program.len());
    let reached = [acknowledged, in_flight].into_iter().find(|&steps| contents[steps] == found);
    let Some(reached) = reached else {
        panic!("{context}: {acknowledged} steps were acknowledged, but the store holds {found:?}")
    };
    for step in &program[reached..] {
        perform(&store, step).unwrap_or_else(|error| panic!("{context}: {error}"));
    }
    drop(store);
    let store = Store::with_backend(disk.backend()).expect(context);
    assert_eq!(Contents::of(&store).expect(context), contents[program.len()], "{context}");
    // What was built on lies on the disk, too. A sync fails, the system keeps what it could not
    // write as if it had, a daemon that is started again finds nothing wrong and goes on: with the
    // next power cut all was gone. (Found by the simulator; since then what is cached of the file
    // is dropped before it is opened.)
    drop(store);
    disk.cut_power();
    let store = Store::with_backend(disk.backend()).expect(context);
    assert_eq!(Contents::of(&store).expect(context), contents[program.len()], "{context}");
}

fn operations(program: &[Step]) -> u64 {
    let disk = Disk::new(Vec::new(), Fault::None, 0);
    assert_eq!(run(&disk, program, "without a fault"), (program.len(), true));
    disk.operations()
}

fn fail_everywhere(seed: u64, fault: fn(u64) -> Fault, end: End) {
    let program = program(seed, 8);
    let operations = operations(&program);
    assert!(operations > 40, "the program hardly writes: {operations} operations");
    let mut failed = 0;
    for at in 0..operations {
        let context = format!("seed {seed}, {:?}, {end:?}", fault(at));
        let disk = Disk::new(Vec::new(), fault(at), at);
        let (acknowledged, opened) = run(&disk, &program, &context);
        failed += usize::from(acknowledged < program.len());
        match end {
            End::Kill => disk.kill(),
            End::PowerCut => disk.cut_power(),
        }
        check(&disk, &program, acknowledged, opened, &context);
    }
    assert!(failed > 40, "only {failed} of {operations} faults were noticed");
}

#[test]
fn a_write_that_fails_once_is_never_acknowledged_and_nothing_before_it_is_lost() {
    fail_everywhere(1, Fault::Once, End::Kill);
}

#[test]
fn a_write_that_fails_before_a_power_cut_takes_nothing_acknowledged_along() {
    fail_everywhere(2, Fault::Once, End::PowerCut);
}

#[test]
fn a_disk_that_goes_away_takes_nothing_acknowledged_along() {
    fail_everywhere(3, Fault::From, End::Kill);
}

#[test]
fn power_cuts_with_torn_writes_lose_nothing_acknowledged() {
    for seed in 0..150 {
        let program = program(seed, 6);
        // The power goes at any operation: from then on none reaches the disk, and of those
        // before, what was not synced may be lost.
        let at = fastrand::Rng::with_seed(seed).u64(0..operations(&program));
        let context = format!("seed {seed}, power cut at operation {at}");
        let disk = Disk::new(Vec::new(), Fault::From(at), seed);
        let (acknowledged, opened) = run(&disk, &program, &context);
        disk.cut_power();
        check(&disk, &program, acknowledged, opened, &context);
    }
}
