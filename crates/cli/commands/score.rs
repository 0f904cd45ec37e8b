//! `slm score`: log-probabilities of a text, token by token.

use crate::inputs::{self, Dtype};
use crate::machine::MachineArguments;
use crate::output;
use anyhow::{Result, bail};
use clap::Args;
use formats::file;
use serde::Serialize;
use std::path::PathBuf;

/// Log-probability of each token of a text, nats per token, bits per byte
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm score --model runs/tiny --text README.md
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
    ids: Vec<u32>,
    logprobs: Vec<Option<f32>>,
    nats_per_token: f64,
    bits_per_byte: Option<f64>,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let (ids, bytes) = read(&arguments)?;
    if ids.len() < 2 {
        bail!("{} tokens were given, but at least 2 are needed: the first has nothing to be predicted from", ids.len());
    }
    let cpu = arguments.machine.open()?;
    let model = inputs::load_model(&cpu, &arguments.model, arguments.dtype)?;
    let logprobs = if arguments.rolling {
        infer::score_rolling(&cpu, &model, &ids, None, model.config.context)?
    } else {
        infer::score(&cpu, &model, &ids)?
    };
    let nats = -logprobs.iter().flatten().map(|&logprob| f64::from(logprob)).sum::<f64>();
    let scores = Scores {
        nats_per_token: nats / (ids.len() - 1) as f64,
        bits_per_byte: bytes.map(|bytes| nats / std::f64::consts::LN_2 / bytes as f64),
        logprobs,
        ids,
    };
    print(&arguments, &scores)
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
    for (id, logprob) in scores.ids.iter().zip(&scores.logprobs) {
        match logprob {
            Some(logprob) => output::line(format!("{id:>8} {logprob:>10.4}"))?,
            None => output::line(format!("{id:>8}          –"))?,
        }
    }
    output::note(format!("nats per token {:.4}", scores.nats_per_token));
    if let Some(bits) = scores.bits_per_byte {
        output::note(format!("bits per byte  {bits:.4}"));
    }
    Ok(())
}
