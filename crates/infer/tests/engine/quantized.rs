//! Rows are exact at the widths of real models too, whatever the weights' encoding.

use crate::common::{ids, machines, parameters, wide_config};
use crate::sessions::check_rows;
use backend::{KvType, Precision};
use cpu::Cpu;
use formats::{Encoding, StoredTensor, gguf, quant};
use infer::{Chain, Costs, Drafter, GenerateOptions, ModelDrafter, NgramDrafter, Schedule, Session, generate, score};
use model::{Model, Source, tensors};
use std::path::Path;

const VOCAB: usize = 40;
const CONTEXT: usize = 24;

/// Generates and verifies with `model` at every chunk size.
fn check(cpu: &Cpu, model: &Model, cache: KvType) {
    let text = ids(CONTEXT, VOCAB);
    let (prompt, rest) = text.split_at(7);
    let mut session = Session::with_cache(cpu, model, CONTEXT, cache).unwrap();
    check_rows(&mut session, prompt, rest);
    let options = GenerateOptions { max_tokens: 17, draft_length: 15, ..Default::default() };
    let plain = generate(&mut session, None, prompt, &options, &mut crate::common::listen).unwrap();
    let draft = || ModelDrafter::new(cpu, model, VOCAB, CONTEXT).unwrap();
    let adaptive = Schedule::Adaptive(Costs::flat(0.05));
    let chains: [Box<dyn Drafter + '_>; 4] = [
        Box::new(NgramDrafter::default()),
        Box::new(draft()),
        Box::new(Chain::usual(Some(draft()), adaptive)),
        Box::new(Chain::usual(Some(draft()), Schedule::Heuristic).then_ngram(NgramDrafter::default())),
    ];
    for mut drafter in chains {
        let drafted =
            generate(&mut session, Some(&mut *drafter), prompt, &options, &mut crate::common::listen).unwrap();
        assert_eq!(plain.ids, drafted.ids);
    }
}

#[test]
fn wide_float_models_have_exact_rows() {
    for cpu in machines() {
        for precision in [Precision::F32, Precision::Bf16] {
            let parameters = parameters(&cpu, &wide_config(VOCAB, CONTEXT), 4, precision);
            check(&cpu, &parameters.model(), KvType::F32);
            parameters.free(&cpu);
        }
    }
}

const ENCODINGS: [Encoding; 12] = [
    Encoding::Q8_0,
    Encoding::Q4_0,
    Encoding::Q4_1,
    Encoding::Q5_0,
    Encoding::Q5_1,
    Encoding::Q4K,
    Encoding::Q5K,
    Encoding::Q6K,
    Encoding::Q2K,
    Encoding::Q3K,
    Encoding::Iq4Nl,
    Encoding::Iq4Xs,
];

#[test]
fn quantized_models_have_exact_rows() {
    let folder = tempfile::tempdir().unwrap();
    for encoding in ENCODINGS {
        let path = folder.path().join(format!("{encoding}.gguf"));
        write_gguf(&path, encoding);
        for cpu in machines() {
            for precision in [Precision::Bf16, Precision::Int8] {
                let model = Model::load(&cpu, &path, precision).unwrap();
                assert_eq!((model.precision, model.encoding), (precision, encoding));
                check(&cpu, &model, KvType::Q8_0);
                model.free(&cpu);
            }
        }
    }
}

/// Log-probabilities of a model whose weights are random: nothing it computes is redundant, so errors are at their worst.
#[test]
fn int8_scores_are_near_those_of_the_decoded_weights() {
    let folder = tempfile::tempdir().unwrap();
    let text = ids(CONTEXT, VOCAB);
    let Some(cpu) = machines().last() else { return };
    for encoding in ENCODINGS {
        let path = folder.path().join(format!("{encoding}.gguf"));
        write_gguf(&path, encoding);
        let decoded = Model::from_source_decoded(&cpu, &Source::open(&path).unwrap()).unwrap();
        let int8 = Model::load(&cpu, &path, Precision::Int8).unwrap();
        let want = score(&cpu, &decoded, &text).unwrap();
        let got = score(&cpu, &int8, &text).unwrap();
        let errors: Vec<f32> =
            want.iter().flatten().zip(got.iter().flatten()).map(|(want, got)| (want - got).abs()).collect();
        let (most, mean) =
            (errors.iter().copied().fold(0.0, f32::max), errors.iter().sum::<f32>() / errors.len() as f32);
        println!("{encoding}: {most} at most, {mean} in the mean, of {} nats", -want[1].unwrap());
        assert!(most > 0.0 && most < 0.4 && mean < 0.15, "{encoding}: {most}, {mean}");
    }
}

/// A model with random weights in `encoding`; norms are 1.
fn write_gguf(path: &Path, encoding: Encoding) {
    let config = wide_config(VOCAB, CONTEXT);
    let all = tensors::all(&config);
    let bytes: Vec<Vec<u8>> = all
        .iter()
        .enumerate()
        .map(|(seed, tensor)| match tensor.role.is_vector() {
            true => quant::encode(Encoding::F32, &vec![1.0; tensor.len()]).unwrap(),
            false => random_blocks(encoding, tensor.len(), seed),
        })
        .collect();
    let stored: Vec<StoredTensor<'_>> = all
        .iter()
        .zip(&bytes)
        .map(|(tensor, bytes)| StoredTensor {
            name: tensor.gguf_name(),
            encoding: if tensor.role.is_vector() { Encoding::F32 } else { encoding },
            shape: tensor.shape(),
            bytes,
        })
        .collect();
    gguf::write(path, &config.gguf_entries(encoding), &stored).unwrap();
}

fn random_blocks(encoding: Encoding, len: usize, seed: usize) -> Vec<u8> {
    let values = (0..len).map(|i| infer::uniform(seed as u64, infer::Draw::Token, i) as f32 - 0.5);
    quant::encode(encoding, &values.map(|value| value * 0.4).collect::<Vec<_>>()).unwrap()
}
