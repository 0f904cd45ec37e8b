//! Logits that are not numbers are refused by the layer that they come from.

use crate::common::{config, ids, parameters};
use backend::{Backend, Precision};
use cpu::Cpu;
use infer::{Continuation, ContinuationScorer, GenerateOptions, Session, generate, score};
use model::Parameters;
use std::ops::ControlFlow;

const VOCAB: usize = 40;
const CONTEXT: usize = 48;

/// Sets one weight of a parameter.
fn spoil(b: &dyn Backend, parameters: &Parameters, name: &str, value: f32) {
    let parameter = parameters.list.iter().find(|parameter| parameter.name == name);
    b.write(parameter.unwrap_or_else(|| panic!("no {name}")).master, 3, &[value]);
    parameters.refresh(b);
}

/// What scoring, generating and scoring continuations say of a model with one bad weight.
fn refusals(name: &str, value: f32) -> [String; 3] {
    let cpu = Cpu::new(1, None).unwrap();
    let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 5, Precision::F32);
    spoil(&cpu, &parameters, name, value);
    let (model, text) = (parameters.model(), ids(9, VOCAB));
    let scored = score(&cpu, &model, &text).unwrap_err();

    let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
    let options = GenerateOptions { max_tokens: 3, ..Default::default() };
    let generated = generate(&mut session, None, &text, &options, &mut |_| ControlFlow::Continue(())).unwrap_err();

    let scorer = ContinuationScorer::new(&cpu, &model, CONTEXT).unwrap();
    let continuation = Continuation { inputs: &text[..8], targets: &text[6..9], greedy: false };
    let continued = scorer.score(&[continuation]).unwrap_err();
    drop((session, scorer));
    parameters.free(&cpu);
    [scored, generated, continued].map(|error| error.to_string())
}

#[test]
fn the_first_layer_that_gives_no_numbers_is_named() {
    for (name, value, part) in [
        ("model.layers.1.mlp.down_proj.weight", f32::NAN, "layer 1 (counted from 0, of 2)"),
        ("model.layers.0.self_attn.qkv_proj.weight", f32::NAN, "layer 0 (counted from 0, of 2)"),
        ("model.layers.0.mlp.down_proj.weight", f32::INFINITY, "layer 0 (counted from 0, of 2)"),
        ("model.norm.weight", f32::INFINITY, "the final norm"),
    ] {
        for refusal in refusals(name, value) {
            let named = format!("are not finite numbers, and of its parts {part} is the first whose output is not; ");
            assert!(refusal.contains(&named), "{name}: {refusal}");
        }
    }
}
