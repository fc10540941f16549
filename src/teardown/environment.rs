//! Owns which part of the daemon's environment a hook gets.
//!
//! Must not know what a hook does. Invariant: a hook gets what a program needs to find itself, its
//! user and its tools, what its entry in the configuration names, and nothing else; no name that
//! looks like a secret's passes unless it is named there.

use std::{ffi::OsString, process::Command};

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
}
