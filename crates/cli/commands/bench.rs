//! `slm bench`: how fast, beside what the machine could do at most.

use crate::inputs::{self, CacheType, Dtype};
use crate::machine::MachineArguments;
use crate::output;
use anyhow::Result;
use bench::{Ceilings, Measurement, TrainShape, Types};
use clap::{Args, Subcommand};
use model::{Config, Model};
use recipe::Recipe;
use std::path::{Path, PathBuf};

/// Measure speed: medians over several runs, and the share of what the machine can do at most
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm bench kernels
  slm bench train --seq 1024 --micro-batch 4
  slm bench decode --model amd135m-bf16.gguf --depth 1024 --json

Timings mean something on an idle machine only.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The machine's ceilings, and the matrix products' share of them
    Kernels(Common),
    /// Training steps: forward, backward, update
    Train(TrainArguments),
    /// Reading a prompt
    Prefill(PrefillArguments),
    /// One token after the other
    Decode(DecodeArguments),
    /// Several tokens at once, as speculation verifies them
    Verify(VerifyArguments),
}

#[derive(Args)]
struct Common {
    /// Timed runs, behind one that is not timed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

#[derive(Args)]
struct ModelArguments {
    /// A run folder, Hugging Face folder, GGUF file or llama2.c file
    #[arg(long)]
    model: PathBuf,
    /// How products are computed
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
    /// How keys and values are kept [default: f32 with --dtype f32, bf16 otherwise]
    #[arg(long, value_name = "TYPE", value_enum)]
    cache_type: Option<CacheType>,
    #[command(flatten)]
    common: Common,
}

impl ModelArguments {
    /// How products are computed, and how keys and values are kept.
    fn types(&self) -> Types {
        Types { precision: self.dtype.into(), kv_type: inputs::kv_type(self.cache_type, self.dtype) }
    }
}

#[derive(Args)]
struct TrainArguments {
    /// A recipe whose model is trained [default: the shape of AMD-135M]
    #[arg(long, value_name = "RECIPE")]
    recipe: Option<PathBuf>,
    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 1024)]
    seq: usize,
    /// Sequences that go through the model together
    #[arg(long, value_name = "N", default_value_t = 4)]
    micro_batch: usize,
    /// How products are computed
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct PrefillArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    tokens: usize,
}

#[derive(Args)]
struct DecodeArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Tokens of context before the first that is timed
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: usize,
    /// Tokens that are decoded in a run
    #[arg(long, value_name = "N", default_value_t = 64)]
    tokens: usize,
}

#[derive(Args)]
struct VerifyArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Numbers of tokens at once
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4,8")]
    rows: Vec<usize>,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match arguments.what {
        What::Kernels(common) => {
            let cpu = common.machine.open()?;
            let ceilings = Ceilings::measure(&cpu);
            print(&bench::kernels(&cpu, &ceilings, usize::from(common.runs))?, common.json)
        }
        What::Train(arguments) => training(&arguments),
        What::Prefill(arguments) => with_model(&arguments.model, |cpu, ceilings, model, runs| {
            Ok(vec![bench::prefill(cpu, ceilings, model, arguments.model.types(), arguments.tokens, runs)?])
        }),
        What::Decode(arguments) => with_model(&arguments.model, |cpu, ceilings, model, runs| {
            let types = arguments.model.types();
            Ok(vec![bench::decode(cpu, ceilings, model, types, arguments.depth, arguments.tokens, runs)?])
        }),
        What::Verify(arguments) => with_model(&arguments.model, |cpu, ceilings, model, runs| {
            Ok(bench::verify(cpu, ceilings, model, arguments.model.types(), &arguments.rows, runs)?)
        }),
    }
}

fn with_model(
    arguments: &ModelArguments,
    measure: impl FnOnce(&cpu::Cpu, &Ceilings, &Model, usize) -> Result<Vec<Measurement>>,
) -> Result<()> {
    let cpu = arguments.common.machine.open()?;
    let model = inputs::load_model(&cpu, &arguments.model, arguments.dtype)?;
    let ceilings = Ceilings::measure(&cpu);
    let lines = measure(&cpu, &ceilings, &model, usize::from(arguments.common.runs))?;
    print(&lines, arguments.common.json)
}

fn training(arguments: &TrainArguments) -> Result<()> {
    let cpu = arguments.common.machine.open()?;
    let config = arguments.recipe.as_deref().map(model_of).transpose()?;
    let shape = TrainShape { sequence: arguments.seq, micro_batch: arguments.micro_batch };
    let ceilings = Ceilings::measure(&cpu);
    let runs = usize::from(arguments.common.runs);
    let line = bench::train(&cpu, &ceilings, config, shape, arguments.dtype.into(), runs)?;
    print(&[line], arguments.common.json)
}

/// The model of a recipe, with the vocabulary that its tokenizer has or will have.
fn model_of(path: &Path) -> Result<Config> {
    let recipe = Recipe::load(path, &[])?;
    let vocab = inputs::recipe_vocab(&recipe)?;
    Ok(train::model_config(&recipe.model, vocab, None, None)?)
}

fn print(lines: &[Measurement], json: bool) -> Result<()> {
    for line in lines {
        if json {
            output::json(line)?;
            continue;
        }
        let share = match (line.share_of_ceiling, &line.ceiling_by) {
            (Some(share), Some(by)) => format!("{:5.1} % of {by}", 100.0 * share),
            _ => String::new(),
        };
        output::line(format!(
            "{:<17} {:<24} {:<5} {:>10.1} ({:.1} to {:.1}) {:<10} {share}",
            line.name, line.shape, line.dtype, line.median, line.min, line.max, line.unit
        ))?;
    }
    Ok(())
}
