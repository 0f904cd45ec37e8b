//! `slm decontaminate`: training text that holds what benchmarks ask.

use crate::machine::MachineArguments;
use crate::progress::PrepareProgress;
use crate::{output, preparation, signals};
use anyhow::Result;
use clap::Args;
use data::{Reason, Scan, ScanOptions, TaskScan};
use recipe::{Data, Decontaminate, InvalidUtf8, Nul, Recipe, Source};
use std::path::PathBuf;

/// Find training documents that share runs of words with the items of benchmarks
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm decontaminate 'text/**/*.jsonl.zst' --tasks hellaswag,mmlu,gsm8k --data eval-data
  slm decontaminate corpus.parquet --text content --tasks humaneval,mbpp --data eval-data --remove --output clean.jsonl.zst
  slm decontaminate --recipe recipes/amd-135m.toml --tasks arc_easy --data eval-data --json

Words are compared in lower case and without punctuation; 13 of them in a row that an item and a document share are a
find. To leave such documents out of training, put into the recipe:
  [data.decontaminate]
  tasks = [\"hellaswag\", \"mmlu\"]
  dir = \"eval-data\"")]
pub(crate) struct Arguments {
    /// Patterns of files: text, JSON Lines (.gz, .zst), parquet
    #[arg(value_name = "GLOB", required_unless_present = "recipe")]
    files: Vec<String>,
    /// Look at the sources of a recipe instead
    #[arg(long, conflicts_with = "files")]
    recipe: Option<PathBuf>,
    /// Column or key that holds the text
    #[arg(long, value_name = "KEY", default_value = "text")]
    text: String,
    /// Names of tasks, groups or tags of `slm eval`, with commas between them
    #[arg(long, value_name = "A,B", value_delimiter = ',', required = true)]
    tasks: Vec<String>,
    /// The folder with the tasks' documents
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// More tasks: a YAML file as lm-evaluation-harness has them, or a folder of such files
    #[arg(long, value_name = "PATH")]
    task_file: Vec<PathBuf>,
    /// Words in a run
    #[arg(long, value_name = "N", default_value_t = 13, value_parser = clap::value_parser!(u16).range(2..=100))]
    ngram: u16,
    /// Write the documents that share no run
    #[arg(long, requires = "output")]
    remove: bool,
    /// Where they go: JSON Lines, packed if it ends in .gz or .zst
    #[arg(long, value_name = "FILE", requires = "remove")]
    output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArguments,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let data = match &arguments.recipe {
        Some(recipe) => Recipe::load(recipe, &[])?.data,
        None => {
            let source = Source {
                name: "text".into(),
                files: arguments.files.clone(),
                text: arguments.text.clone(),
                ..Source::default()
            };
            // Nothing but what holds an item is to be missing from the output.
            Data { sources: vec![source], nul: Nul::Keep, invalid_utf8: InvalidUtf8::Replace, ..Data::default() }
        }
    };
    let wanted = Decontaminate {
        tasks: arguments.tasks.clone(),
        dir: arguments.data.clone(),
        ngram: usize::from(arguments.ngram),
    };
    let index = preparation::contamination(&wanted, &arguments.task_file)?;
    let stop = signals::stop_flag()?;
    let progress = PrepareProgress::new(&stop);
    let options = ScanOptions {
        threads: arguments.machine.threads(),
        corpus: Some(preparation::corpus_place()),
        progress: &progress,
    };
    let scan = match &arguments.output {
        Some(path) => data::scan_into(path, &data, &index, &options),
        None => data::scan(&data, &index, &options),
    };
    progress.finish();
    print(&scan?, arguments.ngram, arguments.json)
}

fn print(scan: &Scan, ngram: u16, json: bool) -> Result<()> {
    let account = &scan.account;
    let found = account.dropped.get(&Reason::Contaminated).copied().unwrap_or_default();
    if json {
        let task = |task: &TaskScan| {
            serde_json::json!({"task": task.name, "items": task.items, "short_items": task.short_items,
                "found_items": task.found_items, "documents": task.documents, "places": task.places})
        };
        return output::json(&serde_json::json!({
            "ngram": ngram,
            "tasks": scan.tasks.iter().map(task).collect::<Vec<_>>(),
            "account": account,
        }));
    }
    for task in &scan.tasks {
        let place = task.places.first().map_or(String::new(), |place| format!(", first {place}"));
        let short = match task.short_items {
            0 => String::new(),
            short => format!(" ({short} of them too short to be found)"),
        };
        output::line(format!(
            "{}: {} of {} items{short} share {ngram} words with {} documents{place}",
            task.name, task.found_items, task.items, task.documents
        ))?;
    }
    let unread = account.dropped_in_all().documents - found.documents;
    output::line(format!(
        "{} documents read = {} without + {} with shared words ({} bytes) + {unread} without text",
        account.read.documents, account.train.documents, found.documents, found.bytes
    ))
}
