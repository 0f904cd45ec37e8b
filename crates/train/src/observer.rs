//! What a run tells whoever watches it.

use crate::Fault;
use crate::metrics::EvaluationRecord;
use crate::plan::Memory;
use std::path::Path;

/// Watches a run. Closures of one event are observers.
pub trait Observer {
    /// Something happened.
    fn observe(&mut self, event: &Event<'_>);
}

impl<F: FnMut(&Event<'_>)> Observer for F {
    fn observe(&mut self, event: &Event<'_>) {
        self(event);
    }
}

/// Something that happened in a run.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Everything is in place; the first step comes next.
    Started {
        /// Weights of the model.
        parameters: u64,
        /// Floating-point operations per token, forward and backward.
        flops_per_token: f64,
        /// Bytes by category, as planned.
        memory: Memory,
        /// Bytes that the backend holds.
        allocated_bytes: u64,
        /// Steps that were done before; 0 for a fresh run.
        step: u64,
        /// Steps in all.
        of: u64,
        /// Training tokens of a step.
        batch_tokens: usize,
    },
    /// A step was done.
    Step {
        /// Its number, from 1.
        step: u64,
        /// Steps in all.
        of: u64,
        /// Training tokens read so far.
        tokens: u64,
        /// Mean loss of its batch, in nats per token.
        loss: f64,
        /// Its learning rate.
        learning_rate: f64,
        /// Norm of the gradient before clipping.
        gradient_norm: f64,
        /// Time of the step, reading its samples included.
        seconds: f64,
        /// Training tokens per second of this step.
        tokens_per_second: f64,
        /// Share of the machine's peak that was used, where the caller knows the peak.
        peak_share: Option<f64>,
    },
    /// The step of the last [`Event::Step`] did not touch the weights.
    Skipped {
        /// Its number.
        step: u64,
        /// Why.
        fault: Fault,
        /// Steps in a row that were skipped, this one included.
        in_a_row: u32,
        /// Global index of the first sample of its batch.
        first_sample: u64,
        /// Samples in its batch.
        samples: u64,
    },
    /// A round of sequences for a draft to learn from is being collected.
    Collecting {
        /// Its number, from 0.
        round: u64,
        /// Sequences that are there.
        sequences: usize,
        /// Sequences in all.
        of: usize,
    },
    /// An evaluation goes on.
    Evaluating {
        /// Tokens predicted so far.
        tokens: u64,
        /// Tokens in all.
        of: u64,
    },
    /// An evaluation is done.
    Evaluated {
        /// As it is written to `metrics.jsonl`.
        record: &'a EvaluationRecord,
        /// How long it took.
        seconds: f64,
    },
    /// A checkpoint was written.
    Saved {
        /// Steps done.
        step: u64,
        /// Its folder.
        folder: &'a Path,
        /// How long it took.
        seconds: f64,
    },
}
