//! Drafts that are not quite like their target: padded vocabularies, shorter contexts, numbers that are none; and every
//! type of cache at every width.

use crate::common::{config, ids, listen, machines, parameters};
use backend::{Backend, KvType, Precision};
use infer::{
    Chain, Costs, Drafter, GenerateOptions, InferError, MAX_DRAFT_LENGTH, ModelDrafter, NgramDrafter, Outcome,
    SamplingOptions, Schedule, Session, generate,
};
use model::Parameters;

const VOCAB: usize = 29;
const CONTEXT: usize = 96;

/// The first `vocab` tokens of `original`, with the same numbers; further ones are random.
fn resized(b: &dyn Backend, original: &Parameters, vocab: usize, context: usize) -> Parameters {
    let copy = parameters(b, &config(vocab, context), 9, Precision::F32);
    for (from, to) in original.list.iter().zip(&copy.list) {
        assert_eq!(from.name, to.name);
        // Tokens are rows, so the tokens that both have come first.
        let mut values = vec![0.0; from.len().min(to.len())];
        b.read(from.master, 0, &mut values);
        b.write(to.master, 0, &values);
    }
    copy.refresh(b);
    copy
}

fn write(session: &mut Session<'_>, drafter: Option<&mut (dyn Drafter + '_)>, options: &GenerateOptions) -> Outcome {
    generate(session, drafter, &ids(9, VOCAB), options, &mut listen).unwrap()
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, draft_length: 7, ..Default::default() }
}

/// As 32 000 beside 32 016 ids: the shorter vocabulary drafts for the longer one and the other way round. The target's
/// text holds ids that the shorter draft lacks, and goes on being drafted behind them.
#[test]
fn vocabularies_that_differ_by_their_end_draft_for_each_other() {
    for cpu in machines() {
        let target = parameters(&cpu, &config(VOCAB, CONTEXT), 5, Precision::F32);
        let model = target.model();
        let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
        let plain = write(&mut session, None, &greedy(60)).ids;
        for vocab in [VOCAB - 2, VOCAB + 16] {
            let draft = resized(&cpu, &target, vocab, CONTEXT);
            let draft_model = draft.model();
            let lacking = plain.iter().filter(|&&id| id as usize >= vocab).count();
            assert!(vocab > VOCAB || lacking > 0, "the text must hold ids that the draft lacks: {plain:?}");
            for schedule in [Schedule::Fixed, Schedule::Adaptive(Costs::flat(0.02))] {
                let drafter = ModelDrafter::new(&cpu, &draft_model, VOCAB, CONTEXT).unwrap();
                let mut chain = Chain::new(schedule).then_model(Box::new(drafter));
                let drafted = write(&mut session, Some(&mut chain), &greedy(60));
                assert_eq!(drafted.ids, plain, "a draft of {vocab} tokens");
                assert!(drafted.accepted > 0, "a draft of {vocab} tokens: {drafted:?}");
            }
            draft.free(&cpu);
        }
        drop(session);
        target.free(&cpu);
    }
}

/// A draft that is the target but for its context proposes beyond it too, from a later place on.
#[test]
fn a_draft_of_a_shorter_context_keeps_proposing() {
    let Some(cpu) = machines().last() else { return };
    let target = parameters(&cpu, &config(VOCAB, CONTEXT), 5, Precision::F32);
    let draft = resized(&cpu, &target, VOCAB, 24);
    let (model, draft_model) = (target.model(), draft.model());
    let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
    let plain = write(&mut session, None, &greedy(80));
    let mut drafter = ModelDrafter::new(&cpu, &draft_model, VOCAB, CONTEXT).unwrap();
    let drafted = write(&mut session, Some(&mut drafter), &greedy(80));
    assert_eq!(drafted.ids, plain.ids);
    // Nine tokens of prompt leave the draft's context 15: all of those are accepted, and more are proposed after them.
    assert!(drafted.accepted >= 12 && drafted.drafted > 60, "{drafted:?}");
    drop((session, drafter));
    target.free(&cpu);
    draft.free(&cpu);
}

/// A draft that is sound until it reads one particular token. What it proposed before stands; then it is set aside with
/// the reason, and the text is the target's own.
#[test]
fn a_draft_that_breaks_in_the_middle_is_set_aside() {
    let Some(cpu) = machines().last() else { return };
    let target = parameters(&cpu, &config(VOCAB, CONTEXT), 5, Precision::F32);
    let model = target.model();
    let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
    let plain = write(&mut session, None, &greedy(60)).ids;
    let prompt = ids(9, VOCAB);
    let new = |&index: &usize| !plain[..index].contains(&plain[index]) && !prompt.contains(&plain[index]);
    let poison = plain[(4..40).find(new).unwrap()];
    for value in [f32::NAN, f32::INFINITY] {
        let draft = resized(&cpu, &target, VOCAB, CONTEXT);
        let width = draft.model().config.width;
        let embedding = draft.list.iter().find(|parameter| parameter.name == "model.embed_tokens.weight").unwrap();
        cpu.write(embedding.master, poison as usize * width, &vec![value; width]);
        draft.refresh(&cpu);
        let draft_model = draft.model();
        let sampled = SamplingOptions { temperature: 0.8, top_p: 0.9, seed: 3, ..Default::default() };
        for sampling in [SamplingOptions::default(), sampled] {
            let options = GenerateOptions { sampling, ..greedy(60) };
            let drafter = ModelDrafter::new(&cpu, &draft_model, VOCAB, CONTEXT).unwrap();
            let mut chain = Chain::new(Schedule::Fixed).then_model(Box::new(drafter));
            let drafted = write(&mut session, Some(&mut chain), &options);
            assert_eq!(drafted.ids.len(), 60);
            if sampling.temperature == 0.0 {
                assert_eq!(drafted.ids, plain, "{value}");
                assert!(drafted.accepted > 0 && drafted.accepted < 59, "{drafted:?}");
                assert!(matches!(chain.fault(), Some(InferError::NotFinite { .. })), "{:?}", chain.fault());
            }
        }
        draft.free(&cpu);
    }
    drop(session);
    target.free(&cpu);
}

#[test]
fn every_type_of_cache_keeps_the_text_at_every_width() {
    for cpu in machines() {
        for precision in [Precision::F32, Precision::Bf16] {
            let make = |seed| parameters(&cpu, &config(VOCAB, CONTEXT), seed, precision);
            let (target, other) = (make(5), make(6));
            let (model, other_model) = (target.model(), other.model());
            for cache in KvType::ALL {
                let session = |model| Session::with_cache(&cpu, model, CONTEXT, cache).unwrap();
                let mut own = session(&model);
                let plain = write(&mut own, None, &greedy(40)).ids;
                let drafter = |model| ModelDrafter::from_session(session(model), VOCAB);
                let mut drafters: [Box<dyn Drafter + '_>; 4] = [
                    Box::new(NgramDrafter::default()),
                    Box::new(drafter(&model)),
                    Box::new(drafter(&other_model)),
                    Box::new(Chain::usual(Some(drafter(&other_model)), Schedule::Fixed)),
                ];
                for (index, drafter) in drafters.iter_mut().enumerate() {
                    for draft_length in 1..=MAX_DRAFT_LENGTH {
                        let options = GenerateOptions { draft_length, ..greedy(40) };
                        let drafted = write(&mut own, Some(&mut **drafter), &options);
                        assert_eq!(drafted.ids, plain, "{cache:?}, drafter {index}, {draft_length} at a time");
                        assert!(index != 1 || drafted.accepted == drafted.drafted, "{cache:?}: {drafted:?}");
                    }
                }
            }
            target.free(&cpu);
            other.free(&cpu);
        }
    }
}
