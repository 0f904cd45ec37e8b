//! Many continuations at once have the numbers of each by itself.

use crate::common::{config, ids, machines, parameters};
use backend::Precision;
use infer::{Continuation, ContinuationScorer, Session, score};

const VOCAB: usize = 37;
const CONTEXT: usize = 48;

/// Texts as a task has them: beginnings shared by all, by some, by none; equal ones; one that ends in another.
fn texts() -> Vec<(Vec<u32>, usize)> {
    let mut texts = Vec::new();
    for question in 0..7 {
        let mut context = ids(6, VOCAB);
        context.extend(ids(3 + 4 * question, VOCAB).iter().map(|id| (id + question as u32) % VOCAB as u32));
        for answer in 0..4 {
            let mut text = context.clone();
            text.extend((0..=answer).map(|i| (answer * 5 + i + question) as u32 % VOCAB as u32));
            texts.push((text, answer + 1));
        }
        context.truncate(2 + question);
        texts.push((context, 1));
    }
    texts.push(texts[3].clone());
    texts
}

fn continuations(texts: &[(Vec<u32>, usize)]) -> Vec<Continuation<'_>> {
    let split = |(text, scored): &'_ (Vec<u32>, usize)| (text.len() - 1, text.len() - scored);
    texts
        .iter()
        .map(|text| {
            let (inputs, targets) = split(text);
            Continuation { inputs: &text.0[..inputs], targets: &text.0[targets..], greedy: true }
        })
        .collect()
}

#[test]
fn together_and_alone_the_bits_are_the_same() {
    for cpu in machines() {
        for precision in [Precision::F32, Precision::Bf16] {
            let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 3, precision);
            let model = parameters.model();
            let scorer = ContinuationScorer::new(&cpu, &model, CONTEXT).unwrap();
            let texts = texts();
            let all = continuations(&texts);
            let batches = scorer.batches(&all);
            assert_eq!(batches.len(), 1);
            assert!(batches[0].rows < all.iter().map(|one| one.inputs.len()).sum::<usize>() / 2, "{batches:?}");
            let sorted: Vec<Continuation<'_>> = batches[0].indices.iter().map(|&index| all[index]).collect();
            let together = scorer.score(&sorted).unwrap();
            for (continuation, found) in sorted.iter().zip(together) {
                let alone = scorer.score(&[*continuation]).unwrap()[0];
                assert_eq!(found.log_probability.to_bits(), alone.log_probability.to_bits(), "{continuation:?}");
                assert_eq!(found.greedy, alone.greedy);
            }
        }
    }
}

#[test]
fn scores_are_those_of_the_plain_pass_and_greedy_those_of_a_session() {
    for cpu in machines() {
        let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 3, Precision::F32);
        let model = parameters.model();
        let scorer = ContinuationScorer::new(&cpu, &model, CONTEXT).unwrap();
        let mut texts = texts();
        for start in 0..6 {
            // What the model itself would say, so that some continuations are greedy.
            let mut text = ids(5 + start, VOCAB);
            let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
            for _ in 0..2 {
                session.truncate(0);
                let logits = session.prefill(&text).unwrap();
                let best = (0..VOCAB).max_by(|&one, &other| logits[one].total_cmp(&logits[other])).unwrap();
                text.push(best as u32);
            }
            texts.push((text, 2));
        }
        let all = continuations(&texts);
        let mut greedy = 0;
        for batch in scorer.batches(&all) {
            let sorted: Vec<Continuation<'_>> = batch.indices.iter().map(|&index| all[index]).collect();
            for (index, found) in batch.indices.into_iter().zip(scorer.score(&sorted).unwrap()) {
                let (text, scored) = &texts[index];
                let plain = score(&cpu, &model, text).unwrap();
                let expected: f64 = plain[text.len() - scored..].iter().map(|one| f64::from(one.unwrap())).sum();
                // Padding changes no bit of a row's attention, and sums are of the same terms in f64.
                assert_eq!(found.log_probability, expected, "{text:?}");
                let is_greedy = index >= texts.len() - 6;
                assert!(!is_greedy || found.greedy == Some(true), "{text:?}");
                greedy += usize::from(found.greedy == Some(true));
            }
        }
        assert!((6..texts.len()).contains(&greedy), "{greedy}");
    }
}

#[test]
fn batches_are_cut_where_they_are_full_and_hold_everything_once() {
    let Some(cpu) = machines().last() else { return };
    let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 3, Precision::F32);
    let model = parameters.model();
    let scorer = ContinuationScorer::new(&cpu, &model, CONTEXT).unwrap();
    let text = |i: usize| ids(20 + i % 20, VOCAB + i).into_iter().map(|id| id % VOCAB as u32).collect();
    let texts: Vec<(Vec<u32>, usize)> = (0..200).map(|i| (text(i), 2)).collect();
    let batches = scorer.batches(&continuations(&texts));
    assert!(batches.len() > 1);
    let mut indices: Vec<_> = batches.into_iter().flat_map(|batch| batch.indices).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..200).collect::<Vec<_>>());
}

#[test]
fn refusals() {
    let Some(cpu) = machines().last() else { return };
    let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 3, Precision::F32);
    let model = parameters.model();
    assert!(ContinuationScorer::new(&cpu, &model, CONTEXT + 1).is_err());
    let scorer = ContinuationScorer::new(&cpu, &model, 4).unwrap();
    assert!(scorer.score(&[]).unwrap().is_empty());
    for (inputs, targets) in [(&[1u32, 2][..], &[][..]), (&[], &[1]), (&[99], &[1]), (&[1], &[99])] {
        assert!(scorer.score(&[Continuation { inputs, targets, greedy: false }]).is_err(), "{inputs:?} {targets:?}");
    }
}
