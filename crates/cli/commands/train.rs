//! `slm train`: a recipe becomes a model.

use crate::machine::MachineArguments;
use crate::progress::TrainView;
use crate::{output, preparation, signals, training};
use anyhow::{Context, Result, bail};
use clap::Args;
use recipe::Recipe;
use std::path::{Path, PathBuf};
use train::Resume;

/// Train a model from a recipe; prepares its data first where they are not there
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm train recipes/tiny.toml --out runs/tiny
  slm train recipes/laptop.toml --set train.micro_batch=4 --set run.seed=7
  slm train recipes/laptop.toml --resume auto                 after an interruption of any kind

Ctrl-C writes a checkpoint and leaves; a second one leaves at once. A run folder holds the resolved recipe,
metrics.jsonl, log.txt, TensorBoard events and checkpoints, each a Hugging Face folder.")]
pub(crate) struct Arguments {
    /// The recipe
    recipe: PathBuf,
    /// Change a value of the recipe; can be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run folder [default: runs/ and the recipe's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the run's newest checkpoint (`auto`; from the beginning if there is none), or from this one
    #[arg(long, value_name = "auto|DIR")]
    resume: Option<PathBuf>,
    /// Go on although this machine or recipe computes other bits than the run so far
    #[arg(long)]
    allow_other_bits: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let recipe = Recipe::load(&arguments.recipe, &arguments.set)?;
    if recipe.distill.is_some() {
        bail!(
            "{}: a draft is trained beside its target; use `slm distill --target MODEL --draft DIR`, or take the section [distill] out",
            arguments.recipe.display()
        );
    }
    let run = match &arguments.out {
        Some(out) => out.clone(),
        None => default_run_folder(&arguments.recipe)?,
    };
    let resume = match &arguments.resume {
        None => Resume::No,
        Some(auto) if auto == Path::new("auto") => Resume::Auto,
        Some(folder) => Resume::From(folder.clone()),
    };
    train::check_folder(&run, &resume)?;
    let stop = signals::stop_flag()?;
    let data = preparation::data_folder(&recipe, &run);
    let prepared = preparation::prepare(&recipe, &data, arguments.machine.threads(), &stop)?;
    let cpu = arguments.machine.open()?;
    let mut view = TrainView::new();
    let run_options = training::RunOptions { resume, allow_other_bits: arguments.allow_other_bits, teacher: None };
    let summary = training::run(&cpu, &recipe, &run, &prepared, run_options, &mut |event| view.show(event), &stop)?;
    view.finish();
    if arguments.json {
        return output::json(&summary);
    }
    if summary.stopped {
        output::note(format!(
            "stopped after step {}; go on with `slm train {} --out {} --resume auto`",
            summary.steps,
            arguments.recipe.display(),
            run.display()
        ));
    }
    if let Some(checkpoint) = &summary.checkpoint {
        output::line(checkpoint.display().to_string())?;
    }
    Ok(())
}

fn default_run_folder(recipe: &Path) -> Result<PathBuf> {
    let name = recipe.file_stem().with_context(|| format!("{}: not the name of a recipe", recipe.display()))?;
    Ok(Path::new("runs").join(name))
}
