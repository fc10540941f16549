//! Owns running a program to its end, within a time and with bounded output.
//!
//! Must not know which programs. Invariant: when it returns, nothing of the program's process group
//! runs any more.

use std::{
    io::{self, Read, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// Most bytes of standard output that are kept unless the caller says otherwise.
const STDOUT_BYTES_MAX: usize = 8 << 20;
/// How many of the last bytes of the error output are kept: it ends up in a record.
pub const STDERR_BYTES_MAX: usize = 1_024;
/// How long a program that is told to stop may take before it is stopped.
const GRACE: Duration = Duration::from_secs(2);
/// How long what left the process group may hold the output open.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(5);
/// The first pause between two looks at whether the program has ended. Each pause is twice the one before it:
/// git answers in milliseconds, and a hook may take an hour.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Output {
    /// `None` if its time was over.
    pub status: Option<ExitStatus>,
    /// The beginning of what it printed.
    pub stdout: Vec<u8>,
    /// Whether more was printed than was kept, or it did not come in time.
    pub cut: bool,
    /// The end of its error output.
    pub stderr: Vec<u8>,
}

/// Runs a program in a process group of its own; blocks.
///
/// # Errors
///
/// It can't be started or waited for.
pub fn run(command: &mut Command, input: Vec<u8>, time_max: Duration) -> io::Result<Output> {
    run_up_to(command, input, time_max, STDOUT_BYTES_MAX)
}

/// Runs a program as [`run`] does, and keeps this many bytes of what it prints.
///
/// # Errors
///
/// It can't be started or waited for.
pub fn run_up_to(
    command: &mut Command,
    input: Vec<u8>,
    time_max: Duration,
    stdout_bytes_max: usize,
) -> io::Result<Output> {
    command.stdin(Stdio::piped());
    finish(command, time_max, stdout_bytes_max, &|| Go::On, |child| {
        if let Some(mut stdin) = child.stdin.take() {
            // A program need not read what it is told.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
    })
}

/// Whether a program may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// It may.
    On,
    /// It is told to stop, and gets a moment to do so.
    Stop,
    /// It is stopped at once.
    StopAtOnce,
}

/// Runs a program as [`run`] does, with this input, for as long as `go` lets it.
///
/// # Errors
///
/// It can't be started or waited for.
pub fn run_until(
    command: &mut Command,
    input: Stdio,
    time_max: Duration,
    go: &dyn Fn() -> Go,
) -> io::Result<Output> {
    command.stdin(input);
    finish(command, time_max, STDOUT_BYTES_MAX, go, |_| {})
}

fn finish(
    command: &mut Command,
    time_max: Duration,
    stdout_bytes_max: usize,
    go: &dyn Fn() -> Go,
    started: impl FnOnce(&mut Child),
) -> io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let group = Pid::from_child(&child);
    started(&mut child);
    let stdout = child.stdout.take().map(|pipe| collect(pipe, stdout_bytes_max, Keep::First));
    let stderr = child.stderr.take().map(|pipe| collect(pipe, STDERR_BYTES_MAX, Keep::Last));

    let mut ended = wait(group, time_max, &|| go() == Go::On);
    let in_time = matches!(ended, Ok(true));
    if !in_time {
        let _ = kill_process_group(group, Signal::TERM);
        ended = wait(group, GRACE, &|| go() != Go::StopAtOnce);
    }
    // The leader is not reaped yet, so its group's number can't have become another's.
    let _ = kill_process_group(group, Signal::KILL);
    let status = child.wait()?;
    ended?;
    let kept = |from: Option<Receiver<(Vec<u8>, bool)>>| {
        // What has not come is not nothing: whoever reads it must not take it for the whole.
        let whole = from.and_then(|from| from.recv_timeout(OUTPUT_PATIENCE).ok());
        whole.unwrap_or((Vec::new(), true))
    };
    let ((stdout, cut), (stderr, _)) = (kept(stdout), kept(stderr));
    Ok(Output { status: in_time.then_some(status), stdout, cut, stderr })
}

/// Tells whether the leader of a group ends in time; does not reap it.
fn wait(leader: Pid, time_max: Duration, go_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let began = Instant::now();
    let mut pause = PAUSE_FIRST;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::Pid(leader), look) {
            Ok(Some(_)) => return Ok(true),
            Ok(None) if began.elapsed() >= time_max || !go_on() => return Ok(false),
            Ok(None) => {
                thread::sleep(pause.min(time_max.saturating_sub(began.elapsed())));
                pause = PAUSE_MAX.min(pause * 2);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[derive(Clone, Copy)]
enum Keep {
    First,
    Last,
}

/// Reads a pipe to its end, and hands over a part of it and whether that is not all.
fn collect(
    mut pipe: impl Read + Send + 'static,
    bytes_max: usize,
    keep: Keep,
) -> Receiver<(Vec<u8>, bool)> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let (mut kept, mut cut) = (Vec::new(), false);
        let mut buffer = [0; 8_192];
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            kept.extend_from_slice(&buffer[..read]);
            let surplus = kept.len().saturating_sub(bytes_max);
            cut |= surplus > 0;
            match keep {
                Keep::First => kept.truncate(bytes_max),
                Keep::Last => drop(kept.drain(..surplus)),
            }
        }
        // Whoever waited may have given up.
        let _ = sender.send((kept, cut));
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, time_max: Duration) -> Output {
        run(Command::new("/bin/sh").args(["-c", script]), b"told".to_vec(), time_max).unwrap()
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_program_is_told_what_it_is_to_know_and_its_output_is_kept() {
        let output = sh("cat; echo bad >&2; exit 3", LONG);
        assert_eq!(output.status.unwrap().code(), Some(3));
        assert_eq!((output.stdout.as_slice(), output.cut), (b"told".as_slice(), false));
        assert_eq!(output.stderr, b"bad\n");
    }

    #[test]
    fn of_an_endless_error_output_the_end_is_kept() {
        let output = sh("head -c 100000 /dev/zero >&2; echo the end >&2", LONG);
        assert_eq!(output.stderr.len(), STDERR_BYTES_MAX);
        assert!(output.stderr.ends_with(b"the end\n"));
    }

    #[test]
    fn what_takes_too_long_is_stopped_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pids = folder.path().join("pids");
        let script =
            format!("trap '' TERM; sleep 600 & echo $$ $! >{}; wait; wait", pids.display());
        let output = sh(&script, Duration::from_millis(300));
        assert!(output.status.is_none());
        let pids = std::fs::read_to_string(pids).unwrap();
        for pid in pids.split_whitespace() {
            let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
            let deadline = Instant::now() + LONG;
            // A killed orphan is there until whoever inherited it has reaped it.
            while is_running(pid) {
                assert!(Instant::now() < deadline, "{pid:?} still runs");
                thread::sleep(PAUSE_FIRST);
            }
        }
    }

    fn is_running(pid: Pid) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        match stat {
            Ok(stat) => !stat.rsplit(") ").next().unwrap().starts_with('Z'),
            Err(_) => {
                rustix::process::test_kill_process(pid).is_ok()
                    && !std::path::Path::new("/proc/self").exists()
            }
        }
    }

    /// Under load the status of a worktree came late, and nothing was taken for a clean one.
    #[cfg(target_os = "linux")]
    #[test]
    fn output_that_does_not_come_in_time_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join("left");
        let script = format!(
            "setsid sh -c 'touch {0}; exec sleep 20' & while [ ! -e {0} ]; do sleep 0.01; done; echo done",
            left.display()
        );
        let output = sh(&script, LONG);
        assert!(output.status.unwrap().success());
        assert!(output.cut, "{output:?}");
    }

    #[test]
    fn what_a_program_leaves_running_does_not_hold_the_caller_up() {
        let output = sh("sleep 600 & echo done", LONG);
        assert_eq!(output.stdout, b"done\n");
        assert!(output.status.unwrap().success());
    }
}
