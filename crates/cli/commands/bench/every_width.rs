//! Greedy texts at every width with every kind of drafter, byte by byte beside those of the target alone.

use super::speculative::{Arguments, Stage};
use crate::speculation::{DraftLength, Speculate, SpeculationArguments};
use crate::{output, signals};
use anyhow::{Result, bail};
use infer::{GenerateOptions, MAX_DRAFT_LENGTH};
use serde::Serialize;
use std::sync::atomic::Ordering;

/// A kind of drafter and what its texts were like.
#[derive(Serialize)]
struct Checked {
    drafters: &'static str,
    texts: usize,
    bytes: usize,
    differing_bytes: usize,
    accepted: usize,
    drafted: usize,
}

/// Writes every prompt at every width with every kind of drafter.
pub(super) fn every_width(arguments: &Arguments, stage: &Stage<'_>) -> Result<()> {
    let has_draft = stage.cast.draft.is_some();
    let kinds = [
        ("ngram", vec![Speculate::Ngram]),
        ("suffix", vec![Speculate::Suffix]),
        ("draft", vec![Speculate::Draft]),
        ("suffix, ngram and draft", vec![Speculate::Suffix, Speculate::Ngram, Speculate::Draft]),
    ];
    let kinds: Vec<_> = kinds.into_iter().filter(|(_, who)| has_draft || !who.contains(&Speculate::Draft)).collect();
    let stop = signals::stop_flag()?;
    let mut session = stage.session()?;
    let mut checked: Vec<Checked> = Vec::new();
    for (drafters, _) in &kinds {
        checked.push(Checked { drafters, texts: 0, bytes: 0, differing_bytes: 0, accepted: 0, drafted: 0 });
    }
    let mut chains = Vec::new();
    for (_, who) in &kinds {
        let how = SpeculationArguments {
            speculate: who.clone(),
            draft_length: DraftLength::Fixed(MAX_DRAFT_LENGTH),
            ..arguments.speculation.clone()
        };
        chains.extend(how.chain(&stage.cast, stage.capacity)?.map(|(chain, _)| chain));
    }
    'prompts: for (index, prompt) in stage.prompts.iter().enumerate() {
        let text = |ids: &[u32]| stage.tokenizer.decode_continuation_bytes(ids);
        let plain = bench::write_text(&mut session, None, &prompt.ids, &stage.options, &mut |_| false)?;
        let plain = text(&plain.ids);
        for (chain, checked) in chains.iter_mut().zip(&mut checked) {
            for draft_length in 1..=MAX_DRAFT_LENGTH {
                if stop.load(Ordering::Relaxed) {
                    break 'prompts;
                }
                let options = GenerateOptions { draft_length, ..stage.options.clone() };
                let run = bench::write_text(&mut session, Some(chain), &prompt.ids, &options, &mut |_| false)?;
                checked.texts += 1;
                checked.bytes += plain.len();
                checked.differing_bytes += differing(&plain, &text(&run.ids));
                checked.accepted += run.accepted;
                checked.drafted += run.drafted;
            }
        }
        output::note(format!("{} of {}", index + 1, stage.prompts.len()));
    }
    for line in &checked {
        if arguments.json {
            output::json(line)?;
            continue;
        }
        output::line(format!(
            "{:<24} {} texts at widths 1 to {MAX_DRAFT_LENGTH}, {} bytes, {} differ; {} of {} proposed tokens accepted",
            line.drafters, line.texts, line.bytes, line.differing_bytes, line.accepted, line.drafted
        ))?;
    }
    match checked.iter().map(|line| line.differing_bytes).sum::<usize>() {
        0 => Ok(()),
        differ => bail!("{differ} bytes differ from the text of the target alone"),
    }
}

/// Places at which two texts differ, the lengths' difference included.
fn differing(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).filter(|(a, b)| a != b).count() + one.len().abs_diff(other.len())
}
