//! A draft with another tokenizer proposes by way of text, and output stays the target's.

use crate::common::{config, listen, machines, parameters};
use backend::{Backend, Precision};
use infer::{
    BridgedDrafter, Chain, Costs, Drafter, GenerateOptions, ModelDrafter, Outcome, SamplingOptions, Schedule, Session,
    check_vocabularies, generate,
};
use model::Parameters;
use tokenizer::Tokenizer;

const CONTEXT: usize = 160;
/// Single letters, a line break (`Ċ`) and a space (`Ġ`): every token of the target.
const LETTERS: [&str; 14] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "Ċ", "Ġ"];

/// A byte-level tokenizer of `pieces`, which merges the pairs of `merges`.
fn tokenizer(pieces: &[&str], merges: &[(&str, &str)]) -> Tokenizer {
    let vocab: Vec<String> = pieces.iter().enumerate().map(|(id, piece)| format!("\"{piece}\": {id}")).collect();
    let merges: Vec<String> = merges.iter().map(|(left, right)| format!("\"{left} {right}\"")).collect();
    let json = format!(
        r#"{{"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
            "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}},
            "decoder": {{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}},
            "model": {{"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                       "vocab": {{{}}}, "merges": [{}]}}}}"#,
        vocab.join(", "),
        merges.join(", ")
    );
    Tokenizer::from_json_bytes(json.as_bytes()).unwrap()
}

/// A model that has the target's numbers, its tokens in the reverse order and `more` of its own behind them.
fn reversed(b: &dyn Backend, target: &Parameters, more: usize) -> Parameters {
    let tokens = LETTERS.len();
    let draft = parameters(b, &config(tokens + more, CONTEXT), 9, Precision::F32);
    for (from, to) in target.list.iter().zip(&draft.list) {
        let mut values = vec![0.0; from.len()];
        b.read(from.master, 0, &mut values);
        if from.rows == tokens {
            values = values.chunks(from.cols).rev().flatten().copied().collect();
        }
        b.write(to.master, 0, &values);
    }
    draft.refresh(b);
    draft
}

fn write(session: &mut Session<'_>, drafter: Option<&mut (dyn Drafter + '_)>, options: &GenerateOptions) -> Outcome {
    let prompt: Vec<u32> = (0..20).map(|index| (index * index * 5 + index) % LETTERS.len() as u32).collect();
    generate(session, drafter, &prompt, options, &mut listen).unwrap()
}

#[test]
fn text_is_the_targets_and_a_draft_that_agrees_is_accepted() {
    let own = tokenizer(&LETTERS, &[]);
    let reverse: Vec<&str> = LETTERS.into_iter().rev().collect();
    // The second writes whole words where the target writes letters.
    let pairs = [("a", "b"), ("c", "d"), ("Ġ", "a"), ("ab", "c")];
    let words: Vec<&str> = reverse.iter().copied().chain(["ab", "cd", "Ġa", "abc"]).collect();
    for cpu in machines() {
        let target = parameters(&cpu, &config(LETTERS.len(), CONTEXT), 5, Precision::F32);
        let model = target.model();
        let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
        for (draft_tokenizer, same) in [(tokenizer(&reverse, &[]), true), (tokenizer(&words, &pairs), false)] {
            assert!(
                check_vocabularies(&own, &draft_tokenizer).is_err(),
                "another tokenizer is refused without a bridge"
            );
            let draft = reversed(&cpu, &target, draft_tokenizer.vocab_size() - LETTERS.len());
            let draft_model = draft.model();
            let drafter = || {
                let model = ModelDrafter::new(&cpu, &draft_model, draft_model.config.vocab, CONTEXT).unwrap();
                BridgedDrafter::new(model, &draft_tokenizer, &own).unwrap()
            };
            let penalized = SamplingOptions { repetition_penalty: 1.3, ..Default::default() };
            for sampling in [SamplingOptions::default(), penalized] {
                let options =
                    |draft_length| GenerateOptions { max_tokens: 120, draft_length, sampling, ..Default::default() };
                let plain = write(&mut session, None, &options(1));
                for draft_length in [1, 2, 5, 16] {
                    let drafted = write(&mut session, Some(&mut drafter()), &options(draft_length));
                    assert_eq!(drafted.ids, plain.ids, "{draft_length} at a time");
                    assert!(drafted.accepted > 0, "{drafted:?}");
                    let agrees = same && sampling.repetition_penalty == 1.0;
                    assert!(!agrees || drafted.accepted == drafted.drafted, "{drafted:?}");
                }
                let mut chain = Chain::new(Schedule::Adaptive(Costs::flat(0.02))).then_model(Box::new(drafter()));
                assert_eq!(write(&mut session, Some(&mut chain), &options(16)).ids, plain.ids);
            }
            draft.free(&cpu);
        }
        drop(session);
        target.free(&cpu);
    }
}

/// The same seed gives the same text, and a draft whose context is short goes on in the middle of the text.
#[test]
fn seeds_repeat_and_a_short_context_moves_on() {
    let Some(cpu) = machines().last() else { return };
    let own = tokenizer(&LETTERS, &[]);
    let reverse: Vec<&str> = LETTERS.into_iter().rev().collect();
    let reverse = tokenizer(&reverse, &[]);
    let target = parameters(&cpu, &config(LETTERS.len(), CONTEXT), 5, Precision::F32);
    let draft = reversed(&cpu, &target, 0);
    let (model, draft_model) = (target.model(), draft.model());
    let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
    let short = ModelDrafter::new(&cpu, &draft_model, LETTERS.len(), 40).unwrap();
    let mut drafter = BridgedDrafter::new(short, &reverse, &own).unwrap();
    let warm = SamplingOptions { temperature: 0.5, seed: 7, ..Default::default() };
    for sampling in [SamplingOptions::default(), warm] {
        let options = GenerateOptions { max_tokens: 120, draft_length: 6, sampling, ..Default::default() };
        let first = write(&mut session, Some(&mut drafter), &options);
        assert!(first.accepted > 0 && first.ids.len() == 120, "{first:?}");
        assert_eq!(write(&mut session, Some(&mut drafter), &options).ids, first.ids);
        let plain = write(&mut session, None, &options).ids;
        assert!(sampling.temperature > 0.0 || first.ids == plain);
    }
    drop((session, drafter));
    target.free(&cpu);
    draft.free(&cpu);
}
