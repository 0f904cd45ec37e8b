//! `slm score`: log-probabilities of a text, token by token.

use crate::inputs::{self, Dtype};
use crate::machine::MachineArguments;
use crate::output;
use crate::progress::ScoreProgress;
use anyhow::{Result, bail};
use clap::Args;
use formats::{Encoding, StoredTensor, file, quant, safetensors};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Log-probability of each token of a text, perplexity, bits per byte
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm score --model runs/tiny --text README.md
  slm score --model model.gguf --text wiki.test.raw --rolling --window 512 --stride 256 --summary
  slm score --model model.gguf --text page.txt --dtype f32 --logits logits.safetensors --summary
  slm score --model stories260K.bin --ids ids.json --dtype f32 --json")]
pub(crate) struct Arguments {
    /// A run folder, Hugging Face folder, GGUF file or llama2.c file
    #[arg(long)]
    model: PathBuf,
    /// A text file to score
    #[arg(long, value_name = "FILE", required_unless_present = "ids", conflicts_with = "ids")]
    text: Option<PathBuf>,
    /// A file with one JSON array of token ids (no tokenizer is needed)
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Use this tokenizer instead of the model's own
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Score text longer than the context in windows, each token once, as lm-evaluation-harness does
    #[arg(long)]
    rolling: bool,
    /// Tokens of a window [default: the model's context]
    #[arg(long, value_name = "N", requires = "rolling")]
    window: Option<usize>,
    /// Tokens between the beginnings of two windows, each of which predicts its last so many [default: the window's]
    #[arg(long, value_name = "N", requires = "rolling")]
    stride: Option<usize>,
    /// Write the logits behind each token to a safetensors file, which must not exist: `logits`, tokens × vocabulary, f32
    #[arg(long, value_name = "FILE", conflicts_with = "rolling")]
    logits: Option<PathBuf>,
    /// Leave out the tokens, and print what they come to
    #[arg(long)]
    summary: bool,
    /// How products are computed
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

#[derive(Serialize)]
struct Scores {
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Option<f32>>>,
    /// Tokens that were predicted.
    tokens: usize,
    windows: usize,
    window: usize,
    stride: usize,
    nats_per_token: f64,
    /// Standard error of the mean, as if tokens were independent.
    nats_per_token_error: f64,
    perplexity: f64,
    bits_per_byte: Option<f64>,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let (ids, bytes) = read(&arguments)?;
    if ids.len() < 2 {
        bail!("{} tokens were given, but at least 2 are needed: the first has nothing to be predicted from", ids.len());
    }
    let cpu = arguments.machine.open()?;
    let model = inputs::load_model(&cpu, &arguments.model, arguments.dtype)?;
    let tokens = ids.len() - 1;
    let window = arguments.window.unwrap_or(model.config.context);
    let stride = arguments.stride.unwrap_or(window);
    let logprobs = if arguments.rolling {
        let mut progress = ScoreProgress::new(tokens);
        let found = infer::score_windows(&cpu, &model, &ids, None, window, stride, &mut |done| progress.update(done));
        progress.finish();
        found?
    } else {
        infer::score(&cpu, &model, &ids)?
    };
    // Scoring has seen that the ids are the model's and fit its context.
    if let Some(path) = &arguments.logits {
        write_logits(path, &model::text_logits(&cpu, &model, &ids)?, ids.len())?;
    }
    let nats = Mean::of(logprobs.iter().flatten().map(|&logprob| -f64::from(logprob)));
    let scores = Scores {
        tokens,
        windows: infer::strided_windows(tokens, window, stride).count(),
        window,
        stride,
        nats_per_token: nats.mean,
        nats_per_token_error: nats.error,
        perplexity: nats.mean.exp(),
        bits_per_byte: bytes.map(|bytes| nats.mean * tokens as f64 / std::f64::consts::LN_2 / bytes as f64),
        logprobs: (!arguments.summary).then_some(logprobs),
        ids: (!arguments.summary).then_some(ids),
    };
    print(&arguments, &scores)
}

/// `logits`, `tokens × vocab`.
fn write_logits(path: &Path, logits: &[f32], tokens: usize) -> Result<()> {
    if file::exists(path) {
        bail!("{} is already there; name another file, or remove it", path.display());
    }
    let bytes = quant::encode(Encoding::F32, logits)?;
    let shape = vec![tokens, logits.len() / tokens];
    let tensor = StoredTensor { name: "logits".into(), encoding: Encoding::F32, shape, bytes: &bytes };
    Ok(safetensors::write(path, &[tensor], &safetensors::Metadata::new())?)
}

/// A mean and its standard error.
struct Mean {
    mean: f64,
    error: f64,
}

impl Mean {
    /// Of one value or more.
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count().max(1) as f64;
        let mean = values.clone().sum::<f64>() / count;
        let squares = values.map(|value| (value - mean).powi(2)).sum::<f64>();
        Self { mean, error: (squares / (count - 1.0).max(1.0) / count).sqrt() }
    }
}

/// The ids, and how many bytes of text they stand for behind the first one.
fn read(arguments: &Arguments) -> Result<(Vec<u32>, Option<usize>)> {
    if let Some(path) = &arguments.ids {
        return Ok((inputs::read_ids(path)?, None));
    }
    let Some(path) = &arguments.text else { bail!("give --text or --ids") };
    let tokenizer = inputs::load_tokenizer(&arguments.model, arguments.tokenizer.as_deref())?;
    let text = file::read_to_string(path)?;
    let mut ids = tokenizer.encode(&text);
    let bytes = match tokenizer.bos().or(tokenizer.eos()) {
        Some(first) => {
            ids.insert(0, first);
            text.len()
        }
        None => text.len() - ids.first().map_or(0, |&id| tokenizer.token_bytes(id).len().min(text.len())),
    };
    Ok((ids, Some(bytes.max(1))))
}

fn print(arguments: &Arguments, scores: &Scores) -> Result<()> {
    if arguments.json {
        return output::json(scores);
    }
    for (id, logprob) in scores.ids.iter().flatten().zip(scores.logprobs.iter().flatten()) {
        match logprob {
            Some(logprob) => output::line(format!("{id:>8} {logprob:>10.4}"))?,
            None => output::line(format!("{id:>8}          –"))?,
        }
    }
    let Scores { tokens, windows, window, stride, nats_per_token, nats_per_token_error, perplexity, .. } = scores;
    let mut lines = vec![
        format!("nats per token {nats_per_token:.4} ± {nats_per_token_error:.4}"),
        format!("perplexity     {perplexity:.4} ± {:.4}", perplexity * nats_per_token_error),
    ];
    lines.extend(scores.bits_per_byte.map(|bits| format!("bits per byte  {bits:.4}")));
    if arguments.rolling {
        lines.push(format!("tokens         {tokens} in {windows} windows of {window}, one every {stride}"));
    }
    // Without lines for the tokens, this is the data.
    match arguments.summary {
        true => lines.iter().try_for_each(output::line),
        false => {
            lines.iter().for_each(output::note);
            Ok(())
        }
    }
}
