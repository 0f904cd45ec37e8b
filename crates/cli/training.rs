//! Calling the training loop with a tokenizer's functions: what `train` and the quickstart have in common.

use crate::preparation::Prepared;
use anyhow::Result;
use cpu::{Cpu, ceiling};
use recipe::{Precision, Recipe};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use tokenizer::Tokenizer;
use train::{Event, Inputs, Resume, Summary};

/// How a run begins.
pub(crate) struct RunOptions {
    /// Where it begins.
    pub resume: Resume,
    /// Whether other bits than those of the run so far are accepted.
    pub allow_other_bits: bool,
}

/// Trains `recipe` in the folder `run` on what was prepared.
pub(crate) fn run(
    cpu: &Cpu,
    recipe: &Recipe,
    run: &Path,
    prepared: &Prepared,
    options: RunOptions,
    observe: &mut dyn FnMut(&Event<'_>),
    stop: &AtomicBool,
) -> Result<Summary> {
    let tokenizer: &Tokenizer = &prepared.tokenizer;
    let inputs = Inputs {
        data: &prepared.data,
        tokenizer: train::Tokenizer {
            folder: &prepared.tokenizer_folder,
            hash: tokenizer.hash(),
            vocab: tokenizer.vocab_size(),
            bos: tokenizer.bos(),
            eos: tokenizer.eos(),
            encode: &|text| tokenizer.encode(text),
            decode: &|ids| tokenizer.decode_continuation(ids),
        },
        peak_flops: Some(match recipe.train.precision {
            Precision::F32 => ceiling::fma_flops(cpu.pool(), cpu.level()),
            Precision::Bf16 => ceiling::bf16_flops(cpu.pool(), cpu.level()),
        }),
        allow_other_bits: options.allow_other_bits,
    };
    let mut observer = |event: &Event<'_>| observe(event);
    Ok(train::run(cpu, recipe, run, options.resume, &inputs, &mut observer, stop)?)
}
