//! `slm generate`: a prompt continued, with or without speculation.

use crate::inputs::{self, CacheType, Dtype};
use crate::machine::MachineArguments;
use crate::output;
use crate::signals;
use crate::speculation::{Cast, SpeculationArguments};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use formats::file;
use infer::{Costs, Drafter, GenerateOptions, Outcome, SamplingOptions, Session, StopReason, TokenEvent};
use model::Model;
use serde::Serialize;
use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use tokenizer::{Message, StreamDecoder, Tokenizer};

/// Continue a prompt, token by token
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm generate --model runs/tiny --prompt \"This crate\"
  slm generate --model target.gguf --draft draft/ --prompt \"def fib(n):\" --show-drafts
  slm generate --model target.gguf --speculate suffix --prompt-file edit.txt --max-tokens 500
  cat question.txt | slm generate --model runs/laptop --prompt - --max-tokens 200 --temperature 0.8 --top-p 0.95

Output is the same with and without a draft when --temperature is 0 (the default), and has the same
distribution otherwise. With --draft-length auto a sampled text also depends on the costs that were
measured for these models (kept in the user's cache folder); a number gives the same text anywhere.")]
pub(crate) struct Arguments {
    /// A run folder, Hugging Face folder, GGUF file or llama2.c file
    #[arg(long)]
    model: PathBuf,
    /// The text to continue; `-` reads it from standard input
    #[arg(long, short, required_unless_present_any = ["prompt_file", "prompt_ids"])]
    prompt: Option<String>,
    /// A file with the text to continue
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// A file with one JSON array of token ids to continue
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "prompt_file"])]
    prompt_ids: Option<PathBuf>,
    #[command(flatten)]
    speculation: SpeculationArguments,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// 0 takes the most likely token; higher is more random
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Choose among the K most likely tokens; 0 is all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Choose among tokens at least this likely, relative to the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Above 1 makes tokens that have occurred less likely
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Ask the prompt as a user would, by the model's chat template
    #[arg(long, conflicts_with = "prompt_ids")]
    chat: bool,
    /// Whether the prompt begins with the beginning-of-sequence token; with --chat its template decides
    #[arg(long, value_enum, default_value_t = Bos::Auto)]
    bos: Bos,
    /// Go on past the end-of-sequence token
    #[arg(long)]
    ignore_eos: bool,
    /// Use this tokenizer instead of the model's own
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// How products are computed
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    dtype: Dtype,
    /// How keys and values are kept [default: f32 with --dtype f32, bf16 otherwise]
    #[arg(long, value_name = "TYPE", value_enum)]
    cache_type: Option<CacheType>,
    /// Colour what was drafted and accepted, and what the model wrote itself; a summary follows
    #[arg(long, conflicts_with = "json")]
    show_drafts: bool,
    /// Print one JSON object on the last line instead of the text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

/// Beginning-of-sequence token before the prompt.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bos {
    /// Where the tokenizer says so.
    Auto,
    /// Yes.
    Always,
    /// No.
    Never,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let cpu = arguments.machine.open()?;
    let target = inputs::load_model(&cpu, &arguments.model, arguments.dtype)?;
    let tokenizer = match &arguments.prompt_ids {
        Some(_) => inputs::load_tokenizer(&arguments.model, arguments.tokenizer.as_deref()).ok(),
        None => Some(inputs::load_tokenizer(&arguments.model, arguments.tokenizer.as_deref())?),
    };
    let draft = arguments.speculation.load_draft(&cpu, arguments.dtype, &target, tokenizer.as_ref())?;
    let prompt = prompt_ids(&arguments, tokenizer.as_ref())?;
    let capacity = (prompt.len() + arguments.max_tokens).clamp(1, target.config.context);
    let kv_type = inputs::kv_type(arguments.cache_type, target.precision);
    let mut session = Session::with_cache(&cpu, &target, capacity, kv_type)?;
    let cast = Cast {
        cpu: &cpu,
        path: &arguments.model,
        target: &target,
        draft: draft.as_ref(),
        cache_type: arguments.cache_type,
    };
    let (mut chain, costs) = arguments.speculation.chain(&cast, capacity)?.unzip();
    if let Some(draft) = draft.as_ref().filter(|draft| draft.model.config.context < capacity) {
        let context = draft.model.config.context;
        output::note(format!("note: the draft's context is {context}; it reads longer texts from a later place on"));
    }
    let options = options(&arguments, &target);
    let stop = signals::stop_flag()?;

    let mut printer = Printer {
        decoder: tokenizer.as_ref().map(Tokenizer::stream_continuation),
        text: String::new(),
        quiet: arguments.json,
        colours: arguments.show_drafts && output::may_colour(&std::io::stdout()),
        drafted: None,
    };
    let mut failed = None;
    let drafter = chain.as_mut().map(|chain| chain as &mut dyn Drafter);
    let outcome = infer::generate(&mut session, drafter, &prompt, &options, &mut |token| {
        if let Err(error) = printer.token(token) {
            failed = Some(error);
            return ControlFlow::Break(());
        }
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let text = printer.finish()?;
    if let Some(fault) = chain.as_ref().and_then(|chain| chain.fault()) {
        output::note(format!("note: the draft was set aside, the text is the target's own: {fault}"));
    }
    if arguments.json {
        output::json(&Generated::new(&outcome, text, costs.flatten().as_ref()))?;
    } else {
        report(&outcome, arguments.show_drafts);
    }
    if outcome.stop == StopReason::Cancelled {
        bail!("interrupted after {} tokens", outcome.ids.len());
    }
    Ok(())
}

fn prompt_ids(arguments: &Arguments, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    if let Some(path) = &arguments.prompt_ids {
        return inputs::read_ids(path);
    }
    let text = match (&arguments.prompt_file, arguments.prompt.as_deref()) {
        (Some(path), _) => file::read_to_string(path)?,
        (None, Some("-")) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input is not UTF-8 text")?;
            text
        }
        (None, prompt) => prompt.unwrap_or_default().to_owned(),
    };
    let Some(tokenizer) = tokenizer else { bail!("a prompt of text needs a tokenizer; name one with --tokenizer") };
    if arguments.chat {
        return Ok(tokenizer.encode_chat(&[Message::user(text)])?);
    }
    let mut ids = tokenizer.encode(&text);
    let wanted = match arguments.bos {
        Bos::Auto => tokenizer.adds_bos() || ids.is_empty(),
        Bos::Always => true,
        Bos::Never => false,
    };
    match tokenizer.bos().or(tokenizer.eos()) {
        Some(bos) if wanted => ids.insert(0, bos),
        None if arguments.bos == Bos::Always => {
            bail!("--bos always: this tokenizer has no beginning-of-sequence token")
        }
        _ => {}
    }
    Ok(ids)
}

fn options(arguments: &Arguments, target: &Model) -> GenerateOptions {
    GenerateOptions {
        max_tokens: arguments.max_tokens,
        stop: if arguments.ignore_eos { Vec::new() } else { target.config.eos.clone() },
        sampling: SamplingOptions {
            temperature: arguments.temperature,
            top_k: arguments.top_k,
            top_p: arguments.top_p,
            min_p: arguments.min_p,
            repetition_penalty: arguments.repetition_penalty,
            seed: arguments.seed,
        },
        draft_length: arguments.speculation.most(),
    }
}

/// Turns tokens into text as they come.
struct Printer<'t> {
    decoder: Option<StreamDecoder<'t>>,
    text: String,
    quiet: bool,
    /// Whether drafted tokens are told from the target's own.
    colours: bool,
    /// Whether the colour now is that of drafted tokens; none before the first.
    drafted: Option<bool>,
}

/// Drafted and accepted: green. The target's own: blue.
const DRAFTED: &str = "\x1b[32m";
const OWN: &str = "\x1b[34m";
const PLAIN: &str = "\x1b[0m";

impl Printer<'_> {
    fn token(&mut self, token: TokenEvent) -> Result<()> {
        if self.colours && self.drafted != Some(token.drafted) {
            self.drafted = Some(token.drafted);
            std::io::stdout().lock().write_all(if token.drafted { DRAFTED } else { OWN }.as_bytes())?;
        }
        let piece = match &mut self.decoder {
            Some(decoder) => decoder.push(token.id),
            None => format!("{} ", token.id),
        };
        self.show(&piece)
    }

    fn show(&mut self, piece: &str) -> Result<()> {
        self.text.push_str(piece);
        if !self.quiet {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(piece.as_bytes())?;
            stdout.flush()?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<String> {
        if let Some(decoder) = self.decoder.take() {
            let rest = decoder.finish();
            self.show(&rest)?;
        }
        if self.drafted.is_some() {
            std::io::stdout().lock().write_all(PLAIN.as_bytes())?;
        }
        if !self.quiet {
            writeln!(std::io::stdout().lock())?;
        }
        Ok(self.text)
    }
}

#[derive(Serialize)]
struct Generated<'a> {
    text: String,
    ids: &'a [u32],
    tokens_per_second: f64,
    first_token_seconds: f64,
    drafted: usize,
    accepted: usize,
    acceptance: f64,
    mean_accepted_length: f64,
    rounds: usize,
    /// Rounds by the number of tokens that were proposed, from 0.
    widths: &'a [usize],
    /// Share of the decoding time in neither model's passes.
    overhead: f64,
    stop: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// What the adaptive widths follow from.
    costs: Option<&'a Costs>,
}

impl<'a> Generated<'a> {
    fn new(outcome: &'a Outcome, text: String, costs: Option<&'a Costs>) -> Self {
        Self {
            text,
            ids: &outcome.ids,
            tokens_per_second: outcome.tokens_per_second,
            first_token_seconds: outcome.first_token_seconds,
            drafted: outcome.drafted,
            accepted: outcome.accepted,
            acceptance: outcome.acceptance,
            mean_accepted_length: outcome.mean_accepted_length,
            rounds: outcome.rounds,
            widths: &outcome.widths,
            overhead: outcome.overhead(),
            costs,
            stop: match outcome.stop {
                StopReason::StopToken(_) => "stop_token",
                StopReason::MaxTokens => "max_tokens",
                StopReason::Context => "context",
                StopReason::Cancelled => "cancelled",
            },
        }
    }
}

/// A line for the person in front of the terminal; nothing when only the text is wanted.
fn report(outcome: &Outcome, asked: bool) {
    if !asked && !std::io::stderr().is_terminal() {
        return;
    }
    let mut line = format!(
        "{} tokens, {:.1} tokens/s, first after {:.0} ms",
        outcome.ids.len(),
        outcome.tokens_per_second,
        1e3 * outcome.first_token_seconds
    );
    if outcome.drafted > 0 {
        line += &format!(
            "; {:.0} % of {} proposed tokens accepted, {:.2} tokens a round",
            100.0 * outcome.acceptance,
            outcome.drafted,
            outcome.mean_accepted_length
        );
    } else if asked {
        line += "; nothing was proposed";
    }
    if outcome.stop == StopReason::Context {
        line += "; the model's context is full";
    }
    output::note(line);
}
