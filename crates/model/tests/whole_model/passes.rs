//! The passes against each other and against finite differences.

use crate::batch::{Trial, backends, config, gradients, parameters, read, scalar};
use backend::{Backend, Family, KvType, Precision, Rows};
use model::{Activations, Config, Parameters, Scheme, pass};

/// Σ losses, summed in f64.
fn total_loss(b: &dyn Backend, parameters: &Parameters, trial: &Trial, acts: &Activations) -> f64 {
    let (batch, targets) = trial.upload(b);
    let losses = pass::loss(b, &parameters.model(), acts, &batch, targets);
    let losses = read(b, losses, trial.sequences.rows());
    batch.free(b);
    b.free(targets);
    losses.iter().map(|&loss| f64::from(loss)).sum()
}

/// `(L(w + h·u) − L(w − h·u)) / 2h` for parameter `index`, with Richardson's correction: error O(h⁴).
fn slope(b: &dyn Backend, parameters: &Parameters, index: usize, u: &[f32], loss: &dyn Fn() -> f64) -> f64 {
    let parameter = &parameters.list[index];
    let weights = read(b, parameter.master, parameter.len());
    let at = |h: f32| {
        let moved: Vec<f32> = weights.iter().zip(u).map(|(w, u)| w + h * u).collect();
        b.write(parameter.master, 0, &moved);
        parameters.refresh(b);
        loss()
    };
    let central = |h: f32| (at(h) - at(-h)) / f64::from(2.0 * h);
    let (coarse, fine) = (central(0.01), central(0.005));
    b.write(parameter.master, 0, &weights);
    parameters.refresh(b);
    (4.0 * fine - coarse) / 3.0
}

fn check_gradients(config: &Config, documents: bool) {
    let b = scalar();
    let parameters = parameters(&b, config);
    let trial = Trial::new(config, 2, 11, documents);
    let acts = Activations::training(&b, config, trial.sequences).unwrap();
    let loss = || total_loss(&b, &parameters, &trial, &acts);
    let gradients = gradients(&b, &parameters, std::slice::from_ref(&trial), 1.0);
    for (index, gradient) in gradients.iter().enumerate() {
        let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        // Directions: along the gradient, the largest element, and scattered signs.
        let along: Vec<f32> = gradient.iter().map(|&g| (f64::from(g) / norm) as f32).collect();
        let largest = (0..gradient.len()).max_by(|&i, &j| gradient[i].abs().total_cmp(&gradient[j].abs())).unwrap();
        let single: Vec<f32> = (0..gradient.len()).map(|i| if i == largest { 1.0 } else { 0.0 }).collect();
        let mut sign = crate::batch::scattered(index as u64, 2);
        let unit = 1.0 / (gradient.len() as f32).sqrt();
        let signs: Vec<f32> = (0..gradient.len()).map(|_| if sign() == 0 { unit } else { -unit }).collect();
        for direction in [along, single, signs] {
            let expected: f64 = gradient.iter().zip(&direction).map(|(&g, &u)| f64::from(g) * f64::from(u)).sum();
            let found = slope(&b, &parameters, index, &direction, &loss);
            // The loss is an f32 sum of about 60: differences over 0.01 are good to some 1e-3.
            assert!(
                (found - expected).abs() < 1e-3 * norm.max(1.0),
                "{}: {found} {expected}",
                parameters.list[index].name
            );
        }
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    for (kv_heads, tied, documents) in [(2, true, false), (2, true, true), (4, false, false), (1, false, true)] {
        check_gradients(&config(kv_heads, tied), documents);
    }
}

#[test]
fn a_batch_and_its_parts_leave_the_same_bits() {
    let config = config(2, false);
    for b in backends() {
        let parameters = parameters(&b, &config);
        let trial = Trial::new(&config, 4, 9, true);
        let whole = gradients(&b, &parameters, &[trial.part(0, 4)], 0.125);
        let parts = gradients(&b, &parameters, &[trial.part(0, 1), trial.part(1, 3), trial.part(3, 4)], 0.125);
        for ((whole, parts), parameter) in whole.iter().zip(&parts).zip(&parameters.list) {
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(whole), bits(parts), "{} at {:?}", parameter.name, b.describe());
        }
        parameters.free(&b);
    }
}

#[test]
fn gradients_add_up_over_calls() {
    let b = scalar();
    let config = config(4, true);
    let parameters = parameters(&b, &config);
    let trial = Trial::new(&config, 2, 6, false);
    let once = gradients(&b, &parameters, &[trial.part(0, 2)], 1.0);
    let twice = gradients(&b, &parameters, &[trial.part(0, 2), trial.part(0, 2)], 1.0);
    for (once, twice) in once.iter().flatten().zip(twice.iter().flatten()) {
        assert!((2.0 * once - twice).abs() <= 1e-4 * (1.0 + once.abs()));
    }
}

/// Logits of every row of one sequence, by the plain pass.
fn plain_logits(b: &dyn Backend, parameters: &Parameters, trial: &Trial) -> Vec<f32> {
    let (config, rows) = (&parameters.config, trial.sequences.rows());
    let acts = Activations::inference(b, config, rows, rows, rows).unwrap();
    let (batch, _) = trial.upload(b);
    pass::forward(b, &parameters.model(), &acts, &batch);
    let logits = pass::logits(b, &parameters.model(), &acts, 0, Rows::prompt(rows));
    read(b, logits, rows * config.vocab)
}

#[test]
fn the_cached_pass_agrees_with_the_plain_one() {
    for (kv_heads, tied) in [(2, true), (4, false)] {
        let config = config(kv_heads, tied);
        for b in backends() {
            let parameters = parameters(&b, &config);
            let model = parameters.model();
            let trial = Trial::new(&config, 1, 13, false);
            let plain = plain_logits(&b, &parameters, &trial);

            let acts = Activations::inference(&b, &config, 6, 3, 13).unwrap();
            let cache = b.new_kv_cache(config.layers, 13, config.heads, KvType::F32).unwrap();
            // A prompt of six and its last two rows, one more token, then three and three at a time.
            for (at, count, first, family) in [
                (0, 6, 4, Family::Prompt),
                (6, 1, 0, Family::Generated),
                (7, 3, 0, Family::Generated),
                (10, 3, 0, Family::Generated),
            ] {
                pass::forward_cached(&b, &model, &acts, cache, at, &trial.ids[at..at + count], family);
                let rows = Rows { count: count - first, family };
                let logits = read(&b, pass::logits(&b, &model, &acts, first, rows), rows.count * config.vocab);
                let expected = &plain[(at + first) * config.vocab..][..logits.len()];
                for (found, expected) in logits.iter().zip(expected) {
                    assert!((found - expected).abs() < 2e-5, "{found} {expected} at {at} {:?}", b.describe());
                }
            }
            b.free_kv_cache(cache);
        }
    }
}

#[test]
fn documents_of_a_sequence_do_not_see_each_other() {
    let b = scalar();
    let config = config(2, true);
    let parameters = parameters(&b, &config);
    let mut trial = Trial::new(&config, 1, 10, false);
    trial.first_key = Some(vec![0, 0, 0, 0, 4, 4, 4, 4, 4, 4]);
    let masked = plain_logits(&b, &parameters, &trial);
    trial.ids[..4].copy_from_slice(&[7, 7, 7, 7]);
    let changed = plain_logits(&b, &parameters, &trial);
    assert_ne!(masked[..4 * config.vocab], changed[..4 * config.vocab]);
    assert_eq!(masked[4 * config.vocab..], changed[4 * config.vocab..]);
}

#[test]
fn bf16_gradients_point_where_f32_gradients_point() {
    let config = config(2, true);
    for b in backends() {
        let trial = Trial::new(&config, 2, 9, true);
        let of = |precision| {
            let parameters = Parameters::initialize(&b, &config, Scheme::Normal { std: 0.2 }, 4, precision).unwrap();
            let gradients = gradients(&b, &parameters, std::slice::from_ref(&trial), 1.0);
            parameters.free(&b);
            gradients
        };
        for (single, half) in of(Precision::F32).iter().zip(&of(Precision::Bf16)) {
            let product =
                |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
            let cosine = product(single, half) / (product(single, single) * product(half, half)).sqrt();
            assert!(cosine > 0.999, "{cosine} at {:?}", b.describe());
        }
    }
}
