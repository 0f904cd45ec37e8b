//! `slm sandbox`: not for people. `slm eval` starts it for each program that a model wrote.

use anyhow::Result;
use clap::Args;

/// Becomes Python behind walls, which runs the program on standard input
#[derive(Args)]
pub(crate) struct Arguments {
    /// What the walls are to be, as `slm eval` writes it
    confinement: String,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    std::process::exit(eval::enter(&arguments.confinement))
}
