//! `slm prepare`: text to token shards.

use crate::machine::MachineArguments;
use crate::{output, preparation, signals};
use anyhow::{Context, Result};
use clap::Args;
use data::Part;
use recipe::Recipe;
use std::path::PathBuf;

/// Turn the text that a recipe names into token shards and a manifest
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm prepare recipes/tiny.toml --out data/tiny
  slm prepare recipes/amd-135m.toml --set data.memory_mib=2048

A run that was killed goes on where it was. Nothing is done where the shards are there already.")]
pub(crate) struct Arguments {
    /// The recipe
    recipe: PathBuf,
    /// Change a value of the recipe; can be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder that receives the shards [default: the recipe's data.dir]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the manifest's counts as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let recipe = Recipe::load(&arguments.recipe, &arguments.set)?;
    let out = arguments.out.or_else(|| recipe.data.dir.clone()).with_context(|| {
        format!("{}: the recipe has no data.dir; say where the shards go with --out DIR", arguments.recipe.display())
    })?;
    let stop = signals::stop_flag()?;
    let prepared = preparation::prepare(&recipe, &out, arguments.machine.threads(), &stop)?;
    let manifest = &prepared.manifest;
    if arguments.json {
        return output::json(manifest);
    }
    for source in &manifest.sources {
        let account = &source.account;
        output::line(format!(
            "{}: {} documents read ({} bytes), {} for training ({} tokens), {} for validation ({} tokens)",
            source.name,
            account.read.documents,
            account.read.bytes,
            account.train.documents,
            source.train.tokens(),
            account.validation.documents,
            source.validation.tokens(),
        ))?;
        for (reason, tally) in &account.dropped {
            output::line(format!("  dropped, {reason}: {} documents, {} bytes", tally.documents, tally.bytes))?;
        }
    }
    output::line(format!(
        "{}: {} training tokens, {} validation tokens, {} ids; read = dropped + written",
        out.display(),
        manifest.tokens(Part::Train),
        manifest.tokens(Part::Validation),
        manifest.vocab
    ))
}
