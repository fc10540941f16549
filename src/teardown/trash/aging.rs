//! Owns how much time counts against an entry: a gap in which the daemon did not look counts as one day at most.
//!
//! Must not delete anything. Invariant: an entry is kept for as many days as it was promised, also where
//! the machine was off for weeks, or its clock was years behind or ahead.

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    Trash, TrashError,
    manifest::{Manifest, Stage},
};
use crate::files;

/// A day, in milliseconds: as much of a gap as counts, and as long as nothing is deleted early after one.
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// How old the file may get, in milliseconds: little beside a day.
const WRITTEN_EVERY_MS: i64 = 60 * 60 * 1_000;
const FILE_NAME: &str = "clock.json";

/// The last look at the wall clock, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastLook {
    /// When it was last looked at.
    seen_at: i64,
    /// Before this nothing is deleted to make room.
    early_from: i64,
}

/// The last look, and what the file says of it.
#[derive(Debug, Default)]
pub(super) struct Looks {
    last: Option<LastLook>,
    written_at: Option<i64>,
}

impl Trash {
    /// Notes what the wall clock says, in milliseconds since the epoch, before anything is deleted
    /// because of it. Blocks; to be called from time to time.
    ///
    /// A clock that was wrong, or a machine that was off, makes a gap between two looks. All but one day of it is
    /// added to the time of each entry that was there before the gap. If the clock is put back later, that is
    /// taken back.
    ///
    /// # Errors
    ///
    /// The data folder can't be written, or somebody is at an entry whose time changes: nothing may be
    /// deleted then.
    pub fn look_at_clock(&self, now_ms: i64) -> Result<(), TrashError> {
        self.look(now_ms, false)
    }

    /// Does so at the start, when nobody ends, restores or deletes anything yet.
    ///
    /// # Errors
    ///
    /// As for [`Trash::look_at_clock`].
    pub fn look_at_clock_first(&self, now_ms: i64) -> Result<(), TrashError> {
        self.look(now_ms, true)
    }

    fn look(&self, now_ms: i64, is_starting: bool) -> Result<(), TrashError> {
        let path = self.clock_path();
        let mut looks = self.looks();
        let manifests = self.store.manifests();
        // Where nothing was noted, nobody is known to have looked since the oldest entry was made.
        let oldest = || manifests.iter().map(|manifest| manifest.ended_at).min();
        let unnoted = || Some(LastLook { seen_at: oldest()?, early_from: i64::MIN });
        let last = looks.last.or_else(|| read(&path)).or_else(unnoted);
        let gap = last.map_or(0, |last| now_ms.saturating_sub(last.seen_at));
        let mut early_from = last.map_or(i64::MIN, |last| last.early_from);
        if gap > DAY_MS {
            tracing::warn!(
                hours = gap / (60 * 60 * 1_000),
                "nobody looked after the trash for long, or the clock was put forward: one day of it counts"
            );
            early_from = now_ms.saturating_add(DAY_MS);
        }
        for manifest in &manifests {
            self.redate(manifest, last.map(|last| last.seen_at), now_ms, is_starting)?;
        }
        // A clock that was put back must not keep what may go early for years.
        early_from = early_from.min(now_ms.saturating_add(DAY_MS));
        let look = LastLook { seen_at: now_ms, early_from };
        let is_fresh =
            |at: i64| now_ms.saturating_sub(at).unsigned_abs() < WRITTEN_EVERY_MS.unsigned_abs();
        if !manifests.is_empty() && (gap > DAY_MS || !looks.written_at.is_some_and(is_fresh)) {
            write(&path, look).map_err(super::restore::io_error(&path))?;
            looks.written_at = Some(now_ms);
        }
        looks.last = Some(look);
        Ok(())
    }

    /// Gives one entry its time, where that has changed; one that is being ended, put back or deleted only at
    /// the start.
    fn redate(
        &self,
        seen: &Manifest,
        last_seen: Option<i64>,
        now_ms: i64,
        is_starting: bool,
    ) -> Result<(), TrashError> {
        if !redate(&mut seen.clone(), last_seen, now_ms) {
            return Ok(());
        }
        let _busy = self.claim_entry(seen.entry.clone())?;
        // It may have changed, or be gone, since it was listed.
        let Some(mut manifest) = self.store.manifest(&seen.entry) else { return Ok(()) };
        if !is_starting && !matches!(manifest.stage, Stage::Kept | Stage::Restored) {
            return Err(TrashError::Busy(manifest.entry));
        }
        if redate(&mut manifest, last_seen, now_ms) { self.write(&manifest) } else { Ok(()) }
    }

    /// Tells whether the clock can be believed so far that an entry may be deleted to make room.
    pub(super) fn may_make_room(&self, now_ms: i64) -> bool {
        self.looks().last.is_none_or(|look| now_ms >= look.early_from)
    }

    fn clock_path(&self) -> PathBuf {
        self.store.path().join(FILE_NAME)
    }

    fn looks(&self) -> std::sync::MutexGuard<'_, Looks> {
        // A look is noted whole or not at all.
        self.looks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Corrects the time of one entry for a gap, or for a clock that was ahead; returns whether it has changed.
fn redate(manifest: &mut Manifest, last_seen: Option<i64>, now_ms: i64) -> bool {
    let age = now_ms.saturating_sub(manifest.ended_at);
    if age < -DAY_MS {
        // It was ended while the clock was ahead.
        let keep = manifest.kept_until.saturating_sub(manifest.ended_at).max(0);
        manifest.ended_at = now_ms;
        manifest.kept_until = now_ms.saturating_add(keep - manifest.added_ms.clamp(0, keep));
        manifest.added_ms = 0;
        return true;
    }
    let gap = last_seen.map_or(0, |seen_at| now_ms.saturating_sub(seen_at));
    let more = match gap {
        _ if manifest.gap_began == last_seen => 0,
        // What was ended after the gap has lost nothing by it.
        gap if gap > DAY_MS && age > gap / 2 => gap - DAY_MS,
        gap if gap < -DAY_MS => -manifest.added_ms.min(gap.saturating_neg()),
        _ => 0,
    };
    manifest.kept_until = manifest.kept_until.saturating_add(more);
    manifest.added_ms = manifest.added_ms.saturating_add(more);
    if more != 0 {
        manifest.gap_began = last_seen;
    }
    more != 0
}

fn read(path: &std::path::Path) -> Option<LastLook> {
    let bytes = fs::read(path).ok()?;
    let look = serde_json::from_slice(&bytes);
    if let Err(error) = &look {
        tracing::warn!(path = %path.display(), %error, "can't be read; it is written again");
    }
    look.ok()
}

fn write(path: &std::path::Path, look: LastLook) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        files::make_folder(folder)?;
    }
    files::replace(path, &serde_json::to_vec(&look)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        replica::ids::NodeId,
        teardown::trash::{Settings, testing},
    };

    const START: i64 = 1_795_000_000_000;
    const KEEP: i64 = 14 * DAY_MS;

    fn open(data: &tempfile::TempDir) -> Trash {
        Trash::new(data.path(), NodeId([1; 32]), Settings::default())
    }

    fn end(trash: &Trash, entry: &str, at: i64) {
        let manifest = testing::manifest(entry);
        let manifest = Manifest { ended_at: at, kept_until: at + KEEP, ..manifest };
        trash.store.write(&manifest).unwrap();
    }

    fn look(trash: &Trash, at: i64) {
        trash.look_at_clock(at).unwrap();
        trash.maintain(at);
    }

    fn left(trash: &Trash, entry: &str) -> Option<i64> {
        trash.store.manifest(entry).map(|manifest| manifest.kept_until)
    }

    #[test]
    fn days_on_which_somebody_looks_count_whole() {
        let data = tempfile::tempdir().unwrap();
        let trash = open(&data);
        look(&trash, START);
        end(&trash, "wrk_1.1", START);
        // A laptop that is off each night is opened again each morning.
        (1..14).for_each(|day| look(&open(&data), START + day * DAY_MS));
        assert_eq!(left(&open(&data), "wrk_1.1"), Some(START + KEEP));
        look(&open(&data), START + KEEP);
        assert_eq!(left(&open(&data), "wrk_1.1"), None);
    }

    #[test]
    fn a_machine_that_was_off_or_asleep_for_weeks_deletes_nothing_when_it_comes_back() {
        for is_restarted in [true, false] {
            let data = tempfile::tempdir().unwrap();
            let mut trash = open(&data);
            look(&trash, START);
            end(&trash, "wrk_1.1", START);
            let back = START + 60 * DAY_MS;
            if is_restarted {
                trash = open(&data);
            }
            // What is ended before the first look after the gap is not old by it.
            end(&trash, "wrk_2.1", back);
            look(&trash, back);
            assert_eq!(left(&trash, "wrk_1.1"), Some(back + 13 * DAY_MS));
            assert_eq!(left(&trash, "wrk_2.1"), Some(back + KEEP));
            (1..=13).for_each(|day| look(&trash, back + day * DAY_MS));
            assert_eq!(left(&trash, "wrk_1.1"), None);
            assert_eq!(left(&trash, "wrk_2.1"), Some(back + KEEP));
        }
    }

    #[test]
    fn a_clock_that_is_wrong_for_a_while_takes_one_day_at_most() {
        let data = tempfile::tempdir().unwrap();
        let trash = open(&data);
        look(&trash, START);
        end(&trash, "wrk_1.1", START);
        // Years ahead, and right again.
        let ahead = START + 3_650 * DAY_MS;
        look(&trash, ahead);
        end(&trash, "wrk_2.1", ahead);
        look(&trash, START + 1);
        assert_eq!(left(&trash, "wrk_1.1"), Some(START + KEEP));
        assert_eq!(left(&trash, "wrk_2.1"), Some(START + 1 + KEEP));
        // Ended at the epoch, by a machine whose clock was not set yet.
        let data = tempfile::tempdir().unwrap();
        let trash = open(&data);
        look(&trash, 0);
        end(&trash, "wrk_1.1", 0);
        look(&trash, START);
        assert_eq!(left(&trash, "wrk_1.1"), Some(START + 13 * DAY_MS));
    }

    #[test]
    fn nothing_makes_room_in_the_first_day_after_the_clock_was_put_forward() {
        let data = tempfile::tempdir().unwrap();
        let mut trash = open(&data);
        trash.is_full = |_| true;
        look(&trash, START);
        let place = trash.store.folder("wrk_1.1").join("files");
        files::make_folder(&place).unwrap();
        let manifest = Manifest {
            ended_at: START,
            kept_until: START + KEEP,
            held: Some(crate::replica::trash::Held::default()),
            folder: Some(testing::folder(&place)),
            ..testing::manifest("wrk_1.1")
        };
        trash.store.write(&manifest).unwrap();
        let ahead = START + 2 * DAY_MS;
        look(&trash, ahead);
        assert!(left(&trash, "wrk_1.1").is_some(), "it may be a minute old");
        look(&trash, ahead + DAY_MS);
        assert_eq!(left(&trash, "wrk_1.1"), None);
    }

    #[test]
    fn nothing_is_deleted_where_the_clock_can_not_be_noted() {
        let data = tempfile::tempdir().unwrap();
        let trash = open(&data);
        end(&trash, "wrk_1.1", START);
        fs::create_dir(data.path().join("trash").join(FILE_NAME)).unwrap();
        assert!(trash.look_at_clock(START).is_err());
    }

    #[test]
    fn where_nothing_was_noted_nobody_has_looked_since_the_oldest_entry() {
        let data = tempfile::tempdir().unwrap();
        end(&open(&data), "wrk_1.1", START);
        let back = START + 20 * DAY_MS;
        look(&open(&data), back);
        assert_eq!(left(&open(&data), "wrk_1.1"), Some(back + 13 * DAY_MS));
    }

    #[test]
    fn one_that_is_being_ended_gets_its_time_at_the_start_alone_and_nothing_is_deleted_before() {
        let data = tempfile::tempdir().unwrap();
        let trash = open(&data);
        end(&trash, "wrk_1.1", START);
        let manifest = trash.store.manifest("wrk_1.1").unwrap();
        trash.store.write(&Manifest { stage: Stage::Moved, ..manifest }).unwrap();
        let back = START + 20 * DAY_MS;
        assert!(matches!(trash.look_at_clock(back), Err(TrashError::Busy(_))));
        assert_eq!(left(&trash, "wrk_1.1"), Some(START + KEEP));
        open(&data).look_at_clock_first(back).unwrap();
        assert_eq!(left(&open(&data), "wrk_1.1"), Some(back + 13 * DAY_MS));
    }

    #[test]
    fn an_entry_that_somebody_is_at_is_left_alone() {
        let data = tempfile::tempdir().unwrap();
        let trash = open(&data);
        look(&trash, START);
        end(&trash, "wrk_1.1", START);
        let busy = trash.claim("wrk_1.1").unwrap();
        // The others get their time all the same, and once, however often that is tried.
        end(&trash, "wrk_0.1", START);
        for minute in 0..3 {
            assert!(trash.look_at_clock(START + 20 * DAY_MS + minute).is_err());
        }
        drop(busy);
        trash.look_at_clock(START + 20 * DAY_MS + 3).unwrap();
        assert_eq!(left(&trash, "wrk_0.1"), Some(START + 33 * DAY_MS));
        assert_eq!(left(&trash, "wrk_1.1"), Some(START + 33 * DAY_MS + 3));
        // The next gap is another one.
        trash.look_at_clock(START + 25 * DAY_MS).unwrap();
        assert!(left(&trash, "wrk_0.1").is_some_and(|until| until > START + 36 * DAY_MS));
    }
}
