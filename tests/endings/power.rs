//! Cuts the power while worktrees end, are put back or deleted: the data folder, the repository and
//! the worktrees lie on the filesystem that goes.
//!
//! `POWER_CUTS=300 cargo test --test endings power -- --nocapture` cuts oftener.

use std::{fs, time::Duration};

use fastrand::Rng;

use crate::{crash, power_disk::Disk, setting};

/// How often the power is cut where `POWER_CUTS` says nothing.
const CUTS_DEFAULT: u64 = 8;
/// Large enough for a scene and a journal.
const DISK_BYTES: u64 = 96 << 20;

fn run(seed: u64, disk: &Disk, longest: &mut [Duration; 4]) -> Result<bool, String> {
    let mut rng = Rng::with_seed(seed);
    let (mut case, before, order) = crash::prepare(&mut rng, &disk.dir())?;
    // What was there before is not what is tried.
    rustix::fs::sync();
    let longest = &mut longest[order.act as usize];
    let mut child = crash::start(&order);
    let cut = !crash::ends_within(&mut child, crash::draw_time(&mut rng, *longest));
    disk.cut();
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    disk.power_on();
    // The lock of a git that was cut off, the agent's: git asks its users to remove it.
    for lock in fs::read_dir(case.scene.common().join("refs/heads")).into_iter().flatten().flatten()
    {
        if lock.path().extension().is_some_and(|extension| extension == "lock") {
            fs::remove_file(lock.path()).expect("it is ours");
        }
    }
    crash::go_on(&mut case, &before, &order)?;
    Ok(cut)
}

#[expect(clippy::print_stdout, reason = "how much was tried belongs to the result")]
#[test]
fn a_power_cut_while_something_ends_or_is_put_back_loses_nothing() {
    let Some(disk) = Disk::new(DISK_BYTES) else { return };
    let cuts = setting("POWER_CUTS").unwrap_or(CUTS_DEFAULT);
    let first = setting("ENDINGS_SEED").unwrap_or(0);
    let (mut longest, mut cut) = ([Duration::from_millis(400); 4], 0);
    for seed in first..first + cuts {
        match run(seed, &disk, &mut longest) {
            Ok(one) => cut += u64::from(one),
            Err(fault) => panic!(
                "ENDINGS_SEED={seed} POWER_CUTS=1 cargo test --test endings power\n    {fault}"
            ),
        }
    }
    println!("endings: {cuts} power cuts, {cut} in the middle of it, nothing lost");
    assert!(cut > 0, "none was in the middle of it");
}
