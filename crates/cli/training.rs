//! Calling the training loop with a tokenizer's functions: what `train` and the quickstart have in common.

use crate::preparation::Prepared;
use anyhow::Result;
use cpu::{Cpu, ceiling};
use infer::DraftVocabulary;
use recipe::{Precision, Recipe};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use tokenizer::Tokenizer;
use train::distill::Teacher;
use train::{Event, Inputs, Resume, Summary};

/// How a run begins.
pub(crate) struct RunOptions<'a> {
    /// Where it begins.
    pub resume: Resume,
    /// Whether other bits than those of the run so far are accepted.
    pub allow_other_bits: bool,
    /// The target, where a draft is trained.
    pub teacher: Option<&'a Teacher<'a>>,
}

/// Trains `recipe` in the folder `run` on what was prepared.
pub(crate) fn run(
    cpu: &Cpu,
    recipe: &Recipe,
    run: &Path,
    prepared: &Prepared,
    options: RunOptions<'_>,
    observe: &mut dyn FnMut(&Event<'_>),
    stop: &AtomicBool,
) -> Result<Summary> {
    let tokenizer: &Tokenizer = &prepared.tokenizer;
    let vocabulary = options.teacher.and_then(|teacher| teacher.vocabulary);
    let own = |id: u32| vocabulary.map_or(id, |vocabulary| vocabulary.own(id));
    let of_target = |ids: &[u32]| match vocabulary {
        Some(vocabulary) => ids.iter().filter_map(|&id| vocabulary.target_ids().get(id as usize).copied()).collect(),
        None => ids.to_vec(),
    };
    let inputs = Inputs {
        data: &prepared.data,
        tokenizer: train::Tokenizer {
            folder: &prepared.tokenizer_folder,
            hash: tokenizer.hash(),
            vocab: vocabulary.map_or(tokenizer.vocab_size(), DraftVocabulary::len),
            bos: tokenizer.bos().map(own),
            eos: tokenizer.eos().map(own),
            encode: &|text| tokenizer.encode(text).into_iter().map(own).collect(),
            decode: &|ids| tokenizer.decode_continuation(&of_target(ids)),
        },
        peak_flops: Some(match recipe.train.precision {
            Precision::F32 => ceiling::fma_flops(cpu.pool(), cpu.level()),
            Precision::Bf16 => ceiling::bf16_flops(cpu.pool(), cpu.level()),
        }),
        allow_other_bits: options.allow_other_bits,
        teacher: options.teacher,
    };
    let mut observer = |event: &Event<'_>| observe(event);
    Ok(train::run(cpu, recipe, run, options.resume, &inputs, &mut observer, stop)?)
}
