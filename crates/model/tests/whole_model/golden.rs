//! The model against PyTorch: log-probabilities, gradients and three AdamW steps of tiny models, computed in f64 by
//! transformers (tests/golden/make_model.py says how).

use crate::batch::{Trial, backends, gradients, read};
use backend::{AdamW, Backend, Buf, Element, NO_TARGET, Precision, Rows, Sequences};
use formats::safetensors::Weights;
use model::{Activations, Model, Parameters, pass};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
pub(crate) struct Reference {
    sequences: usize,
    tokens: usize,
    pub(crate) ids: Vec<u32>,
    targets: Vec<Option<u32>>,
    first_key: Vec<u32>,
    learning_rates: Vec<f32>,
    optimizer: Optimizer,
    losses: Vec<f64>,
    gradient_norms: Vec<f64>,
    pub(crate) greedy: Vec<u32>,
}

#[derive(Deserialize)]
struct Optimizer {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    clip: f64,
}

impl Reference {
    pub(crate) fn read(folder: &Path) -> Self {
        serde_json::from_str(&formats::file::read_to_string(&folder.join("reference.json")).unwrap()).unwrap()
    }

    pub(crate) fn trial(&self, documents: bool) -> Trial {
        Trial {
            sequences: Sequences { batch: self.sequences, tokens: self.tokens },
            ids: self.ids.clone(),
            targets: self.targets.iter().map(|target| target.unwrap_or(NO_TARGET)).collect(),
            first_key: documents.then(|| self.first_key.clone()),
        }
    }

    /// The loss is a mean over the rows that have a target.
    fn scale(&self) -> f32 {
        1.0 / self.targets.iter().flatten().count() as f32
    }
}

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// Models that are read and not trained.
pub(crate) const READ: [&str; 7] = ["qwen2", "gpt2", "opt", "opt_norms_after", "llama_biases", "qwen3", "smollm3"];

/// Kinds of rotary scaling that the trained models do not have.
const SCALED: [&str; 2] = ["llama_yarn", "llama_dynamic"];

/// Models that are trained here.
fn folders() -> [PathBuf; 2] {
    ["gqa_tied", "mha_untied"].map(golden)
}

fn stored(folder: &Path, name: &str) -> Vec<f32> {
    let weights = Weights::open(&folder.join("reference.safetensors")).unwrap();
    weights.get(name).unwrap_or_else(|| panic!("{name} is missing")).to_f32().unwrap()
}

/// Log-probabilities of the whole vocabulary at every row, by the plain pass.
fn logprobs(b: &dyn Backend, model: &Model, trial: &Trial) -> Vec<f64> {
    let (rows, vocab) = (trial.sequences.rows(), model.config.vocab);
    let acts = Activations::inference(b, &model.config, rows, rows, trial.sequences.tokens).unwrap();
    let (batch, _) = trial.upload(b);
    pass::forward(b, model, &acts, &batch);
    let logits = read(b, pass::logits(b, model, &acts, 0, Rows::prompt(rows)), rows * vocab);
    let of_row = |row: &[f32]| {
        let total = row.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
        row.iter().map(|&logit| f64::from(logit) - total).collect::<Vec<_>>()
    };
    logits.chunks(vocab).flat_map(of_row).collect()
}

/// Largest |found − expected|.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    for folder in folders().into_iter().chain(READ.map(golden)).chain(SCALED.map(golden)) {
        let reference = Reference::read(&folder);
        for b in backends() {
            let model = Model::load(&b, &folder, Precision::F32).unwrap();
            for (documents, name) in [(false, "logprobs"), (true, "masked_logprobs")] {
                let found: Vec<f32> =
                    logprobs(&b, &model, &reference.trial(documents)).iter().map(|&x| x as f32).collect();
                let distance = distance(&found, &stored(&folder, name));
                assert!(distance < 1e-5, "{}: {name} differ by {distance} at {:?}", folder.display(), b.describe());
            }
        }
    }
}

#[test]
fn what_is_not_trained_is_refused_by_name() {
    for name in READ {
        let refused = Parameters::load(&backends()[0], &golden(name), Precision::F32).unwrap_err().to_string();
        let named = match name.split('_').next() {
            Some("llama") => "attention_bias is `true`".into(),
            architecture => format!("model_type is `{}`", architecture.unwrap()),
        };
        assert!(refused.contains(&named) && refused.contains("is trained"), "{refused}");
    }
}

#[test]
fn losses_are_those_of_transformers() {
    for folder in folders() {
        let reference = Reference::read(&folder);
        for b in backends() {
            let parameters = Parameters::load(&b, &folder, Precision::F32).unwrap();
            let trial = reference.trial(false);
            let acts = Activations::training(&b, &parameters.config, trial.sequences).unwrap();
            let (batch, targets) = trial.upload(&b);
            let losses = pass::loss(&b, &parameters.model(), &acts, &batch, targets);
            let losses = read(&b, losses, trial.sequences.rows());
            let mean = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() * f64::from(reference.scale());
            assert!((mean - reference.losses[0]).abs() < 5e-6, "{mean} {}", reference.losses[0]);
        }
    }
}

#[test]
fn gradients_are_those_of_pytorch() {
    for folder in folders() {
        let reference = Reference::read(&folder);
        for b in backends() {
            let parameters = Parameters::load(&b, &folder, Precision::F32).unwrap();
            gradients(&b, &parameters, &[reference.trial(false)], reference.scale());
            for part in parameters.parts() {
                let found = parameters.read_part(&b, parameters.list[part.parameter].grad, &part);
                let expected = stored(&folder, &format!("grad.{}", part.tensor.name()));
                let largest = expected.iter().fold(0f32, |largest, g| largest.max(g.abs()));
                let distance = distance(&found, &expected);
                assert!(distance < 1e-5 * largest, "{} differs by {distance} of {largest}", part.tensor.name());
            }
        }
    }
}

/// The moments of one parameter.
struct Moments {
    first: Buf,
    second: Buf,
}

/// One step of AdamW with the gradient norm clipped, as `torch.nn.utils.clip_grad_norm_` has it; returns the norm.
fn step(b: &dyn Backend, parameters: &Parameters, moments: &[Moments], reference: &Reference, index: usize) -> f64 {
    gradients(b, parameters, &[reference.trial(false)], reference.scale());
    let norm = parameters.list.iter().map(|parameter| b.sum_of_squares(parameter.grad)).sum::<f64>().sqrt();
    let Optimizer { beta1, beta2, epsilon, weight_decay, clip } = reference.optimizer;
    let update = AdamW {
        learning_rate: reference.learning_rates[index],
        beta1,
        beta2,
        epsilon,
        weight_decay,
        step: index as u64 + 1,
        gradient_scale: (clip / (norm + 1e-6)).min(1.0) as f32,
    };
    for (parameter, Moments { first, second }) in parameters.list.iter().zip(moments) {
        b.adamw(parameter.master, parameter.grad, *first, *second, &update);
    }
    parameters.refresh(b);
    norm
}

#[test]
fn three_steps_of_adamw_end_where_pytorch_ends() {
    for folder in folders() {
        let reference = Reference::read(&folder);
        for b in backends() {
            let parameters = Parameters::load(&b, &folder, Precision::F32).unwrap();
            let zeros = |len| b.alloc(Element::F32, len).unwrap();
            let moments: Vec<Moments> = (parameters.list.iter())
                .map(|parameter| Moments { first: zeros(parameter.len()), second: zeros(parameter.len()) })
                .collect();
            for (index, expected) in reference.gradient_norms.iter().enumerate() {
                let norm = step(&b, &parameters, &moments, &reference, index);
                assert!((norm - expected).abs() < 1e-5 * expected, "step {index}: {norm} {expected}");
            }
            for (tensor, found) in parameters.to_stored(&b) {
                let distance = distance(&found, &stored(&folder, &format!("after.{}", tensor.name())));
                assert!(distance < 1e-5, "{} differs by {distance} at {:?}", tensor.name(), b.describe());
            }
        }
    }
}
