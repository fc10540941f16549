//! Runs git for the tests: never with the machine's configuration, never with a program that a
//! drawn repository names.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

/// How often git was started: it is what the run's time goes into.
pub static STARTED: AtomicU64 = AtomicU64::new(0);

/// Settings that hold for every call. A drawn filter, hook or monitor leaves a marker behind when
/// it runs, and only the code under test may be blamed for that.
const SETTINGS: &[(&str, &str)] = &[
    ("user.name", "test"),
    ("user.email", "test@localhost"),
    ("commit.gpgsign", "false"),
    ("protocol.file.allow", "always"),
    ("advice.detachedHead", "false"),
    ("core.fsmonitor", "false"),
    ("core.hooksPath", "/dev/null"),
    ("filter.marker.clean", "cat"),
    ("filter.marker.smudge", "cat"),
    ("filter.marker.process", ""),
    ("filter.lfs.clean", "cat"),
    ("filter.lfs.smudge", "cat"),
    ("filter.lfs.process", ""),
    ("diff.ignoreSubmodules", "none"),
    ("status.showUntrackedFiles", "all"),
    ("safe.bareRepository", "all"),
    ("gc.auto", "0"),
    // `git prune` would leave one that names what is gone.
    ("gc.writeCommitGraph", "false"),
    ("maintenance.auto", "false"),
];

/// Makes a call of git in a directory.
pub fn command(at: &Path) -> Command {
    STARTED.fetch_add(1, Ordering::Relaxed);
    let mut git = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"GIT_") {
            git.env_remove(name);
        }
    }
    // Through the environment, so that what git starts itself for a submodule is told, too.
    git.env("GIT_CONFIG_COUNT", SETTINGS.len().to_string());
    for (number, (key, value)) in SETTINGS.iter().enumerate() {
        git.env(format!("GIT_CONFIG_KEY_{number}"), key);
        git.env(format!("GIT_CONFIG_VALUE_{number}"), value);
    }
    git.env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_EDITOR", "true")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .arg("-C")
        .arg(at);
    git
}

/// Runs git and returns how that went, whatever it was.
pub fn attempt<A: AsRef<OsStr>>(at: &Path, arguments: &[A]) -> Output {
    command(at).args(arguments).output().expect("git is installed")
}

/// Runs git, which must succeed, and returns what it printed.
pub fn bytes<A: AsRef<OsStr>>(at: &Path, arguments: &[A]) -> Vec<u8> {
    let output = attempt(at, arguments);
    assert!(output.status.success(), "{}", told(at, arguments, &output));
    output.stdout
}

/// Runs git, which must succeed, and returns what it printed as text without the last newline.
pub fn git<A: AsRef<OsStr>>(at: &Path, arguments: &[A]) -> String {
    String::from_utf8_lossy(&bytes(at, arguments)).trim_end().to_owned()
}

/// Runs git, which must fail: a conflict is drawn, and there has to be one.
pub fn stops(at: &Path, arguments: &[&str]) {
    let output = attempt(at, arguments);
    assert!(!output.status.success(), "went through: {}", told(at, arguments, &output));
}

/// Tells what was asked and answered, for a failure.
pub fn told<A: AsRef<OsStr>>(at: &Path, arguments: &[A], output: &Output) -> String {
    let arguments: Vec<_> = arguments.iter().map(|text| text.as_ref().to_string_lossy()).collect();
    format!(
        "git -C {} {}: {}: {}{}",
        at.display(),
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Returns a path that git prints, absolute.
pub fn rev_parse(at: &Path, what: &str) -> PathBuf {
    PathBuf::from(git(at, &["rev-parse", "--path-format=absolute", what]))
}
