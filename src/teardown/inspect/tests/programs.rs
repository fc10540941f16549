//! Owns the tests of which programs run while a folder is judged, and of which git.
//!
//! Must not know what is judged. Invariant: that nothing ran is shown beside what would run.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use super::*;
use crate::{replica::effect::TeardownOutcome, teardown};

/// Gives a repository every setting by which git could be made to run a program, and makes it look
/// at its files again.
fn arm(fixture: &Fixture, at: &str, marker: &Path) {
    let run = format!("touch {}", marker.display());
    let script = fixture.path("script");
    fs::write(&script, format!("#!/bin/sh\n{run}\ncat\n")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let script = script.to_str().unwrap();
    let hooks = fixture.path("hooks");
    fs::create_dir_all(&hooks).unwrap();
    for name in ["post-index-change", "reference-transaction", "post-checkout", "pre-auto-gc"] {
        let _ = std::os::unix::fs::symlink(script, hooks.join(name));
    }
    fixture.write("attributes", "* filter=x diff=x\n");
    fixture.write("included", &format!("[filter \"y\"]\n\tclean = {run}\n"));
    for (name, value) in [
        ("core.fsmonitor", script),
        ("core.hooksPath", hooks.to_str().unwrap()),
        ("core.sshCommand", &run),
        ("core.pager", &run),
        ("core.editor", &run),
        ("core.alternateRefsCommand", &run),
        ("core.attributesFile", fixture.path("attributes").to_str().unwrap()),
        ("include.path", fixture.path("included").to_str().unwrap()),
        ("includeIf.gitdir:/.path", fixture.path("included").to_str().unwrap()),
        ("diff.external", script),
        ("diff.x.textconv", script),
        ("alias.status", &format!("!{run}")),
        ("pager.status", &run),
        ("gpg.program", script),
        ("log.showSignature", "true"),
        ("protocol.ext.allow", "always"),
        ("remote.evil.url", &format!("ext::{run}")),
        ("remote.evil.promisor", "true"),
        ("extensions.partialClone", "evil"),
        ("filter.x.clean", &format!("{run}; cat")),
        ("filter.x.required", "true"),
    ] {
        fixture.git(at, &["config", name, value]);
    }
}

/// The promises of a repository's configuration and attributes to run programs are all broken, in
/// the worktree, in a submodule and in a repository below.
#[test]
fn nothing_that_a_repository_names_is_run() {
    let fixture = Fixture::new();
    add_submodule(&fixture);
    fixture.write("w/lib/tracked", "text");
    fixture.git("w/lib", &["add", "."]);
    fixture.commit("w/lib");
    fixture.git("w", &["clone", "-q", "../repo", "ignored"]);
    let folders = ["w", "w/lib", "w/ignored"];
    let markers: Vec<PathBuf> = folders
        .iter()
        .map(|at| fixture.path(&format!("ran-in-{}", at.replace('/', "-"))))
        .collect();
    for (at, marker) in folders.iter().zip(&markers) {
        arm(&fixture, at, marker);
        let git_dir = Repository::at(&fixture.path(at)).unwrap().unwrap().common_dir;
        fs::create_dir_all(git_dir.join("info")).unwrap();
        fs::write(git_dir.join("info/attributes"), "* filter=x diff=x\n").unwrap();
        fixture.write(&format!("{at}/.gitattributes"), "* filter=x diff=x\n[attr]y filter=y\n");
    }
    // A file that is as it was but was written again must be read to know that.
    fixture.write("w/file", "first");
    fixture.write("w/ignored/file", "first");
    fixture.write("w/lib/tracked", "text");
    let ran = || markers.iter().filter(|marker| marker.exists()).count();
    for marker in &markers {
        let _ = fs::remove_file(marker);
    }
    refused(&fixture);
    let problem = refuse_loss(&fixture.path("w"), &fixture.config).unwrap_err();
    assert!(problem.to_string().contains("are in no commit"), "{problem}");
    let due = fixture.due("w", TeardownAction::Force);
    let outcome = teardown::end(&due, &[], &fixture.config);
    assert!(matches!(outcome, TeardownOutcome::Done(_)), "{outcome:?}");
    assert_eq!(ran(), 0);
    // And it is really so that git alone would run them.
    let id = fixture.config.trash.list()[0].id.clone();
    fixture.config.trash.restore(&id, None).unwrap();
    for at in folders {
        let status = Command::new("git").arg("-C").arg(fixture.path(at)).arg("status").output();
        drop(status.unwrap());
    }
    assert_eq!(ran(), 3, "the settings are such that git runs them");
}

#[test]
fn a_partial_clone_is_judged_without_fetching() {
    let fixture = Fixture::new();
    fixture.git("repo", &["config", "uploadpack.allowFilter", "true"]);
    let url = format!("file://{}", fixture.path("repo").display());
    let partial = ["clone", "-q", "--no-checkout", "--filter=blob:none", &url, "../partial"];
    fixture.git("repo", &partial);
    fixture.git("partial", &["worktree", "add", "-q", "--no-checkout", "-b", "p", "../of-partial"]);
    fixture.git("of-partial", &["read-tree", "HEAD"]);
    let marker = fixture.path("fetched");
    let run = format!("touch {}; false", marker.display());
    fixture.git("partial", &["config", "remote.origin.uploadpack", &run]);
    let found = found(&fixture, "of-partial");
    let refusal = inspect(&found, &[], &fixture.config).unwrap().refusal.unwrap();
    assert!(refusal.to_string().contains("2 changed files"), "{refusal}");
    assert!(!marker.exists());
}

/// Runs tests of this room again in a process with another environment.
fn again(tests: &[&str], environment: &[(&str, &str)]) {
    for test in tests {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("teardown::inspect::tests::{test}")])
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{test}: {text}");
    }
}

/// What git 2.30 does not know yet; the stand-in refuses it.
const STAND_IN: &str = r#"#!/bin/sh
for word; do
    case $word in
    -z) case " $* " in *" worktree list "*) bad=$word ;; esac ;;
    --path-format=*|--attr-source*|--batch-command|--exclude-hidden*|--write-tree) bad=$word ;;
    -Z|--ref-format*|--show-ref-format|--batch-updates|--no-lazy-fetch|--exclude-first*) bad=$word ;;
    --format=*) case " $* " in *" ls-files "*|*" ls-tree "*) bad=$word ;; esac ;;
    esac
done
[ -z "$bad" ] || { echo "error: unknown option $bad" >&2; exit 129; }
"#;

#[test]
fn a_git_of_version_2_30_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = std::env::var("PATH").unwrap();
    let real = std::env::split_paths(&path).map(|folder| folder.join("git"));
    let real = real.into_iter().find(|git| git.is_file()).unwrap();
    let stand_in = folder.path().join("git");
    fs::write(&stand_in, format!("{STAND_IN}exec {} \"$@\"\n", real.display())).unwrap();
    fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{path}", folder.path().display());
    let tests = [
        "a_file_that_a_flag_in_the_index_hides_is_seen",
        "nested::a_submodule_with_nothing_of_its_own_stops_nobody",
        "nested::a_repository_in_an_ignored_folder_is_judged_by_itself",
        "commits_that_only_the_worktrees_own_folder_names_are_seen",
        "a_file_that_is_what_its_pointer_names_is_clean_and_another_is_not",
    ];
    again(&tests, &[("PATH", &path)]);
}

#[test]
fn a_worktree_of_a_bare_repository_is_judged_where_bare_ones_must_be_named() {
    let fixture = Fixture::new();
    fixture.git("repo", &["clone", "-q", "--bare", ".", "../bare.git"]);
    fixture.git("bare.git", &["worktree", "add", "-q", "-b", "of", "../of-bare"]);
    let found = found(&fixture, "of-bare");
    let inspection = inspect(&found, &[], &fixture.config).unwrap();
    assert!(inspection.refusal.is_none());
    if std::env::var_os("SESSIONMESH_TEST_AGAIN").is_some() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(".gitconfig"), "[safe]\n\tbareRepository = explicit\n").unwrap();
    // Its own `worktree add` in a bare repository is what git then refuses.
    let home = home.path().to_str().unwrap();
    let bare = fixture.path("bare.git");
    let plain =
        Command::new("git").arg("-C").arg(&bare).arg("rev-parse").env("HOME", home).output();
    assert!(!plain.unwrap().status.success());
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "teardown::inspect::tests::programs::a_bare_repository_is_asked_by_its_name",
        ])
        .envs([("HOME", home), ("SESSIONMESH_TEST_BARE", bare.to_str().unwrap())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Asks about the bare repository that the environment names; another test sets it.
#[test]
fn a_bare_repository_is_asked_by_its_name() {
    let Some(bare) = std::env::var_os("SESSIONMESH_TEST_BARE").map(PathBuf::from) else { return };
    assert_eq!(git::worktrees(&bare).unwrap().len(), 2);
    let repository = Repository::at(&bare).unwrap().unwrap();
    let data = tempfile::tempdir().unwrap();
    let private = git::Private::new(&repository, data.path()).unwrap();
    assert!(git::unpushed(&private).unwrap() > 0);
    let at = bare.parent().unwrap().join("of-bare");
    assert_eq!(git::common_dir(&at).unwrap(), bare);
}

#[test]
fn a_machine_without_git_says_so() {
    if std::env::var_os("SESSIONMESH_TEST_AGAIN").is_some() {
        let problem = git::version().unwrap_err().to_string();
        assert!(problem.contains("not on the daemon's PATH"), "{problem}");
        return;
    }
    let environment = [("PATH", "/nowhere"), ("SESSIONMESH_TEST_AGAIN", "1")];
    again(&["programs::a_machine_without_git_says_so"], &environment);
}

#[test]
fn an_answer_that_was_cut_short_is_never_taken_for_clean() {
    let folder = tempfile::tempdir().unwrap();
    let stand_in = folder.path().join("git");
    // It says that nothing is changed, and then more than anybody reads.
    fs::write(&stand_in, "#!/bin/sh\nhead -c 200000000 /dev/zero\n").unwrap();
    fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755)).unwrap();
    if std::env::var_os("SESSIONMESH_TEST_AGAIN").is_some() {
        let problem = git::common_dir(folder.path()).unwrap_err().to_string();
        assert!(problem.contains("more than can be read"), "{problem}");
        return;
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let environment = [("PATH", path.as_str()), ("SESSIONMESH_TEST_AGAIN", "1")];
    again(&["programs::an_answer_that_was_cut_short_is_never_taken_for_clean"], &environment);
}
