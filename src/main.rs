//! The `sessionmesh` command: from arguments to a call, from an error to an exit code.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use sessionmesh::cli::{
    self, Cli,
    failure::{Exit, Failure, line},
};

fn main() -> ExitCode {
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

fn end(done: Result<(), Failure>) -> ExitCode {
    let Err(failure) = done else { return ExitCode::SUCCESS };
    let exit = failure.exit();
    if exit != Exit::Done {
        // Who can't be told is told by the exit code.
        let _ = writeln!(std::io::stderr(), "{}", line(&failure));
    }
    ExitCode::from(exit as u8)
}
