//! Sums over prompts, what the formula makes of them, and the report in Markdown.

use super::{PromptResult, Run};
use infer::Costs;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// Tokens per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Speed {
    /// All tokens over all time, prompts included: what AMD calls throughput.
    pub with_prompt: f64,
    /// Tokens of the rounds over the time of the rounds.
    pub decode: f64,
}

/// What Leviathan et al.'s formula says with measured costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Formula {
    /// α: of the tokens that were judged, accepted; those behind a rejected one are not judged.
    pub alpha: f64,
    /// The best width at this α.
    pub optimal_width: usize,
    /// The gain there, over plain decoding.
    pub optimal_speedup: f64,
    /// The measured gain over it.
    pub reached: f64,
}

/// pass@1: how many answers are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// Of the target alone.
    pub plain: usize,
    /// With drafts.
    pub speculative: usize,
    /// Answers of each.
    pub answers: usize,
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plain, speculative, answers } = self;
        write!(f, "target alone {plain} of {answers}, with drafts {speculative} of {answers}")
    }
}

/// What a set of prompts gave.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Prompts.
    pub prompts: usize,
    /// Tokens that the target alone wrote.
    pub tokens: usize,
    /// The target alone.
    pub plain: Speed,
    /// With drafters.
    pub speculative: Speed,
    /// `speculative.with_prompt / plain.with_prompt`.
    pub speedup: f64,
    /// `speculative.decode / plain.decode`.
    pub decode_speedup: f64,
    /// The prompt that gained least, of those with 16 tokens or more.
    pub least_decode_speedup: f64,
    /// Accepted of all proposed tokens: AMD's acceptance rate.
    pub acceptance: f64,
    /// Tokens a round, the target's own included.
    pub mean_accepted_length: f64,
    /// Share of the rounds' time in neither model's passes.
    pub overhead: f64,
    /// By how much the first token was later, relative.
    pub first_token_delay: f64,
    /// Proposed, judged (all before were accepted) and accepted, by place.
    pub positions: Vec<[usize; 3]>,
    /// Rounds by number of tokens proposed, from 0.
    pub widths: Vec<usize>,
    /// Of the answers, the right ones, where programs were run.
    pub passed: Option<Passed>,
    /// Prompts whose two texts differ.
    pub differing_texts: usize,
    /// What the formula says, where costs were measured.
    pub formula: Option<Formula>,
}

impl Summary {
    /// Sums up `results`; `costs` are those of drafting by a model.
    pub fn of(results: &[PromptResult], costs: Option<&Costs>) -> Self {
        let sum = |part: &dyn Fn(&PromptResult) -> f64| results.iter().map(part).sum::<f64>();
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let speed = |run: &dyn Fn(&PromptResult) -> &Run| Speed {
            with_prompt: ratio(sum(&|r| run(r).ids.len() as f64), sum(&|r| run(r).seconds)),
            decode: ratio(sum(&|r| run(r).decoded), sum(&|r| run(r).decode_seconds)),
        };
        let (plain, speculative) = (speed(&|r| &r.plain), speed(&|r| &r.speculative));
        let decode_speedup = ratio(speculative.decode, plain.decode);
        let passes = sum(&|r| r.speculative.target_seconds + r.speculative.draft_seconds);
        let first = |run: &dyn Fn(&PromptResult) -> f64| sum(run);
        let (accepted, drafted) = (sum(&|r| r.speculative.accepted as f64), sum(&|r| r.speculative.drafted as f64));
        let gains = results.iter().filter(|r| r.plain.ids.len() >= 16);
        let gains = gains.map(|r| ratio(r.speculative.decode_rate(), r.plain.decode_rate()));
        let mut positions: Vec<[usize; 3]> = Vec::new();
        let mut widths: Vec<usize> = Vec::new();
        for result in results {
            let run = &result.speculative;
            positions.resize(positions.len().max(run.positions.len()), [0; 3]);
            widths.resize(widths.len().max(run.widths.len()), 0);
            positions.iter_mut().zip(&run.positions).for_each(|(sum, more)| {
                sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            });
            widths.iter_mut().zip(&run.widths).for_each(|(sum, more)| *sum += more);
        }
        Self {
            prompts: results.len(),
            tokens: results.iter().map(|r| r.plain.ids.len()).sum(),
            plain,
            speculative,
            speedup: ratio(speculative.with_prompt, plain.with_prompt),
            decode_speedup,
            least_decode_speedup: gains.fold(f64::INFINITY, f64::min),
            acceptance: ratio(accepted, drafted),
            mean_accepted_length: ratio(sum(&|r| r.speculative.decoded), sum(&|r| r.speculative.rounds as f64)),
            overhead: 1.0 - ratio(passes, sum(&|r| r.speculative.decode_seconds)),
            first_token_delay: ratio(
                first(&|r| r.speculative.first_token_seconds),
                first(&|r| r.plain.first_token_seconds),
            ) - 1.0,
            passed: None,
            differing_texts: results.iter().filter(|r| !r.same).count(),
            formula: costs.map(|costs| formula(costs, &positions, decode_speedup)),
            positions,
            widths,
        }
    }
}

fn formula(costs: &Costs, positions: &[[usize; 3]], measured: f64) -> Formula {
    let sum = |index: usize| positions.iter().map(|place| place[index]).sum::<usize>() as f64;
    let alpha = sum(2) / sum(1).max(1.0);
    let (optimal_width, optimal_speedup) = costs.optimum(alpha);
    Formula { alpha, optimal_width, optimal_speedup, reached: measured / optimal_speedup }
}

/// The report: a table over the categories, acceptance by place, widths, costs.
pub fn markdown(title: &str, facts: &[(String, String)], results: &[PromptResult], costs: Option<&Costs>) -> String {
    let all = Summary::of(results, costs);
    let mut page = format!("# {title}\n\n");
    for (what, value) in facts {
        let _ = writeln!(page, "- {what}: {value}");
    }
    page.push_str(
        "\n| prompts | n | tokens | target alone, tokens/s | with drafts | gain | decoding alone | with drafts | gain | \
         least gain | accepted / drafted | tokens a round | texts that differ |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut categories: BTreeMap<&str, Vec<PromptResult>> = BTreeMap::new();
    for result in results {
        categories.entry(&result.category).or_default().push(result.clone());
    }
    let mut rows: Vec<(&str, Summary)> =
        categories.iter().map(|(name, results)| (*name, Summary::of(results, costs))).collect();
    if rows.len() > 1 {
        rows.push(("all", all.clone()));
    }
    for (name, s) in rows {
        let least = s.least_decode_speedup;
        let least = if least.is_finite() { format!("{least:.2}×") } else { "–".into() };
        let _ = writeln!(
            page,
            "| {name} | {} | {} | {:.1} | {:.1} | {:.2}× | {:.1} | {:.1} | {:.2}× | {} | {:.1} % | {:.2} | {} |",
            s.prompts,
            s.tokens,
            s.plain.with_prompt,
            s.speculative.with_prompt,
            s.speedup,
            s.plain.decode,
            s.speculative.decode,
            s.decode_speedup,
            least,
            100.0 * s.acceptance,
            s.mean_accepted_length,
            s.differing_texts
        );
    }
    let _ = writeln!(
        page,
        "\nTexts that are the same with drafts and without: {} of {}. The first three speeds count prompts, as AMD's \
         throughput does. Rounds outside both models' passes: {:.1} %. First token later by {:.1} %.",
        all.prompts - all.differing_texts,
        all.prompts,
        100.0 * all.overhead,
        100.0 * all.first_token_delay
    );
    places(&mut page, &all);
    if let (Some(costs), Some(formula)) = (costs, all.formula) {
        theory(&mut page, costs, formula, all.decode_speedup);
    }
    page
}

fn places(page: &mut String, all: &Summary) {
    page.push_str(
        "\n| tokens | rounds that proposed so many | this place judged | accepted there |\n|---|---|---|---|\n",
    );
    for (width, rounds) in all.widths.iter().enumerate() {
        let place = width.checked_sub(1).and_then(|index| all.positions.get(index));
        let (reached, accepted) = place.map_or((0, 0), |place| (place[1], place[2]));
        if *rounds == 0 && reached == 0 {
            continue;
        }
        let share =
            if reached > 0 { format!("{:.1} %", 100.0 * accepted as f64 / reached as f64) } else { "–".into() };
        let _ = writeln!(page, "| {width} | {rounds} | {reached} | {share} |");
    }
}

/// What the formula makes of the measured costs.
fn theory(page: &mut String, costs: &Costs, formula: Formula, measured: f64) {
    let _ = writeln!(page, "\nMeasured costs, {costs}.");
    let _ = writeln!(
        page,
        "\nThe formula with α = {:.3} (accepted of the tokens that were judged): {:.2}× at best, with {} tokens a round. \
         Measured: {:.2}×, {:.0} % of it. (Acceptances come in bursts, which a changing width uses and the formula does \
         not know.)",
        formula.alpha,
        formula.optimal_speedup,
        formula.optimal_width,
        measured,
        100.0 * formula.reached
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(same: bool) -> PromptResult {
        let plain = Run {
            ids: vec![1; 20],
            seconds: 3.0,
            first_token_seconds: 1.0,
            decode_seconds: 2.0,
            decoded: 20.0,
            rounds: 20,
            drafted: 0,
            accepted: 0,
            positions: Vec::new(),
            widths: vec![20],
            target_seconds: 2.0,
            draft_seconds: 0.0,
        };
        let speculative = Run {
            seconds: 2.0,
            decode_seconds: 1.0,
            rounds: 8,
            drafted: 16,
            accepted: 12,
            // Of eight proposals of two: five whole, two with the first only, one with none.
            positions: vec![[8, 8, 7], [8, 7, 5]],
            widths: vec![0, 0, 8],
            target_seconds: 0.7,
            draft_seconds: 0.2,
            ..plain.clone()
        };
        PromptResult { name: "p".into(), category: "code".into(), prompt_tokens: 5, plain, speculative, same }
    }

    #[test]
    fn sums_are_over_all_prompts() {
        let mut slower = result(false);
        slower.speculative.decode_seconds = 4.0;
        let summary = Summary::of(&[result(true), slower], Some(&Costs::flat(0.1)));
        assert_eq!((summary.prompts, summary.tokens, summary.differing_texts), (2, 40, 1));
        assert_eq!((summary.plain.decode, summary.speculative.decode, summary.least_decode_speedup), (10.0, 8.0, 0.5));
        assert_eq!((summary.acceptance, summary.positions[1]), (0.75, [16, 14, 10]));
        assert_eq!((summary.mean_accepted_length, summary.widths[2]), (2.5, 16));
    }

    /// Five whole proposals and three with one rejection: 12 accepted of 15 judged.
    #[test]
    fn tokens_behind_a_rejected_one_are_not_judged() {
        let formula = Summary::of(&[result(true)], Some(&Costs::flat(0.1))).formula.unwrap();
        assert!((formula.alpha - 12.0 / 15.0).abs() < 1e-12, "{formula:?}");
        assert_eq!((formula.optimal_width, formula.reached), (6, 2.0 / formula.optimal_speedup));
    }

    #[test]
    fn the_page_names_what_differs() {
        let page = markdown("T", &[("a".into(), "b".into())], &[result(false)], Some(&Costs::flat(0.1)));
        assert!(page.contains("| code | 1 | 20 |") && page.contains("| 75.0 % | 2.50 | 1 |"), "{page}");
        assert!(page.contains("α = 0.800") && page.contains("| 2 | 8 | 7 | 71.4 % |"), "{page}");
    }
}
