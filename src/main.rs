//! The `sessionmesh` command: from arguments to a call, from an error to an exit code.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use sessionmesh::cli::{
    self, Cli,
    failure::{Exit, Failure, line},
};

fn main() -> ExitCode {
    share_heap();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let what = "threads can't be started";
            return end(Err(Failure::System { what, error }));
        }
    };
    let done = runtime.block_on(cli::run(cli));
    // What still runs in the background must not keep the process from ending.
    runtime.shutdown_background();
    end(done)
}

/// Has all threads share one heap.
///
/// By default glibc gives each its own, up to eight a processor, and what a thread has taken and freed
/// is of no use to another: under attack a daemon came to 320 MB in eight minutes and went on; with one
/// heap it came to 255 in three, and stayed there.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "no safe crate sets it; an environment variable is read too early")]
fn share_heap() {
    // SAFETY: it only sets a parameter of the allocator, and no other thread runs yet.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn share_heap() {}

fn end(done: Result<(), Failure>) -> ExitCode {
    let Err(failure) = done else { return ExitCode::SUCCESS };
    let exit = failure.exit();
    if exit != Exit::Done {
        // Who can't be told is told by the exit code.
        let _ = writeln!(std::io::stderr(), "{}", line(&failure));
    }
    ExitCode::from(exit as u8)
}
