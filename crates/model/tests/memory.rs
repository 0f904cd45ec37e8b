//! Memory: what is planned is what is allocated, and all of it is given back. Alone in its process, because a backend's
//! count may include scratch that the threads of other tests share.

#![allow(clippy::unwrap_used)] // helpers of tests, which the lint takes for the program

use backend::{Backend, Precision, Sequences};
use cpu::Cpu;
use model::{Activations, Config, Model, Parameters, Scheme, Source, cost};
use std::path::Path;

/// Parameters and activations made and given back; what is allocated afterwards.
fn train(b: &dyn Backend, config: &Config) -> usize {
    let sequences = Sequences { batch: 2, tokens: 5 };
    let planned = cost::training_bytes(config, sequences, Precision::Bf16);
    let before = b.allocated_bytes();
    let parameters = Parameters::initialize(b, config, Scheme::Amd, 1, Precision::Bf16).unwrap();
    let with_parameters = b.allocated_bytes();
    assert!((with_parameters - before) as u64 >= planned.masters + planned.gradients);
    let acts = Activations::training(b, config, sequences).unwrap();
    assert_eq!((b.allocated_bytes() - with_parameters) as u64, planned.activations);
    acts.free(b);
    parameters.free(b);
    b.allocated_bytes()
}

/// A model loaded and given back; what is allocated afterwards.
fn load(b: &dyn Backend, folder: &Path) -> usize {
    let model = Model::load(b, folder, Precision::Bf16).unwrap();
    model.share().free(b);
    model.free(b);
    b.allocated_bytes()
}

#[test]
fn everything_allocated_is_planned_and_given_back() {
    // One thread: of several, one or more may need scratch at the same time, and it is kept.
    let b = Cpu::new(1, cpu::available().first().copied()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mha_untied");
    let config = Source::open(&folder).unwrap().config().clone();
    // The first round may leave scratch that the backend keeps for the next.
    assert_eq!(train(&b, &config), train(&b, &config));
    assert_eq!(load(&b, &folder), load(&b, &folder));
}
