//! Log-probabilities of given text, through the plain forward pass (prompt rows, no cache, no full logits).

use crate::InferError;
use crate::planned::Planned;
use crate::session::check_ids;
use backend::{Backend, Buf, Element, Sequences};
use model::{Batch, Config, Model, pass};
use std::ops::Range;

/// Log-probabilities in nats: element `i` is `log p(ids[i] | ids[..i])`; nothing precedes the first token, so it has none.
///
/// # Errors
/// A text longer than the model's context, unknown ids, a result that is not finite, no memory.
pub fn score(b: &dyn Backend, model: &Model, ids: &[u32]) -> Result<Vec<Option<f32>>, InferError> {
    let context = model.config.context;
    if ids.len() > context {
        return Err(InferError::TooLong { tokens: ids.len(), context });
    }
    score_rolling(b, model, ids, None, context)
}

/// [`score`] for texts of any length, in [`rolling_windows`] of up to `window` tokens. With `prefix` (the model's
/// beginning- or end-of-text token, as lm-evaluation-harness has it) the first token is scored too, as the one that
/// follows the prefix.
///
/// # Errors
/// A window of 0 or more than the model's context; otherwise as [`score`].
pub fn score_rolling(
    b: &dyn Backend,
    model: &Model,
    ids: &[u32],
    prefix: Option<u32>,
    window: usize,
) -> Result<Vec<Option<f32>>, InferError> {
    score_windows(b, model, ids, prefix, window, window, &mut |_| ())
}

/// [`score_rolling`] in [`strided_windows`]. `progress` is told how many predictions are done, after each window.
///
/// # Errors
/// As [`score_rolling`]; a stride of 0 or more than the window.
pub fn score_windows(
    b: &dyn Backend,
    model: &Model,
    ids: &[u32],
    prefix: Option<u32>,
    window: usize,
    stride: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Option<f32>>, InferError> {
    let context = model.config.context;
    let check = |flag, value: usize, most: usize| match (1..=most).contains(&value) {
        true => Ok(()),
        false => Err(InferError::Option { flag, value: value.to_string(), rule: format!("1 to {most}") }),
    };
    check("window", window, context)?;
    check("stride", stride, window)?;
    check_ids(ids, model.config.vocab)?;
    let mut scores = Vec::with_capacity(ids.len());
    if prefix.is_none() && !ids.is_empty() {
        scores.push(None);
    }
    let text: Vec<u32> = prefix.iter().chain(ids).copied().collect();
    let predicted = text.len().saturating_sub(1);
    if predicted == 0 {
        return Ok(scores);
    }
    let scorer = Scorer::new(b, model, window.min(predicted))?;
    for Window { inputs, scored } in strided_windows(predicted, window, stride) {
        let (start, targets) = (inputs.start, inputs.start + 1..inputs.end + 1);
        let done = inputs.end;
        let all = scorer.log_probabilities(&text[inputs], &text[targets]).map_err(|error| match error {
            InferError::NotFinite { position, first } => InferError::NotFinite { position: start + position, first },
            other => other,
        })?;
        scores.extend(all[all.len() - scored..].iter().map(|&score| Some(score)));
        progress(done);
    }
    Ok(scores)
}

/// A pass over a part of a long text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Tokens that the model reads; each predicts the one behind it.
    pub inputs: Range<usize>,
    /// How many of the predictions count: the last so many.
    pub scored: usize,
}

/// Windows over a text of `predicted + 1` tokens in which every token but the first is predicted once, as
/// lm-evaluation-harness makes them (`get_rolling_token_windows` with a context of 1): `window` predictions each, the
/// first input of a window being the last target of the one before; the last window is filled up on the left.
pub fn rolling_windows(predicted: usize, window: usize) -> impl Iterator<Item = Window> {
    strided_windows(predicted, window, window)
}

/// [`rolling_windows`] that begin `stride` tokens after one another (at most `window`): every window but the first
/// predicts its last `stride` tokens, each of which is preceded by at least `window − stride` tokens of context.
pub fn strided_windows(predicted: usize, window: usize, stride: usize) -> impl Iterator<Item = Window> {
    let window = window.max(1);
    let stride = stride.clamp(1, window);
    let mut done = 0;
    std::iter::from_fn(move || {
        let begin = done;
        let next = if begin == 0 { window } else { begin + stride };
        done = next.min(predicted);
        (done > begin).then(|| Window { inputs: done.saturating_sub(window)..done, scored: done - begin })
    })
}

/// The buffers of scoring passes, planned once. Dropping it gives the memory back.
pub struct Scorer<'b> {
    b: &'b dyn Backend,
    model: &'b Model,
    activations: Planned<'b>,
    buffers: Buffers<'b>,
}

/// What a pass reads.
struct Buffers<'b> {
    b: &'b dyn Backend,
    batch: Batch,
    targets: Option<Buf>,
}

impl<'b> Scorer<'b> {
    /// For texts of up to `rows` tokens that are read.
    ///
    /// # Errors
    /// [`InferError::Capacity`] if that is 0 or more than the model's context; no memory.
    pub fn new(b: &'b dyn Backend, model: &'b Model, rows: usize) -> Result<Self, InferError> {
        let config: &Config = &model.config;
        if !(1..=config.context).contains(&rows) {
            return Err(InferError::Capacity { capacity: rows, context: config.context });
        }
        let activations = Planned::inference(b, config, rows, 0, rows)?;
        let batch = Batch::new(b, Sequences { batch: 1, tokens: rows }, false)?;
        let mut buffers = Buffers { b, batch, targets: None };
        buffers.targets = Some(b.alloc(Element::U32, rows)?);
        Ok(Self { b, model, activations, buffers })
    }

    /// Element `i` is `log p(targets[i] | inputs[..=i])` in nats.
    ///
    /// # Errors
    /// No inputs, more than planned, unknown ids, a result that is not finite.
    ///
    /// # Panics
    /// If there are not as many targets as inputs.
    pub fn log_probabilities(&self, inputs: &[u32], targets: &[u32]) -> Result<Vec<f32>, InferError> {
        assert_eq!(inputs.len(), targets.len(), "a target for each input");
        let (b, rows) = (self.b, inputs.len());
        let most = self.activations.rows;
        if !(1..=most).contains(&rows) {
            return Err(InferError::RowCount { rows, most });
        }
        check_ids(inputs, self.model.config.vocab)?;
        check_ids(targets, self.model.config.vocab)?;
        let Some(target_buf) = self.buffers.targets else { return Ok(Vec::new()) };
        let batch = Batch { sequences: Sequences { batch: 1, tokens: rows }, ..self.buffers.batch };
        b.write_ids(batch.ids, 0, inputs);
        b.write_ids(target_buf, 0, targets);
        let losses = pass::loss(b, self.model, &self.activations, &batch, target_buf);
        let mut scores = vec![0.0; rows];
        b.read(losses, 0, &mut scores);
        scores.iter_mut().for_each(|score| *score = -*score);
        match scores.iter().position(|score| !score.is_finite()) {
            Some(position) => Err(InferError::NotFinite { position, first: None }.located(b, self.model, inputs)),
            None => Ok(scores),
        }
    }
}

impl Drop for Buffers<'_> {
    fn drop(&mut self) {
        self.batch.free(self.b);
        if let Some(targets) = self.targets.take() {
            self.b.free(targets);
        }
    }
}
