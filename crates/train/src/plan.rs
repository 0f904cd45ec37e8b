//! What a run will take, before it begins: parameters, operations, memory, disk, and time by a short probe.

use crate::batch::TokenBatch;
use crate::held::Held;
use crate::step::Trainer;
use crate::{BatchShape, TrainError, shape};
use backend::{Backend, Precision};
use data::Sample;
use model::cost::{self, Counts};
use model::{Config, ModelError, Parameters, Scheme, Source};
use recipe::Recipe;
use serde::Serialize;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// A micro-batch that takes longer is timed once.
const LONG_SECONDS: f64 = 3.0;

/// Bytes of a training run, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// f32 master weights.
    pub weights: u64,
    /// Matrices in the form that is multiplied.
    pub packed: u64,
    /// f32 gradients.
    pub gradients: u64,
    /// Both moments of AdamW, f32.
    pub moments: u64,
    /// Activations of a micro-batch and their gradients.
    pub activations: u64,
    /// Ids, positions, targets and losses.
    pub batch: u64,
    /// What operations borrow while they run, estimated: it is the backend's own affair.
    pub scratch: u64,
    /// The largest tensor in f32: a checkpoint copies its tensors one after the other, on their way to the disk and back.
    pub checkpoint: u64,
}

impl Memory {
    /// All of it, as it is while a checkpoint is written.
    pub const fn total(&self) -> u64 {
        self.while_training() + self.checkpoint
    }

    /// What is held between checkpoints, by the backend.
    pub const fn while_training(&self) -> u64 {
        self.weights + self.packed + self.gradients + self.moments + self.activations + self.batch + self.scratch
    }
}

/// Bytes on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// One checkpoint: weights and moments.
    pub checkpoint: u64,
    /// Checkpoints that are there at the end.
    pub checkpoints_kept: u64,
    /// All checkpoints at the worst moment, when a new one is written before the oldest goes.
    pub most: u64,
}

/// What the probe measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// Training tokens per second, updates included.
    pub tokens_per_second: f64,
    /// Time of a micro-batch.
    pub micro_batch_seconds: f64,
    /// Time of gradient norm and update.
    pub update_seconds: f64,
    /// Bytes that the backend held with everything planned.
    pub allocated_bytes: u64,
    /// Time of the whole run without evaluations and checkpoints.
    pub run_seconds: f64,
}

/// A run before it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The model.
    pub config: Config,
    /// Its weights by kind.
    pub parameters: Counts,
    /// Floating-point operations per token, forward and backward.
    pub flops_per_token: f64,
    /// How batches are cut.
    pub batch: BatchShape,
    /// Optimizer steps.
    pub steps: u64,
    /// Training tokens.
    pub tokens: u64,
    /// Memory of the run.
    pub memory: Memory,
    /// Disk of the run.
    pub disk: Disk,
    /// What was measured; `None` where memory for it was not to be had or no probe was wanted.
    pub probe: Option<Probe>,
}

/// Plans a run for a tokenizer of `vocab` ids; with `probe`, a few micro-batches of the real shape are timed.
///
/// # Errors
/// A recipe that does not fit the tokenizer or the folder that it starts from.
pub fn plan(b: &dyn Backend, recipe: &Recipe, vocab: usize, probe: bool) -> Result<Plan, TrainError> {
    let config = match &recipe.model.from {
        Some(folder) => {
            let source = Source::open(folder)?;
            shape::check_folder(&recipe.model, source.config(), vocab)?;
            source.config().clone()
        }
        None => shape::model_config(&recipe.model, vocab, None, None)?,
    };
    let batch = shape::batch_shape(&recipe.train, config.context)?;
    let steps = shape::steps(recipe);
    let precision = shape::precision(&recipe.train);
    let probe = if probe { measure(b, recipe, &config, batch, steps)? } else { None };
    Ok(Plan {
        parameters: cost::parameters(&config),
        flops_per_token: cost::flops_per_token(&config, batch.tokens).training,
        batch,
        steps,
        tokens: steps * batch.batch_tokens() as u64,
        memory: memory(&config, batch, precision, recipe.train.document_mask),
        disk: disk(&config, &recipe.train.checkpoints, steps),
        probe,
        config,
    })
}

/// Memory of a run of this shape.
pub(crate) fn memory(config: &Config, batch: BatchShape, precision: Precision, document_mask: bool) -> Memory {
    let bytes = cost::training_bytes(config, batch.micro(), precision);
    // Ids, positions, targets and, with a document mask, first keys of a micro-batch; losses of the whole batch.
    let per_micro_row = if document_mask { 4 } else { 3 };
    Memory {
        weights: bytes.masters,
        packed: bytes.packed,
        gradients: bytes.gradients,
        moments: bytes.moments,
        activations: bytes.activations,
        batch: 4 * (per_micro_row * batch.micro().rows() + batch.batch_tokens()) as u64,
        scratch: scratch(config, batch.micro().rows(), precision),
        checkpoint: 4 * cost::largest_tensor(config),
    }
}

/// Logits of a chunk of rows, of which the CPU takes up to 512 and up to 64 MiB; and the widest input of a product,
/// packed to be multiplied from the other side for the gradient of its weights.
fn scratch(config: &Config, rows: usize, precision: Precision) -> u64 {
    const CHUNK_ROWS: usize = 512;
    const CHUNK_FLOATS: usize = 16 << 20;
    let logits = 4 * config.vocab * rows.min(CHUNK_ROWS).min((CHUNK_FLOATS / config.vocab).max(1));
    let element = if precision == Precision::F32 { 4 } else { 2 };
    let widest = config.ffn_width.max(config.width).max(config.heads.query_width());
    (logits + element * rows * widest) as u64
}

fn disk(config: &Config, checkpoints: &recipe::Checkpoints, steps: u64) -> Disk {
    let checkpoint = 12 * cost::parameters(config).total();
    let kept_for_good = steps.checked_div(checkpoints.keep_every_steps).unwrap_or(0);
    let by_steps = steps.checked_div(checkpoints.every_steps).unwrap_or(u64::MAX).saturating_add(1);
    let newest = (checkpoints.keep_last as u64).min(by_steps);
    let kept = newest.saturating_add(kept_for_good);
    let most = checkpoint.saturating_mul(kept.saturating_add(1));
    Disk { checkpoint, checkpoints_kept: checkpoint.saturating_mul(kept), most }
}

/// Times micro-batches of the real shape on random weights; `None` where there is no memory for it.
fn measure(
    b: &dyn Backend,
    recipe: &Recipe,
    config: &Config,
    batch: BatchShape,
    steps: u64,
) -> Result<Option<Probe>, TrainError> {
    let (scheme, precision) = (shape::scheme(&recipe.model), shape::precision(&recipe.train));
    let planned = Parameters::initialize(b, config, scheme, recipe.run.seed, precision)
        .map_err(TrainError::from)
        .map(|parameters| Held::new(b, parameters, Parameters::free))
        .and_then(|weights| Trainer::new(b, weights, batch, &recipe.train.optimizer, recipe.train.document_mask, None));
    let mut trainer = match planned {
        Ok(trainer) => trainer,
        Err(TrainError::Backend(_) | TrainError::Model(ModelError::Backend(_))) => return Ok(None),
        Err(error) => return Err(error),
    };
    let data = made_up(config.vocab, batch);
    let timed = |work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        b.sync();
        began.elapsed().as_secs_f64()
    };
    let never = AtomicBool::new(false);
    let mut micro_batch = || timed(&mut || _ = trainer.accumulate(&data, 1.0 / data.predicted() as f32, &never));
    let mut micro_batch_seconds = micro_batch();
    if micro_batch_seconds < LONG_SECONDS {
        // The first one also touched all memory for the first time.
        micro_batch_seconds = micro_batch().min(micro_batch());
    }
    let mut update = || timed(&mut || trainer.update(0.0, trainer.gradient_norm()));
    let update_seconds = update().min(update());
    let step_seconds = batch.micro_batches() as f64 * micro_batch_seconds + update_seconds;
    Ok(Some(Probe {
        tokens_per_second: batch.batch_tokens() as f64 / step_seconds,
        micro_batch_seconds,
        update_seconds,
        allocated_bytes: b.allocated_bytes() as u64,
        run_seconds: steps as f64 * step_seconds,
    }))
}

/// Seconds of each of `runs` optimizer steps of a model of `config` on random weights and made-up tokens, with the
/// default optimizer; one more step comes before them, uncounted. `done` is called after each step, the
/// uncounted one being step 0.
///
/// # Errors
/// A config that is refused; no memory.
pub fn time_steps(
    b: &dyn Backend,
    config: &Config,
    batch: BatchShape,
    precision: Precision,
    runs: usize,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<f64>, TrainError> {
    let weights = Parameters::initialize(b, config, Scheme::Gpt2, 0, precision)?;
    let weights = Held::new(b, weights, Parameters::free);
    let mut trainer = Trainer::new(b, weights, batch, &recipe::Optimizer::default(), false, None)?;
    let data = made_up(config.vocab, BatchShape { micro_batch: batch.sequences, ..batch });
    let never = AtomicBool::new(false);
    let mut step = || {
        let began = Instant::now();
        _ = trainer.step(&data, 1e-5, &never);
        b.sync();
        began.elapsed().as_secs_f64()
    };
    let mut seconds = Vec::with_capacity(runs);
    for index in 0..=runs {
        let took = step();
        done(index);
        if index > 0 {
            seconds.push(took);
        }
    }
    Ok(seconds)
}

/// A micro-batch of ids that follow no pattern.
fn made_up(vocab: usize, batch: BatchShape) -> TokenBatch {
    let mut data = TokenBatch::new(batch.micro_batch, batch.tokens, 0);
    for sequence in 0..batch.micro_batch {
        let id = |place: usize| ((sequence * 7919 + place * 104_729) % vocab) as u32;
        data.push(&Sample { tokens: (0..=batch.tokens).map(id).collect(), first_key: vec![0; batch.tokens] });
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn memory_is_what_a_step_takes() {
        for precision in ["train.precision=\"f32\"", "train.precision=\"bf16\""] {
            // Large enough that what is counted outweighs what each allocation is rounded up by.
            let wide = ["model.width=128", "model.ffn_width=256", "model.vocab=4096", "train.micro_batch=4", precision];
            let cpu = cpu::Cpu::new(2, None).unwrap();
            let plan = plan(&cpu, &testing::recipe(&wide), 64, true).unwrap();
            let (planned, found) = (plan.memory.while_training() as f64, plan.probe.unwrap().allocated_bytes as f64);
            assert!(
                (planned / found - 1.0).abs() < 0.05,
                "{precision}: planned {planned}, found {found}: {:?}",
                plan.memory
            );
        }
    }

    #[test]
    fn numbers_of_amd_135m() {
        let overrides = [
            "model.vocab=32000",
            "model.width=768",
            "model.layers=12",
            "model.heads=12",
            "model.kv_heads=12",
            "model.ffn_width=2048",
            "model.context=2048",
            "train.sequence=2048",
            "train.batch_tokens=2097152",
            "train.steps=320000",
            "train.checkpoints.every_steps=2000",
            "train.checkpoints.keep_every_steps=20000",
        ];
        let plan = plan(&cpu::Cpu::new(1, None).unwrap(), &testing::recipe(&overrides), 32_000, false).unwrap();
        assert_eq!(plan.parameters.total(), 134_105_856);
        assert_eq!(plan.tokens, 671_088_640_000);
        assert_eq!(plan.memory.checkpoint, 4 * 32_000 * 768);
        assert_eq!(plan.memory.total() - plan.memory.while_training(), plan.memory.checkpoint);
        assert_eq!(plan.disk.checkpoint, 12 * 134_105_856);
        assert_eq!(plan.disk.most, plan.disk.checkpoint * (2 + 16 + 1));
        assert_eq!(plan.probe, None);
    }
}
