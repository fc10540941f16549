//! Owns the tests of the trash with repositories and places that are not the usual ones.
//!
//! Must not know more than the room's users do. Invariant: each names what is unusual.

use super::*;

#[test]
fn every_format_of_objects_and_refs_is_pinned_and_comes_back() {
    for format in [&["--object-format=sha256"] as &[_], &["--ref-format=reftable"]] {
        let known = std::process::Command::new("git").args(["init", "-h"]).output().unwrap();
        let known = String::from_utf8_lossy(&known.stdout).into_owned();
        let name = format[0].split('=').next().unwrap();
        // Git before 2.45 has one format of refs alone.
        if !known.contains(name) {
            continue;
        }
        let repository = Repository::init(format);
        repository.git("w", &["checkout", "-q", "--detach"]);
        repository.commit("w");
        let dropped = repository.git("w", &["rev-parse", "HEAD"]);
        repository.git("w", &["reset", "-q", "--hard", "feature"]);
        let only = repository.git("w", &["commit-tree", "-m", "only", "HEAD^{tree}"]);
        repository.git("w", &["update-ref", "refs/worktree/mine", only.trim()]);
        repository.write("w/staged", "staged");
        repository.git("w", &["add", "staged"]);
        let before = see(&repository, "w");
        end(&repository, "w");
        prune(&repository);
        repository.config.trash.restore("wrk_1", None).unwrap();
        assert_eq!(see(&repository, "w"), before, "{format:?}");
        for id in [dropped.trim(), only.trim()] {
            there(&repository, "w", id);
        }
        repository.git("repo", &["fsck"]);
    }
}

#[test]
fn a_read_only_folder_moves_with_its_mode_there_and_back() {
    let repository = Repository::new();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    fs::set_permissions(repository.path("w"), fs::Permissions::from_mode(0o2550)).unwrap();
    end(&repository, "w");
    let place = repository.config.trash.get("wrk_1").unwrap().place.unwrap();
    assert_eq!(mode(Path::new(&place)), 0o2550);
    repository.config.trash.restore("wrk_1", None).unwrap();
    assert_eq!(mode(&repository.path("w")), 0o2550);
    assert_eq!(repository.git("w", &["status", "--porcelain"]), "");
}

#[test]
fn what_reaches_something_missing_is_not_pinned_and_all_else_is() {
    let repository = Repository::new();
    let commit = |text: &str| {
        repository.write("w/file", text);
        repository.commit("w");
        repository.git("w", &["rev-parse", "HEAD"]).trim().to_owned()
    };
    let (broken, whole) = (commit("lost"), commit("kept"));
    repository.git("w", &["reset", "-q", "--hard", "HEAD~2"]);
    let single = repository.git("w", &["commit-tree", "-m", "single", "HEAD^{tree}"]);
    repository.git("w", &["update-ref", "refs/worktree/single", single.trim()]);
    let blob = repository.git("w", &["rev-parse", &format!("{broken}:file")]);
    let (first, rest) = blob.trim().split_at(2);
    fs::remove_file(repository.path(&format!("repo/.git/objects/{first}/{rest}"))).unwrap();
    end(&repository, "w");
    // Both commits reach the blob that is missing; were they pinned, this would fail.
    repository.git("repo", &["reflog", "expire", "--expire=now", "--all"]);
    repository.git("repo", &["gc", "-q", "--prune=now"]);
    there(&repository, "repo", single.trim());
    let gone = ["cat-file", "-e", whole.as_str()];
    let mut git = std::process::Command::new("git");
    let found = git.arg("-C").arg(repository.path("repo")).args(gone).output().unwrap();
    assert!(!found.status.success());
}

/// Needs a second file system; every Linux has one there.
#[cfg(target_os = "linux")]
#[test]
fn on_another_file_system_than_the_data_it_is_kept_beside_its_own_place() {
    let mut repository = Repository::new();
    let data = tempfile::tempdir_in("/dev/shm").unwrap();
    repository.config = testing::config_in(&repository, data.path());
    let holding = repository.path(".sessionmesh-trash");
    for is_restored in [true, false] {
        repository.write("w/new", "new");
        end(&repository, "w");
        let trash = &repository.config.trash;
        let place = PathBuf::from(trash.get("wrk_1").unwrap().place.unwrap());
        assert!(place.starts_with(&holding), "{}", place.display());
        assert_eq!(fs::metadata(&holding).unwrap().permissions().mode() & 0o777, 0o700);
        if is_restored {
            trash.restore("wrk_1", None).unwrap();
            assert_eq!(fs::read(repository.path("w/new")).unwrap(), b"new");
            trash.empty("wrk_1").unwrap();
            fs::remove_file(data.path().join("teardowns.jsonl")).unwrap();
        } else {
            // Where its file system is not there, it may come back.
            let away = repository.path("away");
            fs::rename(&holding, &away).unwrap();
            trash.maintain(i64::MAX);
            let entry = trash.get("wrk_1").unwrap();
            assert!(entry.problem.unwrap().contains("mount its file system"));
            fs::rename(&away, &holding).unwrap();
            trash.maintain(i64::MAX);
            assert_eq!(trash.list(), []);
        }
        assert!(!holding.exists());
    }
}

#[test]
fn what_a_partial_clone_has_not_fetched_is_no_reason_not_to_pin() {
    let repository = Repository::new();
    repository.git("repo", &["config", "uploadpack.allowFilter", "true"]);
    let origin = format!("file://{}", repository.path("repo").display());
    let clone = ["-c", "protocol.file.allow=always", "clone", "-q", "--no-checkout"];
    let clone = [&clone[..], &["--filter=blob:none", &origin, "../partial"]].concat();
    repository.git("repo", &clone);
    repository.git("partial", &["worktree", "add", "-q", "--no-checkout", "-b", "p", "../p"]);
    // A tree of its own with a blob that only the other side has.
    let listed = repository.git("p", &["ls-tree", "HEAD", "file"]).replace("\tfile", "\tmoved");
    repository.write("listed", &listed);
    let input = fs::File::open(repository.path("listed")).unwrap();
    let mut git = std::process::Command::new("git");
    git.arg("-C").arg(repository.path("p")).args(["mktree", "--missing"]).stdin(input);
    let tree = String::from_utf8(git.output().unwrap().stdout).unwrap();
    let only = repository.git("p", &["commit-tree", "-m", "only", tree.trim()]);
    repository.git("p", &["update-ref", "refs/worktree/only", only.trim()]);
    end(&repository, "p");
    repository.git("partial", &["gc", "-q", "--prune=now"]);
    there(&repository, "partial", only.trim());
}

#[test]
fn a_worktree_of_a_bare_repository_comes_back_to_its_branch() {
    let repository = Repository::new();
    repository.git("repo", &["clone", "-q", "--bare", ".", "../bare.git"]);
    repository.git("bare.git", &["worktree", "add", "-q", "-b", "of-bare", "../x"]);
    repository.git("bare.git", &["worktree", "add", "-q", "../y", "main"]);
    repository.write("x/new", "new");
    repository.git("x", &["add", "new"]);
    let seen = ["x", "y"].map(|name| see(&repository, name));
    let restored = ["x", "y"].map(|name| {
        end(&repository, name);
        repository.git("bare.git", &["gc", "-q", "--prune=now"]);
        let restored = repository.config.trash.restore("wrk_1", None).unwrap();
        repository.reset();
        restored.notes
    });
    // The branch that a bare repository's HEAD names is checked out nowhere.
    assert_eq!(restored, [Vec::<String>::new(), Vec::new()]);
    assert_eq!(["x", "y"].map(|name| see(&repository, name)), seen);
}

#[test]
fn nothing_that_a_repository_names_is_run_on_the_way_in_or_out() {
    let repository = Repository::new();
    let ran = repository.path("ran");
    let program = repository.path("program");
    fs::write(&program, format!("#!/bin/sh\necho \"$0 $*\" >>{}\n", ran.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let ids = fill(&repository);
    let hooks = repository.path("repo/.git/hooks");
    fs::create_dir_all(&hooks).unwrap();
    for name in ["reference-transaction", "post-index-change", "pre-auto-gc", "post-checkout"] {
        fs::copy(&program, hooks.join(name)).unwrap();
    }
    let named = program.to_str().unwrap();
    for (key, value) in [
        ("core.fsmonitor", named),
        ("filter.all.clean", named),
        ("filter.all.smudge", named),
        ("filter.all.process", named),
        ("diff.external", named),
        ("diff.all.textconv", named),
        ("gpg.program", named),
        ("commit.gpgSign", "true"),
        ("core.editor", named),
        ("core.pager", named),
        ("core.alternateRefsCommand", named),
        ("core.sshCommand", named),
        ("remote.origin.url", "ext::false"),
        ("remote.origin.promisor", "true"),
        ("extensions.partialClone", "origin"),
    ] {
        repository.git("repo", &["config", key, value]);
    }
    repository.write("repo/.git/info/attributes", "* filter=all diff=all\n");
    // A commit that is missing, which a partial clone would fetch.
    let log = repository.path("repo/.git/worktrees/w/logs/HEAD");
    let mut lines = fs::read_to_string(&log).unwrap();
    let missing = "0123456789".repeat(4);
    lines.push_str(&format!("{missing} {} x <x> 1 +0000\tx\n", ids[0]));
    fs::write(&log, lines).unwrap();
    let _ = fs::remove_file(&ran);
    end(&repository, "w");
    repository.git("repo", &["worktree", "add", "-q", "--no-checkout", "-b", "third", "../far/w"]);
    let _ = fs::remove_file(&ran);
    repository.config.trash.restore("wrk_1", None).unwrap();
    assert!(!ran.exists(), "{}", fs::read_to_string(&ran).unwrap());
    repository.reset();
    end(&repository, "w");
    assert!(!ran.exists(), "{}", fs::read_to_string(&ran).unwrap());
    repository.config.trash.empty("wrk_1").unwrap();
    assert!(!ran.exists(), "{}", fs::read_to_string(&ran).unwrap());
    // They would be run, were git left alone.
    let _ = std::process::Command::new("git")
        .arg("-C")
        .arg(repository.path("repo"))
        .args(["update-ref", "refs/heads/x", "HEAD"])
        .output();
    assert!(ran.exists());
}
