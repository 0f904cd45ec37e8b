//! `slm bench speculative`: the target alone and with drafts, on the same prompts.

use super::every_width::every_width;
use super::page;
use super::prompts::{self, Asked, Check};
use crate::inputs::{self, CacheType, Dtype};
use crate::machine::MachineArguments;
use crate::speculation::{self, Cast, Draft, DraftLength, Speculate, SpeculationArguments};
use crate::{output, signals};
use anyhow::{Result, bail};
use backend::Backend;
use bench::{Passed, PromptResult, Run, SpeculativePrompt, Summary};
use clap::{Args, ValueEnum};
use cpu::Cpu;
use eval::{Limits, Sandbox, Verdict};
use formats::file;
use infer::{Chain, Costs, Drafter, GenerateOptions, MAX_DRAFT_LENGTH, SamplingOptions, Session};
use model::Model;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use tokenizer::Tokenizer;

/// Text with and without drafts: speed, acceptance, widths, whether the texts are the same, and what theory allows
#[derive(Args)]
#[command(after_help = "\
Protocols:
  amd    HumanEval as AMD measured it: one solved example before each prompt, 512 tokens whatever comes,
         --draft-length amd (at most 16, where theirs has no end), only the draft proposes (unless
         --speculate says otherwise); --sample takes their temperature 0.1, top-k 10, top-p 0.95 (greedy otherwise)
  stop   the same prompts, each ended where the function ends; --draft-length auto
  tasks  questions of Spec-Bench's layout, first turns, by category

Examples:
  slm bench speculative --model target.gguf --draft draft.gguf --protocol amd --data humaneval.jsonl.gz
  slm bench speculative --model target.gguf --draft draft.gguf --protocol tasks --data spec_bench.jsonl \\
    --limit 40 --out results/pair
  slm bench speculative --model target.gguf --draft draft.gguf --data humaneval.jsonl.gz --every-width")]
pub(super) struct Arguments {
    /// A run folder, Hugging Face folder, GGUF file or llama2.c file
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    pub(super) speculation: SpeculationArguments,
    /// What is asked, and when a text ends
    #[arg(long, value_enum, default_value_t = Protocol::Stop)]
    protocol: Protocol,
    /// Prompts, one JSON object a line, plain or .gz: HumanEval's `task_id` and `prompt`, or Spec-Bench's `turns`
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Text to put before each HumanEval prompt instead of our own example
    #[arg(long, value_name = "FILE")]
    prefix: Option<PathBuf>,
    /// Ask the questions of `tasks` as a user would, by the model's chat template
    #[arg(long)]
    chat: bool,
    /// Only so many prompts, spread over the file
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    /// Most tokens of a text [default: 512 with amd and stop, 256 with tasks, 128 with --every-width]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Draw tokens as AMD did: temperature 0.1, top-k 10, top-p 0.95
    #[arg(long)]
    sample: bool,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value_t = 42)]
    seed: u64,
    /// Instead: greedy texts at every width from 1 to 16 with every kind of drafter, and the bytes that differ
    #[arg(long, conflicts_with = "sample")]
    every_width: bool,
    /// Also write results.json, report.md and report.html into this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// How products are computed
    #[arg(long, value_enum, default_value_t = Dtype::Auto)]
    dtype: Dtype,
    /// How keys and values are kept [default: f32 with --dtype f32, bf16 otherwise]
    #[arg(long, value_name = "TYPE", value_enum)]
    cache_type: Option<CacheType>,
    /// Print the summary as one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

/// Which prompts, and when a text ends.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// AMD's: HumanEval, 512 tokens.
    Amd,
    /// HumanEval, to the end of the function.
    Stop,
    /// Questions by category.
    Tasks,
}

/// What is there before the first text.
pub(super) struct Stage<'m> {
    pub(super) cast: Cast<'m>,
    pub(super) tokenizer: &'m Tokenizer,
    pub(super) prompts: Vec<SpeculativePrompt>,
    /// For each prompt.
    checks: Vec<Option<Check>>,
    pub(super) capacity: usize,
    pub(super) options: GenerateOptions,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let cpu = arguments.machine.open()?;
    let target = inputs::load_model(&cpu, &arguments.model, arguments.dtype)?;
    let tokenizer = inputs::load_tokenizer(&arguments.model, None)?;
    let draft = arguments.speculation.load_draft(&cpu, arguments.dtype, &target, Some(&tokenizer))?;
    let stage = stage(arguments, &cpu, &target, draft.as_ref(), &tokenizer)?;
    if arguments.every_width { every_width(arguments, &stage) } else { compare(arguments, &stage) }
}

fn stage<'m>(
    arguments: &'m Arguments,
    cpu: &'m Cpu,
    target: &'m Model,
    draft: Option<&'m Draft<'m>>,
    tokenizer: &'m Tokenizer,
) -> Result<Stage<'m>> {
    let most = arguments.max_tokens.unwrap_or(match arguments.protocol {
        _ if arguments.every_width => 128,
        Protocol::Amd | Protocol::Stop => 512,
        Protocol::Tasks => 256,
    });
    if arguments.chat && arguments.protocol != Protocol::Tasks {
        bail!("--chat is for --protocol tasks; amd and stop continue a program");
    }
    let Arguments { data, prefix, chat, limit, .. } = arguments;
    let mut prompts = prompts::read(data, prefix.as_deref(), tokenizer, *chat, *limit)?;
    let context = target.config.context;
    let fits = |asked: &Asked| asked.prompt.ids.len() + most <= context;
    let too_long = prompts.iter().filter(|asked| !fits(asked)).count();
    prompts.retain(fits);
    if too_long > 0 {
        output::note(format!(
            "note: {too_long} prompts are left out: with {most} tokens they exceed the context of {context}"
        ));
    }
    let Some(longest) = prompts.iter().map(|asked| asked.prompt.ids.len()).max() else {
        bail!("no prompt leaves room for {most} tokens in a context of {context}; ask for fewer with --max-tokens");
    };
    let sampling = SamplingOptions { seed: arguments.seed, ..SamplingOptions::default() };
    let sampling = match arguments.sample {
        true => SamplingOptions { temperature: 0.1, top_k: 10, top_p: 0.95, ..sampling },
        false => sampling,
    };
    let options =
        GenerateOptions { max_tokens: most, stop: target.config.eos.clone(), sampling, draft_length: MAX_DRAFT_LENGTH };
    let cast = Cast { cpu, path: &arguments.model, target, draft, cache_type: arguments.cache_type };
    let (prompts, checks) = prompts.into_iter().map(|Asked { prompt, check }| (prompt, check)).unzip();
    Ok(Stage { cast, tokenizer, prompts, checks, capacity: longest + most, options })
}

impl Stage<'_> {
    pub(super) fn session(&self) -> Result<Session<'_>> {
        let Cast { cpu, target, cache_type, .. } = self.cast;
        Ok(Session::with_cache(cpu, target, self.capacity, inputs::kv_type(cache_type, target.precision))?)
    }

    fn facts(&self, arguments: &Arguments, how: &SpeculationArguments) -> Vec<(String, String)> {
        let machine = self.cast.cpu.describe();
        let name = |path: &std::path::Path| {
            path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
        };
        let fact = |what: &str, value: String| (what.to_owned(), value);
        vec![
            fact("target", name(&arguments.model)),
            fact("draft", self.cast.draft.map_or_else(|| "none".into(), |draft| name(&draft.path))),
            fact("drafters", drafters(how)),
            fact(
                "text",
                format!(
                    "{}, at most {} tokens",
                    if arguments.sample { "sampled" } else { "greedy" },
                    self.options.max_tokens
                ),
            ),
            fact("machine", format!("level {}, {} threads", machine.level, machine.threads)),
            fact("release", env!("CARGO_PKG_VERSION").into()),
        ]
    }
}

/// Who proposes, and how much.
fn drafters(how: &SpeculationArguments) -> String {
    let who: Vec<String> = how.speculate.iter().map(|who| format!("{who:?}")).collect();
    format!("{}, width {:?}", who.join(", "), how.draft_length).to_lowercase()
}

/// The drafters that the protocol asks for, where the user has not said otherwise.
fn how(arguments: &Arguments) -> SpeculationArguments {
    let mut how = arguments.speculation.clone();
    let has_draft = how.draft.is_some();
    if how.speculate.is_empty() {
        let verbatim = arguments.protocol == Protocol::Amd && has_draft;
        if verbatim && how.draft_length == DraftLength::Auto {
            how.draft_length = DraftLength::Amd;
        }
        how.speculate = vec![if verbatim { Speculate::Draft } else { Speculate::Auto }];
    }
    how
}

fn compare(arguments: &Arguments, stage: &Stage<'_>) -> Result<()> {
    let how = how(arguments);
    let Some((mut chain, _)) = how.chain(&stage.cast, stage.capacity)? else {
        bail!("nobody proposes; name a draft with --draft, or --speculate suffix");
    };
    let costs = speculation::costs(&stage.cast, stage.cast.draft.is_some())?;
    let options = GenerateOptions { draft_length: how.most(), ..stage.options.clone() };
    let mut session = stage.session()?;
    let stop = signals::stop_flag()?;
    warm_up(stage, &mut session, &mut chain, &options)?;
    let mut results = Vec::new();
    for (index, prompt) in stage.prompts.iter().enumerate() {
        let stops = arguments.protocol == Protocol::Stop;
        let mut ended = |ids: &[u32]| {
            stop.load(Ordering::Relaxed)
                || (stops && prompts::function_ended(&stage.tokenizer.decode_continuation(ids)))
        };
        let result = bench::compare_texts(&mut session, &mut chain, prompt, &options, index % 2 == 1, &mut ended)?;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        output::note(format!(
            "{} of {}: {} tokens, {:.1} tokens/s alone, {:.1} with drafts{}",
            index + 1,
            stage.prompts.len(),
            result.plain.ids.len(),
            result.plain.decode_rate(),
            result.speculative.decode_rate(),
            if result.same || arguments.sample { "" } else { ", OTHER TEXT" }
        ));
        results.push(result);
    }
    if results.is_empty() {
        bail!("interrupted before the first prompt was done");
    }
    if let Some(fault) = chain.fault() {
        output::note(format!("note: the draft was set aside: {fault}"));
    }
    finish(arguments, stage, &how, &results, &costs)
}

/// A few tokens that are not counted: pages are touched and the weights are in memory afterwards.
fn warm_up(
    stage: &Stage<'_>,
    session: &mut Session<'_>,
    chain: &mut Chain<'_>,
    options: &GenerateOptions,
) -> Result<()> {
    let options = GenerateOptions { max_tokens: 8, ..options.clone() };
    bench::compare_texts(session, chain, &stage.prompts[0], &options, false, &mut |_| false)?;
    Ok(())
}

/// `results.json`.
#[derive(Serialize)]
struct Results<'a> {
    facts: &'a [(String, String)],
    costs: &'a Costs,
    summary: Summary,
    prompts: Vec<PromptLine<'a>>,
}

#[derive(Serialize)]
struct PromptLine<'a> {
    #[serde(flatten)]
    result: &'a PromptResult,
    completion: String,
}

fn finish(
    arguments: &Arguments,
    stage: &Stage<'_>,
    how: &SpeculationArguments,
    results: &[PromptResult],
    costs: &Costs,
) -> Result<()> {
    let mut facts = stage.facts(arguments, how);
    let passed = passed(arguments, stage, results)?;
    facts.extend(passed.map(|passed| ("pass@1".to_owned(), passed.to_string())));
    let title = format!(
        "Speculative decoding, protocol {}",
        match arguments.protocol {
            Protocol::Amd => "amd",
            Protocol::Stop => "stop",
            Protocol::Tasks => "tasks",
        }
    );
    let markdown = bench::markdown(&title, &facts, results, Some(costs));
    let summary = Summary { passed, ..Summary::of(results, Some(costs)) };
    if let Some(folder) = &arguments.out {
        file::create_dir_all(folder)?;
        let line = |result| PromptLine {
            completion: stage.tokenizer.decode_continuation(PromptResult::completion(result)),
            result,
        };
        let all =
            Results { facts: &facts, costs, summary: summary.clone(), prompts: results.iter().map(line).collect() };
        file::write_bytes(&folder.join("results.json"), &serde_json::to_vec_pretty(&all)?)?;
        file::write_bytes(&folder.join("report.md"), markdown.as_bytes())?;
        let html = page::html(&title, &markdown, results, Some(costs))?;
        file::write_bytes(&folder.join("report.html"), html.as_bytes())?;
    }
    if arguments.json { output::json(&summary) } else { output::line(markdown.trim_end()) }
}

/// How many answers of each kind are right, where the prompts come with tests and programs can be run in a sandbox.
fn passed(arguments: &Arguments, stage: &Stage<'_>, results: &[PromptResult]) -> Result<Option<Passed>> {
    let checks: Vec<&Check> = stage.checks.iter().take(results.len()).flatten().collect();
    if arguments.protocol == Protocol::Tasks || checks.len() < results.len() {
        return Ok(None);
    }
    let own = std::env::current_exe()?;
    let sandbox = match Sandbox::new(eval::again(&own, "sandbox"), Limits::default(), false) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            output::note(format!("note: answers are not run: {error}"));
            return Ok(None);
        }
    };
    let kept = |ids: &[u32]| {
        let text = stage.tokenizer.decode_continuation(ids);
        if arguments.protocol == Protocol::Amd {
            prompts::first_paragraph(&text)
        } else {
            prompts::body(&text).to_owned()
        }
    };
    let right = |run: fn(&PromptResult) -> &Run| -> Result<usize> {
        let programs: Vec<String> =
            checks.iter().zip(results).map(|(check, result)| check.program(&kept(&run(result).ids))).collect();
        let verdicts = sandbox.judge(&programs, &|_| true)?;
        Ok(verdicts.iter().filter(|verdict| **verdict == Verdict::Passed).count())
    };
    let (plain, speculative) = (right(|result| &result.plain)?, right(|result| &result.speculative)?);
    Ok(Some(Passed { plain, speculative, answers: results.len() }))
}
