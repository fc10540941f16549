//! Owns the tests of entries whose folder, or whose place in a repository, is not there for a while.
//!
//! Must not know more than the room's users do. Invariant: what is not there is not taken for gone.

use super::*;

/// Ends `w` by force with a crash after so many steps; tells whether it came to an end.
fn end_with_crash(repository: &mut Repository, steps: i64) -> bool {
    repository.config.trash.steps_left.store(steps, Ordering::SeqCst);
    let due = repository.due("w", TeardownAction::Force);
    let ended = teardown::end(&due, &[], &repository.config);
    repository.reopen();
    matches!(ended, TeardownOutcome::Done(_))
}

fn stage(repository: &Repository) -> Option<Stage> {
    repository.config.trash.store.manifests().first().map(|manifest| manifest.stage)
}

fn pins(repository: &Repository) -> String {
    repository.git("repo", &["for-each-ref", "refs/sessionmesh"])
}

#[test]
fn an_entry_whose_file_system_is_not_mounted_at_a_start_is_left_as_it_is() {
    for steps in 0.. {
        let mut repository = Repository::new();
        repository.write("w/new", "new");
        let is_done = end_with_crash(&mut repository, steps);
        let Some(before) = stage(&repository).filter(|stage| *stage < Stage::Unregistered) else {
            assert!(!is_done || steps > 3, "there are steps");
            if is_done {
                return;
            }
            continue;
        };
        let manifest = repository.config.trash.store.manifests().remove(0);
        let folder = manifest.folder.unwrap();
        let lies = [&folder.from, &folder.place].into_iter().find(|path| path.exists());
        let lies = lies.unwrap_or_else(|| panic!("{steps}: {folder:?} {before:?}"));
        let (away, pinned) = (repository.path("away"), pins(&repository));
        fs::rename(lies, &away).unwrap();
        repository.config.trash.recover();
        assert_eq!((stage(&repository), pins(&repository)), (Some(before), pinned), "{steps}");
        let problem = repository.config.trash.store.manifests()[0].problem.clone().unwrap();
        assert!(problem.contains("mount its file system"), "{problem}");
        fs::rename(&away, lies).unwrap();
        repository.reopen();
        repository.config.trash.recover();
        let is_here = repository.path("w/new").exists() && repository.lists("w");
        let is_kept = repository.config.trash.get("wrk_1").is_some() && !repository.lists("w");
        assert!(is_here || is_kept, "{steps}: it is here or there, whole");
    }
}

#[test]
fn what_only_the_pins_hold_stays_pinned_after_a_restore_that_git_had_forgotten() {
    let mut steps = 0;
    let mut repository = loop {
        let mut repository = Repository::new();
        repository.git("w", &["checkout", "-q", "--detach"]);
        repository.commit("w");
        repository.write("w/staged", "only in the index");
        repository.git("w", &["add", "staged"]);
        assert!(!end_with_crash(&mut repository, steps), "it is moved before it has ended");
        if stage(&repository) == Some(Stage::Moved) {
            break repository;
        }
        steps += 1;
    };
    let manifest = repository.config.trash.store.manifests().remove(0);
    let commit = manifest.own().unwrap().commit.clone().unwrap();
    prune(&repository);
    repository.reopen();
    repository.config.trash.recover();
    let restored = repository.config.trash.restore("wrk_1", None).unwrap();
    assert_eq!(fs::read(repository.path("w/staged")).unwrap(), b"only in the index");
    assert!(restored.notes[0].contains("refs/sessionmesh/trash/wrk_1.1"), "{:?}", restored.notes);
    prune(&repository);
    there(&repository, "repo", &commit);
}
