//! Evaluation: loss and bits per byte on held-out text, and continuations of prompts.

use crate::batch::{Part, TokenBatch, write_part};
use crate::held::{Buffers, Held};
use crate::metrics::Continuation;
use crate::{BatchShape, Tokenizer, TrainError};
use backend::{Backend, Buf, Element};
use data::{Loader, Part as DataPart};
use infer::{DraftVocabulary, GenerateOptions, Session};
use model::{Activations, Batch, Model, pass};
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A model's loss on held-out text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean loss, in nats per token; `None` where there is no held-out text.
    pub nats_per_token: Option<f64>,
    /// The same as bits per byte of the text that the tokens stand for.
    pub bits_per_byte: Option<f64>,
    /// Tokens that were predicted.
    pub tokens: u64,
}

/// The loss of `model` on the validation part of the token shards in `data`: of its first `tokens` tokens, or of all
/// where that is 0. Sequences are of `sequence` tokens, `micro_batch` of them at a time (which does not change the sum).
///
/// # Errors
/// Shards that cannot be read or hold ids that the model does not have; no memory.
pub fn evaluate(
    b: &dyn Backend,
    model: &Model,
    data: &Path,
    sequence: usize,
    micro_batch: usize,
    tokens: u64,
    document_mask: bool,
) -> Result<Evaluation, TrainError> {
    let loader = Loader::open(data, &[], sequence, 0)?;
    // Ids index the embedding: a model that lacks some must be refused, of whichever tokenizer it is.
    loader.manifest().check(&loader.manifest().tokenizer_hash, model.config.vocab)?;
    let shape = BatchShape { tokens: sequence, sequences: micro_batch, micro_batch };
    let rows = shape.micro().rows();
    let activations = Activations::inference(b, &model.config, rows, 0, sequence)?;
    let activations = Held::new(b, activations, Activations::free);
    let batch = Held::new(b, Batch::new(b, shape.micro(), document_mask)?, Batch::free);
    let mut buffers = Buffers::new(b);
    let targets = buffers.alloc(Element::U32, rows)?;
    let scorer = Scorer { b, model, activations: &activations, batch: &batch, targets };
    let never = AtomicBool::new(false);
    Ok(held_out_loss(&scorer, &loader, None, tokens, &mut |_, _| (), &never)?.unwrap_or_default())
}

/// A model and the buffers of a pass without gradients.
#[derive(Clone, Copy)]
pub(crate) struct Scorer<'a> {
    pub(crate) b: &'a dyn Backend,
    pub(crate) model: &'a Model,
    pub(crate) activations: &'a Activations,
    pub(crate) batch: &'a Batch,
    pub(crate) targets: Buf,
}

impl Scorer<'_> {
    /// Adds the losses of the rows of `part` to `sum`, in order.
    fn add_losses(&self, part: Part<'_>, losses: &mut Vec<f32>, sum: &mut f64) {
        write_part(self.b, self.batch, self.targets, part);
        let read_from = pass::loss(self.b, self.model, self.activations, self.batch, self.targets);
        losses.resize(part.ids.len(), 0.0);
        self.b.read(read_from, 0, losses);
        *sum = losses.iter().fold(*sum, |sum, &loss| sum + f64::from(loss));
    }
}

/// Mean loss on `limit` tokens (0: all) of the held-out part; `None` if `stop` was set before the end. `progress` gets
/// tokens done and in all. A draft with a `vocabulary` of its own reads and predicts its own ids, of which bits per byte
/// say nothing.
pub(crate) fn held_out_loss(
    scorer: &Scorer<'_>,
    loader: &Loader,
    vocabulary: Option<&DraftVocabulary>,
    limit: u64,
    progress: &mut dyn FnMut(u64, u64),
    stop: &AtomicBool,
) -> Result<Option<Evaluation>, TrainError> {
    let micro = scorer.batch.sequences;
    let of = loader.validation_len(limit) * micro.tokens as u64;
    let mut data = TokenBatch::new(micro.batch, micro.tokens, 0);
    let (mut sum, mut predicted, mut losses) = (0.0, 0, Vec::new());
    let mut samples = loader.validation_samples(limit).peekable();
    while samples.peek().is_some() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        data.clear();
        for sample in samples.by_ref().take(micro.batch) {
            let mut sample = sample?;
            if let Some(vocabulary) = vocabulary {
                sample.tokens.iter_mut().for_each(|id| *id = vocabulary.own(*id));
            }
            data.push(&sample);
        }
        scorer.add_losses(data.part(0..data.sequences()), &mut losses, &mut sum);
        predicted += data.predicted() as u64;
        progress(predicted, of);
    }
    if predicted == 0 {
        return Ok(Some(Evaluation::default()));
    }
    let nats = sum / predicted as f64;
    let per_byte = |bytes_per_token: f64| nats / std::f64::consts::LN_2 / bytes_per_token;
    Ok(Some(Evaluation {
        nats_per_token: Some(nats),
        bits_per_byte: match vocabulary {
            None => loader.manifest().bytes_per_token(DataPart::Validation).map(per_byte),
            Some(_) => None,
        },
        tokens: predicted,
    }))
}

/// What the model makes of each prompt, greedily. A prompt that leaves no room in the context is left out.
pub(crate) fn continue_prompts(
    b: &dyn Backend,
    model: &Model,
    tokenizer: &Tokenizer<'_>,
    evaluation: &recipe::Evaluation,
) -> Result<Vec<Continuation>, TrainError> {
    let mut continuations = Vec::with_capacity(evaluation.prompts.len());
    for prompt in &evaluation.prompts {
        let mut ids = (tokenizer.encode)(prompt);
        if ids.is_empty() {
            ids.extend(tokenizer.bos.or(tokenizer.eos));
        }
        let room = model.config.context.saturating_sub(ids.len());
        if ids.is_empty() || room == 0 || evaluation.sample_tokens == 0 {
            continue;
        }
        let max_tokens = evaluation.sample_tokens.min(room);
        let options = GenerateOptions { max_tokens, stop: model.config.eos.clone(), ..Default::default() };
        let mut session = Session::new(b, model, ids.len() + max_tokens)?;
        // Weights that a bad batch has ruined still train on, or are stopped by their own sentence, not by a sample's.
        let text = match infer::generate(&mut session, None, &ids, &options, &mut |_| ControlFlow::Continue(())) {
            Ok(outcome) => (tokenizer.decode)(&outcome.ids),
            Err(infer::InferError::NotFinite { .. }) => String::new(),
            Err(error) => return Err(error.into()),
        };
        continuations.push(Continuation { prompt: prompt.clone(), text });
    }
    Ok(continuations)
}
