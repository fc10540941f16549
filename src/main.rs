//! The `sessionmesh` command: from arguments to a call, from an error to an exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use sessionmesh::{
    cli::{
        self, Cli,
        failure::{Exit, Failure, line},
    },
    daemon::heap,
    telemetry,
};

fn main() -> ExitCode {
    heap::bound();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) => return told(&said),
    };
    // One thread for the loop, the links and the API: with one for each processor a frame waits to be
    // handed from one to the other, which takes a fifth of a change's way to a peer, and of a burst.
    // What takes long has threads of its own.
    let threads =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = match threads {
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

/// Shows help, the version, or what is wrong with the arguments.
fn told(said: &clap::Error) -> ExitCode {
    let printed = said.print().and_then(|()| io::stdout().flush());
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => end(Err(Failure::Output(error))),
        _ => ExitCode::from(u8::try_from(said.exit_code()).unwrap_or(Exit::Usage as u8)),
    }
}

fn end(done: Result<(), Failure>) -> ExitCode {
    let Err(failure) = done else {
        telemetry::finish();
        return ExitCode::SUCCESS;
    };
    let exit = failure.exit();
    if exit == Exit::Done {
        telemetry::finish();
    } else {
        telemetry::last_line(&line(&failure));
    }
    ExitCode::from(exit as u8)
}
