//! With and without speculation the text is the same, byte for byte when greedy, in distribution when sampled.

use crate::common::{config, ids, listen, machines, parameters};
use backend::Precision;
use cpu::Cpu;
use infer::{
    Chain, Costs, Drafter, GenerateOptions, InferError, MAX_DRAFT_LENGTH, ModelDrafter, NgramDrafter, Outcome,
    SamplingOptions, Schedule, Session, StopReason, SuffixDrafter, TokenEvent, generate,
};
use model::{Config, Model, Parameters};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

const VOCAB: usize = 29;
const CONTEXT: usize = 96;

/// A target, the drafts, and what to do with them.
struct Cast<'b> {
    cpu: &'b Cpu,
    target: Parameters,
    other: Parameters,
    /// With a smaller vocabulary and a shorter context than the target.
    smaller: Parameters,
    /// With a larger vocabulary.
    larger: Parameters,
}

impl<'b> Cast<'b> {
    fn new(cpu: &'b Cpu, precision: Precision) -> Self {
        let make = |config: Config, seed| parameters(cpu, &config, seed, precision);
        Self {
            cpu,
            target: make(config(VOCAB, CONTEXT), 5),
            other: make(config(VOCAB, CONTEXT), 6),
            smaller: make(config(VOCAB - 9, 40), 7),
            larger: make(config(VOCAB + 9, CONTEXT), 8),
        }
    }

    fn free(self) {
        for parameters in [self.target, self.other, self.smaller, self.larger] {
            parameters.free(self.cpu);
        }
    }
}

fn model_drafter<'b>(cpu: &'b Cpu, draft: &'b Model) -> ModelDrafter<'b> {
    ModelDrafter::new(cpu, draft, VOCAB, CONTEXT).unwrap()
}

fn run(
    session: &mut Session<'_>,
    drafter: Option<&mut (dyn Drafter + '_)>,
    prompt: &[u32],
    options: &GenerateOptions,
) -> Outcome {
    let mut heard = Vec::new();
    let mut drafted = 0;
    let outcome = generate(session, drafter, prompt, options, &mut |event: TokenEvent| {
        heard.push(event.id);
        drafted += usize::from(event.drafted);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(heard, outcome.ids, "every token is told, in order");
    assert!(drafted <= outcome.accepted && outcome.accepted <= outcome.drafted);
    outcome
}

/// Runs `check` with every drafter by name.
fn with_drafters(cast: &Cast<'_>, mut check: impl FnMut(&str, &mut dyn Drafter)) {
    let models = [&cast.target, &cast.other, &cast.smaller, &cast.larger].map(Parameters::model);
    let [same, other, smaller, larger] = &models;
    check("ngram", &mut NgramDrafter::default());
    check("same model", &mut model_drafter(cast.cpu, same));
    check("other model", &mut model_drafter(cast.cpu, other));
    check("smaller vocabulary", &mut model_drafter(cast.cpu, smaller));
    check("larger vocabulary", &mut model_drafter(cast.cpu, larger));
    check("suffix", &mut SuffixDrafter::default());
    check("chain", &mut Chain::usual(Some(model_drafter(cast.cpu, other)), Schedule::Fixed));
    let every = Chain::new(Schedule::Heuristic).then_suffix().then_ngram(NgramDrafter::default());
    check("every kind, AMD's widths", &mut every.then_model(Box::new(model_drafter(cast.cpu, same))));
    check("adaptive, no model", &mut Chain::usual(None, Schedule::Adaptive(Costs::flat(0.0))));
    for (name, draft, costs) in [
        ("adaptive", same, Costs::flat(0.05)),
        ("adaptive, another model", other, Costs::flat(0.02)),
        ("adaptive, dear", smaller, Costs { draft_row: 0.1, ..Costs::flat(0.6) }),
    ] {
        let drafter = model_drafter(cast.cpu, draft).without(vec![3, 17]);
        check(name, &mut Chain::usual(Some(drafter), Schedule::Adaptive(costs)));
    }
}

#[test]
fn greedy_text_is_the_same_at_every_draft_length() {
    const LENGTH: usize = 24;
    for cpu in machines() {
        for precision in [Precision::F32, Precision::Bf16] {
            let cast = Cast::new(&cpu, precision);
            let model = cast.target.model();
            let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
            let prompt = ids(9, VOCAB);
            let plain = run(&mut session, None, &prompt, &GenerateOptions { max_tokens: LENGTH, ..Default::default() });
            assert_eq!((plain.ids.len(), plain.stop, plain.rounds), (LENGTH, StopReason::MaxTokens, LENGTH - 1));
            with_drafters(&cast, |name, drafter| {
                for draft_length in 1..=MAX_DRAFT_LENGTH {
                    let options = GenerateOptions { max_tokens: LENGTH, draft_length, ..Default::default() };
                    let speculative = run(&mut session, Some(&mut *drafter), &prompt, &options);
                    assert_eq!(speculative.ids, plain.ids, "{name}, {draft_length} at a time");
                    check_counts(&speculative, draft_length);
                    if name == "same model" {
                        assert_eq!(speculative.accepted, speculative.drafted, "a model agrees with itself");
                        assert_eq!(speculative.rounds, (LENGTH - 1).div_ceil(draft_length + 1));
                    }
                }
            });
            drop(session);
            cast.free();
        }
    }
}

/// One thread and two, plain and drafted, at every level: one text.
#[test]
fn threads_change_nothing() {
    for level in cpu::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let mut texts = Vec::new();
            for threads in [1, 2] {
                let cpu = Cpu::new(threads, Some(level)).unwrap();
                let cast = Cast::new(&cpu, precision);
                let (model, draft) = (cast.target.model(), cast.other.model());
                let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
                let options = GenerateOptions { max_tokens: 30, draft_length: 15, ..Default::default() };
                texts.push(run(&mut session, None, &ids(9, VOCAB), &options).ids);
                let schedule = Schedule::Adaptive(Costs::flat(0.01));
                let mut chain = Chain::usual(Some(model_drafter(&cpu, &draft)), schedule);
                texts.push(run(&mut session, Some(&mut chain), &ids(9, VOCAB), &options).ids);
                drop((session, chain));
                cast.free();
            }
            assert!(texts.iter().all(|text| *text == texts[0]), "{level:?} {precision:?}: {texts:?}");
        }
    }
}

fn check_counts(outcome: &Outcome, draft_length: usize) {
    let sum = |count: fn(&infer::PositionCount) -> usize| outcome.positions.iter().map(count).sum::<usize>();
    assert_eq!(outcome.positions.len(), draft_length);
    assert_eq!((sum(|p| p.proposed), sum(|p| p.accepted)), (outcome.drafted, outcome.accepted));
    assert_eq!(outcome.ids.len(), 1 + outcome.rounds + outcome.accepted, "each round adds its own token");
    let mean = (outcome.ids.len() - 1) as f64 / outcome.rounds as f64;
    assert!((outcome.mean_accepted_length - mean).abs() < 1e-12);
}

#[test]
fn stop_ids_and_limits_cut_the_text_at_the_same_place() {
    let Some(cpu) = machines().last() else { return };
    let cast = Cast::new(&cpu, Precision::F32);
    let model = cast.target.model();
    let prompt = ids(9, VOCAB);
    let long = GenerateOptions { max_tokens: 40, ..Default::default() };
    let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
    let text = run(&mut session, None, &prompt, &long).ids;
    with_drafters(&cast, |name, drafter| {
        for draft_length in [1, 4, 16] {
            for max_tokens in 0..20 {
                let options = GenerateOptions { max_tokens, draft_length, ..long.clone() };
                let outcome = run(&mut session, Some(&mut *drafter), &prompt, &options);
                assert_eq!((&outcome.ids[..], outcome.stop), (&text[..max_tokens], StopReason::MaxTokens), "{name}");
            }
            for &stop in &text {
                let options = GenerateOptions { stop: vec![stop], draft_length, ..long.clone() };
                let outcome = run(&mut session, Some(&mut *drafter), &prompt, &options);
                let end = text.iter().position(|&id| id == stop).unwrap();
                assert_eq!((&outcome.ids[..], outcome.stop), (&text[..end], StopReason::StopToken(stop)), "{name}");
            }
            for capacity in [10, 11, 17, 30] {
                let mut short = Session::new(&cpu, &model, capacity).unwrap();
                let options = GenerateOptions { draft_length, ..long.clone() };
                let outcome = run(&mut short, Some(&mut *drafter), &prompt, &options);
                let end = capacity - prompt.len();
                assert_eq!((&outcome.ids[..], outcome.stop), (&text[..end], StopReason::Context), "{name}");
            }
        }
    });
    drop(session);
    cast.free();
}

/// Sampled texts are functions of seed and options, and the penalty sees proposed tokens as it sees plain ones.
#[test]
fn seeds_repeat_and_a_penalized_greedy_text_is_the_same() {
    let Some(cpu) = machines().last() else { return };
    let cast = Cast::new(&cpu, Precision::F32);
    let model = cast.target.model();
    let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
    let prompt = ids(9, VOCAB);
    let warm = SamplingOptions { temperature: 1.0, top_p: 0.9, seed: 11, ..Default::default() };
    let greedy = SamplingOptions { repetition_penalty: 1.5, ..Default::default() };
    let options = |sampling| GenerateOptions { max_tokens: 50, sampling, ..Default::default() };
    let penalized = run(&mut session, None, &prompt, &options(greedy)).ids;
    with_drafters(&cast, |name, drafter| {
        assert_eq!(run(&mut session, Some(&mut *drafter), &prompt, &options(greedy)).ids, penalized, "{name}");
        let first = run(&mut session, Some(&mut *drafter), &prompt, &options(warm)).ids;
        assert_eq!(run(&mut session, Some(&mut *drafter), &prompt, &options(warm)).ids, first, "{name}");
    });
    drop(session);
    cast.free();
}

#[test]
fn a_receiver_may_end_the_text() {
    let Some(cpu) = machines().last() else { return };
    let cast = Cast::new(&cpu, Precision::F32);
    let (model, draft) = (cast.target.model(), cast.target.model());
    let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
    let mut left = 7;
    let outcome = generate(
        &mut session,
        Some(&mut model_drafter(&cpu, &draft)),
        &ids(9, VOCAB),
        &GenerateOptions::default(),
        &mut |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    )
    .unwrap();
    assert_eq!((outcome.ids.len(), outcome.stop), (7, StopReason::Cancelled));
    drop(session);
    cast.free();
}

#[test]
fn bad_requests_are_refused() {
    let Some(cpu) = machines().next() else { return };
    let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 5, Precision::F32);
    let model = parameters.model();
    let mut session = Session::new(&cpu, &model, 20).unwrap();
    let mut refuse = |prompt: &[u32], options: GenerateOptions| -> InferError {
        generate(&mut session, None, prompt, &options, &mut listen).unwrap_err()
    };
    let plain = GenerateOptions::default();
    let long = refuse(&[1; 20], plain.clone()).to_string();
    assert!(long.contains("20 tokens long") && long.contains("context of 20") && long.contains("at most 19"), "{long}");
    assert!(matches!(refuse(&[], plain.clone()), InferError::EmptyPrompt));
    assert!(matches!(refuse(&[99], plain.clone()), InferError::UnknownToken { index: 0, id: 99, vocab: VOCAB }));
    for draft_length in [0, 17] {
        let error = refuse(&[1], GenerateOptions { draft_length, ..plain.clone() }).to_string();
        assert_eq!(error, format!("--draft-length is {draft_length}, but it must be 1 to 16"));
    }
}

/// The χ² test of `speculate.rs`, once more with models, caches and truncation: the first two tokens of 6 000 seeds.
#[test]
fn sampled_text_of_models_keeps_the_targets_distribution() {
    const SEEDS: u64 = 6_000;
    const SMALL: usize = 5;
    let Some(cpu) = cpu::available().pop().map(|level| Cpu::new(1, Some(level)).unwrap()) else { return };
    let make = |vocab, seed| {
        let scheme = model::Scheme::Normal { std: 0.25 };
        Parameters::initialize(&cpu, &config(vocab, 16), scheme, seed, Precision::F32).unwrap()
    };
    let [target, draft, shorter, padded] = [(SMALL, 1), (SMALL, 2), (SMALL - 1, 3), (SMALL + 2, 4)];
    let cast = [target, draft, shorter, padded].map(|(vocab, seed)| make(vocab, seed));
    let [target, draft, shorter, padded] = [0, 1, 2, 3].map(|index: usize| cast[index].model());
    let mut session = Session::new(&cpu, &target, 16).unwrap();
    let sampling = SamplingOptions { temperature: 0.9, top_k: 4, top_p: 0.97, ..Default::default() };
    let prompt = [1, 3];

    let mut expected = BTreeMap::new();
    let mut sampler = infer::Sampler::new(sampling).unwrap();
    let first = sampler.distribution(session.prefill(&prompt).unwrap(), &prompt).unwrap();
    for (a, p) in first.probabilities() {
        session.truncate(2);
        let second = sampler.distribution(session.extend(&[a]).unwrap().row(0), &[1, 3, a]).unwrap();
        for (b, q) in second.probabilities() {
            session.truncate(3);
            let third = sampler.distribution(session.extend(&[b]).unwrap().row(0), &[1, 3, a, b]).unwrap();
            expected.extend(third.probabilities().map(|(c, r)| ([a, b, c], p * q * r)));
        }
    }
    let of = |draft| ModelDrafter::new(&cpu, draft, SMALL, 16).unwrap();
    let model = || of(&draft);
    let chain = |model| Chain::usual(Some(model), Schedule::Adaptive(Costs::flat(0.02)));
    let mut drafters: [Box<dyn Drafter + '_>; 6] = [
        Box::new(model()),
        Box::new(of(&shorter)),
        Box::new(of(&padded)),
        Box::new(NgramDrafter::default()),
        Box::new(chain(model())),
        Box::new(chain(model().without(vec![2]))),
    ];
    for drafter in &mut drafters {
        let mut counts = BTreeMap::new();
        let mut accepted = 0;
        for seed in 0..SEEDS {
            let sampling = SamplingOptions { seed, ..sampling };
            let options = GenerateOptions { max_tokens: 3, draft_length: 2, sampling, ..Default::default() };
            let outcome = run(&mut session, Some(&mut **drafter), &prompt, &options);
            accepted += outcome.accepted;
            *counts.entry([outcome.ids[0], outcome.ids[1], outcome.ids[2]]).or_insert(0u64) += 1;
        }
        assert!(accepted > 0);
        let statistic: f64 = expected
            .iter()
            .map(|(text, p)| {
                let expected = p * SEEDS as f64;
                (counts.get(text).copied().unwrap_or(0) as f64 - expected).powi(2) / expected
            })
            .sum();
        // Mean and variance of χ² are f and 2f; with four and more spreads above the mean the test fails.
        let freedom = (expected.len() - 1) as f64;
        assert!(statistic < freedom + 4.0 * (2.0 * freedom).sqrt(), "{statistic} with {freedom} degrees of freedom");
    }
}
