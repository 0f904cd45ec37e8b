//! Why a run could not begin, or could not go on.

use backend::BackendError;
use data::DataError;
use formats::file::FileError;
use formats::hf_config::ConfigError;
use formats::safetensors::SafetensorsError;
use infer::InferError;
use model::ModelError;
use recipe::RecipeError;
use std::path::PathBuf;

/// Why a run could not begin, or could not go on. Checkpoints that were there are untouched.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// Weights in a file.
    #[error(transparent)]
    Weights(#[from] SafetensorsError),
    /// A config in a file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The machine.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The token shards.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Generating samples.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// The recipe of an earlier session.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A value of the recipe that does not fit the model or the tokenizer.
    #[error("{key} = {found}: {rule}")]
    Unfit {
        /// The key with its section.
        key: &'static str,
        /// What it says.
        found: String,
        /// What it must be.
        rule: String,
    },
    /// A fresh run into a folder that is in use.
    #[error("{folder}: holds a run already; continue it with `--resume auto`, or give another `--out`")]
    HoldsARun {
        /// The run folder.
        folder: PathBuf,
    },
    /// A resume from a folder without a checkpoint.
    #[error(
        "{folder}: holds no checkpoint (a folder `step-…` with a `state.json`); give the folder of a run or of one of its checkpoints"
    )]
    NoCheckpoint {
        /// What was given.
        folder: PathBuf,
    },
    /// A `state.json` that cannot be understood.
    #[error(
        "{file}: not the state of a run ({reason}); resume from an older checkpoint with `--resume {}`",
        older(file)
    )]
    State {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of a checkpoint that is not what was written.
    #[error(
        "{file}: has changed or was damaged since the checkpoint was written (its BLAKE3 sum is {found}, not {expected}); resume from an older checkpoint with `--resume {}`",
        older(file)
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Its sum now.
        found: String,
        /// Its sum when it was written.
        expected: String,
    },
    /// Moments that do not fit the weights.
    #[error(
        "{file}: tensor `{tensor}` has shape {found:?}, but the model's has {expected} elements; resume from a checkpoint of this model"
    )]
    MomentShape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// Elements of the weight.
        expected: usize,
    },
    /// A round of distillation, or a report of one, that cannot be used.
    #[error(
        "{file}: cannot be used ({reason}); put the run's own file back, or begin a new run with another `--draft`"
    )]
    Round {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A resume with another recipe.
    #[error(
        "{folder}: the run was begun with {key} = {before}, and the recipe now says {now}; set it back, or begin a new run with another `--out`"
    )]
    RecipeChanged {
        /// The checkpoint or run folder.
        folder: PathBuf,
        /// The key with its section.
        key: String,
        /// Its value in the run.
        before: String,
        /// Its value now.
        now: String,
    },
    /// A resume on something that computes other bits.
    #[error(
        "{folder}: {what} was {before} so far and is {now} now, which gives other bits than the uninterrupted run; {remedy}, or accept that with `--allow-other-bits`"
    )]
    OtherBits {
        /// The checkpoint.
        folder: PathBuf,
        /// What differs.
        what: String,
        /// So far.
        before: String,
        /// Now.
        now: String,
        /// How to get the same bits.
        remedy: &'static str,
    },
    /// A resume with other data or another tokenizer.
    #[error(
        "{folder}: the run was begun with other {what} (BLAKE3 sum {before}, now {now}); give it the same {what}, or begin a new run with another `--out`"
    )]
    OtherInput {
        /// The checkpoint.
        folder: PathBuf,
        /// What differs.
        what: &'static str,
        /// So far.
        before: String,
        /// Now.
        now: String,
    },
    /// Too many steps in a row were skipped.
    #[error("step {step}: {fault}, {in_a_row} steps in a row, so the run was stopped; look at {log} and {metrics} for the samples, lower train.schedule.learning_rate or raise warmup_steps, and go on with `--resume auto --allow-other-bits` from {}", last_good.as_ref().map_or("the beginning (there is no checkpoint yet)".into(), |folder| format!("the last good checkpoint, {}", folder.display())))]
    NotFinite {
        /// The last skipped step.
        step: u64,
        /// What was not finite.
        fault: crate::Fault,
        /// Skipped steps.
        in_a_row: u32,
        /// The run's log.
        log: PathBuf,
        /// The run's metrics.
        metrics: PathBuf,
        /// The newest checkpoint.
        last_good: Option<PathBuf>,
    },
}

/// How to name another checkpoint than the one `file` is in.
fn older(file: &std::path::Path) -> String {
    let checkpoints = file.parent().and_then(std::path::Path::parent).unwrap_or(std::path::Path::new("."));
    checkpoints.join("step-…").display().to_string()
}
