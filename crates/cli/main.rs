//! `slm`: the command line. A command parses its arguments, calls a library, prints.
//!
//! Holds: one file per command in `commands/`, the quickstart that strings them together, terminal output.
//! Never: anything another program would want to call.
//! Start reading at [`Command`].

mod busy;
mod commands;
mod draft_vocabulary;
mod env;
mod inputs;
mod machine;
mod output;
mod preparation;
mod progress;
mod quickstart;
mod signals;
mod speculation;
mod training;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::panic::catch_unwind;
use std::process::ExitCode;

/// The whole life of a small language model: text, tokens, pretraining, finetuning, evaluation, speculative decoding.
#[derive(Parser)]
#[command(name = "slm", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Arguments {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  slm quickstart                                  watch a model being born, offline
  slm train recipes/tiny.toml --out runs/tiny     train from a recipe
  slm generate --model runs/tiny --prompt \"This crate\"

Environment:
  SLM_CPU=scalar|avx2|avx512|avx512bf16|amx   compute at this level instead of the best one
  SLM_LOG=debug                           more on stderr
  NO_COLOR=1                              no colours";

const FAULT: &str = "a fault of this program, not of yours: run the command again with SLM_LOG=debug to see where it is, \
and report it";

#[derive(Subcommand)]
enum Command {
    Quickstart(commands::quickstart::Arguments),
    Prepare(commands::prepare::Arguments),
    Decontaminate(commands::decontaminate::Arguments),
    Tokenizer(commands::tokenizer::Arguments),
    Train(commands::train::Arguments),
    Distill(commands::distill::Arguments),
    Plan(commands::plan::Arguments),
    Score(commands::score::Arguments),
    Eval(commands::eval::Arguments),
    Compare(commands::compare::Arguments),
    Generate(commands::generate::Arguments),
    Export(commands::export::Arguments),
    Bench(commands::bench::Arguments),
    #[command(hide = true)]
    Sandbox(commands::sandbox::Arguments),
}

fn main() -> ExitCode {
    let matches = Arguments::command().version(machine::version()).long_version(machine::long_version()).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    output::start_logging();
    // A panic is a fault of ours: said in one sentence, with its place for those who ask.
    std::panic::set_hook(Box::new(|fault| tracing::debug!("{fault}")));
    let done = catch_unwind(|| run(arguments.command)).unwrap_or_else(|_| Err(anyhow::anyhow!(FAULT)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Quickstart(arguments) => commands::quickstart::run(arguments),
        Command::Prepare(arguments) => commands::prepare::run(arguments),
        Command::Decontaminate(arguments) => commands::decontaminate::run(arguments),
        Command::Tokenizer(arguments) => commands::tokenizer::run(arguments),
        Command::Train(arguments) => commands::train::run(arguments),
        Command::Distill(arguments) => commands::distill::run(arguments),
        Command::Plan(arguments) => commands::plan::run(arguments),
        Command::Score(arguments) => commands::score::run(arguments),
        Command::Eval(arguments) => commands::eval::run(arguments),
        Command::Compare(arguments) => commands::compare::run(arguments),
        Command::Generate(arguments) => commands::generate::run(arguments),
        Command::Export(arguments) => commands::export::run(arguments),
        Command::Bench(arguments) => commands::bench::run(arguments),
        Command::Sandbox(arguments) => commands::sandbox::run(arguments),
    }
}
