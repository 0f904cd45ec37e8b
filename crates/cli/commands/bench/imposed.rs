//! `slm bench imposed`: what speculation gains at a given acceptance, with real passes of both models.

use crate::inputs::{self, Dtype};
use crate::machine::MachineArguments;
use crate::output;
use anyhow::{Context, Result, ensure};
use bench::{ImposedResult, ImposedWidth};
use clap::Args;
use cpu::Cpu;
use formats::{Encoding, StoredTensor, gguf, quant};
use infer::Session;
use model::{Config, Model, tensors};
use std::path::PathBuf;

/// AMD's rate of accepted tokens on Ryzen CPUs, with 5 drafted at a time.
const AMD_ACCEPTANCE: f64 = 0.73;
const AMD_WIDTH: usize = 5;

/// Speculation at a given acceptance: real passes of both models, proposals right as often as is asked
#[derive(Args)]
#[command(after_help = "\
Without models: random weights in the shapes of AMD's measurements, CodeLlama-7b in q4_0 (4 GB) and
AMD-Llama-135M in q8_0.

Each acceptance is measured at the formula's best width and with the engine's own choice, which does not
know the acceptance; the last line has 5 tokens at a time and AMD's 73 % of drafted tokens accepted.")]
pub(super) struct Arguments {
    /// The target instead of CodeLlama's shape
    #[arg(long, requires = "draft")]
    model: Option<PathBuf>,
    /// The draft instead of AMD-135M's shape
    #[arg(long, requires = "model")]
    draft: Option<PathBuf>,
    /// Probabilities that a proposed token is right
    #[arg(long, value_name = "ALPHA,…", value_delimiter = ',', default_value = "0,0.6,0.7,0.8,0.9")]
    acceptance: Vec<f64>,
    /// Tokens of each text
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(8..=1024))]
    tokens: u16,
    /// Each text is written so often, all in turn, and the fastest counts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeats: u16,
    /// How products are computed
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    dtype: Dtype,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let in_range = arguments.acceptance.iter().all(|alpha| (0.0..=1.0).contains(alpha));
    ensure!(in_range, "--acceptance is a probability; give numbers from 0 to 1");
    let cpu = arguments.machine.open()?;
    let load = |path: &Option<PathBuf>, config: fn() -> Config, encoding| match path {
        Some(path) => inputs::load_model(&cpu, path, arguments.dtype),
        None => random(&cpu, &config(), encoding, arguments.dtype),
    };
    let target = load(&arguments.model, bench::code_llama_7b, Encoding::Q4_0)?;
    let draft = load(&arguments.draft, || bench::amd_135m(2048), Encoding::Q8_0)?;
    let capacity = usize::from(arguments.tokens) + 32;
    let kv_type = |model: &Model| inputs::kv_type(None, model.precision);
    let mut target_session = Session::with_cache(&cpu, &target, capacity, kv_type(&target))?;
    let mut draft_session = Session::with_cache(&cpu, &draft, capacity, kv_type(&draft))?;
    let (target, draft) = (&mut target_session, &mut draft_session);
    let costs = infer::measure_costs(target, Some(draft))?;
    let mut cases: Vec<(f64, ImposedWidth)> = Vec::new();
    for &alpha in &arguments.acceptance {
        if costs.optimum(alpha).0 > 0 {
            cases.push((alpha, ImposedWidth::Best));
        }
        cases.push((alpha, ImposedWidth::Adaptive));
    }
    cases.push((bench::alpha_of(AMD_ACCEPTANCE, AMD_WIDTH), ImposedWidth::Fixed(AMD_WIDTH)));
    let results =
        bench::imposed(target, draft, &costs, &cases, usize::from(arguments.tokens), arguments.repeats.into())?;
    if arguments.json {
        return results.iter().try_for_each(output::json);
    }
    output::line(format!("Costs {costs}.\n"))?;
    table(&results)
}

fn table(results: &[ImposedResult]) -> Result<()> {
    output::line(
        "| α | width | tokens a round (expected) | accepted / drafted | target alone, tokens/s | with draft | gain | formula | reached | outside passes | same text |",
    )?;
    output::line("|---|---|---|---|---|---|---|---|---|---|---|")?;
    for r in results {
        output::line(format!(
            "| {:.3} | {} | {:.2} ({:.2}) | {:.1} % | {:.1} | {:.1} | {:.2}× | {:.2}× | {:.0} % | {:.1} % | {} |",
            r.alpha,
            r.width,
            r.mean_accepted_length,
            r.expected_tokens,
            100.0 * r.acceptance,
            r.plain,
            r.speculative,
            r.speedup,
            r.formula,
            100.0 * r.reached,
            100.0 * r.overhead,
            if r.same { "yes" } else { "NO" }
        ))?;
    }
    Ok(())
}

/// A model of `config` with random weights. It passes through a temporary file, as any model does.
fn random(cpu: &Cpu, config: &Config, encoding: Encoding, dtype: Dtype) -> Result<Model> {
    let all = tensors::all(config);
    let largest = all.iter().map(tensors::Tensor::len).max().unwrap_or_default();
    // All matrices begin with the same numbers: what a pass takes does not depend on them, and the largest is 180 MB.
    let mut state = 1u64;
    let values: Vec<f32> = (0..largest)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1
        })
        .collect();
    let blocks = quant::encode(encoding, &values).context("random weights")?;
    let ones =
        quant::encode(Encoding::F32, &vec![1.0; config.width.max(config.ffn_width)]).context("random weights")?;
    let ratio = blocks.len() as f64 / largest as f64;
    let stored: Vec<StoredTensor<'_>> = all
        .iter()
        .map(|tensor| {
            let vector = tensor.role.is_vector();
            let bytes = if vector {
                &ones[..4 * tensor.len()]
            } else {
                &blocks[..(ratio * tensor.len() as f64).round() as usize]
            };
            let encoding = if vector { Encoding::F32 } else { encoding };
            StoredTensor { name: tensor.gguf_name(), encoding, shape: tensor.shape(), bytes }
        })
        .collect();
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let path = folder.path().join("random.gguf");
    gguf::write(&path, &config.gguf_entries(encoding), &stored)?;
    inputs::load_model(cpu, &path, dtype)
}
