//! `slm bench`: how fast, beside what the machine could do at most.

mod every_width;
mod imposed;
mod page;
mod prompts;
mod speculative;

use crate::busy::BusyCores;
use crate::inputs::{self, CacheType, Dtype};
use crate::machine::MachineArguments;
use crate::output;
use anyhow::Result;
use backend::Precision;
use bench::{Bench, Measurement, Outcome, TrainShape, Types};
use clap::{Args, Subcommand, ValueEnum};
use model::{Config, Model};
use recipe::Recipe;
use std::path::{Path, PathBuf};

/// Measure speed: medians over several runs, and the share of what the machine can do at most
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm bench kernels --only attention
  slm bench train --seq 1024 --micro-batch 4 --profile
  slm bench decode --model amd135m-bf16.gguf --depth 1024 --json
  slm bench speculative --model target.gguf --draft draft.gguf --protocol stop --data humaneval.jsonl.gz

Timings mean something on an idle machine only.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The machine's ceilings, and every kernel's share of the right one
    Kernels(KernelsArguments),
    /// Training steps: forward, backward, update
    Train(TrainArguments),
    /// Reading a prompt
    Prefill(PrefillArguments),
    /// One token after the other
    Decode(DecodeArguments),
    /// Several tokens at once, as speculation verifies them
    Verify(VerifyArguments),
    Speculative(speculative::Arguments),
    Imposed(imposed::Arguments),
}

#[derive(Args)]
struct Common {
    /// Timed runs, behind one that is not timed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Meanwhile keep this many cores busy with other processes
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    busy_cores: u16,
    #[command(flatten)]
    machine: MachineArguments,
}

#[derive(Args)]
struct KernelsArguments {
    /// Measure only the kernels whose line contains this
    #[arg(long, value_name = "SUBSTRING", default_value = "", hide_default_value = true)]
    only: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct ModelArguments {
    /// A run folder, Hugging Face folder, GGUF file or llama2.c file
    #[arg(long)]
    model: PathBuf,
    /// How products are computed
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    dtype: Dtype,
    /// How keys and values are kept [default: f32 with --dtype f32, bf16 otherwise]
    #[arg(long, value_name = "TYPE", value_enum)]
    cache_type: Option<CacheType>,
    #[command(flatten)]
    common: Common,
}

/// How the products of training are computed.
#[derive(Clone, Copy, ValueEnum)]
enum TrainDtype {
    /// The oracle.
    F32,
    /// Weights and inputs of every product rounded to bf16, sums in f32.
    Bf16,
}

#[derive(Args)]
struct TrainArguments {
    /// Print beside it what each operation took, and its share of its own ceiling
    #[arg(long)]
    profile: bool,
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
    #[arg(long, value_enum, default_value_t = TrainDtype::Bf16)]
    dtype: TrainDtype,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct PrefillArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Print beside it what each operation took, and its share of its own ceiling
    #[arg(long)]
    profile: bool,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    tokens: usize,
}

#[derive(Args)]
struct DecodeArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Print beside it what each operation took, and its share of its own ceiling
    #[arg(long)]
    profile: bool,
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
        What::Kernels(arguments) => kernels(&arguments),
        What::Train(arguments) => training(&arguments),
        What::Prefill(arguments) => with_model(&arguments.model, arguments.profile, |bench, model, types| {
            print_outcome(&bench::prefill(bench, model, types, arguments.tokens)?, arguments.model.common.json)
        }),
        What::Decode(arguments) => with_model(&arguments.model, arguments.profile, |bench, model, types| {
            let DecodeArguments { depth, tokens, .. } = arguments;
            print_outcome(&bench::decode(bench, model, types, depth, tokens)?, arguments.model.common.json)
        }),
        What::Imposed(arguments) => imposed::run(&arguments),
        What::Speculative(arguments) => speculative::run(&arguments),
        What::Verify(arguments) => with_model(&arguments.model, false, |bench, model, types| {
            print(&bench::verify(bench, model, types, &arguments.rows)?, arguments.model.common.json)
        }),
    }
}

/// Prints each line as it comes: all of them take a minute or two.
fn kernels(arguments: &KernelsArguments) -> Result<()> {
    let KernelsArguments { only, common } = arguments;
    let cpu = common.machine.open()?;
    let bench = Bench::new(&cpu, usize::from(common.runs), None);
    let _busy = BusyCores::take(common.busy_cores)?;
    let mut printed = Ok(());
    let mut lines = 0;
    bench::kernels(&bench, only, &mut |line| {
        lines += 1;
        if printed.is_ok() {
            printed = print(&[line], common.json);
        }
    })?;
    anyhow::ensure!(lines > 0, "no kernel's line contains `{only}`; leave --only out to see all lines");
    printed
}

fn with_model(
    arguments: &ModelArguments,
    profile: bool,
    measure: impl FnOnce(&Bench<'_>, &Model, Types) -> Result<()>,
) -> Result<()> {
    let cpu = arguments.common.machine.open()?;
    let model = inputs::load_model(&cpu, &arguments.model, arguments.dtype)?;
    let types = Types { precision: model.precision, kv_type: inputs::kv_type(arguments.cache_type, model.precision) };
    let bench = Bench::new(&cpu, usize::from(arguments.common.runs), profile.then_some(types.precision));
    let _busy = BusyCores::take(arguments.common.busy_cores)?;
    measure(&bench, &model, types)
}

fn training(arguments: &TrainArguments) -> Result<()> {
    let cpu = arguments.common.machine.open()?;
    let config = arguments.recipe.as_deref().map(model_of).transpose()?;
    let shape = TrainShape { sequence: arguments.seq, micro_batch: arguments.micro_batch };
    let precision = match arguments.dtype {
        TrainDtype::F32 => Precision::F32,
        TrainDtype::Bf16 => Precision::Bf16,
    };
    let bench = Bench::new(&cpu, usize::from(arguments.common.runs), arguments.profile.then_some(precision));
    let _busy = BusyCores::take(arguments.common.busy_cores)?;
    print_outcome(&bench::train(&bench, config, shape, precision)?, arguments.common.json)
}

/// The model of a recipe, with the vocabulary that its tokenizer has or will have.
fn model_of(path: &Path) -> Result<Config> {
    let recipe = Recipe::load(path, &[])?;
    let vocab = inputs::recipe_vocab(&recipe)?;
    Ok(train::model_config(&recipe.model, vocab, None, None)?)
}

/// A result, and below it where the time went, as a table in Markdown.
fn print_outcome(outcome: &Outcome, json: bool) -> Result<()> {
    print(std::slice::from_ref(&outcome.line), json)?;
    match &outcome.profile {
        Some(profile) if json => profile.lines.iter().try_for_each(output::json),
        Some(profile) => output::line(format!("\n{profile}")),
        None => Ok(()),
    }
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
        let placement = line.placement_ns.map_or_else(String::new, |[before, after]| {
            format!(", core to core {before:.0} ns before, {after:.0} ns after")
        });
        output::line(format!(
            "{:<17} {:<24} {:<11} {:>10.1} ({:.1} to {:.1}) {:<10} {share}{placement}",
            line.name, line.shape, line.dtype, line.median, line.min, line.max, line.unit
        ))?;
    }
    Ok(())
}
