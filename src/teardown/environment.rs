//! Owns which part of the daemon's environment the programs that it starts get: hooks and git.
//!
//! Must not know what they do. Invariant: a program gets what it needs to find itself, its user and
//! its tools, a hook also what its entry in the configuration names, and nothing else; no name that
//! looks like a secret's passes unless it is named there, and none by which git can be told anything.

use std::{ffi::OsString, process::Command};

/// What is said where there is no git.
pub const NO_GIT: &str = "git is not on the daemon's PATH; install it there";
/// What passes by its whole name.
const NAMES: [&str; 13] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "TERM",
    "SSH_AUTH_SOCK",
    "KUBECONFIG",
    "NO_COLOR",
];
/// What passes by the beginning of its name: locales, the user's folders, container programs.
const BEGINNINGS: [&str; 5] = ["LC_", "XDG_", "DOCKER_", "CONTAINER", "PODMAN_"];
/// What a secret's name contains.
const SECRETS: [&str; 6] = ["PASSWORD", "PASSWD", "TOKEN", "SECRET", "KEY", "CREDENTIAL"];

/// Gives a program the part of this environment that is a hook's, and these variables, where set.
pub fn restrict(command: &mut Command, more: &[String]) {
    command.env_clear().envs(passed(std::env::vars_os(), more));
}

/// Makes a command of git that gets the harmless part of this environment, and says what it says in
/// one language, wherever it is run.
pub fn git() -> Command {
    let mut command = Command::new("git");
    restrict(&mut command, &[]);
    command
        .current_dir("/")
        .env("LC_ALL", "C")
        .env("GIT_TERMINAL_PROMPT", "0")
        // A partial clone must not fetch what it lacks, with programs that its configuration names.
        // Git before 2.45 does not know the first variable; the second one leaves it no protocol.
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_ALLOW_PROTOCOL", "none")
        // What is collected as garbage is judged, and kept, without replacements, too.
        .env("GIT_NO_REPLACE_OBJECTS", "1");
    command
}

fn passed(
    all: impl IntoIterator<Item = (OsString, OsString)>,
    more: &[String],
) -> impl Iterator<Item = (OsString, OsString)> {
    all.into_iter().filter(move |(name, _)| {
        let Some(name) = name.to_str() else { return false };
        more.iter().any(|named| named == name) || is_harmless(name)
    })
}

fn is_harmless(name: &str) -> bool {
    let is_known = NAMES.contains(&name) || BEGINNINGS.iter().any(|it| name.starts_with(it));
    is_known && !SECRETS.iter().any(|it| name.contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_the_daemon_passes_only_where_the_configuration_names_it() {
        let all = [
            "PATH",
            "HOME",
            "LC_ALL",
            "XDG_RUNTIME_DIR",
            "DOCKER_HOST",
            "SSH_AUTH_SOCK",
            "OPENCODE_SERVER_PASSWORD",
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "DOCKER_PASSWORD",
            "XDG_SESSION_TOKEN",
            "GIT_DIR",
            "SESSIONMESH_DATA_DIR",
            "LD_PRELOAD",
            "REGISTRY",
        ];
        let pairs = || all.map(|name| (OsString::from(name), OsString::from("x")));
        let names = |more: &[String]| {
            let passed = passed(pairs(), more).map(|(name, _)| name.into_string().unwrap());
            passed.collect::<Vec<_>>()
        };
        let harmless =
            ["PATH", "HOME", "LC_ALL", "XDG_RUNTIME_DIR", "DOCKER_HOST", "SSH_AUTH_SOCK"];
        assert_eq!(names(&[]), harmless);
        let more = ["GITHUB_TOKEN", "REGISTRY"].map(str::to_owned);
        assert_eq!(names(&more)[harmless.len()..], more);
    }

    #[test]
    fn git_gets_nothing_of_this_environment_but_what_is_harmless() {
        // What cargo sets for this test stands for whatever a daemon has.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let run = git().args(["-c", "alias.shown=!env", "shown"]).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let shown = String::from_utf8_lossy(&run.stdout).into_owned();
        let names: Vec<&str> =
            shown.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert!(names.contains(&"PATH") && names.contains(&"GIT_NO_REPLACE_OBJECTS"), "{names:?}");
        // git and the shell set some of their own.
        let own = |name: &str| {
            name.starts_with("GIT_") || ["PWD", "OLDPWD", "SHLVL", "_"].contains(&name)
        };
        let others: Vec<_> = names.iter().filter(|name| !own(name) && !is_harmless(name)).collect();
        assert!(others.is_empty(), "{others:?}");
    }
}
