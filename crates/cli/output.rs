//! Data goes to stdout, everything else to stderr; an error is one sentence.

use crate::env;
use anyhow::Result;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// Logs of the libraries go to stderr, warnings and worse unless `SLM_LOG` says otherwise.
pub(crate) fn start_logging() {
    let filter = EnvFilter::new(env::get(env::SLM_LOG).unwrap_or_else(|| "warn".into()));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .with_ansi(colours())
        .init();
}

/// Whether stderr may be coloured.
pub(crate) fn colours() -> bool {
    may_colour(&std::io::stderr())
}

/// Whether what goes to `stream` may be coloured: no pipe, no file, and `NO_COLOR` is not set.
pub(crate) fn may_colour(stream: &impl IsTerminal) -> bool {
    env::get("NO_COLOR").is_none() && stream.is_terminal()
}

/// One line of data.
pub(crate) fn line(text: impl AsRef<str>) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{}", text.as_ref())?;
    Ok(())
}

/// One JSON object on a line of its own.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string(value)?)
}

/// A line for the person in front of the terminal.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// `error: …`, the causes after colons, unless a message has told its cause already.
pub(crate) fn print_error(error: &anyhow::Error) {
    let mut sentence = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !sentence.contains(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    let sentence = sentence.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let label = if colours() { "\x1b[1;31merror\x1b[0m" } else { "error" };
    note(format!("{label}: {sentence}"));
}

/// Whether the reader of our stdout has gone, as `head` does.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
