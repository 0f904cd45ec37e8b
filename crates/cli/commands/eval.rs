//! `slm eval`: benchmarks, item for item as lm-evaluation-harness has them.

use crate::inputs::{self, Dtype};
use crate::machine::MachineArguments;
use crate::progress::EvalProgress;
use crate::{output, signals};
use anyhow::{Context, Result, bail};
use backend::Backend;
use clap::{Args, ValueEnum};
use eval::{
    Answers, BosMode, Catalog, Encoder, Facts, Limits, Measured, Options, Overrides, Sandbox, Status, TaskRequests,
    TaskResults, Verdict, Writer,
};
use formats::file;
use infer::{ContinuationScorer, Session};
use model::Model;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokenizer::Tokenizer;

/// Tokens that a scorer must be able to read for what tells models apart.
const FINGERPRINT: usize = 24;

/// Benchmarks, item for item as lm-evaluation-harness scores them
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm eval --model runs/tiny --tasks sciq,piqa,arc_easy --data eval-data --out results/tiny
  slm eval --model model.gguf --tasks hellaswag --limit 100 --data eval-data --out results/quick
  slm eval --model coder.gguf --tasks humaneval --samples 20 --temperature 0.8 --data eval-data --out results/coder
  slm eval --model chat.gguf --tasks humaneval_instruct --chat --data eval-data --out results/chat
  slm eval --model model.gguf --tasks mine --task-file mine.yaml --data eval-data --out results/mine

The data folder holds PATH/SPLIT.jsonl (or .jsonl.gz, .jsonl.zst), PATH being a task's `dataset_path`.
A run that was stopped goes on with the same command. Compare results with `slm compare`.")]
pub(crate) struct Arguments {
    /// A run folder, Hugging Face folder, GGUF file or llama2.c file
    #[arg(long)]
    model: PathBuf,
    /// Names of tasks, groups or tags, with commas between them
    #[arg(long, value_name = "A,B", value_delimiter = ',', required = true)]
    tasks: Vec<String>,
    /// The folder with the tasks' documents
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where results.json and samples go; finished requests are kept there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only the first N documents of each task
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// N examples before each document [default: what the task says]
    #[arg(long, value_name = "N")]
    fewshot: Option<usize>,
    /// Whether texts begin with the beginning-of-text token
    #[arg(long, value_enum, default_value_t = Bos::Auto)]
    bos: Bos,
    /// Ask as a user would, by the model's chat template; examples become questions and answers of the chat
    #[arg(long)]
    chat: bool,
    /// More tasks: a YAML file as lm-evaluation-harness has them, or a folder of such files
    #[arg(long, value_name = "PATH")]
    task_file: Vec<PathBuf>,
    /// Texts of each document, for tasks that generate; more than 1 needs a --temperature
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    samples: Option<u64>,
    /// How random generated texts are; 0 is not at all [default: what the task says]
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Choose among the likeliest tokens that together have this probability [default: what the task says]
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Most tokens of a generated text [default: what the task says]
    #[arg(long, value_name = "N")]
    max_gen_toks: Option<usize>,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Whether a space that a text begins with is kept: tokenizers that mark word beginnings drop it
    #[arg(long, value_enum, default_value_t = LeadingSpace::Harness)]
    leading_space: LeadingSpace,
    /// Run programs that the model wrote even where the system offers no sandbox
    #[arg(long)]
    allow_unsafe_execution: bool,
    /// Use this tokenizer instead of the model's own
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// How products are computed
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    dtype: Dtype,
    /// Print one JSON object: the content of results.json
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

/// Whether texts begin with the beginning-of-text token.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bos {
    /// As the tokenizer says: the harness from 0.4.9.2 on
    Auto,
    /// Yes
    Always,
    /// No: the harness before 0.4.9.2
    Never,
}

/// What becomes of a space that a text begins with.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LeadingSpace {
    /// As in the harness, which decodes a text alone: Llama's tokenizer then drops it, and indented programs fail
    Harness,
    /// It stays
    Keep,
}

impl From<Bos> for BosMode {
    fn from(bos: Bos) -> Self {
        match bos {
            Bos::Auto => Self::Auto,
            Bos::Always => Self::Always,
            Bos::Never => Self::Never,
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let started = Instant::now();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut catalog = Catalog::builtin()?;
    for path in &arguments.task_file {
        catalog.add_path(path)?;
    }
    let selection = catalog.select(&arguments.tasks)?;
    let runs_programs = selection.tasks.iter().any(|task| task.runs_programs);
    let sandbox = runs_programs.then(|| sandbox(arguments.allow_unsafe_execution)).transpose()?;
    let tokenizer = inputs::load_tokenizer(&arguments.model, arguments.tokenizer.as_deref())?;
    if arguments.chat && tokenizer.chat_template().is_none() {
        bail!("{}: no chat template came with this model; leave out --chat", arguments.model.display());
    }
    let cpu = arguments.machine.open()?;
    let model = inputs::load_model(&cpu, &arguments.model, arguments.dtype)?;
    let mut encoder = Encoder::new(&tokenizer, arguments.bos.into(), model.config.context)?;
    let limit = arguments.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let generation = Overrides {
        samples: arguments.samples.map(|samples| usize::try_from(samples).unwrap_or(usize::MAX)),
        temperature: arguments.temperature,
        top_p: arguments.top_p,
        max_tokens: arguments.max_gen_toks,
        seed: arguments.seed,
        keeps_space: arguments.leading_space == LeadingSpace::Keep,
    };
    let options = Options { limit, shots: arguments.fewshot, chat: arguments.chat, generation };
    let mut tasks = Vec::with_capacity(selection.tasks.len());
    for task in &selection.tasks {
        tasks.push(TaskRequests::build(task, &arguments.data, options, &mut encoder)?);
    }
    note_truncated(&tasks);

    file::create_dir_all(&arguments.out)?;
    let _lock = file::lock_folder(&arguments.out)?;
    let dtype = format!("{:?}", model.precision).to_lowercase();
    let device = cpu.describe();
    let facts =
        [("model", arguments.model.display().to_string()), ("dtype", dtype.clone()), ("level", device.level.clone())];
    let mut answers = ask(&cpu, &model, &tokenizer, &tasks, &arguments, &facts)?;
    if let Some(sandbox) = &sandbox {
        answers.verdicts = judge(sandbox, &tasks, &answers)?;
    }
    let facts = Facts {
        model: arguments.model.display().to_string(),
        dtype,
        bos: arguments.bos.into(),
        chat_template: tokenizer.chat_template().filter(|_| arguments.chat).map(str::to_owned),
        device: format!("{} {}, {} threads", device.name, device.level, device.threads),
        limit,
        started: since_1970,
        seconds: started.elapsed().as_secs_f64(),
    };
    let table = eval::write_results(&arguments.out, &tasks, &answers, &selection.groups, &facts)?;
    print(&arguments, &table)
}

/// What runs programs.
fn sandbox(without_walls: bool) -> Result<Sandbox> {
    let own = std::env::current_exe().context("this program cannot find itself")?;
    let sandbox = Sandbox::new(eval::again(&own, "sandbox"), Limits::default(), without_walls)?;
    if !sandbox.has_walls() {
        output::note("  programs that the model writes are run without a sandbox, as you allowed");
    }
    Ok(sandbox)
}

/// Runs the programs that the model wrote.
fn judge(sandbox: &Sandbox, tasks: &[TaskRequests], answers: &Answers) -> Result<Vec<Vec<Verdict>>> {
    let stop = signals::stop_flag()?;
    let progress = Mutex::new(EvalProgress::new());
    let mut verdicts = Vec::with_capacity(tasks.len());
    for (index, task) in tasks.iter().enumerate() {
        let programs = eval::programs(task, answers.texts.get(index).map_or(&[], Vec::as_slice))?;
        let of = programs.len();
        let show = |done: usize| {
            if let Ok(mut progress) = progress.lock() {
                progress.update(Status { requests: done, of, rows: done, of_rows: of, unit: "programs" });
            }
            !stop.load(Ordering::Relaxed)
        };
        verdicts.push(sandbox.judge(&programs, &show)?);
    }
    if let Ok(progress) = progress.lock() {
        progress.finish();
    }
    Ok(verdicts)
}

/// Has the model score and write.
fn ask(
    b: &dyn Backend,
    model: &Model,
    tokenizer: &Tokenizer,
    tasks: &[TaskRequests],
    arguments: &Arguments,
    facts: &[(&str, String)],
) -> Result<Answers> {
    let stop = signals::stop_flag()?;
    let mut progress = EvalProgress::new();
    let mut show = |status| {
        progress.update(status);
        !stop.load(Ordering::Relaxed)
    };
    let longest = tasks.iter().flat_map(|task| &task.requests).map(|request| request.ids.len() - 1).max();
    let scorer = ContinuationScorer::new(b, model, longest.unwrap_or(0).max(FINGERPRINT.min(model.config.context)))?;
    let mut finished = eval::finished(&arguments.out, &scorer, facts)?;
    let mut answers = Answers { scores: eval::score(&scorer, tasks, &mut finished, &mut show)?, ..Answers::default() };
    drop(scorer);
    let longest = eval::longest_text(tasks);
    if longest > 0 {
        let session = Session::with_cache(b, model, longest, inputs::kv_type(None, model.precision))?;
        let mut writer = Writer::new(session, tokenizer, model.config.eos.clone());
        answers.texts = eval::write(&mut writer, tasks, &mut finished, &mut show)?;
    }
    progress.finish();
    Ok(answers)
}

fn note_truncated(tasks: &[TaskRequests]) {
    for task in tasks.iter().filter(|task| task.truncated > 0) {
        output::note(format!(
            "  {}: {} of {} contexts are longer than the model's and were cut from the left",
            task.task.name,
            task.truncated,
            task.requests.len() + task.prompts.len()
        ));
    }
}

fn print(arguments: &Arguments, table: &[TaskResults]) -> Result<()> {
    let path = arguments.out.join("results.json");
    if arguments.json {
        let results: serde_json::Value = serde_json::from_str(&file::read_to_string(&path)?)?;
        return output::json(&results);
    }
    let name_width = table.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in table {
        for Measured { metric, filter, value, stderr } in &row.metrics {
            let shots = row.shots.map_or("-".into(), |shots| shots.to_string());
            let stderr = stderr.map_or(String::new(), |stderr| format!(" ± {stderr:.4}"));
            let filter = if filter == "none" { String::new() } else { format!("  ({filter})") };
            output::line(format!(
                "{:name_width$}  {shots:>2}-shot  {:>6} documents  {metric:>15}  {value:.4}{stderr}{filter}",
                row.name, row.documents
            ))?;
        }
    }
    output::note(format!("  results and samples are in {}", arguments.out.display()));
    Ok(())
}
