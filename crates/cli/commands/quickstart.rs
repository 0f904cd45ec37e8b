//! `slm quickstart`: the whole life of a model in a few minutes, offline.

use crate::machine::MachineArguments;
use crate::quickstart::{self, Options};
use crate::signals;
use anyhow::{Result, bail};
use clap::Args;
use formats::file;
use std::path::{Path, PathBuf};

/// The whole life of a model in a few minutes, offline: tokenizer, pretraining, code finetuning, export, speculation
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm quickstart
  slm quickstart --minutes 20 --out runs/first
  slm quickstart --text 'books/*.txt' --code 'src/**/*.py'

Without --text and --code it learns from the documentation and the sources of the packages that this program was
built from, as they lie in Cargo's home.")]
pub(crate) struct Arguments {
    /// How long it may take
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    minutes: f64,
    /// Files of prose to pretrain on; can be given again
    #[arg(long, value_name = "GLOB")]
    text: Vec<String>,
    /// Files of code to finetune on; can be given again
    #[arg(long, value_name = "GLOB")]
    code: Vec<String>,
    /// Folder that receives everything; must be new [default: runs/quickstart, or with a number behind it]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed of weights and data order
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    machine: MachineArguments,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    if !(0.5..=10_000.0).contains(&arguments.minutes) {
        bail!("--minutes {}: must be 0.5 to 10000", arguments.minutes);
    }
    let out = match arguments.out {
        Some(out) if is_used(&out)? => {
            bail!("{}: the folder is not empty; give a new one with --out DIR", out.display())
        }
        Some(out) => out,
        None => new_folder()?,
    };
    let stop = signals::stop_flag()?;
    let options = Options {
        minutes: arguments.minutes,
        text: arguments.text,
        code: arguments.code,
        out,
        seed: arguments.seed,
        threads: arguments.machine.threads(),
    };
    quickstart::run(&arguments.machine.open()?, &options, &stop)
}

fn is_used(folder: &Path) -> Result<bool> {
    Ok(file::exists(folder) && (!file::is_dir(folder) || !file::list(folder)?.is_empty()))
}

/// `runs/quickstart`, or the first of `runs/quickstart-2`, `-3`, … that is not there.
fn new_folder() -> Result<PathBuf> {
    let base = Path::new("runs");
    let mut folder = base.join("quickstart");
    let mut number = 1;
    while is_used(&folder)? {
        number += 1;
        folder = base.join(format!("quickstart-{number}"));
    }
    Ok(folder)
}
