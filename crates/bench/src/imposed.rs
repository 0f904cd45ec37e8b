//! Speculation with acceptance imposed: the draft's passes are made, but what it proposes is the target's own text, each
//! token replaced by a wrong one with probability 1 − α. So a pair of any shape is measured at any acceptance, and text is
//! verified as always.

use crate::BenchError;
use crate::speculative::{Run, write_text};
use infer::{
    Chain, Costs, Drafter, GenerateOptions, InferError, Proposal, Request, SamplingOptions, Schedule, Session,
};
use serde::Serialize;
use std::time::Instant;

/// What was measured at one acceptance.
#[derive(Clone, Debug, Serialize)]
pub struct ImposedResult {
    /// α, imposed on each token.
    pub alpha: f64,
    /// How many tokens were proposed: a number, or `auto`.
    pub width: String,
    /// Tokens a round that the formula expects at the width, or at its best one with `auto`.
    pub expected_tokens: f64,
    /// Tokens a round.
    pub mean_accepted_length: f64,
    /// Accepted of all proposed.
    pub acceptance: f64,
    /// Tokens per second of the target alone.
    pub plain: f64,
    /// With the draft.
    pub speculative: f64,
    /// Over the target alone.
    pub speedup: f64,
    /// The formula's best at α with the measured costs, or its value at the fixed width.
    pub formula: f64,
    /// `speedup / formula`.
    pub reached: f64,
    /// Share of the rounds' time in neither model's passes.
    pub overhead: f64,
    /// Whether the text is that of the target alone.
    pub same: bool,
}

/// How many tokens are proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImposedWidth {
    /// The formula's best.
    Best,
    /// What the engine chooses, which knows nothing of α.
    Adaptive,
    /// Always so many.
    Fixed(usize),
}

/// Makes the draft's passes and proposes `text` with errors.
struct Imposed<'s, 'b> {
    session: &'s mut Session<'b>,
    text: &'s [u32],
    vocab: u32,
    alpha: f64,
    seed: u64,
    draws: usize,
    read: Vec<u32>,
    pass_seconds: f64,
}

impl Imposed<'_, '_> {
    fn pass(&mut self, ids: &[u32]) -> Result<(), InferError> {
        let vocab = self.session.vocab() as u32;
        self.read.extend_from_slice(ids);
        let ids: Vec<u32> = ids.iter().map(|&id| if id < vocab { id } else { 0 }).collect();
        let started = Instant::now();
        if ids.len() > infer::MAX_GENERATED_ROWS {
            self.session.prefill(&ids)?;
        } else {
            self.session.advance(&ids)?;
        }
        self.pass_seconds += started.elapsed().as_secs_f64();
        Ok(())
    }

    fn return_to(&mut self, text: &[u32]) -> usize {
        let same = self.read.iter().zip(text).take_while(|(a, b)| a == b).count().min(text.len() - 1);
        self.read.truncate(same);
        self.session.truncate(same);
        same
    }
}

impl Drafter for Imposed<'_, '_> {
    fn prepare(&mut self, prompt: &[u32], _: &SamplingOptions) -> Result<(), InferError> {
        self.read.clear();
        self.session.truncate(0);
        self.pass(prompt)
    }

    fn propose(&mut self, request: Request<'_>) -> Result<Proposal, InferError> {
        /// As sure of each token as of any other.
        const CONFIDENCE: f32 = 2.5;
        let Request { history, most, pace, .. } = request;
        let mut unread = history[self.return_to(history)..].to_vec();
        let mut proposal = Proposal::default();
        while proposal.ids.len() < most && pace.read_on() {
            self.pass(&unread)?;
            if !pace.take(CONFIDENCE) {
                break;
            }
            let right = self.text.get(history.len() + proposal.ids.len()).copied().unwrap_or(0);
            let is_right = infer::uniform(self.seed, infer::Draw::Accept, self.draws) < self.alpha;
            self.draws += 1;
            let id = if is_right { right } else { (right + 1) % self.vocab };
            proposal.ids.push(id);
            proposal.confidences.push(CONFIDENCE);
            unread = vec![id];
        }
        Ok(proposal)
    }

    fn unread(&self, history: &[u32]) -> usize {
        history.len() - self.read.iter().zip(history).take_while(|(a, b)| a == b).count()
    }

    fn pass_seconds(&self) -> f64 {
        self.pass_seconds
    }
}

/// Measures `target` and `draft` at each `alpha` with `tokens` tokens behind a short prompt. All texts, the plain one among
/// them, are written `repeats` times in turn, and the fastest of each counts: whatever else the machine does makes a text
/// slower, never faster.
///
/// # Errors
/// What sessions meet.
pub fn imposed(
    target: &mut Session<'_>,
    draft: &mut Session<'_>,
    costs: &Costs,
    cases: &[(f64, ImposedWidth)],
    tokens: usize,
    repeats: usize,
) -> Result<Vec<ImposedResult>, BenchError> {
    let prompt: Vec<u32> = (0..16u64).map(|i| (i * 2_654_435_761 % draft.vocab() as u64) as u32).collect();
    let options = GenerateOptions { max_tokens: tokens, draft_length: infer::MAX_DRAFT_LENGTH, ..Default::default() };
    let mut fastest = write_text(target, None, &prompt, &options, &mut |_| false)?;
    let text = [&prompt[..], &fastest.ids].concat();
    let mut runs: Vec<Option<Run>> = vec![None; cases.len()];
    for _ in 0..repeats.max(1) {
        for (index, (&case, known)) in cases.iter().zip(&mut runs).enumerate() {
            let run = drafted(target, draft, costs, &text, prompt.len(), case, index as u64)?;
            if known.as_ref().is_none_or(|known| run.decode_rate() > known.decode_rate()) {
                *known = Some(run);
            }
        }
        let plain = write_text(target, None, &prompt, &options, &mut |_| false)?;
        if plain.decode_rate() > fastest.decode_rate() {
            fastest = plain;
        }
    }
    let pairs = cases.iter().zip(runs.into_iter().flatten());
    Ok(pairs.map(|(&case, run)| ImposedResult::new(case, costs, &run, &fastest)).collect())
}

/// The width that is always taken; none where the engine chooses.
fn fixed(costs: &Costs, (alpha, width): (f64, ImposedWidth)) -> Option<usize> {
    match width {
        ImposedWidth::Best => Some(costs.optimum(alpha).0),
        ImposedWidth::Fixed(width) => Some(width),
        ImposedWidth::Adaptive => None,
    }
}

/// Writes `text` behind its first `prompt` tokens once more.
fn drafted(
    target: &mut Session<'_>,
    draft: &mut Session<'_>,
    costs: &Costs,
    text: &[u32],
    prompt: usize,
    case: (f64, ImposedWidth),
    seed: u64,
) -> Result<Run, BenchError> {
    let fixed = fixed(costs, case);
    let schedule = if fixed.is_some() { Schedule::Fixed } else { Schedule::Adaptive(costs.clone()) };
    let vocab = target.vocab().min(draft.vocab()) as u32;
    let drafter =
        Imposed { session: draft, text, vocab, alpha: case.0, seed, draws: 0, read: Vec::new(), pass_seconds: 0.0 };
    let mut chain = Chain::new(schedule).then_model(Box::new(drafter));
    let draft_length = fixed.unwrap_or(infer::MAX_DRAFT_LENGTH).max(1);
    let options = GenerateOptions { max_tokens: text.len() - prompt, draft_length, ..Default::default() };
    write_text(target, Some(&mut chain), &text[..prompt], &options, &mut |_| false)
}

impl ImposedResult {
    fn new(case: (f64, ImposedWidth), costs: &Costs, run: &Run, plain: &Run) -> Self {
        let (alpha, fixed) = (case.0, fixed(costs, case));
        let best = costs.optimum(alpha);
        let formula = fixed.map_or(best.1, |width| costs.speedup(alpha, width));
        let speedup = run.decode_rate() / plain.decode_rate().max(1e-9);
        let passes = run.target_seconds + run.draft_seconds;
        Self {
            alpha,
            width: fixed.map_or_else(|| "auto".into(), |width| width.to_string()),
            expected_tokens: infer::expected_tokens(alpha, fixed.unwrap_or(best.0)),
            mean_accepted_length: run.decoded / (run.rounds.max(1) as f64),
            acceptance: run.accepted as f64 / run.drafted.max(1) as f64,
            plain: plain.decode_rate(),
            speculative: run.decode_rate(),
            speedup,
            formula,
            reached: speedup / formula,
            overhead: 1.0 - passes / run.decode_seconds.max(1e-9),
            same: run.ids == plain.ids,
        }
    }
}

/// The α at which `width` proposed tokens are accepted at this rate (accepted / drafted), by bisection.
pub fn alpha_of(acceptance: f64, width: usize) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        let rate = (infer::expected_tokens(middle, width) - 1.0) / width.max(1) as f64;
        if rate < acceptance { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::Precision;
    use cpu::Cpu;
    use model::{Parameters, Scheme};

    #[test]
    fn acceptance_of_a_width_names_its_alpha() {
        assert!((alpha_of(0.5, 1) - 0.5).abs() < 1e-12);
        // (α + … + α⁵) / 5 = 0.73
        let alpha = alpha_of(0.73, 5);
        assert!(((1..=5).map(|i| alpha.powi(i)).sum::<f64>() / 5.0 - 0.73).abs() < 1e-9, "{alpha}");
    }

    #[test]
    fn the_imposed_acceptance_is_met_and_the_text_is_the_targets() {
        let cpu = Cpu::new(1, None).unwrap();
        let config = crate::shapes::tiny();
        let make =
            |seed| Parameters::initialize(&cpu, &config, Scheme::Normal { std: 0.3 }, seed, Precision::F32).unwrap();
        let (target, draft) = (make(1), make(2));
        let (target_model, draft_model) = (target.model(), draft.model());
        let mut target_session = Session::new(&cpu, &target_model, config.context).unwrap();
        let mut draft_session = Session::new(&cpu, &draft_model, config.context).unwrap();
        let cases = [(0.8, ImposedWidth::Fixed(4)), (0.0, ImposedWidth::Adaptive), (1.0, ImposedWidth::Best)];
        let results = imposed(&mut target_session, &mut draft_session, &Costs::flat(0.05), &cases, 220, 2).unwrap();
        assert!(results.iter().all(|result| result.same));
        let [usual, hopeless, perfect] = &results[..] else { panic!("three cases") };
        // 1 + 0.8 + … + 0.8⁴ = 3.36; with some 65 rounds its mean is within four standard errors of 0.2.
        assert!((usual.mean_accepted_length - usual.expected_tokens).abs() < 0.8, "{usual:?}");
        assert!(perfect.acceptance > 0.99, "{perfect:?}");
        assert!(hopeless.mean_accepted_length < 1.01, "{hopeless:?}");
        drop((target_session, draft_session));
        target.free(&cpu);
        draft.free(&cpu);
    }
}
