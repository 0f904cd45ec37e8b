//! `slm compare`: results beside each other, with what of the differences is real.

use crate::output;
use anyhow::Result;
use clap::Args;
use eval::{Loaded, Report};
use formats::file;
use std::path::PathBuf;

/// Results of several models beside each other, with intervals, significance, and AMD's published numbers
#[derive(Args)]
#[command(after_help = "\
Examples:
  slm compare results/tiny results/laptop
  slm compare results/a results/b --metric acc_norm --html comparison.html

Reads the folders that `slm eval` wrote, and results of lm-evaluation-harness.
Significance is computed on the documents that two models share, where their samples are there.")]
pub(crate) struct Arguments {
    /// Folders with a results.json, or such files
    #[arg(required = true, value_name = "RESULT")]
    results: Vec<PathBuf>,
    /// The metric, for tasks that have it
    #[arg(long, default_value = "acc")]
    metric: String,
    /// Also write one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Leave out the published numbers
    #[arg(long)]
    no_published: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let models = arguments.results.iter().map(|path| Loaded::read(path)).collect::<Result<Vec<_>, _>>()?;
    let report = Report::new(models, &arguments.metric, !arguments.no_published)?;
    if let Some(path) = &arguments.html {
        file::write_bytes(path, report.html().as_bytes())?;
    }
    output::line(report.markdown().trim_end())
}
