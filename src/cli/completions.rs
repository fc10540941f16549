//! Owns `sessionmesh completions`.
//!
//! Must not know verbs but by their description. Invariant: what it prints fits this version.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, failure::Failure, output::Output};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: &Args, mut out: Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sessionmesh", &mut script);
    out.write(&String::from_utf8_lossy(&script))
}
