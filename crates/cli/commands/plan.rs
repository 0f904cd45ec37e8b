//! `slm plan`: what a run will take, before it begins.

use crate::machine::MachineArguments;
use crate::progress::{bytes, duration};
use crate::{inputs, output};
use anyhow::Result;
use clap::Args;
use recipe::Recipe;
use serde::Serialize;
use std::path::PathBuf;
use train::Plan;

/// Parameters, operations, memory, disk and time of a run, before it begins
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm plan recipes/amd-135m.toml --no-probe
  slm plan recipes/laptop.toml --set train.micro_batch=4 --json")]
pub(crate) struct Arguments {
    /// The recipe
    recipe: PathBuf,
    /// Change a value of the recipe; can be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Do not time a few micro-batches; then there is no speed and no time
    #[arg(long)]
    no_probe: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

/// The plan as one object.
#[derive(Serialize)]
struct Planned<'a> {
    parameters: u64,
    parameters_blocks: u64,
    parameters_embedding: u64,
    parameters_head: u64,
    flops_per_token: f64,
    steps: u64,
    tokens: u64,
    memory_bytes: &'a train::Memory,
    memory_bytes_total: u64,
    disk_bytes: &'a train::Disk,
    probe: Option<&'a train::Probe>,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let recipe = Recipe::load(&arguments.recipe, &arguments.set)?;
    let vocab = inputs::recipe_vocab(&recipe)?;
    let cpu = arguments.machine.open()?;
    let plan = train::plan(&cpu, &recipe, vocab, !arguments.no_probe)?;
    if arguments.json { output::json(&planned(&plan)) } else { print(&plan) }
}

fn planned(plan: &Plan) -> Planned<'_> {
    Planned {
        parameters: plan.parameters.total(),
        parameters_blocks: plan.parameters.blocks,
        parameters_embedding: plan.parameters.embedding,
        parameters_head: plan.parameters.head,
        flops_per_token: plan.flops_per_token,
        steps: plan.steps,
        tokens: plan.tokens,
        memory_bytes: &plan.memory,
        memory_bytes_total: plan.memory.total(),
        disk_bytes: &plan.disk,
        probe: plan.probe.as_ref(),
    }
}

fn print(plan: &Plan) -> Result<()> {
    let counts = &plan.parameters;
    output::line(format!("parameters      {}", grouped(counts.total())))?;
    output::line(format!("  embedding     {}", grouped(counts.embedding)))?;
    output::line(format!("  blocks        {}", grouped(counts.blocks)))?;
    output::line(format!("  final norm    {}", grouped(counts.final_norm)))?;
    output::line(format!("  head          {}{}", grouped(counts.head), if counts.head == 0 { " (tied)" } else { "" }))?;
    output::line(format!("FLOPs per token {:.3} G, forward and backward", plan.flops_per_token / 1e9))?;
    output::line(format!(
        "batch           {} sequences of {} tokens, {} at a time",
        plan.batch.sequences, plan.batch.tokens, plan.batch.micro_batch
    ))?;
    output::line(format!("steps           {} ({} tokens)", grouped(plan.steps), grouped(plan.tokens)))?;
    let memory = &plan.memory;
    output::line(format!("memory          {}", bytes(memory.total())))?;
    for (what, count) in [
        ("weights", memory.weights),
        ("packed", memory.packed),
        ("gradients", memory.gradients),
        ("moments", memory.moments),
        ("activations", memory.activations),
        ("batch", memory.batch),
        ("scratch", memory.scratch),
        ("checkpoint", memory.checkpoint),
    ] {
        output::line(format!("  {what:<14}{}", bytes(count)))?;
    }
    output::line(format!(
        "disk            {} a checkpoint, at most {}",
        bytes(plan.disk.checkpoint),
        bytes(plan.disk.most)
    ))?;
    match &plan.probe {
        Some(probe) => {
            output::line(format!("measured        {} held by the machine", bytes(probe.allocated_bytes)))?;
            output::line(format!("speed           {:.0} tokens/s", probe.tokens_per_second))?;
            output::line(format!("time            {}", duration(probe.run_seconds)))
        }
        None => output::line("speed           not measured"),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
