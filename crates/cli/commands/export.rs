//! `slm export`: a model in another format or type, read back and compared before it is called done.

use crate::machine::MachineArguments;
use crate::{draft_vocabulary, inputs, output};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use formats::Encoding;
use formats::file::{self, FileError};
use infer::DraftVocabulary;
use model::export::{self, OnText, Report};
use serde::Serialize;
use std::path::{Path, PathBuf};
use tokenizer::Tokenizer;

/// Tokens of a text that are compared at most. Two models' logits of them are held: 1.2 GB at a vocabulary of 152,000.
const TEXT_TOKENS: usize = 1024;
/// The text to compare on where none is given.
const SAMPLE: &str = include_str!("sample.txt");

/// Write a model as a Hugging Face folder or a GGUF file, and prove that it is the same model
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm export --model runs/tiny --to hf --out tiny-hf
  slm export --model runs/tiny --to gguf --type q8_0 --out tiny-q8_0.gguf
  slm export --model smollm2.gguf --to gguf --type q4_k --text held-out.txt --out smollm2-q4_k.gguf

What was written is read back and its logits are compared with the source's before it gets its name.
Perplexity and divergence from the source are then taken on a text: up to 1024 tokens of --text, or a page of prose and code
that slm carries.")]
pub(crate) struct Arguments {
    /// A run folder, Hugging Face folder, GGUF file or llama2.c file
    #[arg(long)]
    model: PathBuf,
    /// The format
    #[arg(long, value_enum)]
    to: Format,
    /// How the weights are stored: f32, f16, bf16, and in GGUF files q8_0, q4_0, q4_1, q5_0, q5_1,
    /// q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    r#type: String,
    /// The folder or file to write; must not exist
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// The text that the written model is compared with its source on
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
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
        let known = Encoding::ALL.map(|encoding| encoding.to_string()).join(", ");
        bail!("--type {}: unknown; use one of {known}", arguments.r#type);
    };
    let cpu = arguments.machine.open()?;
    let source = inputs::model_path(&arguments.model)?;
    let own = draft_vocabulary::read(&source)?;
    if own.is_some() && arguments.tokenizer.is_none() {
        bail!(
            "{}: a draft with ids of its own has no tokenizer; name its target with --tokenizer",
            arguments.model.display()
        );
    }
    let tokenizer = inputs::load_tokenizer(&arguments.model, arguments.tokenizer.as_deref())?;
    let vocabulary = match &own {
        Some(own) if own.tokenizer_hash() != tokenizer.hash() => {
            bail!("{}: was distilled for a target with another tokenizer than this", arguments.model.display())
        }
        Some(own) => Vocabulary::Draft(own),
        None => Vocabulary::Tokenizer(&tokenizer),
    };
    let report = match arguments.to {
        Format::Hf => to_hf_folder(&cpu, &source, encoding, &arguments.out, vocabulary)?,
        Format::Gguf => to_gguf(&cpu, &source, encoding, &arguments.out, vocabulary)?,
    };
    let mut text = text_ids(&arguments, &tokenizer)?;
    if let Some(own) = &own {
        text.iter_mut().for_each(|id| *id = own.own(*id));
    }
    let text = export::compare_on_text(&cpu, &source, &arguments.out, &text)?;
    if arguments.json {
        return output::json(&Exported { report, text });
    }
    output::line(format!(
        "{}: {} tensors, {} bytes; read back: largest logit difference {:.2e} over {} tokens of a probe",
        arguments.out.display(),
        report.tensors,
        report.bytes,
        report.max_logit_difference,
        report.tokens
    ))?;
    output::line(format!(
        "on {} tokens of text: perplexity {:.4}, the source's {:.4}; KL {:.2e} nats per token",
        text.tokens, text.perplexity, text.source_perplexity, text.kl_divergence
    ))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Exported {
    #[serde(flatten)]
    report: Report,
    text: OnText,
}

/// The first tokens of the text to compare on, behind the token that begins a text if there is one.
fn text_ids(arguments: &Arguments, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let given = arguments.text.as_deref().map(file::read_to_string).transpose()?;
    let encoded = tokenizer.encode(given.as_deref().unwrap_or(SAMPLE));
    let mut ids: Vec<u32> = tokenizer.bos().or(tokenizer.eos()).into_iter().chain(encoded).collect();
    ids.truncate(TEXT_TOKENS);
    if ids.len() < 2 {
        bail!("--text holds {} tokens, but at least 2 are needed to predict one", ids.len());
    }
    Ok(ids)
}

/// What a model's ids stand for.
#[derive(Clone, Copy)]
pub(crate) enum Vocabulary<'a> {
    /// Pieces of text.
    Tokenizer(&'a Tokenizer),
    /// Some ids of a draft's target.
    Draft(&'a DraftVocabulary),
}

/// A Hugging Face folder with the vocabulary's files.
pub(crate) fn to_hf_folder(
    cpu: &cpu::Cpu,
    source: &Path,
    encoding: Encoding,
    out: &Path,
    vocabulary: Vocabulary<'_>,
) -> Result<Report> {
    let mut failed = None;
    let report = export::to_hf_folder(cpu, source, encoding, out, &mut |folder| {
        failed = match vocabulary {
            Vocabulary::Tokenizer(tokenizer) => tokenizer.save(folder).err().map(Into::into),
            Vocabulary::Draft(own) => draft_vocabulary::save(own, folder).err(),
        };
        Ok::<(), FileError>(())
    })?;
    failed.map_or(Ok(report), |error: anyhow::Error| Err(error).context("the tokenizer's files could not be written"))
}

/// A GGUF file with the vocabulary in it.
pub(crate) fn to_gguf(
    cpu: &cpu::Cpu,
    source: &Path,
    encoding: Encoding,
    out: &Path,
    vocabulary: Vocabulary<'_>,
) -> Result<Report> {
    let entries = match vocabulary {
        Vocabulary::Tokenizer(tokenizer) => tokenizer.gguf_entries()?,
        Vocabulary::Draft(own) => draft_vocabulary::gguf_entries(own),
    };
    Ok(export::to_gguf(cpu, source, encoding, out, &entries)?)
}
