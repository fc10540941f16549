//! Owns the hooks: programs, named in the daemon's data folder, that end workspaces of other kinds.
//!
//! Must not know what such a program does. Invariants: hooks are local, read when they are needed
//! and never replicated; a record reaches a program only as environment and standard input, never
//! as an argument or through a shell; a hook does not get the daemon's secrets.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::Ordering,
    time::Duration,
};

use serde::Deserialize;

use super::{
    Config, KIND_DIRECTORY, KIND_WORKTREE, Occupant, child, environment, inspect,
    ledger::{Entry, Step},
    place,
    problem::{Problem, said},
    running::Input,
};
use crate::replica::{
    effect::TeardownDue,
    record::{TeardownAction, Workspace},
};

/// The file in the data folder.
pub const FILE_NAME: &str = "hooks.json";
/// Longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// How long a hook may take if nothing is said.
const TIMEOUT_S_DEFAULT: u64 = 60;
/// Longest time that a hook may be given: an hour.
const TIMEOUT_S_MAX: u64 = 3_600;

/// How workspaces of one kind are ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hook {
    argv: Vec<String>,
    #[serde(default = "timeout_s_default")]
    timeout_s: u64,
    /// Names of further variables of the daemon's environment that it gets.
    #[serde(default)]
    pass_env: Vec<String>,
}

fn timeout_s_default() -> u64 {
    TIMEOUT_S_DEFAULT
}

/// Ends a workspace through the hook of its kind.
pub fn end(due: &TeardownDue, occupants: &[Occupant], config: &Config) -> Result<Entry, Problem> {
    let workspace = &due.workspace;
    let path = config.data_dir.join(FILE_NAME);
    let forced = due.action == TeardownAction::Force;
    let mut entry = Entry::new(due, Step::Begun);
    let Some(hook) = load(&path)?.remove(&workspace.kind) else {
        if forced {
            config.look_again(due)?;
            entry.step = Step::Gone;
            return Ok(entry);
        }
        return Err(Problem::NoHook { kind: workspace.kind.clone(), path });
    };
    let names = [
        ("name", Some(&workspace.name)),
        ("kind", Some(&workspace.kind)),
        ("branch", workspace.branch.as_ref()),
    ];
    for (what, value) in names {
        value.map_or(Ok(()), |value| place::judge_name(what, value))?;
    }
    let mut directory = workspace.directory.clone();
    if let Some(named) = &workspace.directory
        && let Some(real) = place::approve(named, config)?
    {
        if !forced {
            // Given back before the hook runs: it may take an hour.
            let _judging = config.judging();
            inspect::refuse_loss(&real, config)?;
            place::refuse_used(&real, occupants)?;
        }
        directory = Some(real.to_string_lossy().into_owned());
    }
    config.look_again(due)?;
    config.ledger.add(&entry).map_err(Problem::io(config.ledger.path()))?;
    run(&hook, due, directory.as_deref(), config)?;
    entry.step = Step::Gone;
    Ok(entry)
}

fn run(
    hook: &Hook,
    due: &TeardownDue,
    directory: Option<&str>,
    config: &Config,
) -> Result<(), Problem> {
    let workspace: &Workspace = &due.workspace;
    let (program, arguments) = hook.argv.split_first().expect("a loaded hook has a program");
    let mut command = Command::new(program);
    environment::restrict(&mut command, &hook.pass_env);
    let action = match due.action {
        TeardownAction::Retry => "retry",
        TeardownAction::Force => "force",
    };
    command
        .args(arguments)
        .current_dir("/")
        .env("SESSIONMESH_WORKSPACE_ID", workspace.id.as_str())
        .env("SESSIONMESH_WORKSPACE_NAME", &workspace.name)
        .env("SESSIONMESH_WORKSPACE_DIRECTORY", directory.unwrap_or_default())
        .env("SESSIONMESH_WORKSPACE_BRANCH", workspace.branch.as_deref().unwrap_or_default())
        .env("SESSIONMESH_WORKSPACE_KIND", &workspace.kind)
        .env("SESSIONMESH_WORKSPACE_INCARNATION", due.incarnation.to_string())
        .env("SESSIONMESH_WORKSPACE_ACTION", action);
    let failed = |why: String| Problem::Hook { program: program.clone(), why };
    let record = serde_json::to_vec(workspace).map_err(|error| failed(error.to_string()))?;
    let time_max = Duration::from_secs(hook.timeout_s);
    config.hooks.fetch_add(1, Ordering::SeqCst);
    let output = Input::claim(config, &workspace.id, &record, time_max).and_then(|input| {
        if config.is_stopping() {
            return Err(Problem::Stopped);
        }
        let stdin = input.file.try_clone().map_err(Problem::io(input.path()))?;
        child::run_until(&mut command, stdin.into(), time_max, &|| config.may_go_on())
            .map_err(|error| failed(format!("can't be run: {error}")))
    });
    config.hooks.fetch_sub(1, Ordering::SeqCst);
    let output = output?;
    if output.status.is_none() && config.is_stopping() {
        return Err(Problem::Stopped);
    }
    let words = if output.stderr.trim_ascii().is_empty() {
        said(&output.stdout[output.stdout.len().saturating_sub(child::STDERR_BYTES_MAX)..])
    } else {
        said(&output.stderr)
    };
    let words = if words.is_empty() { "it said nothing".to_owned() } else { words };
    match output.status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(format!("ended with {status}: {words}"))),
        None => Err(failed(format!("was stopped after {} s: {words}", hook.timeout_s))),
    }
}

/// Reads the hooks; none where there is no file.
fn load(path: &Path) -> Result<BTreeMap<String, Hook>, Problem> {
    let problem = |why: String| Problem::Hooks { path: PathBuf::from(path), why };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(Problem::io(path)(source)),
    };
    // The open file is judged, not the path: the path may lead elsewhere a moment later.
    let found = file.metadata().map_err(Problem::io(path))?;
    if found.mode() & 0o077 != 0 {
        let mode = found.mode() & 0o7777;
        return Err(problem(format!(
            "it has mode {mode:04o}, others on this machine can open it; run: chmod 600 {}",
            path.display()
        )));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(problem("it belongs to another user".to_owned()));
    }
    if found.len() > FILE_BYTES_MAX {
        return Err(problem(format!("it is longer than {FILE_BYTES_MAX} bytes")));
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(Problem::io(path))?;
    let hooks: BTreeMap<String, Hook> = serde_json::from_slice(&text)
        .map_err(|error| problem(format!("it does not hold hooks: {error}")))?;
    for (kind, hook) in &hooks {
        judge(kind, hook).map_err(|why| problem(format!("the hook of `{kind}` {why}")))?;
    }
    Ok(hooks)
}

fn judge(kind: &str, hook: &Hook) -> Result<(), &'static str> {
    if [KIND_DIRECTORY, KIND_WORKTREE].contains(&kind) {
        return Err("would never run: the daemon ends such workspaces itself");
    }
    if hook.argv.first().is_none_or(|program| !Path::new(program).is_absolute()) {
        return Err("has no program: the first of `argv` is an absolute path");
    }
    if hook.pass_env.iter().any(|name| name.starts_with("SESSIONMESH_")) {
        return Err("has a `pass_env` that names what the daemon sets itself");
    }
    if hook.argv.iter().any(|argument| argument.contains('\0')) {
        return Err("has an argument that contains NUL");
    }
    if !(1..=TIMEOUT_S_MAX).contains(&hook.timeout_s) {
        return Err("has a `timeout_s` that is not between 1 and 3600");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::{
        replica::{effect::TeardownOutcome, record::GitState},
        teardown::{
            self,
            testing::{Repository, due},
        },
    };

    fn write_hooks(repository: &Repository, text: &str) {
        let path = repository.path("data").join(FILE_NAME);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn with_hook(script: &str, timeout_s: u64) -> Repository {
        let repository = Repository::new();
        let argv = ["/bin/sh", "-c", script];
        let hooks = serde_json::json!({ "box": { "argv": argv, "timeout_s": timeout_s } });
        write_hooks(&repository, &hooks.to_string());
        repository
    }

    fn end(repository: &Repository, due: &TeardownDue) -> Result<(), String> {
        match teardown::end(due, &[], &repository.config) {
            TeardownOutcome::Gone | TeardownOutcome::Done(_) => Ok(()),
            TeardownOutcome::Failed(reason) => Err(reason),
            TeardownOutcome::PutOff => unreachable!("nobody is asked"),
        }
    }

    fn boxed(repository: &Repository, name: &str, action: TeardownAction) -> TeardownDue {
        due("box", repository.path(name).to_str(), action)
    }

    #[test]
    fn a_hook_is_told_the_workspace_by_environment_and_input() {
        let repository = Repository::new();
        let out = repository.path("out");
        let script = format!("env | grep ^SESSIONMESH_ | sort >{0}; cat >{0}.in", out.display());
        let hooks = serde_json::json!({ "box": { "argv": ["/bin/sh", "-c", script] } });
        write_hooks(&repository, &hooks.to_string());
        fs::create_dir(repository.path("plain")).unwrap();
        let mut due = boxed(&repository, "plain", TeardownAction::Force);
        due.workspace.branch = Some("topic; rm -rf /".to_owned());
        due.incarnation = 7;
        assert_eq!(end(&repository, &due), Ok(()));
        let told = fs::read_to_string(&out).unwrap();
        let expected = format!(
            "SESSIONMESH_WORKSPACE_ACTION=force\nSESSIONMESH_WORKSPACE_BRANCH=topic; rm -rf /\n\
             SESSIONMESH_WORKSPACE_DIRECTORY={}\nSESSIONMESH_WORKSPACE_ID=wrk_1\n\
             SESSIONMESH_WORKSPACE_INCARNATION=7\nSESSIONMESH_WORKSPACE_KIND=box\n\
             SESSIONMESH_WORKSPACE_NAME=w\n",
            repository.path("plain").display()
        );
        assert_eq!(told, expected);
        let record = fs::read_to_string(out.with_extension("in")).unwrap();
        let record: Workspace = serde_json::from_str(&record).unwrap();
        assert_eq!(record, due.workspace);
    }

    #[test]
    fn a_hook_that_fails_or_takes_too_long_says_why_in_the_reason() {
        let repository = with_hook("echo no such box >&2; exit 4", 60);
        let due = due("box", None, TeardownAction::Retry);
        let reason = end(&repository, &due).unwrap_err();
        for part in ["/bin/sh", "4", "no such box", "retry"] {
            assert!(reason.contains(part), "{reason}");
        }
        let repository = with_hook("echo waiting; exec sleep 600", 1);
        let reason = end(&repository, &due).unwrap_err();
        assert!(reason.contains("stopped after 1 s: waiting"), "{reason}");
    }

    #[test]
    fn a_kind_without_a_hook_is_only_forgotten_by_force() {
        let repository = Repository::new();
        let due = |action| boxed(&repository, "w", action);
        let reason = end(&repository, &due(TeardownAction::Retry)).unwrap_err();
        assert!(reason.contains("hooks.json") && reason.contains("force"), "{reason}");
        assert_eq!(end(&repository, &due(TeardownAction::Force)), Ok(()));
        assert!(repository.path("w/file").exists(), "its files are left");
    }

    #[test]
    fn a_hook_is_not_run_where_something_would_be_lost() {
        for (name, make, reason) in [
            ("w", (|r| r.write("w/new", "new")) as fn(&Repository), "1 untracked file"),
            ("w", |r| r.commit("w"), "1 commit that no other branch"),
            ("repo", |_| {}, "that no remote-tracking ref"),
            ("home", |_| {}, "home folder"),
        ] {
            let repository = with_hook("exit 0", 60);
            make(&repository);
            let refused = end(&repository, &boxed(&repository, name, TeardownAction::Retry));
            let refused = refused.unwrap_err();
            assert!(refused.contains(reason), "{refused}");
            let forced = end(&repository, &boxed(&repository, name, TeardownAction::Force));
            assert_eq!(forced.is_ok(), name != "home", "{forced:?}");
        }
    }

    #[test]
    fn a_name_that_could_be_taken_for_a_flag_or_a_path_reaches_no_hook() {
        let repository = with_hook("exit 0", 60);
        for name in ["-rf", "../../etc", "a\0b"] {
            let mut due = due("box", None, TeardownAction::Force);
            due.workspace.name = name.to_owned();
            let reason = end(&repository, &due).unwrap_err();
            assert!(reason.contains("the name"), "{reason}");
        }
    }

    #[test]
    fn hooks_that_others_could_have_written_or_that_make_no_sense_are_refused() {
        let repository = Repository::new();
        let due = due("box", None, TeardownAction::Force);
        for (text, why) in [
            ("{", "does not hold hooks"),
            (r#"{"box": {"argv": []}}"#, "no program"),
            (r#"{"box": {"argv": ["sh"]}}"#, "no program"),
            (r#"{"box": {"argv": ["/a\u0000b"]}}"#, "NUL"),
            (r#"{"box": {"argv": ["/bin/sh"], "timeout_s": 0}}"#, "timeout_s"),
            (r#"{"box": {"argv": ["/bin/sh"], "shell": true}}"#, "shell"),
            (r#"{"box": {"argv": ["/bin/sh"], "pass_env": ["SESSIONMESH_DATA_DIR"]}}"#, "pass_env"),
            (r#"{"worktree": {"argv": ["/bin/sh"]}}"#, "itself"),
        ] {
            write_hooks(&repository, text);
            let reason = end(&repository, &due).unwrap_err();
            assert!(reason.contains(why) && reason.contains("hooks.json"), "{text}: {reason}");
        }
        write_hooks(&repository, r#"{"box": {"argv": ["/bin/true"]}}"#);
        let path = repository.path("data").join(FILE_NAME);
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        let reason = end(&repository, &due).unwrap_err();
        assert!(reason.contains("chmod 600"), "{reason}");
    }

    /// A killed daemon's hook went on, and the next start ran another beside it.
    #[test]
    fn a_hook_that_still_runs_from_before_is_waited_for() {
        let repository = with_hook("cat >/dev/null", 30);
        let folder = repository.path("data").join("hooks.running");
        fs::create_dir_all(&folder).unwrap();
        let held = File::create(folder.join("wrk_1")).unwrap();
        held.lock().unwrap();
        let due = boxed(&repository, "repo", TeardownAction::Force);
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| end(&repository, &due));
            // It waits for as long as the one before runs, and that is until here.
            while repository.config.hooks.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            assert!(!ended.is_finished());
            drop(held);
            assert_eq!(ended.join().unwrap(), Ok(()));
        });
    }

    #[test]
    fn a_hook_holds_its_lock_although_the_daemon_is_gone() {
        let repository = with_hook("sleep 600", 1);
        let due = boxed(&repository, "repo", TeardownAction::Force);
        let path = repository.path("data").join("hooks.running/wrk_1");
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| end(&repository, &due));
            let held = || File::open(&path).is_ok_and(|file| file.try_lock().is_err());
            while !held() {
                assert!(!ended.is_finished(), "it was never locked");
                std::thread::yield_now();
            }
            assert!(ended.join().unwrap().unwrap_err().contains("stopped after 1 s"));
        });
    }

    #[test]
    fn worktrees_are_looked_at_while_a_hook_runs() {
        let repository = with_hook("sleep 600", 300);
        let hooked = boxed(&repository, "plain", TeardownAction::Retry);
        fs::create_dir(repository.path("plain")).unwrap();
        let workspace = repository.due("w", TeardownAction::Retry).workspace;
        std::thread::scope(|scope| {
            scope.spawn(|| end(&repository, &hooked));
            while repository.config.hooks.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            let seen = teardown::survey::look(&workspace, &repository.config);
            repository.config.stop();
            assert_eq!(seen.map(|seen| seen.state), Some(GitState::Clean));
        });
    }

    #[test]
    fn a_daemon_that_stops_ends_its_hooks_and_says_that_it_goes_on_later() {
        let repository = with_hook("sleep 600", 300);
        let due = boxed(&repository, "repo", TeardownAction::Force);
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| end(&repository, &due));
            while repository.config.hooks.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            repository.config.stop();
            assert!(ended.join().unwrap().unwrap_err().contains("at its next start"));
        });
    }
}
