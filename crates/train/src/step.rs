//! One optimizer step: micro-batches in a fixed order, gradient norm, clipping, AdamW.

use crate::TrainError;
use crate::batch::{TokenBatch, write_part, write_teacher};
use crate::evaluate::Scorer;
use crate::guard::{self, Fault};
use crate::held::{Buffers, Held};
use backend::{AdamW, Backend, Buf, Divergence, Element, Sequences, Teacher};
use model::{Activations, Batch, Kind, Model, Parameters, llama};
use recipe::{DecayedParameters, Optimizer};
use std::sync::atomic::{AtomicBool, Ordering};

/// How a batch goes through the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Sequences of an optimizer step.
    pub sequences: usize,
    /// Sequences that go through the model together; at most `sequences`.
    pub micro_batch: usize,
}

impl BatchShape {
    /// Training tokens of a step.
    pub const fn batch_tokens(&self) -> usize {
        self.sequences * self.tokens
    }

    /// Micro-batches of a step.
    pub const fn micro_batches(&self) -> usize {
        self.sequences.div_ceil(self.micro_batch)
    }

    /// The shape of a full micro-batch.
    pub(crate) const fn micro(&self) -> Sequences {
        Sequences { batch: self.micro_batch, tokens: self.tokens }
    }
}

/// What a step found, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Mean loss of the batch before the update, in nats per token.
    pub(crate) loss: f64,
    /// Norm of the whole gradient before clipping.
    pub(crate) gradient_norm: f64,
    /// Why weights and moments were left alone, if they were.
    pub(crate) fault: Option<Fault>,
}

/// Both moments of a parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moments {
    /// Decayed mean of the gradients.
    pub(crate) m: Buf,
    /// Decayed mean of their squares.
    pub(crate) v: Buf,
}

/// Weights, optimizer state and the buffers of a step, all planned before the first step.
pub(crate) struct Trainer<'b> {
    b: &'b dyn Backend,
    parameters: Held<'b, Parameters>,
    moments: Vec<Moments>,
    activations: Held<'b, Activations>,
    batch: Held<'b, Batch>,
    targets: Buf,
    /// What rows are compared with instead of their next tokens, where there is a teacher.
    teacher: Option<(Teacher, Divergence)>,
    /// Losses of all rows of a batch, so that the host waits once a step, not once a micro-batch.
    losses: Buf,
    losses_read: Vec<f32>,
    _buffers: Buffers<'b>,
    shape: BatchShape,
    optimizer: Optimizer,
    /// Updates done so far. AdamW's bias correction counts these, not the steps, of which some may be skipped.
    pub(crate) updates: u64,
}

impl<'b> Trainer<'b> {
    /// Plans everything for `parameters`. Moments are 0. With a teacher that lists so many tokens for each row, the
    /// divergence from it is made small instead of the loss of the next token.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn new(
        b: &'b dyn Backend,
        parameters: Held<'b, Parameters>,
        shape: BatchShape,
        optimizer: &Optimizer,
        document_mask: bool,
        teacher: Option<(usize, Divergence)>,
    ) -> Result<Self, TrainError> {
        let mut buffers = Buffers::new(b);
        let mut moments = Vec::with_capacity(parameters.list.len());
        for parameter in &parameters.list {
            let mut moment = || buffers.alloc(Element::F32, parameter.len());
            moments.push(Moments { m: moment()?, v: moment()? });
        }
        let activations = Activations::training(b, &parameters.config, shape.micro())?;
        let activations = Held::new(b, activations, Activations::free);
        let batch = Held::new(b, Batch::new(b, shape.micro(), document_mask)?, Batch::free);
        let rows = shape.batch_tokens();
        let mut plan_teacher = |(tokens, divergence): (usize, Divergence)| {
            let listed = shape.micro().rows() * tokens;
            let (ids, probabilities) = (buffers.alloc(Element::U32, listed)?, buffers.alloc(Element::F32, listed)?);
            Ok::<_, TrainError>((Teacher { ids, probabilities, tokens }, divergence))
        };
        let teacher = teacher.map(&mut plan_teacher).transpose()?;
        Ok(Self {
            b,
            parameters,
            moments,
            activations,
            batch,
            targets: buffers.alloc(Element::U32, shape.micro().rows())?,
            teacher,
            losses: buffers.alloc(Element::F32, rows)?,
            losses_read: vec![0.0; rows],
            _buffers: buffers,
            shape,
            optimizer: optimizer.clone(),
            updates: 0,
        })
    }

    /// The weights.
    pub(crate) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The moments, in the order of the parameters.
    pub(crate) fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// For evaluation between steps: `model` is [`Parameters::model`] of the weights.
    pub(crate) fn scorer<'a>(&'a self, model: &'a Model) -> Scorer<'a> {
        let (activations, batch) = (&*self.activations, &*self.batch);
        Scorer { b: self.b, model, activations, batch, targets: self.targets }
    }

    /// One step on `data`, a whole batch. A loss or gradient that is not finite leaves weights, moments and
    /// [`Trainer::updates`] as they were. `None`: `stop` was set between two micro-batches, and nothing was changed.
    pub(crate) fn step(&mut self, data: &TokenBatch, learning_rate: f64, stop: &AtomicBool) -> Option<Outcome> {
        let predicted = data.predicted().max(1);
        if !self.accumulate(data, 1.0 / predicted as f32, stop) {
            return None;
        }
        let rows = data.sequences() * self.shape.tokens;
        let loss = self.sum_of_losses(rows) / predicted as f64;
        let gradient_norm = self.gradient_norm();
        let fault = guard::check(loss, gradient_norm);
        if fault.is_none() {
            self.update(learning_rate, gradient_norm);
        }
        Some(Outcome { loss, gradient_norm, fault })
    }

    /// Gradients of `scale · Σ losses` over the batch, micro-batch by micro-batch in order. The sum over rows runs in
    /// row order, so how the batch is divided does not change it ([`llama::loss_and_gradients`] says where it does).
    pub(crate) fn accumulate(&mut self, data: &TokenBatch, scale: f32, stop: &AtomicBool) -> bool {
        self.parameters.clear_gradients(self.b);
        let mut first = 0;
        while first < data.sequences() {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            let next = data.sequences().min(first + self.shape.micro_batch);
            let part = data.part(first..next);
            write_part(self.b, &self.batch, self.targets, part);
            let (b, parameters, activations, batch) = (self.b, &self.parameters, &self.activations, &self.batch);
            let losses = match self.teacher {
                None => llama::loss_and_gradients(b, parameters, activations, batch, self.targets, scale),
                Some(taught @ (teacher, _)) => {
                    write_teacher(b, batch, teacher, part);
                    llama::divergence_and_gradients(b, parameters, activations, batch, taught, scale)
                }
            };
            self.b.copy(self.losses, first * self.shape.tokens, losses, 0, part.ids.len());
            first = next;
        }
        true
    }

    fn sum_of_losses(&mut self, rows: usize) -> f64 {
        let read = &mut self.losses_read[..rows];
        self.b.read(self.losses, 0, read);
        read.iter().map(|&loss| f64::from(loss)).sum()
    }

    /// √ Σ g² over all parameters, in the order of the list.
    pub(crate) fn gradient_norm(&self) -> f64 {
        let squares = self.parameters.list.iter().map(|parameter| self.b.sum_of_squares(parameter.grad));
        squares.sum::<f64>().sqrt()
    }

    /// Clips, moves weights and moments, refreshes what is multiplied.
    pub(crate) fn update(&mut self, learning_rate: f64, gradient_norm: f64) {
        self.updates += 1;
        let Optimizer { beta1, beta2, epsilon, weight_decay, decayed, clip_norm } = self.optimizer;
        let most = f64::from(clip_norm);
        let clip = if clip_norm > 0.0 && gradient_norm > most { most / gradient_norm } else { 1.0 };
        for (parameter, moments) in self.parameters.list.iter().zip(&self.moments) {
            let decays = decayed == DecayedParameters::All || parameter.kind == Kind::Matrix;
            let step = AdamW {
                learning_rate: learning_rate as f32,
                beta1,
                beta2,
                epsilon,
                weight_decay: if decays { weight_decay } else { 0.0 },
                step: self.updates,
                gradient_scale: clip as f32,
            };
            self.b.adamw(parameter.master, parameter.grad, moments.m, moments.v, &step);
        }
        self.parameters.refresh(self.b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape;
    use crate::testing;
    use data::Sample;

    fn trainer<'b>(b: &'b dyn Backend, overrides: &[&str]) -> Trainer<'b> {
        let recipe = testing::recipe(overrides);
        let config = shape::model_config(&recipe.model, 64, Some(1), Some(2)).unwrap();
        let batch = shape::batch_shape(&recipe.train, config.context).unwrap();
        let precision = shape::precision(&recipe.train);
        let parameters = Parameters::initialize(b, &config, shape::scheme(&recipe.model), 1, precision).unwrap();
        let parameters = Held::new(b, parameters, Parameters::free);
        Trainer::new(b, parameters, batch, &recipe.train.optimizer, recipe.train.document_mask, None).unwrap()
    }

    fn batch(first: u32) -> TokenBatch {
        let mut batch = TokenBatch::new(4, 16, 0);
        for sequence in 0..4 {
            let tokens = (0..17).map(|place| (first + 5 * sequence + place * place) % 64).collect();
            batch.push(&Sample { tokens, first_key: (0..16).map(|row| if row < 6 { 0 } else { 6 }).collect() });
        }
        batch
    }

    fn all(b: &dyn Backend, trainer: &Trainer<'_>) -> Vec<Vec<f32>> {
        let masters = trainer.parameters.list.iter().map(|parameter| parameter.master);
        let moments = trainer.moments.iter().flat_map(|moments| [moments.m, moments.v]);
        let read = |buf| {
            let mut floats = vec![0.0; b.len(buf)];
            b.read(buf, 0, &mut floats);
            floats
        };
        masters.chain(moments).map(read).collect()
    }

    static NEVER: AtomicBool = AtomicBool::new(false);

    #[test]
    fn a_batch_that_is_not_finite_leaves_no_trace() {
        let cpu = cpu::Cpu::new(1, None).unwrap();
        let (mut good, mut hit) = (trainer(&cpu, &[]), trainer(&cpu, &[]));
        let parameter = hit.parameters.list.len() - 1;
        let master = hit.parameters.list[parameter].master;
        for trainer in [&mut good, &mut hit] {
            assert_eq!(trainer.step(&batch(0), 1e-2, &NEVER).unwrap().fault, None);
        }
        let before = all(&cpu, &hit);
        cpu.write(master, 0, &[f32::INFINITY]);
        hit.parameters.refresh(&cpu);
        assert_eq!(hit.step(&batch(1), 1e-2, &NEVER).unwrap().fault, Some(Fault::Loss));
        cpu.write(master, 0, &before[parameter][..1]);
        hit.parameters.refresh(&cpu);
        assert_eq!((all(&cpu, &hit), hit.updates), (before, 1));

        let outcomes = [&mut good, &mut hit].map(|trainer| trainer.step(&batch(2), 1e-2, &NEVER).unwrap());
        assert_eq!(outcomes[0], outcomes[1]);
        assert_eq!(all(&cpu, &good), all(&cpu, &hit));
    }

    #[test]
    fn a_step_that_is_given_up_changes_nothing() {
        let cpu = cpu::Cpu::new(1, None).unwrap();
        let mut trainer = trainer(&cpu, &[]);
        let before = all(&cpu, &trainer);
        assert_eq!(trainer.step(&batch(0), 1e-2, &AtomicBool::new(true)), None);
        assert_eq!((all(&cpu, &trainer), trainer.updates), (before, 0));
    }

    #[test]
    fn only_the_decayed_group_decays() {
        let cpu = cpu::Cpu::new(1, None).unwrap();
        let after = |overrides: &[&str]| {
            let mut trainer = trainer(&cpu, overrides);
            trainer.step(&batch(0), 1e-2, &NEVER).unwrap();
            let kinds: Vec<Kind> = trainer.parameters.list.iter().map(|parameter| parameter.kind).collect();
            (kinds, all(&cpu, &trainer))
        };
        let decay = "train.optimizer.weight_decay=0.5";
        let (kinds, none) = after(&["train.optimizer.weight_decay=0"]);
        let (_, matrices) = after(&[decay, "train.optimizer.decayed=\"matrices\""]);
        let (_, everything) = after(&[decay, "train.optimizer.decayed=\"all\""]);
        for (index, kind) in kinds.iter().enumerate() {
            assert_ne!(none[index], everything[index], "{kind:?}");
            assert_eq!(matrices[index] != none[index], *kind == Kind::Matrix, "{kind:?}");
        }
    }

    #[test]
    fn a_document_mask_changes_what_is_seen() {
        let cpu = cpu::Cpu::new(1, None).unwrap();
        let loss = |mask: &str| trainer(&cpu, &[mask]).step(&batch(0), 1e-2, &NEVER).unwrap().loss;
        assert_ne!(loss("train.document_mask=true"), loss("train.document_mask=false"));
    }

    #[test]
    fn a_norm_above_the_limit_is_scaled_down_to_it() {
        let cpu = cpu::Cpu::new(1, None).unwrap();
        let first_moment = |overrides: &[&str]| {
            let mut trainer = trainer(&cpu, overrides);
            let outcome = trainer.step(&batch(0), 1e-2, &NEVER).unwrap();
            let squares: f64 = trainer.moments.iter().map(|moments| cpu.sum_of_squares(moments.m)).sum();
            (outcome.gradient_norm, squares.sqrt())
        };
        // After one step m = (1 − β₁)·clip·g, and β₁ = 0.9.
        let (norm, moment) = first_moment(&["train.optimizer.clip_norm=0"]);
        assert!((moment - 0.1 * norm).abs() < 1e-6 * norm, "{norm} {moment}");
        let (same_norm, moment) = first_moment(&["train.optimizer.clip_norm=0.01"]);
        assert_eq!(norm, same_norm);
        assert!((moment - 0.1 * 0.01).abs() < 1e-8, "{moment}");
    }
}
