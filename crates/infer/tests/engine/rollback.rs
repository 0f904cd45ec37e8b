//! Random rounds of acceptance, rejection and cancelling leave the cache as a session that never speculated has it.

use crate::common::{bits, config, ids, listen, parameters};
use backend::{KvType, Precision};
use cpu::Cpu;
use infer::{
    Chain, Costs, Drafter, GenerateOptions, InferError, ModelDrafter, Proposal, Request, SamplingOptions, Schedule,
    Session, StopReason, TokenEvent, generate,
};
use model::Model;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::ops::ControlFlow;

const VOCAB: usize = 23;
const CONTEXT: usize = 48;

/// Proposes of the text that is to come as many tokens as the script says, the last of them wrong if it says so.
struct Scripted {
    text: Vec<u32>,
    script: Vec<(usize, bool)>,
    round: usize,
}

impl Drafter for Scripted {
    fn prepare(&mut self, _: &[u32], _: &SamplingOptions) -> Result<(), InferError> {
        Ok(())
    }

    fn propose(&mut self, request: Request<'_>) -> Result<Proposal, InferError> {
        let (count, wrong) = self.script[self.round % self.script.len()];
        self.round += 1;
        let known = request.history.len();
        let mut ids: Vec<u32> = self.text.iter().skip(known).take(count.min(request.most)).copied().collect();
        if let (Some(last), true) = (ids.last_mut(), wrong) {
            *last = (*last + 1) % VOCAB as u32;
        }
        Ok(Proposal { ids, ..Default::default() })
    }
}

/// Greedy text by a fresh session for every token, which is never rolled back and of which no row is kept.
fn reference(cpu: &Cpu, model: &Model, cache: KvType, prompt: &[u32], tokens: usize) -> Vec<u32> {
    let mut sampler = infer::Sampler::new(SamplingOptions::default()).unwrap();
    let mut text = prompt.to_vec();
    for _ in 0..tokens {
        let logits = afresh(cpu, model, cache, prompt, &text);
        text.push(sampler.sample(&logits, &text).unwrap());
    }
    text
}

/// Logits behind `text` by a session that has read nothing else.
fn afresh(cpu: &Cpu, model: &Model, cache: KvType, prompt: &[u32], text: &[u32]) -> Vec<f32> {
    let mut session = Session::with_cache(cpu, model, CONTEXT, cache).unwrap();
    let mut logits = session.prefill(prompt).unwrap().to_vec();
    for part in text[prompt.len()..].chunks(16) {
        logits = session.advance(part).unwrap().to_vec();
    }
    logits
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_sequence_of_rounds_leaves_a_sound_cache(
        scripts in vec((vec((0usize..17, any::<bool>()), 1..6), 1usize..30, 1usize..17), 1..5),
        prompt_len in 1usize..9,
        cache in select(&KvType::ALL),
    ) {
        let cpu = Cpu::new(1, None).unwrap();
        let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 5, Precision::F32);
        let model = parameters.model();
        let prompt = ids(prompt_len, VOCAB);
        let text = reference(&cpu, &model, cache, &prompt, 30);
        // One session for all of them, as a server keeps it.
        let mut session = Session::with_cache(&cpu, &model, CONTEXT, cache).unwrap();
        for (script, cancel_after, draft_length) in scripts {
            let mut drafter = Scripted { text: text.clone(), script, round: 0 };
            let options = GenerateOptions { max_tokens: 30, draft_length, ..Default::default() };
            let mut heard = 0;
            let outcome = generate(&mut session, Some(&mut drafter), &prompt, &options, &mut |_: TokenEvent| {
                heard += 1;
                if heard == cancel_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }).unwrap();
            prop_assert_eq!(&outcome.ids[..], &text[prompt_len..][..cancel_after.min(30)]);
            // What the cache holds now is the beginning of the text, to the bit: cancelled in the middle of a round, it
            // holds what the round accepted.
            let held = session.len();
            prop_assert!(held >= prompt_len + outcome.ids.len() - 1 && held < text.len(), "{} of {}", held, text.len());
            let next = session.advance(&text[held..=held]).unwrap().to_vec();
            prop_assert_eq!(bits(&next), bits(&afresh(&cpu, &model, cache, &prompt, &text[..=held])));
        }
        drop(session);
        parameters.free(&cpu);
    }

    /// Whatever the costs, the text is the same and the estimates keep to their ranges.
    #[test]
    fn any_costs_give_the_same_text(draft in 0.0f64..1.5, rise in 0.0f64..1.0, row in 0.0f64..0.3, seed in 0u64..4) {
        let cpu = Cpu::new(1, None).unwrap();
        let (target, draft_model) =
            (parameters(&cpu, &config(VOCAB, CONTEXT), 5, Precision::F32), parameters(&cpu, &config(VOCAB, 20), 5 + seed, Precision::F32));
        let (model, draft_model_view) = (target.model(), draft_model.model());
        let prompt = ids(5, VOCAB);
        let mut costs = Costs { draft_row: row, ..Costs::flat(draft) };
        costs.verify.iter_mut().enumerate().for_each(|(index, verify)| *verify += rise * index as f64);
        let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
        let options = GenerateOptions { max_tokens: 40, draft_length: 15, ..Default::default() };
        let plain = generate(&mut session, None, &prompt, &options, &mut listen).unwrap();
        let drafter = ModelDrafter::new(&cpu, &draft_model_view, VOCAB, CONTEXT).unwrap();
        let mut chain = Chain::usual(Some(drafter), Schedule::Adaptive(costs));
        for _ in 0..3 {
            let fast = generate(&mut session, Some(&mut chain), &prompt, &options, &mut listen).unwrap();
            prop_assert_eq!(&fast.ids, &plain.ids);
            prop_assert_eq!(fast.widths.iter().sum::<usize>(), fast.rounds);
        }
        drop((session, chain));
        target.free(&cpu);
        draft_model.free(&cpu);
    }
}

/// A draft whose logits are not numbers is left out; the target's text stands.
#[test]
fn a_broken_draft_is_set_aside() {
    let cpu = Cpu::new(1, None).unwrap();
    let config = config(VOCAB, CONTEXT);
    let target = parameters(&cpu, &config, 5, Precision::F32);
    let broken =
        model::Parameters::initialize(&cpu, &config, model::Scheme::Normal { std: f32::NAN }, 5, Precision::F32);
    let Ok(broken) = broken else { panic!("the broken model cannot be made") };
    let (model, draft) = (target.model(), broken.model());
    let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
    let options = GenerateOptions { max_tokens: 20, ..Default::default() };
    let plain = generate(&mut session, None, &ids(5, VOCAB), &options, &mut listen).unwrap();
    let drafter = ModelDrafter::new(&cpu, &draft, VOCAB, CONTEXT).unwrap();
    let mut chain = Chain::new(Schedule::Fixed).then_model(Box::new(drafter));
    let outcome = generate(&mut session, Some(&mut chain), &ids(5, VOCAB), &options, &mut listen).unwrap();
    assert_eq!((outcome.ids, outcome.stop, outcome.drafted), (plain.ids, StopReason::MaxTokens, 0));
    assert!(matches!(chain.fault(), Some(InferError::NotFinite { .. })), "{:?}", chain.fault());
    drop((session, chain));
    target.free(&cpu);
    broken.free(&cpu);
}
