//! Speculation where the text crosses a border of the chunks that generated rows attend in: positions 256 and 512.

use crate::common::{bits, ids, listen, machines};
use crate::sessions::check_rows;
use backend::{Heads, KvType, Precision};
use cpu::Cpu;
use formats::{Encoding, StoredTensor, gguf, quant};
use infer::{Drafter, GenerateOptions, InferError, Proposal, Request, SamplingOptions, Session, generate};
use model::{Config, Model, Source, tensors};
use std::path::Path;

const VOCAB: usize = 31;
const CONTEXT: usize = 600;
/// A prompt that ends before the first border.
const PROMPT: usize = 248;
/// Tokens that take the text beyond both borders, and beyond the first.
const FAR: usize = 280;
const NEAR: usize = 20;

/// One layer, in blocks of 32, as small as they allow.
fn config() -> Config {
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 32 };
    Config { width: 32, layers: 1, heads, ffn_width: 32, ..crate::common::config(VOCAB, CONTEXT) }
}

/// Proposes what the text will be, but for every `wrong`th position: rejections and acceptances come on both sides of
/// a border, and in one proposal.
struct Oracle<'a> {
    text: &'a [u32],
    wrong: usize,
}

impl Drafter for Oracle<'_> {
    fn prepare(&mut self, _: &[u32], _: &SamplingOptions) -> Result<(), InferError> {
        Ok(())
    }

    fn propose(&mut self, request: Request<'_>) -> Result<Proposal, InferError> {
        let Request { history, most, .. } = request;
        let from = history.len().min(self.text.len());
        let known = &self.text[from..self.text.len().min(from + most)];
        let propose = |(index, &id): (usize, &u32)| {
            if (from + index).is_multiple_of(self.wrong) { (id + 1) % VOCAB as u32 } else { id }
        };
        Ok(Proposal { ids: known.iter().enumerate().map(propose).collect(), ..Default::default() })
    }
}

/// Greedy text of `generated` tokens is the same at several widths, and rows of every width have the same bits across
/// the borders that it passes.
fn check(cpu: &Cpu, model: &Model, cache: KvType, generated: usize) {
    let mut session = Session::with_cache(cpu, model, CONTEXT, cache).unwrap();
    let options = |draft_length| GenerateOptions { max_tokens: generated, draft_length, ..Default::default() };
    let prompt = ids(PROMPT, VOCAB);
    let plain = generate(&mut session, None, &prompt, &options(1), &mut listen).unwrap();
    assert_eq!(plain.ids.len(), generated);
    let text = [&prompt[..], &plain.ids].concat();
    for (draft_length, wrong) in [(1, 5), (4, 1000), (6, 11), (15, 37)] {
        let mut oracle = Oracle { text: &text, wrong };
        let drafted = generate(&mut session, Some(&mut oracle), &prompt, &options(draft_length), &mut listen).unwrap();
        assert!(drafted.ids == plain.ids, "{cache:?}: other text, {draft_length} proposed at a time");
        assert!(drafted.accepted > generated / 3, "{cache:?}: {} accepted", drafted.accepted);
        assert!(wrong > text.len() || drafted.accepted < drafted.drafted, "{cache:?}: nothing was rejected");
    }
    for border in [256, 512].into_iter().filter(|&border| border < text.len()) {
        session.truncate(0);
        check_rows(&mut session, &text[..border - 7], &text[border - 7..border + 11]);
    }
}

/// Every level and cache, for the model that `load` makes: the best level over both borders, the others over one.
fn at_every_level(load: impl Fn(&Cpu) -> Model) {
    let levels = machines().count();
    for (index, cpu) in machines().enumerate() {
        let model = load(&cpu);
        for cache in KvType::ALL {
            check(&cpu, &model, cache, if index + 1 == levels { FAR } else { NEAR });
        }
        model.free(&cpu);
    }
}

/// A model with random weights, in a file.
fn write(path: &Path, encoding: Encoding) {
    let config = config();
    let all = tensors::all(&config);
    let bytes = |(seed, tensor): (usize, &tensors::Tensor)| {
        let random = |i| infer::uniform(seed as u64, infer::Draw::Token, i) as f32 - 0.5;
        match tensor.role.is_vector() {
            true => quant::encode(Encoding::F32, &vec![1.0; tensor.len()]).unwrap(),
            false => quant::encode(encoding, &(0..tensor.len()).map(random).collect::<Vec<_>>()).unwrap(),
        }
    };
    let bytes: Vec<Vec<u8>> = all.iter().enumerate().map(bytes).collect();
    let stored = all.iter().zip(&bytes).map(|(tensor, bytes)| StoredTensor {
        name: tensor.gguf_name(),
        encoding: if tensor.role.is_vector() { Encoding::F32 } else { encoding },
        shape: tensor.shape(),
        bytes,
    });
    gguf::write(path, &config.gguf_entries(encoding), &stored.collect::<Vec<_>>()).unwrap();
}

fn check_file(encoding: Encoding, precision: Precision) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, encoding);
    let source = Source::open(&path).unwrap();
    at_every_level(|cpu| Model::from_source(cpu, &source, precision).unwrap());
}

#[test]
fn f32_text_is_the_same_across_borders() {
    check_file(Encoding::F32, Precision::F32);
}

#[test]
fn bf16_text_is_the_same_across_borders() {
    check_file(Encoding::F32, Precision::Bf16);
}

#[test]
fn int8_text_is_the_same_across_borders() {
    check_file(Encoding::Q8_0, Precision::Int8);
}

/// That the tests above would see a chunk too many or too few: beyond a border the text depends on keys before it.
#[test]
fn keys_before_a_border_matter_beyond_it() {
    let cpu = machines().last().expect("the scalar level is everywhere");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, Encoding::F32);
    let model = Model::load(&cpu, &path, Precision::F32).unwrap();
    let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
    let mut logits = |first: u32| {
        let mut text = ids(520, VOCAB);
        text[100] = first;
        session.truncate(0);
        session.prefill(&text).unwrap();
        bits(session.extend(&[3]).unwrap().row(0))
    };
    assert_ne!(logits(4), logits(5));
    drop(session);
    model.free(&cpu);
}
