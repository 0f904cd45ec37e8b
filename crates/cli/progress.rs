//! What a person sees while something runs: bars on a terminal, plain lines elsewhere.

use crate::output;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use train::Event;

/// Without a terminal, a line this often is enough.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// `1.5 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.2} {}", UNITS[unit]) }
}

/// `3 h 20 min`, the two largest units.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, _) => format!("{minutes} min {rest} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A bar on a terminal; elsewhere nothing is drawn and [`Line`] speaks.
fn bar(template: &str) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::no_length().with_style(style.progress_chars("━╸ "));
    bar.enable_steady_tick(Duration::from_millis(200));
    Some(bar)
}

/// When the next plain line is due.
struct Line {
    last: Option<Instant>,
}

impl Line {
    fn due(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

/// Reading, filtering and tokenizing.
pub(crate) struct PrepareProgress<'s> {
    bar: Option<ProgressBar>,
    line: Mutex<Line>,
    started: Instant,
    stop: &'s AtomicBool,
}

impl<'s> PrepareProgress<'s> {
    /// Begins now; `stop` ends it, keeping what is done.
    pub(crate) fn new(stop: &'s AtomicBool) -> Self {
        Self {
            bar: bar("  prepare {bar:24} {msg}"),
            line: Mutex::new(Line { last: Some(Instant::now()) }),
            started: Instant::now(),
            stop,
        }
    }

    /// Leaves the terminal as it was.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl data::Progress for PrepareProgress<'_> {
    fn update(&self, status: &data::Status) {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        let mut message = format!(
            "{}: {} documents, {} tokens, {:.1} MB/s of text",
            status.source,
            status.documents,
            status.tokens,
            status.text_bytes as f64 / seconds / 1e6
        );
        let now = status.done - status.done_before;
        if now > 0.02 && status.done < 1.0 {
            message += &format!(", {} left", duration(seconds * (1.0 - status.done) / now));
        }
        if let Some(bar) = &self.bar {
            bar.set_length(1000);
            bar.set_position((1000.0 * status.done) as u64);
            bar.set_message(message);
        } else if self.line.lock().is_ok_and(|mut line| line.due()) {
            output::note(format!("  prepare: {message}"));
        }
    }

    fn stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The scoring of benchmarks.
pub(crate) struct EvalProgress {
    bar: Option<ProgressBar>,
    line: Line,
    started: Instant,
}

impl EvalProgress {
    /// Begins now.
    pub(crate) fn new() -> Self {
        Self { bar: bar("  eval {bar:24} {msg}"), line: Line { last: None }, started: Instant::now() }
    }

    /// Shows how far it is, and when it ends: rows all cost about the same.
    pub(crate) fn update(&mut self, status: eval::Status) {
        let eval::Status { requests, of, rows, of_rows, unit } = status;
        let mut message = format!("{requests} of {of} requests");
        if rows > 0 && rows < of_rows {
            let seconds = self.started.elapsed().as_secs_f64();
            message += &format!(
                ", {:.*} {unit}/s, {} left",
                if unit == "tokens" { 0 } else { 2 },
                rows as f64 / seconds,
                duration(seconds * (of_rows - rows) as f64 / rows as f64)
            );
        }
        if let Some(bar) = &self.bar {
            bar.set_length(of_rows as u64);
            bar.set_position(rows as u64);
            bar.set_message(message);
        } else if self.line.due() || rows == of_rows {
            output::note(format!("  eval: {message}"));
        }
    }

    /// Leaves the terminal as it was.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A training run.
pub(crate) struct TrainView {
    bar: Option<ProgressBar>,
    line: Line,
    /// Seconds a step, smoothed.
    pace: Option<f64>,
}

impl TrainView {
    /// Before the first event.
    pub(crate) fn new() -> Self {
        Self { bar: bar("  step {pos}/{len} {bar:24} {msg}"), line: Line { last: None }, pace: None }
    }

    /// Leaves the terminal as it was.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Shows an event.
    pub(crate) fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { parameters, memory, step, of, batch_tokens, .. } => {
                self.say(&format!(
                    "  {} parameters, {} of memory, {batch_tokens} tokens a step{}",
                    parameters,
                    bytes(memory.total()),
                    if *step > 0 { format!("; goes on after step {step}") } else { String::new() }
                ));
                if let Some(bar) = &self.bar {
                    bar.set_length(*of);
                    bar.set_position(*step);
                }
            }
            Event::Step {
                step,
                of,
                loss,
                learning_rate,
                gradient_norm,
                seconds,
                tokens_per_second,
                peak_share,
                ..
            } => {
                let pace = self.pace.map_or(*seconds, |pace| 0.9 * pace + 0.1 * seconds);
                self.pace = Some(pace);
                let share = peak_share.map_or(String::new(), |share| format!(" ({:.0} % of peak)", 100.0 * share));
                let message = format!(
                    "loss {loss:.4}, lr {learning_rate:.2e}, grad {gradient_norm:.2}, {tokens_per_second:.0} tokens/s{share}, {} left",
                    duration(of.saturating_sub(*step) as f64 * pace)
                );
                self.step(*step, *of, message);
            }
            Event::Skipped { step, fault, first_sample, samples, .. } => self.say(&format!(
                "  step {step}: skipped, {fault}; samples {first_sample} to {}",
                first_sample + samples.saturating_sub(1)
            )),
            Event::Collecting { round, sequences, of } => {
                let message = format!("round {round}: {sequences} of {of} sequences collected");
                if let Some(bar) = &self.bar {
                    bar.set_message(message);
                } else if self.line.due() {
                    output::note(format!("  {message}"));
                }
            }
            Event::Evaluating { .. } => {}
            Event::Evaluated { record, .. } => {
                if let Some(loss) = record.validation_loss {
                    let bits = record.bits_per_byte.map_or(String::new(), |bits| format!(", {bits:.4} bits per byte"));
                    self.say(&format!("  step {}: held-out loss {loss:.4}{bits}", record.step));
                }
                for sample in &record.continuations {
                    self.say(&format!("    {:?} → {:?}", sample.prompt, sample.text));
                }
            }
            Event::Saved { step, folder, .. } => {
                self.say(&format!("  step {step}: saved {}", folder.display()));
            }
        }
    }

    fn step(&mut self, step: u64, of: u64, message: String) {
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            bar.set_message(message);
        } else if step == of || self.line.due() {
            output::note(format!("  step {step}/{of}: {message}"));
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }
}

/// The scoring of a text.
pub(crate) struct ScoreProgress {
    bar: Option<ProgressBar>,
    line: Line,
    started: Instant,
    tokens: usize,
}

impl ScoreProgress {
    /// Before the first of `tokens` predictions. Where there is no terminal, what takes no longer than a line's turn
    /// says nothing.
    pub(crate) fn new(tokens: usize) -> Self {
        let now = Instant::now();
        Self { bar: bar("  score {bar:24} {msg}"), line: Line { last: Some(now) }, started: now, tokens }
    }

    /// Shows that `done` tokens are predicted.
    pub(crate) fn update(&mut self, done: usize) {
        let pace = self.started.elapsed().as_secs_f64() / done.max(1) as f64;
        let left = duration(pace * self.tokens.saturating_sub(done) as f64);
        let message = format!("{done} of {} tokens, {:.0} tokens/s, {left} left", self.tokens, 1.0 / pace.max(1e-9));
        if let Some(bar) = &self.bar {
            bar.set_length(self.tokens as u64);
            bar.set_position(done as u64);
            bar.set_message(message);
        } else if self.line.due() {
            output::note(format!("  score: {message}"));
        }
    }

    /// Leaves the terminal as it was.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_show_their_two_largest_units() {
        let shown = [3.4, 75.0, 3600.0, 100_000.0].map(duration);
        assert_eq!(shown, ["3 s", "1 min 15 s", "1 h 0 min", "1 d 3 h"]);
    }

    #[test]
    fn bytes_are_counted_in_powers_of_1024() {
        assert_eq!([bytes(17), bytes(1 << 20), bytes(3 << 29)], ["17 B", "1.00 MiB", "1.50 GiB"]);
    }
}
