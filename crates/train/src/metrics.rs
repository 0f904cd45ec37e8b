//! What a run tells of itself while it goes on: `metrics.jsonl`, `timing.jsonl`, TensorBoard files and `log.txt`.
//!
//! `metrics.jsonl` holds what follows from recipe and data alone, so an interrupted and resumed run leaves the very
//! bytes of an uninterrupted one; everything that depends on the clock is in the other files.

use crate::events::EventFile;
use crate::guard::Fault;
use formats::file::{self, AppendFile, FileError};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the file of steps and evaluations in a run folder.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// Name of the file of durations in a run folder; a step that was done again after a kill is in it twice.
pub const TIMING_FILE: &str = "timing.jsonl";
/// Name of the file for people in a run folder.
pub const LOG_FILE: &str = "log.txt";
/// Name of the folder of TensorBoard's files in a run folder.
pub const EVENTS_FOLDER: &str = "tensorboard";

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Record {
    /// An evaluation.
    Evaluation(EvaluationRecord),
    /// A step.
    Step(StepRecord),
}

/// The line of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Number of the step, from 1.
    pub step: u64,
    /// Training tokens that were read, this step included.
    pub tokens: u64,
    /// Mean loss of the batch before the update, in nats per token; absent where it is not finite.
    pub loss: Option<f64>,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Norm of the whole gradient before clipping; absent where it is not finite.
    pub gradient_norm: Option<f64>,
    /// For a step that did not touch the weights.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<SkippedRecord>,
}

/// What is said of a step that was skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedRecord {
    /// `true`.
    pub skipped: bool,
    /// Why.
    pub reason: Fault,
    /// Global index of the first sample of the batch; the others follow it.
    pub first_sample: u64,
    /// Samples in the batch.
    pub samples: u64,
}

/// The line of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    /// Steps done when it was made.
    pub step: u64,
    /// Mean loss on held-out tokens, in nats per token; absent where it is not finite.
    pub validation_loss: Option<f64>,
    /// The same as bits per byte of text.
    pub bits_per_byte: Option<f64>,
    /// Tokens that were predicted; 0 where the data has no validation part.
    pub validation_tokens: u64,
    /// Continuations of the recipe's prompts.
    pub continuations: Vec<Continuation>,
}

/// A prompt and what the model made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continuation {
    /// The prompt.
    pub prompt: String,
    /// What followed it.
    pub text: String,
}

/// Reads the whole lines of a `metrics.jsonl`; one that cannot be understood is left out.
///
/// # Errors
/// [`FileError`] where the file cannot be read.
pub fn read(path: &Path) -> Result<Vec<Record>, FileError> {
    let text = file::read_to_string(path)?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[derive(Serialize)]
struct TimingRecord {
    step: u64,
    unix_seconds: f64,
    seconds: f64,
    tokens_per_second: f64,
}

/// The growing files of a run.
#[derive(Debug)]
pub(crate) struct Journal {
    metrics: AppendFile,
    metrics_bytes: u64,
    timing: AppendFile,
    log: AppendFile,
    events: EventFile,
}

impl Journal {
    /// Opens the files of the run in `folder`. `metrics.jsonl` is cut to `metrics_bytes`, its length when the
    /// checkpoint was written from which the run goes on; `next_step` is the first step to come.
    pub(crate) fn open(folder: &Path, metrics_bytes: u64, next_step: u64) -> Result<Self, FileError> {
        let path = folder.join(METRICS_FILE);
        let metrics = file::open_append(&path)?;
        let found = file::size_bytes(&path)?;
        if found < metrics_bytes {
            let path = path.display();
            tracing::warn!("{path}: shorter than when the checkpoint was written; some steps are missing from it");
        }
        let metrics_bytes = metrics_bytes.min(found);
        if found > metrics_bytes {
            metrics.truncate(metrics_bytes)?;
        }
        Ok(Self {
            metrics,
            metrics_bytes,
            timing: file::open_append(&folder.join(TIMING_FILE))?,
            log: file::open_append(&folder.join(LOG_FILE))?,
            events: EventFile::create(&folder.join(EVENTS_FOLDER), next_step)?,
        })
    }

    /// Length of `metrics.jsonl`; what was written is on the disk when this returns.
    pub(crate) fn synced_metrics_bytes(&self) -> Result<u64, FileError> {
        self.metrics.sync()?;
        Ok(self.metrics_bytes)
    }

    /// Writes a step everywhere.
    pub(crate) fn step(&mut self, record: &StepRecord, seconds: f64, tokens_per_second: f64) -> Result<(), FileError> {
        self.metrics_line(record)?;
        let step = record.step;
        let timing = TimingRecord { step, unix_seconds: unix_seconds(), seconds, tokens_per_second };
        self.timing.append_line(&to_json(&timing))?;
        let points = [
            ("train/loss", record.loss.unwrap_or(f64::NAN)),
            ("train/learning_rate", record.learning_rate),
            ("train/gradient_norm", record.gradient_norm.unwrap_or(f64::NAN)),
            ("train/tokens_per_second", tokens_per_second),
        ];
        self.events.scalars(step, &points)
    }

    /// Writes an evaluation everywhere.
    pub(crate) fn evaluation(&mut self, record: &EvaluationRecord) -> Result<(), FileError> {
        self.metrics_line(record)?;
        let both = [("validation/loss", record.validation_loss), ("validation/bits_per_byte", record.bits_per_byte)];
        let points: Vec<_> = both.into_iter().filter_map(|(tag, value)| Some((tag, value?))).collect();
        self.events.scalars(record.step, &points)
    }

    /// Adds a line to `log.txt`, with the time, and hands it to the program's log.
    pub(crate) fn log(&mut self, message: &str) -> Result<(), FileError> {
        tracing::info!("{message}");
        self.log.append_line(&format!("{} {message}", utc(unix_seconds() as u64)))
    }

    fn metrics_line(&mut self, record: &impl Serialize) -> Result<(), FileError> {
        let line = to_json(record);
        self.metrics.append_line(&line)?;
        self.metrics_bytes += line.len() as u64 + 1;
        Ok(())
    }
}

/// Records hold numbers, names and text: writing them as JSON cannot fail.
fn to_json(record: &impl Serialize) -> String {
    serde_json::to_string(record).unwrap_or_default()
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// `2026-11-24T15:30:44Z`.
fn utc(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Days since 1 March of year 0, in eras of 400 years, years that end with February, months of 30.6 days.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + later;
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> StepRecord {
        let (loss, gradient_norm) = (Some(2.5), Some(0.125));
        StepRecord { step, tokens: 64 * step, loss, learning_rate: 1e-3, gradient_norm, skipped: None }
    }

    fn skipped() -> StepRecord {
        let why = SkippedRecord { skipped: true, reason: Fault::Loss, first_sample: 12, samples: 4 };
        StepRecord { loss: None, gradient_norm: None, skipped: Some(why), ..step(4) }
    }

    #[test]
    fn lines_are_short_and_read_back() {
        let good = r#"{"step":3,"tokens":192,"loss":2.5,"learning_rate":0.001,"gradient_norm":0.125}"#;
        assert_eq!(to_json(&step(3)), good);
        let bad = r#"{"step":4,"tokens":256,"loss":null,"learning_rate":0.001,"gradient_norm":null,"skipped":true,"reason":"loss","first_sample":12,"samples":4}"#;
        assert_eq!(to_json(&skipped()), bad);

        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), 0, 1).unwrap();
        let evaluation = EvaluationRecord {
            step: 4,
            validation_loss: Some(2.0),
            bits_per_byte: Some(1.0),
            validation_tokens: 100,
            continuations: vec![Continuation { prompt: "a".into(), text: "b\n".into() }],
        };
        journal.step(&step(3), 0.5, 128.0).unwrap();
        journal.step(&skipped(), 0.5, 128.0).unwrap();
        journal.evaluation(&evaluation).unwrap();
        let records = read(&folder.path().join(METRICS_FILE)).unwrap();
        assert_eq!(records, [Record::Step(step(3)), Record::Step(skipped()), Record::Evaluation(evaluation)]);
    }

    #[test]
    fn a_half_written_line_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        let mut journal = Journal::open(folder.path(), 0, 1).unwrap();
        journal.step(&step(1), 0.5, 128.0).unwrap();
        let kept = journal.synced_metrics_bytes().unwrap();
        journal.step(&step(2), 0.5, 128.0).unwrap();
        file::open_append(&path).unwrap().append(b"{\"step\":3,\"tok").unwrap();

        let mut journal = Journal::open(folder.path(), kept, 2).unwrap();
        journal.step(&step(2), 0.7, 90.0).unwrap();
        assert_eq!(read(&path).unwrap(), [Record::Step(step(1)), Record::Step(step(2))]);
        assert_eq!(journal.synced_metrics_bytes().unwrap(), file::size_bytes(&path).unwrap());
    }

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_534_244), "2026-11-24T15:30:44Z");
    }
}
