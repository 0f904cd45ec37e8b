//! `slm export`: a model in another format or type, read back and compared before it is called done.

use crate::machine::MachineArguments;
use crate::{inputs, output};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use formats::Encoding;
use formats::file::FileError;
use model::export::{self, Report};
use std::path::{Path, PathBuf};
use tokenizer::Tokenizer;

/// Write a model as a Hugging Face folder or a GGUF file, and prove that it is the same model
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm export --model runs/tiny --to hf --out tiny-hf
  slm export --model runs/tiny --to gguf --type q8_0 --out tiny-q8_0.gguf

What was written is read back and its logits are compared with the source's before it gets its name.")]
pub(crate) struct Arguments {
    /// A run folder, Hugging Face folder, GGUF file or llama2.c file
    #[arg(long)]
    model: PathBuf,
    /// The format
    #[arg(long, value_enum)]
    to: Format,
    /// How the weights are stored: f32, f16, bf16, and in GGUF files q8_0, q4_0, q4_1, q5_0, q5_1
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    r#type: String,
    /// The folder or file to write; must not exist
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Use this tokenizer instead of the model's own
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

/// What can be written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A Hugging Face folder.
    Hf,
    /// A GGUF file.
    Gguf,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let Some(encoding) = Encoding::parse(&arguments.r#type) else {
        bail!("--type {}: unknown; use f32, f16, bf16, q8_0, q4_0, q4_1, q5_0 or q5_1", arguments.r#type);
    };
    let cpu = arguments.machine.open()?;
    let source = inputs::model_path(&arguments.model)?;
    let tokenizer = inputs::load_tokenizer(&arguments.model, arguments.tokenizer.as_deref())?;
    let report = match arguments.to {
        Format::Hf => to_hf_folder(&cpu, &source, encoding, &arguments.out, &tokenizer)?,
        Format::Gguf => to_gguf(&cpu, &source, encoding, &arguments.out, &tokenizer)?,
    };
    if arguments.json {
        return output::json(&report);
    }
    output::line(format!(
        "{}: {} tensors, {} bytes; read back: largest logit difference {:.2e}, KL {:.2e} nats per token over {} tokens",
        arguments.out.display(),
        report.tensors,
        report.bytes,
        report.max_logit_difference,
        report.kl_divergence,
        report.tokens
    ))
}

/// A Hugging Face folder with the tokenizer's files.
pub(crate) fn to_hf_folder(
    cpu: &cpu::Cpu,
    source: &Path,
    encoding: Encoding,
    out: &Path,
    tokenizer: &Tokenizer,
) -> Result<Report> {
    let mut failed = None;
    let report = export::to_hf_folder(cpu, source, encoding, out, &mut |folder| {
        failed = tokenizer.save(folder).err();
        Ok::<(), FileError>(())
    })?;
    failed.map_or(Ok(report), |error| Err(error).context("the tokenizer's files could not be written"))
}

/// A GGUF file with the tokenizer in it.
pub(crate) fn to_gguf(
    cpu: &cpu::Cpu,
    source: &Path,
    encoding: Encoding,
    out: &Path,
    tokenizer: &Tokenizer,
) -> Result<Report> {
    Ok(export::to_gguf(cpu, source, encoding, out, &tokenizer.gguf_entries()?)?)
}
