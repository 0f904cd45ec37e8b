//! Speculation leaves the distribution of the text alone: counted over many seeds, on tables instead of models.

use super::*;
use crate::SamplingOptions;
use std::collections::BTreeMap;

const VOCAB: usize = 5;
const LENGTH: usize = 3;
const SEEDS: u64 = 40_000;
const START: u32 = 0;

/// Logits of the token behind each token.
type Table = [[f32; VOCAB]; VOCAB];

const TARGET: Table = [
    [0.3, 1.2, -0.5, 0.0, 0.9],
    [1.0, -1.0, 0.2, 0.7, -0.3],
    [-0.8, 0.4, 0.5, 1.1, 0.0],
    [0.1, 0.2, -1.5, 0.6, 1.3],
    [0.9, 0.8, 0.7, -0.6, -2.0],
];

/// A poor imitation of the target.
const DRAFT: Table = [
    [0.9, 0.2, 0.5, -0.7, 0.1],
    [0.8, -1.2, 0.3, 0.5, 0.1],
    [1.5, 0.0, -0.5, 0.2, 0.3],
    [0.0, 0.4, -1.0, 0.9, 1.0],
    [0.2, 0.2, 0.2, 0.2, 0.2],
];

fn row(table: &Table, last: u32) -> &[f32] {
    &table[last as usize]
}

#[derive(Clone, Copy)]
enum Proposer {
    Nobody,
    /// Draws from [`DRAFT`].
    Model,
    /// Says `1, 3, 1, 3 …` whatever went before.
    Fixed,
}

fn propose(proposer: Proposer, history: &[u32], length: usize, sampler: &mut Sampler) -> Proposal {
    let mut proposal = Proposal::default();
    let mut text = history.to_vec();
    for index in 0..length {
        let id = match proposer {
            Proposer::Nobody => break,
            Proposer::Fixed => [1, 3][index % 2],
            Proposer::Model => {
                let q = sampler.distribution(row(&DRAFT, text[text.len() - 1]), &text).unwrap();
                let id = q.draw(uniform(sampler.options().seed, Draw::Proposal, text.len()));
                proposal.distributions.push(q);
                id
            }
        };
        proposal.ids.push(id);
        text.push(id);
    }
    proposal
}

/// How a proposal is judged.
type Rule = fn(&mut Sampler, Logits<'_>, &mut Vec<u32>, &Proposal, &[u32]) -> Result<Verdict, InferError>;

/// The first tokens of the text of one seed.
fn text(options: SamplingOptions, proposer: Proposer, rule: Rule) -> [u32; LENGTH] {
    let mut sampler = Sampler::new(options).unwrap();
    let mut history = vec![START];
    while history.len() <= LENGTH {
        let proposal = propose(proposer, &history, 2, &mut sampler);
        let last = &history[history.len() - 1..];
        let rows: Vec<f32> =
            last.iter().chain(&proposal.ids).flat_map(|&id| row(&TARGET, id).iter().copied()).collect();
        let known = history.len();
        let verdict = rule(&mut sampler, Logits::new(&rows, VOCAB), &mut history, &proposal, &[]).unwrap();
        assert_eq!(history.len(), known + verdict.accepted + 1);
    }
    [history[1], history[2], history[3]]
}

/// The probability of every text, multiplied out.
fn exact(options: SamplingOptions) -> BTreeMap<[u32; LENGTH], f64> {
    let mut sampler = Sampler::new(options).unwrap();
    let mut texts = BTreeMap::from([(vec![START], 1.0)]);
    for _ in 0..LENGTH {
        let mut longer = BTreeMap::new();
        for (text, probability) in texts {
            let next = sampler.distribution(row(&TARGET, text[text.len() - 1]), &text).unwrap();
            for (id, p) in next.probabilities() {
                longer.insert([&text[..], &[id]].concat(), probability * p);
            }
        }
        texts = longer;
    }
    texts.into_iter().map(|(text, p)| ([text[1], text[2], text[3]], p)).collect()
}

/// Pearson's statistic and its degrees of freedom; rare texts (expected below 10) are counted as one.
fn chi_squared(expected: &BTreeMap<[u32; LENGTH], f64>, counts: &BTreeMap<[u32; LENGTH], u64>) -> (f64, f64) {
    let (mut statistic, mut cells) = (0.0, 0);
    let mut rare = (0.0, 0.0);
    for (text, p) in expected {
        let expected = p * SEEDS as f64;
        let seen = counts.get(text).copied().unwrap_or(0) as f64;
        if expected < 10.0 {
            rare = (rare.0 + expected, rare.1 + seen);
        } else {
            statistic += (seen - expected).powi(2) / expected;
            cells += 1;
        }
    }
    if rare.0 >= 10.0 {
        statistic += (rare.1 - rare.0).powi(2) / rare.0;
        cells += 1;
    }
    (statistic, f64::from(cells - 1))
}

/// The value that a χ² variable exceeds once in a thousand times (Wilson and Hilferty, 1931).
fn once_in_a_thousand(freedom: f64) -> f64 {
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + 3.09 * spread.sqrt()).powi(3)
}

#[test]
fn speculative_sampling_has_the_targets_distribution() {
    let plain = SamplingOptions { temperature: 1.0, ..SamplingOptions::default() };
    let warped =
        SamplingOptions { temperature: 0.8, top_k: 4, top_p: 0.9, min_p: 0.05, repetition_penalty: 1.3, seed: 0 };
    for options in [plain, warped] {
        let expected = exact(options);
        for proposer in [Proposer::Nobody, Proposer::Model, Proposer::Fixed] {
            let mut counts = BTreeMap::new();
            for seed in 0..SEEDS {
                *counts.entry(text(SamplingOptions { seed, ..options }, proposer, verify)).or_insert(0) += 1;
            }
            assert!(counts.keys().all(|text| expected.contains_key(text)), "an impossible text");
            let (statistic, freedom) = chi_squared(&expected, &counts);
            assert!(statistic < once_in_a_thousand(freedom), "{statistic} with {freedom} degrees of freedom");
        }
    }
}

/// A wrong rule: accepted as it should be, but the token after a rejection comes from `p` instead of the residual.
fn without_residual(
    sampler: &mut Sampler,
    logits: Logits<'_>,
    history: &mut Vec<u32>,
    proposal: &Proposal,
    _stop: &[u32],
) -> Result<Verdict, InferError> {
    let seed = sampler.options().seed;
    for (accepted, (&id, q)) in proposal.ids.iter().zip(&proposal.distributions).enumerate() {
        let p = sampler.distribution(logits.row(accepted), history)?;
        let rejected = uniform(seed, Draw::Accept, history.len()) * q.probability(id) >= p.probability(id);
        history.push(if rejected { p.draw(uniform(seed, Draw::Token, history.len())) } else { id });
        if rejected {
            return Ok(Verdict { accepted, next: history.last().copied() });
        }
    }
    let accepted = proposal.ids.len();
    let next = sampler.sample(logits.row(accepted), history)?;
    history.push(next);
    Ok(Verdict { accepted, next: Some(next) })
}

/// The count above must be able to fail: a rule that is wrong in its last step only is caught.
#[test]
fn the_test_sees_a_missing_residual() {
    let options = SamplingOptions { temperature: 1.0, ..SamplingOptions::default() };
    let mut counts = BTreeMap::new();
    for seed in 0..SEEDS {
        let text = text(SamplingOptions { seed, ..options }, Proposer::Model, without_residual);
        *counts.entry(text).or_insert(0) += 1;
    }
    let (statistic, freedom) = chi_squared(&exact(options), &counts);
    assert!(statistic > 10.0 * once_in_a_thousand(freedom), "{statistic}");
}

/// So is accepting whatever is proposed.
#[test]
fn the_test_sees_a_wrong_distribution() {
    let options = SamplingOptions { temperature: 1.0, ..SamplingOptions::default() };
    let mut counts = BTreeMap::new();
    for seed in 0..SEEDS {
        let mut sampler = Sampler::new(SamplingOptions { seed, ..options }).unwrap();
        let ids = propose(Proposer::Model, &[START], LENGTH, &mut sampler).ids;
        *counts.entry([ids[0], ids[1], ids[2]]).or_insert(0) += 1;
    }
    let (statistic, freedom) = chi_squared(&exact(options), &counts);
    assert!(statistic > 10.0 * once_in_a_thousand(freedom), "{statistic}");
}

#[test]
fn a_draft_like_the_target_is_always_accepted() {
    for seed in 0..500 {
        let options = SamplingOptions { temperature: 0.7, top_p: 0.95, seed, ..SamplingOptions::default() };
        let mut sampler = Sampler::new(options).unwrap();
        let mut history = vec![START];
        let q = sampler.distribution(row(&TARGET, START), &history).unwrap();
        let id = q.draw(uniform(seed, Draw::Proposal, 1));
        let proposal = Proposal { ids: vec![id], distributions: vec![q], ..Default::default() };
        let rows = [row(&TARGET, START), row(&TARGET, id)].concat();
        let verdict = verify(&mut sampler, Logits::new(&rows, VOCAB), &mut history, &proposal, &[]).unwrap();
        assert_eq!((verdict.accepted, history[1]), (1, id));
    }
}

#[test]
fn nothing_follows_an_accepted_stop_id() {
    let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
    let mut history = vec![START];
    // The most likely tokens behind 0 are 1, 0, 1 …
    let proposal = Proposal { ids: vec![1, 0, 1], ..Default::default() };
    let rows = [row(&TARGET, 0), row(&TARGET, 1), row(&TARGET, 0), row(&TARGET, 1)].concat();
    let verdict = verify(&mut sampler, Logits::new(&rows, VOCAB), &mut history, &proposal, &[0]).unwrap();
    assert_eq!((verdict, history), (Verdict { accepted: 2, next: None }, vec![0, 1, 0]));
}
