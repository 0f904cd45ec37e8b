//! The one place that picks a backend.

use crate::env;
use anyhow::{Context, Result};
use cpu::{Cpu, Level};

/// Arguments of every command that computes.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct MachineArguments {
    /// Threads that compute [default: the machine's cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl MachineArguments {
    /// Threads asked for, or the cores of the machine.
    pub(crate) fn threads(self) -> usize {
        self.threads.map_or_else(cpu::physical_threads, usize::from)
    }

    /// The CPU at the level that `SLM_CPU` names, or the best one there is.
    pub(crate) fn open(self) -> Result<Cpu> {
        Cpu::new(self.threads(), forced_level()?).context("the CPU cannot be used")
    }
}

fn forced_level() -> Result<Option<Level>> {
    env::get(env::SLM_CPU)
        .map(|name| Level::parse(&name).with_context(|| format!("{}={name}", env::SLM_CPU)))
        .transpose()
}

/// What `slm -V` prints: the release and the level it would compute at.
pub(crate) fn version() -> String {
    let level = match forced_level() {
        Ok(forced) => forced.unwrap_or_else(cpu::detect).to_string(),
        Err(error) => format!("{error:#}"),
    };
    format!("{} (cpu: {level}, {} threads)", env!("CARGO_PKG_VERSION"), cpu::physical_threads())
}

/// What `slm --version` prints: [`version`], and below it what was chosen for speed on this machine.
pub(crate) fn long_version() -> String {
    let available = cpu::available().iter().map(|level| level.name()).collect::<Vec<_>>().join(", ");
    let choices = cpu::choices();
    let lines = [("levels here", available)].into_iter().chain(choices);
    lines.fold(version(), |text, (what, how)| format!("{text}\n{what:<15} {how}"))
}
