//! Runs a test's body in a process of its own, with bounded memory and time: what aborts or hangs
//! there fails the test instead of ending the run.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Says, in the environment, that this is the inner process.
const INNER: &str = "SESSIONMESH_TEST_CONFINED";

/// Tells whether this is the inner process of a test.
pub fn is_inside() -> bool {
    std::env::var_os(INNER).is_some()
}

/// Runs `body`, the body of the test with this name, in a process that may map this much memory
/// (KiB) and that is killed after `deadline`; panics with its output if it fails.
pub fn confined(test: &str, memory_kib_max: u64, deadline: Duration, body: impl FnOnce()) {
    if is_inside() {
        return body();
    }
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -v \"$0\" && exec \"$@\"", &memory_kib_max.to_string()])
        .arg(std::env::current_exe().expect("a test knows its own file"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INNER, "1")
        // Each arena maps 64 MiB that nobody asked for.
        .env("MALLOC_ARENA_MAX", "1")
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("sh starts");
    let started = Instant::now();
    let status = loop {
        match child.try_wait().expect("the child can be waited for") {
            Some(status) => break status,
            None if started.elapsed() > deadline => {
                child.kill().expect("the child can be killed");
                child.wait().expect("a killed child ends");
                panic!("{test} has not ended within {deadline:?}");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!(status.success(), "{test} ended with {status} in its own process");
}
