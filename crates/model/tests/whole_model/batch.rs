//! A small model and a batch for it, as the tests of the passes need them.

use backend::{Backend, Buf, Element, Heads, NO_TARGET, Precision, Sequences};
use cpu::Cpu;
use model::Batch;
use model::{Activations, Config, Parameters, Rope, RopeScaling, Scheme};

/// Every level of this machine, each with two threads.
pub(crate) fn backends() -> Vec<Cpu> {
    cpu::available().into_iter().map(|level| Cpu::new(2, Some(level)).unwrap()).collect()
}

/// The scalar level with two threads.
pub(crate) fn scalar() -> Cpu {
    Cpu::new(2, Some(cpu::available()[0])).unwrap()
}

/// Two blocks, a few thousand weights, widths that no vector register divides.
pub(crate) fn config(kv_heads: usize, tied: bool) -> Config {
    Config {
        vocab: 29,
        width: 20,
        layers: 2,
        heads: Heads { heads: 4, kv_heads, head_dim: 6 },
        ffn_width: 28,
        context: 32,
        norm_epsilon: 1e-5,
        rope: Rope { theta: 100.0, scaling: RopeScaling::None },
        tied,
        bos: Some(1),
        eos: vec![2],
        architecture: model::Architecture::Llama,
        form: model::Form::LLAMA,
        initializer_range: 0.02,
    }
}

/// Parameters large enough that attention is far from uniform.
pub(crate) fn parameters(b: &dyn Backend, config: &Config) -> Parameters {
    let parameters = Parameters::initialize(b, config, Scheme::Normal { std: 0.3 }, 11, Precision::F32).unwrap();
    // Norms that are not 1, or an error in them would not show.
    for parameter in parameters.list.iter().filter(|parameter| parameter.rows == 1) {
        let weights: Vec<f32> = (0..parameter.len()).map(|i| 0.7 + 0.05 * (i % 13) as f32).collect();
        b.write(parameter.master, 0, &weights);
    }
    parameters
}

/// Numbers that look random and are the same everywhere.
pub(crate) fn scattered(seed: u64, below: u32) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as u32) % below
    }
}

/// A batch with its targets; some rows have none, and with `documents` each sequence holds several.
pub(crate) struct Trial {
    pub(crate) sequences: Sequences,
    pub(crate) ids: Vec<u32>,
    pub(crate) targets: Vec<u32>,
    pub(crate) first_key: Option<Vec<u32>>,
}

impl Trial {
    pub(crate) fn new(config: &Config, batch: usize, tokens: usize, documents: bool) -> Self {
        let sequences = Sequences { batch, tokens };
        let mut next = scattered(5, config.vocab as u32);
        let ids = (0..sequences.rows()).map(|_| next()).collect();
        let target = |row: usize, id: u32| if row % 7 == 4 { NO_TARGET } else { id };
        let targets = (0..sequences.rows()).map(|row| target(row, next())).collect();
        let start = |row: usize| {
            let (sequence, token) = (row / tokens, row % tokens);
            let first = 2 + sequence % 3;
            if token < first { 0 } else { first + (token - first) / 4 * 4 }
        };
        let first_key = documents.then(|| (0..sequences.rows()).map(|row| start(row) as u32).collect());
        Self { sequences, ids, targets, first_key }
    }

    /// Sequences `from..to` of this batch.
    pub(crate) fn part(&self, from: usize, to: usize) -> Self {
        let rows = from * self.sequences.tokens..to * self.sequences.tokens;
        Self {
            sequences: Sequences { batch: to - from, ..self.sequences },
            ids: self.ids[rows.clone()].to_vec(),
            targets: self.targets[rows.clone()].to_vec(),
            first_key: self.first_key.as_ref().map(|keys| keys[rows].to_vec()),
        }
    }

    /// The batch and its targets on the backend.
    pub(crate) fn upload(&self, b: &dyn Backend) -> (Batch, Buf) {
        let batch = Batch::new(b, self.sequences, self.first_key.is_some()).unwrap();
        b.write_ids(batch.ids, 0, &self.ids);
        if let (Some(buf), Some(keys)) = (batch.first_key, &self.first_key) {
            b.write_ids(buf, 0, keys);
        }
        let targets = b.alloc(Element::U32, self.sequences.rows()).unwrap();
        b.write_ids(targets, 0, &self.targets);
        (batch, targets)
    }
}

pub(crate) fn read(b: &dyn Backend, buf: Buf, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    b.read(buf, 0, &mut values);
    values
}

/// All gradients of `scale · Σ losses` over `trials` in turn, one buffer after the other.
pub(crate) fn gradients(b: &dyn Backend, parameters: &Parameters, trials: &[Trial], scale: f32) -> Vec<Vec<f32>> {
    parameters.clear_gradients(b);
    for trial in trials {
        let acts = Activations::training(b, &parameters.config, trial.sequences).unwrap();
        let (batch, targets) = trial.upload(b);
        model::llama::loss_and_gradients(b, parameters, &acts, &batch, targets, scale);
        acts.free(b);
        batch.free(b);
        b.free(targets);
    }
    parameters.list.iter().map(|parameter| read(b, parameter.grad, parameter.len())).collect()
}
