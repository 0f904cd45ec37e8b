//! Training: a recipe and token shards in, checkpoints and metrics out; every run can be killed at any moment and goes
//! on with the same bits.
//!
//! Holds: the loop ([`run`]), a step, the learning rate, checkpoints, metrics, evaluation, the plan of a run.
//! Never: tokenizing (texts and ids are turned by functions that the caller gives), the maths of a model, a particular
//! backend.
//! Start reading at [`run`], then `session.rs` for the loop and `step.rs` for what it does.
//!
//! # What is promised
//! - Weights, moments, `metrics.jsonl` and the order of data of an interrupted and resumed run are those of an
//!   uninterrupted one, bit for bit, with any number of threads. With another micro-batch too, except in a model whose
//!   output matrix is its embedding ([`model::llama::loss_and_gradients`]); there a resume refuses it.
//! - A loss or gradient that is not finite never touches weights or moments.
//! - After a kill at any moment the newest whole checkpoint is found; a run killed before its first begins again.

mod batch;
mod checkpoint;
pub mod distill;
mod error;
mod evaluate;
mod events;
mod guard;
mod held;
pub mod metrics;
mod observer;
mod plan;
mod schedule;
mod session;
mod shape;
mod start;
mod state;
mod step;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use checkpoint::{CHECKPOINTS_FOLDER, LATEST, OPTIMIZER_FILE, newest as latest_checkpoint};
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use guard::{Fault, Streak};
pub use observer::{Event, Observer};
pub use plan::{Disk, Memory, Plan, Probe, plan, time_steps};
pub use schedule::learning_rate;
pub use session::Summary;
pub use shape::{batch_shape, model_config, steps};
pub use start::check_folder;
pub use state::State;
pub use step::BatchShape;

use backend::Backend;
use recipe::Recipe;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Name of the resolved recipe in a run folder.
pub const RECIPE_FILE: &str = "recipe.toml";

/// Where a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At the beginning; a folder that holds a run is refused.
    No,
    /// At the newest checkpoint of the run folder; at the beginning where there is none.
    Auto,
    /// At this checkpoint, or the newest of this run folder.
    From(PathBuf),
}

/// What a run needs beside its recipe.
pub struct Inputs<'a> {
    /// Folder of the token shards and their manifest.
    pub data: &'a Path,
    /// The tokenizer of the data.
    pub tokenizer: Tokenizer<'a>,
    /// Floating-point operations per second that the machine can do at most, for the share of them that is used.
    pub peak_flops: Option<f64>,
    /// Go on from a checkpoint although this backend computes other bits than the one that wrote it.
    pub allow_other_bits: bool,
    /// The target of a draft that is distilled; the recipe then has a section `[distill]`.
    pub teacher: Option<&'a distill::Teacher<'a>>,
}

/// What training must know of a tokenizer.
#[derive(Clone, Copy)]
pub struct Tokenizer<'a> {
    /// A folder with the tokenizer's files; they are copied into every checkpoint.
    pub folder: &'a Path,
    /// Its hash, as the data's manifest has it.
    pub hash: &'a str,
    /// Ids are below this.
    pub vocab: usize,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Token that ends a text.
    pub eos: Option<u32>,
    /// Text to ids, nothing added.
    pub encode: &'a dyn Fn(&str) -> Vec<u32>,
    /// Ids to text.
    pub decode: &'a dyn Fn(&[u32]) -> String,
}

/// Trains what `recipe` says in the folder `run`, until its last step or until `stop` is set: then a checkpoint is
/// written (a step that is under way is given up and done again on resume) and the summary says so.
///
/// # Errors
/// [`TrainError`]: a folder in use, a recipe that does not fit, a changed recipe or other bits on resume, damaged files,
/// a full disk, no memory, too many steps in a row that are not finite. Checkpoints that are there stay whole.
pub fn run(
    b: &dyn Backend,
    recipe: &Recipe,
    run: &Path,
    resume: Resume,
    inputs: &Inputs<'_>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Summary, TrainError> {
    session::Session::open(b, recipe, run, &resume, inputs, observer)?.run(stop)
}
