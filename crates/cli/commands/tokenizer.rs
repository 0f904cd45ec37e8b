//! `slm tokenizer`: train one, look at one, text to ids and back.

use crate::{inputs, output};
use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use formats::file;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use tokenizer::{Kind, Tokenizer, TrainOptions};

/// Train a tokenizer, or use one: text to ids and back
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Train a byte-pair encoding on text files
    #[command(after_help = "Example:\n  slm tokenizer train --vocab 8192 --out tokenizer/ books/*.txt")]
    Train(Train),
    /// Text to token ids
    #[command(after_help = "\
Examples:
  echo \"Hello there\" | slm tokenizer encode --tokenizer tokenizer.model
  slm tokenizer encode --tokenizer runs/tiny --jsonl < texts.jsonl     {\"text\": …} → {\"ids\": […]}")]
    Encode(Use),
    /// Token ids to text
    #[command(after_help = "\
Examples:
  echo \"[15043, 727]\" | slm tokenizer decode --tokenizer tokenizer.model
  slm tokenizer decode --tokenizer runs/tiny --jsonl < ids.jsonl       {\"ids\": […]} → {\"text\": …}")]
    Decode(Use),
    /// What a tokenizer is: size, special tokens, hash
    #[command(after_help = "Example:\n  slm tokenizer show --tokenizer runs/tiny")]
    Show(Show),
}

#[derive(Args)]
struct Train {
    /// Number of tokens
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(300..=1_000_000))]
    vocab: u32,
    /// Kind of byte-pair encoding
    #[arg(long, value_enum, default_value_t = KindArgument::ByteLevel)]
    kind: KindArgument,
    /// Memory that training may use, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u64,
    /// Folder that receives the tokenizer
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Text files, one document each
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Kinds of byte-pair encoding.
#[derive(Clone, Copy, ValueEnum)]
enum KindArgument {
    /// Bytes, cut into words by GPT-2's rule.
    ByteLevel,
    /// Characters with `▁` for the space, bytes for what is rare (Llama 2's kind).
    Sentencepiece,
}

#[derive(Args)]
struct Use {
    /// `tokenizer.json`, `tokenizer.model`, a GGUF file, or a folder with one of the first two
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// One JSON object a line in and out
    #[arg(long)]
    jsonl: bool,
    /// Spellings of special tokens become their ids, and what the tokenizer puts around a text is put around it
    #[arg(long)]
    add_special: bool,
    /// Read this file instead of standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Args)]
struct Show {
    /// `tokenizer.json`, `tokenizer.model`, a GGUF file, or a folder with one of the first two
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match arguments.action {
        Action::Train(arguments) => train(&arguments),
        Action::Encode(arguments) => encode(&arguments),
        Action::Decode(arguments) => decode(&arguments),
        Action::Show(arguments) => show(&arguments),
    }
}

fn load(path: &Path) -> Result<Tokenizer> {
    inputs::load_tokenizer(path, None)
}

fn train(arguments: &Train) -> Result<()> {
    if file::exists(&arguments.out.join("tokenizer.json")) {
        anyhow::bail!("{}: there is a tokenizer in this folder already; give another --out", arguments.out.display());
    }
    let kind = match arguments.kind {
        KindArgument::ByteLevel => Kind::ByteLevel,
        KindArgument::Sentencepiece => Kind::SentencePieceStyle,
    };
    let options =
        TrainOptions { memory_bytes: arguments.memory << 20, ..TrainOptions::new(kind, arguments.vocab as usize) };
    // Read one at a time: the text never lies in memory as a whole. The first error ends the documents and is told.
    let mut failed = None;
    let mut documents = arguments.files.iter().map_while(|path| match file::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let trained = tokenizer::train(&options, &mut documents, &|_| {});
    drop(documents);
    if let Some(error) = failed {
        return Err(error.into());
    }
    let trained = trained?;
    file::create_dir_all(&arguments.out)?;
    trained.save(&arguments.out)?;
    output::note(format!("{}: {} tokens, hash {}", arguments.out.display(), trained.vocab_size(), trained.hash()));
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Text {
    text: String,
}

#[derive(Serialize, Deserialize)]
struct Ids {
    ids: Vec<u32>,
}

/// Every line of the input, or all of it as one, through `convert`.
fn convert(arguments: &Use, convert: impl Fn(&str, usize) -> Result<String>) -> Result<()> {
    let name = arguments.file.as_ref().map_or("standard input".into(), |path| path.display().to_string());
    let mut input: Box<dyn BufRead> = match &arguments.file {
        Some(path) => Box::new(std::io::BufReader::new(file::open_read(path)?)),
        None => Box::new(std::io::stdin().lock()),
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if arguments.jsonl {
        for (index, line) in input.lines().enumerate() {
            let line = line.with_context(|| format!("{name}: line {}: not UTF-8", index + 1))?;
            if !line.trim().is_empty() {
                let converted = convert(&line, index + 1).with_context(|| format!("{name}: line {}", index + 1))?;
                writeln!(out, "{converted}")?;
            }
        }
    } else {
        let mut text = String::new();
        input.read_to_string(&mut text).with_context(|| format!("{name}: not UTF-8 text"))?;
        writeln!(out, "{}", convert(&text, 1).with_context(|| name)?)?;
    }
    Ok(out.flush()?)
}

fn encode(arguments: &Use) -> Result<()> {
    let tokenizer = load(&arguments.tokenizer)?;
    let ids = |text: &str| {
        if !arguments.add_special {
            return tokenizer.encode(text);
        }
        let mut ids = tokenizer.encode_with_specials(text);
        if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.adds_bos()) {
            ids.insert(0, bos);
        }
        ids.extend(tokenizer.eos().filter(|_| tokenizer.adds_eos()));
        ids
    };
    convert(arguments, |line, _| {
        if !arguments.jsonl {
            return Ok(serde_json::to_string(&ids(line))?);
        }
        let text: Text = serde_json::from_str(line).context("not a JSON object with a \"text\"")?;
        Ok(serde_json::to_string(&Ids { ids: ids(&text.text) })?)
    })
}

fn decode(arguments: &Use) -> Result<()> {
    let tokenizer = load(&arguments.tokenizer)?;
    let text = |ids: &[u32]| -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= tokenizer.vocab_size()) {
            anyhow::bail!("id {id} is outside the vocabulary of {} tokens", tokenizer.vocab_size());
        }
        Ok(tokenizer.decode(ids))
    };
    convert(arguments, |line, _| {
        if !arguments.jsonl {
            let ids: Vec<u32> =
                serde_json::from_str(line).context("not a JSON array of token ids such as [1, 15043]")?;
            return text(&ids);
        }
        let ids: Ids = serde_json::from_str(line).context("not a JSON object with \"ids\"")?;
        Ok(serde_json::to_string(&Text { text: text(&ids.ids)? })?)
    })
}

#[derive(Serialize)]
struct Shown<'a> {
    tokens: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    hash: &'a str,
}

fn show(arguments: &Show) -> Result<()> {
    let tokenizer = load(&arguments.tokenizer)?;
    let shown = Shown {
        tokens: tokenizer.vocab_size(),
        bos: tokenizer.bos(),
        eos: tokenizer.eos(),
        unknown: tokenizer.unknown(),
        hash: tokenizer.hash(),
    };
    if arguments.json {
        return output::json(&shown);
    }
    let name = |id: Option<u32>| match id {
        Some(id) => format!("{id} ({})", tokenizer.token_text(id).unwrap_or("?")),
        None => "none".into(),
    };
    output::line(format!("tokens   {}", shown.tokens))?;
    output::line(format!("begin    {}", name(shown.bos)))?;
    output::line(format!("end      {}", name(shown.eos)))?;
    output::line(format!("unknown  {}", name(shown.unknown)))?;
    output::line(format!("hash     {}", shown.hash))
}
