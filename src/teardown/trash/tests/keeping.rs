//! Owns the tests of how long an entry is kept, and of what is kept of a session.
//!
//! Must not know more than the room's users do. Invariant: the time is given, never waited for.

use super::*;

#[test]
fn an_entry_is_deleted_when_its_time_is_over_and_not_before() {
    let repository = Repository::new();
    repository.write("w/new", "new");
    fs::create_dir(repository.path("w/read-only")).unwrap();
    repository.write("w/read-only/file", "x");
    std::os::unix::fs::symlink(repository.path("repo"), repository.path("w/read-only/link"))
        .unwrap();
    fs::set_permissions(repository.path("w/read-only"), fs::Permissions::from_mode(0o500)).unwrap();
    end(&repository, "w");
    let trash = &repository.config.trash;
    let entry = trash.get("wrk_1").unwrap();
    trash.maintain(entry.expires_at - 1);
    assert_eq!(trash.list(), std::slice::from_ref(&entry));
    trash.maintain(entry.expires_at);
    assert_eq!(trash.list(), []);
    assert!(!Path::new(&entry.place.unwrap()).exists());
    assert!(repository.path("repo/file").exists() && repository.has_branch("feature"));
    assert_eq!(repository.git("repo", &["for-each-ref", "refs/sessionmesh"]), "");
    assert_eq!(fs::read_dir(trash.path()).unwrap().count(), 0);
}

#[test]
fn where_nothing_is_kept_a_worktree_is_deleted_at_once() {
    let mut repository = Repository::new();
    let settings = Settings { keep_removed: Duration::ZERO, ..Settings::default() };
    let data = repository.path("data");
    repository.config.trash = Arc::new(Trash::new(&data, NodeId([1; 32]), settings));
    let done = end(&repository, "w");
    assert!(done.contains("deleted at once"), "{done}");
    assert!(repository.config.trash.list().is_empty() && !repository.path("w").exists());
    assert_eq!(end(&repository, "w"), done, "again is the same");
}

#[test]
fn only_what_held_nothing_that_is_nowhere_else_is_deleted_early_and_the_oldest_first() {
    let data = tempfile::tempdir().unwrap();
    let settings = Settings { trash_max: 100, ..Settings::default() };
    let mut trash = Trash::new(data.path(), NodeId([1; 32]), settings);
    trash.is_full = |_| false;
    let day = 24 * 60 * 60 * 1_000;
    let replaceable = Some(crate::replica::trash::Held::default());
    let only = crate::replica::trash::Held { untracked: 1, ..Default::default() };
    for (entry, held, ended_at) in [
        ("wrk_1.1", replaceable.clone(), 1),
        ("wrk_2.1", replaceable.clone(), 2),
        ("wrk_3.1", Some(only), 0),
        ("wrk_4.1", None, 0),
        ("wrk_5.1", replaceable, day),
    ] {
        let place = trash.store.folder(entry).join("files");
        files::make_folder(&place).unwrap();
        let folder = Some(testing::folder(&place));
        let kept_until = 100 * day;
        let manifest = testing::manifest(entry);
        let manifest = Manifest { held, ended_at, kept_until, bytes: 60, folder, ..manifest };
        trash.store.write(&manifest).unwrap();
    }
    let left = |trash: &Trash| {
        let mut ids: Vec<_> = trash.list().into_iter().map(|entry| entry.id).collect();
        ids.sort();
        ids.join(" ")
    };
    trash.maintain(day);
    assert_eq!(left(&trash), "wrk_1 wrk_2 wrk_3 wrk_4 wrk_5", "all are young");
    trash.maintain(day + 2);
    assert_eq!(left(&trash), "wrk_3 wrk_4 wrk_5");
    trash.maintain(50 * day);
    assert_eq!(left(&trash), "wrk_3 wrk_4 wrk_5", "there is room");
    trash.is_full = |_| true;
    trash.maintain(50 * day);
    assert_eq!(left(&trash), "wrk_3 wrk_4", "nothing else may go early");
    trash.maintain(100 * day);
    assert_eq!(left(&trash), "");
}

fn session(id: &str) -> KeptSession {
    KeptSession {
        id: id.to_owned(),
        title: "Fix it".to_owned(),
        directory: Some("/w".to_owned()),
        agent: "opencode".to_owned(),
        server: "http://127.0.0.1:4096/".to_owned(),
        cut: false,
        reason: Some("deleted".to_owned()),
    }
}

#[test]
fn a_session_is_kept_once_and_is_there_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let host = NodeId([7; 32]);
    let trash = Trash::new(data.path(), host, Settings::default());
    assert_eq!((trash.list(), trash.get("ses_1")), (Vec::new(), None));
    trash.keep_session(&session("ses_1"), b"{}").unwrap();
    trash.keep_session(&session("ses_1"), b"{\"info\":1}").unwrap();
    trash.keep_session(&KeptSession { cut: true, ..session("ses_2") }, b"").unwrap();
    for trash in [&trash, &Trash::new(data.path(), host, Settings::default())] {
        let ids: BTreeSet<_> = trash.list().into_iter().map(|entry| entry.id).collect();
        assert_eq!(ids, ["ses_1", "ses_2"].map(str::to_owned).into());
        let entry = trash.get("ses_1").unwrap();
        assert_eq!((entry.host, entry.bytes), (host, 10));
        assert_eq!(entry.expires_at - entry.ended_at, 14 * 24 * 60 * 60 * 1_000);
        let file = trash.session_file("ses_1").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"{\"info\":1}");
        assert_eq!(entry.place.as_deref(), file.to_str());
        assert!(trash.get("ses_2").unwrap().problem.unwrap().contains("newest"));
    }
}
